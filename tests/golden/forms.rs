//! Under whatever forms consumers choose, apply gets the rows back, and no form invents a value without saying so.

use serde_json::json;
use walrelay::{
    avro::content::{
        Content, Nullability, OwnHeaders, Parameters, Tombstones, TransactionBlock, TransactionId, Truncates,
    },
    event::{Barrier, Cell, Datum, OldTuple, RecordBuf, RowChange},
    lsn::{Lsn, Position},
    record::{Decoded, LogicalMessage},
    schema::{Column, ReplicaIdentity},
    types::{BinaryMode, ColumnType, DecimalMode, Modes, TypeKind},
};

use crate::{
    oracle,
    support::{Owned, Pipe, column, event, now, relation, texts, transaction},
};

/// A column `name` that cannot be null.
fn required(name: &str, oid: u32, typmod: i32, sql: &str) -> Column {
    Column { nullable: false, ..column(name, oid, typmod, sql) }
}

/// A column `name` of arrays of a type.
fn array(name: &str, oid: u32, element: ColumnType) -> Column {
    let sql = format!("{}[]", element.sql);
    let mut column = required(name, oid, element.typmod, &sql);
    column.ty.kind = TypeKind::Array(element.into());
    column
}

const CONTENTS: [(Nullability, Parameters); 4] = [
    (Nullability::Widened, Parameters::All),
    (Nullability::Source, Parameters::All),
    (Nullability::Widened, Parameters::None),
    (Nullability::Source, Parameters::None),
];

/// Trap T27: what stands in for a value is not read as one.
#[test]
fn a_value_that_was_not_sent_is_unchanged_under_every_form() {
    let hstore =
        ColumnType { kind: TypeKind::Extension("hstore".into()), ..ColumnType::base(17_000, -1, "public.hstore") };
    let mut columns = vec![
        required("id", 23, -1, "integer"),
        Column { ty: hstore.clone(), ..column("h", 17_000, -1, "public.hstore") },
        Column { ty: hstore, ..required("nh", 17_000, -1, "public.hstore") },
        column("b", 17, -1, "bytea"),
        column("vb", 1562, 200, "bit varying(200)"),
        column("z", 1184, -1, "timestamp with time zone"),
        array("texts", 1009, ColumnType::base(25, -1, "text")),
        array("numbers", 1007, ColumnType::base(23, -1, "integer")),
    ];
    for (name, oid, typmod, sql) in [
        ("nb", 17, -1, "bytea"),
        ("nvb", 1562, 200, "bit varying(200)"),
        ("nt", 25, -1, "text"),
        ("nn", 1700, -1, "numeric"),
        ("nd", 1700, (10 << 16 | 2) + 4, "numeric(10,2)"),
        ("nj", 3802, -1, "jsonb"),
        ("nz", 1184, -1, "timestamp with time zone"),
        ("ni", 1186, -1, "interval"),
    ] {
        columns.push(required(name, oid, typmod, sql));
    }
    let relation = relation(ReplicaIdentity::Default, 1, columns);
    let mut row = vec![Datum::Unchanged; relation.columns.len()];
    row[0] = texts(&[Some("1")]).remove(0);
    for (nullability, parameters) in CONTENTS {
        for (decimal, binary) in [
            (DecimalMode::Precise, BinaryMode::Bytes),
            (DecimalMode::String, BinaryMode::Base64),
            (DecimalMode::Double, BinaryMode::Hex),
        ] {
            let modes = Modes { decimal, binary, ..Modes::default() };
            let mut pipe = Pipe::with_forms("p", modes, Content { nullability, parameters, ..Content::default() });
            let plan = pipe.plan(&relation);
            let record = pipe.encode(&plan, &RowChange::Update { old: None, new: row.clone() }).unwrap().remove(0);
            let decoded = pipe.decode("p.public.t", &record);
            let Decoded::Event(event) = decoded.unwrap_or_else(|error| panic!("{modes:?}: {error:?}")) else {
                panic!("no event")
            };
            let after = event.after.unwrap();
            assert_eq!(after[0], Cell::Text("1".into()));
            assert!(after[1..].iter().all(|cell| *cell == Cell::Unchanged), "{modes:?}: {after:?}");
        }
    }
}

