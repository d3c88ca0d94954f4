//! The coordinator: owns the lanes, gives jobs to workers and orders to the control session, and does no I/O itself.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::{
    kafka::{ConsumedRecord, ConsumerEvent, StartOffset, TopicPartition},
    lsn::{Lsn, Position},
    pipeline::apply::{
        conflicts::Conflicts,
        control::{Findings, Orders, carry_out},
        decode::Decode,
        deps::{Deps, TopicIds},
        entangled::Entangled,
        error::Error,
        groups::Groups,
        identity::Watch,
        job::{JobReport, Worker},
        lane::{Lane, Parked, State},
        pressure::balance,
        siblings,
        unmet::Unmet,
    },
    progress::Progress,
    retry::Backoff,
    sink::{self, Session, barrier::Awaited},
};

type Reply = oneshot::Sender<Vec<(TopicPartition, StartOffset)>>;

/// An assignment that waits for its claim.
pub(super) struct Assignment {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) reply: Reply,
    /// Number of the first answer of the cluster that tells the ids of its topics as they are by then.
    needs: u64,
}

/// The control session and its outcome.
type ControlOutcome = (Option<Session>, Result<Findings, sink::Error>);

/// See the module.
pub struct Coordinator<D> {
    pub(super) deps: Deps<D>,
    pub(super) lanes: BTreeMap<TopicPartition, Lane>,
    pub(super) idle: Vec<Worker<D>>,
    pub(super) jobs: JoinSet<JobReport<D>>,
    control: JoinSet<ControlOutcome>,
    pub(super) control_session: Option<Session>,
    pub(super) control_due: Instant,
    pub(super) control_backoff: Backoff,
    pub(super) assignments: VecDeque<Assignment>,
    pub(super) watch: Watch,
    /// Number of the last answer about topics that was compared.
    pub(super) compared: u64,
    revoked: Vec<(Vec<TopicPartition>, oneshot::Sender<()>)>,
    pub(super) groups: Groups,
    pub(super) entangled: Entangled,
    pub(super) stopped: BTreeMap<Arc<str>, String>,
    pub(super) conflicts: Conflicts,
    /// How far partitions were that may help waiting lanes, in whatever process.
    pub(super) observed: BTreeMap<TopicPartition, (Option<i64>, Position)>,
    pub(super) unmet: Unmet,
    /// Lanes whose table somebody locks, and what the server said.
    pub(super) locked: BTreeMap<TopicPartition, String>,
    /// Lanes whose ordering error no cut within the memory solves.
    pub(super) starved: BTreeMap<TopicPartition, String>,
    /// Partitions that other processes have taken over, and which, until these are revoked or assigned again.
    pub(super) fenced: BTreeMap<TopicPartition, String>,
    /// What barriers wait for.
    pub(super) awaited: BTreeSet<Awaited>,
    /// Topics whose tables go beyond the end of a resync without a sweep, which the target is not told yet.
    pub(super) overtaken: BTreeMap<Arc<str>, Parked>,
    pub(super) hold: Option<Lsn>,
    pub(super) backoff: Backoff,
    pub(super) rest_until: Option<Instant>,
    pub(super) progress: Progress,
}

/// How often things are looked at that nobody announces.
const TICK: Duration = Duration::from_millis(20);
/// How often the hold is read and barriers are asked for.
const CONTROL_EVERY: Duration = Duration::from_millis(100);
/// How often a lane or a group tries again.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(100);

