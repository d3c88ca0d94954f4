//! Columns with defaults, and of types that Debezium leaves out, against what it wrote for them (`recorded/`): schemas of keys and
//! values are equal attribute for attribute, and rows field for field, but for what is listed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use walrelay::{
    avro::content::{Content, OwnHeaders, Parameters},
    event::{Cell, Datum, RowChange},
    record::Decoded,
    schema::Relation,
    types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, TimeMode},
};

use crate::{
    oracle,
    support::{Operation, Pipe, change, tuple},
};

#[derive(Deserialize)]
struct Tables {
    tables: BTreeMap<String, Table>,
    stream: Vec<Json>,
}

#[derive(Deserialize)]
struct Table {
    relation: Relation,
    snapshot: Vec<Vec<Json>>,
}

#[derive(Deserialize)]
struct Topics {
    topics: BTreeMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
    schemas: BTreeMap<String, Json>,
    records: Vec<RecordedEvent>,
}

#[derive(Deserialize)]
struct RecordedEvent {
    value: Option<String>,
}

/// Table, column, reason.
type Listed = (&'static str, &'static str, &'static str);

/// Columns whose schema is another one, by table, with the reason.
const SCHEMAS: [Listed; 2] = [
    ("u_keyonly", "l", "without its only column the key would be the same for all rows"),
    ("u_unknown", "av", "a vector of numbers travels as PostgreSQL's text"),
];

fn recorded<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = format!("{}/tests/golden/recorded/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Variants of the recording, and walrelay's forms for Debezium's settings (`recorded/defaults.*.properties`).
fn variants() -> [(&'static str, Modes); 3] {
    let plain = Modes::DEBEZIUM;
    let connect = Modes { time: TimeMode::Connect, decimal: DecimalMode::Double, binary: BinaryMode::Hex, ..plain };
    let forms = Modes {
        time: TimeMode::Isostring,
        decimal: DecimalMode::String,
        interval: IntervalMode::String,
        binary: BinaryMode::Base64,
        hstore: HstoreMode::Map,
        ..plain
    };
    [("plain", plain), ("connect", connect), ("forms", forms)]
}

fn debezium(variant: &str, modes: Modes, (parameters, own_headers): (Parameters, OwnHeaders)) -> Pipe {
    let content = Content { parameters, own_headers, ..Content::DEBEZIUM };
    Pipe::with_forms(&format!("gdefaults_{variant}"), modes, content)
}

/// The tables whose schemas are Avro's, with their topics.
fn tables(variant: &str) -> (Tables, BTreeMap<String, Topic>) {
    let mut tables: Tables = recorded("defaults");
    let Topics { mut topics } = recorded(&format!("defaults.{variant}"));
    tables.tables.remove("d_special").unwrap();
    let topics =
        tables.tables.keys().filter_map(|name| Some((name.clone(), topics.remove(&format!("public.{name}"))?)));
    let topics: BTreeMap<_, _> = topics.collect();
    tables.tables.retain(|name, _| topics.contains_key(name));
    (tables, topics)
}

fn named<'a>(topic: &'a Topic, name: &str) -> &'a Json {
    topic.schemas.values().find(|schema| schema["name"] == *name).unwrap()
}

fn row_fields(schema: &Json) -> Vec<Json> {
    schema["fields"][0]["type"][1]["fields"].as_array().unwrap().clone()
}

#[test]
fn schemas_have_the_defaults_and_the_fields_that_debezium_s_have() {
    let (mut wrong, mut excused, mut defaults) = (Vec::new(), BTreeSet::new(), 0);
    for (variant, modes) in variants() {
        compare_schemas(variant, modes, &mut wrong, &mut excused, &mut defaults);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(excused.len(), SCHEMAS.len(), "only these differ: {excused:?}");
    assert!(defaults > 200, "only {defaults} defaults were compared");
}

fn compare_schemas(
    variant: &str,
    modes: Modes,
    wrong: &mut Vec<String>,
    excused: &mut BTreeSet<Listed>,
    defaults: &mut usize,
) {
    let (tables, topics) = tables(variant);
    for (name, table) in &tables.tables {
        let plan = debezium(variant, modes, (Parameters::None, OwnHeaders::LeftOut)).plan(&table.relation);
        let ours = row_fields(&serde_json::from_str(plan.value_schema()).unwrap());
        let theirs = row_fields(named(&topics[name], "Envelope"));
        // Of the fields that both have.
        let order = |fields: &[Json], others: &[Json]| -> Vec<Json> {
            let names = fields.iter().map(|field| field["name"].clone());
            names.filter(|name| others.iter().any(|other| other["name"] == *name)).collect()
        };
        assert_eq!(order(&ours, &theirs), order(&theirs, &ours), "{variant}: order of {name}'s fields");
        let has = |fields: &[Json], column: &str| fields.iter().find(|field| field["name"] == *column).cloned();
        for column in &table.relation.columns {
            let (ours, theirs) = (has(&ours, &column.name), has(&theirs, &column.name));
            *defaults += usize::from(theirs.as_ref().is_some_and(|field| !field["default"].is_null()));
            let text = |field: &Option<Json>| serde_json::to_string(field).unwrap();
            if text(&ours) == text(&theirs) {
                continue;
            }
            match SCHEMAS.iter().find(|(table, known, _)| *table == name && *known == &*column.name) {
                Some(listed) => drop(excused.insert(*listed)),
                None => {
                    wrong.push(format!(
                        "{variant} {name}.{}\n  ours {}\n  theirs {}",
                        column.name,
                        text(&ours),
                        text(&theirs)
                    ));
                }
            }
        }
        let key: Json = plan.key_schema().map_or(Json::Null, |schema| serde_json::from_str(schema).unwrap());
        // Without its only column there would be one key for all rows.
        let [ours, theirs] = [&key, named(&topics[name], "Key")].map(Json::to_string);
        if name != "u_keyonly" && ours != theirs {
            wrong.push(format!("{variant}: key of {name}\n  ours {ours}\n  theirs {theirs}"));
        }
    }
}

#[test]
fn rows_have_defaults_where_debezium_s_have_them_and_come_back_as_they_were() {
    let mut wrong = Vec::new();
    for (variant, modes) in variants() {
        compare_rows(variant, modes, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare_rows(variant: &str, modes: Modes, wrong: &mut Vec<String>) {
    let (tables, topics) = tables(variant);
    for (name, table) in &tables.tables {
        let mut pipe = debezium(variant, modes, (Parameters::None, OwnHeaders::Written));
        let plan = pipe.plan(&table.relation);
        // A schema without the source's types leaves it to the target's column how a text is read.
        let mut typed = debezium(variant, modes, (Parameters::All, OwnHeaders::Written));
        let of_table = |operation: &&Json| operation["table"] == **name;
        let streamed = tables.stream.iter().filter(of_table).map(|operation| {
            let operation: Operation = serde_json::from_value(operation.clone()).unwrap();
            change(&operation, table.relation.identity).unwrap()
        });
        let changes = table.snapshot.iter().map(|row| RowChange::Read(tuple(row))).chain(streamed);
        let schema = named(&topics[name], "Envelope").to_string();
        let mut theirs = topics[name].records.iter().filter_map(|record| record.value.as_ref());
        for change in changes {
            let record = pipe.encode(&plan, &change).unwrap().remove(0);
            let value = record.value.as_ref().unwrap();
            let ours = oracle::read(&pipe.store.schema_of(value), value);
            let theirs = oracle::read(&schema, &bytes(theirs.next().unwrap()));
            for part in ["before", "after"] {
                let fields = |event: &Json| event[part].as_object().cloned().unwrap_or_else(Map::new);
                let (ours, theirs) = (fields(&ours), fields(&theirs));
                assert_eq!(ours.is_empty(), theirs.is_empty(), "{part} of {name}");
                for (column, value) in theirs {
                    let has_other_schema = SCHEMAS.iter().any(|(table, known, _)| table == name && *known == column);
                    if ours.get(&column) != Some(&value) && !has_other_schema {
                        wrong.push(format!(
                            "{variant} {part}.{column} of {name}: ours {}, theirs {value}, {:?}",
                            ours.get(&column).unwrap_or(&json!("nothing")),
                            record.header("walrelay.text"),
                        ));
                    }
                }
            }
            compare_back(&mut typed, (name, &table.relation), &change, wrong);
        }
        assert_eq!(theirs.count(), 0, "Debezium has more events of {name}");
    }
}

fn compare_back(pipe: &mut Pipe, (name, relation): (&str, &Relation), change: &RowChange, wrong: &mut Vec<String>) {
    let (RowChange::Read(sent) | RowChange::Insert(sent) | RowChange::Update { new: sent, .. }) = change else {
        return;
    };
    let plan = pipe.plan(relation);
    let record = pipe.encode(&plan, change).unwrap().remove(0);
    let Decoded::Event(event) = pipe.decode(plan.topic(), &record).unwrap() else { panic!("no event") };
    let columns = relation.columns.iter().zip(sent.iter());
    let columns: BTreeMap<&str, &Datum> = columns.map(|(column, datum)| (&*column.name, datum)).collect();
    for (column, cell) in event.shape.columns.iter().zip(&event.after.unwrap()) {
        let sent = columns[&*column.name];
        if !is_same(cell, sent) {
            wrong.push(format!("{name}.{} comes back as {cell:?}, not {sent:?}", column.name));
        }
    }
}

/// Whether apply has what the server sent: its text, or one that PostgreSQL reads as the same amount, number or interval.
fn is_same(cell: &Cell, sent: &Datum) -> bool {
    match (cell, sent) {
        (Cell::Text(text), Datum::Text(sent)) => {
            let [text, sent] = [&text[..], &sent[..]].map(|text| std::str::from_utf8(text).unwrap());
            let number = |text: &str| text.trim_start_matches('$').parse::<f64>().ok();
            let spelled =
                [("P1Y0M2DT0H0M0S", "1 year 2 days"), ("P0Y0M1DT0H0M0S", "1 day"), ("P0Y0M2DT0H0M0S", "2 days")];
            text == sent
                || number(text).is_some_and(|value| Some(value) == number(sent))
                || spelled.contains(&(text, sent))
        }
        (Cell::Null, Datum::Null) | (Cell::Unchanged, Datum::Unchanged) => true,
        _ => false,
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}
