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
//!
//! Transactions that are sent in progress wait in the spool ([`intake`]) and are delivered whole when they commit, so a consumer sees
//! nothing but transactions in the order of their commits. While one is delivered nothing is read, as over the budget. Disks may
//! be slow: what touches them is done beside the task.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use postgres_protocol::message::{backend, frontend};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::ReplicationStream,
    error::Error,
    feedback::Feedback,
    intake::{self, Intake, Taken},
    remark::{self, Remarks},
    replay::{Replay, Step},
    spool::{Problem, Spool},
    wire::{RawFrame, Wire},
    xids,
};
pub use super::{item::StreamItem, spool::SpoolSettings, stream_status::StreamStatus};
use crate::{
    lsn::Lsn,
    pgoutput::{self, Frame, Message},
    postgres::{self, ServerError},
};

/// Batches that may wait in the channel; the byte budget is the bound that matters.
const CHANNEL_SLOTS: usize = 64;
/// How long the server may take to end the stream after we ask it to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How a stream is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// A batch is handed over when it holds this many bytes, or when nothing more has arrived.
    pub max_batch_bytes: usize,
    /// Bytes of all batches that are not dropped yet.
    pub buffer_bytes: usize,
    /// Least time between two unasked status updates.
    pub status_interval: Duration,
    /// Silence that ends the stream when the server's `wal_sender_timeout` is off; else the limit is twice that.
    pub receive_timeout: Duration,
    /// Where transactions are kept that are in progress, where the server is asked for them.
    pub spool: SpoolSettings,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            max_batch_bytes: 1 << 20,
            buffer_bytes: 64 << 20,
            status_interval: Duration::from_millis(100),
            receive_timeout: Duration::from_mins(2),
            spool: SpoolSettings::default(),
        }
    }
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
    let status = Arc::new(StreamStatus::new(stream.start, buffer_bytes));
    let stop = CancellationToken::new();
    let confirmed = *flush.borrow();
    let now = Instant::now();
    let task = Task {
        silence_limit: stream.sender_timeout.map_or(settings.receive_timeout, |timeout| timeout * 2),
        held_back_interval: stream.sender_timeout.unwrap_or(settings.receive_timeout) / 3,
        feedback: Feedback::new(stream.start, confirmed, now),
        wire: stream.wire,
        server: stream.settings,
        slot: stream.slot,
        intake: Intake::new(stream.streams.then(|| Spool::new(settings.spool.clone())), stream.tells_empty),
        settings,
        flush: Some(flush),
        status: status.clone(),
        batches,
        stop: stop.clone(),
        listening_since: now,
        asked: false,
        reply_due: false,
        remarks: Remarks::default(),
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

impl Pending {
    fn push(&mut self, item: StreamItem, weight: usize) {
        self.bytes += weight;
        self.items.push(item);
    }
}

/// Why no more frames were taken.
#[derive(Debug)]
enum Collected {
    /// The batch is full, or the spool's share of the memory.
    Enough,
    /// The buffer has no more of them.
    All,
    /// A transaction of the spool committed, behind what was taken.
    Committed(Box<Replay>),
}

#[derive(Debug)]
struct Task {
    wire: Wire,
    server: postgres::Settings,
    slot: String,
    intake: Intake,
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
    remarks: Remarks,
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
            let goes_on = match collected? {
                Collected::Enough => self.settle().await?,
                Collected::All => self.settle().await? && self.listen().await?,
                Collected::Committed(replay) => self.replay(*replay).await?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Takes complete frames from the buffer up to the size of a batch.
    fn collect(&mut self, pending: &mut Pending) -> Result<Collected, Error> {
        let mut kept = 0;
        while pending.bytes + kept < self.settings.max_batch_bytes {
            let Some(frame) = self.wire.take()? else { return Ok(Collected::All) };
            if frame.tag != b'd' {
                self.accept_control(frame)?;
                continue;
            }
            let len = frame.size();
            match self.accept(frame, pending)? {
                Some(Taken::Deliver(_)) | None => {}
                Some(Taken::Kept) => kept += len,
                Some(Taken::Committed(replay)) => return Ok(Collected::Committed(replay)),
            }
        }
        Ok(Collected::Enough)
    }

    /// A CopyData message; what is not delivered at once is given back.
    fn accept(&mut self, frame: RawFrame, pending: &mut Pending) -> Result<Option<Taken>, Error> {
        let payload = frame.payload();
        let len = payload.len();
        match Frame::parse(payload).map_err(|source| self.unreadable(source))? {
            Frame::XLogData { wal_start, wal_end, data, .. } => {
                let taken = self.intake.take(wal_start, data).map_err(|source| self.unreadable(source))?;
                self.heard_positions(wal_start, wal_end);
                let Taken::Deliver(item) = taken else { return Ok(Some(taken)) };
                let begins = matches!(item, StreamItem::Message { message: Message::Begin { .. }, .. });
                let weight = item.weight(len);
                pending.push(item, weight);
                for item in begins.then(|| self.intake.due()).into_iter().flatten() {
                    let weight = item.weight(0);
                    pending.push(item, weight);
                }
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.heard_positions(wal_end, wal_end);
                self.reply_due |= reply_requested;
                let item = StreamItem::Keepalive { wal_end };
                let weight = item.weight(len);
                pending.push(item, weight);
            }
        }
        Ok(None)
    }

    fn unreadable(&self, source: pgoutput::Error) -> Error {
        Error::Message { slot: self.slot.clone(), after: self.feedback.written(), source }
    }

    /// A message that is no CopyData.
    fn accept_control(&mut self, frame: RawFrame) -> Result<(), Error> {
        match self.wire.decode(frame)? {
            backend::Message::NoticeResponse(body) => {
                let notice = ServerError::from_fields(body.fields());
                if remark::passes_over(&notice) {
                    return Err(self.publication_absent(Box::new(notice)));
                }
                self.remarks.log(&self.slot, &notice);
            }
            backend::Message::ParameterStatus(_) => {}
            backend::Message::ErrorResponse(body) => {
                let source = Box::new(ServerError::from_fields(body.fields()));
                if remark::lacks_publication(&source) {
                    return Err(self.publication_absent(source));
                }
                if remark::awaits_stand_by(&source) {
                    // It ends, and waits no longer.
                    return Err(Error::Ended { address: self.wire.address().to_owned(), slot: self.slot.clone() });
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

    fn publication_absent(&self, source: Box<ServerError>) -> Error {
        Error::PublicationAbsent { slot: self.slot.clone(), open: self.intake.open(), source }
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

    /// Moves to the disk what is too much for the memory; `false` when it is time to stop.
    async fn settle(&mut self) -> Result<bool, Error> {
        if !self.intake.is_over() {
            return Ok(true);
        }
        let settled = self.beside(intake::settle).await?;
        self.publish_status();
        Ok(settled.is_some())
    }

    /// Finds out what counts of a transaction; `false` when it is time to stop.
    ///
    /// The server tells of a subtransaction that it was rolled back only where it knows that it has sent something of it. It forgets
    /// that where it had put the changes into a file first, as it does with large ones of which it meets a part of a row (versions 14
    /// to 18, seen).
    async fn ask_untold(&mut self, replay: &mut Replay) -> Result<bool, Error> {
        let untold = replay.untold();
        if untold.is_empty() {
            return Ok(true);
        }
        let server = self.server.clone();
        let asked = async { Some(xids::rolled_back(&server, &untold).await) };
        let Some(answer) = self.meanwhile(asked).await? else { return Ok(false) };
        let xid = replay.xid();
        let Some(rolled_back) = answer? else {
            let source = Problem::Untold { xid };
            return Err(Error::Spool { slot: self.slot.clone(), open: vec![xid], source });
        };
        replay.roll_back(&rolled_back);
        Ok(true)
    }

    /// Delivers a transaction of the spool; `false` when it is time to stop.
    async fn replay(&mut self, mut replay: Replay) -> Result<bool, Error> {
        if !self.ask_untold(&mut replay).await? {
            return Ok(false);
        }
        let mut pending = Pending::default();
        let xid = replay.xid();
        loop {
            match replay.step(self.intake.announced()).map_err(|source| self.unreadable(source))? {
                Step::Item(item, weight) => pending.push(item, weight),
                Step::Done => break,
                Step::Hungry(bytes) => {
                    let bytes = bytes.max(self.settings.max_batch_bytes);
                    let read = self.beside(move |mut spool| {
                        let fed = replay.feed(&mut spool, bytes).map(|()| replay);
                        (spool, fed)
                    });
                    // What cannot be read back once may not be the next time: the server is to keep it.
                    let Some(fed) = read.await.map_err(|error| error.with_open(xid))? else { return Ok(false) };
                    replay = fed;
                    self.publish_status();
                }
            }
            if pending.bytes >= self.settings.max_batch_bytes
                && !self.hand_over_in_time(std::mem::take(&mut pending)).await?
            {
                return Ok(false);
            }
        }
        self.intake.settle_announced();
        self.publish_status();
        // What arrived meanwhile is still in the socket: the silence begins now.
        self.listening_since = Instant::now();
        self.asked = false;
        self.hand_over_in_time(pending).await
    }

    /// Hands over one of many batches that come without reading: requests of the server go unseen meanwhile (trap T10).
    async fn hand_over_in_time(&mut self, pending: Pending) -> Result<bool, Error> {
        let due = self.feedback.due(self.settings.status_interval, Some(self.held_back_interval));
        if due.is_some_and(|due| due <= Instant::now()) {
            self.take_flush();
            self.send_status(false).await?;
        }
        if self.stop.is_cancelled() { Ok(false) } else { self.hand_over(pending).await }
    }

    /// Does something with the spool that may touch the disk, beside this task; `None` when it is time to stop.
    async fn beside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(Spool) -> (Spool, Result<T, Problem>) + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let spool = self.intake.lend().unwrap_or_else(|| Spool::new(self.settings.spool.clone()));
        let done = tokio::task::spawn_blocking(move || work(spool));
        let Some((spool, outcome)) = self.meanwhile(async { done.await.ok() }).await? else { return Ok(None) };
        self.intake.take_back(spool);
        let slot = self.slot.clone();
        let failed = |source| Error::Spool { slot, open: self.intake.open(), source };
        outcome.map(Some).map_err(failed)
    }

    /// Waits for room. `None` when it is time to stop.
    async fn held_back<T>(&mut self, room: impl Future<Output = Option<T>>) -> Result<Option<T>, Error> {
        self.status.held_back.store(true, Ordering::Relaxed);
        let room = self.meanwhile(room).await?;
        self.status.held_back.store(false, Ordering::Relaxed);
        // What arrived meanwhile is still in the socket: the silence begins now.
        self.listening_since = Instant::now();
        self.asked = false;
        Ok(room)
    }

    /// Waits for something without reading: requests of the server go unseen, and status updates go out unasked (trap T10).
    /// `None` when it is time to stop.
    async fn meanwhile<T>(&mut self, room: impl Future<Output = Option<T>>) -> Result<Option<T>, Error> {
        tokio::pin!(room);
        loop {
            let due = self.feedback.due(self.settings.status_interval, Some(self.held_back_interval));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                room = &mut room => return Ok(room),
                moved = flush_moved(&mut self.flush) => self.flush_moved(moved),
                () = sleep_until(due) => self.send_status(false).await?,
            }
        }
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
    }

    fn heard_positions(&mut self, received: Lsn, wal_end: Lsn) {
        self.feedback.received(received);
        self.status.server_wal_end.fetch_max(wal_end.0, Ordering::Relaxed);
    }

    fn publish_status(&self) {
        self.status.received.store(self.feedback.written().0, Ordering::Relaxed);
        self.status.spools(self.intake.held());
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

/// Our clock, in microseconds since the Unix epoch.
fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
