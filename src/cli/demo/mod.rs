//! `walrelay demo`: both halves between two real servers, killed under load, and proven equal at the end.
//!
//! What it drives the halves with ([`parts`], [`settings`], [`process`], [`scrape`], [`random`]) also serves the integration
//! tests and the benchmarks: they too see walrelay only from outside.

pub mod error;
mod halves;
mod load;
pub mod parts;
pub mod process;
pub mod random;
mod run;
pub mod scrape;
mod screen;
pub mod settings;
mod shop;
mod summary;
mod topics;

pub use error::Error;
pub use run::{Args, run};
