//! The stream against a scripted walsender.

use super::*;
use crate::{
    retry::{Classify, Severity},
    source::{
        connection::{StreamOptions, Streaming},
        scripted::{self, Peer},
    },
};

type Batches = mpsc::Receiver<Result<Batch, Error>>;

/// A plug-in Insert of one text value into relation 1.
fn insert(value: &[u8]) -> Vec<u8> {
    let len = u32::try_from(value.len()).unwrap().to_be_bytes();
    [b"I\0\0\0\x01N\0\x01t", &len[..], value].concat()
}

/// The same inside a block of a transaction in progress.
fn insert_of(xid: u32, value: &[u8]) -> Vec<u8> {
    [&b"I"[..], &xid.to_be_bytes(), &insert(value)[1..]].concat()
}

fn stream_start(xid: u32) -> Vec<u8> {
    [&b"S"[..], &xid.to_be_bytes(), b"\x01"].concat()
}

/// As [`start`], for transactions in progress.
async fn start_streaming(
    timeout_ms: u64,
    settings: StreamSettings,
) -> (Batches, StreamHandle, Peer, watch::Sender<Lsn>) {
    let options = StreamOptions { protocol: 2, streaming: Streaming::On, ..StreamOptions::default() };
    let (stream, peer) = scripted::stream_with(timeout_ms, options).await;
    let (flush, receiver) = watch::channel(Lsn(100));
    let (batches, handle) = spawn(stream, settings, receiver);
    (batches, handle, peer, flush)
}

async fn start(sender_timeout_ms: u64, settings: StreamSettings) -> (Batches, StreamHandle, Peer, watch::Sender<Lsn>) {
    let (stream, peer) = scripted::stream(sender_timeout_ms).await;
    let (flush, receiver) = watch::channel(Lsn(100));
    let (batches, handle) = spawn(stream, settings, receiver);
    (batches, handle, peer, flush)
}

async fn items(batches: &mut Batches, count: usize) -> Vec<StreamItem> {
    let mut items = Vec::new();
    while items.len() < count {
        items.extend(batches.recv().await.expect("the stream ended").expect("the stream failed").items);
    }
    items
}

async fn failure(batches: &mut Batches) -> Error {
    loop {
        match batches.recv().await.expect("the stream ended without an error") {
            Ok(_) => {}
            Err(error) => {
                assert!(batches.recv().await.is_none(), "something came after the error");
                return error;
            }
        }
    }
}

