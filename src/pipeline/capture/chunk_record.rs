//! Chunks of a snapshot on their way into the state: recorded once Kafka has all of one, several at a time.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Error,
    chunks::{SnapshotPlan, TableChunks},
    copied::Copied,
    publisher::Publisher,
    session::Session,
    state::Update,
};
use crate::{
    pipeline::ack::Sequence,
    source::{catalog::PublishedTable, chunk::Chunk},
};

/// How often it is recorded which chunks are through.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// A chunk that is not recorded as done.
struct Pending {
    chunk: Chunk,
    table: u32,
    /// Its table among those that are copied.
    place: usize,
    unit: Sequence,
}

/// What is recorded of a snapshot that is being taken.
pub(super) struct ChunkRecord {
    tables: BTreeMap<u32, TableChunks>,
    pending: Vec<Pending>,
}

impl ChunkRecord {
    /// The chunks of these tables, none of them done.
    pub(super) fn new(chunks: &[Chunk], published: &[PublishedTable]) -> Self {
        let mut tables = BTreeMap::<_, TableChunks>::new();
        for chunk in chunks {
            if let Some(table) = published.get(chunk.table) {
                tables.entry(table.relation.oid).or_default().add(&chunk.leaf);
            }
        }
        Self { tables, pending: Vec::new() }
    }

    /// What is read and recorded as a whole alone.
    pub(super) const fn of_none() -> Self {
        Self { tables: BTreeMap::new(), pending: Vec::new() }
    }

    /// Whether every chunk has come to its end.
    pub(super) const fn is_through(&self) -> bool {
        self.pending.is_empty()
    }

    /// The unit of work that a chunk of a table is done with; `place` is that of the table among those that are copied.
    pub(super) fn watch(&mut self, table: u32, place: usize, chunk: &Chunk, unit: Sequence) {
        self.pending.push(Pending { chunk: chunk.clone(), table, place, unit });
    }

    /// What is recorded before the first row, when the begin is acknowledged.
    pub(super) fn begin(&self, plan: SnapshotPlan) -> Vec<Update> {
        let tables = self.tables.iter().map(|(oid, chunks)| Update::Chunks { oid: *oid, chunks: chunks.clone() });
        tables.chain([Update::Plan(Some(plan))]).collect()
    }

    /// Records the chunks that are through by now. Those of a table that stopped end without their rows.
    pub(super) async fn advance(
        &mut self,
        copied: &Copied,
        session: &Session,
        publisher: &Publisher,
    ) -> Result<(), Error> {
        let through: Vec<bool> = publisher
            .deliveries()
            .tracker(|tracker| self.pending.iter().map(|pending| tracker.is_through(pending.unit)).collect());
        let (mut changed, mut ended) = (BTreeMap::new(), Vec::new());
        let mut through = through.into_iter();
        let Self { tables, pending } = self;
        // A table is stopped before its chunks are closed, so this is asked for behind the units.
        pending.retain(|pending| {
            if !through.next().unwrap_or(false) {
                return true;
            }
            ended.push(pending.unit);
            let whole = copied.tables.get(pending.place).is_some_and(|table| !table.is_stopped());
            if whole && let Some(table) = tables.get_mut(&pending.table) {
                if let Some(leaf) = table.leaf(pending.chunk.leaf.oid) {
                    leaf.finish(pending.chunk.range);
                }
                changed.insert(pending.table, table.clone());
            }
            false
        });
        let updates: Vec<_> = changed.into_iter().map(|(oid, chunks)| Update::Chunks { oid, chunks }).collect();
        session.position.record(&updates).await?;
        for unit in ended {
            copied.recorded(unit);
        }
        Ok(())
    }
}
