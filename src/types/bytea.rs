//! `bytea`: text `\x…` (`bytea_output = hex`), Avro `bytes`, or `string` in an encoding that consumers ask for.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};

use super::{
    modes::BinaryMode,
    value::{ByteString, Parsed, RenderError, Value},
};

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    match text {
        [b'\\', b'x', digits @ ..] if digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit) => {
            Parsed::Value(Value::Bytes(ByteString::Hex(digits)))
        }
        _ => Parsed::Unrepresentable { stand_in: Value::Bytes(ByteString::Raw(&[])) },
    }
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Bytes(bytes) = value else { return Err(RenderError("bytea")) };
    out.extend_from_slice(b"\\x");
    match bytes {
        ByteString::Hex(digits) => out.extend_from_slice(digits),
        ByteString::Raw(bytes) => append_hex(bytes, out),
    }
    Ok(())
}

/// Appends bytes in hexadecimal.
pub(super) fn append_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xF]).map(|digit| DIGITS[usize::from(digit)]));
}

/// The bytes of a text, to be written in an encoding.
pub(super) fn parse_encoded(text: &[u8], mode: BinaryMode) -> Parsed<'_> {
    match parse(text) {
        Parsed::Value(Value::Bytes(bytes)) => Parsed::Value(Value::Encoded(bytes, mode)),
        _ => Parsed::Unrepresentable { stand_in: Value::Text("") },
    }
}

/// Reads the encoding back.
pub(super) fn render_encoded(value: Value<'_>, mode: BinaryMode, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let failed = RenderError("bytea");
    let Value::Text(text) = value else { return Err(failed) };
    let bytes = match mode {
        BinaryMode::Base64 => STANDARD.decode(text).map_err(|_| failed)?,
        BinaryMode::Base64UrlSafe => URL_SAFE.decode(text).map_err(|_| failed)?,
        BinaryMode::Hex | BinaryMode::Bytes => {
            let digits = text.as_bytes();
            let hex = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
            return if hex { render(Value::Bytes(ByteString::Hex(digits)), out) } else { Err(failed) };
        }
    };
    render(Value::Bytes(ByteString::Raw(&bytes)), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_comes_back() {
        for (mode, encoded) in
            [(BinaryMode::Base64, "+/8A"), (BinaryMode::Base64UrlSafe, "-_8A"), (BinaryMode::Hex, "fbff00")]
        {
            let Parsed::Value(Value::Encoded(bytes, mode)) = parse_encoded(b"\\xfbff00", mode) else {
                panic!("no value")
            };
            let mut text = Vec::new();
            bytes.append_encoded_to(mode, &mut Vec::new(), &mut text);
            assert_eq!(std::str::from_utf8(&text).unwrap(), encoded);
            let mut back = Vec::new();
            render_encoded(Value::Text(encoded), mode, &mut back).unwrap();
            assert_eq!(back, b"\\xfbff00");
        }
        for (mode, text) in [(BinaryMode::Base64, "*"), (BinaryMode::Hex, "abc"), (BinaryMode::Base64UrlSafe, "+/8A")] {
            assert!(render_encoded(Value::Text(text), mode, &mut Vec::new()).is_err());
        }
    }
}
