//! Fixtures that all tests share: a schema store in memory, relations, changes, and the golden data.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use walrelay::{
    avro::{
        content::Content,
        flat::Records,
        store::{SchemaStore, StoreError},
        subject::SubjectNaming,
    },
    event::{Datum, EventMeta, OldTuple, Record, RecordBuf, RowChange, TransactionMeta, Tuple},
    lsn::Lsn,
    record::{DecodeError, Decoded, Decoder, EncodeError, Encoder, EncoderSettings, Masks, Plan, TopicNames},
    retry::{Classify, Severity},
    schema::{Column, Lineage, Relation, ReplicaIdentity, TableName},
    types::{ColumnType, Modes, Placeholder},
};

/// A registry in memory: ids count from 1, equal schemas share one.
#[derive(Debug, Default)]
pub struct MemoryStore(pub Mutex<Vec<(String, String)>>);

#[derive(Debug, thiserror::Error)]
#[error("no schema has id {0}")]
struct Unknown(u32);

impl Classify for Unknown {
    fn severity(&self) -> Severity {
        Severity::Definite
    }
}

impl SchemaStore for MemoryStore {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, StoreError> {
        apache_avro::Schema::parse_str(schema).expect("a registry takes only Avro schemas");
        let mut schemas = self.0.lock().unwrap();
        let place = schemas.iter().position(|(_, known)| known == schema).unwrap_or_else(|| {
            schemas.push((subject.to_owned(), schema.to_owned()));
            schemas.len() - 1
        });
        Ok(u32::try_from(place).unwrap() + 1)
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, StoreError> {
        let schemas = self.0.lock().unwrap();
        let known = schemas.get(id as usize - 1).map(|(_, schema)| schema.as_str().into());
        known.ok_or_else(|| StoreError::unknown_id(Unknown(id)))
    }
}

impl MemoryStore {
    pub fn schema_of(&self, framed: &[u8]) -> String {
        let id = u32::from_be_bytes(framed[1..5].try_into().unwrap());
        self.0.lock().unwrap()[id as usize - 1].1.clone()
    }
}

/// One table's golden data.
#[derive(Deserialize)]
pub struct Golden {
    pub relation: Relation,
    pub snapshot: Vec<Vec<Json>>,
    pub operations: Vec<Operation>,
    pub lossless: Variant,
    pub default: Variant,
}

#[derive(Deserialize)]
pub struct Operation {
    pub op: String,
    pub old: Option<Vec<Json>>,
    pub new: Option<Vec<Json>>,
}

#[derive(Deserialize)]
pub struct Variant {
    pub key: Json,
    pub value: Json,
    pub events: Vec<GoldenEvent>,
}

#[derive(Deserialize)]
pub struct GoldenEvent {
    pub key: Json,
    pub key_hex: Option<String>,
    pub value: Json,
    pub headers: Map<String, Json>,
}

pub fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(format!("{name}.json"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn golden(table: &str) -> Golden {
    serde_json::from_str(&data(table)).unwrap()
}

/// Text is text, null is NULL, `{"unchanged": true}` was not sent.
pub fn tuple(cells: &[Json]) -> Tuple {
    let datum = |cell: &Json| match cell {
        Json::Null => Datum::Null,
        Json::String(text) => Datum::Text(Bytes::copy_from_slice(text.as_bytes())),
        _ => Datum::Unchanged,
    };
    cells.iter().map(datum).collect()
}

pub fn texts(cells: &[Option<&str>]) -> Tuple {
    cells
        .iter()
        .map(|cell| cell.map_or(Datum::Null, |text| Datum::Text(Bytes::copy_from_slice(text.as_bytes()))))
        .collect()
}

/// The change that an operation is; TRUNCATE is none.
pub fn change(operation: &Operation, identity: ReplicaIdentity) -> Option<RowChange> {
    let old = operation.old.as_ref().map(|old| match identity {
        ReplicaIdentity::Full => OldTuple::Full(tuple(old)),
        _ => OldTuple::Key(tuple(old)),
    });
    Some(match operation.op.as_str() {
        "INSERT" => RowChange::Insert(tuple(operation.new.as_ref().unwrap())),
        "UPDATE" => RowChange::Update { old, new: tuple(operation.new.as_ref().unwrap()) },
        "DELETE" => RowChange::Delete(old.unwrap()),
        _ => return None,
    })
}

pub fn settings(prefix: &str) -> EncoderSettings {
    EncoderSettings {
        prefix: prefix.into(),
        topics: TopicNames::new(prefix),
        database: format!("g_{}", prefix.trim_start_matches('g')),
        version: "3.6.3.Final".into(),
        subjects: SubjectNaming::Topic,
        modes: Modes::default(),
        content: Content::default(),
        placeholder: Placeholder::default(),
        masks: Masks::default(),
        records: Records::Envelope,
    }
}

pub fn column(name: &str, oid: u32, typmod: i32, sql: &str) -> Column {
    Column {
        name: name.into(),
        attnum: None,
        ty: ColumnType::base(oid, typmod, sql),
        nullable: true,
        nondeterministic: false,
        optional: false,
        added: false,
        default: None,
        missing: None,
        null_items: false,
    }
}

/// A table `public.t` whose first `keys` columns are its key.
pub fn relation(identity: ReplicaIdentity, keys: usize, mut columns: Vec<Column>) -> Relation {
    columns.iter_mut().take(keys).for_each(|column| column.nullable = false);
    Relation {
        oid: 1,
        name: TableName::new("public", "t"),
        identity,
        columns,
        key: (0..keys).collect(),
        lineage: Lineage::default(),
    }
}

pub fn transaction() -> TransactionMeta {
    TransactionMeta {
        epoch: 0,
        xid: Some(700),
        commit: Lsn(0x1_0000),
        commit_us: 1_795_501_793_549_123,
        previous_commit: Some(Lsn(0xFF00)),
        origin: None,
        origin_lsn: None,
    }
}

pub fn event(ordinal: u64) -> EventMeta {
    EventMeta {
        ordinal,
        total_order: ordinal,
        collection_order: ordinal,
        lsn: Lsn(0xFFF0),
        processed_ns: 1,
        ..EventMeta::default()
    }
}

/// Encoder, decoder and store of one test.
pub struct Pipe {
    pub store: MemoryStore,
    pub encoder: Encoder,
    pub decoder: Decoder,
}

/// A record with its parts owned.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub partition: Option<i32>,
}

impl Owned {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| std::str::from_utf8(value).unwrap())
    }
}

