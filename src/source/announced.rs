//! Which description of a relation or a type is the newest one, where those of transactions in progress come late.
//!
//! The server describes a relation once, and again after it changed: to transactions that are sent at their commit, and to each
//! that is sent in progress on its own (trap T38). A description that came inside of a transaction in progress is seen at its
//! commit, when a newer one may have come already in another transaction, and the server knows that it was sent. So behind such
//! a transaction the newer one is told again, at the begin of the next.

use std::collections::{BTreeMap, BTreeSet};

use super::item::StreamItem;

/// Type byte of the message and OID.
pub type Key = (u8, u32);

/// The newest descriptions since transactions are in progress.
#[derive(Debug, Default)]
pub struct Announced {
    /// With the numbers that they arrived under.
    newest: BTreeMap<Key, (u64, StreamItem)>,
    /// Of the transaction that is read: what a newer one had been told of before.
    overtaken: BTreeSet<Key>,
    due: BTreeSet<Key>,
}

impl Announced {
    /// A description that is delivered as it comes.
    pub fn told(&mut self, key: Key, arrival: u64, item: &StreamItem) {
        self.newest.insert(key, (arrival, item.clone()));
        self.due.remove(&key);
    }

    /// A description that comes out of the spool.
    pub fn told_late(&mut self, key: Key, arrival: u64, item: &StreamItem) {
        if self.newest.get(&key).is_some_and(|(newest, _)| *newest > arrival) {
            self.overtaken.insert(key);
        } else {
            self.newest.insert(key, (arrival, item.clone()));
            self.overtaken.remove(&key);
            self.due.remove(&key);
        }
    }

    /// The transaction is read to its end.
    pub fn end(&mut self) {
        self.due.append(&mut self.overtaken);
    }

    /// No transaction is in progress any more: what comes from now on is newer than all.
    pub fn settle(&mut self) {
        let due = &self.due;
        self.newest.retain(|key, _| due.contains(key));
    }

    /// What is to be told again before anything else of a transaction; types come first, as relations name them.
    pub fn take_due(&mut self) -> Vec<StreamItem> {
        let due = std::mem::take(&mut self.due);
        let again = due.iter().rev().filter_map(|key| self.newest.get(key));
        again.map(|(_, item)| item.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    const KEY: Key = (b'R', 7);

    fn item(number: u64) -> StreamItem {
        StreamItem::Keepalive { wal_end: Lsn(number) }
    }

    #[test]
    fn a_newer_description_is_told_again_behind_an_older_one() {
        let mut announced = Announced::default();
        announced.told(KEY, 5, &item(5));
        announced.told_late(KEY, 3, &item(3));
        assert_eq!(announced.take_due(), []);
        announced.end();
        announced.settle();
        assert_eq!(announced.take_due(), [item(5)]);
        assert_eq!(announced.take_due(), []);
    }

    #[test]
    fn what_is_told_last_and_is_the_newest_stands() {
        let mut announced = Announced::default();
        announced.told(KEY, 2, &item(2));
        announced.told_late(KEY, 3, &item(3));
        announced.end();
        assert_eq!(announced.take_due(), []);
        announced.told(KEY, 5, &item(5));
        announced.told_late(KEY, 4, &item(4));
        announced.told_late(KEY, 6, &item(6));
        announced.end();
        assert_eq!(announced.take_due(), []);
        // Of two late transactions the second one has the newest.
        announced.told_late(KEY, 1, &item(1));
        announced.end();
        announced.told_late(KEY, 8, &item(8));
        announced.end();
        assert_eq!(announced.take_due(), []);
    }
}
