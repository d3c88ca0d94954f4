//! Any bytes behind a schema of walrelay's, in all forms and for all types, are an event or an error, whose rows stay within
//! their bound; flat records are never events.
#![no_main]

use std::{collections::HashMap, sync::Mutex};

use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::{
        flat::{Deletes, Flat, Metadata, Records},
        wire,
    },
    event::{Barrier, Cell, EventMeta, RecordBuf, TransactionMeta},
    record::{Decoded, Decoder, Encoder},
    types::ColumnType,
};
use walrelay_fuzz::{Schemas, content_of, modes_of, settings, table, type_of};

/// What a row may take in any case, and how much more than its bytes it may take at most.
const ROW_BYTES: usize = 4096;
const GROWTH: usize = 32;
/// How many forms are kept.
const KEPT: usize = 500;

/// Type, forms of values, and what is said around them.
type Form = (u16, u16, u8);

/// A decoder that knows the schemas of one table, its key's with id 1, and what follows the rows of an envelope.
struct Known {
    decoder: Decoder,
    rest: Vec<u8>,
}

impl Known {
    fn new(ty: &ColumnType, (_, modes, content): Form, is_flat: bool) -> Self {
        let (store, mut decoder) = (Schemas::default(), Decoder::new(ROW_BYTES));
        let mut settings = settings(modes_of(modes), content_of(content));
        if is_flat {
            let fields = ["op", "lsn", "transaction.id"].map(|part| Metadata::new(part, "__").unwrap());
            settings.records =
                Records::Flat(Flat { deletes: Deletes::Rewrite, fields: fields.into(), headers: Vec::new() });
        }
        let mut encoder = Encoder::new(settings);
        let plan = encoder.prepare(&table(ty), None, &store).now_or_never().unwrap().unwrap();
        for id in 1..=2 {
            decoder.fetch("p.public.t", id, &store).now_or_never().unwrap().unwrap();
        }
        let mut truncate = RecordBuf::default();
        let (meta, event) = (TransactionMeta::default(), EventMeta::default());
        encoder.encode_truncate(&plan, &meta, event, Some(&Barrier::default()), 0, &mut truncate);
        // Behind the frame and two rows that are null.
        let rest = truncate.iter().next().and_then(|record| record.value?.get(7..)).unwrap_or_default();
        Self { decoder, rest: rest.to_vec() }
    }
}

static KNOWN: Mutex<Option<HashMap<(Form, bool), Known>>> = Mutex::new(None);

fuzz_target!(|data: &[u8]| {
    let [ty, array, mode, more, content, kind, head, body @ ..] = data else { return };
    let [number, modes] = [u16::from_le_bytes([*ty, *array]), u16::from_le_bytes([*mode, *more])];
    let (form, is_flat) = ((number, modes, *content), kind % 8 == 7);
    let mut known = KNOWN.lock().unwrap();
    let known = known.get_or_insert_default();
    if known.len() > KEPT {
        known.clear();
    }
    let Known { decoder, rest } =
        known.entry((form, is_flat)).or_insert_with(|| Known::new(type_of(number), form, is_flat));
    let (header, body) = body.split_at((*head as usize).min(body.len()));
    // A whole body, or a row inside of an envelope that is right.
    let body = if kind / 8 % 2 == 0 { body.to_vec() } else { [&[0, 2], body, rest].concat() };
    let value = [&wire::prefix(2)[..], &body].concat();
    let headers = ["walrelay.unchanged", "walrelay.text", "walrelay.barrier", "walrelay.pos"];
    let headers = [(headers[usize::from(kind / 16) % headers.len()], header)];
    let headers = headers.into_iter().filter(|(_, value)| !value.is_empty());
    let decoded = decoder.decode("p.public.t", Some(&wire::prefix(1)), Some(&value), headers, 7);
    let event = match decoded {
        Ok(Decoded::Event(event)) => event,
        Ok(Decoded::Nothing | Decoded::Sweep(..)) => return,
        Ok(Decoded::NeedsSchema(id)) => panic!("schema {id} is known"),
        Err(error) => return assert!(error.to_string().contains("p.public.t"), "{error}"),
    };
    assert!(!is_flat, "{event:?}");
    for row in [event.before, event.after].into_iter().flatten() {
        let text = row.iter().map(|cell| if let Cell::Text(text) = cell { text.len() } else { 0 }).sum::<usize>();
        let most = ROW_BYTES.max(GROWTH * body.len()) + header.len();
        assert!(text <= most, "{text} bytes of {} bytes", body.len());
    }
});
