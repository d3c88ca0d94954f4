//! What a schema says of a column: its Avro type with Kafka Connect's attributes, its source type, and SQL to declare it by.

use serde_json::{Value as Json, json};

use super::{
    bits,
    choose::time_digits,
    codec::{Codec, Family, TextKind},
    column::{ColumnType, TypeKind},
    date,
    decimal_form::Origin,
    hstore, integer, interval, json as json_text, money, numeric, other, point,
    semantic::{Attributes, SourceType, named, plain},
    time, timestamp, timestamptz, timetz, uuid,
    value::Element as _,
};

const XML_NAME: &str = "io.debezium.data.Xml";
const TSVECTOR_NAME: &str = "io.debezium.data.Tsvector";
const LTREE_NAME: &str = "io.debezium.data.Ltree";
const ENUM_NAME: &str = "io.debezium.data.Enum";

impl Codec {
    /// The name of a record that a schema has defined before; notes the first definition.
    pub fn defined(&self, defined: &mut Vec<&'static str>) -> Option<Json> {
        let name = match &self.0 {
            Family::VariableScaleDecimal(_) => numeric::VARIABLE_SCALE_NAME,
            Family::Point => point::NAME,
            _ => return None,
        };
        if defined.contains(&name) {
            return Some(json!(name));
        }
        defined.push(name);
        None
    }

    /// The field's Avro schema with these `connect.parameters`, which may be empty. A record that the schema has defined before
    /// is not defined again.
    #[must_use]
    pub fn schema(&self, parameters: Attributes, defined: &mut Vec<&'static str>) -> Json {
        match &self.0 {
            Family::Boolean | Family::BooleanOrBit => plain("boolean", parameters),
            Family::Int2 => integer::int16_schema(parameters),
            Family::Int4 => plain("int", parameters),
            Family::Int8 => plain("long", parameters),
            Family::Float4 => plain("float", parameters),
            Family::Float8 => plain("double", parameters),
            Family::Decimal { precision, scale } => numeric::decimal_schema(*precision, *scale, parameters),
            Family::VariableScaleDecimal(_) => numeric::variable_schema(parameters),
            Family::DecimalText(_) => plain("string", parameters),
            Family::DecimalDouble(_) => plain("double", parameters),
            Family::Bytea => plain("bytes", parameters),
            Family::ByteaText(_) => plain("string", parameters),
            Family::Date(form, _) => date::schema(*form, parameters),
            Family::Time(form, _) => time::schema(*form, parameters),
            Family::Timestamp(form, _) => timestamp::schema(*form, parameters),
            Family::Timestamptz { .. } => named("string", timestamptz::NAME, parameters),
            Family::Timetz(..) => named("string", timetz::NAME, parameters),
            Family::Interval => named("string", interval::NAME, parameters),
            Family::IntervalMicros => named("long", interval::MICROS_NAME, parameters),
            Family::Bit => plain("boolean", parameters),
            Family::Bits { limit, .. } => bits::schema(*limit, parameters),
            Family::Oid => plain("long", parameters),
            Family::Money => money::schema(parameters),
            Family::Point => point::schema(parameters),
            Family::Text(TextKind::Xml) => named("string", XML_NAME, parameters),
            Family::Text(TextKind::Tsvector | TextKind::RequiredTsvector) => named("string", TSVECTOR_NAME, parameters),
            Family::Text(TextKind::Uuid) => named("string", uuid::NAME, parameters),
            Family::Text(TextKind::Json { .. }) => named("string", json_text::NAME, parameters),
            Family::Hstore(mode) => hstore::schema(*mode, parameters),
            Family::Text(TextKind::Ltree) => named("string", LTREE_NAME, parameters),
            Family::Text(TextKind::Enum(labels) | TextKind::RequiredEnum(labels)) => enum_schema(labels, parameters),
            Family::Array(element, _) => {
                let items = element.defined(defined).unwrap_or_else(|| element.schema(Attributes::new(), defined));
                array_schema(if element.is_required() { items } else { json!(["null", items]) }, parameters)
            }
            Family::Text(TextKind::Text | TextKind::Bpchar | TextKind::Other { .. }) | Family::UnsentName => {
                plain("string", parameters)
            }
        }
    }

