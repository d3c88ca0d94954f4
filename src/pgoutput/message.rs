//! The messages of the plug-in, one per type byte (manual, "Logical Replication Message Formats").

use std::sync::Arc;

use bytes::Bytes;

use super::{
    error::Error,
    reader::Reader,
    tuple::{read_old_tuple, read_tuple},
};
use crate::{
    event::{OldTuple, Tuple},
    lsn::Lsn,
    schema::ReplicaIdentity,
};

/// `R`: how the tuples of a relation are laid out, sent before its first use and after a change (trap T35).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationBody {
    /// The streamed transaction that sees it, inside a streamed block.
    pub xid: Option<u32>,
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema; empty on the wire for `pg_catalog`, which is filled in.
    pub schema: Arc<str>,
    /// Table.
    pub table: Arc<str>,
    /// Replica identity.
    pub identity: ReplicaIdentity,
    /// The published columns, in tuple order.
    pub columns: Vec<ColumnBody>,
}

/// A column of a Relation message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnBody {
    /// Whether the replica identity covers it; under FULL every column.
    pub identity: bool,
    /// Name.
    pub name: Arc<str>,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// `atttypmod`, −1 when there is none.
    pub typmod: i32,
}

/// `Y`: the name of a type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeBody {
    /// The streamed transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// `pg_type.oid`.
    pub oid: u32,
    /// Schema; empty on the wire for `pg_catalog`, which is filled in.
    pub schema: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// `M`: a logical message of `pg_logical_emit_message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    /// The streamed transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// Part of its transaction; else sent at once, out of commit order (trap T40).
    pub transactional: bool,
    /// Where it is in the WAL.
    pub lsn: Lsn,
    /// Prefix.
    pub prefix: Arc<str>,
    /// Content.
    pub content: Bytes,
}

/// `T`: TRUNCATE of several relations in one statement (trap T32).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The streamed transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// CASCADE was given.
    pub cascade: bool,
    /// RESTART IDENTITY was given.
    pub restart_identity: bool,
    /// The relations' OIDs.
    pub relations: Vec<u32>,
}

/// What Prepare, Commit Prepared, Stream Prepare have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// LSN of the record itself (PREPARE, or COMMIT PREPARED).
    pub lsn: Lsn,
    /// LSN behind it.
    pub end_lsn: Lsn,
    /// Its time, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Transaction id.
    pub xid: u32,
    /// The user's name of the prepared transaction.
    pub gid: Arc<str>,
}

/// A message of the output plug-in. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `B`: what follows up to Commit belongs to this transaction.
    Begin {
        /// LSN of the commit record: the transaction's position.
        final_lsn: Lsn,
        /// Commit time.
        commit_us: i64,
        /// Transaction id.
        xid: u32,
    },
    /// `M`
    Logical(LogicalMessage),
    /// `C`
    Commit {
        /// LSN of the commit record, as in Begin.
        commit_lsn: Lsn,
        /// LSN behind it: what may be confirmed once all is delivered (trap T2).
        end_lsn: Lsn,
        /// Commit time.
        commit_us: i64,
    },
    /// `O`: the transaction was itself replicated from there (trap T41).
    Origin {
        /// LSN of the commit at the origin.
        commit_lsn: Lsn,
        /// The origin's name.
        name: Arc<str>,
    },
    /// `R`
    Relation(RelationBody),
    /// `Y`
    Type(TypeBody),
    /// `I`
    Insert {
        /// The streamed transaction, inside a streamed block.
        xid: Option<u32>,
        /// The relation's OID.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// `U`
    Update {
        /// The streamed transaction, inside a streamed block.
        xid: Option<u32>,
        /// The relation's OID.
        relation: u32,
        /// The row before; absent when the key is unchanged and identity is not FULL.
        old: Option<OldTuple>,
        /// The row after.
        new: Tuple,
    },
    /// `D`
    Delete {
        /// The streamed transaction, inside a streamed block.
        xid: Option<u32>,
        /// The relation's OID.
        relation: u32,
        /// The row before.
        old: OldTuple,
    },
    /// `T`
    Truncate(Truncate),
    /// `S`: what follows up to Stream Stop belongs to an open transaction.
    StreamStart {
        /// Top-level transaction id.
        xid: u32,
        /// The first block of this transaction.
        first: bool,
    },
    /// `E`
    StreamStop,
    /// `c`
    StreamCommit {
        /// Transaction id.
        xid: u32,
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// LSN behind it.
        end_lsn: Lsn,
        /// Commit time.
        commit_us: i64,
    },
    /// `A`: a streamed transaction or one of its subtransactions was rolled back (trap T38).
    StreamAbort {
        /// Top-level transaction id.
        xid: u32,
        /// The subtransaction; equal to `xid` when all of it was rolled back.
        subxid: u32,
        /// LSN and time of the abort, only with `streaming = parallel` (version 4).
        aborted: Option<(Lsn, i64)>,
    },
    /// `b`: as Begin, for a prepared transaction.
    BeginPrepare(Prepared),
    /// `P`
    Prepare(Prepared),
    /// `K`
    CommitPrepared(Prepared),
    /// `r`
    RollbackPrepared {
        /// LSN behind the PREPARE.
        prepare_end_lsn: Lsn,
        /// LSN behind the ROLLBACK PREPARED.
        rollback_end_lsn: Lsn,
        /// Time of the PREPARE.
        prepare_us: i64,
        /// Time of the ROLLBACK PREPARED.
        rollback_us: i64,
        /// Transaction id.
        xid: u32,
        /// The user's name of the prepared transaction.
        gid: Arc<str>,
    },
    /// `p`
    StreamPrepare(Prepared),
}

