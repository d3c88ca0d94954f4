//! Errors of the Kafka adapter and what to do about them.

use std::time::Duration;

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

use crate::retry::{Classify, Severity};

/// An error in talking to Kafka.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A librdkafka property was refused.
    #[error("kafka client configuration is not accepted: {reason}")]
    Configuration {
        /// librdkafka's words.
        reason: String,
    },
    /// No broker answered.
    #[error("no kafka broker answers at {brokers}")]
    Unreachable {
        /// The bootstrap addresses.
        brokers: String,
        /// What librdkafka saw.
        #[source]
        source: KafkaError,
    },
    /// The brokers refuse the credentials.
    #[error("kafka at {brokers} refuses the credentials: {reason}")]
    Authentication {
        /// The bootstrap addresses.
        brokers: String,
        /// The broker's words.
        reason: String,
        /// Brokers have let this process in before with the same ones, so what checks them may be down.
        admitted: bool,
    },
    /// An operation on a topic failed.
    #[error("kafka refuses to {operation} topic {topic}")]
    Topic {
        /// What was tried.
        operation: &'static str,
        /// The topic.
        topic: String,
        /// The broker's error.
        #[source]
        source: KafkaError,
    },
    /// The topic is not there.
    #[error("topic {topic} does not exist")]
    MissingTopic {
        /// The topic.
        topic: String,
    },
    /// A topic has another number of partitions than it should.
    #[error("topic {topic} has {found} partitions, {expected} are expected")]
    PartitionCount {
        /// The topic.
        topic: String,
        /// What the cluster says.
        found: i32,
        /// What was recorded or configured.
        expected: i32,
    },
    /// A record could not be handed to the producer.
    #[error("record for topic {topic} is not accepted by the producer")]
    Produce {
        /// The topic.
        topic: String,
        /// librdkafka's error.
        #[source]
        source: KafkaError,
    },
    /// A record that was handed over was not delivered: whether it was written is unknown.
    #[error("delivery to topic {topic} partition {partition} failed")]
    Delivery {
        /// The topic.
        topic: String,
        /// The partition, or −1 if it was not chosen yet.
        partition: i32,
        /// The broker's or librdkafka's error.
        #[source]
        source: KafkaError,
    },
    /// A transaction on the state topic failed.
    #[error("cannot {operation} on state topic {topic}")]
    State {
        /// What was tried.
        operation: &'static str,
        /// The state topic.
        topic: String,
        /// The broker's error.
        #[source]
        source: KafkaError,
    },
    /// Another process has taken over the state topic.
    #[error("another capture has taken over state topic {topic}")]
    Fenced {
        /// The state topic.
        topic: String,
    },
    /// A transaction of the producer of events failed.
    #[error("cannot {operation} under transactional id {id}")]
    Transaction {
        /// What was tried.
        operation: &'static str,
        /// The transactional id.
        id: String,
        /// The brokers' or librdkafka's error.
        #[source]
        source: KafkaError,
    },
    /// The brokers leave no transaction open for so long.
    #[error("the brokers leave no transaction open for {wanted:?}, as transactional id {id} asks for")]
    TransactionTimeout {
        /// The transactional id.
        id: String,
        /// What was asked for.
        wanted: Duration,
    },
    /// Another process has taken over the transactional id.
    #[error("another capture has taken over transactional id {id}, or a transaction was open longer than its time-out")]
    Superseded {
        /// The transactional id.
        id: String,
    },
    /// The records of a change were handed over by half.
    #[error("the records of a change were handed over by half when the session was cut: their transaction is given up")]
    Torn,
    /// The consumer failed.
    #[error("consuming from kafka at {brokers} failed")]
    Consume {
        /// The bootstrap addresses.
        brokers: String,
        /// librdkafka's error.
        #[source]
        source: KafkaError,
    },
    /// A stored offset is outside what the topic still holds (trap T55).
    #[error("what is to be consumed next is not in kafka any more: {places}")]
    OffsetOutOfRange {
        /// Offsets with their topics and partitions; the topics that are consumed where it cannot be told.
        places: String,
    },
    /// The worker thread of a client is gone.
    #[error("the kafka client was closed")]
    Closed,
}

/// Error codes that no retry heals for one topic: it is missing, the record is too large, rights are missing.
fn is_definite(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidMessage
            | Code::TopicAuthorizationFailed
            | Code::PolicyViolation
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
    )
}

impl Error {
    /// Whether the producer takes nothing more since the delivery of an earlier record failed, whose report tells of which.
    #[must_use]
    pub fn is_of_earlier_record(&self) -> bool {
        // A transaction that failed takes none either, and that is told as a wrong state.
        let tells = |code| matches!(code, RDKafkaErrorCode::Fatal | RDKafkaErrorCode::State);
        matches!(self, Self::Produce { source, .. } if code(source).is_some_and(tells))
    }

    /// The topic that this user may not look at.
    #[must_use]
    pub fn hidden_topic(&self) -> Option<&str> {
        match self {
            Self::Topic { topic, source, .. } if code(source) == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Some(topic)
            }
            _ => None,
        }
    }

    /// Whether a record was given up over another one's failure, or that of their transaction.
    #[must_use]
    pub fn is_of_other_record(&self) -> bool {
        let tells = |code| matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        matches!(self, Self::Delivery { source, .. } if code(source).is_some_and(tells))
    }
}

fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    error.rdkafka_error_code()
}

