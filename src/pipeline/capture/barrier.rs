//! Barriers: records that every partition of every listed topic carries at one position.
//!
//! A TRUNCATE is one, and so is the begin of a new snapshot over what was published before. The sink applies it once all
//! partitions have come to it (PROTOCOL, "Barriers"; trap T32). The barrier is in the state before its first copy, and its
//! unit of work is acknowledged when all copies are, so a half broadcast is always repeated by the replay. Under exactly-once delivery
//! all copies lie in one Kafka transaction, and there is no half.

use std::sync::Arc;

use super::{
    Error,
    publisher::Publisher,
    routes::Running,
    session::Session,
    settings::CaptureSettings,
    state::{OpenBarrier, State},
    transactions::Scope,
};
use crate::{
    avro::content::Truncates,
    event::{Barrier, EventMeta, Op, RecordBuf, TransactionMeta},
    lsn::{Lsn, Position},
    pipeline::ack::Sequence,
    record::Encoder,
};

/// One barrier on its way.
pub(super) struct Broadcast {
    /// The tables, each with its event.
    pub(super) members: Vec<(Arc<Running>, EventMeta)>,
    /// Topics of stopped tables of the statement: a sink may be unable to empty another one without them.
    pub(super) stopped: Vec<(String, i32)>,
    /// The position of every copy.
    pub(super) position: Position,
    /// The unit of work that the copies belong to.
    pub(super) unit: Sequence,
}

impl Broadcast {
    /// Records the barrier, then sends it to all partitions of all members' topics. A TRUNCATE that consumers want as Debezium's
    /// single records is a barrier where every topic has one partition; else its records do not say which copies it has.
    pub(super) async fn send(
        self,
        scope: &mut Scope,
        session: &Session,
        encoder: &mut Encoder,
        publisher: &Publisher,
        transaction: &TransactionMeta,
    ) -> Result<(), Error> {
        let settings = &session.settings.encoder;
        let is_truncate = self.position.ordinal > 0;
        if self.members.is_empty() || is_truncate && !settings.have(Op::Truncate) {
            return Ok(());
        }
        let is_single = is_truncate && settings.content.truncates == Truncates::Single;
        if is_single && self.members.iter().any(|(running, _)| running.topic.partitions > 1) {
            return self.send_copies(scope, (1, None), encoder, publisher, transaction).await;
        }
        let topics = self.members.iter().map(|(running, _)| running.topic.label());
        let barrier = Barrier { topics: sorted(topics), stopped: sorted(self.stopped.iter().cloned()) };
        let open = OpenBarrier { position: self.position, topics: barrier.topics.clone() };
        let forms = self.members.iter().map(|(running, _)| (running.topic.name.to_string(), running.plan.key_form()));
        session.open_barrier(open, forms.collect()).await?;
        self.send_copies(scope, (i32::MAX, Some(&barrier)), encoder, publisher, transaction).await
    }

    /// Sends the records to the first partitions of each topic.
    async fn send_copies(
        &self,
        scope: &mut Scope,
        (most, barrier): (i32, Option<&Barrier>),
        encoder: &mut Encoder,
        publisher: &Publisher,
        transaction: &TransactionMeta,
    ) -> Result<(), Error> {
        let mut records = RecordBuf::default();
        for (running, event) in &self.members {
            let mut sent = false;
            for partition in 0..running.topic.partitions.min(most) {
                records.clear();
                encoder.encode_truncate(&running.plan, transaction, *event, barrier, partition, &mut records);
                sent |= publisher.send(scope, &running.topic, &records, self.unit).await?;
            }
            if sent {
                running.metrics.events(Op::Truncate).inc();
            }
        }
        Ok(())
    }
}

/// A statement that was sent by half is in no log any more. The begin of a new snapshot sets free what waits for it, and where
/// none is to be taken nothing would.
pub(super) fn check_barriers(settings: &CaptureSettings, state: &State) -> Result<(), Error> {
    match state.barriers.first().filter(|_| !settings.snapshot.copies()) {
        Some(OpenBarrier { position, topics }) => {
            let topics = topics.iter().map(|(topic, _)| topic.clone()).collect();
            Err(Error::HalfWithoutSnapshot { position: *position, topics })
        }
        None => Ok(()),
    }
}

/// A statement that was sent by half below the slot's position is in no log any more, and sinks wait for the rest of it.
pub(super) fn check_skipped(state: &State, at: Lsn) -> Result<(), Error> {
    match state.barriers.iter().find(|barrier| barrier.position.commit < at) {
        Some(OpenBarrier { position, topics }) => {
            let topics = topics.iter().map(|(topic, _)| topic.clone()).collect();
            Err(Error::HalfWithoutSnapshot { position: *position, topics })
        }
        None => Ok(()),
    }
}

/// Topics with their partition counts, sorted.
fn sorted(topics: impl Iterator<Item = (String, i32)>) -> Vec<(String, i32)> {
    let mut topics: Vec<_> = topics.collect();
    topics.sort();
    topics
}
