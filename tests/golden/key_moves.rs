//! Which records a change becomes: keys, moves of keys, unchanged values, partitions, rows before.

use serde_json::json;
use walrelay::{
    event::{Barrier, Cell, ChangeEvent, Datum, OldTuple, Op, RecordBuf, RowChange, Tuple},
    lsn::{Lsn, Position},
    record::Decoded,
    retry::{Classify as _, Severity, chain},
    schema::{Column, ReplicaIdentity},
    types::{ColumnType, DecimalMode, Modes, TimeMode, TypeKind},
};

use crate::support::{Owned, Pipe, column, event, relation, texts, transaction};

fn id() -> Column {
    column("id", 23, -1, "integer")
}

fn text(name: &str) -> Column {
    column(name, 25, -1, "text")
}

/// A pipe with a plan for one table, and a change's records and events.
struct Table {
    pipe: Pipe,
    plan: std::sync::Arc<walrelay::record::Plan>,
}

impl Table {
    fn new(identity: ReplicaIdentity, keys: usize, columns: Vec<Column>) -> Self {
        let mut pipe = Pipe::new("p");
        let plan = pipe.plan(&relation(identity, keys, columns));
        Self { pipe, plan }
    }

    fn records(&mut self, change: &RowChange) -> Vec<Owned> {
        self.pipe.encode(&self.plan, change).unwrap()
    }

