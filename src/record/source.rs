//! The blocks `source` and `transaction` of an event.

use std::{
    io::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    avro::{content::TransactionId, encode},
    event::{EventMeta, Resync, SnapshotMark, TransactionMeta},
    lsn::{Lsn, Position},
    record::place::Place,
};

/// The parts of the source block that never change for a table, encoded.
#[derive(Debug)]
pub(super) struct SourceConstants {
    /// Tells the plans of this process apart, those of one table too.
    serial: u64,
    /// version, connector, name
    head: Vec<u8>,
    /// db
    database: Vec<u8>,
    /// schema, table
    table: Vec<u8>,
}

impl SourceConstants {
    pub(super) fn new(version: &str, name: &str, database: &str, schema: &str, table: &str) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let join = |texts: &[&str]| {
            let mut out = Vec::new();
            for text in texts {
                encode::string(text, &mut out);
            }
            out
        };
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            head: join(&[version, "postgresql", name]),
            database: join(&[database]),
            table: join(&[schema, table]),
        }
    }

    /// Tells the plans of this process apart.
    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }
}

/// Where an event's own LSN stands in a block `source`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourcePlaces {
    /// Its decimal digits, at the end of the sequence.
    digits: (usize, usize),
    lsn: Place,
}

impl SourcePlaces {
    /// Puts another LSN there in a copy of the bytes; `false` if it is not as long.
    pub(super) fn put(&self, lsn: Lsn, original: &[u8], copy: &mut [u8]) -> bool {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(lsn.0).as_bytes();
        let (start, end) = self.digits;
        let Some(place) = copy.get_mut(start..end).filter(|place| place.len() == digits.len()) else { return false };
        place.copy_from_slice(digits);
        self.lsn.put(lsn.0.cast_signed(), original, copy)
    }
}

/// The blocks `source` and `transaction` of the events of one transaction: what they have in common is kept, encoded.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    of: Option<TransactionMeta>,
    /// The beginning of the sequence's text.
    sequence: Vec<u8>,
    /// origin, `origin_lsn`
    origin: Vec<u8>,
    /// The transaction block's branch, and the id of a streamed event.
    id: Vec<u8>,
    /// Whose the runs are.
    runs_of: Option<(u64, SnapshotMark)>,
    /// From the version to the branch of the sequence.
    until_sequence: Vec<u8>,
    /// From the sequence's end to the branch of the LSN.
    until_lsn: Vec<u8>,
}

impl Blocks {
    /// Whether what is kept is this transaction's.
    pub(super) fn are_of(&self, meta: &TransactionMeta) -> bool {
        self.of.as_ref() == Some(meta)
    }

    /// Appends the block `source` in the order of its schema (`avro/source.avsc`).
    pub(super) fn append_source(
        &mut self,
        table: &SourceConstants,
        meta: &TransactionMeta,
        event: &EventMeta,
        out: &mut Vec<u8>,
    ) -> SourcePlaces {
        self.refresh(meta);
        if self.runs_of != Some((table.serial, event.snapshot)) {
            self.compose_runs(table, meta, event.snapshot);
        }
        out.extend_from_slice(&self.until_sequence);
        let mut count = 0;
        encode::composed(out, |out| {
            out.extend_from_slice(&self.sequence);
            count = out.len();
            end_sequence(event.lsn, out);
            count = out.len() - count;
        });
        let digits = (out.len() - count, out.len() - SEQUENCE_END.len());
        out.extend_from_slice(&self.until_lsn);
        let lsn = Place::append(event.lsn.0.cast_signed(), out);
        // xmin
        encode::null(out);
        out.extend_from_slice(&self.origin);
        SourcePlaces { digits, lsn }
    }

