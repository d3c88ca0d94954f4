//! From encoded records to acknowledged transactions: the producers and the topics that they write to.
//!
//! Under exactly-once delivery records of units go through a transactional producer, and others through one of its own: they tell
//! of what is committed, so they are true whenever they come, and an idle stream opens no transaction for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::task::AbortOnDropHandle;

use super::{
    Error,
    delivered::Delivered,
    deliveries::{Beside, Deliveries, NO_UNIT, Observer, TOPIC_BITS, token},
    topic::Topic,
    topics::DataTopic,
    transactions::{Committer, Scope, Transactions},
};
use crate::{
    event::{Record, RecordBuf},
    kafka::{self, DeliveryObserver, Producer, ProducerSettings},
    lsn::{Lsn, Position},
    pipeline::{ack::Sequence, metrics::CaptureMetrics},
};

/// Size of a record batch where the topics take it, in bytes.
const DEFAULT_BATCH_BYTES: usize = 1_000_000;
/// How long the report is waited for that tells why the producer takes nothing more.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// Size of record batches that are no larger than what a topic takes, in bytes.
fn batch_bytes(settings: &ProducerSettings, max_message_bytes: usize) -> usize {
    let configured = settings.properties.get("batch.size").and_then(|text| text.parse().ok());
    let limit = max_message_bytes.saturating_sub(Topic::FRAMING_BYTES).max(1);
    limit.min(configured.unwrap_or(DEFAULT_BATCH_BYTES))
}

/// Sends records of units of work.
pub(super) struct Publisher {
    producer: Arc<Producer<Observer>>,
    /// What records go through that no unit waits for, where they must not open transactions.
    beside: Option<Producer<Beside>>,
    deliveries: Arc<Deliveries>,
    /// What was there before the session, where that is known.
    before: Option<Delivered>,
    /// Exactly-once delivery.
    transactions: Option<Arc<Transactions>>,
    committer: Option<AbortOnDropHandle<()>>,
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    /// The topic of what is left out of the others; `None` where there is none.
    dead_letters: Option<Arc<Topic>>,
    /// Those that only barriers go to.
    departed: BTreeSet<Arc<str>>,
    /// Those that were to be such, and why they are none.
    refused: BTreeMap<String, String>,
    /// Size of a record batch.
    batch_bytes: usize,
    metrics: CaptureMetrics,
}

impl Publisher {
    /// A producer for which everything below `start` is acknowledged. Its record batches fit a topic that takes
    /// `max_message_bytes`: the brokers measure batches, and refuse one for good.
    pub(super) fn new(
        kafka: &kafka::Settings,
        settings: &ProducerSettings,
        start: Lsn,
        max_message_bytes: usize,
        metrics: &CaptureMetrics,
    ) -> Result<Self, Error> {
        let batch_bytes = batch_bytes(settings, max_message_bytes);
        let mut settings = settings.clone();
        settings.properties.insert("batch.size".to_owned(), batch_bytes.to_string());
        let is_transactional = settings.transactional.is_some();
        let deliveries = Arc::new(Deliveries::new(start, is_transactional, metrics.unacknowledged.clone()));
        let producer = Arc::new(Producer::new(kafka, &settings, Observer(Arc::clone(&deliveries)))?);
        settings.transactional = None;
        let beside = is_transactional.then(|| Producer::new(kafka, &settings, Beside(Arc::clone(&deliveries))));
        Ok(Self {
            producer,
            beside: beside.transpose()?,
            deliveries,
            before: None,
            transactions: None,
            committer: None,
            by_name: BTreeMap::new(),
            dead_letters: None,
            departed: BTreeSet::new(),
            refused: BTreeMap::new(),
            batch_bytes,
            metrics: metrics.clone(),
        })
    }

    /// What is `before` the session is not sent again.
    pub(super) fn leave_out(&mut self, before: Delivered) {
        self.before = Some(before);
    }

