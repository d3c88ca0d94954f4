//! Which family a type belongs to: chosen once, from the source's catalog or from a writer's schema.

use std::sync::Arc;

use super::{
    bits,
    codec::{Codec, Family, TextKind},
    column::{ColumnType, TypeKind},
    date,
    decimal_form::Origin,
    interval, json,
    modes::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, TimeMode, TimetzMode, TrailingZeros},
    numeric, other, point,
    special::Special,
    time, timestamp, timestamptz, timetz,
};

/// What a writer's schema says of a field, as far as it decides the codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct FieldType<'a> {
    /// The Avro type's name: `int`, `bytes`, `record`, ….
    pub avro: &'a str,
    /// `connect.name`
    pub connect_name: Option<&'a str>,
    /// `scale` of a logical type `decimal`.
    pub decimal_scale: Option<u32>,
    /// The type below all domains as SQL: `walrelay.base` or `walrelay.type`, where walrelay wrote the schema.
    pub type_sql: Option<&'a str>,
    /// `__debezium.source.column.type`
    pub source_type: Option<&'a str>,
    /// Parameter `length` of `io.debezium.data.Bits`.
    pub length: Option<&'a str>,
    /// `walrelay.encoding`: how bytes are written as text.
    pub encoding: Option<&'a str>,
}

impl Codec {
    /// Chooses by a column's type, in the forms that consumers want.
    #[must_use]
    pub fn of_column(ty: &ColumnType, modes: Modes) -> Self {
        Self(Family::of_column(ty, modes))
    }

    /// Chooses by a writer's schema; `None` for an Avro type that no family writes.
    #[must_use]
    pub fn of_field(field: FieldType<'_>) -> Option<Self> {
        Family::of_field(field).map(Self)
    }
}

impl Family {
    /// Chooses by the type's make-up and OID (`pg_type.dat`), and reads its modifier.
    fn of_column(ty: &ColumnType, modes: Modes) -> Self {
        match &ty.kind {
            TypeKind::Domain(base) => Self::of_column(base, modes),
            TypeKind::Enum(labels) => Self::Text(TextKind::Enum(labels.as_slice().into())),
            TypeKind::Array(element) => Self::of_array(element, modes),
            TypeKind::Extension(name) => match &**name {
                "hstore" => Self::Hstore(modes.hstore),
                "ltree" => Self::Text(TextKind::Ltree),
                _ => Self::Text(TextKind::Other { equal_as_text: false }),
            },
            TypeKind::Base => Self::of_base(ty, modes),
        }
    }

    fn of_base(ty: &ColumnType, modes: Modes) -> Self {
        match ty.oid {
            16 => Self::Boolean,
            21 => Self::Int2,
            23 => Self::Int4,
            20 => Self::Int8,
            700 => Self::Float4,
            701 => Self::Float8,
            1700 => match (modes.decimal, numeric::precision_and_scale(ty.typmod)) {
                (DecimalMode::Precise, Some((precision, scale))) => Self::Decimal { precision, scale },
                (DecimalMode::Precise, None) => Self::VariableScaleDecimal(modes.trailing_zeros),
                (form, Some(_)) => Self::decimal(form, Origin::Declared),
                (form, None) => Self::decimal(form, Origin::Own),
            },
            25 | 1043 => Self::Text(TextKind::Text),
            1042 => Self::Text(TextKind::Bpchar),
            17 if modes.binary == BinaryMode::Bytes => Self::Bytea,
            17 => Self::ByteaText(modes.binary),
            1082 => Self::Date(date_form(modes.time), Special::of(modes.special_values)),
            1083 => Self::Time(time_form(modes.time, time_digits(ty)), Special::of(modes.special_values)),
            1114 => Self::Timestamp(timestamp_form(modes.time, time_digits(ty)), Special::of(modes.special_values)),
            1184 => Self::Timestamptz { digits: time_digits(ty), special: Special::of(modes.special_values) },
            1266 => Self::Timetz(modes.timetz, Special::of(modes.special_values)),
            1186 if modes.interval == IntervalMode::Numeric => Self::IntervalMicros,
            1186 => Self::Interval,
            1560 | 1562 if ty.typmod == 1 => Self::Bit,
            1560 => Self::Bits { length: u32::try_from(ty.typmod).ok(), limit: bits::length(ty.typmod) },
            1562 => Self::Bits { length: None, limit: bits::length(ty.typmod) },
            26 => Self::Oid,
            790 if modes.decimal != DecimalMode::Precise => Self::decimal(modes.decimal, Origin::Money),
            790 => Self::Money,
            600 => Self::Point,
            142 => Self::Text(TextKind::Xml),
            3614 => Self::Text(TextKind::Tsvector),
            2950 => Self::Text(TextKind::Uuid),
            114 => Self::Text(TextKind::Json { binary: false }),
            3802 => Self::Text(TextKind::Json { binary: true }),
            oid => Self::Text(TextKind::Other { equal_as_text: other::equal_as_text(oid) }),
        }
    }

