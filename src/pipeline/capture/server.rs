//! What the server says of itself before its slot is touched.

use super::{Error, start::Server, state::Checkpoint};
use crate::{
    pipeline::health::Health,
    postgres,
    source::{connection::ReplicationConnection, recovery},
};

/// The server's place in the history that the record knows.
pub(super) async fn look(
    client: &postgres::Client,
    replication: &mut ReplicationConnection,
    checkpoint: Option<&Checkpoint>,
) -> Result<Server, Error> {
    // Asked before its timeline, which a promotion changes: one that is promoted meanwhile is judged by its history.
    let stands_by = recovery::is_stand_by(client).await?;
    let identity = replication.identify_system().await?;
    let mut switch_point = None;
    if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.timeline != identity.timeline) {
        let history = replication.timeline_history(identity.timeline).await?;
        switch_point = history.iter().find(|switch| switch.timeline == checkpoint.timeline).map(|switch| switch.switch);
    }
    let (system_id, timeline, wal_end) = (identity.system_id, identity.timeline, identity.xlogpos);
    Ok(Server { system_id, timeline, wal_end, switch_point, stands_by })
}

/// Tells what the creation of a slot waits for at a stand-by (trap T25; manual, "Logical Decoding Concepts").
pub(super) fn tell_wait(health: &Health) {
    health.set_phase("starting: waits until the primary logs its running transactions");
    tracing::info!(
        "a stand-by creates a slot when its primary next logs its running transactions: within 15 s where that is written to, \
         and at once by SELECT pg_log_standby_snapshot() there"
    );
}
