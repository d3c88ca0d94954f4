//! The stream: numbers the changes of each transaction, encodes them and sends them, in the order of the WAL.
//!
//! The ordinal counts what the server delivers, before any filter of ours, so it is the same on every redelivery: every row
//! change takes one, a key move two (delete and create), a TRUNCATE statement and a logical message one (PROTOCOL,
//! "Position").

use std::sync::Arc;

use super::{
    Error,
    bad_row::BadRow,
    barrier::Broadcast,
    boundaries::Boundaries,
    clock::now_ns,
    extent::Extent,
    messages::Messages,
    publisher::Publisher,
    resync::ended_by,
    routes::{Route, Routes},
    session::Session,
    settings::OriginFilter,
    signal_table::SignalTable,
    signals::{self, Said},
    standing, sweep,
    transaction::{MESSAGES, Open},
};
use crate::{
    event::{EventMeta, RecordBuf, Resync, RowChange, TransactionMeta, Tuple},
    lsn::{Lsn, Position},
    pgoutput::message::{self, Message},
    pipeline::ack::AckTracker,
    record::{ChangedRow, Encoder, LogicalMessage, ordinals},
    retry::{Classify as _, Severity},
    schema::TableName,
    source::{
        stream::{StreamItem, StreamStatus},
        window,
    },
};

/// Follows the stream of one session.
pub(super) struct Streamer {
    pub(super) session: Arc<Session>,
    pub(super) encoder: Encoder,
    pub(super) routes: Routes,
    signal_table: SignalTable,
    pub(super) publisher: Arc<Publisher>,
    pub(super) records: RecordBuf,
    messages: Messages,
    pub(super) boundaries: Boundaries,
    pub(super) open: Option<Open>,
    /// End and commit time of the last transaction, or of what counts as one.
    last: Option<(Lsn, i64)>,
    /// Below it events may be published.
    ceiling: Lsn,
    /// How far the stream has been received.
    status: Arc<StreamStatus>,
    extent: Extent,
    /// Everything inside of the extent was taken.
    through: bool,
    /// When the batch at hand was begun: its row changes have one time of processing.
    processed_ns: i64,
}

impl Streamer {
    pub(super) fn new(
        session: Arc<Session>,
        (routes, messages, boundaries): (Routes, Messages, Boundaries),
        publisher: Arc<Publisher>,
        (extent, status): (Extent, Arc<StreamStatus>),
    ) -> Self {
        Self {
            encoder: session.encoder(),
            signal_table: SignalTable::new(session.settings.publication.signal_table.clone()),
            session,
            routes,
            publisher,
            records: RecordBuf::default(),
            messages,
            boundaries,
            open: None,
            last: None,
            ceiling: Lsn::ZERO,
            status,
            extent,
            through: false,
            processed_ns: 0,
        }
    }

