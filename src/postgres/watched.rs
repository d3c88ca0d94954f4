//! An answer that does not come is asked after, on another connection.
//!
//! Keep-alive finds a host that is gone, and neither a proxy or firewall that has forgotten the connection and answers in the server's
//! place, nor a server that hangs. A limit for statements would end those that rightly take long (a lock, a large sort). So the
//! server itself is asked what becomes of the session: while it works, or waits for a lock or for us, it is left alone.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Type byte and length.
const HEADER: usize = 5;
/// Answers in a row by which a connection is given up: one may have been on its way.
const DOUBTS: u32 = 2;
/// The longest time between two questions about a statement that goes on, but for a longer first one.
const SELDOM: Duration = Duration::from_mins(1);

/// What the server, or the way to it, says of a session whose answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It works on the answer.
    Works,
    /// The server does not tell.
    Unknown,
    /// Nothing is going to come, for this reason.
    Doubtful(&'static str),
}

/// Whether an answer is awaited, and since when nothing has come.
#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    /// Something was sent, and ReadyForQuery has not come since.
    owed: AtomicBool,
    /// Milliseconds since `born`, and one more, when the last bytes went or the reader began to wait; 0: it does not wait.
    silent_from: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { born: Instant::now(), owed: AtomicBool::new(false), silent_from: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Since when an answer is awaited in silence, and for how long.
    fn silence(&self) -> Option<(u64, Duration)> {
        let from = self.silent_from.load(Ordering::Relaxed);
        let awaited = from != 0 && self.owed.load(Ordering::Relaxed);
        awaited.then(|| (from, Duration::from_millis(self.now().saturating_sub(from))))
    }

    fn sent(&self) {
        self.owed.store(true, Ordering::Relaxed);
        if self.silent_from.load(Ordering::Relaxed) != 0 {
            self.silent_from.store(self.now(), Ordering::Relaxed);
        }
    }

    fn waits(&self) {
        if self.silent_from.load(Ordering::Relaxed) == 0 {
            self.silent_from.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Waits until nothing is to be expected any longer, and says why. `ask` is asked after `least` of silence, and less and less often
    /// while the server works.
    pub(super) async fn until_lost<F: Future<Output = Finding>>(
        &self,
        least: Duration,
        mut ask: impl FnMut() -> F,
    ) -> &'static str {
        let (mut interval, mut doubts, mut known) = (least, 0, 0);
        loop {
            tokio::time::sleep(interval).await;
            let Some((from, silent)) = self.silence() else {
                (interval, doubts) = (least, 0);
                continue;
            };
            if from != known {
                (interval, doubts, known) = (least, 0, from);
            }
            if silent < least {
                interval = least.saturating_sub(silent);
                continue;
            }
            match ask().await {
                // It came meanwhile.
                _ if self.silence().map(|(from, _)| from) != Some(known) => {}
                Finding::Works | Finding::Unknown => (interval, doubts) = ((interval * 2).min(SELDOM.max(least)), 0),
                Finding::Doubtful(reason) => {
                    doubts += 1;
                    interval = least;
                    if doubts == DOUBTS {
                        return reason;
                    }
                }
            }
        }
    }
}

/// Splits what comes into frames, as far as their types tell whether more is to come.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER],
    have: usize,
    skip: usize,
}

impl Frames {
    /// Calls `seen` with the type of each frame that begins in these bytes, or began before and has its length in them.
    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(u8)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            (self.have, bytes) = (self.have + taken, &bytes[taken..]);
            if self.have == HEADER {
                let [tag, a, b, c, d] = self.header;
                let length = u32::from_be_bytes([a, b, c, d]).saturating_sub(4);
                (self.have, self.skip) = (0, usize::try_from(length).unwrap_or(usize::MAX));
                seen(tag);
            }
        }
    }
}

