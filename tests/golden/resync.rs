//! What records tell of a resync: its name on the events of its tables, and its end.

use std::collections::BTreeMap;

use allocation_counter::measure;
use walrelay::{
    avro::content::{Content, OwnHeaders},
    event::{
        Barrier, ChangeEvent, Comparison, Condition, EventMeta, OldTuple, Op, RecordBuf, Resync, RowChange, Sweep,
    },
    lsn::{Lsn, Position},
    record::{DecodeError, Decoded, Plan},
    schema::ReplicaIdentity,
    types::Modes,
};

use crate::support::{Owned, Pipe, column, event, relation, texts, transaction};

const RESYNC: Resync = Resync { epoch: 2, commit: Lsn(77) };

fn pipe(content: Content) -> (Pipe, std::sync::Arc<Plan>) {
    let mut pipe = Pipe::with_forms("p", Modes::default(), content);
    let columns = vec![column("id", 23, -1, "integer"), column("v", 25, -1, "text")];
    let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
    (pipe, plan)
}

/// A change of each kind; the last one moves the key.
fn changes() -> Vec<RowChange> {
    let row = |id: &str| texts(&[Some(id), Some("v")]);
    let key = |id: &str| OldTuple::Key(texts(&[Some(id), None]));
    vec![
        RowChange::Read(row("1")),
        RowChange::Insert(row("2")),
        RowChange::Update { old: None, new: row("2") },
        RowChange::Delete(key("1")),
        RowChange::Update { old: Some(key("2")), new: row("3") },
    ]
}

fn records(pipe: &mut Pipe, plan: &Plan, resync: Option<Resync>) -> Vec<Owned> {
    let mut out = RecordBuf::default();
    for change in changes() {
        pipe.encoder.encode(plan, &transaction(), EventMeta { resync, ..event(1) }, &change, &mut out).unwrap();
    }
    out.iter().map(Owned::from).collect()
}

fn sweep() -> Sweep {
    let condition = Condition { column: "id".into(), comparison: Comparison::AtMost, value: "7".into() };
    Sweep {
        resync: RESYNC,
        barrier: Barrier { topics: vec![("p.public.t".into(), 2)], ..Barrier::default() },
        rows: BTreeMap::from([("p.public.t".into(), 5)]),
        conditions: BTreeMap::from([("p.public.t".into(), vec![condition])]),
    }
}

#[test]
fn every_event_of_a_table_in_a_resync_tells_it_and_no_tombstone_does() {
    let (mut pipe, plan) = pipe(Content::default());
    let records = records(&mut pipe, &plan, Some(RESYNC));
    let told: Vec<_> =
        records.iter().map(|record| (record.value.is_some(), record.header("walrelay.resync"))).collect();
    let (event, tombstone) = ((true, Some("2:77")), (false, None));
    assert_eq!(told, [event, event, event, event, tombstone, event, tombstone, event]);
    let mut ops = Vec::new();
    for record in &records {
        if let Decoded::Event(ChangeEvent { op, resync, .. }) = pipe.decode("p.public.t", record).unwrap() {
            assert_eq!(resync, Some(RESYNC));
            ops.push(op);
        }
    }
    assert_eq!(ops, [Op::Read, Op::Create, Op::Update, Op::Delete, Op::Delete, Op::Create]);
}

#[test]
fn events_of_no_resync_have_the_headers_of_before() {
    let (mut pipe, plan) = pipe(Content::default());
    for record in records(&mut pipe, &plan, None) {
        assert_eq!(record.header("walrelay.resync"), None);
        if let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() {
            assert_eq!(event.resync, None);
        }
    }
}

#[test]
fn the_name_of_a_resync_is_written_without_an_allocation() {
    for resync in [None, Some(RESYNC)] {
        let (mut pipe, plan) = pipe(Content::default());
        let (mut out, changes, meta) = (RecordBuf::default(), changes(), transaction());
        let mut encode = || {
            out.clear();
            for change in &changes {
                let event = EventMeta { resync, ..event(1) };
                pipe.encoder.encode(&plan, &meta, event, change, &mut out).unwrap();
            }
        };
        encode();
        encode();
        assert_eq!(measure(encode).count_total, 0, "{resync:?}");
    }
}

#[test]
fn the_end_of_a_resync_has_neither_key_nor_value_and_reads_back() {
    let (mut pipe, _) = pipe(Content::default());
    let (mut out, at) = (RecordBuf::default(), Position { epoch: 2, commit: Lsn(99), ordinal: 4 });
    for partition in 0..2 {
        pipe.encoder.encode_sweep(at, &sweep(), partition, &mut out);
    }
    let records: Vec<_> = out.iter().map(Owned::from).collect();
    assert_eq!(records.iter().map(|record| record.partition).collect::<Vec<_>>(), [Some(0), Some(1)]);
    for record in &records {
        assert_eq!((&record.key, &record.value, record.header("walrelay.pos")), (&None, &None, Some("2:99:4")));
        assert_eq!(pipe.decode("p.public.t", record).unwrap(), Decoded::Sweep(at, Box::new(sweep())));
    }
    for lacking in ["walrelay.pos", "walrelay.sweep"] {
        let mut record = records[0].clone();
        record.headers.retain(|(name, _)| name != lacking);
        let error = pipe.decode("p.public.t", &record).unwrap_err();
        let is_told = matches!(error, DecodeError::Header { .. } | DecodeError::Flat { .. });
        assert!(is_told, "{lacking}: {error:?}");
    }
    let mut keyed = records[0].clone();
    keyed.key = Some(vec![0, 0, 0, 0, 1, 2]);
    assert!(matches!(pipe.decode("p.public.t", &keyed), Err(DecodeError::Header { .. })));
}

#[test]
fn without_headers_of_its_own_nothing_is_told() {
    let content = Content { own_headers: OwnHeaders::LeftOut, ..Content::default() };
    let (mut pipe, plan) = pipe(content);
    assert!(records(&mut pipe, &plan, Some(RESYNC)).iter().all(
        |record| record.headers.is_empty() || record.headers.iter().all(|(name, _)| !name.starts_with("walrelay."))
    ));
    let mut out = RecordBuf::default();
    pipe.encoder.encode_sweep(Position::default(), &sweep(), 0, &mut out);
    assert!(out.records.is_empty());
}

#[test]
fn a_header_that_names_no_resync_is_an_error() {
    let (mut pipe, plan) = pipe(Content::default());
    let mut record = records(&mut pipe, &plan, Some(RESYNC)).remove(0);
    let header = record.headers.iter_mut().find(|(name, _)| name == "walrelay.resync").unwrap();
    header.1 = b"77".to_vec();
    let error = pipe.decode("p.public.t", &record).unwrap_err();
    assert!(matches!(&error, DecodeError::Header { header: "walrelay.resync", .. }), "{error:?}");
}
