//! `date`: Avro `int` of days since 1970-01-01, `io.debezium.time.Date`.
//!
//! Infinities travel as text; in a key they stand as the ends of the int, which no date reaches (trap T43).

use std::io::Write;

use super::{
    calendar::{PgDate, days_from_civil, scan_date, scan_era},
    scan::Scan,
    value::{Parsed, RenderError, Value},
};

pub(super) const NAME: &str = "io.debezium.time.Date";

/// What Debezium writes for infinities: its driver's sentinels, cut to an int. No date is that early.
const DEBEZIUM_INFINITY: i32 = -2_147_472_692;
const DEBEZIUM_MINUS_INFINITY: i32 = -2_147_472_691;

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    let stand_in = match text {
        b"infinity" => i32::MAX,
        b"-infinity" => i32::MIN,
        _ => match days(text) {
            Some(days) => return Parsed::Value(Value::Int(days)),
            None => 0,
        },
    };
    Parsed::Unrepresentable { stand_in: Value::Int(stand_in) }
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Int(days) = value else { return Err(RenderError("date")) };
    match days {
        DEBEZIUM_INFINITY => out.extend_from_slice(b"infinity"),
        DEBEZIUM_MINUS_INFINITY => out.extend_from_slice(b"-infinity"),
        _ => return render_days(days, out),
    }
    Ok(())
}

fn render_days(days: i32, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let date = PgDate::from_days(i64::from(days));
    write!(out, "{date}{}", date.era()).map_err(|_| RenderError("date"))
}

fn days(text: &[u8]) -> Option<i32> {
    let mut scan = Scan(text);
    let (year, month, day) = scan_date(&mut scan)?;
    let year = scan_era(&mut scan, year);
    if !scan.is_at_end() {
        return None;
    }
    i32::try_from(days_from_civil(year, month, day)).ok()
}
