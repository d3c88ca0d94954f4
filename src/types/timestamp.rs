//! `timestamp`: Avro `long` since 1970-01-01 00:00, milliseconds up to three digits of precision (`io.debezium.time.Timestamp`),
//! else microseconds (`io.debezium.time.MicroTimestamp`).
//!
//! Infinities are Debezium's sentinels. A real timestamp that equals a sentinel, or whose microseconds overflow (from 294247 on),
//! travels as text (trap T43).

use std::io::Write;

use super::{
    calendar::{Clock, DAY, MICROS, Moment, PgDate, fraction_digits, scan_moment},
    value::{Parsed, RenderError, Value},
};

pub(super) const MILLIS_NAME: &str = "io.debezium.time.Timestamp";
pub(super) const MICROS_NAME: &str = "io.debezium.time.MicroTimestamp";

/// Milliseconds that stand for `infinity`: what the PostgreSQL JDBC driver makes of it.
const INFINITY_MILLIS: i64 = 9_223_372_036_825_200;
/// Milliseconds that stand for `-infinity`.
const MINUS_INFINITY_MILLIS: i64 = -9_223_372_036_832_400;

/// What one unit of the long is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
}

impl Unit {
    const fn per_second(self) -> i64 {
        match self {
            Self::Millis => 1_000,
            Self::Micros => MICROS,
        }
    }

    const fn infinities(self) -> (i64, i64) {
        let factor = self.per_second() / 1_000;
        (MINUS_INFINITY_MILLIS * factor, INFINITY_MILLIS * factor)
    }
}

pub(super) fn parse(text: &[u8], unit: Unit) -> Parsed<'_> {
    let (low, high) = unit.infinities();
    match text {
        b"infinity" => return Parsed::Value(Value::Long(high)),
        b"-infinity" => return Parsed::Value(Value::Long(low)),
        _ => {}
    }
    let Some(Moment { seconds, micros }) = scan_moment(text, false) else {
        return Parsed::Unrepresentable { stand_in: Value::Long(0) };
    };
    let fraction = micros * unit.per_second() / MICROS;
    let exact = fraction * MICROS / unit.per_second() == micros;
    match seconds.checked_mul(unit.per_second()).and_then(|whole| whole.checked_add(fraction)) {
        Some(number) if exact && number != low && number != high => Parsed::Value(Value::Long(number)),
        _ => {
            let wrapped = seconds.wrapping_mul(unit.per_second()).wrapping_add(fraction);
            Parsed::Unrepresentable { stand_in: Value::Long(wrapped) }
        }
    }
}

pub(super) fn render(value: Value<'_>, unit: Unit, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Long(number) = value else { return Err(RenderError("timestamp")) };
    let (low, high) = unit.infinities();
    if number == low || number == high {
        out.extend_from_slice(if number == low { b"-infinity" } else { b"infinity" });
        return Ok(());
    }
    let seconds = number.div_euclid(unit.per_second());
    let micros = number.rem_euclid(unit.per_second()) * (MICROS / unit.per_second());
    append(Moment { seconds, micros }, "", out)
}

/// Appends a moment as PostgreSQL writes it, with a suffix before the era (an offset).
pub(super) fn append(moment: Moment, suffix: &str, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let date = PgDate::from_days(moment.seconds.div_euclid(DAY));
    let micros = moment.seconds.rem_euclid(DAY) * MICROS + moment.micros;
    let clock = Clock { micros, digits: fraction_digits(micros) };
    write!(out, "{date} {clock}{suffix}{}", date.era()).map_err(|_| RenderError("timestamp"))
}
