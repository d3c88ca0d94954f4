//! The blocks `source` and `transaction` of an event.

use std::io::Write;

use crate::{
    avro::encode,
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

    /// Appends the block in the order of its schema (`avro/source.avsc`).
    pub(super) fn append(&self, meta: &TransactionMeta, event: &EventMeta, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        encode::long(meta.commit_us.div_euclid(1_000), out);
        append_snapshot_mark(event.snapshot, out);
        out.extend_from_slice(&self.database);
        encode::present(out);
        compose_sequence(meta.previous_commit, event.lsn, scratch);
        encode::bytes(scratch, out);
        encode::optional_long(Some(meta.commit_us), out);
        encode::optional_long(Some(meta.commit_us.saturating_mul(1_000)), out);
        out.extend_from_slice(&self.table);
        encode::optional_long(meta.xid.map(i64::from), out);
        encode::optional_long(Some(event.lsn.0.cast_signed()), out);
        encode::null(out);
        encode::optional_string(meta.origin.as_deref(), out);
        encode::optional_long(meta.origin_lsn.map(|lsn| lsn.0.cast_signed()), out);
    }
}

/// The union of the mark has its string first.
fn append_snapshot_mark(mark: SnapshotMark, out: &mut Vec<u8>) {
    out.push(0);
    encode::string(mark.as_str(), out);
}

/// Puts the JSON text of two LSNs in decimal into `text`: the last commit before this transaction, and the event's own.
pub(super) fn compose_sequence(previous: Option<Lsn>, lsn: Lsn, text: &mut Vec<u8>) {
    text.clear();
    match previous {
        Some(previous) => {
            text.extend_from_slice(b"[\"");
            encode::digits(previous.0, text);
            text.extend_from_slice(b"\",\"");
        }
        None => text.extend_from_slice(b"[null,\""),
    }
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

/// Puts the `id` of an event's transaction into `text`.
pub(super) fn compose_transaction_id(meta: &TransactionMeta, ordinal: u64, text: &mut Vec<u8>) {
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

/// Appends the nullable transaction block.
pub(super) fn append_transaction(
    meta: &TransactionMeta,
    ordinal: u64,
    collection_order: u64,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    encode::present(out);
    compose_transaction_id(meta, ordinal, scratch);
    encode::bytes(scratch, out);
    encode::long(ordinal.cast_signed(), out);
    encode::long(collection_order.cast_signed(), out);
}

/// The position that a transaction block tells, or `None` if its id is not one of ours.
pub(super) fn position_of_block(id: &str, total_order: i64) -> Option<Position> {
    let mut parts = id.split(':');
    let transaction = parts.next()?;
    if transaction != "snapshot" {
        transaction.parse::<u32>().ok()?;
    }
    let commit = Lsn(parts.next()?.parse().ok()?);
    let epoch = parts.next().map_or(Ok(0), str::parse).ok()?;
    let ordinal = u64::try_from(total_order).ok()?;
    parts.next().is_none().then_some(Position { epoch, commit, ordinal })
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
