//! The frontend/backend protocol's frames on a transport (manual, "Message Formats").

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Error;
use crate::postgres::{ServerError, transport::Transport};

/// How much is asked of the socket at once.
const READ_CHUNK: usize = 256 * 1024;
/// Below this much room a new buffer is taken, so that reads do not become tiny at the end of one.
const LEAST_READ: usize = READ_CHUNK / 8;
/// A message beyond this has a buffer that goes with it.
const LARGE: usize = 4 * READ_CHUNK;
/// PostgreSQL builds no message above its allocation limit of 1 GB; a longer one is a broken length.
const MAX_LENGTH: usize = 0x4000_0000;
/// Type byte and length.
const HEADER: usize = 5;

/// One message of the server, whole.
#[derive(Debug)]
pub struct RawFrame {
    /// Type byte.
    pub tag: u8,
    whole: BytesMut,
}

impl RawFrame {
    /// Its bytes on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        self.whole.len()
    }

    /// What follows type byte and length.
    #[must_use]
    pub fn payload(self) -> Bytes {
        let mut payload = self.whole.freeze();
        payload.advance(HEADER);
        payload
    }
}

/// A transport that is read in large chunks and split into frames.
#[derive(Debug)]
pub struct Wire {
    transport: Transport,
    address: String,
    inbox: BytesMut,
}

impl Wire {
    /// Frames the transport to `address`.
    #[must_use]
    pub fn new(transport: Transport, address: String) -> Self {
        Self { transport, address, inbox: BytesMut::new() }
    }

    /// `host:port` of the server.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes the next frame that has arrived as a whole.
    pub fn take(&mut self) -> Result<Option<RawFrame>, Error> {
        let Some(total) = self.frame_len()? else { return Ok(None) };
        if self.inbox.len() < total {
            // One reservation for the whole message, and so much more that `fill` makes no other: that would copy it.
            self.inbox.reserve(total - self.inbox.len() + LEAST_READ);
            return Ok(None);
        }
        let whole = self.inbox.split_to(total);
        if total > LARGE {
            // Else the buffer would be read into again, and never be as small as before.
            self.inbox = BytesMut::from(&self.inbox[..]);
        }
        Ok(whole.first().copied().map(|tag| RawFrame { tag, whole }))
    }

    /// Reads what the socket has. Cancel-safe: bytes are either in the buffer or still in the socket.
    pub async fn fill(&mut self) -> Result<(), Error> {
        if self.inbox.capacity() - self.inbox.len() < LEAST_READ {
            self.inbox.reserve(READ_CHUNK);
        }
        match self.transport.read_buf(&mut self.inbox).await {
            Ok(0) => Err(Error::Closed { address: self.address.clone() }),
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Broken { address: self.address.clone(), source }),
        }
    }

    /// The next frame, waiting for it.
    pub async fn next(&mut self) -> Result<RawFrame, Error> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The next message that is not a notice (which is logged) nor a parameter report, read by postgres-protocol.
    pub async fn message(&mut self) -> Result<backend::Message, Error> {
        loop {
            let frame = self.next().await?;
            match self.decode(frame)? {
                backend::Message::NoticeResponse(body) => log_notice(&ServerError::from_fields(body.fields())),
                backend::Message::ParameterStatus(_) => {}
                message => return Ok(message),
            }
        }
    }

    /// Reads a frame by postgres-protocol.
    pub fn decode(&self, mut frame: RawFrame) -> Result<backend::Message, Error> {
        match backend::Message::parse(&mut frame.whole) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.protocol("a message is shorter than its length says")),
            Err(error) => Err(self.protocol(format!("message of type {:?}: {error}", char::from(frame.tag)))),
        }
    }

    /// Sends bytes at once. Not cancel-safe: after a cancelled call the connection must be given up.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        sent.await.map_err(|source| Error::Broken { address: self.address.clone(), source })
    }

    /// The error for an answer that the protocol does not allow here.
    #[must_use]
    pub fn protocol(&self, reason: impl Into<String>) -> Error {
        Error::Protocol { address: self.address.clone(), reason: reason.into() }
    }

    /// Length of the next frame with its header, once the header has arrived.
    fn frame_len(&self) -> Result<Option<usize>, Error> {
        let Some(&[tag, a, b, c, d]) = self.inbox.first_chunk::<HEADER>() else { return Ok(None) };
        let length = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(length) {
            Ok(length @ 4..=MAX_LENGTH) => Ok(Some(length + 1)),
            _ => Err(self.protocol(format!("message of type {:?} has length {length}", char::from(tag)))),
        }
    }
}

/// Logs a notice of the server.
pub fn log_notice(notice: &ServerError) {
    tracing::debug!(code = notice.code, "notice from the server: {}", notice.message);
}
