//! What rows are read for beside the stream: for the rest of a snapshot, or for a resync. They differ in what is recorded, and in what
//! becomes of a table whose rows cannot be read: it stops, since it would lack them, or it leaves the resync and goes on as it was.

use std::collections::BTreeMap;

use super::{
    Error,
    publisher::Publisher,
    resync::{Came, Run},
    session::Session,
    state::{StoppedTable, Update},
    unread::Unread,
};
use crate::{
    event::Condition,
    lsn::{Lsn, Position},
    pipeline::ack::AckTracker,
    retry::{Classify as _, Severity},
    schema::{Relation, TableName},
    source::condition,
};

/// What is left to read.
pub(super) struct Rest {
    pub(super) unread: Vec<Unread>,
    pub(super) goal: Goal,
}

/// See the module.
pub(super) enum Goal {
    /// The rest of a snapshot.
    Snapshot {
        /// All its tables, by OID.
        planned: Vec<u32>,
        consistent_point: Lsn,
    },
    /// A resync.
    Resync {
        begin: Position,
        /// Which rows of a table, by OID.
        conditions: BTreeMap<u32, Vec<Condition>>,
    },
}

impl Goal {
    /// Which rows of a table are to be read, as SQL; `None` if its key does not tell any more.
    pub(super) fn condition(&self, relation: &Relation) -> Option<String> {
        match self {
            Self::Snapshot { .. } => Some(String::new()),
            Self::Resync { conditions, .. } => {
                condition::sql(relation, conditions.get(&relation.oid).map_or(&[], Vec::as_slice))
            }
        }
    }

    /// Whether the table whose rows were being read is given up at an error. Without rows a snapshot is none, so there the session ends.
    pub(super) fn gives_up_at(&self, error: &Error) -> bool {
        matches!(self, Self::Resync { .. }) && is_of_table(error)
    }

    /// Tells that reading begins.
    pub(super) fn tell_begin(&self, tables: usize) {
        match self {
            Self::Snapshot { .. } => tracing::info!(tables, "going on with the snapshot beside the stream"),
            Self::Resync { begin, .. } => {
                tracing::info!(resync = Run::name_of(*begin), tables, "reading tables again beside the stream");
            }
        }
    }

    /// Tells how far it has come.
    pub(super) fn tell(&self, session: &Session, (chunks, of): (u64, u64), owed_bytes: usize) {
        let phase = match self {
            Self::Snapshot { .. } => {
                tracing::info!(chunks, of, owed_bytes, "snapshot goes on beside the stream");
                format!("streaming; snapshot: {chunks} of {of} chunks")
            }
            Self::Resync { begin, .. } => {
                let (resync, paused) = (Run::name_of(*begin), session.resyncs.is_paused());
                tracing::info!(resync, chunks, of, owed_bytes, paused, "resync goes on beside the stream");
                let (waiting, word) =
                    (session.resyncs.count().saturating_sub(1), if paused { " (paused)" } else { "" });
                format!("streaming; resync{word}: {chunks} of {of} chunks, {waiting} resyncs waiting")
            }
        };
        session.health.set_phase(phase);
    }

    /// Records what Kafka has of tables.
    pub(super) async fn record(&self, session: &Session, tables: Vec<Came>) -> Result<(), Error> {
        if tables.is_empty() {
            return Ok(());
        }
        match self {
            Self::Snapshot { .. } => {
                let updates = tables.into_iter().map(|Came { oid, chunks, .. }| Update::Chunks { oid, chunks });
                session.position.record(&updates.collect::<Vec<_>>()).await
            }
            Self::Resync { begin, .. } => {
                session.resyncs.advance(*begin, tables);
                session.position.record_current(|| session.resyncs.updates(&[*begin])).await
            }
        }
    }

    /// Rows of a table cannot be read.
    pub(super) async fn give_up(&self, session: &Session, relation: &Relation, reason: &str) -> Result<(), Error> {
        let name = &relation.name;
        match self {
            Self::Snapshot { .. } => {
                tracing::error!(table = %name, reason, "table stopped");
                session.health.stop_table(name.to_string(), reason);
            }
            Self::Resync { begin, .. } => session.leave(name, *begin..=*begin, session.place(), reason).await?,
        }
        session.windows.stop(relation.oid, reason);
        Ok(())
    }

    /// Rows of a table change faster than they are read. A snapshot starts over with the next session: nothing is recorded of it any
    /// more.
    pub(super) async fn outrun(&self, session: &Session, relation: &Relation) -> Result<(), Error> {
        let error = Error::Outrun { table: relation.name.to_string() };
        match self {
            Self::Snapshot { .. } => {
                session.position.record(&[Update::Plan(None)]).await?;
                Err(error)
            }
            Self::Resync { .. } => self.give_up(session, relation, "its rows change faster than they are read").await,
        }
    }

    /// Every table of the snapshot is whole, but for those that stopped.
    pub(super) async fn finish_snapshot(
        session: &Session,
        publisher: &Publisher,
        (planned, consistent_point): (&[u32], Lsn),
        stopped: Vec<(TableName, String)>,
    ) -> Result<(), Error> {
        let mut updates: Vec<_> = planned.iter().map(|oid| Update::ForgetChunks { oid: *oid }).collect();
        updates.push(Update::Plan(None));
        let position = Position { epoch: session.epoch, commit: consistent_point, ordinal: 0 };
        // A later session must not take these for whole.
        updates.extend(stopped.into_iter().map(|(table, reason)| Update::Stopped {
            table: table.to_string(),
            stopped: StoppedTable { position, reason, dropped: false, lasting: false },
        }));
        session.position.finish_snapshot(updates).await?;
        publisher.deliveries().tracker(AckTracker::release_snapshot);
        tracing::info!("the snapshot is complete, and recorded");
        session.health.set_phase("streaming");
        Ok(())
    }
}

/// Whether an error is of one table and comes again: its file is broken, the role may not read all of it, or a value cannot be read, or is
/// refused.
pub(super) fn is_of_table(error: &Error) -> bool {
    let Error::Source(error) = error else { return false };
    let is_of_table =
        |code: &str| matches!(code, "XX001" | "XX002" | "42501") || code.starts_with("22") || code.starts_with("23");
    error.severity() == Severity::Definite || error.server_error().is_some_and(|error| is_of_table(&error.code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        postgres::{self, ServerError},
        source,
    };

    #[test]
    fn a_resync_gives_a_table_up_at_what_is_its_own_and_a_snapshot_none() {
        let failed = |code: &str| {
            let source = Box::new(ServerError::new(code, "of the server"));
            Error::Source(source::Error::Postgres(postgres::Error::Statement { doing: "reading".into(), source }))
        };
        let resync = Goal::Resync { begin: Position::default(), conditions: BTreeMap::new() };
        let snapshot = Goal::Snapshot { planned: Vec::new(), consistent_point: Lsn::ZERO };
        for code in ["XX001", "XX002", "42501", "22P02", "23514"] {
            assert!(resync.gives_up_at(&failed(code)) && !snapshot.gives_up_at(&failed(code)), "{code}");
        }
        for code in ["57P01", "53200", "55P03", "08006", "40001"] {
            assert!(!resync.gives_up_at(&failed(code)), "{code}");
        }
        let name = TableName::new("public", "t");
        assert!(resync.gives_up_at(&Error::Source(source::Error::CopyRow { table: name, reason: "a sign" })));
        assert!(!resync.gives_up_at(&Error::StreamEnded));
    }
}
