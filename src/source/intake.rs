//! What becomes of each message of the stream: it is delivered, or kept in the spool until its transaction commits.
//!
//! ```text
//!   Begin … Commit ───────────────────────────────────────────► delivered as they come
//!   Stream Start … Stream Stop ──► spool ── Stream Commit ─────► replay
//!                                    └───── Stream Abort: of a subtransaction noted, of all of it forgotten
//! ```

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    announced::Announced,
    item::StreamItem,
    replay::{Committed, Replay},
    spool::{Held, Problem, Spool, entry::Entry},
};
use crate::{
    lsn::Lsn,
    pgoutput::{
        self, Message, Parser,
        streamed::{described, owner},
    },
};

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    /// It is delivered.
    Deliver(StreamItem),
    /// It is in the spool, or was for the spool.
    Kept,
    /// A transaction of the spool has committed.
    Committed(Box<Replay>),
}

/// Follows the messages of one connection.
#[derive(Debug)]
pub struct Intake {
    parser: Parser,
    /// `None` where none is wanted, and while it is lent.
    spool: Option<Spool>,
    /// Top-level transaction of the block that the stream is in.
    block: Option<u32>,
    /// Where the first block of each open transaction began.
    first: HashMap<u32, Lsn>,
    announced: Announced,
    /// Number of the next message.
    arrival: u64,
    /// See [`Replay::new`].
    tells_empty: bool,
}

impl Intake {
    /// Without a spool all messages are delivered. `tells_empty`: whether the server tells of transactions without events.
    #[must_use]
    pub fn new(spool: Option<Spool>, tells_empty: bool) -> Self {
        Self {
            parser: Parser::new(),
            spool,
            block: None,
            first: HashMap::new(),
            announced: Announced::default(),
            arrival: 0,
            tells_empty,
        }
    }

    /// Takes a message of the plug-in.
    pub fn take(&mut self, wal_start: Lsn, data: Bytes) -> Result<Taken, pgoutput::Error> {
        self.arrival += 1;
        let Some(spool) = &mut self.spool else {
            return Ok(match self.parser.parse(data)? {
                // Some servers tell of transactions that they have not sent, also who did not ask for them (18.0 to 18.3).
                Message::StreamAbort { .. } => Taken::Kept,
                message => Taken::Deliver(StreamItem::Message { wal_start, message }),
            });
        };
        if let Some(xid) = self.block
            && owner(&data).is_some()
        {
            let entry = Entry { wal_start, arrival: self.arrival, data: &data };
            return if spool.append(xid, entry) { Ok(Taken::Kept) } else { Err(out_of_place("a message in a block")) };
        }
        let key = described(&data, false).filter(|_| !self.first.is_empty());
        let message = self.parser.parse(data)?;
        match message {
            Message::StreamStart { xid, first } => self.start(xid, first, wal_start),
            Message::StreamStop => {
                self.block = None;
                Ok(Taken::Kept)
            }
            Message::StreamAbort { xid, subxid, .. } => {
                self.roll_back(xid, subxid);
                Ok(Taken::Kept)
            }
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_us } => {
                let first = self.first.remove(&xid).unwrap_or(wal_start);
                let stored = spool.take(xid).ok_or(out_of_place("stream commit"))?;
                let committed = Committed { xid, first, wal_start, commit_lsn, end_lsn, commit_us };
                Ok(Taken::Committed(Box::new(Replay::new(stored, committed, self.tells_empty))))
            }
            message => {
                let item = StreamItem::Message { wal_start, message };
                if let Some(key) = key {
                    self.announced.told(key, self.arrival, &item);
                }
                Ok(Taken::Deliver(item))
            }
        }
    }

    fn start(&mut self, xid: u32, first: bool, wal_start: Lsn) -> Result<Taken, pgoutput::Error> {
        let Some(spool) = &mut self.spool else { return Err(out_of_place("stream start")) };
        if first {
            spool.begin(xid);
            self.first.insert(xid, wal_start);
        } else if !spool.is_open(xid) {
            return Err(out_of_place("a later block of a transaction"));
        }
        self.block = Some(xid);
        Ok(Taken::Kept)
    }

    /// The server may tell it of what it has not sent.
    fn roll_back(&mut self, xid: u32, subxid: u32) {
        let Some(spool) = &mut self.spool else { return };
        if xid == subxid {
            spool.forget(xid);
            self.first.remove(&xid);
            self.settle_announced();
        } else {
            let _unknown = spool.roll_back(xid, subxid);
        }
    }

    /// What is to be told again behind the Begin that was delivered.
    pub fn due(&mut self) -> Vec<StreamItem> {
        self.announced.take_due()
    }

    /// The descriptions that have come, for a replay.
    pub const fn announced(&mut self) -> &mut Announced {
        &mut self.announced
    }

    /// A replay is through.
    pub fn settle_announced(&mut self) {
        if self.first.is_empty() {
            self.announced.settle();
        }
    }

    /// The transactions in progress, as far as the server has sent anything of them.
    #[must_use]
    pub fn open(&self) -> Vec<u32> {
        self.first.keys().copied().collect()
    }

    /// What the spool holds.
    #[must_use]
    pub fn held(&self) -> Held {
        self.spool.as_ref().map(Spool::held).unwrap_or_default()
    }

    /// Whether the spool must be settled.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.spool.as_ref().is_some_and(Spool::is_over)
    }

    /// Lends the spool for work that may take its time; no message may be taken meanwhile.
    pub const fn lend(&mut self) -> Option<Spool> {
        self.spool.take()
    }

    /// Takes the spool back.
    pub fn take_back(&mut self, spool: Spool) {
        self.spool = Some(spool);
    }
}

/// Moves to the disk what is too much for the memory.
pub fn settle(mut spool: Spool) -> (Spool, Result<(), Problem>) {
    let settled = spool.settle();
    (spool, settled)
}

const fn out_of_place(what: &'static str) -> pgoutput::Error {
    pgoutput::Error::OutOfPlace(what)
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
