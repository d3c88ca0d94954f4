//! A second capture of one slot stands by, and takes over when the first one is gone (traps T14, T17).
//!
//! The first one holds an advisory lock through an ordinary connection and, while it streams, the slot itself. A killed process
//! leaves neither behind. Where its host or its network is gone, the server ends the idle one when the peer has been silent for half
//! a minute ([`PINNED`](crate::postgres::session::PINNED)), and the walsender after its own time-out. If the lock is free and a capture's walsender
//! still holds the slot, that capture cannot go on: its session ends with either connection. What it may still have on its way
//! to the state is fenced there.

use std::{collections::BTreeSet, time::Duration};

use super::{Error, settings::CaptureSettings};
use crate::{
    pipeline::health::Health,
    postgres,
    source::{
        self,
        connection::APPLICATION_NAME,
        slot::{self, SlotState},
    },
};

/// How often a stand-by looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a walsender whose capture gave up the lock may take to notice: in good order it ends with its client.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a walsender that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Waits until no other capture has the lock of the slot, and takes it for as long as `client` lives.
pub(super) async fn take_lock(
    client: &postgres::Client,
    settings: &CaptureSettings,
    health: &Health,
) -> Result<(), Error> {
    let slot = &settings.slot;
    let mut stands_by = false;
    while !source::lock::try_lock(client, slot).await? {
        if !std::mem::replace(&mut stands_by, true) {
            tracing::info!(%slot, "another capture works on the slot: standing by");
            health.set_phase("standing by");
            health.waits_for(BTreeSet::from([format!("another capture works on replication slot {slot}")]));
        }
        health.heard();
        tokio::time::sleep(INTERVAL).await;
    }
    if stands_by {
        tracing::info!(%slot, "the other capture is gone: taking over");
        health.set_phase("starting");
        health.waits_for(BTreeSet::new());
    }
    Ok(())
}

/// Reads the slot once the walsender of a capture that has lost the lock is gone. Who has the lock is to call it.
pub(super) async fn settled_slot(
    client: &postgres::Client,
    settings: &CaptureSettings,
) -> Result<Option<SlotState>, Error> {
    let name = &settings.slot;
    let found = slot::read(client, name).await?;
    let Some(pid) = left_by_capture(found.as_ref()) else { return Ok(found) };
    if !free_within(client, name, PATIENCE).await? {
        tracing::warn!(slot = %name, pid, "ending the walsender that an earlier capture left behind");
        slot::end_walsender(client, name, pid).await?;
        free_within(client, name, END_LIMIT).await?;
    }
    Ok(slot::read(client, name).await?)
}

/// The process id of a walsender that serves a capture.
fn left_by_capture(slot: Option<&SlotState>) -> Option<i32> {
    slot.filter(|slot| slot.active_application.as_deref() == Some(APPLICATION_NAME))?.active_pid
}

/// Whether no capture's walsender holds the slot, after so long at the most.
async fn free_within(client: &postgres::Client, name: &str, limit: Duration) -> Result<bool, Error> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if left_by_capture(slot::read(client, name).await?.as_ref()).is_none() {
            return Ok(true);
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(INTERVAL.min(limit)).await;
    }
}
