//! Values that need no text on the way from binary to Avro: those of the commonest types.

use super::{codec::BinaryCodec, reader::Reader, temporal::EPOCH_DAYS};
use crate::types::{
    calendar::{DAY, MICROS, Moment},
    codec::{Codec, Family, TextKind},
    date,
    special::Special,
    time, timestamp, timestamptz,
    value::{ByteString, Parsed, Unscaled, Value, Wide},
};

impl Codec {
    /// The Avro value of a value in binary, the same as its text has; `None` where only the text tells it, as that of an infinity.
    #[must_use]
    pub fn parse_binary<'a>(&self, bytes: &'a [u8], codec: &BinaryCodec) -> Option<Parsed<'a>> {
        let mut reader = Reader::new(bytes);
        let parsed = match &self.0 {
            Family::Text(_) if codec.is_text() => return text(bytes),
            Family::Bytea => return Some(Parsed::Value(Value::Bytes(ByteString::Raw(bytes)))),
            Family::ByteaText(mode) => return Some(Parsed::Value(Value::Encoded(ByteString::Raw(bytes), *mode))),
            Family::Boolean => Parsed::Value(Value::Boolean(reader.u8().ok()? != 0)),
            Family::Int2 => Parsed::Value(Value::Int(reader.i16().ok()?.into())),
            Family::Int4 => Parsed::Value(Value::Int(reader.i32().ok()?)),
            Family::Int8 => Parsed::Value(Value::Long(reader.i64().ok()?)),
            Family::Oid => Parsed::Value(Value::Long(reader.u32().ok()?.into())),
            Family::Float4 => Parsed::Value(Value::Float(float(reader.f32().ok()?))),
            Family::Float8 => Parsed::Value(Value::Double(double(reader.f64().ok()?))),
            Family::Decimal { scale, .. } => Parsed::Value(Value::Decimal(decimal(&mut reader, *scale)?)),
            Family::Point => {
                Parsed::Value(Value::Point { x: double(reader.f64().ok()?), y: double(reader.f64().ok()?) })
            }
            Family::Date(date::Form::Days | date::Form::Connect, Special::Besides | Special::Streamed) => {
                date::of_days(days(reader.i32().ok()?)?)
            }
            Family::Time(form, special) => time::of_micros(micros_of_day(reader.i64().ok()?)?, *form, *special),
            Family::Timestamp(form, special) if *form != timestamp::Form::Iso => {
                timestamp::of_moment(moment(reader.i64().ok()?)?, *form, *special)
            }
            Family::Timestamptz { digits, .. } => timestamptz::of_moment(moment(reader.i64().ok()?)?, *digits),
            _ => return None,
        };
        reader.end().ok()?;
        Some(parsed)
    }
}

impl Codec {
    /// The Avro value of a key column's value in binary; `None` where only the text tells it, or where equal keys differ in
    /// their bytes.
    #[must_use]
    pub fn parse_binary_key<'a>(&self, bytes: &'a [u8], codec: &BinaryCodec) -> Option<Parsed<'a>> {
        let is_canonical = !matches!(&self.0, Family::Float4 | Family::Float8 | Family::Text(TextKind::Bpchar));
        is_canonical.then(|| self.parse_binary(bytes, codec)).flatten()
    }
}

fn text(bytes: &[u8]) -> Option<Parsed<'_>> {
    std::str::from_utf8(bytes).ok().map(|text| Parsed::Value(Value::Text(text)))
}

/// The text tells no NaN from another.
const fn float(number: f32) -> f32 {
    if number.is_nan() { f32::NAN } else { number }
}

/// As [`float`].
const fn double(number: f64) -> f64 {
    if number.is_nan() { f64::NAN } else { number }
}

fn days(days: i32) -> Option<i32> {
    let is_finite = !matches!(days, i32::MIN | i32::MAX);
    is_finite.then(|| days.checked_add(i32::try_from(EPOCH_DAYS).ok()?)).flatten()
}

fn micros_of_day(micros: i64) -> Option<i64> {
    (0..=DAY * MICROS).contains(&micros).then_some(micros)
}

fn moment(micros: i64) -> Option<Moment> {
    let is_finite = !matches!(micros, i64::MIN | i64::MAX);
    let seconds = micros.div_euclid(MICROS) + EPOCH_DAYS * DAY;
    is_finite.then(|| Moment { seconds, micros: micros.rem_euclid(MICROS) })
}

/// A number of so few digits that it cannot overflow, with no digit behind the scale.
fn decimal(reader: &mut Reader<'_>, scale: u32) -> Option<Unscaled<'static>> {
    /// Groups of four digits before the point: 28 digits, with a scale of up to eight 36.
    const MOST_WEIGHT: i32 = 6;
    const MOST_SCALE: u32 = 8;
    /// Groups in all.
    const MOST_GROUPS: i32 = 9;
    let count = i32::from(reader.i16().ok()?);
    let weight = i32::from(reader.i16().ok()?);
    let (sign, shown) = (reader.u16().ok()?, reader.u16().ok()?);
    let is_short = (0..=MOST_GROUPS).contains(&count) && weight <= MOST_WEIGHT && scale <= MOST_SCALE;
    if !matches!(sign, 0 | 0x4000) || !is_short || u32::from(shown) != scale {
        return None;
    }
    let mut number = 0_i128;
    for _ in 0..count {
        number = number * 10_000 + i128::from(reader.u16().ok().filter(|group| *group < 10_000)?);
    }
    let exponent = 4 * (weight + 1 - count) + i32::try_from(scale).ok()?;
    let power = power_of_ten(exponent.unsigned_abs())?;
    let number = match exponent {
        // Digits behind the scale: there are none in a column that has it.
        ..0 => (number % power == 0).then(|| number / power)?,
        _ => number * power,
    };
    Some(Unscaled::Small(Wide::from(if sign == 0 { number } else { -number })))
}

fn power_of_ten(exponent: u32) -> Option<i128> {
    10_i64.checked_pow(exponent).map(i128::from).or_else(|| 10_i128.checked_pow(exponent))
}