    fn decimal(form: DecimalMode, origin: Origin) -> Self {
        if form == DecimalMode::Double { Self::DecimalDouble(origin) } else { Self::DecimalText(origin) }
    }

    /// Arrays of these travel as Avro arrays; those of other types, as Debezium knows none of them, as text.
    fn of_array(element: &ColumnType, modes: Modes) -> Self {
        let family = Self::of_column(element, modes);
        let listed = match &family {
            Self::Bit
            | Self::Bits { .. }
            | Self::Interval
            | Self::IntervalMicros
            | Self::DecimalText(Origin::Money)
            | Self::DecimalDouble(Origin::Money)
            | Self::Money
            | Self::Point
            | Self::Text(TextKind::Xml)
            | Self::Array(..) => false,
            Self::Text(TextKind::Other { .. }) if matches!(&element.kind, TypeKind::Extension(name) if &**name == "citext") => {
                true
            }
            Self::Text(TextKind::Other { .. }) => other::is_array_element(element.below_domains().oid),
            _ => true,
        };
        if !listed {
            return Self::Text(TextKind::Other { equal_as_text: false });
        }
        Self::Array(Arc::new(Codec(family.of_items())), modes.special_values)
    }

    /// The same for the items of an array.
    fn of_items(self) -> Self {
        match self {
            Self::Date(form, special) => Self::Date(form, special.of_items()),
            Self::Time(form, special) => Self::Time(form, special.of_items()),
            Self::Timestamp(form, special) => Self::Timestamp(form, special.of_items()),
            Self::Timestamptz { digits, special } => Self::Timestamptz { digits, special: special.of_items() },
            Self::Timetz(mode, special) => Self::Timetz(mode, special.of_items()),
            other => other,
        }
    }

