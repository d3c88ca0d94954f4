//! `time with time zone`: Avro `string` in ISO 8601 (`io.debezium.time.ZonedTime`) with the value's own offset, 24:00 included, or
//! as the clock shows it in UTC, which tells neither. Where consumers want Debezium's form of what is lost, the items of arrays have
//! seconds there.

use std::fmt::Write;

use super::{
    modes::TimetzMode,
    special::Special,
    value::{Parsed, RenderError, ShortText, Value},
};

pub(super) const NAME: &str = "io.debezium.time.ZonedTime";

pub(super) fn parse(text: &[u8], mode: TimetzMode, special: Special) -> Parsed<'_> {
    let text = std::str::from_utf8(text).ok();
    let parsed = text.and_then(|text| {
        let own = iso(text)?;
        if mode == TimetzMode::Offset {
            return Some(Parsed::Value(Value::Short(own)));
        }
        let utc = utc(text, special != Special::Item)?;
        Some(if utc == own { Parsed::Value(Value::Short(utc)) } else { Parsed::Lossy(Value::Short(utc)) })
    });
    parsed.unwrap_or(Parsed::Unrepresentable { stand_in: Value::Text("00:00:00Z") })
}

const DAY: i32 = 86_400;

/// The clock in UTC at that moment of any day, with its fraction of a second or without.
fn utc(text: &str, with_fraction: bool) -> Option<ShortText> {
    let at = text.rfind(['+', '-'])?;
    let (clock, offset) = text.split_at(at);
    let (whole, fraction) = clock.split_at(clock.find('.').unwrap_or(clock.len()));
    let fraction = if with_fraction { fraction } else { "" };
    let (sign, offset) = offset.strip_prefix('-').map_or((1, offset.get(1..)?), |west| (-1, west));
    let seconds = (seconds(whole)? - sign * seconds(offset)?).rem_euclid(DAY);
    let mut utc = ShortText::new();
    write!(utc, "{:02}:{:02}:{:02}{fraction}Z", seconds / 3600, seconds / 60 % 60, seconds % 60).ok()?;
    Some(utc)
}

/// Seconds of `hours:minutes:seconds`, of which the last two may be missing.
fn seconds(text: &str) -> Option<i32> {
    let mut unit = 3600;
    text.split(':').try_fold(0, |sum, part| {
        let seconds = part.parse::<u8>().ok().map(i32::from)? * unit;
        unit /= 60;
        Some(sum + seconds)
    })
}

/// PostgreSQL's own text: an offset without minutes when they are zero.
pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let text = value.text().ok_or(RenderError("time with time zone"))?;
    match (text.strip_suffix('Z'), text.strip_suffix(":00")) {
        (Some(clock), _) => out.extend([clock.as_bytes(), b"+00"].concat()),
        // Of the offset, not of the clock: that one has two colons, the offset one.
        (None, Some(hours)) if hours.rfind(['+', '-']).is_some_and(|at| hours.len() - at == 3) => {
            out.extend_from_slice(hours.as_bytes());
        }
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Ok(())
}

/// PostgreSQL leaves out the minutes of an offset when they are zero; ISO 8601's extended form has them.
fn iso(text: &str) -> Option<ShortText> {
    let at = text.rfind(['+', '-'])?;
    let (clock, offset) = text.split_at(at);
    let mut iso = ShortText::new();
    iso.write_str(clock).ok()?;
    match offset.get(1..)? {
        "00" => iso.write_str("Z"),
        hours if hours.len() == 2 => write!(iso, "{offset}:00"),
        _ => iso.write_str(offset),
    }
    .ok()?;
    Some(iso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_is_the_clock_of_another_zone() {
        let utc = |text| utc(text, true).unwrap().as_str().to_owned();
        assert_eq!(utc("12:34:56.789012+05:30"), "07:04:56.789012Z");
        assert_eq!(utc("24:00:00-12"), "12:00:00Z");
        assert_eq!(utc("24:00:00+00"), "00:00:00Z");
        assert_eq!(utc("00:00:00+15:59:59"), "08:00:01Z");
        let exact =
            |text: &'static str| matches!(parse(text.as_bytes(), TimetzMode::Utc, Special::Besides), Parsed::Value(_));
        assert!(exact("12:34:56.7+00") && !exact("12:34:56.7+01") && !exact("24:00:00+00"));
        assert!(matches!(parse(b"noon", TimetzMode::Utc, Special::Besides), Parsed::Unrepresentable { .. }));
    }

    #[test]
    fn offsets_are_kept() {
        let iso = |text| iso(text).unwrap().as_str().to_owned();
        assert_eq!(iso("12:34:56.789012+05:30"), "12:34:56.789012+05:30");
        assert_eq!(iso("12:34:56.789-03"), "12:34:56.789-03:00");
        assert_eq!(iso("24:00:00+00"), "24:00:00Z");
        assert_eq!(iso("00:00:00+15:59:59"), "00:00:00+15:59:59");
        for text in ["12:34:56.789012+05:30", "12:34:56.789-03", "24:00:00+00", "00:00:00+15:59:00"] {
            let mut back = Vec::new();
            render(Value::Text(&iso(text)), &mut back).unwrap();
            assert_eq!(back, text.as_bytes());
        }
    }
}
