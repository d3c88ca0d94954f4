//! Any bytes are a value of a type in binary or are refused. What goes straight to Avro is what the text of the value becomes,
//! in rows and in keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::encode,
    types::{BinaryCodec, Codec, Parsed, Value},
};
use walrelay_fuzz::{modes_of, type_of};

/// What the text of a value takes at most: a numeric of eight bytes has 131,072 digits before the point and 16,383 behind it.
const MOST: usize = 150_000;

fn avro(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::value(&value, &mut Vec::new(), &mut out);
    out
}

fuzz_target!(|data: &[u8]| {
    let [ty, array, mode, more, bytes @ ..] = data else { return };
    let ty = type_of(u16::from_le_bytes([*ty, *array]));
    let Some(binary) = BinaryCodec::of_column(ty) else { return };
    let codec = Codec::of_column(ty, modes_of(u16::from_le_bytes([*mode, *more])));
    let mut text = Vec::new();
    let is_value = binary.append_text(bytes, &mut text).is_ok();
    assert!(text.len() <= MOST * (bytes.len() / 8 + 1), "{ty:?}: {} bytes of {}", text.len(), bytes.len());
    let by_text = [codec.parse(&text), codec.parse_key(&text)];
    let direct = [codec.parse_binary(bytes, &binary), codec.parse_binary_key(bytes, &binary)];
    for (direct, by_text) in direct.into_iter().zip(by_text) {
        let Some(Parsed::Value(direct)) = direct else { continue };
        assert!(is_value, "{ty:?} has no text");
        match by_text {
            Ok(Parsed::Value(by_text)) => {
                assert_eq!(avro(direct), avro(by_text), "{ty:?}: {}", text.escape_ascii());
            }
            other => panic!("{ty:?}: {other:?} of {}", text.escape_ascii()),
        }
    }
});
