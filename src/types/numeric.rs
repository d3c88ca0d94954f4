//! `numeric`: with a scale Avro `bytes` of logical type `decimal`, without one the record `VariableScaleDecimal`.
//!
//! NaN and the infinities have no place in either and travel as text (trap T44). Their stand-ins in a key lie beyond any value
//! that the column can hold, so that no two keys share bytes.

use serde_json::{Value as Json, json};

use super::{
    magnitude,
    modes::TrailingZeros,
    scan::Scan,
    semantic::Attributes,
    value::{Parsed, RenderError, ShortText, Unscaled, Value, Wide},
};

/// Connect name of a decimal with the schema's scale.
pub(super) const DECIMAL_NAME: &str = "org.apache.kafka.connect.data.Decimal";
/// Connect name of a decimal that carries its own scale.
pub(super) const VARIABLE_SCALE_NAME: &str = "io.debezium.data.VariableScaleDecimal";

/// `numeric(1000)` is the most that can be declared; the most digits in all are 131072 + 16383.
const MOST_BYTES: usize = 62_000;
/// Any number of so many digits fits 64 bits.
const DIGITS_OF_LONG: usize = 18;
const MOST_SCALE: i32 = 20_000;
/// Larger than any scale that PostgreSQL has.
const STAND_IN_SCALE: i32 = 20_000;

/// Precision and scale of a type modifier as Avro's `decimal` has them: a negative scale (PostgreSQL 15) becomes more digits,
/// and the precision is never below the scale.
pub(super) fn precision_and_scale(typmod: i32) -> Option<(u32, u32)> {
    let packed = u32::try_from(typmod.checked_sub(4)?).ok()?;
    let precision = packed >> 16 & 0xFFFF;
    let scale = i32::try_from(packed & 0x7FF).ok().map(|scale| (scale ^ 1024) - 1024)?;
    Some(match u32::try_from(scale) {
        Ok(scale) => (precision.max(scale), scale),
        Err(_) => (precision + scale.unsigned_abs(), 0),
    })
}

/// A number of a column with a fixed scale.
pub(super) fn parse_decimal(text: &[u8], precision: u32, scale: u32) -> Parsed<'_> {
    let value = split(text).and_then(|number| unscaled(number, scale as usize)).map(Value::Decimal);
    value.map_or_else(|| Parsed::Unrepresentable { stand_in: Value::Decimal(beyond(text, precision)) }, Parsed::Value)
}

/// The unscaled number of [`parse_decimal`] for a text of the usual form: all digits of the scale, and no more in all than any word
/// holds.
pub(super) fn usual(text: &[u8], scale: u32) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let scale = scale as usize;
    let (whole, fraction) = match digits.len().checked_sub(scale + 1)? {
        _ if scale == 0 => (digits, &[][..]),
        whole => match digits.split_at(whole) {
            (whole, [b'.', fraction @ ..]) => (whole, fraction),
            _ => return None,
        },
    };
    if whole.is_empty() || whole.len() + scale > DIGITS_OF_LONG {
        return None;
    }
    // What is no digit may overflow, and counts for nothing then.
    let (mut number, mut are_digits) = (0_i64, true);
    for part in [whole, fraction] {
        for digit in part {
            let digit = digit.wrapping_sub(b'0');
            are_digits &= digit < 10;
            number = number.wrapping_mul(10).wrapping_add(i64::from(digit));
        }
    }
    are_digits.then(|| if negative { -number } else { number })
}

/// A number of a column without a scale.
pub(super) fn parse_variable(text: &[u8], zeros: TrailingZeros) -> Parsed<'_> {
    let Some(number) = split(text) else { return not_a_number(text) };
    let written = if zeros == TrailingZeros::Dropped { number.without_trailing_zeros() } else { number };
    let Some(value) = variable(written) else { return not_a_number(text) };
    if written.fraction.len() == number.fraction.len() { Parsed::Value(value) } else { Parsed::Lossy(value) }
}

/// The same in a key, without the zeros that make no difference to equality.
pub(super) fn parse_canonical(text: &[u8]) -> Parsed<'_> {
    let value = split(text).map(Number::without_trailing_zeros).and_then(variable);
    value.map_or_else(|| not_a_number(text), Parsed::Value)
}

