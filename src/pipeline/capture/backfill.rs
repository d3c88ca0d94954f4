//! Reads the rest of a snapshot, or the tables of a resync, beside the stream: window after window, as small as its rows are large.
//!
//! One task, one connection: the next window begins when the stream has published the one before, so at most one window's rows are in
//! memory. What is read is recorded once it is acknowledged. When every table is whole the snapshot is recorded as complete, or the
//! resync's end is put into the stream; only behind that may the flush LSN pass where it began.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Error, chunk_record,
    chunks::Ranges,
    goal::{Goal, Rest},
    publisher::Publisher,
    read_table::ReadTable,
    resync::{Came, end_marker},
    session::Session,
    standing,
    tuple_format::copy_format,
    windows::{Outcome, Rows, Windows},
};
use crate::{
    lsn::{Lsn, Position},
    retry::chain,
    schema::TableName,
    source::{
        self,
        publication::PublicationSpec,
        window::{Begun, KeyTexts, LeafNow, Places, Taken, WindowReader},
    },
};

/// Rows of one window, in bytes about.
const TARGET_BYTES: usize = 8 << 20;
/// With more it is given up for a smaller one.
const LIMIT_BYTES: usize = 32 << 20;
/// Keys of the first window, and of any.
const KEYS: (usize, usize) = (64, 1000);
/// How long to wait where a lock is held, or a transaction is not visible yet.
const PAUSE: Duration = Duration::from_millis(20);
/// For so long a window may wait before that is told.
const WAITS_LONG: Duration = Duration::from_secs(30);
/// How often it is told how far it has come.
const TELL: Duration = Duration::from_secs(5);

/// Reads what is left.
pub(super) struct Backfill {
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    windows: Arc<Windows>,
    tables: Vec<ReadTable>,
    goal: Goal,
    reader: WindowReader,
    number: u64,
    /// What came of a table and is not recorded: once everything up to this commit is acknowledged.
    unrecorded: VecDeque<(Lsn, usize, Step)>,
    /// Rows that are acknowledged and not recorded, by table.
    rows: BTreeMap<usize, u64>,
    /// The commit of the last window.
    last: Lsn,
    recorded: Instant,
    told: Instant,
    keys: usize,
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
    /// So many rows have come.
    Rows(u64),
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
    /// The tables of `rest` are open to the stream already.
    pub(super) fn new(session: &Arc<Session>, publisher: &Arc<Publisher>, reader: WindowReader, rest: Rest) -> Self {
        let Rest { unread, goal } = rest;
        let now = Instant::now();
        Self {
            session: Arc::clone(session),
            publisher: Arc::clone(publisher),
            windows: Arc::clone(&session.windows),
            tables: unread.into_iter().map(ReadTable::new).collect(),
            goal,
            reader,
            number: 0,
            unrecorded: VecDeque::new(),
            rows: BTreeMap::new(),
            last: Lsn::ZERO,
            recorded: now,
            told: now,
            keys: KEYS.0,
        }
    }

