//! The checker can fail: whatever is done to a history that it found nothing wrong with, it finds.

use std::rc::Rc;

use walrelay::cli::demo::random::Random;

use super::{
    checker::{Checked, Truth, check_topic},
    findings::Findings,
    history::{Event, History, Op},
    ledger,
};
use crate::support::judge::Delivery;

/// The table whose records are harmed: it has REPLICA IDENTITY FULL all the time.
const HARMED: &str = "files";

/// Does harm to the records of a topic, of which one is chosen.
type Harm = fn(&mut Vec<Rc<Event>>, usize);

const HARMS: &[(&str, Harm)] = &[
    ("a change is missing", |records, index| {
        let event = Rc::clone(&records[index]);
        records.retain(|other| other.at != event.at || other.partition != event.partition);
    }),
    ("a change came with another value", |records, index| {
        let mut event = Event::clone(&records[index]);
        event.after.as_mut().expect("a row").insert("n".to_owned(), Some("-77".to_owned()));
        records[index] = Rc::new(event);
    }),
    ("two changes changed places", |records, index| {
        let partition = records[index].partition;
        let is_other = |other: &Rc<Event>| other.partition == partition && other.op == Op::Update;
        if let Some(next) = records[index + 1..].iter().position(is_other) {
            records.swap(index, index + 1 + next);
        } else {
            records.remove(index);
        }
    }),
    ("a change of another transaction", |records, index| {
        let mut event = Event::clone(&records[index]);
        event.source[0] = Some("3".to_owned());
        records[index] = Rc::new(event);
    }),
    ("a change of a transaction that nobody committed", |records, index| {
        let mut event = Event::clone(&records[index]);
        let at = event.at.as_mut().expect("a position");
        at.commit += 1;
        records.insert(index + 1, Rc::new(event));
    }),
];

/// Does all of it, to a random change each.
pub fn must_be_found(history: &History, truth: &Truth, mut checked: Checked, random: &mut Random) {
    let harms = HARMS.iter().map(|(what, harm)| (*what, *harm));
    let again: (&str, Harm) = ("a change came again", |records, index| {
        let event = Rc::clone(&records[index]);
        records.insert(index + 1, event);
    });
    for (what, harm) in harms.chain((truth.delivery == Delivery::Once).then_some(again)) {
        let mut records = history.0[HARMED].clone();
        let changes = changes(&records);
        let chosen = changes[usize::try_from(random.below(changes.len() as u64)).expect("a small number")];
        let at = records[chosen].at;
        harm(&mut records, chosen);
        let mut findings = Findings::default();
        let events = check_topic(HARMED, &records, truth, &mut findings);
        checked.topics.insert(HARMED.to_owned(), events);
        ledger::check(&checked.topics, &truth.rows, &mut findings);
        assert!(!findings.is_empty(), "{what}, at {at:?}, and nothing was found");
    }
}

/// Changes that leave a row, behind the last truncate: what they leave is told by a change after them, or is there in
/// the end.
fn changes(records: &[Rc<Event>]) -> Vec<usize> {
    let truncate = records.iter().filter(|event| event.op == Op::Truncate).map(|event| event.at).max();
    let is_chosen = |event: &Event| matches!(event.op, Op::Insert | Op::Update) && event.at > truncate.flatten();
    (0..records.len()).filter(|index| is_chosen(&records[*index])).collect()
}
