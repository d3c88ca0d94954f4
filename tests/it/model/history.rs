//! What lies in the topics, read by a consumer and decoded by a library that walrelay does not write with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    rc::Rc,
};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use serde_json::Value as Json;

use crate::support::{Consumed, Scenario, schema_of};

/// The columns of a row, or of a key, as texts; `None` is NULL.
pub type Row = BTreeMap<String, Option<String>>;

/// Where an event belongs: epoch, commit LSN, ordinal, and whether it is the tombstone of the event at that position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    pub epoch: u64,
    pub commit: u64,
    pub ordinal: u64,
    pub is_tombstone: bool,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.epoch, self.commit, self.ordinal)?;
        if self.is_tombstone { f.write_str(" (tombstone)") } else { Ok(()) }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
    /// A row of the snapshot, or of a resync.
    Read,
    Truncate,
    Message,
    Tombstone,
    /// The end of a resync.
    Sweep,
}

/// What a schema says of a table's columns.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// All of them, each with the value of rows that are older than it.
    pub missing: BTreeMap<String, Option<String>>,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Event {
    pub partition: i32,
    /// `None` for a message outside of a transaction.
    pub at: Option<At>,
    pub op: Op,
    pub key: Option<Row>,
    pub before: Option<Row>,
    pub after: Option<Row>,
    pub columns: Rc<Columns>,
    /// `source.txId` and `source.lsn`.
    pub source: [Option<String>; 2],
    pub message: Option<String>,
    /// Columns whose values were not sent.
    pub unchanged: BTreeSet<String>,
    pub is_backfilling: bool,
    pub resync: Option<String>,
    pub sweep: Option<String>,
    /// The key that the row gets by the next event, or had before this one.
    pub moved: [Option<String>; 2],
}

impl Event {
    /// Whether another record at the same position is this one, published again: all but the times of capture's work.
    pub fn is_same(&self, other: &Self) -> bool {
        self.op == other.op
            && self.key == other.key
            && self.before == other.before
            && self.after == other.after
            && self.source == other.source
            && self.message == other.message
            && self.unchanged == other.unchanged
            && self.moved == other.moved
            && self.sweep == other.sweep
    }

    /// Rows that were read, and ends of resyncs: capture need not send them again with the changes around them.
    pub fn is_of_stream(&self) -> bool {
        !matches!(self.op, Op::Read | Op::Sweep)
    }
}

/// All records of some topics, by table, and within one by partition in the order of offsets.
#[derive(Default)]
pub struct History(pub BTreeMap<String, Vec<Rc<Event>>>);

impl History {
    /// Reads the topics of these tables, and the writers' messages.
    pub async fn read(scenario: &Scenario, tables: &[String]) -> Self {
        let mut decoder = Decoder { scenario, schemas: BTreeMap::new() };
        let mut history = Self::default();
        for table in tables {
            let events = decoder.events(&format!("public.{table}")).await;
            history.0.insert(table.clone(), events);
        }
        let mut messages = decoder.events("message").await;
        messages.retain(|event| event.key.as_ref().is_some_and(|key| key["prefix"].as_deref() == Some("model")));
        history.0.insert("message".to_owned(), messages);
        history
    }
}

struct Decoder<'a> {
    scenario: &'a Scenario,
    schemas: BTreeMap<u32, (GenericDatumReader<'static>, Rc<Columns>)>,
}

