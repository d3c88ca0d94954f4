//! Aligned application: all lanes of some tables up to one common cut, in one transaction (traps T65, T66).
//!
//! A unique or foreign key violation can come from lanes being at different positions: a value that moved from one row to
//! another, a parent that another lane brings. The source's state at one position satisfies all its constraints, so all
//! lanes are applied up to the same cut, folded, deletes first.
//!
//! A lane's *frontier* is the position below which it has received everything: the first position of its last record's
//! transaction, or the progress that it has settled, or what it stands at. Of a topic that capture does not tell of any more
//! nothing else will come, as far as is known: what it has is all there is below where capture is. The cut is the lowest frontier; it must lie
//! above every lane's mark, for a lane that is beyond it has applied a part of the future.
//!
//! Positions that are made from offsets tell no cut: `unordered` has such lanes.
//!
//! Two things can keep a cut from ever coming. A table whose lanes all stand at a barrier has its cut there, and a related
//! table may be beyond it: what the barrier will empty is left out then. At the end of a resync nothing is emptied, so what comes before it
//! is applied without the lanes that are beyond it; if it does not fit without them, what makes it fit comes behind the end, and the table goes
//! on without a sweep: its rows are right, and ghosts stay. And the cut may lie farther ahead than the lanes'
//! memory reaches (a snapshot has one position for all its rows): then the lanes are applied table by table, so that those
//! that nothing hinders make room.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    event::Gate,
    lsn::Position,
    pipeline::apply::{
        attempt::{Attempts, refuse},
        unordered,
        work::{Halt, Order, Work},
    },
    sink::{self, Manner},
};

/// Applies lanes up to their common cut. If that is not possible the error is a definite one: it is narrowed down to a
/// source transaction, and its table stops.
pub async fn apply(attempts: &mut Attempts<'_>, works: &mut [Work], full: bool) {
    if works.iter().any(Work::is_by_offset) {
        return unordered::apply(attempts, works).await;
    }
    let cut = works.iter().map(frontier).min().unwrap_or_default();
    let below = works.iter().any(|work| work.events.first().is_some_and(|(_, event)| event.position < cut));
    if !below || works.iter().any(|work| work.lane.mark >= cut) {
        if leave_out_emptied(attempts, works).await || before_sweep(attempts, works, cut).await {
            return;
        }
        if full || works.iter().any(|work| work.halt == Some(Halt::Full)) {
            return table_by_table(attempts, works).await;
        }
        let last = works.iter().min_by_key(|work| frontier(work)).map(|work| work.lane.key.clone());
        for work in works.iter_mut() {
            work.drop_from(0);
            work.halt = Some(Halt::NoCut(last.clone()));
        }
        return;
    }
    for work in works.iter_mut() {
        if let Some(at) = work.events.iter().position(|(_, event)| event.position >= cut) {
            work.drop_from(at);
        }
    }
    let mut all: Vec<&mut Work> = works.iter_mut().collect();
    let Some(error) = up_to(attempts, &mut all, cut).await else { return };
    narrow(attempts, &mut all, cut, error).await;
}

/// Leaves out what comes before a barrier that all lanes of a table stand at; whether there is such a table.
async fn leave_out_emptied(attempts: &mut Attempts<'_>, works: &mut [Work]) -> bool {
    let topics: BTreeSet<Arc<str>> = works.iter().map(|work| Arc::clone(&work.topic)).collect();
    let mut some = false;
    for topic in topics {
        let mut lanes: Vec<&mut Work> = works.iter_mut().filter(|work| work.topic == topic).collect();
        let at = |work: &Work| match &work.halt {
            Some(Halt::Barrier(parked)) => match &parked.gate {
                Gate::Truncate(barrier) => Some((parked.at, barrier.partitions(&topic)?)),
                Gate::Sweep(_) => None,
            },
            _ => None,
        };
        let first = lanes.first().and_then(|work| at(work));
        let all_there = first.is_some_and(|(_, wanted)| i32::try_from(lanes.len()) == Ok(wanted))
            && lanes.iter().all(|work| at(work) == first);
        if !all_there {
            continue;
        }
        some = true;
        for work in &mut lanes {
            work.skip();
        }
        let none = vec![0; lanes.len()];
        if let Err(error) = attempts.attempt(&mut lanes, &none, Manner::Upsert).await {
            // Without events there is nothing that could lie in the table.
            let _told = attempts.pass_on(error, &mut lanes);
        }
    }
    some
}

