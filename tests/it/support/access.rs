//! Who may use the shared parts at one time: any number of ordinary tests, or one that stops a part.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static PARTS: RwLock<()> = RwLock::const_new(());

/// The right to use the parts, held by a scenario until it is dropped.
pub enum Access {
    /// Beside other tests.
    Shared { _guard: RwLockReadGuard<'static, ()> },
    /// Alone: this test stops a part, or needs all of it.
    Alone { _guard: RwLockWriteGuard<'static, ()> },
    /// As the test itself has it.
    Held,
}

impl Access {
    /// Waits for tests that stop a part.
    pub async fn shared() -> Self {
        Self::Shared { _guard: PARTS.read().await }
    }

    /// Waits for all other tests.
    pub async fn alone() -> Self {
        Self::Alone { _guard: PARTS.write().await }
    }
}
