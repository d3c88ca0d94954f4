//! A walsender that follows a test's script over a real socket.

use std::time::Duration;

use bytes::BufMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::connection::{ReplicationConnection, ReplicationStream, StreamOptions};
use crate::{
    lsn::Lsn,
    postgres::{Settings, SslMode},
};

/// The server's end of a connection.
pub struct Peer {
    socket: TcpStream,
}

/// A listening socket and settings that lead to it.
pub async fn listen() -> (TcpListener, Settings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        database: "shop".into(),
        user: "walrelay".into(),
        password: Some("secret".into()),
        ssl_mode: SslMode::Disable,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        connect_timeout_seconds: 5,
    };
    (listener, settings)
}

/// A stream of slot `s` from LSN 100, and the peer that serves it.
pub async fn stream(sender_timeout_ms: u64) -> (ReplicationStream, Peer) {
    stream_with(sender_timeout_ms, StreamOptions::default()).await
}

/// The same with options of the plug-in.
pub async fn stream_with(sender_timeout_ms: u64, options: StreamOptions) -> (ReplicationStream, Peer) {
    let (listener, settings) = listen().await;
    let serve = async {
        let mut peer = Peer::accept(&listener).await;
        peer.log_in().await;
        peer.expect_query("SELECT setting").await;
        peer.row("setting", &sender_timeout_ms.to_string()).await;
        peer.expect_query("START_REPLICATION SLOT \"s\" LOGICAL 0/64").await;
        peer.send(b'W', &[0, 0, 0]).await;
        peer
    };
    let start = async {
        let connection = ReplicationConnection::connect(&settings).await.unwrap();
        connection.start_replication("s", Lsn(100), &["p"], options).await.unwrap()
    };
    tokio::join!(start, serve)
}

impl Peer {
    /// Takes a connection and its start-up packet.
    pub async fn accept(listener: &TcpListener) -> Self {
        let (socket, _) = listener.accept().await.unwrap();
        let mut peer = Self { socket };
        let len = peer.socket.read_u32().await.unwrap();
        let mut packet = vec![0; len as usize - 4];
        peer.socket.read_exact(&mut packet).await.unwrap();
        let text = String::from_utf8_lossy(&packet).replace('\0', " ");
        assert!(text.contains("replication database") && text.contains("DateStyle=ISO"), "{text}");
        peer
    }

    /// Lets the client in, up to its question for the version.
    pub async fn log_in(&mut self) {
        self.log_in_to("150004").await;
    }

    /// The same as a server of another version.
    pub async fn log_in_to(&mut self, version: &str) {
        self.send(b'R', &[0, 0, 0, 0]).await;
        self.send(b'S', b"server_version\x0015.0\0").await;
        self.send(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]).await;
        self.send(b'Z', b"I").await;
        self.expect_query("SHOW server_version_num").await;
        self.row("server_version_num", version).await;
    }

    pub async fn send(&mut self, tag: u8, payload: &[u8]) {
        let mut message = vec![tag];
        message.put_u32(u32::try_from(payload.len() + 4).unwrap());
        message.extend(payload);
        self.send_raw(&message).await;
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The client's next message, which must come within some seconds.
    pub async fn receive(&mut self) -> (u8, Vec<u8>) {
        let receive = async {
            let tag = self.socket.read_u8().await.unwrap();
            let len = self.socket.read_u32().await.unwrap();
            let mut payload = vec![0; len as usize - 4];
            self.socket.read_exact(&mut payload).await.unwrap();
            (tag, payload)
        };
        tokio::time::timeout(Duration::from_secs(10), receive).await.expect("the client says nothing")
    }

    pub async fn expect_query(&mut self, start: &str) {
        let (tag, payload) = self.receive().await;
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert!(tag == b'Q' && text.starts_with(start), "{text} instead of {start}");
    }

    /// Answers a query with one value.
    pub async fn row(&mut self, column: &str, value: &str) {
        let mut description = vec![0, 1];
        description.extend(column.as_bytes());
        description.push(0);
        description.extend([0; 18]);
        self.send(b'T', &description).await;
        let mut row = vec![0, 1];
        row.put_u32(u32::try_from(value.len()).unwrap());
        row.extend(value.as_bytes());
        self.send(b'D', &row).await;
        self.send(b'C', b"SHOW\0").await;
        self.send(b'Z', b"I").await;
    }

    pub async fn error(&mut self, code: &str, message: &str) {
        let fields = format!("SERROR\0C{code}\0M{message}\0Dsecret row\0\0");
        self.send(b'E', fields.as_bytes()).await;
    }

    pub async fn wal(&mut self, lsn: u64, data: &[u8]) {
        let mut payload = vec![b'w'];
        payload.put_u64(lsn);
        payload.put_u64(lsn);
        payload.put_u64(0);
        payload.extend(data);
        self.send(b'd', &payload).await;
    }

    pub async fn keepalive(&mut self, lsn: u64, reply: bool) {
        let mut payload = vec![b'k'];
        payload.put_u64(lsn);
        payload.put_u64(0);
        payload.push(reply.into());
        self.send(b'd', &payload).await;
    }

    /// The client's next status update: (written, flushed, reply requested).
    pub async fn status(&mut self) -> (u64, u64, bool) {
        let (tag, payload) = self.receive().await;
        assert_eq!((tag, payload.len(), payload[0]), (b'd', 34, b'r'));
        let at = |index: usize| u64::from_be_bytes(payload[index..index + 8].try_into().unwrap());
        assert_eq!(at(9), at(17), "applied differs from flushed");
        (at(1), at(9), payload[33] == 1)
    }
}
