//! Heartbeats at an interval, where they are configured. They belong to no transaction, and no position waits for them.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{Error, clock::now_ns, publisher::Publisher, session::Session, tables::Tables};
use crate::{
    event::RecordBuf,
    pipeline::health::Health,
    record::Heartbeat,
    retry::{Backoff, Classify as _, Severity, chain},
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
