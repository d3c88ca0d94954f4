//! Consumers, sink and coordinator, started again after errors that may pass.
//!
//! Two consumers feed one channel: the group's (or the explicit partitions), and one for the progress topic alone, since
//! every process needs all progress records whichever partitions it owns.

use std::{collections::BTreeMap, future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    kafka::{self, Admin, Consumer, ConsumerEvent, ConsumerHandle, ConsumerSettings, Subscription},
    pipeline::{
        apply::{
            coordinator::Coordinator,
            decode::RecordDecoder,
            deps::{Deps, Limits, TableOf},
            error::Error,
            siblings::{self, Explicit},
        },
        health::Health,
        metrics::ApplyMetrics,
    },
    progress::progress_topic,
    record::TopicNames,
    registry::Registry,
    retry::{Backoff, Classify as _, Severity, chain},
    sink::{self, Sink},
    types::Placeholder,
};

/// Bytes of progress records that may wait.
const PROGRESS_BYTES: usize = 1 << 20;
/// How long the cluster may take to tell its topics.
const METADATA_LIMIT: Duration = Duration::from_secs(15);

/// What an apply is made of.
#[derive(Clone)]
pub struct ApplySettings {
    /// The cluster.
    pub kafka: kafka::Settings,
    /// The consumer of data topics.
    pub consumer: ConsumerSettings,
    /// What it consumes.
    pub subscription: Subscription,
    /// Topic prefix; names the progress topic.
    pub prefix: String,
    /// How the topics of tables are named.
    pub names: TopicNames,
    /// The source table of a topic that this sink applies, in all its processes.
    pub table_of: Arc<TableOf>,
    /// How long a process with explicit partitions waits for the owners of the others.
    pub siblings_timeout: Duration,
    /// The registry.
    pub registry: Registry,
    /// What stands in other producers' records for values that they were not sent.
    pub placeholder: Placeholder,
    /// The target.
    pub sink: sink::Settings,
    /// Bounds.
    pub limits: Limits,
}

/// Applies until `shutdown` resolves or an error does not pass by itself.
///
/// # Errors
/// Definite and fatal errors that concern more than one table.
pub async fn supervise(
    settings: &ApplySettings,
    metrics: &ApplyMetrics,
    health: &Health,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut shutdown = pin!(shutdown);
    let mut backoff = Backoff::new();
    // Once they were there, a sibling's absence is told by the barriers that wait for it.
    let mut patience = Some(settings.siblings_timeout);
    loop {
        let began = tokio::time::Instant::now();
        let started = tokio::select! {
            started = start(settings, metrics, health, patience) => started,
            () = &mut shutdown => return Ok(()),
        };
        let outcome = match started {
            Ok((coordinator, _progress)) => {
                patience = None;
                coordinator.run(&mut shutdown).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return Ok(()) };
        metrics.errors.count(error.severity());
        if error.severity() != Severity::Transient {
            return Err(error);
        }
        if began.elapsed() > Duration::from_secs(30) {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(error = chain(&error), hint = error.hint(), retry_in_ms, "apply begins again");
        health.retrying(chain(&error));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = &mut shutdown => return Ok(()),
        }
    }
}

/// Connects everything; the handle keeps the progress consumer open.
async fn start(
    settings: &ApplySettings,
    metrics: &ApplyMetrics,
    health: &Health,
    patience: Option<Duration>,
) -> Result<(Coordinator<RecordDecoder<Registry>>, ConsumerHandle), Error> {
    let admin = Arc::new(Admin::new(&settings.kafka)?);
    let partition_counts = partition_counts(&admin).await?;
    let explicit = match &settings.subscription {
        Subscription::Group { .. } => None,
        Subscription::Assigned { partitions, .. } => {
            check_explicit(&admin, partitions, &partition_counts).await?;
            Some(Explicit { partitions: partitions.clone(), patience })
        }
    };
    let topic = progress_topic(&settings.prefix);
    let (events, flow, progress) = consumers(settings, &topic)?;
    let (registry, row_bytes) = (settings.registry.clone(), settings.limits.padding_bytes());
    let (placeholder, names) = (settings.placeholder.clone(), settings.names.clone());
    let decoder = move || RecordDecoder::new(registry.clone(), row_bytes, placeholder.clone(), names.clone());
    let deps = Deps {
        sink: Arc::new(Sink::new(settings.sink.clone())),
        events,
        flow: Box::new(flow),
        decoder: Box::new(decoder),
        table_of: Arc::clone(&settings.table_of),
        progress_topic: Some(topic),
        partition_counts,
        explicit,
        topic_ids: Arc::new(move |topics| admin.topic_ids(topics, METADATA_LIMIT)),
        limits: settings.limits,
        metrics: metrics.clone(),
        health: health.clone(),
    };
    Ok((Coordinator::start(deps).await?, progress))
}

async fn partition_counts(admin: &Arc<Admin>) -> Result<BTreeMap<String, i32>, Error> {
    let admin = Arc::clone(admin);
    let asked = tokio::task::spawn_blocking(move || admin.partition_counts(METADATA_LIMIT)).await;
    Ok(asked??)
}

async fn check_explicit(
    admin: &Arc<Admin>,
    partitions: &[(String, i32)],
    counts: &BTreeMap<String, i32>,
) -> Result<(), Error> {
    let (admin, partitions, counts) = (Arc::clone(admin), partitions.to_vec(), counts.clone());
    tokio::task::spawn_blocking(move || siblings::check(&admin, &partitions, &counts, METADATA_LIMIT)).await?
}

type Consumers = (mpsc::UnboundedReceiver<ConsumerEvent>, ConsumerHandle, ConsumerHandle);

fn consumers(settings: &ApplySettings, progress_topic: &str) -> Result<Consumers, Error> {
    let (mut data, flow) = Consumer::spawn(&settings.kafka, &settings.consumer, settings.subscription.clone())?;
    let own = ConsumerSettings { properties: BTreeMap::new(), budget_bytes: PROGRESS_BYTES };
    let group = match &settings.subscription {
        Subscription::Group { group, .. } | Subscription::Assigned { group, .. } => format!("{group}.progress"),
    };
    let subscription = Subscription::Assigned { group, partitions: vec![(progress_topic.to_owned(), 0)] };
    let (mut progress, handle) = Consumer::spawn(&settings.kafka, &own, subscription)?;
    // Bounded by the byte budgets of both consumers.
    let (events, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = data.recv() => event,
                event = progress.recv() => event,
                () = events.closed() => None,
            };
            let Some(event) = event else { return };
            if events.send(event).is_err() {
                return;
            }
        }
    });
    Ok((receiver, flow, handle))
}
