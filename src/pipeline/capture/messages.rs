//! Logical messages on their way to their topic. What stops them stops nothing else.

use std::sync::Arc;

use super::{Error, beside, publisher::Publisher, session::Session, topic::Topic, transactions::Scope};
use crate::{
    event::{EventMeta, RecordBuf, TransactionMeta},
    lsn::Position,
    pipeline::ack::Sequence,
    record::{Encoder, LogicalMessage, MessagePlan},
    retry::Backoff,
};

/// Publishes logical messages.
pub(super) struct Messages {
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    /// `None` once they have stopped.
    topic: Option<Arc<Topic>>,
    plan: Option<Arc<MessagePlan>>,
    records: RecordBuf,
}

impl Messages {
    pub(super) fn new(session: Arc<Session>, publisher: Arc<Publisher>, topic: Option<Arc<Topic>>) -> Self {
        Self { session, publisher, topic, plan: None, records: RecordBuf::default() }
    }

    pub(super) const fn are_stopped(&self) -> bool {
        self.topic.is_none()
    }

    /// Publishes a message as a record of the unit, unless messages have stopped.
    pub(super) async fn publish(
        &mut self,
        message: &LogicalMessage<'_>,
        (meta, event): (&TransactionMeta, EventMeta),
        (unit, scope): (Sequence, &mut Scope),
        encoder: &mut Encoder,
    ) -> Result<(), Error> {
        let (Some(topic), Some(plan)) = (self.topic.clone(), self.plan.clone()) else { return Ok(()) };
        self.records.clear();
        encoder.encode_message(&plan, meta, event, message, &mut self.records);
        let sent = self.publisher.send(scope, &topic, &self.records, unit).await;
        // The next one may never come.
        self.records.clear();
        match sent {
            Err(error) if error.is_of_one_row() => {
                let position = Position { epoch: meta.epoch, commit: meta.commit, ordinal: event.ordinal };
                self.stop(position, &error).await
            }
            sent => sent.map(drop),
        }
    }

    /// Waits for what messages are written with, before anything of the one at this position is sent.
    pub(super) async fn make_ready(&mut self, position: Position, encoder: &mut Encoder) -> Result<(), Error> {
        if self.topic.is_none() {
            return Ok(());
        }
        match self.plan(encoder).await {
            Err(error) if error.is_of_one_row() || error.is_of_keys() => self.stop(position, &error).await,
            ready => ready.map(drop),
        }
    }

    async fn stop(&mut self, position: Position, error: &Error) -> Result<(), Error> {
        self.topic = None;
        let name = beside::messages(&self.session.settings.prefix);
        self.session.stop_table(&name, position, error, &self.publisher).await
    }

    async fn plan(&mut self, encoder: &mut Encoder) -> Result<Arc<MessagePlan>, Error> {
        if let Some(plan) = &self.plan {
            return Ok(Arc::clone(plan));
        }
        let mut backoff = Backoff::new();
        let plan = loop {
            let prepared = encoder.prepare_messages(&self.session.registry).await;
            if let Some(plan) = self.session.patiently(prepared, &mut backoff).await? {
                break plan;
            }
        };
        let kept = self.session.key_form(plan.topic()).await;
        let name = beside::messages(&self.session.settings.prefix);
        self.session.keep_key_form(&name, plan.topic(), plan.key_form(), kept).await?;
        Ok(Arc::clone(self.plan.insert(plan)))
    }
}
