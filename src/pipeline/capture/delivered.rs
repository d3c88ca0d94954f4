//! How far events have come into Kafka: what a Kafka transaction of exactly-once delivery records of itself, and what the next
//! session therefore leaves out of what the server sends again (PROTOCOL, "Exactly once into Kafka").
//!
//! Everything at or below one position is there, and nothing above it, but for the topics of tables that were stopped for a while:
//! of these everything below a position of their own is. Events come in the order of their positions, so no more has to be
//! known: whether a source transaction is complete, its next event tells.
//!
//! The records lie in a topic of their own, and not in the state's: while a transaction is open, nobody reads what others have written
//! behind its records, and a session must read the state before it may end the transaction of its predecessor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::Checkpoint;
use crate::lsn::{Lsn, Position};

/// Key of the record in its topic.
pub(super) const KEY: &str = "delivered";

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    /// The source cluster's identity.
    system_id: u64,
    /// The consistent point of the slot whose stream this is about: another slot's is another history.
    consistent_point: Lsn,
    at: Position,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    behind: BTreeMap<String, Position>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    system_id: u64,
    consistent_point: Lsn,
    /// The last event.
    at: Position,
    /// Topics of running tables that are behind it, each with the next position that it may lack.
    lagging: BTreeMap<String, Position>,
    /// The same of stopped ones, which stay there.
    stopped: BTreeMap<String, Position>,
}

impl Delivered {
    /// What the record, if there is one, says of the stream of this checkpoint.
    pub(super) fn new(record: Option<&[u8]>, checkpoint: &Checkpoint) -> Result<Self, serde_json::Error> {
        let Checkpoint { system_id, consistent_point, epoch, .. } = *checkpoint;
        let record: Option<Written> = record.map(serde_json::from_slice).transpose()?;
        let of_stream = |record: &Written| {
            (record.system_id, record.consistent_point, record.at.epoch) == (system_id, consistent_point, epoch)
        };
        let (at, lagging) = record.filter(of_stream).map(|record| (record.at, record.behind)).unwrap_or_default();
        Ok(Self { system_id, consistent_point, at, lagging, stopped: BTreeMap::new() })
    }

    /// Takes it that everything below `flush` is there, also of tables that are stopped: they hold it.
    pub(super) fn at_least(&mut self, epoch: u32, flush: Lsn) {
        let below = Position { epoch, commit: flush, ordinal: 0 };
        if self.at < below {
            self.at = below;
        }
        self.lagging.values_mut().for_each(|next| *next = below.max(*next));
    }

    /// Goes on with these topics alone, of which the `stopped` ones stay where they are.
    pub(super) fn keep(&mut self, captured: impl Fn(&str) -> bool, stopped: &[String]) {
        for topic in stopped {
            let next = self.lagging.remove(topic).unwrap_or_else(|| self.behind_last());
            self.stopped.insert(topic.clone(), next);
        }
        self.lagging.retain(|topic, _| captured(topic));
    }

    /// Whether the event of a topic at this position is there.
    pub(super) fn covers(&self, topic: &str, at: Position) -> bool {
        if at > self.at {
            return false;
        }
        self.lagging.get(topic).or_else(|| self.stopped.get(topic)).is_none_or(|next| at < *next)
    }

    /// All events of running tables up to this position are in the transaction, or were there before.
    pub(super) fn reach(&mut self, at: Position) {
        if at > self.at {
            self.at = at;
            self.lagging.clear();
        } else {
            let next = behind(at);
            self.lagging.values_mut().for_each(|lacks| *lacks = next.max(*lacks));
        }
    }

    /// The table of a topic stops at this position.
    pub(super) fn stop(&mut self, topic: &str, at: Position) {
        if !self.stopped.contains_key(topic) {
            let next = self.lagging.remove(topic).unwrap_or_else(|| self.behind_last());
            self.stopped.insert(topic.to_owned(), next.max(at));
        }
    }

    /// The position behind the last event.
    fn behind_last(&self) -> Position {
        behind(self.at)
    }

    /// The record's value.
    pub(super) fn text(&self) -> Vec<u8> {
        let behind = self.lagging.iter().chain(&self.stopped).map(|(topic, next)| (topic.clone(), *next)).collect();
        let Self { system_id, consistent_point, at, .. } = *self;
        serde_json::to_vec(&Written { system_id, consistent_point, at, behind })
            .expect("numbers under text keys are always valid JSON")
    }
}

