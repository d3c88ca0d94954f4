//! Records that are not ours, damaged records, and other producers' schemas.

use std::cell::RefCell;

use apache_avro::{reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use proptest::prelude::*;
use serde_json::json;
use walrelay::{
    avro::{encode, store::SchemaStore},
    event::{Cell, Datum, OldTuple, RowChange},
    record::{DecodeError, Decoded, Decoder},
    retry::{Classify, Severity},
    schema::ReplicaIdentity,
};

use crate::support::{Owned, Pipe, column, now, relation, texts};

/// A pipe whose decoder knows the schemas, with records of several kinds.
fn records() -> (Pipe, Vec<Owned>) {
    let mut pipe = Pipe::new("p");
    let columns = vec![
        column("id", 23, -1, "integer"),
        column("t", 25, -1, "text"),
        column("n", 1700, -1, "numeric"),
        column("d", 1700, (10 << 16 | 2) + 4, "numeric(10,2)"),
        column("b", 17, -1, "bytea"),
        column("f", 701, -1, "double precision"),
        column("z", 1184, -1, "timestamp with time zone"),
    ];
    let plan = pipe.plan(&relation(ReplicaIdentity::Full, 1, columns));
    let row = |id| {
        texts(&[
            Some(id),
            Some("é"),
            Some("NaN"),
            Some("1.25"),
            Some("\\x00ff"),
            Some("-0"),
            Some("2024-01-01 00:00:00+00"),
        ])
    };
    let mut unchanged = row("2");
    unchanged[1] = Datum::Unchanged;
    let mut other = row("1");
    other[1] = Datum::Null;
    let key = OldTuple::Key(texts(&[Some("1"), None, None, None, None, None, None]));
    let mut records = Vec::new();
    for change in [
        RowChange::Insert(row("1")),
        RowChange::Update { old: Some(key), new: unchanged },
        RowChange::Update { old: Some(OldTuple::Full(row("1"))), new: other },
        RowChange::Delete(OldTuple::Full(row("1"))),
    ] {
        records.extend(pipe.encode(&plan, &change).unwrap());
    }
    for record in &records {
        pipe.decode("p.public.t", record).unwrap();
    }
    (pipe, records)
}

#[test]
fn every_truncation_of_a_record_is_an_error() {
    let (mut pipe, records) = records();
    for record in records.iter().filter(|record| record.value.is_some()) {
        let value = record.value.as_ref().unwrap();
        for end in 0..value.len() {
            let cut = Owned { value: Some(value[..end].to_vec()), ..record.clone() };
            let error = pipe.decode("p.public.t", &cut).unwrap_err();
            assert_eq!(error.severity(), Severity::Definite, "{error}");
        }
    }
}

/// An operator looks for the column, and at its type.
#[test]
fn an_error_names_the_column_and_its_type() {
    let columns = vec![column("id", 23, -1, "integer"), column("t", 25, -1, "text")];
    let mut pipe = Pipe::new("p");
    let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
    let row = |text: &'static [u8]| vec![Datum::Text("1".into()), Datum::Text(text.into())];
    let error = pipe.encode(&plan, &RowChange::Insert(row(b"a\xff"))).unwrap_err();
    assert_eq!(error.to_string(), "column t (text) of table public.t holds text that is not UTF-8");

    let mut record = pipe.encode(&plan, &RowChange::Insert(row(b"text"))).unwrap().remove(0);
    let value = record.value.as_mut().unwrap();
    let at = value.windows(4).position(|bytes| bytes == b"text").unwrap();
    value.truncate(at + 2);
    let error = pipe.decode("p.public.t", &record).unwrap_err().to_string();
    assert!(error.starts_with("record of topic p.public.t does not match its schema"), "{error}");
    assert!(error.ends_with(", column t (text)"), "{error}");
}

/// The fields of another producer's envelope may lie in another order.
#[test]
fn rows_are_told_by_their_fields_not_by_their_places() {
    let (mut pipe, records) = records();
    let id = u32::from_be_bytes(records[1].value.as_ref().unwrap()[1..5].try_into().unwrap());
    let json = now(pipe.store.schema(id)).unwrap();
    let schema = apache_avro::Schema::parse_str(&json).unwrap();
    let mut turned: serde_json::Value = serde_json::from_str(&json).unwrap();
    // The first of them defines the row's type, the second one names it.
    let fields = turned["fields"].as_array_mut().unwrap();
    let names = (fields[0]["name"].clone(), fields[1]["name"].clone());
    (fields[1]["name"], fields[0]["name"]) = names;
    let turned = turned.to_string();
    let turned_id = now(pipe.store.register("turned", &turned)).unwrap();
    let turned = apache_avro::Schema::parse_str(&turned).unwrap();
    let mut both = 0;
    for record in records.iter().filter(|record| record.value.is_some()) {
        let value = &record.value.as_ref().unwrap()[5..];
        let datum = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut &*value).unwrap();
        let apache_avro::types::Value::Record(mut fields) = datum else { panic!("{datum:?}") };
        fields.swap(0, 1);
        let mut bytes = walrelay::avro::wire::prefix(turned_id).to_vec();
        let writer = GenericDatumWriter::builder(&turned).build().unwrap();
        writer.write_value(&mut bytes, apache_avro::types::Value::Record(fields)).unwrap();
        let other = Owned { value: Some(bytes), ..record.clone() };
        let (Decoded::Event(event), Decoded::Event(turned)) =
            (pipe.decode("p.public.t", record).unwrap(), pipe.decode("p.public.t", &other).unwrap())
        else {
            panic!("no event")
        };
        assert_eq!((&event.before, &event.after), (&turned.before, &turned.after));
        both += u32::from(event.before.is_some() && event.after.is_some());
    }
    assert_eq!(both, 1);
}

