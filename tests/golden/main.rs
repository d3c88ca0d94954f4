//! What the encoder writes against what Debezium 3.6.3 wrote for the same changes, against apache-avro as an independent
//! reader, and against the decoder. Needs no services.
//!
//! `data/` holds, per table, its relation, the changes as PostgreSQL 15's text, and Debezium's schemas and events for them in
//! two configurations: `default`, and `lossless` (decimals as strings, transaction metadata, source types propagated). What
//! walrelay means to do differently is listed in [`differences`], and nowhere else.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says with a panic what is wrong")]

mod against_debezium;
mod allocation;
mod arrivals;
mod binary;
mod column_defaults;
mod dead_letter;
mod decoding;
mod differences;
mod documented;
mod flat;
mod flat_recorded;
mod forms;
mod heartbeat;
mod history;
mod key_moves;
mod modes;
mod oracle;
mod recorded;
mod recorded_decoding;
mod recorded_defaults;
mod resync;
mod round_trip;
mod seeds;
mod support;
mod time_forms;
mod told_beside;
mod transactions;
mod unavailable;
