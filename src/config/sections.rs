//! The configuration as the program uses it: one struct per section. Defaults are not here but in the list of keys.

#![allow(missing_docs, reason = "the meaning of each key is in the list of keys")]

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::value::{Bound, ByteSize, ParseError, Period, Secret};
use crate::{
    avro::{
        content::{
            ColumnDefaults, HeaderConverter, Nullability, Parameters, TotalOrder, TransactionBlock, TransactionId,
            Truncates, UnknownTypes,
        },
        flat::Deletes,
    },
    postgres::SslMode,
    types::{
        BinaryMode, DecimalMode, HstoreMode, IntervalMode, Placeholder, SpecialValues, TimeMode, TimetzMode,
        TrailingZeros,
    },
};

/// `[source]` or `[target]`: a PostgreSQL server. Host and database may be missing when nothing needs the server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub host: Option<String>,
    pub port: u16,
    pub database: Option<String>,
    pub user: String,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub sslmode: SslMode,
    pub ssl_root_cert: Option<PathBuf>,
    pub ssl_cert: Option<PathBuf>,
    pub ssl_key: Option<PathBuf>,
    pub connect_timeout: Period,
}

/// Whether a new slot begins with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotMode {
    /// Read all rows first.
    Initial,
    /// Begin with the changes after the slot's creation.
    Never,
    /// Read all rows, and end.
    Only,
    /// Read all rows first, and again after a gap.
    WhenNeeded,
}

/// What to do when the slot may be lost before a snapshot is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotGuard {
    /// Say so.
    Warn,
    /// Exit and say so.
    Stop,
    /// Nothing.
    Off,
}

/// How often a change may come into Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Again after a crash.
    AtLeastOnce,
    /// Once, for readers of committed records.
    ExactlyOnce,
}

/// What to do when WAL that was not captured is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnGap {
    /// Exit and say so.
    Stop,
    /// Go on at a slot that is ahead; exit at any other gap.
    TrustSlot,
    /// Begin anew with a snapshot.
    Resnapshot,
}

/// Whether stand-bys keep the slot for their promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailoverSlot {
    /// A new one, where the server can.
    Auto,
    /// Yes, or capture does not begin.
    On,
    /// No.
    Off,
}

/// What to do when rows changed without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnlogged {
    /// Stop the table.
    Stop,
    /// Go on.
    Continue,
}

/// What to do when partitions change without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPartitions {
    /// Tell of it.
    Tell,
    /// Read the table again.
    Resync,
    /// Take them for known.
    Accept,
}

/// What to do with the changes of a table that stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// Have the source keep the log.
    Hold,
    /// Drop them.
    Resync,
}

/// What to do with tables whose updates the source would refuse once they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnidentified {
    /// Create no publication with them.
    Refuse,
    /// Give them REPLICA IDENTITY FULL.
    Full,
    /// Publish them.
    Publish,
}

/// What to do with a change of one row that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadRow {
    /// Stop its table.
    Stop,
    /// Leave it out, and keep it in a topic of its own.
    DeadLetter,
    /// Leave it out.
    Skip,
}

/// Whose transactions are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origins {
    /// All.
    Any,
    /// Only the source's own.
    None,
}

/// `[capture]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    pub slot: String,
    pub publication: String,
    pub create_publication: bool,
    pub unidentified: OnUnidentified,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    #[serde(default)]
    pub column_lists: BTreeMap<String, String>,
    #[serde(default)]
    pub row_filters: BTreeMap<String, String>,
    #[serde(default)]
    pub key_columns: BTreeMap<String, String>,
    pub signal_table: Option<String>,
    pub signal_topic: Option<String>,
    #[serde(default)]
    pub masks: BTreeMap<String, String>,
    pub mask_salt: Option<Secret>,
    pub mask_salt_file: Option<PathBuf>,
    pub snapshot: SnapshotMode,
    pub snapshot_connections: usize,
    pub snapshot_chunk_bytes: ByteSize,
    pub snapshot_guard: SnapshotGuard,
    pub binary: bool,
    pub origin: Origins,
    pub streaming: bool,
    pub memory: ByteSize,
    pub delivery: Delivery,
    pub commit_interval: Period,
    pub transaction_timeout: Period,
    pub failover: FailoverSlot,
    pub on_gap: OnGap,
    pub on_unlogged: OnUnlogged,
    pub on_partitions: OnPartitions,
    pub on_stop: OnStop,
    pub hold_limit: ByteSize,
    pub on_bad_row: OnBadRow,
    pub status_interval: Period,
    pub receive_timeout: Period,
    pub checkpoint_interval: Period,
    pub heartbeat_interval: Heartbeats,
    pub source_heartbeat_interval: Heartbeats,
    pub transactions: bool,
    pub spool: Spool,
}

