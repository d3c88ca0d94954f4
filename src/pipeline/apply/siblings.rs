//! Explicit partitions: they are there, and others consume the rest of their topics. A group finds both by itself; a
//! process with explicit partitions that is alone would come to a standstill at the next TRUNCATE (PROTOCOL 8).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    kafka::{self, Admin},
    pipeline::{apply::error::Error, health::Health},
    sink::{Session, Sink, siblings},
};

/// How often the target is asked who is there.
const POLL: Duration = Duration::from_millis(200);

/// Partitions that were given to this process.
#[derive(Clone, Debug)]
pub struct Explicit {
    /// Topics and partitions.
    pub partitions: Vec<(String, i32)>,
    /// How long the owners of the other partitions are waited for; `None`: they were there before.
    pub patience: Option<Duration>,
}

impl Explicit {
    /// All partitions of the topics.
    fn all(&self, counts: &BTreeMap<String, i32>) -> Vec<(String, i32)> {
        let topics: BTreeSet<&String> = self.partitions.iter().map(|(topic, _)| topic).collect();
        let of_topic =
            |topic: &String| (0..counts.get(topic).copied().unwrap_or(0)).map(|n| (topic.clone(), n)).collect();
        topics.into_iter().flat_map(|topic: &String| -> Vec<_> { of_topic(topic) }).collect()
    }
}

/// Refuses partitions that are not there; one that is made later would be waited for without a word. Blocks up to `timeout`.
pub fn check(
    admin: &Admin,
    partitions: &[(String, i32)],
    counts: &BTreeMap<String, i32>,
    timeout: Duration,
) -> Result<(), Error> {
    let topics: BTreeSet<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
    let known = admin.topic_ids(&topics.into_iter().collect::<Vec<_>>(), timeout)?;
    for (topic, partition) in partitions {
        if !known.contains_key(topic) {
            return Err(kafka::Error::MissingTopic { topic: topic.clone() }.into());
        }
        match counts.get(topic) {
            Some(count) if (0..*count).contains(partition) => {}
            Some(count) => {
                return Err(Error::NoPartition { topic: topic.clone(), partition: *partition, count: *count });
            }
            None => return Err(Error::Leaderless { topic: topic.clone() }),
        }
    }
    Ok(())
}

/// Announces the partitions on the control connection, and waits until every other one of their topics has an owner too.
pub async fn gather(
    session: &Session,
    sink: &Sink,
    explicit: &Explicit,
    counts: &BTreeMap<String, i32>,
    health: &Health,
) -> Result<(), Error> {
    let (client, ledger) = (session.client(), sink.ledger());
    siblings::announce(client, ledger, &explicit.partitions).await?;
    let Some(patience) = explicit.patience else { return Ok(()) };
    let (all, begun, mut told) = (explicit.all(counts), Instant::now(), String::new());
    loop {
        let missing = siblings::unconsumed(client, ledger, &all).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let partitions = list(&missing);
        if begun.elapsed() >= patience {
            return Err(Error::Unconsumed { partitions, group: ledger.instance().to_owned(), waited: begun.elapsed() });
        }
        if partitions != told {
            tracing::info!(partitions, "waiting for the processes that consume the other partitions");
            health.set_phase(format!("waiting until somebody consumes {partitions}"));
            told = partitions;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn list(partitions: &[(String, i32)]) -> String {
    let mut by_topic: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (topic, partition) in partitions {
        by_topic.entry(topic).or_default().push(partition.to_string());
    }
    let of_topic = |(topic, numbers): (&str, Vec<String>)| format!("topic {topic}, partitions {}", numbers.join(", "));
    by_topic.into_iter().map(of_topic).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_partitions_of_the_listed_topics_and_of_no_others_must_be_consumed() {
        let counts = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1), ("c".to_owned(), 3)]);
        let partitions = vec![("b".to_owned(), 0), ("a".to_owned(), 1), ("a".to_owned(), 0)];
        let explicit = Explicit { partitions, patience: None };
        assert_eq!(list(&explicit.all(&counts)), "topic a, partitions 0, 1; topic b, partitions 0");
    }
}
