//! PostgreSQL types: text, Avro value and DDL name side by side, one file per family.
//!
//! A [`Codec`] is compiled once from a [`ColumnType`] (or from a field of a writer's schema) and then turns PostgreSQL's text
//! output into a borrowed [`Value`] and such a value back into text that the server's input function reads as an equal value.
//! A type without a family of its own travels as its text; a value that a family's Avro type cannot hold is
//! [`Parsed::Unrepresentable`] and travels as text in a header (EVENTS: `walrelay.text`). Nothing is guessed or dropped.

pub use codec::{Codec, FieldType};
pub use column::ColumnType;
pub(crate) use point::well_known_binary;
pub use value::{BitString, ByteString, Parsed, RenderError, ShortText, Unscaled, Value};

mod bits;
mod boolean;
mod bytea;
mod calendar;
mod codec;
mod column;
mod date;
mod float;
mod integer;
mod interval;
mod json;
mod magnitude;
mod money;
mod numeric;
mod other;
mod point;
mod scan;
mod semantic;
mod text;
mod time;
mod timestamp;
mod timestamptz;
mod timetz;
mod uuid;
mod value;
