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
    Sink(#[from] sink::Error),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// A record or its schema.
    #[error(transparent)]
    Decode(#[from] record::DecodeError),
    /// The consumer's thread is gone without a word.
    #[error("the consumer has ended")]
    ConsumerEnded,
    /// A task of apply panicked.
    #[error("a task of apply has failed")]
    Task(#[from] tokio::task::JoinError),
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
