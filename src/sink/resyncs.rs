//! The list of resyncs that are under way: for each topic the latest one, and the table of its keys ([`seen`](super::seen)).
//!
//! A table of keys goes in two steps. The transaction that is done with it says so (`ended`); it is dropped afterwards, when nobody reads
//! it: a lock on it must hold up neither a sweep nor a batch. Whoever comes later drops what a crash has left.

use tokio_postgres::{Client, types::PgLsn};

use crate::{
    event::Resync,
    schema::quote_literal,
    sink::{
        error::Error,
        ledger::{Ledger, position_of},
    },
};

/// How long a drop waits for those who read the table.
const PATIENCE: &str = "200ms";

/// The latest resync of a topic, as far as it came here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    /// The resync.
    pub resync: Resync,
    /// The number of the table of its keys.
    pub number: i64,
    /// How many of the rows that it had read were applied.
    pub rows: i64,
    /// The key's columns.
    pub key: Key,
}

/// The columns of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Their names, in key order.
    pub names: Vec<String>,
    /// Their types at the target.
    pub types: Vec<String>,
}

/// Where the keys of a resync are noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// In the table of this number.
    Table(i64),
    /// Nowhere: a later resync of the topic has come already.
    Nowhere,
}

impl Keys {
    /// The number of the table.
    #[must_use]
    pub const fn table(self) -> Option<i64> {
        match self {
            Self::Table(number) => Some(number),
            Self::Nowhere => None,
        }
    }
}

impl Latest {
    /// Where the keys of a resync are noted, if the list tells: the columns of its key are these.
    #[must_use]
    pub fn keys_of(&self, resync: Resync, key: &Key) -> Option<Keys> {
        if self.resync > resync {
            return Some(Keys::Nowhere);
        }
        (self.resync == resync && self.key == *key).then_some(Keys::Table(self.number))
    }
}

/// The latest resync of a topic that has not ended.
pub async fn latest(client: &Client, ledger: &Ledger, topic: &str) -> Result<Option<Latest>, Error> {
    let sql = format!(
        "SELECT number, epoch, commit_lsn, rows, key, types FROM {} WHERE instance = $1 AND topic = $2 AND NOT ended",
        ledger.table("resync")
    );
    let row = client.query_opt(&sql, &[&ledger.instance(), &topic]).await.map_err(Error::query("look for a resync"))?;
    let Some(row) = row else { return Ok(None) };
    let at = position_of(row.get(1), row.get(2), 0)?;
    let resync = Resync { epoch: at.epoch, commit: at.commit };
    Ok(Some(Latest { resync, number: row.get(0), rows: row.get(3), key: Key { names: row.get(4), types: row.get(5) } }))
}

/// The tables of keys of these topics, quoted.
pub async fn tables(client: &Client, ledger: &Ledger, topics: &[&str]) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT number FROM {} WHERE instance = $1 AND topic = ANY ($2) AND NOT ended ORDER BY number",
        ledger.table("resync")
    );
    let rows = client.query(&sql, &[&ledger.instance(), &topics]).await.map_err(Error::query("look for resyncs"))?;
    Ok(rows.iter().map(|row| ledger.seen_table(row.get(0))).collect())
}

/// Says that what was noted of these topics is of no use any more.
pub async fn end(client: &Client, ledger: &Ledger, topics: &[&str]) -> Result<(), Error> {
    let sql = format!(
        "UPDATE {} SET ended = true WHERE instance = $1 AND topic = ANY ($2) AND NOT ended",
        ledger.table("resync")
    );
    let ended = client.execute(&sql, &[&ledger.instance(), &topics]).await;
    ended.map(drop).map_err(Error::query("end a resync"))
}

/// As [`end`], for this resync and earlier ones, which come to no end any more: a later one goes on.
pub async fn end_up_to(client: &Client, ledger: &Ledger, resync: Resync, topics: &[&str]) -> Result<(), Error> {
    let sql = format!(
        "UPDATE {} SET ended = true WHERE instance = $1 AND topic = ANY ($2) AND NOT ended AND (epoch, commit_lsn) <= ($3, $4)",
        ledger.table("resync")
    );
    let (epoch, commit) = (i64::from(resync.epoch), PgLsn::from(resync.commit.0));
    let ended = client.execute(&sql, &[&ledger.instance(), &topics, &epoch, &commit]).await;
    ended.map(drop).map_err(Error::query("end a resync"))
}

/// Drops the tables that are of no use any more, each in a transaction of its own. One that somebody reads is left to whoever comes later.
pub async fn drop_ended(client: &Client, ledger: &Ledger) -> Result<(), Error> {
    let doing = "drop the keys of a resync";
    let resync = ledger.table("resync");
    let sql = format!("SELECT number FROM {resync} WHERE ended ORDER BY number");
    for row in client.query(&sql, &[]).await.map_err(Error::query(doing))? {
        let number: i64 = row.get(0);
        let drop = format!(
            "BEGIN; SET LOCAL lock_timeout = '{PATIENCE}'; DROP TABLE IF EXISTS {}; \
             DELETE FROM {resync} WHERE number = {number}; COMMIT",
            ledger.seen_table(number)
        );
        let Err(error) = client.batch_execute(&drop).await else { continue };
        if error.as_db_error().is_none() {
            return Err(Error::query(doing)(error));
        }
        tracing::debug!(number, "the keys of an ended resync cannot be dropped yet");
        client.batch_execute("ROLLBACK").await.map_err(Error::query(doing))?;
    }
    Ok(())
}

/// Statements that make the latest resync of a topic another instance's.
pub(crate) fn take_over(ledger: &Ledger, from: &str, topic: &str) -> String {
    let (table, unnoted, mine) = (ledger.table("resync"), ledger.table("unnoted"), ledger.instance_literal());
    let (from, topic) = (quote_literal(from), quote_literal(topic));
    format!(
        "UPDATE {table} SET ended = true WHERE instance = {mine} AND topic = {topic} AND NOT ended; \
         UPDATE {table} SET instance = {mine} WHERE instance = {from} AND topic = {topic} AND NOT ended; \
         DELETE FROM {unnoted} WHERE instance = {mine} AND topic = {topic}; \
         UPDATE {unnoted} SET instance = {mine} WHERE instance = {from} AND topic = {topic};"
    )
}
