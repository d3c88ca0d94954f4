//! Values as the text of Kafka Connect's simple header converter (`org.apache.kafka.connect.data.Values.convertToString`), inside
//! of a struct: numbers as Java writes them, moments of Connect's own types without quotes, bytes in base64.

use std::{
    fmt::{Debug, LowerExp},
    io::Write as _,
};

use super::{
    array::append_nulls,
    calendar::civil_from_days,
    codec::{Codec, Family},
    date,
    modes::BinaryMode,
    money, time, timestamp,
    value::{Unscaled, Value, append_encoded},
};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;
/// From so many digits behind the point before the first one that is not 0, Java's decimals have an exponent.
const LEAST_EXPONENT: i64 = -6;

impl Codec {
    /// Appends a value of the codec; `scratch` is any buffer, its content is lost.
    pub fn append_connect_text(&self, value: Value<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        scratch.clear();
        match value {
            Value::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Value::Int(value) => self.append_whole(i64::from(value), out),
            Value::Long(value) => self.append_whole(value, out),
            Value::Float(value) => append_float(value.is_finite(), value, scratch, out),
            Value::Double(value) => append_float(value.is_finite(), value, scratch, out),
            Value::Text(text) => append_quoted(text.as_bytes(), out),
            Value::Short(text) => append_quoted(text.as_bytes(), out),
            Value::Bytes(bytes) => {
                bytes.append_to(scratch);
                append_base64(scratch, out);
            }
            Value::Bits(bits) => {
                bits.append_to(scratch);
                append_base64(scratch, out);
            }
            Value::Encoded(bytes, mode) => {
                out.push(b'"');
                bytes.append_encoded_to(mode, scratch, out);
                out.push(b'"');
            }
            Value::Hstore(pairs) => {
                pairs.append_json_to(scratch);
                append_quoted(scratch, out);
            }
            Value::Decimal(unscaled) => append_decimal(&unscaled, self.decimal_scale(), scratch, out),
            Value::VariableScaleDecimal { scale, unscaled } => {
                unscaled.append_to(scratch);
                let mut digits = itoa::Buffer::new();
                for part in [b"{\"scale\":", digits.format(scale).as_bytes(), b",\"value\":"] {
                    out.extend_from_slice(part);
                }
                append_base64(scratch, out);
                out.push(b'}');
            }
            Value::Point { x, y } => {
                for (name, number) in [(&b"{\"x\":"[..], x), (b",\"y\":", y)] {
                    out.extend_from_slice(name);
                    append_float(number.is_finite(), number, scratch, out);
                }
                out.push(b'}');
            }
            Value::Array(_) | Value::Nulls(_) | Value::Map(_) => self.append_collection(value, scratch, out),
        }
    }

    fn append_collection(&self, value: Value<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        match value {
            Value::Array(array) => {
                let element = if let Family::Array(element, _) = &self.0 { element } else { self };
                let mut separator = b'[';
                array.each(|item| {
                    out.push(std::mem::replace(&mut separator, b','));
                    match item {
                        Some(item) => element.append_connect_text(item, scratch, out),
                        None => out.extend_from_slice(b"null"),
                    }
                });
                out.extend_from_slice(if separator == b'[' { b"[]" } else { b"]" });
            }
            Value::Nulls(count) => append_nulls(count, out),
            Value::Map(pairs) => {
                let mut separator = b'{';
                pairs.each(scratch, |key, value| {
                    out.push(std::mem::replace(&mut separator, b','));
                    append_quoted(key, out);
                    out.push(b':');
                    match value {
                        Some(value) => append_quoted(value, out),
                        None => out.extend_from_slice(b"null"),
                    }
                });
                out.extend_from_slice(if separator == b'{' { b"{}" } else { b"}" });
            }
            _ => {}
        }
    }

    /// A number, or the moment that it is in one of Connect's own types, for which the converter has texts.
    fn append_whole(&self, number: i64, out: &mut Vec<u8>) {
        match &self.0 {
            Family::Date(date::Form::Connect, _) => append_moment(number.saturating_mul(DAY), out),
            Family::Time(time::Form::Connect, _) | Family::Timestamp(timestamp::Form::Connect, _) => {
                append_moment(number, out);
            }
            _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        }
    }

    /// Digits behind the point that the schema gives a decimal.
    const fn decimal_scale(&self) -> i64 {
        match &self.0 {
            Family::Decimal { scale, .. } => *scale as i64,
            Family::Money => money::SCALE as i64,
            _ => 0,
        }
    }
}

