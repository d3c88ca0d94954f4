//! What a snapshot reads at a time: a range of blocks of one table or partition.
//!
//! A table is a heap of blocks of 8 KiB, and the server finds the rows of a range of them by `ctid` without reading the others (14+;
//! trap T22). Within one snapshot a row has one `ctid` for ever, and the ranges of a plan leave no block out, so each row is in
//! one chunk. The last range has no end: blocks that are added while the plan is made may hold rows of the snapshot.
//!
//! A partitioned table has its blocks in its leaves. These are read one by one with the root's columns by name, since a leaf may have
//! them in another order (trap T33). Where the role may not read a leaf as such, the root is read as a whole, and so is everything
//! that is no heap.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::{catalog::PublishedTable, error::Error};
use crate::postgres::Client;

/// The first server version that finds a range of blocks without reading the table from its begin.
const RANGES_SINCE: u32 = 140_000;

/// Ranges of one leaf: each is a unit of work from the begin.
const MOST_RANGES: u64 = 100_000;

/// Some of the rows of a table. Together with the consistent point it names the same rows for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the table among those that the plan was made of.
    pub table: usize,
    /// Where the rows lie.
    pub leaf: Arc<Leaf>,
    /// Which of them.
    pub range: BlockRange,
    /// What the blocks occupy, in bytes; an out-of-line value is not counted.
    pub bytes: u64,
}

/// What has blocks of its own: a table, or a partition of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its file, as the snapshot knows it; another one holds other rows (trap T79). `None` where there is none.
    pub file: Option<u32>,
    /// Its name, quoted.
    pub name: String,
    /// Read without what is below it: children of a plain table are tables of their own.
    pub only: bool,
    /// How many blocks it has; `None` where rows are not found by their blocks.
    pub blocks: Option<u32>,
}

/// Blocks of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first one.
    pub from: u32,
    /// The first one behind it; `None`: as far as there are any.
    pub to: Option<u32>,
}

impl BlockRange {
    /// All rows.
    pub const WHOLE: Self = Self { from: 0, to: None };

    /// The condition on rows, as SQL; `None` if it holds for all.
    #[must_use]
    pub fn condition(self) -> Option<String> {
        match self {
            Self::WHOLE => None,
            Self { from, to: None } => Some(format!("ctid >= '({from},0)'")),
            Self { from, to: Some(to) } => Some(format!("ctid >= '({from},0)' AND ctid < '({to},0)'")),
        }
    }
}

