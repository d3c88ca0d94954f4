//! Schemas and records that were published once stay readable, and change only on purpose.
//!
//! `avro/history` has each schema with records of it in hexadecimal and the rows that they are, in walrelay's own forms; its folder
//! `debezium` those of `compatibility = "debezium"`. `WALRELAY_HISTORY=write` writes the newest of them anew, for as long as nobody
//! has published by them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json, json};
use walrelay::{
    avro::{
        content::{
            ColumnDefaults, Content, HeaderConverter, Nullability, OwnHeaders, Parameters, TransactionBlock,
            TransactionId, Truncates, UnknownTypes,
        },
        wire,
    },
    event::{Cell, Row, RowChange},
    record::{DecodeError, Decoded, Decoder},
    types::{IntervalMode, Modes, SpecialValues, TimetzMode, TrailingZeros},
};

use crate::{
    oracle::hex,
    support::{MemoryStore, Owned, Pipe, change, golden, now, tuple},
};

/// Tables whose schemas show every shape of a field, with what each shows.
const PUBLISHED: [(&str, &str); 8] = [
    ("ev_compkey", "composite key"),
    ("t_array", "arrays"),
    ("t_domain", "domains"),
    ("t_enum", "enumerations"),
    ("t_numeric", "decimals"),
    ("t_timestamp", "dates and times"),
    ("t_text", "texts"),
    ("t_uuid", "semantic key"),
];

/// The forms, with the folder of each.
fn forms() -> [(PathBuf, Modes, Content); 2] {
    let modes = Modes {
        interval: IntervalMode::Numeric,
        trailing_zeros: TrailingZeros::Dropped,
        timetz: TimetzMode::Utc,
        special_values: SpecialValues::Debezium,
        ..Modes::default()
    };
    let content = Content {
        nullability: Nullability::Declared,
        header_converter: HeaderConverter::Simple,
        parameters: Parameters::None,
        transaction: TransactionBlock::None,
        truncates: Truncates::Skipped,
        context_headers: true,
        transaction_id: TransactionId::Event,
        column_defaults: ColumnDefaults::Source,
        unknown_types: UnknownTypes::Omitted,
        own_headers: OwnHeaders::LeftOut,
        ..Content::default()
    };
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("avro/history");
    [(own.join("debezium"), modes, content), (own, Modes::default(), Content::default())]
}

/// A row's texts; one that was not sent is `{"unchanged": true}`.
fn row(row: Option<&Row>) -> Json {
    let cell = |cell: &Cell| match cell {
        Cell::Null => Json::Null,
        Cell::Unchanged => json!({"unchanged": true}),
        Cell::Text(text) => json!(std::str::from_utf8(text).unwrap()),
    };
    row.map_or(Json::Null, |row| row.iter().map(cell).collect())
}

/// What a record is read as.
fn read(decoder: &mut Decoder, key: Option<&[u8]>, value: &[u8], headers: &Map<String, Json>) -> Json {
    let framed = |id, body: &[u8]| [&wire::prefix(id)[..], body].concat();
    let (key, value) = (key.map(|key| framed(1, key)), framed(2, value));
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()));
    let decoded = decoder.decode("t", key.as_deref(), Some(&value), headers, 0);
    let Ok(Decoded::Event(event)) = decoded else { panic!("{decoded:?}") };
    let columns = event.shape.columns.iter().map(|column| json!([*column.name, *column.type_sql]));
    json!({
        "op": format!("{:?}", event.op),
        "columns": columns.collect::<Json>(),
        "key": event.shape.key,
        "before": row(event.before.as_ref()),
        "after": row(event.after.as_ref()),
    })
}

/// A decoder that knows a key's schema as 1 and a value's as 2.
fn decoder(key: &str, value: &str) -> Decoder {
    let store =
        MemoryStore(vec![("t-key".to_owned(), key.to_owned()), ("t-value".to_owned(), value.to_owned())].into());
    let mut decoder = Decoder::new(usize::MAX);
    for id in [1, 2] {
        now(decoder.fetch("t", id, &store)).unwrap();
    }
    decoder
}

