//! The initial snapshot: every row that was committed before the slot's consistent point, as events of kind `r`.
//!
//! Stream and snapshot meet at the consistent point without a gap and without an overlap (traps T19, T20): the slot sends
//! exactly the transactions that the exported snapshot does not show. The stream begins only when every row is acknowledged
//! (trap T21).
//!
//! ```text
//! Readers (connections, chunks) ──► a task per connection: chunk_worker ──► Publisher
//!                                        └── Copied: next chunk, versions, rows held back
//! ```

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use super::{
    Error,
    barrier::Broadcast,
    chunk_record::{self, ChunkRecord},
    chunk_worker::RowSender,
    chunks::SnapshotPlan,
    clock::now_ns,
    copied::{Copied, CopiedTable, Task},
    copy_progress::{CopyProgress, measure},
    publisher::Publisher,
    readers::Readers,
    routes::Running,
    session::Session,
    state::{SNAPSHOT_VERSION, Update},
    tuple_format::copy_format,
    wider::{Request, Wider},
};
use crate::{
    event::{EventMeta, TransactionMeta},
    lsn::{Lsn, Position},
    pipeline::ack::{AckTracker, Sequence},
    record::{Beyond, Encoder},
    retry::{Classify, Severity},
    schema::{Relation, TableName},
    source::catalog::PublishedTable,
};

/// What was recorded of tables before a new snapshot.
pub(super) type Earlier = BTreeMap<TableName, Vec<Arc<Relation>>>;

/// What is recorded when the begin of a snapshot is acknowledged: from there on it is the snapshot of these topics.
pub(super) struct Beginning {
    /// Beside the plan.
    pub(super) updates: Vec<Update>,
    /// Of the snapshot.
    pub(super) plan: SnapshotPlan,
}

/// Reads all tables once.
pub(super) struct Copy<'a> {
    session: &'a Arc<Session>,
    publisher: &'a Arc<Publisher>,
    encoder: Encoder,
    meta: TransactionMeta,
    /// Of the begin; it stays open until the end.
    unit: Sequence,
    /// The stream goes on meanwhile.
    beside: bool,
    /// Versions that rows have shown to differ from the catalog, by keys of the state.
    admitted: BTreeMap<String, Arc<Relation>>,
}

impl<'a> Copy<'a> {
    pub(super) fn new(session: &'a Arc<Session>, publisher: &'a Arc<Publisher>, consistent_point: Lsn) -> Self {
        let meta = TransactionMeta {
            epoch: session.epoch,
            commit: consistent_point,
            commit_us: now_ns() / 1000,
            ..TransactionMeta::default()
        };
        let unit = publisher.deliveries().tracker(AckTracker::open);
        let encoder = session.encoder();
        Self { session, publisher, encoder, meta, unit, beside: false, admitted: BTreeMap::new() }
    }

    /// Of one table, while the stream of the others goes on. Its rows have the position of this commit.
    pub(super) fn beside(session: &'a Arc<Session>, publisher: &'a Arc<Publisher>, at: Lsn) -> Self {
        let meta = TransactionMeta { epoch: session.epoch, commit: at, ..TransactionMeta::default() };
        let unit = publisher.deliveries().tracker(AckTracker::open_beside);
        let encoder = session.encoder();
        Self { session, publisher, encoder, meta, unit, beside: true, admitted: BTreeMap::new() }
    }

    /// Empties the table at the sinks, publishes its rows, and waits until they are acknowledged. `false` where it stopped.
    pub(super) async fn table(mut self, readers: Readers, table: &PublishedTable) -> Result<bool, Error> {
        self.meta.commit_us = readers.info.read_us;
        let Some(running) = self.prepare(table, true).await? else { return Ok(false) };
        self.begin(vec![Arc::clone(&running)]).await?;
        let copied = self.rows(readers, std::slice::from_ref(table), vec![(running, 0)], None).await?;
        self.publisher.deliveries().tracker(|tracker| tracker.close(self.unit, self.meta.commit));
        while !self.publisher.deliveries().tracker(|tracker| tracker.is_through(self.unit)) {
            self.publisher.check()?;
            tokio::time::sleep(chunk_record::INTERVAL).await;
        }
        measure(&copied, self.session, self.publisher);
        Ok(!copied.tables.iter().any(CopiedTable::is_stopped))
    }

