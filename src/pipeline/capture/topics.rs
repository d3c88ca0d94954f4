//! The topics of a capture: created when missing, checked against what was recorded when they were first used.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Error,
    state::{State, TopicRecord},
};
use crate::{
    kafka::{self, Admin, TopicDescription, TopicSettings},
    pipeline::topic_plan::TopicPlan,
    progress::progress_topic,
    record::{position_topic, state_topic},
    schema::TableName,
};

/// The cluster side of a capture's topics.
pub(super) struct Topics {
    admin: Admin,
    plan: TopicPlan,
    create: bool,
}

/// The topic of signals.
pub(super) struct SignalSource {
    /// Its id, where the broker gives one.
    pub(super) id: Option<String>,
    /// Its partitions.
    pub(super) partitions: i32,
    /// It was created just now.
    pub(super) is_new: bool,
    /// First offset of the first one.
    pub(super) first: i64,
    /// Next offset there.
    pub(super) end: i64,
}

/// A data topic that is ready.
pub(super) struct DataTopic {
    /// Its name.
    pub(super) name: String,
    /// Its id, where the broker gives one.
    pub(super) id: Option<String>,
    /// Next offset of each partition.
    pub(super) ends: Vec<i64>,
    /// Largest record batch that it takes, in bytes.
    pub(super) max_message_bytes: usize,
}

/// How long the settings of a topic are waited for that was just created.
const SETTINGS_LIMIT: Duration = Duration::from_secs(5);

impl Topics {
    pub(super) fn new(kafka: &kafka::Settings, plan: &TopicPlan, create: bool) -> Result<Self, Error> {
        Ok(Self { admin: Admin::new(kafka)?, plan: plan.clone(), create })
    }

    /// The two topics that capture keeps for itself: state and progress.
    pub(super) async fn ensure_own(&self, prefix: &str) -> Result<(), Error> {
        self.ensure_compacted(state_topic(prefix)).await?;
        let progress = BTreeMap::from([
            ("cleanup.policy".to_owned(), "compact,delete".to_owned()),
            ("retention.ms".to_owned(), "3600000".to_owned()),
            ("segment.ms".to_owned(), "600000".to_owned()),
        ]);
        let progress = TopicSettings { partitions: 1, config: progress, ..self.plan.common.clone() };
        self.ensure(&progress_topic(prefix), &progress).await.map(drop)
    }

    /// Makes the topic ready in which Kafka transactions record how far they go.
    pub(super) async fn ensure_position(&self, prefix: &str) -> Result<(), Error> {
        self.ensure_compacted(position_topic(prefix)).await
    }

    /// Whether it is there: deliveries were exactly once, now or before.
    pub(super) async fn has_position(&self, prefix: &str) -> Result<bool, Error> {
        Ok(self.admin.outline(&position_topic(prefix)).await?.is_some())
    }

    async fn ensure_compacted(&self, topic: String) -> Result<(), Error> {
        let config = BTreeMap::from([
            ("cleanup.policy".to_owned(), "compact".to_owned()),
            ("min.cleanable.dirty.ratio".to_owned(), "0.1".to_owned()),
            ("segment.ms".to_owned(), "600000".to_owned()),
        ]);
        let settings = TopicSettings { partitions: 1, config, ..self.plan.common.clone() };
        let found = self.ensure(&topic, &settings).await?;
        let policy = found.config.get("cleanup.policy").map_or("", String::as_str);
        if policy == "compact" { Ok(()) } else { Err(Error::StateNotCompacted { topic, policy: policy.to_owned() }) }
    }

    /// Makes the topic of heartbeats ready: old ones say nothing.
    pub(super) async fn ensure_heartbeat(&self, name: &str) -> Result<(), Error> {
        let short = BTreeMap::from([
            ("cleanup.policy".to_owned(), "delete".to_owned()),
            ("retention.ms".to_owned(), "86400000".to_owned()),
        ]);
        let settings = TopicSettings { partitions: 1, config: short, ..self.plan.common.clone() };
        self.ensure(name, &settings).await.map(drop)
    }

