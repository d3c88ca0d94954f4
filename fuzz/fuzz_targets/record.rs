//! Any value in any column, in text or in binary, becomes a record from which a text comes back that gives the same record; a
//! value in binary gives the record of its text. What cannot be encoded is an error that names table and column.
#![no_main]

use std::{collections::HashMap, sync::Arc, sync::Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use walrelay::{
    avro::content::Parameters,
    event::{Cell, Datum, EventMeta, RecordBuf, RowChange, TransactionMeta},
    lsn::Lsn,
    record::{Decoded, Decoder, EncodeError, Encoder, Plan},
    types::{BinaryCodec, ColumnType},
};
use walrelay_fuzz::{Schemas, content_of, has_text_of_its_own, modes_of, settings, table, type_of};

/// How many plans are kept.
const KEPT: usize = 500;

struct Known {
    encoder: Encoder,
    plan: Arc<Plan>,
    decoder: Decoder,
}

/// Type, forms of values, and what is said around them.
type Form = (u16, u16, u8);

impl Known {
    fn new(ty: &ColumnType, (_, modes, content): Form) -> Self {
        let (store, mut decoder) = (Schemas::default(), Decoder::new(usize::MAX));
        let mut encoder = Encoder::new(settings(modes_of(modes), content_of(content)));
        let plan = encoder.prepare(&table(ty), None, &store).now_or_never().unwrap().unwrap();
        for id in 1..=2 {
            decoder.fetch("p.public.t", id, &store).now_or_never().unwrap().unwrap();
        }
        Self { encoder, plan, decoder }
    }

    /// The record of a row that has a value in all its columns.
    fn encode(&mut self, value: &Datum, out: &mut RecordBuf) -> Result<u64, EncodeError> {
        let meta = TransactionMeta { commit: Lsn(7), xid: Some(3), ..TransactionMeta::default() };
        let event = EventMeta { ordinal: 1, ..EventMeta::default() };
        out.clear();
        self.encoder.encode(&self.plan, &meta, event, &RowChange::Insert(vec![value.clone(); 3]), out)
    }

    /// The columns of the record's row, as text.
    fn decode(&mut self, record: &RecordBuf) -> Vec<Vec<u8>> {
        let record = record.iter().next().unwrap();
        let decoded = self.decoder.decode("p.public.t", record.key, record.value, record.headers(), 7);
        let Ok(Decoded::Event(event)) = decoded else { panic!("{decoded:?}") };
        let row = event.after.unwrap();
        row.iter().map(|cell| if let Cell::Text(text) = cell { text.to_vec() } else { panic!("{cell:?}") }).collect()
    }
}

static KNOWN: Mutex<Option<HashMap<Form, Known>>> = Mutex::new(None);

fuzz_target!(|data: &[u8]| {
    let [ty, array, mode, more, content, value @ ..] = data else { return };
    let [number, modes] = [u16::from_le_bytes([*ty, *array]), u16::from_le_bytes([*mode, *more])];
    let (is_binary, content) = (content & 0x80 != 0, content & 0x7F);
    let ty = type_of(number);
    let mut known = KNOWN.lock().unwrap();
    let known = known.get_or_insert_default();
    if known.len() > KEPT {
        known.clear();
    }
    let form = (number, modes, content);
    let known = known.entry(form).or_insert_with(|| Known::new(ty, form));
    let (mut first, mut second) = (RecordBuf::default(), RecordBuf::default());
    let text = if is_binary {
        let Err(error) = known.encode(&Datum::Binary(Bytes::copy_from_slice(value)), &mut first) else {
            // Else there is nothing to compare with.
            let Some(codec) = BinaryCodec::of_column(ty) else { panic!("{ty:?} is not read in binary") };
            let mut text = Vec::new();
            codec.append_text(value, &mut text).unwrap();
            known.encode(&Datum::Text(text.into()), &mut second).unwrap();
            assert_eq!(first.bytes, second.bytes, "{ty:?}: {:?}", modes_of(modes));
            return;
        };
        return assert!(names_column(&error), "{error:?}");
    } else {
        value.to_vec()
    };
    if let Err(error) = known.encode(&Datum::Text(text.clone().into()), &mut first) {
        assert!(std::str::from_utf8(&text).is_err() && names_column(&error), "{error:?}");
        return;
    }
    let texts = known.decode(&first);
    // Where nothing tells the type, the text is that of another one.
    if content_of(content).parameters != Parameters::All || has_text_of_its_own(ty, modes_of(modes)) {
        return;
    }
    for text in texts {
        known.encode(&Datum::Text(text.clone().into()), &mut second).unwrap();
        let again = known.decode(&second);
        assert!(again.iter().all(|again| *again == text), "{ty:?}: {} {again:?}", text.escape_ascii());
        let keys = [&first, &second].map(|record| record.iter().next().unwrap().key);
        assert_eq!(keys[0], keys[1], "{ty:?}: {}", text.escape_ascii());
    }
});

/// Whether the error says where the value stood.
fn names_column(error: &EncodeError) -> bool {
    let text = error.to_string();
    text.contains("column k ") && text.contains("table public.t")
}
