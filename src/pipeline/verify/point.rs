//! A snapshot of the source that is aligned with its WAL.
//!
//! `pg_current_wal_lsn()` says nothing about which transactions a snapshot sees (trap T75, T78). The snapshot that a new
//! logical slot exports does: it sees exactly the transactions whose commit LSN is below the slot's consistent point. The
//! slot is temporary, and goes with its connection as soon as the snapshot was imported.

use std::{
    process,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Error, session::Session};
use crate::{
    lsn::Lsn,
    postgres::{self, Settings},
    source::{
        self,
        connection::{CreatedSlot, ReplicationConnection, SlotOptions},
        running,
    },
};

/// A consistent point and its snapshot, which can be imported while this lives.
pub struct SourcePoint {
    /// The snapshot sees the transactions whose commit LSN is below.
    pub lsn: Lsn,
    /// What `SET TRANSACTION SNAPSHOT` takes.
    pub snapshot: String,
    _slot: ReplicationConnection,
}

impl SourcePoint {
    /// Creates the slot; waits at most `limit` for the transactions that run.
    pub async fn take(settings: &Settings, limit: Duration) -> Result<Self, Error> {
        let mut connection = ReplicationConnection::connect(settings).await.map_err(Error::Replication)?;
        let options = SlotOptions { temporary: true, failover: false, export_snapshot: true };
        match connection.create_logical_slot(&slot_name(), options, limit).await {
            Ok(CreatedSlot { consistent_point: lsn, snapshot_name: Some(snapshot) }) => {
                Ok(Self { lsn, snapshot, _slot: connection })
            }
            Ok(_) => Err(Error::Answer { side: "source", doing: "exporting a snapshot" }),
            Err(source::Error::SlotCreationTimeout { .. }) => {
                Err(Error::SourceTimeout { limit, blocker: oldest_transaction(settings).await? })
            }
            Err(error) => Err(Error::Replication(error)),
        }
    }
}

/// The end of the source's WAL as it is now; no transaction that commits later has a lower commit LSN.
pub async fn wal_end(session: &Session) -> Result<Lsn, Error> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_insert_lsn() END::text";
    let row = session.client().query_one(sql, &[]).await.map_err(session.failed("reading the end of the WAL"))?;
    let text: Option<String> = row.try_get(0).map_err(session.failed("reading the end of the WAL"))?;
    let lsn = text.and_then(|text| text.parse().ok());
    lsn.ok_or(Error::Answer { side: "source", doing: "reading the end of the WAL" })
}

fn slot_name() -> String {
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("walrelay_verify_{}_{nanoseconds}", process::id())
}

/// Names the oldest transaction with an id, prepared ones included: the slot waits for all of the cluster's.
async fn oldest_transaction(settings: &Settings) -> Result<String, Error> {
    let client = postgres::connect(settings, "walrelay verify").await?;
    let oldest = running::oldest(&client, 1).await.map_err(Error::Replication)?.pop();
    Ok(oldest.map_or_else(
        || "no transaction runs any more".to_owned(),
        |oldest| {
            let since = oldest.since.map_or_else(String::new, |since| format!(", open for {} s", since.as_secs()));
            format!("it waits for {}{since}", oldest.describe())
        },
    ))
}
