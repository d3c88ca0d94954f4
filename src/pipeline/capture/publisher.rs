//! From encoded records to acknowledged transactions: the producer, its delivery reports and the topics they go to.
//!
//! Reports arrive on librdkafka's thread and only touch [`Deliveries`]; the capture task waits on its `changed` bell. The
//! first failed report ends the session: later acknowledgements no longer count (PROTOCOL, "Producing without gaps").

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::IntGauge;
use tokio::sync::Notify;

use super::{Error, topics::DataTopic};
use crate::{
    event::{Record, RecordBuf},
    kafka::{self, Delivery, DeliveryObserver, Producer, ProducerSettings},
    lsn::Lsn,
    pipeline::ack::{AckTracker, Sequence},
};

/// Token of records that belong to no unit of work (progress records).
const NO_UNIT: usize = usize::MAX;
/// Size of a record batch where the topics take it, in bytes.
const DEFAULT_BATCH_BYTES: usize = 1_000_000;
/// How long the report is waited for that tells why the producer takes nothing more.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
/// Bits of a token that name the topic; the rest names the unit.
const TOPIC_BITS: u32 = 16;

/// A topic that records go to.
#[derive(Debug)]
pub(super) struct Topic {
    /// Its index in the tokens.
    index: usize,
    /// Its name.
    pub(super) name: Arc<str>,
    /// Its id, where the broker gives one.
    pub(super) id: Option<String>,
    /// Its partitions.
    pub(super) partitions: i32,
    /// Largest record batch that it takes, in bytes.
    max_message_bytes: AtomicUsize,
    /// Per partition: offset of the last acknowledged record plus one; −1 while nothing is known.
    ends: Vec<AtomicI64>,
}

impl Topic {
    /// Room that a record batch's framing may take beside the record itself.
    const FRAMING_BYTES: usize = 256;

    fn new(index: usize, topic: &DataTopic) -> Self {
        Self {
            index,
            name: topic.name.as_str().into(),
            id: topic.id.clone(),
            partitions: i32::try_from(topic.ends.len()).unwrap_or(i32::MAX),
            max_message_bytes: AtomicUsize::new(topic.max_message_bytes),
            ends: topic.ends.iter().map(|end| AtomicI64::new(*end)).collect(),
        }
    }

    /// Largest record that it takes, in bytes.
    fn max_record_bytes(&self) -> usize {
        self.max_message_bytes.load(Ordering::Relaxed).saturating_sub(Self::FRAMING_BYTES)
    }

    /// Name and partition count, as barriers have them.
    pub(super) fn label(&self) -> (String, i32) {
        (self.name.to_string(), self.partitions)
    }

    /// Next offset of each partition, as far as records are acknowledged.
    pub(super) fn ends(&self) -> Vec<i64> {
        self.ends.iter().map(|end| end.load(Ordering::Acquire)).collect()
    }
}

/// What the delivery reports have told.
#[derive(Debug)]
pub(super) struct Deliveries {
    inner: Mutex<Inner>,
    changed: Notify,
    unacknowledged: IntGauge,
}

#[derive(Debug)]
struct Inner {
    tracker: AckTracker,
    topics: Vec<Arc<Topic>>,
    failure: Option<kafka::Error>,
    /// There was a failure: nothing that is acknowledged later counts.
    has_failed: bool,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the tracker.
    pub(super) fn tracker<T>(&self, work: impl FnOnce(&mut AckTracker) -> T) -> T {
        work(&mut self.lock().tracker)
    }

    /// Waits until a report has come since the last wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The failed delivery, once.
    pub(super) fn take_failure(&self) -> Option<kafka::Error> {
        self.lock().failure.take()
    }
}

/// The observer that the producer calls.
pub(super) struct Observer(Arc<Deliveries>);

