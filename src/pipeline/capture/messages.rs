//! Logical messages on their way to their topic. What stops them stops nothing else.

use std::sync::Arc;

use super::{
    Error, beside,
    publisher::{Publisher, Topic},
    session::Session,
};
use crate::{
    event::{EventMeta, RecordBuf, TransactionMeta},
    lsn::Position,
    pipeline::ack::Sequence,
    record::{Encoder, LogicalMessage, MessagePlan},
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
        unit: Sequence,
        encoder: &mut Encoder,
    ) -> Result<(), Error> {
        let Some(topic) = self.topic.clone() else { return Ok(()) };
        let sent = match self.plan(encoder).await {
            Ok(plan) => {
                self.records.clear();
                encoder.encode_message(&plan, meta, event, message, &mut self.records);
                self.publisher.send(&topic, &self.records, unit).await
            }
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if error.is_of_one_row() || error.is_of_keys() => {
                self.topic = None;
                let position = Position { epoch: meta.epoch, commit: meta.commit, ordinal: event.ordinal };
                let name = beside::messages(&self.session.settings.prefix);
                self.session.stop_table(&name, position, &error, &self.publisher).await
            }
            sent => sent,
        }
    }

    async fn plan(&mut self, encoder: &mut Encoder) -> Result<Arc<MessagePlan>, Error> {
        if let Some(plan) = &self.plan {
            return Ok(Arc::clone(plan));
        }
        let plan = self.session.patiently(async |registry| encoder.prepare_messages(registry).await).await?;
        let kept = self.session.key_form(plan.topic()).await;
        let name = beside::messages(&self.session.settings.prefix);
        self.session.keep_key_form(&name, plan.topic(), plan.key_form(), kept).await?;
        Ok(Arc::clone(self.plan.insert(plan)))
    }
}
