//! Flat records: the row itself, with parts of the envelope as fields behind the row's, or as headers.

use std::ops::Range;

use crate::{
    avro::{
        content::Content,
        encode,
        flat::{Deletes, Flat, Metadata, Part, SourcePart, TransactionPart},
    },
    event::{EventMeta, Op, RecordBuf, SnapshotMark, TransactionMeta},
    record::{
        error::EncodeError,
        plan::Plan,
        row::{self, RowSource},
        scratch::{Scratch, push_chosen_header},
        source::{append_id, compose_sequence, is_streamed},
    },
};

/// What an event's envelope would say.
#[derive(Clone, Copy)]
pub(super) struct Envelope<'a> {
    pub(super) plan: &'a Plan,
    pub(super) transaction: &'a TransactionMeta,
    pub(super) own: EventMeta,
    pub(super) op: Op,
    /// The source block's `version`, `name` and `db`.
    pub(super) version: &'a str,
    pub(super) prefix: &'a str,
    pub(super) database: &'a str,
    pub(super) content: Content,
}

/// What an event is in flat records.
pub(super) enum Written {
    /// No record.
    Nothing,
    /// A record without a value.
    Tombstone,
    /// A value, which lies there.
    Row(Range<usize>),
}

/// One part's value; a text lies in the scratch buffer where none is at hand.
enum Said<'a> {
    Nothing,
    Number(i64),
    Text(&'a [u8]),
}

impl Envelope<'_> {
    /// Appends an event's value, if it has one, and its headers, if it is a record.
    pub(super) fn append_flat(
        &self,
        flat: &Flat,
        before: Option<RowSource<'_>>,
        after: Option<RowSource<'_>>,
        buffers: &mut Scratch,
        out: &mut RecordBuf,
    ) -> Result<Written, EncodeError> {
        let Scratch { value: scratch, digits, text_before, text_after, .. } = buffers;
        text_before.clear();
        text_after.clear();
        let (row, texts) = match (self.op, flat.deletes) {
            (Op::Delete, Deletes::Drop) => return Ok(Written::Nothing),
            (Op::Delete, Deletes::Tombstone) => (None, text_before),
            (Op::Delete, _) => (before, text_before),
            _ => (after, text_after),
        };
        let mut written = Written::Tombstone;
        if let Some(row) = row {
            let start = out.bytes.len();
            out.bytes.extend_from_slice(&self.plan.value_schema.prefix);
            row::append(self.plan, self.plan.columns_of(self.op), row, texts, scratch, &mut out.bytes)?;
            self.append_fields(flat, scratch, &mut out.bytes);
            written = Written::Row(start..out.bytes.len());
        }
        self.push_headers(flat, scratch, digits, out);
        Ok(written)
    }

    /// Appends `__deleted`, where rows have it, and the further fields.
    fn append_fields(&self, flat: &Flat, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        if flat.deletes.is_rewritten() {
            encode::optional_string(Some(if self.op == Op::Delete { "true" } else { "false" }), out);
        }
        for Metadata { part, .. } in &flat.fields {
            match self.say(*part, scratch) {
                Said::Nothing => encode::null(out),
                Said::Number(number) => encode::optional_long(Some(number), out),
                Said::Text(text) => {
                    encode::present(out);
                    encode::bytes(text, out);
                }
            }
        }
    }

    /// Appends the headers, for the record that comes next; one that has nothing to say is left out.
    fn push_headers(&self, flat: &Flat, scratch: &mut Vec<u8>, digits: &mut Vec<u8>, out: &mut RecordBuf) {
        for Metadata { part, name } in &flat.headers {
            match self.say(*part, scratch) {
                Said::Nothing => {}
                Said::Text(text) => push_chosen_header(name, text, out),
                Said::Number(number) => {
                    digits.clear();
                    if number < 0 {
                        digits.push(b'-');
                    }
                    encode::digits(number.unsigned_abs(), digits);
                    push_chosen_header(name, digits, out);
                }
            }
        }
    }

    fn say<'b>(&'b self, part: Part, scratch: &'b mut Vec<u8>) -> Said<'b> {
        let processed = self.own.processed_ns;
        match part {
            Part::Op => Said::Text(self.op.code().as_bytes()),
            Part::TsMs => Said::Number(processed.div_euclid(1_000_000)),
            Part::TsUs => Said::Number(processed.div_euclid(1_000)),
            Part::TsNs => Said::Number(processed),
            Part::Source(part) => self.say_of_source(part, scratch),
            Part::Transaction(part) => self.say_of_transaction(part, scratch),
        }
    }

    fn say_of_source<'b>(&'b self, part: SourcePart, scratch: &'b mut Vec<u8>) -> Said<'b> {
        let Self { plan, transaction, own, .. } = self;
        let optional = |number: Option<i64>| number.map_or(Said::Nothing, Said::Number);
        match part {
            SourcePart::Version => Said::Text(self.version.as_bytes()),
            SourcePart::Connector => Said::Text(b"postgresql"),
            SourcePart::Name => Said::Text(self.prefix.as_bytes()),
            SourcePart::TsMs => Said::Number(transaction.commit_us.div_euclid(1_000)),
            // The envelope has a default for what is no snapshot's, which the transformation does not see.
            SourcePart::Snapshot if own.snapshot == SnapshotMark::False => Said::Nothing,
            SourcePart::Snapshot => Said::Text(own.snapshot.as_str().as_bytes()),
            SourcePart::Db => Said::Text(self.database.as_bytes()),
            SourcePart::Sequence => {
                compose_sequence(transaction.previous_commit, own.lsn, scratch);
                Said::Text(scratch)
            }
            SourcePart::TsUs => Said::Number(transaction.commit_us),
            SourcePart::TsNs => Said::Number(transaction.commit_us.saturating_mul(1_000)),
            SourcePart::Schema => Said::Text(plan.table.schema.as_bytes()),
            SourcePart::Table => Said::Text(plan.table.table.as_bytes()),
            SourcePart::TxId => optional(transaction.xid.map(i64::from)),
            SourcePart::Lsn => Said::Number(own.lsn.0.cast_signed()),
            SourcePart::Xmin => Said::Nothing,
            SourcePart::Origin => {
                transaction.origin.as_ref().map_or(Said::Nothing, |origin| Said::Text(origin.as_bytes()))
            }
            SourcePart::OriginLsn => optional(transaction.origin_lsn.map(|lsn| lsn.0.cast_signed())),
        }
    }

    fn say_of_transaction<'b>(&self, part: TransactionPart, scratch: &'b mut Vec<u8>) -> Said<'b> {
        if !self.content.transaction.is_written(is_streamed(self.transaction, &self.own)) {
            return Said::Nothing;
        }
        match part {
            TransactionPart::Id => {
                let event = (self.own.ordinal, self.own.lsn);
                scratch.clear();
                append_id(self.content.transaction_id, self.transaction, event, scratch);
                Said::Text(scratch)
            }
            TransactionPart::TotalOrder => Said::Number(self.own.total_order.cast_signed()),
            TransactionPart::DataCollectionOrder => Said::Number(self.own.collection_order.cast_signed()),
        }
    }
}
