//! What health and metrics want to know of a stream.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::Semaphore;

use super::spool::Held;
use crate::lsn::Lsn;

/// The stream's task writes it, others read.
#[derive(Debug)]
pub struct StreamStatus {
    pub(super) received: AtomicU64,
    pub(super) server_wal_end: AtomicU64,
    pub(super) confirmed: AtomicU64,
    pub(super) held_back: AtomicBool,
    pub(super) spooled: Mutex<Held>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) buffer_bytes: usize,
}

impl StreamStatus {
    /// A stream that begins at `start`.
    pub(super) fn new(start: Lsn, buffer_bytes: usize) -> Self {
        Self {
            received: AtomicU64::new(start.0),
            server_wal_end: AtomicU64::new(start.0),
            confirmed: AtomicU64::new(start.0),
            held_back: AtomicBool::new(false),
            spooled: Mutex::new(Held::default()),
            budget: Arc::new(Semaphore::new(buffer_bytes)),
            buffer_bytes,
        }
    }

    /// What is kept of transactions that are in progress.
    #[must_use]
    pub fn spooled(&self) -> Held {
        *self.spooled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spools(&self, held: Held) {
        *self.spooled.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Highest WAL position received.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Relaxed))
    }

    /// The server's end of WAL as it last told.
    #[must_use]
    pub fn server_wal_end(&self) -> Lsn {
        Lsn(self.server_wal_end.load(Ordering::Relaxed))
    }

    /// The flush position of the last status update.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Relaxed))
    }

    /// Whether reading is held back because the consumer has used up the byte budget; the server is then not heard.
    #[must_use]
    pub fn held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Bytes of batches that are not dropped yet.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer_bytes.saturating_sub(self.budget.available_permits())
    }
}
