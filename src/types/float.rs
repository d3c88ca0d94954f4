//! `real` and `double precision`: Avro `float` and `double`, NaN, infinities and −0 included.
//!
//! The server prints the shortest text that reads back as the same number (`extra_float_digits` ≥ 1), and so does Rust.

use std::{fmt::Display, io::Write, str::FromStr};

use super::value::{Parsed, RenderError, Value};

pub(super) fn parse_float(text: &[u8]) -> Parsed<'_> {
    number(text)
        .map_or(Parsed::Unrepresentable { stand_in: Value::Float(0.0) }, |number| Parsed::Value(Value::Float(number)))
}

pub(super) fn parse_double(text: &[u8]) -> Parsed<'_> {
    number(text)
        .map_or(Parsed::Unrepresentable { stand_in: Value::Double(0.0) }, |number| Parsed::Value(Value::Double(number)))
}

/// The value by which PostgreSQL's equality tells keys apart: −0 equals 0, and all NaN are equal.
pub(super) const fn canonical(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Float(0.0) => Value::Float(0.0),
        Value::Double(0.0) => Value::Double(0.0),
        Value::Float(number) if number.is_nan() => Value::Float(f32::NAN),
        Value::Double(number) if number.is_nan() => Value::Double(f64::NAN),
        other => other,
    }
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    match value {
        Value::Float(number) => write_number(out, number, number.is_infinite(), number < 0.0),
        Value::Double(number) => write_number(out, number, number.is_infinite(), number < 0.0),
        _ => Err(RenderError("floating-point number")),
    }
}

fn number<F: FromStr>(text: &[u8]) -> Option<F> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn write_number(out: &mut Vec<u8>, number: impl Display, infinite: bool, negative: bool) -> Result<(), RenderError> {
    match (infinite, negative) {
        (false, _) => write!(out, "{number}").map_err(|_| RenderError("floating-point number"))?,
        (true, false) => out.extend_from_slice(b"Infinity"),
        (true, true) => out.extend_from_slice(b"-Infinity"),
    }
    Ok(())
}
