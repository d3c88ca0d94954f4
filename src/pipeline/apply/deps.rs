//! What apply works with.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    kafka::{self, ConsumerEvent, ConsumerHandle, TopicPartition},
    pipeline::{apply::siblings::Explicit, health::Health, metrics::ApplyMetrics},
    schema::TableName,
    sink::Sink,
};

/// How much is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that apply in parallel.
    pub workers: usize,
    /// Records of one target transaction.
    pub batch_records: usize,
    /// Bytes of records of one target transaction.
    pub batch_bytes: usize,
    /// How long a record waits for company while another transaction runs.
    pub linger: Duration,
    /// How long an ordering error that other lanes may resolve waits for them before its table stops.
    pub patience: Duration,
    /// How often a lane is tried again whose table somebody locks: each time takes the others of its job as long as the server waits.
    pub locked_every: Duration,
    /// The consumer's budget in bytes; lanes are paused before they use it up.
    pub budget_bytes: usize,
}

impl Limits {
    /// Bytes by which the texts of one job's events may be longer than usual for their records: its worker's share of the
    /// budget. A single row may need as much.
    #[must_use]
    pub const fn padding_bytes(&self) -> usize {
        match self.budget_bytes.checked_div(self.workers) {
            Some(share) => share,
            None => self.budget_bytes,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 4,
            batch_records: 20_000,
            batch_bytes: 16 << 20,
            linger: Duration::from_millis(50),
            patience: Duration::from_mins(1),
            locked_every: Duration::from_secs(10),
            budget_bytes: 128 << 20,
        }
    }
}

/// Tells the consumer which partitions to fetch.
pub trait FlowControl: Send {
    /// Stops fetching.
    fn pause(&self, partitions: Vec<TopicPartition>);
    /// Fetches again.
    fn resume(&self, partitions: Vec<TopicPartition>);
}

impl FlowControl for ConsumerHandle {
    fn pause(&self, partitions: Vec<TopicPartition>) {
        Self::pause(self, partitions);
    }

    fn resume(&self, partitions: Vec<TopicPartition>) {
        Self::resume(self, partitions);
    }
}

/// Tells the ids (base64) of those of the topics that exist; `None` where the broker gives none. May block for seconds.
pub type TopicIds = Arc<dyn Fn(&[&str]) -> Result<BTreeMap<String, Option<String>>, kafka::Error> + Send + Sync>;

/// The source table of a topic of change events, as its name tells; `None`: the topic is not applied.
pub type TableOf = dyn Fn(&str) -> Option<TableName> + Send + Sync;

/// What apply works with.
pub struct Deps<D> {
    /// The target.
    pub sink: Arc<Sink>,
    /// What the consumer tells.
    pub events: mpsc::UnboundedReceiver<ConsumerEvent>,
    /// What the consumer is told.
    pub flow: Box<dyn FlowControl>,
    /// Makes a decoder for each worker.
    pub decoder: Box<dyn Fn() -> D + Send + Sync>,
    /// The source table of a topic that this sink applies, in all its processes.
    pub table_of: Arc<TableOf>,
    /// The progress topic, which is consumed beside the data topics.
    pub progress_topic: Option<String>,
    /// Partition counts of the topics, as far as known.
    pub partition_counts: BTreeMap<String, i32>,
    /// The partitions that were given to this process; `None`: a group assigns them.
    pub explicit: Option<Explicit>,
    /// Tells a topic from another one of its name.
    pub topic_ids: TopicIds,
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub metrics: ApplyMetrics,
    /// Well-being.
    pub health: Health,
}