    /// Makes the topic of a table ready.
    pub(super) async fn ensure_table(&self, table: &TableName, name: &str, state: &State) -> Result<DataTopic, Error> {
        let wanted = self.plan.of(table);
        let wanted = wanted.map_err(|source| Error::TopicSettings { table: table.to_string(), source })?;
        let found = self.ensure(name, &wanted).await?;
        self.data(name, &found, state).await
    }

    /// Makes a data topic of no table ready.
    pub(super) async fn ensure_beside(&self, name: &str, state: &State) -> Result<DataTopic, Error> {
        let found = self.ensure(name, &self.plan.common).await?;
        self.data(name, &found, state).await
    }

    /// Makes the topic of dead letters ready, with whatever partitions it has. Who has seen to them may empty it, or delete it and
    /// create it again.
    pub(super) async fn ensure_dead_letters(&self, name: &str) -> Result<DataTopic, Error> {
        let found = match self.admin.describe(name).await? {
            Some(found) => found,
            None => self.ensure(name, &self.plan.common).await?,
        };
        self.data(name, &found, &State::default()).await
    }

    /// The topic of signals, created where it is missing. Records of one key must all stay in it.
    pub(super) async fn signals(&self, name: &str) -> Result<SignalSource, Error> {
        let (mut found, mut is_new) = (self.admin.outline(name).await?, false);
        if found.is_none() && self.create {
            let mut settings = TopicSettings { partitions: 1, ..self.plan.common.clone() };
            settings.config.insert("cleanup.policy".to_owned(), "delete".to_owned());
            is_new = self.admin.create(name, &settings).await?;
            found = Some(self.described(name).await?);
        }
        let found = found.ok_or_else(|| kafka::Error::MissingTopic { topic: name.to_owned() })?;
        let (first, end) = self.admin.watermarks(name, 0).await?;
        Ok(SignalSource { id: found.id, partitions: found.partitions, is_new, first, end })
    }