fn variable(number: Number<'_>) -> Option<Value<'_>> {
    let scale = i32::try_from(number.fraction.len()).ok()?;
    Some(Value::VariableScaleDecimal { scale, unscaled: unscaled(number, number.fraction.len())? })
}

fn not_a_number(text: &[u8]) -> Parsed<'_> {
    let unscaled = Unscaled::Small(special(text).into());
    Parsed::Unrepresentable { stand_in: Value::VariableScaleDecimal { scale: STAND_IN_SCALE, unscaled } }
}

pub(super) fn render_decimal(value: Value<'_>, scale: u32, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Decimal(unscaled) = value else { return Err(RenderError("numeric")) };
    render(unscaled, i32::try_from(scale).map_err(|_| RenderError("numeric"))?, out)
}

pub(super) fn render_variable(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::VariableScaleDecimal { scale, unscaled } = value else { return Err(RenderError("numeric")) };
    render(unscaled, scale, out)
}

pub(super) fn decimal_schema(precision: u32, scale: u32, parameters: Attributes) -> Json {
    let mut all = Attributes::new();
    all.insert("scale".into(), json!(scale.to_string()));
    all.insert("connect.decimal.precision".into(), json!(precision.to_string()));
    all.extend(parameters);
    json!({
        "type": "bytes",
        "scale": scale,
        "precision": precision,
        "connect.version": 1,
        "connect.parameters": all,
        "connect.name": DECIMAL_NAME,
        "logicalType": "decimal",
    })
}

pub(super) fn variable_schema(parameters: Attributes) -> Json {
    let mut schema = Attributes::new();
    schema.insert("type".into(), json!("record"));
    schema.insert("name".into(), json!("VariableScaleDecimal"));
    schema.insert("namespace".into(), json!("io.debezium.data"));
    schema.insert("fields".into(), json!([{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}]));
    schema.insert("connect.doc".into(), json!("Variable scaled decimal"));
    schema.insert("connect.version".into(), json!(1));
    if !parameters.is_empty() {
        schema.insert("connect.parameters".into(), Json::Object(parameters));
    }
    schema.insert("connect.name".into(), json!(VARIABLE_SCALE_NAME));
    Json::Object(schema)
}

/// Whether the text is a number with digits.
pub(super) fn is_number(text: &[u8]) -> bool {
    split(text).is_some()
}

/// The text without zeros behind the point that make no difference to equality.
pub(super) fn without_trailing_zeros(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let mut kept = text;
    while let [rest @ .., b'0'] = kept {
        kept = rest;
    }
    kept.strip_suffix(b".").unwrap_or(kept)
}

#[derive(Clone, Copy)]
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

impl Number<'_> {
    fn without_trailing_zeros(mut self) -> Self {
        while let [rest @ .., b'0'] = self.fraction {
            self.fraction = rest;
        }
        self
    }
}

fn split(text: &[u8]) -> Option<Number<'_>> {
    let mut scan = Scan(text);
    let negative = scan.skip(b'-').is_some();
    let whole = scan.digits();
    let fraction = if scan.skip(b'.').is_some() { scan.digits() } else { &[] };
    (scan.is_at_end() && !(whole.is_empty() && fraction.is_empty())).then_some(Number { negative, whole, fraction })
}

fn unscaled(number: Number<'_>, scale: usize) -> Option<Unscaled<'_>> {
    let Number { negative, whole, fraction } = number;
    let (fraction, excess) = fraction.split_at(scale.min(fraction.len()));
    if excess.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let zeros = scale - fraction.len();
    if whole.len() + scale > 38 {
        return Some(Unscaled::Digits { negative, whole, fraction, zeros });
    }
    let magnitude = if whole.len() + scale <= DIGITS_OF_LONG {
        let shift_in = |number, digit: &u8| number * 10 + i64::from(digit - b'0');
        let number = fraction.iter().fold(whole.iter().fold(0, shift_in), shift_in);
        i128::from(number * 10_i64.pow(u32::try_from(zeros).ok()?))
    } else {
        let digits = whole.iter().chain(fraction).chain(std::iter::repeat_n(&b'0', zeros));
        digits.fold(0_i128, |number, digit| number * 10 + i128::from(digit - b'0'))
    };
    Some(Unscaled::Small(Wide::from(if negative { -magnitude } else { magnitude })))
}

/// A number of its own for each value without digits.
fn special(text: &[u8]) -> i128 {
    match text {
        b"NaN" => 1,
        b"Infinity" => 2,
        b"-Infinity" => -2,
        _ => 3,
    }
}

/// An unscaled value with more digits than the column can have.
fn beyond(text: &[u8], precision: u32) -> Unscaled<'static> {
    let (negative, whole): (bool, &[u8]) = match special(text) {
        1 => (false, b"1"),
        2 => (false, b"2"),
        -2 => (true, b"2"),
        _ => (false, b"3"),
    };
    Unscaled::Digits { negative, whole, fraction: &[], zeros: precision as usize }
}

