//! Where transactions begin and end, told in a topic of their own, as Debezium tells it (`provide.transaction.metadata`).
//!
//! What is told depends on the log and on the options alone, so that it is the same whenever a transaction is delivered again:
//! all events of the tables that the globs choose count, also those of a table that is stopped, or left out until a new snapshot
//! takes it in. Its changes are missing in its topic then, and the counts say so: they must hold when the table goes on, for what
//! was told of a transaction once is not told again otherwise.

use std::{collections::HashMap, sync::Arc};

use super::{
    Error, beside,
    publisher::{Publisher, Topic},
    session::Session,
    transaction::{MESSAGES, Open},
};
use crate::{
    event::{Op, RecordBuf, RowChange},
    lsn::Lsn,
    record::{EventCounts, TransactionRecords},
    schema::TableName,
};

/// Tells begins and ends, where they are wanted.
pub(super) struct Boundaries {
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    /// `None` where they are not wanted, or once they have stopped.
    topic: Option<Arc<Topic>>,
    writer: Option<TransactionRecords>,
    /// The collections' names of the relations that count.
    names: HashMap<u32, Arc<str>>,
    /// Of the open transaction.
    counts: EventCounts,
    records: RecordBuf,
}

impl Boundaries {
    pub(super) fn new(session: Arc<Session>, publisher: Arc<Publisher>, topic: Option<Arc<Topic>>) -> Self {
        let names = HashMap::from([(MESSAGES, session.settings.encoder.topics.messages().into())]);
        let (counts, records) = (EventCounts::default(), RecordBuf::default());
        Self { session, publisher, topic, writer: None, names, counts, records }
    }

    /// The relation is called so from now on.
    pub(super) fn announce(&mut self, relation: u32, name: &TableName) {
        self.counts.rename(relation);
        if self.session.settings.publication.tables.matches(name) {
            self.names.insert(relation, name.to_string().into());
        } else {
            self.names.remove(&relation);
        }
    }

    /// A change takes so many ordinals of its transaction, and counts with what is published of it, be it now or later: flat
    /// records may have no deletes, and a moved key is one and a create.
    pub(super) async fn took(
        &mut self,
        open: &mut Open,
        relation: u32,
        (change, lsn): (&RowChange, Lsn),
        ordinals: u64,
    ) -> Result<(), Error> {
        open.took(relation, ordinals);
        let deletes = u64::from(matches!(change, RowChange::Delete(_)) || ordinals > 1);
        let events = if self.records_have(Op::Delete) { ordinals } else { ordinals - deletes };
        self.count(open, lsn, relation, events).await
    }

    /// A truncate is one event of each of its tables.
    pub(super) async fn truncated(&mut self, open: &Open, lsn: Lsn, relation: u32) -> Result<(), Error> {
        self.count(open, lsn, relation, u64::from(self.records_have(Op::Truncate))).await
    }

    /// A logical message is one event.
    pub(super) async fn said(&mut self, open: &Open, lsn: Lsn) -> Result<(), Error> {
        self.count(open, lsn, MESSAGES, 1).await
    }

    fn records_have(&self, op: Op) -> bool {
        self.session.settings.encoder.have(op)
    }

    /// So many events of a relation come next, from this LSN on: before the first one of its transaction, that begins.
    async fn count(&mut self, open: &Open, lsn: Lsn, relation: u32, events: u64) -> Result<(), Error> {
        let Some(name) = self.topic.as_ref().and_then(|_| self.names.get(&relation)) else { return Ok(()) };
        let is_first = self.counts.is_empty();
        self.counts.add(relation, name, events);
        if is_first && !self.counts.is_empty() { self.send(open, (0, lsn)).await } else { Ok(()) }
    }

    /// All events of the transaction are sent; it ends before this LSN.
    pub(super) async fn end(&mut self, open: &Open, end: Lsn) -> Result<(), Error> {
        let told = if self.topic.is_some() && !self.counts.is_empty() {
            self.send(open, (open.ordinal + 1, end)).await
        } else {
            Ok(())
        };
        self.counts.clear();
        told
    }

    /// Sends the record at this ordinal of the transaction. A topic that is refused for good stops alone, as a table does.
    async fn send(&mut self, open: &Open, (ordinal, lsn): (u64, Lsn)) -> Result<(), Error> {
        match self.publish(open, (ordinal, lsn)).await {
            Err(error) if error.is_of_one_row() => {
                self.topic = None;
                let name = beside::transactions(&self.session.settings.prefix);
                self.session.stop_table(&name, open.position(ordinal), &error, &self.publisher).await
            }
            sent => sent,
        }
    }

    async fn publish(&mut self, open: &Open, (ordinal, lsn): (u64, Lsn)) -> Result<(), Error> {
        let Some(topic) = &self.topic else { return Ok(()) };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            absent => {
                let (settings, name) = (&self.session.settings.encoder, &topic.name);
                let prepared = self
                    .session
                    .patiently(async |registry| TransactionRecords::prepare(settings, name, registry).await);
                absent.insert(prepared.await?)
            }
        };
        self.records.clear();
        if ordinal == 0 {
            writer.encode_begin(&open.meta, lsn, &mut self.records);
        } else {
            writer.encode_end(&open.meta, (ordinal, lsn), &self.counts, &mut self.records);
        }
        self.publisher.send(topic, &self.records, open.unit).await
    }
}
