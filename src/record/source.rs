//! The blocks `source` and `transaction` of an event.

use std::io::Write;

use crate::{
    avro::{content::TransactionId, encode},
    event::{EventMeta, SnapshotMark, TransactionMeta},
    lsn::{Lsn, Position},
};

/// The parts of the source block that never change for a table, encoded.
#[derive(Debug)]
pub(super) struct SourceConstants {
    /// version, connector, name
    head: Vec<u8>,
    /// db
    database: Vec<u8>,
    /// schema, table
    table: Vec<u8>,
}

impl SourceConstants {
    pub(super) fn new(version: &str, name: &str, database: &str, schema: &str, table: &str) -> Self {
        let join = |texts: &[&str]| {
            let mut out = Vec::new();
            for text in texts {
                encode::string(text, &mut out);
            }
            out
        };
        Self { head: join(&[version, "postgresql", name]), database: join(&[database]), table: join(&[schema, table]) }
    }

    /// Appends the block in the order of its schema (`avro/source.avsc`); `constants` are the transaction's.
    pub(super) fn append(
        &self,
        meta: &TransactionMeta,
        constants: &TransactionConstants,
        event: &EventMeta,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&constants.commit_ms);
        append_snapshot_mark(event.snapshot, out);
        out.extend_from_slice(&self.database);
        encode::present(out);
        scratch.clear();
        scratch.extend_from_slice(&constants.sequence);
        end_sequence(event.lsn, scratch);
        encode::bytes(scratch, out);
        out.extend_from_slice(&constants.times);
        out.extend_from_slice(&self.table);
        out.extend_from_slice(&constants.xid);
        encode::optional_long(Some(event.lsn.0.cast_signed()), out);
        encode::null(out);
        encode::optional_string(meta.origin.as_deref(), out);
        encode::optional_long(meta.origin_lsn.map(|lsn| lsn.0.cast_signed()), out);
    }
}

/// What all events of one transaction have in common, encoded.
#[derive(Debug, Default)]
pub(super) struct TransactionConstants {
    of: Option<TransactionMeta>,
    /// `ts_ms`
    commit_ms: Vec<u8>,
    /// The beginning of the sequence's text.
    sequence: Vec<u8>,
    /// `ts_us`, `ts_ns`
    times: Vec<u8>,
    /// txId
    xid: Vec<u8>,
    /// The id in the transaction block of a streamed event, a text.
    id: Vec<u8>,
}

impl TransactionConstants {
    /// Makes them those of a transaction, if they are another's.
    pub(super) fn refresh(&mut self, meta: &TransactionMeta) {
        if self.of.as_ref() == Some(meta) {
            return;
        }
        for buffer in [&mut self.commit_ms, &mut self.times, &mut self.xid] {
            buffer.clear();
        }
        encode::long(meta.commit_us.div_euclid(1_000), &mut self.commit_ms);
        begin_sequence(meta.previous_commit, &mut self.sequence);
        encode::optional_long(Some(meta.commit_us), &mut self.times);
        encode::optional_long(Some(meta.commit_us.saturating_mul(1_000)), &mut self.times);
        encode::optional_long(meta.xid.map(i64::from), &mut self.xid);
        compose_transaction_id(meta, 1, &mut self.id);
        self.of = Some(meta.clone());
    }
}

/// The union of the mark has its string first.
fn append_snapshot_mark(mark: SnapshotMark, out: &mut Vec<u8>) {
    out.push(0);
    encode::string(mark.as_str(), out);
}

/// Puts the JSON text of two LSNs in decimal into `text`: the last commit before this transaction, and the event's own.
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

fn end_sequence(lsn: Lsn, text: &mut Vec<u8>) {
    encode::digits(lsn.0, text);
    text.extend_from_slice(b"\"]");
}

/// Whether the event is one of the stream: a snapshot's has the ordinal 0.
pub(super) const fn is_streamed(meta: &TransactionMeta, ordinal: u64) -> bool {
    ordinal != 0 && meta.xid.is_some()
}

/// Puts the content of a header `walrelay.pos` into `out`.
pub(super) fn append_position(position: Position, out: &mut Vec<u8>) {
    out.clear();
    write!(out, "{}:{}:{}", position.epoch, position.commit.0, position.ordinal)
        .expect("a vector never fails to be written");
}

/// Puts the `id` of an event's transaction into `text`, with the commit's LSN.
fn compose_transaction_id(meta: &TransactionMeta, ordinal: u64, text: &mut Vec<u8>) {
    text.clear();
    match meta.xid.filter(|_| is_streamed(meta, ordinal)) {
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

/// Puts the `id` of an event's transaction into `text`, in Debezium's form: with the event's own LSN.
fn compose_debezium_id(xid: u32, lsn: Lsn, text: &mut Vec<u8>) {
    text.clear();
    encode::digits(u64::from(xid), text);
    text.push(b':');
    encode::digits(lsn.0, text);
}

/// Puts the `id` of an event's transaction into `text`, in the form that consumers want.
pub(super) fn compose_id(form: TransactionId, meta: &TransactionMeta, (ordinal, lsn): (u64, Lsn), text: &mut Vec<u8>) {
    match meta.xid.filter(|_| form == TransactionId::Event && is_streamed(meta, ordinal)) {
        Some(xid) => compose_debezium_id(xid, lsn, text),
        None => compose_transaction_id(meta, ordinal, text),
    }
}

/// Appends the nullable transaction block; `constants` are the transaction's.
pub(super) fn append_transaction(
    form: TransactionId,
    (meta, constants): (&TransactionMeta, &TransactionConstants),
    event: &EventMeta,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    encode::present(out);
    if form == TransactionId::Commit && is_streamed(meta, event.ordinal) {
        encode::bytes(&constants.id, out);
    } else {
        compose_id(form, meta, (event.ordinal, event.lsn), scratch);
        encode::bytes(scratch, out);
    }
    encode::long(event.ordinal.cast_signed(), out);
    encode::long(event.collection_order.cast_signed(), out);
}

/// The position that a transaction block tells, or `None` if its id is not one of ours.
pub(super) fn position_of_block(id: &str, total_order: i64) -> Option<Position> {
    let (transaction, rest) = id.split_once(':')?;
    if transaction != "snapshot" {
        transaction.parse::<u32>().ok()?;
    }
    let (commit, epoch) = rest.split_once(':').map_or((rest, None), |(commit, epoch)| (commit, Some(epoch)));
    let (commit, epoch) = (Lsn(commit.parse().ok()?), epoch.map_or(Ok(0), str::parse).ok()?);
    Some(Position { epoch, commit, ordinal: u64::try_from(total_order).ok()? })
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
        assert_eq!(position_of_block("19145:77238080", 3), position(0, 77_238_080, 3));
        assert_eq!(position_of_block("19145:77238080:2", 3), position(2, 77_238_080, 3));
        assert_eq!(position_of_block("snapshot:5", 0), position(0, 5, 0));
        assert_eq!(position_of_header("1:5:9"), position(1, 5, 9));
        for bad in ["", "x:1", "1", "1:2:3:4", "1:-2", "snapshot:"] {
            assert_eq!(position_of_block(bad, 1), None, "{bad:?}");
        }
        assert_eq!(position_of_block("1:2", -1), None);
    }
}
