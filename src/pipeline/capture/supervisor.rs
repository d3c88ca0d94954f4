//! Sessions one after the other: what to do when one ends.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Error, bad_row, heartbeat, in_progress,
    settings::CaptureDeps,
    state::StoppedTable,
    streaming::{self, Ended},
    tables::Tables,
    tuple_format,
};
use crate::{
    kafka,
    lsn::Position,
    record::Heartbeat,
    retry::{Backoff, Classify, Severity, chain},
};

/// Captures until `shutdown` resolves or an error is fatal.
pub async fn run(deps: CaptureDeps, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let token = CancellationToken::new();
    let cancel = token.clone();
    let watcher = tokio::spawn(async move {
        shutdown.await;
        cancel.cancel();
    });
    let outcome = supervise(&deps, &token).await;
    watcher.abort();
    outcome
}

async fn supervise(deps: &CaptureDeps, token: &CancellationToken) -> Result<(), Error> {
    let tables = Arc::new(Tables::default());
    let mut backoff = Backoff::new();
    loop {
        let began = tokio::time::Instant::now();
        let error = match Box::pin(streaming::run(deps, &tables, token)).await {
            Ok(Ended::Cancelled | Ended::SnapshotTaken) => return Ok(()),
            Ok(Ended::OptionsEnd | Ended::Another) => continue,
            Err(error) => error,
        };
        if token.is_cancelled() {
            return Ok(());
        }
        deps.metrics.errors.count(error.severity());
        tuple_format::note(&error, &tables);
        let goes_without = in_progress::note(&error, (deps.settings.streaming, &tables), &deps.health);
        match error.severity() {
            Severity::Fatal if goes_without => {}
            Severity::Fatal => return Err(error),
            Severity::Definite if !stop_by_topic(deps, &tables, &error) => return Err(error),
            Severity::Definite | Severity::Transient => {}
        }
        if began.elapsed() > Duration::from_secs(30) {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::warn!(
            error = %chain(&error),
            hint = error.hint(),
            retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "capture session ended"
        );
        deps.health.retrying(chain(&error));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = token.cancelled() => return Ok(()),
        }
    }
}

/// The brokers refuse a topic for good: its table stops, so that the next session leaves it out and goes on. Where it
/// stopped is unknown, so nothing of it counts as published: the flush LSN stays where it is (PROTOCOL, "Producing without
/// gaps"). Heartbeats end without that, for nothing waits for them, and so do dead letters: the change that one is of comes again.
fn stop_by_topic(deps: &CaptureDeps, tables: &Tables, error: &Error) -> bool {
    let Error::Kafka(kafka::Error::Delivery { topic, .. } | kafka::Error::Produce { topic, .. }) = error else {
        return false;
    };
    if *topic == Heartbeat::topic(&deps.settings.prefix) {
        heartbeat::give_up(tables, &deps.health, error);
        return true;
    }
    if topic == deps.settings.encoder.topics.dead_letters() {
        bad_row::give_up_letters(tables, &deps.health, error);
        return true;
    }
    let Some(table) = tables.of_topic(topic) else { return false };
    let reason = chain(error);
    tracing::error!(table = %table, reason, hint = error.hint(), "table stopped");
    deps.health.stop_table(table.to_string(), reason.clone());
    tables.stop(table, StoppedTable { position: Position::default(), reason, dropped: false, lasting: false });
    true
}
