//! What Debezium tells beside rows, in a stream with tables that are left out: begins and ends of transactions, messages and
//! truncates, and how walrelay tells the same.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use walrelay::{
    avro::content::{TransactionBlock, TransactionId, Truncates},
    event::RecordBuf,
    lsn::Lsn,
    record::{EncoderSettings, EventCounts, LogicalMessage, TransactionRecords},
};

use crate::{
    against_debezium::{Case, assert_same, metadata},
    differences::Differences,
    modes::{CONTENT, PLAIN},
    oracle,
    recorded::{Topic, bytes, family, recorded_settings, recording},
    support::{MemoryStore, Owned, Pipe, now},
};

fn settings(name: &str) -> EncoderSettings {
    let mut settings = EncoderSettings { modes: PLAIN, content: CONTENT, ..recorded_settings(name) };
    if name == "stream.transactions" {
        settings.content.transaction = TransactionBlock::Streamed;
        settings.content.truncates = Truncates::Single;
    } else {
        settings.content.tombstones = walrelay::avro::content::Tombstones::Never;
    }
    settings
}

/// A change of a row, a moved key, deletes with a key and without one, and a truncate of one table or of several.
#[test]
fn rows_and_truncates_are_debezium_s_beside_tables_that_are_left_out() {
    let (family, used) = (family("stream"), std::cell::RefCell::default());
    for name in ["stream.transactions", "stream.plain"] {
        let recording = recording(name);
        for table in ["s_one", "s_two", "s_full", "s_none", "s_gone"] {
            let relation = &family.tables[table].relation;
            Case {
                relation,
                changes: family.changes(table),
                variant: &recording.topics[&format!("public.{table}")].variant("Envelope"),
                settings: settings(name),
                differences: Differences::new(relation, false, true, &used),
                headers_with_schema: false,
                besides: None,
            }
            .run();
        }
        assert!(!recording.topics.contains_key("public.left_out"));
    }
}

/// Byte for byte behind the schema ids. A message outside of a transaction has none in its block, and no number of one.
#[test]
fn messages_are_debezium_s_inside_of_transactions_and_outside() {
    let recording = recording("stream.transactions");
    let topic = &recording.topics["message"];
    let settings = settings("stream.transactions");
    let mut pipe = Pipe { encoder: walrelay::record::Encoder::new(settings.clone()), ..Pipe::new("p") };
    let plan = now(pipe.encoder.prepare_messages(&pipe.store)).unwrap();
    let events = topic.events();
    for (event, recorded) in events.iter().zip(&topic.records) {
        let content = bytes(event.value["message"]["content"]["$bytes"].as_str().unwrap());
        let transactional = !event.value["source"]["txId"].is_null();
        assert_eq!(event.value["transaction"].is_null(), !transactional);
        let message =
            LogicalMessage { prefix: event.key["prefix"].as_str().unwrap(), content: &content, transactional };
        let (mut meta, mut own) = metadata(event);
        meta.commit = Lsn(7);
        own.processed_ns = event.value["ts_ms"].as_i64().unwrap() * 1_000_000;
        let mut out = RecordBuf::default();
        pipe.encoder.encode_message(&plan, &meta, own, &message, &mut out);
        let record = Owned::from(out.iter().next().unwrap());
        let body = |hex: &Option<String>| hex.as_ref().unwrap()[10..].to_owned();
        assert_eq!(oracle::hex(&record.key.unwrap()[5..]), body(&recorded.key));
        assert_eq!(oracle::hex(&record.value.unwrap()[5..]), body(&recorded.value), "{}", event.value);
    }
    assert_eq!(events.len(), 5);
}

/// Counts by collection, without order: Debezium's is that of a hash table, and it names messages by a Java object.
fn counts(value: &Json) -> BTreeMap<String, u64> {
    let collections = value["data_collections"].as_array().into_iter().flatten();
    let named = collections.map(|collection| {
        let name = collection["data_collection"].as_str().unwrap();
        let name = if name.contains("LogicalDecodingMessageId") { "message" } else { name };
        (name.to_owned(), collection["event_count"].as_u64().unwrap())
    });
    named.collect()
}

