//! The order of a topic's records: positions rise in every partition, or go back to what is there and repeat it without
//! a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    findings::Findings,
    history::{At, Event, Op, Row},
};
use crate::support::judge::{Delivery, PARTITIONS};

/// A partition as far as it is read.
#[derive(Default)]
struct Lane {
    first: BTreeMap<At, Rc<Event>>,
    /// What the stream brought, each position once.
    stream: Vec<At>,
    /// The place among these of the stream's last record.
    cursor: usize,
}

/// Checks the order of a topic's records; gives those that count, each position once and all partitions together, in
/// order.
pub fn check(table: &str, records: &[Rc<Event>], delivery: Delivery, findings: &mut Findings) -> Vec<Rc<Event>> {
    let (mut lanes, mut events) = (BTreeMap::<i32, Lane>::new(), Vec::new());
    for event in records {
        let lane = lanes.entry(event.partition).or_default();
        let place = format!("{table}, partition {}", event.partition);
        match event.at {
            Some(at) if is_of_exported_snapshot(at) => {
                if lane.first.last_key_value().is_some_and(|(last, _)| *last > at) {
                    findings
                        .add(format!("{place}: a row of the snapshot at {at} came behind {:?}", lane.stream.last()));
                }
                events.push(Rc::clone(event));
            }
            Some(at) if lane.take(at, event, &place, delivery, findings) => events.push(Rc::clone(event)),
            Some(_) => {}
            None if event.op == Op::Message => {}
            None => findings.add(format!("{place}: a record without a position: {event:?}")),
        }
    }
    check_tombstones(table, &lanes, findings);
    check_copies(table, &events, findings);
    check_keys(table, &events, findings);
    let mut barriers = BTreeSet::new();
    events.retain(|event| !is_broadcast(event) || barriers.insert(event.at));
    events.sort_by_key(|event| event.at);
    events
}

/// All rows of the snapshot that was exported have one position.
pub const fn is_of_exported_snapshot(at: At) -> bool {
    at.ordinal == 0
}

const fn is_broadcast(event: &Event) -> bool {
    matches!(event.op, Op::Truncate | Op::Sweep)
}

impl Lane {
    /// Whether the record is the first at its position.
    fn take(&mut self, at: At, event: &Rc<Event>, place: &str, delivery: Delivery, findings: &mut Findings) -> bool {
        let next = if self.stream.is_empty() { 0 } else { self.cursor + 1 };
        let Some(first) = self.first.get(&at) else {
            if let Some((last, _)) = self.first.last_key_value().filter(|(last, _)| **last > at) {
                findings.add(format!("{place}: {at} came for the first time, and behind {last}"));
            }
            if event.is_of_stream() {
                if next < self.stream.len() {
                    let skipped = self.stream[next];
                    findings.add(format!("{place}: {at} came behind a repetition that skips {skipped}"));
                }
                self.cursor = self.stream.len();
                self.stream.push(at);
            }
            self.first.insert(at, Rc::clone(event));
            return true;
        };
        if delivery == Delivery::Once {
            findings.add(format!("{place}: {at} came twice"));
        }
        if !first.is_same(event) {
            findings.add(format!("{place}: {at} came again as another record: {}", difference(first, event)));
        }
        if event.is_of_stream() {
            let index = self.stream.binary_search(&at).unwrap_or_default();
            if index > next {
                findings.add(format!("{place}: {at} was repeated, but not {} before it", self.stream[next]));
            }
            self.cursor = index;
        }
        false
    }
}

fn difference(first: &Event, again: &Event) -> String {
    format!("{first:?}\n    and then {again:?}")
}

/// A delete is followed by a tombstone of its key, and nothing else is.
fn check_tombstones(table: &str, lanes: &BTreeMap<i32, Lane>, findings: &mut Findings) {
    for (partition, lane) in lanes {
        for (at, event) in &lane.first {
            let other = lane.first.get(&At { is_tombstone: !at.is_tombstone, ..*at });
            let is_right = match event.op {
                Op::Delete => other.is_some(),
                Op::Tombstone => other.is_some_and(|other| other.op == Op::Delete && other.key == event.key),
                _ => true,
            };
            if !is_right {
                findings.add(format!("{table}, partition {partition}: {:?} at {at} and {other:?}", event.op));
            }
        }
    }
}

/// What concerns the whole table lies in every partition.
fn check_copies(table: &str, events: &[Rc<Event>], findings: &mut Findings) {
    let mut copies = BTreeMap::<_, BTreeSet<i32>>::new();
    for event in events.iter().filter(|event| is_broadcast(event)) {
        copies.entry(event.at).or_default().insert(event.partition);
    }
    for (at, partitions) in copies.iter().filter(|(_, partitions)| partitions.len() != PARTITIONS) {
        findings.add(format!("{table}: what concerns all partitions, at {at:?}, is in {partitions:?} alone"));
    }
}

fn check_keys(table: &str, events: &[Rc<Event>], findings: &mut Findings) {
    let mut partitions = BTreeMap::<&Row, i32>::new();
    for event in events {
        let Some(key) = &event.key else { continue };
        let partition = *partitions.entry(key).or_insert(event.partition);
        if partition != event.partition {
            findings.add(format!("{table}: {key:?} is in partition {partition} and in {}", event.partition));
        }
    }
}
