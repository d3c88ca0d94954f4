//! What jobs report, and what that means for their lanes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    event::Gate,
    kafka::TopicPartition,
    lsn::Position,
    pipeline::apply::{
        coordinator::{Coordinator, RETRY_EVERY, with_hint},
        decode::Decode,
        error::Error,
        job::{How, JobReport},
        lane::{Parked, State},
        work::{Halt, LaneReport},
    },
    retry::Severity,
};

impl<D: Decode + 'static> Coordinator<D> {
    pub(super) fn finished(&mut self, report: JobReport<D>) -> Result<(), Error> {
        self.idle.push(report.worker);
        self.deps.metrics.batches.inc_by(report.batches);
        if let Some(error) = report.fatal {
            self.deps.metrics.errors.count(Severity::Fatal);
            return Err(error);
        }
        match report.trouble {
            Some(trouble) => {
                tracing::warn!(error = trouble, "applying failed, trying again");
                self.deps.metrics.errors.count(Severity::Transient);
                self.deps.health.retrying(trouble);
                self.rest_until = Some(Instant::now() + self.backoff.next_delay());
            }
            None if report.batches > 0 => {
                self.deps.health.recovered();
                self.backoff.reset();
            }
            None => {}
        }
        let tried = match report.how {
            How::Aligned { topics, .. } => topics,
            How::Optimistic => BTreeSet::new(),
        };
        if let Some(topic) = tried.first() {
            self.aligned(topic, &report.lanes);
        }
        self.entangled.learn(&report.lanes);
        let moved = report.lanes.iter().filter(|lane| lane.gone > 0).map(|lane| Arc::clone(&lane.key.0)).collect();
        for lane in report.lanes {
            self.returned(lane, &tried);
        }
        self.entangled.wake(&moved, &mut self.lanes);
        self.settle_revocations();
        self.regroup();
        Ok(())
    }

    /// A group is done with its work unless something of it waits. Where nothing came back there is nothing to wait with.
    fn aligned(&mut self, topic: &Arc<str>, lanes: &[LaneReport]) {
        let waits = |halt: &Halt| {
            matches!(
                halt,
                Halt::NoCut(_)
                    | Halt::Starved(_)
                    | Halt::Unmet(_)
                    | Halt::Unordered(..)
                    | Halt::Locked(_)
                    | Halt::Overtaken(_)
                    | Halt::Lost
                    | Halt::HalfMove
                    | Halt::Waits
            )
        };
        let all_gone = lanes.iter().all(|lane| lane.records.is_empty());
        if all_gone || !lanes.iter().any(|lane| lane.halt.as_ref().is_some_and(waits)) {
            self.groups.dissolve(topic);
        }
        if all_gone {
            return;
        }
        let last = lanes.iter().find_map(|lane| match &lane.halt {
            Some(Halt::NoCut(last)) => last.clone(),
            _ => None,
        });
        if lanes.iter().any(|lane| matches!(lane.halt, Some(Halt::Locked(_)))) {
            self.groups.rest(topic, self.deps.limits.locked_every);
        }
        if !lanes.iter().any(|lane| matches!(lane.halt, Some(Halt::NoCut(_) | Halt::Unordered(..)))) {
            self.groups.waits_no_more(topic);
        }
        if let Some((name, partition)) = last {
            let told = match () {
                () if self.progress.stopped.contains_key(&*name) => ", whose table capture has stopped",
                () if self.is_untold(&name) => ", and which capture does not tell of, but has to come beyond",
                () => "",
            };
            let what = format!("partition {partition} of topic {name}, which has come the least far{told}");
            self.groups.waits_for(topic, what);
        }
    }

    /// `tried` has the topics that were applied together.
    fn returned(&mut self, report: LaneReport, tried: &BTreeSet<Arc<str>>) {
        report.count(&self.deps.metrics);
        let key = report.key;
        if report.gone > 0 {
            self.moved(&key);
        }
        if !matches!(report.halt, Some(Halt::Unmet(_))) {
            self.unmet.forget(&key);
        }
        self.locked.remove(&key);
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.came(report.stored, report.mark);
        lane.delay_ms = report.delay_ms.unwrap_or(lane.delay_ms);
        lane.put_back(report.records, report.gone);
        lane.told = false;
        if self.stopped.contains_key(&key.0) {
            // Its table stopped meanwhile: whatever it met, it waits for nothing.
            lane.state = State::Stopped;
            lane.clear();
            self.waits_no_more(&key);
            return;
        }
        lane.state = State::Ready;
        lane.half_move = (report.halt == Some(Halt::HalfMove)).then_some(report.gone);
        lane.crowded = report.halt == Some(Halt::Full) && report.tried.is_none() && report.gone == 0;
        if !lane.crowded {
            self.starved.remove(&key);
        }
        if report.gone > 0 {
            self.conflicts.forget(&key);
        }
        match report.halt {
            None | Some(Halt::NoCut(_) | Halt::Full) => {}
            Some(Halt::Starved(reason)) => {
                self.starved.insert(key.clone(), reason);
            }
            Some(Halt::Locked(reason)) => {
                self.locked.insert(key.clone(), reason);
                self.rest(&key.0, self.deps.limits.locked_every);
            }
            Some(Halt::Barrier(parked)) => lane.state = State::Parked(parked),
            Some(Halt::Overtaken(parked)) => self.overtaken(&key.0, *parked),
            Some(Halt::Held(hold)) => {
                lane.state = State::Held(hold);
                self.hold = Some(hold);
            }
            Some(Halt::HalfMove | Halt::Waits) => lane.state = State::Waits(Instant::now() + RETRY_EVERY),
            Some(Halt::Lost) => lane.state = State::Lost,
            Some(Halt::Ordering(stop)) => {
                self.conflict(&key, report.table.as_deref(), &stop.reason, (report.by_offset, report.tried));
            }
            Some(Halt::Unordered(stop, cut)) => self.unordered(&key, report.table.as_deref(), stop, (cut, tried)),
            Some(Halt::Unmet(stop)) => self.unmet(&key, report.table.as_deref(), stop),
            Some(Halt::Stopped(stop)) => {
                self.stop(&key.0, report.table.as_deref(), with_hint(stop.reason, stop.hint));
            }
        }
    }

    /// A table's lanes are to go beyond the end of a resync without a sweep, since what makes their events fit comes behind it. They
    /// stand until the target knows of it: a sweep would take what they write beyond.
    fn overtaken(&mut self, topic: &Arc<str>, parked: Parked) {
        if self.lanes.iter().any(|((name, _), lane)| name == topic && lane.overtaken == Some(parked.at)) {
            // The target knows already; lanes that another process had in between do not.
            self.go_beyond(topic, parked.at);
            return;
        }
        if self.overtaken.insert(Arc::clone(topic), parked).is_none() {
            tracing::warn!(
                %topic,
                "rows that the source does not have stay in the table at the end of a resync: rows before it need what comes behind it in \
                 another table, which is there already; a new resync removes them"
            );
        }
    }

    /// The target knows that a table's lanes go beyond the end of a resync here.
    pub(super) fn goes_beyond(&mut self, topic: &Arc<str>, at: Position) {
        self.go_beyond(topic, at);
        let parked = self.overtaken.get(topic).filter(|parked| parked.at == at);
        if let Some(Gate::Sweep(sweep)) = parked.map(|parked| &parked.gate) {
            self.deps.sink.note_no_more(topic, sweep.resync);
            self.overtaken.remove(topic);
        }
    }

    fn go_beyond(&mut self, topic: &Arc<str>, at: Position) {
        for ((name, _), lane) in &mut self.lanes {
            if name == topic {
                lane.overtaken = Some(at);
            }
        }
    }

    /// Forgets what a lane waits for.
    pub(super) fn waits_no_more(&mut self, key: &TopicPartition) {
        self.starved.remove(key);
        self.locked.remove(key);
        self.unmet.forget(key);
        self.conflicts.forget(key);
    }

    /// The free lanes of a topic are not tried for so long: all of them meet the lock that one of them has met.
    fn rest(&mut self, topic: &Arc<str>, period: Duration) {
        let until = Instant::now() + period;
        for ((name, _), lane) in &mut self.lanes {
            if name == topic && matches!(lane.state, State::Ready | State::Waits(_)) {
                lane.state = State::Waits(until);
            }
        }
    }

    /// Stops a table for good: its lanes drop what they have, nothing of it is lost in Kafka.
    pub(super) fn stop(&mut self, topic: &Arc<str>, table: Option<&str>, reason: String) {
        if self.stopped.contains_key(topic) {
            return;
        }
        tracing::error!(%topic, reason, "table is stopped");
        self.deps.metrics.errors.count(Severity::Definite);
        self.deps.health.stop_table(table.unwrap_or(topic), reason.clone());
        self.stopped.insert(Arc::clone(topic), reason);
        for ((name, _), lane) in &mut self.lanes {
            if name == topic && lane.state != State::Busy {
                lane.state = State::Stopped;
                lane.told = false;
                lane.clear();
            }
        }
        // The others need no cut with it any more.
        self.groups.dissolve(topic);
        self.starved.retain(|(name, _), _| name != topic);
        self.locked.retain(|(name, _), _| name != topic);
        self.unmet.forget_topic(topic);
        self.conflicts.forget_topic(topic);
    }
}