    /// SQL that a column is declared by when its writer did not say the source's type.
    #[must_use]
    pub const fn sql_name(&self) -> &'static str {
        match &self.0 {
            Family::Boolean | Family::BooleanOrBit => "boolean",
            Family::Int2 => "smallint",
            Family::Int4 => "integer",
            Family::Int8 => "bigint",
            Family::Float4 => "real",
            Family::Float8 => "double precision",
            Family::Decimal { .. }
            | Family::VariableScaleDecimal(_)
            | Family::DecimalText(_)
            | Family::DecimalDouble(_) => "numeric",
            Family::Bytea | Family::ByteaText(_) => "bytea",
            Family::Date(..) => "date",
            Family::Time(time::Form::Millis, _) => "time(3) without time zone",
            Family::Time(..) => "time without time zone",
            Family::Timestamp(timestamp::Form::Millis, _) => "timestamp(3) without time zone",
            Family::Timestamp(..) => "timestamp without time zone",
            Family::Timestamptz { .. } => "timestamp with time zone",
            Family::Timetz(..) => "time with time zone",
            Family::Interval | Family::IntervalMicros => "interval",
            Family::Bit => "bit(1)",
            Family::Bits { .. } => "bit varying",
            Family::Oid => "oid",
            Family::Money => "money",
            Family::Point => "point",
            Family::Text(TextKind::Xml) => "xml",
            Family::Text(TextKind::Tsvector | TextKind::RequiredTsvector) => "tsvector",
            Family::Text(TextKind::Uuid) => "uuid",
            Family::Text(TextKind::Json { binary: false }) => "json",
            Family::Text(TextKind::Json { binary: true }) => "jsonb",
            Family::Hstore(_) => "hstore",
            Family::Text(TextKind::Ltree) => "ltree",
            Family::Array(..) => "text[]",
            Family::Text(
                TextKind::Text
                | TextKind::Bpchar
                | TextKind::Enum(_)
                | TextKind::RequiredEnum(_)
                | TextKind::Other { .. },
            )
            | Family::UnsentName => "text",
        }
    }

    /// `connect.parameters` that describe the source column: Debezium's four, `walrelay.type`, and of a domain
    /// `walrelay.base`, the type below it, of bytes as text `walrelay.encoding`, of labels with commas `walrelay.labels`.
    #[must_use]
    pub fn column_parameters(&self, name: &str, ty: &ColumnType) -> Attributes {
        let source = self.source_type(ty);
        let mut parameters = Attributes::new();
        parameters.insert("__debezium.source.column.type".into(), json!(source.name));
        parameters.insert("__debezium.source.column.length".into(), json!(source.length.to_string()));
        parameters.insert("__debezium.source.column.scale".into(), json!(source.scale.to_string()));
        parameters.insert("__debezium.source.column.name".into(), json!(name));
        parameters.insert("walrelay.type".into(), json!(&*ty.sql));
        if matches!(ty.kind, TypeKind::Domain(_)) {
            parameters.insert("walrelay.base".into(), json!(&*ty.below_domains().sql));
        }
        // Elsewhere they are joined by commas.
        if let Some(labels) = self.labels().filter(|labels| labels.iter().any(|label| label.contains(','))) {
            let labels: Vec<&str> = labels.iter().map(|label| &**label).collect();
            parameters.insert("walrelay.labels".into(), json!(json!(labels).to_string()));
        }
        if let Some(encoding) = self.encoding() {
            parameters.insert("walrelay.encoding".into(), json!(encoding));
        }
        parameters
    }

    /// How the bytes of a value, or of its items, are written as text.
    fn encoding(&self) -> Option<&'static str> {
        match &self.0 {
            Family::ByteaText(mode) => mode.encoding(),
            Family::Array(element, _) => element.encoding(),
            _ => None,
        }
    }

    fn source_type(&self, ty: &ColumnType) -> SourceType {
        if let TypeKind::Domain(_) = ty.kind {
            return SourceType { name: other::source_type(ty).name, ..self.source_type(ty.below_domains()) };
        }
        let fraction = |base| {
            let digits = i64::from(time_digits(ty));
            // The JDBC driver reckons with two digits where one is declared.
            let shown = if digits == 1 { 2 } else { digits };
            (base + if shown > 0 { shown + 1 } else { 0 }, digits)
        };
        let timed = |name, base| {
            let (length, scale) = fraction(base);
            SourceType::new(name, length, scale)
        };
        match &self.0 {
            Family::Boolean | Family::BooleanOrBit => SourceType::new("BOOL", 1, 0),
            Family::Int2 => SourceType::new("INT2", 5, 0),
            Family::Int4 => SourceType::new("INT4", 10, 0),
            Family::Int8 => SourceType::new("INT8", 19, 0),
            Family::Float4 => SourceType::new("FLOAT4", 8, 8),
            Family::Float8 => SourceType::new("FLOAT8", 17, 17),
            Family::Decimal { precision, scale } => {
                SourceType::new("NUMERIC", i64::from(*precision), i64::from(*scale))
            }
            Family::DecimalText(Origin::Money) | Family::DecimalDouble(Origin::Money) => SourceType::unlimited("MONEY"),
            Family::VariableScaleDecimal(_) | Family::DecimalText(_) | Family::DecimalDouble(_) => {
                match numeric::precision_and_scale(ty.typmod) {
                    Some((precision, scale)) => SourceType::new("NUMERIC", i64::from(precision), i64::from(scale)),
                    None => SourceType::new("NUMERIC", 131_089, 0),
                }
            }
            Family::Text(TextKind::Text) if ty.oid == 1043 => text_type("VARCHAR", ty),
            Family::Text(TextKind::Text) => SourceType::unlimited("TEXT"),
            Family::Text(TextKind::Bpchar) => text_type("BPCHAR", ty),
            Family::Bytea | Family::ByteaText(_) => SourceType::unlimited("BYTEA"),
            Family::Date(..) => SourceType::new("DATE", 13, 0),
            Family::Time(..) => timed("TIME", 8),
            Family::Timestamp(..) => timed("TIMESTAMP", 22),
            Family::Timestamptz { .. } => timed("TIMESTAMPTZ", 28),
            Family::Timetz(..) => timed("TIMETZ", 14),
            Family::Interval | Family::IntervalMicros => SourceType::new("INTERVAL", 49, interval_scale(ty)),
            Family::Bit | Family::Bits { .. } => {
                let name = if ty.oid == 1560 { "BIT" } else { "VARBIT" };
                SourceType::new(name, bits::length(ty.typmod), 0)
            }
            Family::Oid => SourceType::new("OID", 10, 0),
            Family::Money => SourceType::unlimited("MONEY"),
            Family::Point => SourceType::unlimited("POINT"),
            Family::Text(TextKind::Xml) => SourceType::unlimited("XML"),
            Family::Text(TextKind::Tsvector | TextKind::RequiredTsvector) => SourceType::unlimited("TSVECTOR"),
            Family::Text(TextKind::Uuid) => SourceType::unlimited("UUID"),
            Family::Text(TextKind::Json { binary: false }) => SourceType::unlimited("JSON"),
            Family::Text(TextKind::Json { binary: true }) => SourceType::unlimited("JSONB"),
            Family::Array(element, _) => match &ty.kind {
                TypeKind::Array(ty) => element.source_type(ty).array(),
                _ => other::source_type(ty),
            },
            Family::Hstore(_)
            | Family::UnsentName
            | Family::Text(TextKind::Ltree | TextKind::Enum(_) | TextKind::RequiredEnum(_) | TextKind::Other { .. }) => {
                other::source_type(ty)
            }
        }
    }
}

fn enum_schema(labels: &[std::sync::Arc<str>], parameters: Attributes) -> Json {
    let mut all = Attributes::new();
    all.insert("allowed".into(), json!(labels.join(",")));
    all.extend(parameters);
    named("string", ENUM_NAME, all)
}

fn array_schema(items: Json, parameters: Attributes) -> Json {
    let mut schema = Attributes::new();
    schema.insert("type".into(), json!("array"));
    schema.insert("items".into(), items);
    if !parameters.is_empty() {
        schema.insert("connect.parameters".into(), Json::Object(parameters));
    }
    Json::Object(schema)
}

/// What the JDBC driver reports as the scale of an interval: its precision, which lies in the low half of the modifier.
const fn interval_scale(ty: &ColumnType) -> i64 {
    if ty.typmod < 0 { 6 } else { (ty.typmod & 0xFFFF) as i64 }
}

/// A character type with a length: its modifier is the length and four more.
fn text_type(name: &str, ty: &ColumnType) -> SourceType {
    match ty.typmod {
        5.. => SourceType::new(name, i64::from(ty.typmod) - 4, 0),
        _ => SourceType::unlimited(name),
    }
}
