//! The streaming phase of a session: the loop over the stream's batches beside the checkpoint loop.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Error, beside,
    boundaries::Boundaries,
    extent::Extent,
    goal::Rest,
    heartbeat, held, in_progress, joining,
    messages::Messages,
    opening::{self, Opened},
    partition_watch,
    progress::Checkpointer,
    publisher::Publisher,
    reading,
    routes::Routes,
    session::Session,
    settings::{CaptureDeps, CaptureSettings, Delivery},
    signal_topic, slot_watch,
    stream::Streamer,
    tables::Tables,
};
use crate::{
    lsn::Lsn,
    pipeline::metrics::CaptureMetrics,
    retry::chain,
    schema::TableName,
    source::{
        self,
        spool::Held,
        stream::{Batch, StreamHandle, StreamStatus},
    },
};

/// How long acknowledgements are waited for at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often the topics' largest record size is read.
const TOPIC_INTERVAL: Duration = Duration::from_secs(10);
/// How often the queue behind the stream, and what is kept of transactions in progress, is shown.
const QUEUE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a session ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to.
    Cancelled,
    /// The next transactions are published under other options, by the next session.
    OptionsEnd,
    /// There is a snapshot, and nothing else is wanted.
    SnapshotTaken,
    /// The next session asks for transactions in progress again, or takes in a table.
    Another,
}

/// Runs one session until an error, until the token is cancelled, or as far as its options hold.
pub(super) async fn run(deps: &CaptureDeps, tables: &Arc<Tables>, token: &CancellationToken) -> Result<Ended, Error> {
    let opened = tokio::select! {
        opened = opening::open(deps, tables) => opened?,
        () = token.cancelled() => return Ok(Ended::Cancelled),
    };
    let Some(opened) = opened else { return Ok(Ended::SnapshotTaken) };
    let Opened { session, publisher, mut batches, handle, versions, below, rest } = opened;
    session.health.set_started();
    session.health.recovered();
    session.health.set_phase(match session.settings.delivery {
        Delivery::AtLeastOnce => "streaming",
        Delivery::ExactlyOnce => "streaming, exactly once",
    });
    let routes = Routes::new(Arc::clone(&session), versions, session.position.ceiling().await);
    let streamer = streamer(&session, routes, &publisher, (below, handle.status()));
    // The stream lives as long as its receiver: it has to confirm what is recorded last.
    let outcome = follow((&session, &publisher), (streamer, rest, below), &mut batches, &handle, token).await;
    let outcome = match outcome {
        Err(Error::Source(absent @ source::Error::PublicationAbsent { .. })) => {
            Err(bridge(&session, below, absent).await)
        }
        outcome => outcome,
    };
    let finished = outcome.is_ok() && finish(&session, &publisher).await;
    publisher.give_up().await;
    // An error of the stream would wait for room in the channel.
    drop(batches);
    handle.stop().await;
    match (&outcome, below) {
        (Ok(Ended::OptionsEnd), Some(_)) if !finished => return Err(Error::StreamEnded),
        (Ok(Ended::OptionsEnd), Some(below)) => hand_on(deps, tables, below),
        (Ok(Ended::Another), _) => {}
        _ => return outcome,
    }
    // Else the next session might find its own predecessor at work: the connection's end takes its time.
    source::lock::unlock(&session.client, &session.settings.slot).await?;
    outcome
}

fn streamer(
    session: &Arc<Session>,
    routes: Routes,
    publisher: &Arc<Publisher>,
    (below, status): (Option<Lsn>, Arc<StreamStatus>),
) -> Streamer {
    let CaptureSettings { prefix, encoder, transactions, .. } = &session.settings;
    let running = |name: &TableName, topic: &str| publisher.topic(topic).filter(|_| !session.tables.is_stopped(name));
    let messages = running(&beside::messages(prefix), encoder.topics.messages());
    let transactions = transactions.as_deref().and_then(|topic| running(&beside::transactions(prefix), topic));
    let messages = Messages::new(Arc::clone(session), Arc::clone(publisher), messages);
    let boundaries = Boundaries::new(Arc::clone(session), Arc::clone(publisher), transactions);
    let publisher = Arc::clone(publisher);
    Streamer::new(Arc::clone(session), (routes, messages, boundaries), publisher, (Extent::new(below), status))
}

