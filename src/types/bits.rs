//! `bit` and `bit varying`: Avro `boolean` for one bit, else `bytes` with the last bit first (`io.debezium.data.Bits`, parameter
//! `length`), zero bytes at the end left out as Java's `BitSet` does.
//!
//! The bytes of a `bit(n)` are exact. Those of a `bit varying` lose its leading zeros, so its text travels besides.

use serde_json::{Value as Json, json};

use super::{
    semantic::{Attributes, named},
    value::{BitString, ByteString, Parsed, RenderError, Value},
};

pub(super) const NAME: &str = "io.debezium.data.Bits";

/// The length of a `bit varying` that has no limit, as the JDBC driver reports it.
const UNLIMITED: i64 = i32::MAX as i64;

/// The length in the schema.
pub(super) fn length(typmod: i32) -> i64 {
    if typmod > 0 { i64::from(typmod) } else { UNLIMITED }
}

pub(super) fn parse_one(text: &[u8]) -> Parsed<'_> {
    match text {
        b"0" => Parsed::Value(Value::Boolean(false)),
        b"1" => Parsed::Value(Value::Boolean(true)),
        // A `bit varying(1)` may be empty.
        _ => Parsed::Unrepresentable { stand_in: Value::Boolean(false) },
    }
}

pub(super) fn render_one(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Boolean(value) = value else { return Err(RenderError("bit")) };
    out.push(if value { b'1' } else { b'0' });
    Ok(())
}

pub(super) fn parse(text: &[u8], varying: bool) -> Parsed<'_> {
    match BitString::new(text) {
        Some(bits) if varying => Parsed::Lossy(Value::Bits(bits)),
        Some(bits) => Parsed::Value(Value::Bits(bits)),
        None => Parsed::Unrepresentable { stand_in: Value::Bytes(ByteString::Raw(&[])) },
    }
}

/// Writes `length` bits; as many as the bytes have where the length is not fixed.
pub(super) fn render(value: Value<'_>, length: Option<u32>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Bytes(ByteString::Raw(bytes)) = value else { return Err(RenderError("bit string")) };
    let highest = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |index| index * 8 + 8);
    let held = highest - bytes.get((highest / 8).saturating_sub(1)).map_or(0, |byte| byte.leading_zeros() as usize % 8);
    let length = length.map_or(held, |length| length as usize);
    if held > length {
        return Err(RenderError("bit string of this length"));
    }
    let bit = |index: usize| bytes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    out.extend((0..length).rev().map(|index| if bit(index) { b'1' } else { b'0' }));
    Ok(())
}

pub(super) fn schema(length: i64, parameters: Attributes) -> Json {
    let mut all = Attributes::new();
    all.insert("length".into(), json!(length.to_string()));
    all.extend(parameters);
    named("bytes", NAME, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        BitString::new(text.as_bytes()).unwrap().append_to(&mut out);
        out
    }

    fn text(bytes: &[u8], length: Option<u32>) -> String {
        let mut out = Vec::new();
        render(Value::Bytes(ByteString::Raw(bytes)), length, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bytes_are_those_of_java_s_bit_set() {
        assert_eq!(bytes("101010101010"), [0xAA, 0x0A]);
        assert_eq!(bytes("000000000001"), [0x01]);
        assert_eq!(bytes("1000000000"), [0x00, 0x02]);
        assert_eq!((bytes(""), bytes("0000")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn bits_of_a_fixed_length_come_back() {
        for bits in ["101010101010", "000000000001", "0000000000000000", "1111111100000000", "10000000"] {
            assert_eq!(text(&bytes(bits), u32::try_from(bits.len()).ok()), bits);
        }
        assert_eq!(text(&bytes("0001011"), None), "1011");
        assert_eq!(text(&[], None), "");
    }

    #[test]
    fn bytes_with_more_bits_than_the_column_are_refused() {
        assert!(render(Value::Bytes(ByteString::Raw(&[0, 2])), Some(9), &mut Vec::new()).is_err());
    }
}
