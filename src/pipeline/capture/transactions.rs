//! Exactly-once delivery: Kafka transactions around whatever is sent, each with its own record of how far it goes (PROTOCOL,
//! "Exactly once into Kafka"; trap T49).
//!
//! ```text
//! stream, snapshot ── Scope: one event, one barrier ──► producer     open: shared, as many at a time as there are senders
//!                             commits ── alone ───────► producer     ≤ commit_interval after the first record, or when full
//! ```
//!
//! A transaction begins and ends between events, wherever source transactions do. What is cut inside of a scope must never be
//! committed: the next session would take the event for published.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};

use super::{
    delivered::{Delivered, KEY},
    deliveries::{Deliveries, NO_UNIT, Observer},
};
use crate::{
    event::{RecordBuf, RecordSpans},
    kafka::{self, Producer},
    lsn::Position,
    pipeline::metrics::CaptureMetrics,
};

/// Bytes after which a transaction is committed before its time: so much comes again where a session is cut.
const FULL_BYTES: usize = 32 << 20;
/// How often it is looked whether the brokers have everything.
const LOOK: Duration = Duration::from_millis(1);
/// How long the brokers may take to give a transaction up whose session has ended.
const ABORT_LIMIT: Duration = Duration::from_secs(3);
/// How long that may hold up whoever drops a session.
const DROP_LIMIT: Duration = Duration::from_secs(1);

/// The transaction that is open, and who may send.
pub(super) struct Transactions {
    /// Held shared by whoever sends the records of an event, and alone by a commit: nothing may be sent meanwhile.
    gate: Arc<RwLock<()>>,
    open: Mutex<Open>,
    /// The transaction has its first record, or is to be committed at once.
    wake: Notify,
    interval: Duration,
    /// The session has ended.
    given_up: AtomicBool,
}

struct Open {
    delivered: Delivered,
    /// What the last transaction recorded.
    recorded: Vec<u8>,
    /// Since its first record was sent; `None` while it has none.
    since: Option<Instant>,
    records: u64,
    bytes: usize,
    /// To be committed at once.
    hurried: bool,
    /// An event was sent by half.
    torn: bool,
}

