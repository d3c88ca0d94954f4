//! Lanes: the queue and the standing of one partition.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    event::Gate,
    kafka::{ConsumedRecord, TopicPartition},
    lsn::{Lsn, Position},
    progress::Progress,
    schema::TableName,
    sink::ledger::{Claim, Owned, Standing},
};

/// A barrier that a lane stands at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The barrier's position.
    pub at: Position,
    /// The tables and partitions that gather, and what for.
    pub gate: Gate,
    /// The lane's table at the source, if that is known.
    pub table: Option<TableName>,
    /// Offset of the barrier's record.
    pub offset: i64,
}

/// Why a table stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The error with its causes, and where it happened.
    pub reason: String,
    /// What the operator can do.
    pub hint: Option<String>,
}

/// What a lane does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its records may go into a job.
    Ready,
    /// Its records are in a job.
    Busy,
    /// It waits at a barrier.
    Parked(Box<Parked>),
    /// It waits for the other half of a key move; tried again at this time.
    Waits(Instant),
    /// Its table is applied together up to a common cut.
    Aligning,
    /// It stops before this commit LSN.
    Held(Lsn),
    /// It must be claimed again.
    Lost,
    /// Its table is stopped.
    Stopped,
}

/// What holds once a partition is received up to an offset.
#[derive(Clone, Copy, Debug)]
struct Settles {
    offset: i64,
    complete: Position,
    silent_below: Position,
    unread: bool,
}

/// The ordered apply stream of one partition.
#[derive(Debug)]
pub struct Lane {
    /// The topic.
    pub topic: Arc<str>,
    /// The claim.
    pub owned: Owned,
    /// The next offset that the target has stored.
    pub stored: Option<i64>,
    /// The mark that the target has stored.
    pub mark: Position,
    /// What it does.
    pub state: State,
    /// The hold that the target was told of.
    pub told_held: Option<Lsn>,
    /// Whether the target was told that it stopped, or is parked.
    pub told: bool,
    /// Whether the consumer does not fetch it.
    pub paused: bool,
    /// Whether the last job had no room for the text of even its first event.
    pub crowded: bool,
    /// It waits for the other half of a key move; how many bytes its last job had done before.
    pub half_move: Option<usize>,
    /// The end of a resync that it goes beyond without a sweep.
    pub overtaken: Option<Position>,
    /// All events below this position have been received.
    pub settled: Position,
    /// Nothing below this position is still to come, unless capture goes on with a table that it has stopped.
    silent_below: Position,
    /// Rows that were there before are still to come.
    unread: bool,
    /// By how many milliseconds its records are younger than their commits, by the last one that was decoded.
    pub delay_ms: i64,
    queue: VecDeque<ConsumedRecord>,
    bytes: usize,
    charge: Option<OwnedSemaphorePermit>,
    oldest: Option<Instant>,
    received: i64,
    pending: VecDeque<Settles>,
}

impl Lane {
    /// Progress records that are remembered until the lane has come so far.
    const PENDING: usize = 64;

    /// A lane as it was claimed.
    #[must_use]
    pub fn new(topic: Arc<str>, claim: &Claim) -> Self {
        Self {
            topic,
            owned: Owned::from(claim),
            stored: claim.next_offset,
            mark: claim.mark,
            state: State::Ready,
            told_held: None,
            told: false,
            paused: false,
            crowded: false,
            half_move: None,
            overtaken: None,
            settled: Position::default(),
            silent_below: Position::default(),
            unread: false,
            delay_ms: 0,
            queue: VecDeque::new(),
            bytes: 0,
            charge: None,
            oldest: None,
            received: claim.next_offset.unwrap_or(0),
            pending: VecDeque::new(),
        }
    }

    /// Topic and partition.
    #[must_use]
    pub fn key(&self) -> TopicPartition {
        (Arc::clone(&self.topic), self.owned.partition)
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { lane: self.owned.clone(), next_offset: self.stored, mark: self.mark }
    }

    /// Whether a claim found it before what the target has stored of it: the records in between are given up.
    #[must_use]
    pub fn has_gone_back(&self, claim: &Claim) -> bool {
        claim.next_offset < self.stored || claim.mark < self.mark
    }

    /// Takes it over in a new generation, after a connection broke: what the target has already is dropped.
    pub fn reclaimed(&mut self, claim: &Claim) {
        self.owned = Owned::from(claim);
        self.stored = claim.next_offset;
        self.mark = claim.mark;
        self.told_held = None;
        self.told = false;
        self.state = State::Ready;
        self.received = self.received.max(claim.next_offset.unwrap_or(0));
        while self.queue.front().is_some_and(|record| claim.next_offset.is_some_and(|next| record.offset < next)) {
            if let Some(record) = self.queue.pop_front() {
                self.release(record.size());
            }
        }
    }

