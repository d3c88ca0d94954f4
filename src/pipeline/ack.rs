//! Which LSN may be confirmed: the ring of transactions that are on their way to Kafka.
//!
//! The server may forget everything below the flush LSN, so it moves only past transactions whose every record all in-sync
//! replicas have acknowledged, in commit order and without a gap (traps T1, T2, T9). Reports come in any order.

use std::collections::{BTreeMap, VecDeque};

use crate::lsn::Lsn;

/// Names a unit of work (a transaction, a snapshot, a keepalive position) in the order in which units were opened.
pub type Sequence = u64;

/// Numbers from here on are of units beside the ring.
const BESIDE: Sequence = 1 << 47;

#[derive(Debug)]
struct Unit {
    /// What is confirmed once the unit is through: the commit's end LSN. Unset while the unit is open.
    end: Option<Lsn>,
    /// Records that were handed to the producer and are not acknowledged.
    outstanding: u64,
}

/// What keeps a flush LSN where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A table stopped there.
    StoppedTables,
    /// Tables are read again beside the stream.
    Resync,
    /// A snapshot is not through.
    Snapshot,
    /// Something is open, or not acknowledged.
    Delivery,
}

/// The ring of units in flight. Every method is O(1) but for the units that it retires.
#[derive(Debug)]
pub struct AckTracker {
    units: VecDeque<Unit>,
    /// Sequence of the first unit in the ring.
    first: Sequence,
    /// Units that nothing in the ring waits for.
    beside: BTreeMap<Sequence, Unit>,
    /// How many there have been.
    all_beside: u64,
    /// End of the last unit of the unbroken run of acknowledged ones.
    acknowledged: Lsn,
    /// The flush LSN stays at or below it while a table is stopped.
    hold: Option<Lsn>,
    /// The same while rows of a snapshot are read beside the stream.
    snapshot: Option<Lsn>,
    /// The same while tables are read again.
    resync: Option<Lsn>,
}

impl AckTracker {
    /// Everything below `start` is confirmed already.
    #[must_use]
    pub const fn new(start: Lsn) -> Self {
        Self {
            units: VecDeque::new(),
            first: 0,
            beside: BTreeMap::new(),
            all_beside: 0,
            acknowledged: start,
            hold: None,
            snapshot: None,
            resync: None,
        }
    }

    /// Opens the next unit. Units may close in any order; they are through in the order in which they were opened.
    pub fn open(&mut self) -> Sequence {
        self.units.push_back(Unit { end: None, outstanding: 0 });
        self.first + self.units.len() as u64 - 1
    }

    /// Opens a unit that the flush LSN does not wait for: what it is about is held otherwise.
    pub fn open_beside(&mut self) -> Sequence {
        let sequence = BESIDE + self.all_beside;
        self.all_beside += 1;
        self.beside.insert(sequence, Unit { end: None, outstanding: 0 });
        sequence
    }

    /// A record of an open unit is about to be handed to the producer.
    pub fn sending(&mut self, sequence: Sequence) {
        if let Some(unit) = self.unit(sequence) {
            unit.outstanding += 1;
        }
    }

    /// The unit has no further records; once all are acknowledged, everything below `end` may be confirmed.
    pub fn close(&mut self, sequence: Sequence, end: Lsn) {
        if let Some(unit) = self.unit(sequence) {
            unit.end = Some(end);
        }
        if sequence >= BESIDE {
            return self.retire_beside(sequence);
        }
        self.merge_empty();
        self.retire();
    }

    /// One record of the unit was acknowledged.
    pub fn acknowledge(&mut self, sequence: Sequence) {
        self.acknowledge_many(sequence, 1);
    }

    /// So many records of the unit were acknowledged.
    pub fn acknowledge_many(&mut self, sequence: Sequence, records: u64) {
        let Some(unit) = self.unit(sequence) else { return };
        unit.outstanding = unit.outstanding.saturating_sub(records);
        if unit.outstanding == 0 && unit.end.is_some() {
            if sequence >= BESIDE { self.retire_beside(sequence) } else { self.retire() }
        }
    }

