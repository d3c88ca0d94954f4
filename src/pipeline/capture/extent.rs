//! How far a session goes: to the commit LSN at which its options end.
//!
//! The stream comes in the order of commit records, and a message outside of transactions comes at its own place in the WAL,
//! so whatever lies at or above the bound says that nothing below it is still to come. The server says so too when it is
//! idle, by a keepalive or by where the last commit record ends: the bound is where it had sent its WAL once, so there is no
//! need to wait for more.

use crate::{lsn::Lsn, pgoutput::message::Message, source::stream::StreamItem};

/// Which part of the stream belongs to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// It takes what lies below; everything if there is no bound.
    below: Option<Lsn>,
}

impl Extent {
    pub(super) const fn new(below: Option<Lsn>) -> Self {
        Self { below }
    }

    /// Whether the session ends before this item, which comes between two transactions: what it belongs to is the next
    /// session's.
    pub(super) fn ends_before(self, item: &StreamItem) -> bool {
        let at = match item {
            StreamItem::Keepalive { wal_end } => *wal_end,
            StreamItem::Message { message: Message::Begin { final_lsn, .. }, .. } => *final_lsn,
            StreamItem::Message { message: Message::Logical(message), .. } if !message.transactional => message.lsn,
            StreamItem::Message { .. } => return false,
        };
        self.is_reached(at)
    }

    /// Whether this item is the session's last: a commit whose record ends at the bound.
    pub(super) fn ends_with(self, item: &StreamItem) -> bool {
        match item {
            StreamItem::Message { message: Message::Commit { end_lsn, .. }, .. } => self.is_reached(*end_lsn),
            _ => false,
        }
    }

    /// Whether a change at this place in the WAL lies behind the session's: it commits above.
    pub(super) fn is_before(self, change: Lsn) -> bool {
        self.is_reached(change)
    }

    fn is_reached(self, at: Lsn) -> bool {
        self.below.is_some_and(|below| at >= below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::message::LogicalMessage;

    const EXTENT: Extent = Extent::new(Some(Lsn(100)));

    fn message(message: Message) -> StreamItem {
        StreamItem::Message { wal_start: Lsn::ZERO, message }
    }

    fn begin(at: u64) -> StreamItem {
        message(Message::Begin { final_lsn: Lsn(at), commit_us: 0, xid: 1 })
    }

    fn commit(at: u64, end: u64) -> StreamItem {
        message(Message::Commit { commit_lsn: Lsn(at), end_lsn: Lsn(end), commit_us: 0 })
    }

    fn logical(at: u64, transactional: bool) -> StreamItem {
        let (prefix, content) = ("p".into(), b"c".to_vec().into());
        message(Message::Logical(LogicalMessage { xid: None, transactional, lsn: Lsn(at), prefix, content }))
    }

    #[test]
    fn a_transaction_that_commits_at_the_bound_is_not_taken() {
        assert!(!EXTENT.ends_before(&begin(99)));
        assert!(EXTENT.ends_before(&begin(100)));
    }

    #[test]
    fn a_message_outside_of_transactions_belongs_to_the_session_of_its_place_in_the_wal() {
        assert!(!EXTENT.ends_before(&logical(99, false)));
        assert!(EXTENT.ends_before(&logical(100, false)));
        assert!(!EXTENT.ends_before(&logical(100, true)));
    }

    #[test]
    fn a_server_without_further_wal_ends_the_session() {
        assert!(!EXTENT.ends_before(&StreamItem::Keepalive { wal_end: Lsn(99) }));
        assert!(EXTENT.ends_before(&StreamItem::Keepalive { wal_end: Lsn(100) }));
        assert!(!EXTENT.ends_with(&commit(80, 99)));
        assert!(EXTENT.ends_with(&commit(80, 100)));
    }

    #[test]
    fn a_change_at_the_bound_is_another_session_s() {
        assert!(EXTENT.is_before(Lsn(100)) && !EXTENT.is_before(Lsn(99)));
        assert!(!Extent::new(None).is_before(Lsn(u64::MAX)));
    }

    #[test]
    fn a_session_without_a_bound_takes_everything() {
        let all = Extent::new(None);
        assert!(!all.ends_before(&begin(u64::MAX)) && !all.ends_with(&commit(1, u64::MAX)));
    }
}
