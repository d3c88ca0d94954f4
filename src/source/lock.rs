//! One capture per slot while no replication stream holds the slot: a session-level advisory lock.
//!
//! Between creating the slot and streaming from it nothing at the server keeps a second agent out (trap T17). The lock goes
//! with the connection, so a killed agent leaves none behind.

use super::error::Error;
use crate::postgres::Client;

/// Takes the lock of a slot for as long as `client` lives; `false` when another agent has it.
pub async fn try_lock(client: &Client, slot: &str) -> Result<bool, Error> {
    let sql = "SELECT pg_try_advisory_lock(hashtextextended('walrelay capture ' || $1, 0))";
    let failed = |error| Error::statement(format!("locking replication slot {slot}"), error);
    client.query_one(sql, &[&slot]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Gives the lock back that `client` took, before its connection ends.
pub async fn unlock(client: &Client, slot: &str) -> Result<(), Error> {
    let sql = "SELECT pg_advisory_unlock(hashtextextended('walrelay capture ' || $1, 0))";
    let failed = |error| Error::statement(format!("unlocking replication slot {slot}"), error);
    client.query_one(sql, &[&slot]).await.map_err(failed).map(drop)
}
