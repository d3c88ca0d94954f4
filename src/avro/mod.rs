//! The published contract: Avro wire format, schemas of key, value and messages, and the names in them.
//!
//! [`encode`] and [`cursor`] write and read the binary encoding; [`schema`] builds what is registered; [`writer`] reads a
//! registered schema back for decoding; [`store`] is the seam behind which a schema registry lies. No I/O here.

pub mod content;
pub mod cursor;
pub mod encode;
pub mod flat;
pub mod name;
pub mod schema;
pub mod skip;
pub mod store;
pub mod subject;
pub mod wire;
pub mod writer;
