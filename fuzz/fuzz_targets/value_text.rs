//! Any text is a value of a type, travels as text or is no UTF-8. What becomes a value has a text that gives it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::encode,
    types::{Codec, Parsed, Placeholder, Value},
};
use walrelay_fuzz::{has_text_of_its_own, modes_of, type_of};

fuzz_target!(|data: &[u8]| {
    let [ty, array, mode, more, text @ ..] = data else { return };
    let ty = type_of(u16::from_le_bytes([*ty, *array]));
    let modes = modes_of(u16::from_le_bytes([*mode, *more]));
    let codec = Codec::of_column(ty, modes);
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    encode::value(&codec.fallback(), &mut scratch, &mut out);
    encode::value(&codec.unsent(&Placeholder::default()), &mut scratch, &mut out);
    for parsed in [codec.parse(text), codec.parse_key(text)] {
        let Ok(parsed) = parsed else {
            assert!(std::str::from_utf8(text).is_err(), "{ty:?}");
            continue;
        };
        match parsed {
            Parsed::Value(value) | Parsed::Lossy(value) | Parsed::Unrepresentable { stand_in: value } => {
                encode::value(&value, &mut scratch, &mut out);
            }
        }
        let Parsed::Value(value) = parsed else { continue };
        if !has_text_of_its_own(ty, modes) {
            judge(&codec, value);
        }
    }
});

/// The first text may be in the notation of what was read, which the server need not write; from then on it stays.
fn judge(codec: &Codec, value: Value<'_>) {
    let mut texts = [Vec::new(), Vec::new(), Vec::new()];
    // Digits that are only written have no text.
    if codec.render(value, &mut texts[0]).is_err() {
        return;
    }
    for round in 1..texts.len() {
        let (read, written) = texts.split_at_mut(round);
        let text = &read[round - 1];
        // Where only a notation that the server does not write shows that nothing is lost, the other is told besides.
        let Ok(Parsed::Value(again) | Parsed::Lossy(again)) = codec.parse(text) else {
            panic!("{codec:?}: {}", text.escape_ascii())
        };
        if codec.render(again, &mut written[0]).is_err() {
            return;
        }
    }
    assert_eq!(texts[1].escape_ascii().to_string(), texts[2].escape_ascii().to_string(), "{codec:?}");
}
