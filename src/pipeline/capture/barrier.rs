//! Barriers: records that every partition of every listed topic carries at one position.
//!
//! A TRUNCATE is one, and so is the begin of a new snapshot over what was published before. The sink applies it once all
//! partitions have come to it (PROTOCOL, "Barriers"; trap T32). The barrier is in the state before its first copy, and its
//! unit of work is acknowledged when all copies are, so a half broadcast is always repeated by the replay.

use std::sync::Arc;

use super::{Error, publisher::Publisher, routes::Running, session::Session, state::OpenBarrier};
use crate::{
    event::{Barrier, EventMeta, Op, RecordBuf, TransactionMeta},
    lsn::Position,
    pipeline::ack::Sequence,
    record::Encoder,
};

/// One barrier on its way.
pub(super) struct Broadcast {
    /// The tables with the event's order within each.
    pub(super) members: Vec<(Arc<Running>, u64)>,
    /// Topics of stopped tables of the statement: a sink may be unable to empty another one without them.
    pub(super) stopped: Vec<(String, i32)>,
    /// The position of every copy.
    pub(super) position: Position,
    /// What the copies have in common.
    pub(super) event: EventMeta,
    /// The unit of work that the copies belong to.
    pub(super) unit: Sequence,
}

impl Broadcast {
    /// Records the barrier, then sends it to all partitions of all members' topics.
    pub(super) async fn send(
        self,
        session: &Session,
        encoder: &mut Encoder,
        publisher: &Publisher,
        transaction: &TransactionMeta,
    ) -> Result<(), Error> {
        if self.members.is_empty() {
            return Ok(());
        }
        let topics = self.members.iter().map(|(running, _)| running.topic.label());
        let barrier = Barrier { topics: sorted(topics), stopped: sorted(self.stopped.into_iter()) };
        let open = OpenBarrier { position: self.position, topics: barrier.topics.clone() };
        let forms = self.members.iter().map(|(running, _)| (running.topic.name.to_string(), running.plan.key_form()));
        session.open_barrier(open, forms.collect()).await?;
        let mut records = RecordBuf::default();
        for (running, order) in &self.members {
            let event = EventMeta { collection_order: *order, ..self.event };
            for partition in 0..running.topic.partitions {
                records.clear();
                encoder.encode_truncate(&running.plan, transaction, event, &barrier, partition, &mut records);
                publisher.send(&running.topic, &records, self.unit).await?;
            }
            running.metrics.events(Op::Truncate).inc();
        }
        Ok(())
    }
}

/// Topics with their partition counts, sorted.
fn sorted(topics: impl Iterator<Item = (String, i32)>) -> Vec<(String, i32)> {
    let mut topics: Vec<_> = topics.collect();
    topics.sort();
    topics
}
