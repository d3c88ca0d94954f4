//! Apply: consumed records become rows of the target.
//!
//! ```text
//! consumer thread ─ events ─► coordinator ─ jobs ─► workers (decode, sink session) ─► target
//!        ▲                     │  lanes: one queue per partition, bounded in bytes
//!        └── pause, resume ────┘  control session: claims, barriers, hold
//! ```
//!
//! A *lane* is the ordered apply stream of one partition. The coordinator owns all lanes and never does I/O itself: it
//! hands records of ready lanes to workers, each with a connection of its own, and puts back what they could not apply.
//! A lane is in at most one job, so its records are applied in order; lanes run in parallel. A job takes several lanes in
//! one transaction, which is what makes many small topics cheap.
//!
//! The budget of the queues counts records' bytes. Values whose text is far longer, as padded bit strings, are counted apart,
//! by job (`work`), and a single row is bounded by the decoder.
//!
//! What stops a lane, and what sets it going again:
//!
//! | lane | because | goes on when |
//! |---|---|---|
//! | parked | it reached a barrier (op t) | the barrier's tables were emptied, and with them those that foreign keys tie to its own |
//! | waits | its next event is the create half of a key move | the delete half is applied; until none of them waits, the table's lanes go into one job |
//! | aligning | its table met an ordering error (traps T65, T66) | all lanes of the table were applied up to one cut |
//! | held | `verify` holds lanes below its next event | the hold is released |
//! | lost | its connection broke with the transaction's fate unknown, or it was fenced | it was claimed again in its own generation |
//! | stopped | a definite error | the process starts again |
//!
//! A partition that another process has taken over is left to it, and named. A target that went back in time makes apply
//! begin anew (`sink::history`).

mod align;
mod attempt;
mod conflicts;
mod control;
mod coordinator;
mod decode;
mod deps;
mod dispatch;
mod entangled;
mod error;
mod findings;
mod groups;
mod identity;
mod job;
mod lane;
mod ordering;
mod pressure;
mod reports;
mod siblings;
mod supervisor;
mod unmet;
mod unordered;
mod work;

use std::future::Future;

pub use decode::{Decode, Incoming, RecordDecoder};
pub use deps::{Deps, FlowControl, Limits, TableOf, TopicIds};
pub use error::Error;
pub use siblings::Explicit;
pub use supervisor::{ApplySettings, supervise};

/// Applies until `shutdown` resolves; running transactions are finished, nothing new is begun.
///
/// Errors of the target that may pass are retried for ever; errors of one table stop that table.
///
/// # Errors
/// Whatever concerns more than one table and does not pass by itself.
pub async fn run<D: Decode + 'static>(deps: Deps<D>, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    coordinator::Coordinator::start(deps).await?.run(shutdown).await
}
