//! Errors of the sink and what to do about them.
//!
//! A server's message may quote a row's value (`invalid input syntax for type integer: "…"`), so what is shown of it is
//! the SQLSTATE with the table, column and constraint that it names; the text itself only for classes that cannot quote one.

use tokio_postgres::error::{DbError, SqlState};

use crate::{
    lsn::Position,
    postgres,
    retry::{Classify, Severity},
    schema::TableName,
};

/// What the target server answered, without row values.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct ServerError {
    /// SQLSTATE.
    pub code: SqlState,
    /// Class, constraint, column and, where harmless, the message.
    pub text: String,
    /// The column of a COPY that failed.
    pub copied: Option<String>,
}

impl ServerError {
    fn new(error: &DbError) -> Self {
        let code = error.code().clone();
        let quotes_values = ["22", "23", "P0"].contains(&code.code().get(..2).unwrap_or_default());
        let mut text = if quotes_values {
            format!("SQLSTATE {}", code.code())
        } else {
            format!("{} (SQLSTATE {})", error.message(), code.code())
        };
        for (what, name) in [
            ("constraint", error.constraint()),
            ("column", error.column()),
            ("table", error.table()),
            ("type", error.datatype()),
        ] {
            if let Some(name) = name {
                text.push_str(&format!(", {what} {name}"));
            }
        }
        Self { code, text, copied: error.where_().and_then(copied_column).map(str::to_owned) }
    }
}

/// The column in the context of a failed COPY (`COPY t, line 1, column c: "value"`), without the value; names that hold
/// `: ` are cut short.
fn copied_column(context: &str) -> Option<&str> {
    let (_, rest) = context.lines().find(|line| line.starts_with("COPY "))?.split_once(", line ")?;
    let column = rest.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(", column ")?;
    column.split(": ").next()
}

/// An error in talking to the target.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection to the target.
    #[error("cannot connect to the target")]
    Connect(#[source] Box<postgres::Error>),
    /// The connection broke.
    #[error("the connection to the target broke while it was to {doing}")]
    Broken {
        /// What was being done.
        doing: &'static str,
        /// What the client saw.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The target refused a statement that concerns no single table.
    #[error("the target refused to {doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The server's answer.
        #[source]
        source: Box<ServerError>,
    },
    /// The target refused a statement on a table.
    #[error("the target refused to {doing} table {table}")]
    TableRefused {
        /// The topic whose table it is.
        topic: String,
        /// The target table.
        table: TableName,
        /// What was being done.
        doing: &'static str,
        /// The server's answer.
        #[source]
        source: Box<ServerError>,
    },
    /// The target refused to delete what the source does not have, at the end of a resync.
    #[error("the target refused to delete rows of table {table} that the source does not have")]
    Unswept {
        /// The topic whose table it is.
        topic: String,
        /// The target table.
        table: TableName,
        /// The server's answer.
        #[source]
        source: Box<ServerError>,
    },
    /// A target table cannot take the source's rows.
    #[error("table {table} cannot be applied to: {problem}")]
    Unfit {
        /// The topic whose table it is.
        topic: String,
        /// The target table.
        table: TableName,
        /// What does not fit.
        problem: String,
        /// What the operator can do, a full sentence.
        remedy: String,
    },
    /// The target does not hold what an event changes, or an event lacks what the sink needs (trap T27).
    #[error("table {table} is not consistent with the event at {position}: {problem}")]
    Inconsistent {
        /// The topic whose table it is.
        topic: String,
        /// The target table.
        table: TableName,
        /// An event of the batch.
        position: Position,
        /// What is missing.
        problem: String,
    },
    /// A text stands for bytes in another encoding than the one that was told.
    #[error("a value for column {column} of table {table} is no text in {encoding}")]
    Misencoded {
        /// The topic whose table it is.
        topic: String,
        /// The target table.
        table: TableName,
        /// The column.
        column: String,
        /// The encoding, as it is configured.
        encoding: &'static str,
    },
    /// A topic has another id than the one whose records were applied.
    #[error("topic {topic} was deleted and created again: its id is {found}, records were applied from {recorded}")]
    OtherTopic {
        /// The topic.
        topic: String,
        /// Its id.
        found: String,
        /// The recorded one.
        recorded: String,
    },
    /// Another process has taken over a partition.
    #[error("partition {partition} of topic {topic} is owned by another process")]
    Fenced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// Another sink instance applies to the same table.
    #[error("table {table} is applied to by instance {instance}")]
    Owned {
        /// The target table.
        table: TableName,
        /// The other instance.
        instance: String,
    },
    /// The bookkeeping schema was written by another version of walrelay.
    #[error("schema {schema} has bookkeeping version {found}, this program knows version {known}")]
    Version {
        /// The bookkeeping schema.
        schema: String,
        /// The version in the target.
        found: i32,
        /// The version of this program.
        known: i32,
    },
    /// A bookkeeping row does not read as it was written.
    #[error("bookkeeping in the target is damaged: {0}")]
    Damaged(String),
}