const fn behind(at: Position) -> Position {
    Position { ordinal: at.ordinal.saturating_add(1), ..at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::capture::state::Phase;

    fn checkpoint(consistent_point: u64, epoch: u32) -> Checkpoint {
        Checkpoint {
            system_id: 7,
            timeline: 1,
            slot: "s".into(),
            epoch,
            phase: Phase::Streaming,
            consistent_point: Lsn(consistent_point),
            flush: Lsn(100),
            published: Lsn(100),
            ceiling: Lsn(900),
            options: None,
            topic_names: None,
        }
    }

    const fn at(commit: u64, ordinal: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal }
    }

    fn new() -> Delivered {
        let mut delivered = Delivered::new(None, &checkpoint(50, 0)).unwrap();
        delivered.at_least(0, Lsn(100));
        delivered
    }

    fn restarted(delivered: &Delivered) -> Delivered {
        Delivered::new(Some(&delivered.text()), &checkpoint(50, 0)).unwrap()
    }

    #[test]
    fn what_is_recorded_is_left_out_to_the_event_and_what_is_not_is_not() {
        let mut delivered = new();
        delivered.reach(at(200, 3));
        let again = restarted(&delivered);
        for (position, there) in [(at(150, 9), true), (at(200, 3), true), (at(200, 4), false), (at(201, 1), false)] {
            assert_eq!(again.covers("t", position), there, "{position}");
        }
    }

    #[test]
    fn without_a_record_the_flush_position_is_all_that_is_known() {
        assert!(new().covers("t", at(99, 5)) && !new().covers("t", at(100, 1)));
    }

    #[test]
    fn another_slot_s_record_says_nothing() {
        let mut delivered = new();
        delivered.reach(at(200, 3));
        for other in [checkpoint(51, 0), checkpoint(50, 1), Checkpoint { system_id: 8, ..checkpoint(50, 0) }] {
            let found = Delivered::new(Some(&delivered.text()), &other).unwrap();
            assert!(!found.covers("t", at(150, 1)), "{other:?}");
        }
        assert!(Delivered::new(Some(b"{"), &checkpoint(50, 0)).is_err());
    }

    #[test]
    fn a_table_that_stopped_goes_on_where_it_stopped_and_the_others_where_they_came_to() {
        let mut delivered = new();
        delivered.reach(at(200, 3));
        delivered.stop("t", at(300, 2));
        delivered.reach(at(400, 1));
        let mut again = restarted(&delivered);
        assert!(again.covers("t", at(300, 1)) && !again.covers("t", at(300, 2)) && !again.covers("t", at(400, 1)));
        assert!(again.covers("o", at(400, 1)) && !again.covers("o", at(400, 2)));
        // It comes only so far, and is cut again.
        again.reach(at(350, 7));
        let mut third = restarted(&again);
        assert!(third.covers("t", at(350, 7)) && !third.covers("t", at(350, 8)) && third.covers("o", at(400, 1)));
        third.reach(at(401, 1));
        assert!(restarted(&third).covers("t", at(401, 1)));
    }

    #[test]
    fn a_table_that_is_behind_stays_so_when_the_flush_position_has_passed_its_place() {
        let mut delivered = new();
        delivered.reach(at(200, 3));
        delivered.stop("t", at(300, 2));
        delivered.reach(at(400, 1));
        let mut again = restarted(&delivered);
        again.reach(at(300, 9));
        let mut third = restarted(&again);
        third.at_least(0, Lsn(310));
        assert!(!third.covers("t", at(350, 1)) && third.covers("t", at(309, 1)) && third.covers("o", at(400, 1)));
    }

    #[test]
    fn a_table_that_is_stopped_before_anything_is_recorded_lacks_what_is_not_confirmed() {
        let mut delivered = new();
        delivered.keep(|_| true, &["t".to_owned()]);
        delivered.reach(at(200, 1));
        assert!(!restarted(&delivered).covers("t", at(150, 1)) && restarted(&delivered).covers("o", at(150, 1)));
    }

    #[test]
    fn a_table_that_stops_at_what_was_there_already_lacks_what_is_behind_that_alone() {
        let mut delivered = new();
        delivered.reach(at(200, 3));
        let mut again = restarted(&delivered);
        again.stop("t", at(150, 1));
        assert!(restarted(&again).covers("t", at(200, 3)) && !restarted(&again).covers("t", at(200, 4)));
    }

    #[test]
    fn a_table_that_stays_stopped_is_not_carried_along_and_one_that_left_is_forgotten() {
        let mut delivered = new();
        delivered.stop("t", at(150, 1));
        delivered.stop("gone", at(150, 1));
        delivered.reach(at(200, 3));
        let mut again = restarted(&delivered);
        again.keep(|topic| topic == "t", &["t".to_owned(), "u".to_owned()]);
        again.reach(at(300, 1));
        let third = restarted(&again);
        assert!(!third.covers("t", at(150, 1)) && !third.covers("u", at(200, 4)) && third.covers("u", at(200, 3)));
        assert!(third.covers("gone", at(150, 1)));
    }
}
