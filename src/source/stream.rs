//! Streaming a slot: one task owns the socket, reads messages in batches and keeps the dialogue with the walsender alive.
//!
//! ```text
//!  walsender ══ CopyBoth ══► task ── batches, bounded in bytes ──► pipeline
//!      ▲                      │                                        │
//!      └── status updates ────┴──────────── flush LSN (watch) ◄────────┘
//! ```
//!
//! The task never waits for the consumer with its hands tied: when the byte budget is used up it stops reading, but goes
//! on to send status updates (trap T10). A batch gives its share of the budget back when its permit is dropped.
//!
//! Over the budget the task itself holds one batch more and what one read brought; one message larger than the budget
//! takes all of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use postgres_protocol::message::{backend, frontend};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::ReplicationStream,
    error::Error,
    feedback::Feedback,
    wire::{RawFrame, Wire, log_notice},
};
use crate::{
    event::{OldTuple, Tuple},
    lsn::Lsn,
    pgoutput::{Frame, Message, Parser},
    postgres::{self, ServerError},
};

/// Batches that may wait in the channel; the byte budget is the bound that matters.
const CHANNEL_SLOTS: usize = 64;
/// How long the server may take to end the stream after we ask it to.
const END_LIMIT: Duration = Duration::from_secs(5);
/// What an item costs beside its bytes: the parsed message and its share of allocations.
const ITEM_OVERHEAD: usize = 128;

/// SQLSTATE of what the catalog does not have: in a stream, the publication as it was when a change was made.
const UNDEFINED_OBJECT: &str = "42704";
/// SQLSTATE of the warning that a server from version 18 on gives instead, and passes over the change.
const PUBLICATION_SKIPPED: &str = "55000";

/// How a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// A batch is handed over when it holds this many bytes, or when nothing more has arrived.
    pub max_batch_bytes: usize,
    /// Bytes of all batches that are not dropped yet.
    pub buffer_bytes: usize,
    /// Least time between two unasked status updates.
    pub status_interval: Duration,
    /// Silence that ends the stream when the server's `wal_sender_timeout` is off; else the limit is twice that.
    pub receive_timeout: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            max_batch_bytes: 1 << 20,
            buffer_bytes: 64 << 20,
            status_interval: Duration::from_millis(100),
            receive_timeout: Duration::from_mins(2),
        }
    }
}

/// What the stream delivers, in the server's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// A message of the plug-in.
    Message {
        /// Its WAL position; only information, except for Commit.
        wal_start: Lsn,
        /// The message.
        message: Message,
    },
    /// All WAL below `wal_end` has been decoded, and what was to send of it is in front of this item: with nothing in
    /// flight, `wal_end` may be confirmed (traps T8, T9).
    Keepalive {
        /// The position.
        wal_end: Lsn,
    },
}

/// Items that arrived together, and their share of the byte budget.
#[derive(Debug)]
pub struct Batch {
    /// The items; never empty.
    pub items: Vec<StreamItem>,
    /// Keep it as long as the items' bytes are in memory.
    pub permit: BatchPermit,
}

/// A share of the byte budget; dropping it lets the stream read on.
#[derive(Debug)]
pub struct BatchPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// What health and metrics want to know of a stream.
#[derive(Debug)]
pub struct StreamStatus {
    last_heard_ms: AtomicI64,
    received: AtomicU64,
    server_wal_end: AtomicU64,
    confirmed: AtomicU64,
    held_back: AtomicBool,
    budget: Arc<Semaphore>,
    buffer_bytes: usize,
}

impl StreamStatus {
    /// When the server last sent anything, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn last_heard_ms(&self) -> i64 {
        self.last_heard_ms.load(Ordering::Relaxed)
    }

    /// Highest WAL position received.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Relaxed))
    }

    /// The server's end of WAL as it last told.
    #[must_use]
    pub fn server_wal_end(&self) -> Lsn {
        Lsn(self.server_wal_end.load(Ordering::Relaxed))
    }

    /// The flush position of the last status update.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Relaxed))
    }

    /// Whether reading is held back because the consumer has used up the byte budget; the server is then not heard.
    #[must_use]
    pub fn held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Bytes of batches that are not dropped yet.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer_bytes.saturating_sub(self.budget.available_permits())
    }
}

