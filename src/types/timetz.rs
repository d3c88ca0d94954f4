//! `time with time zone`: Avro `string` in ISO 8601 with the value's own offset (`io.debezium.time.ZonedTime`), 24:00 included.

use std::fmt::Write;

use super::value::{Parsed, RenderError, ShortText, Value};

pub(super) const NAME: &str = "io.debezium.time.ZonedTime";

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    std::str::from_utf8(text)
        .ok()
        .and_then(iso)
        .map_or(Parsed::Unrepresentable { stand_in: Value::Text("00:00:00Z") }, |iso| Parsed::Value(Value::Short(iso)))
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
