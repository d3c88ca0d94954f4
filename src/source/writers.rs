//! Who has tables open.

use super::error::Error;
use crate::postgres::Client;

/// A transaction that has a table open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// `pg_locks.virtualtransaction`; of a prepared transaction its transaction id is in it.
    pub transaction: String,
    /// Of its server process; a prepared transaction has none.
    pub pid: Option<i32>,
}

/// The transactions that have these tables (`pg_class.oid`), or partitions of them, open for writing: INSERT, UPDATE, DELETE and what locks
/// more. A transaction holds its locks to its end.
pub async fn find(client: &Client, tables: &[u32]) -> Result<Vec<Writer>, Error> {
    let failed = |error| Error::statement("looking who has tables open", error);
    let sql = "SELECT DISTINCT l.virtualtransaction, l.pid FROM pg_locks l \
               WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
                 AND (l.relation = ANY ($1::oid[]) OR l.relation IN ( \
                        SELECT t.relid::oid FROM unnest($1::oid[]) root CROSS JOIN pg_partition_tree(root) t))";
    let rows = client.query(sql, &[&tables]).await.map_err(failed)?;
    rows.iter()
        .map(|row| Ok(Writer { transaction: row.try_get(0)?, pid: row.try_get(1)? }))
        .collect::<Result<_, _>>()
        .map_err(failed)
}
