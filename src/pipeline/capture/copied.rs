//! What the connections of a snapshot share: which chunk is next, and of each table the version that rows are written under and the
//! row that is held back.
//!
//! A chunk is a unit of work of its own, so it is known when Kafka has all of it. Rows come from several chunks at a time, and yet one
//! is the last of its table, and one the last of all: the row that a chunk ends with is held back until another chunk of the table
//! has ended or all have, and that of a table until all tables are through. A chunk stays open as long as a row of it is held.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{figures::Figures, routes::Running};
use crate::{
    event::{SnapshotMark, Tuple},
    pipeline::ack::Sequence,
    source::{catalog::PublishedTable, chunk::Chunk, snapshot::CopyFormat},
};

/// A row that may be the last one.
pub(super) struct Held {
    pub(super) row: Tuple,
    /// Its chunk's unit of work, which is closed once the row is sent.
    pub(super) unit: Sequence,
}

/// One table of the snapshot.
pub(super) struct CopiedTable {
    /// Its place among the others.
    pub(super) index: usize,
    pub(super) published: PublishedTable,
    /// How its values are asked for.
    pub(super) format: CopyFormat,
    /// With room for everything that rows have shown so far.
    running: Mutex<Arc<Running>>,
    /// Rows that were sent.
    pub(super) counter: IntCounter,
    begun: AtomicBool,
    stopped: AtomicBool,
    rows: AtomicU64,
    since: Instant,
    rest: Mutex<Rest>,
}

/// What is left to do of a table.
struct Rest {
    chunks: u64,
    figures: Figures,
    held: Option<Held>,
}

impl CopiedTable {
    pub(super) fn new(
        index: usize,
        (published, format): (PublishedTable, CopyFormat),
        running: Arc<Running>,
        counter: IntCounter,
    ) -> Self {
        Self {
            index,
            published,
            format,
            running: Mutex::new(running),
            counter,
            begun: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            rows: AtomicU64::new(0),
            since: Instant::now(),
            rest: Mutex::new(Rest { chunks: 0, figures: Figures::default(), held: None }),
        }
    }

    /// The version that rows are written under from now on.
    pub(super) fn running(&self) -> Arc<Running> {
        Arc::clone(&lock(&self.running))
    }

    /// Another version takes its place.
    pub(super) fn run(&self, running: Arc<Running>) {
        *lock(&self.running) = running;
    }

    /// Whether nothing more of it is sent.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends it before its time; `false` if another connection has done so.
    pub(super) fn stop(&self) -> bool {
        !self.stopped.swap(true, Ordering::Relaxed)
    }

    /// The mark of the row that is sent next, as Debezium marks rows: `first` is of the first table, and of none if that is empty.
    pub(super) fn mark(&self, is_last: bool) -> SnapshotMark {
        mark(self.index == 0, !self.begun.swap(true, Ordering::Relaxed), is_last)
    }

    /// One row more.
    pub(super) fn count(&self) {
        self.counter.inc();
        self.rows.fetch_add(1, Ordering::Relaxed);
    }

    /// A chunk ended with this row; gives the one of another chunk that is the table's last no more. To be sent before
    /// [`Copied::end_chunk`], so that nothing comes behind the last row.
    pub(super) fn hold(&self, row: Held) -> Option<Held> {
        lock(&self.rest).held.replace(row)
    }

    /// A chunk is through. Once all are, the table's last row, if it has any.
    fn end_chunk(&self, bytes: u64) -> Option<Held> {
        let mut rest = lock(&self.rest);
        rest.chunks = rest.chunks.saturating_sub(1);
        rest.figures.bytes[1] += bytes;
        if rest.chunks > 0 {
            return None;
        }
        let last = rest.held.take();
        self.tell(u64::from(last.is_some()));
        last
    }

    /// How far it has come.
    pub(super) fn figures(&self) -> Figures {
        let rest = lock(&self.rest);
        let Figures { chunks: [chunks, _], bytes, .. } = rest.figures;
        Figures { rows: self.rows.load(Ordering::Relaxed), chunks: [chunks, chunks - rest.chunks.min(chunks)], bytes }
    }

    /// `held`: rows that are still to be sent.
    fn tell(&self, held: u64) {
        let (rows, seconds) = (self.rows.load(Ordering::Relaxed) + held, self.since.elapsed().as_secs_f64());
        let copy = if self.format == CopyFormat::Binary { "binary" } else { "text" };
        tracing::info!(table = %self.published.relation.name, rows, seconds, copy, "snapshot of table read");
    }
}

const fn mark(of_first_table: bool, first: bool, last: bool) -> SnapshotMark {
    match (first, last) {
        (true, _) if of_first_table => SnapshotMark::First,
        (_, true) => SnapshotMark::LastInCollection,
        (true, false) => SnapshotMark::FirstInCollection,
        (false, false) => SnapshotMark::True,
    }
}