/// Cuts tables into chunks of about so many bytes; in the order of the tables, and of blocks. To be asked for in the snapshot's own
/// transaction, under locks on the tables.
pub async fn plan(client: &Client, tables: &[PublishedTable], chunk_bytes: u64) -> Result<Vec<Chunk>, Error> {
    let (all, partitioned) = oids(tables);
    let rows = client.query(&leaves(LEAF), &[&all, &partitioned]).await.map_err(failed)?;
    let found = rows
        .iter()
        .map(|row| Found::read(row, client.server_version()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let mut chunks = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let mut leaves: Vec<_> = found.iter().filter(|found| found.root == table.relation.oid).collect();
        let whole = table.partitioned && leaves.iter().any(|found| !found.readable) || leaves.is_empty();
        if whole {
            let name = table.relation.name.quoted();
            let leaf = Leaf { oid: table.relation.oid, file: None, name, only: !table.partitioned, blocks: None };
            let bytes = leaves.drain(..).map(|found| found.bytes).sum();
            chunks.push(Chunk { table: index, leaf: Arc::new(leaf), range: BlockRange::WHOLE, bytes });
        }
        for found in leaves {
            chunks.extend(found.chunks(index, chunk_bytes));
        }
    }
    Ok(chunks)
}

/// How many leaves a table has, if this role may read each of them by ranges of blocks; `None` where it is read as a whole, or not at all.
pub async fn leaves_in_ranges(client: &Client, table: &PublishedTable) -> Result<Option<usize>, Error> {
    let (all, partitioned) = oids(std::slice::from_ref(table));
    let rows = client.query(&leaves(LEAF), &[&all, &partitioned]).await.map_err(failed)?;
    for row in &rows {
        let found = Found::read(row, client.server_version()).map_err(failed)?;
        if !found.readable || found.leaf.blocks.is_none() {
            return Ok(None);
        }
    }
    Ok((!rows.is_empty()).then_some(rows.len()))
}

/// What tables occupy, out-of-line values included, in bytes.
pub(super) async fn size(client: &Client, tables: &[PublishedTable]) -> Result<u64, Error> {
    let (all, partitioned) = oids(tables);
    let sizes = leaves("coalesce(pg_table_size(c.oid), 0) AS bytes");
    let sql = format!("SELECT coalesce(sum(bytes), 0)::bigint FROM ({sizes}) s");
    let row = client.query_one(&sql, &[&all, &partitioned]).await.map_err(failed)?;
    row.try_get::<_, i64>(0).map(|bytes| u64::try_from(bytes).unwrap_or(0)).map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::statement("reading the sizes of the snapshot's tables", error)
}

/// All tables, and those that have their rows below.
fn oids(tables: &[PublishedTable]) -> (Vec<u32>, Vec<u32>) {
    let partitioned = tables.iter().filter(|table| table.partitioned).map(|table| table.relation.oid);
    (tables.iter().map(|table| table.relation.oid).collect(), partitioned.collect())
}

/// A query of the leaves of [`oids`]: the tree as the snapshot knows it; names, sizes and rights as they are by now.
fn leaves(columns: &str) -> String {
    format!(
        "WITH RECURSIVE tree(root, oid) AS ( \
             SELECT t, t FROM unnest($1::oid[]) t \
             UNION ALL \
             SELECT t.root, i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid WHERE t.root = ANY($2) \
                AND NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::bool, false)) \
         SELECT {columns} FROM tree t JOIN pg_class c ON c.oid = t.oid LEFT JOIN pg_am a ON a.oid = c.relam \
         WHERE c.relkind <> 'p' ORDER BY t.root, c.oid"
    )
}

/// The columns of [`Found`].
const LEAF: &str = "t.root, c.oid, nullif(c.relfilenode, 0), c.oid::regclass::text, \
    c.relkind = 'r' AND coalesce(a.amname = 'heap', false), coalesce(pg_relation_size(c.oid), 0), \
    coalesce(has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE') \
             AND NOT row_security_active(c.oid), false), \
    current_setting('block_size')::bigint";

/// A row of [`leaves`].
struct Found {
    root: u32,
    leaf: Arc<Leaf>,
    bytes: u64,
    readable: bool,
    block_bytes: u64,
}

impl Found {
    fn read(row: &Row, server_version: u32) -> Result<Self, tokio_postgres::Error> {
        let number = |index: usize| row.try_get::<_, i64>(index).map(|number| u64::try_from(number).unwrap_or(0));
        let (bytes, block_bytes) = (number(5)?, number(7)?.max(1));
        let in_blocks = row.try_get(4)? && server_version >= RANGES_SINCE;
        let blocks = in_blocks.then(|| u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX));
        let leaf = Leaf { oid: row.try_get(1)?, file: row.try_get(2)?, name: row.try_get(3)?, only: true, blocks };
        Ok(Self { root: row.try_get(0)?, leaf: Arc::new(leaf), bytes, readable: row.try_get(6)?, block_bytes })
    }

    fn chunks(&self, table: usize, chunk_bytes: u64) -> Vec<Chunk> {
        let per_chunk = match chunk_bytes / self.block_bytes {
            blocks if self.leaf.blocks.is_some() => blocks.max((self.bytes / self.block_bytes).div_ceil(MOST_RANGES)),
            _ => u64::MAX,
        };
        let ranges = ranges(self.bytes / self.block_bytes, per_chunk);
        let chunk = |range: BlockRange| {
            let end = range.to.map_or(self.bytes, |to| u64::from(to) * self.block_bytes);
            let bytes = end.saturating_sub(u64::from(range.from) * self.block_bytes);
            Chunk { table, leaf: Arc::clone(&self.leaf), range, bytes }
        };
        ranges.into_iter().map(chunk).collect()
    }
}

/// Ranges of so many blocks each, the last one open; one at least.
fn ranges(blocks: u64, per_chunk: u64) -> Vec<BlockRange> {
    let (mut ranges, mut from) = (Vec::new(), 0);
    // A block's number has 32 bits.
    while let Some(to) = u64::from(from).checked_add(per_chunk.max(1)).filter(|to| *to < blocks) {
        let Ok(to) = u32::try_from(to) else { break };
        ranges.push(BlockRange { from, to: Some(to) });
        from = to;
    }
    ranges.push(BlockRange { from, to: None });
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Trap T22.
        #[test]
        fn every_block_is_in_one_range_and_the_last_has_no_end(blocks in 0_u64..100_000, per_chunk in 0_u64..5_000) {
            let ranges = ranges(blocks, per_chunk);
            prop_assert_eq!(ranges[0].from, 0);
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].to, Some(pair[1].from));
                prop_assert_eq!(u64::from(pair[1].from - pair[0].from), per_chunk.max(1));
            }
            let last = ranges[ranges.len() - 1];
            prop_assert_eq!(last.to, None);
            prop_assert!(blocks == 0 || u64::from(last.from) < blocks, "an empty range at the end");
        }
    }

    #[test]
    fn a_table_of_one_chunk_has_no_condition() {
        assert_eq!(ranges(0, 10), [BlockRange::WHOLE]);
        assert_eq!(ranges(10, 10), [BlockRange::WHOLE]);
        assert_eq!(ranges(u64::MAX, u64::MAX), [BlockRange::WHOLE]);
        let conditions: Vec<_> = ranges(21, 10).into_iter().map(BlockRange::condition).collect();
        let expected =
            ["ctid >= '(0,0)' AND ctid < '(10,0)'", "ctid >= '(10,0)' AND ctid < '(20,0)'", "ctid >= '(20,0)'"];
        assert_eq!(conditions, expected.map(|text| Some(text.to_owned())));
    }

    #[test]
    fn the_largest_table_has_an_end() {
        let ranges = ranges(u64::from(u32::MAX), 1 << 30);
        assert_eq!(ranges.len(), 4);
        assert_eq!(ranges[3], BlockRange { from: 3 << 30, to: None });
    }
}
