//! Any text that a registry gives is a schema by which any bytes are an event, nothing, or an error.
#![no_main]

use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use walrelay::{avro::wire, record::Decoder};
use walrelay_fuzz::Schemas;

fuzz_target!(|data: &[u8]| {
    // Key schema, value schema and body, with a zero between.
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (key, value, body) = (next(), next(), next());
    let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else { return };
    let store = Schemas::default();
    let mut decoder = Decoder::new(4096);
    let ids = [store.add(key), store.add(value)];
    for id in ids {
        if decoder.fetch("t", id, &store).now_or_never().unwrap().is_err() {
            return;
        }
    }
    let record = [&wire::prefix(ids[1])[..], body].concat();
    for key in [None, Some(&wire::prefix(ids[0])[..])] {
        let _event_or_error = decoder.decode("t", key, Some(&record), [], 7);
    }
});
