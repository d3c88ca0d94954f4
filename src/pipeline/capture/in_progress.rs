//! Whether the server is asked to send transactions that are in progress, and when again after they could not be kept.
//!
//! It is asked for where the configuration wants it; the stream keeps them in its spool until they commit, so events are the same either way. Where the
//! spool cannot be made the session goes without. Where it fails, or is full of open transactions, waiting would be for ever
//! (trap T80): the session ends, and the next ones go without, so the server keeps large transactions itself. That lasts until
//! those that were open have ended and are published; then a session ends between two transactions, and the next one asks again.
//!
//! The same holds where the server fails at a change whose publication was not there: it would fail anew as long as the
//! transaction is open, for it looks at changes of open transactions at once. And where it fails in itself (XX000): it may look for a file that
//! a savepoint made which was rolled back, and that comes to no end of its own; so the process goes without from then on.

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
/// SQLSTATE `internal_error`.
const INTERNAL_ERROR: &str = "XX000";
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
/// without. Gives whether an error that would end capture is none without them.
pub(super) fn note(error: &Error, (streaming, tables): (bool, &Tables), health: &Health) -> bool {
    let source = match error {
        Error::Source(source) => source,
        Error::YoungPublication { source, .. } => source,
        _ => return false,
    };
    let is_internal = source.server_error().is_some_and(|said| said.is(INTERNAL_ERROR));
    let open = match source {
        source::Error::Spool { open, .. } | source::Error::PublicationAbsent { open, .. } if !open.is_empty() => open,
        _ if is_internal && streaming && tables.why_not_streamed().is_none() => &Vec::new(),
        _ => return false,
    };
    let reason = chain(source);
    tell(health, Some(&reason));
    tables.stop_streaming(open.clone(), reason);
    is_internal
}

/// Waits until the transactions that could not be kept have ended and are published; for ever where there were none.
pub(super) async fn until_possible(session: &Session) -> Result<(), Error> {
    // Without any it is for good.
    let Some(mut open) = session.tables.not_streamed().filter(|open| !open.is_empty()) else {
        return std::future::pending().await;
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pipeline::health::Half, postgres::ServerError};

    #[test]
    fn an_internal_error_of_the_server_ends_capture_where_it_was_not_asked_for_transactions_in_progress() {
        let failed = |code: &str| {
            let source = Box::new(ServerError::new(code, "could not map filenode"));
            Error::Source(source::Error::Postgres(postgres::Error::Statement { doing: "streaming".into(), source }))
        };
        let (tables, health) = (Tables::default(), Health::new(Half::Capture, Duration::from_secs(9)));
        assert!(!note(&failed("XX000"), (false, &tables), &health));
        assert!(!note(&failed("XX001"), (true, &tables), &health) && tables.why_not_streamed().is_none());
        assert!(note(&failed("XX000"), (true, &tables), &health) && tables.why_not_streamed().is_some());
        assert!(!note(&failed("XX000"), (true, &tables), &health));
    }
}