    /// Reads until every table is whole, and records that.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        self.goal.tell_begin(self.tables.len());
        self.tell();
        // Behind this marker the stream has told again which rows are owed from before.
        self.low(0).await?;
        for index in 0..self.tables.len() {
            self.table(index).await?;
        }
        while !self.unrecorded.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.record(true).await?;
        }
        let stopped = self.stopped();
        match &self.goal {
            Goal::Snapshot { planned, consistent_point } => {
                let snapshot = (&**planned, *consistent_point);
                Goal::finish_snapshot(&self.session, &self.publisher, snapshot, stopped).await?;
            }
            Goal::Resync { begin, .. } => self.end(*begin, stopped).await?,
        }
        self.windows.shut(self.tables.iter().map(ReadTable::oid));
        Ok(())
    }

    /// The tables whose rows will not come, and why.
    fn stopped(&self) -> Vec<(TableName, String)> {
        let name = |oid| self.tables.iter().find(|table| table.oid() == oid).map(|table| table.relation().name.clone());
        self.windows.stopped().into_iter().filter_map(|(oid, reason)| Some((name(oid)?, reason))).collect()
    }

    /// Puts the end of a resync into the stream, and waits until it has come there.
    async fn end(&mut self, begin: Position, stopped: Vec<(TableName, String)>) -> Result<(), Error> {
        for (table, reason) in stopped {
            self.session.leave(&table, begin..=begin, self.session.place(), &reason).await?;
        }
        for member in self.session.resyncs.unread(begin) {
            let (place, reason) = (self.session.place(), "not all of its rows were read");
            self.session.leave(&member.name, begin..=begin, place, reason).await?;
        }
        standing::look(&self.session, begin).await?;
        if self.session.resyncs.goes_on(begin) {
            self.reader.mark(&end_marker(&self.session.settings.slot, begin)).await?;
            let session = Arc::clone(&self.session);
            self.recording(session.resyncs.over(begin)).await?;
        }
        self.session.health.set_phase("streaming");
        Ok(())
    }

    async fn table(&mut self, index: usize) -> Result<(), Error> {
        loop {
            let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
            let oid = table.oid();
            let relation = Arc::clone(&table.published);
            self.unpaused(oid).await?;
            if !self.windows.is_open(oid) {
                return Ok(());
            }
            let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
            if self.windows.take_again(oid) {
                tracing::warn!(table = %table.published.relation.name, "too many rows changed meanwhile: reading the table from its begin");
                if std::mem::replace(&mut table.again, true) {
                    return self.goal.outrun(&self.session, &relation.relation).await;
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
                self.tell();
            }
        }
    }

    /// Reads some of the rows that a table owes, before there are too many.
    async fn settle_debts(&mut self, oid: u32) -> Result<(), Error> {
        let Some(index) = self.tables.iter().position(|table| table.oid() == oid) else { return Ok(()) };
        let owed = self.windows.owed(oid, self.keys);
        if owed.is_empty() { Ok(()) } else { self.window(index, What::Keys(owed)).await }
    }

    /// Waits while reading pauses, as long as the table is read at all.
    async fn unpaused(&mut self, oid: u32) -> Result<(), Error> {
        let Goal::Resync { .. } = self.goal else { return Ok(()) };
        while self.session.resyncs.is_paused() && self.windows.is_open(oid) {
            self.tell();
            let session = Arc::clone(&self.session);
            let _elapsed = self.recording(tokio::time::timeout(TELL, session.resyncs.unpaused())).await?;
        }
        Ok(())
    }

    /// Asks for the stream's place, and waits until it has come there.
    async fn low(&mut self, table: u32) -> Result<(), Error> {
        self.number = self.windows.want(table);
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
        let mut is_told = false;
        loop {
            let attempt = match self.attempt(index, &what).await {
                Err(error) if self.goal.gives_up_at(&error) => {
                    self.reader.cancel().await?;
                    self.give_up(index, &chain(&error)).await?;
                    Attempt::Elsewise
                }
                attempt => attempt?,
            };
            match attempt {
                Attempt::Read => break,
                Attempt::Elsewise => return Ok(()),
                Attempt::Later => {
                    if !is_told && begun.elapsed() > WAITS_LONG {
                        is_told = true;
                        let name = self.tables.get(index).map(|table| table.published.relation.name.to_string());
                        tracing::warn!(
                            table = name.as_deref(),
                            "reading rows waits: a statement has the table, or a transaction that may be committed is not visible yet (one that \
                             waits for a stand-by; where stand-bys are synchronous, any that was open when capture began, prepared ones too)"
                        );
                    }
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
            Outcome::Published(commit, rows) => self.published(index, &what, (commit, rows)),
            Outcome::Void => {
                if let Some(table) = self.tables.get_mut(index) {
                    // The next window compares the columns with the catalog's, whatever has become of them.
                    table.known_as = None;
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
        if !self.windows.is_open(table.oid()) {
            return Ok(Attempt::Elsewise);
        }
        let visible = match self.reader.begin(&published).await? {
            Begun::Reading(visible) => visible,
            Begun::Busy => return Ok(Attempt::Later),
            Begun::Gone => {
                let reason = "it was dropped or renamed, or may not be read any more, before all its rows were read";
                self.give_up(index, reason).await?;
                return Ok(Attempt::Elsewise);
            }
        };
        if !self.windows.sees_all(&visible) {
            self.reader.cancel().await?;
            return Ok(Attempt::Later);
        }
        if !self.reader.is_called(published.relation.oid, &published.relation.name).await? {
            self.reader.cancel().await?;
            self.give_up(index, "it was renamed or replaced before all its rows were read").await?;
            return Ok(Attempt::Elsewise);
        }
        if !self.is_as_known(index).await? {
            self.reader.cancel().await?;
            return Ok(if self.windows.is_open(published.relation.oid) { Attempt::Later } else { Attempt::Elsewise });
        }
        // As the catalog has it by now, whatever it was when the rows were asked for.
        let Some(table) = self.tables.get(index) else { return Ok(Attempt::Elsewise) };
        let published = Arc::clone(&table.published);
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
                let Some(condition) = self.goal.condition(&published.relation) else {
                    self.reader.cancel().await?;
                    self.give_up(index, "the columns that tell its rows are part of its key no longer").await?;
                    return Ok(Attempt::Elsewise);
                };
                let condition = (!condition.is_empty()).then_some(&*condition);
                self.reader.range(&published, (&now.name, *places, condition), format, LIMIT_BYTES).await?
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
        let resync = matches!(self.goal, Goal::Resync { .. });
        self.windows.read_rows(Rows { table: published, rows, visible, asked, resync });
        self.reader.end(&self.windows.high_marker(self.number)).await?;
        Ok(Attempt::Read)
    }

    /// Whether the table has the columns that its rows are read by, and the publication has it as it had. If not, the catalog's word is taken,
    /// or the table is given up.
    async fn is_as_known(&mut self, index: usize) -> Result<bool, Error> {
        let Some(table) = self.tables.get_mut(index) else { return Ok(false) };
        let oid = table.oid();
        let PublicationSpec { name: publication, keys, .. } = &self.session.settings.publication;
        let now = (self.reader.layout(oid).await?, self.reader.membership(publication, oid).await?);
        if table.known_as.as_ref() == Some(&now) {
            return Ok(true);
        }
        let Some(catalog) = self.reader.catalog(publication, keys).await? else {
            return Ok(false);
        };
        match catalog.by_oid(oid).filter(|found| found.relation.name == table.published.relation.name) {
            Some(found) if !found.relation.key.is_empty() => {
                table.published = Arc::new(found.clone());
                table.known_as = Some(now);
                Ok(true)
            }
            _ => {
                self.give_up(index, "it left the publication, or lost its key, before all its rows were read").await?;
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
        let LeafNow { file, blocks, .. } = loop {
            match self.reader.leaf(oid, unread.oid).await {
                Err(error) if is_locked(&error) => tokio::time::sleep(PAUSE).await,
                now => break now?,
            }
        };
        unread.file = file;
        let oid = unread.oid;
        let is_of_leaf = |step: &Step| matches!(step, Step::Blocks { leaf, .. } if *leaf == oid);
        self.unrecorded.retain(|(_, of, step)| *of != index || !is_of_leaf(step));
        if let Some(chunks) = table.unread.chunks.leaf(unread.oid) {
            chunks.file = file;
            // Of one that is none of the table's any more nothing is missing.
            chunks.blocks = Some(if file.is_some() { blocks } else { 0 });
            chunks.done = Ranges::default();
        }
        if file.is_some() && blocks > 0 {
            table.left.push_back((leaf, Places::of_blocks((0, blocks))));
        }
        Ok(())
    }

    async fn give_up(&self, index: usize, reason: &str) -> Result<(), Error> {
        let Some(table) = self.tables.get(index) else { return Ok(()) };
        self.goal.give_up(&self.session, table.relation(), reason).await
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

    fn published(&mut self, index: usize, what: &What, (commit, rows): (Lsn, u64)) {
        let Some(table) = self.tables.get_mut(index) else { return };
        table.unread.chunks.windows = true;
        self.last = commit;
        self.unrecorded.push_back((commit, index, Step::Rows(rows)));
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
                Step::Rows(rows) => *self.rows.entry(index).or_default() += rows,
                Step::Whole => chunks.windows = false,
            }
            changed.insert(index);
        }
        let chunks = |index: &usize| {
            let table = self.tables.get(*index)?;
            let rows = self.rows.get(index).copied().unwrap_or_default();
            Some(Came { oid: table.oid(), chunks: table.unread.chunks.clone(), rows })
        };
        let tables: Vec<_> = changed.iter().filter_map(chunks).collect();
        self.rows.clear();
        self.measure();
        self.goal.record(&self.session, tables).await
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

    fn tell(&mut self) {
        self.told = Instant::now();
        let figures = self.figures();
        let figures = figures.iter().fold((0, 0), |sum, (_, (all, done))| (sum.0 + done, sum.1 + all));
        self.measure();
        self.goal.tell(&self.session, figures, self.windows.owed_bytes());
    }
}

/// Whether a statement has the table for itself.
fn is_locked(error: &source::Error) -> bool {
    error.server_error().is_some_and(|error| error.is("55P03"))
}