/// Whether the cut is the end of a resync, beyond which some lane is: the others are applied up to it, so that lanes can park there.
async fn before_sweep(attempts: &mut Attempts<'_>, works: &mut [Work], cut: Position) -> bool {
    let ends_at = |work: &Work| match &work.halt {
        Some(Halt::Barrier(parked)) if parked.at == cut && matches!(parked.gate, Gate::Sweep(_)) => {
            Some(parked.clone())
        }
        _ => None,
    };
    if !works.iter().any(|work| ends_at(work).is_some()) {
        return false;
    }
    let mut behind: Vec<&mut Work> = works.iter_mut().filter(|work| work.lane.mark < cut).collect();
    let Some(error) = up_to(attempts, &mut behind, cut).await else { return true };
    if !error.is_ordering() {
        stop(&mut behind, &error, cut);
        return true;
    }
    for work in behind {
        if let Some(parked) = ends_at(work) {
            work.halt = Some(Halt::Overtaken(parked));
        }
    }
    true
}

/// Applies what can be applied without a cut; lanes that an ordering error still stops are starved.
async fn table_by_table(attempts: &mut Attempts<'_>, works: &mut [Work]) {
    attempts.together(works).await;
    for work in works.iter_mut() {
        if let Some(Halt::Ordering(stop)) = &work.halt {
            work.halt = Some(Halt::Starved(stop.reason.clone()));
        }
    }
}

/// Everything of the lane below this position is applied or in its events.
fn frontier(work: &Work) -> Position {
    let last = work.events.last().map(|(_, event)| Position { ordinal: 0, ..event.position });
    let received = last.unwrap_or_default().max(work.lane.mark);
    match &work.halt {
        None => received.max(work.lane.settled),
        Some(Halt::Barrier(parked)) => received.max(parked.at),
        Some(Halt::Held(hold)) => received.max(Position { epoch: received.epoch, commit: *hold, ordinal: 0 }),
        Some(_) => received,
    }
}

/// One transaction with everything below the cut. Returns an error that lies in a table.
async fn up_to(attempts: &mut Attempts<'_>, works: &mut [&mut Work], cut: Position) -> Option<sink::Error> {
    let counts: Vec<usize> =
        works.iter().map(|work| work.events.partition_point(|(_, event)| event.position < cut)).collect();
    match attempts.attempt(works, &counts, Manner::Replace).await {
        Ok(None) => None,
        // A hold that came in between: the lanes are decoded again with it.
        Ok(Some(_)) => {
            for work in works.iter_mut() {
                work.drop_from(0);
                work.halt = Some(Halt::NoCut(None));
            }
            None
        }
        Err(error) => {
            let error = attempts.pass_on(error, works)?;
            (!refuse(works, &error, Order::UpTo(cut), false)).then_some(error)
        }
    }
}

/// Applies source transactions up to the one that fails alone, and stops its table there.
async fn narrow(attempts: &mut Attempts<'_>, works: &mut [&mut Work], whole: Position, error: sink::Error) {
    let mark = works.iter().map(|work| work.lane.mark).max().unwrap_or_default();
    let cuts: BTreeSet<Position> = works
        .iter()
        .flat_map(|work| work.events.iter().map(|(_, event)| Position { ordinal: 0, ..event.position }))
        .filter(|cut| *cut > mark)
        .chain([whole])
        .collect();
    let cuts: Vec<Position> = cuts.into_iter().collect();
    let mut error = (error, whole);
    // How many cuts are applied, and the first that is known to fail.
    let (mut good, mut bad) = (0, cuts.len() - 1);
    let mut alone = false;
    while good < bad || !alone {
        // What failed together with what is applied by now may succeed alone.
        alone = good == bad;
        let middle = good + (bad - good) / 2;
        let Some(cut) = cuts.get(middle) else { return };
        match up_to(attempts, works, *cut).await {
            None if works
                .iter()
                .any(|work| matches!(work.halt, Some(Halt::Lost | Halt::Locked(_) | Halt::NoCut(_)))) =>
            {
                return;
            }
            None => {
                good = middle + 1;
                if alone {
                    (bad, alone) = (cuts.len() - 1, false);
                }
                if good > bad {
                    return;
                }
            }
            Some(found) => {
                error = (found, *cut);
                bad = middle;
            }
        }
    }
    stop(works, &error.0, error.1);
}

/// Stops the lanes of the table that the error names: up to this cut, nothing else makes their events fit.
fn stop(works: &mut [&mut Work], error: &sink::Error, cut: Position) {
    let topic: Option<Arc<str>> = error.topic().map(Arc::from);
    for work in works.iter_mut() {
        work.halt = None;
        if topic.as_ref().is_none_or(|topic| *work.topic == **topic) {
            work.refuse(error, Order::UpTo(cut), true);
        }
    }
}