    /// Takes the items of one batch, as far as the session's options hold.
    pub(super) async fn take_all(&mut self, items: Vec<StreamItem>) -> Result<(), Error> {
        self.processed_ns = now_ns();
        for item in items {
            self.through |= self.open.is_none() && self.extent.ends_before(&item);
            if self.through {
                break;
            }
            let last = self.extent.ends_with(&item);
            self.take(item).await?;
            self.through = last;
        }
        // A batch whose every await was ready must not starve the checkpoint loop.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Whether no transaction is begun and not ended.
    pub(super) const fn is_between(&self) -> bool {
        self.open.is_none()
    }

    /// Whether the session is done: what comes next belongs to other options.
    pub(super) const fn is_through(&self) -> bool {
        self.through
    }

    /// The server failed at a change: if that is another session's, all of this one's have come.
    pub(super) fn failed_at(&mut self, change: Lsn) -> bool {
        self.through |= self.open.is_none() && self.extent.is_before(change);
        self.through
    }

    async fn take(&mut self, item: StreamItem) -> Result<(), Error> {
        match item {
            StreamItem::Keepalive { wal_end } => {
                self.publisher.deliveries().tracker(|tracker| tracker.passed(wal_end));
                self.session.received(wal_end);
                Ok(())
            }
            StreamItem::Message { wal_start, message } => self.message(wal_start, message).await,
        }
    }

    async fn message(&mut self, lsn: Lsn, message: Message) -> Result<(), Error> {
        match message {
            Message::Begin { final_lsn, commit_us, xid } => self.begin(lsn, final_lsn, commit_us, xid).await,
            Message::Commit { commit_lsn, end_lsn, .. } => self.commit(lsn, commit_lsn, end_lsn).await,
            Message::Origin { commit_lsn, name } => {
                let open = self.open.as_mut().ok_or(Error::Protocol { what: "origin", lsn })?;
                open.left_out = self.session.settings.origin == OriginFilter::None;
                open.meta.origin = Some(name);
                // Of a transaction that was sent in progress the server does not tell it.
                open.meta.origin_lsn = Some(commit_lsn).filter(|lsn| *lsn != Lsn::ZERO);
                Ok(())
            }
            Message::Relation(body) => {
                let epoch = self.session.epoch;
                let position = self
                    .open
                    .as_ref()
                    .map_or(Position { epoch, commit: lsn, ordinal: 0 }, |open| open.position(open.ordinal + 1));
                self.session.position.found(position.commit).await?;
                self.signal_table.announce(&body);
                self.boundaries.announce(body.oid, &TableName::new(Arc::clone(&body.schema), Arc::clone(&body.table)));
                self.routes.announce(body, position, &mut self.encoder, &self.publisher).await
            }
            Message::Type(body) => {
                self.routes.name_type(body);
                Ok(())
            }
            message if message.is_event() && self.open.as_ref().is_some_and(|open| open.left_out) => Ok(()),
            Message::Insert { relation, new, .. } => self.insert(lsn, relation, new).await,
            Message::Update { relation, old, new, .. } => {
                self.change(lsn, relation, RowChange::Update { old, new }).await
            }
            Message::Delete { relation, old, .. } => self.change(lsn, relation, RowChange::Delete(old)).await,
            Message::Truncate(truncate) => self.truncate(lsn, &truncate.relations).await,
            Message::Logical(message) => self.logical(lsn, &message).await,
            Message::StreamStart { .. }
            | Message::StreamStop
            | Message::StreamCommit { .. }
            | Message::StreamAbort { .. } => Err(Error::Protocol { what: "streamed transaction", lsn }),
            Message::BeginPrepare(_)
            | Message::Prepare(_)
            | Message::CommitPrepared(_)
            | Message::RollbackPrepared { .. }
            | Message::StreamPrepare(_) => Err(Error::Protocol { what: "two-phase commit", lsn }),
        }
    }

    async fn may_publish(&mut self, at: Lsn) -> Result<(), Error> {
        if at >= self.ceiling {
            self.ceiling = self.session.position.raise_ceiling(at, self.status.received()).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, first: Lsn, commit: Lsn, commit_us: i64, xid: u32) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(Error::Protocol { what: "begin", lsn: commit });
        }
        self.may_publish(commit).await?;
        self.session.health.behind_since(commit_us / 1000);
        let meta = TransactionMeta {
            epoch: self.session.epoch,
            xid: Some(xid),
            commit,
            commit_us,
            previous_commit: self.last.map(|(end, _)| end),
            ..TransactionMeta::default()
        };
        self.session.windows.begun(commit);
        let unit = self.publisher.deliveries().tracker(AckTracker::open);
        let open = self.open.insert(Open::new(meta, unit, first));
        self.boundaries.make_ready(open).await
    }

    async fn commit(&mut self, lsn: Lsn, commit: Lsn, end: Lsn) -> Result<(), Error> {
        let windows = &self.session.windows;
        if self.open.as_ref().and_then(|open| open.meta.xid).is_some_and(|xid| windows.committed(xid)) {
            windows.sees_all(&window::visible(&self.session.client).await?);
        }
        match self.open.take() {
            Some(open) if open.meta.commit == commit && open.left_out => {
                self.publisher.deliveries().tracker(|tracker| tracker.close(open.unit, end));
                self.session.received(end);
                Ok(())
            }
            Some(open) if open.meta.commit == commit => {
                self.boundaries.end(&open, end).await?;
                self.publisher.deliveries().tracker(|tracker| tracker.close(open.unit, end));
                self.last = Some((end, open.meta.commit_us));
                self.session.received(end);
                Ok(())
            }
            _ => Err(Error::Protocol { what: "commit", lsn }),
        }
    }

