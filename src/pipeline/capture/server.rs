//! What the server says of itself before its slot is touched.

use std::time::Duration;

use tokio::sync::Mutex;

use super::{Error, settings::CaptureSettings, start::Server, state::Checkpoint};
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

/// How long the answer of a server that works may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The timeline of a stand-by while a session runs. Its walsender goes on when it is promoted, or follows another primary, and what is recorded
/// behind that place must not be taken for the former timeline's: the next session would take the source for a fork.
pub(super) struct Timeline {
    at: u32,
    connection: Mutex<ReplicationConnection>,
}

impl Timeline {
    /// That of a stand-by, over a connection of its own; `None` for a primary, whose walsender ends before another timeline begins.
    pub(super) async fn of(settings: &CaptureSettings, server: Server) -> Result<Option<Self>, Error> {
        if !server.stands_by {
            return Ok(None);
        }
        let connection = Mutex::new(ReplicationConnection::connect(&settings.source).await?);
        Ok(Some(Self { at: server.timeline, connection }))
    }

    /// An error once the server has gone over to another one: to be asked when it is known what was received, and before that is recorded.
    pub(super) async fn must_last(&self) -> Result<(), Error> {
        let mut connection = self.connection.lock().await;
        let answer = tokio::time::timeout(LIMIT, connection.identify_system()).await;
        let to = answer.map_err(|_| Error::StreamEnded)??.timeline;
        if to == self.at { Ok(()) } else { Err(Error::OtherTimeline { from: self.at, to }) }
    }
}