impl Error {
    /// Wraps a client error of a statement that concerns no single table.
    pub(crate) fn query(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| match source.as_db_error() {
            Some(db) => Self::Refused { doing, source: Box::new(ServerError::new(db)) },
            None => Self::Broken { doing, source },
        }
    }

    /// Wraps a client error of a statement on a table.
    pub(crate) fn table<'a>(
        topic: &'a str,
        table: &'a TableName,
        doing: &'static str,
    ) -> impl FnOnce(tokio_postgres::Error) -> Self + 'a {
        move |source| match source.as_db_error() {
            Some(db) => Self::TableRefused {
                topic: topic.to_owned(),
                table: table.clone(),
                doing,
                source: Box::new(ServerError::new(db)),
            },
            None => Self::Broken { doing, source },
        }
    }

    /// Wraps a client error of a deletion at the end of a resync.
    pub(crate) fn swept<'a>(topic: &'a str, table: &'a TableName) -> impl FnOnce(tokio_postgres::Error) -> Self + 'a {
        move |error| match error.as_db_error() {
            Some(db) => {
                let (topic, table) = (topic.to_owned(), table.clone());
                Self::Unswept { topic, table, source: Box::new(ServerError::new(db)) }
            }
            None => Self::Broken { doing: "sweep a table", source: error },
        }
    }

    /// Names the column of the target that a staging column stands for.
    pub(crate) fn in_staging<'a>(mut self, named: impl FnOnce(&str) -> Option<&'a str>) -> Self {
        if let Self::TableRefused { source, .. } = &mut self
            && let Some(name) = source.copied.as_deref().and_then(named)
        {
            source.text.push_str(&format!(", column {name}"));
        }
        self
    }

    /// The server's SQLSTATE, if the server answered.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Refused { source, .. } | Self::TableRefused { source, .. } | Self::Unswept { source, .. } => {
                Some(&source.code)
            }
            _ => None,
        }
    }

    /// The topic whose table alone is concerned.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::TableRefused { topic, .. }
            | Self::Unswept { topic, .. }
            | Self::Unfit { topic, .. }
            | Self::Inconsistent { topic, .. }
            | Self::Misencoded { topic, .. }
            | Self::OtherTopic { topic, .. } => Some(topic),
            _ => None,
        }
    }

    /// Whether the server takes no writes: it may have become a stand-by, so that another connection may reach its successor,
    /// and a session keeps the defaults that it began with.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether a lock was not to be had in time: somebody reads the table, or changes another one.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether another order of the same changes can succeed: a unique, exclusion or foreign key violation (trap T66).
    #[must_use]
    pub fn is_ordering(&self) -> bool {
        let ordering = [SqlState::UNIQUE_VIOLATION, SqlState::FOREIGN_KEY_VIOLATION, SqlState::EXCLUSION_VIOLATION];
        matches!(self, Self::TableRefused { .. }) && self.code().is_some_and(|code| ordering.contains(code))
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        Self::Connect(Box::new(error))
    }
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Connect(source) => source.severity(),
            Self::Broken { .. } => Severity::Transient,
            Self::Refused { source, .. } if is_transient(&source.code) => Severity::Transient,
            Self::TableRefused { source, .. } | Self::Unswept { source, .. } if is_transient(&source.code) => {
                Severity::Transient
            }
            Self::TableRefused { .. }
            | Self::Unswept { .. }
            | Self::Unfit { .. }
            | Self::Inconsistent { .. }
            | Self::Misencoded { .. }
            | Self::OtherTopic { .. } => Severity::Definite,
            // The rightful owner goes on; this process must only let go of the partition.
            Self::Fenced { .. } => Severity::Transient,
            Self::Refused { .. } | Self::Owned { .. } | Self::Version { .. } | Self::Damaged(_) => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unfit { remedy, .. } => remedy.clone(),
            Self::Inconsistent { .. } => {
                "The target table was changed by somebody else, or a record is missing: compare with `walrelay verify`, and \
                 apply into an empty target or take a new snapshot."
                    .to_owned()
            }
            Self::Misencoded { .. } => {
                "Set format.binary for apply to the encoding in which the topic's producer writes bytes (Debezium's \
                 binary.handling.mode), or make the column text, then start again."
                    .to_owned()
            }
            Self::OtherTopic { topic, .. } => format!(
                "Stored offsets mean other records in topic {topic}, and records that were never applied may be gone: publish \
                 a new snapshot under a new [kafka] prefix with a new slot and apply it to emptied tables \
                 (docs/operations.md, \"A new prefix\"), or rebuild the target from the \
                 topics if they hold everything since their snapshot (\"A target from nothing\")."
            ),
            Self::Owned { .. } => {
                "Stop the other applier for good and set apply.take_over = true, or choose another target schema."
                    .to_owned()
            }
            Self::Version { .. } => "Use the walrelay version that wrote it, or a newer one.".to_owned(),
            Self::TableRefused { source, .. } if source.code == SqlState::FOREIGN_KEY_VIOLATION => {
                "A referenced row is not there; replicate the referenced table too, or make the constraint deferrable."
                    .to_owned()
            }
            Self::Unswept { table, source, .. } if source.code == SqlState::FOREIGN_KEY_VIOLATION => format!(
                "Delete the rows that reference rows of table {table} which the source does not have, or let the foreign key do it \
                 (ON DELETE CASCADE, SET NULL), then start again: the table goes on where it stopped."
            ),
            Self::Unswept { table, source, .. } if source.code == SqlState::INSUFFICIENT_PRIVILEGE => {
                table_hint(table, &source.code)?
            }
            Self::Unswept { table, .. } => format!(
                "Let table {table} take the deletion (the trigger or the constraint that is named refuses it), then start again: the \
                 table goes on where it stopped."
            ),
            Self::TableRefused { table, source, .. } => table_hint(table, &source.code)?,
            Self::Connect(source) => return source.hint(),
            _ => return None,
        })
    }
}

