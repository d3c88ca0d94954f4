//! Records of a resync as capture writes them, for an applier whose consumer is the test.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use walrelay::{
    avro::{
        content::Content,
        flat::Records,
        store::{SchemaStore, StoreError},
        subject::SubjectNaming,
    },
    event::{Barrier, Datum, EventMeta, OldTuple, RecordBuf, Resync, RowChange, Sweep, TransactionMeta, Tuple},
    kafka::ConsumedRecord,
    lsn::{Lsn, Position},
    pipeline::apply::{Limits, RecordDecoder},
    record::{Encoder, EncoderSettings, Masks, Plan, TopicNames},
    schema::{Column, Lineage, Relation, ReplicaIdentity, TableName},
    types::{ColumnType, Modes, Placeholder},
};

use crate::{applier::Applier, sink_support::Database};

/// A registry in memory.
#[derive(Clone, Debug, Default)]
struct Store(Arc<Mutex<Vec<String>>>);

impl SchemaStore for Store {
    async fn register(&self, _subject: &str, schema: &str) -> Result<u32, StoreError> {
        let mut schemas = self.0.lock().unwrap();
        schemas.push(schema.to_owned());
        Ok(u32::try_from(schemas.len()).unwrap())
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, StoreError> {
        Ok(self.0.lock().unwrap()[id as usize - 1].as_str().into())
    }
}

/// A captured table: its name, how many partitions its topic has, and its columns with OID and name of their types; key columns are
/// marked with `*`.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    pub name: &'a str,
    pub partitions: i32,
    pub columns: &'a [(&'a str, u32, &'a str)],
}

pub const INTEGER: (u32, &str) = (23, "integer");
pub const TEXT: (u32, &str) = (25, "text");

/// A column of a table.
pub const fn column<'a>(name: &'a str, (oid, sql): (u32, &'a str)) -> (&'a str, u32, &'a str) {
    (name, oid, sql)
}

/// Cells of a row: `∅` is NULL, `?` was not sent.
pub fn tuple(cells: &[&str]) -> Tuple {
    let datum = |cell: &&str| match *cell {
        "∅" => Datum::Null,
        "?" => Datum::Unchanged,
        text => Datum::Text(Bytes::copy_from_slice(text.as_bytes())),
    };
    cells.iter().map(datum).collect()
}

pub fn read(row: &[&str]) -> RowChange {
    RowChange::Read(tuple(row))
}

pub fn insert(row: &[&str]) -> RowChange {
    RowChange::Insert(tuple(row))
}

pub fn update(row: &[&str]) -> RowChange {
    RowChange::Update { old: None, new: tuple(row) }
}

/// An update whose old key is told, as where it changes.
pub fn rekey(old: &[&str], row: &[&str]) -> RowChange {
    RowChange::Update { old: Some(OldTuple::Key(tuple(old))), new: tuple(row) }
}

pub fn delete(key: &[&str]) -> RowChange {
    RowChange::Delete(OldTuple::Key(tuple(key)))
}

/// A resync whose signal was committed here.
pub const fn resync(commit: u64) -> Resync {
    Resync { epoch: 0, commit: Lsn(commit) }
}

/// Topics with what lies in them.
pub struct Feed {
    encoder: Encoder,
    names: TopicNames,
    store: Store,
    plans: BTreeMap<String, (Arc<Plan>, i32)>,
    log: BTreeMap<(String, i32), Vec<ConsumedRecord>>,
}

