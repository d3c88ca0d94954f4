//! Integration tests on the real parts, which the file named by `WALRELAY_DEV_ENV` describes (`dev/parts env`).
//!
//! Every test has databases, a slot, topics and a consumer group of its own. Nothing sleeps for synchronisation: conditions
//! are awaited on the servers, with a deadline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells what it did"
)]

mod applier;
mod bad_input;
mod binary;
mod broker;
mod check;
mod column_defaults;
mod consumer;
mod contract;
mod copied;
mod crash;
mod dead_letter;
mod debezium;
mod declared;
mod encoded_bytes;
mod evolution;
mod exactly_once;
mod failover;
mod flat;
mod gap;
mod half_sent;
mod heartbeat;
mod held;
mod identifiers;
mod idle;
mod incompatible;
mod joining;
mod key_columns;
mod keys;
mod large_messages;
mod login;
mod masks;
mod model;
mod moved_name;
mod nullability;
mod odd_types;
mod options;
mod oracle;
mod origins;
mod padding;
mod partitioner;
mod partitions;
mod promotion;
mod published;
mod reconnect;
mod recorded;
mod recreated;
mod registry;
mod registry_tls;
mod replicated;
mod resume;
mod resync;
mod resync_feed;
mod round_trip;
mod signal_table;
mod signal_topic;
mod sink_barriers;
mod sink_batch;
mod sink_by_offset;
mod sink_lanes;
mod sink_locks;
mod sink_owners;
mod sink_related;
mod sink_resync;
mod sink_resync_related;
mod sink_support;
mod slots;
mod snapshot;
mod special;
mod stand_by_source;
mod standby;
mod stopped;
mod stopping;
mod streamed;
mod streamed_same;
mod support;
mod table_partitions;
mod target;
mod tombstones;
mod topic_names;
mod topics;
mod topics_of_tables;
mod total_order;
mod transactions;
mod unknown_types;
mod verify;
mod wide;
