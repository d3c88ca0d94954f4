//! How far the signal topic has been followed.
//!
//! Its records come by the source's log, and so at a position: one comes again at the same position where the stream does, and is followed
//! again, which is harmless. A copy at a later position is another thing: whoever handed the record on did so twice, since nothing tells
//! before the log does that it is there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{lsn::Position, source::signal::SignalRecord};

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Followed {
    /// The topic's name.
    pub(super) topic: String,
    /// Its id, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// The offset behind the last record that was followed, or was there before the topic was configured.
    pub(super) next: i64,
    /// Where in the stream that record came.
    pub(super) at: Position,
}

impl Followed {
    /// Whether this is the topic that a name and an id tell.
    pub(super) fn is_of(&self, topic: &str, id: Option<&str>) -> bool {
        self.topic == topic && (self.id.is_none() || id.is_none() || self.id.as_deref() == id)
    }
}

/// What a session knows of it.
#[derive(Debug, Default)]
pub(super) struct FollowedSignals(Mutex<Option<Followed>>);

impl From<Option<Followed>> for FollowedSignals {
    fn from(recorded: Option<Followed>) -> Self {
        Self(Mutex::new(recorded))
    }
}

impl FollowedSignals {
    fn lock(&self) -> MutexGuard<'_, Option<Followed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> Option<Followed> {
        self.lock().clone()
    }

    pub(super) fn set(&self, followed: Followed) {
        *self.lock() = Some(followed);
    }

    /// Whether a record of the topic that comes here is the second copy of one that was followed.
    pub(super) fn is_copy(&self, record: &SignalRecord, at: Position) -> bool {
        self.lock().as_ref().is_some_and(|followed| {
            followed.is_of(&record.topic, record.id.as_deref()) && record.offset < followed.next && at > followed.at
        })
    }

    /// What is to be recorded once it was followed here; `None` where it comes again.
    pub(super) fn after(&self, record: &SignalRecord, at: Position) -> Option<Followed> {
        let is_new = self.lock().as_ref().is_none_or(|followed| at > followed.at);
        let SignalRecord { topic, id, offset, .. } = record;
        is_new.then(|| Followed { topic: topic.clone(), id: id.clone(), next: offset.saturating_add(1), at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    fn record(id: &str, offset: i64) -> SignalRecord {
        SignalRecord { slot: "s".into(), topic: "t".into(), id: Some(id.into()), offset, value: None }
    }

    fn at(commit: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal: 1 }
    }

    #[test]
    fn a_second_copy_is_told_from_one_that_comes_again() {
        let signals = FollowedSignals::default();
        assert!(!signals.is_copy(&record("a", 4), at(10)));
        signals.set(signals.after(&record("a", 4), at(10)).unwrap());
        assert!(!signals.is_copy(&record("a", 4), at(10)), "it comes again");
        assert!(signals.is_copy(&record("a", 4), at(11)) && signals.is_copy(&record("a", 3), at(11)));
        assert!(!signals.is_copy(&record("a", 5), at(11)), "the next one");
        assert!(!signals.is_copy(&record("b", 0), at(11)), "another topic of the name");
        assert_eq!(signals.after(&record("a", 3), at(9)), None, "what is recorded never goes back");
    }
}
