//! How to reach a PostgreSQL server: settings, TLS, an ordinary connection, and what its errors mean. Both ends use it.
//!
//! ```text
//! settings ─► transport (TCP, keep-alive, SSLRequest, rustls by tls) ─► client    tokio-postgres on that transport, watched
//!                                                                   └─► source's replication client
//! sqlstate ─► server_error ─► error      what the server said, and whether another attempt can help
//! ```
//!
//! One transport serves both kinds of connections, so every `sslmode` behaves the same on both.

pub mod client;
pub mod error;
pub mod server_error;
pub mod session;
pub mod settings;
pub mod sqlstate;
pub mod tls;
pub mod transport;
mod watched;

pub use client::{Client, connect};
pub use error::Error;
pub use server_error::ServerError;
pub use settings::{Password, Settings, SslMode};
