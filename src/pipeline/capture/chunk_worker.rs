//! One connection's share of a snapshot: it takes chunk after chunk, and reads, encodes and publishes its rows.

use std::sync::Arc;

use super::{
    Error,
    bad_row::BadRow,
    clock::now_ns,
    copied::{self, Copied, CopiedTable, Held, Task},
    publisher::Publisher,
    routes::Running,
    session::Session,
    wider::Wider,
};
use crate::{
    event::{EventMeta, Op, RecordBuf, RowChange, SnapshotMark, TransactionMeta, Tuple},
    lsn::Position,
    pipeline::ack::Sequence,
    record::Encoder,
    retry::{Classify, Severity},
    source::snapshot::SnapshotReader,
};

/// Publishes rows of a snapshot.
pub(super) struct RowSender {
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    copied: Arc<Copied>,
    meta: Arc<TransactionMeta>,
    encoder: Encoder,
    records: RecordBuf,
    wider: Wider,
}

impl RowSender {
    pub(super) fn new(
        session: &Arc<Session>,
        publisher: &Arc<Publisher>,
        copied: &Arc<Copied>,
        meta: &Arc<TransactionMeta>,
        wider: &Wider,
    ) -> Self {
        Self {
            session: Arc::clone(session),
            publisher: Arc::clone(publisher),
            copied: Arc::clone(copied),
            meta: Arc::clone(meta),
            encoder: session.encoder(),
            records: RecordBuf::default(),
            wider: wider.clone(),
        }
    }

    /// Reads chunks until there are no more, and ends the transaction: one that only waits for the others would hold its locks, for
    /// which a statement may wait that another connection waits behind.
    pub(super) async fn read_all(mut self, reader: SnapshotReader) -> Result<(), Error> {
        let bytes = self.session.settings.snapshot_chunk_bytes;
        let (copied, room) = (Arc::clone(&self.copied), Arc::new(copied::room(bytes)));
        while let Some((task, table)) = copied.next() {
            // Never closed.
            if let Ok(permit) = Arc::clone(&room).acquire_many_owned(copied::share(&task.chunk, bytes)).await {
                copied.begin(task, permit);
            }
            match self.chunk(&reader, task, table).await? {
                Some(row) => {
                    if let Some(other) = table.hold(Held { row, unit: task.unit }) {
                        self.held(table, other, false).await?;
                    }
                }
                None => self.close(task.unit),
            }
            if let Some((index, last)) = copied.end_chunk(task)
                && let Some(table) = copied.tables.get(index)
            {
                self.held(table, last, true).await?;
            }
        }
        reader.close().await;
        Ok(())
    }

    /// Publishes the row that the whole snapshot ends with, if there is any.
    pub(super) async fn last_of_all(mut self) -> Result<(), Error> {
        let copied = Arc::clone(&self.copied);
        let Some((index, held)) = copied.take_last() else { return Ok(()) };
        if let Some(table) = copied.tables.get(index) {
            let mut running = table.running();
            self.row(table, &mut running, held.row, (held.unit, SnapshotMark::Last)).await?;
        }
        self.close(held.unit);
        Ok(())
    }

    /// Publishes the rows of a chunk but for the last one, which it gives.
    async fn chunk(
        &mut self,
        reader: &SnapshotReader,
        task: &Task,
        table: &CopiedTable,
    ) -> Result<Option<Tuple>, Error> {
        let mut held = None;
        if table.is_stopped() {
            return Ok(None);
        }
        let mut batches = reader.read(&table.published, &task.chunk, table.format).await?;
        while let Some(batch) = batches.next().await? {
            self.session.health.heard();
            let mut running = table.running();
            for row in batch.rows {
                if table.is_stopped() {
                    return Ok(None);
                }
                if let Some(previous) = held.replace(row) {
                    let mark = table.mark(false);
                    self.row(table, &mut running, previous, (task.unit, mark)).await?;
                }
            }
            // Encoding is work without a pause: others are to have their turn.
            tokio::task::yield_now().await;
        }
        Ok(held)
    }

