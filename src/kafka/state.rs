//! The state topic: one compacted partition that only a fencing transactional producer writes.
//!
//! Opening it fences every earlier writer (PROTOCOL, "State and slot"), so what is read after that is final and no dying
//! predecessor can add to it. Each write is one Kafka transaction: its entries become visible together or not at all.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
    topic_partition_list::Offset,
};

use super::{Error, Settings, context::ClientLog};

const TIMEOUT: Duration = Duration::from_secs(30);
const COMMIT_ATTEMPT: Duration = Duration::from_secs(15);

/// One entry to write: its key and its value, or `None` to delete it.
pub type StateEntry = (String, Option<Vec<u8>>);

/// The writer's end of a state topic. All calls block; run them on a blocking thread.
pub struct StateTopic {
    producer: BaseProducer<ClientLog>,
    brokers: String,
    topic: String,
}

impl StateTopic {
    /// Fences all earlier writers of `transactional_id` and gets ready to write.
    pub fn open(settings: &Settings, topic: &str, transactional_id: &str) -> Result<Self, Error> {
        let producer: BaseProducer<ClientLog> = settings
            .client_config(&BTreeMap::new())
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", "600000")
            .set("linger.ms", "0")
            .set("acks", "all")
            .create_with_context(ClientLog::default())
            .map_err(|source| Error::Configuration { reason: source.to_string() })?;
        let state = Self { producer, brokers: settings.address(), topic: topic.to_owned() };
        state.producer.init_transactions(TIMEOUT).map_err(|source| state.failed("fence earlier writers", source))?;
        Ok(state)
    }

    /// Everything that is in the topic now, the last value of each key; deleted keys are left out.
    pub fn read(settings: &Settings, topic: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let failed = |operation, source| Error::State { operation, topic: topic.to_owned(), source };
        let consumer: BaseConsumer<ClientLog> = settings
            .client_config(&BTreeMap::new())
            .set("group.id", "walrelay-state")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "10")
            .create_with_context(ClientLog::default())
            .map_err(|source| Error::Configuration { reason: source.to_string() })?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, 0, Offset::Beginning)
            .and_then(|()| consumer.assign(&assignment))
            .map_err(|source| failed("read", source))?;
        let mut entries = BTreeMap::new();
        loop {
            match consumer.poll(TIMEOUT) {
                Some(Ok(message)) => {
                    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                    match message.payload() {
                        Some(value) => entries.insert(key, value.to_vec()),
                        None => entries.remove(&key),
                    };
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(entries),
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(source)) => return Err(failed("read", source)),
                None => {
                    return Err(failed("read", KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
                }
            }
        }
    }

    /// Writes entries in one transaction; when it returns, they are durable.
    pub fn write(&self, entries: &[StateEntry]) -> Result<(), Error> {
        self.producer.begin_transaction().map_err(|source| self.failed("begin a transaction", source))?;
        for (key, value) in entries {
            let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&self.topic).partition(0).key(key);
            record.payload = value.as_deref();
            self.producer.send(record).map_err(|(source, _)| self.failed("write", source))?;
        }
        self.commit()
    }

    /// A commit that timed out may still succeed, and is asked for again until the brokers answer: an outage is no reason to
    /// give the session up. A successor's fence ends the wait. Nobody polls this client, so its silence is all that tells that
    /// it may have lost its brokers.
    fn commit(&self) -> Result<(), Error> {
        let (log, begun) = (self.producer.context(), Instant::now());
        loop {
            match self.producer.commit_transaction(COMMIT_ATTEMPT) {
                Ok(()) => {
                    log.heed(begun, None);
                    return Ok(());
                }
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => {
                    log.heed(begun, error.rdkafka_error_code());
                    log.recover(self.producer.client(), &self.brokers);
                    tracing::warn!(
                        topic = self.topic,
                        "kafka does not answer; waiting for the position to be recorded"
                    );
                }
                Err(source) => return Err(self.failed("commit a transaction", source)),
            }
        }
    }

    fn failed(&self, operation: &'static str, source: KafkaError) -> Error {
        let fenced = matches!(
            source.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::InvalidProducerEpoch | RDKafkaErrorCode::ProducerFenced)
        );
        let fatal = self.producer.client().fatal_error();
        let fenced = fenced
            || fatal.is_some_and(|(code, _)| {
                matches!(
                    code,
                    RDKafkaErrorCode::Fenced
                        | RDKafkaErrorCode::InvalidProducerEpoch
                        | RDKafkaErrorCode::ProducerFenced
                )
            });
        if fenced {
            return Error::Fenced { topic: self.topic.clone() };
        }
        Error::State { operation, topic: self.topic.clone(), source }
    }
}

/// Connection troubles that librdkafka heals by itself while the read goes on.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
        )
    )
}