    /// A row of the signal table is a signal, behind the row's own event.
    async fn insert(&mut self, lsn: Lsn, relation: u32, row: Tuple) -> Result<(), Error> {
        let signal = self.signal_table.read(relation, &row);
        self.change(lsn, relation, RowChange::Insert(row)).await?;
        let (Some(request), Some(open)) = (signal, &self.open) else { return Ok(()) };
        self.signal(Said::Row(request), open.position(open.ordinal)).await
    }

    async fn signal(&self, said: Said<'_>, at: Position) -> Result<(), Error> {
        signals::take(&self.session, (&self.publisher, &self.routes), said, at).await
    }

    async fn change(&mut self, lsn: Lsn, relation: u32, change: RowChange) -> Result<(), Error> {
        self.join(relation).await?;
        let is_kept_back = self.keeps_back(relation);
        if !is_kept_back {
            self.admit(relation, &change, false).await?;
        }
        let open = self.open.as_mut().ok_or(Error::Protocol { what: "row change outside of a transaction", lsn })?;
        let mut scope = self.publisher.enter(Some(open.position(open.ordinal + 1))).await;
        let running = match self.routes.find(relation) {
            Some(Route::Running(running)) if !is_kept_back => running,
            Some(route) => {
                let taken = route.plan().map_or(Ok(1), |plan| ordinals(plan, &change))?;
                self.boundaries.took((open, &mut scope), relation, &change, taken).await?;
                scope.done(open.ordinal);
                return Ok(());
            }
            None => return Err(Error::Protocol { what: "change of an unannounced relation", lsn }),
        };
        let Session { windows, resyncs, .. } = &*self.session;
        let is_open = windows.is_open(relation);
        if is_open && let Ok(changed) = ChangedRow::of(&running.plan, &change) {
            // What cannot be encoded stops the table below.
            windows.change(relation, open.meta.xid.unwrap_or_default(), changed);
        }
        let numbers = self.boundaries.next(open, relation);
        let ordinal = numbers.ordinal;
        let position = open.position(ordinal);
        let labelled = resyncs.of_change(relation, position);
        let lacks_rows = self.session.lacks_rows(&running.relation, position);
        let backfilling = is_open || lacks_rows || labelled.is_some_and(|labelled| labelled.unread);
        let resync = labelled.map(|labelled| labelled.resync);
        let event = EventMeta { lsn, processed_ns: self.processed_ns, backfilling, resync, ..numbers };
        self.records.clear();
        let encoded = self.encoder.encode(&running.plan, &open.meta, event, &change, &mut self.records);
        let taken = encoded.as_ref().map_or_else(|_| ordinals(&running.plan, &change).unwrap_or(1), |taken| *taken);
        self.boundaries.took((open, &mut scope), relation, &change, taken).await?;
        let sent = match encoded {
            Ok(_) => self.publisher.send(&mut scope, &running.topic, &self.records, open.unit).await,
            Err(error) => Err(error.into()),
        };
        let last = open.ordinal;
        match sent {
            Ok(true) => running.count(&change, &self.records),
            Ok(false) => {}
            Err(error) if error.is_of_one_row() => {
                // The row may be larger than all others.
                self.records = RecordBuf::default();
                let row = BadRow { running, transaction: &open.meta, event, change: &change, unit: open.unit };
                let way = (&*self.session, &*self.publisher);
                if !row.leave_out(way, (&mut scope, &mut self.encoder), &error).await? {
                    self.stop(relation, position, &error).await?;
                }
            }
            Err(error) => return Err(error),
        }
        scope.done(last);
        Ok(())
    }

    /// Whether the next change is not published: the table's rows are read at one point, and show it, or it comes behind them.
    fn keeps_back(&self, relation: u32) -> bool {
        let Some(open) = &self.open else { return false };
        let (at, xid) = (open.position(open.ordinal + 1), open.meta.xid.unwrap_or_default());
        self.session.resyncs.keeps_back(relation, at, xid)
    }

    /// A table that is captured from here on is announced once more.
    async fn join(&mut self, relation: u32) -> Result<(), Error> {
        let Some(position) = self.open.as_ref().map(|open| open.position(open.ordinal + 1)) else { return Ok(()) };
        match self.routes.joins_at(relation, position) {
            Some(body) => self.routes.announce(body, position, &mut self.encoder, &self.publisher).await,
            None => Ok(()),
        }
    }

