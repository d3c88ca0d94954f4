//! The signal topic: whose records ask something of capture, as with Debezium (its manual, "Kafka signaling channel").
//!
//! A record with the topic prefix as its key is handed on by the source's log ([`SignalRecord`]), so that it has a place among the changes
//! and is followed where the stream comes there. Only the stream tells how far the topic was followed ([`Followed`]): what was handed on
//! and has not come from there yet is handed on again by the next session.

use std::sync::Arc;

use super::{Error, followed::Followed, session::Session, signals::MOST_BYTES, state::Update, topics::SignalSource};
use crate::{
    kafka::{PartitionReader, PartitionRecord},
    lsn::Position,
    retry::{Backoff, Classify, chain},
    source::signal::{self, SignalError, SignalRecord},
};

/// What notes of the status page begin with that tell of it.
const NOTE: &str = "signal topic ";

/// Why its records are not handed on for now.
#[derive(Debug, thiserror::Error)]
enum Hindrance {
    #[error(transparent)]
    Capture(#[from] Error),
    #[error(transparent)]
    Source(#[from] SignalError),
    #[error("it has {0} partitions: signals have an order in a single one alone")]
    Partitions(i32),
}

impl Hindrance {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Capture(error) => error.hint(),
            Self::Source(error) => error.hint(),
            Self::Partitions(_) => Some("Name another topic in capture.signal_topic, or create it anew.".to_owned()),
        }
    }
}

/// Hands records on until it is dropped. Nothing else waits for them, so what keeps it from that is told and tried again.
pub(super) async fn run(session: Arc<Session>) -> Result<(), Error> {
    let Some(topic) = session.settings.signal_topic.clone() else {
        if session.signals.get().is_some() {
            // Else whoever configures it again later would have what came meanwhile followed.
            session.position.record(&[Update::Followed(None)]).await?;
        }
        return std::future::pending().await;
    };
    let (mut backoff, mut told) = (Backoff::new(), None);
    loop {
        let Err(error) = hand_on(&session, &topic, (&mut backoff, &mut told)).await;
        let reason = chain(&error);
        if told.as_ref() != Some(&reason) {
            tracing::warn!(
                topic,
                error = reason,
                hint = error.hint(),
                "records of the signal topic are not followed for now"
            );
            session.health.forget_notes(NOTE);
            session.health.note(format!("{NOTE}{topic} is not followed for now: {reason}"));
            told = Some(reason);
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn hand_on(
    session: &Session,
    topic: &str,
    (backoff, told): (&mut Backoff, &mut Option<String>),
) -> Result<std::convert::Infallible, Hindrance> {
    signal::must_be_taken(&session.client).await?;
    let source = session.cluster.signals(topic).await?;
    if source.partitions != 1 {
        return Err(Hindrance::Partitions(source.partitions));
    }
    let from = begin(session, topic, &source).await?;
    let reader = PartitionReader::new(&session.settings.kafka, topic, 0, from).map_err(Error::from)?;
    tracing::info!(topic, from, "following the signal topic");
    if told.take().is_some() {
        session.health.forget_notes(NOTE);
    }
    loop {
        let record = reader.next().await.map_err(Error::from)?;
        backoff.reset();
        if record.key.as_deref() != Some(session.settings.prefix.as_bytes()) {
            tracing::debug!(topic, offset = record.offset, "a record of the signal topic is for another prefix");
            continue;
        }
        let record = handed_on(session, topic, &source, record);
        let lsn = signal::hand_on(&session.client, &record).await?;
        tracing::info!(topic, offset = record.offset, %lsn, "a record of the signal topic is in the source's log");
    }
}

/// Where to begin: behind what was followed, or at the end where nothing is known of the topic. That is recorded, so that what comes while
/// capture is down is followed.
async fn begin(session: &Session, topic: &str, source: &SignalSource) -> Result<i64, Error> {
    let (id, at) = (source.id.clone(), Position::default());
    match session.signals.get() {
        Some(known) if known.is_of(topic, id.as_deref()) && known.next <= source.end => {
            return Ok(known.next.max(source.first));
        }
        // It was created anew: whatever is in it came later.
        Some(known) if known.topic == topic => return Ok(source.first),
        Some(_) | None => {}
    }
    let followed = Followed { topic: topic.to_owned(), id, next: source.end, at };
    session.position.record(&[Update::Followed(Some(followed.clone()))]).await?;
    session.signals.set(followed);
    Ok(source.end)
}

fn handed_on(session: &Session, topic: &str, source: &SignalSource, record: PartitionRecord) -> SignalRecord {
    let text = record.value.and_then(|value| String::from_utf8(value.to_vec()).ok());
    SignalRecord {
        slot: session.settings.slot.clone(),
        topic: topic.to_owned(),
        id: source.id.clone(),
        offset: record.offset,
        // With what stands around it, it has to be a message that is taken.
        value: text.filter(|text| text.escape_default().count() < MOST_BYTES / 2),
    }
}