    /// Chooses by a writer's schema; `None` for an Avro type that no family writes.
    fn of_field(field: FieldType<'_>) -> Option<Self> {
        Some(match (field.avro, field.connect_name) {
            ("boolean", _) if field.type_sql.is_some_and(|sql| sql.starts_with("bit")) => Self::Bit,
            ("boolean", _) if field.type_sql.is_none() => Self::BooleanOrBit,
            ("boolean", _) => Self::Boolean,
            ("int", Some(date::NAME)) => Self::Date(date::Form::Days, Special::Besides),
            ("int", Some(date::CONNECT_NAME)) => Self::Date(date::Form::Connect, Special::Besides),
            ("string", Some(date::ISO_NAME)) => Self::Date(date::Form::Iso, Special::Besides),
            ("int", Some(time::MILLIS_NAME)) => Self::Time(time::Form::Millis, Special::Besides),
            ("int", Some(time::CONNECT_NAME)) => Self::Time(time::Form::Connect, Special::Besides),
            ("string", Some(time::ISO_NAME)) => Self::Time(time::Form::Iso, Special::Besides),
            ("int", None) => Self::Int4,
            ("long", Some(time::MICROS_NAME)) => Self::Time(time::Form::Micros, Special::Besides),
            ("long", Some(time::NANOS_NAME)) => Self::Time(time::Form::Nanos, Special::Besides),
            ("long", Some(timestamp::MILLIS_NAME)) => Self::Timestamp(timestamp::Form::Millis, Special::Besides),
            ("long", Some(timestamp::MICROS_NAME)) => Self::Timestamp(timestamp::Form::Micros, Special::Besides),
            ("long", Some(timestamp::NANOS_NAME)) => Self::Timestamp(timestamp::Form::Nanos, Special::Besides),
            ("long", Some(timestamp::CONNECT_NAME)) => Self::Timestamp(timestamp::Form::Connect, Special::Besides),
            ("string", Some(timestamp::ISO_NAME)) => Self::Timestamp(timestamp::Form::Iso, Special::Besides),
            ("long", Some(interval::MICROS_NAME)) => Self::IntervalMicros,
            ("long", None) => Self::Int8,
            ("float", None) => Self::Float4,
            ("double", None) => Self::Float8,
            ("bytes", Some(bits::NAME)) => {
                // Another producer does not tell a bit(n) from a bit varying(n), which is the rarer.
                let length = field.type_sql.map_or(field.length.and_then(number_of_bits), fixed_bits);
                Self::Bits { length, limit: 0 }
            }
            ("bytes", Some(numeric::DECIMAL_NAME)) if field.type_sql == Some("money") => Self::Money,
            ("bytes", Some(numeric::DECIMAL_NAME)) => Self::Decimal { precision: 0, scale: field.decimal_scale? },
            ("bytes", None) => match field.decimal_scale {
                Some(scale) => Self::Decimal { precision: 0, scale },
                None => Self::Bytea,
            },
            ("record", Some(numeric::VARIABLE_SCALE_NAME)) => Self::VariableScaleDecimal(TrailingZeros::Kept),
            ("record", Some(point::NAME)) => Self::Point,
            ("string", Some(timetz::NAME)) => Self::Timetz(TimetzMode::Offset, Special::Besides),
            ("string", Some(interval::NAME)) => Self::Interval,
            ("string", Some(timestamptz::NAME)) => Self::Timestamptz { digits: 6, special: Special::Besides },
            ("string", None) if field.encoding.is_some() => {
                Self::ByteaText(field.encoding.and_then(BinaryMode::of_encoding)?)
            }
            ("string", Some(json::NAME)) if is_hstore(field) => Self::Hstore(HstoreMode::Json),
            ("map", None) => Self::Hstore(HstoreMode::Map),
            ("string", _) => Self::Text(TextKind::Text),
            _ => return None,
        })
    }
}

const fn date_form(mode: TimeMode) -> date::Form {
    match mode {
        TimeMode::Connect => date::Form::Connect,
        TimeMode::Isostring => date::Form::Iso,
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds | TimeMode::Nanoseconds => {
            date::Form::Days
        }
    }
}

/// The declared digits decide only where the form adapts to them; so they do for a timestamp.
const fn time_form(mode: TimeMode, digits: u8) -> time::Form {
    match mode {
        TimeMode::Connect => time::Form::Connect,
        TimeMode::Isostring => time::Form::Iso,
        TimeMode::Nanoseconds => time::Form::Nanos,
        TimeMode::Adaptive if digits <= 3 => time::Form::Millis,
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds => time::Form::Micros,
    }
}

const fn timestamp_form(mode: TimeMode, digits: u8) -> timestamp::Form {
    match mode {
        TimeMode::Connect => timestamp::Form::Connect,
        TimeMode::Isostring => timestamp::Form::Iso,
        TimeMode::Nanoseconds => timestamp::Form::Nanos,
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds if digits <= 3 => timestamp::Form::Millis,
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds => timestamp::Form::Micros,
    }
}

/// A writer other than walrelay names the type only in capitals, and only when it is told to; of an item the array's.
fn is_hstore(field: FieldType<'_>) -> bool {
    match field.type_sql {
        Some(sql) => sql.rsplit('.').next() == Some("hstore"),
        None => matches!(field.source_type, Some("HSTORE" | "_HSTORE")),
    }
}

/// The length of `bit(n)` as SQL.
fn fixed_bits(sql: &str) -> Option<u32> {
    number_of_bits(sql.strip_prefix("bit(")?.strip_suffix(')')?)
}

/// A length up to the server's limit: a schema may come from anywhere.
fn number_of_bits(text: &str) -> Option<u32> {
    const LIMIT: u32 = 83_886_080;
    text.parse().ok().filter(|length| *length <= LIMIT)
}

/// The declared precision of a time type; 6 when none is declared.
pub(super) fn time_digits(ty: &ColumnType) -> u8 {
    u8::try_from(ty.typmod).map_or(6, |digits| digits.min(6))
}