/// A two's complement of at most eight bytes: what most numbers need.
fn small(bytes: &[u8]) -> Option<i64> {
    let fill = if bytes.first()? & 0x80 == 0 { 0 } else { -1 };
    (bytes.len() <= 8).then(|| bytes.iter().fold(fill, |number, byte| number << 8 | i64::from(*byte)))
}

fn render_small(number: i64, scale: usize, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let failed = RenderError("numeric");
    if scale > MOST_SCALE.unsigned_abs() as usize {
        return Err(failed);
    }
    let mut digits = ShortText::new();
    digits.push_number(number.unsigned_abs(), 1).ok_or(failed)?;
    if number < 0 {
        out.push(b'-');
    }
    let digits = digits.as_bytes();
    let zeros = (scale + 1).saturating_sub(digits.len());
    let start = out.len();
    out.extend(std::iter::repeat_n(b'0', zeros));
    out.extend_from_slice(digits);
    if scale > 0 {
        let point = start + zeros + digits.len() - scale;
        out.insert(point, b'.');
    }
    Ok(())
}

fn render(unscaled: Unscaled<'_>, scale: i32, out: &mut Vec<u8>) -> Result<(), RenderError> {
    if let (Unscaled::TwosComplement(bytes), Ok(scale)) = (unscaled, usize::try_from(scale))
        && let Some(number) = small(bytes)
    {
        return render_small(number, scale, out);
    }
    let (negative, digits) = match unscaled {
        Unscaled::Small(number) => (number.get() < 0, number.get().unsigned_abs().to_string().into_bytes()),
        Unscaled::TwosComplement(bytes) if bytes.len() <= MOST_BYTES => magnitude::decimal_digits(bytes),
        _ => return Err(RenderError("numeric")),
    };
    if scale.abs() > MOST_SCALE {
        return Err(RenderError("numeric"));
    }
    if negative {
        out.push(b'-');
    }
    let Ok(scale) = usize::try_from(scale) else {
        out.extend_from_slice(&digits);
        out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs() as usize));
        return Ok(());
    };
    let padding = (scale + 1).saturating_sub(digits.len());
    let point = digits.len() + padding - scale;
    let padded = std::iter::repeat_n(b'0', padding).chain(digits);
    for (index, digit) in padded.enumerate() {
        if index == point {
            out.push(b'.');
        }
        out.push(digit);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn typmod(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7FF) + 4
    }

    #[test]
    fn negative_and_large_scales_fit_avro() {
        assert_eq!(precision_and_scale(typmod(10, 2)), Some((10, 2)));
        assert_eq!(precision_and_scale(typmod(3, -2)), Some((5, 0)));
        assert_eq!(precision_and_scale(typmod(3, 5)), Some((5, 5)));
        assert_eq!(precision_and_scale(-1), None);
    }

    #[test]
    fn a_text_of_the_usual_length_without_digits_is_no_number() {
        for text in ["0T-0ZZ-T+Z0+-.T+T", "zzzzzzzzzzzzzzzzzz", "-zzzzzzzzzzzzzzzz"] {
            for scale in 0..4 {
                assert_eq!(usual(text.as_bytes(), scale), None, "{text}");
            }
        }
        assert_eq!(usual(b"-999999999999999.999", 3), Some(-999_999_999_999_999_999));
    }

    #[test]
    fn special_values_have_stand_ins_that_no_number_has() {
        // trap T44
        let stand_ins = [&b"NaN"[..], b"Infinity", b"-Infinity"].map(|text| match parse_decimal(text, 4, 2) {
            Parsed::Unrepresentable { stand_in: Value::Decimal(unscaled) } => {
                let mut bytes = Vec::new();
                unscaled.append_to(&mut bytes);
                i16::from_be_bytes(bytes.try_into().unwrap())
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(stand_ins, [10_000, 20_000, -20_000]);
    }

    #[test]
    fn a_fraction_beyond_the_scale_is_not_cut() {
        assert!(matches!(parse_decimal(b"1.234", 4, 2), Parsed::Unrepresentable { .. }));
        assert_eq!(parse_decimal(b"1.230", 4, 2), Parsed::Value(Value::Decimal(Unscaled::Small(123.into()))));
    }
}
