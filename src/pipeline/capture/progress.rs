//! The checkpoint loop: a few times a second it records what is acknowledged and tells the sinks how far that is.
//!
//! The progress topic (`walrelay.progress.<prefix>`, one partition) says: every event with a commit LSN below L lies below
//! these offsets. It settles idle partitions, which say nothing themselves (PROTOCOL, "Consistency at the sink", Progress).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{
    Error,
    publisher::Publisher,
    session::Session,
    state::{TopicRecord, Update},
    topic::Topic,
};
use crate::{
    event::{RecordBuf, RecordSpans},
    lsn::{Lsn, Position},
    pipeline::metrics::lsn_value,
    progress::{Progress, progress_topic},
};

/// What the checkpoint loop works with.
pub(super) struct Checkpointer {
    pub(super) session: Arc<Session>,
    pub(super) publisher: Arc<Publisher>,
}

/// A record is repeated after this long without news: a sink that hears nothing cannot know whether capture lives.
const REPEAT: Duration = Duration::from_secs(5);

/// How far the sinks and the state were told.
#[derive(Default)]
struct Told {
    acknowledged: Lsn,
    /// As far as sinks may rely on it.
    complete: Lsn,
    flush: Lsn,
    ends: BTreeMap<Arc<str>, Vec<i64>>,
    stopped: BTreeMap<String, Position>,
    unread: BTreeSet<String>,
    kept_back: BTreeMap<String, Position>,
    /// When the sinks were told.
    at: Option<Instant>,
}

impl Told {
    fn is_news(&self, before: &Self) -> bool {
        (self.acknowledged, self.complete, self.flush) != (before.acknowledged, before.complete, before.flush)
            || self.ends != before.ends
            || self.stopped != before.stopped
            || self.unread != before.unread
            || self.kept_back != before.kept_back
    }
}

impl Checkpointer {
    /// Runs until it fails or is dropped.
    pub(super) async fn run(self, interval: Duration) -> Result<(), Error> {
        let mut ticker = tokio::time::interval(interval);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            ticker.tick().await;
            told = self.checkpoint(told).await?;
        }
    }

    /// One round.
    pub(super) async fn once(&self) -> Result<(), Error> {
        self.checkpoint(Told::default()).await.map(drop)
    }

    async fn checkpoint(&self, told: Told) -> Result<Told, Error> {
        self.publisher.check()?;
        // Before the ends, which have all rows of what is read by now.
        let unread = self.session.resyncs.unread_topics();
        let kept_back = self.session.resyncs.kept_back().into_iter().collect();
        // A resync that the stream begins meanwhile is of a transaction that is not acknowledged.
        let (acknowledged, complete, flush, in_flight) = self.publisher.deliveries().tracker(|tracker| {
            tracker.hold_for_resync(self.session.resyncs.hold(tracker.acknowledged()));
            (tracker.acknowledged(), tracker.complete(), tracker.flush(), tracker.in_flight())
        });
        self.session.metrics.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        if in_flight == 0 {
            self.session.health.caught_up();
        }
        // Taken after the LSN, so the offsets cover at least what is below it.
        let ends: BTreeMap<_, _> =
            self.publisher.topics().map(|topic| (Arc::clone(&topic.name), topic.ends())).collect();
        let stopped = self.session.stopped_topics();
        let topic = progress_topic(&self.session.settings.prefix);
        let now = Told { acknowledged, complete, flush, ends, stopped, unread, kept_back, at: Some(Instant::now()) };
        if !now.is_news(&told) {
            if told.at.is_some_and(|at| at.elapsed() < REPEAT) {
                return Ok(told);
            }
            self.publisher.send_apart(&topic, &self.record(&now)).await?;
            return Ok(now);
        }
        let (closed, mut updates) = self.closed_barriers(acknowledged).await;
        if now.ends != told.ends {
            updates.extend(self.publisher.topics().map(|topic| topic_update(topic)));
        }
        // Whatever is below the position was noted before.
        updates.extend(self.session.tables.lacking.unrecorded().into_iter().map(Update::BadRows));
        let past = self.session.resyncs.past(flush);
        updates.extend(past.iter().map(|begin| Update::ForgetResync(*begin)));
        self.session.position.advance(flush, acknowledged, updates).await?;
        self.session.resyncs.forget(&past);
        self.session.barriers.lock().await.retain(|position| !closed.contains(position));
        self.session.metrics.flush.set(lsn_value(flush));
        self.publisher.send_apart(&topic, &self.record(&now)).await?;
        Ok(now)
    }

    async fn closed_barriers(&self, acknowledged: Lsn) -> (Vec<Position>, Vec<Update>) {
        let open = self.session.barriers.lock().await;
        let closed: Vec<_> = open.iter().filter(|position| position.commit < acknowledged).copied().collect();
        let updates = closed.iter().map(|position| Update::CloseBarrier(*position)).collect();
        (closed, updates)
    }

    fn record(&self, told: &Told) -> RecordBuf {
        let offsets = told.ends.iter().map(|(topic, ends)| (topic.to_string(), ends.clone())).collect();
        let progress = Progress {
            epoch: self.session.epoch,
            lsn: told.complete,
            offsets,
            stopped: told.stopped.clone(),
            unread: told.unread.clone(),
            kept_back: told.kept_back.clone(),
        };
        let mut records = RecordBuf::default();
        records.bytes.extend_from_slice(b"progress");
        let key = 0..records.bytes.len();
        records.bytes.extend_from_slice(
            &serde_json::to_vec(&progress).expect("numbers and texts under text keys are always valid JSON"),
        );
        let value = key.end..records.bytes.len();
        records.records.push(RecordSpans { key: Some(key), value: Some(value), headers: 0..0, partition: Some(0) });
        records
    }
}

/// How far a topic is acknowledged.
pub(super) fn topic_update(topic: &Topic) -> Update {
    let record = TopicRecord { id: topic.id.clone(), partitions: topic.partitions, ends: topic.ends() };
    Update::Topic { name: topic.name.to_string(), record }
}