thread_local! {
    static RECORDS: RefCell<(Pipe, Vec<Owned>)> = RefCell::new(records());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_records_never_panic(which: prop::sample::Index, at: prop::sample::Index, byte: u8, tail: Vec<u8>, cut: bool) {
        let mut record = RECORDS.with_borrow(|(_, records)| which.get(records).clone());
        prop_assume!(record.value.is_some());
        let value = record.value.as_mut().unwrap();
        let at = 5 + at.index(value.len() - 5);
        value[at] = byte;
        if cut {
            value.truncate(at);
            value.extend_from_slice(&tail);
        }
        let decode = |record: &Owned| RECORDS.with_borrow_mut(|(pipe, _)| drop(pipe.decode("p.public.t", record)));
        decode(&record);
        for (_, header) in &mut record.headers {
            header.clone_from(&tail);
        }
        decode(&record);
    }
}

fn value(bytes: &[u8]) -> Owned {
    Owned { key: None, value: Some(bytes.to_vec()), headers: vec![], partition: None }
}

#[test]
fn what_is_not_ours_is_a_definite_error_that_names_the_topic() {
    let (mut pipe, records) = records();
    let error = pipe.decode("orders", &value(b"{\"id\": 1}")).unwrap_err();
    assert_eq!(error.to_string(), "record of topic orders is not framed Avro");
    assert!(error.hint().is_some());
    let error = pipe.decode("orders", &value(&[0, 0, 0, 1, 0, 7])).unwrap_err();
    assert_eq!(error.to_string(), "record of topic orders has schema id 256, which the registry does not know");
    assert_eq!(error.severity(), Severity::Definite);

    let plain = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"int"}]}"#;
    let id = now(walrelay::avro::store::SchemaStore::register(&pipe.store, "orders-value", plain)).unwrap();
    let mut framed = walrelay::avro::wire::prefix(id).to_vec();
    framed.push(2);
    let error = pipe.decode("orders", &value(&framed)).unwrap_err();
    assert!(matches!(&error, DecodeError::NotAnEnvelope { .. }), "{error}");
    assert_eq!(error.to_string(), format!("schema {id} of topic orders is not a change event: it has no field before"));

    let mut wrong = records[0].clone();
    wrong.headers.push(("walrelay.unchanged".into(), br#"["no such column"]"#.to_vec()));
    let error = pipe.decode("orders", &wrong).unwrap_err();
    assert_eq!(error.to_string(), "header walrelay.unchanged of a record of topic orders cannot be read");
}

#[test]
fn errors_hold_no_values() {
    let (mut pipe, records) = records();
    let secret = Owned {
        value: records[0].value.clone().map(|mut value| {
            value.push(0);
            value
        }),
        ..records[0].clone()
    };
    let error = pipe.decode("orders", &secret).unwrap_err();
    let mut shown = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        shown.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!shown.contains("1.25") && !shown.contains('é'), "{shown}");
}

#[test]
fn names_that_avro_forbids_come_back() {
    // trap T57
    let mut pipe = Pipe::new("p");
    let names = ["my id", "größe", "a-b", "a_u002db", "1"];
    let columns = names.map(|name| column(name, 25, -1, "text")).to_vec();
    let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
    let mut row = texts(&[Some("k"), Some("1"), Some("2"), Some("3"), Some("4")]);
    row[2] = Datum::Unchanged;
    let record = pipe.encode(&plan, &RowChange::Update { old: None, new: row }).unwrap().remove(0);
    let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
    assert_eq!(event.shape.columns.iter().map(|column| &*column.name).collect::<Vec<_>>(), names);
    assert_eq!(event.shape.key, [0]);
    assert_eq!(event.after.unwrap()[2], Cell::Unchanged);
}

