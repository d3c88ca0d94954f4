//! `smallint`, `integer`, `bigint`: Avro `int` (with `connect.type` int16 for smallint) and `long`.

use serde_json::{Value as Json, json};

use super::{
    semantic::Attributes,
    value::{Parsed, RenderError, ShortText, Value},
};

pub(super) fn parse_int(text: &[u8]) -> Parsed<'_> {
    match number(text).and_then(|number| i32::try_from(number).ok()) {
        Some(number) => Parsed::Value(Value::Int(number)),
        None => Parsed::Unrepresentable { stand_in: Value::Int(0) },
    }
}

pub(super) fn parse_long(text: &[u8]) -> Parsed<'_> {
    number(text)
        .map_or(Parsed::Unrepresentable { stand_in: Value::Long(0) }, |number| Parsed::Value(Value::Long(number)))
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let number = match value {
        Value::Int(number) => i64::from(number),
        Value::Long(number) => number,
        _ => return Err(RenderError("integer")),
    };
    let mut text = ShortText::new();
    let sign = if number < 0 { "-" } else { "" };
    text.push(sign).and_then(|()| text.push_number(number.unsigned_abs(), 1)).ok_or(RenderError("integer"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Avro has no 16-bit integer; Kafka Connect marks it.
pub(super) fn int16_schema(parameters: Attributes) -> Json {
    let mut schema = Attributes::new();
    schema.insert("type".into(), json!("int"));
    if !parameters.is_empty() {
        schema.insert("connect.parameters".into(), Json::Object(parameters));
    }
    schema.insert("connect.type".into(), json!("int16"));
    Json::Object(schema)
}

/// A number of 64 bits.
#[inline]
pub(super) fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // No number of 18 digits is beyond 64 bits.
    if digits.len() <= 18 {
        let (number, all_digits) = digits.iter().fold((0_i64, true), |(number, all_digits), digit| {
            let digit = digit.wrapping_sub(b'0');
            (number.wrapping_mul(10).wrapping_add(i64::from(digit)), all_digits && digit < 10)
        });
        return all_digits.then_some(if negative { number.wrapping_neg() } else { number });
    }
    digits.iter().try_fold(0_i64, |number, digit| {
        let digit = i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        let shifted = number.checked_mul(10)?;
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_the_type_are_not_wrapped() {
        assert_eq!(number(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(number(b"9223372036854775808"), None);
        assert_eq!(parse_int(b"2147483648"), Parsed::Unrepresentable { stand_in: Value::Int(0) });
        for bad in [&b""[..], b"-", b"+1", b"1a"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }
}