/// The server has a change, but no publication of its time: the former one has it, if this one is younger than the change. The
/// next session goes on under that one then.
async fn bridge(session: &Session, below: Option<Lsn>, source: source::Error) -> Error {
    let commit = below.map_or(Lsn(u64::MAX), |below| Lsn(below.0.saturating_sub(1)));
    let end_of_wal = async |former: &str| match source::publication::must_exist(&session.client, former).await {
        Ok(()) => Ok(Some(source::wal::flushed(&session.client).await?)),
        Err(source::Error::PublicationMissing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    };
    match session.position.bridge(commit, end_of_wal).await {
        Ok(Some(former)) => {
            let publication = session.settings.publication.name.clone();
            Error::YoungPublication {
                slot: session.settings.slot.clone(),
                publication,
                former,
                source: Box::new(source),
            }
        }
        Ok(None) => source.into(),
        Err(error) => error,
    }
}

/// Leaves to the next session, which begins at `below`, what holds for it too: a table that only earlier options wanted holds
/// nothing any longer, and is not shown as stopped. That session itself finds the tables that it must leave out.
fn hand_on(deps: &CaptureDeps, tables: &Tables, below: Lsn) {
    tables.republished(below);
    let (beside, patterns): (Vec<_>, _) = (beside::of(&deps.settings).collect(), &deps.settings.publication.tables);
    let is_beside = |table: &TableName| beside.iter().any(|(name, _)| name == table);
    let stopped = tables.retain(|table| is_beside(table) || patterns.matches(table));
    deps.health.retain_stopped(|table| stopped.contains(table));
}

async fn follow(
    (session, publisher): (&Arc<Session>, &Arc<Publisher>),
    (mut streamer, rest, below): (Streamer, Option<Rest>, Option<Lsn>),
    batches: &mut mpsc::Receiver<Result<Batch, source::Error>>,
    handle: &StreamHandle,
    token: &CancellationToken,
) -> Result<Ended, Error> {
    let checkpoints = checkpointer(session, publisher).run(session.settings.checkpoint_interval);
    let mut checkpoints = AbortOnDropHandle::new(tokio::spawn(checkpoints));
    let slot = watch_slot((Arc::clone(session), Arc::clone(publisher)), handle.status());
    let mut slot = AbortOnDropHandle::new(tokio::spawn(slot));
    let topics = watch_topics(Arc::clone(session), Arc::clone(publisher));
    let mut topics = AbortOnDropHandle::new(tokio::spawn(topics));
    let heartbeats = heartbeat::run(Arc::clone(session), Arc::clone(publisher));
    let mut heartbeats = AbortOnDropHandle::new(tokio::spawn(heartbeats));
    let mut beats = AbortOnDropHandle::new(tokio::spawn(heartbeat::run_at_source(Arc::clone(session))));
    let mut signals = AbortOnDropHandle::new(tokio::spawn(signal_topic::run(Arc::clone(session))));
    let mut again = AbortOnDropHandle::new(tokio::spawn(until_another(Arc::clone(session), below)));
    let read = reading::run(Arc::clone(session), Arc::clone(publisher), (rest, below));
    let mut read = AbortOnDropHandle::new(tokio::spawn(read));
    let partitions = watch_partitions(Arc::clone(session), Arc::clone(publisher), below);
    let mut partitions = AbortOnDropHandle::new(tokio::spawn(partitions));
    let mut another = false;
    loop {
        if another && streamer.is_between() {
            return Ok(Ended::Another);
        }
        let batch = tokio::select! {
            biased;
            () = token.cancelled() => return Ok(Ended::Cancelled),
            ended = &mut checkpoints => return Err(end_of(ended)),
            ended = &mut slot => return Err(end_of(ended)),
            ended = &mut topics => return Err(end_of(ended)),
            ended = &mut heartbeats => return Err(end_of(ended)),
            ended = &mut beats => return Err(end_of(ended)),
            ended = &mut signals => return Err(end_of(ended)),
            ended = &mut partitions => return Err(end_of(ended)),
            ended = &mut read => return Err(end_of(ended)),
            asked = &mut again, if !another => match asked {
                Ok(Ok(())) => {
                    another = true;
                    continue;
                }
                ended => return Err(end_of(ended)),
            },
            batch = batches.recv() => batch.ok_or(Error::StreamEnded)?,
        };
        match batch {
            Ok(Batch { items, permit }) => {
                tokio::select! {
                    taken = streamer.take_all(items) => taken?,
                    ended = &mut checkpoints => return Err(end_of(ended)),
                    () = token.cancelled() => return Ok(Ended::Cancelled),
                }
                drop(permit);
                // Of a transaction that comes from the spool nothing else is heard until its end.
                session.health.heard();
            }
            // The server reads on behind the session's end, where its publication need not be.
            Err(error) if error.change().is_some_and(|change| streamer.failed_at(change)) => {}
            Err(error) => return Err(error.into()),
        }
        if streamer.is_through() {
            tokio::select! {
                drained = publisher.drained() => drained?,
                ended = &mut checkpoints => return Err(end_of(ended)),
                () = token.cancelled() => return Ok(Ended::Cancelled),
            }
            return Ok(Ended::OptionsEnd);
        }
    }
}

/// Waits until another session would do better: it asks for transactions in progress again, takes in a table, lets stopped ones go on, or
/// does not hold the slot for them any more. One that ends at a bound is followed by another soon.
async fn until_another(session: Arc<Session>, below: Option<Lsn>) -> Result<(), Error> {
    tokio::select! {
        possible = in_progress::until_possible(&session) => possible,
        due = joining::until_due(&session), if below.is_none() => due,
        beyond = held::until_beyond_limit(&session), if below.is_none() => beyond,
        () = session.another.notified() => Ok(()),
    }
}

/// Why a task beside the stream ended; it has no good end.
fn end_of(task: Result<Result<(), Error>, tokio::task::JoinError>) -> Error {
    task.map_or(Error::StreamEnded, |ended| ended.err().unwrap_or(Error::StreamEnded))
}

fn checkpointer(session: &Arc<Session>, publisher: &Arc<Publisher>) -> Checkpointer {
    Checkpointer { session: Arc::clone(session), publisher: Arc::clone(publisher) }
}

/// Waits a while for what is in flight and records it; what is not acknowledged by then is not confirmed (trap T59).
async fn finish(session: &Arc<Session>, publisher: &Arc<Publisher>) -> bool {
    let settled = tokio::time::timeout(DRAIN_LIMIT, async {
        publisher.settled().await?;
        checkpointer(session, publisher).once().await?;
        publisher.settled().await
    });
    let settled = settled.await;
    match &settled {
        Ok(Ok(())) => tracing::info!("everything that was sent is acknowledged and recorded"),
        Ok(Err(error)) => tracing::warn!(%error, "the last records will be published again"),
        Err(_elapsed) => {
            tracing::warn!("kafka did not acknowledge the last records in time; they will be published again");
        }
    }
    matches!(settled, Ok(Ok(())))
}

/// A session that ends at a bound leaves it to the one behind it, whose tables are the configured ones.
async fn watch_partitions(session: Arc<Session>, publisher: Arc<Publisher>, below: Option<Lsn>) -> Result<(), Error> {
    match below {
        None => partition_watch::watch(&session, &publisher).await,
        Some(_) => std::future::pending().await,
    }
}

/// Watches the slot, and shows what waits to be taken from its stream.
async fn watch_slot(
    (session, publisher): (Arc<Session>, Arc<Publisher>),
    status: Arc<StreamStatus>,
) -> Result<(), Error> {
    tokio::select! {
        lost = slot_watch::until_lost(&session, Some(&publisher)) => Err(lost),
        () = show_queue(&session.metrics, &status) => Ok(()),
    }
}

/// Reads at intervals what size of records the topics take (PROTOCOL, "Producing without gaps"; trap T50).
async fn watch_topics(session: Arc<Session>, publisher: Arc<Publisher>) -> Result<(), Error> {
    let names: Vec<_> = publisher.limited().map(|topic| Arc::clone(&topic.name)).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    loop {
        tokio::time::sleep(TOPIC_INTERVAL).await;
        match session.cluster.limits(&names).await {
            Ok(limits) => publisher.fit(&limits)?,
            // Capture waits for Kafka where it needs it, and tells so there.
            Err(error) => tracing::debug!(error = %chain(&error), "cannot read the topics' configuration"),
        }
    }
}

async fn show_queue(metrics: &CaptureMetrics, status: &StreamStatus) {
    loop {
        tokio::time::sleep(QUEUE_INTERVAL).await;
        metrics.queue_bytes.set(i64::try_from(status.buffered_bytes()).unwrap_or(i64::MAX));
        let Held { transactions, memory, disk } = status.spooled();
        metrics.in_progress.set(i64::try_from(transactions).unwrap_or(i64::MAX));
        metrics.spool_memory.set(i64::try_from(memory).unwrap_or(i64::MAX));
        metrics.spool_disk.set(i64::try_from(disk).unwrap_or(i64::MAX));
    }
}
