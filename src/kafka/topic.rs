//! Topics: creating, describing, and what the cluster says of partitions and offsets.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};

use super::{Error, Settings, context::ClientLog, topic_id, unpolled};
use crate::retry::Backoff;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long metadata may take before it is looked whether the brokers refuse the log-in, which nothing else tells.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// How topics are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Partitions of a data topic.
    pub partitions: i32,
    /// Replicas of every topic.
    pub replication_factor: i32,
    /// Topic configuration: retention, cleanup policy, and anything else.
    pub config: BTreeMap<String, String>,
}

/// What the cluster says of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its id (base64), which a topic of the same name that is created later does not have; `None` where the broker gives none.
    pub id: Option<String>,
    /// Number of partitions.
    pub partitions: i32,
    /// Smallest replica count of its partitions.
    pub replicas: usize,
    /// Its configuration, as far as the broker shows it.
    pub config: BTreeMap<String, String>,
}

impl TopicDescription {
    /// Whether the brokers remove records of which later ones have the key.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        self.config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
    }

    /// Largest record batch that the topic takes, in bytes.
    #[must_use]
    pub fn max_message_bytes(&self) -> usize {
        max_message_bytes(&self.config)
    }
}

/// What a configuration says; the brokers' own default where it is silent.
fn max_message_bytes(config: &BTreeMap<String, String>) -> usize {
    config.get("max.message.bytes").and_then(|text| text.parse().ok()).unwrap_or(1_048_588)
}

/// Administration calls. Clones share one client.
pub struct Admin {
    client: AdminClient<ClientLog>,
    brokers: String,
}

