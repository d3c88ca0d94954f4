//! The spool: messages of transactions that are in progress, until each commits or is rolled back.
//!
//! ```text
//! message ─► transaction: tail ─► blocks in memory ── over the bound ──► blocks in a file      open
//!                                                                            │
//! commit ──► stored transaction ──► entries, in their order ◄────────────────┘                 read once
//! ```
//!
//! The messages of a transaction are one stream of bytes ([`entry`]), cut into blocks of one size. Appending only touches
//! memory; [`Spool::settle`] moves what is beyond the bound into a file without a name ([`file`]), so nothing is left behind
//! however the process ends. All bookkeeping counts as memory, so that any number of open transactions is bounded too.
//!
//! Which messages count is known at the commit: those of subtransactions that were rolled back are passed over when they are read
//! (trap T38). A spool that is full of open transactions says so; waiting would be for ever (trap T80).

pub mod entry;
pub mod file;
pub mod problem;
mod stored;
#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;

use std::{
    cmp::Reverse,
    collections::HashMap,
    path::{Path, PathBuf},
};

use bytes::BytesMut;

use self::{entry::Entry, file::BlockFile, stored::Part};
pub use self::{problem::Problem, stored::Stored};

/// Where and how much a spool keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Bytes in memory, beyond which blocks go to the file.
    pub memory: usize,
    /// Bytes in the file.
    pub limit: u64,
    /// The folder of the file; `None`: see [`SpoolSettings::folder`].
    pub directory: Option<PathBuf>,
}

impl Default for SpoolSettings {
    fn default() -> Self {
        Self { memory: 16 << 20, limit: 4 << 30, directory: None }
    }
}

impl SpoolSettings {
    /// The folder that is configured; else `TMPDIR`, or `/var/tmp`, which is on a disk more often than `/tmp` is.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let large = Path::new("/var/tmp");
        match &self.directory {
            Some(directory) => directory.clone(),
            None if std::env::var_os("TMPDIR").is_none() && large.is_dir() => large.to_owned(),
            None => std::env::temp_dir(),
        }
    }

    /// Whether a spool can be kept there: makes a file and lets it go.
    pub fn probe(&self) -> Result<(), Problem> {
        BlockFile::create(&self.folder(), self.limit).map(drop)
    }
}

/// What a spool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Open transactions.
    pub transactions: usize,
    /// Bytes in memory, bookkeeping included.
    pub memory: usize,
    /// Bytes in the file.
    pub disk: u64,
}

/// Open transactions by their top-level transaction id.
#[derive(Debug)]
pub struct Spool {
    settings: SpoolSettings,
    open: HashMap<u32, Stored>,
    /// There once something was too much for the memory.
    file: Option<BlockFile>,
    /// Of all open transactions.
    memory: usize,
}

impl Spool {
    /// An empty spool; touches no disk.
    #[must_use]
    pub fn new(settings: SpoolSettings) -> Self {
        Self { settings, open: HashMap::new(), file: None, memory: 0 }
    }

    /// What it holds.
    #[must_use]
    pub fn held(&self) -> Held {
        let disk = self.file.as_ref().map_or(0, BlockFile::used);
        Held { transactions: self.open.len(), memory: self.memory, disk }
    }

    /// The ids of the open transactions.
    pub fn open(&self) -> impl Iterator<Item = u32> {
        self.open.keys().copied()
    }

    /// Whether the transaction is open.
    #[must_use]
    pub fn is_open(&self, xid: u32) -> bool {
        self.open.contains_key(&xid)
    }

    /// A transaction begins.
    pub fn begin(&mut self, xid: u32) {
        let stored = Stored::new(xid);
        self.memory += stored.memory();
        if let Some(before) = self.open.insert(xid, stored) {
            self.discard(before);
        }
    }

