//! One column's way between PostgreSQL's text and Avro, chosen once from its type.

use std::str::Utf8Error;

use serde_json::{Value as Json, json};

use super::{
    bits, boolean, bytea,
    column::ColumnType,
    date, float, integer, interval, json, money, numeric, other, point,
    semantic::{Attributes, SourceType, named, plain},
    text, time, timestamp,
    timestamp::Unit,
    timestamptz, timetz, uuid,
    value::{Parsed, RenderError, Value},
};

/// A compiled codec; see the module of each family for its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec(Family);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Boolean,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Decimal {
        precision: u32,
        scale: u32,
    },
    VariableScaleDecimal,
    Text,
    Bpchar,
    Bytea,
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp(Unit),
    Timestamptz {
        digits: u8,
    },
    Timetz,
    Interval,
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
    Xml,
    Tsvector,
    Uuid,
    Json {
        binary: bool,
    },
    Other {
        equal_as_text: bool,
    },
}

/// What a writer's schema says of a field, as far as it decides the codec.
#[derive(Clone, Copy, Debug)]
pub struct FieldType<'a> {
    /// The Avro type's name: `int`, `bytes`, `record`, ….
    pub avro: &'a str,
    /// `connect.name`
    pub connect_name: Option<&'a str>,
    /// `scale` of a logical type `decimal`.
    pub decimal_scale: Option<u32>,
    /// `walrelay.type`, where walrelay wrote the schema.
    pub type_sql: Option<&'a str>,
}

impl Codec {
    /// Chooses the family by the type's OID (`pg_type.dat`) and reads its modifier.
    #[must_use]
    pub fn of_column(ty: &ColumnType) -> Self {
        Self(match ty.oid {
            16 => Family::Boolean,
            21 => Family::Int2,
            23 => Family::Int4,
            20 => Family::Int8,
            700 => Family::Float4,
            701 => Family::Float8,
            1700 => match numeric::precision_and_scale(ty.typmod) {
                Some((precision, scale)) => Family::Decimal { precision, scale },
                None => Family::VariableScaleDecimal,
            },
            25 | 1043 => Family::Text,
            1042 => Family::Bpchar,
            17 => Family::Bytea,
            1082 => Family::Date,
            1083 if time_digits(ty) <= 3 => Family::TimeMillis,
            1083 => Family::TimeMicros,
            1114 if time_digits(ty) <= 3 => Family::Timestamp(Unit::Millis),
            1114 => Family::Timestamp(Unit::Micros),
            1184 => Family::Timestamptz { digits: time_digits(ty) },
            1266 => Family::Timetz,
            1186 => Family::Interval,
            1560 | 1562 if ty.typmod == 1 => Family::Bit,
            1560 => Family::Bits { length: u32::try_from(ty.typmod).ok(), limit: bits::length(ty.typmod) },
            1562 => Family::Bits { length: None, limit: bits::length(ty.typmod) },
            26 => Family::Oid,
            790 => Family::Money,
            600 => Family::Point,
            142 => Family::Xml,
            3614 => Family::Tsvector,
            2950 => Family::Uuid,
            114 => Family::Json { binary: false },
            3802 => Family::Json { binary: true },
            oid => Family::Other { equal_as_text: other::equal_as_text(oid) },
        })
    }

    /// Chooses the family by a writer's schema; `None` for an Avro type that no family writes.
    #[must_use]
    pub fn of_field(field: FieldType<'_>) -> Option<Self> {
        Some(Self(match (field.avro, field.connect_name) {
            ("boolean", _) if field.type_sql.is_some_and(|sql| sql.starts_with("bit")) => Family::Bit,
            ("boolean", _) => Family::Boolean,
            ("int", Some(date::NAME)) => Family::Date,
            ("int", Some(time::MILLIS_NAME)) => Family::TimeMillis,
            ("int", None) => Family::Int4,
            ("long", Some(time::MICROS_NAME)) => Family::TimeMicros,
            ("long", Some(timestamp::MILLIS_NAME)) => Family::Timestamp(Unit::Millis),
            ("long", Some(timestamp::MICROS_NAME)) => Family::Timestamp(Unit::Micros),
            ("long", None) => Family::Int8,
            ("float", None) => Family::Float4,
            ("double", None) => Family::Float8,
            ("bytes", Some(bits::NAME)) => Family::Bits { length: field.type_sql.and_then(fixed_bits), limit: 0 },
            ("bytes", Some(numeric::DECIMAL_NAME)) if field.type_sql == Some("money") => Family::Money,
            ("bytes", Some(numeric::DECIMAL_NAME)) => Family::Decimal { precision: 0, scale: field.decimal_scale? },
            ("bytes", None) => match field.decimal_scale {
                Some(scale) => Family::Decimal { precision: 0, scale },
                None => Family::Bytea,
            },
            ("record", Some(numeric::VARIABLE_SCALE_NAME)) => Family::VariableScaleDecimal,
            ("record", Some(point::NAME)) => Family::Point,
            ("string", Some(timetz::NAME)) => Family::Timetz,
            ("string", Some(interval::NAME)) => Family::Interval,
            ("string", Some(timestamptz::NAME)) => Family::Timestamptz { digits: 6 },
            ("string", _) => Family::Text,
            _ => return None,
        }))
    }

