//! Begins and ends of transactions are Debezium's, byte for byte but for the ids of the schemas. What differs by default is the LSN
//! in the transaction's id: Debezium's is that of each record, walrelay's that of the commit in all of them.

use std::sync::Arc;

use serde_json::Value as Json;
use walrelay::{
    avro::{
        content::{Content, TransactionId},
        flat::{Deletes, Flat, Records},
    },
    event::{EventMeta, OldTuple, Op, RecordBuf, RowChange, SnapshotMark, TransactionMeta},
    lsn::Lsn,
    record::{Decoded, EncoderSettings, EventCounts, TransactionRecords},
    schema::{Relation, ReplicaIdentity, TableName},
};

use crate::{
    flat::flat_pipe,
    oracle,
    support::{MemoryStore, Owned, Pipe, column, data, event, now, relation, settings, texts, transaction},
};

const TOPIC: &str = "glossless.transaction";

fn prepared(store: &MemoryStore, transaction_id: TransactionId) -> TransactionRecords {
    let content = Content { transaction_id, ..Content::default() };
    let settings = EncoderSettings { content, ..settings("glossless") };
    now(TransactionRecords::prepare(&settings, TOPIC, store)).unwrap()
}

/// The transaction that a golden event is of, its id and its time, and the LSN of the record.
fn metadata(value: &Json, form: TransactionId) -> (TransactionMeta, Lsn) {
    let (xid, lsn) = value["id"].as_str().unwrap().split_once(':').unwrap();
    let lsn = Lsn(lsn.parse().unwrap());
    let meta = TransactionMeta {
        xid: Some(xid.parse().unwrap()),
        commit: if form == TransactionId::Commit { lsn } else { Lsn(7) },
        commit_us: value["ts_ms"].as_i64().unwrap() * 1000 + 999,
        ..TransactionMeta::default()
    };
    (meta, if form == TransactionId::Commit { Lsn(7) } else { lsn })
}

fn counted(value: &Json) -> EventCounts {
    let mut counts = EventCounts::default();
    for (number, collection) in (1..).zip(value["data_collections"].as_array().unwrap()) {
        let name: Arc<str> = collection["data_collection"].as_str().unwrap().into();
        counts.add(number, &name, collection["event_count"].as_u64().unwrap());
    }
    counts
}

#[test]
fn begins_and_ends_equal_debezium_s() {
    for form in [TransactionId::Commit, TransactionId::Event] {
        equal_debezium_s(form);
    }
}

fn equal_debezium_s(form: TransactionId) {
    let golden: Json = serde_json::from_str(&data("transaction")).unwrap();
    let store = MemoryStore::default();
    let mut records = prepared(&store, form);
    let schemas = store.0.lock().unwrap().clone();
    for (part, (subject, schema)) in ["key", "value"].into_iter().zip(&schemas) {
        assert_eq!(subject, &format!("{TOPIC}-{part}"));
        assert_eq!(serde_json::from_str::<Json>(schema).unwrap(), golden[part]);
    }
    let events = golden["events"].as_array().unwrap();
    for event in events {
        let (value, mut out) = (&event["value"], RecordBuf::default());
        let (meta, lsn) = metadata(value, form);
        match value["status"].as_str().unwrap() {
            "BEGIN" => records.encode_begin(&meta, lsn, &mut out),
            _ => records.encode_end(&meta, (9, lsn), &counted(value), &mut out),
        }
        let record = Owned::from(out.iter().next().unwrap());
        // A zero byte and four bytes of id come first.
        let body = |bytes: &Option<Vec<u8>>| oracle::hex(&bytes.as_ref().unwrap()[5..]);
        assert_eq!(body(&record.key), event["key_hex"].as_str().unwrap()[10..]);
        assert_eq!(body(&record.value), event["value_hex"].as_str().unwrap()[10..], "{value}");
        assert_eq!(record.partition, Some(0));
    }
    assert!(events.iter().any(|event| event["value"]["data_collections"].as_array().is_some_and(|all| all.len() > 2)));
}

