//! Messages built by hand as the manual lays them out.

use proptest::prelude::*;

use super::*;
use crate::event::Datum;

/// Builds a message field by field.
#[derive(Clone, Default)]
struct Builder(Vec<u8>);

impl Builder {
    fn tag(tag: u8) -> Self {
        Self(vec![tag])
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn i16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn string(mut self, value: &str) -> Self {
        self.0.extend(value.as_bytes());
        self.u8(0)
    }

    fn text(mut self, value: &str) -> Self {
        self = self.u8(b't').i32(value.len().try_into().unwrap());
        self.0.extend(value.as_bytes());
        self
    }

    fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }

    fn bytes(self) -> Bytes {
        self.0.into()
    }
}

const EPOCH: i64 = crate::pgoutput::reader::POSTGRES_EPOCH_US;

fn text(value: &'static str) -> Datum {
    Datum::Text(Bytes::from_static(value.as_bytes()))
}

fn prepared() -> Prepared {
    Prepared { lsn: Lsn(1), end_lsn: Lsn(2), time_us: EPOCH + 3, xid: 4, gid: "gid".into() }
}

fn prepared_bytes(builder: Builder) -> Bytes {
    builder.i64(1).i64(2).i64(3).i32(4).string("gid").bytes()
}

fn transaction_messages() -> Vec<(Bytes, Message)> {
    vec![
        (
            Builder::tag(b'B').i64(0x10).i64(7).i32(-1).bytes(),
            Message::Begin { final_lsn: Lsn(0x10), commit_us: EPOCH + 7, xid: u32::MAX },
        ),
        (
            Builder::tag(b'C').u8(0).i64(1).i64(2).i64(3).bytes(),
            Message::Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_us: EPOCH + 3 },
        ),
        (
            Builder::tag(b'O').i64(5).string("upstream").bytes(),
            Message::Origin { commit_lsn: Lsn(5), name: "upstream".into() },
        ),
        (prepared_bytes(Builder::tag(b'b')), Message::BeginPrepare(prepared())),
        (prepared_bytes(Builder::tag(b'P').u8(0)), Message::Prepare(prepared())),
        (prepared_bytes(Builder::tag(b'K').u8(0)), Message::CommitPrepared(prepared())),
        (
            Builder::tag(b'r').u8(0).i64(1).i64(2).i64(3).i64(4).i32(5).string("gid").bytes(),
            Message::RollbackPrepared {
                prepare_end_lsn: Lsn(1),
                rollback_end_lsn: Lsn(2),
                prepare_us: EPOCH + 3,
                rollback_us: EPOCH + 4,
                xid: 5,
                gid: "gid".into(),
            },
        ),
    ]
}

fn stream_messages() -> Vec<(Bytes, Message)> {
    vec![
        (Builder::tag(b'S').i32(9).u8(1).bytes(), Message::StreamStart { xid: 9, first: true }),
        (Builder::tag(b'E').bytes(), Message::StreamStop),
        (
            Builder::tag(b'c').i32(9).u8(0).i64(1).i64(2).i64(3).bytes(),
            Message::StreamCommit { xid: 9, commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_us: EPOCH + 3 },
        ),
        (Builder::tag(b'A').i32(9).i32(10).bytes(), Message::StreamAbort { xid: 9, subxid: 10, aborted: None }),
        (
            Builder::tag(b'A').i32(9).i32(10).i64(1).i64(2).bytes(),
            Message::StreamAbort { xid: 9, subxid: 10, aborted: Some((Lsn(1), EPOCH + 2)) },
        ),
        (prepared_bytes(Builder::tag(b'p').u8(0)), Message::StreamPrepare(prepared())),
    ]
}

/// Messages that stand inside a transaction, after `head` wrote the type byte (and the transaction id).
fn content_messages(head: impl Fn(u8) -> Builder, xid: Option<u32>) -> Vec<(Bytes, Message)> {
    let row = |b: Builder| b.i16(3).text("a").u8(b'n').u8(b'u');
    let tuple = vec![text("a"), Datum::Null, Datum::Unchanged];
    let (old, new) = (OldTuple::Key(tuple.clone()), tuple.clone());
    vec![
        (
            head(b'R').i32(16).string("").string("t").u8(b'i').i16(1).u8(1).string("c").i32(23).i32(-1).bytes(),
            Message::Relation(RelationBody {
                xid,
                oid: 16,
                schema: "pg_catalog".into(),
                table: "t".into(),
                identity: ReplicaIdentity::Index,
                columns: vec![ColumnBody { identity: true, name: "c".into(), type_oid: 23, typmod: -1 }],
            }),
        ),
        (
            head(b'Y').i32(17).string("public").string("mood").bytes(),
            Message::Type(TypeBody { xid, oid: 17, schema: "public".into(), name: "mood".into() }),
        ),
        (
            head(b'M').u8(1).i64(7).string("p").i32(2).raw(&[0xff, 0]).bytes(),
            Message::Logical(LogicalMessage {
                xid,
                transactional: true,
                lsn: Lsn(7),
                prefix: "p".into(),
                content: Bytes::from_static(&[0xff, 0]),
            }),
        ),
        (row(head(b'I').i32(16).u8(b'N')).bytes(), Message::Insert { xid, relation: 16, new: new.clone() }),
        (row(head(b'U').i32(16).u8(b'N')).bytes(), Message::Update { xid, relation: 16, old: None, new: new.clone() }),
        (
            row(row(head(b'U').i32(16).u8(b'K')).u8(b'N')).bytes(),
            Message::Update { xid, relation: 16, old: Some(old), new },
        ),
        (
            head(b'D').i32(16).u8(b'O').i16(1).u8(b'b').i32(1).u8(5).bytes(),
            Message::Delete { xid, relation: 16, old: OldTuple::Full(vec![Datum::Binary(Bytes::from_static(&[5]))]) },
        ),
        (
            head(b'T').i32(2).u8(2).i32(16).i32(17).bytes(),
            Message::Truncate(Truncate { xid, cascade: false, restart_identity: true, relations: vec![16, 17] }),
        ),
    ]
}

