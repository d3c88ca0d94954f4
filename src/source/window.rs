//! Rows that are read beside the stream: between two markers in it (PROTOCOL, "Snapshot that resumes, and resync").
//!
//! ```text
//! pg_logical_emit_message: low ── … the stream delivers it … ──► BEGIN; LOCK TABLE; the snapshot; the rows; high; COMMIT
//! ```
//!
//! The markers are transactional messages, so the stream has them in the order of the commits. Everything that the stream delivered
//! before the low one must be visible in the snapshot, which is asked for by the ids of transactions: a commit may be in the WAL, and
//! delivered, before others see it (trap T78). The lock comes before the snapshot and is held until behind the high marker, so neither
//! a TRUNCATE nor a rewrite falls between the rows and that marker (trap T79).

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;

use super::{
    catalog::{self, PublishedTable},
    chunk::{self, Chunk},
    copy_binary::BinaryRows,
    copy_text::decode_row,
    error::Error,
    key_columns::KeyColumns,
    leaves::{self, Leaf},
    membership,
    snapshot::{CopyFormat, Select},
    visible::Visible,
};
use crate::{
    event::{Datum, Tuple},
    lsn::Lsn,
    postgres::{Client, Settings, session},
    schema::{Column, TableName, quote_identifier, quote_literal},
};

/// The prefix of the markers' messages.
pub const PREFIX: &str = "walrelay.window";

/// A connection that reads windows, one at a time.
#[derive(Debug)]
pub struct WindowReader {
    client: Client,
}

/// How a window begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// The snapshot is taken under the lock.
    Reading(Visible),
    /// A statement has the table, or waits for it: nothing is begun.
    Busy,
    /// There is no such table any more, or it may not be read: nothing is begun.
    Gone,
}

/// What came of reading rows.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of them, and what they occupy, about.
    Rows(Vec<Tuple>, usize),
    /// More than was allowed; the window can only be given up.
    TooMany,
}

/// A column of a table: number, name, type and its modifier.
pub type Layout = Vec<(i16, String, u32, i32)>;

/// The values of a row's key as text, in key order.
pub type KeyTexts = Vec<String>;

/// A leaf as it is under the lock.
#[derive(Debug, PartialEq, Eq)]
pub struct LeafNow {
    /// Its name, quoted.
    pub name: String,
    /// Its file; `None` if it is none of the table's leaves any more.
    pub file: Option<u32>,
    /// How many blocks it has.
    pub blocks: u32,
}