impl DeliveryObserver for Observer {
    fn delivered(&self, delivery: Delivery<'_>) {
        let mut inner = self.0.lock();
        if let Some(error) = delivery.error {
            if !std::mem::replace(&mut inner.has_failed, true) {
                inner.failure = Some(error);
            }
        } else if !inner.has_failed && delivery.token != NO_UNIT {
            let topic = delivery.token & ((1 << TOPIC_BITS) - 1);
            let end = usize::try_from(delivery.partition).ok().and_then(|n| inner.topics.get(topic)?.ends.get(n));
            if let Some(end) = end {
                end.fetch_max(delivery.offset + 1, Ordering::AcqRel);
            }
            inner.tracker.acknowledge((delivery.token >> TOPIC_BITS) as Sequence);
        }
        drop(inner);
        self.0.unacknowledged.dec();
        self.0.changed.notify_one();
    }
}

/// Size of record batches that are no larger than what a topic takes, in bytes.
fn batch_bytes(settings: &ProducerSettings, max_message_bytes: usize) -> usize {
    let configured = settings.properties.get("batch.size").and_then(|text| text.parse().ok());
    let limit = max_message_bytes.saturating_sub(Topic::FRAMING_BYTES).max(1);
    limit.min(configured.unwrap_or(DEFAULT_BATCH_BYTES))
}

/// Sends records of units of work.
pub(super) struct Publisher {
    producer: Producer<Observer>,
    deliveries: Arc<Deliveries>,
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    /// Those that only barriers go to.
    departed: BTreeSet<Arc<str>>,
    /// Those that were to be such, and why they are none.
    refused: BTreeMap<String, String>,
    /// Size of a record batch.
    batch_bytes: usize,
}

impl Publisher {
    /// A producer for which everything below `start` is acknowledged. Its record batches fit a topic that takes
    /// `max_message_bytes`: the brokers measure batches, and refuse one for good.
    pub(super) fn new(
        kafka: &kafka::Settings,
        settings: &ProducerSettings,
        start: Lsn,
        max_message_bytes: usize,
        unacknowledged: IntGauge,
    ) -> Result<Self, Error> {
        let inner = Inner { tracker: AckTracker::new(start), topics: Vec::new(), failure: None, has_failed: false };
        let deliveries = Arc::new(Deliveries { inner: Mutex::new(inner), changed: Notify::new(), unacknowledged });
        let batch_bytes = batch_bytes(settings, max_message_bytes);
        let mut settings = settings.clone();
        settings.properties.insert("batch.size".to_owned(), batch_bytes.to_string());
        let producer = Producer::new(kafka, &settings, Observer(Arc::clone(&deliveries)))?;
        let (by_name, departed, refused) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Ok(Self { producer, deliveries, by_name, departed, refused, batch_bytes })
    }

    /// Makes a topic known.
    pub(super) fn add_topic(&mut self, topic: &DataTopic) -> Result<Arc<Topic>, Error> {
        if let Some(topic) = self.by_name.get(topic.name.as_str()) {
            return Ok(Arc::clone(topic));
        }
        let mut inner = self.deliveries.lock();
        let index = inner.topics.len();
        if index >= 1 << TOPIC_BITS {
            return Err(Error::TooManyTopics { limit: 1 << TOPIC_BITS });
        }
        let topic = Arc::new(Topic::new(index, topic));
        inner.topics.push(Arc::clone(&topic));
        drop(inner);
        self.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        Ok(topic)
    }

    /// Makes the topic of a table known that is not captured any more, and which barriers alone go to.
    pub(super) fn add_departed(&mut self, topic: &DataTopic) -> Result<(), Error> {
        let topic = self.add_topic(topic)?;
        self.departed.insert(Arc::clone(&topic.name));
        Ok(())
    }

    /// Remembers why barriers cannot go to topics of tables that are not captured any more.
    pub(super) fn refuse(&mut self, topics: BTreeMap<String, String>) {
        self.refused = topics;
    }

    /// Why barriers cannot go to the topic.
    pub(super) fn refusal(&self, topic: &str) -> &str {
        self.refused.get(topic).map_or("its topic is not known", String::as_str)
    }

