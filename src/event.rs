//! Change events: as captured from the source, as records on their way to Kafka, and as decoded for the sink.
//!
//! Values travel as PostgreSQL's own text until an encode plan writes them as Avro, and become that text again in the sink:
//! the server that receives them parses them with its own input functions, so no type is ever guessed.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

mod barrier;
mod cell;

pub use self::{
    barrier::{Barrier, Comparison, Condition, Gate, ParseResyncError, Resync, Sweep},
    cell::{Cell, Row, Span, Text, row},
};
use crate::{
    lsn::{Lsn, Position},
    schema::TableName,
};

/// What a change event says happened to the row (the envelope's `op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `c`
    Create,
    /// `u`
    Update,
    /// `d`
    Delete,
    /// `r`: a row read by a snapshot.
    Read,
    /// `t`
    Truncate,
    /// `m`: a logical message.
    Message,
}

impl Op {
    /// The envelope's one-letter code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
            Self::Truncate => "t",
            Self::Message => "m",
        }
    }

    /// Reads the envelope's one-letter code.
    #[must_use]
    pub const fn from_code(code: &[u8]) -> Option<Self> {
        Some(match code {
            b"c" => Self::Create,
            b"u" => Self::Update,
            b"d" => Self::Delete,
            b"r" => Self::Read,
            b"t" => Self::Truncate,
            b"m" => Self::Message,
            _ => return None,
        })
    }
}

/// One column of a tuple as the server sent it (manual, "Logical Replication Message Formats", TupleData).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    /// `n`: SQL NULL.
    Null,
    /// `u`: a TOASTed value that the UPDATE did not touch and the server did not send (trap T27).
    Unchanged,
    /// `t`: the type's text output.
    Text(Bytes),
    /// `b`: the type's binary output.
    Binary(Bytes),
}

/// The columns of one row, in the order of its relation.
pub type Tuple = Vec<Datum>;

/// What the server sent of the row before the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: only the replica identity's columns are set, the others are NULL.
    Key(Tuple),
    /// `O`: the whole row (replica identity FULL).
    Full(Tuple),
}

impl OldTuple {
    /// The columns, whichever kind it is.
    #[must_use]
    pub const fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// A row read by a snapshot.
    Read(Tuple),
    /// INSERT.
    Insert(Tuple),
    /// UPDATE; the old tuple is there when the key changed, a key column is stored externally, or identity is FULL.
    Update {
        /// What is known of the row before.
        old: Option<OldTuple>,
        /// The row after, with unsent columns marked.
        new: Tuple,
    },
    /// DELETE.
    Delete(OldTuple),
}

/// The `snapshot` field of the source block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SnapshotMark {
    /// Streamed.
    #[default]
    False,
    /// First row of the whole snapshot.
    First,
    /// First row of its table.
    FirstInCollection,
    /// Any other row of a snapshot.
    True,
    /// Last row of its table.
    LastInCollection,
    /// Last row of the whole snapshot.
    Last,
    /// A row that was read beside the stream.
    Incremental,
}

impl SnapshotMark {
    /// The text in the source block.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::False => "false",
            Self::First => "first",
            Self::FirstInCollection => "first_in_data_collection",
            Self::True => "true",
            Self::LastInCollection => "last_in_data_collection",
            Self::Last => "last",
            Self::Incremental => "incremental",
        }
    }
}

/// What the events of one transaction (or one snapshot) have in common.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TransactionMeta {
    /// Epoch of the positions.
    pub epoch: u32,
    /// The source transaction's id; for a snapshot the newest one that was through by then.
    pub xid: Option<u32>,
    /// LSN of the commit record (Begin's final LSN), or the snapshot's consistent point.
    pub commit: Lsn,
    /// Commit time (snapshot: read time) in microseconds since the Unix epoch.
    pub commit_us: i64,
    /// End of the transaction before it on this stream, for the source block's `sequence`.
    pub previous_commit: Option<Lsn>,
    /// Replication origin, when the transaction was itself replicated.
    pub origin: Option<Arc<str>>,
    /// The origin's commit LSN.
    pub origin_lsn: Option<Lsn>,
}

/// What one event has of its own, beside its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EventMeta {
    /// Ordinal inside the transaction, from 1; 0 for snapshot rows. A key move takes this one and the next.
    pub ordinal: u64,
    /// What a transaction block numbers it with, in the transaction and among its events of the same table, from 1: the ordinal, or
    /// the number of what is published. A key move takes two.
    pub total_order: u64,
    /// The same among the transaction's events of the table.
    pub collection_order: u64,
    /// LSN of the change itself; only information.
    pub lsn: Lsn,
    /// When the agent processed it, in nanoseconds since the Unix epoch.
    pub processed_ns: i64,
    /// Place inside a snapshot.
    pub snapshot: SnapshotMark,
    /// Rows of the table are still to come that were there before it: the row that it changes may be one of them.
    pub backfilling: bool,
    /// The resync that its table is in at its position.
    pub resync: Option<Resync>,
}

