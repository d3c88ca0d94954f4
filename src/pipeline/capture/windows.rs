//! What the stream and who reads rows beside it know of each other: markers, changes between them, rows that are owed.
//!
//! ```text
//! stream:   … changes … low(n) … changes, noted … high(n): rows of the window, brought up to here … changes …
//! beside:               └─► lock, snapshot, rows ─► high(n)
//! ```
//!
//! The rows of a window are those of its snapshot. The stream publishes them at the high marker, so they must be as of there: what a
//! change between the markers did that the snapshot does not show is done to them first. A change that has the whole row, or deletes it,
//! leaves nothing to publish, since the stream has said it all; one that lacks columns changes the others.
//!
//! A row may move from blocks that are still to be read into others by a change that lacks columns, before any window. So the key of each
//! such change of a table that is not whole yet is *owed*: its row is read by the key, in a window of its own, unless a whole one came
//! first. Once every block is read nothing else becomes owed: each row is published, or its key is owed already. The keys are not recorded: nothing is confirmed to the server before all are read, so the stream tells them again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{
    event::{Datum, Tuple},
    lsn::Lsn,
    record::{ChangedRow, PartialRow},
    source::{catalog::PublishedTable, visible::Visible, window::KeyTexts},
};

/// Changes between two markers that are kept, in bytes about; with more the window is read again.
const NOTED_BYTES: usize = 64 << 20;
/// Owed keys of all tables, in bytes about; with more a table is read again as a whole instead.
const OWED_BYTES: usize = 64 << 20;
/// What an owed key or a noted change takes beside its bytes.
const OVERHEAD: usize = 128;
/// Delivered transactions that are remembered before it is asked whether they are visible.
const MOST_DELIVERED: usize = 100_000;

/// Tells the markers of one run from those of others, and windows from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    Low(u64),
    High(u64),
}

/// What became of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// So many of its rows are on their way, in the transaction that commits here.
    Published(Lsn, u64),
    /// They are not: there were too many changes, or the table is another by now.
    Void,
    /// Nothing more of the table is published.
    Stopped,
}

/// What became of a row of a window.
pub(super) enum Fate {
    /// It is on its way.
    Published,
    /// It cannot be published, and is left out.
    LeftOut,
    /// It is not published, nor is anything more of its table.
    Stopped,
}

/// The rows of a window, as its snapshot has them.
pub(super) struct Rows {
    pub(super) table: Arc<PublishedTable>,
    pub(super) rows: Vec<Tuple>,
    pub(super) visible: Visible,
    /// The keys that were asked for, where it was by key.
    pub(super) asked: Vec<Vec<u8>>,
    /// They are read for a resync: a table that cannot go on with them leaves that, and does not stop.
    pub(super) resync: bool,
}

/// A row as it is at the high marker, under its key.
pub(super) type Row = (Vec<u8>, Tuple);

/// What a window has at its high marker.
pub(super) struct BroughtUp {
    pub(super) rows: Vec<Row>,
    /// Keys that were asked for and have no row any more.
    pub(super) gone: Vec<Vec<u8>>,
}

/// A window at its high marker.
pub(super) struct Closed {
    pub(super) number: u64,
    pub(super) rows: Rows,
    /// `None`: there were too many.
    changes: Option<Vec<Noted>>,
}

/// A change between the markers.
struct Noted {
    xid: u32,
    change: ChangedRow,
}

/// A window between its markers.
struct Window {
    number: u64,
    table: u32,
    /// Transactions that the stream had delivered at the low marker, and that nobody may have seen yet.
    before: Vec<u32>,
    /// `None`: there were too many.
    changes: Option<Vec<Noted>>,
    bytes: usize,
}

#[derive(Default)]
struct Table {
    /// Keys whose rows are to be read.
    owed: HashMap<Vec<u8>, KeyTexts>,
    /// Every row is published or owed: a change makes no other one owed.
    read: bool,
    /// There were too many: all rows are to be read.
    again: bool,
    /// All rows are published, or never will be.
    through: bool,
    /// Why never.
    stopped: Option<String>,
}

#[derive(Default)]
struct Inner {
    tables: BTreeMap<u32, Table>,
    owed_bytes: usize,
    /// What was visible when that was asked last.
    visible: Visible,
    /// Transactions that the stream has delivered, and that were not visible then. Remembered also while nothing is read: one that others
    /// see late must be known when reading begins.
    delivered: Vec<u32>,
    /// Above so many it is asked what is visible.
    most: usize,
    /// The window that is asked for, with its table.
    wanted: (u64, u32),
    window: Option<Window>,
    rows: Option<Rows>,
    /// The last low marker that was delivered.
    low: u64,
    /// The commit that it came with.
    low_at: Lsn,
    closed: BTreeMap<u64, Outcome>,
}

