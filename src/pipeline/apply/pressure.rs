//! Back-pressure: which lanes the consumer is to pause.

use std::collections::BTreeMap;

use crate::{
    kafka::TopicPartition,
    pipeline::apply::lane::{Lane, State},
};

/// The least that a lane may hold, however many there are.
const LEAST_PART: usize = 64 << 10;

/// Pauses lanes that hold more than their part of the budget, so that no lane starves the others or the progress topic.
/// Returns the partitions to pause and to resume.
///
/// All parts together are half of the budget; a lane that is being aligned may take a quarter alone, since the cut that it
/// waits for may lie far ahead.
pub fn balance(
    lanes: &mut BTreeMap<TopicPartition, Lane>,
    budget: usize,
) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
    let part = (budget / 2 / lanes.len().max(1)).max(LEAST_PART);
    let (mut pause, mut resume) = (Vec::new(), Vec::new());
    for (key, lane) in lanes {
        let part = if lane.state == State::Aligning { part.max(budget / 4) } else { part };
        let stopped = lane.state == State::Stopped;
        if !lane.paused && (stopped || lane.bytes() > part) {
            lane.paused = true;
            pause.push(key.clone());
        } else if lane.paused && !stopped && lane.bytes() <= part / 2 {
            lane.paused = false;
            resume.push(key.clone());
        }
    }
    (pause, resume)
}
