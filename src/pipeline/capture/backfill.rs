//! Reads the rest of a snapshot beside the stream: window after window, as small as its rows are large.
//!
//! One task, one connection: the next window begins when the stream has published the one before, so at most one window's rows are in
//! memory. What is read is recorded once it is acknowledged; when every table is whole the snapshot is recorded as complete, and only
//! then may the flush LSN pass its point.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Error, chunk_record,
    chunks::Ranges,
    publisher::Publisher,
    session::Session,
    state::{StoppedTable, Update},
    tuple_format::copy_format,
    unread::{Unread, UnreadLeaf},
    windows::{Outcome, Rows, Windows},
};
use crate::{
    lsn::{Lsn, Position},
    schema::Relation,
    source::{
        catalog::PublishedTable,
        window::{Begun, KeyTexts, Layout, LeafNow, Places, Taken, WindowReader},
    },
};

/// Rows of one window, in bytes about.
const TARGET_BYTES: usize = 8 << 20;
/// With more it is given up for a smaller one.
const LIMIT_BYTES: usize = 32 << 20;
/// Blocks of the first window.
const FIRST_BLOCKS: u64 = 16;
/// Keys of the first window, and of any.
const KEYS: (usize, usize) = (64, 1000);
/// How long to wait where a lock is held, or a transaction is not visible yet.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is told how far it has come.
const TELL: Duration = Duration::from_secs(5);

/// What a session knows of a snapshot that goes on.
pub(super) struct Rest {
    pub(super) windows: Arc<Windows>,
    pub(super) unread: Vec<Unread>,
    /// All tables of the snapshot, by OID.
    pub(super) planned: Vec<u32>,
    pub(super) consistent_point: Lsn,
}

/// Reads what is left.
pub(super) struct Backfill {
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    windows: Arc<Windows>,
    tables: Vec<ReadTable>,
    planned: Vec<u32>,
    consistent_point: Lsn,
    reader: WindowReader,
    number: u64,
    /// What came of a table and is not recorded: once everything up to this commit is acknowledged.
    unrecorded: VecDeque<(Lsn, usize, Step)>,
    /// The commit of the last window.
    last: Lsn,
    recorded: Instant,
    told: Instant,
    keys: usize,
}

struct ReadTable {
    published: Arc<PublishedTable>,
    unread: Unread,
    layout: Option<Layout>,
    /// What is left, by leaf.
    left: VecDeque<(usize, Places)>,
    /// How many places a window has.
    places: u64,
    /// It was read again from its begin, since too many rows were owed.
    again: bool,
    /// Windows of which nothing was published.
    void: u64,
}

/// What a window is of.
enum What {
    Places { leaf: usize, places: Places },
    Keys(Vec<(Vec<u8>, KeyTexts)>),
}

/// What came of a table.
#[derive(Clone, Copy)]
enum Step {
    /// Blocks of a leaf are read.
    Blocks { leaf: u32, blocks: (u32, u32) },
    /// It is whole.
    Whole,
}

/// What comes of an attempt to read a window.
enum Attempt {
    Read,
    /// To be tried again between the same markers.
    Later,
    /// Something else is to be read.
    Elsewise,
}

impl Backfill {
    pub(super) async fn connect(session: &Arc<Session>, publisher: &Arc<Publisher>, rest: Rest) -> Result<Self, Error> {
        let Rest { windows, unread, planned, consistent_point } = rest;
        let reader = WindowReader::connect(&session.settings.source).await?;
        let now = Instant::now();
        Ok(Self {
            session: Arc::clone(session),
            publisher: Arc::clone(publisher),
            windows,
            tables: unread.into_iter().map(ReadTable::new).collect(),
            planned,
            consistent_point,
            reader,
            number: 0,
            unrecorded: VecDeque::new(),
            last: Lsn::ZERO,
            recorded: now,
            told: now,
            keys: KEYS.0,
        })
    }

