//! The wiring: the only place where adapters meet.

pub mod ack;
pub mod applied;
pub mod apply;
pub mod bars;
pub mod capture;
pub mod check;
pub mod health;
pub mod metrics;
pub mod topic_plan;
pub mod verify;