/// The windows of one session.
pub(super) struct Windows {
    run: String,
    /// Whether rows of any table are to come: without one, a change costs no more than this.
    any: AtomicBool,
    /// The number of the last window that was asked for.
    number: AtomicU64,
    /// The commit of the transaction at hand.
    at: AtomicU64,
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Windows {
    /// Those of a session, with a name that no other one has. An earlier session may have delivered the transactions that are `unseen` yet.
    pub(super) fn of_session(unseen: Vec<u32>) -> Self {
        let windows = Self::new(format!("{:016x}", RandomState::new().hash_one(0)));
        windows.lock().delivered = unseen;
        windows
    }

    /// No table is open yet. `run` is unlike that of any other process.
    fn new(run: String) -> Self {
        Self {
            run,
            any: AtomicBool::new(false),
            number: AtomicU64::new(0),
            at: AtomicU64::new(0),
            inner: Mutex::new(Inner { most: MOST_DELIVERED, ..Inner::default() }),
            changed: Notify::new(),
        }
    }

    /// Rows of these tables are to be read, by OID. What is known of one that is open stays.
    pub(super) fn open(&self, tables: impl Iterator<Item = u32>) {
        let mut inner = self.lock();
        for oid in tables {
            inner.tables.entry(oid).or_default();
        }
        self.any.store(!inner.tables.is_empty(), Ordering::Release);
    }

    /// Nothing more of these tables is read.
    pub(super) fn shut(&self, tables: impl Iterator<Item = u32>) {
        let mut inner = self.lock();
        for oid in tables {
            let Some(table) = inner.tables.remove(&oid) else { continue };
            inner.owed_bytes = inner.owed_bytes.saturating_sub(table.owed_bytes());
        }
        self.any.store(!inner.tables.is_empty(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of the low marker of a window.
    pub(super) fn low_marker(&self, number: u64) -> String {
        format!("{}:{number}:low", self.run)
    }

    /// The content of its high marker.
    pub(super) fn high_marker(&self, number: u64) -> String {
        format!("{}:{number}:high", self.run)
    }

    fn read(&self, content: &[u8]) -> Option<Marker> {
        let (number, end) =
            std::str::from_utf8(content).ok()?.strip_prefix(&self.run)?.strip_prefix(':')?.split_once(':')?;
        let number = number.parse().ok()?;
        match end {
            "low" => Some(Marker::Low(number)),
            "high" => Some(Marker::High(number)),
            _ => None,
        }
    }

    // The stream's side.

    /// Whether rows of the table are still to come.
    pub(super) fn is_open(&self, table: u32) -> bool {
        self.any.load(Ordering::Acquire) && self.lock().tables.get(&table).is_some_and(|table| !table.through)
    }

    /// The stream has come to a transaction that commits here.
    pub(super) fn begun(&self, commit: Lsn) {
        self.at.store(commit.0, Ordering::Release);
    }

    /// The commit of the transaction that the stream has come to.
    pub(super) fn at(&self) -> Lsn {
        Lsn(self.at.load(Ordering::Acquire))
    }

    /// A change of an open table, in the transaction with this id.
    pub(super) fn change(&self, table: u32, xid: u32, change: ChangedRow) {
        let mut inner = self.lock();
        inner.owe(table, &change);
        let Some(window) = inner.window.as_mut().filter(|window| window.table == table) else { return };
        window.bytes += weight(&change);
        if window.bytes > NOTED_BYTES {
            window.changes = None;
        }
        if let Some(changes) = &mut window.changes {
            changes.push(Noted { xid, change });
        }
    }

    /// The stream has delivered a transaction. `true`: it is time to ask what is visible.
    pub(super) fn committed(&self, xid: u32) -> bool {
        let mut inner = self.lock();
        if !inner.visible.sees(xid) {
            inner.delivered.push(xid);
        }
        inner.delivered.len() > inner.most
    }

    /// The stream has come to a marker. Gives a window whose rows are due.
    pub(super) fn marker(&self, content: &[u8]) -> Option<Closed> {
        let marker = self.read(content)?;
        let mut inner = self.lock();
        match marker {
            Marker::Low(number) => {
                let before = inner.delivered.clone();
                let table = if inner.wanted.0 == number { inner.wanted.1 } else { 0 };
                inner.window = Some(Window { number, table, before, changes: Some(Vec::new()), bytes: 0 });
                inner.low = number;
                inner.low_at = self.at();
                drop(inner);
                self.changed.notify_waiters();
                None
            }
            Marker::High(number) => {
                let window = inner.window.take().filter(|window| window.number == number)?;
                Some(Closed { number, rows: inner.rows.take()?, changes: window.changes })
            }
        }
    }

    /// The rows with these keys are published: they are owed no longer.
    pub(super) fn paid<'a>(&self, table: u32, keys: impl Iterator<Item = &'a [u8]>) {
        let mut inner = self.lock();
        for key in keys {
            inner.pay(table, key);
        }
    }

    /// A window has ended.
    pub(super) fn end(&self, number: u64, outcome: Outcome) {
        self.lock().closed.insert(number, outcome);
        self.changed.notify_waiters();
    }

    /// Nothing more of a table is published, and rows of it are missing.
    pub(super) fn stop(&self, table: u32, reason: &str) {
        let mut inner = self.lock();
        let Some(table) = inner.tables.get_mut(&table).filter(|table| !table.through) else { return };
        let weight = table.owed_bytes();
        table.owed.clear();
        table.through = true;
        table.stopped = Some(reason.to_owned());
        inner.owed_bytes = inner.owed_bytes.saturating_sub(weight);
    }

    // The side of who reads.

    /// A window of a table is about to be asked for; gives its number.
    pub(super) fn want(&self, table: u32) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().wanted = (number, table);
        number
    }

    /// Waits until the stream has delivered the low marker.
    pub(super) async fn delivered(&self, number: u64) {
        self.until(|inner| (inner.low >= number).then_some(())).await;
    }

    /// The commit of the last low marker that was delivered.
    pub(super) fn low_at(&self) -> Lsn {
        self.lock().low_at
    }

    /// Something else is visible by now; whether that is everything that the stream had delivered at the low marker.
    pub(super) fn sees_all(&self, visible: &Visible) -> bool {
        let mut inner = self.lock();
        inner.delivered.retain(|xid| !visible.sees(*xid));
        inner.most = MOST_DELIVERED.max(2 * inner.delivered.len());
        inner.visible = visible.clone();
        inner.window.as_ref().is_none_or(|window| window.before.iter().all(|xid| visible.sees(*xid)))
    }

    /// The rows that the stream is to publish at the high marker.
    pub(super) fn read_rows(&self, rows: Rows) {
        self.lock().rows = Some(rows);
    }

    /// Waits for the end of a window.
    pub(super) async fn ended(&self, number: u64) -> Outcome {
        self.until(|inner| inner.closed.remove(&number)).await
    }

    /// Nothing is left of a table but rows that are owed: behind the last window, and a marker of this session, no other row is missing.
    pub(super) fn all_read(&self, table: u32) {
        let mut inner = self.lock();
        if let Some(table) = inner.tables.get_mut(&table).filter(|table| !table.again) {
            table.read = true;
        }
    }

    /// Some keys of a table whose rows are owed.
    pub(super) fn owed(&self, table: u32, most: usize) -> Vec<(Vec<u8>, KeyTexts)> {
        let inner = self.lock();
        let Some(table) = inner.tables.get(&table) else { return Vec::new() };
        table.owed.iter().take(most).map(|(key, texts)| (key.clone(), texts.clone())).collect()
    }

    /// Bytes of all owed keys, about.
    pub(super) fn owed_bytes(&self) -> usize {
        self.lock().owed_bytes
    }

    /// Whether all rows of a table are to be read again, since too many were owed; once.
    pub(super) fn take_again(&self, table: u32) -> bool {
        self.lock().tables.get_mut(&table).is_some_and(|table| std::mem::take(&mut table.again))
    }

    /// All rows of a table are read: it is whole if none is owed. Gives the commit that has to be acknowledged for that to hold: a
    /// row may have come by any event so far.
    pub(super) fn close(&self, table: u32) -> Option<Lsn> {
        let mut inner = self.lock();
        let at = self.at();
        let Some(table) = inner.tables.get_mut(&table) else { return Some(at) };
        table.through |= table.owed.is_empty() && !table.again;
        table.through.then_some(at)
    }

    /// The table that owes most, once there is much.
    pub(super) fn indebted(&self) -> Option<u32> {
        let inner = self.lock();
        let most =
            inner.tables.iter().filter(|(_, table)| !table.owed.is_empty()).max_by_key(|(_, table)| table.owed.len());
        most.filter(|_| inner.owed_bytes > OWED_BYTES / 2).map(|(oid, _)| *oid)
    }

    /// The tables of which rows are missing for good, with the reasons.
    pub(super) fn stopped(&self) -> Vec<(u32, String)> {
        let inner = self.lock();
        inner.tables.iter().filter_map(|(oid, table)| Some((*oid, table.stopped.clone()?))).collect()
    }

    async fn until<T>(&self, mut ready: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.lock()) {
                return value;
            }
            changed.await;
        }
    }
}

