//! A lane in a job: its records decoded, and how far they were applied.

use std::sync::Arc;

use crate::{
    event::{Cell, ChangeEvent, Gate, Op, Sweep},
    kafka::{ConsumedRecord, TopicPartition},
    lsn::{Lsn, Position},
    pipeline::{
        apply::{
            decode::{Decode, Incoming},
            error::Error,
            lane::{Parked, Stop},
        },
        metrics::ApplyMetrics,
    },
    retry::{Classify, Severity, chain},
    schema::TableName,
    sink::{self, LaneDone, LanePart, ledger::Owned},
};

/// A lane's part of a job.
pub struct JobLane {
    /// Topic and partition.
    pub key: TopicPartition,
    /// The claim.
    pub owned: Owned,
    /// The next offset that the target has stored.
    pub stored: Option<i64>,
    /// The mark that the target has stored.
    pub mark: Position,
    /// The end of a resync that it goes beyond without a sweep.
    pub overtaken: Option<Position>,
    /// All events below this position are in the target or in `records`, if those are all that was received.
    pub settled: Position,
    /// The records.
    pub records: Vec<ConsumedRecord>,
}

/// Why a lane did not apply all its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// A barrier.
    Barrier(Box<Parked>),
    /// The end of a resync, before which its events do not fit since other lanes are beyond it.
    Overtaken(Box<Parked>),
    /// The hold of `verify`.
    Held(Lsn),
    /// Its next event's text is too long for the job.
    Full,
    /// Its next event is the create half of a key move whose delete half is not applied yet.
    HalfMove,
    /// The registry or the target does not answer: to be tried again.
    Waits,
    /// An ordering error: to be aligned.
    Ordering(Stop),
    /// Its first event needs what another lane may bring, and nothing tells how far that one has to come.
    Unmet(Stop),
    /// Up to this common cut of the tables that were known to be concerned it does not fit.
    Unordered(Stop, Position),
    /// Aligned, but no common cut above all marks is known yet: this partition has come the least far.
    NoCut(Option<TopicPartition>),
    /// A lock on its table was not to be had in time; nothing was done.
    Locked(String),
    /// An ordering error, and what a cut would need does not fit into the memory.
    Starved(String),
    /// The transaction's fate is unknown, or the lane was fenced: to be claimed again.
    Lost,
    /// A definite error.
    Stopped(Stop),
}

/// What is known of the order in which events were tried, and so what one means that violates a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing: lanes were where they happened to be.
    Unknown,
    /// Nothing can be known, since places come from offsets.
    ByOffset,
    /// All that were known to be concerned were applied up to this cut.
    UpTo(Position),
}

/// What became of a lane.
pub struct LaneReport {
    /// Topic and partition.
    pub key: TopicPartition,
    /// The next offset that the target has stored.
    pub stored: Option<i64>,
    /// The mark that the target has stored.
    pub mark: Position,
    /// Records that are not applied.
    pub records: Vec<ConsumedRecord>,
    /// Bytes of records that are.
    pub gone: usize,
    /// Why records are left.
    pub halt: Option<Halt>,
    /// The source's table, if an event was seen.
    pub table: Option<String>,
    /// Applied events by operation.
    pub applied: Vec<(Op, u64)>,
    /// Events that the target had already.
    pub skipped: u64,
    /// Whether its events have their places from offsets.
    pub by_offset: bool,
    /// Position of the last event that was tried.
    pub tried: Option<Position>,
    /// By how many milliseconds the record of the last event that was seen is younger than its commit.
    pub delay_ms: Option<i64>,
}

impl LaneReport {
    /// Counts what the lane has done.
    pub fn count(&self, metrics: &ApplyMetrics) {
        metrics.skipped.inc_by(self.skipped);
        if let Some(next_offset) = self.stored {
            metrics.applied(&self.key.0, self.key.1, self.mark, next_offset);
        }
        if let Some(table) = &self.table {
            let table = metrics.table(table);
            for (op, count) in &self.applied {
                table.events(*op).inc_by(*count);
            }
            table.bytes.inc_by(u64::try_from(self.gone).unwrap_or(0));
        }
    }
}

/// A lane in work.
pub struct Work {
    /// Its part of the job.
    pub lane: JobLane,
    /// Decoded events above the mark with their offsets, not applied yet.
    pub events: Vec<(i64, ChangeEvent)>,
    /// Offset after the last record that `events` stand for.
    pub next_offset: Option<i64>,
    /// Why it stops.
    pub halt: Option<Halt>,
    /// Its topic.
    pub topic: Arc<str>,
    table: Option<String>,
    applied: Vec<(Op, u64)>,
    skipped: u64,
    delay_ms: Option<i64>,
}

/// What a job may hold of texts that are far longer than their records, as those of padded bit strings are: the budget of
/// the queues counts the records' bytes.
#[derive(Clone, Copy, Debug)]
pub struct Padding {
    left: usize,
    is_first: bool,
}