/// The running stream.
#[derive(Debug)]
pub struct StreamHandle {
    status: Arc<StreamStatus>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl StreamHandle {
    /// What health and metrics read.
    #[must_use]
    pub fn status(&self) -> Arc<StreamStatus> {
        self.status.clone()
    }

    /// Confirms the last flush position, ends the stream in good order (CopyDone) and closes the connection; returns when
    /// the slot is free, or the server did not answer within some seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic of the task would have been printed by the panic hook; the socket is closed either way.
        let _ = self.task.await;
    }
}

/// Starts the task that reads the stream.
///
/// `flush` carries the position below which everything is durable; it is sent on when it moves. The last item of the
/// channel is the error that ended the stream; after a stop there is none. Dropping the receiver stops the stream too.
#[must_use]
pub fn spawn(
    stream: ReplicationStream,
    settings: StreamSettings,
    flush: watch::Receiver<Lsn>,
) -> (mpsc::Receiver<Result<Batch, Error>>, StreamHandle) {
    let (batches, receiver) = mpsc::channel(CHANNEL_SLOTS);
    let buffer_bytes = settings.buffer_bytes.clamp(1, u32::MAX as usize);
    let budget = Arc::new(Semaphore::new(buffer_bytes));
    let status = Arc::new(StreamStatus {
        last_heard_ms: AtomicI64::new(unix_us() / 1000),
        received: AtomicU64::new(stream.start.0),
        server_wal_end: AtomicU64::new(stream.start.0),
        confirmed: AtomicU64::new(stream.start.0),
        held_back: AtomicBool::new(false),
        budget,
        buffer_bytes,
    });
    let stop = CancellationToken::new();
    let confirmed = *flush.borrow();
    let now = Instant::now();
    let task = Task {
        silence_limit: stream.sender_timeout.map_or(settings.receive_timeout, |timeout| timeout * 2),
        held_back_interval: stream.sender_timeout.unwrap_or(settings.receive_timeout) / 3,
        feedback: Feedback::new(stream.start, confirmed, now),
        wire: stream.wire,
        slot: stream.slot,
        parser: Parser::new(),
        settings,
        flush: Some(flush),
        status: status.clone(),
        batches,
        stop: stop.clone(),
        listening_since: now,
        asked: false,
        reply_due: false,
    };
    let task = tokio::spawn(task.run());
    (receiver, StreamHandle { status, stop, task })
}

/// A batch on its way into the channel.
#[derive(Debug, Default)]
struct Pending {
    items: Vec<StreamItem>,
    bytes: usize,
}

#[derive(Debug)]
struct Task {
    wire: Wire,
    slot: String,
    parser: Parser,
    settings: StreamSettings,
    /// `None` once its sender is gone.
    flush: Option<watch::Receiver<Lsn>>,
    feedback: Feedback,
    status: Arc<StreamStatus>,
    batches: mpsc::Sender<Result<Batch, Error>>,
    stop: CancellationToken,
    silence_limit: Duration,
    held_back_interval: Duration,
    /// When we last heard something, or began to listen again.
    listening_since: Instant,
    /// The silence was answered with a request for a keepalive.
    asked: bool,
    /// The server asked for a status update.
    reply_due: bool,
}

impl Task {
    async fn run(mut self) {
        match self.stream().await {
            Ok(()) => {
                if tokio::time::timeout(END_LIMIT, self.end()).await.is_err() {
                    tracing::debug!(slot = self.slot, "the server did not end the stream in time");
                }
            }
            Err(error) => {
                // Without a receiver there is nobody to tell.
                let _ = self.batches.send(Err(error)).await;
            }
        }
    }

    /// Reads until it is told to stop.
    async fn stream(&mut self) -> Result<(), Error> {
        self.take_flush();
        loop {
            let mut pending = Pending::default();
            let collected = self.collect(&mut pending);
            self.publish_status();
            if self.reply_due {
                self.send_status(false).await?;
            }
            // What was read before a bad message is good, and is delivered before the error.
            if !pending.items.is_empty() && !self.hand_over(pending).await? {
                return Ok(());
            }
            if collected? && !self.listen().await? {
                return Ok(());
            }
        }
    }

