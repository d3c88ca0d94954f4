//! Processes that consume explicit partitions, as the target knows them: each holds a shared advisory lock per partition on
//! its control connection, so the server itself forgets a process that is gone.
//!
//! Nothing is fenced by these locks; the generations of the ledger do that. They tell who is alive.

use tokio_postgres::Client;

use crate::sink::{error::Error, ledger::Ledger};

/// Seed of the locks' keys, so that they meet no other program's.
const SEED: i64 = 0x7761_6c72_656c_6179;

/// The key of a partition's lock; `$1` is the bookkeeping of an instance, `topic` and `n` name the partition.
fn key() -> String {
    format!("hashtextextended(concat_ws(E'\\n', $1::text, topic, n), {SEED})")
}

/// What tells this instance's locks from those of others.
fn scope(ledger: &Ledger) -> String {
    format!("{} {}", ledger.table("position"), ledger.instance())
}

fn columns(partitions: &[(String, i32)]) -> (Vec<&str>, Vec<i32>) {
    partitions.iter().map(|(topic, partition)| (topic.as_str(), *partition)).unzip()
}

/// Says that the owner of this connection consumes the partitions, for as long as the connection lives.
pub async fn announce(client: &Client, ledger: &Ledger, partitions: &[(String, i32)]) -> Result<(), Error> {
    if partitions.is_empty() {
        return Ok(());
    }
    let (topics, numbers) = columns(partitions);
    let sql = format!("SELECT pg_advisory_lock_shared({}) FROM unnest($2::text[], $3::int[]) AS u(topic, n)", key());
    let announced = client.execute(&sql, &[&scope(ledger), &topics, &numbers]).await;
    announced.map(drop).map_err(Error::query("announce partitions"))
}

/// Those of the partitions that no living connection has announced.
pub async fn unconsumed(
    client: &Client,
    ledger: &Ledger,
    partitions: &[(String, i32)],
) -> Result<Vec<(String, i32)>, Error> {
    let (topics, numbers) = columns(partitions);
    // A key of 64 bits is shown in two columns (manual, "pg_locks").
    let sql = format!(
        "SELECT topic, n FROM unnest($2::text[], $3::int[]) AS u(topic, n) WHERE NOT EXISTS (\
           SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND ((l.classid::bigint << 32) | l.objid::bigint) = {}) ORDER BY topic, n",
        key()
    );
    let rows = client.query(&sql, &[&scope(ledger), &topics, &numbers]).await;
    let rows = rows.map_err(Error::query("look for the owners of partitions"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
