//! Any bytes behind a schema of walrelay's are an event or an error, whose rows stay within their bound.
#![no_main]

use std::sync::Mutex;

use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::{content::Content, subject::SubjectNaming, wire},
    event::Cell,
    record::{Decoded, Decoder, Encoder, EncoderSettings},
};
use walrelay_fuzz::{MODES, Schemas, table};

/// What a row may take in any case, and how much more than its bytes it may take at most.
const ROW_BYTES: usize = 4096;
const GROWTH: usize = 32;

/// A decoder that knows the ids of key and value schema of each form.
fn decoder() -> (Decoder, Vec<(u32, u32)>) {
    let store = Schemas::default();
    let mut decoder = Decoder::new(ROW_BYTES);
    let ids = MODES.iter().map(|modes| {
        let mut encoder = Encoder::new(EncoderSettings {
            prefix: "p".into(),
            database: "d".into(),
            version: "1".into(),
            subjects: SubjectNaming::Topic,
            modes: *modes,
            content: Content::default(),
        });
        let plan = encoder.prepare(&table(), None, &store).now_or_never().unwrap().unwrap();
        let ids = [store.add(plan.key_schema().unwrap()), store.add(plan.value_schema())];
        for id in ids {
            decoder.fetch("t", id, &store).now_or_never().unwrap().unwrap();
        }
        (ids[0], ids[1])
    });
    let ids = ids.collect();
    (decoder, ids)
}

static DECODER: Mutex<Option<(Decoder, Vec<(u32, u32)>)>> = Mutex::new(None);

fuzz_target!(|data: &[u8]| {
    let [form, head, body @ ..] = data else { return };
    let (header, body) = body.split_at((*head as usize).min(body.len()));
    let mut known = DECODER.lock().unwrap();
    let (decoder, ids) = known.get_or_insert_with(decoder);
    let (key_id, value_id) = ids[usize::from(*form) % ids.len()];
    let value = [&wire::prefix(value_id)[..], body].concat();
    let headers = ["walrelay.unchanged", "walrelay.text", "walrelay.barrier", "walrelay.pos"];
    let headers = [(headers[usize::from(*form) / ids.len() % headers.len()], header)];
    let headers = headers.into_iter().filter(|(_, value)| !value.is_empty());
    let decoded = decoder.decode("t", Some(&wire::prefix(key_id)), Some(&value), headers, 7);
    let Ok(Decoded::Event(event)) = decoded else { return };
    for row in [event.before, event.after].into_iter().flatten() {
        let text = row.iter().map(|cell| if let Cell::Text(text) = cell { text.len() } else { 0 }).sum::<usize>();
        let most = ROW_BYTES.max(GROWTH * body.len()) + header.len();
        assert!(text <= most, "{text} bytes of {} bytes", body.len());
    }
});