    /// A topic that is known.
    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.get(name).map(Arc::clone)
    }

    /// The topics that are known and captured.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values().filter(|topic| !self.departed.contains(&topic.name))
    }

    /// Takes over what the topics take by now, in bytes per record batch. An error where the producer's batches may be too
    /// large for that: another producer is needed.
    pub(super) fn fit(&self, limits: &BTreeMap<String, usize>) -> Result<(), Error> {
        for (name, limit) in limits {
            let Some(topic) = self.by_name.get(name.as_str()) else { continue };
            let before = topic.max_message_bytes.swap(*limit, Ordering::Relaxed);
            if before != *limit {
                tracing::info!(topic = name, bytes = limit, before, "the topic takes records of another size");
            }
            if limit.saturating_sub(Topic::FRAMING_BYTES).max(1) < self.batch_bytes {
                return Err(Error::BatchTooLarge { topic: name.clone(), limit: *limit });
            }
        }
        Ok(())
    }

    /// What the delivery reports have told.
    pub(super) fn deliveries(&self) -> &Arc<Deliveries> {
        &self.deliveries
    }

    /// Sends all records of a buffer to one topic as part of a unit. Waits while the queue is full (trap T76).
    ///
    /// Every record's size is checked before the first is sent, so that an oversized row leaves nothing half done and never
    /// enters the producer (trap T50).
    pub(super) async fn send(&self, topic: &Topic, records: &RecordBuf, unit: Sequence) -> Result<(), Error> {
        let limit = topic.max_record_bytes();
        if let Some(record) = records.iter().find(|record| record.size() > limit) {
            return Err(Error::RecordTooLarge { topic: topic.name.to_string(), size: record.size(), limit });
        }
        #[expect(clippy::cast_possible_truncation, reason = "only 64-bit targets are built; a unit has 48 bits")]
        let token = (unit as usize) << TOPIC_BITS | topic.index;
        for record in records.iter() {
            self.deliveries.tracker(|tracker| tracker.sending(unit));
            self.hand_over(&topic.name, &record, token).await?;
        }
        Ok(())
    }

    /// Sends records that no unit waits for.
    pub(super) async fn send_apart(&self, topic: &str, records: &RecordBuf) -> Result<(), Error> {
        for record in records.iter() {
            self.hand_over(topic, &record, NO_UNIT).await?;
        }
        Ok(())
    }

    async fn hand_over(&self, topic: &str, record: &Record<'_>, token: usize) -> Result<(), Error> {
        // The report may come before the call is back.
        self.deliveries.unacknowledged.inc();
        let sent = self.enqueue(topic, record, token).await;
        if sent.is_err() {
            self.deliveries.unacknowledged.dec();
        }
        sent
    }

    async fn enqueue(&self, topic: &str, record: &Record<'_>, token: usize) -> Result<(), Error> {
        loop {
            match self.producer.try_send(topic, record, token) {
                Ok(true) => return Ok(()),
                Ok(false) => self.check()?,
                Err(error) if error.is_of_earlier_record() => return Err(self.cause(error).await),
                Err(error) => return Err(error.into()),
            }
            self.reported().await;
        }
    }

    /// The failed delivery over which the producer was given up: its report names the topic at fault, and may come a moment
    /// after the producer has refused another record.
    async fn cause(&self, refused: kafka::Error) -> Error {
        let deadline = Instant::now() + REPORT_LIMIT;
        while Instant::now() < deadline {
            if let Err(error) = self.check() {
                return error;
            }
            self.reported().await;
        }
        refused.into()
    }

    /// Waits for a report. Wakes up by itself too, for reports that came before the wait began.
    async fn reported(&self) {
        let _elapsed = tokio::time::timeout(Duration::from_millis(50), self.deliveries.changed()).await;
    }

    /// The failed delivery or refused log-in, if there is one.
    pub(super) fn check(&self) -> Result<(), Error> {
        if let Some(failure) = self.deliveries.take_failure() {
            self.producer.purge();
            return Err(failure.into());
        }
        self.producer.recover();
        self.producer.authentication_failure().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Waits until every unit is acknowledged.
    pub(super) async fn drained(&self) -> Result<(), Error> {
        while self.deliveries.tracker(|tracker| tracker.in_flight()) > 0 {
            self.check()?;
            self.reported().await;
        }
        self.check()
    }

    /// Waits until no record is on its way, whether its unit is complete or not.
    pub(super) async fn settled(&self) -> Result<(), Error> {
        while self.producer.in_flight() > 0 {
            self.check()?;
            self.reported().await;
        }
        self.check()
    }
}
