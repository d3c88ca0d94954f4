//! Whole transactions: each committed one has as many events in each topic as its writer counted, and an aborted one
//! has none.
//!
//! A table that comes later has all of a transaction's events, or none, and none only before it has some.
//!
//! The writer's count is a row of the table `ledger` that its transaction wrote last, and so an event at the same
//! commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    comings::MADE,
    findings::Findings,
    history::{Event, Op, Row},
    order::is_of_exported_snapshot,
};

/// Number of events, by table; by table and `!` of truncates; `message` of messages.
pub type Counts = BTreeMap<String, u64>;

/// The table of the writers' counts.
pub const LEDGER: &str = "ledger";

/// What one commit brought.
#[derive(Default)]
struct Commit<'a> {
    counts: Counts,
    ledger: Option<&'a Row>,
    transactions: BTreeMap<&'a Option<String>, &'a Event>,
    writers: BTreeMap<&'a Option<String>, &'a Event>,
}

impl<'a> Commit<'a> {
    fn take(&mut self, topic: &str, event: &'a Event) {
        self.transactions.insert(&event.source[0], event);
        match (event.op, &event.after) {
            (Op::Insert, Some(row)) if topic == LEDGER => self.ledger = Some(row),
            (Op::Insert | Op::Update, Some(row)) => drop(self.writers.insert(&row["tx"], event)),
            _ => {}
        }
        let name = if event.op == Op::Truncate { format!("{topic}!") } else { topic.to_owned() };
        *self.counts.entry(name).or_default() += 1;
    }

    /// `joined`: those of the tables that came later of which an earlier commit has events, and that are `there` in the end.
    fn check(
        mut self,
        at: (u64, u64),
        (joined, there): (&mut BTreeSet<String>, &BTreeMap<String, BTreeMap<Row, Row>>),
        findings: &mut Findings,
    ) {
        self.counts.remove(LEDGER);
        let Some(ledger) = self.ledger else {
            let events: Vec<_> = self.transactions.values().collect();
            return findings
                .add(format!("the commit at {at:?} is in no ledger: {:?}, such as {events:?}", self.counts));
        };
        let mut told: Counts = serde_json::from_str(ledger["events"].as_deref().unwrap_or("null")).expect("counts");
        told.retain(|name, _| !name.starts_with(MADE) || self.counts.contains_key(name) || joined.contains(name));
        joined.extend(self.counts.keys().filter(|name| name.starts_with(MADE) && there.contains_key(*name)).cloned());
        if told != self.counts {
            let found = self.counts;
            findings
                .add(format!("transaction {:?} at {at:?}: its writer counted {told:?}, found {found:?}", ledger["tx"]));
        }
        for (name, events) in [("xid", &self.transactions), ("tx", &self.writers)] {
            for (found, event) in events.iter().filter(|(found, _)| ***found != ledger[name]) {
                findings.add(format!("transaction {:?} at {at:?}: {found:?} is its {name} in {event:?}", ledger["tx"]));
            }
        }
    }
}

/// Compares the events of all topics, each once, with what their writers counted.
pub fn check(
    topics: &BTreeMap<String, Vec<Rc<Event>>>,
    rows: &BTreeMap<String, BTreeMap<Row, Row>>,
    findings: &mut Findings,
) -> usize {
    let ledger = &rows[LEDGER];
    let mut commits = BTreeMap::<(u64, u64), Commit<'_>>::new();
    let mut snapshot = 0;
    for (topic, events) in topics {
        for event in events {
            let Some(at) = event.at else { continue };
            if is_of_exported_snapshot(at) {
                snapshot = snapshot.max(at.commit);
            } else if !matches!(event.op, Op::Read | Op::Sweep | Op::Tombstone) {
                commits.entry((at.epoch, at.commit)).or_default().take(topic, event);
            }
        }
    }
    let there: BTreeSet<_> = commits.values().filter_map(|commit| Some(&commit.ledger?["tx"])).collect();
    for (key, row) in ledger {
        let began: u64 = row["began"].as_deref().and_then(|text| text.parse().ok()).expect("an LSN");
        if began > snapshot && !there.contains(&row["tx"]) {
            findings
                .add(format!("transaction {key:?}, which began to end at {began}, behind the snapshot, has no events"));
        }
    }
    let number = commits.len();
    let mut joined = BTreeSet::new();
    for (at, commit) in commits {
        commit.check(at, (&mut joined, rows), findings);
    }
    number
}

/// Messages that no transaction holds: those behind the snapshot come, and where it is promised, once. One without an LSN may be lost.
pub fn check_free(
    records: &[Rc<Event>],
    sent: &BTreeMap<String, Option<u64>>,
    snapshot: u64,
    once: bool,
    findings: &mut Findings,
) {
    let mut found = BTreeMap::<&str, u64>::new();
    for text in records.iter().filter(|event| event.at.is_none()).filter_map(|event| event.message.as_deref()) {
        *found.entry(text).or_default() += 1;
    }
    for (text, lsn) in sent {
        let times = found.remove(text.as_str()).unwrap_or_default();
        if (times == 0 && lsn.is_some_and(|lsn| lsn > snapshot)) || (once && times > 1) {
            findings.add(format!("{text}, written at {lsn:?}, came {times} times"));
        }
    }
    for text in found.keys() {
        findings.add(format!("nobody wrote {text:?}"));
    }
}