/// Debezium's placeholders, by the items' types.
#[test]
fn an_array_that_was_not_sent_and_cannot_be_null_has_debezium_s_placeholder() {
    let columns = vec![
        required("id", 23, -1, "integer"),
        array("texts", 1009, ColumnType::base(25, -1, "text")),
        array("small", 1005, ColumnType::base(21, -1, "smallint")),
        array("numbers", 1007, ColumnType::base(23, -1, "integer")),
        array("large", 1016, ColumnType::base(20, -1, "bigint")),
        array("uuids", 2951, ColumnType::base(2950, -1, "uuid")),
        array("bytes", 1001, ColumnType::base(17, -1, "bytea")),
        array("days", 1182, ColumnType::base(1082, -1, "date")),
    ];
    let relation = relation(ReplicaIdentity::Default, 1, columns);
    let mut row = vec![Datum::Unchanged; relation.columns.len()];
    row[0] = texts(&[Some("1")]).remove(0);
    let content = Content { nullability: Nullability::Source, ..Content::default() };
    let mut pipe = Pipe::with_forms("p", Modes::default(), content);
    let plan = pipe.plan(&relation);
    let record = pipe.encode(&plan, &RowChange::Update { old: None, new: row }).unwrap().remove(0);
    let value = record.value.as_ref().unwrap();
    let after = &oracle::read(&pipe.store.schema_of(value), value)["after"];
    let placeholder = "__debezium_unavailable_value";
    let codes: Vec<_> = placeholder.bytes().collect();
    assert_eq!(after["texts"], json!([placeholder]));
    for column in ["small", "numbers", "large"] {
        assert_eq!(after[column], json!(codes), "{column}");
    }
    assert_eq!(after["uuids"], json!(["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]));
    assert_eq!(after["bytes"], json!([{"$bytes": oracle::hex(placeholder.as_bytes())}]));
    assert_eq!(after["days"], json!(codes));
}

/// A message of a transaction can be told apart when it comes again; one that belongs to none has no position.
#[test]
fn a_message_without_a_transaction_block_has_its_position_in_a_header() {
    for (transaction, transactional, position) in [
        (TransactionBlock::All, true, None),
        (TransactionBlock::Streamed, true, None),
        (TransactionBlock::None, true, Some("0:65536:3")),
        (TransactionBlock::None, false, None),
    ] {
        let mut pipe = Pipe::with_forms("p", Modes::default(), Content { transaction, ..Content::default() });
        let plan = now(pipe.encoder.prepare_messages(&pipe.store)).unwrap();
        let message = LogicalMessage { prefix: "note", content: b"x", transactional };
        let mut out = RecordBuf::default();
        pipe.encoder.encode_message(&plan, &self::transaction(), event(3), &message, &mut out);
        let record = Owned::from(out.iter().next().unwrap());
        assert_eq!(record.header("walrelay.pos"), position, "{transaction:?} {transactional}");
        assert_eq!(pipe.decode("p.message", &record).unwrap(), Decoded::Nothing);
    }
}

/// Debezium's ids, which differ from event to event, tell no position: the header does, and apply goes by it.
#[test]
fn an_event_whose_id_is_its_own_has_its_position_in_a_header() {
    let content = Content { transaction_id: TransactionId::Event, ..Content::default() };
    for parameters in [Parameters::All, Parameters::None] {
        let mut pipe = Pipe::with_forms("p", Modes::default(), Content { parameters, ..content });
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]));
        let record = pipe.encode(&plan, &RowChange::Insert(texts(&[Some("1")]))).unwrap().remove(0);
        let value = record.value.as_ref().unwrap();
        let said = oracle::read(&pipe.store.schema_of(value), value);
        assert_eq!(said["transaction"]["id"], "700:65520");
        assert_eq!(record.header("walrelay.pos"), Some("0:65536:1"));
        let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
        assert_eq!(event.position, Position { epoch: 0, commit: Lsn(0x1_0000), ordinal: 1 });
    }
    let mut pipe = Pipe::with_forms("p", Modes::default(), content);
    let plan = now(pipe.encoder.prepare_messages(&pipe.store)).unwrap();
    let (message, mut out) =
        (LogicalMessage { prefix: "note", content: b"x", transactional: true }, RecordBuf::default());
    pipe.encoder.encode_message(&plan, &transaction(), event(3), &message, &mut out);
    assert_eq!(Owned::from(out.iter().next().unwrap()).header("walrelay.pos"), Some("0:65536:3"));
}