    fn event(&mut self, record: &Owned) -> ChangeEvent {
        match self.pipe.decode("p.public.t", record).unwrap() {
            Decoded::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, old: Option<OldTuple>, new: Tuple) -> Vec<Owned> {
        self.records(&RowChange::Update { old, new })
    }
}

fn row(cells: &[Option<&str>]) -> Vec<Cell> {
    cells.iter().map(|cell| cell.map_or(Cell::Null, |text| Cell::Text(text.to_owned().into()))).collect()
}

#[test]
fn a_key_move_is_delete_tombstone_and_create_with_each_other_s_key() {
    // trap T28
    let mut table = Table::new(ReplicaIdentity::Default, 1, vec![id(), text("v"), text("w")]);
    let mut new = texts(&[Some("2"), Some("x"), None]);
    new[2] = Datum::Unchanged;
    let old = OldTuple::Key(texts(&[Some("1"), None, None]));
    let mut out = RecordBuf::default();
    let change = RowChange::Update { old: Some(old), new };
    let taken = table.pipe.encoder.encode(&table.plan, &transaction(), event(7), &change, &mut out).unwrap();
    assert_eq!(taken, 2);
    let records: Vec<_> = out.iter().map(Owned::from).collect();
    let headers = |record: &Owned| {
        record
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect::<Vec<_>>()
    };
    assert_eq!(headers(&records[0]), [r#"__debezium.newkey={"id":2}"#, r#"walrelay.unchanged=["w"]"#]);
    assert_eq!(headers(&records[1]), [r#"__debezium.newkey={"id":2}"#]);
    assert_eq!(headers(&records[2]), [r#"__debezium.oldkey={"id":1}"#, r#"walrelay.unchanged=["w"]"#]);
    assert_eq!((&records[0].key, &records[1].value), (&records[1].key, &None));

    let (delete, create) = (table.event(&records[0]), table.event(&records[2]));
    let at = |ordinal| Position { epoch: 0, commit: transaction().commit, ordinal };
    assert_eq!((delete.op, delete.position, delete.key_move), (Op::Delete, at(7), true));
    assert_eq!((create.op, create.position, create.key_move), (Op::Create, at(8), true));
    assert_eq!(delete.moved_columns, [2]);
    assert_eq!(delete.before.unwrap(), [Cell::Text("1".into()), Cell::Unchanged, Cell::Unchanged]);
    assert_eq!(create.after.unwrap(), [Cell::Text("2".into()), Cell::Text("x".into()), Cell::Unchanged]);
    assert_eq!(table.pipe.decode("p.public.t", &records[1]).unwrap(), Decoded::Nothing);
}

#[test]
fn equal_keys_in_other_notation_are_no_key_move() {
    // trap T81
    let numeric = Table::new(ReplicaIdentity::Default, 1, vec![column("id", 1700, -1, "numeric"), text("v")]);
    let padded = Table::new(ReplicaIdentity::Default, 1, vec![column("id", 1042, 9, "character(5)"), text("v")]);
    let float = Table::new(ReplicaIdentity::Default, 1, vec![column("id", 701, -1, "double precision"), text("v")]);
    for (mut table, old, new) in [(numeric, "1.0", "1.00"), (padded, "a    ", "a"), (float, "-0", "0")] {
        let old = OldTuple::Key(texts(&[Some(old), None]));
        let records = table.update(Some(old.clone()), texts(&[Some(new), Some("x")]));
        assert_eq!(records.len(), 1, "{new}");
        assert!(records[0].headers.is_empty());
        let event = table.event(&records[0]);
        assert_eq!((event.op, event.before), (Op::Update, None));
        // The row itself keeps its notation.
        assert_eq!(event.after.unwrap(), row(&[Some(new), Some("x")]));
        let deleted = table.records(&RowChange::Delete(old));
        assert_eq!(deleted[0].key, records[0].key, "one key, two keys of bytes");
    }
}

#[test]
fn under_identity_full_unchanged_values_come_from_the_old_row() {
    // trap T27
    let mut table = Table::new(ReplicaIdentity::Full, 1, vec![id(), text("v"), text("w")]);
    let mut new = texts(&[Some("1"), Some("new"), None]);
    new[2] = Datum::Unchanged;
    let old = OldTuple::Full(texts(&[Some("1"), Some("old"), Some("large")]));
    let records = table.update(Some(old), new);
    assert_eq!(records[0].header("walrelay.unchanged"), None);
    let event = table.event(&records[0]);
    assert_eq!(event.after.unwrap(), row(&[Some("1"), Some("new"), Some("large")]));
    assert_eq!(event.before.unwrap(), row(&[Some("1"), Some("old"), Some("large")]));
}

#[test]
fn unchanged_is_told_by_the_header_and_not_by_the_placeholder() {
    // trap T27
    let mut table =
        Table::new(ReplicaIdentity::Default, 1, vec![id(), text("v"), text("w"), column("n", 1700, -1, "numeric")]);
    let mut new = texts(&[Some("1"), Some("__debezium_unavailable_value"), None, None]);
    new[2] = Datum::Unchanged;
    new[3] = Datum::Unchanged;
    let record = table.update(None, new).remove(0);
    assert_eq!(record.header("walrelay.unchanged"), Some(r#"["w","n"]"#));
    let value = record.value.as_ref().unwrap();
    let read = crate::oracle::read(&table.pipe.store.schema_of(value), value);
    assert_eq!(read["after"]["w"], "__debezium_unavailable_value");
    assert_eq!(read["after"]["n"], json!(null));
    let after = table.event(&record).after.unwrap();
    let real = Cell::Text("__debezium_unavailable_value".into());
    assert_eq!(after, [Cell::Text("1".into()), real, Cell::Unchanged, Cell::Unchanged]);
}

#[test]
fn a_key_column_stored_externally_is_taken_from_the_old_key() {
    let mut table = Table::new(ReplicaIdentity::Default, 2, vec![id(), text("k"), text("v")]);
    let mut new = texts(&[Some("2"), None, Some("x")]);
    new[1] = Datum::Unchanged;
    let old = OldTuple::Key(texts(&[Some("1"), Some("large"), None]));
    let records = table.update(Some(old), new);
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].header("__debezium.newkey"), Some(r#"{"id":2,"k":"large"}"#));
    assert_eq!(records[2].header("walrelay.unchanged"), None);
    assert_eq!(table.event(&records[2]).after.unwrap(), row(&[Some("2"), Some("large"), Some("x")]));
}

#[test]
fn a_table_without_a_key_goes_to_partition_0_without_tombstones() {
    // trap T81
    let mut table = Table::new(ReplicaIdentity::Full, 0, vec![id(), text("v")]);
    let old = || OldTuple::Full(texts(&[Some("1"), None]));
    let deleted = table.records(&RowChange::Delete(old()));
    assert_eq!(deleted.len(), 1);
    assert_eq!((&deleted[0].key, deleted[0].partition), (&None, Some(0)));
    // The whole row identifies it, NULL included.
    assert_eq!(table.event(&deleted[0]).before.unwrap(), row(&[Some("1"), None]));
    let updated = table.update(Some(old()), texts(&[Some("2"), None]));
    assert_eq!(updated.len(), 1);
    let event = table.event(&updated[0]);
    assert_eq!((event.before.unwrap(), event.after.unwrap()), (row(&[Some("1"), None]), row(&[Some("2"), None])));
    assert!(event.shape.key.is_empty());
}

#[test]
fn keys_whose_bytes_do_not_decide_equality_go_to_partition_0() {
    // traps T45, T81
    for (oid, sql, one) in [
        (23, "integer", false),
        (25, "text", false),
        (1700, "numeric", false),
        (2950, "uuid", false),
        (701, "double precision", true),
        (3802, "jsonb", true),
        (1186, "interval", true),
        (16_400, "public.citext", true),
        (869, "inet", false),
    ] {
        let mut table = Table::new(ReplicaIdentity::Default, 1, vec![column("id", oid, -1, sql)]);
        let key = if oid == 701 || oid == 23 || oid == 1700 { "1" } else { "\"1\"" };
        let records = table.records(&RowChange::Delete(OldTuple::Key(texts(&[Some(key)]))));
        for record in &records {
            assert_eq!(record.partition, one.then_some(0), "{sql}");
        }
        assert_eq!(records.len(), 2, "{sql}");
    }
}

#[test]
fn special_keys_keep_different_bytes_and_come_back_exactly() {
    // traps T43, T44
    let date = ["infinity", "-infinity", "1970-01-01"];
    let number = ["NaN", "Infinity", "-Infinity", "1", "0"];
    for (oid, typmod, sql, values) in [
        (1082, -1, "date", &date[..]),
        (1700, -1, "numeric", &number[..]),
        (1700, (4 << 16) + 4, "numeric(4,0)", &number[..]),
        (1186, -1, "interval", &date[..2]),
    ] {
        let mut table = Table::new(ReplicaIdentity::Default, 1, vec![column("id", oid, typmod, sql), text("v")]);
        let mut keys = std::collections::HashSet::new();
        for value in values {
            let records = table.records(&RowChange::Insert(texts(&[Some(value), None])));
            assert!(keys.insert(records[0].key.clone()), "{sql} {value} shares its key");
            assert_eq!(table.event(&records[0]).after.unwrap(), row(&[Some(value), None]));
            let deleted = table.records(&RowChange::Delete(OldTuple::Key(texts(&[Some(value), None]))));
            assert_eq!(
                table.event(&deleted[0]).before.unwrap(),
                [Cell::Text((*value).to_owned().into()), Cell::Unchanged]
            );
        }
    }
}

/// Such a move is one too, or the target would keep both rows (trap T28); another notation of an equal key is none.
#[test]
fn a_key_that_moves_within_its_bytes_is_deleted_and_created() {
    let timestamp = (1114, -1, "timestamp without time zone");
    let time = (1083, -1, "time without time zone");
    let connect = Modes { time: TimeMode::Connect, ..Modes::default() };
    let iso = Modes { time: TimeMode::Isostring, ..Modes::default() };
    let double = Modes { decimal: DecimalMode::Double, ..Modes::default() };
    for (modes, (oid, typmod, sql), [one, other], moves) in [
        (connect, timestamp, ["2026-01-01 12:00:00.123", "2026-01-01 12:00:00.123456"], true),
        (connect, time, ["00:00:00", "24:00:00"], true),
        (iso, time, ["00:00:00", "24:00:00"], true),
        (double, (1700, -1, "numeric"), ["0.3", "0.30000000000000001"], true),
        (Modes::default(), timestamp, ["infinity", "294247-01-10 04:00:25.2"], true),
        (Modes::default(), (1562, -1, "bit varying"), ["1", "001"], true),
        (Modes::default(), (1700, -1, "numeric"), ["1", "1.0"], false),
    ] {
        let mut pipe = Pipe::with_modes("p", modes);
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, vec![column("id", oid, typmod, sql)]));
        for (before, after) in [(one, other), (other, one)] {
            let old = Some(OldTuple::Key(texts(&[Some(before)])));
            let records = pipe.encode(&plan, &RowChange::Update { old, new: texts(&[Some(after)]) }).unwrap();
            assert_eq!(records.len(), if moves { 3 } else { 1 }, "{sql}: {before} to {after}");
            assert!(records.iter().all(|record| record.key == records[0].key), "{sql}: {before} to {after}");
        }
    }
}

/// A column of type `integer[]`, and one of its values of two dimensions in binary, whose flag tells whether it had a NULL once.
fn matrix() -> (Column, impl Fn(i32, i32) -> Datum) {
    let mut ids = column("id", 1007, -1, "integer[]");
    ids.ty.kind = TypeKind::Array(ColumnType::base(23, -1, "integer").into());
    let value = |nulls: i32, item: i32| {
        let words = [2, nulls, 23, 1, 1, 1, 1, 4, item];
        Datum::Binary(words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>().into())
    };
    (ids, value)
}

/// Binary tells more than the text does, and positions must be the same in both.
#[test]
fn values_of_one_text_are_one_key_whatever_their_bytes_in_binary_are() {
    let (ids, value) = matrix();
    let mut table = Table::new(ReplicaIdentity::Default, 1, vec![ids]);
    for (before, after, count) in
        [(value(0, 7), value(1, 7), 1), (Datum::Text("{{7}}".into()), value(1, 7), 1), (value(0, 7), value(0, 8), 3)]
    {
        let records = table.update(Some(OldTuple::Key(vec![before.clone()])), vec![after.clone()]);
        assert_eq!(records.len(), count, "{before:?} to {after:?}");
        assert!(records.iter().all(|record| record.key == records[0].key), "{before:?} to {after:?}");
    }
}

#[test]
fn bytes_that_are_no_value_are_told_with_their_column_and_type() {
    let (ids, _) = matrix();
    let mut table = Table::new(ReplicaIdentity::Default, 1, vec![id(), Column { name: "ids".into(), ..ids }]);
    let mut out = RecordBuf::default();
    let change = RowChange::Insert(vec![Datum::Text("1".into()), Datum::Binary(vec![0, 0, 0, 9].into())]);
    let error = table.pipe.encoder.encode(&table.plan, &transaction(), event(1), &change, &mut out).unwrap_err();
    let expected = "a value of column ids (integer[]) of table public.t cannot be read in binary: \
                    bytes that no value that ends so early has in binary";
    assert_eq!((chain(&error), error.severity()), (expected.to_owned(), Severity::Transient));
}

#[test]
fn keys_that_share_their_bytes_come_back_exactly() {
    // trap T45
    let sentinel = "294247-01-10 04:00:25.2";
    for (oid, typmod, sql, values) in [
        (1562, 1, "bit varying(1)", ["", "0"]),
        (1562, -1, "bit varying", ["1", "001"]),
        (1114, 3, "timestamp(3) without time zone", ["infinity", sentinel]),
    ] {
        let mut table = Table::new(ReplicaIdentity::Default, 1, vec![column("id", oid, typmod, sql)]);
        let mut keys = std::collections::HashSet::new();
        for value in values {
            let cells = [Some(value)];
            let inserted = table.records(&RowChange::Insert(texts(&cells)));
            let deleted = table.records(&RowChange::Delete(OldTuple::Key(texts(&cells))));
            keys.insert(inserted[0].key.clone());
            assert_eq!(inserted[0].key, deleted[0].key);
            assert_eq!(table.event(&inserted[0]).after.unwrap(), row(&cells), "{sql}");
            assert_eq!(table.event(&deleted[0]).before.unwrap(), row(&cells), "{sql}");
        }
        assert_eq!(keys.len(), 1, "{sql}");
    }
}

#[test]
fn texts_of_both_rows_are_told_apart() {
    let mut table = Table::new(ReplicaIdentity::Full, 1, vec![id(), column("d", 1082, -1, "date")]);
    let old = OldTuple::Full(texts(&[Some("1"), Some("-infinity")]));
    let record = table.update(Some(old), texts(&[Some("1"), Some("infinity")])).remove(0);
    assert_eq!(record.header("walrelay.text"), Some(r#"{"before":{"d":"-infinity"},"after":{"d":"infinity"}}"#));
    let event = table.event(&record);
    assert_eq!(event.before.unwrap(), row(&[Some("1"), Some("-infinity")]));
    assert_eq!(event.after.unwrap(), row(&[Some("1"), Some("infinity")]));
}

#[test]
fn a_truncate_carries_its_barrier_to_the_partition_asked_for() {
    // trap T32
    let mut table = Table::new(ReplicaIdentity::Default, 1, vec![id()]);
    let barrier = Barrier { topics: vec![("p.public.t".into(), 3), ("p.public.u".into(), 5)], ..Barrier::default() };
    let mut out = RecordBuf::default();
    for partition in 0..3 {
        table.pipe.encoder.encode_truncate(&table.plan, &transaction(), event(4), Some(&barrier), partition, &mut out);
    }
    let records: Vec<_> = out.iter().map(Owned::from).collect();
    assert_eq!(records.iter().map(|record| record.partition).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    let expected = r#"{"topics":[["p.public.t",3],["p.public.u",5]]}"#;
    assert_eq!(records[2].header("walrelay.barrier"), Some(expected));
    let event = table.event(&records[2]);
    assert_eq!((event.op, event.before, event.after, event.barrier), (Op::Truncate, None, None, Some(barrier)));
    assert_eq!(records[2].key, None);
}

#[test]
fn snapshot_rows_and_other_epochs_keep_their_position() {
    let mut table = Table::new(ReplicaIdentity::Default, 1, vec![id()]);
    let meta = walrelay::event::TransactionMeta { epoch: 3, xid: None, commit: Lsn(99), ..transaction() };
    let mut out = RecordBuf::default();
    let read = RowChange::Read(texts(&[Some("1")]));
    table.pipe.encoder.encode(&table.plan, &meta, event(0), &read, &mut out).unwrap();
    let later = walrelay::event::TransactionMeta { xid: Some(5), ..meta };
    table.pipe.encoder.encode(&table.plan, &later, event(2), &read, &mut out).unwrap();
    let records: Vec<_> = out.iter().map(Owned::from).collect();
    let ids: Vec<_> = records
        .iter()
        .map(|record| {
            let value = record.value.as_ref().unwrap();
            crate::oracle::read(&table.pipe.store.schema_of(value), value)["transaction"]["id"].clone()
        })
        .collect();
    assert_eq!(ids, ["snapshot:99:3", "5:99:3"]);
    let position = |ordinal| Position { epoch: 3, commit: Lsn(99), ordinal };
    assert_eq!(table.event(&records[0]).position, position(0));
    assert_eq!(table.event(&records[1]).position, position(2));
}

#[test]
fn a_failed_change_leaves_the_buffer_as_it_was() {
    let mut table = Table::new(ReplicaIdentity::Default, 1, vec![id(), text("v")]);
    let mut out = RecordBuf::default();
    let encode = |table: &mut Table, change: &RowChange, out: &mut RecordBuf| {
        table.pipe.encoder.encode(&table.plan, &transaction(), event(1), change, out).map_err(|error| error.to_string())
    };
    encode(&mut table, &RowChange::Insert(texts(&[Some("1"), Some("x")])), &mut out).unwrap();
    let before: Vec<_> = out.iter().map(Owned::from).collect();
    let size = out.bytes.len();
    for (change, message) in [
        (RowChange::Insert(texts(&[None, Some("x")])), "key column id of table public.t is NULL or was not sent"),
        (RowChange::Insert(texts(&[Some("1")])), "tuple of table public.t has 1 columns, its relation has 2"),
        (
            RowChange::Insert(vec![Datum::Binary("x".into()), Datum::Text("x".into())]),
            "a value of column id (integer) of table public.t cannot be read in binary",
        ),
    ] {
        assert_eq!(encode(&mut table, &change, &mut out), Err(message.to_owned()));
        assert_eq!((out.iter().map(Owned::from).collect::<Vec<_>>(), out.bytes.len()), (before.clone(), size));
    }
}
