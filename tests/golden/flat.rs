//! Flat records are what Debezium's transformation makes of the envelopes, which other tests compare with Debezium's: the rules
//! of `ExtractNewRecordState` are applied here to the envelope's own schema and content, and must give the flat ones.

use serde_json::{Map, Value as Json, json};
use walrelay::{
    avro::{
        content::{Content, Nullability, Parameters, Tombstones},
        flat::{Deletes, Flat, Metadata, Records},
    },
    event::{Barrier, OldTuple, RecordBuf, RowChange},
    record::{DecodeError, EncodeError, Encoder, EncoderSettings},
    retry::Classify,
    schema::ReplicaIdentity,
    types::Modes,
};

use crate::{
    against_debezium::TABLES,
    oracle,
    support::{Owned, Pipe, change, column, event, golden, now, relation, settings, texts, transaction, tuple},
};

/// Every part of the envelope, one under a chosen name.
const PARTS: [&str; 24] = [
    "op",
    "ts_ms",
    "ts_us",
    "ts_ns",
    "version",
    "connector",
    "name",
    "source.ts_ms",
    "source.ts_us",
    "source.ts_ns",
    "snapshot",
    "db",
    "sequence",
    "schema",
    "table",
    "txId",
    "lsn:position",
    "xmin",
    "origin",
    "origin_lsn",
    "id",
    "transaction.id",
    "total_order",
    "data_collection_order",
];

fn metadata(texts: &[&str]) -> Vec<Metadata> {
    texts.iter().map(|text| Metadata::new(text, "__").unwrap()).collect()
}

pub fn flat_pipe(content: Content, flat: Flat) -> Pipe {
    let mut pipe = Pipe::with_forms("p", Modes::default(), content);
    pipe.encoder = Encoder::new(EncoderSettings { content, records: Records::Flat(flat), ..settings("p") });
    pipe
}

/// Name, block and field of each part, as the transformation's documentation has them.
fn places() -> Vec<(String, Option<&'static str>, &'static str)> {
    let place = |text: &&'static str| {
        let (place, chosen) = text.split_once(':').map_or((*text, None), |(place, name)| (place, Some(name)));
        let (block, field) = match place.split_once('.') {
            Some((block, field)) => (Some(block), field),
            None if ["op", "ts_ms", "ts_us", "ts_ns"].contains(&place) => (None, place),
            None if ["id", "total_order", "data_collection_order"].contains(&place) => (Some("transaction"), place),
            None => (Some("source"), place),
        };
        (format!("__{}", chosen.map_or_else(|| place.replace('.', "_"), str::to_owned)), block, field)
    };
    PARTS.iter().map(place).collect()
}

fn not_null(ty: &Json) -> Json {
    let branches = ty.as_array().cloned().unwrap_or_else(|| vec![ty.clone()]);
    branches.into_iter().find(|branch| branch != "null").unwrap()
}

/// The envelope's schema after the transformation: the row's record, and optional fields without defaults of their own.
fn transformed_schema(envelope: &Json, rewritten: bool) -> Json {
    let named = |fields: &Json, name: &str| {
        let fields = fields.as_array().unwrap();
        fields.iter().find(|field| field["name"] == name).unwrap()["type"].clone()
    };
    let mut row = not_null(&named(&envelope["fields"], "before"));
    let fields = row["fields"].as_array_mut().unwrap();
    let optional = |name: &str, ty: Json| json!({"name": name, "type": ["null", ty], "default": null});
    if rewritten {
        fields.push(optional("__deleted", json!("string")));
    }
    for (name, block, field) in places() {
        let parent = block.map_or_else(|| envelope.clone(), |block| not_null(&named(&envelope["fields"], block)));
        let mut ty = not_null(&named(&parent["fields"], field));
        if let Some(ty) = ty.as_object_mut() {
            ty.shift_remove("connect.default");
        }
        fields.push(optional(&name, ty));
    }
    row["namespace"] = envelope["namespace"].clone();
    row
}

fn metadata_of(envelope: &Json) -> Map<String, Json> {
    let value = |block: Option<&str>, field: &str| match &block.map_or(envelope, |block| &envelope[block])[field] {
        // What the envelope has by default, the transformation has not.
        default if field == "snapshot" && default == "false" => Json::Null,
        value => value.clone(),
    };
    places().into_iter().map(|(name, block, field)| (name, value(block, field))).collect()
}

