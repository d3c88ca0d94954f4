//! Any bytes are a value of a type in binary or are refused. What goes straight to Avro is what the text of the value becomes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::encode,
    types::{BinaryCodec, Codec, Parsed, Value},
};
use walrelay_fuzz::{MODES, TYPES};

fn avro(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::value(value, &mut Vec::new(), &mut out);
    out
}

fuzz_target!(|data: &[u8]| {
    let [ty, mode, bytes @ ..] = data else { return };
    let ty = &TYPES[usize::from(*ty) % TYPES.len()];
    let Some(binary) = BinaryCodec::of_column(ty) else { return };
    let codec = Codec::of_column(ty, MODES[usize::from(*mode) % MODES.len()]);
    let mut text = Vec::new();
    let is_value = binary.append_text(bytes, &mut text).is_ok();
    let Some(Parsed::Value(direct)) = codec.parse_binary(bytes, &binary) else { return };
    assert!(is_value, "{ty:?} has no text");
    match codec.parse(&text) {
        Ok(Parsed::Value(by_text)) => assert_eq!(avro(direct), avro(by_text), "{ty:?}: {}", text.escape_ascii()),
        other => panic!("{ty:?}: {other:?} of {}", text.escape_ascii()),
    }
});
