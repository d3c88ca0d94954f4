//! `timestamp with time zone`: Avro `string` in ISO 8601 at UTC, the fraction padded to the column's precision
//! (`io.debezium.time.ZonedTimestamp`); years beyond four digits and before 1 carry a sign, as Java writes them.

use std::fmt::Write;

use super::{
    calendar::{Clock, DAY, MICROS, Moment, civil_from_days, days_from_civil, moment, scan_moment, scan_time},
    scan::Scan,
    timestamp::append,
    value::{Parsed, RenderError, ShortText, Value},
};

pub(super) const NAME: &str = "io.debezium.time.ZonedTimestamp";

pub(super) fn parse(text: &[u8], digits: u8) -> Parsed<'_> {
    let composed = match text {
        b"infinity" => return Parsed::Value(Value::Text("infinity")),
        b"-infinity" => return Parsed::Value(Value::Text("-infinity")),
        _ => scan_moment(text, true).and_then(|moment| iso(moment, digits)),
    };
    composed.map_or(Parsed::Unrepresentable { stand_in: Value::Text("1970-01-01T00:00:00Z") }, |iso| {
        Parsed::Value(Value::Short(iso))
    })
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let text = match &value {
        Value::Text(text) => text,
        Value::Short(text) => text.as_str(),
        _ => return Err(RenderError("timestamp with time zone")),
    };
    if matches!(text, "infinity" | "-infinity") {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    append(scan_iso(text.as_bytes()).ok_or(RenderError("timestamp with time zone"))?, "+00", out)
}

fn iso(moment: Moment, digits: u8) -> Option<ShortText> {
    let (year, month, day) = civil_from_days(moment.seconds.div_euclid(DAY));
    let micros = moment.seconds.rem_euclid(DAY) * MICROS + moment.micros;
    let digits = if micros % 10_i64.pow(6 - u32::from(digits.min(6))) == 0 { digits } else { 6 };
    let mut text = ShortText::new();
    match year {
        0..=9_999 => write!(text, "{year:04}"),
        ..0 => write!(text, "-{:04}", -year),
        _ => write!(text, "+{year}"),
    }
    .ok()?;
    write!(text, "-{month:02}-{day:02}T{}Z", Clock { micros, digits }).ok()?;
    Some(text)
}

fn scan_iso(text: &[u8]) -> Option<Moment> {
    let mut scan = Scan(text);
    let negative = scan.skip(b'-').is_some();
    let _ = scan.skip(b'+');
    let year = scan.number()?;
    scan.skip(b'-')?;
    let month = scan.two_digits()?;
    scan.skip(b'-')?;
    let day = scan.two_digits()?;
    scan.skip(b'T')?;
    let time = scan_time(&mut scan)?;
    scan.skip(b'Z')?;
    let valid = scan.is_at_end() && (1..=12).contains(&month) && (1..=31).contains(&day);
    let year = if negative { -year } else { year };
    valid.then(|| moment(days_from_civil(year, month, day), time, 0))
}
