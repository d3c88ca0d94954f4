//! Errors of the source side.

use std::{io, time::Duration};

use super::{
    identity::{Blind, IdentityProblem},
    spool::Problem,
};
use crate::{
    lsn::Lsn,
    pgoutput, postgres,
    retry::{Classify, Severity},
    schema::TableName,
};

/// Why reading from the source stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reaching the server, or a statement on it.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The replication connection broke.
    #[error("replication connection to {address} broke")]
    Broken {
        /// `host:port`.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The server closed the replication connection.
    #[error("{address} closed the replication connection")]
    Closed {
        /// `host:port`.
        address: String,
    },
    /// The server ended the stream in good order, as it does when it shuts down.
    #[error("{address} ended the stream of slot {slot}")]
    Ended {
        /// `host:port`.
        address: String,
        /// The slot.
        slot: String,
    },
    /// Nothing came from the server for too long (trap T15).
    #[error("nothing received from {address} on slot {slot} for {} s", limit.as_secs())]
    Silent {
        /// `host:port`.
        address: String,
        /// The slot.
        slot: String,
        /// The limit.
        limit: Duration,
    },
    /// A command was not answered.
    #[error("{doing} was not answered by {address} within {} s", limit.as_secs())]
    Unanswered {
        /// `host:port`.
        address: String,
        /// What was tried, as a noun phrase.
        doing: String,
        /// The limit.
        limit: Duration,
    },
    /// The server does not take what we send.
    #[error("{address} did not take a status update for slot {slot} within {} s", limit.as_secs())]
    Stuck {
        /// `host:port`.
        address: String,
        /// The slot.
        slot: String,
        /// The limit.
        limit: Duration,
    },
    /// The conversation is not the frontend/backend protocol.
    #[error("unexpected answer from {address}: {reason}")]
    Protocol {
        /// `host:port`.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// A message of the stream cannot be read.
    #[error("unreadable message of slot {slot} at or after {after}")]
    Message {
        /// The slot.
        slot: String,
        /// WAL position of the last readable message.
        after: Lsn,
        /// What is wrong with it.
        source: pgoutput::Error,
    },
    /// The server reads a publication as it was when a change was made, and then it was not there.
    #[error("slot {slot} holds changes that were made while its publication did not exist")]
    PublicationAbsent {
        /// The slot.
        slot: String,
        /// The transactions in progress that were sent by then.
        open: Vec<u32>,
        /// What the server said.
        source: Box<postgres::ServerError>,
    },
    /// Transactions that are in progress cannot be kept any more; the server sends them again.
    #[error("slot {slot} has {} transactions in progress that cannot be kept", open.len())]
    Spool {
        /// The slot.
        slot: String,
        /// Their top-level transaction ids.
        open: Vec<u32>,
        /// Why not.
        source: Problem,
    },
    /// Creating the slot did not end in time (trap T25).
    #[error("slot {slot} was not created within {} s", limit.as_secs())]
    SlotCreationTimeout {
        /// The slot.
        slot: String,
        /// The limit.
        limit: Duration,
    },
    /// A glob of the configuration cannot be read.
    #[error("table pattern {pattern:?} is not a glob over schema.table")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        source: globset::Error,
    },
    /// No table fits the configured patterns.
    #[error("no table of database {database} matches {patterns}")]
    NoTableMatches {
        /// The database.
        database: String,
        /// The include patterns.
        patterns: String,
    },
    /// The publication is not there, and it is not ours to create.
    #[error("publication {publication} does not exist")]
    PublicationMissing {
        /// The publication.
        publication: String,
        /// The statement that creates it.
        sql: String,
    },
    /// The publication lacks configured tables, and it is not ours to change.
    #[error("publication {publication} lacks {}", join(tables))]
    PublicationLacks {
        /// The publication.
        publication: String,
        /// The tables.
        tables: Vec<TableName>,
        /// The statement that adds them.
        sql: String,
    },
    /// The publication's options differ from what capture needs, and it is not ours to change.
    #[error("publication {publication} does not publish {}", missing.join(", "))]
    PublicationOptions {
        /// The publication.
        publication: String,
        /// Operations or options that are off.
        missing: Vec<&'static str>,
        /// The statement that sets them.
        sql: String,
    },
    /// The publication would make the server refuse updates and deletes of tables.
    #[error(
        "publication {publication} gets no tables whose updates and deletes would fail at the source from then on: {}",
        told(blind)
    )]
    Unidentified {
        /// The publication.
        publication: String,
        /// The tables, and partitions.
        blind: Vec<Blind>,
    },
    /// A column list or a row filter is configured, and the server has none.
    #[error(
        "capture.column_lists or capture.row_filters name {table}, and the server knows neither before PostgreSQL 15"
    )]
    ShapesUnknown {
        /// The first of the tables.
        table: TableName,
    },
    /// A column list or a row filter is configured for a table that is not captured.
    #[error("capture.column_lists or capture.row_filters name {table}, which is no captured table")]
    ShapeOfNone {
        /// The table.
        table: TableName,
    },
    /// The source's own updates would fail.
    #[error(
        "with capture.column_lists and capture.row_filters the server would refuse updates and deletes of {table}: {reason}"
    )]
    ShapeBlocks {
        /// The table.
        table: TableName,
        /// Why.
        reason: String,
    },
    /// The publication has a table with another column list or row filter than the configured one.
    #[error(
        "publication {publication} has {table} with another column list or row filter than capture.column_lists and capture.row_filters"
    )]
    ShapeDiffers {
        /// The publication.
        publication: String,
        /// The table.
        table: TableName,
        /// The statements that make it the configured one.
        sql: String,
    },
    /// The publication has a table by its schema or with all tables.
    #[error(
        "publication {publication} has {table} by its schema or with all tables, where capture.column_lists and capture.row_filters count for nothing"
    )]
    ShapeOfWhole {
        /// The publication.
        publication: String,
        /// The table.
        table: TableName,
    },
    /// A relation of the stream is neither in the catalog as it was, nor does its last known key fit it.
    #[error("table {table} lost its key columns {}", columns.join(", "))]
    KeyColumnsGone {
        /// The table.
        table: TableName,
        /// Key columns that the relation no longer has.
        columns: Vec<String>,
    },
    /// A table cannot have the key that is configured for it.
    #[error("{}", problem.describe(table))]
    KeyColumnsUnfit {
        /// The table.
        table: TableName,
        /// Why.
        problem: IdentityProblem,
    },
    /// Key columns are configured for a table that is not captured.
    #[error("capture.key_columns names {table}, which is no captured table")]
    KeyColumnsOfNone {
        /// The table.
        table: TableName,
    },
    /// The table's storage was rewritten after the snapshot, which then reads it as empty or in part (trap T79).
    #[error("table {table} was rewritten or truncated, or got or lost a partition, after the snapshot was taken")]
    Rewritten {
        /// The table.
        table: TableName,
    },
    /// The table was altered, renamed, or made anew while the slot was created, or right after.
    #[error("table {table} was altered while its snapshot was prepared")]
    Altered {
        /// The table.
        table: TableName,
    },
    /// The exported snapshot cannot be used any more (trap T19).
    #[error("snapshot {snapshot} is gone")]
    SnapshotGone {
        /// The snapshot's name.
        snapshot: String,
        /// What the server said.
        source: postgres::Error,
    },
    /// A COPY row does not have the shape that was asked for.
    #[error("unreadable row of table {table}: {reason}")]
    CopyRow {
        /// The table.
        table: TableName,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Error {
    /// Whether it lies in the configured column lists and row filters.
    #[must_use]
    pub const fn is_of_shape(&self) -> bool {
        matches!(
            self,
            Self::ShapesUnknown { .. }
                | Self::ShapeOfNone { .. }
                | Self::KeyColumnsOfNone { .. }
                | Self::ShapeBlocks { .. }
                | Self::ShapeOfWhole { .. }
                | Self::ShapeDiffers { .. }
        )
    }

    /// Wraps an error of tokio-postgres; `doing` is a noun phrase.
    pub(super) fn statement(doing: impl Into<String>, error: tokio_postgres::Error) -> Self {
        Self::Postgres(postgres::Error::statement(doing, error))
    }

    /// The same of the spool, with a transaction more that it could not keep.
    pub(super) fn with_open(mut self, xid: u32) -> Self {
        if let Self::Spool { open, .. } = &mut self {
            open.push(xid);
        }
        self
    }

    /// Where in the WAL the change is whose publication was not there, if the server told.
    #[must_use]
    pub fn change(&self) -> Option<Lsn> {
        match self {
            Self::PublicationAbsent { source, .. } => source.change,
            _ => None,
        }
    }

    /// What the server said, where it was the server.
    #[must_use]
    pub fn server_error(&self) -> Option<&postgres::ServerError> {
        match self {
            Self::Postgres(error) => error.server_error(),
            _ => None,
        }
    }
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Postgres(error) => error.severity(),
            Self::Message { source, .. } => source.severity(),
            Self::Broken { .. }
            | Self::Closed { .. }
            | Self::Ended { .. }
            | Self::Silent { .. }
            | Self::Unanswered { .. }
            | Self::Stuck { .. }
            | Self::Spool { .. }
            | Self::SlotCreationTimeout { .. }
            | Self::SnapshotGone { .. }
            | Self::Rewritten { .. }
            | Self::Altered { .. } => Severity::Transient,
            Self::KeyColumnsGone { .. } | Self::KeyColumnsUnfit { .. } | Self::CopyRow { .. } => Severity::Definite,
            _ => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Postgres(error) => return error.hint(),
            Self::Message { source, .. } => return source.hint(),
            Self::Spool { source: Problem::Corrupt { .. }, .. } => {
                "Nothing is lost: the server sends the transactions again. Look after the disk that the spool's folder is on."
                    .to_owned()
            }
            Self::Spool { source: Problem::Untold { .. }, .. } => {
                "Nothing is lost: the server sends the transaction again, when it knows what counts of it.".to_owned()
            }
            Self::Spool { .. } => {
                "Nothing is lost: the server keeps large transactions itself until these have ended. Give the spool a folder with \
                 more room and a higher limit by [capture.spool] directory and limit, or end transactions that are idle."
                    .to_owned()
            }
            Self::SlotCreationTimeout { .. } => {
                "PostgreSQL creates a logical slot only when every transaction that was running has ended (on a stand-by: \
                 when the primary has logged its running transactions, see pg_log_standby_snapshot()). End the oldest \
                 transaction; the slot is tried again."
                    .to_owned()
            }
            Self::PublicationAbsent { .. } => {
                "A new snapshot has the changes: see that the publication exists, drop the slot and set [capture] on_gap = \"resnapshot\". \
                 If it is younger than the changes, the publication that was configured before has them, unless that was dropped too."
                    .to_owned()
            }
            Self::NoTableMatches { .. } => {
                "Correct the table patterns, or create the tables; a pattern is a glob over schema.table.".to_owned()
            }
            Self::PublicationMissing { sql, .. }
            | Self::PublicationLacks { sql, .. }
            | Self::PublicationOptions { sql, .. } => format!("Run on the source, or on its primary where that is a stand-by: {sql}"),
            Self::Unidentified { blind, .. } => format!(
                "{} Or leave tables out by capture.exclude; or set capture.unidentified = \"full\" (where capture makes the publication or takes a \
                 snapshot it gives them REPLICA IDENTITY FULL, which does not go with a column list or an unpublished generated column) or \"publish\" (their rows are only ever inserted).",
                remedies(blind)
            ),
            Self::ShapesUnknown { .. } => "Remove them.".to_owned(),
            Self::ShapeBlocks { table, .. } => format!(
                "Nothing was changed. List all columns of the replica identity and filter by these alone, or, for a filter without a list: \
                 ALTER TABLE {} REPLICA IDENTITY FULL; partitions that are made later need the same.",
                table.quoted()
            ),
            Self::KeyColumnsUnfit { table, problem } => format!(
                "{} What was changed before that cannot be published under this key: where the table has stopped, it is then read again by \
                 [capture] on_stop = \"resync\", or by a new snapshot.",
                problem.remedy(table)
            ),
            Self::ShapeOfNone { .. } | Self::KeyColumnsOfNone { .. } => {
                "Name it as schema.table, without quotes, or remove it; partitions have what their root has.".to_owned()
            }
            Self::ShapeOfWhole { .. } => "Make it a publication of tables (FOR TABLE), or remove the lists and filters.".to_owned(),
            Self::ShapeDiffers { sql, .. } => format!(
                "What was published under the former ones stays as it is, so a new snapshot is needed: stop capture, run on the source: {sql} \
                 Then drop the slot and set [capture] on_gap = \"resnapshot\". Or configure what the publication has."
            ),
            Self::KeyColumnsGone { .. } => "The table needs a new snapshot under its new key: drop the slot and set [capture] on_gap = \"resnapshot\".".to_owned(),
            Self::Rewritten { .. } | Self::Altered { .. } | Self::SnapshotGone { .. } => {
                "The snapshot starts over from a new slot.".to_owned()
            }
            _ => return None,
        })
    }
}

/// How many of them a message names.
const NAMED: usize = 10;

fn told(blind: &[Blind]) -> String {
    let named: Vec<_> = blind.iter().take(NAMED).map(Blind::describe).collect();
    let more = blind.len().saturating_sub(NAMED);
    format!("{}{}", named.join("; "), if more == 0 { String::new() } else { format!("; and {more} more") })
}

fn remedies(blind: &[Blind]) -> String {
    let remedies = blind.iter().take(NAMED).map(|blind| blind.problem.remedy(&blind.relation));
    remedies.map(|remedy| format!("{}.", remedy.trim_end_matches([';', '.']))).collect::<Vec<_>>().join(" ")
}

fn join(tables: &[TableName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