    /// Appends the nullable transaction block, behind the block `source` of the same event, which knows its transaction. Gives the
    /// places of the total order and the collection order.
    pub(super) fn append_transaction(
        &mut self,
        form: TransactionId,
        meta: &TransactionMeta,
        event: &EventMeta,
        out: &mut Vec<u8>,
    ) -> [Place; 2] {
        if form == TransactionId::Commit && is_of_transaction(meta, event.ordinal) {
            out.extend_from_slice(&self.id);
        } else {
            encode::present(out);
            encode::composed(out, |out| append_id(form, meta, (event.ordinal, event.lsn), out));
        }
        [event.total_order, event.collection_order].map(|order| Place::append(order.cast_signed(), out))
    }

    /// Makes what is kept that of a transaction, if it is another's.
    fn refresh(&mut self, meta: &TransactionMeta) {
        if self.are_of(meta) {
            return;
        }
        begin_sequence(meta.previous_commit, &mut self.sequence);
        self.origin.clear();
        encode::optional_string(meta.origin.as_deref(), &mut self.origin);
        encode::optional_long(meta.origin_lsn.map(|lsn| lsn.0.cast_signed()), &mut self.origin);
        self.id.clear();
        encode::present(&mut self.id);
        encode::composed(&mut self.id, |out| append_transaction_id(meta, 1, out));
        self.runs_of = None;
        self.of = Some(meta.clone());
    }

    fn compose_runs(&mut self, table: &SourceConstants, meta: &TransactionMeta, mark: SnapshotMark) {
        let Self { until_sequence, until_lsn, .. } = self;
        until_sequence.clear();
        until_sequence.extend_from_slice(&table.head);
        encode::long(meta.commit_us.div_euclid(1_000), until_sequence);
        append_snapshot_mark(mark, until_sequence);
        until_sequence.extend_from_slice(&table.database);
        encode::present(until_sequence);
        until_lsn.clear();
        encode::optional_long(Some(meta.commit_us), until_lsn);
        encode::optional_long(Some(meta.commit_us.saturating_mul(1_000)), until_lsn);
        until_lsn.extend_from_slice(&table.table);
        encode::optional_long(meta.xid.map(i64::from), until_lsn);
        encode::present(until_lsn);
        self.runs_of = Some((table.serial, mark));
    }
}

/// The union of the mark has its string first.
fn append_snapshot_mark(mark: SnapshotMark, out: &mut Vec<u8>) {
    out.push(0);
    encode::string(mark.as_str(), out);
}

/// Puts the JSON text of two LSNs in decimal into `text`: the end of the transaction before this one, and the event's own.
pub(super) fn compose_sequence(previous: Option<Lsn>, lsn: Lsn, text: &mut Vec<u8>) {
    begin_sequence(previous, text);
    end_sequence(lsn, text);
}

fn begin_sequence(previous: Option<Lsn>, text: &mut Vec<u8>) {
    text.clear();
    match previous {
        Some(previous) => {
            text.extend_from_slice(b"[\"");
            encode::digits(previous.0, text);
            text.extend_from_slice(b"\",\"");
        }
        None => text.extend_from_slice(b"[null,\""),
    }
}

/// What follows the event's LSN there.
const SEQUENCE_END: &[u8] = b"\"]";

fn end_sequence(lsn: Lsn, text: &mut Vec<u8>) {
    encode::digits(lsn.0, text);
    text.extend_from_slice(SEQUENCE_END);
}

/// Whether the event is one of its transaction's: a snapshot's has the ordinal 0, and a row that was read beside the stream counts in
/// no transaction, as with Debezium.
pub(super) const fn is_streamed(meta: &TransactionMeta, event: &EventMeta) -> bool {
    matches!(event.snapshot, SnapshotMark::False) && is_of_transaction(meta, event.ordinal)
}

const fn is_of_transaction(meta: &TransactionMeta, ordinal: u64) -> bool {
    ordinal != 0 && meta.xid.is_some()
}

/// Puts the content of a header `walrelay.pos` into `out`.
pub(super) fn append_position(position: Position, out: &mut Vec<u8>) {
    out.clear();
    write!(out, "{}:{}:{}", position.epoch, position.commit.0, position.ordinal)
        .expect("a vector never fails to be written");
}