/// What makes the table take the rows, by the class of the SQLSTATE.
fn table_hint(table: &TableName, code: &SqlState) -> Option<String> {
    let remedy = if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        format!("Grant the role the rights on table {table}")
    } else if *code == SqlState::NOT_NULL_VIOLATION {
        format!(
            "Drop the NOT NULL of the column that table {table} has and the source leaves empty, or give it a default"
        )
    } else if code.code().starts_with("22") {
        format!("Give the column of table {table} the type that it has at the source")
    } else if code.code().starts_with("23") {
        format!("Remove what table {table} demands beyond the source")
    } else {
        return None;
    };
    Some(format!("{remedy}, then start again."))
}

/// SQLSTATEs after which the same statement can succeed: connection trouble, shutdown, lack of resources, serialization,
/// locks, a server that has become a stand-by. Of class 55 most are the table's own (a published target table without
/// replica identity).
fn is_transient(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    let locks = [SqlState::LOCK_NOT_AVAILABLE, SqlState::OBJECT_IN_USE];
    let states = [SqlState::IN_FAILED_SQL_TRANSACTION, SqlState::READ_ONLY_SQL_TRANSACTION];
    matches!(class, "08" | "40" | "53" | "57" | "58") || locks.contains(code) || states.contains(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_of_a_failed_copy_is_told_and_its_value_is_not() {
        assert_eq!(copied_column("COPY stage_1, line 3, column born: \"secret: x\""), Some("born"));
        assert_eq!(
            copied_column("JSON data, line 1: {secret\nCOPY stage_1, line 3, column a b: \"{secret\""),
            Some("a b")
        );
        assert_eq!(copied_column("COPY stage_1, line 3, column n: null input"), Some("n"));
        assert_eq!(copied_column("COPY stage_1, line 3: \"1\tsecret, column x: y\""), None);
        assert_eq!(copied_column("PL/pgSQL function f() line 1 at RAISE"), None);
    }
}