impl Padding {
    /// By how much a text is longer than its record as a rule.
    const USUAL: usize = 4;

    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        Self { left: bytes, is_first: true }
    }

    /// Takes an event's part; `false` if it does not fit, as the first of a job always does.
    fn take(&mut self, event: &ChangeEvent, record: &ConsumedRecord) -> bool {
        let cells = event.before.iter().chain(&event.after).flatten();
        let text: usize = cells.map(|cell| if let Cell::Text(text) = cell { text.len() } else { 0 }).sum();
        let padding = text.saturating_sub(record.size().saturating_mul(Self::USUAL));
        let fits = self.is_first || padding <= self.left;
        if fits {
            (self.left, self.is_first) = (self.left.saturating_sub(padding), false);
        }
        fits
    }
}

/// Decodes a lane's records up to what stops it.
pub async fn decode<D: Decode>(
    decoder: &mut D,
    mut lane: JobLane,
    hold: Option<Lsn>,
    padding: &mut Padding,
) -> (Work, Option<Error>) {
    let records = std::mem::take(&mut lane.records);
    let mut work = Work {
        next_offset: lane.stored,
        topic: Arc::clone(&lane.key.0),
        lane,
        events: Vec::with_capacity(records.len()),
        halt: None,
        table: None,
        applied: Vec::new(),
        skipped: 0,
        delay_ms: None,
    };
    let mut trouble = None;
    let mut mark = work.lane.mark;
    for record in &records {
        match decoder.decode(record).await {
            Ok(Some(Incoming::Change(event))) if !padding.take(&event, record) => {
                work.halt = Some(Halt::Full);
                break;
            }
            Ok(Some(Incoming::Sweep { at, sweep, table })) => {
                if work.reach((at, record.offset), *sweep, table, (mark, hold)).is_some() {
                    break;
                }
            }
            Ok(Some(Incoming::Change(event))) => {
                work.delay_ms = Some(record.timestamp_ms.saturating_sub(event.commit_ms));
                if work.take(event, record.offset, &mut mark, hold).is_some() {
                    break;
                }
            }
            Ok(None) => {}
            Err(error) => {
                work.halt = Some(match error.severity() {
                    Severity::Definite => Halt::Stopped(work.stop(Some(record.offset), chain(&error), error.hint())),
                    _ => Halt::Waits,
                });
                trouble = (error.severity() != Severity::Definite).then(|| error.into());
                break;
            }
        }
        work.next_offset = Some(record.offset + 1);
    }
    work.lane.records = records;
    (work, trouble)
}

impl Work {
    /// Takes an event into the batch, skips it, or halts before it.
    fn take(&mut self, event: ChangeEvent, offset: i64, mark: &mut Position, hold: Option<Lsn>) -> Option<()> {
        let by_offset = event.position.is_of_offset();
        if by_offset && !mark.precedes_offset(offset) {
            self.table.get_or_insert_with(|| event.shape.name.to_string());
            self.halt = Some(Halt::Stopped(self.misplaced(offset)));
            return Some(());
        }
        // A barrier shares its position with no row, so one at the mark is behind it, also the one before a snapshot.
        let is_behind = event.op == Op::Truncate && !by_offset && event.position <= *mark;
        if event.position.is_applied_at(*mark) || is_behind {
            self.skipped += 1;
            return None;
        }
        if let Some(hold) = hold.filter(|hold| event.position.commit >= *hold) {
            self.halt = Some(Halt::Held(hold));
            return Some(());
        }
        self.table.get_or_insert_with(|| event.shape.name.to_string());
        match (event.op, event.barrier) {
            (Op::Truncate, Some(barrier)) => {
                self.park(event.position, Gate::Truncate(barrier), Some(event.shape.name.clone()), offset);
                Some(())
            }
            (Op::Truncate, None) => {
                let reason = "a truncate without the partitions that it concerns".to_owned();
                let hint = Some(
                    "Capture with [format] truncates = \"broadcast\" and own_headers = true, or, where Debezium writes the topic, let it \
                     skip truncates."
                        .to_owned(),
                );
                self.halt = Some(Halt::Stopped(self.stop(Some(offset), reason, hint)));
                Some(())
            }
            (Op::Message, _) => None,
            (_, barrier) => {
                *mark = event.position.max(*mark);
                self.events.push((offset, ChangeEvent { barrier, ..event }));
                None
            }
        }
    }

    /// Halts before the end of a resync, or skips it.
    fn reach(
        &mut self,
        (at, offset): (Position, i64),
        sweep: Sweep,
        table: Option<TableName>,
        (mark, hold): (Position, Option<Lsn>),
    ) -> Option<()> {
        if at <= mark || self.lane.overtaken == Some(at) {
            self.skipped += 1;
            return None;
        }
        if let Some(hold) = hold.filter(|hold| at.commit >= *hold) {
            self.halt = Some(Halt::Held(hold));
        } else {
            self.park(at, Gate::Sweep(sweep), table, offset);
        }
        Some(())
    }

    fn park(&mut self, at: Position, gate: Gate, table: Option<TableName>, offset: i64) {
        self.halt = Some(Halt::Barrier(Box::new(Parked { at, gate, table, offset })));
    }