    /// What the relation's version has no room for goes on under one that has it; if the registry refuses that, the table stops
    /// before the event.
    pub(super) async fn admit(&mut self, relation: u32, change: &RowChange, resync: bool) -> Result<(), Error> {
        let (Some(Route::Running(running)), Some(open)) = (self.routes.find(relation), &self.open) else {
            return Ok(());
        };
        let beyond = running.plan.beyond(change);
        if beyond.is_empty() {
            return Ok(());
        }
        let position = open.position(open.ordinal + 1);
        match self.routes.admit(relation, &beyond, position, &mut self.encoder).await {
            Err(error) if error.severity() == Severity::Definite => {
                self.give_up(relation, position, &error, resync).await
            }
            admitted => admitted,
        }
    }

    /// Stops one table at an event; its changes stay in the WAL from there on.
    async fn stop(&mut self, relation: u32, position: Position, error: &Error) -> Result<(), Error> {
        let Some(table) = self.routes.stop(relation) else { return Ok(()) };
        self.session.windows.stop(relation, &crate::retry::chain(error));
        self.session.stop_table(&table, position, error, &self.publisher).await
    }

    /// A row cannot be published. One that is read for a `resync` keeps nobody's changes: its table leaves that.
    pub(super) async fn give_up(
        &mut self,
        relation: u32,
        position: Position,
        error: &Error,
        resync: bool,
    ) -> Result<(), Error> {
        let Some(Route::Running(running)) = self.routes.find(relation).filter(|_| resync) else {
            return self.stop(relation, position, error).await;
        };
        let reason = crate::retry::chain(error);
        self.session.windows.stop(relation, &reason);
        self.session.leave(&running.relation.name, .., position, &reason).await
    }

    async fn truncate(&mut self, lsn: Lsn, relations: &[u32]) -> Result<(), Error> {
        for relation in relations {
            self.join(*relation).await?;
        }
        let open = self.open.as_mut().ok_or(Error::Protocol { what: "truncate outside of a transaction", lsn })?;
        self.session.note_truncated(relations, open.meta.commit).await?;
        let xid = open.meta.xid.unwrap_or_default();
        let (ordinal, orders) = open.took_together(relations);
        let (position, processed_ns) = (open.position(ordinal), now_ns());
        let mut scope = self.publisher.enter(Some(position)).await;
        let (mut members, mut stopped) = (Vec::new(), Vec::new());
        for (relation, order) in relations.iter().zip(orders) {
            let own = EventMeta { ordinal, total_order: ordinal, collection_order: order, ..EventMeta::default() };
            let event = EventMeta { lsn, processed_ns, ..self.boundaries.numbered(own, *relation) };
            self.boundaries.truncated((open, &mut scope), *relation).await?;
            match self.routes.find(*relation) {
                // It comes behind what is read at one point, or that shows it.
                Some(_) if self.session.resyncs.is_kept_back(*relation, position) => {
                    let name = self.session.known(*relation);
                    let topic = name.and_then(|name| self.session.topic_of(name, &self.publisher));
                    stopped.extend(topic.map(|topic| topic.label()));
                }
                Some(Route::Running(_)) if self.session.resyncs.keeps_back(*relation, position, xid) => {}
                Some(Route::Running(running)) => members.push((Arc::clone(running), event)),
                // Of one whose changes are dropped nothing comes later that others could wait for.
                Some(Route::Stopped { topic, .. }) => {
                    stopped.extend(topic.clone().filter(|(topic, _)| !self.session.drops_changes_of(topic)));
                }
                Some(Route::Early { .. }) => {}
                Some(Route::Ignored { departed, .. }) => {
                    match (departed, self.session.departed.due(*relation, position)) {
                        (Some(running), Some(_)) => members.push((Arc::clone(running), event)),
                        (_, lacking) => stopped.extend(lacking),
                    }
                }
                None => return Err(Error::Protocol { what: "truncate of an unannounced relation", lsn }),
            }
        }
        let barrier = Broadcast { members, stopped, position, unit: open.unit };
        barrier.send(&mut scope, &self.session, &mut self.encoder, &self.publisher, &open.meta).await?;
        scope.done(ordinal);
        Ok(())
    }

