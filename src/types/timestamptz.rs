//! `timestamp with time zone`: Avro `string` in ISO 8601 at UTC, the fraction padded to the column's precision
//! (`io.debezium.time.ZonedTimestamp`); years beyond four digits and before 1 carry a sign, as Java writes them.

use super::{
    calendar::{Moment, scan_moment},
    moment::{append, append_plain, iso, iso_of_utc, scan_iso},
    value::{Parsed, RenderError, Value},
};

pub(super) const NAME: &str = "io.debezium.time.ZonedTimestamp";

pub(super) fn parse(text: &[u8], digits: u8) -> Parsed<'_> {
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

const UNREADABLE: Parsed<'static> = Parsed::Unrepresentable { stand_in: Value::Text("1970-01-01T00:00:00Z") };

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
    append(scan_iso(text.as_bytes()).ok_or(RenderError("timestamp with time zone"))?, "+00", out)
}
