//! The control session: claims, barriers, the hold, and what other processes and `verify` are told of lanes.
//!
//! Its orders can be carried out again without harm, so after an error the coordinator simply gives them again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    event::Gate,
    kafka::TopicPartition,
    lsn::{Lsn, Position},
    pipeline::apply::{
        deps::TableOf,
        identity::Answer,
        lane::{Lane, Parked, State},
    },
    retry::{Classify as _, Severity},
    sink::{
        self, Session, Sink,
        barrier::{Awaited, Gathering, Others, gather, leave, pass},
        history::{Astray, astray},
        ledger::{Claim, Owned, Stand, Standing},
        siblings,
    },
};

/// A lane as the control session needs it.
#[derive(Clone, Debug)]
pub struct LaneRef {
    /// Topic and partition.
    pub key: TopicPartition,
    /// The claim, and how far it is.
    pub standing: Standing,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Orders {
    /// Explicit partitions, which a new connection announces.
    pub announce: Vec<(String, i32)>,
    /// Lanes whose rows are to be where the process has left them.
    pub compare: Vec<Standing>,
    /// Partitions to claim.
    pub assign: Vec<(String, i32)>,
    /// What the cluster said of topics, where it was not compared yet, and lanes to compare beside the claimed ones.
    pub identify: Option<(Answer, Vec<Owned>)>,
    /// Lanes to claim again in their own generation.
    pub reclaim: Vec<LaneRef>,
    /// Lanes at a barrier, and whether the target knows it.
    pub parked: Vec<(LaneRef, Parked, bool)>,
    /// Topics whose tables capture has stopped, and where.
    pub withheld: BTreeMap<String, Position>,
    /// Topics whose tables go beyond the end of a resync without a sweep.
    pub overtaken: BTreeMap<Arc<str>, Parked>,
    /// Lanes that stand at the hold (`None`: no more).
    pub held: Vec<(LaneRef, Option<Lsn>)>,
    /// Lanes that have stopped.
    pub stopped: Vec<(LaneRef, String)>,
    /// Topics whose partitions are looked at, whoever has them.
    pub observe: BTreeSet<Arc<str>>,
}

impl Orders {
    /// Adds what the lanes' standing demands. `stopped` has the reasons of stopped topics; a `fresh` session is told what
    /// an earlier one was told: the target may have forgotten it.
    pub fn of_lanes<'a>(
        &mut self,
        lanes: impl Iterator<Item = (&'a TopicPartition, &'a Lane)>,
        hold: Option<Lsn>,
        stopped: &BTreeMap<Arc<str>, String>,
        fresh: bool,
    ) {
        for (key, lane) in lanes {
            let reference = LaneRef { key: key.clone(), standing: lane.standing() };
            let told = lane.told && !fresh;
            let holds = hold.filter(|hold| lane.stands_at(*hold));
            match &lane.state {
                State::Lost => self.reclaim.push(reference),
                State::Stopped if !told => {
                    let reason = stopped.get(&key.0).cloned().unwrap_or_default();
                    self.stopped.push((reference, reason));
                }
                State::Busy | State::Stopped => {}
                state => {
                    if holds != lane.told_held || fresh && holds.is_some() {
                        self.held.push((reference.clone(), holds));
                    }
                    if let State::Parked(parked) = state {
                        self.parked.push((reference, Parked::clone(parked), told));
                    }
                }
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Findings {
    /// Lanes whose rows are not where the process has left them.
    pub astray: Vec<Astray>,
    /// The claims of `assign`.
    pub assigned: Vec<Claim>,
    /// Number of the cluster's answer that was compared, and the topics that are not the recorded ones.
    pub identified: Option<(u64, Vec<sink::Error>)>,
    /// Which lanes were to be claimed again, and the claims of those that are still this process's.
    pub reclaimed: (Vec<TopicPartition>, Vec<Claim>),
    /// Lanes whose barrier is known to the target.
    pub parked: Vec<TopicPartition>,
    /// Lanes that are beyond their barrier.
    pub passed: Vec<(TopicPartition, Position, i64)>,
    /// Lanes whose hold is known to the target.
    pub held: Vec<(TopicPartition, Option<Lsn>)>,
    /// Lanes whose stop is known to the target.
    pub stopped: Vec<TopicPartition>,
    /// Lanes that are fenced.
    pub fenced: Vec<TopicPartition>,
    /// What barriers wait for.
    pub awaited: BTreeSet<Awaited>,
    /// Topics of which the target knows that they go beyond the end of a resync without a sweep, and where that is.
    pub overtaken: Vec<(Arc<str>, Position)>,
    /// Lanes whose table the target refuses to empty, or another topic owns, and why.
    pub refused: Vec<(TopicPartition, sink::Error)>,
    /// The hold.
    pub hold: Option<Lsn>,
    /// How far the partitions of the observed topics are.
    pub observed: Vec<Stand>,
}

/// Carries orders out on one connection, which is made if there is none: then `orders` compare all lanes.
pub async fn carry_out(
    slot: &mut Option<Session>,
    sink: &Sink,
    table_of: &TableOf,
    orders: Orders,
) -> Result<Findings, sink::Error> {
    let session = match slot {
        Some(session) => session,
        None => {
            let session = Session::connect(sink).await?;
            siblings::announce(session.client(), sink.ledger(), &orders.announce).await?;
            slot.insert(session)
        }
    };
    with_session(session, sink, table_of, orders).await
}

async fn with_session(
    session: &Session,
    sink: &Sink,
    table_of: &TableOf,
    orders: Orders,
) -> Result<Findings, sink::Error> {
    let (client, ledger) = (session.client(), sink.ledger());
    let mut findings = Findings {
        astray: astray(client, ledger, &sink.settings().owner, &orders.compare).await?,
        ..Findings::default()
    };
    if findings.astray.iter().any(|lane| lane.owner.is_none()) {
        return Ok(findings);
    }
    findings.hold = ledger.hold(client).await?;
    let observe: Vec<&str> = orders.observe.iter().map(|topic| &**topic).collect();
    findings.observed = ledger.standings(client, &observe).await?;
    claims(session, sink, &orders, &mut findings).await?;
    identities(session, sink, &orders, &mut findings).await?;
    for (lane, reason) in orders.stopped {
        let told = sink.ledger().set_stopped(session.client(), &lane.standing, &reason).await;
        note(told, &lane, &mut findings.fenced, || findings.stopped.push(lane.key.clone()))?;
    }
    for (topic, parked) in orders.overtaken {
        if leave(session.client(), sink.ledger(), parked.at, &parked.gate, &topic).await? {
            findings.overtaken.push((topic, parked.at));
        }
    }
    let target = |topic: &str| table_of(topic).map(|source| sink.target_of(&source));
    let others = Others { target: &target, withheld: &orders.withheld };
    barriers(session, sink, others, orders.parked, &mut findings).await?;
    for (lane, held) in orders.held {
        let told = sink.ledger().set_held(session.client(), &lane.standing, held).await;
        note(told, &lane, &mut findings.fenced, || findings.held.push((lane.key.clone(), held)))?;
    }
    Ok(findings)
}

async fn claims(session: &Session, sink: &Sink, orders: &Orders, findings: &mut Findings) -> Result<(), sink::Error> {
    if !orders.assign.is_empty() {
        let topics: Vec<String> = orders.assign.iter().map(|(topic, _)| topic.clone()).collect();
        let take_over = sink.settings().take_over;
        sink.ledger().settle_owners(session.client(), &topics, |source| sink.target_of(source), take_over).await?;
        findings.assigned = session.claim(sink, &orders.assign, None).await?;
    }
    if !orders.reclaim.is_empty() {
        let partitions: Vec<_> = orders.reclaim.iter().map(|lane| (lane.key.0.to_string(), lane.key.1)).collect();
        let generations: Vec<i64> = orders.reclaim.iter().map(|lane| lane.standing.lane.generation).collect();
        let claims = session.claim(sink, &partitions, Some(&generations)).await?;
        findings.reclaimed = (orders.reclaim.iter().map(|lane| lane.key.clone()).collect(), claims);
    }
    Ok(())
}

async fn identities(
    session: &Session,
    sink: &Sink,
    orders: &Orders,
    findings: &mut Findings,
) -> Result<(), sink::Error> {
    let Some((answer, lanes)) = &orders.identify else { return Ok(()) };
    let (client, ledger) = (session.client(), sink.ledger());
    let claimed: Vec<Owned> = findings.assigned.iter().map(Owned::from).collect();
    let mut others = ledger.identify(client, lanes, &answer.ids, false).await?;
    others.extend(ledger.identify(client, &claimed, &answer.ids, true).await?);
    findings.identified = Some((answer.number, others));
    Ok(())
}

async fn barriers(
    session: &Session,
    sink: &Sink,
    others: Others<'_>,
    parked: Vec<(LaneRef, Parked, bool)>,
    findings: &mut Findings,
) -> Result<(), sink::Error> {
    let (client, ledger) = (session.client(), sink.ledger());
    let mut gathered: BTreeMap<(Position, Arc<str>), Gathering> = BTreeMap::new();
    for (lane, parked, told) in &parked {
        if !told {
            let registered = register(session, sink, lane, parked).await;
            if refuse(registered, lane, &mut findings.refused)? != Some(true) {
                continue;
            }
            let written = ledger.set_parked(client, &lane.standing, parked.at).await;
            note(written, lane, &mut findings.fenced, || findings.parked.push(lane.key.clone()))?;
        }
    }
    for (lane, parked, _) in parked {
        let is_refused = findings.refused.iter().any(|(key, _)| key.0 == lane.key.0);
        if is_refused || findings.fenced.contains(&lane.key) {
            continue;
        }
        let key = (parked.at, Arc::clone(&lane.key.0));
        // What one table of it waits for the others do not have to meet too.
        let is_locked = |((at, _), gathering): (&(Position, Arc<str>), &Gathering)| {
            *at == parked.at
                && matches!(gathering, Gathering::Waits(awaited) if awaited.iter().any(|one| matches!(one, Awaited::Lock(_))))
        };
        if gathered.iter().any(is_locked) {
            continue;
        }
        if !gathered.contains_key(&key) {
            let gathering = gather(client, ledger, parked.at, &parked.gate, &lane.key.0, others).await;
            let Some(gathering) = refuse(gathering, &lane, &mut findings.refused)? else { continue };
            if let Gathering::Waits(awaited) = &gathering {
                findings.awaited.extend(awaited.iter().cloned());
            }
            gathered.insert(key.clone(), gathering);
        }
        match gathered.get(&key) {
            Some(Gathering::Passed) => {
                let passed = pass(client, ledger, &lane.standing, parked.at, parked.offset + 1).await;
                let beyond = (lane.key.clone(), parked.at, parked.offset + 1);
                note(passed, &lane, &mut findings.fenced, || findings.passed.push(beyond))?;
            }
            Some(Gathering::Waits(_) | Gathering::Held) | None => {}
        }
    }
    Ok(())
}

/// Makes sure that the books know the lane's table; `false` if that has to wait. Of a topic that was never applied, the end of a
/// resync does not tell the table, where the topic's name may be of several: nothing is swept for it then.
async fn register(session: &Session, sink: &Sink, lane: &LaneRef, parked: &Parked) -> Result<bool, sink::Error> {
    let (client, ledger, topic) = (session.client(), sink.ledger(), &lane.key.0);
    let Some(table) = &parked.table else { return Ok(true) };
    if matches!(parked.gate, Gate::Sweep(_)) && ledger.is_known(client, topic).await? {
        return Ok(true);
    }
    // Whoever changes a schema may wait for readers; meanwhile other lanes have need of this session.
    ledger.try_register(client, topic, table, &sink.target_of(table)).await
}

/// An error that lies in the lane's table is noted and stops no other table.
fn refuse<T>(
    outcome: Result<T, sink::Error>,
    lane: &LaneRef,
    refused: &mut Vec<(TopicPartition, sink::Error)>,
) -> Result<Option<T>, sink::Error> {
    match outcome {
        Err(error) if error.severity() == Severity::Definite && error.topic().is_some() => {
            refused.push((lane.key.clone(), error));
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// A fenced lane is noted and nobody else's trouble.
fn note(
    outcome: Result<(), sink::Error>,
    lane: &LaneRef,
    fenced: &mut Vec<TopicPartition>,
    done: impl FnOnce(),
) -> Result<(), sink::Error> {
    match outcome {
        Ok(()) => {
            done();
            Ok(())
        }
        Err(sink::Error::Fenced { .. }) => {
            fenced.push(lane.key.clone());
            Ok(())
        }
        Err(error) => Err(error),
    }
}
