//! `time`: Avro `int` of milliseconds up to three digits of precision (`io.debezium.time.Time`), else `long` of microseconds
//! (`io.debezium.time.MicroTime`); 24:00:00 is one past the last of the day.

use std::io::Write;

use super::{
    calendar::{Clock, DAY, MICROS, fraction_digits, scan_time},
    scan::Scan,
    value::{Parsed, RenderError, Value},
};

pub(super) const MILLIS_NAME: &str = "io.debezium.time.Time";
pub(super) const MICROS_NAME: &str = "io.debezium.time.MicroTime";

pub(super) fn parse_millis(text: &[u8]) -> Parsed<'_> {
    let millis =
        micros(text).filter(|micros| micros % 1_000 == 0).and_then(|micros| i32::try_from(micros / 1_000).ok());
    millis.map_or(Parsed::Unrepresentable { stand_in: Value::Int(0) }, |millis| Parsed::Value(Value::Int(millis)))
}

pub(super) fn parse_micros(text: &[u8]) -> Parsed<'_> {
    micros(text)
        .map_or(Parsed::Unrepresentable { stand_in: Value::Long(0) }, |micros| Parsed::Value(Value::Long(micros)))
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let micros = match value {
        Value::Int(millis) => i64::from(millis) * 1_000,
        Value::Long(micros) => micros,
        _ => return Err(RenderError("time")),
    };
    if !(0..=DAY * MICROS).contains(&micros) {
        return Err(RenderError("time"));
    }
    let digits = fraction_digits(micros);
    write!(out, "{}", Clock { micros, digits }).map_err(|_| RenderError("time"))
}

fn micros(text: &[u8]) -> Option<i64> {
    let mut scan = Scan(text);
    let micros = scan_time(&mut scan)?;
    scan.is_at_end().then_some(micros)
}
