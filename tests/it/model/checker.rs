//! Judges what lies in the topics by the contract of docs/events.md, with nothing of walrelay's.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    comings::MADE,
    findings::Findings,
    fold::{self, Expected},
    history::{Event, History, Op, Row},
    ledger, order,
};
use crate::support::judge::Delivery;

/// What the source has, and what its writers told.
pub struct Truth {
    /// The prefix of topics.
    pub prefix: String,
    pub delivery: Delivery,
    /// A position behind which no row of the initial snapshot comes.
    pub snapshot_end: u64,
    /// Rows by key, of each table.
    pub rows: BTreeMap<String, BTreeMap<Row, Row>>,
    /// Messages outside of transactions, with their LSNs; none where a crash may have lost it.
    pub free: BTreeMap<String, Option<u64>>,
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Counted {
    pub records: usize,
    /// Repeated ones, and what lies in every partition.
    pub copies: usize,
    pub read: usize,
    pub unchanged: usize,
    pub moved: usize,
    pub truncates: usize,
    pub sweeps: usize,
    pub commits: usize,
}

/// A history as it was checked.
#[derive(Default)]
pub struct Checked {
    /// The events of each topic, each once and in order.
    pub topics: BTreeMap<String, Vec<Rc<Event>>>,
    pub counted: Counted,
}

/// Checks a history; what is wrong goes to the findings.
pub fn check(history: &History, truth: &Truth, findings: &mut Findings) -> Checked {
    let mut checked = Checked::default();
    for (topic, records) in &history.0 {
        let events = check_topic(topic, records, truth, findings);
        checked.counted.add(records, &events);
        checked.topics.insert(topic.clone(), events);
    }
    checked.counted.commits = ledger::check(&checked.topics, &truth.rows, findings);
    let positions = checked.topics.values().flatten().filter_map(|event| event.at);
    let snapshot = positions.filter(|at| order::is_of_exported_snapshot(*at)).map(|at| at.commit).max();
    let once = truth.delivery == Delivery::Once;
    ledger::check_free(&history.0["message"], &truth.free, snapshot.unwrap_or_default(), once, findings);
    checked
}

/// Checks the records of one topic; gives its events, each once and in order.
pub fn check_topic(topic: &str, records: &[Rc<Event>], truth: &Truth, findings: &mut Findings) -> Vec<Rc<Event>> {
    let events = order::check(topic, records, truth.delivery, findings);
    if let Some(rows) = truth.rows.get(topic) {
        let topic_name = format!("{}.public.{topic}", truth.prefix);
        let snapshot_end = if topic.starts_with(MADE) { joined(&events) } else { truth.snapshot_end };
        let expected = Expected { topic: topic_name, snapshot_end, rows };
        fold::check(topic, &events, &expected, findings);
    }
    events
}

/// Where the first reading of a table that came later ends.
fn joined(events: &[Rc<Event>]) -> u64 {
    let sweep = events.iter().find(|event| event.op == Op::Sweep).and_then(|event| event.at);
    sweep.map_or(u64::MAX, |at| at.commit)
}

impl Counted {
    fn add(&mut self, records: &[Rc<Event>], events: &[Rc<Event>]) {
        let count = |holds: fn(&Event) -> bool| events.iter().filter(|event| holds(event)).count();
        self.records += records.len();
        self.copies += records.len() - events.len();
        self.read += count(|event| event.op == Op::Read);
        self.unchanged += count(|event| !event.unchanged.is_empty());
        self.moved += count(|event| event.moved[1].is_some());
        self.truncates += count(|event| event.op == Op::Truncate);
        self.sweeps += count(|event| event.op == Op::Sweep);
    }
}
