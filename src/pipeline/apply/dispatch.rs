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

/// What still goes into a job.
#[derive(Clone, Copy)]
struct Room {
    records: usize,
    bytes: usize,
}

impl Room {
    /// The part of each of so many lanes.
    fn share(self, lanes: usize) -> Self {
        Self { records: self.records.div_ceil(lanes.max(1)), bytes: self.bytes.div_ceil(lanes.max(1)) }
    }
}

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
        let mut room = Room { records: self.deps.limits.batch_records, bytes: self.deps.limits.batch_bytes };
        let mut chosen = Vec::new();
        for key in ready {
            if !self.entangled.contains(&key.0) {
                let all = room;
                chosen.extend(self.take(key, all, &mut room));
                continue;
            }
            let together: Vec<&TopicPartition> = ready.iter().filter(|other| other.0 == key.0).collect();
            let moving =
                together.iter().filter(|key| self.lanes.get(**key).is_some_and(|lane| !lane.is_stuck())).count();
            let share = room.share(moving);
            for key in together {
                chosen.extend(self.take(key, share, &mut room));
            }
        }
        chosen
    }

    /// Takes a lane's records, up to its share but at least one; `None` where no room is left, or the lane was taken already.
    fn take(&mut self, key: &TopicPartition, share: Room, room: &mut Room) -> Option<JobLane> {
        if room.records == 0 || room.bytes == 0 {
            return None;
        }
        let lane = self.lanes.get_mut(key).filter(|lane| lane.state == State::Ready)?;
        let taken = lane.take(if lane.is_stuck() { 1 } else { share.records }, share.bytes);
        room.records = room.records.saturating_sub(taken.len());
        room.bytes = room.bytes.saturating_sub(taken.iter().map(ConsumedRecord::size).sum());
        Some(job_lane(lane, taken))
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
