//! The recordings of Debezium under other settings than those of `data/`: `recorded/README.md` tells what lies where.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use walrelay::{event::RowChange, record::EncoderSettings, schema::Relation};

use crate::{
    oracle,
    support::{GoldenEvent, Operation, Variant, change, settings, tuple},
};

/// What was done to the tables of a family.
#[derive(Deserialize)]
pub struct Family {
    pub tables: BTreeMap<String, Table>,
    pub stream: Vec<Streamed>,
}

#[derive(Deserialize)]
pub struct Table {
    pub relation: Relation,
    pub snapshot: Vec<Vec<Json>>,
}

/// An operation of pgoutput, the begin and end of transactions among them.
#[derive(Deserialize)]
pub struct Streamed {
    /// The table of a row.
    pub table: Option<String>,
    /// Those of a truncate.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Whether a message is of its transaction.
    #[serde(default)]
    pub transactional: bool,
    #[serde(flatten)]
    pub operation: Operation,
}

/// What Debezium wrote of a family under a variant's settings.
#[derive(Deserialize)]
pub struct Recording {
    pub topics: BTreeMap<String, Topic>,
}

#[derive(Deserialize)]
pub struct Topic {
    /// By id.
    pub schemas: BTreeMap<String, Json>,
    pub records: Vec<Recorded>,
}

/// A record as it lay in Kafka, its parts in hexadecimal.
#[derive(Deserialize)]
pub struct Recorded {
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Map<String, Json>,
}

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn family(name: &str) -> Family {
    serde_json::from_str(&read(&format!("{name}.json"))).unwrap()
}

/// What was recorded under `FAMILY.VARIANT`.
pub fn recording(name: &str) -> Recording {
    serde_json::from_str(&read(&format!("{name}.json"))).unwrap()
}

/// The encoder's settings for a recording: its prefix, which is its database too.
pub fn recorded_settings(name: &str) -> EncoderSettings {
    let prefix = format!("g{}", name.replace(|letter: char| !letter.is_ascii_lowercase(), "_"));
    EncoderSettings { database: prefix.clone(), ..settings(&prefix) }
}

impl Family {
    /// A table's rows and changes in order; `None` is a truncate.
    pub fn changes(&self, table: &str) -> Vec<Option<RowChange>> {
        let Table { relation, snapshot } = &self.tables[table];
        let snapshot = snapshot.iter().map(|row| Some(RowChange::Read(tuple(row))));
        let own = |streamed: &&Streamed| {
            streamed.table.as_deref() == Some(table) || streamed.tables.iter().any(|truncated| truncated == table)
        };
        let streamed = self.stream.iter().filter(own);
        snapshot.chain(streamed.map(|streamed| change(&streamed.operation, relation.identity))).collect()
    }
}

impl Topic {
    /// The newest schema of a record's name.
    pub fn schema(&self, name: &str) -> &Json {
        self.known_schema(name).unwrap()
    }

    fn known_schema(&self, name: &str) -> Option<&Json> {
        let ids = self.schemas.iter().filter(|(_, schema)| schema["name"] == name);
        Some(ids.max_by_key(|(id, _)| id.parse::<u32>().unwrap())?.1)
    }

    /// Schemas and contents as the other golden data have them; no key's schema where there is none.
    pub fn variant(&self, value: &str) -> Variant {
        let key = self.known_schema("Key").cloned().unwrap_or_default();
        Variant { key, value: self.schema(value).clone(), events: self.events() }
    }

    pub fn events(&self) -> Vec<GoldenEvent> {
        self.records.iter().map(|record| self.event(record)).collect()
    }

    fn event(&self, record: &Recorded) -> GoldenEvent {
        let content = |hex: &Option<String>| hex.as_ref().map_or(Json::Null, |hex| self.content(hex));
        GoldenEvent {
            key: content(&record.key),
            key_hex: record.key.clone(),
            value: content(&record.value),
            headers: record.headers.clone(),
        }
    }

    fn content(&self, hex: &str) -> Json {
        let bytes = bytes(hex);
        let id = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        oracle::read(&self.schemas[&id.to_string()].to_string(), &bytes)
    }
}

/// The octets of hexadecimal digits.
pub fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Comparisons that failed: each tells of itself, so that a run shows all of them.
#[derive(Default)]
pub struct Failures(Vec<String>);

impl Failures {
    pub fn gather(&mut self, what: &str, comparison: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(comparison)).is_err() {
            self.0.push(what.to_owned());
        }
    }

    /// Fails if any did.
    pub fn finish(self) {
        assert!(self.0.is_empty(), "{} differ from what Debezium wrote (above): {:#?}", self.0.len(), self.0);
    }
}