/// Debezium's `skipped.operations = t`. Where a new snapshot begins is told in any case: nothing else tells it.
#[test]
fn truncates_are_left_out_on_demand() {
    let copies_with = |truncates, own_headers, ordinal| {
        let mut pipe =
            Pipe::with_forms("p", Modes::default(), Content { truncates, own_headers, ..Content::default() });
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]));
        let mut out = RecordBuf::default();
        pipe.encoder.encode_truncate(&plan, &transaction(), event(ordinal), Some(&Barrier::default()), 0, &mut out);
        out.iter().count()
    };
    let copies = |truncates, ordinal| copies_with(truncates, OwnHeaders::Written, ordinal);
    assert_eq!([copies(Truncates::Broadcast, 1), copies(Truncates::Broadcast, 0)], [1, 1]);
    assert_eq!([copies(Truncates::Single, 1), copies(Truncates::Single, 0)], [1, 1]);
    assert_eq!([copies(Truncates::Skipped, 1), copies(Truncates::Skipped, 0)], [0, 1]);
    // Without headers it would be a TRUNCATE.
    assert_eq!(copies_with(Truncates::Broadcast, OwnHeaders::LeftOut, 1), 1);
    assert_eq!(copies_with(Truncates::Broadcast, OwnHeaders::LeftOut, 0), 0);
}

/// Lineage tools count runs.
#[test]
fn all_encoders_of_a_process_are_one_run() {
    let run = |prefix: &str| {
        let mut pipe =
            Pipe::with_forms(prefix, Modes::default(), Content { context_headers: true, ..Content::default() });
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]));
        let record = pipe.encode(&plan, &RowChange::Insert(texts(&[Some("1")]))).unwrap().remove(0);
        record.header("__debezium.context.runId").unwrap().to_owned()
    };
    assert_eq!(run("a"), run("b"));
}

/// Debezium's `tombstones.on.delete = false`; a key move is then two records.
#[test]
fn tombstones_are_left_out_on_demand() {
    let content = Content { tombstones: Tombstones::Never, ..Content::default() };
    let kinds = |content: Content| {
        let mut pipe = Pipe::with_forms("p", Modes::default(), content);
        let columns = vec![column("id", 23, -1, "integer")];
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
        let delete = RowChange::Delete(OldTuple::Key(texts(&[Some("1")])));
        let moved = RowChange::Update { old: Some(OldTuple::Key(texts(&[Some("1")]))), new: texts(&[Some("2")]) };
        let values = |records: Vec<Owned>| records.iter().map(|record| record.value.is_some()).collect::<Vec<_>>();
        [values(pipe.encode(&plan, &delete).unwrap()), values(pipe.encode(&plan, &moved).unwrap())]
    };
    assert_eq!(kinds(Content::default()), [vec![true, false], vec![true, false, true]]);
    assert_eq!(kinds(content), [vec![true], vec![true, true]]);
}

