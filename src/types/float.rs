//! `real` and `double precision`: Avro `float` and `double`, NaN, infinities and −0 included.
//!
//! The server prints the shortest text that reads back as the same number (`extra_float_digits` ≥ 1), and so does Rust.

use std::{
    fmt::{self, Display, LowerExp},
    io::Write,
    str::FromStr,
};

use super::value::{Parsed, RenderError, ShortText, Value};

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
        Value::Float(number) if number.is_finite() => write_number(out, number, 6),
        Value::Double(number) if number.is_finite() => write_number(out, number, 15),
        Value::Float(number) => {
            out.extend_from_slice(special(number.into()));
            Ok(())
        }
        Value::Double(number) => {
            out.extend_from_slice(special(number));
            Ok(())
        }
        _ => Err(RenderError("floating-point number")),
    }
}

fn number<F: FromStr>(text: &[u8]) -> Option<F> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Appends a number in PostgreSQL's notation: with an exponent of two digits or more below 10⁻⁴ and from 10 to the power of
/// `exponent_from` on.
fn write_number(out: &mut Vec<u8>, number: impl Display + LowerExp, exponent_from: i32) -> Result<(), RenderError> {
    let failed = |_| RenderError("floating-point number");
    let mut scientific = ShortText::new();
    fmt::Write::write_fmt(&mut scientific, format_args!("{number:e}"))
        .map_err(|_| RenderError("floating-point number"))?;
    let (mantissa, exponent) = scientific.as_str().split_once('e').unwrap_or(("0", "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..exponent_from).contains(&exponent) {
        return write!(out, "{number}").map_err(failed);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs()).map_err(failed)
}

fn special(number: f64) -> &'static [u8] {
    match (number.is_nan(), number > 0.0) {
        (true, _) => b"NaN",
        (false, true) => b"Infinity",
        (false, false) => b"-Infinity",
    }
}