impl Table {
    fn owed_bytes(&self) -> usize {
        self.owed.iter().map(|(key, texts)| owed_weight(key, texts)).sum()
    }
}

impl Inner {
    fn owe(&mut self, table: u32, change: &ChangedRow) {
        let moved = change.gone.as_ref().is_some_and(|gone| self.pay(table, gone));
        match (&change.key, &change.partial) {
            (Some(key), None) => {
                self.pay(table, key);
            }
            (Some(key), Some(partial)) => {
                let Some(owing) = self.tables.get_mut(&table).filter(|table| !table.through) else { return };
                if owing.read && !moved && !owing.owed.contains_key(key) {
                    return;
                }
                let weight = owed_weight(key, &partial.key);
                if owing.owed.insert(key.clone(), partial.key.clone()).is_none() {
                    self.owed_bytes += weight;
                }
                if self.owed_bytes > OWED_BYTES {
                    self.read_again();
                }
            }
            (None, _) => {}
        }
    }

    /// The table that owes most is read again as a whole.
    fn read_again(&mut self) {
        let Some(most) = self.tables.values_mut().max_by_key(|table| table.owed.len()) else { return };
        self.owed_bytes -= most.owed_bytes().min(self.owed_bytes);
        most.owed.clear();
        most.read = false;
        most.again = true;
    }

