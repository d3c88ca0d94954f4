//! Where the server's WAL ends.

use super::error::Error;
use crate::{lsn::Lsn, postgres::Client};

/// End of the WAL that is durable on the server: flushed on a primary, replayed on a stand-by. What the server has sent lies
/// below it, and it never goes back on one timeline.
pub async fn flushed(client: &Client) -> Result<Lsn, Error> {
    let failed = |error| Error::statement("reading the end of the WAL", error);
    let sql =
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text";
    let text: String = client.query_one(sql, &[]).await.map_err(failed)?.try_get(0).map_err(failed)?;
    Ok(text.parse().unwrap_or(Lsn::ZERO))
}

/// End of the WAL that is inserted on a primary, durable or not: the commit of whatever the catalog showed before lies below it.
pub async fn inserted(client: &Client) -> Result<Lsn, Error> {
    let failed = |error| Error::statement("reading the end of the WAL", error);
    let sql = "SELECT pg_current_wal_insert_lsn()::text";
    let text: String = client.query_one(sql, &[]).await.map_err(failed)?.try_get(0).map_err(failed)?;
    Ok(text.parse().unwrap_or(Lsn::ZERO))
}
