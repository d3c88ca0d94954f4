//! The initial snapshot: every row that was committed before the slot's consistent point, as events of kind `r`.
//!
//! Stream and snapshot meet at the consistent point without a gap and without an overlap (traps T19, T20): the slot sends
//! exactly the transactions that the exported snapshot does not show. The stream begins only when every row is acknowledged
//! (trap T21).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Error, barrier::Broadcast, publisher::Publisher, routes::Running, session::Session, state::SNAPSHOT_VERSION,
    stream::now_ns,
};
use crate::{
    event::{EventMeta, Op, RecordBuf, RowChange, SnapshotMark, TransactionMeta, Tuple},
    lsn::{Lsn, Position},
    pipeline::ack::{AckTracker, Sequence},
    record::Encoder,
    retry::{Classify, Severity},
    schema::{Relation, TableName},
    source::{catalog::PublishedTable, snapshot::SnapshotReader},
};

/// What was recorded of tables before a new snapshot.
pub(super) type Earlier = BTreeMap<TableName, Vec<Arc<Relation>>>;

/// Reads all tables once.
pub(super) struct Copy<'a> {
    session: &'a Session,
    publisher: &'a Publisher,
    encoder: Encoder,
    meta: TransactionMeta,
    unit: Sequence,
    records: RecordBuf,
    /// Versions that rows have shown to differ from the catalog, by keys of the state.
    admitted: BTreeMap<String, Arc<Relation>>,
}

/// The last row of a table, held back until another table's first one is there: it may be the last of all.
struct Held {
    running: Arc<Running>,
    row: Tuple,
    /// If another one comes.
    mark: SnapshotMark,
}

/// As Debezium marks rows: `first` is of the first table, and of none if that is empty.
const fn mark(of_first_table: bool, first: bool, last: bool) -> SnapshotMark {
    match (first, last) {
        (true, _) if of_first_table => SnapshotMark::First,
        (_, true) => SnapshotMark::LastInCollection,
        (true, false) => SnapshotMark::FirstInCollection,
        (false, false) => SnapshotMark::True,
    }
}

impl<'a> Copy<'a> {
    pub(super) fn new(session: &'a Session, publisher: &'a Publisher, consistent_point: Lsn) -> Self {
        let meta = TransactionMeta {
            epoch: session.epoch,
            commit: consistent_point,
            commit_us: now_ns() / 1000,
            ..TransactionMeta::default()
        };
        let unit = publisher.deliveries().tracker(AckTracker::open);
        let (encoder, records, admitted) = (session.encoder(), RecordBuf::default(), BTreeMap::new());
        Self { session, publisher, encoder, meta, unit, records, admitted }
    }

    fn position(&self) -> Position {
        Position { epoch: self.meta.epoch, commit: self.meta.commit, ordinal: 0 }
    }

    /// Publishes the rows of all tables and waits until they are acknowledged. With `begin` a barrier empties the tables at
    /// the sinks before, since rows of an earlier snapshot may be there that are deleted by now. Gives the versions, by keys
    /// of the state, that are recorded in place of the survey's.
    pub(super) async fn run(
        mut self,
        reader: Option<SnapshotReader>,
        tables: &[PublishedTable],
        begin: Option<Earlier>,
    ) -> Result<BTreeMap<String, Arc<Relation>>, Error> {
        let (mut running, mut emptied) = (Vec::new(), Vec::new());
        // Without rows and without a barrier there is nothing to prepare for: the stream comes to each table.
        let tables = if reader.is_some() || begin.is_some() { tables } else { &[] };
        for table in tables {
            match self.prepare(table, begin.is_some()).await? {
                Some(ready) => running.push((ready, table)),
                None => emptied.extend(self.by_earlier(&table.relation.name, begin.as_ref()).await?),
            }
        }
        if begin.is_some() {
            let members = running.iter().map(|(running, _)| Arc::clone(running)).chain(emptied);
            self.begin(members.collect()).await?;
        }
        if let Some(reader) = reader {
            self.meta.commit_us = reader.info().read_us;
            self.meta.xid = reader.info().newest();
            let mut held = None;
            for (index, (running, table)) in running.iter().enumerate() {
                self.table(&reader, running, table, (index == 0, &mut held)).await?;
            }
            if let Some(last) = held {
                self.last_row(last, true).await?;
            }
            reader.close().await?;
        }
        self.publisher.deliveries().tracker(|tracker| tracker.close(self.unit, self.meta.commit));
        self.publisher.drained().await?;
        Ok(self.admitted)
    }

    /// The barrier that a new snapshot begins with.
    async fn begin(&mut self, mut members: Vec<Arc<Running>>) -> Result<(), Error> {
        let mut stopped = Vec::new();
        for (topic, relation) in self.session.departed.tables() {
            let departed = Running::departed(self.session, &mut self.encoder, self.publisher, relation, topic).await?;
            match departed {
                Some(departed) => members.push(departed),
                None => stopped.extend(self.session.departed.label(topic)),
            }
        }
        let event = EventMeta { processed_ns: now_ns(), lsn: self.meta.commit, ..EventMeta::default() };
        let members = members.into_iter().map(|running| (running, event)).collect();
        let barrier = Broadcast { members, stopped, position: self.position(), unit: self.unit };
        barrier.send(self.session, &mut self.encoder, self.publisher, &self.meta).await
    }

