//! What can go wrong while the demo drives both halves from outside.

use std::path::PathBuf;

use crate::retry::{Classify, Severity};

/// The demo cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file with the addresses cannot be read.
    #[error("cannot read the addresses of the parts from {}", .file.display())]
    Parts {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file lacks an address.
    #[error("{} holds no usable {key}", .file.display())]
    MissingPart {
        /// The file.
        file: PathBuf,
        /// The key that is missing or wrong.
        key: &'static str,
    },
    /// A server refused something.
    #[error("cannot {operation} at {server}")]
    Server {
        /// What was tried.
        operation: String,
        /// `source` or `target`, with its address.
        server: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A folder or file of the run.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A process could not be started or signalled.
    #[error("cannot {operation} process {name}")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// The half.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A process ended by itself.
    #[error("process {name} ended with {status}; the end of its log:\n{log}")]
    Ended {
        /// The half.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s{log}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of a log, on lines of its own, where one belongs to it.
        log: String,
    },
    /// A signal ended the demo.
    #[error("the demo was interrupted; both halves are stopped")]
    Interrupted,
    /// Kafka refused something.
    #[error("cannot {operation}")]
    Kafka {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: rdkafka::error::KafkaError,
    },
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Interrupted => return None,
            Self::Parts { .. } | Self::MissingPart { .. } => {
                "Run `dev/parts up` and give the file that it names, with --parts or WALRELAY_DEV_ENV."
            }
            Self::Server { .. } | Self::Kafka { .. } => "`dev/parts status` shows whether every part answers.",
            Self::Write { .. } => "Give a folder that may be written, with --folder.",
            Self::Process { .. } | Self::Ended { .. } | Self::Late { .. } => {
                "The logs of both halves are in the demo's folder; `dev/parts status` shows whether every part answers."
            }
        };
        Some(text.to_owned())
    }
}