#[tokio::test]
async fn messages_and_keepalives_come_in_the_servers_order() {
    // trap T8
    let (mut batches, handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    peer.wal(110, &insert(b"a")).await;
    peer.keepalive(120, false).await;
    peer.wal(130, &insert(b"b")).await;
    let items = items(&mut batches, 3).await;
    assert!(matches!(items[0], StreamItem::Message { wal_start: Lsn(110), .. }));
    assert_eq!(items[1], StreamItem::Keepalive { wal_end: Lsn(120) });
    assert!(matches!(items[2], StreamItem::Message { wal_start: Lsn(130), .. }));
    assert_eq!(handle.status().received(), Lsn(130));
}

#[tokio::test]
async fn a_requested_reply_is_sent_at_once_and_a_moved_flush_position_unasked() {
    // traps T1, T5, T10
    let (_batches, handle, mut peer, flush) = start(60_000, StreamSettings::default()).await;
    peer.keepalive(150, true).await;
    assert_eq!(peer.status().await, (150, 100, false));
    flush.send(Lsn(140)).unwrap();
    assert_eq!(peer.status().await, (150, 140, false));
    flush.send(Lsn(90)).unwrap();
    peer.keepalive(160, true).await;
    assert_eq!(peer.status().await, (160, 140, false));
    assert_eq!(handle.status().confirmed(), Lsn(140));
}

#[tokio::test]
async fn status_updates_go_on_while_the_consumer_holds_the_stream_back() {
    // trap T10
    let settings = StreamSettings { max_batch_bytes: 1000, buffer_bytes: 2000, ..StreamSettings::default() };
    let (mut batches, handle, mut peer, flush) = start(600, settings).await;
    for lsn in 101..121 {
        peer.wal(lsn, &insert(&[b'x'; 400])).await;
    }
    peer.keepalive(130, true).await;
    // Unasked, every third of the timeout: the request behind the rows cannot be seen.
    for _ in 0..3 {
        let (written, flushed, _) = peer.status().await;
        assert!(written < 130 && flushed == 100, "{written} {flushed}");
    }
    let status = handle.status();
    assert!(status.held_back());
    assert!(status.buffered_bytes() <= 2000);
    flush.send(Lsn(101)).unwrap();
    while peer.status().await.1 != 101 {}

    assert_eq!(items(&mut batches, 21).await.len(), 21);
    while peer.status().await.0 != 130 {}
    assert!(!status.held_back());
    assert_eq!(status.buffered_bytes(), 0);
}

#[tokio::test]
async fn a_message_larger_than_the_budget_passes() {
    let settings = StreamSettings { max_batch_bytes: 100, buffer_bytes: 1000, ..StreamSettings::default() };
    let (mut batches, _handle, mut peer, _flush) = start(60_000, settings).await;
    let large = insert(&vec![b'x'; 2_000_000]);
    let serve = async {
        peer.wal(101, &large).await;
        peer.wal(102, &insert(b"small")).await;
    };
    let (items, ()) = tokio::join!(items(&mut batches, 2), serve);
    let StreamItem::Message { message: Message::Insert { new, .. }, .. } = &items[0] else { panic!("not an insert") };
    assert!(matches!(&new[0], crate::event::Datum::Text(value) if value.len() == 2_000_000));
}

#[tokio::test]
async fn a_full_channel_holds_no_share_of_the_budget() {
    let settings = StreamSettings { max_batch_bytes: 1, buffer_bytes: 100_000, ..StreamSettings::default() };
    let (mut batches, handle, mut peer, _flush) = start(300, settings).await;
    for lsn in 0..CHANNEL_SLOTS as u64 {
        peer.wal(101 + lsn, &insert(b"small")).await;
    }
    peer.wal(300, &insert(&vec![b'x'; 60_000])).await;
    while peer.status().await.0 != 300 {}
    assert!(handle.status().held_back());
    let drained = tokio::time::timeout(Duration::from_secs(5), items(&mut batches, CHANNEL_SLOTS + 1));
    assert_eq!(drained.await.expect("the last batch never came").len(), CHANNEL_SLOTS + 1);
}

#[tokio::test]
async fn silence_is_asked_about_and_then_ends_the_stream() {
    // trap T15
    let (mut batches, _handle, mut peer, _flush) = start(200, StreamSettings::default()).await;
    assert_eq!(peer.status().await, (100, 100, true));
    peer.keepalive(105, false).await;
    assert_eq!(peer.status().await, (105, 100, true));
    let error = failure(&mut batches).await;
    assert!(matches!(error, Error::Silent { limit, .. } if limit == Duration::from_millis(400)), "{error}");
    assert_eq!(error.severity(), Severity::Transient);
}

#[tokio::test]
async fn without_a_sender_timeout_the_configured_silence_counts() {
    // trap T15
    let settings = StreamSettings { receive_timeout: Duration::from_millis(300), ..StreamSettings::default() };
    let (mut batches, _handle, _peer, _flush) = start(0, settings).await;
    let error = failure(&mut batches).await;
    assert!(matches!(error, Error::Silent { limit, .. } if limit == Duration::from_millis(300)), "{error}");
}

#[tokio::test]
async fn an_unreadable_message_ends_the_stream_behind_the_good_ones() {
    let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    let good = insert(b"a");
    peer.wal(110, &good).await;
    peer.wal(120, &good[..good.len() - 1]).await;
    assert_eq!(items(&mut batches, 1).await.len(), 1);
    let error = failure(&mut batches).await;
    assert!(matches!(error, Error::Message { after: Lsn(110), .. }), "{error}");
    assert_eq!(error.severity(), Severity::Fatal);
}

#[tokio::test]
async fn an_error_of_the_server_in_the_middle_keeps_its_code_and_not_its_detail() {
    let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    peer.wal(110, &insert(b"a")).await;
    peer.error("57P01", "terminating connection").await;
    let error = failure(&mut batches).await;
    let Error::Postgres(postgres::Error::Statement { source, .. }) = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "terminating connection (SQLSTATE 57P01)");
    assert_eq!(error.severity(), Severity::Transient);
}

