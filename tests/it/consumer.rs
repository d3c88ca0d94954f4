//! The consumer against a real broker: what retention removes is never passed over, and a new assignment begins where it
//! was told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    process,
    time::Instant,
};

use rdkafka::topic_partition_list::Offset;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use walrelay::{
    kafka::{
        ConsumedRecord, Consumer, ConsumerEvent, ConsumerHandle, ConsumerSettings, Error, Settings, StartOffset,
        Subscription, TopicPartition,
    },
    retry::{Classify as _, Severity},
};

use crate::support::{LIMIT, Scenario, Topics, await_condition, parts};

const TABLE: &str = "public.things";

/// A topic of three partitions, removed at the end.
struct Topic {
    topics: Topics,
    group: String,
}

impl Topic {
    async fn create(name: &str) -> Self {
        let group = format!("{name}_{}", process::id());
        let topics = Topics::new(&parts().kafka, &group);
        topics.create(TABLE, 3).await;
        Self { topics, group }
    }

    fn consumer(&self, budget_bytes: usize) -> Member {
        let settings = Settings { brokers: vec![parts().kafka], properties: BTreeMap::new() };
        let own = ConsumerSettings { properties: BTreeMap::new(), budget_bytes };
        let subscription = Subscription::Group { group: self.group.clone(), topics: vec![self.topics.name(TABLE)] };
        let (events, handle) = Consumer::spawn(&settings, &own, subscription).expect("the settings are valid");
        Member { events, idle_since: Instant::now(), _handle: handle }
    }

    async fn remove(self) {
        self.topics.delete_all().await;
    }
}

/// A member of the group.
struct Member {
    events: mpsc::UnboundedReceiver<ConsumerEvent>,
    idle_since: Instant,
    _handle: ConsumerHandle,
}

impl Member {
    async fn next(&mut self) -> ConsumerEvent {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await.expect("the consumer tells something");
        let event = event.expect("the consumer runs");
        if !matches!(event, ConsumerEvent::Idle) {
            self.idle_since = Instant::now();
        }
        assert!(self.idle_since.elapsed() < LIMIT, "nothing but idleness for {} s", LIMIT.as_secs());
        event
    }

    /// Answers assignments with this offset until all these partitions have come, and revocations at once.
    async fn join(&mut self, start: StartOffset, partitions: &BTreeSet<i32>) {
        let mut assigned = BTreeSet::new();
        while !assigned.is_superset(partitions) {
            match self.next().await {
                ConsumerEvent::Assigned { partitions, reply } => {
                    assigned.extend(partitions.iter().map(|(_, partition)| *partition));
                    let answer: Vec<(TopicPartition, StartOffset)> =
                        partitions.into_iter().map(|partition| (partition, start)).collect();
                    let _gone = reply.send(answer);
                }
                ConsumerEvent::Revoked { done, .. } => {
                    let _gone = done.send(());
                }
                _ => {}
            }
        }
    }

    /// Records until there are so many, with their shares of the budget.
    async fn take(&mut self, count: usize) -> (Vec<ConsumedRecord>, Vec<OwnedSemaphorePermit>) {
        let (mut taken, mut shares) = (Vec::new(), Vec::new());
        while taken.len() < count {
            match self.next().await {
                ConsumerEvent::Records { records, permit } => {
                    taken.extend(records);
                    shares.push(permit);
                }
                ConsumerEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        (taken, shares)
    }

    /// It has polled for a while without handing anything over; what it handed over before.
    async fn settle(&mut self) -> (Vec<ConsumedRecord>, Vec<OwnedSemaphorePermit>) {
        let (mut taken, mut shares, mut idle) = (Vec::new(), Vec::new(), 0);
        while idle < 3 {
            match self.next().await {
                ConsumerEvent::Records { records, permit } => {
                    taken.extend(records);
                    shares.push(permit);
                    idle = 0;
                }
                ConsumerEvent::Idle => idle += 1,
                ConsumerEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        (taken, shares)
    }

    async fn failure(&mut self) -> Error {
        loop {
            if let ConsumerEvent::Failed(error) = self.next().await {
                return error;
            }
        }
    }
}

fn all() -> BTreeSet<i32> {
    BTreeSet::from([0, 1, 2])
}

/// Trap T55.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_vanish_while_the_budget_is_used_up_are_not_passed_over() {
    let topic = Topic::create("vanish").await;
    topic.topics.fill(TABLE, 1, 400, 1000);
    let mut member = topic.consumer(100_000);
    member.join(StartOffset::At(0), &all()).await;
    let (taken, shares) = member.settle().await;
    assert!(!taken.is_empty() && taken.len() < 400, "the budget holds the rest back");
    topic.topics.delete_records(TABLE, 1, Offset::End).await;
    drop(shares);
    let error = member.failure().await;
    assert!(matches!(error, Error::OffsetOutOfRange { .. }), "{error}");
    assert_eq!(error.severity(), Severity::Fatal);
    topic.remove().await;
}

/// Trap T71: what was queued under the old assignment must not come before what the new one begins with.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_assigned_again_begins_at_its_offset_whatever_was_queued() {
    let topic = Topic::create("again").await;
    let mut member = topic.consumer(300_000);
    for partition in 0..3 {
        topic.topics.fill(TABLE, partition, 30, 1000);
    }
    member.join(StartOffset::At(0), &all()).await;
    let (mut first, shares) = member.take(90).await;
    // More than the room that is left, so that it stays queued in the consumer.
    for partition in 0..3 {
        topic.topics.fill(TABLE, partition, 100, 3000);
    }
    let (more, more_shares) = member.settle().await;
    first.extend(more);

    let mut other = topic.consumer(300_000);
    let revoked: BTreeSet<i32> = loop {
        match member.next().await {
            ConsumerEvent::Revoked { partitions, done } => {
                let _gone = done.send(());
                break partitions.into_iter().map(|(_, partition)| partition).collect();
            }
            ConsumerEvent::Records { records, .. } => panic!("{} records beyond the budget", records.len()),
            _ => {}
        }
    };
    assert!(!revoked.is_empty() && revoked.len() < 3, "{revoked:?}");
    while !matches!(other.next().await, ConsumerEvent::Assigned { .. }) {}
    drop(other);
    member.join(StartOffset::At(0), &revoked).await;
    drop((shares, more_shares));

    let seen = |partition: i32| first.iter().filter(|record| record.partition == partition).count();
    let begin = |partition: i32| if revoked.contains(&partition) { 0 } else { seen(partition) };
    let expected: usize = all().into_iter().map(|partition| 130 - begin(partition)).sum();
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut count = 0;
    while count < expected {
        for record in member.take(1).await.0 {
            count += 1;
            offsets.entry(record.partition).or_default().push(record.offset);
        }
    }
    for (partition, offsets) in offsets {
        let begin = i64::try_from(begin(partition)).unwrap();
        assert_eq!(offsets, (begin..130).collect::<Vec<_>>(), "partition {partition}, revoked {revoked:?}");
    }
    topic.remove().await;
}

/// Trap T55: a first start that silently began behind what retention has removed would lack rows for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_after_retention_has_removed_the_beginning_is_refused() {
    let scenario = Scenario::new("retention").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things SELECT generate_series(1, 90)").await;
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (100)").await;
    await_condition("the rows are published", LIMIT, async || scenario.topics().read(TABLE).len() == 91).await;
    scenario.topics().delete_records(TABLE, 1, Offset::Offset(5)).await;
    let outcome = scenario.run_to_end("apply").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in [scenario.topics().name(TABLE).as_str(), "never applied", "take a new snapshot"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}
