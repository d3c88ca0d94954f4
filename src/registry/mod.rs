//! A Confluent-compatible schema registry over HTTP: registers or looks up schemas by subject, fetches them by id.
//!
//! Answers are kept for the process's life: a subject's schema keeps its id, and an id its schema. Of several addresses the next
//! is tried when one does not answer or answers 5xx; when none does, the round is repeated with back-off a few times before the
//! caller gets a transient error. What the registry *decides* (409, 422, 401, 404) is final at once.

pub use client::Registry;
pub use error::RegistryError;
pub use settings::RegistrySettings;

mod client;
mod difference;
mod error;
mod settings;