impl Feed {
    pub async fn of(tables: &[Table<'_>]) -> Self {
        let names = TopicNames::new("w");
        let mut encoder = Encoder::new(EncoderSettings {
            prefix: "w".into(),
            topics: names.clone(),
            database: "source".into(),
            version: "test".into(),
            subjects: SubjectNaming::Topic,
            modes: Modes::default(),
            content: Content::default(),
            placeholder: Placeholder::default(),
            masks: Masks::default(),
            records: Records::Envelope,
        });
        let (store, mut plans, mut log) = (Store::default(), BTreeMap::new(), BTreeMap::new());
        for table in tables {
            let plan = encoder.prepare(&relation(table), None, &store).await.unwrap();
            plans.insert(table.name.to_owned(), (plan, table.partitions));
            log.extend((0..table.partitions).map(|partition| ((topic(table.name), partition), Vec::new())));
        }
        Self { encoder, names, store, plans, log }
    }

    /// All topics with their partition counts.
    fn topics(&self) -> Vec<(String, i32)> {
        self.plans.iter().map(|(name, (_, partitions))| (topic(name), *partitions)).collect()
    }

    /// An applier of all partitions, which gets what lies there and was not applied.
    pub async fn apply(&self, db: &Database) -> Applier {
        let all: Vec<(String, i32)> = self.log.keys().cloned().collect();
        self.apply_of(db, &all).await
    }

    /// An applier of some partitions.
    pub async fn apply_of(&self, db: &Database, partitions: &[(String, i32)]) -> Applier {
        let topics = self.topics();
        let topics: Vec<(&str, i32)> = topics.iter().map(|(topic, count)| (topic.as_str(), *count)).collect();
        let wanted: Vec<(&str, i32)> =
            partitions.iter().map(|(topic, partition)| (topic.as_str(), *partition)).collect();
        let limits = Limits { workers: 3, ..Limits::default() };
        let (store, names) = (self.store.clone(), self.names.clone());
        let decoder = move || RecordDecoder::new(store.clone(), 1 << 20, Placeholder::default(), names.clone());
        let names = self.names.clone();
        let table_of = Arc::new(move |topic: &str| names.table_of(topic));
        let mut applier = Applier::decoding(db, &topics, &wanted, limits, (decoder, table_of)).await;
        self.deliver(&mut applier);
        applier
    }

    /// Puts a change into a partition of its table's topic.
    pub fn put(&mut self, (table, partition): (&str, i32), at: Position, resync: Option<Resync>, change: &RowChange) {
        let meta = transaction(at);
        let Position { ordinal, .. } = at;
        let event = EventMeta {
            ordinal,
            total_order: ordinal,
            collection_order: ordinal,
            resync,
            backfilling: resync.is_some(),
            ..EventMeta::default()
        };
        let mut out = RecordBuf::default();
        self.encoder.encode(&self.plans[table].0, &meta, event, change, &mut out).unwrap();
        self.append(table, partition, &out);
    }

    /// Puts only the delete half of a key move, or only the create half, into a partition.
    pub fn put_half(
        &mut self,
        (table, partition): (&str, i32),
        at: Position,
        resync: Option<Resync>,
        (change, is_create): (&RowChange, bool),
    ) {
        let before = self.log.clone();
        self.put((table, partition), at, resync, change);
        let key = (topic(table), partition);
        let first = before[&key].len();
        let records: Vec<ConsumedRecord> = self.log[&key][first..].to_vec();
        self.log = before;
        // A delete, its tombstone, a create.
        assert_eq!(records.len(), 3, "the key does not move");
        let half = if is_create { &records[2..] } else { &records[..2] };
        let log = self.log.get_mut(&key).unwrap();
        for record in half {
            let offset = i64::try_from(log.len()).unwrap();
            log.push(ConsumedRecord { offset, ..record.clone() });
        }
    }

    /// Puts a truncate, or with ordinal 0 the begin of a new snapshot, into all partitions of these tables' topics.
    pub fn truncate(&mut self, tables: &[&str], at: Position) {
        let barrier = self.barrier(tables);
        for table in tables {
            let (plan, partitions) = self.plans[*table].clone();
            for partition in 0..partitions {
                let (meta, mut out) = (transaction(at), RecordBuf::default());
                let event = EventMeta { ordinal: at.ordinal, total_order: at.ordinal, ..EventMeta::default() };
                self.encoder.encode_truncate(&plan, &meta, event, Some(&barrier), partition, &mut out);
                self.append(table, partition, &out);
            }
        }
    }

    /// The end of a resync of these tables, by how many rows it has read of each.
    pub fn sweep(&self, resync: Resync, tables: &[(&str, u64)]) -> Sweep {
        let names: Vec<&str> = tables.iter().map(|(table, _)| *table).collect();
        Sweep {
            resync,
            barrier: self.barrier(&names),
            rows: tables.iter().map(|(table, rows)| (topic(table), *rows)).collect(),
            conditions: BTreeMap::new(),
        }
    }

    /// Puts the end of a resync into all partitions of its topics.
    pub fn put_sweep(&mut self, at: Position, sweep: &Sweep) {
        for (topic, partitions) in sweep.barrier.topics.clone() {
            for partition in 0..partitions {
                self.put_sweep_in((topic.strip_prefix("w.public.").unwrap(), partition), at, sweep);
            }
        }
    }

    /// Puts the end of a resync into one partition.
    pub fn put_sweep_in(&mut self, (table, partition): (&str, i32), at: Position, sweep: &Sweep) {
        let mut out = RecordBuf::default();
        self.encoder.encode_sweep(at, sweep, partition, &mut out);
        self.append(table, partition, &out);
    }

    fn barrier(&self, tables: &[&str]) -> Barrier {
        let mut topics: Vec<_> = tables.iter().map(|table| (topic(table), self.plans[*table].1)).collect();
        topics.sort();
        Barrier { topics, ..Barrier::default() }
    }

    /// The sum of the offsets behind all that was put.
    pub fn ends(&self) -> usize {
        self.log.values().map(Vec::len).sum()
    }

    fn append(&mut self, table: &str, partition: i32, out: &RecordBuf) {
        let log = self.log.get_mut(&(topic(table), partition)).unwrap();
        for record in out.iter() {
            log.push(ConsumedRecord {
                topic: topic(table).into(),
                partition,
                offset: i64::try_from(log.len()).unwrap(),
                timestamp_ms: 0,
                key: record.key.map(Bytes::copy_from_slice),
                value: record.value.map(Bytes::copy_from_slice),
                headers: record
                    .headers()
                    .map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value)))
                    .collect(),
            });
        }
    }

    /// Gives an applier what was put into its partitions since.
    pub fn deliver(&self, applier: &mut Applier) {
        let mut records = Vec::new();
        for (key, next) in &mut applier.offsets {
            let log = &self.log[key];
            records.extend_from_slice(&log[usize::try_from(*next).unwrap()..]);
            *next = i64::try_from(log.len()).unwrap();
        }
        if !records.is_empty() {
            applier.deliver(records);
        }
    }
}

/// The topic of a table.
pub fn topic(table: &str) -> String {
    format!("w.public.{table}")
}

fn transaction(at: Position) -> TransactionMeta {
    let xid = u32::try_from(at.commit.0).ok().filter(|_| at.ordinal > 0);
    TransactionMeta { epoch: at.epoch, xid, commit: at.commit, ..TransactionMeta::default() }
}

fn relation(table: &Table<'_>) -> Relation {
    let column = |(name, oid, sql): &(&str, u32, &str)| Column {
        name: name.trim_end_matches('*').into(),
        attnum: None,
        ty: ColumnType::base(*oid, -1, sql),
        nullable: !name.ends_with('*'),
        nondeterministic: false,
        optional: false,
        added: false,
        default: None,
        missing: None,
        null_items: false,
    };
    Relation {
        oid: 1,
        name: TableName::new("public", table.name),
        identity: ReplicaIdentity::Default,
        columns: table.columns.iter().map(column).collect(),
        key: (0..table.columns.len()).filter(|at| table.columns[*at].0.ends_with('*')).collect(),
        lineage: Lineage::default(),
    }
}
