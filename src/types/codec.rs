//! One column's way between PostgreSQL's text and Avro, chosen once from its type.

use std::sync::Arc;

use super::{
    date,
    decimal_form::Origin,
    modes::{BinaryMode, HstoreMode, SpecialValues, TimetzMode, TrailingZeros},
    time, timestamp,
};

/// A compiled codec; see the module of each family for its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codec(pub(super) Family);

impl Codec {
    /// The same with items that cannot be null, as Debezium has those of enumerations; other arrays stay as they are.
    #[must_use]
    pub fn with_required_items(self) -> Self {
        let Family::Array(element) = &self.0 else { return self };
        let Family::Text(TextKind::Enum(labels)) = &element.0 else { return self };
        Self(Family::Array(Arc::new(Self(Family::Text(TextKind::RequiredEnum(Arc::clone(labels)))))))
    }
}

/// Types that share a way between text and Avro; see the module of each for its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Boolean,
    /// A boolean or a `bit(1)`: another producer's schema does not tell which.
    BooleanOrBit,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Decimal {
        precision: u32,
        scale: u32,
    },
    VariableScaleDecimal(TrailingZeros),
    DecimalText(Origin),
    DecimalDouble(Origin),
    /// Types whose Avro value is the text as it is.
    Text(TextKind),
    Bytea,
    /// A `bytea` as text.
    ByteaText(BinaryMode),
    Date(date::Form, SpecialValues),
    Time(time::Form),
    Timestamp(timestamp::Form, SpecialValues),
    Timestamptz {
        digits: u8,
    },
    Timetz(TimetzMode),
    Interval,
    IntervalMicros,
    /// `bit(1)`, `bit varying(1)`
    Bit,
    /// The fixed length of a `bit(n)`; `None`: `bit varying`, and a bit string whose length no schema tells.
    Bits {
        length: Option<u32>,
        limit: i64,
    },
    Oid,
    Money,
    Point,
    Hstore(HstoreMode),
    /// An array of one dimension of these.
    Array(Arc<Codec>),
}

/// Which type a text is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    Text,
    Bpchar,
    Xml,
    Tsvector,
    Uuid,
    Json {
        binary: bool,
    },
    Ltree,
    /// An enumeration with its labels, as far as they are known.
    Enum(Arc<[Arc<str>]>),
    /// The same as items of an array that has no NULL.
    RequiredEnum(Arc<[Arc<str>]>),
    Other {
        equal_as_text: bool,
    },
}
