//! `real` and `double precision`: Avro `float` and `double`, NaN, infinities and −0 included.
//!
//! The server prints the shortest text that reads back as the same number (`extra_float_digits` ≥ 1), and so does Rust, in nearly
//! the same digits.

use std::{
    cmp::Ordering,
    fmt::{LowerExp, Write},
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

/// Appends a text that reads back as the same number.
pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    append(value, false, out)
}

/// Appends the server's own text, which takes more time to find.
pub(super) fn append_as_server(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    append(value, true, out)
}

fn append(value: Value<'_>, as_server: bool, out: &mut Vec<u8>) -> Result<(), RenderError> {
    match value {
        Value::Float(number) if number.is_finite() => write_number(out, number, 6, as_server),
        Value::Double(number) if number.is_finite() => write_number(out, number, 15, as_server),
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
/// `certain` on, which is also how many digits every number keeps (`FLT_DIG`, `DBL_DIG`).
fn write_number<F>(out: &mut Vec<u8>, number: F, certain: usize, as_server: bool) -> Result<(), RenderError>
where
    F: LowerExp + FromStr + PartialEq + Copy,
{
    let failed = RenderError("floating-point number");
    let mut scientific = ShortText::new();
    write!(scientific, "{number:e}").map_err(|_| failed)?;
    let (mantissa, exponent) = scientific.as_str().split_once('e').ok_or(failed)?;
    let exponent: i32 = exponent.parse().map_err(|_| failed)?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let mut digits = ShortText::new();
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits.push(first).and_then(|()| digits.push(rest)).ok_or(failed)?;
    // Texts that lie between two numbers, or equally near to two texts, need that many digits.
    if as_server && (digits.as_bytes().len() > certain || usize::try_from(exponent).is_ok_and(|whole| whole >= certain))
    {
        digits = of_server(number, exponent, digits).ok_or(failed)?;
    }
    let digits = digits.as_bytes();
    out.extend_from_slice(sign.as_bytes());
    let certain = i32::try_from(certain).unwrap_or(i32::MAX);
    if !(-4..certain).contains(&exponent) {
        append_digits(digits, 1, out);
        let sign = if exponent < 0 { '-' } else { '+' };
        let mut text = ShortText::new();
        write!(text, "e{sign}{:02}", exponent.unsigned_abs()).map_err(|_| failed)?;
        out.extend_from_slice(text.as_bytes());
    } else if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', exponent.unsigned_abs() as usize - 1));
        out.extend_from_slice(digits);
    } else {
        append_digits(digits, exponent.unsigned_abs() as usize + 1, out);
    }
    Ok(())
}

/// Appends digits with so many of them, or zeros, before the point.
fn append_digits(digits: &[u8], whole: usize, out: &mut Vec<u8>) {
    let (before, behind) = digits.split_at(whole.min(digits.len()));
    out.extend_from_slice(before);
    out.extend(std::iter::repeat_n(b'0', whole - before.len()));
    if !behind.is_empty() {
        out.push(b'.');
        out.extend_from_slice(behind);
    }
}

/// Digits that tell every `double precision` from the next.
const MOST: usize = 17;

/// The server's digits: of two texts that are equally near it takes the one that ends in an even digit, and it takes none
/// that lies in the middle between the number and the next one, since not every reader would round it back.
fn of_server<F>(number: F, exponent: i32, shortest: ShortText) -> Option<ShortText>
where
    F: LowerExp + FromStr + PartialEq + Copy,
{
    let is_exact = |digits: &[u8], tail: &str| reads_as(number, exponent, digits, tail);
    // A text between two numbers is one of the upper or the lower one as soon as something is added or taken away.
    let is_inside = |digits: &[u8]| {
        let mut below = ShortText::new();
        let lowered = lower(digits, &mut below);
        is_exact(digits, "")
            && is_exact(digits, "000000000000000000000000000001")
            && lowered.is_some_and(|()| is_exact(below.as_bytes(), "999999999999999999999999999999"))
    };
    let shortest = even(number, shortest, &|digits| is_exact(digits, ""))?;
    if is_inside(shortest.as_bytes()) {
        return Some(shortest);
    }
    let longer = (shortest.as_bytes().len()..MOST).map(|places| digits_of(number, places));
    longer.flatten().find(|digits| is_inside(digits.as_bytes())).or(Some(shortest))
}

/// Whether these digits and a tail, the first digit before the point, read as the number or as what is as far below zero.
fn reads_as<F: FromStr + PartialEq>(number: F, exponent: i32, digits: &[u8], tail: &str) -> bool {
    let places = exponent - i32::try_from(digits.len() + tail.len()).unwrap_or(0) + 1;
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    ["", "-"].iter().any(|sign| {
        let mut text = ShortText::new();
        write!(text, "{sign}{digits}{tail}e{places}").is_ok()
            && text.as_str().parse::<F>().is_ok_and(|other| other == number)
    })
}

/// Digits of a number that is lower by one in the last place.
fn lower(digits: &[u8], out: &mut ShortText) -> Option<()> {
    let at = digits.iter().rposition(|digit| *digit != b'0')?;
    for (index, digit) in digits.iter().enumerate() {
        let digit = match index.cmp(&at) {
            Ordering::Less => *digit,
            Ordering::Equal => digit - 1,
            Ordering::Greater => b'9',
        };
        out.push_number(u64::from(digit - b'0'), 1)?;
    }
    Some(())
}

/// Rust takes the upper one of two that are equally near.
fn even<F: LowerExp>(number: F, digits: ShortText, is_exact: &dyn Fn(&[u8]) -> bool) -> Option<ShortText> {
    /// No `double precision` has more digits.
    const ALL: usize = 767;
    let bytes = digits.as_bytes();
    if bytes.last()? % 2 == 0 {
        return Some(digits);
    }
    let mut lowered = ShortText::new();
    lower(bytes, &mut lowered)?;
    let is_half = |exact: &[u8]| {
        let rest = exact.strip_prefix(lowered.as_bytes()).and_then(|rest| rest.strip_prefix(b"5"));
        rest.is_some_and(|rest| rest.iter().all(|digit| *digit == b'0'))
    };
    // Few come so far that all digits are looked at.
    let is_tie = is_exact(lowered.as_bytes())
        && is_half(digits_of(&number, MOST + 2)?.as_bytes())
        && is_half(
            &format!("{number:.ALL$e}")
                .bytes()
                .take_while(|byte| *byte != b'e')
                .filter(u8::is_ascii_digit)
                .collect::<Vec<u8>>(),
        );
    Some(if is_tie { lowered } else { digits })
}

/// The nearest digits with so many places behind the first.
fn digits_of(number: impl LowerExp, places: usize) -> Option<ShortText> {
    let mut scientific = ShortText::new();
    write!(scientific, "{number:.places$e}").ok()?;
    let (mantissa, _) = scientific.as_str().split_once('e')?;
    let mut digits = ShortText::new();
    for digit in mantissa.split(['-', '.']) {
        digits.push(digit)?;
    }
    Some(digits)
}

fn special(number: f64) -> &'static [u8] {
    match (number.is_nan(), number > 0.0) {
        (true, _) => b"NaN",
        (false, true) => b"Infinity",
        (false, false) => b"-Infinity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 and 18 print them.
    #[test]
    fn between_two_texts_the_server_s_is_taken() {
        for (number, text) in [
            (f64::from_bits(0x4319_2FA4_CAEB_4195), "1.7723148108309492e+15"),
            (21_846_726_831_223_408.0, "2.1846726831223408e+16"),
            (-585_404_157_082_439_936.0, "-5.854041570824399e+17"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (0.000_123, "0.000123"),
            (1e-5, "1e-05"),
            (1e15, "1e+15"),
            (123_456.75, "123456.75"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            let mut out = Vec::new();
            append_as_server(Value::Double(number), &mut out).unwrap();
            assert_eq!(std::str::from_utf8(&out).unwrap(), text);
        }
    }
}
