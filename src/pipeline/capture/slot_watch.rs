//! The replication slot, read at intervals: its positions for the metrics, and whether it is there at all. Nobody tells a
//! snapshot that its slot is gone, and a stream may hear of it late (trap T13).

use std::time::Duration;

use super::{Error, publisher::Publisher, session::Session, settings::CaptureSettings, slot_holders};
use crate::{
    lsn::Lsn,
    pipeline::metrics::lsn_value,
    postgres,
    retry::{Classify as _, Severity},
    source::{
        connection::{ReplicationConnection, ReplicationStream, StreamOptions},
        slot::{self, SlotState, SlotVerdict},
    },
};

const INTERVAL: Duration = Duration::from_secs(5);

/// Reads the slot until the server does not have it any longer, has invalidated it, or does not answer; tells what holds it meanwhile.
pub(super) async fn until_lost(session: &Session, publisher: Option<&Publisher>) -> Error {
    tokio::select! {
        lost = until_gone(session) => lost,
        never = slot_holders::watch(session, publisher) => match never {},
    }
}

async fn until_gone(session: &Session) -> Error {
    loop {
        tokio::time::sleep(INTERVAL).await;
        match look(&session.client, &session.settings).await {
            Ok(slot) => {
                session.metrics.confirmed.set(slot.confirmed_flush.map_or(0, lsn_value));
                session.metrics.restart.set(slot.restart_lsn.map_or(0, lsn_value));
                session.metrics.slot_retained.set(slot.retained_bytes.unwrap_or(0));
                session.metrics.slot_safe.set(slot.safe_wal_size.unwrap_or(-1));
                session.metrics.slot_xmin_age.set(slot.xmin_age.map_or(0, i64::from));
            }
            Err(error) => return error,
        }
    }
}

/// Reads the slot once; an error if it is lost.
pub(super) async fn look(client: &postgres::Client, settings: &CaptureSettings) -> Result<SlotState, Error> {
    let found = slot::read(client, &settings.slot).await?;
    let lost = |reason| Error::SlotGone { slot: settings.slot.clone(), reason };
    match (slot::assess(found.as_ref(), &settings.source.database, None), found) {
        (SlotVerdict::Lost { reason }, _) => Err(lost(reason)),
        (_, Some(slot)) => Ok(slot),
        (_, None) => Err(lost("it was dropped".to_owned())),
    }
}

/// A slot that was lost since it was looked at is told as that: the next session decides what it means.
pub(super) async fn start_stream(
    settings: &CaptureSettings,
    client: &postgres::Client,
    publication: &str,
    (replication, options): (ReplicationConnection, StreamOptions),
    at: Lsn,
) -> Result<ReplicationStream, Error> {
    match replication.start_replication(&settings.slot, at, &[publication], options).await {
        Ok(stream) => Ok(stream),
        Err(error) if error.severity() == Severity::Fatal => {
            look(client, settings).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}
