//! The replication slot, read at intervals: its positions for the metrics, and whether it is there at all. Nobody tells a
//! snapshot that its slot is gone, and a stream may hear of it late (trap T13).

use std::time::Duration;

use super::{Error, session::Session};
use crate::{
    pipeline::metrics::lsn_value,
    source::slot::{self, SlotVerdict},
};

const INTERVAL: Duration = Duration::from_secs(5);

/// Reads the slot until the server does not have it any longer, has invalidated it, or does not answer.
pub(super) async fn until_lost(session: &Session) -> Error {
    let settings = &session.settings;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let found = match slot::read(&session.client, &settings.slot).await {
            Ok(found) => found,
            Err(error) => return error.into(),
        };
        let lost = |reason| Error::SlotGone { slot: settings.slot.clone(), reason };
        match slot::assess(found.as_ref(), &settings.source.database, None) {
            SlotVerdict::Missing => return lost("it was dropped".to_owned()),
            SlotVerdict::Lost { reason } => return lost(reason),
            _ => {}
        }
        if let Some(slot) = found {
            session.metrics.confirmed.set(slot.confirmed_flush.map_or(0, lsn_value));
            session.metrics.restart.set(slot.restart_lsn.map_or(0, lsn_value));
        }
    }
}