    /// Whether a unit that was opened is closed, and everything of it is acknowledged. Numbers that [`AckTracker::close`] has given up
    /// are given again, so this holds as long as no unit is opened after one that was asked for is closed.
    #[must_use]
    pub fn is_through(&self, sequence: Sequence) -> bool {
        if sequence >= BESIDE {
            return !self.beside.contains_key(&sequence);
        }
        let Some(index) = sequence.checked_sub(self.first) else { return true };
        let unit = usize::try_from(index).ok().and_then(|index| self.units.get(index));
        unit.is_none_or(|unit| unit.end.is_some() && unit.outstanding == 0)
    }

    /// The server has sent everything below `lsn` and nothing of it is ours beyond what is in the ring (trap T8).
    pub fn passed(&mut self, lsn: Lsn) {
        match self.units.back_mut() {
            None => self.acknowledged = self.acknowledged.max(lsn),
            Some(Unit { end: Some(end), .. }) => *end = (*end).max(lsn),
            // Inside an open transaction the server's position says nothing about what is complete.
            Some(Unit { end: None, .. }) => {}
        }
    }

    /// Keeps the flush LSN at or below `lsn`, whatever is acknowledged: a table stopped there, and its changes must stay
    /// in the WAL. The lowest of several holds counts.
    pub fn hold(&mut self, lsn: Lsn) {
        self.hold = Some(self.hold.map_or(lsn, |held| held.min(lsn)));
    }

    /// Keeps the flush LSN at or below the point of a snapshot that goes on beside the stream.
    pub const fn hold_for_snapshot(&mut self, lsn: Lsn) {
        self.snapshot = Some(lsn);
    }

    /// The snapshot is complete.
    pub const fn release_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Keeps the flush LSN at or below the begin of a resync; `None`: there is none any more. What is acknowledged is complete all the
    /// same: rows that are read again were published before.
    pub const fn hold_for_resync(&mut self, lsn: Option<Lsn>) {
        self.resync = lsn;
    }

    /// Below this everything is acknowledged, the rows that were there before included: nothing above a snapshot's point while it
    /// goes on.
    #[must_use]
    pub fn complete(&self) -> Lsn {
        self.snapshot.map_or(self.acknowledged, |snapshot| snapshot.min(self.acknowledged))
    }

    /// Below this every record of every unit is acknowledged.
    #[must_use]
    pub const fn acknowledged(&self) -> Lsn {
        self.acknowledged
    }

    /// What may be confirmed to the server.
    #[must_use]
    pub fn flush(&self) -> Lsn {
        let holds = [self.hold, self.resync].into_iter().flatten();
        holds.fold(self.complete(), Lsn::min)
    }

    /// What the flush LSN waits for; `None`: for nothing but the server.
    #[must_use]
    pub fn holder(&self) -> Option<Hold> {
        let flush = Some(self.flush());
        let holds = [(self.hold, Hold::StoppedTables), (self.resync, Hold::Resync), (self.snapshot, Hold::Snapshot)];
        let held = holds.into_iter().find(|(at, _)| *at == flush).map(|(_, hold)| hold);
        held.or_else(|| (!self.units.is_empty()).then_some(Hold::Delivery))
    }

