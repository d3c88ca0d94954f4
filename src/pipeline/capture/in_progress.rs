//! Whether the server is asked to send transactions that are in progress, and when again after they could not be kept.
//!
//! It is asked for where the configuration wants it; the stream keeps them in its spool until they commit, so events are the same either way. Where the
//! spool cannot be made the session goes without. Where it fails, or is full of open transactions, waiting would be for ever
//! (trap T80): the session ends, and the next ones go without, so the server keeps large transactions itself. That lasts until
//! those that were open have ended and are published; then a session ends between two transactions, and the next one asks again.
//!
//! The same holds where the server fails at a change whose publication was not there: it would fail anew as long as the
//! transaction is open, for it looks at changes of open transactions at once.

use std::time::Duration;

use super::{
    Error,
    session::Session,
    settings::{CaptureDeps, OriginFilter},
    tables::Tables,
};
use crate::{
    pipeline::health::Health,
    postgres,
    retry::chain,
    source::{
        self,
        connection::{StreamOptions, Streaming},
        xids,
    },
};

/// The first server version that sends transactions in progress.
const SINCE: u32 = 140_000;
/// The first one that tells where an abort is.
const TELLS_ABORTS: u32 = 160_000;
/// The first one that leaves out what has an origin; of others the stream leaves it out.
const FILTERS_ORIGINS: u32 = 160_000;
/// How often the server is asked whether the transactions have ended.
const INTERVAL: Duration = Duration::from_secs(1);
/// How a note of health begins.
const NOTE: &str = "the server keeps large transactions until they commit: ";

/// Adds to the options of a stream whether transactions are sent in progress.
pub(super) fn with_streaming(
    options: StreamOptions,
    deps: &CaptureDeps,
    client: &postgres::Client,
    tables: &Tables,
) -> StreamOptions {
    let CaptureDeps { settings, health, metrics } = deps;
    let version = client.server_version();
    metrics.streaming.set(0);
    let local_only = settings.origin == OriginFilter::None && version >= FILTERS_ORIGINS;
    let options = StreamOptions { local_only, ..options };
    if !settings.streaming || version < SINCE {
        return options;
    }
    if let Some(reason) = tables.why_not_streamed() {
        tracing::info!(reason, "transactions are not asked for before they commit");
        return options;
    }
    if let Err(error) = settings.stream.spool.probe() {
        let reason = chain(&error);
        tracing::warn!(reason, "transactions are not asked for before they commit");
        tell(health, Some(&reason));
        return options;
    }
    tell(health, None);
    metrics.streaming.set(1);
    if version < TELLS_ABORTS {
        StreamOptions { protocol: 2, streaming: Streaming::On, ..options }
    } else {
        StreamOptions { protocol: 4, streaming: Streaming::Parallel, ..options }
    }
}

/// Notes what a session ended with: after transactions that could not be kept, or were looked at too early, the next ones go
/// without.
pub(super) fn note(error: &Error, tables: &Tables, health: &Health) {
    let source = match error {
        Error::Source(source) => source,
        Error::YoungPublication { source, .. } => source,
        _ => return,
    };
    let (source::Error::Spool { open, .. } | source::Error::PublicationAbsent { open, .. }) = source else { return };
    if !open.is_empty() {
        let reason = chain(source);
        tell(health, Some(&reason));
        tables.stop_streaming(open.clone(), reason);
    }
}

/// Waits until the transactions that could not be kept have ended and are published; for ever where there were none.
pub(super) async fn until_possible(session: &Session) -> Result<(), Error> {
    let Some(mut open) = session.tables.not_streamed() else { return std::future::pending().await };
    loop {
        let oldest = xids::oldest_running(&session.client).await?;
        open.retain(|xid| !xids::precedes(*xid, oldest));
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    let end = source::wal::flushed(&session.client).await?;
    while session.position.flushed() < end {
        tokio::time::sleep(INTERVAL).await;
    }
    session.tables.resume_streaming();
    tracing::info!("transactions are asked for before they commit again");
    Ok(())
}

fn tell(health: &Health, reason: Option<&str>) {
    health.forget_notes(NOTE);
    if let Some(reason) = reason {
        health.note(format!("{NOTE}{reason}"));
    }
}