    /// The stop at a record of another producer behind records of walrelay's: nothing tells which of them is newer.
    fn misplaced(&self, offset: i64) -> Stop {
        let reason = "a record of another producer comes after walrelay's own, and has no place among these".to_owned();
        let hint = "Let one producer write to the topic: give the other one another prefix. The topic itself cannot be mended: \
                    begin anew with a new prefix and slot, or let the other producer fill topics of its own.";
        self.stop(Some(offset), reason, Some(hint.to_owned()))
    }

    /// Whether its events have their places from offsets, which compare with nothing of another lane.
    #[must_use]
    pub fn is_by_offset(&self) -> bool {
        self.lane.mark.is_of_offset() || self.events.iter().any(|(_, event)| event.position.is_of_offset())
    }

    /// Halts before its first event, for an error that lies in its table or in who locks it. Nothing is done, and `false` given,
    /// where fewer events than were tried may be applied; `least` says that there are none fewer.
    pub fn refuse(&mut self, error: &sink::Error, order: Order, least: bool) -> bool {
        if error.is_locked() {
            if !self.events.is_empty() && !matches!(self.halt, Some(Halt::Stopped(_))) {
                self.drop_from(0);
                self.halt = Some(Halt::Locked(chain(error)));
            }
            return true;
        }
        let is_ordering = error.is_ordering();
        // Fewer events meet the same order.
        let is_settled = least || is_ordering && order == Order::Unknown;
        if is_settled {
            let stop = self.stop(None, chain(error), error.hint());
            self.halt = Some(match order {
                _ if !is_ordering => Halt::Stopped(stop),
                Order::Unknown => Halt::Ordering(stop),
                Order::ByOffset => Halt::Unmet(stop),
                Order::UpTo(cut) => Halt::Unordered(stop, cut),
            });
        }
        is_settled
    }

    /// A stop of its table, with the place.
    pub fn stop(&self, offset: Option<i64>, reason: String, hint: Option<String>) -> Stop {
        let (topic, partition) = &self.lane.key;
        let place = offset.or_else(|| self.events.first().map(|(offset, _)| *offset));
        let place = place.map_or_else(String::new, |offset| format!(", offset {offset}"));
        Stop { reason: format!("topic {topic}, partition {partition}{place}: {reason}"), hint }
    }

    /// The lane's part of a batch with its first `count` events; `None` if that moves nothing.
    pub fn part(&self, count: usize) -> Option<LanePart<'_>> {
        let count = count.min(self.events.len());
        let next_offset = self.events.get(count).map_or(self.next_offset, |(offset, _)| Some(*offset))?;
        let events = self.events.get(..count)?;
        (Some(next_offset) != self.lane.stored).then_some(LanePart {
            lane: &self.lane.owned,
            topic: &self.topic,
            from: self.lane.stored,
            mark: self.lane.mark,
            events,
            next_offset,
        })
    }

    /// Notes what was committed.
    pub fn advance(&mut self, done: LaneDone) {
        self.lane.stored = Some(done.next_offset);
        self.lane.mark = done.mark;
        for (_, event) in self.events.drain(..done.applied.min(self.events.len())) {
            match self.applied.iter_mut().find(|(op, _)| *op == event.op) {
                Some((_, count)) => *count += 1,
                None => self.applied.push((event.op, 1)),
            }
        }
        if done.waits.is_some() {
            self.halt = Some(Halt::HalfMove);
        }
    }

    /// Drops the events from the first on that the hold forbids.
    pub fn cut_at(&mut self, hold: Lsn) {
        if let Some(at) = self.events.iter().position(|(_, event)| event.position.commit >= hold) {
            self.drop_from(at);
            self.halt = Some(Halt::Held(hold));
        }
    }

    /// Leaves the events from this index on for later; they will be decoded again.
    pub fn drop_from(&mut self, at: usize) {
        if let Some((offset, _)) = self.events.get(at) {
            self.next_offset = Some(*offset);
            self.events.truncate(at);
            self.halt = None;
        }
    }

    /// Leaves all its events out: its records are done with.
    pub fn skip(&mut self) {
        self.skipped += u64::try_from(self.events.len()).unwrap_or(0);
        self.events.clear();
    }

    /// What became of the lane.
    #[must_use]
    pub fn report(self) -> LaneReport {
        let (stored, by_offset) = (self.lane.stored, self.is_by_offset());
        let (rest, gone): (Vec<_>, Vec<_>) =
            self.lane.records.into_iter().partition(|record| stored.is_none_or(|next| record.offset >= next));
        LaneReport {
            key: self.lane.key,
            stored,
            mark: self.lane.mark,
            records: rest,
            gone: gone.iter().map(ConsumedRecord::size).sum(),
            halt: self.halt,
            table: self.table,
            applied: self.applied,
            skipped: self.skipped,
            by_offset,
            tried: self.events.last().map(|(_, event)| event.position),
            delay_ms: self.delay_ms,
        }
    }
}
