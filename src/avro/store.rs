//! The seam between whoever needs schema ids and schemas and the registry that keeps them.

use std::{error::Error, fmt, future::Future, sync::Arc};

use crate::retry::{Classify, Severity};

/// Keeps schemas by subject and by id. Cheap to clone or share; answers repeated questions from a cache.
pub trait SchemaStore: Send + Sync {
    /// The id of this schema under this subject: registered if the store may, looked up otherwise.
    fn register(&self, subject: &str, schema: &str) -> impl Future<Output = Result<u32, StoreError>> + Send;

    /// The schema of this id, or an error whose [`StoreError::is_unknown_id`] is true if there is none.
    fn schema(&self, id: u32) -> impl Future<Output = Result<Arc<str>, StoreError>> + Send;
}

/// What a store could not do; the store's own error with its severity and hint.
#[derive(Debug)]
pub struct StoreError {
    error: Box<dyn Classify + Send + Sync>,
    unknown_id: bool,
}

impl StoreError {
    /// Wraps the store's own error.
    pub fn new(error: impl Classify + Send + Sync + 'static) -> Self {
        Self { error: Box::new(error), unknown_id: false }
    }

    /// Wraps the store's own error, which says that it has no schema of the id asked for.
    pub fn unknown_id(error: impl Classify + Send + Sync + 'static) -> Self {
        Self { error: Box::new(error), unknown_id: true }
    }

    /// Whether the store answered that no schema has the id.
    #[must_use]
    pub const fn is_unknown_id(&self) -> bool {
        self.unknown_id
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl Classify for StoreError {
    fn severity(&self) -> Severity {
        self.error.severity()
    }

    fn hint(&self) -> Option<String> {
        self.error.hint()
    }
}
