//! The target PostgreSQL: applies change events idempotently, with the positions they reach in the same transaction.
//!
//! ```text
//! events of lanes ─► batch (runs per table) ─► buffer (fold per key) ─► COPY staging ─► DELETE, UPDATE, INSERT ON CONFLICT
//!                                                                         └─ one transaction ─► positions (ledger)
//! ```
//!
//! Invariant: a partition's mark and next offset move only in the transaction that applies the events up to them, and only
//! under the generation of the partition's present owner (PROTOCOL 9, "Fence"). So a kill at any point loses nothing, and
//! a stale owner writes nothing. [`history`] says why that also holds where the target goes back in time.

pub mod barrier;
pub mod batch;
pub mod buffer;
pub mod copy;
pub mod encoded;
pub mod error;
pub mod ghosts;
pub mod history;
pub mod labels;
pub mod ledger;
pub mod moved;
pub mod owners;
pub mod plan;
pub mod predicate;
pub mod resyncs;
pub mod seen;
pub mod session;
pub mod settings;
pub mod siblings;
pub mod stage;
pub mod sweep;
pub mod table;
pub mod ties;

pub use batch::{Applied, LaneDone, LanePart};
pub use error::Error;
pub use plan::Manner;
pub use session::Session;
pub use settings::{Settings, Sink};