impl WindowReader {
    /// Connects.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let client = catalog::connect(settings, "walrelay backfill").await?;
        let own = if client.server_version() >= session::TRANSACTION_TIMEOUT_SINCE {
            "; SET transaction_timeout = 0"
        } else {
            ""
        };
        // A marker that waits for a stand-by would keep the window open meanwhile. A wait for a lock, while another is held, must end
        // before the server looks for a deadlock (deadlock_timeout, 1 s), lest it end the other's statement.
        let set = format!("SET enable_tidscan = on; SET synchronous_commit = local; SET lock_timeout = '500ms'{own}");
        client
            .batch_execute(&set)
            .await
            .map_err(|error| Error::statement("preparing to read beside the stream", error))?;
        Ok(Self { client })
    }

    /// Puts a marker into the stream, in a transaction of its own.
    pub async fn mark(&self, content: &str) -> Result<(), Error> {
        self.client.batch_execute(&marker(content)).await.map_err(|error| Error::statement("writing a marker", error))
    }

    /// What is visible at present.
    pub async fn visible(&self) -> Result<Visible, Error> {
        visible(&self.client).await
    }

    /// Begins a transaction, locks the table and takes the snapshot.
    pub async fn begin(&self, table: &PublishedTable) -> Result<Begun, Error> {
        let doing = |error| Error::statement("beginning to read beside the stream", error);
        let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ WRITE";
        self.client.batch_execute(begin).await.map_err(doing)?;
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT", table.relation.name.quoted());
        let locked = self.client.batch_execute(&lock).await;
        let begun = match locked {
            Ok(()) => return Ok(Begun::Reading(self.visible().await?)),
            Err(error) => match error.code() {
                Some(&SqlState::LOCK_NOT_AVAILABLE) => Begun::Busy,
                Some(
                    &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME | &SqlState::INSUFFICIENT_PRIVILEGE,
                ) => Begun::Gone,
                _ => return Err(doing(error)),
            },
        };
        self.cancel().await?;
        Ok(begun)
    }

    /// Lets other connections see what the transaction sees, until it ends. Gives the snapshot's name, and where the WAL ends: what the
    /// transaction sees has its commit below.
    pub async fn export(&self) -> Result<(String, Lsn), Error> {
        let failed = |error| Error::statement("exporting a snapshot", error);
        let sql = "SELECT pg_export_snapshot(), pg_current_wal_insert_lsn()::text";
        let row = self.client.query_one(sql, &[]).await.map_err(failed)?;
        let end: String = row.try_get(1).map_err(failed)?;
        Ok((row.try_get(0).map_err(failed)?, end.parse().unwrap_or(Lsn(u64::MAX))))
    }

    /// Ends a transaction without its marker.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.client.batch_execute("ROLLBACK").await.map_err(|error| Error::statement("giving up a window", error))
    }

    /// Puts the high marker into the stream with the transaction's commit.
    pub async fn end(&self, content: &str) -> Result<(), Error> {
        let sql = format!("{}; COMMIT", marker(content));
        self.client.batch_execute(&sql).await.map_err(|error| Error::statement("writing a marker", error))
    }

    /// The table's columns, as the transaction sees them.
    pub async fn layout(&self, table: u32) -> Result<Layout, Error> {
        let sql = "SELECT attnum, attname::text, atttypid, atttypmod FROM pg_attribute \
                   WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
        let failed = |error| Error::statement("reading the columns of a table", error);
        let rows = self.client.query(sql, &[&table]).await.map_err(failed)?;
        let column =
            |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        rows.iter().map(column).collect::<Result<_, _>>().map_err(failed)
    }

    /// How a publication has those of these tables that are its own, by OID.
    pub async fn memberships(&self, publication: &str, tables: &[u32]) -> Result<BTreeMap<u32, String>, Error> {
        membership::fingerprints(&self.client, publication, tables).await
    }

    /// How a publication has a table, as the transaction sees it.
    pub async fn membership(&self, publication: &str, table: u32) -> Result<Option<String>, Error> {
        membership::fingerprint(&self.client, publication, table).await
    }

    /// Whether the table that is locked by this name is the one with this OID.
    pub async fn is_called(&self, table: u32, name: &TableName) -> Result<bool, Error> {
        let failed = |error| Error::statement(format!("looking for table {name}"), error);
        let row = self.client.query_one("SELECT to_regclass($1)::oid", &[&name.quoted()]).await.map_err(failed)?;
        let found: Option<u32> = row.try_get(0).map_err(failed)?;
        Ok(found == Some(table))
    }

    /// A leaf of a table.
    pub async fn leaf(&self, table: u32, leaf: u32) -> Result<LeafNow, Error> {
        let sql = "SELECT CASE WHEN $1::oid = $2::oid OR $1 IN (SELECT relid::oid FROM pg_partition_ancestors($2)) \
                               THEN pg_relation_filenode($2) END, \
                          coalesce(pg_relation_size($2::oid) / current_setting('block_size')::bigint, 0), \
                          $2::oid::regclass::text";
        let failed = |error| Error::statement("looking for the file of a table", error);
        let row = self.client.query_one(sql, &[&table, &leaf]).await.map_err(failed)?;
        let blocks: i64 = row.try_get(1).map_err(failed)?;
        let (file, name) = (row.try_get(0).map_err(failed)?, row.try_get(2).map_err(failed)?);
        Ok(LeafNow { name, file, blocks: u32::try_from(blocks).unwrap_or(u32::MAX) })
    }

    /// The tables of a publication, as the transaction sees them; `None` where a statement has one of them that the
    /// server opens for that: from version 17 on those with a row filter.
    pub async fn catalog(&self, publication: &str, keys: &KeyColumns) -> Result<Option<catalog::Catalog>, Error> {
        match catalog::read(&self.client, publication, keys).await {
            Err(error) if error.server_error().is_some_and(|error| error.is(SqlState::LOCK_NOT_AVAILABLE.code())) => {
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// The leaves of tables as they are now, without a lock.
    pub async fn leaves_now(&self, tables: &[u32]) -> Result<Leaves, Error> {
        leaves(&self.client, tables).await
    }

    /// The leaves of tables, each as one chunk; `None` where a statement has one of them.
    pub async fn leaves(&self, tables: &[PublishedTable]) -> Result<Option<Vec<Chunk>>, Error> {
        match chunk::plan(&self.client, tables, u64::MAX).await {
            Err(error) if error.server_error().is_some_and(|error| error.is(SqlState::LOCK_NOT_AVAILABLE.code())) => {
                Ok(None)
            }
            planned => planned.map(Some),
        }
    }

    /// Reads the rows of a leaf whose place is in this range, and for which the condition holds, as SQL.
    pub async fn range(
        &self,
        table: &PublishedTable,
        (leaf, places, condition): (&str, Places, Option<&str>),
        format: CopyFormat,
        limit: usize,
    ) -> Result<Taken, Error> {
        let condition = [Some(places.condition()), condition.map(|text| format!("({text})"))].into_iter().flatten();
        let condition = Some(condition.collect::<Vec<_>>().join(" AND "));
        let select = Select { table, from: format!("ONLY {leaf}"), condition, format };
        self.take(table, &select, limit).await
    }

    /// Reads the rows that have one of these keys.
    pub async fn keys(
        &self,
        table: &PublishedTable,
        keys: &[&KeyTexts],
        format: CopyFormat,
        limit: usize,
    ) -> Result<Taken, Error> {
        let only = if table.partitioned { "" } else { "ONLY " };
        let from = format!("{only}{}", table.relation.name.quoted());
        let select = Select { table, from, condition: Some(of_keys(table, keys)), format };
        self.take(table, &select, limit).await
    }

    async fn take(&self, table: &PublishedTable, select: &Select<'_>, limit: usize) -> Result<Taken, Error> {
        let name = &table.relation.name;
        let columns = table.relation.columns.len();
        let failed = |error| Error::statement(format!("reading table {name} beside the stream"), error);
        let unreadable = |reason| Error::CopyRow { table: name.clone(), reason };
        let stream = self.client.copy_out(&select.statement()).await.map_err(failed)?;
        let mut stream = std::pin::pin!(stream);
        let mut binary = (select.format == CopyFormat::Binary).then(|| BinaryRows::new(columns));
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = stream.try_next().await.map_err(failed)? {
            push(&mut binary, &row, columns, &mut rows).map_err(unreadable)?;
            bytes += row.len() + columns * size_of::<Datum>();
            if bytes > limit && rows.len() > 1 {
                return Ok(Taken::TooMany);
            }
        }
        binary.as_ref().map_or(Ok(()), BinaryRows::end).map_err(unreadable)?;
        Ok(Taken::Rows(rows, bytes))
    }
}

fn push(
    binary: &mut Option<BinaryRows>,
    row: &Bytes,
    columns: usize,
    rows: &mut Vec<Tuple>,
) -> Result<(), &'static str> {
    match binary {
        Some(binary) => binary.decode(row, rows),
        None => decode_row(row, columns).map(|row| rows.push(row)),
    }
}

/// What is visible at present, or in the client's transaction.
pub async fn visible(client: &Client) -> Result<Visible, Error> {
    let failed = |error| Error::statement("reading which transactions are visible", error);
    let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(failed)?;
    let text: String = row.try_get(0).map_err(failed)?;
    // A server that writes another form is none that is known; nothing is visible then, and nothing is read.
    Ok(Visible::parse(&text).unwrap_or_default())
}

/// The transactions that may be committed and still unseen, as those are that wait for a stand-by: one that was delivered by an earlier session
/// too. Where none waits for another server, or nothing can be read beside the stream, there are none.
pub async fn unseen(client: &Client) -> Result<Vec<u32>, Error> {
    let failed = |error| Error::statement("looking for transactions that wait for a stand-by", error);
    let sql = "SELECT current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery()";
    let may_wait: bool = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
    if !may_wait {
        return Ok(Vec::new());
    }
    // A snapshot tells of running transactions only below the last one that has ended, as this one does.
    client.batch_execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK").await.map_err(failed)?;
    Ok(visible(client).await?.running())
}

/// Leaves of tables, by `pg_class.oid` of both: how each came to its table.
pub type Leaves = BTreeMap<u32, BTreeMap<u32, String>>;

/// The leaves of tables (`pg_class.oid`), without a lock; a table without partitions is its own. How one came is told by the transactions that
/// attached it and what is above it, so one that was detached and attached again is told from one that stayed.
pub async fn leaves(client: &Client, tables: &[u32]) -> Result<Leaves, Error> {
    let trees = leaves::read(client, tables).await?;
    let came = |leaves: BTreeMap<u32, Leaf>| leaves.into_iter().map(|(leaf, found)| (leaf, found.came)).collect();
    Ok(trees.into_iter().map(|(root, leaves)| (root, came(leaves))).collect())
}

/// Whether the server takes markers of this role: one that replays another's WAL writes none.
pub async fn takes_markers(client: &Client) -> Result<bool, Error> {
    let failed = |error| Error::statement("asking whether the server is a stand-by", error);
    // Its arguments differ by version.
    let sql = "SELECT NOT pg_is_in_recovery() AND bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc \
               WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace";
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// Whether a publication has every change that may move a row.
pub async fn carries_all(client: &Client, publication: &str) -> Result<bool, Error> {
    let failed = |error| Error::statement(format!("reading what publication {publication} publishes"), error);
    let sql = "SELECT coalesce(bool_and(pubinsert AND pubupdate AND pubdelete), false) FROM pg_publication WHERE pubname = $1";
    let row = client.query_one(sql, &[&publication]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

fn marker(content: &str) -> String {
    format!("SELECT pg_logical_emit_message(true, {}, {})", quote_literal(PREFIX), quote_literal(content))
}

/// Places of rows in a leaf, block by block and item by item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// The first one.
    pub from: u64,
    /// The first one behind it.
    pub to: u64,
}

impl Places {
    /// Places of a block.
    pub const PER_BLOCK: u64 = 1 << 16;

    /// All places of these blocks.
    #[must_use]
    pub fn of_blocks((from, to): (u32, u32)) -> Self {
        Self { from: u64::from(from) * Self::PER_BLOCK, to: u64::from(to) * Self::PER_BLOCK }
    }

    fn condition(self) -> String {
        let place = |place: u64| format!("'({},{})'", place / Self::PER_BLOCK, place % Self::PER_BLOCK);
        format!("ctid >= {} AND ctid < {}", place(self.from), place(self.to))
    }
}

/// Values have the type below a domain: its checks may refuse what is there, and run anybody's function.
fn of_keys(table: &PublishedTable, keys: &[&KeyTexts]) -> String {
    let columns = &table.relation.columns;
    let key: Vec<_> = table.relation.key.iter().filter_map(|index| columns.get(*index)).collect();
    let names: Vec<_> = key.iter().map(|column| quote_identifier(&column.name)).collect();
    let row = |texts: &&KeyTexts| {
        let value =
            |(column, text): (&&Column, &String)| format!("{}::{}", quote_literal(text), column.ty.below_domains().sql);
        let values = key.iter().zip(*texts).map(value);
        format!("({})", values.collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    format!("({}) IN (VALUES {})", names.join(", "), rows.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_the_server_writes_them() {
        let places = Places { from: Places::PER_BLOCK * 3, to: Places::PER_BLOCK * 3 + 7 };
        assert_eq!(places.condition(), "ctid >= '(3,0)' AND ctid < '(3,7)'");
        assert_eq!(Places::of_blocks((0, 2)).condition(), "ctid >= '(0,0)' AND ctid < '(2,0)'");
    }
}
