//! What stands for values that the server did not send, where it is not Debezium's default.

use serde_json::json;
use walrelay::{
    avro::content::{Content, Nullability, Parameters},
    event::{Cell, Datum, RowChange},
    record::{Decoded, Decoder, Encoder, EncoderSettings},
    schema::{Column, Relation, ReplicaIdentity},
    types::{ColumnType, Placeholder, TypeKind},
};

use crate::{
    oracle,
    support::{Owned, Pipe, column, relation, settings, texts},
};

/// A key, and columns whose fields have a placeholder.
fn table() -> Relation {
    let array = |name: &str, oid, element: ColumnType| {
        let sql = format!("{}[]", element.sql);
        let mut column = column(name, oid, -1, &sql);
        column.ty.kind = TypeKind::Array(element.into());
        Column { nullable: false, ..column }
    };
    let columns = vec![
        column("id", 23, -1, "integer"),
        column("t", 25, -1, "text"),
        column("j", 3802, -1, "jsonb"),
        column("b", 17, -1, "bytea"),
        column("v", 1562, 200, "bit varying(200)"),
        array("texts", 1009, ColumnType::base(25, -1, "text")),
        array("numbers", 1007, ColumnType::base(23, -1, "integer")),
        array("uuids", 2951, ColumnType::base(2950, -1, "uuid")),
        array("bytes", 1001, ColumnType::base(17, -1, "bytea")),
    ];
    relation(ReplicaIdentity::Default, 1, columns)
}

/// An update that touches nothing but the key's column, and what it is encoded with.
fn unsent(placeholder: &Placeholder) -> (Pipe, Owned) {
    let content = Content { nullability: Nullability::Source, parameters: Parameters::None, ..Content::default() };
    let mut pipe = Pipe::with_forms("p", walrelay::types::Modes::default(), content);
    let placeholder = placeholder.clone();
    pipe.encoder = Encoder::new(EncoderSettings { content, placeholder, ..settings("p") });
    let relation = table();
    let plan = pipe.plan(&relation);
    let mut row = vec![Datum::Unchanged; relation.columns.len()];
    row[0] = texts(&[Some("1")]).remove(0);
    let record = pipe.encode(&plan, &RowChange::Update { old: None, new: row }).unwrap().remove(0);
    (pipe, record)
}

fn after(pipe: &mut Pipe, record: &Owned) -> Vec<Cell> {
    match pipe.decode("p.public.t", record).unwrap() {
        Decoded::Event(event) => event.after.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_configured_placeholder_is_written_in_every_form() {
    for (configured, text, octets) in
        [("n/a \"x\"", "n/a \"x\"", b"n/a \"x\"".as_slice()), ("hex:00ff41", "\0\u{fffd}A", &[0, 255, b'A'])]
    {
        let placeholder = Placeholder::new(configured).unwrap();
        let (pipe, record) = unsent(&placeholder);
        let value = record.value.as_ref().unwrap();
        let after = &oracle::read(&pipe.store.schema_of(value), value)["after"];
        let bytes = json!({"$bytes": oracle::hex(octets)});
        assert_eq!((&after["t"], &after["j"]), (&json!(text), &json!(text)));
        assert_eq!((&after["b"], &after["v"]), (&bytes, &bytes));
        assert_eq!(after["texts"], json!([text]));
        let codes: Vec<_> = octets.iter().map(|octet| octet.cast_signed()).collect();
        assert_eq!(after["numbers"], json!(codes));
        assert_eq!(after["uuids"], json!([placeholder.uuid()]));
        assert_eq!(after["bytes"], json!([bytes]));
    }
}

/// The header names the columns, so apply need not know the placeholder of walrelay's own records.
#[test]
fn a_header_tells_whatever_the_placeholder_is() {
    let (mut pipe, record) = unsent(&Placeholder::new("n/a").unwrap());
    assert!(after(&mut pipe, &record)[1..].iter().all(|cell| *cell == Cell::Unchanged));
}

/// Without walrelay's headers it is a record of Debezium's: only the placeholder tells, if apply knows it.
#[test]
fn another_producer_s_placeholder_is_known_where_apply_is_told() {
    for configured in ["n/a", "hex:00ff41"] {
        let placeholder = Placeholder::new(configured).unwrap();
        let (mut pipe, mut record) = unsent(&placeholder);
        record.headers.clear();
        pipe.decoder = Decoder::with_placeholder(usize::MAX, placeholder.clone());
        let told = after(&mut pipe, &record);
        assert!(told[1..].iter().all(|cell| *cell == Cell::Unchanged), "{configured}: {told:?}");
        pipe.decoder = Decoder::new(usize::MAX);
        let untold = after(&mut pipe, &record);
        assert_eq!(untold[1], Cell::Text(placeholder.text().into()));
    }
}