/// Records of one encoding step, in one arena that is reused: nothing is allocated per record in steady state.
#[derive(Debug, Default)]
pub struct RecordBuf {
    /// The bytes of all keys, values and headers.
    pub bytes: Vec<u8>,
    /// The records, in the order in which they are to be produced.
    pub records: Vec<RecordSpans>,
    /// The headers of all records.
    pub headers: Vec<HeaderSpan>,
}

/// Where a record's parts lie in its [`RecordBuf`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSpans {
    /// The framed key, or `None` for a null key.
    pub key: Option<Range<usize>>,
    /// The framed value, or `None` for a tombstone.
    pub value: Option<Range<usize>>,
    /// Range of `headers` that are this record's.
    pub headers: Range<usize>,
    /// An explicit partition; `None` leaves it to the partitioner over the key.
    pub partition: Option<i32>,
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderName {
    /// One that is always the same.
    Fixed(&'static str),
    /// One that the configuration chose.
    Chosen(Arc<str>),
}

impl HeaderName {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Fixed(name) => name,
            Self::Chosen(name) => name,
        }
    }
}

/// A record header: its name and where its value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSpan {
    /// The header's name.
    pub name: HeaderName,
    /// Its value's bytes.
    pub value: Range<usize>,
}

/// A record as a producer takes it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The framed key.
    pub key: Option<&'a [u8]>,
    /// The framed value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Explicit partition, or by the partitioner.
    pub partition: Option<i32>,
    headers: &'a [HeaderSpan],
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Name and value of each header.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.headers.iter().map(move |header| (header.name.as_str(), &bytes[header.value.clone()]))
    }

    /// Size of key, value and headers as far as the caller controls it, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.name.as_str().len() + h.value.len()).sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers
    }
}

/// Bytes that an empty [`RecordBuf`] keeps at most.
const KEPT: usize = 8 << 20;

impl RecordBuf {
    /// Empties it, keeping its memory, but for what a huge record took.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.records.clear();
        self.headers.clear();
    }

    /// The records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.records.iter().map(|spans| Record {
            key: spans.key.clone().map(|range| &self.bytes[range]),
            value: spans.value.clone().map(|range| &self.bytes[range]),
            partition: spans.partition,
            headers: &self.headers[spans.headers.clone()],
            bytes: &self.bytes,
        })
    }
}

/// One column as the writer's schema describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeColumn {
    /// The source column's name, unescaped.
    pub name: Arc<str>,
    /// The source's type as SQL (`walrelay.type`): what a created target column gets.
    pub type_sql: Arc<str>,
    /// The schema does not tell the source's type: this is one that has the values.
    pub guessed: bool,
    /// Whether the source column accepts NULL.
    pub nullable: bool,
    /// The value, as text, of rows that are older than the column, and of which no event tells it.
    pub missing: Option<Arc<str>>,
    /// Its values are texts, or arrays of them, of which nothing tells whether they are bytes in some encoding.
    pub may_be_encoded: bool,
    /// Labels of the enumeration that it is of, or whose items are, in their order, where the schema tells them.
    pub labels: Vec<Arc<str>>,
}

/// A table as a record's key and value schemas describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableShape {
    /// The source's schema and table.
    pub name: TableName,
    /// Columns in the order of the value schema.
    pub columns: Vec<ShapeColumn>,
    /// Indices into `columns` of the key, in key order; empty for a table without a key.
    pub key: Vec<usize>,
}

/// A change event as the sink applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeEvent {
    /// What happened.
    pub op: Op,
    /// Its place in the source's order, or only in its partition's ([`Position::is_of_offset`]).
    pub position: Position,
    /// Commit time at the source, in milliseconds since the Unix epoch.
    pub commit_ms: i64,
    /// The table as this record's schemas describe it.
    pub shape: Arc<TableShape>,
    /// The row before: whole, or only its key columns, the others `Unchanged`; `None` if the event has none.
    pub before: Option<Row>,
    /// The row after.
    pub after: Option<Row>,
    /// This event is the delete (`d`) or create (`c`) half of a key move; the create's ordinal is the delete's plus one.
    pub key_move: bool,
    /// This delete's row has columns that the create half of the key move does not carry: indices into the shape.
    pub moved_columns: Vec<usize>,
    /// The source's snapshot of the table goes on: that there is no row to change means that it is still to come.
    pub backfilling: bool,
    /// The resync that the table was in at its position.
    pub resync: Option<Resync>,
    /// Set on op `t`: the barrier that it is.
    pub barrier: Option<Barrier>,
}
