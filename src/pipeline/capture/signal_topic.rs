//! The signal topic: whose records ask something of capture, as with Debezium (its manual, "Kafka signaling channel").
//!
//! A record with the topic prefix as its key is handed on by the source's log ([`SignalRecord`]), so that it has a place among the changes
//! and is followed where the stream comes there. Only the stream tells how far the topic was followed ([`Followed`]): what was handed on
//! and has not come from there yet is handed on again by the next session.

use std::{convert::Infallible, sync::Arc, time::Duration};

use super::{Error, followed::Followed, session::Session, signals::MOST_BYTES, state::Update, topics::SignalSource};
use crate::{
    kafka::{self, PartitionReader, PartitionRecord},
    retry::{Backoff, Classify, chain},
    source::signal::{self, SignalError, SignalRecord},
};

/// What notes of the status page begin with that tell of it.
const NOTE: &str = "signal topic ";
/// After how long without an error the topic counts as followed.
const QUIET: Duration = Duration::from_secs(5);

/// Why its records are not handed on for now.
#[derive(Debug, thiserror::Error)]
enum Hindrance {
    #[error(transparent)]
    Capture(#[from] Error),
    #[error(transparent)]
    Source(#[from] SignalError),
    #[error("it has {0} partitions: signals have an order in a single one alone")]
    Partitions(i32),
    #[error("it is another topic by now")]
    Replaced,
    /// How far it was followed is not recorded, and the session ends.
    #[error(transparent)]
    Record(Error),
}

impl Hindrance {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Capture(error) | Self::Record(error) => error.hint(),
            Self::Source(error) => error.hint(),
            Self::Partitions(_) => Some("Name another topic in capture.signal_topic, or create it anew.".to_owned()),
            Self::Replaced => None,
        }
    }

    /// Whatever there will be in the topic comes later than this.
    fn is_of_no_topic(&self) -> bool {
        use kafka::Error as Kafka;
        let Self::Capture(Error::Kafka(error)) = self else { return matches!(self, Self::Partitions(_)) };
        matches!(error, Kafka::MissingTopic { .. } | Kafka::Topic { operation: "create", .. })
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
    let mut follower = Follower { session: &session, topic: &topic, backoff: Backoff::new(), told: None };
    loop {
        let Err(error) = follower.hand_on().await;
        if let Hindrance::Record(error) = error {
            return Err(error);
        }
        follower.tell(&error);
        if error.is_of_no_topic() {
            let is_known = |known: Option<&Followed>| known.is_some_and(|known| known.topic == topic);
            note(&session, |known| (!is_known(known)).then(|| Followed::from(&topic, None, 0))).await?;
        }
        tokio::time::sleep(follower.backoff.next_delay()).await;
    }
}

/// Records how far the topic was followed, where that changes.
async fn note(session: &Session, change: impl FnOnce(Option<&Followed>) -> Option<Followed>) -> Result<(), Error> {
    let changed = || session.signals.change(change).map(|followed| Update::Followed(Some(followed)));
    session.position.record_current(|| changed().into_iter().collect()).await
}

struct Follower<'a> {
    session: &'a Session,
    topic: &'a str,
    backoff: Backoff,
    /// Why records are not handed on, as it was told last.
    told: Option<String>,
}