/// A chunk, its table here, and its unit of work.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) chunk: Chunk,
    pub(super) table: usize,
    pub(super) unit: Sequence,
}

/// Into how many chunks the bytes are cut that a connection may have begun to read and that are not recorded
/// ([`snapshot_chunk_bytes`](super::CaptureSettings::snapshot_chunk_bytes)): they are read again after a kill. A chunk stays open for as long as its
/// last row is held back. When nobody reads, two are at most, that of the table under way and that of the last table, so no connection waits
/// for itself.
pub(super) const PARTS: u64 = 4;
/// The unit of such bytes: a chunk has one at least.
const BLOCK: u64 = 8192;

/// Room for so many bytes.
pub(super) fn room(chunk_bytes: u64) -> Semaphore {
    let blocks = blocks(chunk_bytes, u64::from(u32::MAX)).max(PARTS);
    Semaphore::new(usize::try_from(blocks).unwrap_or(Semaphore::MAX_PERMITS))
}

/// What a chunk takes of it: a quarter at most, also where it is larger.
pub(super) fn share(chunk: &Chunk, chunk_bytes: u64) -> u32 {
    let most = blocks(chunk_bytes, u64::from(u32::MAX)) / PARTS;
    u32::try_from(blocks(chunk.bytes, most.max(1))).unwrap_or(u32::MAX)
}

fn blocks(bytes: u64, most: u64) -> u64 {
    (bytes / BLOCK).clamp(1, most)
}

/// A snapshot under way.
pub(super) struct Copied {
    pub(super) tables: Vec<CopiedTable>,
    tasks: Vec<Task>,
    next: AtomicUsize,
    /// The last row so far of a table that is through: it may be the last of all.
    last: Mutex<Option<(usize, Held)>>,
    /// What lets their connections begin others, of the chunks that are begun and not recorded.
    begun: Mutex<HashMap<Sequence, OwnedSemaphorePermit>>,
}

impl Copied {
    pub(super) fn new(tables: Vec<CopiedTable>, tasks: Vec<Task>) -> Self {
        for task in &tasks {
            if let Some(table) = tables.get(task.table) {
                let mut rest = lock(&table.rest);
                rest.chunks += 1;
                rest.figures.chunks[0] += 1;
                rest.figures.bytes[0] += task.chunk.bytes;
            }
        }
        Self { tables, tasks, next: AtomicUsize::new(0), last: Mutex::new(None), begun: Mutex::new(HashMap::new()) }
    }

    /// The next chunk to read, with its table.
    pub(super) fn next(&self) -> Option<(&Task, &CopiedTable)> {
        let task = self.tasks.get(self.next.fetch_add(1, Ordering::Relaxed))?;
        Some((task, self.tables.get(task.table)?))
    }

    /// A chunk is begun, by the connection that this is of.
    pub(super) fn begin(&self, task: &Task, permit: OwnedSemaphorePermit) {
        lock(&self.begun).insert(task.unit, permit);
    }

    /// A chunk is recorded as done, or never will be.
    pub(super) fn recorded(&self, unit: Sequence) {
        lock(&self.begun).remove(&unit);
    }

    /// A chunk of the table is through. Gives the last row of a table, with the table's index, that is not the last of all.
    pub(super) fn end_chunk(&self, task: &Task) -> Option<(usize, Held)> {
        let index = task.table;
        let table = self.tables.get(index)?;
        let row = table.end_chunk(task.chunk.bytes)?;
        if table.is_stopped() || self.is_not_last(table) { Some((index, row)) } else { self.end_table(index, row) }
    }

    /// The units of work of a table's chunks.
    pub(super) fn units_of(&self, table: usize) -> impl Iterator<Item = Sequence> {
        self.tasks.iter().filter(move |task| task.table == table).map(|task| task.unit)
    }

    /// Whether another table ends the snapshot: the row that a table without key ends with is not held back then, since no snapshot
    /// goes on in the midst of its chunk.
    fn is_not_last(&self, table: &CopiedTable) -> bool {
        let has_rows = |later: &CopiedTable| {
            let Figures { bytes: [bytes, _], .. } = later.figures();
            bytes > 0 && !later.is_stopped() && !later.published.relation.key.is_empty()
        };
        table.published.relation.key.is_empty() && self.tables.iter().skip(table.index + 1).any(has_rows)
    }

    /// Of two last rows that of the later table may be the last of all; gives the other one.
    fn end_table(&self, index: usize, row: Held) -> Option<(usize, Held)> {
        let mut last = lock(&self.last);
        match &mut *last {
            Some((kept, _)) if *kept > index => Some((index, row)),
            kept => kept.replace((index, row)),
        }
    }

    /// The last row of all, once every chunk has ended.
    pub(super) fn take_last(&self) -> Option<(usize, Held)> {
        lock(&self.last).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
