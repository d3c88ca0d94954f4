//! The logical replication protocol of the `pgoutput` plug-in, versions 1 to 4: bytes to messages, without I/O.
//!
//! ```text
//! CopyData ─► frame ─► XLogData.data ─► message ─► tuple ─► event::Datum (slices of the message, nothing is copied)
//!                 └──► keepalive                     reader: the checked cursor below all of them
//! ```
//!
//! [`streamed`] tells whose a message is that is not to be parsed yet.
//!
//! Files are named as the manual's pages: "Streaming Replication Protocol" ([`frame`]), "Logical Replication Message
//! Formats" ([`message`], [`tuple`]). Every parser takes any bytes: a message that is truncated, has bytes left over or
//! holds garbage gives an [`Error`] that names what was read and the offset, never a panic.

pub mod error;
pub mod frame;
pub mod message;
pub mod reader;
pub mod streamed;
pub mod tuple;

pub use error::Error;
pub use frame::{Frame, StatusUpdate};
pub use message::{Message, Parser};
pub use reader::POSTGRES_EPOCH_US;
