//! Ordering errors: which lanes the coordinator has applied together, and how long others may take to move on.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use crate::{
    kafka::TopicPartition,
    pipeline::apply::{
        coordinator::{Coordinator, RETRY_EVERY, job_lane, with_hint},
        decode::Decode,
        job::How,
        lane::{Lane, State, Stop},
    },
};

impl<D: Decode + 'static> Coordinator<D> {
    /// Lanes of grouped tables join their group as soon as they are free.
    pub(super) fn regroup(&mut self) {
        for (key, lane) in &mut self.lanes {
            let grouped = self.groups.contains(&key.0);
            let free = matches!(lane.state, State::Ready | State::Waits(_) | State::Parked(_) | State::Held(_));
            if grouped && free {
                lane.state = State::Aligning;
                lane.told = false;
            } else if !grouped && lane.state == State::Aligning {
                lane.state = State::Ready;
            }
        }
    }

    /// Gives groups whose lanes are all free to idle workers.
    pub(super) fn dispatch_groups(&mut self) {
        let lanes = &self.lanes;
        let member = |topics: &BTreeSet<Arc<str>>, key: &TopicPartition, lane: &Lane| {
            topics.contains(&key.0) && lane.state != State::Stopped
        };
        let mut idle = self.idle.len();
        let (unmet, limits) = (&self.unmet, self.deps.limits);
        let due = self.groups.due(|topics| {
            if unmet.rests(topics) {
                return false;
            }
            let mut states = lanes.iter().filter(|(key, lane)| member(topics, key, lane)).map(|(_, lane)| &lane.state);
            let ready = idle > 0 && states.all(|state| *state == State::Aligning);
            ready && lanes.iter().any(|(key, lane)| member(topics, key, lane))
        });
        idle = idle.min(due.len());
        for topics in due.into_iter().take(idle) {
            let lanes = self.lanes.iter_mut().filter(|(key, lane)| member(&topics, key, lane));
            let mut full = false;
            // What has no cut to reach goes in batches.
            let is_unmet = self.unmet.concerns(&topics);
            let bounds = (limits.batch_records, limits.batch_bytes);
            let (records, bytes) = if is_unmet { bounds } else { (usize::MAX, usize::MAX) };
            let chosen = lanes
                .map(|(_, lane)| {
                    full |= lane.paused;
                    let taken = lane.take(records, bytes);
                    job_lane(lane, taken)
                })
                .collect();
            self.spawn(chosen, How::Aligned { full });
        }
    }

    /// An ordering error: the table's lanes are aligned if they are all here, else the others get time to move on. Lanes that
    /// know no common cut need none to be tried together, so not all have to be here.
    pub(super) fn conflict(&mut self, key: &TopicPartition, reason: &str, by_offset: bool) {
        let mut topics: BTreeSet<Arc<str>> = self.deps.sink.related(&key.0).into_iter().collect();
        topics.insert(Arc::clone(&key.0));
        let here = |topic: &Arc<str>| self.lanes.keys().filter(|(name, _)| name == topic).count();
        let whole = topics.iter().all(|topic| {
            let known = self.deps.partition_counts.get(&**topic).and_then(|count| usize::try_from(*count).ok());
            // A topic that is younger than this process is known from progress.
            let wanted = known.or_else(|| self.progress.offsets.get(&**topic).map(Vec::len));
            wanted.is_none_or(|wanted| here(topic) >= wanted)
        });
        if whole || by_offset {
            tracing::debug!(topic = %key.0, reason, "applying the table's partitions together");
            self.groups.join(topics);
            return;
        }
        let since = *self.conflicts.entry(key.clone()).or_insert_with(Instant::now);
        if since.elapsed() < self.deps.limits.patience {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.state = State::Waits(Instant::now() + RETRY_EVERY * 5);
            }
            return;
        }
        let reason = format!(
            "topic {}, partition {}: {reason}. Apply all partitions of the table in one process.",
            key.0, key.1
        );
        self.stop(&key.0, None, reason);
    }

    /// A lane stands at an event that only others can make fit. Its table stops when none of them has moved for long.
    pub(super) fn unmet(&mut self, key: &TopicPartition, table: Option<&str>, stop: Stop) {
        let patience = self.deps.limits.patience;
        if self.unmet.stands(key, &stop.reason) < patience {
            return;
        }
        let reason = format!(
            "{}. No other partition has brought what it needs within {} s, and the records of another producer tell no order \
             over topics and partitions. Start apply again when what it needs is in the target, or apply without foreign key \
             checks (apply.replica_role)",
            stop.reason,
            patience.as_secs()
        );
        self.stop(&key.0, table, with_hint(reason, stop.hint));
    }

    /// A lane has moved: what waits for it, waits anew.
    pub(super) fn moved(&mut self, key: &TopicPartition) {
        if !self.unmet.is_empty() {
            self.unmet.moved(&self.deps.sink.related(&key.0));
        }
    }
}