    /// Publishes a row that was held back.
    async fn held(&mut self, table: &CopiedTable, held: Held, is_last: bool) -> Result<(), Error> {
        if !table.is_stopped() {
            let mut running = table.running();
            let mark = table.mark(is_last);
            self.row(table, &mut running, held.row, (held.unit, mark)).await?;
        }
        self.close(held.unit);
        Ok(())
    }

    fn close(&self, unit: Sequence) {
        self.publisher.deliveries().tracker(|tracker| tracker.close(unit, self.meta.commit));
    }

    /// Publishes one row, or stops its table over it.
    async fn row(
        &mut self,
        table: &CopiedTable,
        running: &mut Arc<Running>,
        row: Tuple,
        (unit, snapshot): (Sequence, SnapshotMark),
    ) -> Result<(), Error> {
        let change = RowChange::Read(row);
        if let Err(error) = self.admit(table, running, &change).await {
            let is_definite = error.severity() == Severity::Definite;
            return if is_definite { self.stop(table, &error).await } else { Err(error) };
        }
        match self.send(running, &change, (unit, snapshot)).await {
            Ok(()) => {
                running.metrics.events(Op::Read).inc();
                running.metrics.bytes.inc_by(self.records.bytes.len() as u64);
                table.count();
                Ok(())
            }
            Err(error) if error.is_of_one_row() => {
                if self.leave_out(running, &change, (unit, snapshot), &error).await? {
                    return Ok(());
                }
                self.stop(table, &error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves a row out, where that is wanted; `false` if not.
    async fn leave_out(
        &mut self,
        running: &Running,
        change: &RowChange,
        (unit, snapshot): (Sequence, SnapshotMark),
        error: &Error,
    ) -> Result<bool, Error> {
        let event = self.event(snapshot);
        let row = BadRow { running, transaction: &self.meta, event, change, unit };
        let mut scope = self.publisher.enter(None).await;
        let way = (&*self.session, &*self.publisher);
        let is_left_out = row.leave_out(way, (&mut scope, &mut self.encoder), error).await?;
        scope.done(0);
        Ok(is_left_out)
    }

    fn event(&self, snapshot: SnapshotMark) -> EventMeta {
        EventMeta { lsn: self.meta.commit, processed_ns: now_ns(), snapshot, ..EventMeta::default() }
    }

    async fn stop(&self, table: &CopiedTable, error: &Error) -> Result<(), Error> {
        if !table.stop() {
            return Ok(());
        }
        let name = &table.published.relation.name;
        self.session.stop_table(name, self.position(), error, &self.publisher).await
    }

    fn position(&self) -> Position {
        Position { epoch: self.meta.epoch, commit: self.meta.commit, ordinal: 0 }
    }

    async fn send(
        &mut self,
        running: &Running,
        change: &RowChange,
        (unit, snapshot): (Sequence, SnapshotMark),
    ) -> Result<(), Error> {
        let event = self.event(snapshot);
        self.records.clear();
        self.encoder.encode(&running.plan, &self.meta, event, change, &mut self.records)?;
        let mut scope = self.publisher.enter(None).await;
        self.publisher.send(&mut scope, &running.topic, &self.records, unit).await?;
        scope.done(0);
        Ok(())
    }

    /// The catalog was read before the snapshot, and a constraint need not hold for rows that were there before it. What one
    /// connection finds holds for all from their next batch on.
    async fn admit(&self, table: &CopiedTable, running: &mut Arc<Running>, change: &RowChange) -> Result<(), Error> {
        if running.plan.beyond(change).is_empty() {
            return Ok(());
        }
        // Another connection may have found the same.
        *running = table.running();
        let beyond = running.plan.beyond(change);
        if !beyond.is_empty() {
            *running = self.wider.ask(table.index, beyond).await?;
        }
        Ok(())
    }
}
