//! Why a comparison could not be made.

use std::time::Duration;

use crate::{
    kafka,
    lsn::Lsn,
    postgres,
    retry::{Classify, Severity},
    schema::TableName,
    source,
};

/// Why a comparison could not be made. That the tables differ is no error, it is a [`super::Report`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server could not be reached, or refused a statement.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The replication connection failed.
    #[error("cannot take a snapshot at the source")]
    Replication(#[source] source::Error),
    /// Kafka could not tell the partitions of the topics.
    #[error("cannot read the partition counts of the topics")]
    Kafka(#[source] kafka::Error),
    /// The publication does not exist.
    #[error("publication {0:?} does not exist at the source")]
    NoPublication(String),
    /// There is nothing to compare.
    #[error("no table to compare")]
    NoTables,
    /// A table was asked for by name and is not published.
    #[error("table {table} is not in publication {publication:?}")]
    NotPublished {
        /// The table.
        table: TableName,
        /// The publication.
        publication: String,
    },
    /// A table was asked for by name and does not exist.
    #[error("table {0} does not exist at the source")]
    NoTable(TableName),
    /// The slot waited for running transactions for too long (trap T25).
    #[error("no snapshot at the source within {} s: {blocker}", .limit.as_secs())]
    SourceTimeout {
        /// The time limit.
        limit: Duration,
        /// The oldest transaction that runs.
        blocker: String,
    },
    /// Lanes of `apply` did not reach the LSN in time.
    #[error("apply did not reach {lsn} within {} s: {}", .limit.as_secs(), .lanes.join("; "))]
    HoldTimeout {
        /// The LSN.
        lsn: Lsn,
        /// The time limit.
        limit: Duration,
        /// The partitions that are behind and where they are.
        lanes: Vec<String>,
    },
    /// `apply` went on beyond the LSN although it was held.
    #[error("apply went past {lsn} before it could be held: {}", .lanes.join("; "))]
    Overtaken {
        /// The LSN.
        lsn: Lsn,
        /// The partitions that are beyond it.
        lanes: Vec<String>,
    },
    /// Tables were truncated or rewritten between a snapshot and the lock on them, so that it sees them empty (trap T79).
    #[error("tables of the {side} were truncated or rewritten meanwhile: {}", .tables.join(", "))]
    Rewritten {
        /// Which server.
        side: &'static str,
        /// The tables, quoted for SQL.
        tables: Vec<String>,
    },
    /// Lanes of `apply` have stopped, so the target can never be at the LSN.
    #[error("apply has stopped: {}", .lanes.join("; "))]
    Stopped {
        /// The partitions and why they stopped.
        lanes: Vec<String>,
    },
    /// Another comparison holds the same instance.
    #[error("another verify holds apply (instance {instance})")]
    Busy {
        /// The sink instance.
        instance: String,
    },
    /// The target has no bookkeeping tables.
    #[error("the target has no bookkeeping table {table}")]
    NoBookkeeping {
        /// The table, quoted for SQL.
        table: String,
    },
    /// Tables that were asked for by name are not applied.
    #[error("table {0} is not applied to the target")]
    NotApplied(TableName),
    /// The operator interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// The answer of a server is not what the statement promises.
    #[error("unexpected answer of the {side} while {doing}")]
    Answer {
        /// Which server.
        side: &'static str,
        /// What was tried.
        doing: &'static str,
    },
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Postgres(error) => error.severity(),
            Self::Replication(error) => error.severity(),
            Self::Kafka(error) => error.severity(),
            Self::SourceTimeout { .. }
            | Self::HoldTimeout { .. }
            | Self::Overtaken { .. }
            | Self::Rewritten { .. }
            | Self::Busy { .. } => Severity::Transient,
            _ => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Postgres(error) => error.hint(),
            Self::Replication(error) => error.hint(),
            Self::Kafka(error) => error.hint(),
            Self::NoPublication(_) => Some("Start capture once, which creates it, or correct its name.".to_owned()),
            Self::NoTables => Some("Add tables to the publication, or name some.".to_owned()),
            Self::NotPublished { .. } | Self::NoTable(_) => {
                Some("Write it as schema.table, in the server's own case.".to_owned())
            }
            Self::SourceTimeout { .. } => Some(
                "A snapshot that is aligned with the WAL waits for every transaction that runs when it is asked for. End \
                 that transaction, or allow more time."
                    .to_owned(),
            ),
            Self::HoldTimeout { .. } => Some(
                "Check that capture and apply run and that no table is stopped (their /readyz says so), or allow more \
                 time."
                    .to_owned(),
            ),
            Self::Overtaken { .. } | Self::Rewritten { .. } => Some("Try again.".to_owned()),
            Self::Stopped { .. } => Some("Remove the cause that it names, and restart apply.".to_owned()),
            Self::Busy { .. } => Some(
                "Wait until it has its snapshot; what a dead one left behind expires after half a minute.".to_owned(),
            ),
            Self::NoBookkeeping { .. } => {
                Some("Start apply once, which creates them, or correct apply.bookkeeping_schema.".to_owned())
            }
            Self::NotApplied(_) => Some("Correct the name, or what apply includes and excludes.".to_owned()),
            Self::Interrupted | Self::Answer { .. } => None,
        }
    }
}
