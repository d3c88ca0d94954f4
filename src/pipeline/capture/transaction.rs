//! A transaction between Begin and Commit: how its events are numbered, in it and in their tables.

use std::collections::HashMap;

use crate::{
    event::TransactionMeta,
    lsn::{Lsn, Position},
    pipeline::ack::Sequence,
};

/// In place of a relation's OID: logical messages, which belong to none.
pub(super) const MESSAGES: u32 = 0;

/// The transaction that the stream is in.
pub(super) struct Open {
    pub(super) meta: TransactionMeta,
    /// The unit of work that its records belong to.
    pub(super) unit: Sequence,
    /// That the server tells of its begin.
    pub(super) first: Lsn,
    /// Nothing of it is published.
    pub(super) left_out: bool,
    /// Of its last event so far.
    pub(super) ordinal: u64,
    /// Events of each relation so far.
    collections: HashMap<u32, u64>,
}

impl Open {
    pub(super) fn new(meta: TransactionMeta, unit: Sequence, first: Lsn) -> Self {
        Self { meta, unit, first, left_out: false, ordinal: 0, collections: HashMap::new() }
    }

    /// What the next event of a relation is numbered with, in the transaction and in its table.
    pub(super) fn next(&self, relation: u32) -> (u64, u64) {
        (self.ordinal + 1, self.collections.get(&relation).copied().unwrap_or(0) + 1)
    }

    /// The event took so many ordinals.
    pub(super) fn took(&mut self, relation: u32, ordinals: u64) {
        self.ordinal += ordinals;
        *self.collections.entry(relation).or_default() += ordinals;
    }

    /// A statement that is one event of each of these relations takes one ordinal in all of them; gives it, and the number in
    /// each table.
    pub(super) fn took_together(&mut self, relations: &[u32]) -> (u64, Vec<u64>) {
        self.ordinal += 1;
        let orders = relations.iter().map(|relation| {
            let order = self.collections.entry(*relation).or_default();
            *order += 1;
            *order
        });
        (self.ordinal, orders.collect())
    }

    pub(super) fn position(&self, ordinal: u64) -> Position {
        Position { epoch: self.meta.epoch, commit: self.meta.commit, ordinal }
    }
}