    /// Reads until every table is whole, and records that.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        self.tell("going on with the snapshot beside the stream");
        // Behind this marker the stream has told again which rows are owed from before.
        self.low(0).await?;
        for index in 0..self.tables.len() {
            self.table(index).await?;
        }
        while !self.unrecorded.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.record(true).await?;
        }
        self.finish().await
    }

    async fn finish(&mut self) -> Result<(), Error> {
        let mut updates: Vec<_> = self.planned.iter().map(|oid| Update::ForgetChunks { oid: *oid }).collect();
        updates.push(Update::Plan(None));
        let position = Position { epoch: self.session.epoch, commit: self.consistent_point, ordinal: 0 };
        for (oid, reason) in self.windows.stopped() {
            let table = self.tables.iter().find(|table| table.oid() == oid);
            // A later session must not take the table for whole.
            updates.extend(table.map(|table| Update::Stopped {
                table: table.unread.published.relation.name.to_string(),
                stopped: StoppedTable { position, reason },
            }));
        }
        self.session.position.finish_snapshot(updates).await?;
        self.publisher.deliveries().tracker(crate::pipeline::ack::AckTracker::release_snapshot);
        tracing::info!("the snapshot is complete, and recorded");
        self.session.health.set_phase("streaming");
        Ok(())
    }

    async fn table(&mut self, index: usize) -> Result<(), Error> {
        loop {
            let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
            let oid = table.oid();
            if !self.windows.is_open(oid) {
                return Ok(());
            }
            if self.windows.take_again(oid) {
                tracing::warn!(table = %table.published.relation.name, "too many rows changed meanwhile: reading the table from its begin");
                if std::mem::replace(&mut table.again, true) {
                    return self.outrun(index).await;
                }
                for leaf in 0..table.unread.leaves.len() {
                    self.read_anew(index, leaf).await?;
                }
                continue;
            }
            if let Some(indebted) = self.windows.indebted() {
                self.settle_debts(indebted).await?;
            } else if let Some((leaf, places)) = table.next() {
                self.window(index, What::Places { leaf, places }).await?;
            } else {
                self.windows.all_read(oid);
                let owed = self.windows.owed(oid, self.keys);
                if owed.is_empty() {
                    if let Some(at) = self.windows.close(oid) {
                        self.unrecorded.push_back((self.last.max(at), index, Step::Whole));
                    }
                } else {
                    self.window(index, What::Keys(owed)).await?;
                }
            }
            self.record(false).await?;
            if self.told.elapsed() >= TELL {
                self.tell("snapshot goes on beside the stream");
            }
        }
    }

    /// Reads some of the rows that a table owes, before there are too many.
    async fn settle_debts(&mut self, oid: u32) -> Result<(), Error> {
        let Some(index) = self.tables.iter().position(|table| table.oid() == oid) else { return Ok(()) };
        let owed = self.windows.owed(oid, self.keys);
        if owed.is_empty() { Ok(()) } else { self.window(index, What::Keys(owed)).await }
    }

    /// The snapshot starts over with the next session: nothing is recorded of it any more.
    async fn outrun(&self, index: usize) -> Result<(), Error> {
        self.session.position.record(&[Update::Plan(None)]).await?;
        let table = self.tables.get(index).map(|table| table.published.relation.name.to_string());
        Err(Error::Outrun { table: table.unwrap_or_default() })
    }

    /// Asks for the stream's place, and waits until it has come there.
    async fn low(&mut self, table: u32) -> Result<(), Error> {
        self.number += 1;
        self.windows.want(self.number, table);
        self.reader.mark(&self.windows.low_marker(self.number)).await?;
        let (windows, number) = (Arc::clone(&self.windows), self.number);
        self.recording(windows.delivered(number)).await
    }

    /// Waits for something of the stream, and records meanwhile what is acknowledged. What is visible is asked for again and again, so
    /// that transactions need not be remembered for long.
    async fn recording<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, Error> {
        tokio::pin!(wanted);
        loop {
            tokio::select! {
                biased;
                value = &mut wanted => return Ok(value),
                () = tokio::time::sleep(chunk_record::INTERVAL) => {
                    self.record(false).await?;
                    let visible = self.reader.visible().await?;
                    self.windows.sees_all(&visible);
                }
            }
        }
    }

    async fn window(&mut self, index: usize, what: What) -> Result<(), Error> {
        let Some(oid) = self.tables.get(index).map(ReadTable::oid) else { return Ok(()) };
        let begun = Instant::now();
        self.low(oid).await?;
        let delivered = begun.elapsed();
        loop {
            match self.attempt(index, &what).await? {
                Attempt::Read => break,
                Attempt::Elsewise => return Ok(()),
                Attempt::Later => {
                    tokio::time::sleep(PAUSE).await;
                    self.record(false).await?;
                    let visible = self.reader.visible().await?;
                    self.windows.sees_all(&visible);
                }
            }
        }
        let read = begun.elapsed();
        let (windows, number) = (Arc::clone(&self.windows), self.number);
        let outcome = self.recording(windows.ended(number)).await?;
        tracing::debug!(table = oid, ?outcome, ?delivered, ?read, all = ?begun.elapsed(), "window");
        match outcome {
            Outcome::Published(commit) => self.published(index, &what, commit),
            Outcome::Void => {
                if let Some(table) = self.tables.get_mut(index) {
                    // The next window compares the columns with the catalog's, whatever has become of them.
                    table.layout = None;
                    table.void += 1;
                    if table.void.is_multiple_of(10) {
                        let (name, windows) = (&table.published.relation.name, table.void);
                        tracing::warn!(table = %name, windows, "rows are read again and again: too much changes meanwhile, or the stream describes other columns than the catalog");
                    }
                }
            }
            Outcome::Stopped => {}
        }
        Ok(())
    }

    /// Locks, takes the snapshot, and reads; on success the high marker is in the stream.
    async fn attempt(&mut self, index: usize, what: &What) -> Result<Attempt, Error> {
        let Some(table) = self.tables.get(index) else { return Ok(Attempt::Elsewise) };
        let published = Arc::clone(&table.published);
        let visible = match self.reader.begin(&published).await? {
            Begun::Reading(visible) => visible,
            Begun::Busy => return Ok(Attempt::Later),
            Begun::Gone => {
                self.give_up(
                    index,
                    "it was dropped or renamed, or may not be read any more, before all its rows were read",
                );
                return Ok(Attempt::Elsewise);
            }
        };
        if !self.windows.sees_all(&visible) {
            self.reader.cancel().await?;
            return Ok(Attempt::Later);
        }
        if !self.reader.is_called(published.relation.oid, &published.relation.name).await? {
            self.reader.cancel().await?;
            self.give_up(index, "it was renamed or replaced before all its rows were read");
            return Ok(Attempt::Elsewise);
        }
        if !self.is_as_known(index).await? {
            self.reader.cancel().await?;
            return Ok(if self.windows.is_open(published.relation.oid) { Attempt::Later } else { Attempt::Elsewise });
        }
        let Session { settings, client, tables: stopped, .. } = &*self.session;
        let format = copy_format(settings, client, &published.relation, stopped);
        let taken = match what {
            What::Places { leaf, places } => {
                let Some(leaf) = self.tables.get(index).and_then(|table| table.unread.leaves.get(*leaf)) else {
                    return Ok(Attempt::Elsewise);
                };
                let now = self.reader.leaf(published.relation.oid, leaf.oid).await?;
                if now.file != leaf.file {
                    self.reader.cancel().await?;
                    self.rewritten(index, what).await?;
                    return Ok(Attempt::Elsewise);
                }
                self.reader.range(&published, (&now.name, *places), format, LIMIT_BYTES).await?
            }
            What::Keys(owed) => {
                let keys: Vec<_> = owed.iter().map(|(_, texts)| texts).collect();
                self.reader.keys(&published, &keys, format, LIMIT_BYTES).await?
            }
        };
        let Taken::Rows(rows, bytes) = taken else {
            self.reader.cancel().await?;
            self.shrink(index, what);
            return Ok(Attempt::Elsewise);
        };
        self.fit(index, what, bytes);
        let asked =
            if let What::Keys(owed) = what { owed.iter().map(|(key, _)| key.clone()).collect() } else { Vec::new() };
        self.windows.read_rows(Rows { table: published, rows, visible, asked });
        self.reader.end(&self.windows.high_marker(self.number)).await?;
        Ok(Attempt::Read)
    }

    /// Whether the table has the columns that its rows are read by. If not, the catalog's word is taken, or the table is given up.
    async fn is_as_known(&mut self, index: usize) -> Result<bool, Error> {
        let Some(table) = self.tables.get_mut(index) else { return Ok(false) };
        let oid = table.oid();
        let layout = self.reader.layout(oid).await?;
        if table.layout.as_ref() == Some(&layout) {
            return Ok(true);
        }
        let Some(catalog) = self.reader.catalog(&self.session.settings.publication.name).await? else {
            return Ok(false);
        };
        match catalog.by_oid(oid).filter(|found| found.relation.name == table.published.relation.name) {
            Some(found) if !found.relation.key.is_empty() => {
                table.published = Arc::new(found.clone());
                table.layout = Some(layout);
                Ok(true)
            }
            _ => {
                self.give_up(index, "it left the publication, or lost its key, before all its rows were read");
                Ok(false)
            }
        }
    }

    /// A leaf that is another file is read from its begin, and one that is none of the table any more not at all.
    async fn rewritten(&mut self, index: usize, what: &What) -> Result<(), Error> {
        let What::Places { leaf, .. } = what else { return Ok(()) };
        if let Some(table) = self.tables.get(index) {
            tracing::info!(table = %table.published.relation.name, "the table was rewritten: reading it, or its part, from its begin");
        }
        self.read_anew(index, *leaf).await
    }

    async fn read_anew(&mut self, index: usize, leaf: usize) -> Result<(), Error> {
        let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
        let oid = table.oid();
        table.left.retain(|(of, _)| *of != leaf);
        let Some(unread) = table.unread.leaves.get_mut(leaf) else { return Ok(()) };
        let LeafNow { file, blocks, .. } = self.reader.leaf(oid, unread.oid).await?;
        unread.file = file;
        let oid = unread.oid;
        let is_of_leaf = |step: &Step| matches!(step, Step::Blocks { leaf, .. } if *leaf == oid);
        self.unrecorded.retain(|(_, of, step)| *of != index || !is_of_leaf(step));
        if let Some(chunks) = table.unread.chunks.leaf(unread.oid) {
            chunks.file = file;
            chunks.blocks = Some(blocks);
            chunks.done = Ranges::default();
        }
        if file.is_some() && blocks > 0 {
            table.left.push_back((leaf, Places::of_blocks((0, blocks))));
        }
        Ok(())
    }

    fn give_up(&self, index: usize, reason: &str) {
        let Some(table) = self.tables.get(index) else { return };
        let name = &table.published.relation.name;
        tracing::error!(table = %name, reason, "table stopped");
        self.session.health.stop_table(name.to_string(), reason);
        self.windows.stop(table.oid(), reason);
    }

    fn shrink(&mut self, index: usize, what: &What) {
        match what {
            What::Keys(_) => self.keys = (self.keys / 4).max(1),
            What::Places { .. } => {
                if let Some(table) = self.tables.get_mut(index) {
                    table.places = (table.places / 8).max(1);
                }
            }
        }
    }

    fn fit(&mut self, index: usize, what: &What, bytes: usize) {
        match what {
            What::Keys(_) if bytes > TARGET_BYTES => self.keys = (self.keys / 2).max(1),
            What::Keys(_) if bytes < TARGET_BYTES / 4 => self.keys = (self.keys * 2).min(KEYS.1),
            What::Keys(_) => {}
            What::Places { .. } => {
                let Some(table) = self.tables.get_mut(index) else { return };
                if bytes > TARGET_BYTES {
                    table.places = (table.places / 2).max(1);
                } else if bytes < TARGET_BYTES / 4 {
                    table.places = table.places.saturating_mul(4);
                }
            }
        }
    }

    fn published(&mut self, index: usize, what: &What, commit: Lsn) {
        let Some(table) = self.tables.get_mut(index) else { return };
        table.unread.chunks.windows = true;
        self.last = commit;
        if let What::Places { leaf, places } = what
            && let Some(unread) = table.unread.leaves.get(*leaf)
        {
            let oid = unread.oid;
            table.came(*leaf, places.to);
            // Places of one block come in their order, so a window that ends with a block ends it.
            let block = |place: u64| u32::try_from(place / Places::PER_BLOCK).unwrap_or(u32::MAX);
            let blocks = (block(places.from), block(places.to));
            self.unrecorded.push_back((commit, index, Step::Blocks { leaf: oid, blocks }));
        }
    }

    /// Records what is acknowledged by now, not more often than need be.
    async fn record(&mut self, at_once: bool) -> Result<(), Error> {
        // The waits are as long, and not exactly so.
        if !at_once && self.recorded.elapsed() < chunk_record::INTERVAL / 2 {
            return Ok(());
        }
        self.recorded = Instant::now();
        self.session.health.heard();
        let acknowledged = self.publisher.deliveries().tracker(|tracker| tracker.acknowledged());
        let mut changed = BTreeSet::new();
        while let Some((_, index, step)) = self.unrecorded.pop_front_if(|(commit, ..)| *commit < acknowledged) {
            let Some(chunks) = self.tables.get_mut(index).map(|table| &mut table.unread.chunks) else { continue };
            match step {
                Step::Blocks { leaf, blocks } => {
                    if let Some(leaf) = chunks.leaf(leaf) {
                        leaf.done.add(blocks);
                    }
                }
                Step::Whole => chunks.windows = false,
            }
            changed.insert(index);
        }
        let chunks = |index: &usize| {
            let table = self.tables.get(*index)?;
            Some(Update::Chunks { oid: table.oid(), chunks: table.unread.chunks.clone() })
        };
        let updates: Vec<_> = changed.iter().filter_map(chunks).collect();
        self.measure();
        self.session.position.record(&updates).await
    }

    fn figures(&self) -> Vec<(String, (u64, u64))> {
        let blocks = self.session.settings.snapshot_chunk_bytes / 8192;
        let of_table =
            |table: &ReadTable| (table.published.relation.name.to_string(), table.unread.chunks.figures(blocks));
        self.tables.iter().map(of_table).collect()
    }

    fn measure(&self) {
        for (name, (all, done)) in self.figures() {
            let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            self.session.metrics.snapshot_chunks(&name, number(all), number(done));
        }
    }

    fn tell(&mut self, message: &str) {
        self.told = Instant::now();
        let (mut of, mut chunks) = (0, 0);
        for (_, (all, done)) in self.figures() {
            of += all;
            chunks += done;
        }
        self.measure();
        let owed_bytes = self.windows.owed_bytes();
        tracing::info!(tables = self.tables.len(), chunks, of, owed_bytes, "{message}");
        self.session.health.set_phase(format!("streaming; snapshot: {chunks} of {of} chunks"));
    }
}