/// Error codes by which brokers refuse a transaction, and not a record.
fn is_refused(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::TopicAuthorizationFailed
    )
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Authentication { admitted: true, .. } => Severity::Transient,
            Self::Configuration { .. } | Self::Authentication { .. } | Self::OffsetOutOfRange { .. } => Severity::Fatal,
            Self::PartitionCount { .. } | Self::MissingTopic { .. } => Severity::Fatal,
            Self::Topic { source, .. } | Self::Produce { source, .. } | Self::Delivery { source, .. } => {
                if code(source).is_some_and(is_definite) { Severity::Definite } else { Severity::Transient }
            }
            Self::State { source, .. } => {
                if code(source).is_some_and(is_definite) {
                    Severity::Fatal
                } else {
                    Severity::Transient
                }
            }
            Self::TransactionTimeout { .. } => Severity::Fatal,
            Self::Transaction { source, .. } if code(source).is_some_and(is_refused) => Severity::Fatal,
            Self::Transaction { .. } | Self::Superseded { .. } | Self::Torn => Severity::Transient,
            Self::Unreachable { .. } | Self::Fenced { .. } | Self::Consume { .. } | Self::Closed => Severity::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Configuration { .. } => "Correct the property in [kafka.properties]; librdkafka's CONFIGURATION.md lists all of them.".into(),
            Self::Unreachable { .. } => "Check [kafka] brokers, that the brokers run, and that their advertised.listeners can be reached from here.".into(),
            Self::Authentication { admitted: true, .. } => "This process was let in before with the same credentials: look at what checks them behind the brokers. If they were changed, correct the sasl.* and ssl.* properties in [kafka.properties] and restart.".into(),
            Self::Authentication { .. } => "Check the sasl.* and ssl.* properties in [kafka.properties].".into(),
            Self::Topic { topic, source, .. } | Self::Delivery { topic, source, .. } | Self::Produce { topic, source } => return delivery_hint(topic, source),
            Self::MissingTopic { topic } => format!("Create topic {topic}, or let capture create it (kafka.topics.create = true)."),
            Self::PartitionCount { found, .. } => format!("Set kafka.topics.partitions = {found}, or partitions = {found} for its table in [kafka.topics.tables], if the topic always had so many. If its count was changed, keys have moved to other partitions and lost their order: publish under a new prefix with a new slot, and empty the tables at the targets first (docs/operations.md, \"A new prefix\")."),
            Self::Transaction { id, source, .. } if code(source).is_some_and(is_refused) => format!("Grant the configured principal Write and Describe on TransactionalId {id}, and Write on every topic that it publishes to; librdkafka's log (WALRELAY_LOG=walrelay::librdkafka=debug) names the topic."),
            Self::TransactionTimeout { wanted, .. } => format!("Set [capture] transaction_timeout to less than the brokers' transaction.max.timeout.ms, or raise that above {} ms.", wanted.as_millis()),
            Self::Fenced { .. } | Self::Superseded { .. } => "Run one capture per slot; this one starts again and waits for the slot.".into(),
            Self::OffsetOutOfRange { .. } => "Records that were never applied are gone from the topic (retention, or the topic was recreated): take a new snapshot into a new prefix and empty the tables at the targets first (docs/operations.md, \"A new prefix\"), or restore the topic.".into(),
            Self::Consume { source, .. } if code(source).is_some_and(is_definite) => "Check that every topic and partition in [apply] partitions exists, and that the user may read it.".into(),
            Self::State { .. } | Self::Transaction { .. } | Self::Torn | Self::Consume { .. } | Self::Closed => return None,
        })
    }
}

fn delivery_hint(topic: &str, source: &KafkaError) -> Option<String> {
    use RDKafkaErrorCode as Code;
    Some(match code(source)? {
        Code::TopicAuthorizationFailed => {
            format!(
                "Grant the configured principal the ACL operations Write, Describe and Create on topic {topic}, and Read with capture.delivery = \"exactly-once\"."
            )
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            format!("Raise max.message.bytes of topic {topic} (and message.max.bytes of the brokers).")
        }
        Code::InvalidTimestamp => format!(
            "Compare this machine's clock with the brokers': topic {topic} takes records of about their time only \
             (message.timestamp.before.max.ms and message.timestamp.after.max.ms)."
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            format!("Create topic {topic} again, or restart capture to let it create the topic.")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_acl_stops_the_table_and_a_lost_broker_does_not() {
        let failed =
            |code| Error::Delivery { topic: "t".into(), partition: 0, source: KafkaError::MessageProduction(code) };
        assert_eq!(failed(RDKafkaErrorCode::TopicAuthorizationFailed).severity(), Severity::Definite);
        assert_eq!(failed(RDKafkaErrorCode::MessageSizeTooLarge).severity(), Severity::Definite);
        assert_eq!(failed(RDKafkaErrorCode::BrokerTransportFailure).severity(), Severity::Transient);
        assert_eq!(failed(RDKafkaErrorCode::PurgeQueue).severity(), Severity::Transient);
    }

    #[test]
    fn a_refused_log_in_ends_a_process_that_was_never_let_in_and_no_other() {
        let refused = |admitted| Error::Authentication { brokers: "b".into(), reason: "no".into(), admitted };
        assert_eq!(refused(false).severity(), Severity::Fatal);
        assert_eq!(refused(true).severity(), Severity::Transient);
        assert!(refused(true).hint().is_some_and(|hint| hint.contains("let in before")));
    }
}
