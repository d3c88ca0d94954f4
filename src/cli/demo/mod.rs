//! `walrelay demo`: both halves between two real servers, killed under load, and proven equal at the end.
//!
//! What it drives the halves with ([`parts`], [`settings`], [`process`], [`scrape`]) also serves the integration tests and
//! the benchmarks: they too see walrelay only from outside.

pub mod error;
pub mod parts;
pub mod process;
pub mod random;
pub mod scrape;
pub mod settings;

pub use error::Error;
