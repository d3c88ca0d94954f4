//! The byte stream to a server: TCP with keep-alive, and TLS as the `sslmode` says.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    error::Error,
    server_error::ServerError,
    settings::{Settings, SslMode},
    tls,
};

/// A connection on which the start-up packet may be sent.
#[derive(Debug)]
pub enum Transport {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Connects, and negotiates TLS by SSLRequest (manual, "SSL Session Encryption").
    ///
    /// With `prefer` a server without TLS, or one whose handshake fails, is spoken to without it, as libpq does.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let address = settings.address();
        if settings.ssl_mode == SslMode::Disable {
            return Ok(Self::Plain(open_socket(settings, address).await?));
        }
        let config = tls::client_config(settings)?;
        let mut socket = open_socket(settings, address.clone()).await?;
        let prefer = settings.ssl_mode == SslMode::Prefer;
        let answer =
            request_tls(&mut socket).await.map_err(|source| Error::Connect { address: address.clone(), source })?;
        match answer {
            b'S' => {}
            b'N' if prefer => return Ok(Self::Plain(socket)),
            b'N' => return Err(Error::TlsUnavailable { address }),
            // `E`: a server that cannot even fork answers with an ErrorResponse, whose text nobody has authenticated.
            answer => return Err(Error::TlsAnswer { address, answer }),
        }
        match handshake(settings, config, socket).await {
            Ok(stream) => Ok(Self::Tls(Box::new(stream))),
            Err(_) if prefer => Ok(Self::Plain(open_socket(settings, address).await?)),
            Err(source) => Err(Error::TlsHandshake { address, source }),
        }
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// What `prefer` tries after the server's refusal: the same without TLS where `pg_hba.conf` rejects the login, as libpq does.
#[must_use]
pub fn without_tls(settings: &Settings, refusal: Option<&ServerError>) -> Option<Settings> {
    (settings.ssl_mode == SslMode::Prefer && is_rejected(refusal))
        .then(|| Settings { ssl_mode: SslMode::Disable, ..settings.clone() })
}

/// Whether the refusal is `pg_hba.conf`'s, which depends on TLS, and not about the password or the database.
#[must_use]
pub fn is_rejected(refusal: Option<&ServerError>) -> bool {
    refusal.is_some_and(|refusal| refusal.code == "28000")
}

/// Ends an attempt that takes longer than the settings allow.
pub async fn within_connect_timeout<T, E: From<Error>>(
    settings: &Settings,
    attempt: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let seconds = settings.connect_timeout_seconds;
    match tokio::time::timeout(Duration::from_secs(seconds), attempt).await {
        Ok(result) => result,
        Err(_) => Err(Error::ConnectTimeout { address: settings.address(), seconds }.into()),
    }
}

async fn open_socket(settings: &Settings, address: String) -> Result<TcpStream, Error> {
    let open = async {
        // Asked for each time: a name may lead elsewhere by now.
        let found: Vec<_> = lookup_host((settings.host.as_str(), settings.port)).await?.collect();
        let socket = first_that_answers(&found, Duration::from_secs(settings.connect_timeout_seconds)).await?;
        socket.set_nodelay(true)?;
        keep_alive(&socket)?;
        Ok(socket)
    };
    open.await.map_err(|source| Error::Connect { address, source })
}

/// Tries one address of a name after the other. Each has its share of the time: one that does not answer leaves some to those behind it.
async fn first_that_answers(found: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let begun = Instant::now();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (left, address) in (1_u32..=u32::try_from(found.len()).unwrap_or(u32::MAX)).rev().zip(found) {
        let share = limit.saturating_sub(begun.elapsed()) / left;
        failed = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        };
    }
    Err(failed)
}

/// Notices a dead peer within about a minute instead of two hours (traps T14, T15).
fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_mins(1)))?;
    Ok(())
}

async fn request_tls(socket: &mut TcpStream) -> io::Result<u8> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // Exactly one byte, so nothing that follows unencrypted can be taken for a part of the encrypted stream.
    socket.read_u8().await
}

async fn handshake(
    settings: &Settings,
    config: std::sync::Arc<rustls::ClientConfig>,
    socket: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(settings.host.clone())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    TlsConnector::from(config).connect(name, socket).await
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Connects to a server that answers each SSLRequest with the next of `answers`; returns the number of connections too.
    async fn negotiate(ssl_mode: SslMode, answers: &[&[u8]]) -> (Result<Transport, Error>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            database: "shop".into(),
            user: "walrelay".into(),
            password: None,
            ssl_mode,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            connect_timeout_seconds: 5,
        };
        let mut connections = 0;
        let serve = async {
            let mut open = Vec::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                if let Some(answer) = answers.get(connections) {
                    let mut request = [0; 8];
                    socket.read_exact(&mut request).await.unwrap();
                    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
                    socket.write_all(answer).await.unwrap();
                }
                connections += 1;
                open.push(socket);
            }
        };
        let result = tokio::select! {
            result = Transport::connect(&settings) => result,
            () = serve => unreachable!("the server never ends"),
        };
        (result, connections)
    }

    #[tokio::test]
    async fn prefer_goes_on_without_tls_when_there_is_none_or_its_handshake_fails() {
        let (transport, connections) = negotiate(SslMode::Prefer, &[b"N"]).await;
        assert!(!transport.unwrap().is_tls());
        assert_eq!(connections, 1);
        let (transport, _) = negotiate(SslMode::Prefer, &[b"Sthis is no handshake"]).await;
        assert!(!transport.unwrap().is_tls());
    }

    /// An address that neither takes nor refuses a connection: nobody takes the one that it has room for.
    async fn silent_address() -> (SocketAddr, Vec<TcpStream>, socket2::Socket) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut taken = Vec::new();
        while let Ok(Ok(socket)) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            taken.push(socket);
        }
        (address, taken, listener)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_leaves_time_for_the_others_of_the_name() {
        let (silent, _taken, _listener) = silent_address().await;
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = live.local_addr().unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let limit = Duration::from_millis(300);
        let found = [silent, refused, address];
        let attempt = first_that_answers(&found, limit);
        let socket = tokio::time::timeout(Duration::from_secs(20), attempt)
            .await
            .expect("there is time for all of them")
            .unwrap();
        assert_eq!(socket.peer_addr().unwrap(), address);
        let error = first_that_answers(&[refused, silent], limit).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(first_that_answers(&[], limit).await.is_err());
    }

    #[tokio::test]
    async fn require_never_goes_on_without_tls() {
        let (refused, _) = negotiate(SslMode::Require, &[b"N"]).await;
        assert!(matches!(refused, Err(Error::TlsUnavailable { .. })), "{refused:?}");
        let (failed, connections) = negotiate(SslMode::Require, &[b"Sthis is no handshake"]).await;
        assert!(matches!(failed, Err(Error::TlsHandshake { .. })), "{failed:?}");
        assert_eq!(connections, 1);
        let (odd, _) = negotiate(SslMode::Require, &[b"E"]).await;
        assert!(matches!(odd, Err(Error::TlsAnswer { answer: b'E', .. })), "{odd:?}");
    }
}
