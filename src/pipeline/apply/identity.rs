//! Whether topics are still the ones whose records were applied: a topic that was deleted and created again under its name
//! holds other records at the offsets that the target has stored.
//!
//! The cluster is asked beside everything else, since it may take its time to answer; the control session compares the
//! answer with what the target has recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{JoinError, JoinSet};

use crate::{kafka, pipeline::apply::deps::TopicIds};

/// How often the cluster is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How often while something is wrong.
const SOON: Duration = Duration::from_secs(1);
/// For how long something is wrong that may be made good soon.
const LATELY: Duration = Duration::from_mins(1);

/// The ids of existing topics.
pub type Ids = BTreeMap<String, Option<String>>;

/// An answer of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its number, from 1.
    pub number: u64,
    /// The ids.
    pub ids: Arc<Ids>,
}

/// Asks for the ids of all topics that this process has had partitions of, or that were applied before.
pub struct Watch {
    ask: TopicIds,
    asking: JoinSet<Result<Ids, kafka::Error>>,
    seen: BTreeSet<String>,
    begun: u64,
    due: Instant,
    /// The last answer.
    pub answer: Answer,
    /// Topics that are gone, and since when these are.
    missing: (BTreeSet<String>, Instant),
    /// Topics of which the cluster tells this process nothing, and which it has nothing of.
    hidden: BTreeSet<String>,
}

impl Watch {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(ask: TopicIds) -> Self {
        let (now, answer) = (Instant::now(), Answer::default());
        let (seen, missing, hidden) = (BTreeSet::new(), (BTreeSet::new(), now), BTreeSet::new());
        Self { ask, asking: JoinSet::new(), seen, begun: 0, due: now, answer, missing, hidden }
    }

    /// Asks for these topics too, at once; the number of the answer that will have them.
    pub fn add(&mut self, topics: impl Iterator<Item = String>) -> u64 {
        self.seen.extend(topics);
        self.hidden.retain(|topic| !self.seen.contains(topic));
        self.due = Instant::now();
        self.begun + 1
    }

    /// The cluster refuses to tell of a topic, as it does also where the topic is gone and the right to it. The others are asked for.
    pub fn hide(&mut self, topic: &str) {
        if self.seen.remove(topic) {
            tracing::warn!(
                topic,
                "the cluster tells nothing of the topic: it is gone, or this process may not look at it"
            );
            self.hidden.insert(topic.to_owned());
        }
        self.due = Instant::now();
    }

    /// Something is wrong with a topic.
    pub fn hurry(&mut self) {
        self.due = self.due.min(Instant::now() + SOON);
    }

    /// Asks if it is time to.
    pub fn look(&mut self) {
        if self.seen.is_empty() || !self.asking.is_empty() || Instant::now() < self.due {
            return;
        }
        self.begun += 1;
        self.due = Instant::now() + EVERY;
        let (ask, topics) = (TopicIds::clone(&self.ask), self.seen.clone());
        self.asking.spawn_blocking(move || ask(&topics.iter().map(String::as_str).collect::<Vec<_>>()));
    }

    /// Waits for an answer; `None` while nobody is asked.
    pub async fn answered(&mut self) -> Option<Result<Result<Ids, kafka::Error>, JoinError>> {
        self.asking.join_next().await
    }

    /// Takes an answer.
    pub fn take(&mut self, ids: Ids) {
        let missing: BTreeSet<String> = self.seen.iter().filter(|topic| !ids.contains_key(*topic)).cloned().collect();
        for topic in missing.difference(&self.missing.0) {
            tracing::warn!(topic, "topic does not exist any more");
        }
        if missing != self.missing.0 {
            self.missing = (missing, Instant::now());
        }
        self.answer = Answer { number: self.begun, ids: Arc::new(ids) };
        if !self.missing.0.is_empty() && self.missing.1.elapsed() < LATELY {
            self.hurry();
        }
    }

    /// What is wrong, for people.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        let missing = self.missing.0.iter();
        let missing = missing.map(|topic| format!("topic {topic} does not exist any more: nothing of it is applied"));
        let hidden = self.hidden.iter();
        missing.chain(hidden.map(|topic| {
            format!("topic {topic} is gone, or this process may not look at it (DESCRIBE): nothing of it is applied")
        }))
    }
}
