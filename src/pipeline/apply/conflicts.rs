//! Lanes that stand at an ordering error which lanes of other processes may solve, or what is not read yet.
//!
//! A common cut needs all lanes of the tables concerned in one process. Where some are elsewhere, a lane tries again while
//! these come nearer: the control session reads how far they are. One that is beyond the lane's own events, or rests, brings
//! nothing more, and the table stops after a while in which nothing else moved.
//!
//! What lanes of a topic may bring that capture does not tell of is waited for as long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{kafka::TopicPartition, lsn::Position};

struct Conflict {
    /// When something that may help it has moved last.
    since: Instant,
    /// Nothing beyond it helps; `None` while that is not known.
    until: Option<Position>,
    /// Where the records of others ended when it stood first, as far as capture told.
    ends: Option<BTreeMap<TopicPartition, i64>>,
    /// Whether they are not applied so far: whatever moves may help then.
    is_behind: bool,
    reason: String,
}

impl Default for Conflict {
    fn default() -> Self {
        Self { since: Instant::now(), until: None, ends: None, is_behind: false, reason: String::new() }
    }
}

/// All lanes that wait like this.
#[derive(Default)]
pub struct Conflicts {
    lanes: BTreeMap<TopicPartition, Conflict>,
}

impl Conflicts {
    /// A lane was tried, with events up to `until`, and stands; for how long nothing that may help it has moved.
    pub fn stands(&mut self, key: &TopicPartition, until: Option<Position>, reason: &str) -> Duration {
        let conflict = self.lanes.entry(key.clone()).or_default();
        conflict.until = conflict.until.or(until);
        reason.clone_into(&mut conflict.reason);
        conflict.since.elapsed()
    }

    /// A partition that is not applied as far as its records went when the lane stood first. Rows that are read again lie behind all else
    /// in their topics, and so behind what hangs on them in others.
    pub fn behind(
        &mut self,
        key: &TopicPartition,
        ends: impl FnOnce() -> BTreeMap<TopicPartition, i64>,
        applied: impl Fn(&TopicPartition) -> i64,
    ) -> Option<TopicPartition> {
        let conflict = self.lanes.entry(key.clone()).or_default();
        let ends = conflict.ends.get_or_insert_with(ends);
        let found = ends.iter().find(|(place, end)| applied(place) < **end).map(|(place, _)| place.clone());
        conflict.is_behind = found.is_some();
        found
    }

    /// A lane that may help this one has moved from here, and from this offset. All rows of a snapshot have one position, so a lane that
    /// is at the last tried one may still bring what is missing. Beyond that only what was there when this one stood first may, or it would
    /// wait for as long as anything moves.
    pub fn moved(&mut self, key: &TopicPartition, (other, next): (&TopicPartition, Option<i64>), from: Position) {
        let brings = |conflict: &Conflict| {
            let end = conflict.ends.as_ref().and_then(|ends| ends.get(other));
            conflict.is_behind && end.is_some_and(|end| next.unwrap_or_default() < *end)
        };
        let helps = |conflict: &&mut Conflict| conflict.until.is_none_or(|until| from <= until) || brings(conflict);
        if let Some(conflict) = self.lanes.get_mut(key).filter(helps) {
            conflict.since = Instant::now();
        }
    }

    /// A lane waits no more.
    pub fn forget(&mut self, key: &TopicPartition) {
        self.lanes.remove(key);
    }

    /// No lane of a topic waits any more.
    pub fn forget_topic(&mut self, topic: &str) {
        self.lanes.retain(|(name, _), _| **name != *topic);
    }

    /// The lanes that wait.
    pub fn keys(&self) -> impl Iterator<Item = &TopicPartition> {
        self.lanes.keys()
    }

    /// What each lane waits for.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.lanes.values().map(|conflict| {
            let reason = &conflict.reason;
            format!("an event waits for partitions that other processes apply, or that are not read yet: {reason}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    #[test]
    fn what_is_beyond_a_lane_s_events_does_not_keep_it_waiting() {
        let at = |commit| Position { epoch: 0, commit: Lsn(commit), ordinal: 1 };
        let (key, mut conflicts) = ((std::sync::Arc::from("t"), 0), Conflicts::default());
        conflicts.stands(&key, Some(at(5)), "");
        let since = |conflicts: &Conflicts| conflicts.lanes[&key].since;
        let begun = since(&conflicts);
        let other = (std::sync::Arc::from("u"), 0);
        conflicts.moved(&key, (&other, Some(1)), at(6));
        assert_eq!(since(&conflicts), begun);
        for earlier in [4, 5] {
            let begun = since(&conflicts);
            conflicts.moved(&key, (&other, None), at(earlier));
            assert!(since(&conflicts) > begun);
        }
    }

    #[test]
    fn whatever_others_had_when_a_lane_stood_first_may_help_it() {
        let place = |topic: &str| (std::sync::Arc::from(topic), 0);
        let (key, mut conflicts) = (place("t"), Conflicts::default());
        conflicts.stands(&key, Some(Position::default()), "");
        let ends = |end| move || BTreeMap::from([(place("u"), end)]);
        assert_eq!(conflicts.behind(&key, ends(7), |_| 6), Some(place("u")));
        let begun = conflicts.lanes[&key].since;
        let later = Position { epoch: 1, ..Position::default() };
        for elsewhere in [(&place("u"), Some(7)), (&place("v"), Some(0))] {
            conflicts.moved(&key, elsewhere, later);
            assert_eq!(conflicts.lanes[&key].since, begun, "it was not there then");
        }
        conflicts.moved(&key, (&place("u"), Some(6)), later);
        assert!(conflicts.lanes[&key].since > begun);
        assert_eq!(conflicts.behind(&key, ends(9), |_| 7), None, "what came later is not waited for");
        conflicts.forget(&key);
        assert_eq!(conflicts.behind(&key, ends(9), |_| 7), Some(place("u")), "it stands anew");
    }
}