    /// Takes complete frames from the buffer up to the size of a batch; `true` if the buffer has no more of them.
    fn collect(&mut self, pending: &mut Pending) -> Result<bool, Error> {
        while pending.bytes < self.settings.max_batch_bytes {
            let Some(frame) = self.wire.take()? else { return Ok(true) };
            if frame.tag == b'd' {
                self.accept(frame, pending)?;
            } else {
                self.accept_control(frame)?;
            }
        }
        Ok(false)
    }

    /// A CopyData message.
    fn accept(&mut self, frame: RawFrame, pending: &mut Pending) -> Result<(), Error> {
        let payload = frame.payload();
        let len = payload.len();
        let after = self.feedback.written();
        let unreadable = |source| Error::Message { slot: self.slot.clone(), after, source };
        match Frame::parse(payload).map_err(unreadable)? {
            Frame::XLogData { wal_start, wal_end, data, .. } => {
                let message = self.parser.parse(data).map_err(unreadable)?;
                self.heard_positions(wal_start, wal_end);
                pending.bytes += len + ITEM_OVERHEAD + columns(&message) * size_of::<crate::event::Datum>();
                pending.items.push(StreamItem::Message { wal_start, message });
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.heard_positions(wal_end, wal_end);
                self.reply_due |= reply_requested;
                pending.bytes += len + ITEM_OVERHEAD;
                pending.items.push(StreamItem::Keepalive { wal_end });
            }
        }
        Ok(())
    }

    /// A message that is no CopyData.
    fn accept_control(&self, frame: RawFrame) -> Result<(), Error> {
        match self.wire.decode(frame)? {
            backend::Message::NoticeResponse(body) => {
                let notice = ServerError::from_fields(body.fields());
                if notice.is(PUBLICATION_SKIPPED) {
                    return Err(Error::PublicationAbsent { slot: self.slot.clone(), source: Box::new(notice) });
                }
                log_notice(&notice);
            }
            backend::Message::ParameterStatus(_) => {}
            backend::Message::ErrorResponse(body) => {
                let source = Box::new(ServerError::from_fields(body.fields()));
                if source.is(UNDEFINED_OBJECT) {
                    return Err(Error::PublicationAbsent { slot: self.slot.clone(), source });
                }
                let doing = format!("streaming slot {}", self.slot);
                return Err(postgres::Error::Statement { doing, source }.into());
            }
            backend::Message::CopyDone | backend::Message::CommandComplete(_) => {
                return Err(Error::Ended { address: self.wire.address().to_owned(), slot: self.slot.clone() });
            }
            _ => return Err(self.wire.protocol("a message that has no place in a stream")),
        }
        Ok(())
    }