/// Trap T6: a server that only warns goes on without the changes.
#[tokio::test]
async fn a_publication_that_was_not_there_ends_the_stream_whether_the_server_fails_or_warns() {
    let told = [
        (
            b'E',
            "SERROR\0C42704\0Mpublication \"p\" does not exist\0Wslot \"s\", output plugin \"pgoutput\", in the change callback, associated LSN 1/1DA65EF8\0\0",
            Some(Lsn(0x1_1DA6_5EF8)),
        ),
        (b'N', "SWARNING\0C55000\0Mskipped loading publication \"p\"\0\0", None),
    ];
    for (tag, fields, change) in told {
        let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
        peer.send(b'N', b"SWARNING\0C01000\0Mof no interest\0\0").await;
        peer.send(tag, fields.as_bytes()).await;
        let error = failure(&mut batches).await;
        assert!(matches!(error, Error::PublicationAbsent { .. }), "{error}");
        assert_eq!(error.change(), change);
        assert_eq!(error.severity(), Severity::Fatal);
        assert!(error.hint().is_some_and(|hint| hint.contains("new snapshot")));
    }
}

/// What a server from version 17 on says while a stand-by of `synchronized_standby_slots` is not connected, and when it ends meanwhile.
#[tokio::test]
async fn a_server_that_waits_for_its_stand_by_goes_on_later() {
    let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    for _ in 0..2 {
        peer.send(b'N', b"SWARNING\0C55000\0Mslot \"a\" does not have active_pid\0RStandbySlotsHaveCaughtup\0\0").await;
    }
    peer.keepalive(150, false).await;
    assert_eq!(items(&mut batches, 1).await.len(), 1);
    peer.send(b'E', b"SERROR\0C55000\0Mslot \"a\" does not have active_pid\0RStandbySlotsHaveCaughtup\0\0").await;
    let error = failure(&mut batches).await;
    assert!(matches!(error, Error::Ended { .. }) && error.severity() == Severity::Transient, "{error}");
}

#[tokio::test]
async fn the_end_of_the_copy_and_of_the_connection_are_transient_errors() {
    let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    peer.send(b'c', &[]).await;
    let error = failure(&mut batches).await;
    assert!(matches!(error, Error::Ended { .. }) && error.severity() == Severity::Transient, "{error}");

    let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    peer.send_raw(&[b'd', 0, 0]).await;
    drop(peer);
    let error = failure(&mut batches).await;
    assert!(matches!(error, Error::Closed { .. } | Error::Broken { .. }), "{error}");
    assert_eq!(error.severity(), Severity::Transient);
}

