//! Whether the server will keep the log until a snapshot is through (trap T13).
//!
//! The stream begins behind the snapshot, at a position that the server keeps log for from now on, and with
//! `max_slot_wal_keep_size` it keeps so much and no more. How much will be written meanwhile nobody knows. What the tables occupy,
//! out-of-line values included, is taken for a bound: others would have to write faster than the snapshot reads to exceed it.

use super::{Error, session::Session, settings::SnapshotGuard};
use crate::{retry::Classify as _, source::slot};

/// Compares what the slot may keep with the size of the tables, in bytes. An error where the operator wants one.
pub(super) async fn check(session: &Session, expected: u64) -> Result<(), Error> {
    let settings = &session.settings;
    if settings.snapshot_guard == SnapshotGuard::Off {
        return Ok(());
    }
    let found = slot::read(&session.client, &settings.slot).await?;
    let Some(safe) = found.and_then(|slot| slot.safe_wal_size) else { return Ok(()) };
    let safe = u64::try_from(safe).unwrap_or(0);
    if safe >= expected {
        return Ok(());
    }
    let error = Error::LittleWal { slot: settings.slot.clone(), safe, expected };
    if settings.snapshot_guard == SnapshotGuard::Stop {
        return Err(error);
    }
    tracing::warn!(hint = error.hint(), "{error}");
    Ok(())
}