/// `[capture.spool]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spool {
    pub memory: ByteSize,
    pub limit: ByteSize,
    pub directory: Option<PathBuf>,
}

/// A period, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Heartbeats(pub Option<Duration>);

impl TryFrom<String> for Heartbeats {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        if text == "off" { Ok(Self(None)) } else { text.parse::<Period>().map(|period| Self(Some(period.0))) }
    }
}

/// `[kafka]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    #[serde(default)]
    pub brokers: Vec<String>,
    pub prefix: String,
    pub compression: String,
    pub properties: BTreeMap<String, String>,
    pub producer: BTreeMap<String, String>,
    pub consumer: BTreeMap<String, String>,
    pub topics: Topics,
}

/// `[kafka.topics]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    pub names: String,
    pub messages: String,
    pub transactions: String,
    pub dead_letters: String,
    pub create: bool,
    pub partitions: i32,
    pub replication_factor: i32,
    pub retention: Bound<Period>,
    pub retention_bytes: Bound<ByteSize>,
    pub cleanup_policy: String,
    pub config: BTreeMap<String, String>,
    #[serde(default)]
    pub tables: BTreeMap<String, String>,
    #[serde(default)]
    pub routes: BTreeMap<String, String>,
}

/// How subjects are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubjectStrategy {
    /// `<topic>-key`, `<topic>-value`
    TopicName,
    /// The record's full name.
    RecordName,
    /// `<topic>-<record's full name>`
    TopicRecordName,
}

/// `[format]`: how values are written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    pub decimal: DecimalMode,
    pub interval: IntervalMode,
    pub binary: BinaryMode,
    pub time: TimeMode,
    pub hstore: HstoreMode,
    pub trailing_zeros: TrailingZeros,
    pub timetz: TimetzMode,
    pub nullability: Nullability,
    pub parameters: Parameters,
    pub transaction: TransactionBlock,
    pub transaction_id: TransactionId,
    pub context_headers: bool,
    pub tombstones: bool,
    pub keyless_tombstones: bool,
    pub truncates: Truncates,
    pub own_headers: bool,
    pub empty_transactions: bool,
    pub total_order: TotalOrder,
    pub special_values: SpecialValues,
    pub column_defaults: ColumnDefaults,
    pub unknown_types: UnknownTypes,
    pub header_converter: HeaderConverter,
    pub unavailable_value: Placeholder,
    pub records: RecordsKind,
    pub flat: FlatRecords,
    /// It has set the others by then.
    pub compatibility: Compatibility,
}

/// What a record's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordsKind {
    Envelope,
    Flat,
}

/// `[format.flat]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlatRecords {
    pub deletes: Deletes,
    pub fields: Vec<String>,
    pub headers: Vec<String>,
    pub field_prefix: String,
    pub header_prefix: String,
}

/// Whose forms hold where no other key of `[format]` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    Walrelay,
    Debezium,
}

/// `[registry]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    #[serde(default)]
    pub urls: Vec<String>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub auto_register: bool,
    pub subject_strategy: SubjectStrategy,
    pub timeout: Period,
}

/// `[apply]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    pub group: String,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub partitions: Vec<String>,
    pub siblings_timeout: Period,
    pub schemas: BTreeMap<String, String>,
    pub bookkeeping_schema: String,
    pub batch_rows: usize,
    pub batch_bytes: ByteSize,
    pub batch_interval: Period,
    pub workers: usize,
    pub memory: ByteSize,
    pub evolve: bool,
    pub replica_role: bool,
    pub take_over: bool,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub capture: String,
    pub apply: String,
}

/// `[health]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub silence: Period,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub level: String,
}

/// All sections.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sections {
    pub source: Server,
    pub capture: Capture,
    pub format: Format,
    pub kafka: Kafka,
    pub registry: Registry,
    pub target: Server,
    pub apply: Apply,
    pub http: Http,
    pub health: Health,
    pub log: Log,
}
