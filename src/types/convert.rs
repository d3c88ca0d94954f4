//! A codec at work: text to value and back.

use std::str::Utf8Error;

use super::{
    array, bits, boolean, bytea,
    codec::{Codec, Family, TextKind},
    column::ColumnType,
    date,
    decimal_form::{self, Origin},
    float, hstore, integer, interval,
    modes::{BinaryMode, HstoreMode, TimetzMode},
    money, numeric,
    plain_moment::UsualMoment,
    point,
    special::Special,
    text, time, timestamp, timestamptz, timetz,
    unsent::Placeholder,
    value::{ByteString, Element, Parsed, RenderError, Simple, Value},
};

impl Element for Codec {
    fn parse_item<'a>(&'a self, text: &'a [u8]) -> Option<Parsed<'a>> {
        self.parse(text).ok()
    }

    fn is_required(&self) -> bool {
        matches!(self.0, Family::Text(TextKind::RequiredEnum(_) | TextKind::RequiredTsvector))
    }

    fn is_decimal(&self) -> bool {
        matches!(
            self.0,
            Family::Decimal { .. }
                | Family::VariableScaleDecimal(_)
                | Family::DecimalText(_)
                | Family::DecimalDouble(_)
        )
    }

    fn is_date(&self) -> bool {
        matches!(self.0, Family::Date(..) | Family::Timestamptz { .. })
    }

    fn is_text(&self) -> bool {
        matches!(self.0, Family::Text(_))
    }
}

impl Codec {
    /// The Avro value of a text.
    ///
    /// # Errors
    /// A string's text is not UTF-8, which Avro demands (trap T46).
    pub fn parse<'a>(&'a self, text: &'a [u8]) -> Result<Parsed<'a>, Utf8Error> {
        Ok(match &self.0 {
            Family::Boolean | Family::BooleanOrBit => boolean::parse(text),
            Family::Int2 | Family::Int4 => integer::parse_int(text),
            Family::Int8 | Family::Oid => integer::parse_long(text),
            Family::Float4 => float::parse_float(text),
            Family::Float8 => float::parse_double(text),
            Family::Decimal { precision, scale } => numeric::parse_decimal(text, *precision, *scale),
            Family::VariableScaleDecimal(zeros) => numeric::parse_variable(text, *zeros),
            Family::DecimalText(origin) => decimal_form::parse_text(text, *origin, false),
            Family::DecimalDouble(origin) => decimal_form::parse_double(text, *origin),
            Family::Bytea => bytea::parse(text),
            Family::ByteaText(mode) => bytea::parse_encoded(text, *mode),
            Family::Date(form, special) => date::parse(text, *form, *special),
            Family::Time(form, special) => time::parse(text, *form, *special),
            Family::Timestamp(form, special) => timestamp::parse(text, *form, *special),
            Family::Timestamptz { digits, special } => timestamptz::parse(text, *digits, *special),
            Family::Timetz(mode, special) => timetz::parse(text, *mode, *special),
            Family::Interval => interval::parse(text),
            Family::IntervalMicros => interval::parse_micros(text),
            Family::Bit => bits::parse_one(text),
            Family::Bits { length, .. } => bits::parse(text, length.is_none()),
            Family::Money => money::parse(text),
            Family::Point => point::parse(text),
            Family::Array(element, special) => {
                array::parse(std::str::from_utf8(text)?.as_bytes(), &**element, *special)
            }
            Family::Hstore(mode) => hstore::parse(std::str::from_utf8(text)?, *mode),
            Family::Text(_) => Parsed::Value(Value::Text(std::str::from_utf8(text)?)),
            Family::UnsentName => Parsed::Unrepresentable { stand_in: Value::Text("") },
        })
    }

