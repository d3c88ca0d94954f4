//! Schemas with the defaults of columns: what stands for NULL, and that the row comes back as it was.

use apache_avro::schema_compatibility::SchemaCompatibility;
use serde_json::{Value as Json, json};
use walrelay::{
    avro::{
        content::{ColumnDefaults, Content, Nullability, UnknownTypes},
        schema::note_lacking,
    },
    event::{Cell, OldTuple, RowChange},
    record::Decoded,
    schema::{Column, Relation, ReplicaIdentity},
    types::Modes,
};

use crate::{
    oracle,
    support::{Owned, Pipe, column, relation, texts},
};

const BOTH: [Nullability; 2] = [Nullability::Source, Nullability::Widened];

fn content(nullability: Nullability) -> Content {
    Content { nullability, column_defaults: ColumnDefaults::Source, ..Content::default() }
}

fn with_default(column: Column, expression: &str) -> Column {
    Column { default: Some(expression.into()), ..column }
}

/// `id` is the key; all but `plain` have a default, and `t` accepts no NULL.
fn table(identity: ReplicaIdentity) -> Relation {
    let required = |column| Column { nullable: false, ..column };
    let columns = vec![
        with_default(column("id", 23, -1, "integer"), "nextval('t_id_seq'::regclass)"),
        with_default(column("n", 23, -1, "integer"), "5"),
        required(with_default(column("t", 25, -1, "text"), "'it''s'::text")),
        with_default(column("d", 1700, (10 << 16 | 2) + 4, "numeric(10,2)"), "1.5"),
        column("plain", 25, -1, "text"),
    ];
    relation(identity, 1, columns)
}

/// The row's fields of a value schema.
fn fields(schema: &str) -> Vec<Json> {
    let schema: Json = serde_json::from_str(schema).unwrap();
    schema["fields"][0]["type"][1]["fields"].as_array().unwrap().clone()
}

fn field(schema: &str, name: &str) -> Json {
    let field = fields(schema).into_iter().find(|field| field["name"] == *name).unwrap();
    let strip = |ty: &Json| match ty.as_object() {
        Some(object) => {
            let mut object = object.clone();
            object.shift_remove("connect.parameters");
            Json::Object(object)
        }
        None => ty.clone(),
    };
    let ty = field["type"]
        .as_array()
        .map_or_else(|| strip(&field["type"]), |branches| Json::Array(branches.iter().map(strip).collect()));
    json!([ty, field.get("default")])
}

/// Whether the newer schema's readers read the rows of the older one. (Of whole envelopes the check says yes: it does not look
/// into the branches of unions.)
fn is_read(older: &str, newer: &str) -> bool {
    let [older, newer] = [older, newer].map(|envelope| {
        let envelope: Json = serde_json::from_str(envelope).unwrap();
        apache_avro::Schema::parse(&envelope["fields"][0]["type"][1]).unwrap()
    });
    SchemaCompatibility::can_read(&older, &newer).is_ok()
}

fn value(pipe: &Pipe, record: &Owned) -> Json {
    let bytes = record.value.as_ref().unwrap();
    oracle::read(&pipe.store.schema_of(bytes), bytes)
}

#[test]
fn a_field_has_its_column_s_default() {
    for nullability in BOTH {
        let mut pipe = Pipe::with_forms("p", Modes::default(), content(nullability));
        let plan = pipe.plan(&table(ReplicaIdentity::Default));
        let schema = plan.value_schema();
        let int = |default: i32| json!({"type": "int", "connect.default": default});
        assert_eq!(field(schema, "id"), json!([int(0), 0]));
        assert_eq!(field(schema, "n"), json!([[int(5), "null"], 5]));
        let text = json!({"type": "string", "connect.default": "it's"});
        let required = nullability == Nullability::Source;
        assert_eq!(field(schema, "t"), json!([if required { text } else { json!([text, "null"]) }, "it's"]));
        let (ty, default) = (&field(schema, "d")[0], &field(schema, "d")[1]);
        assert_eq!(
            (default, &ty[0]["connect.default"], &ty[1]),
            (&json!("\0\u{96}"), &json!("\0\u{96}"), &json!("null"))
        );
        assert_eq!(field(schema, "plain"), json!([["null", {"type": "string"}], null]));
        let key: Json = serde_json::from_str(plan.key_schema().unwrap()).unwrap();
        assert_eq!(key["fields"], json!([{"name": "id", "type": int(0), "default": 0}]));
    }
}

#[test]
fn null_is_the_default_in_the_value_and_null_for_apply() {
    for nullability in BOTH {
        let mut pipe = Pipe::with_forms("p", Modes::default(), content(nullability));
        let plan = pipe.plan(&table(ReplicaIdentity::Full));
        let rows = [
            [Some("1"), None, Some("kept"), None, None],
            [Some("1"), Some("7"), Some("kept"), Some("NaN"), Some("")],
            [Some("1"), Some("5"), Some("it's"), Some("1.50"), None],
        ];
        for row in rows {
            let change = RowChange::Insert(texts(&row));
            let record = pipe.encode(&plan, &change).unwrap().remove(0);
            let after = &value(&pipe, &record)["after"];
            let n = row[1].map_or(5, |text| text.parse().unwrap());
            assert_eq!((&after["n"], &after["d"]), (&json!(n), &json!({"$decimal": "1.50"})), "{row:?}");
            assert_eq!(after["plain"], row[4].map_or(Json::Null, Json::from));
            let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
            let back: Vec<_> = event.after.unwrap().iter().map(text).collect();
            assert_eq!(back, row.map(|text| text.map(str::to_owned)), "{nullability:?}");
        }
    }
}

