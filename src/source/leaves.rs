//! The partitions that have a table's rows, and what the catalog tells of how they came by these.
//!
//! Under `publish_via_partition_root` the server sends changes of rows and the root's TRUNCATE. That a table with rows is attached, that a
//! partition is detached, dropped, or truncated by itself, it does not send (pgoutput leaves a truncated partition out that is published as its
//! root).

use std::collections::BTreeMap;

use tokio_postgres::SimpleQueryMessage;

use super::error::Error;
use crate::{postgres::Client, schema::TableName};

/// A partition without partitions of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its name.
    pub name: TableName,
    /// By which transactions it and what is above it were attached: another text once it was detached and attached again.
    pub came: String,
    /// The file of its rows.
    pub file: u32,
    /// Nobody has counted its rows since that file was begun, as after TRUNCATE, which VACUUM FULL and CLUSTER do.
    pub uncounted: bool,
    /// It was made as a partition of the table, so that all its rows were told.
    pub born: bool,
}

/// The leaves of tables, by `pg_class.oid` of both.
pub type Trees = BTreeMap<u32, BTreeMap<u32, Leaf>>;

/// Reads the leaves of tables (`pg_class.oid`); one that is not partitioned is its own, and a partitioned one may have none. Nothing is opened,
/// so no lock is waited for.
pub async fn read(client: &Client, tables: &[u32]) -> Result<Trees, Error> {
    let failed = |error| Error::statement("looking for the partitions of tables", error);
    let mut trees = Trees::new();
    for row in client.query(LEAVES, &[&tables]).await.map_err(failed)? {
        let (root, leaf) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let leaves = trees.entry(root).or_default();
        if !row.try_get::<_, bool>(8).map_err(failed)? {
            continue;
        }
        let name =
            TableName::new(row.try_get::<_, &str>(3).map_err(failed)?, row.try_get::<_, &str>(4).map_err(failed)?);
        let found = Leaf {
            name,
            came: row.try_get(2).map_err(failed)?,
            file: row.try_get(5).map_err(failed)?,
            uncounted: row.try_get(6).map_err(failed)?,
            born: row.try_get(7).map_err(failed)?,
        };
        leaves.insert(leaf, found);
    }
    Ok(trees)
}

/// Ages of transactions grow as they lie further back, and are negative where they lie further than can be told: a partition is born as one if
/// nothing above it was attached later than it was made, which the entry of a system column tells: no statement alters that.
const LEAVES: &str = "
    WITH RECURSIVE tree(root, oid, came, youngest) AS (
        SELECT t, t, coalesce((SELECT string_agg(i.xmin::text, ',' ORDER BY i.inhseqno)
                               FROM pg_inherits i WHERE i.inhrelid = t), ''), 2147483647
        FROM unnest($1::oid[]) t
        UNION ALL
        SELECT t.root, i.inhrelid, t.came || ',' || i.xmin::text,
               least(t.youngest, CASE WHEN age(i.xmin) < 0 THEN 2147483647 ELSE age(i.xmin) END)
        FROM tree t JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid
        WHERE NOT i.inhdetachpending)
    SELECT t.root, t.oid, t.came, n.nspname::text, c.relname::text, c.relfilenode, c.reltuples < 0,
           coalesce(t.youngest >= age(m.xmin), false), c.relkind <> 'p'
    FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute m ON m.attrelid = c.oid AND m.attnum = -1
    WHERE c.relkind <> 'p' OR t.oid = t.root";

/// Whether a leaf has no rows; `None` where that cannot be told at once, as somebody has it for himself.
pub async fn is_empty(client: &Client, leaf: u32) -> Option<bool> {
    let sql = format!("SET LOCAL lock_timeout = '100ms'; SELECT pg_relation_size({leaf}::regclass) = 0");
    let answer = client.simple_query(&sql).await.ok()?;
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0) == Some("t")),
        _ => None,
    })
}