#[tokio::test]
async fn a_frame_with_an_impossible_length_is_a_protocol_error() {
    for length in [0_u32, 3, 0x7fff_ffff, u32::MAX] {
        let (mut batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
        peer.send_raw(&[&b"d"[..], &length.to_be_bytes()].concat()).await;
        let error = failure(&mut batches).await;
        assert!(matches!(error, Error::Protocol { .. }), "{length}: {error}");
    }
}

#[tokio::test]
async fn a_stop_confirms_the_last_flush_position_and_ends_the_copy() {
    let (mut batches, handle, mut peer, flush) = start(60_000, StreamSettings::default()).await;
    peer.keepalive(150, false).await;
    assert_eq!(items(&mut batches, 1).await.len(), 1);
    flush.send(Lsn(150)).unwrap();
    let serve = async {
        while peer.receive().await.0 != b'c' {}
        peer.wal(160, &insert(b"late")).await;
        peer.send(b'c', &[]).await;
        peer.send(b'C', b"COPY 0\0").await;
        peer.send(b'Z', b"I").await;
        assert_eq!(peer.receive().await.0, b'X');
    };
    let status = handle.status();
    tokio::join!(handle.stop(), serve);
    assert_eq!(status.confirmed(), Lsn(150));
    assert!(batches.recv().await.is_none());
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_copy() {
    let (batches, _handle, mut peer, _flush) = start(60_000, StreamSettings::default()).await;
    drop(batches);
    while peer.receive().await.0 != b'c' {}
}

/// Traps T10, T38: more than the budget, from a spool whose memory is less than that.
#[tokio::test]
async fn a_transaction_in_progress_is_delivered_at_its_commit_while_status_updates_go_on() {
    let spool = SpoolSettings { memory: 200_000, ..SpoolSettings::default() };
    let settings = StreamSettings { max_batch_bytes: 1000, buffer_bytes: 2000, spool, ..StreamSettings::default() };
    let (mut batches, handle, mut peer, _flush) = start_streaming(600, settings).await;
    peer.wal(101, &stream_start(7)).await;
    for lsn in 101..1101 {
        peer.wal(lsn, &insert_of(7, &[b'x'; 1000])).await;
    }
    peer.wal(1101, b"E").await;
    peer.keepalive(1200, true).await;
    assert_eq!(items(&mut batches, 1).await, [StreamItem::Keepalive { wal_end: Lsn(1200) }]);
    while peer.status().await.0 != 1200 {}
    let held = handle.status().spooled();
    assert_eq!(held.transactions, 1);
    assert!(held.memory <= 200_000 && held.disk > 800_000, "{held:?}");
    let commit = [&b"c\0\0\0\x07\0"[..], &1300_u64.to_be_bytes(), &1310_u64.to_be_bytes(), &[0; 8]].concat();
    peer.wal(1310, &commit).await;
    peer.keepalive(1400, true).await;
    // Unasked, while nobody takes the batches.
    while peer.status().await.0 != 1310 {}
    for _ in 0..2 {
        assert_eq!(peer.status().await, (1310, 100, false));
    }
    let items = items(&mut batches, 1003).await;
    let is_begin = |item: &StreamItem| {
        matches!(item, StreamItem::Message { message: Message::Begin { final_lsn: Lsn(1300), xid: 7, .. }, .. })
    };
    assert!(is_begin(&items[0]), "{:?}", items[0]);
    assert!(matches!(
        items[1001],
        StreamItem::Message { wal_start: Lsn(1310), message: Message::Commit { end_lsn: Lsn(1310), .. } }
    ));
    assert_eq!(items[1002], StreamItem::Keepalive { wal_end: Lsn(1400) });
    while peer.status().await.0 != 1400 {}
    let held = handle.status().spooled();
    assert_eq!((held.transactions, held.memory, held.disk), (0, 0, 0));
}

/// Trap T80.
#[tokio::test]
async fn a_spool_that_is_full_of_open_transactions_ends_the_stream_with_their_ids() {
    let spool = SpoolSettings { memory: 100_000, limit: 100_000, ..SpoolSettings::default() };
    let settings = StreamSettings { max_batch_bytes: 1000, spool, ..StreamSettings::default() };
    let (mut batches, _handle, mut peer, _flush) = start_streaming(60_000, settings).await;
    let serve = async {
        for xid in [7, 9] {
            peer.wal(101, &stream_start(xid)).await;
            for lsn in 101..301 {
                peer.wal(lsn, &insert_of(xid, &[b'x'; 1000])).await;
            }
            peer.wal(301, b"E").await;
        }
        std::future::pending::<()>().await;
    };
    // The client closes the connection in the middle of it.
    let error = tokio::select! {
        biased;
        first = batches.recv() => first.expect("the stream ended without an error").expect_err("nothing is delivered"),
        () = serve => unreachable!(),
    };
    assert_eq!(error.severity(), Severity::Transient);
    let Error::Spool { mut open, source: Problem::Full { .. }, .. } = error else { panic!("{error}") };
    open.sort_unstable();
    assert!(open == [7] || open == [7, 9], "{open:?}");
}