    /// A message inside a transaction is one of its events.
    async fn logical(&mut self, lsn: Lsn, message: &message::LogicalMessage) -> Result<(), Error> {
        let body =
            LogicalMessage { prefix: &message.prefix, content: &message.content, transactional: message.transactional };
        let processed_ns = now_ns();
        if !message.transactional {
            let event = EventMeta { lsn: message.lsn, processed_ns, ..EventMeta::default() };
            return self.message_apart(&body, event).await;
        }
        let what = "transactional message outside of a transaction";
        let open = self.open.as_mut().ok_or(Error::Protocol { what, lsn })?;
        if &*message.prefix == window::PREFIX {
            return self.marker(lsn, &message.content).await;
        }
        if let Some(said) = Said::of(message) {
            open.took(MESSAGES, 1);
            let at = open.position(open.ordinal);
            return self.signal(said, at).await;
        }
        let event = EventMeta { lsn: message.lsn, processed_ns, ..self.boundaries.next(open, MESSAGES) };
        open.took(MESSAGES, 1);
        let position = open.position(open.ordinal);
        self.messages.make_ready(position, &mut self.encoder).await?;
        let mut scope = self.publisher.enter(Some(position)).await;
        self.boundaries.said(open, &mut scope).await?;
        let unit = (open.unit, &mut scope);
        self.messages.publish(&body, (&open.meta, event), unit, &mut self.encoder).await?;
        scope.done(open.ordinal);
        Ok(())
    }

    /// A marker of a window, or of a resync's end, is one of its transaction's events, and nobody else's message.
    async fn marker(&mut self, lsn: Lsn, content: &[u8]) -> Result<(), Error> {
        if let Some(open) = &mut self.open {
            open.took(MESSAGES, 1);
        }
        if let Some(resync) = ended_by(&self.session.settings.slot, content) {
            return self.end(resync).await;
        }
        let Some(closed) = self.session.windows.marker(content) else { return Ok(()) };
        let number = closed.number;
        let outcome = self.window(lsn, closed).await?;
        self.session.windows.end(number, outcome);
        Ok(())
    }

    /// The last message of a transaction ends a resync, if all of its rows are published.
    async fn end(&mut self, resync: Resync) -> Result<(), Error> {
        let Some(open) = &self.open else { return Ok(()) };
        let position = open.position(open.ordinal);
        if let Some(begin) = self.session.resyncs.about_to_end(resync) {
            standing::look(&self.session, begin).await?;
        }
        let Some(run) = self.session.resyncs.end(resync, position) else { return Ok(()) };
        let mut scope = self.publisher.enter(Some(position)).await;
        let way = (&mut self.encoder, &*self.publisher);
        sweep::broadcast((&mut scope, open.unit), &self.session, way, (&run, position)).await?;
        self.session.heal(&run).await?;
        scope.done(position.ordinal);
        Ok(())
    }

    /// Another message has no position, and the flush LSN waits for it. Its place in the WAL is that of no commit, and the stream comes
    /// in the order of both.
    async fn message_apart(&mut self, body: &LogicalMessage<'_>, event: EventMeta) -> Result<(), Error> {
        if self.messages.are_stopped() {
            return Ok(());
        }
        self.may_publish(event.lsn).await?;
        // It has no time of its own: the last commit's stands for it, and where none has come that at which it is published.
        let commit_us = self.last.map_or_else(|| event.processed_ns.div_euclid(1_000), |(_, time)| time);
        // As with Debezium, what comes behind it is behind a commit there.
        self.last = Some((event.lsn, commit_us));
        let meta = TransactionMeta {
            epoch: self.session.epoch,
            commit: event.lsn,
            commit_us,
            previous_commit: Some(event.lsn),
            ..TransactionMeta::default()
        };
        let place = Position { epoch: meta.epoch, commit: event.lsn, ordinal: 1 };
        self.messages.make_ready(Position { ordinal: 0, ..place }, &mut self.encoder).await?;
        let unit = self.publisher.deliveries().tracker(AckTracker::open);
        let mut scope = self.publisher.enter(Some(place)).await;
        self.messages.publish(body, (&meta, event), (unit, &mut scope), &mut self.encoder).await?;
        scope.done(place.ordinal);
        self.publisher.deliveries().tracker(|tracker| tracker.close(unit, Lsn::ZERO));
        Ok(())
    }
}