/// Writes a resync's name as its header has it.
pub(super) fn append_resync(resync: Resync, out: &mut Vec<u8>) {
    out.clear();
    write!(out, "{resync}").expect("a vector never fails to be written");
}

/// Appends the `id` of an event's transaction, with the commit's LSN.
fn append_transaction_id(meta: &TransactionMeta, ordinal: u64, text: &mut Vec<u8>) {
    match meta.xid.filter(|_| is_of_transaction(meta, ordinal)) {
        None => text.extend_from_slice(b"snapshot"),
        Some(xid) => encode::digits(u64::from(xid), text),
    }
    text.push(b':');
    encode::digits(meta.commit.0, text);
    if meta.epoch != 0 {
        text.push(b':');
        encode::digits(u64::from(meta.epoch), text);
    }
}

/// Appends the `id` of an event's transaction in Debezium's form, with the event's own LSN.
fn append_debezium_id(xid: u32, lsn: Lsn, text: &mut Vec<u8>) {
    encode::digits(u64::from(xid), text);
    text.push(b':');
    encode::digits(lsn.0, text);
}

/// Appends the `id` of an event's transaction in the form that consumers want.
pub(super) fn append_id(form: TransactionId, meta: &TransactionMeta, (ordinal, lsn): (u64, Lsn), text: &mut Vec<u8>) {
    match meta.xid.filter(|_| form == TransactionId::Event && is_of_transaction(meta, ordinal)) {
        Some(xid) => append_debezium_id(xid, lsn, text),
        None => append_transaction_id(meta, ordinal, text),
    }
}

/// The position that a transaction block tells, or `None` if its id is not one of ours.
pub(super) fn position_of_block(id: &[u8], total_order: i64) -> Option<Position> {
    let rest = match id.strip_prefix(b"snapshot") {
        Some(rest) => rest,
        None => {
            let (xid, rest) = split_number(id)?;
            u32::try_from(xid).ok()?;
            rest
        }
    };
    let (commit, rest) = split_number(rest.strip_prefix(b":")?)?;
    let (epoch, rest) = match rest.strip_prefix(b":") {
        Some(rest) => split_number(rest)?,
        None => (0, rest),
    };
    let (epoch, ordinal) = (u32::try_from(epoch).ok()?, u64::try_from(total_order).ok()?);
    rest.is_empty().then_some(Position { epoch, commit: Lsn(commit), ordinal })
}

/// The decimal number that a text begins with, and what follows it.
fn split_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at_checked(count).filter(|(digits, _)| !digits.is_empty())?;
    let shift_in = |number: u64, digit: &u8| number * 10 + u64::from(digit - b'0');
    // No number of 19 digits is beyond 64 bits.
    let (short, last) = digits.split_at(count.min(19));
    let number = short.iter().fold(0, shift_in);
    let add = |number: u64, digit: &u8| number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    Some((last.iter().try_fold(number, add)?, rest))
}

/// The position in a header `walrelay.pos`.
pub(super) fn position_of_header(text: &str) -> Option<Position> {
    let mut parts = text.split(':');
    let epoch = parts.next()?.parse().ok()?;
    let commit = Lsn(parts.next()?.parse().ok()?);
    let ordinal = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(Position { epoch, commit, ordinal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_from_block_and_header() {
        let position = |epoch, commit, ordinal| Some(Position { epoch, commit: Lsn(commit), ordinal });
        assert_eq!(position_of_block(b"19145:77238080", 3), position(0, 77_238_080, 3));
        assert_eq!(position_of_block(b"19145:77238080:2", 3), position(2, 77_238_080, 3));
        assert_eq!(position_of_block(b"snapshot:5", 0), position(0, 5, 0));
        assert_eq!(position_of_header("1:5:9"), position(1, 5, 9));
        for bad in ["", "x:1", "1", "1:2:3:4", "1:-2", "snapshot:", "4294967296:1", "1:2:", "1:18446744073709551616"] {
            assert_eq!(position_of_block(bad.as_bytes(), 1), None, "{bad:?}");
        }
        assert_eq!(position_of_block(b"1:2", -1), None);
    }
}
