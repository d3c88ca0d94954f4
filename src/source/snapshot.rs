//! The initial snapshot: tables read by COPY through the slot's exported snapshot, on one or more connections.
//!
//! ```text
//! replication connection: CREATE_REPLICATION_SLOT … export ──► snapshot name, held open and idle (trap T19)
//! ordinary connections:   BEGIN REPEATABLE READ; SET TRANSACTION SNAPSHOT; LOCK TABLE ──► COPY (SELECT …) TO STDOUT per chunk
//! ```
//!
//! The snapshot holds exactly the transactions that committed before the slot's consistent point (trap T20). Columns and
//! rows are those of the publication, so that snapshot and stream agree (trap T23). COPY is asked for values in the
//! stream's format, text or binary, under the same pinned settings.
//!
//! Reading is by pull: the server is not read on while nobody asks for the next batch, so at most one batch, and what the
//! connection has in its buffers, is in memory.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio_postgres::{CopyOutStream, error::SqlState};

use super::{
    catalog::{self, PublishedTable},
    chunk::{self, Chunk},
    copy_binary::BinaryRows,
    copy_text::decode_row,
    error::Error,
    key_columns::KeyColumns,
};
use crate::{
    event::{Datum, Tuple},
    postgres::{self, Client, Settings, session},
    schema::{TableName, quote_identifier, quote_literal},
};

/// What is known of the snapshot itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// When reading began, in microseconds since the Unix epoch, by the server's clock.
    pub read_us: i64,
    /// `pg_current_snapshot()`: `xmin:xmax:xip,…`.
    pub visible: String,
    /// First transaction id that is not visible for sure (`xmax`), its lower 32 bits.
    pub xmax: u32,
}

impl SnapshotInfo {
    /// The newest transaction that is through by then, which no stream behind the snapshot sends any more.
    #[must_use]
    pub const fn newest(&self) -> Option<u32> {
        // PostgreSQL's own numbers come first.
        if self.xmax > 3 { Some(self.xmax - 1) } else { None }
    }
}

/// A transaction that sees the exported snapshot.
#[derive(Debug)]
pub struct SnapshotReader {
    client: Client,
    info: SnapshotInfo,
    batch_bytes: usize,
}

/// How the server writes values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// As their types' text output.
    Text,
    /// As their types' binary output.
    Binary,
}

/// Rows that were read together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RowBatch {
    /// The rows, columns in the order of the relation; never empty.
    pub rows: Vec<Tuple>,
    /// What they occupy, about.
    pub bytes: usize,
}

impl SnapshotReader {
    /// Opens a transaction on the snapshot. Batches are cut at `batch_bytes`.
    pub async fn open(settings: &Settings, snapshot: &str, batch_bytes: usize) -> Result<Self, Error> {
        let client = catalog::connect(settings, "walrelay snapshot").await?;
        // What a role or the server has set must not cut a transaction of hours, nor make each chunk a walk over the whole table.
        let own = if client.server_version() >= session::TRANSACTION_TIMEOUT_SINCE {
            "; SET transaction_timeout = 0"
        } else {
            ""
        };
        let set = format!("SET enable_tidscan = on{own}");
        client.batch_execute(&set).await.map_err(|error| Error::statement("preparing the snapshot", error))?;
        let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        client.batch_execute(begin).await.map_err(|error| Error::statement("beginning the snapshot", error))?;
        let adopt = format!("SET TRANSACTION SNAPSHOT {}", quote_literal(snapshot));
        client.batch_execute(&adopt).await.map_err(|error| adoption_error(snapshot, error))?;
        let info = read_info(&client).await.map_err(|error| Error::statement("reading the snapshot's time", error))?;
        Ok(Self { client, info, batch_bytes })
    }

    /// Keeps the tables from being truncated or rewritten until [`SnapshotReader::close`]: the snapshot would see them empty
    /// (trap T79). Taken for all at once, right after the snapshot, so that a table that is truncated again and again does
    /// not keep the snapshot from ever ending. Reading and writing rows goes on.
    pub async fn lock(&self, tables: &[PublishedTable]) -> Result<(), Error> {
        self.lock_tables(tables, "").await.map_err(|error| locking_error(tables, error))
    }

    /// The same for a second connection, without waiting; `false` if it would have to: it can only be closed then. A statement
    /// that waits for the first one's lock would be waited for, and so each for the other.
    pub async fn try_lock(&self, tables: &[PublishedTable]) -> Result<bool, Error> {
        match self.lock_tables(tables, " NOWAIT").await {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(false),
            Err(error) => Err(locking_error(tables, error)),
        }
    }

    async fn lock_tables(&self, tables: &[PublishedTable], wait: &str) -> Result<(), tokio_postgres::Error> {
        if tables.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = tables.iter().map(|table| table.relation.name.quoted()).collect();
        self.client.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE{wait}", names.join(", "))).await
    }

