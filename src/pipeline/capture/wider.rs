//! Rows with more than the version of their table has room for: the connections of a snapshot ask for a wider one.
//!
//! One task makes versions, one after the other.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Error, routes::Running};
use crate::record::Beyond;

/// What a connection has found.
pub(super) struct Request {
    /// Index of the table.
    pub(super) table: usize,
    pub(super) beyond: Beyond,
    pub(super) answer: oneshot::Sender<Result<Arc<Running>, Error>>,
}

/// Where a connection asks.
#[derive(Clone)]
pub(super) struct Wider(mpsc::Sender<Request>);

impl Wider {
    /// What asks, and what is asked.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// A version with room for it.
    pub(super) async fn ask(&self, table: usize, beyond: Beyond) -> Result<Arc<Running>, Error> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Request { table, beyond, answer }).await.map_err(|_ended| Error::SnapshotTask)?;
        answered.await.map_err(|_ended| Error::SnapshotTask)?
    }
}