impl Transactions {
    pub(super) fn new(delivered: Delivered, interval: Duration) -> Self {
        let open = Open {
            recorded: delivered.text(),
            delivered,
            since: None,
            records: 0,
            bytes: 0,
            hurried: false,
            torn: false,
        };
        Self {
            gate: Arc::default(),
            open: Mutex::new(open),
            wake: Notify::new(),
            interval,
            given_up: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is sent and not committed.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().since.is_none()
    }

    /// Has what is sent by now committed at once.
    pub(super) fn hurry(&self) {
        let mut open = self.lock();
        if open.since.is_some() {
            open.hurried = true;
            self.wake.notify_one();
        }
    }

    /// The table of a topic stops at this position.
    pub(super) fn stop(&self, topic: &str, at: Position) {
        self.lock().delivered.stop(topic, at);
    }

    /// Waits until the transaction is to be committed.
    async fn due(&self) {
        loop {
            let (since, now) = {
                let open = self.lock();
                (open.since, open.hurried || open.torn || open.bytes >= FULL_BYTES)
            };
            match since {
                Some(_) if now => return,
                Some(since) => {
                    let due = tokio::time::Instant::from_std(since + self.interval);
                    if tokio::time::timeout_at(due, self.wake.notified()).await.is_err() {
                        return;
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// A record is about to be sent.
    fn sending(&self, bytes: usize) {
        let mut open = self.lock();
        open.records += 1;
        let was_full = open.bytes >= FULL_BYTES;
        open.bytes += bytes;
        if open.since.is_none() {
            open.since = Some(Instant::now());
            self.wake.notify_one();
        } else if !was_full && open.bytes >= FULL_BYTES {
            self.wake.notify_one();
        }
    }

    /// Everything up to the position is in the transaction.
    fn reach(&self, at: Position) {
        self.lock().delivered.reach(at);
    }

    fn tear(&self) {
        self.lock().torn = true;
        self.wake.notify_one();
    }

    /// The session has ended: what is open is given up at the brokers, so that readers need not wait for its time-out.
    pub(super) async fn give_up(&self, producer: &Arc<Producer<Observer>>, metrics: &CaptureMetrics) {
        self.given_up.store(true, Ordering::Relaxed);
        let aborted = async {
            let _alone = self.gate.write().await;
            if self.is_empty() {
                return;
            }
            metrics.transactions("aborted").inc();
            let producer = Arc::clone(producer);
            let aborted = tokio::task::spawn_blocking(move || producer.abort(ABORT_LIMIT)).await;
            if let Ok(Err(error)) = aborted {
                tracing::debug!(error = %crate::retry::chain(&error), "the brokers end the transaction later");
            }
        };
        let _elapsed = tokio::time::timeout(2 * ABORT_LIMIT, aborted).await;
    }

    /// The same where nobody can wait.
    pub(super) fn drop_open(&self, producer: &Producer<Observer>, metrics: &CaptureMetrics) {
        if !self.given_up.swap(true, Ordering::Relaxed) && !self.is_empty() {
            metrics.transactions("aborted").inc();
            if let Err(error) = producer.abort(DROP_LIMIT) {
                tracing::debug!(error = %crate::retry::chain(&error), "the brokers end the transaction later");
            }
        }
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// The records of one event, which are committed together or not at all.
pub(super) struct Scope {
    at: Option<Position>,
    held: Option<Held>,
}

struct Held {
    transactions: Arc<Transactions>,
    _gate: OwnedRwLockReadGuard<()>,
    has_sent: bool,
}

impl Scope {
    /// Where every record counts by itself.
    pub(super) const fn free(at: Option<Position>) -> Self {
        Self { at, held: None }
    }

    /// Waits until no commit is under way, and keeps the next one waiting.
    pub(super) async fn enter(transactions: &Arc<Transactions>, at: Option<Position>) -> Self {
        let gate = Arc::clone(&transactions.gate).read_owned().await;
        let held = Held { transactions: Arc::clone(transactions), _gate: gate, has_sent: false };
        Self { at, held: Some(held) }
    }

    /// The event's position; `None` for rows of a snapshot, which have none of their own.
    pub(super) const fn at(&self) -> Option<Position> {
        self.at
    }

    /// A record is about to be sent.
    pub(super) fn sending(&mut self, bytes: usize) {
        if let Some(held) = &mut self.held {
            held.has_sent = true;
            held.transactions.sending(bytes);
        }
    }

    /// All that there is to send of the event is sent; its last ordinal is this one.
    pub(super) fn done(mut self, last: u64) {
        let Some(held) = &mut self.held else { return };
        if let (true, Some(at)) = (held.has_sent, self.at) {
            held.transactions.reach(Position { ordinal: last, ..at });
        }
        held.has_sent = false;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.has_sent {
            self.transactions.tear();
        }
    }
}

/// Commits transactions until one fails.
pub(super) struct Committer {
    pub(super) transactions: Arc<Transactions>,
    pub(super) producer: Arc<Producer<Observer>>,
    pub(super) deliveries: Arc<Deliveries>,
    pub(super) topic: String,
    pub(super) metrics: CaptureMetrics,
}

impl Committer {
    pub(super) async fn run(self) {
        loop {
            self.transactions.due().await;
            // A sender that the producer refuses waits for the reason, which the refused commit of a spoiled transaction tells.
            let alone = tokio::select! {
                biased;
                () = self.deliveries.spoiled() => None,
                alone = self.transactions.gate.write() => Some(alone),
            };
            let outcome =
                if alone.is_some() { self.commit().await } else { self.end().await.and(Err(kafka::Error::Torn)) };
            if let Err(error) = outcome {
                // Before the others may send: the producer refuses their records, and this says why.
                self.deliveries.fail(error);
                return;
            }
            drop(alone);
        }
    }

    async fn commit(&self) -> Result<(), kafka::Error> {
        let begun = Instant::now();
        let (torn, records, text) = {
            let open = self.transactions.lock();
            let text = open.delivered.text();
            (open.torn, open.records, (text != open.recorded).then_some(text))
        };
        if torn {
            return Err(kafka::Error::Torn);
        }
        let records = records + u64::from(text.is_some());
        if let Some(text) = &text {
            self.record(text).await?;
        }
        self.end().await?;
        // The reports come from another thread than the commit.
        while self.deliveries.uncommitted() < records && !self.deliveries.has_failed() {
            tokio::task::yield_now().await;
        }
        self.deliveries.committed();
        self.metrics.transactions("committed").inc();
        self.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
        let mut open = self.transactions.lock();
        if let Some(text) = text {
            open.recorded = text;
        }
        (open.since, open.records, open.bytes, open.hurried) = (None, 0, 0, false);
        drop(open);
        self.producer.begin()
    }

    /// Lets the brokers commit what is sent, once they have it: the client's own wait for that takes a tenth of a second where another
    /// thread takes the reports.
    async fn end(&self) -> Result<(), kafka::Error> {
        while self.producer.in_flight() > 0 && !self.deliveries.has_failed() {
            tokio::time::sleep(LOOK).await;
        }
        let (producer, transactions) = (Arc::clone(&self.producer), Arc::clone(&self.transactions));
        let committed = tokio::task::spawn_blocking(move || producer.commit(&transactions.given_up));
        committed.await.map_err(|_stopped| kafka::Error::Closed)?
    }

    /// Sends the record of how far the transaction goes.
    async fn record(&self, text: &[u8]) -> Result<(), kafka::Error> {
        let mut buffer = RecordBuf::default();
        buffer.bytes.extend_from_slice(KEY.as_bytes());
        buffer.bytes.extend_from_slice(text);
        let (key, value) = (0..KEY.len(), KEY.len()..buffer.bytes.len());
        buffer.records.push(RecordSpans { key: Some(key), value: Some(value), headers: 0..0, partition: Some(0) });
        for record in buffer.iter() {
            while !self.producer.try_send(&self.topic, &record, NO_UNIT)? {
                let _elapsed = tokio::time::timeout(Duration::from_millis(10), self.deliveries.changed()).await;
            }
            self.deliveries.unacknowledged.inc();
        }
        Ok(())
    }
}