    /// Ends the transactions of earlier producers, which write nothing more.
    pub(super) async fn fence(&self) -> Result<(), Error> {
        let producer = Arc::clone(&self.producer);
        let fenced = tokio::task::spawn_blocking(move || producer.fence());
        Ok(fenced.await.map_err(|_stopped| kafka::Error::Closed)??)
    }

    /// Begins exactly-once delivery behind what is there already; how far transactions go is recorded in the topic.
    pub(super) fn transact(&mut self, before: Delivered, topic: String, interval: Duration) -> Result<(), Error> {
        self.producer.begin()?;
        let transactions = Arc::new(Transactions::new(before.clone(), interval));
        let committer = Committer {
            transactions: Arc::clone(&transactions),
            producer: Arc::clone(&self.producer),
            deliveries: Arc::clone(&self.deliveries),
            topic,
            metrics: self.metrics.clone(),
        };
        self.committer = Some(AbortOnDropHandle::new(tokio::spawn(committer.run())));
        self.transactions = Some(transactions);
        self.leave_out(before);
        Ok(())
    }

    /// Gives up what is not committed, at the end of a session.
    pub(super) async fn give_up(&self) {
        if let Some(transactions) = &self.transactions {
            transactions.give_up(&self.producer, &self.metrics).await;
        }
    }

    /// Begins to send the records of one event, at this position, or of what has none. They become visible together where
    /// that is promised.
    pub(super) async fn enter(&self, at: Option<Position>) -> Scope {
        match &self.transactions {
            Some(transactions) => Scope::enter(transactions, at).await,
            None => Scope::free(at),
        }
    }

    /// Whether a topic has the events of this position from before the session.
    pub(super) fn has(&self, topic: &Topic, at: Option<Position>) -> bool {
        let (Some(before), Some(at)) = (&self.before, at) else { return false };
        before.covers(&topic.name, at)
    }

    /// The table of a topic stops at this position.
    pub(super) fn stop(&self, topic: &str, at: Position) {
        if let Some(transactions) = &self.transactions {
            transactions.stop(topic, at);
        }
    }

    /// Makes a topic known.
    pub(super) fn add_topic(&mut self, topic: &DataTopic) -> Result<Arc<Topic>, Error> {
        if let Some(topic) = self.by_name.get(topic.name.as_str()) {
            return Ok(Arc::clone(topic));
        }
        let topic = self.make_topic(topic)?;
        self.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        Ok(topic)
    }

    fn make_topic(&self, topic: &DataTopic) -> Result<Arc<Topic>, Error> {
        let made = self.deliveries.add_topic(|index| Topic::new(index, topic));
        made.ok_or(Error::TooManyTopics { limit: 1 << TOPIC_BITS })
    }

    /// Makes the topic of dead letters known. It holds no events, so neither sinks nor the state are told of it.
    pub(super) fn add_dead_letters(&mut self, topic: &DataTopic) -> Result<(), Error> {
        self.dead_letters = Some(self.make_topic(topic)?);
        Ok(())
    }

