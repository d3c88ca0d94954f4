//! Which lanes go into the next job, and with how many of their records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    kafka::{ConsumedRecord, TopicPartition},
    pipeline::apply::{
        coordinator::Coordinator,
        decode::Decode,
        job::{self, How},
        lane::{Lane, State},
        work::{JobLane, Padding},
    },
};

impl<D: Decode + 'static> Coordinator<D> {
    /// Gives ready lanes to idle workers.
    pub(super) fn dispatch(&mut self) {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.dispatch_groups();
        while !self.idle.is_empty() {
            let Some(ready) = self.ready() else { return };
            let chosen = self.choose(&ready);
            self.spawn(chosen, How::Optimistic);
        }
    }

    /// The lanes that may go into a job, what has waited longest first; `None` where none is worth a job.
    fn ready(&self) -> Option<Vec<TopicPartition>> {
        let limits = self.deps.limits;
        let (mut ready, mut due, mut bytes): (Vec<(Duration, &TopicPartition)>, bool, usize) = (Vec::new(), false, 0);
        for (key, lane) in &self.lanes {
            let is_free = lane.state == State::Ready && !lane.is_empty() && !self.is_revoked(key);
            if is_free && !self.entangled.is_apart(&key.0, &self.lanes) {
                due |= lane.waiting() >= limits.linger;
                bytes += lane.bytes();
                ready.push((lane.waiting(), key));
            }
        }
        let is_worth = !ready.is_empty() && (self.jobs.is_empty() || due || bytes >= limits.batch_bytes / 4);
        ready.sort_by(|a, b| b.cmp(a));
        is_worth.then(|| ready.into_iter().map(|(_, key)| key.clone()).collect())
    }

    /// Takes records of these lanes until the job is full; lanes that are entangled go together, each with its share.
    fn choose(&mut self, ready: &[TopicPartition]) -> Vec<JobLane> {
        let (mut records, mut bytes) = (self.deps.limits.batch_records, self.deps.limits.batch_bytes);
        let mut chosen = Vec::new();
        for key in ready {
            let is_entangled = self.entangled.contains(&key.0);
            let together: Vec<&TopicPartition> =
                ready.iter().filter(|other| if is_entangled { other.0 == key.0 } else { *other == key }).collect();
            let share = (records.div_ceil(together.len()), bytes.div_ceil(together.len()));
            for key in together {
                // Its lanes have come with the first one of the topic.
                let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.state == State::Ready) else { continue };
                let taken = lane.take(if lane.stuck { 1 } else { share.0 }, share.1);
                records = records.saturating_sub(taken.len());
                bytes = bytes.saturating_sub(taken.iter().map(ConsumedRecord::size).sum());
                chosen.push(job_lane(lane, taken));
            }
            if records == 0 || bytes == 0 {
                break;
            }
        }
        chosen
    }

    pub(super) fn spawn(&mut self, lanes: Vec<JobLane>, how: How) {
        let Some(worker) = self.idle.pop() else { return };
        let padding = Padding::new(self.deps.limits.padding_bytes());
        self.jobs.spawn(job::run(worker, Arc::clone(&self.deps.sink), lanes, self.hold, padding, how));
    }
}

pub(super) fn job_lane(lane: &mut Lane, records: Vec<ConsumedRecord>) -> JobLane {
    lane.state = State::Busy;
    JobLane {
        key: lane.key(),
        owned: lane.owned.clone(),
        stored: lane.stored,
        mark: lane.mark,
        overtaken: lane.overtaken,
        settled: lane.settled,
        records,
    }
}