    /// Waits until something arrives and sends status updates meanwhile; `false` when it is time to stop.
    ///
    /// Updates that are due come before reading, or a busy stream would starve them; silence is judged after it.
    async fn listen(&mut self) -> Result<bool, Error> {
        loop {
            let due = self.feedback.due(self.settings.status_interval, None);
            let silence_ends = self.listening_since + self.silence_limit;
            // Half-way through a silence the server is asked for a keepalive: it may have nothing to say.
            let patience = if self.asked { silence_ends } else { self.listening_since + self.silence_limit / 2 };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(false),
                () = self.batches.closed() => return Ok(false),
                moved = flush_moved(&mut self.flush) => self.flush_moved(moved),
                () = sleep_until(due) => self.send_status(false).await?,
                filled = self.wire.fill() => {
                    filled?;
                    self.heard();
                    return Ok(true);
                }
                () = sleep_until(Some(patience)) => self.silent().await?,
            }
        }
    }

    /// Half of the silence limit, or all of it, is over.
    async fn silent(&mut self) -> Result<(), Error> {
        if self.asked {
            let address = self.wire.address().to_owned();
            return Err(Error::Silent { address, slot: self.slot.clone(), limit: self.silence_limit });
        }
        self.asked = true;
        self.send_status(true).await
    }

    /// Hands a batch to the consumer; `false` when it is time to stop.
    async fn hand_over(&mut self, pending: Pending) -> Result<bool, Error> {
        let share = u32::try_from(pending.bytes.min(self.status.buffer_bytes)).unwrap_or(u32::MAX);
        let batches = self.batches.clone();
        let budget = self.status.budget.clone();
        // Both or none: what is held while waiting for the other could never come back.
        let at_once = batches.try_reserve().ok().zip(budget.clone().try_acquire_many_owned(share).ok());
        let room = match at_once {
            Some(room) => Some(room),
            None => {
                let room =
                    async { Some((batches.reserve().await.ok()?, budget.acquire_many_owned(share).await.ok()?)) };
                self.held_back(room).await?
            }
        };
        let Some((slot, permit)) = room else { return Ok(false) };
        slot.send(Ok(Batch { items: pending.items, permit: BatchPermit(permit) }));
        Ok(true)
    }

    /// Waits for room. Nothing is read meanwhile, so requests of the server go unseen, and status updates go out unasked
    /// (trap T10). `None` when it is time to stop.
    async fn held_back<T>(&mut self, room: impl Future<Output = Option<T>>) -> Result<Option<T>, Error> {
        self.status.held_back.store(true, Ordering::Relaxed);
        tokio::pin!(room);
        let room = loop {
            let due = self.feedback.due(self.settings.status_interval, Some(self.held_back_interval));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                room = &mut room => break room,
                moved = flush_moved(&mut self.flush) => self.flush_moved(moved),
                () = sleep_until(due) => self.send_status(false).await?,
            }
        };
        self.status.held_back.store(false, Ordering::Relaxed);
        // What arrived meanwhile is still in the socket: the silence begins now.
        self.listening_since = Instant::now();
        self.asked = false;
        Ok(room)
    }

    /// Sends a status update, within the time that the server may be silent.
    async fn send_status(&mut self, reply_requested: bool) -> Result<(), Error> {
        self.reply_due = false;
        let update = self.feedback.next_update(Instant::now(), unix_us(), reply_requested);
        let mut payload = BytesMut::new();
        update.encode(&mut payload);
        let mut out = BytesMut::new();
        let data = frontend::CopyData::new(payload).map_err(|error| self.wire.protocol(error.to_string()))?;
        data.write(&mut out);
        let Ok(sent) = tokio::time::timeout(self.silence_limit, self.wire.send(&out)).await else {
            let address = self.wire.address().to_owned();
            return Err(Error::Stuck { address, slot: self.slot.clone(), limit: self.silence_limit });
        };
        sent?;
        self.status.confirmed.store(self.feedback.sent_flush().0, Ordering::Relaxed);
        Ok(())
    }

    /// Confirms what is durable, says CopyDone and reads until the server has ended the stream too.
    async fn end(&mut self) {
        let done = async {
            self.take_flush();
            self.send_status(false).await?;
            let mut out = BytesMut::new();
            frontend::copy_done(&mut out);
            self.wire.send(&out).await?;
            while self.wire.next().await?.tag != b'Z' {}
            out.clear();
            frontend::terminate(&mut out);
            self.wire.send(&out).await
        };
        let done: Result<(), Error> = done.await;
        if let Err(error) = done {
            tracing::debug!(%error, slot = self.slot, "the stream did not end in good order");
        }
    }

    fn heard(&mut self) {
        self.listening_since = Instant::now();
        self.asked = false;
        self.status.last_heard_ms.store(unix_us() / 1000, Ordering::Relaxed);
    }

    fn heard_positions(&mut self, received: Lsn, wal_end: Lsn) {
        self.feedback.received(received);
        self.status.server_wal_end.fetch_max(wal_end.0, Ordering::Relaxed);
    }

    fn publish_status(&self) {
        self.status.received.store(self.feedback.written().0, Ordering::Relaxed);
    }

    /// The flush position moved, or nobody is left who could move it.
    fn flush_moved(&mut self, moved: bool) {
        if moved {
            self.take_flush();
        } else {
            self.flush = None;
        }
    }

    fn take_flush(&mut self) {
        if let Some(flush) = &mut self.flush {
            self.feedback.confirm(*flush.borrow_and_update());
        }
    }
}

/// Waits for a new flush position; for ever when there will be none.
async fn flush_moved(flush: &mut Option<watch::Receiver<Lsn>>) -> bool {
    match flush {
        Some(flush) => flush.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Sleeps until then; for ever when there is no such moment.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Number of column values in a message.
fn columns(message: &Message) -> usize {
    let old = |old: &OldTuple| old.tuple().len();
    match message {
        Message::Insert { new, .. } => Tuple::len(new),
        Message::Update { old: before, new, .. } => new.len() + before.as_ref().map_or(0, old),
        Message::Delete { old: before, .. } => old(before),
        _ => 0,
    }
}

/// Our clock, in microseconds since the Unix epoch.
fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