    /// What [`Self::parse`] gives, where that is a text as it is, a number or a moment of the usual form: most values are, and so
    /// small a value costs less.
    ///
    /// # Errors
    /// As [`Self::parse`].
    #[expect(clippy::inline_always, reason = "a value that goes through memory costs more than it took to read")]
    #[inline(always)]
    pub fn parse_simple<'a>(&self, text: &'a [u8]) -> Result<Option<Simple<'a>>, Utf8Error> {
        Ok(match &self.0 {
            Family::Text(kind) if *kind != TextKind::Bpchar => Some(Simple::Text(std::str::from_utf8(text)?)),
            Family::Int2 | Family::Int4 => {
                integer::number(text).filter(|n| i32::try_from(*n).is_ok()).map(Simple::Number)
            }
            Family::Int8 | Family::Oid => integer::number(text).map(Simple::Number),
            Family::Decimal { scale, .. } => numeric::usual(text, *scale).map(Simple::Decimal),
            Family::Timestamptz { digits: 6, special } if *special != Special::Item => {
                UsualMoment::of_utc(text).map(Simple::Moment)
            }
            _ => None,
        })
    }

    /// The Avro value of a key column's text: equal keys give equal values (trap T81; PROTOCOL, keys).
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_key<'a>(&'a self, text: &'a [u8]) -> Result<Parsed<'a>, Utf8Error> {
        match &self.0 {
            Family::VariableScaleDecimal(_) => Ok(numeric::parse_canonical(text)),
            Family::DecimalText(origin) => Ok(decimal_form::parse_text(text, *origin, *origin == Origin::Own)),
            Family::Text(TextKind::Bpchar) => self.parse(text::without_padding(text)),
            Family::Float4 | Family::Float8 => Ok(match self.parse(text)? {
                Parsed::Value(value) => Parsed::Value(float::canonical(value)),
                other => other,
            }),
            _ => self.parse(text),
        }
    }

    /// Appends the text of a value, such that the server's input function reads an equal value.
    ///
    /// # Errors
    /// The value is not one that the type has.
    pub fn render(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
        match &self.0 {
            Family::Boolean => boolean::render(value, out),
            Family::Int2 | Family::Int4 | Family::Int8 | Family::Oid => integer::render(value, out),
            Family::Float4 | Family::Float8 => float::render(value, out),
            Family::Decimal { scale, .. } => numeric::render_decimal(value, *scale, out),
            Family::VariableScaleDecimal(_) => numeric::render_variable(value, out),
            Family::DecimalText(_) => text::render(value, out),
            Family::DecimalDouble(_) => float::render(value, out),
            Family::Bytea => bytea::render(value, out),
            Family::ByteaText(mode) => bytea::render_encoded(value, *mode, out),
            Family::Date(form, _) => date::render(value, *form, out),
            Family::Time(form, _) => time::render(value, *form, out),
            Family::Timestamp(form, _) => timestamp::render(value, *form, out),
            Family::Timestamptz { .. } => timestamptz::render(value, out),
            Family::Timetz(..) => timetz::render(value, out),
            Family::Interval => interval::render(value, out),
            Family::IntervalMicros => interval::render_micros(value, out),
            // Both types read the digits.
            Family::Bit | Family::BooleanOrBit => bits::render_one(value, out),
            Family::Bits { length, .. } => bits::render(value, *length, out),
            Family::Money => money::render(value, out),
            Family::Point => point::render(value, out),
            Family::Hstore(_) => hstore::render(value, out),
            Family::Array(..) => Err(RenderError("array")),
            Family::Text(_) | Family::UnsentName => text::render(value, out),
        }
    }

    /// Bytes that the text of every value has at least, where the type alone tells: a bit string is padded to its length.
    #[must_use]
    pub const fn least_text(&self) -> usize {
        match &self.0 {
            Family::Bits { length: Some(length), .. } => *length as usize,
            _ => 0,
        }
    }

    /// What Debezium writes in a field that cannot be null where it knows no value.
    #[must_use]
    pub fn fallback(&self) -> Value<'_> {
        match &self.0 {
            Family::Timestamptz { .. } => Value::Text(timestamptz::EPOCH),
            _ => self.value_of(self.fallback_text()),
        }
    }

    /// What is written for an unchanged TOAST value where the field cannot be null, or has a placeholder
    /// ([`Self::has_placeholder`]).
    #[must_use]
    pub fn unsent<'a>(&'a self, placeholder: &'a Placeholder) -> Value<'a> {
        match &self.0 {
            Family::Bytea | Family::Bits { .. } => Value::Bytes(ByteString::Raw(placeholder.octets())),
            Family::Array(element, _) => self.value_of(placeholder.array_text(element).unwrap_or("{}")),
            Family::Hstore(HstoreMode::Map) => self.value_of(placeholder.hstore()),
            Family::Hstore(HstoreMode::Json) => Value::Text(placeholder.pair()),
            Family::ByteaText(_) => Value::Text(placeholder.text()),
            _ if self.has_placeholder(placeholder) => Value::Text(placeholder.text()),
            _ => self.fallback(),
        }
    }

    fn value_of<'a>(&'a self, text: &'a str) -> Value<'a> {
        match self.parse(text.as_bytes()) {
            Ok(Parsed::Value(value) | Parsed::Lossy(value) | Parsed::Unrepresentable { stand_in: value }) => value,
            Err(_) => Value::Text(""),
        }
    }

    const fn fallback_text(&self) -> &'static str {
        match &self.0 {
            Family::Boolean | Family::BooleanOrBit => "f",
            Family::Money | Family::DecimalText(Origin::Money) | Family::DecimalDouble(Origin::Money) => "$0.00",
            Family::Int2
            | Family::Int4
            | Family::Int8
            | Family::Float4
            | Family::Float8
            | Family::Decimal { .. }
            | Family::VariableScaleDecimal(_)
            | Family::DecimalText(_)
            | Family::DecimalDouble(_)
            | Family::Bit
            | Family::Oid => "0",
            Family::Bytea | Family::ByteaText(_) => "\\x",
            Family::Date(..) => "1970-01-01",
            Family::Time(..) | Family::Interval | Family::IntervalMicros => "00:00:00",
            Family::Timestamp(..) => "1970-01-01 00:00:00",
            Family::Timestamptz { .. } => "1970-01-01 00:00:00+00",
            Family::Timetz(..) => "00:00:00+00",
            Family::Point => "(0,0)",
            Family::Array(..) => "{}",
            Family::Bits { .. } | Family::Hstore(_) | Family::Text(_) | Family::UnsentName => "",
        }
    }

    /// Whether two keys of the type are equal exactly if their canonical bytes are; if not, the table goes to one partition.
    ///
    /// Text is taken to have a deterministic collation: a column tells when its own is not.
    #[must_use]
    pub const fn keys_equal_as_bytes(&self) -> bool {
        match &self.0 {
            Family::Float4
            | Family::Float8
            | Family::Text(
                TextKind::Json { .. }
                | TextKind::Xml
                | TextKind::Tsvector
                | TextKind::RequiredTsvector
                | TextKind::Ltree,
            )
            | Family::Interval
            | Family::IntervalMicros
            | Family::DecimalDouble(_)
            | Family::Timetz(TimetzMode::Utc, _)
            | Family::Time(time::Form::Connect | time::Form::Iso, _)
            | Family::Timestamp(timestamp::Form::Connect, _)
            | Family::Bit
            | Family::Bits { length: None, .. }
            | Family::Point
            | Family::Hstore(_)
            | Family::Array(..) => false,
            Family::Text(TextKind::Other { equal_as_text }) => *equal_as_text,
            _ => true,
        }
    }

    /// Digits behind the point that all values of the type are written with, where no schema tells; −1 where each value has its
    /// own. `None`: there is no such number.
    #[must_use]
    pub fn written_digits(&self, ty: &ColumnType) -> Option<i32> {
        match &self.0 {
            Family::Timestamptz { digits, .. } => Some(i32::from(*digits)),
            Family::DecimalText(Origin::Declared) => {
                let (_, scale) = numeric::precision_and_scale(ty.below_domains().typmod)?;
                i32::try_from(scale).ok()
            }
            Family::DecimalText(Origin::Own) => Some(-1),
            _ => None,
        }
    }

    /// Whether an unchanged TOAST value has a placeholder in this field; in the others it is null.
    #[must_use]
    pub fn has_placeholder(&self, placeholder: &Placeholder) -> bool {
        match &self.0 {
            Family::Text(_)
            | Family::Bytea
            | Family::ByteaText(BinaryMode::Hex)
            | Family::DecimalText(_)
            | Family::Timestamptz { .. }
            | Family::Timetz(..)
            | Family::Interval
            | Family::Bits { .. }
            | Family::Hstore(_) => true,
            Family::Array(element, _) => placeholder.array_text(element).is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::types::{
        ColumnType, DecimalMode, IntervalMode, Modes, TimeMode, TrailingZeros, TypeKind,
        value::{ShortText, Unscaled},
    };

    /// Columns of every family, by OID and modifier, and of every kind.
    fn columns() -> Vec<ColumnType> {
        const NUMERIC_10_2: i32 = (10 << 16 | 2) + 4;
        let base = [16, 17, 20, 21, 23, 25, 26, 114, 142, 600, 700, 701, 790, 869, 1042, 1043, 1082, 1083, 1114, 1184];
        let more = [1186, 1266, 1560, 1562, 1700, 2950, 3614, 3802];
        let modified =
            [(1700, NUMERIC_10_2), (1083, 3), (1114, 3), (1184, 3), (1560, 1), (1560, 8), (1562, 1), (1562, 9)];
        let plain = base.into_iter().chain(more).map(|oid| (oid, -1)).chain(modified);
        let mut types: Vec<_> = plain.map(|(oid, typmod)| ColumnType::base(oid, typmod, "any")).collect();
        let arrays: Vec<_> = types.iter().map(|ty| TypeKind::Array(ty.clone().into())).collect();
        let kinds = [
            TypeKind::Enum(vec!["a".into()]),
            TypeKind::Extension("hstore".into()),
            TypeKind::Extension("ltree".into()),
        ];
        types.extend(
            arrays.into_iter().chain(kinds).map(|kind| ColumnType { kind, ..ColumnType::base(17_000, -1, "any") }),
        );
        types
    }

    fn every_codec(mut check: impl FnMut(&ColumnType, &Codec)) {
        for decimal in [DecimalMode::Precise, DecimalMode::String, DecimalMode::Double] {
            for interval in [IntervalMode::String, IntervalMode::Numeric] {
                for (binary, time, hstore, timetz, trailing_zeros) in [
                    (BinaryMode::Bytes, TimeMode::Adaptive, HstoreMode::Json, TimetzMode::Offset, TrailingZeros::Kept),
                    (BinaryMode::Hex, TimeMode::Connect, HstoreMode::Map, TimetzMode::Utc, TrailingZeros::Dropped),
                    (BinaryMode::Base64, TimeMode::Isostring, HstoreMode::Json, TimetzMode::Utc, TrailingZeros::Kept),
                ] {
                    for ty in columns() {
                        check(
                            &ty,
                            &Codec::of_column(
                                &ty,
                                Modes {
                                    decimal,
                                    interval,
                                    binary,
                                    time,
                                    hstore,
                                    trailing_zeros,
                                    timetz,
                                    ..Modes::default()
                                },
                            ),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_simple_value_is_the_value_in_rows_and_keys() {
        let texts =
            ["", "0", "-0", "7", "-32768", "2147483647", "-2147483649", "9223372036854775807", "-9223372036854775808"];
        let more = [
            "9223372036854775808",
            "999999999999999999",
            "1000000000000000000",
            "007",
            "1a",
            "a1",
            "-",
            "+1",
            "a  ",
            "é",
            "t",
            "0.00",
            "-0.01",
            "12345678.90",
            "1.5",
            ".50",
            "1.2a",
            "1234567890123456.78",
            "12345678901234567.89",
            "NaN",
            "2026-11-24 10:11:12.345678+00",
            "2026-11-24 10:11:12.345678+01",
            "2026-11-24 10:11:12.34567+00",
        ];
        let mut seen = HashSet::new();
        every_codec(|ty, codec| {
            for text in texts.iter().chain(&more) {
                let value = match codec.parse_simple(text.as_bytes()).unwrap() {
                    Some(Simple::Text(text)) => Value::Text(text),
                    Some(Simple::Number(number)) => match i32::try_from(number) {
                        Ok(number) if matches!(codec.0, Family::Int2 | Family::Int4) => Value::Int(number),
                        _ => Value::Long(number),
                    },
                    Some(Simple::Decimal(number)) => Value::Decimal(Unscaled::Small(i128::from(number).into())),
                    Some(Simple::Moment(moment)) => {
                        let mut text = ShortText::new();
                        text.push_bytes(&moment.iso()).unwrap();
                        Value::Short(text)
                    }
                    None => continue,
                };
                seen.insert(std::mem::discriminant(&value));
                for parsed in [codec.parse(text.as_bytes()), codec.parse_key(text.as_bytes())] {
                    assert_eq!(parsed.unwrap(), Parsed::Value(value), "{ty:?} {codec:?}: {text:?}");
                }
            }
        });
        assert_eq!(seen.len(), 5, "texts, integers, longs, decimals and moments");
        let bad = Codec::of_column(&ColumnType::base(25, -1, "text"), Modes::default());
        assert!(bad.parse_simple(b"\xff").is_err());
    }

    /// 12:00+00 and 13:00+01 are two keys, and one clock.
    #[test]
    fn keys_that_lose_their_offset_are_not_told_apart_by_their_bytes() {
        let equal = |timetz| {
            let modes = Modes { timetz, ..Modes::default() };
            Codec::of_column(&ColumnType::base(1266, -1, "time with time zone"), modes).keys_equal_as_bytes()
        };
        assert!(equal(TimetzMode::Offset) && !equal(TimetzMode::Utc));
    }

    #[test]
    fn what_stands_for_no_value_is_a_value_of_its_type() {
        every_codec(|ty, codec| {
            let placeholder = Placeholder::default();
            let array = if let Family::Array(element, _) = &codec.0 { placeholder.array_text(element) } else { None };
            for text in [Some(codec.fallback_text()), array].into_iter().flatten() {
                let parsed = codec.parse(text.as_bytes()).unwrap();
                assert!(!matches!(parsed, Parsed::Unrepresentable { .. }), "{ty:?} {codec:?}: {text:?}");
                if let Parsed::Lossy(value) = parsed {
                    let Value::Array(array) = value else { continue };
                    assert!(array.is_exact(), "{ty:?} {codec:?}: {text:?}");
                }
            }
        });
    }
}