#[test]
fn the_shape_tells_types_nullability_and_key() {
    let mut pipe = Pipe::new("p");
    let mut columns = vec![
        column("v", 1043, 24, "character varying(20)"),
        column("b", 23, -1, "integer"),
        column("a", 25, -1, "text"),
        column("mood", 16_400, -1, "public.mood"),
    ];
    columns[3].nullable = false;
    let mut relation = relation(ReplicaIdentity::Default, 0, columns);
    relation.key = vec![2, 1];
    let plan = pipe.plan(&relation);
    let change = RowChange::Insert(texts(&[None, Some("1"), Some("x"), Some("ok")]));
    let record = pipe.encode(&plan, &change).unwrap().remove(0);
    let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
    assert_eq!(event.shape.name, relation.name);
    assert_eq!(event.shape.key, [2, 1]);
    let columns: Vec<_> = event.shape.columns.iter().map(|column| (&*column.type_sql, column.nullable)).collect();
    let expected = [("character varying(20)", true), ("integer", false), ("text", false), ("public.mood", false)];
    assert_eq!(columns, expected);
    assert_eq!(event.commit_ms, 1_795_501_793_549);
}

/// A pipe that has a schema of Debezium's, and an update under it of the row (1, 2) with these bytes behind.
fn update(schema: &str, cells: &[u8]) -> (Pipe, Owned) {
    let pipe = Pipe::new("p");
    let id = now(walrelay::avro::store::SchemaStore::register(&pipe.store, "x-value", schema)).unwrap();
    let mut body = walrelay::avro::wire::prefix(id).to_vec();
    encode::null(&mut body);
    encode::present(&mut body);
    encode::long(1, &mut body);
    encode::optional_long(Some(2), &mut body);
    body.extend_from_slice(cells);
    for text in ["3.6.3.Final", "postgresql", "p"] {
        encode::string(text, &mut body);
    }
    encode::long(5, &mut body);
    body.push(0);
    encode::string("false", &mut body);
    encode::string("db", &mut body);
    (0..3).for_each(|_| encode::null(&mut body));
    encode::string("public", &mut body);
    encode::string("ev_toast", &mut body);
    (0..5).for_each(|_| encode::null(&mut body));
    encode::present(&mut body);
    encode::string("19177:77395944", &mut body);
    encode::long(1, &mut body);
    encode::long(1, &mut body);
    encode::string("u", &mut body);
    (0..3).for_each(|_| encode::null(&mut body));
    (pipe, value(&body))
}

#[test]
fn debezium_s_own_records_are_read_with_its_placeholder() {
    // trap T27: a topic of Debezium's has no header, so there the placeholder is all that tells.
    let golden = crate::support::golden("ev_toast");
    let placeholder = golden.lossless.events.iter().find(|event| event.value["op"] == "u").unwrap();
    let mut cells = Vec::new();
    for _ in ["t", "b", "jb"] {
        encode::optional_string(Some("__debezium_unavailable_value"), &mut cells);
    }
    let (mut pipe, record) = update(&golden.default.value.to_string(), &cells);
    let Decoded::Event(event) = pipe.decode("p.public.ev_toast", &record).unwrap() else { panic!("no event") };
    let after = event.after.unwrap();
    assert_eq!(after[1], Cell::Text("2".into()));
    assert_eq!(after[2..], [Cell::Unchanged, Cell::Unchanged, Cell::Unchanged]);
    assert_eq!(placeholder.value["after"]["t"], "__debezium_unavailable_value");
}

#[test]
fn a_few_bytes_become_no_more_text_than_a_row_may_have() {
    let golden = crate::support::golden("ev_toast");
    let most = 1 << 20;
    let decoded = |length: usize, items: i64| {
        let bits = json!({
            "type": "bytes", "connect.name": "io.debezium.data.Bits",
            "connect.parameters": {"length": length.to_string()}
        });
        let mut schema = golden.default.value.clone();
        let fields = schema["fields"][0]["type"][1]["fields"].as_array_mut().unwrap();
        let ty = if items == 0 { bits } else { json!({"type": "array", "items": bits}) };
        fields.iter_mut().find(|field| field["name"] == "t").unwrap()["type"] = json!(["null", ty]);
        let mut cells = Vec::new();
        encode::present(&mut cells);
        if items > 0 {
            encode::long(items, &mut cells);
        }
        (0..items.max(1)).for_each(|_| encode::bytes(&[1], &mut cells));
        if items > 0 {
            encode::long(0, &mut cells);
        }
        (0..2).for_each(|_| encode::null(&mut cells));
        let (mut pipe, record) = update(&schema.to_string(), &cells);
        pipe.decoder = Decoder::new(most);
        pipe.decode("p.public.ev_toast", &record)
    };
    for (length, items) in [(83_886_080, 0), (most, 0), (most / 2, 2), (1000, 2000)] {
        let error = decoded(length, items).unwrap_err();
        assert!(matches!(&error, DecodeError::Oversized { column, .. } if column.starts_with("t (")), "{error:?}");
        assert_eq!(error.severity(), Severity::Definite);
        assert!(error.hint().is_some_and(|hint| hint.contains("apply.memory")));
    }
    let Decoded::Event(event) = decoded(most - 2, 0).unwrap() else { panic!("no event") };
    let Cell::Text(text) = &event.after.unwrap()[2] else { panic!("no text") };
    assert_eq!(text.len(), most - 2);
}
