//! Any text is a value of a type, travels as text or is no UTF-8. What becomes a value has a text that gives it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::encode,
    types::{Codec, Parsed, Placeholder},
};
use walrelay_fuzz::{has_text_of_its_own, modes_of, type_of};

fuzz_target!(|data: &[u8]| {
    let [ty, array, mode, more, text @ ..] = data else { return };
    let ty = type_of(u16::from_le_bytes([*ty, *array]));
    let modes = modes_of(u16::from_le_bytes([*mode, *more]));
    let codec = Codec::of_column(ty, modes);
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    encode::value(codec.fallback(), &mut scratch, &mut out);
    encode::value(codec.unsent(&Placeholder::default()), &mut scratch, &mut out);
    for parsed in [codec.parse(text), codec.parse_key(text)] {
        let Ok(parsed) = parsed else {
            assert!(std::str::from_utf8(text).is_err(), "{ty:?}");
            continue;
        };
        match parsed {
            Parsed::Value(value) | Parsed::Lossy(value) | Parsed::Unrepresentable { stand_in: value } => {
                encode::value(value, &mut scratch, &mut out);
            }
        }
        let Parsed::Value(value) = parsed else { continue };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        if codec.render(value, &mut first).is_err() || has_text_of_its_own(ty, modes) {
            continue;
        }
        let again = codec.parse(&first);
        // Where only a notation that the server does not write shows that nothing is lost, the other is told besides.
        let Ok(Parsed::Value(again) | Parsed::Lossy(again)) = again else { panic!("{ty:?}: {again:?} of {}", first.escape_ascii()) };
        // Digits that are only written have no text.
        if codec.render(again, &mut second).is_err() {
            continue;
        }
        assert_eq!(first.escape_ascii().to_string(), second.escape_ascii().to_string(), "{ty:?}");
    }
});
