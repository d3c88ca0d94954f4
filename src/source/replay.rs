//! A transaction that was sent in progress, as it would have come at its commit: Begin, its messages without those of
//! subtransactions that were rolled back, Commit (trap T38).
//!
//! One that has no event left is told as the server's version would: not at all from 15 on, but that its WAL is passed.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{
    announced::Announced,
    item::StreamItem,
    spool::{
        Problem, Spool, Stored,
        entry::{self, Kept},
    },
};
use crate::{
    lsn::Lsn,
    pgoutput::{
        self, Message, message,
        streamed::{Owner, described, owner},
    },
};

/// What a Stream Commit tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Transaction id.
    pub xid: u32,
    /// Where the transaction's first block began.
    pub first: Lsn,
    /// The message's place in the WAL.
    pub wal_start: Lsn,
    /// Of the commit record.
    pub commit_lsn: Lsn,
    /// Behind it.
    pub end_lsn: Lsn,
    /// Commit time.
    pub commit_us: i64,
}

/// What comes next of a transaction.
#[derive(Debug)]
pub enum Step {
    /// An item and its weight.
    Item(StreamItem, usize),
    /// So many bytes must be in the buffer to go on.
    Hungry(usize),
    /// That was all.
    Done,
}

/// A transaction that is read from the spool.
#[derive(Debug)]
pub struct Replay {
    stored: Stored,
    buffer: BytesMut,
    committed: Committed,
    /// Begin, and what else is in front of the first event; `None` once that has come.
    held: Option<Vec<(StreamItem, usize)>>,
    ready: VecDeque<(StreamItem, usize)>,
    tells_empty: bool,
    /// All bytes are in the buffer.
    exhausted: bool,
    done: bool,
}

impl Replay {
    /// `tells_empty`: whether a transaction without events is told.
    #[must_use]
    pub fn new(stored: Stored, committed: Committed, tells_empty: bool) -> Self {
        let Committed { xid, commit_lsn, commit_us, first, .. } = committed;
        let begin = Message::Begin { final_lsn: commit_lsn, commit_us, xid };
        let begin = StreamItem::Message { wal_start: first, message: begin };
        let weight = begin.weight(0);
        Self {
            stored,
            buffer: BytesMut::new(),
            committed,
            held: Some(vec![(begin, weight)]),
            ready: VecDeque::new(),
            tells_empty,
            exhausted: false,
            done: false,
        }
    }

    /// The transaction's id.
    #[must_use]
    pub const fn xid(&self) -> u32 {
        self.committed.xid
    }

    /// Its subtransactions that are only known to have begun.
    #[must_use]
    pub fn untold(&self) -> Vec<u32> {
        self.stored.untold()
    }

    /// These of them were rolled back.
    pub fn roll_back(&mut self, subxids: &[u32]) {
        self.stored.roll_back_too(subxids);
    }

    /// Reads until so many bytes are there, or all.
    pub fn feed(&mut self, spool: &mut Spool, bytes: usize) -> Result<(), Problem> {
        spool.read(&mut self.stored, &mut self.buffer, bytes)?;
        self.exhausted = self.buffer.len() < bytes;
        Ok(())
    }

    /// What comes next.
    pub fn step(&mut self, announced: &mut Announced) -> Result<Step, pgoutput::Error> {
        loop {
            if let Some((item, weight)) = self.ready.pop_front() {
                return Ok(Step::Item(item, weight));
            }
            if self.done {
                return Ok(Step::Done);
            }
            match entry::take(&mut self.buffer) {
                Some(kept) => self.take(kept, announced)?,
                None if !self.exhausted => {
                    return Ok(Step::Hungry(entry::size(&self.buffer).unwrap_or(self.buffer.len() + 1)));
                }
                None if self.buffer.is_empty() => self.end(announced),
                None => return Err(pgoutput::Error::OutOfPlace("end of a transaction in progress")),
            }
        }
    }

    fn take(&mut self, kept: Kept, announced: &mut Announced) -> Result<(), pgoutput::Error> {
        let Kept { wal_start, arrival, data } = kept;
        if matches!(owner(&data), Some(Owner::Transaction(xid)) if self.stored.is_rolled_back(xid)) {
            return Ok(());
        }
        let (key, bytes) = (described(&data, true), data.len());
        let message = message::parse(data, true)?;
        let is_event = !matches!(message, Message::Relation(_) | Message::Type(_) | Message::Origin { .. });
        let item = StreamItem::Message { wal_start, message };
        if let Some(key) = key {
            announced.told_late(key, arrival, &item);
        }
        let weight = item.weight(bytes);
        match &mut self.held {
            Some(held) if !is_event => held.push((item, weight)),
            _ => {
                self.begin(announced);
                self.ready.push_back((item, weight));
            }
        }
        Ok(())
    }

    fn begin(&mut self, announced: &mut Announced) {
        let Some(held) = self.held.take() else { return };
        let mut held = held.into_iter();
        self.ready.extend(held.next());
        self.ready.extend(announced.take_due().into_iter().map(|item| {
            let weight = item.weight(0);
            (item, weight)
        }));
        self.ready.extend(held);
    }

    fn end(&mut self, announced: &mut Announced) {
        let Committed { wal_start, commit_lsn, end_lsn, commit_us, .. } = self.committed;
        if self.tells_empty {
            self.begin(announced);
        }
        let last = match self.held {
            Some(_) => StreamItem::Keepalive { wal_end: end_lsn },
            None => StreamItem::Message { wal_start, message: Message::Commit { commit_lsn, end_lsn, commit_us } },
        };
        let weight = last.weight(0);
        self.ready.push_back((last, weight));
        announced.end();
        self.done = true;
    }
}
