//! The position record while a session runs: raised ahead of what is published, advanced behind what is acknowledged.
//!
//! Two invariants, each kept by recording before acting: every event is produced below the recorded ceiling, and nothing is
//! confirmed to the server above the recorded flush LSN (PROTOCOL, "State and slot").

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::{
    Error,
    options::OptionHistory,
    server::Timeline,
    state::{Checkpoint, Phase, StateStore, Update},
};
use crate::lsn::Lsn;

/// The one writer of the position record.
#[derive(Clone)]
pub(super) struct PositionRecord {
    store: StateStore,
    checkpoint: Arc<Mutex<Checkpoint>>,
    flush: Arc<watch::Sender<Lsn>>,
    /// Where the source is a stand-by.
    timeline: Option<Arc<Timeline>>,
}

impl PositionRecord {
    /// Goes on from a checkpoint that is recorded already; `flush` reaches the task that owns the replication socket. Positions are recorded
    /// while the `timeline` lasts.
    pub(super) fn new(
        store: StateStore,
        checkpoint: Checkpoint,
        flush: watch::Sender<Lsn>,
        timeline: Option<Timeline>,
    ) -> Self {
        flush.send_replace(checkpoint.flush);
        let (checkpoint, flush) = (Arc::new(Mutex::new(checkpoint)), Arc::new(flush));
        Self { store, checkpoint, flush, timeline: timeline.map(Arc::new) }
    }

    async fn must_last(&self) -> Result<(), Error> {
        match &self.timeline {
            Some(timeline) => timeline.must_last().await,
            None => Ok(()),
        }
    }

    /// Events below it may have been published.
    pub(super) async fn ceiling(&self) -> Lsn {
        self.checkpoint.lock().await.ceiling
    }

    /// Nothing below it comes again.
    pub(super) fn flushed(&self) -> Lsn {
        *self.flush.borrow()
    }

    /// Makes sure that events at `wanted` may be published; below which LSN others may be. One record serves for everything that was
    /// `received` by then.
    ///
    /// The ceiling lies above what it allows: a commit that begins where the WAL ended is in none of what is below, so a
    /// stream that has come to the ceiling is through with it, and a server whose WAL ends there may lack that commit. It is no
    /// higher than that: a stand-by that has all that the server sent to capture lacks nothing, whatever else the server had
    /// (trap T16; manual, `synchronized_standby_slots`).
    pub(super) async fn raise_ceiling(&self, wanted: Lsn, received: Lsn) -> Result<Lsn, Error> {
        let mut checkpoint = self.checkpoint.lock().await;
        if checkpoint.ceiling > wanted {
            return Ok(checkpoint.ceiling);
        }
        self.must_last().await?;
        let ceiling = Lsn(wanted.0.saturating_add(1)).max(received);
        let raised = Checkpoint { ceiling, ..checkpoint.clone() };
        self.store.write(&[Update::Checkpoint(Box::new(raised.clone()))]).await?;
        *checkpoint = raised;
        Ok(ceiling)
    }

    /// Records how far everything is acknowledged, with what else changed, and only then lets the server know.
    pub(super) async fn advance(&self, flush: Lsn, published: Lsn, mut also: Vec<Update>) -> Result<(), Error> {
        let mut checkpoint = self.checkpoint.lock().await;
        // Never back, also not on the word of a server that restarted (trap T5).
        let flush = flush.max(checkpoint.flush);
        let published = published.max(checkpoint.published);
        if flush == checkpoint.flush && published == checkpoint.published && also.is_empty() {
            return Ok(());
        }
        if flush > checkpoint.flush || published > checkpoint.published {
            self.must_last().await?;
        }
        let advanced = Checkpoint { flush, published, ..checkpoint.clone() };
        also.push(Update::Checkpoint(Box::new(advanced.clone())));
        self.store.write(&also).await?;
        *checkpoint = advanced;
        self.flush.send_replace(flush);
        Ok(())
    }

    /// Every snapshot row is acknowledged; `also` says which topics hold them.
    pub(super) async fn finish_snapshot(&self, mut also: Vec<Update>) -> Result<(), Error> {
        let mut checkpoint = self.checkpoint.lock().await;
        let finished = Checkpoint { phase: Phase::Streaming, ..checkpoint.clone() };
        also.push(Update::Checkpoint(Box::new(finished.clone())));
        self.store.write(&also).await?;
        *checkpoint = finished;
        Ok(())
    }

    /// Records that a change of a table has come in a transaction that commits at `commit`, where its publication is new, and
    /// tells so if that is the configured one: the operator keeps the former one until then.
    pub(super) async fn found(&self, commit: Lsn) -> Result<(), Error> {
        let mut checkpoint = self.checkpoint.lock().await;
        let Some(options) = checkpoint.options.clone() else { return Ok(()) };
        let Some(found) = options.find(commit) else { return Ok(()) };
        self.replace_options(&mut checkpoint, found).await?;
        if let Some((publication, former)) = options.succeeds(commit) {
            tracing::info!(%commit, publication, former, "found the configured publication");
        }
        Ok(())
    }

    /// Lets the former publication hold longer, where the one of `commit` is younger than a change there; gives its name.
    /// `end_of_wal` is that of a server on which it is still there.
    pub(super) async fn bridge(
        &self,
        commit: Lsn,
        end_of_wal: impl AsyncFnOnce(&str) -> Result<Option<Lsn>, Error>,
    ) -> Result<Option<String>, Error> {
        let mut checkpoint = self.checkpoint.lock().await;
        let Some(options) = checkpoint.options.clone() else { return Ok(None) };
        let Some(former) = options.former(commit) else { return Ok(None) };
        let Some(end) = end_of_wal(former).await? else { return Ok(None) };
        let Some(bridged) = options.bridge(commit, end.max(checkpoint.ceiling)) else { return Ok(None) };
        self.replace_options(&mut checkpoint, bridged).await?;
        Ok(Some(former.to_owned()))
    }

    async fn replace_options(&self, checkpoint: &mut Checkpoint, options: OptionHistory) -> Result<(), Error> {
        let changed = Checkpoint { options: Some(options), ..checkpoint.clone() };
        self.store.write(&[Update::Checkpoint(Box::new(changed.clone()))]).await?;
        *checkpoint = changed;
        Ok(())
    }

    /// Records changes that move no position.
    pub(super) async fn record(&self, updates: &[Update]) -> Result<(), Error> {
        if updates.is_empty() {
            return Ok(());
        }
        let _one_writer = self.checkpoint.lock().await;
        self.store.write(updates).await
    }

    /// Records what `current` gives once it is its turn: of an entry that several tasks change, none writes what is older than what is
    /// there.
    pub(super) async fn record_current(&self, current: impl FnOnce() -> Vec<Update>) -> Result<(), Error> {
        let _one_writer = self.checkpoint.lock().await;
        let updates = current();
        if updates.is_empty() { Ok(()) } else { self.store.write(&updates).await }
    }
}