#[test]
fn flat_records_are_the_envelopes_after_debezium_s_transformation() {
    for table in TABLES {
        let golden = golden(table);
        for (deletes, content) in [
            (Deletes::RewriteWithTombstone, Content::default()),
            (
                Deletes::Rewrite,
                Content { nullability: Nullability::Source, parameters: Parameters::None, ..Content::default() },
            ),
            (Deletes::Tombstone, Content::default()),
        ] {
            let flat = Flat { deletes, fields: metadata(&PARTS), headers: metadata(&PARTS) };
            let (mut whole, mut flat) = (Pipe::with_forms("p", Modes::default(), content), flat_pipe(content, flat));
            let (envelopes, rows) = (whole.plan(&golden.relation), flat.plan(&golden.relation));
            assert_eq!(envelopes.key_schema(), rows.key_schema());
            let parsed = |json: &str| serde_json::from_str::<Json>(json).unwrap();
            let expected = transformed_schema(&parsed(envelopes.value_schema()), deletes.is_rewritten());
            assert_eq!(parsed(rows.value_schema()), expected, "{table}");

            let snapshot = golden.snapshot.iter().map(|row| RowChange::Read(tuple(row)));
            let streamed = golden.operations.iter().filter_map(|operation| change(operation, golden.relation.identity));
            for change in snapshot.chain(streamed) {
                let mut envelopes = whole.encode(&envelopes, &change).unwrap();
                envelopes.retain(|record| record.value.is_some() || deletes == Deletes::RewriteWithTombstone);
                let rows = flat.encode(&rows, &change).unwrap();
                assert_eq!(rows.len(), envelopes.len(), "{table}: {change:?}");
                for (row, envelope) in rows.iter().zip(&envelopes) {
                    compare(&flat, row, &whole, envelope, deletes);
                }
            }
        }
    }
}

fn compare(flat: &Pipe, row: &Owned, whole: &Pipe, envelope: &Owned, deletes: Deletes) {
    assert_eq!((&row.key, row.partition), (&envelope.key, envelope.partition));
    let moved = |record: &Owned| {
        (record.header("__debezium.newkey").map(str::to_owned), record.header("__debezium.oldkey").map(str::to_owned))
    };
    assert_eq!(moved(row), moved(envelope));
    let Some(value) = &envelope.value else {
        assert_eq!((row.value.as_ref(), row.header("__op")), (None, Some("d")), "the tombstone behind a delete");
        return;
    };
    let said = oracle::read(&whole.store.schema_of(value), value);
    let metadata = metadata_of(&said);
    for (name, value) in &metadata {
        let header = match value {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        assert_eq!(row.header(name).map(str::to_owned), header, "{name}");
    }
    let order = &said["transaction"]["total_order"];
    assert_eq!(row.header("walrelay.pos"), Some(format!("0:65536:{order}").as_str()));
    assert_eq!(row.header("walrelay.text"), envelope.header("walrelay.text"));
    assert_eq!(row.header("walrelay.unchanged"), envelope.header("walrelay.unchanged"));
    let is_delete = said["op"] == "d";
    if is_delete && !deletes.is_rewritten() {
        assert_eq!(row.value, None);
        return;
    }
    let mut expected = said[if is_delete { "before" } else { "after" }].as_object().unwrap().clone();
    if deletes.is_rewritten() {
        expected.insert("__deleted".into(), json!(is_delete.to_string()));
    }
    expected.extend(metadata);
    let value = row.value.as_ref().unwrap();
    assert_eq!(oracle::read(&flat.store.schema_of(value), value), Json::Object(expected));
}

fn delete() -> RowChange {
    RowChange::Delete(OldTuple::Full(texts(&[Some("1")])))
}

/// Whether each record of a delete of a table with or without a key has key and value.
fn records(flat: Flat, content: Content, keys: usize) -> Vec<(bool, bool)> {
    let mut pipe = flat_pipe(content, flat);
    let plan = pipe.plan(&relation(ReplicaIdentity::Full, keys, vec![column("id", 23, -1, "integer")]));
    let records = pipe.encode(&plan, &delete()).unwrap();
    records.iter().map(|record| (record.key.is_some(), record.value.is_some())).collect()
}

#[test]
fn a_delete_has_the_form_that_is_configured() {
    let form = |deletes, keys| records(Flat { deletes, ..Flat::default() }, Content::default(), keys);
    assert_eq!(form(Deletes::Tombstone, 1), [(true, false)]);
    assert_eq!(form(Deletes::Rewrite, 1), [(true, true)]);
    assert_eq!(form(Deletes::RewriteWithTombstone, 1), [(true, true), (true, false)]);
    assert_eq!(form(Deletes::Drop, 1), []);
    assert_eq!(form(Deletes::RewriteWithTombstone, 0), [(false, true)]);
    // As with the transformation: the connector's tombstones are another thing than the delete as a tombstone.
    let none = Content { tombstones: Tombstones::Never, ..Content::default() };
    let flat = |deletes| Flat { deletes, ..Flat::default() };
    assert_eq!(records(flat(Deletes::RewriteWithTombstone), none, 1), [(true, true)]);
    assert_eq!(records(flat(Deletes::Tombstone), none, 1), [(true, false)]);
}

/// A moved key takes two ordinals, as in envelopes: the positions of a transaction are the same in both forms.
#[test]
fn a_moved_key_is_a_delete_and_a_create_at_two_positions() {
    let relation = relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]);
    let moved = RowChange::Update { old: Some(OldTuple::Key(texts(&[Some("1")]))), new: texts(&[Some("2")]) };
    for (deletes, positions) in [
        (Deletes::Tombstone, vec![Some("0:65536:1"), Some("0:65536:2")]),
        (Deletes::RewriteWithTombstone, vec![Some("0:65536:1"), None, Some("0:65536:2")]),
        (Deletes::Drop, vec![Some("0:65536:2")]),
    ] {
        let mut pipe = flat_pipe(Content::default(), Flat { deletes, ..Flat::default() });
        let plan = pipe.plan(&relation);
        let mut out = RecordBuf::default();
        assert_eq!(pipe.encoder.encode(&plan, &transaction(), event(1), &moved, &mut out).unwrap(), 2);
        let records: Vec<_> = out.iter().map(Owned::from).collect();
        assert_eq!(records.iter().map(|record| record.header("walrelay.pos")).collect::<Vec<_>>(), positions);
    }
}

