//! Tables whose lanes wait for each other's halves of key moves.
//!
//! The halves of a key move lie in two partitions. In one job they meet, whatever order the lanes come in; in jobs apart, each
//! move costs its lanes a job of their own, which decodes again all that lies behind it. So the lanes of such a table go into one
//! job, each with its share of what a job may hold, until one of these jobs ends in which none waited.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    kafka::TopicPartition,
    pipeline::apply::{
        lane::{Lane, State},
        work::{Halt, LaneReport},
    },
};

/// Topics of such tables.
#[derive(Debug, Default)]
pub struct Entangled(BTreeSet<Arc<str>>);

impl Entangled {
    /// What a job's end tells of its topics.
    pub fn learn(&mut self, lanes: &[LaneReport]) {
        let mut topics: BTreeMap<&Arc<str>, (bool, usize)> = BTreeMap::new();
        for lane in lanes {
            let (waits, count) = topics.entry(&lane.key.0).or_default();
            *waits |= lane.halt == Some(Halt::HalfMove);
            *count += 1;
        }
        for (topic, (waits, count)) in topics {
            if waits {
                self.0.insert(Arc::clone(topic));
            } else if count > 1 {
                self.0.remove(topic);
            }
        }
    }

    /// Whether this topic's lanes go into one job.
    #[must_use]
    pub fn contains(&self, topic: &str) -> bool {
        self.0.contains(topic)
    }

    /// Lanes that wait are tried at once where another one of their topic has moved: it may have brought what they need.
    pub fn wake(&self, moved: &BTreeSet<Arc<str>>, lanes: &mut BTreeMap<TopicPartition, Lane>) {
        for ((topic, _), lane) in lanes {
            let waits = lane.half_move.is_some() && matches!(lane.state, State::Waits(_));
            if waits && self.contains(topic) && moved.contains(topic) {
                lane.state = State::Ready;
            }
        }
    }

    /// Whether a lane has to let a job end that holds others of its topic.
    #[must_use]
    pub fn is_apart(&self, topic: &Arc<str>, lanes: &BTreeMap<TopicPartition, Lane>) -> bool {
        let of_topic = (Arc::clone(topic), i32::MIN)..=(Arc::clone(topic), i32::MAX);
        self.contains(topic) && lanes.range(of_topic).any(|(_, lane)| lane.state == State::Busy)
    }
}
