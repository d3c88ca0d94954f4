//! Avro's binary encoding (specification, "Binary Encoding"), appended to a buffer.

use crate::types::{self, Value};

/// The branch that every nullable field has first.
const NULL_BRANCH: u8 = 0;
/// Zig-zag of branch 1.
const VALUE_BRANCH: u8 = 2;

/// `boolean`
#[inline]
pub fn boolean(value: bool, out: &mut Vec<u8>) {
    out.push(u8::from(value));
}

/// `int` and `long`: zig-zag, seven bits a byte, lowest first.
#[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "zig-zag maps bits to bits")]
#[inline]
pub fn long(value: i64, out: &mut Vec<u8>) {
    /// Seven bits of each of 64.
    const LONGEST: usize = 10;
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let (mut bytes, mut count) = ([0_u8; LONGEST], 0);
    for byte in &mut bytes {
        (*byte, rest, count) = (rest as u8 | 0x80, rest >> 7, count + 1);
        if rest == 0 {
            *byte &= 0x7F;
            break;
        }
    }
    append_begin(&bytes, count, out);
}

/// Appends the first `count` bytes. A copy of a known size is cheaper than one of as many bytes as are needed.
#[inline]
fn append_begin<const N: usize>(bytes: &[u8; N], count: usize, out: &mut Vec<u8>) {
    let end = out.len() + count;
    out.extend_from_slice(bytes);
    out.truncate(end);
}

/// `bytes`
#[inline]
pub fn bytes(value: &[u8], out: &mut Vec<u8>) {
    length(value.len(), out);
    out.extend_from_slice(value);
}

/// `string`
#[inline]
pub fn string(value: &str, out: &mut Vec<u8>) {
    bytes(value.as_bytes(), out);
}

/// The decimal digits of a number, as a part of a string.
pub fn digits(number: u64, out: &mut Vec<u8>) {
    let count = number.checked_ilog10().map_or(1, |log| log as usize + 1);
    let mut digits = [0; 20];
    let mut rest = number;
    for place in digits.iter_mut().take(count).rev() {
        (*place, rest) = (b'0' + (rest % 10) as u8, rest / 10);
    }
    append_begin(&digits, count, out);
}

/// The null of a union `["null", T]`.
#[inline]
pub fn null(out: &mut Vec<u8>) {
    out.push(NULL_BRANCH);
}

/// The branch `T` of a union `["null", T]`; its value follows.
#[inline]
pub fn present(out: &mut Vec<u8>) {
    out.push(VALUE_BRANCH);
}

/// A union `["null", "long"]`.
#[inline]
pub fn optional_long(value: Option<i64>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            present(out);
            long(value, out);
        }
        None => null(out),
    }
}

/// A union `["null", "string"]`.
pub fn optional_string(value: Option<&str>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            present(out);
            string(value, out);
        }
        None => null(out),
    }
}

/// A column's value; `scratch` is any buffer, its content is lost.
pub fn value(value: Value<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    match value {
        Value::Boolean(value) => boolean(value, out),
        Value::Int(value) => long(i64::from(value), out),
        Value::Long(value) => long(value, out),
        Value::Float(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Text(value) => string(value, out),
        Value::Short(value) => string(value.as_str(), out),
        Value::Bytes(value) => {
            length(value.len(), out);
            value.append_to(out);
        }
        Value::Array(array) => {
            if !array.is_empty() {
                length(array.len(), out);
                let is_required = array.has_required_items();
                array.each(|item| match item {
                    Some(item) => {
                        if !is_required {
                            present(out);
                        }
                        self::value(item, scratch, out);
                    }
                    None if is_required => length(0, out),
                    None => null(out),
                });
            }
            length(0, out);
        }
        Value::Encoded(content, mode) => {
            length(content.encoded_len(mode), out);
            content.append_encoded_to(mode, scratch, out);
        }
        Value::Hstore(pairs) => {
            scratch.clear();
            pairs.append_json_to(scratch);
            bytes(scratch, out);
        }
        Value::Map(pairs) => {
            if !pairs.is_empty() {
                length(pairs.len(), out);
                pairs.each(scratch, |key, value| {
                    bytes(key, out);
                    match value {
                        Some(value) => {
                            present(out);
                            bytes(value, out);
                        }
                        None => null(out),
                    }
                });
            }
            length(0, out);
        }
        Value::Bits(bits) => {
            scratch.clear();
            bits.append_to(scratch);
            bytes(scratch, out);
        }
        Value::Point { x, y } => {
            out.extend_from_slice(&x.to_le_bytes());
            out.extend_from_slice(&y.to_le_bytes());
            present(out);
            bytes(&types::well_known_binary(x, y), out);
            null(out);
        }
        Value::Decimal(unscaled) => {
            scratch.clear();
            unscaled.append_to(scratch);
            bytes(scratch, out);
        }
        Value::VariableScaleDecimal { scale, unscaled } => {
            long(i64::from(scale), out);
            scratch.clear();
            unscaled.append_to(scratch);
            bytes(scratch, out);
        }
    }
}

#[expect(clippy::cast_possible_wrap, reason = "no buffer is longer than isize::MAX")]
#[inline]
fn length(length: usize, out: &mut Vec<u8>) {
    long(length as i64, out);
}
