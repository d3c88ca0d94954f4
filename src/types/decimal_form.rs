//! `numeric` and `money` as Avro `string` or `double`, where consumers ask for it.
//!
//! A string has PostgreSQL's digits; the values without digits have Debezium's words for them there, and travel as they are
//! besides. A double holds fifteen digits; what it does not hold travels as text besides.

use std::fmt::Write;

use super::{
    money, numeric,
    value::{Parsed, ShortText, Value},
};

/// Digits of a decimal that survive a double in any case.
const EXACT_DIGITS: usize = 15;

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A `numeric` whose column declares its scale.
    Declared,
    /// A `numeric` whose scale is its own, shown and kept.
    Own,
    /// A `money`
    Money,
}

/// PostgreSQL's word for a special value that has Debezium's; else the text as it is.
pub(super) fn of_debezium(text: &[u8]) -> &[u8] {
    match text {
        b"NAN" => b"NaN",
        b"POSITIVE_INFINITY" => b"Infinity",
        b"NEGATIVE_INFINITY" => b"-Infinity",
        _ => text,
    }
}

pub(super) fn parse_text(text: &[u8], origin: Origin, canonical: bool) -> Parsed<'_> {
    if origin == Origin::Money {
        return money_text(text);
    }
    let word = match text {
        b"NaN" => "NAN",
        b"Infinity" => "POSITIVE_INFINITY",
        b"-Infinity" => "NEGATIVE_INFINITY",
        _ => return digits(text, canonical),
    };
    Parsed::Lossy(Value::Text(word))
}

fn digits(text: &[u8], canonical: bool) -> Parsed<'_> {
    let text = if canonical { numeric::without_trailing_zeros(text) } else { text };
    let number = std::str::from_utf8(text).ok().filter(|_| numeric::is_number(text));
    number.map_or(Parsed::Unrepresentable { stand_in: Value::Text("") }, |text| Parsed::Value(Value::Text(text)))
}

fn money_text(text: &[u8]) -> Parsed<'_> {
    let unknown = Parsed::Unrepresentable { stand_in: Value::Text("") };
    let Some(cents) = money::cents(text) else { return unknown };
    let mut plain = ShortText::new();
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    match write!(plain, "{sign}{}.{:02}", cents / 100, cents % 100) {
        Ok(()) => Parsed::Value(Value::Short(plain)),
        Err(_) => unknown,
    }
}

pub(super) fn parse_double(text: &[u8], origin: Origin) -> Parsed<'_> {
    let number = match origin {
        Origin::Money => match money_text(text) {
            Parsed::Value(Value::Short(plain)) => plain.as_str().parse().ok(),
            _ => None,
        },
        _ => std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()),
    };
    let Some(number) = number else { return Parsed::Unrepresentable { stand_in: Value::Double(0.0) } };
    let value = Value::Double(number);
    let short = text.iter().filter(|byte| byte.is_ascii_digit()).count() <= EXACT_DIGITS;
    // A scale of its own is shown: zeros behind the point count.
    let exact = short && (origin != Origin::Own || !(text.contains(&b'.') && text.ends_with(b"0")));
    if exact { Parsed::Value(value) } else { Parsed::Lossy(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_have_every_digit_and_debezium_s_words() {
        for (text, origin) in
            [("-0.01", Origin::Declared), ("1.500", Origin::Own), ("123456789012345678901234567890.1", Origin::Own)]
        {
            assert_eq!(parse_text(text.as_bytes(), origin, false), Parsed::Value(Value::Text(text)));
        }
        assert_eq!(parse_text(b"1.500", Origin::Own, true), Parsed::Value(Value::Text("1.5")));
        assert_eq!(parse_text(b"100.00", Origin::Own, true), Parsed::Value(Value::Text("100")));
        assert_eq!(parse_text(b"100", Origin::Own, true), Parsed::Value(Value::Text("100")));
        assert_eq!(parse_text(b"-Infinity", Origin::Own, false), Parsed::Lossy(Value::Text("NEGATIVE_INFINITY")));
        let Parsed::Value(Value::Short(money)) = parse_text(b"-$1,234.56", Origin::Money, false) else {
            panic!("no text")
        };
        assert_eq!(money.as_str(), "-1234.56");
    }

    #[test]
    fn doubles_that_lose_something_say_so() {
        fn double(text: &str, origin: Origin) -> Parsed<'_> {
            parse_double(text.as_bytes(), origin)
        }
        assert_eq!(double("1234.50", Origin::Declared), Parsed::Value(Value::Double(1234.5)));
        assert_eq!(double("1234.50", Origin::Own), Parsed::Lossy(Value::Double(1234.5)));
        assert_eq!(double("1234.5", Origin::Own), Parsed::Value(Value::Double(1234.5)));
        assert_eq!(
            double("0.1234567890123456", Origin::Declared),
            Parsed::Lossy(Value::Double(0.123_456_789_012_345_6))
        );
        assert_eq!(double("$0.05", Origin::Money), Parsed::Value(Value::Double(0.05)));
        assert!(matches!(double("-$92,233,720,368,547,758.08", Origin::Money), Parsed::Lossy(_)));
    }
}
