//! `money`: Avro `decimal` of scale 2. The text is that of `lc_monetary = C`: `-$1,234.56`.

use serde_json::{Value as Json, json};

use super::{
    numeric::{self, DECIMAL_NAME},
    semantic::Attributes,
    value::{Parsed, RenderError, Unscaled, Value},
};

pub(super) const SCALE: u32 = 2;

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    cents(text).map_or(Parsed::Unrepresentable { stand_in: Value::Decimal(Unscaled::Small(0.into())) }, |cents| {
        Parsed::Value(Value::Decimal(Unscaled::Small(cents.into())))
    })
}

/// Written as a plain number, which the input function reads under `lc_monetary = C`, as every session pins it.
pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    numeric::render_decimal(value, SCALE, out)
}

/// Debezium gives no `connect.decimal.precision` here.
pub(super) fn schema(parameters: Attributes) -> Json {
    let mut all = Attributes::new();
    all.insert("scale".into(), json!(SCALE.to_string()));
    all.extend(parameters);
    json!({
        "type": "bytes",
        "scale": SCALE,
        "precision": 64,
        "connect.version": 1,
        "connect.parameters": all,
        "connect.name": DECIMAL_NAME,
        "logicalType": "decimal",
    })
}

/// The amount in hundredths.
pub(super) fn cents(text: &[u8]) -> Option<i128> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let text = text.strip_prefix(b"$")?;
    let (whole, fraction) = text.split_at_checked(text.len().checked_sub(3)?)?;
    let [b'.', tens, ones] = fraction else { return None };
    let digits = whole.iter().filter(|byte| **byte != b',').chain([tens, ones]);
    let cents = digits.clone().try_fold(0_i128, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    (digits.count() > 2).then_some(if negative { -cents } else { cents })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_amount_is_read_exactly() {
        assert_eq!(cents(b"$1,234.56"), Some(123_456));
        assert_eq!(cents(b"-$0.01"), Some(-1));
        assert_eq!(cents(b"-$92,233,720,368,547,758.08"), Some(i128::from(i64::MIN)));
        for bad in [&b""[..], b"1.00", b"$1", b"$.50", b"$1.0x", b"$x.00"] {
            assert_eq!(cents(bad), None, "{bad:?}");
        }
    }
}