impl Follower<'_> {
    async fn hand_on(&mut self) -> Result<Infallible, Hindrance> {
        let Self { session, topic, .. } = *self;
        let source = session.cluster.signals(topic).await?;
        if source.partitions != 1 {
            return Err(Hindrance::Partitions(source.partitions));
        }
        let from = begin(session, topic, &source).await.map_err(Hindrance::Record)?;
        signal::must_be_taken(&session.client).await?;
        let reader = PartitionReader::new(&session.settings.kafka, topic, 0, from).map_err(Error::from)?;
        let mut is_told = self.told.is_none();
        if is_told {
            tracing::info!(topic, from, "following the signal topic");
        }
        loop {
            let record = tokio::time::timeout(QUIET, reader.next()).await;
            let record = record.ok().transpose().map_err(Error::from)?;
            if let Some(record) = record {
                self.pass(&source, record).await?;
                self.backoff.reset();
            }
            if !is_told {
                is_told = true;
                self.told = None;
                session.health.forget_notes(NOTE);
                tracing::info!(topic, from, "following the signal topic");
            }
        }
    }

    /// Into the log, unless it is for others.
    async fn pass(&self, source: &SignalSource, record: PartitionRecord) -> Result<(), Hindrance> {
        let Self { session, topic, .. } = *self;
        if record.key.as_deref() != Some(session.settings.prefix.as_bytes()) {
            tracing::debug!(topic, offset = record.offset, "a record of the signal topic is for another prefix");
            return Ok(());
        }
        // A reader goes on by offsets, whatever topic has the name by now.
        if session.cluster.id(topic).await? != source.id {
            return Err(Hindrance::Replaced);
        }
        let record = handed_on(session, topic, source, record);
        let lsn = signal::hand_on(&session.client, &record).await?;
        tracing::info!(topic, offset = record.offset, %lsn, "a record of the signal topic is in the source's log");
        Ok(())
    }

    fn tell(&mut self, error: &Hindrance) {
        let (topic, reason) = (self.topic, chain(error));
        if self.told.as_ref() != Some(&reason) {
            let hint = error.hint();
            tracing::warn!(topic, error = reason, hint, "records of the signal topic are not followed for now");
            self.session.health.forget_notes(NOTE);
            self.session.health.note(format!("{NOTE}{topic} is not followed for now: {reason}"));
            self.told = Some(reason);
        }
    }
}

/// Where to begin. That is recorded, so that what comes while capture is down is followed.
async fn begin(session: &Session, topic: &str, source: &SignalSource) -> Result<i64, Error> {
    note(session, |known| Some(begun(known, topic, source))).await?;
    Ok(session.signals.get().map_or(source.end, |followed| followed.next))
}

/// Behind what was followed; at the begin of a topic that came later than capture asked for it; at the end of one of which nothing is
/// known, or that has lost its end.
fn begun(known: Option<&Followed>, topic: &str, source: &SignalSource) -> Followed {
    let SignalSource { id, first, end, is_new, .. } = source;
    match known {
        Some(known) if known.is_of(topic, id.as_deref()) && known.next <= *end => {
            Followed { id: id.clone(), next: known.next.max(*first), ..known.clone() }
        }
        Some(known) if known.topic == topic && id.is_some() && known.id == *id => {
            Followed { next: *end, ..known.clone() }
        }
        Some(known) if known.topic == topic => Followed::from(topic, id.clone(), *first),
        Some(_) | None => Followed::from(topic, id.clone(), if *is_new { *first } else { *end }),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_followed_from_where_it_was_or_from_its_begin_where_it_came_later() {
        let source =
            |id: &str, first, end, is_new| SignalSource { id: Some(id.to_owned()), partitions: 1, is_new, first, end };
        let known = |id: Option<&str>, next| Followed::from("t", id.map(ToOwned::to_owned), next);
        for (known, source, next) in [
            (None, source("a", 0, 9, false), 9),
            (None, source("a", 0, 1, true), 0),
            (Some(known(Some("a"), 7)), source("a", 0, 9, false), 7),
            (Some(known(Some("a"), 7)), source("a", 8, 9, false), 8),
            // It was told to be missing.
            (Some(known(None, 0)), source("a", 0, 3, false), 0),
            (Some(known(Some("a"), 7)), source("b", 0, 9, false), 0),
            // It has lost its end.
            (Some(known(Some("a"), 7)), source("a", 0, 5, false), 5),
        ] {
            let begun = begun(known.as_ref(), "t", &source);
            assert_eq!((begun.next, &begun.id), (next, &source.id), "{known:?}");
        }
        let other = Followed { topic: "other".to_owned(), ..known(None, 3) };
        assert_eq!(begun(Some(&other), "t", &source("a", 0, 9, false)).next, 9);
    }
}
