//! `bytea`: text `\x…` (`bytea_output = hex`), Avro `bytes`.

use super::value::{ByteString, Parsed, RenderError, Value};

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    match text {
        [b'\\', b'x', digits @ ..] if digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit) => {
            Parsed::Value(Value::Bytes(ByteString::Hex(digits)))
        }
        _ => Parsed::Unrepresentable { stand_in: Value::Bytes(ByteString::Raw(&[])) },
    }
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let Value::Bytes(bytes) = value else { return Err(RenderError("bytea")) };
    out.extend_from_slice(b"\\x");
    match bytes {
        ByteString::Hex(digits) => out.extend_from_slice(digits),
        ByteString::Raw(bytes) => {
            out.extend(bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xF]).map(|digit| DIGITS[usize::from(digit)]));
        }
    }
    Ok(())
}
