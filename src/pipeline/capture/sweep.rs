//! The end of a resync on its way to all partitions: a barrier, at which the sinks delete what the source does not have.
//!
//! It is recorded as open before its first copy, as a TRUNCATE is ([`super::barrier`]), and so is where the resync ends: a half broadcast
//! is repeated by the replay, at the same position. A table that is captured no longer gets its copies all the same.

use std::collections::BTreeMap;

use super::{Error, publisher::Publisher, resync::Run, session::Session, state::OpenBarrier, transactions::Scope};
use crate::{
    event::{Barrier, RecordBuf, Sweep},
    lsn::Position,
    pipeline::ack::Sequence,
    record::Encoder,
};

/// Sends the end of `run`, which stands at `position`.
pub(super) async fn broadcast(
    (scope, unit): (&mut Scope, Sequence),
    session: &Session,
    (encoder, publisher): (&mut Encoder, &Publisher),
    (run, position): (&Run, Position),
) -> Result<(), Error> {
    session.position.record_current(|| session.resyncs.updates(&[run.begin])).await?;
    let sweep = sweep(session, publisher, run).await?;
    if sweep.barrier.topics.is_empty() && sweep.barrier.stopped.is_empty() {
        tracing::info!(resync = run.name(), %position, "the resync ends");
        return Ok(());
    }
    let topics = sweep.barrier.topics.clone();
    session.open_barrier(OpenBarrier { position, topics: topics.clone() }, BTreeMap::new()).await?;
    let mut records = RecordBuf::default();
    for (name, partitions) in topics {
        let Some(topic) = publisher.topic(&name) else { continue };
        for partition in 0..partitions {
            records.clear();
            encoder.encode_sweep(position, &sweep, partition, &mut records);
            publisher.send(scope, &topic, &records, unit).await?;
        }
    }
    tracing::info!(resync = run.name(), %position, "the resync ends: rows that the source does not have go at the sinks");
    Ok(())
}

/// What the end says. A table that has stopped since it was whole gets its copies when capture goes on with it.
async fn sweep(session: &Session, publisher: &Publisher, run: &Run) -> Result<Sweep, Error> {
    let mut sweep =
        Sweep { resync: run.resync(), barrier: Barrier::default(), rows: BTreeMap::new(), conditions: BTreeMap::new() };
    for member in run.tables.iter().filter(|member| member.is_in() && !member.copies) {
        let topic = &member.topic;
        if session.tables.is_stopped(&member.name) {
            sweep.barrier.stopped.extend(session.tables.topic_of(&member.name));
            continue;
        }
        let Some(known) = publisher.topic(topic) else {
            session.lose(&member.name, topic, publisher.refusal(topic)).await?;
            sweep.barrier.stopped.extend(session.departed.label(topic));
            continue;
        };
        sweep.barrier.topics.push(known.label());
        sweep.rows.extend(member.published().map(|rows| (topic.clone(), rows)));
        if !member.conditions.is_empty() {
            sweep.conditions.insert(topic.clone(), member.conditions.clone());
        }
    }
    sweep.barrier.topics.sort();
    sweep.barrier.stopped.sort();
    Ok(sweep)
}