impl Message {
    /// Whether it is one of its transaction's events.
    #[must_use]
    pub const fn is_event(&self) -> bool {
        match self {
            Self::Insert { .. } | Self::Update { .. } | Self::Delete { .. } | Self::Truncate(_) => true,
            Self::Logical(message) => message.transactional,
            _ => false,
        }
    }
}

/// Reads messages in stream order: inside a streamed block some of them carry a transaction id in front.
#[derive(Debug, Default)]
pub struct Parser {
    in_stream: bool,
}

impl Parser {
    /// Starts outside of a streamed block.
    #[must_use]
    pub const fn new() -> Self {
        Self { in_stream: false }
    }

    /// Reads one message and follows Stream Start and Stream Stop.
    pub fn parse(&mut self, data: Bytes) -> Result<Message, Error> {
        let message = parse(data, self.in_stream)?;
        match message {
            Message::StreamStart { .. } if self.in_stream => return Err(Error::OutOfPlace("stream start")),
            Message::StreamStart { .. } => self.in_stream = true,
            Message::StreamStop if !self.in_stream => return Err(Error::OutOfPlace("stream stop")),
            Message::StreamStop => self.in_stream = false,
            _ => {}
        }
        Ok(message)
    }
}

/// Reads one message; `in_stream` says whether it stands between Stream Start and Stream Stop.
pub fn parse(data: Bytes, in_stream: bool) -> Result<Message, Error> {
    let mut reader = Reader::new(data);
    let tag = reader.u8("message type")?;
    let message = match tag {
        b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => {
            let xid = if in_stream { Some(reader.u32("transaction id")?) } else { None };
            parse_content(&mut reader, tag, xid)?
        }
        b'S' | b'E' | b'c' | b'A' | b'p' => parse_stream(&mut reader, tag)?,
        _ => parse_transaction(&mut reader, tag)?,
    };
    reader.finish()?;
    Ok(message)
}

/// The messages that stand inside a transaction.
fn parse_content(reader: &mut Reader, tag: u8, xid: Option<u32>) -> Result<Message, Error> {
    match tag {
        b'R' => relation(reader, xid),
        b'Y' => Ok(Message::Type(TypeBody {
            xid,
            oid: reader.u32("type OID")?,
            schema: schema_name(reader)?,
            name: reader.string("type name")?,
        })),
        b'M' => logical(reader, xid),
        b'I' => {
            let relation = reader.u32("relation OID")?;
            expect_new(reader)?;
            Ok(Message::Insert { xid, relation, new: read_tuple(reader)? })
        }
        b'U' => update(reader, xid),
        b'D' => {
            let relation = reader.u32("relation OID")?;
            let offset = reader.offset();
            let kind = reader.u8("tuple kind")?;
            Ok(Message::Delete { xid, relation, old: read_old_tuple(reader, kind, offset)? })
        }
        _ => truncate(reader, xid),
    }
}

/// The messages around streamed blocks.
fn parse_stream(reader: &mut Reader, tag: u8) -> Result<Message, Error> {
    match tag {
        b'S' => {
            let xid = reader.u32("transaction id")?;
            let offset = reader.offset();
            match reader.u8("first segment flag")? {
                flag @ (0 | 1) => Ok(Message::StreamStart { xid, first: flag == 1 }),
                other => Err(Reader::undefined("first segment flag", offset, other.into())),
            }
        }
        b'E' => Ok(Message::StreamStop),
        b'c' => {
            let xid = reader.u32("transaction id")?;
            unused_flags(reader)?;
            Ok(Message::StreamCommit {
                xid,
                commit_lsn: reader.lsn("commit LSN")?,
                end_lsn: reader.lsn("end LSN")?,
                commit_us: reader.timestamp_us("commit time")?,
            })
        }
        b'A' => {
            let xid = reader.u32("transaction id")?;
            let subxid = reader.u32("subtransaction id")?;
            let aborted = match reader.remaining() {
                0 => None,
                _ => Some((reader.lsn("abort LSN")?, reader.timestamp_us("abort time")?)),
            };
            Ok(Message::StreamAbort { xid, subxid, aborted })
        }
        _ => {
            unused_flags(reader)?;
            Ok(Message::StreamPrepare(prepared(reader)?))
        }
    }
}