    /// An error if one of the locked tables of a publication is not as it was read before. That was before there was a slot, whose
    /// creation waits for transactions that may alter them, and the bytes of a value do not tell its type.
    pub async fn check_unaltered(&self, publication: &str, tables: &[PublishedTable]) -> Result<(), Error> {
        let seen = catalog::read(&self.client, publication, &KeyColumns::default()).await?;
        let altered =
            tables.iter().find(|table| !seen.by_oid(table.relation.oid).is_some_and(|seen| is_same(seen, table)));
        altered.map_or(Ok(()), |table| Err(Error::Altered { table: table.relation.name.clone() }))
    }

    /// Cuts locked tables into chunks of about so many bytes. An error if one of them has other storage than the snapshot knows.
    pub async fn plan(&self, tables: &[PublishedTable], chunk_bytes: u64) -> Result<Vec<Chunk>, Error> {
        for table in tables {
            self.check_storage(table).await?;
        }
        chunk::plan(&self.client, tables, chunk_bytes).await
    }

    /// What is known of the snapshot.
    #[must_use]
    pub const fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// What locked tables occupy, out-of-line values included, in bytes.
    pub async fn size(&self, tables: &[PublishedTable]) -> Result<u64, Error> {
        chunk::size(&self.client, tables).await
    }

    /// Starts to read a chunk of a table; one at a time.
    pub async fn read<'a>(
        &'a self,
        table: &'a PublishedTable,
        chunk: &'a Chunk,
        format: CopyFormat,
    ) -> Result<ChunkRows<'a>, Error> {
        let doing = || format!("reading table {}", table.relation.name);
        let stream = self.client.copy_out(&copy_statement(table, chunk, format)).await;
        let stream = stream.map_err(|error| match error.code() {
            // Between the snapshot and the locks it was renamed, or one of its columns.
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => {
                Error::Altered { table: table.relation.name.clone() }
            }
            _ => Error::statement(doing(), error),
        })?;
        let binary = (format == CopyFormat::Binary).then(|| BinaryRows::new(table.relation.columns.len()));
        Ok(ChunkRows { reader: self, table, chunk, stream: Box::pin(stream), binary, ended: false })
    }

    /// Ends the transaction. It wrote nothing, so nothing depends on how it ends.
    pub async fn close(self) {
        if let Err(error) = self.client.batch_execute("COMMIT").await {
            tracing::debug!(%error, "a transaction of the snapshot ended by itself");
        }
        self.client.close().await;
    }

    /// An error if the table, or one of its partitions, has other storage than the snapshot knows, or left the tree or came to it with
    /// the rows that it had then.
    ///
    /// `pg_class` is read through the snapshot and shows the filenode of then; `pg_relation_filenode` reads that of now.
    /// `pg_partition_tree` is that of now too, without what an interrupted DETACH CONCURRENTLY has left.
    async fn check_storage(&self, table: &PublishedTable) -> Result<(), Error> {
        let sql = "WITH RECURSIVE tree(oid) AS ( \
                       SELECT $1::oid UNION ALL \
                       SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid WHERE $2 \
                          AND NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::bool, false)), \
                   present(oid) AS (SELECT relid::oid FROM pg_partition_tree($1) WHERE $2) \
                   SELECT count(*) FROM pg_class c LEFT JOIN tree USING (oid) LEFT JOIN present USING (oid) \
                    WHERE c.relkind = 'r' AND (tree.oid IS NOT NULL OR present.oid IS NOT NULL) \
                      AND (c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid) \
                           OR $2 AND (tree.oid IS NULL OR present.oid IS NULL))";
        let name: &TableName = &table.relation.name;
        let row = self.client.query_one(sql, &[&table.relation.oid, &table.partitioned]).await;
        let rewritten: i64 = row
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::statement(format!("checking the storage of {name}"), error))?;
        if rewritten == 0 { Ok(()) } else { Err(Error::Rewritten { table: name.clone() }) }
    }
}

/// The rows of one chunk.
pub struct ChunkRows<'a> {
    reader: &'a SnapshotReader,
    table: &'a PublishedTable,
    chunk: &'a Chunk,
    stream: Pin<Box<CopyOutStream>>,
    /// `None`: text.
    binary: Option<BinaryRows>,
    ended: bool,
}

