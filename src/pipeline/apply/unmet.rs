//! Lanes that stand at an event which violates a constraint, while nothing tells when others have brought what it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::kafka::TopicPartition;

/// How often such lanes are tried again.
const RETRY_EVERY: Duration = Duration::from_millis(500);

struct Wait {
    /// When its own lane or one of a related table has moved last.
    since: Instant,
    tried: Instant,
    reason: String,
}

/// All lanes that wait like this.
#[derive(Default)]
pub struct Unmet(BTreeMap<TopicPartition, Wait>);

impl Unmet {
    /// A lane was tried and stands; for how long nothing that may help it has moved.
    pub fn stands(&mut self, key: &TopicPartition, reason: &str) -> Duration {
        let now = Instant::now();
        let wait = self.0.entry(key.clone()).or_insert_with(|| {
            tracing::info!(topic = %key.0, partition = key.1, reason, "an event waits for other partitions");
            Wait { since: now, tried: now, reason: String::new() }
        });
        wait.tried = now;
        reason.clone_into(&mut wait.reason);
        wait.since.elapsed()
    }

    /// A lane of one of these topics has moved.
    pub fn moved(&mut self, topics: &BTreeSet<Arc<str>>) {
        for (_, wait) in self.0.iter_mut().filter(|((topic, _), _)| topics.contains(topic)) {
            wait.since = Instant::now();
        }
    }

    /// The lanes that wait.
    pub fn keys(&self) -> impl Iterator<Item = &TopicPartition> {
        self.0.keys()
    }

    /// A lane waits no more.
    pub fn forget(&mut self, key: &TopicPartition) {
        self.0.remove(key);
    }

    /// No lane of a topic waits any more.
    pub fn forget_topic(&mut self, topic: &str) {
        self.0.retain(|(name, _), _| **name != *topic);
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a lane of one of these topics waits.
    #[must_use]
    pub fn concerns(&self, topics: &BTreeSet<Arc<str>>) -> bool {
        self.0.keys().any(|(topic, _)| topics.contains(topic))
    }

    /// Whether a lane of one of these topics was tried just now.
    #[must_use]
    pub fn rests(&self, topics: &BTreeSet<Arc<str>>) -> bool {
        self.0.iter().any(|((topic, _), wait)| topics.contains(topic) && wait.tried.elapsed() < RETRY_EVERY)
    }

    /// What each lane waits for.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.0.values().map(|wait| format!("an event waits for what other partitions bring: {}", wait.reason))
    }
}