    /// The id of a topic that there is.
    pub(super) async fn id(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.admin.outline(name).await?.and_then(|found| found.id))
    }

    /// Makes the topic of transactions ready. Its records lie in the first partition, whatever other ones it has.
    pub(super) async fn ensure_transactions(&self, name: &str, state: &State) -> Result<DataTopic, Error> {
        let found = match self.admin.describe(name).await? {
            Some(found) => found,
            None => self.ensure(name, &TopicSettings { partitions: 1, ..self.plan.common.clone() }).await?,
        };
        self.data(name, &TopicDescription { partitions: 1, ..found }, state).await
    }

    /// The topic of a table that is not captured any more: it is never created anew, and has the partitions that it had.
    pub(super) async fn find_data(&self, name: &str, state: &State) -> Result<DataTopic, Error> {
        match self.admin.describe(name).await? {
            Some(found) => self.data(name, &found, state).await,
            None => Err(kafka::Error::MissingTopic { topic: name.to_owned() }.into()),
        }
    }

    async fn data(&self, name: &str, found: &TopicDescription, state: &State) -> Result<DataTopic, Error> {
        if found.is_compacted() {
            return Err(Error::CompactedTopic { topic: name.to_owned() });
        }
        let ends = self.ends(name, found.partitions).await?;
        if let Some(recorded) = state.topics.get(name) {
            check_recorded(name, recorded, found.id.as_deref(), &ends)?;
        }
        Ok(DataTopic {
            name: name.to_owned(),
            id: found.id.clone(),
            ends,
            max_message_bytes: found.max_message_bytes(),
        })
    }

    /// Whether there is a topic of this name.
    pub(super) async fn exists(&self, name: &str) -> Result<bool, Error> {
        Ok(self.admin.outline(name).await?.is_some())
    }

    /// Whether records were ever written into a topic.
    pub(super) async fn has_held_records(&self, name: &str) -> Result<bool, Error> {
        let Some(found) = self.admin.outline(name).await? else { return Ok(false) };
        Ok(self.ends(name, found.partitions).await?.iter().any(|end| *end > 0))
    }

    /// Largest record batch that each of these topics takes by now, in bytes.
    pub(super) async fn limits(&self, names: &[&str]) -> Result<BTreeMap<String, usize>, Error> {
        Ok(self.admin.max_message_bytes(names).await?)
    }

    async fn ensure(&self, name: &str, wanted: &TopicSettings) -> Result<TopicDescription, Error> {
        let found = match self.admin.describe(name).await? {
            Some(found) => found,
            None if self.create => {
                self.admin.create(name, wanted).await?;
                tracing::info!(topic = name, partitions = wanted.partitions, "created topic");
                self.described(name).await?
            }
            None => return Err(kafka::Error::MissingTopic { topic: name.to_owned() }.into()),
        };
        if found.partitions == wanted.partitions {
            return Ok(found);
        }
        let (found, expected) = (found.partitions, wanted.partitions);
        Err(kafka::Error::PartitionCount { topic: name.to_owned(), found, expected }.into())
    }

    /// A topic that was just created, once the brokers' metadata show it. One that has not heard of it yet gives no settings, as brokers do that
    /// show them to nobody: these are waited for, but not for ever.
    async fn described(&self, name: &str) -> Result<TopicDescription, Error> {
        let (mut backoff, begun, mut last) = (crate::retry::Backoff::new(), Instant::now(), None);
        for _ in 0..10 {
            match self.admin.describe(name).await?.filter(|found| found.partitions > 0) {
                Some(found) if !found.config.is_empty() => return Ok(found),
                found => last = found.or(last),
            }
            if last.is_some() && begun.elapsed() > SETTINGS_LIMIT {
                break;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        last.ok_or_else(|| kafka::Error::MissingTopic { topic: name.to_owned() }.into())
    }

    async fn ends(&self, name: &str, partitions: i32) -> Result<Vec<i64>, Error> {
        let mut ends = Vec::new();
        for partition in 0..partitions {
            ends.push(self.admin.watermarks(name, partition).await?.1);
        }
        Ok(ends)
    }
}

/// A topic with another id is not the one that was written, however much is in it. Nor is one that has other partitions, or
/// that ends below what was acknowledged in it.
fn check_recorded(topic: &str, recorded: &TopicRecord, id: Option<&str>, ends: &[i64]) -> Result<(), Error> {
    if let (Some(found), Some(recorded)) = (id, recorded.id.as_deref())
        && found != recorded
    {
        let (topic, found, recorded) = (topic.to_owned(), found.to_owned(), recorded.to_owned());
        return Err(Error::OtherTopic { topic, found, recorded });
    }
    let found = i32::try_from(ends.len()).unwrap_or(i32::MAX);
    if found != recorded.partitions {
        return Err(Error::PartitionsChanged { topic: topic.to_owned(), found, recorded: recorded.partitions });
    }
    for (partition, (found, recorded)) in ends.iter().zip(&recorded.ends).enumerate() {
        if found < recorded {
            let (found, recorded) = (*found, *recorded);
            return Err(Error::TopicRecreated { topic: topic.to_owned(), partition, found, recorded });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(id: Option<&str>) -> TopicRecord {
        TopicRecord { id: id.map(str::to_owned), partitions: 2, ends: vec![5, 7] }
    }

    // trap T51
    #[test]
    fn a_topic_with_other_partitions_or_a_lower_end_is_refused() {
        let check = |ends: &[i64]| check_recorded("t", &recorded(None), None, ends);
        assert!(check(&[5, 9]).is_ok());
        assert!(matches!(check(&[5, 9, 0]), Err(Error::PartitionsChanged { .. })));
        assert!(matches!(check(&[5, 6]), Err(Error::TopicRecreated { partition: 1, .. })));
    }

    #[test]
    fn a_topic_with_another_id_is_refused_and_an_unknown_id_is_not_compared() {
        let check = |known, found| check_recorded("t", &recorded(known), found, &[5, 9]);
        assert!(matches!(check(Some("a"), Some("b")), Err(Error::OtherTopic { .. })));
        for (known, found) in [(Some("a"), Some("a")), (None, Some("a")), (Some("a"), None)] {
            assert!(check(known, found).is_ok(), "{known:?} {found:?}");
        }
    }
}