impl Admin {
    /// Connects lazily; a wrong property is an error at once.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let client = settings
            .client_config(&BTreeMap::new())
            .create_with_context(ClientLog::default())
            .map_err(|source| Error::Configuration { reason: source.to_string() })?;
        Ok(Self { client, brokers: settings.address() })
    }

    /// Partition counts of all topics of the cluster; blocks up to `timeout`.
    pub fn partition_counts(&self, timeout: Duration) -> Result<BTreeMap<String, i32>, Error> {
        let metadata = self.metadata(None, timeout)?;
        Ok(metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .map(|topic| (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)))
            .collect())
    }

    /// Notes how a request ended, and reminds the client of its brokers if it was silent for long. Its errors come too late to
    /// tell that it has lost them.
    fn heed<T, E>(
        &self,
        begun: Instant,
        outcome: Result<T, E>,
        code: impl Fn(&E) -> Option<RDKafkaErrorCode>,
    ) -> Result<T, E> {
        let client = self.client.inner();
        self.note_refusals();
        client.context().heed(begun, outcome.as_ref().err().and_then(code));
        client.context().recover(client, &self.brokers);
        outcome
    }

    fn note_refusals(&self) {
        for (code, reason) in unpolled::errors(self.client.inner()) {
            self.client.inner().context().note_refusal(Some(code), &reason);
        }
    }

    fn unreachable(&self, source: KafkaError) -> Error {
        let refused = self.client.inner().context().authentication_failure(&self.brokers);
        refused.unwrap_or_else(|| Error::Unreachable { brokers: self.brokers.clone(), source })
    }

    fn metadata(&self, topic: Option<&str>, timeout: Duration) -> Result<Metadata, Error> {
        let begun = Instant::now();
        let client = self.client.inner();
        let mut fetched = client.fetch_metadata(topic, timeout.min(FIRST_LOOK));
        self.note_refusals();
        if fetched.is_err() && timeout > FIRST_LOOK && client.context().authentication_failure(&self.brokers).is_none()
        {
            fetched = client.fetch_metadata(topic, timeout.saturating_sub(begun.elapsed()));
        }
        self.heed(begun, fetched, KafkaError::rdkafka_error_code).map_err(|source| self.unreachable(source))
    }

    /// Partitions and configuration of one topic; `None` if it does not exist.
    pub async fn describe(&self, topic: &str) -> Result<Option<TopicDescription>, Error> {
        let Some(outline) = self.outline(topic).await? else { return Ok(None) };
        let config = self.answers(&[topic]).await?.remove(topic).transpose()?.unwrap_or_default();
        Ok(Some(TopicDescription { config, ..outline }))
    }

    /// The same without the configuration, which takes a right of its own.
    pub async fn outline(&self, topic: &str) -> Result<Option<TopicDescription>, Error> {
        let metadata = tokio::task::block_in_place(|| self.metadata(Some(topic), REQUEST_TIMEOUT))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        if let Some(error) = found.error() {
            return match RDKafkaErrorCode::from(error) {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
                code => Err(Error::Topic {
                    operation: "describe",
                    topic: topic.to_owned(),
                    source: KafkaError::MetadataFetch(code),
                }),
            };
        }
        let partitions = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
        let replicas = found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        let id = self.id(topic).await?;
        Ok(Some(TopicDescription { id, partitions, replicas, config: BTreeMap::new() }))
    }

    /// The id of a topic that is there. Not every broker knows a new topic at once.
    async fn id(&self, topic: &str) -> Result<Option<String>, Error> {
        let mut backoff = Backoff::new();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let mut ids = tokio::task::block_in_place(|| self.topic_ids(&[topic], REQUEST_TIMEOUT))?;
            match ids.remove(topic) {
                Some(id) => return Ok(id),
                None if Instant::now() < deadline => tokio::time::sleep(backoff.next_delay()).await,
                None => return Err(Error::MissingTopic { topic: topic.to_owned() }),
            }
        }
    }

    /// The ids (base64) of those of the topics that exist; `None` where the broker gives none. Blocks up to `timeout`.
    pub fn topic_ids(&self, topics: &[&str], timeout: Duration) -> Result<BTreeMap<String, Option<String>>, Error> {
        let begun = Instant::now();
        let read = topic_id::read(self.client.inner(), topics, timeout);
        self.heed(begun, read, |refusal| Some(refusal.code)).or_else(|refusal| match (refusal.topic, refusal.code) {
            (None, RDKafkaErrorCode::UnsupportedFeature) => {
                Ok(topics.iter().map(|topic| ((*topic).to_owned(), None)).collect())
            }
            (None, code) => Err(self.unreachable(KafkaError::AdminOp(code))),
            (Some(topic), code) => {
                Err(Error::Topic { operation: "read the id of", topic, source: KafkaError::AdminOp(code) })
            }
        })
    }

    /// Largest record batch that each of the topics takes, in bytes; those of which the brokers do not tell it are left out.
    pub async fn max_message_bytes(&self, topics: &[&str]) -> Result<BTreeMap<String, usize>, Error> {
        let answers = self.answers(topics).await?;
        let configs = answers.into_iter().filter_map(|(topic, answer)| Some((topic, answer.ok()?)));
        Ok(configs.map(|(topic, config)| (topic, max_message_bytes(&config))).collect())
    }

    /// The configuration of each of the topics, or why it is not told.
    async fn answers(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, Result<BTreeMap<String, String>, Error>>, Error> {
        let failed = |topic: &str, source| Error::Topic {
            operation: "read the configuration of",
            topic: topic.to_owned(),
            source,
        };
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let answers = self.client.describe_configs(&resources, &options()).await;
        let answers = answers.map_err(|source| failed(topics.first().copied().unwrap_or_default(), source))?;
        let config = |resource: ConfigResource| {
            resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
        };
        let answer = |(topic, answer): (&&str, Result<ConfigResource, RDKafkaErrorCode>)| {
            ((*topic).to_owned(), answer.map(config).map_err(|code| failed(topic, KafkaError::AdminOp(code))))
        };
        Ok(topics.iter().zip(answers).map(answer).collect())
    }

    /// What each of the brokers has of a setting, as far as they show it.
    pub async fn broker_settings(&self, name: &str) -> Result<Vec<String>, Error> {
        let metadata = tokio::task::block_in_place(|| self.metadata(None, REQUEST_TIMEOUT))?;
        let resources: Vec<_> =
            metadata.brokers().iter().map(|broker| ResourceSpecifier::Broker(broker.id())).collect();
        let answers = self.client.describe_configs(&resources, &options()).await;
        let answers = answers.map_err(|source| self.unreachable(source))?;
        let shown = answers.into_iter().filter_map(Result::ok).flat_map(|resource| resource.entries);
        Ok(shown.filter(|entry| entry.name == name).filter_map(|entry| entry.value).collect())
    }

    /// Creates the topic; `false` if it was there already.
    pub async fn create(&self, topic: &str, settings: &TopicSettings) -> Result<bool, Error> {
        let mut new = NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(settings.replication_factor));
        for (name, value) in &settings.config {
            new = new.set(name, value);
        }
        let failed = |source| Error::Topic { operation: "create", topic: topic.to_owned(), source };
        let begun = Instant::now();
        let answers = self.client.create_topics([&new], &options()).await;
        let answers = self.heed(begun, answers, KafkaError::rdkafka_error_code).map_err(failed)?;
        match answers.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(failed(KafkaError::AdminOp(code))),
            Some(Ok(_)) | None => Ok(true),
        }
    }

    /// First and next offset of a partition. Waits some seconds for a leader, which a new topic does not have at once.
    pub async fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
        let mut backoff = Backoff::new();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let begun = Instant::now();
            let fetched =
                tokio::task::block_in_place(|| self.client.inner().fetch_watermarks(topic, partition, REQUEST_TIMEOUT));
            match self.heed(begun, fetched, KafkaError::rdkafka_error_code) {
                Ok(watermarks) => return Ok(watermarks),
                Err(error) if is_leaderless(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(source) => {
                    return Err(Error::Topic { operation: "read the offsets of", topic: topic.to_owned(), source });
                }
            }
        }
    }
}

fn is_leaderless(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::scripted;

    #[test]
    fn an_admin_client_that_knows_no_broker_any_more_is_reminded_of_the_configured_ones() {
        // Nobody listens there, which leaves the client as helpless as one that has forgotten every broker.
        let lost = Settings { brokers: vec!["127.0.0.1:1".to_owned()], properties: BTreeMap::new() };
        let admin = Admin { brokers: scripted::broker().to_string(), ..Admin::new(&lost).unwrap() };
        let deadline = Instant::now() + Duration::from_secs(40);
        while let Err(error) = admin.partition_counts(Duration::from_secs(1)) {
            assert!(Instant::now() < deadline, "{error:?}");
        }
    }
}