    /// A table that stops before its rows is emptied too, like one that stops among them: by a version that its topic has
    /// records of. `None` if none can be sent.
    async fn by_earlier(&mut self, name: &TableName, begin: Option<&Earlier>) -> Result<Option<Arc<Running>>, Error> {
        let topic = self.session.topic_of(name, self.publisher);
        let (Some(topic), Some(versions)) = (topic, begin.and_then(|begin| begin.get(name))) else { return Ok(None) };
        for relation in versions {
            match Running::anew(self.session, &mut self.encoder, Arc::clone(relation), Arc::clone(&topic)).await {
                Ok(running) => return Ok(Some(Arc::new(running))),
                Err(error) if error.severity() == Severity::Definite => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn prepare(&mut self, table: &PublishedTable, empty_first: bool) -> Result<Option<Arc<Running>>, Error> {
        let name = &table.relation.name;
        if self.session.tables.is_stopped(name) {
            return Ok(None);
        }
        let Some(topic) = self.session.topic_of(name, self.publisher) else { return Ok(None) };
        let relation = Arc::new(table.relation.clone());
        let running = if empty_first {
            Running::anew(self.session, &mut self.encoder, relation, topic).await
        } else {
            Running::new(self.session, &mut self.encoder, relation, topic).await
        };
        match running {
            Ok(running) => Ok(Some(Arc::new(running))),
            Err(error) if error.severity() == Severity::Definite => {
                self.session.stop_table(name, self.position(), &error, self.publisher).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Publishes a table's rows but the last one, which takes the place of that of the table `before`.
    async fn table(
        &mut self,
        reader: &SnapshotReader,
        running: &Arc<Running>,
        table: &PublishedTable,
        (is_first, before): (bool, &mut Option<Held>),
    ) -> Result<(), Error> {
        let mut running = Arc::clone(running);
        let name = &table.relation.name;
        let began = std::time::Instant::now();
        let counter = self.session.metrics.snapshot_rows(&name.to_string());
        let mut batches = reader.read_table(table).await?;
        let (mut held, mut rows) = (None::<Tuple>, 0_u64);
        while let Some(batch) = batches.next().await? {
            self.session.health.heard();
            for row in batch.rows {
                if let Some(last) = before.take() {
                    self.last_row(last, false).await?;
                }
                if let Some(previous) = held.replace(row) {
                    if !self.row(&mut running, previous, mark(is_first, rows == 0, false)).await? {
                        return Ok(());
                    }
                    rows += 1;
                    counter.inc();
                }
            }
        }
        if let Some(row) = held {
            let mark = mark(is_first, rows == 0, true);
            *before = Some(Held { running, row, mark });
            rows += 1;
        }
        let seconds = began.elapsed().as_secs_f64();
        tracing::info!(table = %name, rows, seconds, "snapshot of table read");
        Ok(())
    }

    /// Publishes the row that a table ended with, which may be the last of all.
    async fn last_row(&mut self, held: Held, of_all: bool) -> Result<(), Error> {
        let Held { mut running, row, mark } = held;
        let counter = self.session.metrics.snapshot_rows(&running.relation.name.to_string());
        if self.row(&mut running, row, if of_all { SnapshotMark::Last } else { mark }).await? {
            counter.inc();
        }
        Ok(())
    }

    /// Publishes one row; `false` when the row stopped its table.
    async fn row(&mut self, running: &mut Arc<Running>, row: Tuple, snapshot: SnapshotMark) -> Result<bool, Error> {
        let change = RowChange::Read(row);
        let sent = match self.admit(running, &change).await {
            Ok(()) => self.send(running, &change, snapshot).await,
            Err(error) if error.severity() == Severity::Definite => {
                self.session.stop_table(&running.relation.name, self.position(), &error, self.publisher).await?;
                return Ok(false);
            }
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => {
                running.metrics.events(Op::Read).inc();
                running.metrics.bytes.inc_by(self.records.bytes.len() as u64);
                Ok(true)
            }
            Err(error) if error.is_of_one_row() => {
                self.session.stop_table(&running.relation.name, self.position(), &error, self.publisher).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn send(&mut self, running: &Running, change: &RowChange, snapshot: SnapshotMark) -> Result<(), Error> {
        let event = EventMeta { lsn: self.meta.commit, processed_ns: now_ns(), snapshot, ..EventMeta::default() };
        self.records.clear();
        self.encoder.encode(&running.plan, &self.meta, event, change, &mut self.records)?;
        self.publisher.send(&running.topic, &self.records, self.unit).await
    }

    /// The catalog was read before the snapshot, and a constraint need not hold for rows that were there before it.
    async fn admit(&mut self, running: &mut Arc<Running>, change: &RowChange) -> Result<(), Error> {
        let beyond = running.plan.beyond(change);
        if !beyond.is_empty() {
            let (key, position) = (format!("{}{SNAPSHOT_VERSION}", running.relation.oid), self.position());
            let admitting =
                running.admitting(self.session, &mut self.encoder, (key.clone(), position), &beyond).await?;
            self.admitted.insert(key, Arc::clone(&admitting.relation));
            *running = Arc::new(admitting);
        }
        Ok(())
    }
}
