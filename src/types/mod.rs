//! PostgreSQL types: text, Avro value and DDL name side by side, one file per family.
//!
//! A [`Codec`] is compiled once from a [`ColumnType`] (or from a field of a writer's schema) and then turns PostgreSQL's text
//! output into a borrowed [`Value`] and such a value back into text that the server's input function reads as an equal value.
//! A type without a family of its own travels as its text; a value that a family's Avro type cannot hold is
//! [`Parsed::Unrepresentable`] and travels as text in a header (EVENTS: `walrelay.text`). Nothing is guessed or dropped.

pub use array::{append_item, append_nulls};
pub use array_scan::single_item;
pub use binary::{BinaryCodec, BinaryError};
pub use choose::FieldType;
pub use codec::Codec;
pub use column::{ColumnType, TypeKind};
pub use encoded::{EncodedText, Meaning};
pub use hstore::append_pair;
pub use hstore_json::HstoreText;
pub use labels::Unknown;
pub use mask::{Mask, Salt};
pub use modes::{
    BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, SpecialValues, TimeMode, TimetzMode, TrailingZeros,
};
pub use plain_moment::UsualMoment;
pub(crate) use point::well_known_binary;
pub use unsent::{Placeholder, PlaceholderError};
pub use value::{
    ArrayText, BitString, ByteString, Parsed, RenderError, ShortText, Simple, Unscaled, Value, Wide, append_encoded,
};

mod array;
mod array_scan;
mod binary;
mod bits;
mod boolean;
mod bytea;
mod calendar;
mod choose;
mod codec;
mod column;
mod connect_text;
mod convert;
mod date;
mod decimal_form;
mod default;
mod describe;
mod encoded;
mod float;
mod hstore;
mod hstore_json;
mod hybrid;
mod integer;
mod interval;
mod json;
mod known;
mod labels;
mod magnitude;
mod mask;
mod modes;
mod moment;
mod money;
mod numeric;
mod other;
mod plain_moment;
mod point;
mod scan;
mod semantic;
mod special;
mod text;
mod time;
mod timestamp;
mod timestamptz;
mod timetz;
mod unsent;
mod uuid;
mod value;