/// The messages around whole transactions.
fn parse_transaction(reader: &mut Reader, tag: u8) -> Result<Message, Error> {
    match tag {
        b'B' => Ok(Message::Begin {
            final_lsn: reader.lsn("final LSN")?,
            commit_us: reader.timestamp_us("commit time")?,
            xid: reader.u32("transaction id")?,
        }),
        b'C' => {
            unused_flags(reader)?;
            Ok(Message::Commit {
                commit_lsn: reader.lsn("commit LSN")?,
                end_lsn: reader.lsn("end LSN")?,
                commit_us: reader.timestamp_us("commit time")?,
            })
        }
        b'O' => {
            Ok(Message::Origin { commit_lsn: reader.lsn("origin's commit LSN")?, name: reader.string("origin name")? })
        }
        b'b' => Ok(Message::BeginPrepare(prepared(reader)?)),
        b'P' => {
            unused_flags(reader)?;
            Ok(Message::Prepare(prepared(reader)?))
        }
        b'K' => {
            unused_flags(reader)?;
            Ok(Message::CommitPrepared(prepared(reader)?))
        }
        b'r' => {
            unused_flags(reader)?;
            Ok(Message::RollbackPrepared {
                prepare_end_lsn: reader.lsn("prepare's end LSN")?,
                rollback_end_lsn: reader.lsn("rollback's end LSN")?,
                prepare_us: reader.timestamp_us("prepare time")?,
                rollback_us: reader.timestamp_us("rollback time")?,
                xid: reader.u32("transaction id")?,
                gid: reader.string("gid")?,
            })
        }
        other => Err(Reader::undefined("message type", 0, other.into())),
    }
}

fn prepared(reader: &mut Reader) -> Result<Prepared, Error> {
    Ok(Prepared {
        lsn: reader.lsn("LSN")?,
        end_lsn: reader.lsn("end LSN")?,
        time_us: reader.timestamp_us("time")?,
        xid: reader.u32("transaction id")?,
        gid: reader.string("gid")?,
    })
}

fn relation(reader: &mut Reader, xid: Option<u32>) -> Result<Message, Error> {
    let oid = reader.u32("relation OID")?;
    let schema = schema_name(reader)?;
    let table = reader.string("relation name")?;
    let offset = reader.offset();
    let byte = reader.u8("replica identity")?;
    let identity =
        ReplicaIdentity::from_byte(byte).ok_or(Reader::undefined("replica identity", offset, byte.into()))?;
    let count = reader.count("column count")?;
    let mut columns = Vec::with_capacity(count.min(reader.remaining()));
    for _ in 0..count {
        columns.push(ColumnBody {
            identity: reader.u8("column flags")? & 1 == 1,
            name: reader.string("column name")?,
            type_oid: reader.u32("type OID")?,
            typmod: reader.i32("type modifier")?,
        });
    }
    Ok(Message::Relation(RelationBody { xid, oid, schema, table, identity, columns }))
}

fn logical(reader: &mut Reader, xid: Option<u32>) -> Result<Message, Error> {
    let offset = reader.offset();
    let transactional = match reader.u8("message flags")? {
        flag @ (0 | 1) => flag == 1,
        other => return Err(Reader::undefined("message flags", offset, other.into())),
    };
    let lsn = reader.lsn("message LSN")?;
    let prefix = reader.string("message prefix")?;
    let len = reader.length("message length")?;
    let content = reader.bytes(len, "message content")?;
    Ok(Message::Logical(LogicalMessage { xid, transactional, lsn, prefix, content }))
}

fn update(reader: &mut Reader, xid: Option<u32>) -> Result<Message, Error> {
    let relation = reader.u32("relation OID")?;
    let offset = reader.offset();
    let old = match reader.u8("tuple kind")? {
        b'N' => None,
        kind => {
            let old = read_old_tuple(reader, kind, offset)?;
            expect_new(reader)?;
            Some(old)
        }
    };
    Ok(Message::Update { xid, relation, old, new: read_tuple(reader)? })
}

fn truncate(reader: &mut Reader, xid: Option<u32>) -> Result<Message, Error> {
    let count = reader.length("relation count")?;
    let offset = reader.offset();
    let options = reader.u8("truncate options")?;
    if options & !3 != 0 {
        return Err(Reader::undefined("truncate options", offset, options.into()));
    }
    let mut relations = Vec::with_capacity(count.min(reader.remaining() / 4));
    for _ in 0..count {
        relations.push(reader.u32("relation OID")?);
    }
    let (cascade, restart_identity) = (options & 1 != 0, options & 2 != 0);
    Ok(Message::Truncate(Truncate { xid, cascade, restart_identity, relations }))
}

fn expect_new(reader: &mut Reader) -> Result<(), Error> {
    let offset = reader.offset();
    match reader.u8("tuple kind")? {
        b'N' => Ok(()),
        other => Err(Reader::undefined("tuple kind", offset, other.into())),
    }
}

fn unused_flags(reader: &mut Reader) -> Result<(), Error> {
    let offset = reader.offset();
    match reader.u8("flags")? {
        0 => Ok(()),
        other => Err(Reader::undefined("flags", offset, other.into())),
    }
}

fn schema_name(reader: &mut Reader) -> Result<Arc<str>, Error> {
    let name = reader.string("schema name")?;
    Ok(if name.is_empty() { Arc::from("pg_catalog") } else { name })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
