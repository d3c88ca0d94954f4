//! The replication connection against a scripted walsender.

use super::*;
use crate::{
    retry::{Classify, Severity},
    source::scripted::{self, Peer},
};

/// Connects to a peer that asks for authentication as `ask` does.
async fn connect(ask: impl AsyncFnOnce(&mut Peer)) -> Result<ReplicationConnection, Error> {
    let (listener, settings) = scripted::listen().await;
    let serve = async {
        let mut peer = Peer::accept(&listener).await;
        ask(&mut peer).await;
    };
    tokio::join!(ReplicationConnection::connect(&settings), serve).0
}

#[tokio::test]
async fn a_clear_text_password_is_sent_when_asked_for() {
    let connection = connect(async |peer| {
        peer.send(b'R', &[0, 0, 0, 3]).await;
        assert_eq!(peer.receive().await, (b'p', b"secret\0".to_vec()));
        peer.log_in().await;
    });
    assert_eq!(connection.await.unwrap().server_version(), 150_004);
}

#[tokio::test]
async fn no_limit_of_a_transaction_cuts_the_stream() {
    let connection = connect(async |peer| {
        peer.log_in_to("170004").await;
        peer.expect_query("SET transaction_timeout = 0").await;
        peer.row("none", "").await;
    });
    assert_eq!(connection.await.unwrap().server_version(), 170_004);
}

#[tokio::test]
async fn an_md5_password_is_salted() {
    let connection = connect(async |peer| {
        peer.send(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]).await;
        let (_, payload) = peer.receive().await;
        // md5(md5("secretwalrelay") in hex, then the salt), computed by the md5sum program.
        assert_eq!(payload, b"md5813d5d00543895eea65057abe018e06b\0");
        peer.log_in().await;
    });
    connection.await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_prove_to_know_the_password_is_refused() {
    let connection = connect(async |peer| {
        peer.send(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").await;
        let (_, payload) = peer.receive().await;
        let payload = String::from_utf8(payload).unwrap();
        assert!(payload.starts_with("SCRAM-SHA-256\0"), "{payload:?}");
        let nonce = payload.rsplit_once("r=").unwrap().1;
        let first = format!("\0\0\0\x0br={nonce}server,s=c2FsdA==,i=4096");
        peer.send(b'R', first.as_bytes()).await;
        peer.receive().await;
        peer.send(b'R', b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").await;
    });
    let error = connection.await.unwrap_err();
    assert!(matches!(error, Error::Postgres(postgres::Error::Authentication { .. })), "{error}");
}

#[tokio::test]
async fn other_methods_and_refusals_are_fatal_and_do_not_show_the_password() {
    let errors = [
        connect(async |peer| peer.send(b'R', &[0, 0, 0, 7]).await).await.unwrap_err(),
        connect(async |peer| peer.send(b'R', b"\0\0\0\x0aOAUTHBEARER\0\0").await).await.unwrap_err(),
        connect(async |peer| peer.error("28P01", "password authentication failed").await).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(!format!("{error:?} {:?}", error.hint()).contains("secret"));
    }
    let starting = connect(async |peer| peer.error("57P03", "the database system is starting up").await);
    assert_eq!(starting.await.unwrap_err().severity(), Severity::Transient);
}

#[tokio::test]
async fn an_error_leaves_the_connection_usable_and_an_abandoned_command_does_not() {
    let (listener, settings) = scripted::listen().await;
    let serve = async {
        let mut peer = Peer::accept(&listener).await;
        peer.log_in().await;
        peer.expect_query("SHOW nothing").await;
        peer.error("42704", "unrecognized configuration parameter").await;
        peer.send(b'Z', b"I").await;
        peer.expect_query("SHOW a").await;
        peer.row("a", "1").await;
        peer.expect_query("SELECT pg_sleep(9)").await;
        peer
    };
    let ask = async {
        let mut connection = ReplicationConnection::connect(&settings).await.unwrap();
        let error = connection.query_simple("SHOW nothing").await.unwrap_err();
        assert!(matches!(&error, Error::Postgres(e) if e.server_error().is_some_and(|e| e.is("42704"))), "{error}");
        assert_eq!(connection.query_simple("SHOW a").await.unwrap().first("a"), Some("1"));
        let abandoned = tokio::time::timeout(Duration::from_millis(50), connection.query_simple("SELECT pg_sleep(9)"));
        assert!(abandoned.await.is_err());
        let error = connection.query_simple("SHOW a").await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    };
    let (_peer, ()) = tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_slot_that_takes_too_long_is_cancelled() {
    // trap T25
    let (listener, settings) = scripted::listen().await;
    let serve = async {
        let mut peer = Peer::accept(&listener).await;
        peer.log_in().await;
        peer.expect_query("CREATE_REPLICATION_SLOT").await;
        let (mut cancel, _) = listener.accept().await.unwrap();
        let mut request = [0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut cancel, &mut request).await.unwrap();
        // Length, cancel code, process id, secret.
        assert_eq!(request, [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2]);
        peer.error("57014", "canceling statement due to user request").await;
        peer.send(b'Z', b"I").await;
        peer.expect_query("SHOW a").await;
        peer.row("a", "1").await;
    };
    let create = async {
        let mut connection = ReplicationConnection::connect(&settings).await.unwrap();
        let limit = Duration::from_millis(50);
        let error = connection.create_logical_slot("s", SlotOptions::default(), limit).await.unwrap_err();
        assert!(matches!(error, Error::SlotCreationTimeout { .. }), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("transaction")));
        connection.query_simple("SHOW a").await.unwrap();
    };
    tokio::join!(serve, create);
}
