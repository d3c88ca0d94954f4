//! Heartbeats at an interval, where they are configured. They belong to no transaction, and no position waits for them.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{Error, publisher::Publisher, session::Session, stream::now_ns};
use crate::{
    event::RecordBuf,
    record::Heartbeat,
    retry::{Backoff, Classify as _, Severity, chain},
};

/// Sends heartbeats until it fails or is dropped. A topic or schemas that are refused for good are no reason to end a capture.
pub(super) async fn run(session: Arc<Session>, publisher: Arc<Publisher>) -> Result<(), Error> {
    match session.settings.heartbeat_interval {
        Some(interval) => match beat(&session, &publisher, interval).await {
            Err(error) if error.severity() == Severity::Transient => Err(error),
            Err(error) => {
                tracing::error!(error = %chain(&error), hint = error.hint(), "no heartbeats are sent");
                std::future::pending().await
            }
            Ok(()) => Ok(()),
        },
        None => std::future::pending().await,
    }
}

async fn beat(session: &Session, publisher: &Publisher, interval: Duration) -> Result<(), Error> {
    let topic = Heartbeat::topic(&session.settings.prefix);
    session.cluster.ensure_heartbeat(&topic).await?;
    let heartbeat = prepare(session).await?;
    let (mut ticker, mut records) = (tokio::time::interval(interval), RecordBuf::default());
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        records.clear();
        heartbeat.encode(now_ns().div_euclid(1_000_000), &mut records);
        publisher.send_apart(&topic, &records).await?;
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