    /// Appends a record; `share` is its part of the consumer's budget.
    pub fn push(&mut self, record: ConsumedRecord, share: Option<OwnedSemaphorePermit>) {
        if record.offset < self.received {
            return;
        }
        self.received = record.offset + 1;
        self.bytes += record.size();
        self.queue.push_back(record);
        self.oldest.get_or_insert_with(Instant::now);
        match (&mut self.charge, share) {
            (Some(charge), Some(share)) => charge.merge(share),
            (None, share) => self.charge = share,
            (Some(_), None) => {}
        }
        self.settle();
    }

    /// A progress record says where this partition ended when everything below a position was acknowledged.
    pub fn progress(&mut self, progress: &Progress) {
        let Some(offset) = progress.offset(&self.topic, self.owned.partition) else { return };
        let silent_below = progress.told(&self.topic);
        if progress.epoch > self.silent_below.epoch {
            // LSNs of an earlier epoch say nothing of this one's, which may be lower.
            self.silent_below = Position { commit: Lsn::ZERO, ..silent_below };
        }
        // An end that went back is that of a topic that was made anew: what was told of the old one never comes true.
        while self.pending.back().is_some_and(|told| told.offset > offset) {
            self.pending.pop_back();
        }
        let unread = progress.unread.contains(&*self.topic);
        if self.pending.len() < Self::PENDING {
            let complete = progress.complete(&self.topic);
            self.pending.push_back(Settles { offset, complete, silent_below, unread });
        } else if let Some(last) = self.pending.back_mut() {
            last.unread |= unread;
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(settles) = self.pending.front().copied() {
            if settles.offset > self.received {
                break;
            }
            self.settled = self.settled.max(settles.complete);
            self.silent_below = self.silent_below.max(settles.silent_below);
            self.unread = settles.unread;
            self.pending.pop_front();
        }
    }

    /// Takes records for a job, up to these bounds but at least one.
    pub fn take(&mut self, records: usize, bytes: usize) -> Vec<ConsumedRecord> {
        let mut taken = Vec::new();
        let mut size = 0;
        while let Some(record) = self.queue.front() {
            size += record.size();
            if !taken.is_empty() && (taken.len() >= records || size > bytes) {
                break;
            }
            taken.extend(self.queue.pop_front());
        }
        self.oldest = (!self.queue.is_empty()).then(Instant::now);
        taken
    }

    /// Puts back what a job did not apply, and gives up the memory of what it did: `gone` bytes.
    pub fn put_back(&mut self, records: Vec<ConsumedRecord>, gone: usize) {
        for record in records.into_iter().rev() {
            self.queue.push_front(record);
        }
        if !self.queue.is_empty() {
            self.oldest.get_or_insert_with(Instant::now);
        }
        self.release(gone);
    }

    fn release(&mut self, gone: usize) {
        self.bytes = self.bytes.saturating_sub(gone);
        if self.bytes == 0 {
            self.charge = None;
        } else if let Some(charge) = &mut self.charge {
            drop(charge.split(gone.min(charge.num_permits())));
        }
    }

    /// Empties the queue.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
        self.charge = None;
        self.oldest = None;
    }

    /// Notes how far the target is.
    pub const fn came(&mut self, stored: Option<i64>, mark: Position) {
        self.stored = stored;
        self.mark = mark;
        self.told_held = None;
    }

    /// The barrier that it stood at is behind it.
    pub fn beyond(&mut self, at: Position, next_offset: i64) {
        self.came(Some(next_offset), at.max(self.mark));
        self.told = false;
        self.state = State::Ready;
        while self.queue.front().is_some_and(|record| record.offset < next_offset) {
            if let Some(record) = self.queue.pop_front() {
                self.release(record.size());
            }
        }
    }

    /// Whether it applies nothing at or above the hold and has everything below it in the target.
    #[must_use]
    pub fn stands_at(&self, hold: Lsn) -> bool {
        match &self.state {
            State::Held(at) => *at == hold,
            State::Parked(parked) => parked.at.commit >= hold,
            State::Ready => self.queue.is_empty() && self.is_silent_below(hold) && self.mark.commit < hold,
            _ => false,
        }
    }

    /// Whether rows that were there before may be still to come, as far as was told up to what is received.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.unread || self.pending.iter().any(|settles| settles.unread)
    }

    fn is_silent_below(&self, lsn: Lsn) -> bool {
        self.silent_below.epoch >= self.mark.epoch && self.silent_below.commit >= lsn
    }

    /// When the oldest event that is not applied was committed, in milliseconds since the Unix epoch; what its record has not
    /// been decoded for yet is taken from the one before (trap T74).
    #[must_use]
    pub fn behind_since(&self) -> Option<i64> {
        (self.state != State::Stopped).then_some(())?;
        self.queue.front().map(|record| record.timestamp_ms.saturating_sub(self.delay_ms))
    }

    /// Whether its first event waited in the last job: what lies behind it need not be decoded for nothing.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.half_move == Some(0)
    }

    /// Whether no record waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of its records, those in a job included.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long its oldest record has been waiting.
    #[must_use]
    pub fn waiting(&self) -> Duration {
        self.oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
