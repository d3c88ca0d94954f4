//! Application without a common cut: lanes whose records have no position but their offset.
//!
//! Offsets of different partitions tell no common order, so nothing says how far the other lanes must come before an event
//! that violates a unique or a foreign key can be applied. Each lane is applied as far as it goes by itself, and one that
//! stands at its next event is *unmet*: it tries again until another lane has brought what it needs (traps T65, T66).
//!
//! Lanes can also stand at each other's events: a referenced key that changes is a deletion and an insertion in one topic, and
//! an update in the other. What the source did at one time is in events of one commit time, so lanes that are unmet are
//! applied together up to that of such an event. A commit time is no order either, and decides nothing but what is tried: the
//! target's constraints say whether it was right.

use std::collections::BTreeSet;

use crate::{
    pipeline::apply::{
        attempt::{Attempts, refuse},
        work::{Halt, Order, Work},
    },
    sink::Manner,
};

/// Applies lanes as far as they go, by themselves and together.
pub async fn apply(attempts: &mut Attempts<'_>, works: &mut [Work]) {
    for work in works.iter_mut() {
        alone(attempts, work).await;
    }
    let unmet = |work: &&Work| matches!(work.halt, Some(Halt::Unmet(_)));
    let first = |work: &Work| work.events.first().map(|(_, event)| event.commit_ms);
    let times: BTreeSet<i64> = works.iter().filter(unmet).filter_map(first).collect();
    for time in times {
        if works.iter().any(|work| work.halt == Some(Halt::Lost)) || up_to(attempts, works, time).await {
            return;
        }
    }
}

/// Applies a lane up to the event that fails: one event, then all, then halves of what failed.
async fn alone(attempts: &mut Attempts<'_>, work: &mut Work) {
    let (mut count, mut failing) = (1, false);
    while work.part(work.events.len()).is_some()
        && !matches!(work.halt, Some(Halt::HalfMove | Halt::Waits | Halt::Lost))
    {
        match attempts.attempt(&mut [&mut *work], &[count], Manner::Replace).await {
            Ok(None) => count = if failing { count.div_ceil(2) } else { work.events.len().max(1) },
            Ok(Some(hold)) => work.cut_at(hold),
            Err(error) => {
                let Some(error) = attempts.pass_on(error, &mut [&mut *work]) else { return };
                if work.refuse(&error, Order::ByOffset, count <= 1) {
                    return;
                }
                (count, failing) = (count.min(work.events.len()) / 2, true);
                count = count.max(1);
            }
        }
    }
}

/// Applies all lanes up to a commit time in one transaction; whether that is settled. Lanes that were unmet go on then.
async fn up_to(attempts: &mut Attempts<'_>, works: &mut [Work], time: i64) -> bool {
    let later = |work: &Work| work.events.iter().position(|(_, event)| event.commit_ms > time);
    let counts: Vec<usize> = works.iter().map(|work| later(work).unwrap_or(work.events.len())).collect();
    let mut all: Vec<&mut Work> = works.iter_mut().collect();
    match attempts.attempt(&mut all, &counts, Manner::Replace).await {
        Ok(_) => {}
        Err(error) => {
            let Some(error) = attempts.pass_on(error, &mut all) else { return true };
            return refuse(&mut all, &error, Order::ByOffset, false);
        }
    }
    for work in works.iter_mut().filter(|work| matches!(work.halt, Some(Halt::Unmet(_)))) {
        work.halt = None;
    }
    true
}
