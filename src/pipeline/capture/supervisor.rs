//! Sessions one after the other: what to do when one ends.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Error, start::GapPolicy, state::StoppedTable, streaming};
use crate::{
    kafka::{self, ProducerSettings, TopicSettings},
    lsn::{Lsn, Position},
    pipeline::{health::Health, metrics::CaptureMetrics},
    postgres, record,
    registry::RegistrySettings,
    retry::{Backoff, Classify, Severity},
    schema::TableName,
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
    /// How data topics are created.
    pub topics: TopicSettings,
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
    /// What to do when WAL is missing.
    pub on_gap: GapPolicy,
    /// The replication stream's bounds.
    pub stream: source::stream::StreamSettings,
    /// How often positions are recorded.
    pub checkpoint_interval: Duration,
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

/// What outlives a session: the tables that stopped while this process runs (a new process tries them again), and which
/// table a topic belongs to.
#[derive(Debug, Default)]
pub(super) struct Tables(Mutex<Register>);

#[derive(Debug, Default)]
struct Register {
    stopped: BTreeMap<TableName, StoppedTable>,
    by_topic: BTreeMap<String, TableName>,
}

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopped(&self, table: &TableName) -> bool {
        self.lock().stopped.contains_key(table)
    }

    pub(super) fn stop(&self, table: TableName, stopped: StoppedTable) {
        self.lock().stopped.entry(table).or_insert(stopped);
    }

    /// The lowest commit at which a table stopped: the flush LSN stays there.
    pub(super) fn lowest_stop(&self) -> Option<Lsn> {
        self.lock().stopped.values().map(|stopped| stopped.position.commit).min()
    }

    /// Notes whose topic it is; the other table, if another one has it already (trap T57).
    pub(super) fn name_topic(&self, topic: &str, table: &TableName) -> Option<TableName> {
        self.lock().by_topic.insert(topic.to_owned(), table.clone()).filter(|other| other != table)
    }

    fn of_topic(&self, topic: &str) -> Option<TableName> {
        self.lock().by_topic.get(topic).cloned()
    }
}

/// Captures until `shutdown` resolves or an error is fatal.
pub async fn run(deps: CaptureDeps, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let token = CancellationToken::new();
    let cancel = token.clone();
    let watcher = tokio::spawn(async move {
        shutdown.await;
        cancel.cancel();
    });
    let outcome = supervise(&deps, &token).await;
    watcher.abort();
    outcome
}

async fn supervise(deps: &CaptureDeps, token: &CancellationToken) -> Result<(), Error> {
    let tables = Arc::new(Tables::default());
    let mut backoff = Backoff::new();
    loop {
        let began = tokio::time::Instant::now();
        let Err(error) = streaming::run(deps, &tables, token).await else { return Ok(()) };
        if token.is_cancelled() {
            return Ok(());
        }
        deps.metrics.errors.count(error.severity());
        match error.severity() {
            Severity::Fatal => return Err(error),
            Severity::Definite => match stop_by_topic(deps, &tables, &error) {
                true => {}
                false => return Err(error),
            },
            Severity::Transient => {}
        }
        if began.elapsed() > Duration::from_secs(30) {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::warn!(
            error = %chain(&error),
            hint = error.hint(),
            retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "capture session ended"
        );
        deps.health.retrying(chain(&error));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = token.cancelled() => return Ok(()),
        }
    }
}

/// The brokers refuse a topic for good: its table stops, so that the next session leaves it out and goes on. Where it
/// stopped is unknown, so nothing of it counts as published: the flush LSN stays where it is (PROTOCOL, "Producing without
/// gaps").
fn stop_by_topic(deps: &CaptureDeps, tables: &Tables, error: &Error) -> bool {
    let Error::Kafka(kafka::Error::Delivery { topic, .. } | kafka::Error::Produce { topic, .. }) = error else {
        return false;
    };
    let Some(table) = tables.of_topic(topic) else { return false };
    let reason = chain(error);
    tracing::error!(table = %table, reason, hint = error.hint(), "table stopped");
    deps.health.stop_table(table.to_string(), reason.clone());
    tables.stop(table, StoppedTable { position: Position::default(), reason });
    true
}

/// The error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
