//! What is kept of one transaction: blocks in the file, then blocks in memory, then what is not a block yet.

use std::collections::VecDeque;

use super::{
    entry::Entry,
    file::{Block, CAPACITY, Place},
};
use crate::pgoutput::streamed::{Owner, owner};

/// What a transaction takes beside its messages: this, its place in the map, and what the allocator adds.
const OVERHEAD: usize = 512;

/// One transaction's messages.
#[derive(Debug)]
pub struct Stored {
    xid: u32,
    /// Where its first blocks are, in their order.
    on_disk: VecDeque<u32>,
    /// The blocks behind them; all are full.
    in_memory: VecDeque<Vec<u8>>,
    /// Behind all blocks.
    tail: Vec<u8>,
    /// Subtransactions that have messages, some more than once until it is sealed.
    subtransactions: Vec<u32>,
    /// Subtransactions that were rolled back.
    rolled_back: Vec<u32>,
    /// The number of the first block that is still there.
    first: u32,
    /// Bytes that are still there.
    len: usize,
}

/// A piece of a transaction.
pub(super) enum Part {
    Disk(Place),
    Memory(Vec<u8>),
}

impl Stored {
    pub(super) const fn new(xid: u32) -> Self {
        Self {
            xid,
            on_disk: VecDeque::new(),
            in_memory: VecDeque::new(),
            tail: Vec::new(),
            subtransactions: Vec::new(),
            rolled_back: Vec::new(),
            first: 0,
            len: 0,
        }
    }

    /// Bytes that it takes in memory.
    pub(super) fn memory(&self) -> usize {
        let blocks = self.in_memory.len() * CAPACITY + self.in_memory.capacity() * size_of::<Vec<u8>>();
        let ids = self.on_disk.capacity() + self.subtransactions.capacity() + self.rolled_back.capacity();
        OVERHEAD + blocks + ids * size_of::<u32>() + self.tail.capacity()
    }

    /// Bytes of its messages that are still to be read, or a little more.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn append(&mut self, entry: Entry<'_>) {
        if let Some(Owner::Transaction(xid)) = owner(entry.data)
            && xid != self.xid
            && self.subtransactions.last() != Some(&xid)
        {
            self.belongs_to(xid);
        }
        self.extend(&entry.header());
        self.extend(entry.data);
    }

    /// A message of a subtransaction; where they take turns, each of them would be noted again and again.
    fn belongs_to(&mut self, subxid: u32) {
        if self.subtransactions.len() == self.subtransactions.capacity() {
            self.subtransactions.sort_unstable();
            self.subtransactions.dedup();
            self.subtransactions.reserve(self.subtransactions.len());
        }
        self.subtransactions.push(subxid);
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            // A transaction that has filled a block is a large one.
            if self.tail.capacity() == 0 && self.blocks() > 0 {
                self.tail.reserve_exact(CAPACITY);
            }
            let (now, later) = bytes.split_at(bytes.len().min(CAPACITY - self.tail.len()));
            self.tail.extend_from_slice(now);
            bytes = later;
            if self.tail.len() == CAPACITY {
                let mut block = std::mem::take(&mut self.tail);
                block.shrink_to_fit();
                self.in_memory.push_back(block);
            }
        }
    }

    pub(super) fn roll_back(&mut self, subxid: u32) {
        self.rolled_back.push(subxid);
    }

    /// Nothing is added any more.
    pub(super) fn seal(&mut self) {
        self.rolled_back.sort_unstable();
        self.subtransactions.sort_unstable();
        self.subtransactions.dedup();
    }

    /// The subtransactions that have messages and of which nobody has said that they were rolled back. Only of a transaction that
    /// was taken.
    #[must_use]
    pub fn untold(&self) -> Vec<u32> {
        self.subtransactions.iter().copied().filter(|subxid| !self.is_rolled_back(*subxid)).collect()
    }

    /// These were rolled back too.
    pub fn roll_back_too(&mut self, subxids: &[u32]) {
        self.rolled_back.extend_from_slice(subxids);
        self.rolled_back.sort_unstable();
    }

    /// Whether the messages of this subtransaction do not count. Only of a transaction that was taken.
    #[must_use]
    pub fn is_rolled_back(&self, subxid: u32) -> bool {
        self.rolled_back.binary_search(&subxid).is_ok()
    }

    /// The oldest block in memory; if it need not be whole, else also what is not a block yet.
    pub(super) fn oldest(&self, whole: bool) -> Option<Block<'_>> {
        let tail = Some(&self.tail).filter(|tail| !whole && !tail.is_empty());
        let bytes = self.in_memory.front().or(tail)?;
        let number = self.first.wrapping_add(u32::try_from(self.on_disk.len()).unwrap_or(u32::MAX));
        Some(Block { xid: self.xid, number, bytes })
    }

    /// The oldest block in memory is in the file now.
    pub(super) fn spilled(&mut self, index: u32) {
        self.on_disk.push_back(index);
        if self.in_memory.pop_front().is_none() {
            self.tail = Vec::new();
        }
        if self.in_memory.is_empty() {
            self.in_memory.shrink_to_fit();
        }
    }

    /// Takes the next piece.
    pub(super) fn next(&mut self) -> Option<Part> {
        if let Some(index) = self.on_disk.pop_front() {
            let place = Place { index, xid: self.xid, number: self.first };
            self.first = self.first.wrapping_add(1);
            self.len = self.len.saturating_sub(CAPACITY);
            return Some(Part::Disk(place));
        }
        let bytes = self.in_memory.pop_front().unwrap_or_else(|| std::mem::take(&mut self.tail));
        self.len = self.len.saturating_sub(bytes.len());
        Some(Part::Memory(bytes)).filter(|part| !matches!(part, Part::Memory(bytes) if bytes.is_empty()))
    }

    fn blocks(&self) -> usize {
        self.on_disk.len() + self.in_memory.len()
    }
}
