//! What a capture is made of.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    kafka::{self, ProducerSettings, Transactional},
    pipeline::{health::Health, metrics::CaptureMetrics, topic_plan::TopicPlan},
    postgres, record,
    registry::RegistrySettings,
    source,
};

/// Whether the rows that are there before the slot are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotMode {
    /// Once, through the slot's exported snapshot.
    #[default]
    Initial,
    /// Never: only what changes from now on.
    Never,
    /// Once, and nothing else: capture ends when it is acknowledged, and leaves no slot.
    Only,
    /// Once, and again whenever a gap or a fork makes it necessary.
    WhenNeeded,
}

impl SnapshotMode {
    /// Whether rows are read at all.
    #[must_use]
    pub const fn copies(self) -> bool {
        !matches!(self, Self::Never)
    }
}

/// What to do when the server may not keep the log until a snapshot is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SnapshotGuard {
    /// Say so, and begin.
    #[default]
    Warn,
    /// Exit with an error.
    Stop,
    /// Nothing.
    Off,
}

/// What to do when the WAL between the recorded position and the slot is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapPolicy {
    /// Exit with an error that says what happened.
    #[default]
    Stop,
    /// Where the slot is ahead of what was published, go on at the slot: what was committed between is in no topic. Any other gap
    /// stops.
    TrustSlot,
    /// Drop the slot, empty the tables at the sinks by a barrier, and take a new snapshot.
    Resnapshot,
}

/// Whether stand-bys keep the slot for their promotion (PostgreSQL 17; trap T16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailoverSlot {
    /// A new slot is such where the server can make it so; one that is there stays as it is.
    #[default]
    Auto,
    /// It is, or capture does not begin.
    On,
    /// It is not.
    Off,
}

/// What to do when rows of a table changed in a way that no event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnloggedPolicy {
    /// Stop the table.
    #[default]
    Stop,
    /// Go on: the operator has seen to the sinks.
    Continue,
}

/// What to do when partitions with rows come or go, or are emptied by themselves, which no event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PartitionPolicy {
    /// Tell of it.
    #[default]
    Tell,
    /// Read the table again, too.
    Resync,
    /// Take them for known.
    Accept,
}

/// What to do with the changes of a table that stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StopPolicy {
    /// The slot stays below the first of them.
    #[default]
    Hold,
    /// They are dropped, and the table is read again when it goes on.
    Resync,
}

/// What to do with a change of one row that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BadRowPolicy {
    /// Stop its table.
    #[default]
    Stop,
    /// Leave it out, with a record of it in the topic of dead letters.
    DeadLetter,
    /// Leave it out.
    Skip,
}

impl BadRowPolicy {
    /// Its name in the configuration, and the value of the metrics label `policy`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::DeadLetter => "dead-letter",
            Self::Skip => "skip",
        }
    }
}

/// Whether transactions are published that were themselves replicated from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginFilter {
    /// All are.
    #[default]
    Any,
    /// Only those that were made at the source: no loop where its events come back to it (trap T41).
    None,
}

/// How often a change may come into Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Again after a crash, as a run of events that are there already.
    #[default]
    AtLeastOnce,
    /// Once, for readers of committed records.
    ExactlyOnce,
}

/// What a capture is made of.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    /// The source server.
    pub source: postgres::Settings,
    /// The cluster.
    pub kafka: kafka::Settings,
    /// The producer of change events.
    pub producer: ProducerSettings,
    /// How often a change may come into Kafka.
    pub delivery: Delivery,
    /// Under exactly-once delivery: how long a Kafka transaction is filled.
    pub commit_interval: Duration,
    /// How long the brokers leave one open.
    pub transaction_timeout: Duration,
    /// How data topics are created.
    pub topics: TopicPlan,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// The schema registry.
    pub registry: RegistrySettings,
    /// How events are written.
    pub encoder: record::EncoderSettings,
    /// Topic prefix; also names the state and progress topics.
    pub prefix: String,
    /// The replication slot.
    pub slot: String,
    /// The publication and the tables in it.
    pub publication: source::publication::PublicationSpec,
    /// Whether a snapshot is taken.
    pub snapshot: SnapshotMode,
    /// Connections that read it, at most.
    pub snapshot_connections: usize,
    /// What a connection may have read of tables that is not recorded, in bytes of their blocks.
    pub snapshot_chunk_bytes: u64,
    /// What to do when the slot may be lost before it is through.
    pub snapshot_guard: SnapshotGuard,
    /// Whether stand-bys keep the slot.
    pub failover: FailoverSlot,
    /// What to do when WAL is missing.
    pub on_gap: GapPolicy,
    /// What to do when rows changed without an event.
    pub on_unlogged: UnloggedPolicy,
    /// When partitions with rows come or go.
    pub on_partitions: PartitionPolicy,
    /// What to do with the changes of a table that stopped.
    pub on_stop: StopPolicy,
    /// Bytes of log that the source may keep for stopped tables.
    pub hold_limit: u64,
    /// What to do with a change of one row that cannot be published.
    pub on_bad_row: BadRowPolicy,
    /// The topic whose records ask something of capture, if there is one.
    pub signal_topic: Option<String>,
    /// Whether values may be asked for in binary.
    pub binary: bool,
    /// Whose transactions are published.
    pub origin: OriginFilter,
    /// Whether transactions may be asked for before they commit.
    pub streaming: bool,
    /// The replication stream's bounds.
    pub stream: source::stream::StreamSettings,
    /// How often positions are recorded.
    pub checkpoint_interval: Duration,
    /// How often heartbeats are sent, if at all.
    pub heartbeat_interval: Option<Duration>,
    /// How often heartbeats are written into the source's log, if at all.
    pub source_heartbeat_interval: Option<Duration>,
    /// The topic in which begins and ends of transactions are told, if they are.
    pub transactions: Option<String>,
}

impl CaptureSettings {
    /// Who writes the events of the slot under exactly-once delivery.
    pub(super) fn transactional(&self) -> Transactional {
        let Self { prefix, slot, transaction_timeout, .. } = self;
        Transactional { id: transactional_id(prefix, slot), timeout: *transaction_timeout }
    }
}

/// The `transactional.id` of the producer of a slot's events.
#[must_use]
pub fn transactional_id(prefix: &str, slot: &str) -> String {
    format!("{prefix}.{slot}")
}

/// What [`run`] works with.
#[derive(Clone)]
pub struct CaptureDeps {
    /// Settings.
    pub settings: CaptureSettings,
    /// Readiness and lag.
    pub health: Health,
    /// Counters.
    pub metrics: CaptureMetrics,
}
