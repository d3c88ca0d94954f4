//! Log-based change data capture for PostgreSQL: `capture` reads the WAL and publishes Debezium-compatible Avro events to
//! Kafka, `apply` replays them into another PostgreSQL, `verify` proves that both are equal.
//!
//! Layers, lowest first; a module imports only from layers below it (`tests/architecture.rs` checks that):
//!
//! 1. vocabulary: [`lsn`], [`types`], [`schema`], [`selection`], [`event`], [`retry`], [`progress`]
//! 2. codecs: [`pgoutput`], [`avro`]
//! 3. clients: [`postgres`]
//! 4. adapters: [`source`], [`registry`], [`kafka`], [`sink`], [`record`]
//! 5. wiring: [`pipeline`]
//! 6. shell: [`config`], [`cli`], [`http`], [`telemetry`], [`error`]

pub mod avro;
pub mod cli;
pub mod config;
pub mod error;
pub mod event;
pub mod http;
pub mod kafka;
pub mod lsn;
pub mod pgoutput;
pub mod pipeline;
pub mod postgres;
pub mod progress;
pub mod record;
pub mod registry;
pub mod retry;
pub mod schema;
pub mod selection;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod types;
