//! Avro's binary encoding (specification, "Binary Encoding"), appended to a buffer.

use crate::types::{self, Simple, Value};

/// The first branch of a union: null, where it has no default.
pub const FIRST_BRANCH: u8 = 0;
/// The second branch, in zig-zag.
pub const SECOND_BRANCH: u8 = 2;

/// `boolean`
#[inline]
pub fn boolean(value: bool, out: &mut Vec<u8>) {
    out.push(u8::from(value));
}

/// `int` and `long`: zig-zag, seven bits a byte, lowest first.
#[expect(clippy::cast_possible_truncation, reason = "seven bits of it are wanted, or there are no more")]
#[inline]
pub fn long(value: i64, out: &mut Vec<u8>) {
    let number = zig_zag(value);
    if number < 0x80 {
        out.push(number as u8);
    } else if number < 0x4000 {
        out.extend_from_slice(&[number as u8 | 0x80, (number >> 7) as u8]);
    } else {
        append_sevens(number, out);
    }
}

/// The number without a sign that stands for one: small where the other is near zero.
#[inline]
#[must_use]
pub const fn zig_zag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// Bytes of a word.
const WORD: usize = 8;
/// The bit of each byte that says that more follow.
pub const MORE: u64 = 0x8080_8080_8080_8080;

/// A number of at least eight bits.
fn append_sevens(number: u64, out: &mut Vec<u8>) {
    let (bytes, count) = sevens(number);
    append_begin(&bytes, count, out);
}

/// The bytes of a number, the first so many of these: a word at once, then what is beyond 56 bits.
#[inline]
const fn sevens(number: u64) -> ([u8; 2 * WORD], usize) {
    let count = (u64::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize;
    let word = spread_sevens(number) | MORE;
    if count <= WORD {
        return (((word & !(0x80 << (8 * (count - 1)))) as u128).to_le_bytes(), count);
    }
    // At most eight bits.
    let rest = number >> 56;
    let rest = if rest < 0x80 { rest } else { rest & 0x7F | 0x80 | rest >> 7 << 8 };
    (((rest as u128) << 64 | word as u128).to_le_bytes(), count)
}

/// The lower 56 bits, seven to a byte.
#[inline]
#[must_use]
pub const fn spread_sevens(number: u64) -> u64 {
    let halves = number & 0x0FFF_FFFF | (number & 0x00FF_FFFF_F000_0000) << 4;
    let quarters = halves & 0x0000_3FFF_0000_3FFF | (halves & 0x0FFF_C000_0FFF_C000) << 2;
    quarters & 0x007F_007F_007F_007F | (quarters & 0x3F80_3F80_3F80_3F80) << 1
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

/// A `string` that `compose` appends; only then is its length known.
pub fn composed(out: &mut Vec<u8>, compose: impl FnOnce(&mut Vec<u8>)) {
    /// The first length that takes two bytes.
    const LONG: usize = 64;
    let at = out.len();
    out.push(0);
    compose(out);
    let size = out.len() - at - 1;
    match u8::try_from(2 * size) {
        Ok(byte) if size < LONG => out[at] = byte,
        _ => {
            let mut bytes = Vec::new();
            length(size, &mut bytes);
            out.splice(at..=at, bytes);
        }
    }
}

/// The decimal digits of a number, as a part of a string.
pub fn digits(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The null of a union `["null", T]`.
#[inline]
pub fn null(out: &mut Vec<u8>) {
    out.push(FIRST_BRANCH);
}

/// The branch `T` of a union `["null", T]`; its value follows.
#[inline]
pub fn present(out: &mut Vec<u8>) {
    out.push(SECOND_BRANCH);
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

/// A value of the commonest types.
#[inline]
pub fn simple(value: Simple<'_>, out: &mut Vec<u8>) {
    match value {
        Simple::Text(text) => string(text, out),
        Simple::Number(number) => long(number, out),
        Simple::Decimal(number) => unscaled(number, out),
        Simple::Moment(moment) => {
            let text = moment.iso();
            length(text.len(), out);
            out.extend_from_slice(&text);
        }
    }
}

/// `bytes` of a number in two's complement, the highest first, as few as hold it.
#[expect(clippy::cast_possible_truncation, reason = "at most eight bytes")]
#[inline]
fn unscaled(number: i64, out: &mut Vec<u8>) {
    let bits = 1 + u64::BITS - (number ^ number >> 63).leading_zeros();
    let count = bits.div_ceil(8);
    let [first, second, third, fourth, fifth, sixth, seventh, eighth] =
        (number << (u64::BITS - 8 * count)).to_be_bytes();
    let block = [2 * count as u8, first, second, third, fourth, fifth, sixth, seventh, eighth];
    append_begin(&block, 1 + count as usize, out);
}

/// A column's value; `scratch` is any buffer, its content is lost.
pub fn value(value: &Value<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    match *value {
        Value::Boolean(value) => boolean(value, out),
        Value::Int(value) => long(i64::from(value), out),
        Value::Long(value) => long(value, out),
        Value::Float(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Text(value) => string(value, out),
        Value::Short(ref value) => bytes(value.as_bytes(), out),
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
                        self::value(&item, scratch, out);
                    }
                    None if is_required => length(0, out),
                    None => null(out),
                });
            }
            length(0, out);
        }
        Value::Nulls(count) => {
            length(count, out);
            (0..count).for_each(|_| null(out));
            if count > 0 {
                length(0, out);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composed_string_is_a_string_of_any_length() {
        for size in [0, 1, 63, 64, 127, 128, 20_000] {
            let text = "x".repeat(size);
            let (mut plain, mut out) = (b"before".to_vec(), b"before".to_vec());
            string(&text, &mut plain);
            composed(&mut out, |out| out.extend_from_slice(text.as_bytes()));
            assert_eq!(out, plain, "{size}");
        }
    }

    /// As the specification has it, byte by byte.
    #[test]
    fn numbers_of_any_size_are_in_zig_zag() {
        let edges = (0..63).flat_map(|bits| [(1_i64 << bits) - 1, 1 << bits, -(1 << bits), -(1 << bits) - 1]);
        for number in edges.chain([i64::MAX, i64::MIN]) {
            let (mut expected, mut rest) = (Vec::new(), (number << 1 ^ number >> 63).cast_unsigned());
            while rest >= 0x80 {
                expected.push(rest.to_le_bytes()[0] | 0x80);
                rest >>= 7;
            }
            expected.push(rest.to_le_bytes()[0]);
            let mut out = Vec::new();
            long(number, &mut out);
            assert_eq!(out, expected, "{number}");
        }
    }
}