/// Positions rise from the begin over the events to the end, and the id is that of the events' transaction blocks.
#[test]
fn begin_and_end_have_the_transaction_s_id_and_positions_around_its_events() {
    let store = MemoryStore::default();
    let mut records = prepared(&store, TransactionId::Commit);
    for (epoch, id, positions) in
        [(0, "700:65536", ["0:65536:0", "0:65536:8"]), (2, "700:65536:2", ["2:65536:0", "2:65536:8"])]
    {
        let meta = TransactionMeta { epoch, ..crate::support::transaction() };
        let (mut out, mut counts) = (RecordBuf::default(), EventCounts::default());
        counts.add(1, &"public.t".into(), 7);
        records.encode_begin(&meta, Lsn(5), &mut out);
        records.encode_end(&meta, (8, Lsn(9)), &counts, &mut out);
        let told: Vec<Owned> = out.iter().map(Owned::from).collect();
        for (record, position) in told.iter().zip(positions) {
            assert_eq!(record.headers, [("walrelay.pos".to_owned(), position.as_bytes().to_vec())]);
            let [key, value] = [&record.key, &record.value].map(|bytes| bytes.as_deref().unwrap());
            assert_eq!(oracle::read(&store.schema_of(key), key)["id"], id);
            assert!(value.windows(id.len()).any(|window| window == id.as_bytes()));
        }
    }
}

/// Where another source's topic is taken for a table's.
#[test]
fn begins_and_ends_are_nothing_to_apply() {
    let mut pipe = Pipe::new("p");
    let mut records = prepared(&pipe.store, TransactionId::Commit);
    let mut out = RecordBuf::default();
    records.encode_begin(&crate::support::transaction(), Lsn(5), &mut out);
    let record = Owned::from(out.iter().next().unwrap());
    assert_eq!(pipe.decode("p.b.transaction", &record).unwrap(), Decoded::Nothing);
}

/// What ends count as published is what the encoder makes records of.
#[test]
fn flat_records_have_the_deletes_that_they_say() {
    for deletes in [Deletes::Tombstone, Deletes::Rewrite, Deletes::RewriteWithTombstone, Deletes::Drop] {
        let flat = Flat { deletes, ..Flat::default() };
        let records = Records::Flat(flat.clone());
        let mut pipe = flat_pipe(Content::default(), flat);
        let columns = vec![column("id", 23, -1, "integer")];
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
        let delete = RowChange::Delete(OldTuple::Key(texts(&[Some("1")])));
        assert_eq!(pipe.encode(&plan, &delete).unwrap().is_empty(), !records.have(Op::Delete), "{deletes:?}");
        assert!(records.have(Op::Create) && !records.have(Op::Truncate));
    }
    assert!([Op::Create, Op::Delete, Op::Truncate].into_iter().all(|op| Records::Envelope.have(op)));
}

/// What events have in common is kept encoded, for one table and transaction at a time.
#[test]
fn events_of_several_tables_and_transactions_are_encoded_as_if_each_were_the_first() {
    let table = |name: &str| {
        let columns = vec![column("id", 23, -1, "integer")];
        Relation { name: TableName::new("public", name), ..relation(ReplicaIdentity::Default, 1, columns) }
    };
    let tables = [table("a"), table("b"), table("a")];
    let pipe = || {
        let mut pipe = Pipe::new("p");
        let plans: Vec<_> = tables.iter().map(|table| pipe.plan(table)).collect();
        (pipe, plans)
    };
    let origin = |name: &str| Some(name.into());
    let metas = [
        transaction(),
        TransactionMeta { previous_commit: None, ..transaction() },
        TransactionMeta { origin: origin("x"), origin_lsn: Some(Lsn(7)), ..transaction() },
        TransactionMeta { epoch: 2, commit: Lsn(u64::MAX), commit_us: -1, ..transaction() },
        TransactionMeta { xid: None, ..transaction() },
    ];
    let events = [
        event(1),
        event(2),
        EventMeta { ordinal: 0, snapshot: SnapshotMark::First, ..event(1) },
        EventMeta { ordinal: 0, snapshot: SnapshotMark::Last, lsn: Lsn(u64::MAX), ..event(1) },
    ];
    let (mut kept, plans) = pipe();
    let change = RowChange::Insert(texts(&[Some("1")]));
    for step in 0..240 {
        // Neighbours differ in the plan alone, in the transaction too, or in the event.
        let (plan, meta, own) = (step / 2 % 3, &metas[step / 12 % 5], events[step / 60 % 4]);
        let (mut fresh, fresh_plans) = pipe();
        let [mut one, mut other] = [RecordBuf::default(), RecordBuf::default()];
        kept.encoder.encode(&plans[plan], meta, own, &change, &mut one).unwrap();
        fresh.encoder.encode(&fresh_plans[plan], meta, own, &change, &mut other).unwrap();
        assert_eq!(one.bytes, other.bytes, "step {step}: plan {plan}, {meta:?}, {own:?}");
    }
}
