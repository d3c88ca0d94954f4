//! Flat records are what Debezium's transformation `ExtractNewRecordState` made of its own events.

use serde_json::{Map, Value as Json};
use walrelay::{
    avro::{
        content::{Tombstones, TransactionBlock, Truncates},
        flat::{Deletes, Flat, Metadata, Records},
    },
    event::{EventMeta, RecordBuf, SnapshotMark, TransactionMeta},
    lsn::Lsn,
    record::{Encoder, EncoderSettings},
};

use crate::{
    against_debezium::assert_same,
    modes::{CONTENT, PLAIN},
    recorded::{Failures, Family, Topic, family, recorded_settings, recording},
    support::{GoldenEvent, Owned, Pipe},
};

/// Fields and headers as the recording's file lists them.
fn parts(list: &str, prefix: &str) -> Vec<Metadata> {
    list.split(',').filter(|text| !text.is_empty()).map(|text| Metadata::new(text, prefix).unwrap()).collect()
}

/// A recording, and walrelay's form of the settings in its file.
fn variants() -> Vec<(&'static str, EncoderSettings)> {
    let with = |name, deletes, fields: Vec<Metadata>, headers: Vec<Metadata>| {
        let records = Records::Flat(Flat { deletes, fields, headers });
        (name, EncoderSettings { records, modes: PLAIN, content: CONTENT, ..recorded_settings(name) })
    };
    let fields = "op,table,lsn,source.ts_ms,ts_ms,txId,transaction.id,total_order:position,version,sequence,snapshot";
    let headers = "op,db,source.ts_us,snapshot,transaction.data_collection_order";
    let mut variants = vec![
        with("flat.rewrite", Deletes::Rewrite, parts(fields, "__"), parts(headers, "__")),
        with("flat.tombstone", Deletes::Tombstone, vec![], parts("op,lsn:position", "cdc.")),
        with("flat.rewrite-with-tombstone", Deletes::RewriteWithTombstone, parts("op,source.lsn", "_"), vec![]),
        with("flat.drop", Deletes::Drop, parts("op", "__"), vec![]),
        with("flat.delete-to-tombstone", Deletes::Tombstone, vec![], vec![]),
    ];
    variants[0].1.content.transaction = TransactionBlock::Streamed;
    variants[2].1.content.parameters = walrelay::avro::content::Parameters::SourceType;
    variants[3].1.content.truncates = Truncates::Single;
    variants[4].1.content.tombstones = Tombstones::Never;
    variants
}

#[test]
fn flat_records_are_what_debezium_s_transformation_wrote() {
    let (family, mut failures) = (family("flat"), Failures::default());
    for (name, settings) in variants() {
        let recording = recording(name);
        for table in family.tables.keys() {
            let topic = &recording.topics[&format!("public.{table}")];
            failures.gather(&format!("{name}, {table}"), || compare_table(&family, table, topic, &settings));
        }
    }
    failures.finish();
}

fn compare_table(family: &Family, table: &str, topic: &Topic, settings: &EncoderSettings) {
    let mut pipe = Pipe { encoder: Encoder::new(settings.clone()), ..Pipe::new(&settings.prefix) };
    let plan = pipe.plan(&family.tables[table].relation);
    let parsed = |schema: &str| serde_json::from_str::<Json>(schema).unwrap();
    assert_same(&parsed(plan.value_schema()), topic.schema("Value"), &format!("value schema of {table}"));
    if let Some(key) = plan.key_schema() {
        assert_same(&parsed(key), topic.schema("Key"), &format!("key schema of {table}"));
    }
    let events = topic.events();
    let ours = encode(&mut pipe, family, table, &events);
    for (number, (ours, theirs)) in ours.iter().zip(&events).enumerate() {
        compare(&pipe, ours, theirs, &format!("record {number} of {table}"));
    }
    assert_eq!(ours.len(), events.len(), "records of {table}");
}