impl ReadTable {
    fn new(unread: Unread) -> Self {
        let of_leaf = |(index, leaf): (usize, &UnreadLeaf)| {
            leaf.missing.iter().map(move |blocks| (index, Places::of_blocks(*blocks))).collect::<Vec<_>>()
        };
        let left = unread.leaves.iter().enumerate().flat_map(of_leaf).collect();
        let published = Arc::new(unread.published.clone());
        Self { published, unread, layout: None, left, places: FIRST_BLOCKS * Places::PER_BLOCK, again: false, void: 0 }
    }

    fn oid(&self) -> u32 {
        self.relation().oid
    }

    fn relation(&self) -> &Relation {
        &self.published.relation
    }

    /// The next places to read. They end with a block, unless there is too much in one.
    fn next(&self) -> Option<(usize, Places)> {
        let (leaf, Places { from, to }) = *self.left.front()?;
        let block_ends = (from / Places::PER_BLOCK + 1) * Places::PER_BLOCK;
        let end = from.saturating_add(self.places);
        let end = if end <= block_ends { end } else { end / Places::PER_BLOCK * Places::PER_BLOCK };
        Some((leaf, Places { from, to: end.min(to) }))
    }

    /// A leaf is read up to there.
    fn came(&mut self, leaf: usize, to: u64) {
        if let Some((_, left)) = self.left.front_mut().filter(|(of, _)| *of == leaf) {
            left.from = left.from.max(to);
            if left.from >= left.to {
                self.left.pop_front();
            }
        }
    }
}