    /// Units that are open or not wholly acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.units.len()
    }

    /// A last unit that waits for nothing is through when the one before it is; it takes no room of its own, so the ring is
    /// bounded by the records in flight, however many transactions hold nothing of ours.
    fn merge_empty(&mut self) {
        let Some(&Unit { end: Some(end), outstanding: 0 }) = self.units.back() else { return };
        let before = self.units.len().checked_sub(2).and_then(|index| self.units.get_mut(index));
        if let Some(Unit { end: Some(earlier), .. }) = before {
            *earlier = (*earlier).max(end);
            self.units.pop_back();
        }
    }

    fn unit(&mut self, sequence: Sequence) -> Option<&mut Unit> {
        if sequence >= BESIDE {
            return self.beside.get_mut(&sequence);
        }
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.units.get_mut(index)
    }

    fn retire_beside(&mut self, sequence: Sequence) {
        let is_through = |unit: &Unit| unit.end.is_some() && unit.outstanding == 0;
        if self.beside.get(&sequence).is_some_and(is_through) {
            self.beside.remove(&sequence);
        }
    }

    fn retire(&mut self) {
        while let Some(Unit { end: Some(end), outstanding: 0 }) = self.units.front() {
            self.acknowledged = self.acknowledged.max(*end);
            self.units.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idle_position_is_confirmed_only_behind_what_is_in_flight() {
        let mut tracker = AckTracker::new(Lsn(10));
        tracker.passed(Lsn(20));
        assert_eq!(tracker.flush(), Lsn(20));
        let open = tracker.open();
        tracker.passed(Lsn(30)); // trap T9
        assert_eq!((tracker.flush(), tracker.holder()), (Lsn(20), Some(Hold::Delivery)));
        tracker.sending(open);
        tracker.close(open, Lsn(40));
        tracker.passed(Lsn(50));
        assert_eq!(tracker.flush(), Lsn(20));
        tracker.acknowledge(open);
        assert_eq!((tracker.flush(), tracker.holder()), (Lsn(50), None));
    }

    #[test]
    fn a_unit_beside_the_ring_holds_nothing_and_is_through_when_all_of_it_is_acknowledged() {
        let mut tracker = AckTracker::new(Lsn(10));
        let beside = [tracker.open_beside(), tracker.open_beside()];
        tracker.sending(beside[0]);
        let open = tracker.open();
        tracker.close(open, Lsn(20));
        assert_eq!((tracker.flush(), tracker.in_flight()), (Lsn(20), 0));
        tracker.close(beside[0], Lsn(5));
        assert!(!tracker.is_through(beside[0]) && !tracker.is_through(beside[1]));
        tracker.acknowledge(beside[0]);
        tracker.close(beside[1], Lsn(5));
        assert!(tracker.is_through(beside[0]) && tracker.is_through(beside[1]));
        assert_eq!(tracker.acknowledged(), Lsn(20));
    }

    #[test]
    fn a_hold_keeps_the_flush_lsn_while_others_go_on() {
        let mut tracker = AckTracker::new(Lsn(10));
        tracker.hold(Lsn(15));
        tracker.hold(Lsn(25));
        let unit = tracker.open();
        tracker.close(unit, Lsn(30));
        assert_eq!((tracker.flush(), tracker.acknowledged()), (Lsn(15), Lsn(30)));
    }

    #[test]
    fn nothing_is_complete_while_a_snapshot_goes_on() {
        let mut tracker = AckTracker::new(Lsn(10));
        tracker.hold_for_snapshot(Lsn(10));
        let unit = tracker.open();
        tracker.close(unit, Lsn(30));
        assert_eq!((tracker.flush(), tracker.complete(), tracker.acknowledged()), (Lsn(10), Lsn(10), Lsn(30)));
        tracker.release_snapshot();
        assert_eq!((tracker.flush(), tracker.complete()), (Lsn(30), Lsn(30)));
    }

    #[test]
    fn a_resync_keeps_the_flush_lsn_and_not_what_is_complete() {
        let mut tracker = AckTracker::new(Lsn(10));
        tracker.hold_for_resync(Some(Lsn(15)));
        let unit = tracker.open();
        tracker.close(unit, Lsn(30));
        assert_eq!((tracker.flush(), tracker.complete()), (Lsn(15), Lsn(30)));
        tracker.hold_for_resync(None);
        assert_eq!(tracker.flush(), Lsn(30));
    }

    #[test]
    fn transactions_without_records_take_no_room_behind_one_that_waits() {
        let mut tracker = AckTracker::new(Lsn(10));
        let waiting = tracker.open();
        tracker.sending(waiting);
        tracker.close(waiting, Lsn(20));
        for number in 0..1000 {
            let empty = tracker.open();
            tracker.close(empty, Lsn(30 + number));
        }
        assert_eq!((tracker.in_flight(), tracker.flush()), (1, Lsn(10)));
        tracker.acknowledge(waiting);
        assert_eq!((tracker.in_flight(), tracker.flush()), (0, Lsn(1029)));
    }

    #[test]
    fn units_are_through_in_any_order_and_confirmed_in_theirs() {
        let mut tracker = AckTracker::new(Lsn(10));
        let units: Vec<_> = (0..4).map(|_| tracker.open()).collect();
        for unit in &units[..3] {
            tracker.sending(*unit);
        }
        for unit in [3, 1, 2] {
            tracker.close(units[unit], Lsn(20));
        }
        tracker.acknowledge(units[2]);
        tracker.acknowledge(units[0]);
        let through = |tracker: &AckTracker| units.iter().map(|unit| tracker.is_through(*unit)).collect::<Vec<_>>();
        assert_eq!((through(&tracker), tracker.flush()), (vec![false, false, true, true], Lsn(10)));
        tracker.close(units[0], Lsn(20));
        assert_eq!((through(&tracker), tracker.flush()), (vec![true, false, true, true], Lsn(20)));
        tracker.acknowledge(units[1]);
        assert_eq!((through(&tracker), tracker.in_flight()), (vec![true; 4], 0));
    }

    proptest! {
        /// Records are acknowledged in random order, interleaved with new transactions: whenever an LSN could be
        /// confirmed, every record of every transaction that ends at or below it has been acknowledged (traps T1, T2).
        #[test]
        fn no_gap_is_ever_confirmed(sizes in prop::collection::vec(0_usize..6, 1..40), order in any::<u64>(), held in 0_usize..80) {
            let mut tracker = AckTracker::new(Lsn(0));
            let mut unacknowledged: Vec<(Sequence, Lsn)> = Vec::new();
            let mut random = order;
            let mut next = move |bound: usize| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(random >> 33).unwrap() % bound.max(1)
            };
            let hold = Lsn(held as u64 * 100 + 50);
            tracker.hold(hold);
            let mut last_flush = Lsn(0);
            for (index, size) in sizes.iter().enumerate() {
                let end = Lsn((index as u64 + 1) * 100);
                let sequence = tracker.open();
                for _ in 0..*size {
                    tracker.sending(sequence);
                    unacknowledged.push((sequence, end));
                    if next(3) == 0 {
                        let victim = next(unacknowledged.len());
                        tracker.acknowledge(unacknowledged.swap_remove(victim).0);
                    }
                    prop_assert!(tracker.acknowledged() < end, "an open transaction was confirmed");
                }
                tracker.close(sequence, end);
                while next(2) == 0 && !unacknowledged.is_empty() {
                    let victim = next(unacknowledged.len());
                    tracker.acknowledge(unacknowledged.swap_remove(victim).0);
                    for (_, pending) in &unacknowledged {
                        prop_assert!(tracker.acknowledged() < *pending, "an unacknowledged event was confirmed");
                    }
                }
                prop_assert!(tracker.flush() >= last_flush && tracker.flush() <= hold);
                last_flush = tracker.flush();
            }
            while !unacknowledged.is_empty() {
                let victim = next(unacknowledged.len());
                tracker.acknowledge(unacknowledged.swap_remove(victim).0);
            }
            prop_assert_eq!(tracker.acknowledged(), Lsn(sizes.len() as u64 * 100));
            prop_assert_eq!(tracker.in_flight(), 0);
        }
    }
}