/// The ends of the recorded stream, by what they count; those of the recording's own end are left out.
fn ends(topic: &Topic) -> Vec<(Json, BTreeMap<String, u64>)> {
    let ends = topic.events().into_iter().map(|event| event.value).filter(|value| value["status"] == "END");
    let ends = ends.map(|value| (value.clone(), counts(&value)));
    ends.filter(|(_, counts)| !counts.contains_key("public.at_the_end")).collect()
}

/// What walrelay counts of each transaction: rows and truncates of published tables, a moved key twice, and messages.
fn ours() -> Vec<BTreeMap<String, u64>> {
    let family = family("stream");
    let mut ends: Vec<BTreeMap<String, u64>> = Vec::new();
    for streamed in &family.stream {
        if streamed.operation.op == "BEGIN" {
            ends.push(BTreeMap::new());
            continue;
        }
        let is_moved = streamed.operation.op == "UPDATE"
            && streamed.operation.old.as_ref().is_some_and(|old| old[0] != streamed.operation.new.as_ref().unwrap()[0]);
        let published = streamed.table.iter().chain(&streamed.tables).filter(|table| !table.starts_with("left_out"));
        for table in published {
            *ends.last_mut().unwrap().entry(format!("public.{table}")).or_default() += 1 + u64::from(is_moved);
        }
        if streamed.operation.op == "MESSAGE" && streamed.transactional {
            *ends.last_mut().unwrap().entry("message".into()).or_default() += 1;
        }
    }
    ends
}

/// The transactions that walrelay tells are those of which something counts; Debezium tells the others too.
#[test]
fn ends_count_what_debezium_s_count_and_debezium_tells_empty_ones_too() {
    let theirs: Vec<_> =
        ends(&recording("stream.transactions").topics["transaction"]).into_iter().map(|end| end.1).collect();
    let (told, empty): (Vec<_>, Vec<_>) = theirs.into_iter().partition(|counts| !counts.is_empty());
    let ours: Vec<_> = ours().into_iter().filter(|counts| !counts.is_empty()).collect();
    assert_eq!(told, ours);
    assert!(!empty.is_empty());
}

#[test]
fn begins_and_ends_are_debezium_s_beside_tables_that_are_left_out() {
    let recording = recording("stream.transactions");
    let topic = &recording.topics["transaction"];
    let (store, mut settings) = (MemoryStore::default(), settings("stream.transactions"));
    settings.content.transaction_id = TransactionId::Event;
    let mut records = now(TransactionRecords::prepare(&settings, "gstream_transactions.transaction", &store)).unwrap();
    let parsed = |schema: &str| serde_json::from_str::<Json>(schema).unwrap();
    for ((_, ours), name) in store.0.lock().unwrap().iter().zip(["TransactionMetadataKey", "TransactionMetadataValue"])
    {
        assert_same(&parsed(ours), topic.schema(name), name);
    }
    for event in topic.events() {
        let value = &event.value;
        let (xid, lsn) = value["id"].as_str().unwrap().split_once(':').unwrap();
        let lsn = Lsn(lsn.parse().unwrap());
        let meta = walrelay::event::TransactionMeta {
            xid: Some(xid.parse().unwrap()),
            commit: Lsn(7),
            commit_us: value["ts_ms"].as_i64().unwrap() * 1_000,
            ..Default::default()
        };
        let mut out = RecordBuf::default();
        if value["status"] == "BEGIN" {
            records.encode_begin(&meta, lsn, &mut out);
        } else {
            let mut counts = EventCounts::default();
            for (number, collection) in (1..).zip(value["data_collections"].as_array().unwrap()) {
                let name = collection["data_collection"].as_str().unwrap();
                counts.add(number, &name.into(), collection["event_count"].as_u64().unwrap());
            }
            records.encode_end(&meta, (99, lsn), &counts, &mut out);
        }
        let record = Owned::from(out.iter().next().unwrap());
        let read = |bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_ref().unwrap();
            oracle::read(&store.schema_of(bytes), bytes)
        };
        assert_eq!(read(&record.key), json!({"id": value["id"]}));
        assert_same(&read(&record.value), value, "what is told of a transaction");
    }
}