/// What is not known is not NULL: a delete has the key alone, and an update may leave values out.
#[test]
fn only_a_null_that_the_server_sent_shows_that_a_column_can_be_null() {
    let columns =
        vec![required("id", 23, -1, "integer"), required("n", 23, -1, "integer"), column("o", 23, -1, "integer")];
    let relation = relation(ReplicaIdentity::Full, 1, columns);
    let content = Content { nullability: Nullability::Source, ..Content::default() };
    let source = Pipe::with_forms("p", Modes::default(), content).plan(&relation);
    let row = || texts(&[Some("1"), None, None]);
    let unsent = vec![texts(&[Some("1")]).remove(0), Datum::Unchanged, Datum::Null];
    for (change, nulls) in [
        (RowChange::Insert(row()), vec![1]),
        (RowChange::Read(row()), vec![1]),
        (RowChange::Delete(OldTuple::Key(row())), vec![]),
        (RowChange::Delete(OldTuple::Full(row())), vec![1]),
        (RowChange::Update { old: Some(OldTuple::Key(row())), new: unsent.clone() }, vec![]),
        (RowChange::Update { old: Some(OldTuple::Full(row())), new: unsent }, vec![1]),
    ] {
        assert_eq!(source.beyond(&change).nulls, nulls, "{change:?}");
        assert_eq!(Pipe::new("p").plan(&relation).beyond(&change).nulls, [0; 0]);
    }
}

/// In a snapshot Debezium's dates lose their era and their century's calendar: two of them would name one row.
#[test]
fn the_key_of_a_snapshot_s_row_is_the_stream_s() {
    let date = |name| column(name, 1082, -1, "date");
    let dates = ColumnType { oid: 1182, typmod: -1, sql: "date[]".into(), kind: TypeKind::Array(date("d").ty.into()) };
    let array = Column { ty: dates, ..date("a") };
    let relation = relation(ReplicaIdentity::Full, 2, vec![date("d"), array, date("v")]);
    let mut pipe = Pipe::with_forms("p", Modes::DEBEZIUM, Content::DEBEZIUM);
    let plan = pipe.plan(&relation);
    let row = texts(&[Some("0044-03-15 BC"), Some("{0044-03-15 BC}"), Some("0044-03-15 BC")]);
    let mut after = |change| {
        let record = pipe.encode(&plan, &change).unwrap().remove(0);
        let value = record.value.as_ref().unwrap();
        oracle::read(&pipe.store.schema_of(value), value)["after"].clone()
    };
    let (read, streamed) = (after(RowChange::Read(row.clone())), after(RowChange::Insert(row)));
    assert_eq!((&read["d"], &read["a"]), (&streamed["d"], &streamed["a"]));
    assert_eq!(streamed["a"][0], streamed["d"]);
    assert_ne!(read["v"], streamed["v"], "Debezium's of another column");
}

/// What stands for NULL is decided by the schema, which is one, and not by what a snapshot makes of the default.
#[test]
fn a_snapshot_s_null_is_the_default_of_the_schema() {
    let expression = |text: &str| Some(format!("'{text}'::date").into());
    for default in ["0005-02-29 BC", "0044-03-15 BC", "2024-02-29"] {
        let columns = vec![
            column("id", 23, -1, "integer"),
            Column { default: expression(default), ..column("d", 1082, -1, "date") },
        ];
        let mut pipe = Pipe::with_forms("p", Modes::DEBEZIUM, Content::DEBEZIUM);
        let plan = pipe.plan(&relation(ReplicaIdentity::Full, 1, columns));
        let mut after = |change| {
            let record = pipe.encode(&plan, &change).unwrap().remove(0);
            let value = record.value.as_ref().unwrap();
            oracle::read(&pipe.store.schema_of(value), value)["after"]["d"].clone()
        };
        let row = || texts(&[Some("1"), None]);
        let streamed = after(RowChange::Insert(row()));
        assert!(streamed.is_i64(), "{streamed}");
        assert_eq!(after(RowChange::Read(row())), streamed, "{default}");
    }
}
