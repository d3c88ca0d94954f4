//! Ordering errors: which lanes the coordinator has applied together, and how long others may take to move on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    kafka::TopicPartition,
    lsn::Position,
    pipeline::apply::{
        coordinator::{Coordinator, RETRY_EVERY, with_hint},
        decode::Decode,
        dispatch::job_lane,
        job::How,
        lane::{Lane, State, Stop},
        work::JobLane,
    },
    progress::Progress,
    schema::TableName,
    sink::ledger::Stand,
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
            let untold: BTreeSet<_> = topics.iter().filter(|topic| self.is_untold(topic)).cloned().collect();
            let told = self.told();
            let lanes = self.lanes.iter_mut().filter(|(key, lane)| member(&topics, key, lane));
            let mut full = false;
            // What has no cut to reach goes in batches.
            let is_unmet = self.unmet.concerns(&topics);
            let bounds = (limits.batch_records, limits.batch_bytes);
            let (records, bytes) = if is_unmet { bounds } else { (usize::MAX, usize::MAX) };
            // What the last job had no room for comes first: in the same order it would never be seen.
            let mut lanes: Vec<_> = lanes.collect();
            lanes.sort_by_key(|(_, lane)| !lane.crowded);
            let chosen = lanes
                .into_iter()
                .map(|(_, lane)| {
                    full |= lane.paused;
                    let taken = lane.take(records, bytes);
                    let settled = if untold.contains(&lane.key().0) { told } else { lane.settled };
                    JobLane { settled, ..job_lane(lane, taken) }
                })
                .collect();
            self.spawn(chosen, How::Aligned { topics, full });
        }
    }

    /// Topics whose tables foreign keys tie to this topic's, itself included, also those that nothing was applied of yet and
    /// those that other processes apply.
    fn tied(&self, topic: &Arc<str>) -> BTreeSet<Arc<str>> {
        let known = self.deps.partition_counts.keys().chain(self.progress.offsets.keys()).map(String::as_str);
        let known: BTreeSet<&str> = known.chain(self.lanes.keys().map(|(name, _)| &**name)).collect();
        let is_of = |name: &str, table: &TableName| {
            (self.deps.table_of)(name).is_some_and(|source| self.deps.sink.target_of(&source) == *table)
        };
        let topic_of = |table: &TableName| known.iter().find(|name| is_of(name, table)).map(|name| Arc::from(*name));
        let mut topics = self.deps.sink.related(topic, &topic_of);
        topics.insert(Arc::clone(topic));
        topics
    }

    /// Those of them that may have something to bring.
    fn related(&self, topic: &Arc<str>) -> BTreeSet<Arc<str>> {
        let mut topics = self.tied(topic);
        topics.retain(|name| name == topic || !self.is_silent(name));
        topics
    }

    /// How far capture has come.
    const fn told(&self) -> Position {
        Position { epoch: self.progress.epoch, commit: self.progress.lsn, ordinal: 0 }
    }

    /// Whether capture does not tell of a topic. What was received of it is taken for all there is below where capture is: nothing
    /// says more, and the target refuses what is too early.
    pub(super) fn is_untold(&self, topic: &str) -> bool {
        let Progress { offsets, stopped, .. } = &self.progress;
        self.progress != Progress::default() && !offsets.contains_key(topic) && !stopped.contains_key(topic)
    }

    /// Whether such a topic has nothing to bring, as far as can be seen: nothing that was received of it is left, and capture
    /// has come beyond it.
    fn is_silent(&self, topic: &Arc<str>) -> bool {
        let all = self.told();
        let mut lanes = self.lanes.iter().filter(|((name, _), _)| name == topic).map(|(_, lane)| lane);
        self.is_untold(topic) && lanes.all(|lane| lane.bytes() == 0 && lane.mark < all)
    }

    /// Whether one of these topics waits for a lock at the target: what it has may help, and patience begins when it is let in.
    fn is_locked(&self, topics: &BTreeSet<Arc<str>>) -> bool {
        self.locked.keys().any(|(name, _)| topics.contains(name))
    }

    /// For how long a lane has stood, with events up to `until`, while nothing that may help it has moved.
    fn stands(&mut self, key: &TopicPartition, until: Option<Position>, reason: &str) -> Duration {
        let is_unread = self.tied(&key.0).iter().any(|topic| self.is_unread(topic, key));
        if is_unread || self.is_locked(&self.related(&key.0)) {
            self.conflicts.moved(key, (key, None), Position::default());
        }
        self.conflicts.stands(key, until, reason)
    }

    /// An ordering error: the table's lanes are aligned if they are all here, else the others get time to move on. Lanes that
    /// know no common cut need none to be tried together, so not all have to be here.
    pub(super) fn conflict(
        &mut self,
        key: &TopicPartition,
        table: Option<&str>,
        reason: &str,
        (by_offset, tried): (bool, Option<Position>),
    ) {
        let topics = self.related(&key.0);
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
        let patience = self.deps.limits.patience;
        if self.stands(key, tried, reason) < patience {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.state = State::Waits(Instant::now() + RETRY_EVERY * 5);
            }
            return;
        }
        let reason = format!(
            "{reason}. No partition that another process applies has come nearer within {} s. Apply all partitions of the tables \
             that depend on each other in one process.",
            patience.as_secs()
        );
        self.stop(&key.0, table, reason);
    }

    /// Up to a cut of the `tried` tables a table's events do not fit. It stops, unless more tables are known to be tied to it
    /// by now, or there may be some that capture has not told of yet.
    pub(super) fn unordered(
        &mut self,
        key: &TopicPartition,
        table: Option<&str>,
        stop: Stop,
        (cut, tried): (Position, &BTreeSet<Arc<str>>),
    ) {
        let is_told = self.progress == Progress::default() || self.told() >= cut;
        if self.related(&key.0).is_subset(tried) {
            if !is_told {
                let what = format!("capture's progress, which has to come to {cut}: {}", stop.reason);
                self.groups.waits_for(&key.0, what);
                return;
            }
            if let Some(unread) = self.tied(&key.0).into_iter().find(|topic| self.is_unread(topic, key)) {
                let reason = format!("{}; capture has still to read rows of topic {unread}", stop.reason);
                self.stands(key, Some(cut), &reason);
                self.try_again(key);
                return;
            }
            if let Some((topic, partition)) = self.behind(key) {
                let reason = format!(
                    "{}; partition {partition} of topic {topic} has records that were there before",
                    stop.reason
                );
                if self.stands(key, Some(cut), &reason) < self.deps.limits.patience {
                    self.try_again(key);
                    return;
                }
            }
            // What capture tells nothing of may still lie in Kafka, and be on its way.
            let is_whole = self.tied(&key.0).iter().all(|topic| tried.contains(topic) && !self.is_untold(topic));
            if is_whole || self.stands(key, Some(cut), &stop.reason) >= self.deps.limits.patience {
                let is_left = self.is_untold(&key.0);
                let reason = if is_left { self.left(&stop.reason) } else { with_hint(stop.reason, stop.hint) };
                self.stop(&key.0, table, reason);
                return;
            }
            self.try_again(key);
            return;
        }
        self.groups.dissolve(&key.0);
        self.conflict(key, table, &stop.reason, (false, None));
    }

    /// Another partition of the lane's table, or of one that is tied to it, that is not applied as far as it went when the lane stood first.
    fn behind(&mut self, key: &TopicPartition) -> Option<TopicPartition> {
        let topics = self.tied(&key.0);
        let Self { conflicts, lanes, observed, progress, .. } = self;
        let ends = || {
            let comes = |topic: &&Arc<str>| !progress.stopped.contains_key(&***topic);
            let of = |topic: &Arc<str>| progress.offsets.get(&**topic).cloned().unwrap_or_default();
            let places = |topic: Arc<str>| (0..).zip(of(&topic)).map(move |(n, end)| ((Arc::clone(&topic), n), end));
            topics.iter().filter(comes).cloned().flat_map(places).filter(|(place, _)| place != key).collect()
        };
        let applied = |place: &TopicPartition| match lanes.get(place) {
            Some(lane) if lane.state == State::Stopped => i64::MAX,
            Some(lane) => lane.stored.unwrap_or_default(),
            None => observed.get(place).and_then(|(next, _)| *next).unwrap_or_default(),
        };
        conflicts.behind(key, ends, applied)
    }

    /// A lane is tried again by itself, and others go on meanwhile.
    fn try_again(&mut self, key: &TopicPartition) {
        self.groups.dissolve(&key.0);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.state = State::Waits(Instant::now() + RETRY_EVERY * 5);
        }
    }

    /// Whether capture has still to read rows of a topic, or they may be on their way to a lane that receives while this one stands.
    fn is_unread(&self, topic: &Arc<str>, stands: &TopicPartition) -> bool {
        let mut lanes = self.lanes.iter().filter(|((name, _), _)| name == topic);
        // Nothing comes to a lane that is paused until this one goes on, if that is of the same table.
        let is_stuck = |lane: &Lane| lane.state == State::Stopped || lane.paused && lane.topic == stands.0;
        let is_coming = |lane: &Lane| !is_stuck(lane) && lane.is_unread();
        self.progress.unread.contains(&**topic) || lanes.any(|(_, lane)| is_coming(lane))
    }

    /// Why a table stops that capture has left.
    fn left(&self, reason: &str) -> String {
        format!(
            "{reason}. Capture does not tell of the topic any more, so that nothing says when what this needs has come, and nothing \
             has moved within {} s. Take the table into capture again with a new snapshot, or leave its topic out (apply.exclude).",
            self.deps.limits.patience.as_secs()
        )
    }

    /// Topics whose partitions may help lanes that wait.
    pub(super) fn observe(&self) -> BTreeSet<Arc<str>> {
        let topics: BTreeSet<&Arc<str>> =
            self.unmet.keys().chain(self.conflicts.keys()).map(|(topic, _)| topic).collect();
        topics.into_iter().flat_map(|topic| self.related(topic)).collect()
    }

    /// How far these partitions are by now: what waits for one that has moved, in whatever process, waits anew.
    pub(super) fn observed(&mut self, found: &[Stand]) {
        let now: BTreeMap<TopicPartition, _> = found
            .iter()
            .map(|stand| ((stand.topic.as_str().into(), stand.partition), (stand.next_offset, stand.mark)))
            .collect();
        let before = std::mem::replace(&mut self.observed, now);
        let from = |(key, stand): (&TopicPartition, _)| {
            before.get(key).filter(|then| *then != stand).map(|then| (key.clone(), *then))
        };
        let moved: Vec<(TopicPartition, (Option<i64>, Position))> = self.observed.iter().filter_map(from).collect();
        if moved.is_empty() {
            return;
        }
        let waiting: Vec<TopicPartition> = self.unmet.keys().chain(self.conflicts.keys()).cloned().collect();
        for key in waiting {
            let related = self.related(&key.0);
            let of_related = moved.iter().filter(|(other, _)| *other != key && related.contains(&other.0));
            for (other, (next, from)) in of_related {
                self.conflicts.moved(&key, (other, *next), *from);
                self.unmet.moved(&BTreeSet::from([Arc::clone(&key.0)]));
                tracing::trace!(topic = %key.0, partition = key.1, moved = %other.0, "a partition that may help has moved");
            }
        }
    }

    /// A lane stands at an event that only others can make fit. Its table stops when none of them has moved for long.
    pub(super) fn unmet(&mut self, key: &TopicPartition, table: Option<&str>, stop: Stop) {
        let patience = self.deps.limits.patience;
        if self.is_locked(&self.related(&key.0)) {
            self.unmet.moved(&BTreeSet::from([Arc::clone(&key.0)]));
        }
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
            let related = self.related(&key.0);
            self.unmet.moved(&related);
        }
    }
}
