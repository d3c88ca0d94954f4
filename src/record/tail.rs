//! What stands behind the rows of an event: the blocks `source` and `transaction`, the operation, the time of processing.
//!
//! The events that a transaction has of one table and operation differ there in a few numbers alone, which mostly are as long as
//! those of the event before. So an event's bytes are kept, and the numbers of the next ones are put into their places.

use crate::{
    avro::{
        content::{Content, TransactionId},
        encode,
    },
    event::{EventMeta, Op, SnapshotMark, TransactionMeta},
    record::{
        place::{Place, ROOM},
        source::{Blocks, SourceConstants, SourcePlaces, is_streamed},
    },
};

/// Writes the envelope's fields behind its rows.
#[derive(Debug, Default)]
pub(super) struct Tail {
    blocks: Blocks,
    kept: Option<Kept>,
    /// Those of the event that was composed last, and [`ROOM`] behind them.
    bytes: Vec<u8>,
}

/// Which events may take the bytes, within the transaction that [`Blocks`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Of {
    table: u64,
    mark: SnapshotMark,
    op: Op,
    is_streamed: bool,
    has_transaction: bool,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    of: Of,
    source: SourcePlaces,
    /// Total order and collection order, if there is a block `transaction`.
    orders: Option<[Place; 2]>,
    /// The time of processing in milliseconds, microseconds and nanoseconds.
    moments: [Place; 3],
    /// The one that stands there.
    processed_ns: i64,
}

impl Tail {
    /// Appends the fields in the order of the envelope's schema.
    pub(super) fn append(
        &mut self,
        content: Content,
        table: &SourceConstants,
        meta: &TransactionMeta,
        (event, op): (&EventMeta, Op),
        out: &mut Vec<u8>,
    ) {
        let is_streamed = is_streamed(meta, event);
        let has_transaction = content.transaction.is_written(is_streamed);
        let of = Of { table: table.serial(), mark: event.snapshot, op, is_streamed, has_transaction };
        let Self { blocks, kept, bytes } = &*self;
        let start = out.len();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.of == of && blocks.are_of(meta)) {
            out.extend_from_slice(bytes);
            if kept.put(event, bytes, &mut out[start..]) {
                out.truncate(out.len() - ROOM.len());
                return;
            }
            out.truncate(start);
        }
        self.compose(content.transaction_id, table, meta, (event, of));
        out.extend_from_slice(&self.bytes);
        out.truncate(out.len() - ROOM.len());
    }

    /// Appends the block `source` alone.
    pub(super) fn append_source(
        &mut self,
        table: &SourceConstants,
        meta: &TransactionMeta,
        event: &EventMeta,
        out: &mut Vec<u8>,
    ) {
        self.kept = None;
        self.blocks.append_source(table, meta, event, out);
    }

    /// Appends the block `transaction` alone, behind the block `source` of the same event.
    pub(super) fn append_transaction(
        &mut self,
        form: TransactionId,
        meta: &TransactionMeta,
        event: &EventMeta,
        out: &mut Vec<u8>,
    ) {
        self.blocks.append_transaction(form, meta, event, out);
    }

    fn compose(
        &mut self,
        form: TransactionId,
        table: &SourceConstants,
        meta: &TransactionMeta,
        (event, of): (&EventMeta, Of),
    ) {
        let Self { blocks, kept, bytes } = self;
        bytes.clear();
        let source = blocks.append_source(table, meta, event, bytes);
        let orders = if of.has_transaction {
            Some(blocks.append_transaction(form, meta, event, bytes))
        } else {
            encode::null(bytes);
            None
        };
        encode::string(of.op.code(), bytes);
        let moments = in_units(event.processed_ns).map(|moment| {
            encode::present(bytes);
            Place::append(moment, bytes)
        });
        bytes.extend_from_slice(&ROOM);
        // An id of the event's own is no number of a place.
        *kept = (form == TransactionId::Commit).then_some(Kept {
            of,
            source,
            orders,
            moments,
            processed_ns: event.processed_ns,
        });
    }
}

impl Kept {
    /// Puts another event's numbers into a copy of the bytes; `false` if one of them has another length.
    #[inline]
    fn put(&self, event: &EventMeta, bytes: &[u8], copy: &mut [u8]) -> bool {
        if let Some([total, collection]) = self.orders
            && !(total.put(event.total_order.cast_signed(), bytes, copy)
                && collection.put(event.collection_order.cast_signed(), bytes, copy))
        {
            return false;
        }
        if self.processed_ns != event.processed_ns {
            for (place, moment) in self.moments.iter().zip(in_units(event.processed_ns)) {
                if !place.put(moment, bytes, copy) {
                    return false;
                }
            }
        }
        self.source.put(event.lsn, bytes, copy)
    }
}

/// A moment in nanoseconds: milliseconds, microseconds, nanoseconds.
fn in_units(nanoseconds: i64) -> [i64; 3] {
    [nanoseconds.div_euclid(1_000_000), nanoseconds.div_euclid(1_000), nanoseconds]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lsn::Lsn;

    fn transaction(commit: u64) -> TransactionMeta {
        let xid = (commit != 5).then_some(700);
        TransactionMeta { xid, commit: Lsn(commit), commit_us: 1_795_501_793_549_123, ..TransactionMeta::default() }
    }

    proptest! {
        /// Whatever went before, an event's fields are those that it has as the first one.
        #[test]
        fn what_is_kept_changes_no_event(
            events in prop::collection::vec(
                (0..3_usize, 1..6_u64, 0..3_u64, 90..120_u64, 0..20_000_u64, any::<(i64, bool, bool)>()), 1..40),
            form in prop::sample::select(vec![TransactionId::Commit, TransactionId::Event]),
        ) {
            let tables = ["a", "b", "c"].map(|table| SourceConstants::new("1", "shop", "shop", "public", table));
            let content = Content { transaction_id: form, ..Content::default() };
            let mut tail = Tail::default();
            for (table, commit, ordinal, lsn, order, (processed_ns, is_read, is_alone)) in events {
                let (meta, op) = (transaction(commit), if is_read { Op::Read } else { Op::Update });
                let (total_order, collection_order) = (order, order / 100);
                let event =
                    EventMeta { ordinal, total_order, collection_order, lsn: Lsn(lsn), processed_ns, ..EventMeta::default() };
                let (mut out, mut expected) = (Vec::new(), Vec::new());
                for (tail, out) in [(&mut tail, &mut out), (&mut Tail::default(), &mut expected)] {
                    if is_alone {
                        tail.append_source(&tables[table], &meta, &event, out);
                        tail.append_transaction(form, &meta, &event, out);
                    } else {
                        tail.append(content, &tables[table], &meta, (&event, op), out);
                    }
                }
                prop_assert_eq!(out, expected);
            }
        }
    }
}
