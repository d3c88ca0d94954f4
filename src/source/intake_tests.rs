//! Messages as the server sends them of transactions in progress, and what comes of them.

use super::*;
use crate::{
    pgoutput::POSTGRES_EPOCH_US,
    source::{
        replay::Step,
        spool::{Spool, SpoolSettings},
    },
};

fn intake(tells_empty: bool) -> Intake {
    Intake::new(Some(Spool::new(SpoolSettings::default())), tells_empty)
}

fn with_xid(message: &[u8], xid: Option<u32>) -> Vec<u8> {
    let xid = xid.map(u32::to_be_bytes);
    [&message[..1], xid.as_ref().map_or(&[][..], |xid| xid), &message[1..]].concat()
}

fn insert(xid: Option<u32>, value: u8) -> Vec<u8> {
    with_xid(&[&b"I\0\0\0\x07N\0\x01t\0\0\0\x01"[..], &[value]].concat(), xid)
}

/// Relation 7 with one column of this name.
fn relation(xid: Option<u32>, column: &str) -> Vec<u8> {
    let body = [b"R\0\0\0\x07public\0t\0d\0\x01\x01", column.as_bytes(), b"\0\0\0\0\x19\xff\xff\xff\xff"].concat();
    with_xid(&body, xid)
}

fn start(xid: u32, first: bool) -> Vec<u8> {
    [&b"S"[..], &xid.to_be_bytes(), &[u8::from(first)]].concat()
}

fn abort(xid: u32, subxid: u32) -> Vec<u8> {
    [&b"A"[..], &xid.to_be_bytes(), &subxid.to_be_bytes()].concat()
}

/// Commit at an LSN, whose record ends nine bytes behind it.
fn stream_commit(xid: u32, lsn: u64) -> Vec<u8> {
    [&b"c"[..], &xid.to_be_bytes(), b"\0", &lsn.to_be_bytes(), &(lsn + 9).to_be_bytes(), &[0; 8]].concat()
}

fn begin(xid: u32, lsn: u64) -> Vec<u8> {
    [&b"B"[..], &lsn.to_be_bytes(), &[0; 8], &xid.to_be_bytes()].concat()
}

fn commit(lsn: u64) -> Vec<u8> {
    [&b"C\0"[..], &lsn.to_be_bytes(), &(lsn + 9).to_be_bytes(), &[0; 8]].concat()
}

fn logical(xid: Option<u32>, transactional: bool) -> Vec<u8> {
    with_xid(&[&b"M"[..], &[u8::from(transactional)], &[0; 8], b"p\0\0\0\0\x01c"].concat(), xid)
}

/// What is delivered of these messages, in short: all of a transaction at its commit.
fn delivered(intake: &mut Intake, messages: &[Vec<u8>]) -> Vec<String> {
    let mut told = Vec::new();
    for (number, message) in (100..).zip(messages) {
        match intake.take(Lsn(number), message.clone().into()).unwrap() {
            Taken::Kept => {}
            Taken::Deliver(item) => {
                let begins = matches!(item, StreamItem::Message { message: Message::Begin { .. }, .. });
                told.push(short(&item));
                told.extend(begins.then(|| intake.due()).into_iter().flatten().map(|item| short(&item)));
            }
            Taken::Committed(mut replay) => {
                let mut spool = intake.lend().unwrap();
                loop {
                    match replay.step(intake.announced()).unwrap() {
                        Step::Item(item, _) => told.push(short(&item)),
                        Step::Hungry(bytes) => replay.feed(&mut spool, bytes).unwrap(),
                        Step::Done => break,
                    }
                }
                intake.take_back(spool);
                intake.settle_announced();
            }
        }
    }
    told
}

fn short(item: &StreamItem) -> String {
    let StreamItem::Message { message, .. } = item else { return format!("{item:?}") };
    match message {
        Message::Begin { final_lsn, commit_us, xid } => {
            assert_eq!(*commit_us, POSTGRES_EPOCH_US);
            format!("begin {xid} {}", final_lsn.0)
        }
        Message::Commit { commit_lsn, end_lsn, .. } => format!("commit {} {}", commit_lsn.0, end_lsn.0),
        Message::Insert { new, .. } => match &new[0] {
            crate::event::Datum::Text(text) => format!("insert {}", String::from_utf8_lossy(text)),
            other => panic!("{other:?}"),
        },
        Message::Relation(body) => format!("relation {}", body.columns[0].name),
        Message::Origin { name, .. } => format!("origin {name}"),
        Message::Logical(message) => format!("message {}", message.transactional),
        other => format!("{other:?}"),
    }
}

fn stop() -> Vec<u8> {
    b"E".to_vec()
}

