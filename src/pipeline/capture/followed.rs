//! How far the signal topic has been followed.
//!
//! Its records come by the source's log, and so at positions: one comes again at the same position where the stream does, and is followed
//! again, which is harmless. A copy at another position is another thing: whoever handed the record on did so twice, since nothing tells
//! before the log does that it is there. So each record's position is kept for as long as it may come again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    lsn::{Lsn, Position},
    source::signal::SignalRecord,
};

/// Positions that are kept: a record of the state topic has room for some thousands.
const MOST_KEPT: usize = 1000;

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
    /// Where in the stream records came that may come again, by their offsets.
    #[serde(default)]
    pub(super) at: BTreeMap<i64, Position>,
}

impl Followed {
    /// A topic of which nothing was followed from this offset on.
    pub(super) fn from(topic: &str, id: Option<String>, next: i64) -> Self {
        Self { topic: topic.to_owned(), id, next, at: BTreeMap::new() }
    }

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

    /// Changes it; gives what is to be recorded, if that is another thing than before. To be called where recording has its turn.
    pub(super) fn change(&self, change: impl FnOnce(Option<&Followed>) -> Option<Followed>) -> Option<Followed> {
        let mut known = self.lock();
        let changed = change(known.as_ref()).filter(|changed| known.as_ref() != Some(changed))?;
        *known = Some(changed.clone());
        Some(changed)
    }

    /// Whether a record of the topic that comes here is another copy of one that was followed elsewhere.
    pub(super) fn is_copy(&self, record: &SignalRecord, at: Position) -> bool {
        self.lock().as_ref().is_some_and(|followed| {
            let is_old = followed.is_of(&record.topic, record.id.as_deref()) && record.offset < followed.next;
            is_old && followed.at.get(&record.offset) != Some(&at)
        })
    }

    /// It was followed here, and nothing below `flushed` comes again; gives what is to be recorded. `None` where it comes again, or is of a
    /// topic that is another one by now.
    pub(super) fn follow(&self, record: &SignalRecord, at: Position, flushed: Lsn) -> Option<Followed> {
        self.change(|known| {
            let known = known?;
            if !known.is_of(&record.topic, record.id.as_deref()) || record.offset < known.next {
                return None;
            }
            let mut kept = known.at.clone();
            kept.retain(|_, at_then| at_then.epoch == at.epoch && at_then.commit >= flushed);
            kept.insert(record.offset, at);
            while kept.len() > MOST_KEPT {
                kept.pop_first();
            }
            Some(Followed { next: record.offset.saturating_add(1), at: kept, ..known.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, offset: i64) -> SignalRecord {
        SignalRecord { slot: "s".into(), topic: "t".into(), id: Some(id.into()), offset, value: None }
    }

    fn at(commit: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal: 1 }
    }

    #[test]
    fn another_copy_is_told_from_one_that_comes_again_however_many_came_since() {
        let signals = FollowedSignals::from(Some(Followed::from("t", Some("a".to_owned()), 4)));
        for (offset, commit) in [(4, 100), (5, 110), (6, 200)] {
            assert!(!signals.is_copy(&record("a", offset), at(commit)));
            assert!(signals.follow(&record("a", offset), at(commit), Lsn(90)).is_some());
        }
        // The stream comes again from 90 on, with copies of the first two at 150 and 160.
        for (offset, commit, is_copy) in
            [(4, 100, false), (5, 110, false), (4, 150, true), (5, 160, true), (6, 200, false)]
        {
            assert_eq!(signals.is_copy(&record("a", offset), at(commit)), is_copy, "{offset} at {commit}");
        }
        assert!(signals.is_copy(&record("a", 3), at(300)), "it was there before");
        assert!(!signals.is_copy(&record("a", 7), at(300)), "the next one");
        assert_eq!(signals.follow(&record("a", 4), at(100), Lsn(90)), None, "it came again");
        assert_eq!(signals.follow(&record("b", 9), at(300), Lsn(90)), None, "another topic of the name");
        let kept = signals.follow(&record("a", 7), at(300), Lsn(150)).unwrap().at;
        assert_eq!(kept.into_keys().collect::<Vec<_>>(), [6, 7], "the others cannot come again");
    }
}