    /// A message of the open transaction `xid` or of one of its subtransactions; only into memory. `false` if there is no such
    /// transaction.
    #[must_use]
    pub fn append(&mut self, xid: u32, entry: Entry<'_>) -> bool {
        self.change(xid, |stored| stored.append(entry))
    }

    /// A subtransaction of the open transaction `xid` was rolled back. `false` if there is no such transaction.
    #[must_use]
    pub fn roll_back(&mut self, xid: u32, subxid: u32) -> bool {
        self.change(xid, |stored| stored.roll_back(subxid))
    }

    /// The transaction was rolled back as a whole.
    pub fn forget(&mut self, xid: u32) {
        if let Some(stored) = self.open.remove(&xid) {
            self.memory -= stored.memory();
            self.discard(stored);
        }
    }

    /// Takes a transaction that has committed, to read it.
    #[must_use]
    pub fn take(&mut self, xid: u32) -> Option<Stored> {
        let mut stored = self.open.remove(&xid)?;
        self.memory -= stored.memory();
        stored.seal();
        Some(stored)
    }

    /// Reads on in a transaction that was taken: appends to `buffer` until it holds so many bytes, or there are no more.
    pub fn read(&mut self, stored: &mut Stored, buffer: &mut BytesMut, bytes: usize) -> Result<(), Problem> {
        buffer.reserve(bytes.saturating_sub(buffer.len()).min(stored.len()));
        while buffer.len() < bytes {
            match (stored.next(), &mut self.file) {
                (None, _) => break,
                (Some(Part::Memory(bytes)), _) => buffer.extend_from_slice(&bytes),
                (Some(Part::Disk(place)), Some(file)) => {
                    file.read(place, buffer)?;
                    file.free(place.index);
                }
                (Some(Part::Disk(_)), None) => {
                    let folder = self.settings.folder();
                    return Err(Problem::Corrupt { folder, reason: "its file is gone" });
                }
            }
        }
        Ok(())
    }

    /// Whether there is more in memory than there may be.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.memory > self.settings.memory
    }

    /// Moves blocks into the file until half of the memory is free again: of the largest transactions, their oldest first. Blocks
    /// that are not full yet go only where nothing else is left.
    pub fn settle(&mut self) -> Result<(), Problem> {
        if !self.is_over() {
            return Ok(());
        }
        let mut largest: Vec<u32> = self.open().collect();
        largest.sort_by_key(|xid| Reverse(self.open.get(xid).map_or(0, Stored::memory)));
        for (whole, bound) in [(true, self.settings.memory / 2), (false, self.settings.memory)] {
            for xid in &largest {
                while self.memory > bound && self.spill(*xid, whole)? {}
            }
        }
        if self.is_over() {
            return Err(Problem::Full { folder: self.settings.folder(), bytes: self.held().disk, source: None });
        }
        Ok(())
    }

    /// Moves one block of a transaction into the file; `false` if it has none.
    fn spill(&mut self, xid: u32, whole: bool) -> Result<bool, Problem> {
        let Some(stored) = self.open.get_mut(&xid) else { return Ok(false) };
        let before = stored.memory();
        let Some(block) = stored.oldest(whole) else { return Ok(false) };
        let file = match &mut self.file {
            Some(file) => file,
            absent => absent.insert(BlockFile::create(&self.settings.folder(), self.settings.limit)?),
        };
        let index = file.write(block)?;
        stored.spilled(index);
        self.memory = self.memory - before + stored.memory();
        Ok(true)
    }

    fn change(&mut self, xid: u32, change: impl FnOnce(&mut Stored)) -> bool {
        let Some(stored) = self.open.get_mut(&xid) else { return false };
        let before = stored.memory();
        change(stored);
        self.memory = self.memory - before + stored.memory();
        true
    }

    fn discard(&mut self, mut stored: Stored) {
        while let Some(part) = stored.next() {
            if let (Part::Disk(place), Some(file)) = (part, &mut self.file) {
                file.free(place.index);
            }
        }
    }
}
