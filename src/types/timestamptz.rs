//! `timestamp with time zone`: Avro `string` in ISO 8601 at UTC, the fraction padded to the column's precision
//! (`io.debezium.time.ZonedTimestamp`); years beyond four digits and before 1 carry a sign, as Java writes them.

use super::{
    calendar::{DAY, Moment, scan_moment},
    hybrid,
    moment::{append, append_plain, iso, iso_of_utc, scan_iso},
    special::Special,
    value::{Parsed, RenderError, Value},
};

pub(super) const NAME: &str = "io.debezium.time.ZonedTimestamp";

pub(super) fn parse(text: &[u8], digits: u8, special: Special) -> Parsed<'_> {
    if special == Special::Item {
        return parse_item(text, digits);
    }
    if let Some(iso) = iso_of_utc(text, digits) {
        return Parsed::Value(Value::Short(iso));
    }
    let moment = match text {
        b"infinity" => return Parsed::Value(Value::Text("infinity")),
        b"-infinity" => return Parsed::Value(Value::Text("-infinity")),
        _ => scan_moment(text, true),
    };
    moment.map_or(UNREADABLE, |moment| of_moment(moment, digits))
}

/// Infinity below all, as Debezium has it in an array: its driver's sentinel without the era, 23:00 on 292269055-12-02.
const MINUS_INFINITY: Moment = Moment { seconds: 106_748_361_128 * DAY + 23 * 3_600, micros: 0 };
/// What stands for no value, without the digits that values have.
pub(super) const EPOCH: &str = "1970-01-01T00:00:00Z";

/// As Debezium has the items of an array: what Java's older classes leave of a moment.
fn parse_item(text: &[u8], digits: u8) -> Parsed<'_> {
    match text {
        b"infinity" => return Parsed::Value(Value::Text("infinity")),
        b"-infinity" => return of_moment(MINUS_INFINITY, digits).lossy_if(true),
        _ => {}
    }
    let Some(real) = scan_moment(text, true) else { return UNREADABLE };
    let Some(written) = hybrid::local_moment(real) else { return UNREADABLE };
    of_moment(written, digits).lossy_if(written != real)
}

const UNREADABLE: Parsed<'static> = Parsed::Unrepresentable { stand_in: Value::Text(EPOCH) };

/// A moment at UTC.
pub(super) fn of_moment(moment: Moment, digits: u8) -> Parsed<'static> {
    iso(moment, digits).map_or(UNREADABLE, |iso| Parsed::Value(Value::Short(iso)))
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let text = value.text().ok_or(RenderError("timestamp with time zone"))?;
    if matches!(text, "infinity" | "-infinity") {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    if append_plain(text.as_bytes(), "+00", out) {
        return Ok(());
    }
    let moment = scan_iso(text.as_bytes()).ok_or(RenderError("timestamp with time zone"))?;
    if moment == MINUS_INFINITY {
        // No moment of the server's is that late.
        out.extend_from_slice(b"-infinity");
        return Ok(());
    }
    append(moment, "+00", out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debezium_makes_of_infinity_in_an_array_comes_back() {
        for text in ["infinity", "-infinity"] {
            let (Parsed::Value(value) | Parsed::Lossy(value)) = parse_item(text.as_bytes(), 6) else {
                panic!("{text}")
            };
            let mut out = Vec::new();
            render(value, &mut out).unwrap();
            assert_eq!(out, text.as_bytes());
        }
    }
}
