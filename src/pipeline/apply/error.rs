//! Errors that end apply.

use std::time::Duration;

use crate::{
    kafka, record,
    retry::{Classify, Severity},
    sink,
};

/// Apply cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target.
    #[error(transparent)]
    Sink(Box<sink::Error>),
    /// Kafka.
    #[error(transparent)]
    Kafka(Box<kafka::Error>),
    /// A record or its schema.
    #[error(transparent)]
    Decode(Box<record::DecodeError>),
    /// A configured partition is not there.
    #[error("topic {topic} has no partition {partition}: it has {count}, numbered from 0")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Number of the topic's partitions.
        count: i32,
    },
    /// The brokers know a topic, but not its partitions at present.
    #[error("the partitions of topic {topic} are not known at present")]
    Leaderless {
        /// The topic.
        topic: String,
    },
    /// Others do not consume the partitions that this process leaves to them.
    #[error("nobody consumes {partitions}: waited for {} s", waited.as_secs())]
    Unconsumed {
        /// Topics and partitions.
        partitions: String,
        /// The instance.
        group: String,
        /// How long.
        waited: Duration,
    },
    /// The target has lost what this process has seen committed.
    #[error("the target has gone back in time: topic {topic}, partition {partition}, was further there")]
    WentBack {
        /// A topic that shows it.
        topic: String,
        /// Its partition.
        partition: i32,
    },
    /// The consumer's thread is gone without a word.
    #[error("the consumer has ended")]
    ConsumerEnded,
    /// A task of apply panicked.
    #[error("a task of apply has failed")]
    Task(#[from] tokio::task::JoinError),
}

impl From<sink::Error> for Error {
    fn from(error: sink::Error) -> Self {
        Self::Sink(Box::new(error))
    }
}

impl From<kafka::Error> for Error {
    fn from(error: kafka::Error) -> Self {
        Self::Kafka(Box::new(error))
    }
}

impl From<record::DecodeError> for Error {
    fn from(error: record::DecodeError) -> Self {
        Self::Decode(Box::new(error))
    }
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Sink(error) => error.severity(),
            Self::Kafka(error) => error.severity(),
            Self::Decode(error) => error.severity(),
            Self::ConsumerEnded | Self::Leaderless { .. } | Self::WentBack { .. } => Severity::Transient,
            Self::NoPartition { .. } | Self::Unconsumed { .. } | Self::Task(_) => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Sink(error) => error.hint(),
            Self::Kafka(error) => error.hint(),
            Self::Decode(error) => error.hint(),
            Self::NoPartition { .. } => Some("Correct [apply] partitions.".into()),
            Self::Unconsumed { group, .. } => Some(format!(
                "List them in [apply] partitions, of this process or of another one of group {group} that runs at the same time: \
                 a truncate waits for every partition of its tables."
            )),
            Self::WentBack { .. } => Some(
                "It was restored, or a crash or a fail-over took its last commits: apply goes on from what it has."
                    .into(),
            ),
            Self::ConsumerEnded | Self::Leaderless { .. } | Self::Task(_) => None,
        }
    }
}