    /// Whether it was owed.
    fn pay(&mut self, table: u32, key: &[u8]) -> bool {
        let paid = self.tables.get_mut(&table).and_then(|table| table.owed.remove_entry(key));
        if let Some((key, texts)) = &paid {
            self.owed_bytes -= owed_weight(key, texts).min(self.owed_bytes);
        }
        paid.is_some()
    }
}

fn owed_weight(key: &[u8], texts: &KeyTexts) -> usize {
    OVERHEAD + key.len() + texts.iter().map(String::len).sum::<usize>()
}

fn weight(change: &ChangedRow) -> usize {
    let key = |key: &Option<Vec<u8>>| key.as_ref().map_or(0, Vec::len);
    let datum = |datum: &Datum| {
        let bytes = if let Datum::Text(bytes) | Datum::Binary(bytes) = datum { bytes.len() } else { 0 };
        size_of::<Datum>() + bytes
    };
    let partial = |partial: &PartialRow| partial.row.iter().map(datum).sum::<usize>();
    OVERHEAD + key(&change.gone) + key(&change.key) + change.partial.as_ref().map_or(0, partial)
}

impl Closed {
    /// Whether each of the snapshot's rows has a key of its own.
    pub(super) fn are_told_apart(keys: &[Vec<u8>]) -> bool {
        keys.iter().collect::<BTreeSet<_>>().len() == keys.len()
    }

    /// The rows as they are at the high marker; `None` if that is not known. `keys` are those of the snapshot's rows.
    pub(super) fn bring_up(self, keys: Vec<Vec<u8>>) -> Option<BroughtUp> {
        let Rows { rows, visible, asked, .. } = self.rows;
        let mut unknown = BTreeSet::new();
        let mut places: HashMap<Vec<u8>, usize> = keys.into_iter().zip(0..).collect();
        let mut rows: Vec<Option<Tuple>> = rows.into_iter().map(Some).collect();
        for Noted { change, .. } in self.changes?.into_iter().filter(|noted| !visible.sees(noted.xid)) {
            let moved = change.gone.as_ref().and_then(|gone| places.remove(gone));
            let stays = change.key.as_ref().and_then(|key| places.remove(key));
            // A delete half has no other row under its new key.
            let Some(place) = moved.or(stays) else {
                // It may have come under a key that was asked for behind the snapshot.
                unknown.extend(change.partial.and(change.key));
                continue;
            };
            match (change.key, change.partial) {
                (Some(key), Some(partial)) => {
                    if let Some(row) = rows.get_mut(place).and_then(Option::as_mut) {
                        partial.change(row);
                    }
                    places.insert(key, place);
                }
                _ => drop(rows.get_mut(place).and_then(Option::take)),
            }
        }
        let mut left: Vec<_> = places.into_iter().collect();
        left.sort_unstable_by_key(|(_, place)| *place);
        let row = |(key, place): (Vec<u8>, usize)| Some((key, rows.get_mut(place)?.take()?));
        let rows: Vec<Row> = left.into_iter().filter_map(row).collect();
        let found: BTreeSet<&Vec<u8>> = rows.iter().map(|(key, _)| key).collect();
        let gone = asked.into_iter().filter(|key| !found.contains(key) && !unknown.contains(key)).collect();
        Some(BroughtUp { rows, gone })
    }
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