/// A transport that takes its own pulse.
#[derive(Debug)]
pub(super) struct Watched<T> {
    transport: T,
    pulse: Arc<Pulse>,
    frames: Frames,
}

impl<T> Watched<T> {
    pub(super) fn new(transport: T) -> (Self, Arc<Pulse>) {
        let pulse = Arc::new(Pulse::new());
        (Self { transport, pulse: Arc::clone(&pulse), frames: Frames::default() }, pulse)
    }

    fn came(&mut self, bytes: &[u8]) {
        let owed = &self.pulse.owed;
        self.frames.feed(bytes, |tag| match tag {
            b'Z' => owed.store(false, Ordering::Relaxed),
            // A notice, a parameter or a notification comes unasked.
            b'N' | b'S' | b'A' => {}
            // Statements may be sent before the answer to the one before.
            _ => owed.store(true, Ordering::Relaxed),
        });
        self.pulse.silent_from.store(0, Ordering::Relaxed);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        match read {
            Poll::Pending => self.pulse.waits(),
            Poll::Ready(_) => self.came(&buf.filled()[before..]),
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        if written.is_ready() {
            self.pulse.sent();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LEAST: Duration = Duration::from_millis(20);
    const READY: &[u8] = b"Z\0\0\0\x05I";

    /// A watched end, whose reader waits, and the other one.
    async fn pair(sends: &[u8], answers: &[&[u8]]) -> (Arc<Pulse>, tokio::io::DuplexStream, impl Sized) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (mut watched, pulse) = Watched::new(ours);
        watched.write_all(sends).await.unwrap();
        for answer in answers {
            theirs.write_all(answer).await.unwrap();
            watched.read_exact(&mut vec![0; answer.len()]).await.unwrap();
        }
        let reader = tokio::spawn(async move { watched.read_u8().await });
        while pulse.silent_from.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        (pulse, theirs, tokio_util::task::AbortOnDropHandle::new(reader))
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [b"D\0\0\0\x09ZZZZZ".as_slice(), b"C\0\0\0\x04", READY].concat();
        for size in 1..bytes.len() {
            let (mut frames, mut tags) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.feed(piece, |tag| tags.push(tag));
            }
            assert_eq!(tags, b"DCZ", "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_awaited_until_the_server_is_ready() {
        let notice: &[u8] = b"N\0\0\0\x05\0";
        let row: &[u8] = b"D\0\0\0\x09ZZZZZ";
        for (answers, awaited) in [
            (vec![], true),
            (vec![row], true),
            (vec![row, READY], false),
            (vec![READY, notice], false),
            (vec![READY, row], true),
        ] {
            let (pulse, _theirs, _reader) = pair(b"query", &answers).await;
            assert_eq!(pulse.silence().is_some(), awaited, "after {answers:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_given_up_when_twice_nothing_is_to_be_expected() {
        let (pulse, _theirs, _reader) = pair(b"query", &[]).await;
        let asked = AtomicUsize::new(0);
        let findings =
            [Finding::Doubtful("a"), Finding::Works, Finding::Unknown, Finding::Doubtful("b"), Finding::Doubtful("c")];
        let ask = || std::future::ready(findings[asked.fetch_add(1, Ordering::Relaxed)]);
        assert_eq!(pulse.until_lost(LEAST, ask).await, "c");
        assert_eq!(asked.into_inner(), findings.len());
    }

    #[tokio::test]
    async fn nobody_is_asked_where_no_answer_is_awaited_nor_before_its_time() {
        let (idle, _theirs, _reader) = pair(b"query", &[READY]).await;
        let (busy, _others, _other) = pair(b"query", &[]).await;
        let never = || async { unreachable!("the server was asked") };
        let watch = async {
            tokio::select! {
                reason = idle.until_lost(LEAST, never) => reason,
                reason = busy.until_lost(Duration::from_mins(1), never) => reason,
            }
        };
        assert!(tokio::time::timeout(10 * LEAST, watch).await.is_err());
    }
}
