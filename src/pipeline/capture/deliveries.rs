//! What the delivery reports have told. They arrive on librdkafka's thread and touch nothing else; the capture task waits on the
//! `changed` bell.
//!
//! The first failed report ends the session: later acknowledgements no longer count (PROTOCOL, "Producing without gaps").
//! Under exactly-once delivery a record counts when its Kafka transaction is committed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::IntGauge;
use tokio::sync::Notify;

use super::topic::Topic;
use crate::{
    kafka::{self, Delivery, DeliveryObserver},
    lsn::Lsn,
    pipeline::ack::{AckTracker, Sequence},
    retry::{Classify as _, Severity},
};

/// Token of records that belong to no unit of work.
pub(super) const NO_UNIT: usize = usize::MAX;
/// Bits of a token that name the topic; the rest names the unit.
pub(super) const TOPIC_BITS: u32 = 16;

/// How long the reason may take to be told for which a transaction was given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether a record failed.
const LOOK: Duration = Duration::from_millis(20);

/// The token of a unit's records in a topic.
#[expect(clippy::cast_possible_truncation, reason = "only 64-bit targets are built; a unit has 48 bits")]
pub(super) const fn token(unit: Sequence, topic: usize) -> usize {
    (unit as usize) << TOPIC_BITS | topic
}

/// See the module.
#[derive(Debug)]
pub(super) struct Deliveries {
    inner: Mutex<Inner>,
    changed: Notify,
    pub(super) unacknowledged: IntGauge,
}

#[derive(Debug)]
struct Inner {
    tracker: AckTracker,
    topics: Vec<Arc<Topic>>,
    failure: Option<kafka::Error>,
    /// When there was a first failure: nothing that is acknowledged later counts.
    failed: Option<Instant>,
    /// `None` where every record counts by itself.
    uncommitted: Option<Uncommitted>,
}

/// What the brokers have of a transaction that is not committed.
#[derive(Debug, Default)]
struct Uncommitted {
    /// Records of units; one unit may be here several times.
    units: Vec<(Sequence, u64)>,
    /// Offsets behind the last records, by topic and partition.
    ends: BTreeMap<(usize, usize), i64>,
    /// Reports, those of records without a unit included.
    reports: u64,
    /// One of them tells of a failure.
    spoiled: bool,
}

impl Inner {
    fn fail(&mut self, error: kafka::Error) {
        let is_first = self.failed.is_none();
        self.failed.get_or_insert_with(Instant::now);
        // What was on its way beside the record at fault fails too, and says less.
        let rank = |error: &kafka::Error| (error.severity() == Severity::Definite, !error.is_of_other_record());
        if is_first || self.failure.as_ref().is_some_and(|kept| rank(kept) < rank(&error)) {
            self.failure = Some(error);
        }
    }

    fn came(&mut self, unit: Sequence, place: (usize, usize), end: i64) {
        if let Some(uncommitted) = &mut self.uncommitted {
            match uncommitted.units.last_mut() {
                Some((last, records)) if *last == unit => *records += 1,
                _ => uncommitted.units.push((unit, 1)),
            }
            uncommitted.ends.insert(place, end);
            return;
        }
        if let Some(topic) = self.topics.get(place.0) {
            topic.came(place.1, end);
        }
        self.tracker.acknowledge(unit);
    }
}

