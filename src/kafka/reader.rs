//! The records of one partition from an offset on, outside of any group.

use std::collections::BTreeMap;

use bytes::Bytes;
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
    error::KafkaError,
    topic_partition_list::Offset,
};

use super::{Error, Settings, context::ClientLog};

/// A record of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
}

/// Reads one partition. It commits no offsets: who reads knows how far it has come.
pub struct PartitionReader {
    /// Is there until it is dropped.
    consumer: Option<StreamConsumer<ClientLog>>,
    topic: String,
}

impl Drop for PartitionReader {
    /// librdkafka waits for its threads, which may wait for a broker.
    fn drop(&mut self) {
        if let (Some(consumer), Ok(runtime)) = (self.consumer.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(consumer));
        }
    }
}

impl PartitionReader {
    /// Begins at `from`.
    ///
    /// # Errors
    /// A property is refused.
    pub fn new(settings: &Settings, topic: &str, partition: i32, from: i64) -> Result<Self, Error> {
        let consumer: StreamConsumer<ClientLog> = settings
            .client_config(&BTreeMap::new())
            .set("group.id", "walrelay-reader")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .create_with_context(ClientLog::default())
            .map_err(|source| Error::Configuration { reason: source.to_string() })?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(|source| unread(topic, source))?;
        Ok(Self { consumer: Some(consumer), topic: topic.to_owned() })
    }

    /// The next record, once there is one.
    ///
    /// # Errors
    /// Any trouble with the brokers, also passing one: a reader that is made anew knows the configured brokers again. So is an offset that
    /// the partition does not have: its topic may be another one by now.
    pub async fn next(&self) -> Result<PartitionRecord, Error> {
        let consumer = self.consumer.as_ref().ok_or(Error::Closed)?;
        let message = consumer.recv().await.map_err(|source| unread(&self.topic, source))?;
        Ok(PartitionRecord {
            offset: message.offset(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
        })
    }
}

fn unread(topic: &str, source: KafkaError) -> Error {
    Error::Topic { operation: "read", topic: topic.to_owned(), source }
}