impl<D: Decode + 'static> Coordinator<D> {
    /// Makes sure that the bookkeeping is there.
    pub async fn start(deps: Deps<D>) -> Result<Self, Error> {
        let session = Session::connect(&deps.sink).await?;
        deps.sink.ledger().ensure(session.client()).await?;
        sink::resyncs::drop_ended(session.client(), deps.sink.ledger()).await?;
        if let Some(explicit) = &deps.explicit {
            siblings::gather(&session, &deps.sink, explicit, &deps.partition_counts, &deps.health).await?;
        }
        let workers = deps.limits.workers.max(1);
        let idle = (0..workers).map(|_| Worker { session: None, decoder: (deps.decoder)() }).collect();
        deps.health.set_phase("waiting for partitions");
        let watch = Watch::new(TopicIds::clone(&deps.topic_ids));
        let applied = deps.sink.ledger().topics(session.client()).await?;
        let mut coordinator = Self {
            deps,
            lanes: BTreeMap::new(),
            idle,
            jobs: JoinSet::new(),
            control: JoinSet::new(),
            control_session: Some(session),
            control_due: Instant::now(),
            control_backoff: Backoff::new(),
            assignments: VecDeque::new(),
            watch,
            compared: 0,
            revoked: Vec::new(),
            groups: Groups::default(),
            entangled: Entangled::default(),
            stopped: BTreeMap::new(),
            conflicts: Conflicts::default(),
            observed: BTreeMap::new(),
            unmet: Unmet::default(),
            locked: BTreeMap::new(),
            starved: BTreeMap::new(),
            fenced: BTreeMap::new(),
            awaited: BTreeSet::new(),
            overtaken: BTreeMap::new(),
            hold: None,
            backoff: Backoff::new(),
            rest_until: None,
            progress: Progress::default(),
        };
        coordinator.expect(applied);
        Ok(coordinator)
    }

    /// Topics of which something was applied are missed when they are gone: nobody is given their partitions then.
    fn expect(&mut self, applied: Vec<String>) {
        let is_ours = |topic: &String| match &self.deps.explicit {
            Some(explicit) => explicit.partitions.iter().any(|(listed, _)| listed == topic),
            None => self.is_applied(topic),
        };
        let ours: Vec<String> = applied.into_iter().filter(is_ours).collect();
        self.watch.add(ours.into_iter());
    }

    /// The loop.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let mut shutdown = pin!(shutdown);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                event = self.deps.events.recv() => self.consumed(event.ok_or(Error::ConsumerEnded)?)?,
                Some(report) = self.jobs.join_next() => self.finished(report?)?,
                Some(outcome) = self.control.join_next() => {
                    let (session, outcome) = outcome?;
                    self.control_session = session;
                    self.found(outcome)?;
                }
                Some(answer) = self.watch.answered() => self.identified(answer?)?,
                _ = tick.tick() => self.look_around(),
            }
            self.order();
            self.dispatch();
        }
        while let Some(report) = self.jobs.join_next().await {
            self.finished(report?)?;
        }
        Ok(())
    }

    fn consumed(&mut self, event: ConsumerEvent) -> Result<(), Error> {
        match event {
            // Capture tells its progress also when nothing changes, so silence means that it or Kafka is not there (trap T74).
            ConsumerEvent::Records { records, permit } => {
                self.deps.health.heard();
                self.enqueue(records, permit);
            }
            ConsumerEvent::Assigned { partitions, reply } => self.assigned(partitions, reply),
            ConsumerEvent::Revoked { partitions, done } => self.revoke(partitions, done),
            ConsumerEvent::Missing => self.watch.hurry(),
            ConsumerEvent::Idle => {}
            ConsumerEvent::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn enqueue(&mut self, records: Vec<ConsumedRecord>, mut permit: OwnedSemaphorePermit) {
        let progress_topic = self.deps.progress_topic.clone();
        for record in records {
            if progress_topic.as_deref() == Some(&*record.topic) {
                self.progressed(&record);
                continue;
            }
            let Some(lane) = self.lanes.get_mut(&(Arc::clone(&record.topic), record.partition)) else { continue };
            if lane.state == State::Stopped {
                continue;
            }
            let share = permit.split(record.size().min(permit.num_permits()));
            lane.push(record, share);
        }
    }

    fn progressed(&mut self, record: &ConsumedRecord) {
        let Some(value) = &record.value else { return };
        let progress = match Progress::parse(value) {
            Ok(progress) => progress,
            Err(error) => {
                tracing::warn!(%error, topic = %record.topic, offset = record.offset, "progress record is not readable");
                return;
            }
        };
        for lane in self.lanes.values_mut() {
            lane.progress(&progress);
        }
        self.progress = progress;
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>, reply: Reply) {
        let data = partitions.iter().filter(|(topic, _)| self.is_applied(topic)).map(|(topic, _)| topic.to_string());
        let topics: BTreeSet<String> = data.collect();
        let needs = if topics.is_empty() { 0 } else { self.watch.add(topics.into_iter()) };
        self.assignments.push_back(Assignment { partitions, reply, needs });
        self.control_due = Instant::now();
    }

    fn revoke(&mut self, partitions: Vec<TopicPartition>, done: oneshot::Sender<()>) {
        self.revoked.push((partitions, done));
        self.settle_revocations();
    }

    /// Lets go of revoked lanes that are in no job, and answers when none is left.
    pub(super) fn settle_revocations(&mut self) {
        let mut open = Vec::new();
        for (partitions, done) in std::mem::take(&mut self.revoked) {
            let mut busy = false;
            for key in &partitions {
                if self.lanes.get(key).is_some_and(|lane| lane.state == State::Busy) {
                    busy = true;
                } else {
                    self.let_go(key);
                }
            }
            if busy {
                open.push((partitions, done));
            } else {
                let _gone = done.send(());
            }
        }
        self.revoked = open;
    }

    pub(super) fn is_revoked(&self, key: &TopicPartition) -> bool {
        self.revoked.iter().any(|(partitions, _)| partitions.contains(key))
    }

    fn let_go(&mut self, key: &TopicPartition) {
        self.fenced.remove(key);
        if let Some(lane) = self.lanes.remove(key) {
            if lane.paused {
                self.deps.flow.resume(vec![key.clone()]);
            }
            // A cut of some of a table's lanes is none: its other lane goes on elsewhere.
            self.groups.dissolve(&key.0);
            self.waits_no_more(key);
            self.deps.metrics.revoked(&key.0, key.1);
        }
    }

    /// What time brings: lanes that try again, lanes whose hold is gone, back-pressure, the shown lag.
    fn look_around(&mut self) {
        let now = Instant::now();
        let hold = self.hold;
        for lane in self.lanes.values_mut() {
            match lane.state {
                State::Waits(until) if until <= now => lane.state = State::Ready,
                State::Held(at) if hold != Some(at) => lane.state = State::Ready,
                _ => {}
            }
        }
        self.regroup();
        self.balance();
        self.watch.look();
        self.show();
    }

    /// Tells the consumer which lanes are to be paused or go on.
    fn balance(&mut self) {
        let (pause, resume) = balance(&mut self.lanes, self.deps.limits.budget_bytes);
        if !pause.is_empty() {
            self.deps.flow.pause(pause);
        }
        if !resume.is_empty() {
            self.deps.flow.resume(resume);
        }
    }

    fn show(&self) {
        let bytes: usize = self.lanes.values().map(Lane::bytes).sum();
        self.deps.metrics.queue_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let behind = self.lanes.values().filter_map(Lane::behind_since).min();
        match behind {
            Some(since) => self.deps.health.behind_since(since),
            None => self.deps.health.caught_up(),
        }
        let starved = self.starved.values().map(|reason| {
            format!("an event waits for what other partitions bring, which does not fit into apply.memory: {reason}")
        });
        let locked = self.locked.iter().map(|((topic, n), reason)| {
            let every = self.deps.limits.locked_every.as_secs();
            format!("topic {topic}, partition {n}, waits for a lock at the target, and tries every {every} s: {reason}")
        });
        let absent = self.awaited.iter().map(|awaited| format!("a barrier waits for {awaited}"));
        let fenced = self.fenced.iter().map(|((topic, n), owner)| {
            format!("topic {topic}, partition {n}, is this process's and was taken over by {owner}: end one of the two")
        });
        self.deps.health.waits_for(
            starved
                .chain(locked)
                .chain(self.unmet.reasons())
                .chain(self.conflicts.reasons())
                .chain(self.groups.reasons())
                .chain(absent)
                .chain(fenced)
                .chain(self.watch.reasons())
                .collect(),
        );
    }

    /// Gives the control session its orders, if it is free and something is due.
    fn order(&mut self) {
        if !self.control.is_empty() || Instant::now() < self.control_due {
            return;
        }
        self.control_due = Instant::now() + CONTROL_EVERY;
        // A lane is claimed again where new connections go, and after a look at what became of the others.
        let is_old =
            |session: &Session| session.is_closed() || self.lanes.values().any(|lane| lane.state == State::Lost);
        if self.control_session.as_ref().is_some_and(is_old) {
            self.control_session = None;
        }
        let (mut orders, fresh) = (Orders::default(), self.control_session.is_none());
        let answer = self.watch.answer.clone();
        if let Some(assignment) = self.assignments.front().filter(|assignment| assignment.needs <= answer.number) {
            let data = assignment.partitions.iter().filter(|(topic, _)| self.is_applied(topic));
            orders.assign = data.map(|(topic, partition)| (topic.to_string(), *partition)).collect();
        }
        if answer.number > self.compared || !orders.assign.is_empty() {
            orders.identify = Some((answer, self.lanes.values().map(|lane| lane.owned.clone()).collect()));
        }
        if fresh || orders.identify.is_some() {
            orders.compare = self.lanes.values().map(Lane::standing).collect();
        }
        orders.of_lanes(self.lanes.iter(), self.hold, &self.stopped, fresh);
        orders.announce = self.deps.explicit.as_ref().map_or_else(Vec::new, |explicit| explicit.partitions.clone());
        orders.withheld.clone_from(&self.progress.stopped);
        orders.overtaken.clone_from(&self.overtaken);
        orders.observe = self.observe();
        let mut session = self.control_session.take();
        let (sink, table_of) = (Arc::clone(&self.deps.sink), Arc::clone(&self.deps.table_of));
        self.control.spawn(async move {
            let outcome = carry_out(&mut session, &sink, &*table_of, orders).await;
            (session, outcome)
        });
    }

    pub(super) fn is_progress(&self, topic: &str) -> bool {
        self.deps.progress_topic.as_deref() == Some(topic)
    }

    /// Whether the topic's partitions become lanes: a subscription's patterns may match more topics than are wanted, and
    /// explicit partitions are wanted by their names.
    pub(super) fn is_applied(&self, topic: &str) -> bool {
        !self.is_progress(topic) && (self.deps.explicit.is_some() || (self.deps.table_of)(topic).is_some())
    }
}

pub(super) fn with_hint(reason: String, hint: Option<String>) -> String {
    hint.map_or_else(|| reason.clone(), |hint| format!("{reason}. {hint}"))
}