/// (bytes, inside a streamed block, message) of every type.
fn all_messages() -> Vec<(Bytes, bool, Message)> {
    let outside = content_messages(Builder::tag, None);
    let inside = content_messages(|tag| Builder::tag(tag).i32(99), Some(99));
    let outside = outside.into_iter().chain(transaction_messages()).chain(stream_messages());
    let outside = outside.map(|(bytes, message)| (bytes, false, message));
    outside.chain(inside.into_iter().map(|(bytes, message)| (bytes, true, message))).collect()
}

#[test]
fn every_message_type_is_read_as_the_manual_lays_it_out() {
    for (bytes, in_stream, expected) in all_messages() {
        assert_eq!(parse(bytes, in_stream).unwrap(), expected);
    }
}

#[test]
fn truncation_at_every_length_is_an_error_with_an_offset_inside_the_message() {
    for (bytes, in_stream, message) in all_messages() {
        for len in 0..bytes.len() {
            let result = parse(bytes.slice(..len), in_stream);
            // Without its last 16 bytes a version 4 abort is a whole abort of version 2.
            if matches!(message, Message::StreamAbort { aborted: Some(_), .. }) && len == 9 {
                continue;
            }
            match result.expect_err("a truncated message was accepted") {
                Error::Truncated { offset, left, .. } => assert_eq!(offset + left, len, "{message:?}"),
                Error::Unterminated { offset, .. } => assert!(offset <= len, "{message:?}"),
                other => panic!("{message:?} cut to {len}: {other}"),
            }
        }
    }
}

#[test]
fn trailing_bytes_are_an_error() {
    for (bytes, in_stream, message) in all_messages() {
        let longer = [&bytes[..], &[0]].concat();
        let error = parse(longer.into(), in_stream).expect_err("trailing byte accepted");
        let partial_abort = matches!(message, Message::StreamAbort { aborted: None, .. });
        let expected = Error::Trailing { offset: bytes.len(), extra: 1 };
        assert!(partial_abort || error == expected, "{message:?}: {error}");
    }
}

#[test]
fn undefined_values_name_the_field_and_its_offset() {
    let undefined = |bytes: Bytes, what, offset, value| {
        assert_eq!(parse(bytes, false).unwrap_err(), Error::Undefined { what, offset, value });
    };
    undefined(Builder::tag(b'Z').bytes(), "message type", 0, 90);
    undefined(Builder::tag(b'I').i32(1).u8(b'N').i16(-1).bytes(), "column count", 6, -1);
    undefined(Builder::tag(b'I').i32(1).u8(b'N').i16(1).u8(b't').i32(-4).bytes(), "column length", 9, -4);
    undefined(Builder::tag(b'I').i32(1).u8(b'K').bytes(), "tuple kind", 5, 75);
    undefined(Builder::tag(b'D').i32(1).u8(b'N').bytes(), "tuple kind", 5, 78);
    undefined(Builder::tag(b'T').i32(0).u8(4).bytes(), "truncate options", 5, 4);
    undefined(Builder::tag(b'R').i32(1).string("s").string("t").u8(b'x').bytes(), "replica identity", 9, 120);
}

#[test]
fn transaction_ids_are_read_only_inside_streamed_blocks() {
    // trap T38
    let mut parser = Parser::new();
    let insert = |b: Builder| b.i32(16).u8(b'N').i16(0).bytes();
    let plain = insert(Builder::tag(b'I'));
    let streamed = insert(Builder::tag(b'I').i32(99));
    let start = Builder::tag(b'S').i32(99).u8(1).bytes();
    let stop = Builder::tag(b'E').bytes();

    assert_eq!(parser.parse(stop.clone()).unwrap_err(), Error::OutOfPlace("stream stop"));
    assert!(matches!(parser.parse(plain.clone()), Ok(Message::Insert { xid: None, relation: 16, .. })));
    parser.parse(start.clone()).unwrap();
    assert!(matches!(parser.parse(streamed), Ok(Message::Insert { xid: Some(99), relation: 16, .. })));
    assert_eq!(parser.parse(start).unwrap_err(), Error::OutOfPlace("stream start"));
    parser.parse(stop).unwrap();
    assert!(matches!(parser.parse(plain), Ok(Message::Insert { xid: None, relation: 16, .. })));
}

#[test]
fn values_are_slices_of_the_message() {
    let bytes = Builder::tag(b'I').i32(16).u8(b'N').i16(1).text("abc").bytes();
    let range = bytes.as_ptr_range();
    let Message::Insert { new, .. } = parse(bytes, false).unwrap() else { panic!("not an insert") };
    let Datum::Text(value) = &new[0] else { panic!("not text") };
    assert!(range.contains(&value.as_ptr()));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), in_stream: bool) {
        let _ = parse(bytes.into(), in_stream);
    }

    #[test]
    fn a_damaged_message_never_panics(
        index in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let messages = all_messages();
        let (bytes, in_stream, _) = index.get(&messages);
        let mut damaged = bytes.to_vec();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        let _ = parse(damaged.into(), *in_stream);
    }
}