/// Nothing that a flat consumer could read tells of a truncate.
#[test]
fn a_truncate_is_no_flat_record() {
    let mut pipe = flat_pipe(Content::default(), Flat::default());
    let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]));
    let (mut out, barrier) = (RecordBuf::default(), Barrier::default());
    pipe.encoder.encode_truncate(&plan, &transaction(), event(1), Some(&barrier), 0, &mut out);
    assert_eq!(out.iter().count(), 0);
}

/// Every form of a flat record is refused: none is passed over in silence.
#[test]
fn apply_refuses_flat_records_and_says_what_to_set() {
    let relation = relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]);
    for deletes in [Deletes::Tombstone, Deletes::Rewrite] {
        for change in [RowChange::Insert(texts(&[Some("1")])), delete()] {
            let mut pipe = flat_pipe(Content::default(), Flat { deletes, ..Flat::default() });
            let plan = pipe.plan(&relation);
            let record = pipe.encode(&plan, &change).unwrap().remove(0);
            let error = pipe.decode("p.public.t", &record).unwrap_err();
            assert!(matches!(&error, DecodeError::Flat { topic } if topic == "p.public.t"), "{error:?}");
            assert!(error.hint().unwrap().contains("format.records = \"envelope\""));
        }
    }
}

#[test]
fn a_column_with_the_name_of_a_further_field_is_refused() {
    let columns =
        vec![column("id", 23, -1, "integer"), column("__op", 25, -1, "text"), column("__deleted", 25, -1, "text")];
    let relation = relation(ReplicaIdentity::Default, 1, columns);
    for (deletes, fields, taken) in [
        (Deletes::Tombstone, vec!["op"], Some("__op")),
        (Deletes::Rewrite, vec![], Some("__deleted")),
        (Deletes::Tombstone, vec!["lsn", "source.lsn", "txId:lsn"], Some("__lsn")),
        (Deletes::Tombstone, vec!["op:operation"], None),
    ] {
        let mut pipe = flat_pipe(Content::default(), Flat { deletes, fields: metadata(&fields), ..Flat::default() });
        let prepared = now(pipe.encoder.prepare(&relation, None, &pipe.store));
        let field = match prepared {
            Ok(_) => None,
            Err(EncodeError::FieldTaken { field, .. }) => Some(field),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(field.as_deref(), taken);
    }
}
