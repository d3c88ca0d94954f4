//! PostgreSQL's binary output (`typsend`), turned into the text that the server's output function writes under the pinned
//! session settings: from there on a value goes the one way that all go.
//!
//! Of the types without a codec here (composites, `xml`, `tsquery`, `"char"`, those of most extensions) only the server can
//! write the text, so a stream with one of them asks for text (PROTOCOL, 7). The bytes come from the wire: whatever they are,
//! reading ends with an error that names the type, and never beyond them.

pub use codec::BinaryCodec;
pub use error::BinaryError;

mod codec;
mod container;
mod direct;
mod error;
mod geometric;
mod network;
mod number;
mod range;
mod reader;
mod temporal;
mod textual;
