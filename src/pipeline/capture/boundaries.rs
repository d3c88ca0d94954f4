//! Where transactions begin and end, told in a topic of their own, as Debezium tells it (`provide.transaction.metadata`).
//!
//! What is told depends on the log and on the options alone, so that it is the same whenever a transaction is delivered again:
//! all events of the tables that the globs choose count, also those of a table that is stopped, or left out until a new snapshot
//! takes it in. Its changes are missing in its topic then, and the counts say so: they must hold when the table goes on, for what
//! was told of a transaction once is not told again otherwise.

use std::{collections::HashMap, sync::Arc};

use super::{
    Error, beside,
    publisher::Publisher,
    session::Session,
    topic::Topic,
    transaction::{MESSAGES, Open},
    transactions::Scope,
};
use crate::{
    avro::content::{Content, EmptyTransactions, TotalOrder},
    event::{EventMeta, Op, RecordBuf, RowChange},
    lsn::{Lsn, Position},
    record::{EventCounts, TransactionRecords},
    retry::Backoff,
    schema::TableName,
};

/// Where an end stands in what is delivered exactly once. A window's rows have ordinals that they have once only, so that an end which
/// comes again may have a lower one than what was delivered before it.
const BEHIND_ALL: u64 = u64::MAX - 1;

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
    /// Transaction blocks number what is counted.
    numbers: bool,
    /// A transaction of which nothing counts is told too.
    empty: bool,
    records: RecordBuf,
}

impl Boundaries {
    pub(super) fn new(session: Arc<Session>, publisher: Arc<Publisher>, topic: Option<Arc<Topic>>) -> Self {
        let names = HashMap::from([(MESSAGES, session.settings.encoder.topics.messages().into())]);
        let (counts, records) = (EventCounts::default(), RecordBuf::default());
        let Content { total_order, empty_transactions, .. } = session.settings.encoder.content;
        let numbers = total_order == TotalOrder::Published;
        let empty = empty_transactions == EmptyTransactions::Told;
        Self { session, publisher, topic, writer: None, names, counts, numbers, empty, records }
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

    /// Where the next event of a relation is in its transaction, and what its transaction block numbers it with.
    pub(super) fn next(&self, open: &Open, relation: u32) -> EventMeta {
        let (ordinal, collection_order) = open.next(relation);
        let event = EventMeta { ordinal, total_order: ordinal, collection_order, ..EventMeta::default() };
        self.numbered(event, relation)
    }

    /// The event with what its transaction block numbers it with.
    pub(super) fn numbered(&self, event: EventMeta, relation: u32) -> EventMeta {
        if !self.numbers {
            return event;
        }
        let Some(name) = self.names.get(&relation) else { return event };
        let (total_order, collection_order) = self.counts.next(relation, name);
        EventMeta { total_order, collection_order, ..event }
    }

    /// A change takes so many ordinals of its transaction, and counts with what is published of it, be it now or later: flat
    /// records may have no deletes, and a moved key is one and a create.
    pub(super) async fn took(
        &mut self,
        (open, scope): (&mut Open, &mut Scope),
        relation: u32,
        change: &RowChange,
        ordinals: u64,
    ) -> Result<(), Error> {
        open.took(relation, ordinals);
        let deletes = u64::from(matches!(change, RowChange::Delete(_)) || ordinals > 1);
        let events = if self.records_have(Op::Delete) { ordinals } else { ordinals - deletes };
        self.count((open, scope), relation, events).await
    }

    /// A truncate is one event of each of its tables.
    pub(super) async fn truncated(&mut self, (open, scope): (&Open, &mut Scope), relation: u32) -> Result<(), Error> {
        self.count((open, scope), relation, u64::from(self.records_have(Op::Truncate))).await
    }

    /// A logical message is one event.
    pub(super) async fn said(&mut self, open: &Open, scope: &mut Scope) -> Result<(), Error> {
        self.count((open, scope), MESSAGES, 1).await
    }

    fn records_have(&self, op: Op) -> bool {
        self.session.settings.encoder.have(op)
    }

    /// So many events of a relation come next: before the first one of its transaction, that begins.
    async fn count(&mut self, (open, scope): (&Open, &mut Scope), relation: u32, events: u64) -> Result<(), Error> {
        if !self.numbers && self.topic.is_none() {
            return Ok(());
        }
        let Some(name) = self.names.get(&relation) else { return Ok(()) };
        let is_first = self.counts.is_empty();
        self.counts.add(relation, name, events);
        if is_first && !self.counts.is_empty() { self.send(open, scope, (0, open.first)).await } else { Ok(()) }
    }

    /// All events of the transaction are sent; it ends before this LSN.
    pub(super) async fn end(&mut self, open: &Open, end: Lsn) -> Result<(), Error> {
        let ordinal = open.ordinal + 1;
        let mut scope = self.publisher.enter(Some(open.position(BEHIND_ALL))).await;
        let told = self.tell_end(open, &mut scope, (ordinal, end)).await;
        self.counts.clear();
        if told.is_ok() {
            scope.done(BEHIND_ALL);
        }
        told
    }

    /// Waits for what begins and ends of transactions are written with, before anything of this one is sent.
    pub(super) async fn make_ready(&mut self, open: &Open) -> Result<(), Error> {
        let (Some(topic), None) = (&self.topic, &self.writer) else { return Ok(()) };
        let (settings, name) = (&self.session.settings.encoder, &topic.name);
        let mut backoff = Backoff::new();
        let prepared = loop {
            let prepared = TransactionRecords::prepare(settings, name, &self.session.registry).await;
            if let Some(writer) = self.session.patiently(prepared, &mut backoff).await.transpose() {
                break writer;
            }
        };
        match prepared {
            Ok(writer) => {
                self.writer = Some(writer);
                Ok(())
            }
            Err(error) if error.is_of_one_row() => self.stop(open.position(0), &error).await,
            Err(error) => Err(error),
        }
    }

    async fn stop(&mut self, position: Position, error: &Error) -> Result<(), Error> {
        self.topic = None;
        let name = beside::transactions(&self.session.settings.prefix);
        self.session.stop_table(&name, position, error, &self.publisher).await
    }

    async fn tell_end(&mut self, open: &Open, scope: &mut Scope, (ordinal, end): (u64, Lsn)) -> Result<(), Error> {
        if self.counts.is_empty() {
            if !self.empty {
                return Ok(());
            }
            self.send(open, scope, (0, open.first)).await?;
        }
        self.send(open, scope, (ordinal, end)).await
    }

    /// Sends the record at this ordinal of the transaction. A topic that is refused for good stops alone, as a table does.
    async fn send(&mut self, open: &Open, scope: &mut Scope, (ordinal, lsn): (u64, Lsn)) -> Result<(), Error> {
        let (Some(topic), Some(writer)) = (&self.topic, &mut self.writer) else { return Ok(()) };
        self.records.clear();
        if ordinal == 0 {
            writer.encode_begin(&open.meta, lsn, &mut self.records);
        } else {
            writer.encode_end(&open.meta, (ordinal, lsn), &self.counts, &mut self.records);
        }
        match self.publisher.send(scope, topic, &self.records, open.unit).await {
            Err(error) if error.is_of_one_row() => self.stop(open.position(ordinal), &error).await,
            sent => sent.map(drop),
        }
    }
}
