//! How a family's Avro type is written down: Kafka Connect's attributes in the order in which its converter writes them.

use serde_json::{Map, Value, json};

/// Attributes of a type, or its fields.
pub(super) type Attributes = Map<String, Value>;

/// A plain Avro type, by its bare name when it has no parameters.
pub(super) fn plain(avro: &str, parameters: Attributes) -> Value {
    if parameters.is_empty() {
        return json!(avro);
    }
    let mut schema = Attributes::new();
    schema.insert("type".into(), json!(avro));
    schema.insert("connect.parameters".into(), Value::Object(parameters));
    Value::Object(schema)
}

/// An Avro type with a semantic name, at version 1.
pub(super) fn named(avro: &str, name: &str, parameters: Attributes) -> Value {
    let mut schema = Attributes::new();
    schema.insert("type".into(), json!(avro));
    schema.insert("connect.version".into(), json!(1));
    if !parameters.is_empty() {
        schema.insert("connect.parameters".into(), Value::Object(parameters));
    }
    schema.insert("connect.name".into(), json!(name));
    Value::Object(schema)
}

/// An Avro type with a semantic name at version 1 and a logical type that Avro defines.
pub(super) fn logical(avro: &str, logical: &str, name: &str, parameters: Attributes) -> Value {
    let mut schema = named(avro, name, parameters);
    schema["logicalType"] = json!(logical);
    schema
}

/// What Debezium's source type parameters say of a column (`column.propagate.source.type`).
pub(super) struct SourceType {
    pub(super) name: String,
    pub(super) length: i64,
    pub(super) scale: i64,
}

impl SourceType {
    /// A type without a length of its own.
    pub(super) fn unlimited(name: &str) -> Self {
        Self::new(name, i64::from(i32::MAX), 0)
    }

    /// The type of an array of these.
    pub(super) fn array(self) -> Self {
        Self { name: format!("_{}", self.name), ..self }
    }

    pub(super) fn new(name: &str, length: i64, scale: i64) -> Self {
        Self { name: name.to_owned(), length, scale }
    }
}