    fn position(&self) -> Position {
        Position { epoch: self.meta.epoch, commit: self.meta.commit, ordinal: 0 }
    }

    /// Publishes the rows of all tables and waits until they are acknowledged. With `begin` a barrier empties the tables at
    /// the sinks before, since rows of an earlier snapshot may be there that are deleted by now. Gives the versions, by keys
    /// of the state, that are recorded in place of the survey's.
    pub(super) async fn run(
        mut self,
        readers: Option<Readers>,
        tables: &[PublishedTable],
        begin: Option<Earlier>,
        beginning: Beginning,
    ) -> Result<BTreeMap<String, Arc<Relation>>, Error> {
        let (mut running, mut emptied) = (Vec::new(), Vec::new());
        // Without rows and without a barrier there is nothing to prepare for: the stream comes to each table.
        let tables = if readers.is_some() || begin.is_some() { tables } else { &[] };
        for (index, table) in tables.iter().enumerate() {
            match self.prepare(table, begin.is_some()).await? {
                Some(ready) => running.push((ready, index)),
                None => emptied.extend(self.by_earlier(&table.relation.name, begin.as_ref()).await?),
            }
        }
        if begin.is_some() {
            let members = running.iter().map(|(running, _)| Arc::clone(running)).chain(emptied);
            self.begin(members.collect()).await?;
        }
        let copied = match readers {
            Some(readers) => Some(self.rows(readers, tables, running, Some(beginning)).await?),
            None => None,
        };
        self.publisher.deliveries().tracker(|tracker| tracker.close(self.unit, self.meta.commit));
        self.publisher.drained().await?;
        if let Some(copied) = copied {
            measure(&copied, self.session, self.publisher);
        }
        Ok(self.admitted)
    }

    /// Publishes the rows of the tables that are ready, each with its index, on all connections.
    async fn rows(
        &mut self,
        readers: Readers,
        tables: &[PublishedTable],
        running: Vec<(Arc<Running>, usize)>,
        beginning: Option<Beginning>,
    ) -> Result<Arc<Copied>, Error> {
        let Readers { readers, chunks, info, .. } = readers;
        let mut record = if beginning.is_some() { ChunkRecord::new(&chunks, tables) } else { ChunkRecord::of_none() };
        let open = if self.beside { AckTracker::open_beside } else { AckTracker::open };
        self.meta.commit_us = info.read_us;
        self.meta.xid = info.newest();
        let meta = Arc::new(self.meta.clone());
        let (mut copied, mut tasks) = (Vec::new(), Vec::new());
        for (running, index) in running {
            let Some(table) = tables.get(index) else { continue };
            let (place, metrics) = (copied.len(), &self.session.metrics);
            let counter = metrics.snapshot_rows(&table.relation.name.to_string());
            let Session { settings, client, tables: stopped, .. } = &**self.session;
            let format = copy_format(settings, client, &table.relation, stopped);
            copied.push(CopiedTable::new(place, (table.clone(), format), running, counter));
            for chunk in chunks.iter().filter(|chunk| chunk.table == index) {
                // All at once, so that a number means one chunk for ever.
                let unit = self.publisher.deliveries().tracker(open);
                record.watch(table.relation.oid, place, chunk, unit);
                tasks.push(Task { chunk: chunk.clone(), table: place, unit });
            }
        }
        let copied = Arc::new(Copied::new(copied, tasks));
        measure(&copied, self.session, self.publisher);
        if let Some(beginning) = beginning {
            self.record_begin(&record, beginning).await?;
        }
        let (wider, mut requests) = Wider::new();
        let (session, publisher) = (self.session, self.publisher);
        let sender = || RowSender::new(session, publisher, &copied, &meta, &wider);
        let mut reading = JoinSet::new();
        for reader in readers {
            reading.spawn(sender().read_all(reader));
        }
        self.join(reading, (&copied, &mut record), &mut requests).await?;
        let mut ending = JoinSet::new();
        ending.spawn(sender().last_of_all());
        self.join(ending, (&copied, &mut record), &mut requests).await?;
        while self.beside && !record.is_through() {
            self.publisher.check()?;
            tokio::time::sleep(chunk_record::INTERVAL).await;
            record.advance(&copied, self.session, self.publisher).await?;
        }
        Ok(copied)
    }

