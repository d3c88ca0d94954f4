//! What the control session and the cluster have found out, and what that means for the lanes.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use crate::{
    kafka::{self, StartOffset, TopicPartition},
    lsn::Position,
    pipeline::apply::{
        control::Findings,
        coordinator::{Assignment, Coordinator, with_hint},
        decode::Decode,
        error::Error,
        identity::Ids,
        lane::{Lane, State},
    },
    retry::{Classify as _, Severity, chain},
    sink::{self, barrier::Awaited},
};

impl<D: Decode + 'static> Coordinator<D> {
    /// What the cluster says of topics; nothing is claimed before it has said it.
    pub(super) fn identified(&mut self, answer: Result<Ids, kafka::Error>) -> Result<(), Error> {
        match answer {
            Ok(ids) => self.watch.take(ids),
            Err(error)
                if error.hidden_topic().is_some_and(|topic| !self.lanes.keys().any(|(name, _)| **name == *topic)) =>
            {
                self.watch.hide(error.hidden_topic().unwrap_or_default());
            }
            Err(error) if error.severity() != Severity::Transient => return Err(error.into()),
            Err(error) => {
                if !self.assignments.is_empty() {
                    self.deps.health.retrying(chain(&error));
                }
                tracing::debug!(error = chain(&error), "the ids of topics cannot be read");
                self.watch.hurry();
            }
        }
        Ok(())
    }

    pub(super) fn found(&mut self, outcome: Result<Findings, sink::Error>) -> Result<(), Error> {
        let findings = match outcome {
            Ok(findings) => findings,
            Err(error) => {
                self.control_session = None;
                self.deps.metrics.errors.count(error.severity());
                if error.severity() != Severity::Transient {
                    return Err(error.into());
                }
                self.deps.health.retrying(chain(&error));
                self.control_due = Instant::now() + self.control_backoff.next_delay();
                return Ok(());
            }
        };
        self.control_backoff.reset();
        for lane in &findings.astray {
            let key = (Arc::from(&*lane.topic), lane.partition);
            match &lane.owner {
                Some(owner) => self.fenced(&key, owner),
                None => return Err(went_back(&key)),
            }
        }
        // an idle apply has no job that could tell that the trouble is over
        if self.jobs.is_empty() && self.rest_until.is_none_or(|until| until <= Instant::now()) {
            self.deps.health.recovered();
        }
        self.hold = findings.hold;
        self.observed(&findings.observed);
        if let Some((number, others)) = &findings.identified {
            self.compared = *number;
            for error in others {
                let topic = Arc::from(error.topic().unwrap_or_default());
                self.stop(&topic, None, with_hint(chain(error), error.hint()));
            }
        }
        self.answer(&findings);
        let (asked, claims) = &findings.reclaimed;
        for key in asked {
            let claim = claims.iter().find(|claim| claim.topic == *key.0 && claim.partition == key.1);
            match (self.lanes.get_mut(key), claim) {
                (Some(lane), Some(claim)) if lane.has_gone_back(claim) => return Err(went_back(key)),
                // One whose table stopped meanwhile needs its new generation to say so.
                (Some(lane), Some(claim)) if matches!(lane.state, State::Lost | State::Stopped) => {
                    lane.reclaimed(claim);
                    if self.stopped.contains_key(&key.0) {
                        lane.state = State::Stopped;
                        lane.clear();
                    }
                    // What was made for its shapes may be lost too.
                    self.deps.sink.forget_plans(&key.0);
                }
                _ => {}
            }
        }
        for key in &findings.fenced {
            // Who has it, or where it is, a new session finds out.
            self.control_session = None;
            if let Some(lane) = self.lanes.get_mut(key)
                && lane.state != State::Busy
            {
                lane.state = State::Lost;
            }
        }
        for key in findings.parked.iter().chain(&findings.stopped) {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.told = true;
            }
        }
        for (topic, at) in &findings.overtaken {
            self.goes_beyond(topic, *at);
        }
        for (key, held) in findings.held {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.told_held = held;
            }
        }
        for (key, at, next_offset) in findings.passed {
            self.passed(&key, at, next_offset);
        }
        for (key, error) in findings.refused {
            let reason = format!("topic {}, partition {}: {}", key.0, key.1, chain(&error));
            let table = match self.lanes.get(&key).map(|lane| &lane.state) {
                Some(State::Parked(parked)) => parked.table.as_ref().map(ToString::to_string),
                _ => None,
            };
            self.stop(&key.0, table.as_deref(), with_hint(reason, error.hint()));
        }
        self.waits_for(findings.awaited);
        Ok(())
    }

    /// Partitions come by themselves; a stopped table needs somebody.
    fn waits_for(&mut self, awaited: BTreeSet<Awaited>) {
        for stopped in awaited.difference(&self.awaited).filter(|one| matches!(one, Awaited::Stopped(..))) {
            tracing::warn!("a barrier waits for {stopped}");
        }
        self.awaited = awaited;
    }

    /// Answers the assignment whose partitions were claimed.
    fn answer(&mut self, findings: &Findings) {
        let claimed = |assignment: &Assignment| {
            assignment.partitions.iter().all(|(topic, partition)| {
                !self.is_applied(topic)
                    || findings.assigned.iter().any(|claim| *claim.topic == **topic && claim.partition == *partition)
            })
        };
        if !self.assignments.front().is_some_and(claimed) {
            return;
        }
        let Some(assignment) = self.assignments.pop_front() else { return };
        if !assignment.partitions.iter().any(|(topic, _)| self.is_progress(topic)) {
            self.deps.health.set_phase("applying");
            self.deps.health.set_started();
        }
        let mut starts = Vec::with_capacity(assignment.partitions.len());
        for key in assignment.partitions {
            let claim = findings.assigned.iter().find(|claim| claim.topic == *key.0 && claim.partition == key.1);
            let start = match claim.and_then(|claim| claim.next_offset) {
                // Nothing of it is taken, wherever it begins.
                _ if !self.is_applied(&key.0) || self.stopped.contains_key(&key.0) => StartOffset::Oldest,
                Some(offset) => StartOffset::At(offset),
                None => StartOffset::Earliest,
            };
            if self.is_applied(&key.0) || self.is_progress(&key.0) {
                // What an earlier owner of the partition in this process has paused is fetched again.
                self.deps.flow.resume(vec![key.clone()]);
            } else {
                self.deps.flow.pause(vec![key.clone()]);
            }
            if let Some(claim) = claim {
                let mut lane = Lane::new(Arc::clone(&key.0), claim);
                lane.progress(&self.progress);
                if self.stopped.contains_key(&key.0) {
                    lane.state = State::Stopped;
                }
                self.lanes.insert(key.clone(), lane);
                self.fenced.remove(&key);
            }
            starts.push((key, start));
        }
        // The consumer may be gone already; then so is the need for an answer.
        let _gone = assignment.reply.send(starts);
    }

    /// Another process has the partition, although it was given to this one: nothing more is done with it here.
    fn fenced(&mut self, key: &TopicPartition, owner: &str) {
        if self.lanes.get(key).is_some_and(|lane| lane.state != State::Busy) {
            tracing::warn!(topic = %key.0, partition = key.1, owner, "partition was taken over by another process");
            self.deps.flow.pause(vec![key.clone()]);
            self.lanes.remove(key);
            self.groups.dissolve(&key.0);
            self.waits_no_more(key);
            self.deps.metrics.revoked(&key.0, key.1);
            self.fenced.insert(key.clone(), owner.to_owned());
        }
    }

    fn passed(&mut self, key: &TopicPartition, at: Position, next_offset: i64) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        match &lane.state {
            State::Parked(parked) if parked.at == at => {}
            // It joined its group meanwhile.
            State::Aligning if lane.mark < at => {}
            _ => return,
        }
        lane.beyond(at, next_offset);
        self.deps.metrics.applied(&key.0, key.1, lane.mark, next_offset);
    }
}

fn went_back((topic, partition): &TopicPartition) -> Error {
    Error::WentBack { topic: topic.to_string(), partition: *partition }
}