fn text(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        Cell::Null => None,
        Cell::Unchanged => panic!("it was sent"),
    }
}

/// What the server did not send is the default too, as a reader of Debezium's would find it.
#[test]
fn a_delete_has_defaults_for_what_is_not_known_of_its_row() {
    for nullability in BOTH {
        let mut pipe = Pipe::with_forms("p", Modes::default(), content(nullability));
        let plan = pipe.plan(&table(ReplicaIdentity::Default));
        let delete = RowChange::Delete(OldTuple::Key(texts(&[Some("1"), None, None, None, None])));
        let records = pipe.encode(&plan, &delete).unwrap();
        let before = &value(&pipe, &records[0])["before"];
        assert_eq!((&before["id"], &before["n"], &before["t"]), (&json!(1), &json!(5), &json!("it's")));
        let Decoded::Event(event) = pipe.decode("p.public.t", &records[0]).unwrap() else { panic!("no event") };
        let before = event.before.unwrap();
        assert!(before.iter().skip(1).all(|cell| *cell == Cell::Unchanged), "{before:?}");
    }
}

/// A registry at level BACKWARD asks whether a reader of the new schema can read the old records.
#[test]
fn a_column_that_is_added_with_a_default_is_required_and_older_records_are_read_by_it() {
    let mut pipe = Pipe::with_forms("p", Modes::default(), content(Nullability::Source));
    let mut schema = |relation: &Relation| pipe.plan(relation).value_schema().to_owned();
    let old = relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]);
    let before = schema(&old);
    let mut new = table(ReplicaIdentity::Default);
    new.columns[4].nullable = false;
    new.keep_optional(&old);
    let after = schema(&new);
    assert!(!field(&after, "t")[0].is_array());
    assert_eq!(field(&after, "plain"), json!([["null", {"type": "string"}], null]), "it has no default");
    assert!(is_read(&before, &after));

    // Without its default it can be null from then on, whatever comes.
    let mut dropped = new.clone();
    dropped.columns[2].set_default(None);
    let without = schema(&dropped);
    assert_eq!(field(&without, "t"), json!([["null", {"type": "string"}], null]));
    assert!(is_read(&after, &without));
    dropped.columns[2].set_default(Some("'x'::text"));
    let again = schema(&dropped);
    assert_eq!(field(&again, "t"), json!([[{"type": "string", "connect.default": "x"}, "null"], "x"]));
    assert!(is_read(&without, &again));
}

/// Debezium's schema says what the source declares by now: its readers do not read what was written before the column.
#[test]
fn a_column_is_required_as_it_is_declared_whatever_earlier_records_have() {
    let schema = |relation: &Relation, nullability| {
        Pipe::with_forms("p", Modes::default(), Content { nullability, ..Content::default() })
            .plan(relation)
            .value_schema()
            .to_owned()
    };
    let old = relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer"), column("s", 25, -1, "text")]);
    let mut new = table(ReplicaIdentity::Default);
    new.columns[1..].rotate_left(1);
    new.columns[2] = Column { nullable: false, ..column("s", 25, -1, "text") };
    new.keep_optional(&old);
    let before = schema(&old, Nullability::Declared);
    for (name, nullability, is_required) in [
        ("t", Nullability::Source, false),
        ("s", Nullability::Source, false),
        ("t", Nullability::Declared, true),
        ("s", Nullability::Declared, true),
        ("n", Nullability::Declared, false),
    ] {
        let after = schema(&new, nullability);
        assert_eq!(!field(&after, name)[0].is_array(), is_required, "{name}, {nullability:?}");
        assert_eq!(is_read(&before, &after), nullability == Nullability::Source);
    }
}

/// What was published without defaults, or without the columns of some types, is read by the schema that has them.
#[test]
fn schemas_that_get_defaults_and_columns_later_read_the_earlier_records() {
    let schema = |relation: &Relation, content| {
        Pipe::with_forms("p", Modes::default(), content).plan(relation).value_schema().to_owned()
    };
    let without =
        Content { nullability: Nullability::Source, unknown_types: UnknownTypes::Omitted, ..Content::default() };
    let old = relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer")]);
    let mut new = table(ReplicaIdentity::Default);
    new.columns.push(Column { nullable: false, ..column("l", 628, -1, "line") });
    new.keep_optional(&Relation { columns: [&old.columns[..], &new.columns[5..]].concat(), ..old });
    assert!(!new.columns[5].added && new.columns[2].added);
    note_lacking(&mut new, without);
    let before = schema(&new, without);
    assert_eq!(field(&before, "t"), json!([["null", {"type": "string"}], null]));
    new.columns[2].set_default(Some("'x'::text"));
    let after = schema(&new, content(Nullability::Source));
    assert_eq!(field(&after, "t"), json!([[{"type": "string", "connect.default": "x"}, "null"], "x"]));
    assert!(is_read(&before, &after));
}