impl Deliveries {
    /// Everything below `start` is acknowledged; `transactional` where records count by commits.
    pub(super) fn new(start: Lsn, transactional: bool, unacknowledged: IntGauge) -> Self {
        let inner = Inner {
            tracker: AckTracker::new(start),
            topics: Vec::new(),
            failure: None,
            failed: None,
            uncommitted: transactional.then(Uncommitted::default),
        };
        Self { inner: Mutex::new(inner), changed: Notify::new(), unacknowledged }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a topic known, which is made with the index that it gets; `None` where there are too many.
    pub(super) fn add_topic(&self, topic: impl FnOnce(usize) -> Topic) -> Option<Arc<Topic>> {
        let mut inner = self.lock();
        let index = Some(inner.topics.len()).filter(|index| *index < 1 << TOPIC_BITS)?;
        let topic = Arc::new(topic(index));
        inner.topics.push(Arc::clone(&topic));
        Some(topic)
    }

    /// Works on the tracker.
    pub(super) fn tracker<T>(&self, work: impl FnOnce(&mut AckTracker) -> T) -> T {
        work(&mut self.lock().tracker)
    }

    /// Waits until a report has come since the last wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Nothing more counts.
    pub(super) fn fail(&self, error: kafka::Error) {
        self.lock().fail(error);
        self.changed.notify_one();
    }

    /// Whether something failed.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// Waits until a record of the transaction failed, which therefore cannot be committed.
    pub(super) async fn spoiled(&self) {
        while !self.lock().uncommitted.as_ref().is_some_and(|uncommitted| uncommitted.spoiled) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What failed, once. That a transaction was given up is told when nothing says why: its commit may.
    pub(super) fn take_failure(&self) -> Option<kafka::Error> {
        let mut inner = self.lock();
        let may_be_told = inner.uncommitted.is_some() && inner.failed.is_some_and(|since| since.elapsed() < PATIENCE);
        if may_be_told && inner.failure.as_ref().is_some_and(kafka::Error::is_of_other_record) {
            return None;
        }
        inner.failure.take()
    }

    /// Reports since the last commit.
    pub(super) fn uncommitted(&self) -> u64 {
        self.lock().uncommitted.as_ref().map_or(0, |uncommitted| uncommitted.reports)
    }

    /// The transaction is committed: its records count now, unless one of them failed.
    pub(super) fn committed(&self) {
        let mut inner = self.lock();
        let Some(uncommitted) = inner.uncommitted.as_mut().map(std::mem::take) else { return };
        if inner.failed.is_some() {
            return;
        }
        for ((topic, partition), end) in uncommitted.ends {
            if let Some(topic) = inner.topics.get(topic) {
                topic.came(partition, end);
            }
        }
        for (unit, records) in uncommitted.units {
            inner.tracker.acknowledge_many(unit, records);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// One record less is on its way.
    fn ended(&self) {
        self.unacknowledged.dec();
        self.changed.notify_one();
    }
}

/// The observer of the producer of units' records.
pub(super) struct Observer(pub(super) Arc<Deliveries>);

impl DeliveryObserver for Observer {
    fn delivered(&self, delivery: Delivery<'_>) {
        let mut inner = self.0.lock();
        if let Some(uncommitted) = &mut inner.uncommitted {
            uncommitted.reports += 1;
            uncommitted.spoiled |= delivery.error.is_some();
        }
        if let Some(error) = delivery.error {
            inner.fail(error);
        } else if inner.failed.is_none()
            && delivery.token != NO_UNIT
            && let Ok(partition) = usize::try_from(delivery.partition)
        {
            let topic = delivery.token & ((1 << TOPIC_BITS) - 1);
            inner.came((delivery.token >> TOPIC_BITS) as Sequence, (topic, partition), delivery.offset + 1);
        }
        drop(inner);
        self.0.ended();
    }
}

/// The observer of a producer beside the transactional one, whose records no unit waits for.
pub(super) struct Beside(pub(super) Arc<Deliveries>);

impl DeliveryObserver for Beside {
    fn delivered(&self, delivery: Delivery<'_>) {
        if let Some(error) = delivery.error {
            self.0.fail(error);
        }
        self.0.ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliveries(transactional: bool) -> (Arc<Deliveries>, Arc<Topic>) {
        let gauge = IntGauge::new("unacknowledged", "records").unwrap();
        let deliveries = Arc::new(Deliveries::new(Lsn(10), transactional, gauge));
        let described =
            super::super::topics::DataTopic { name: "t".into(), id: None, ends: vec![5, 7], max_message_bytes: 1000 };
        let topic = deliveries.add_topic(|index| Topic::new(index, &described)).unwrap();
        (deliveries, topic)
    }

    fn report(deliveries: &Arc<Deliveries>, unit: Sequence, offset: i64, failure: Option<kafka::Error>) {
        let token = token(unit, 0);
        let delivery = Delivery { token, topic: "t", partition: 1, offset, error: failure };
        Observer(Arc::clone(deliveries)).delivered(delivery);
    }

    fn unit_of_two(deliveries: &Deliveries) -> Sequence {
        deliveries.tracker(|tracker| {
            let unit = tracker.open();
            tracker.sending(unit);
            tracker.sending(unit);
            tracker.close(unit, Lsn(20));
            unit
        })
    }

    #[test]
    fn a_record_counts_at_once_or_with_the_commit_of_its_transaction() {
        for transactional in [false, true] {
            let (deliveries, topic) = deliveries(transactional);
            let unit = unit_of_two(&deliveries);
            report(&deliveries, unit, 30, None);
            report(&deliveries, unit, 31, None);
            let flush = |deliveries: &Deliveries| deliveries.tracker(|tracker| tracker.flush());
            let expected = if transactional { (Lsn(10), vec![5, 7]) } else { (Lsn(20), vec![5, 32]) };
            assert_eq!((flush(&deliveries), topic.ends()), expected);
            deliveries.committed();
            assert_eq!((flush(&deliveries), topic.ends()), (Lsn(20), vec![5, 32]));
        }
    }

    #[test]
    fn after_a_failure_a_commit_makes_nothing_count() {
        let (deliveries, topic) = deliveries(true);
        let unit = unit_of_two(&deliveries);
        report(&deliveries, unit, 30, None);
        report(&deliveries, unit, 31, Some(kafka::Error::Torn));
        deliveries.committed();
        assert_eq!((deliveries.tracker(|tracker| tracker.flush()), topic.ends()), (Lsn(10), vec![5, 7]));
        assert!(deliveries.has_failed() && deliveries.take_failure().is_some());
    }
}