impl Decoder<'_> {
    async fn events(&mut self, topic: &str) -> Vec<Rc<Event>> {
        let mut events: Vec<Rc<Event>> = Vec::new();
        for record in self.scenario.topics().read(topic) {
            let last = events.last().filter(|last| last.partition == record.partition);
            let of_last = last.and_then(|last| last.at);
            let event = self.event(record, of_last).await;
            events.push(Rc::new(event));
        }
        events
    }

    /// A tombstone has the position of the record before it, which is that of its delete.
    async fn event(&mut self, record: Consumed, of_last: Option<At>) -> Event {
        let header = |name: &str| record.headers.get(name).cloned();
        let key = match &record.key {
            Some(key) => row(&self.decode(key).await.0),
            None => None,
        };
        let mut event = Event {
            partition: record.partition,
            at: header("walrelay.pos").map(|text| position(&text)),
            op: Op::Tombstone,
            key,
            before: None,
            after: None,
            columns: Rc::default(),
            source: [None, None],
            message: None,
            unchanged: header("walrelay.unchanged").map(|list| names(&list)).unwrap_or_default(),
            is_backfilling: header("walrelay.backfilling").is_some(),
            resync: header("walrelay.resync"),
            sweep: header("walrelay.sweep"),
            moved: [header("__debezium.newkey"), header("__debezium.oldkey")],
        };
        match &record.value {
            Some(value) => self.read_value(value, &mut event).await,
            None if event.sweep.is_some() => event.op = Op::Sweep,
            None => event.at = of_last.map(|at| At { is_tombstone: true, ..at }),
        }
        event
    }

    async fn read_value(&mut self, value: &[u8], event: &mut Event) {
        let (value, columns) = self.decode(value).await;
        event.columns = columns;
        event.op = match cell(field(&value, "op").expect("an op")).as_deref() {
            Some("c") => Op::Insert,
            Some("u") => Op::Update,
            Some("d") => Op::Delete,
            Some("r") => Op::Read,
            Some("t") => Op::Truncate,
            Some("m") => Op::Message,
            other => panic!("{other:?} is no op"),
        };
        event.before = field(&value, "before").and_then(row);
        event.after = field(&value, "after").and_then(row);
        let source = field(&value, "source").expect("a source block");
        event.source = ["txId", "lsn"].map(|name| field(source, name).and_then(cell));
        event.message = field(&value, "message").and_then(|message| field(message, "content")).and_then(cell);
        if let Some(block) = field(&value, "transaction").filter(|block| **block != Value::Null) {
            let text = |name: &str| field(block, name).and_then(cell).expect("a block in whole");
            event.at.get_or_insert_with(|| in_block(&text("id"), &text("total_order")));
        }
    }

    async fn decode(&mut self, framed: &[u8]) -> (Value, Rc<Columns>) {
        let id = u32::from_be_bytes(framed[1..5].try_into().expect("four bytes"));
        if !self.schemas.contains_key(&id) {
            let json = schema_of(self.scenario, id).await;
            // To prepare a reader takes longer than to read a value, and it borrows its schema: these live as long as
            // the test.
            let schema: &'static Schema = Box::leak(Box::new(Schema::parse(&json).expect("a schema")));
            let reader = GenericDatumReader::builder(schema).build().expect("a reader");
            self.schemas.insert(id, (reader, Rc::new(columns(&json))));
        }
        let (reader, columns) = &self.schemas[&id];
        let mut body = &framed[5..];
        let value = reader.read_value(&mut body).expect("a value of its schema");
        assert!(body.is_empty(), "{} bytes behind a value", body.len());
        (value, Rc::clone(columns))
    }
}

/// The columns of the row in an envelope's schema.
fn columns(schema: &Json) -> Columns {
    let fields = |schema: &Json| schema["fields"].as_array().cloned().unwrap_or_default();
    let envelope = fields(schema);
    let row = envelope.iter().find(|field| field["name"] == "before").map(|field| branch(&field["type"]).clone());
    let missing = |field: &Json| {
        let parameters = &branch(&field["type"])["connect.parameters"];
        parameters["walrelay.missing"].as_str().map(str::to_owned)
    };
    let of_row = row.as_ref().map(fields).unwrap_or_default();
    let name = |field: &Json| field["name"].as_str().expect("a name").to_owned();
    Columns { missing: of_row.iter().map(|field| (name(field), missing(field))).collect() }
}

/// The branch of a union that is not null; the schema itself if it is none.
fn branch(schema: &Json) -> &Json {
    let branches = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    branches.iter().find(|branch| *branch != "null").unwrap_or(schema)
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let value = if let Value::Union(_, inner) = value { inner } else { value };
    let Value::Record(fields) = value else { return None };
    let (_, field) = fields.iter().find(|(known, _)| known == name)?;
    Some(if let Value::Union(_, inner) = field { inner } else { field })
}

fn row(value: &Value) -> Option<Row> {
    let Value::Record(fields) = value else { return None };
    Some(fields.iter().map(|(name, value)| (name.clone(), cell(value))).collect())
}

fn cell(value: &Value) -> Option<String> {
    match value {
        Value::Union(_, inner) => cell(inner),
        Value::Null => None,
        Value::Int(number) => Some(number.to_string()),
        Value::Long(number) => Some(number.to_string()),
        Value::String(text) | Value::Enum(_, text) => Some(text.clone()),
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        other => panic!("no column of the model has a value like {other:?}"),
    }
}

/// `epoch:commit LSN:ordinal`.
fn position(text: &str) -> At {
    let numbers: Vec<u64> = text.split(':').map(|part| part.parse().expect("a number")).collect();
    At { epoch: numbers[0], commit: numbers[1], ordinal: numbers[2], is_tombstone: false }
}

/// A block's `<xid>:<commit LSN>` or `snapshot:<consistent point>`, with `:<epoch>` unless that is 0.
fn in_block(id: &str, total_order: &str) -> At {
    let parts: Vec<&str> = id.split(':').collect();
    let epoch = parts.get(2).map_or(0, |epoch| epoch.parse().expect("an epoch"));
    let commit = parts[1].parse().expect("an LSN");
    At { epoch, commit, ordinal: total_order.parse().expect("a number"), is_tombstone: false }
}

fn names(list: &str) -> BTreeSet<String> {
    serde_json::from_str(list).expect("a list of names")
}

/// A row, or a key, as JSON says it.
pub fn row_of_json(json: &str) -> Row {
    let Json::Object(fields) = serde_json::from_str(json).expect("JSON") else { panic!("{json} is no row") };
    let text = |value: Json| match value {
        Json::Null => None,
        Json::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    fields.into_iter().map(|(name, value)| (name, text(value))).collect()
}
