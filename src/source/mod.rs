//! The source PostgreSQL: the replication slot's stream, and what ordinary connections tell of the tables behind it.
//!
//! ```text
//! connection ─► stream ──────────► batches of pgoutput messages        the walsender's side
//!   (wire, authentication, command, feedback, timeline)
//!        └► intake ─► spool ─► replay                                    transactions that are in progress
//! slot, publication, catalog (key, key_columns, identity), version, layout (unlogged), snapshot (chunk, copy_text, copy_binary), window (visible)  ordinary connections
//! ```
//!
//! Nothing here knows Kafka: the flush LSN comes in through a watch channel, and is what the pipeline has recorded.

mod announced;
pub mod authentication;
pub mod catalog;
pub mod chunk;
mod column_type;
pub mod command;
pub mod condition;
pub mod connection;
pub mod copy_binary;
pub mod copy_text;
pub mod error;
pub mod feedback;
pub mod identity;
mod intake;
mod item;
pub mod key;
pub mod key_columns;
pub mod layout;
pub mod leaves;
pub mod lock;
pub mod membership;
pub mod publication;
pub mod published;
pub mod recovery;
pub mod references;
mod remark;
mod replay;
pub mod request;
pub mod running;
#[cfg(test)]
mod scripted;
pub mod shape;
pub mod signal;
pub mod slot;
pub mod snapshot;
pub mod spool;
pub mod stream;
mod stream_status;
pub mod timeline;
pub mod unidentified;
pub mod unlogged;
pub mod version;
pub mod visible;
pub mod wal;
pub mod window;
pub mod wire;
pub mod writers;
pub mod xids;

pub use error::Error;
