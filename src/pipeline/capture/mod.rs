//! Capture: from the source's WAL to acknowledged Kafka records.
//!
//! ```text
//!  source::stream ──► Streamer ──► record::Encoder ──► Publisher ──► Kafka
//!   ▲ flush LSN        ordinals      compiled plan        │ delivery reports
//!   └── PositionRecord ◄── Checkpointer ◄── AckTracker ◄──┘
//! ```
//!
//! A session goes from connecting to the first error; [`run`] decides by the error's severity whether another one begins.
//! Every session starts from the recorded position, so an error loses nothing: at worst records are published again, and
//! the sink skips what it has.

mod backfill;
mod bad_row;
mod bad_rows;
mod barrier;
mod beside;
mod boundaries;
mod chunk_record;
mod chunk_worker;
mod chunks;
mod clock;
mod copied;
mod copy_bars;
mod copy_progress;
mod copying;
mod delivered;
mod deliveries;
mod departed;
mod described;
mod destinations;
mod error;
mod extent;
mod failover;
mod figures;
mod followed;
mod goal;
mod guard;
mod heartbeat;
mod held;
mod in_progress;
mod initial;
mod joining;
mod messages;
mod opening;
mod options;
mod partition_watch;
mod partitions;
mod position;
mod progress;
mod publisher;
mod read_table;
mod readers;
mod reading;
mod resync;
mod resyncs;
mod routes;
mod server;
mod session;
mod settings;
mod signal_table;
mod signal_topic;
mod signals;
mod slot_holders;
mod slot_watch;
mod standby;
mod standing;
mod start;
mod state;
mod stream;
mod streaming;
mod supervisor;
mod survey;
mod sweep;
mod tables;
mod topic;
mod topics;
mod transaction;
mod transactions;
mod tuple_format;
mod unfinished;
mod unlogged;
mod unread;
mod versions;
mod wider;
mod window_rows;
mod windows;

pub use error::Error;
pub use failover::SINCE as FAILOVER_SLOTS_SINCE;
pub use settings::{
    BadRowPolicy, CaptureDeps, CaptureSettings, Delivery, FailoverSlot, GapPolicy, OriginFilter, PartitionPolicy,
    SnapshotGuard, SnapshotMode, StopPolicy, UnloggedPolicy, transactional_id,
};
pub use supervisor::run;