    /// The Avro value of a text.
    ///
    /// # Errors
    /// A string's text is not UTF-8, which Avro demands (trap T46).
    pub fn parse<'a>(&self, text: &'a [u8]) -> Result<Parsed<'a>, Utf8Error> {
        Ok(match self.0 {
            Family::Boolean => boolean::parse(text),
            Family::Int2 | Family::Int4 => integer::parse_int(text),
            Family::Int8 | Family::Oid => integer::parse_long(text),
            Family::Float4 => float::parse_float(text),
            Family::Float8 => float::parse_double(text),
            Family::Decimal { precision, scale } => numeric::parse_decimal(text, precision, scale),
            Family::VariableScaleDecimal => numeric::parse_variable(text, false),
            Family::Bytea => bytea::parse(text),
            Family::Date => date::parse(text),
            Family::TimeMillis => time::parse_millis(text),
            Family::TimeMicros => time::parse_micros(text),
            Family::Timestamp(unit) => timestamp::parse(text, unit),
            Family::Timestamptz { digits } => timestamptz::parse(text, digits),
            Family::Timetz => timetz::parse(text),
            Family::Interval => interval::parse(text),
            Family::Bit => bits::parse_one(text),
            Family::Bits { length, .. } => bits::parse(text, length.is_none()),
            Family::Money => money::parse(text),
            Family::Point => point::parse(text),
            Family::Text
            | Family::Bpchar
            | Family::Uuid
            | Family::Xml
            | Family::Tsvector
            | Family::Json { .. }
            | Family::Other { .. } => Parsed::Value(Value::Text(std::str::from_utf8(text)?)),
        })
    }

    /// The Avro value of a key column's text: equal keys give equal values (trap T81; PROTOCOL, keys).
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_key<'a>(&self, text: &'a [u8]) -> Result<Parsed<'a>, Utf8Error> {
        match self.0 {
            Family::VariableScaleDecimal => Ok(numeric::parse_variable(text, true)),
            Family::Bpchar => self.parse(text::without_padding(text)),
            Family::Float4 | Family::Float8 => Ok(match self.parse(text)? {
                Parsed::Value(value) => Parsed::Value(float::canonical(value)),
                other => other,
            }),
            _ => self.parse(text),
        }
    }

    /// Appends the text of a value, such that the server's input function reads an equal value.
    ///
    /// # Errors
    /// The value is not one that the type has.
    pub fn render(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
        match self.0 {
            Family::Boolean => boolean::render(value, out),
            Family::Int2 | Family::Int4 | Family::Int8 | Family::Oid => integer::render(value, out),
            Family::Float4 | Family::Float8 => float::render(value, out),
            Family::Decimal { scale, .. } => numeric::render_decimal(value, scale, out),
            Family::VariableScaleDecimal => numeric::render_variable(value, out),
            Family::Bytea => bytea::render(value, out),
            Family::Date => date::render(value, out),
            Family::TimeMillis | Family::TimeMicros => time::render(value, out),
            Family::Timestamp(unit) => timestamp::render(value, unit, out),
            Family::Timestamptz { .. } => timestamptz::render(value, out),
            Family::Timetz => timetz::render(value, out),
            Family::Interval => interval::render(value, out),
            Family::Bit => bits::render_one(value, out),
            Family::Bits { length, .. } => bits::render(value, length, out),
            Family::Money => money::render(value, out),
            Family::Point => point::render(value, out),
            Family::Text
            | Family::Bpchar
            | Family::Uuid
            | Family::Xml
            | Family::Tsvector
            | Family::Json { .. }
            | Family::Other { .. } => text::render(value, out),
        }
    }

    /// Whether two keys of the type are equal exactly if their canonical bytes are; if not, the table goes to one partition.
    ///
    /// Text is taken to have a deterministic collation, since a relation does not tell its columns' collations.
    #[must_use]
    pub const fn keys_equal_as_bytes(&self) -> bool {
        match self.0 {
            Family::Float4
            | Family::Float8
            | Family::Json { .. }
            | Family::Interval
            | Family::Bit
            | Family::Bits { length: None, .. }
            | Family::Point
            | Family::Xml
            | Family::Tsvector => false,
            Family::Other { equal_as_text } => equal_as_text,
            _ => true,
        }
    }

    /// Whether an unchanged TOAST value has Debezium's placeholder in this field; in the others it is null.
    #[must_use]
    pub const fn has_placeholder(&self) -> bool {
        matches!(
            self.0,
            Family::Text
                | Family::Bpchar
                | Family::Bytea
                | Family::Json { .. }
                | Family::Other { .. }
                | Family::Uuid
                | Family::Timestamptz { .. }
                | Family::Timetz
                | Family::Interval
                | Family::Bits { .. }
                | Family::Xml
                | Family::Tsvector
        )
    }

    /// The field's Avro schema with these `connect.parameters`, which may be empty.
    #[must_use]
    pub fn schema(&self, parameters: Attributes) -> Json {
        match self.0 {
            Family::Boolean => plain("boolean", parameters),
            Family::Int2 => integer::int16_schema(parameters),
            Family::Int4 => plain("int", parameters),
            Family::Int8 => plain("long", parameters),
            Family::Float4 => plain("float", parameters),
            Family::Float8 => plain("double", parameters),
            Family::Decimal { precision, scale } => numeric::decimal_schema(precision, scale, parameters),
            Family::VariableScaleDecimal => numeric::variable_schema(parameters),
            Family::Bytea => plain("bytes", parameters),
            Family::Date => named("int", date::NAME, parameters),
            Family::TimeMillis => named("int", time::MILLIS_NAME, parameters),
            Family::TimeMicros => named("long", time::MICROS_NAME, parameters),
            Family::Timestamp(Unit::Millis) => named("long", timestamp::MILLIS_NAME, parameters),
            Family::Timestamp(Unit::Micros) => named("long", timestamp::MICROS_NAME, parameters),
            Family::Timestamptz { .. } => named("string", timestamptz::NAME, parameters),
            Family::Timetz => named("string", timetz::NAME, parameters),
            Family::Interval => named("string", interval::NAME, parameters),
            Family::Bit => plain("boolean", parameters),
            Family::Bits { limit, .. } => bits::schema(limit, parameters),
            Family::Oid => plain("long", parameters),
            Family::Money => money::schema(parameters),
            Family::Point => point::schema(parameters),
            Family::Xml => named("string", XML_NAME, parameters),
            Family::Tsvector => named("string", TSVECTOR_NAME, parameters),
            Family::Uuid => named("string", uuid::NAME, parameters),
            Family::Json { .. } => named("string", json::NAME, parameters),
            Family::Text | Family::Bpchar | Family::Other { .. } => plain("string", parameters),
        }
    }

    /// SQL that a column is declared by when its writer did not say the source's type.
    #[must_use]
    pub const fn sql_name(&self) -> &'static str {
        match self.0 {
            Family::Boolean => "boolean",
            Family::Int2 => "smallint",
            Family::Int4 => "integer",
            Family::Int8 => "bigint",
            Family::Float4 => "real",
            Family::Float8 => "double precision",
            Family::Decimal { .. } | Family::VariableScaleDecimal => "numeric",
            Family::Bytea => "bytea",
            Family::Date => "date",
            Family::TimeMillis => "time(3) without time zone",
            Family::TimeMicros => "time without time zone",
            Family::Timestamp(Unit::Millis) => "timestamp(3) without time zone",
            Family::Timestamp(Unit::Micros) => "timestamp without time zone",
            Family::Timestamptz { .. } => "timestamp with time zone",
            Family::Timetz => "time with time zone",
            Family::Interval => "interval",
            Family::Bit => "bit(1)",
            Family::Bits { .. } => "bit varying",
            Family::Oid => "oid",
            Family::Money => "money",
            Family::Point => "point",
            Family::Xml => "xml",
            Family::Tsvector => "tsvector",
            Family::Uuid => "uuid",
            Family::Json { binary: false } => "json",
            Family::Json { binary: true } => "jsonb",
            Family::Text | Family::Bpchar | Family::Other { .. } => "text",
        }
    }

    /// The full name of the record that the schema defines, if it defines one: a schema may define it only once.
    #[must_use]
    pub const fn defines(&self) -> Option<&'static str> {
        match self.0 {
            Family::VariableScaleDecimal => Some(numeric::VARIABLE_SCALE_NAME),
            Family::Point => Some(point::NAME),
            _ => None,
        }
    }

    /// `connect.parameters` that describe the source column: Debezium's four, and `walrelay.type`.
    #[must_use]
    pub fn column_parameters(&self, name: &str, ty: &ColumnType) -> Attributes {
        let source = self.source_type(ty);
        let mut parameters = Attributes::new();
        parameters.insert("__debezium.source.column.type".into(), json!(source.name));
        parameters.insert("__debezium.source.column.length".into(), json!(source.length.to_string()));
        parameters.insert("__debezium.source.column.scale".into(), json!(source.scale.to_string()));
        parameters.insert("__debezium.source.column.name".into(), json!(name));
        parameters.insert("walrelay.type".into(), json!(&*ty.sql));
        parameters
    }

    fn source_type(&self, ty: &ColumnType) -> SourceType {
        let fraction = |base| {
            let digits = i64::from(time_digits(ty));
            (base + if digits > 0 { digits + 1 } else { 0 }, digits)
        };
        let timed = |name, base| {
            let (length, scale) = fraction(base);
            SourceType::new(name, length, scale)
        };
        match self.0 {
            Family::Boolean => SourceType::new("BOOL", 1, 0),
            Family::Int2 => SourceType::new("INT2", 5, 0),
            Family::Int4 => SourceType::new("INT4", 10, 0),
            Family::Int8 => SourceType::new("INT8", 19, 0),
            Family::Float4 => SourceType::new("FLOAT4", 8, 8),
            Family::Float8 => SourceType::new("FLOAT8", 17, 17),
            Family::Decimal { precision, scale } => SourceType::new("NUMERIC", i64::from(precision), i64::from(scale)),
            Family::VariableScaleDecimal => SourceType::new("NUMERIC", 131_089, 0),
            Family::Text if ty.oid == 1043 => text_type("VARCHAR", ty),
            Family::Text => SourceType::unlimited("TEXT"),
            Family::Bpchar => text_type("BPCHAR", ty),
            Family::Bytea => SourceType::unlimited("BYTEA"),
            Family::Date => SourceType::new("DATE", 13, 0),
            Family::TimeMillis | Family::TimeMicros => timed("TIME", 8),
            Family::Timestamp(_) => timed("TIMESTAMP", 22),
            Family::Timestamptz { .. } => timed("TIMESTAMPTZ", 28),
            Family::Timetz => timed("TIMETZ", 14),
            Family::Interval => SourceType::new("INTERVAL", 49, interval_scale(ty)),
            Family::Bit | Family::Bits { .. } => {
                let name = if ty.oid == 1560 { "BIT" } else { "VARBIT" };
                SourceType::new(name, bits::length(ty.typmod), 0)
            }
            Family::Oid => SourceType::new("OID", 10, 0),
            Family::Money => SourceType::unlimited("MONEY"),
            Family::Point => SourceType::unlimited("POINT"),
            Family::Xml => SourceType::unlimited("XML"),
            Family::Tsvector => SourceType::unlimited("TSVECTOR"),
            Family::Uuid => SourceType::unlimited("UUID"),
            Family::Json { binary: false } => SourceType::unlimited("JSON"),
            Family::Json { binary: true } => SourceType::unlimited("JSONB"),
            Family::Other { .. } => other::source_type(ty),
        }
    }
}

const XML_NAME: &str = "io.debezium.data.Xml";
const TSVECTOR_NAME: &str = "io.debezium.data.Tsvector";

/// What the JDBC driver reports as the scale of an interval: its precision, which lies in the low half of the modifier.
const fn interval_scale(ty: &ColumnType) -> i64 {
    if ty.typmod < 0 { 6 } else { (ty.typmod & 0xFFFF) as i64 }
}

/// The length of `bit(n)` as SQL, up to the server's limit: a schema may come from anywhere.
fn fixed_bits(sql: &str) -> Option<u32> {
    const LIMIT: u32 = 83_886_080;
    sql.strip_prefix("bit(")?.strip_suffix(')')?.parse().ok().filter(|length| *length <= LIMIT)
}

/// The declared precision of a time type; 6 when none is declared.
fn time_digits(ty: &ColumnType) -> u8 {
    u8::try_from(ty.typmod).map_or(6, |digits| digits.min(6))
}

/// A character type with a length: its modifier is the length and four more.
fn text_type(name: &str, ty: &ColumnType) -> SourceType {
    match ty.typmod {
        5.. => SourceType::new(name, i64::from(ty.typmod) - 4, 0),
        _ => SourceType::unlimited(name),
    }
}
