//! Heartbeats at an interval, where they are configured: in a topic, where they belong to no transaction, and no position waits for them; and in
//! the source's log, which needs no table (trap T11).

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{Error, clock::now_ns, publisher::Publisher, session::Session, tables::Tables};
use crate::{
    event::RecordBuf,
    pipeline::health::Health,
    record::Heartbeat,
    retry::{Backoff, Classify as _, Severity, chain},
    source::signal,
};

/// Sends heartbeats until it fails or is dropped. A topic or schemas that are refused for good are no reason to end a capture.
/// What fails in sending may be any record's delivery: the session ends, and who is at fault is told from the error.
pub(super) async fn run(session: Arc<Session>, publisher: Arc<Publisher>) -> Result<(), Error> {
    let interval = session.settings.heartbeat_interval.filter(|_| !session.tables.are_heartbeats_refused());
    let Some(interval) = interval else { return std::future::pending().await };
    let topic = Heartbeat::topic(&session.settings.prefix);
    match ready(&session, &topic).await {
        Ok(heartbeat) => beat(&heartbeat, &topic, &publisher, interval).await,
        Err(error) if error.severity() == Severity::Transient => Err(error),
        Err(error) => {
            give_up(&session.tables, &session.health, &error);
            std::future::pending().await
        }
    }
}

/// Writes heartbeats into the source's log until it is dropped. Who needs the connection tells of its errors.
pub(super) async fn run_at_source(session: Arc<Session>) -> Result<(), Error> {
    let Some(interval) = session.settings.source_heartbeat_interval else { return std::future::pending().await };
    session.health.forget_notes(UNWRITTEN);
    if let Err(error) = signal::must_be_taken(&session.client).await {
        if error.severity() != Severity::Transient {
            let reason = chain(&error);
            tracing::error!(error = %reason, hint = error.hint(), "no heartbeats are written at the source");
            session.health.note(format!("{UNWRITTEN}{reason}"));
        }
        return std::future::pending().await;
    }
    let mut ticker = tokio::time::interval(interval);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        if let Err(error) = signal::beat(&session.client, &session.settings.slot).await {
            tracing::debug!(error = %chain(&error), "no heartbeat is written at the source");
        }
    }
}

/// How a note begins where there are none at the source.
const UNWRITTEN: &str = "no heartbeats are written at the source: ";

/// The sessions of this process send no heartbeats from now on.
pub(super) fn give_up(tables: &Tables, health: &Health, error: &Error) {
    let reason = chain(error);
    tracing::error!(error = %reason, hint = error.hint(), "no heartbeats are sent");
    health.note(format!("no heartbeats are sent: {reason}"));
    tables.refuse_heartbeats();
}

async fn ready(session: &Session, topic: &str) -> Result<Heartbeat, Error> {
    session.cluster.ensure_heartbeat(topic).await?;
    prepare(session).await
}

async fn beat(heartbeat: &Heartbeat, topic: &str, publisher: &Publisher, interval: Duration) -> Result<(), Error> {
    let (mut ticker, mut records) = (tokio::time::interval(interval), RecordBuf::default());
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        records.clear();
        heartbeat.encode(now_ns().div_euclid(1_000_000), &mut records);
        publisher.send_apart(topic, &records).await?;
    }
}

/// Waits for the registry: the rest of capture needs it for itself, and tells so there.
async fn prepare(session: &Session) -> Result<Heartbeat, Error> {
    let mut backoff = Backoff::new();
    loop {
        match Heartbeat::prepare(&session.settings.encoder, &session.registry).await {
            Err(error) if error.severity() == Severity::Transient => {
                tracing::debug!(error = %chain(&error), "heartbeats wait for the schema registry");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            prepared => return Ok(prepared?),
        }
    }
}
