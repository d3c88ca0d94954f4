//! Back-pressure: which lanes the consumer is to pause.

use std::collections::BTreeMap;

use crate::{
    kafka::TopicPartition,
    pipeline::apply::lane::{Lane, State},
};

/// Pauses lanes that hold more than their part of the budget, so that no lane starves the others or the progress topic.
/// Returns the partitions to pause and to resume.
///
/// All parts together are half of the budget; lanes that are being aligned share another eighth, since the cut that they
/// wait for may lie ahead. The rest is for what is on its way, so that lanes that wait for each other never use it all up.
pub fn balance(
    lanes: &mut BTreeMap<TopicPartition, Lane>,
    budget: usize,
) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
    let part = budget / 2 / lanes.len().max(1);
    let aligning = lanes.values().filter(|lane| lane.state == State::Aligning).count();
    let more = budget / 8 / aligning.max(1);
    let (mut pause, mut resume) = (Vec::new(), Vec::new());
    for (key, lane) in lanes {
        let part = if lane.state == State::Aligning { part + more } else { part };
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
