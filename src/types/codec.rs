//! One column's way between PostgreSQL's text and Avro, chosen once from its type.

use std::sync::Arc;

use super::{
    date,
    decimal_form::Origin,
    modes::{BinaryMode, HstoreMode, SpecialValues, TimetzMode, TrailingZeros},
    special::Special,
    time, timestamp,
};

/// A compiled codec; see the module of each family for its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codec(pub(super) Family);

impl Codec {
    /// The same with items that cannot be null, as Debezium has those of enumerations and `tsvector`; other arrays stay as they
    /// are.
    #[must_use]
    pub fn with_required_items(self) -> Self {
        let Family::Array(element, special) = &self.0 else { return self };
        let item = match &element.0 {
            Family::Text(TextKind::Enum(labels)) => TextKind::RequiredEnum(Arc::clone(labels)),
            Family::Text(TextKind::Tsvector) => TextKind::RequiredTsvector,
            _ => return self,
        };
        Self(Family::Array(Arc::new(Self(Family::Text(item))), *special))
    }

    /// That of a `name` whose values are told in a snapshot only ([`ColumnType::is_read_in_snapshots_only`]).
    #[must_use]
    pub const fn of_unsent_name() -> Self {
        Self(Family::UnsentName)
    }

    /// The same for the rows that a snapshot reads; `None` where it is no other.
    #[must_use]
    pub fn of_read(&self) -> Option<Self> {
        match self.0 {
            Family::Date(form, special) if special.of_read() != special => {
                Some(Self(Family::Date(form, special.of_read())))
            }
            Family::UnsentName => Some(Self(Family::Text(TextKind::Other { equal_as_text: true }))),
            _ => None,
        }
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
    Date(date::Form, Special),
    Time(time::Form, Special),
    Timestamp(timestamp::Form, Special),
    Timestamptz {
        digits: u8,
        special: Special,
    },
    Timetz(TimetzMode, Special),
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
    Array(Arc<Codec>, SpecialValues),
    /// A `name` of which Debezium has no value in the stream.
    UnsentName,
}

/// Which type a text is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    Text,
    Bpchar,
    Xml,
    Tsvector,
    /// The same as items of an array that has no NULL.
    RequiredTsvector,
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