/// A date is told from a time of day, and from both, by the number alone: what lies before 1970-01-02 is a time. The converter takes
/// the zone of its process, which is UTC here.
fn append_moment(millis: i64, out: &mut Vec<u8>) {
    let (days, time) = (millis.div_euclid(DAY), millis.rem_euclid(DAY));
    if days > 0 {
        let (year, month, day) = civil_from_days(days);
        append_padded(&[(year, 4), (month, 2), (day, 2)], b'-', out);
        if time == 0 {
            return;
        }
        out.push(b'T');
    }
    append_padded(&[(time / 3_600_000, 2), (time / 60_000 % 60, 2), (time / 1_000 % 60, 2)], b':', out);
    out.push(b'.');
    append_padded(&[(time % 1_000, 3)], b'.', out);
    out.push(b'Z');
}

/// Appends numbers of at least so many digits.
fn append_padded(numbers: &[(i64, usize)], separator: u8, out: &mut Vec<u8>) {
    for (index, (number, width)) in numbers.iter().enumerate() {
        if index > 0 {
            out.push(separator);
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(*number).as_bytes();
        out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
        out.extend_from_slice(digits);
    }
}

/// As `Double.toString` and `Float.toString` write it: at least two digits, an exponent beyond seven digits before the point and
/// three behind it.
fn append_float(is_finite: bool, number: impl LowerExp + Debug, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    const WRITTEN: &str = "a vector never fails to be written";
    scratch.clear();
    if !is_finite {
        write!(scratch, "{number:?}").expect(WRITTEN);
        let name: &[u8] = match &scratch[..] {
            b"inf" => b"Infinity",
            b"-inf" => b"-Infinity",
            _ => b"NaN",
        };
        return out.extend_from_slice(name);
    }
    write!(scratch, "{number:e}").expect(WRITTEN);
    if !scratch.contains(&b'.') {
        // Of the numbers of two digits that are read as this one, the nearest.
        scratch.clear();
        write!(scratch, "{number:.1e}").expect(WRITTEN);
    }
    let mut parts = scratch.splitn(2, |byte| *byte == b'e');
    let (mantissa, exponent) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let exponent = std::str::from_utf8(exponent).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
    let (sign, mantissa) = mantissa.split_at(usize::from(mantissa.starts_with(b"-")));
    out.extend_from_slice(sign);
    let mut digits = mantissa.iter().copied().filter(u8::is_ascii_digit);
    match exponent {
        0..7 => {
            out.extend((0..=exponent).map(|_| digits.next().unwrap_or(b'0')));
            out.push(b'.');
            let rest = out.len();
            out.extend(digits);
            if out.len() == rest {
                out.push(b'0');
            }
            trim(rest, out);
        }
        -3..0 => {
            out.extend_from_slice(b"0.");
            out.extend((exponent..-1).map(|_| b'0'));
            let rest = out.len();
            out.extend(digits);
            trim(rest, out);
        }
        _ if mantissa == b"0.0" => out.extend_from_slice(mantissa),
        _ => {
            out.extend_from_slice(mantissa);
            out.push(b'E');
            out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
        }
    }
}

/// Takes off zeros from the end, but for the first digit from `start` on.
fn trim(start: usize, out: &mut Vec<u8>) {
    while out.len() > start + 1 && out.last() == Some(&b'0') {
        out.pop();
    }
}

/// As `BigDecimal.toString` writes it.
fn append_decimal(unscaled: &Unscaled<'_>, scale: i64, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    scratch.clear();
    unscaled.append_digits_to(scratch);
    let (sign, digits) = scratch.split_at(usize::from(scratch.starts_with(b"-")));
    out.extend_from_slice(sign);
    let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let exponent = count - 1 - scale;
    if scale > 0 && exponent >= LEAST_EXPONENT {
        let zeros = usize::try_from(scale + 1 - count).unwrap_or_default();
        let start = out.len();
        out.extend(std::iter::repeat_n(b'0', zeros));
        out.extend_from_slice(digits);
        let point = out.len() - usize::try_from(scale).unwrap_or_default();
        out.insert(point.max(start), b'.');
    } else if scale > 0 {
        let (first, rest) = digits.split_at(digits.len().min(1));
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        out.push(b'E');
        out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
    } else {
        out.extend_from_slice(digits);
    }
}

/// The converter escapes no more than what ends the text.
fn append_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    append_encoded(bytes, BinaryMode::Base64, out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ColumnType, Modes, Parsed, TimeMode, TypeKind};

    /// What the converter (`connect-api` 3.9.0, in UTC) wrote of a struct's field.
    fn written(ty: &ColumnType, text: &str) -> String {
        let codec = Codec::of_column(ty, Modes { time: TimeMode::Connect, ..Modes::default() });
        let (Parsed::Value(value) | Parsed::Lossy(value)) = codec.parse(text.as_bytes()).unwrap() else {
            panic!("{text} has no value")
        };
        let mut out = Vec::new();
        codec.append_connect_text(value, &mut Vec::new(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn compare(oid: u32, pairs: &[(&str, &str)]) {
        for (text, connect) in pairs {
            assert_eq!(written(&ColumnType::base(oid, -1, "any"), text), *connect, "{text}");
        }
    }

    #[test]
    fn floats_are_written_as_java_does() {
        compare(
            701,
            &[
                ("0", "0.0"),
                ("-0", "-0.0"),
                ("1", "1.0"),
                ("1.5", "1.5"),
                ("100", "100.0"),
                ("1234567", "1234567.0"),
                ("9999999", "9999999.0"),
                ("1e7", "1.0E7"),
                ("12345678.9", "1.23456789E7"),
                ("0.001", "0.001"),
                ("0.0123", "0.0123"),
                ("9.99e-4", "9.99E-4"),
                ("1e-5", "1.0E-5"),
                ("1.7976931348623157e308", "1.7976931348623157E308"),
                ("5e-324", "4.9E-324"),
                ("NaN", "NaN"),
                ("Infinity", "Infinity"),
                ("-Infinity", "-Infinity"),
                ("123456.789", "123456.789"),
                ("1e21", "1.0E21"),
            ],
        );
        compare(
            700,
            &[
                ("1.5", "1.5"),
                ("1e7", "1.0E7"),
                ("0.001", "0.001"),
                ("3.4028235e38", "3.4028235E38"),
                ("1e-45", "1.4E-45"),
                ("0.1", "0.1"),
                ("1.6777216e7", "1.6777216E7"),
            ],
        );
    }

    #[test]
    fn decimals_are_written_as_java_does() {
        for (text, scale, connect) in [
            ("0.00", 2, "0.00"),
            ("-1.50", 2, "-1.50"),
            ("0.0000001", 7, "1E-7"),
            ("0.0000000", 7, "0E-7"),
            ("0.000001", 6, "0.000001"),
            ("123456789012345678901234567890.12", 2, "123456789012345678901234567890.12"),
            ("1234567890123456789012345678901234567890.12", 2, "1234567890123456789012345678901234567890.12"),
            ("1.0000000", 7, "1.0000000"),
            ("-0.00000012", 8, "-1.2E-7"),
            ("12", 0, "12"),
            ("0.0000000000000000000000000000000000000000", 40, "0E-40"),
        ] {
            let ty = ColumnType::base(1700, (60 << 16 | scale) + 4, "numeric");
            assert_eq!(written(&ty, text), connect, "{text}");
        }
        compare(1700, &[("2.58", r#"{"scale":2,"value":"AQI="}"#)]);
        compare(790, &[("$1,234.50", "1234.50")]);
    }

    #[test]
    fn moments_of_connect_s_types_have_no_quotes() {
        compare(1083, &[("12:34:56.789", "12:34:56.789Z")]);
        compare(
            1114,
            &[
                ("1970-01-01 00:00:00", "00:00:00.000Z"),
                ("1969-12-31 23:59:59.999", "23:59:59.999Z"),
                ("1970-01-01 23:59:59.999", "23:59:59.999Z"),
                ("1970-01-02 00:00:00", "1970-01-02"),
                ("1970-01-02 00:00:00.001", "1970-01-02T00:00:00.001Z"),
                ("10000-01-01 00:00:00", "10000-01-01"),
            ],
        );
        compare(1082, &[("1969-12-31", "00:00:00.000Z"), ("2024-03-01", "2024-03-01")]);
        compare(1184, &[("2024-03-01 00:00:00+00", r#""2024-03-01T00:00:00.000000Z""#)]);
    }

    #[test]
    fn texts_bytes_and_arrays_are_written_as_the_converter_does() {
        compare(25, &[("a\"b\\c\nd\te\u{1}é", "\"a\\\"b\\\\c\nd\te\u{1}é\"")]);
        compare(17, &[("\\xfbff", r#""+/8=""#), ("\\x", r#""""#)]);
        compare(16, &[("t", "true"), ("f", "false")]);
        let array = |oid| ColumnType {
            oid: 1,
            typmod: -1,
            sql: "any[]".into(),
            kind: TypeKind::Array(ColumnType::base(oid, -1, "any").into()),
        };
        assert_eq!(written(&array(25), r#"{a,NULL,"b\""}"#), r#"["a",null,"b\""]"#);
        assert_eq!(written(&array(25), "{}"), "[]");
        assert_eq!(written(&array(1082), "{2024-03-01}"), "[2024-03-01]");
    }
}