/// Trap T38: interleaved blocks are delivered in the order of the commits, each as if it had been sent then.
#[test]
fn transactions_in_progress_are_delivered_whole_in_the_order_of_their_commits() {
    let origin = [&b"O"[..], &[0; 8], b"far\0"].concat();
    let messages = [
        start(10, true),
        relation(Some(10), "a"),
        insert(Some(10), b'1'),
        stop(),
        start(20, true),
        origin,
        relation(Some(20), "a"),
        insert(Some(20), b'2'),
        stop(),
        begin(30, 300),
        insert(None, b'3'),
        commit(300),
        start(10, false),
        insert(Some(10), b'4'),
        logical(Some(10), true),
        stop(),
        logical(None, false),
        stream_commit(20, 400),
        stream_commit(10, 500),
    ];
    let told = delivered(&mut intake(false), &messages);
    let expected = "begin 30 300|insert 3|commit 300 309|message false|\
                    begin 20 400|origin far|relation a|insert 2|commit 400 409|\
                    begin 10 500|relation a|insert 1|insert 4|message true|commit 500 509";
    assert_eq!(told.join("|"), expected);
}

/// Trap T38: the server sends relations anew after a roll-back, so those of what was rolled back go with it.
#[test]
fn what_was_rolled_back_is_not_delivered() {
    let messages = [
        start(10, true),
        relation(Some(11), "kept by nobody"),
        insert(Some(11), b'1'),
        stop(),
        abort(10, 11),
        start(10, false),
        relation(Some(10), "a"),
        insert(Some(10), b'2'),
        insert(Some(12), b'3'),
        insert(Some(13), b'4'),
        stop(),
        abort(10, 13),
        abort(10, 12),
        start(20, true),
        insert(Some(20), b'5'),
        stop(),
        abort(20, 20),
        abort(99, 99),
        stream_commit(10, 500),
    ];
    let mut intake = intake(false);
    assert_eq!(delivered(&mut intake, &messages).join("|"), "begin 10 500|relation a|insert 2|commit 500 509");
    assert_eq!((intake.open(), intake.held()), (vec![], Held::default()));
}

#[test]
fn a_transaction_without_events_is_told_as_the_servers_version_tells_those_that_it_keeps_itself() {
    let messages = [start(10, true), insert(Some(11), b'1'), stop(), abort(10, 11), stream_commit(10, 500)];
    assert_eq!(delivered(&mut intake(false), &messages), ["Keepalive { wal_end: 0/1FD }"]);
    assert_eq!(delivered(&mut intake(true), &messages), ["begin 10 500", "commit 500 509"]);
}

/// The server has told of the newer description, and does not tell it again.
#[test]
fn a_newer_description_of_a_relation_holds_behind_a_transaction_that_has_an_older_one() {
    let before = [
        start(10, true),
        relation(Some(10), "old"),
        insert(Some(10), b'1'),
        stop(),
        begin(20, 300),
        relation(None, "new"),
        insert(None, b'2'),
        commit(300),
    ];
    let after = [
        stream_commit(10, 400),
        begin(30, 500),
        insert(None, b'3'),
        commit(500),
        begin(40, 600),
        insert(None, b'4'),
        commit(600),
    ];
    let mut intake = intake(false);
    let told = delivered(&mut intake, &[&before[..], &after].concat()).join("|");
    let expected = "begin 20 300|relation new|insert 2|commit 300 309|\
                    begin 10 400|relation old|insert 1|commit 400 409|\
                    begin 30 500|relation new|insert 3|commit 500 509|begin 40 600|insert 4|commit 600 609";
    assert_eq!(told, expected);
}

#[test]
fn messages_out_of_their_place_are_told() {
    let failed = |messages: &[Vec<u8>]| {
        let mut intake = intake(false);
        let last = messages.iter().map(|message| intake.take(Lsn(1), message.clone().into())).last();
        last.unwrap().unwrap_err().to_string()
    };
    assert!(failed(&[start(10, false)]).contains("a later block of a transaction"));
    assert!(failed(&[stream_commit(10, 1)]).contains("stream commit"));
    assert!(failed(&[stop()]).contains("stream stop"));
    assert!(failed(&[start(10, true), start(11, true)]).contains("stream start"));
    assert!(failed(&[start(10, true), b"I\0\0".to_vec()]).contains("transaction id"));
}

#[test]
fn without_a_spool_all_is_delivered_as_it_comes() {
    let mut intake = Intake::new(None, false);
    let taken = intake.take(Lsn(1), start(10, true).into()).unwrap();
    let Taken::Deliver(StreamItem::Message { message, .. }) = taken else { panic!("{taken:?}") };
    assert_eq!(message, Message::StreamStart { xid: 10, first: true });
    let mut intake = Intake::new(None, false);
    let taken = intake.take(Lsn(1), abort(10, 11).into()).unwrap();
    assert!(matches!(taken, Taken::Kept), "a server may tell of what it has not sent: {taken:?}");
}