/// Two rows of a snapshot, and the first of each kind of change: records without their frames, with what they are read as.
fn records(pipe: &mut Pipe, table: &str) -> Json {
    let golden = golden(table);
    let plan = pipe.plan(&golden.relation);
    let mut decoder = decoder(plan.key_schema().unwrap(), plan.value_schema());
    let changes: Vec<_> =
        golden.operations.iter().filter_map(|operation| change(operation, golden.relation.identity)).collect();
    let first = |is: fn(&&RowChange) -> bool| changes.iter().find(is).cloned();
    let snapshot = golden.snapshot.iter().take(2).map(|row| RowChange::Read(tuple(row)));
    let streamed = [
        first(|change| matches!(change, RowChange::Insert(_))),
        first(|change| matches!(change, RowChange::Update { .. })),
        first(|change| matches!(change, RowChange::Delete(_))),
    ];
    let mut records = Vec::new();
    for change in snapshot.chain(streamed.into_iter().flatten()) {
        for Owned { key, value, headers, .. } in pipe.encode(&plan, &change).unwrap() {
            let Some(value) = value else { continue };
            let text = |value: Vec<u8>| json!(String::from_utf8(value).unwrap());
            // No reader obeys those that tell of the producer's run.
            let headers = headers.into_iter().filter(|(name, _)| !name.starts_with("__debezium.context."));
            let headers: Map<String, Json> = headers.map(|(name, value)| (name, text(value))).collect();
            let key = key.map(|key| key[5..].to_vec());
            let event = read(&mut decoder, key.as_deref(), &value[5..], &headers);
            let (key, value) = (key.as_deref().map(hex), hex(&value[5..]));
            records.push(json!({"key": key, "value": value, "headers": headers, "event": event}));
        }
    }
    json!(records)
}

/// The newest file of a kind; the first where there is none.
fn newest(folder: &Path, stem: &str, extension: &str) -> PathBuf {
    let path = |number: u32| folder.join(format!("{stem}.{number}.{extension}"));
    let last = (1..u32::MAX).take_while(|number| path(*number).exists()).last();
    path(last.unwrap_or(1))
}

#[test]
fn today_s_schemas_and_records_are_the_newest_of_the_history() {
    let is_written = std::env::var("WALRELAY_HISTORY").is_ok_and(|value| value == "write");
    for (folder, modes, content) in forms() {
        let mut pipe = Pipe::with_forms("shop", modes, content);
        for (table, shows) in PUBLISHED {
            let plan = pipe.plan(&golden(table).relation);
            let schema = |schema: &str| serde_json::from_str(schema).unwrap();
            let parts: [(_, _, Json); 3] = [
                ("key", "avsc", schema(plan.key_schema().unwrap())),
                ("value", "avsc", schema(plan.value_schema())),
                ("records", "json", records(&mut pipe, table)),
            ];
            for (part, extension, json) in parts {
                let path = newest(&folder, &format!("{table}-{part}"), extension);
                let today = format!("{}\n", serde_json::to_string_pretty(&json).unwrap());
                if is_written {
                    fs::write(&path, &today).unwrap();
                }
                let kept = fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    kept == today,
                    "{} ({shows}) is not the newest; if the change is meant and readers of the old one are safe, keep the old file \
                     and add this one, with the same number for key, value and records:\n{today}",
                    path.display()
                );
            }
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(digits).collect()
}

/// Each is an envelope of rows whose fields have a way to text, under the key schema of its version, and its records are the rows
/// that they were.
#[test]
fn every_published_schema_is_readable_with_its_records() {
    for (folder, ..) in forms() {
        let mut files = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let value_path = entry.unwrap().path();
            let name = value_path.file_name().unwrap().to_str().unwrap();
            if !name.contains("-value.") {
                continue;
            }
            let text = |name: String| fs::read_to_string(value_path.with_file_name(name)).unwrap();
            let schemas = [text(name.replace("-value.", "-key.")), text(name.to_owned())];
            let mut decoder = decoder(&schemas[0], &schemas[1]);
            let empty = decoder.decode("t", Some(&wire::prefix(1)), Some(&wire::prefix(2)), [], 0);
            assert!(matches!(empty, Err(DecodeError::Bytes { .. })), "{name}: {empty:?}");
            let records = text(name.replace("-value.", "-records.").replace(".avsc", ".json"));
            let records: Vec<Json> = serde_json::from_str(&records).unwrap();
            for record in &records {
                let key = record["key"].as_str().map(bytes);
                let value = bytes(record["value"].as_str().unwrap());
                let event = read(&mut decoder, key.as_deref(), &value, record["headers"].as_object().unwrap());
                assert_eq!(event, record["event"], "{name}");
            }
            assert!(!records.is_empty(), "{name} has no record");
            files += 1;
        }
        assert!(files >= PUBLISHED.len());
    }
}