fn encode(pipe: &mut Pipe, family: &Family, table: &str, events: &[GoldenEvent]) -> Vec<Owned> {
    let plan = pipe.plan(&family.tables[table].relation);
    let (mut records, mut expected): (Vec<Owned>, _) = (Vec::new(), events.iter());
    for change in family.changes(table).iter().flatten() {
        let first = expected.as_slice().first();
        let (meta, event) = first.map(metadata).unwrap_or_default();
        let mut out = RecordBuf::default();
        pipe.encoder.encode(&plan, &meta, event, change, &mut out).unwrap();
        records.extend(out.iter().map(Owned::from));
        expected = events.get(records.len()..).unwrap_or_default().iter();
    }
    records
}

/// What a record says of its event, under whatever name; the rest does not show in it.
fn metadata(event: &GoldenEvent) -> (TransactionMeta, EventMeta) {
    let said = |names: &[&str]| {
        let named =
            |name: &&str| event.value.get(*name).or_else(|| event.headers.get(*name)).filter(|said| !said.is_null());
        names.iter().find_map(named)
    };
    let number = |names: &[&str]| {
        let said = said(names)?;
        said.as_i64().or_else(|| said.as_str()?.parse().ok())
    };
    let lsn = Lsn(number(&["__lsn", "_source_lsn", "cdc.position"]).unwrap_or_default().cast_unsigned());
    let sequence =
        said(&["__sequence"]).map_or_else(|| "[null,null]".into(), |sequence| sequence.as_str().unwrap().to_owned());
    let sequence: Vec<Option<String>> = serde_json::from_str(&sequence).unwrap();
    let is_snapshot = said(&["__op", "_op", "cdc.op"]).is_some_and(|op| op == "r");
    let marks =
        [SnapshotMark::First, SnapshotMark::FirstInCollection, SnapshotMark::LastInCollection, SnapshotMark::Last];
    let mark = said(&["__snapshot"]).and_then(|said| marks.into_iter().find(|mark| said == mark.as_str()));
    let order = |names: &[&str]| number(names).map_or(u64::from(!is_snapshot), i64::cast_unsigned);
    let meta = TransactionMeta {
        xid: number(&["__txId"]).map(|xid| u32::try_from(xid).unwrap()),
        commit: lsn,
        commit_us: number(&["__source_ts_us"]).unwrap_or_default(),
        previous_commit: sequence[0].as_ref().map(|lsn| Lsn(lsn.parse().unwrap())),
        ..TransactionMeta::default()
    };
    let event = EventMeta {
        ordinal: order(&["__position"]),
        total_order: order(&["__position"]),
        collection_order: order(&["__transaction_data_collection_order"]),
        lsn,
        processed_ns: 1,
        snapshot: mark.unwrap_or(if is_snapshot { SnapshotMark::True } else { SnapshotMark::False }),
        backfilling: false,
        resync: None,
    };
    (meta, event)
}

fn compare(pipe: &Pipe, ours: &Owned, theirs: &GoldenEvent, what: &str) {
    let read = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or(Json::Null, |bytes| crate::oracle::read(&pipe.store.schema_of(bytes), bytes))
    };
    assert_eq!(read(&ours.key), theirs.key, "key of {what}");
    let mut value = read(&ours.value);
    if value.get("__ts_ms").is_some() && theirs.value.get("__ts_ms").is_some() {
        // When it was processed.
        value["__ts_ms"] = theirs.value["__ts_ms"].clone();
    }
    assert_same(&value, &theirs.value, what);
    let own = |name: &str| name.starts_with("walrelay.") || name.starts_with("__debezium.context.");
    let headers = ours.headers.iter().filter(|(name, _)| !own(name));
    let headers: Map<_, _> =
        headers.map(|(name, value)| (name.clone(), Json::from(std::str::from_utf8(value).unwrap()))).collect();
    let theirs = theirs.headers.iter().filter(|(_, value)| !value.is_null());
    assert_eq!(headers, theirs.map(|(name, value)| (name.clone(), value.clone())).collect(), "headers of {what}");
}
