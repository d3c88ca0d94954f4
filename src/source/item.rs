//! What the stream delivers, and what it weighs.

use crate::{
    event::{Datum, OldTuple, Tuple},
    lsn::Lsn,
    pgoutput::Message,
};

/// What an item costs beside its bytes: the parsed message and its share of allocations.
const OVERHEAD: usize = 128;

/// What the stream delivers, in the order of the commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// A message of the plug-in.
    Message {
        /// Its WAL position; only information, except for Commit.
        wal_start: Lsn,
        /// The message.
        message: Message,
    },
    /// All WAL below `wal_end` has been decoded, and what was to send of it is in front of this item: with nothing in
    /// flight, `wal_end` may be confirmed (traps T8, T9).
    Keepalive {
        /// The position.
        wal_end: Lsn,
    },
}

impl StreamItem {
    /// What it takes in memory, when it came as so many bytes.
    #[must_use]
    pub fn weight(&self, bytes: usize) -> usize {
        let columns = match self {
            Self::Message { message, .. } => columns(message),
            Self::Keepalive { .. } => 0,
        };
        bytes + OVERHEAD + columns * size_of::<Datum>()
    }
}

/// Number of column values in a message.
fn columns(message: &Message) -> usize {
    let old = |old: &OldTuple| old.tuple().len();
    match message {
        Message::Insert { new, .. } => Tuple::len(new),
        Message::Update { old: before, new, .. } => new.len() + before.as_ref().map_or(0, old),
        Message::Delete { old: before, .. } => old(before),
        _ => 0,
    }
}