impl ChunkRows<'_> {
    /// The next batch; `None` when the chunk has been read, and its storage was that of the snapshot at the end (trap T79).
    pub async fn next(&mut self) -> Result<Option<RowBatch>, Error> {
        let name = &self.table.relation.name;
        let mut batch = RowBatch::default();
        while !self.ended && batch.bytes < self.reader.batch_bytes {
            let row = self.stream.try_next().await;
            match row.map_err(|error| Error::statement(format!("reading table {name}"), error))? {
                Some(row) => self.push(&row, &mut batch)?,
                None => {
                    self.ended = true;
                    let complete = self.binary.as_ref().map_or(Ok(()), BinaryRows::end);
                    complete.map_err(|reason| self.unreadable(reason))?;
                }
            }
        }
        if self.ended && batch.rows.is_empty() {
            self.check_file().await?;
            return Ok(None);
        }
        Ok(Some(batch))
    }

    /// An error if the rows lie in another file by now than the snapshot knows.
    async fn check_file(&self) -> Result<(), Error> {
        let (name, leaf) = (&self.table.relation.name, &self.chunk.leaf);
        let Some(file) = leaf.file else { return self.reader.check_storage(self.table).await };
        let row = self.reader.client.query_one("SELECT pg_relation_filenode($1::oid)", &[&leaf.oid]).await;
        let found: Option<u32> = row
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::statement(format!("checking the storage of {name}"), error))?;
        if found == Some(file) { Ok(()) } else { Err(Error::Rewritten { table: name.clone() }) }
    }

    /// The server sends one row per CopyData (manual, "Message Formats").
    fn push(&mut self, row: &Bytes, batch: &mut RowBatch) -> Result<(), Error> {
        let columns = self.table.relation.columns.len();
        let decoded = match &mut self.binary {
            Some(binary) => binary.decode(row, &mut batch.rows),
            None => decode_row(row, columns).map(|row| batch.rows.push(row)),
        };
        decoded.map_err(|reason| self.unreadable(reason))?;
        batch.bytes += row.len() + columns * size_of::<Datum>();
        Ok(())
    }

    fn unreadable(&self, reason: &'static str) -> Error {
        Error::CopyRow { table: self.table.relation.name.clone(), reason }
    }
}

/// Whether the table is what it was, as far as reading its rows goes.
fn is_same(seen: &PublishedTable, table: &PublishedTable) -> bool {
    let columns = |table: &PublishedTable| {
        let columns = table.relation.columns.iter();
        columns
            .map(|column| (Arc::clone(&column.name), column.attnum, column.ty.oid, column.ty.typmod))
            .collect::<Vec<_>>()
    };
    seen.relation.name == table.relation.name
        && seen.partitioned == table.partitioned
        && seen.row_filter == table.row_filter
        && columns(seen) == columns(table)
}

fn copy_statement(table: &PublishedTable, chunk: &Chunk, format: CopyFormat) -> String {
    let only = if chunk.leaf.only { "ONLY " } else { "" };
    let from = format!("{only}{}", chunk.leaf.name);
    Select { table, from, condition: chunk.range.condition(), format }.statement()
}

/// Some rows of a table, as the publication has them.
pub(super) struct Select<'a> {
    pub(super) table: &'a PublishedTable,
    /// Where the rows lie, as SQL.
    pub(super) from: String,
    /// Beside the row filter, as SQL.
    pub(super) condition: Option<String>,
    pub(super) format: CopyFormat,
}

impl Select<'_> {
    /// Columns by name, and the leaf under the name of its table: a row filter may have either.
    pub(super) fn statement(&self) -> String {
        let Self { table, from, condition, format } = self;
        let columns: Vec<String> = table.relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let filter = table.row_filter.as_ref().map(|filter| format!("({filter})"));
        let conditions: Vec<String> = filter.into_iter().chain(condition.clone()).collect();
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let format = if *format == CopyFormat::Binary { " (FORMAT binary)" } else { "" };
        let name = quote_identifier(&table.relation.name.table);
        format!("COPY (SELECT {} FROM {from} AS {name}{filter}) TO STDOUT{format}", columns.join(", "))
    }
}

async fn read_info(client: &Client) -> Result<SnapshotInfo, tokio_postgres::Error> {
    let sql = "SELECT (extract(epoch FROM now()) * 1000000)::bigint, pg_current_snapshot()::text, \
                      pg_snapshot_xmax(pg_current_snapshot())::text::numeric % 4294967296";
    let sql = format!("SELECT a, b, c::bigint FROM ({sql}) x(a, b, c)");
    let row = client.query_one(&sql, &[]).await?;
    let xmax: i64 = row.try_get(2)?;
    Ok(SnapshotInfo {
        read_us: row.try_get(0)?,
        visible: row.try_get(1)?,
        xmax: u32::try_from(xmax).unwrap_or_default(),
    })
}

/// A table that is not there any more was dropped or renamed since the publication was read.
fn locking_error(tables: &[PublishedTable], error: tokio_postgres::Error) -> Error {
    let is_missing = matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME));
    // The message names it, in the server's language, between quotes of that.
    let text = error.as_db_error().map_or("", |error| error.message());
    let is_named = |table: &&PublishedTable| {
        let TableName { schema, table } = &table.relation.name;
        text.contains(&format!("{schema}.{table}"))
    };
    match tables.iter().find(is_named).or_else(|| tables.first()).filter(|_| is_missing) {
        Some(table) => Error::Altered { table: table.relation.name.clone() },
        None => Error::statement("locking the tables of the snapshot", error),
    }
}

/// The codes of a snapshot whose exporting session is gone (22023 up to 16, then 42704; 55000).
fn adoption_error(snapshot: &str, error: tokio_postgres::Error) -> Error {
    let error = postgres::Error::statement("adopting the exported snapshot", error);
    let gone = error.server_error().is_some_and(|server| ["22023", "42704", "55000"].contains(&server.code.as_str()));
    if gone { Error::SnapshotGone { snapshot: snapshot.to_owned(), source: error } } else { Error::Postgres(error) }
}