    /// From here on a snapshot that is cut can go on: every copy of its begin is acknowledged.
    async fn record_begin(
        &self,
        record: &ChunkRecord,
        Beginning { mut updates, plan }: Beginning,
    ) -> Result<(), Error> {
        self.publisher.settled().await?;
        updates.extend(record.begin(plan));
        updates.extend(self.session.barriers.lock().await.drain(..).map(Update::CloseBarrier));
        self.session.position.record(&updates).await
    }

    /// Waits for tasks, makes the versions that they ask for, and records which chunks are through. The first error ends them all.
    async fn join(
        &mut self,
        mut tasks: JoinSet<Result<(), Error>>,
        (copied, record): (&Copied, &mut ChunkRecord),
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<(), Error> {
        let mut progress = CopyProgress::new(self.beside);
        let mut recording = tokio::time::interval(chunk_record::INTERVAL);
        recording.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(Request { table, beyond, answer }) = requests.recv() => {
                    let wider = self.widen(copied, table, beyond).await;
                    // Nobody waits any more where the task has been given up.
                    let _gone = answer.send(wider);
                }
                () = progress.tick() => {
                    progress.tell(copied, self.session);
                    measure(copied, self.session, self.publisher);
                }
                _ = recording.tick() => record.advance(copied, self.session, self.publisher).await?,
                ended = tasks.join_next() => match ended {
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => return Err(end(tasks, error).await),
                    Some(Err(_panicked)) => return Err(end(tasks, Error::SnapshotTask).await),
                    None => return Ok(()),
                },
            }
        }
    }

    /// The version of a table with room for what a row has.
    async fn widen(&mut self, copied: &Copied, table: usize, beyond: Beyond) -> Result<Arc<Running>, Error> {
        let table = copied.tables.get(table).ok_or(Error::SnapshotTask)?;
        let running = table.running();
        let key = format!("{}{SNAPSHOT_VERSION}", running.relation.oid);
        let place = (key.clone(), self.position());
        let wider = Arc::new(running.admitting(self.session, &mut self.encoder, place, &beyond).await?);
        self.admitted.insert(key, Arc::clone(&wider.relation));
        table.run(Arc::clone(&wider));
        Ok(wider)
    }

    /// The barrier that a new snapshot begins with.
    async fn begin(&mut self, mut members: Vec<Arc<Running>>) -> Result<(), Error> {
        let mut stopped = Vec::new();
        let departed: Vec<_> = if self.beside { Vec::new() } else { self.session.departed.tables().collect() };
        for (topic, relation) in departed {
            let departed = Running::departed(self.session, &mut self.encoder, self.publisher, relation, topic).await?;
            match departed {
                Some(departed) => members.push(departed),
                None => stopped.extend(self.session.departed.label(topic)),
            }
        }
        let event = EventMeta { processed_ns: now_ns(), lsn: self.meta.commit, ..EventMeta::default() };
        let members = members.into_iter().map(|running| (running, event)).collect();
        let barrier = Broadcast { members, stopped, position: self.position(), unit: self.unit };
        let mut scope = self.publisher.enter(None).await;
        barrier.send(&mut scope, self.session, &mut self.encoder, self.publisher, &self.meta).await?;
        scope.done(0);
        Ok(())
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
}

/// Ends what still runs, and gives the error that says the most: where the brokers refuse a topic for good, what else was on its way
/// to them fails too, and which connection hears of which is chance.
async fn end(mut tasks: JoinSet<Result<(), Error>>, mut error: Error) -> Error {
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        if let Ok(Err(other)) = ended
            && error.severity() == Severity::Transient
            && other.severity() != Severity::Transient
        {
            error = other;
        }
    }
    error
}