impl From<Record<'_>> for Owned {
    fn from(record: Record<'_>) -> Self {
        Self {
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
            partition: record.partition,
        }
    }
}

impl Pipe {
    pub fn new(prefix: &str) -> Self {
        Self::with_modes(prefix, Modes::default())
    }

    pub fn with_modes(prefix: &str, modes: Modes) -> Self {
        Self::with_forms(prefix, modes, Content::default())
    }

    pub fn with_forms(prefix: &str, modes: Modes, content: Content) -> Self {
        let encoder = Encoder::new(EncoderSettings { modes, content, ..settings(prefix) });
        Self { store: MemoryStore::default(), encoder, decoder: Decoder::new(usize::MAX) }
    }

    pub fn plan(&mut self, relation: &Relation) -> Arc<Plan> {
        now(self.encoder.prepare(relation, None, &self.store)).unwrap()
    }

    pub fn encode(&mut self, plan: &Plan, change: &RowChange) -> Result<Vec<Owned>, EncodeError> {
        let mut out = RecordBuf::default();
        self.encoder.encode(plan, &transaction(), event(1), change, &mut out)?;
        Ok(out.iter().map(Owned::from).collect())
    }

    pub fn decode(&mut self, topic: &str, record: &Owned) -> Result<Decoded, DecodeError> {
        loop {
            let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            match self.decoder.decode(topic, record.key.as_deref(), record.value.as_deref(), headers, 0)? {
                Decoded::NeedsSchema(id) => now(self.decoder.fetch(topic, id, &self.store))?,
                decoded => return Ok(decoded),
            }
        }
    }
}

/// The store in memory answers at once.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the store in memory never waits")
}
