//! Errors that end apply.

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
            Self::ConsumerEnded => Severity::Transient,
            Self::Task(_) => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Sink(error) => error.hint(),
            Self::Kafka(error) => error.hint(),
            Self::Decode(error) => error.hint(),
            Self::ConsumerEnded | Self::Task(_) => None,
        }
    }
}