    /// The topic of dead letters, where there is one.
    pub(super) const fn dead_letters(&self) -> Option<&Arc<Topic>> {
        self.dead_letters.as_ref()
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

    /// The topics whose size of records is to be known.
    pub(super) fn limited(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values().chain(&self.dead_letters)
    }

    /// Takes over what the topics take by now, in bytes per record batch. An error where the producer's batches may be too
    /// large for that: another producer is needed.
    pub(super) fn fit(&self, limits: &BTreeMap<String, usize>) -> Result<(), Error> {
        for (name, limit) in limits {
            let Some(topic) = self.limited().find(|topic| *topic.name == **name) else { continue };
            let before = topic.takes(*limit);
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

    /// Sends all records of a buffer to one topic as part of a unit; `false` where they were there before the session. Waits while the
    /// queue is full (trap T76).
    ///
    /// Every record's size is checked before the first is sent, so that an oversized row leaves nothing half done and never
    /// enters the producer (trap T50).
    pub(super) async fn send(
        &self,
        scope: &mut Scope,
        topic: &Topic,
        records: &RecordBuf,
        unit: Sequence,
    ) -> Result<bool, Error> {
        if self.has(topic, scope.at()) {
            return Ok(false);
        }
        Self::fits(topic, records)?;
        self.send_all(scope, topic, records, unit).await?;
        Ok(true)
    }

    /// The same of records that were not there before, and fit.
    pub(super) async fn send_all(
        &self,
        scope: &mut Scope,
        topic: &Topic,
        records: &RecordBuf,
        unit: Sequence,
    ) -> Result<(), Error> {
        for record in records.iter() {
            self.deliveries.tracker(|tracker| tracker.sending(unit));
            scope.sending(record.size());
            self.hand_over(&self.producer, &topic.name, &record, token(unit, topic.index)).await?;
        }
        Ok(())
    }

    /// An error if the topic does not take the largest of the records.
    pub(super) fn fits(topic: &Topic, records: &RecordBuf) -> Result<(), Error> {
        let limit = topic.max_record_bytes();
        match records.iter().find(|record| record.size() > limit) {
            Some(record) => Err(Error::RecordTooLarge { topic: topic.name.to_string(), size: record.size(), limit }),
            None => Ok(()),
        }
    }

    /// Sends records that no unit waits for.
    pub(super) async fn send_apart(&self, topic: &str, records: &RecordBuf) -> Result<(), Error> {
        for record in records.iter() {
            match &self.beside {
                Some(beside) => self.hand_over(beside, topic, &record, NO_UNIT).await?,
                None => self.hand_over(&self.producer, topic, &record, NO_UNIT).await?,
            }
        }
        Ok(())
    }

    async fn hand_over<O: DeliveryObserver>(
        &self,
        producer: &Producer<O>,
        topic: &str,
        record: &Record<'_>,
        token: usize,
    ) -> Result<(), Error> {
        // The report may come before the call is back.
        self.deliveries.unacknowledged.inc();
        let sent = self.enqueue(producer, topic, record, token).await;
        if sent.is_err() {
            self.deliveries.unacknowledged.dec();
        }
        sent
    }

    async fn enqueue<O: DeliveryObserver>(
        &self,
        producer: &Producer<O>,
        topic: &str,
        record: &Record<'_>,
        token: usize,
    ) -> Result<(), Error> {
        loop {
            match producer.try_send(topic, record, token) {
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

    /// What failed, or the refused log-in, if there is any.
    pub(super) fn check(&self) -> Result<(), Error> {
        if let Some(failure) = self.deliveries.take_failure() {
            self.producer.purge();
            return Err(failure.into());
        }
        self.producer.recover();
        if let Some(beside) = &self.beside {
            beside.recover();
        }
        self.producer.authentication_failure().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Waits until every unit is acknowledged.
    pub(super) async fn drained(&self) -> Result<(), Error> {
        while self.deliveries.tracker(|tracker| tracker.in_flight()) > 0 {
            if let Some(transactions) = &self.transactions {
                transactions.hurry();
            }
            self.check()?;
            self.reported().await;
        }
        self.check()
    }

    /// Waits until no record is on its way, whether its unit is complete or not.
    pub(super) async fn settled(&self) -> Result<(), Error> {
        while self.is_under_way() {
            self.check()?;
            self.reported().await;
        }
        self.check()
    }

    fn is_under_way(&self) -> bool {
        let uncommitted = self.transactions.as_ref().is_some_and(|transactions| {
            transactions.hurry();
            !transactions.is_empty()
        });
        uncommitted
            || self.producer.in_flight() > 0
            || self.beside.as_ref().is_some_and(|beside| beside.in_flight() > 0)
    }
}

/// A session may be dropped wherever it is, as by a shutdown during its snapshot.
impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(transactions) = &self.transactions {
            transactions.drop_open(&self.producer, &self.metrics);
        }
    }
}
