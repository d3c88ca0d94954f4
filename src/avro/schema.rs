//! The schemas that are registered: Debezium's `Key`, `Envelope` and message records, attribute for attribute.
//!
//! Differences that are meant (EVENTS, marked +): unless [`Content`] says otherwise, column defaults are left out, every row
//! field but a key column is nullable, and `connect.parameters` name the source type, in `walrelay.type` with its modifiers;
//! `walrelay.nullable` is `false` there on a column that the source declares NOT NULL. A reader of old schemas must stay able to
//! read them (`avro/history/`).

use std::{collections::BTreeSet, sync::LazyLock};

use serde_json::{Map, Value, json};

use crate::{
    avro::{
        content::{ColumnDefaults, Content, Nullability, OwnHeaders, Parameters, UnknownTypes},
        flat::{DELETED, Flat, Metadata, Part},
        name::{escape, namespace},
    },
    schema::{Column, Relation},
    types::Codec,
};

/// Parameter with the column's whole SQL type.
pub const TYPE_PARAMETER: &str = "walrelay.type";
/// Parameter with the SQL type below a domain.
pub const BASE_PARAMETER: &str = "walrelay.base";
/// Parameter with the encoding in which bytes are a string.
pub const ENCODING_PARAMETER: &str = "walrelay.encoding";
/// How the parameters begin that Debezium gives columns too.
const SOURCE_COLUMN_PARAMETERS: &str = "__debezium.source.column.";
/// Parameter with the source type's bare name in capitals.
pub const SOURCE_TYPE_PARAMETER: &str = "__debezium.source.column.type";
/// Parameter that is `false` on a column declared NOT NULL.
pub const NULLABLE_PARAMETER: &str = "walrelay.nullable";
/// Parameter with the labels of an enumeration.
pub const ALLOWED_PARAMETER: &str = "allowed";
/// Parameter with the labels as a JSON array, where commas do not part them.
pub const LABELS_PARAMETER: &str = "walrelay.labels";
/// Parameter with the value, as text, of rows that are older than the column.
pub const MISSING_PARAMETER: &str = "walrelay.missing";
/// Parameter with the column's name as the source has it.
pub const NAME_PARAMETER: &str = "__debezium.source.column.name";
/// Attribute with the default of a type's field.
const DEFAULT: &str = "connect.default";
/// Attribute with the parameters.
pub const PARAMETERS: &str = "connect.parameters";
/// Full name of a logical message's key.
pub const MESSAGE_KEY: &str = "io.debezium.connector.postgresql.MessageKey";
/// Full name of a logical message's value.
pub const MESSAGE_VALUE: &str = "io.debezium.connector.postgresql.MessageValue";
/// Full name of the key of a transaction's begin and end.
pub const TRANSACTION_KEY: &str = "io.debezium.connector.common.TransactionMetadataKey";
/// Full name of a transaction's begin or end.
pub const TRANSACTION_VALUE: &str = "io.debezium.connector.common.TransactionMetadataValue";
/// Full name of a heartbeat's key.
pub const HEARTBEAT_KEY: &str = "io.debezium.connector.common.ServerNameKey";
/// Full name of a heartbeat's value.
pub const HEARTBEAT: &str = "io.debezium.connector.common.Heartbeat";

static SOURCE: LazyLock<Value> = LazyLock::new(|| fixed(include_str!("../../avro/source.avsc")));
static TRANSACTION: LazyLock<Value> = LazyLock::new(|| fixed(include_str!("../../avro/transaction.avsc")));
static MESSAGE: LazyLock<Value> = LazyLock::new(|| fixed(include_str!("../../avro/message.avsc")));

/// A schema as it goes to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Full name of the record.
    pub name: String,
    /// The schema as JSON.
    pub json: String,
}

impl Schema {
    /// The schema that is in use, where this one differs from it only in that enumerations have further labels, or in the
    /// defaults of columns: keys are written alike, and the id of another schema would move them to other partitions (trap T53).
    #[must_use]
    pub fn keep(self, used: Option<&str>) -> Self {
        let parsed = |json| serde_json::from_str::<Value>(json).ok();
        match (used, used.and_then(parsed), parsed(&self.json)) {
            (Some(used), Some(mut before), Some(mut now)) => {
                let (mut known, mut labels) = (Vec::new(), Vec::new());
                take_labels(&mut before, &mut known);
                take_labels(&mut now, &mut labels);
                take_defaults(&mut before);
                take_defaults(&mut now);
                let same = before == now && known.iter().zip(&labels).all(|(known, now)| known.is_subset(now));
                if same { Self { json: used.to_owned(), ..self } } else { self }
            }
            _ => self,
        }
    }
}

/// Takes the labels of all enumerations out of a schema, in its order. A label with a comma counts as two.
fn take_labels(schema: &mut Value, labels: &mut Vec<BTreeSet<String>>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(allowed)) = map.shift_remove("allowed") {
                labels.push(allowed.split(',').map(str::to_owned).collect());
            }
            map.values_mut().for_each(|value| take_labels(value, labels));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| take_labels(item, labels)),
        _ => {}
    }
}

/// Takes the defaults of all fields out of a schema. A type without attributes is its name.
fn take_defaults(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.shift_remove("default");
            map.shift_remove(DEFAULT);
            map.values_mut().for_each(take_defaults);
            if map.len() == 1
                && let Some(ty) = map.get("type").cloned()
            {
                *schema = ty;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(take_defaults),
        _ => {}
    }
}

/// The key schema of a topic, of the key's columns in order, with their defaults; `None` if there are none.
#[must_use]
pub fn key<'a>(topic: &str, columns: impl IntoIterator<Item = (&'a str, &'a Codec, Option<Value>)>) -> Option<Schema> {
    let mut defined = Vec::new();
    let mut field = |(name, codec, default): (&str, &Codec, Option<Value>)| {
        let ty = codec.defined(&mut defined).unwrap_or_else(|| codec.schema(Map::new(), &mut defined));
        match default {
            Some(default) => json!({"name": escape(name), "type": with_default(ty, &default), "default": default}),
            None => json!({"name": escape(name), "type": ty}),
        }
    };
    let fields: Vec<Value> = columns.into_iter().map(&mut field).collect();
    (!fields.is_empty()).then(|| record(&namespace(topic), "Key", &Value::Array(fields), None))
}

/// The value schema of a relation's topic.
#[must_use]
pub fn envelope(topic: &str, relation: &Relation, codecs: &[Codec], content: Content) -> Schema {
    let namespace = namespace(topic);
    let row = row_fields(relation, codecs, content);
    let row = json!({
        "type": "record",
        "name": "Value",
        "fields": row,
        "connect.name": format!("{namespace}.Value"),
    });
    let fields = json!([
        {"name": "before", "type": ["null", row], "default": null},
        {"name": "after", "type": ["null", "Value"], "default": null},
        {"name": "source", "type": *SOURCE},
        {"name": "transaction", "type": ["null", *TRANSACTION], "default": null},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": null},
        {"name": "ts_us", "type": ["null", "long"], "default": null},
        {"name": "ts_ns", "type": ["null", "long"], "default": null},
    ]);
    record(&namespace, "Envelope", &fields, Some(2))
}

/// The schema of flat records of a relation's topic: the row's record with further fields, each of which can be null.
///
/// # Errors
/// The name of a further field that a column, or another one, has too.
pub fn flat(
    topic: &str,
    relation: &Relation,
    codecs: &[Codec],
    content: Content,
    flat: &Flat,
) -> Result<Schema, String> {
    let mut fields = row_fields(relation, codecs, content);
    let optional = |name: &str, ty: Value| json!({"name": name, "type": ["null", ty], "default": null});
    let deleted = flat.deletes.is_rewritten().then(|| optional(DELETED, json!("string")));
    let further = flat.fields.iter().map(|Metadata { part, name }| optional(&escape(name), part_type(*part)));
    for field in deleted.into_iter().chain(further) {
        if fields.iter().any(|known| known["name"] == field["name"]) {
            return Err(field["name"].as_str().unwrap_or_default().to_owned());
        }
        fields.push(field);
    }
    Ok(record(&namespace(topic), "Value", &Value::Array(fields), None))
}

/// The type of a part of the envelope, without null.
fn part_type(part: Part) -> Value {
    let (block, name) = match part {
        Part::Op => return json!("string"),
        Part::TsMs | Part::TsUs | Part::TsNs => return json!("long"),
        Part::Source(part) => (&*SOURCE, part.name()),
        Part::Transaction(part) => (&*TRANSACTION, part.name()),
    };
    let fields = block["fields"].as_array().map_or(&[][..], Vec::as_slice);
    let declared = fields.iter().find(|field| field["name"] == name).map_or(&Value::Null, |field| &field["type"]);
    let branches = declared.as_array().map_or(std::slice::from_ref(declared), Vec::as_slice);
    let mut ty = branches.iter().find(|branch| **branch != "null").cloned().unwrap_or_else(|| json!("string"));
    if let Some(attributes) = ty.as_object_mut() {
        // The field's own default is null.
        attributes.shift_remove(DEFAULT);
    }
    ty
}

/// The key schema of logical messages.
#[must_use]
pub fn message_key() -> Schema {
    Schema { name: MESSAGE_KEY.into(), json: fixed(include_str!("../../avro/message_key.avsc")).to_string() }
}

/// The key schema of begins and ends of transactions.
#[must_use]
pub fn transaction_key() -> Schema {
    Schema {
        name: TRANSACTION_KEY.into(),
        json: fixed(include_str!("../../avro/transaction_metadata_key.avsc")).to_string(),
    }
}

/// The value schema of begins and ends of transactions.
#[must_use]
pub fn transaction_value() -> Schema {
    Schema {
        name: TRANSACTION_VALUE.into(),
        json: fixed(include_str!("../../avro/transaction_metadata.avsc")).to_string(),
    }
}

/// The key schema of heartbeats.
#[must_use]
pub fn heartbeat_key() -> Schema {
    Schema { name: HEARTBEAT_KEY.into(), json: fixed(include_str!("../../avro/heartbeat_key.avsc")).to_string() }
}

/// The value schema of heartbeats.
#[must_use]
pub fn heartbeat_value() -> Schema {
    Schema { name: HEARTBEAT.into(), json: fixed(include_str!("../../avro/heartbeat.avsc")).to_string() }
}

/// The value schema of logical messages.
#[must_use]
pub fn message_value() -> Schema {
    let mut source = SOURCE.clone();
    if let Some(source) = source.as_object_mut() {
        source.shift_remove("namespace");
    }
    let fields = json!([
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": null},
        {"name": "source", "type": source},
        {"name": "transaction", "type": ["null", *TRANSACTION], "default": null},
        {"name": "message", "type": *MESSAGE},
    ]);
    record("io.debezium.connector.postgresql", "MessageValue", &fields, Some(1))
}

/// Whether a row has no field for a column. One of the key has: without it rows could not be told apart.
#[must_use]
pub fn is_omitted(relation: &Relation, index: usize, unknown: UnknownTypes) -> bool {
    let is_unknown = |column: &Column| !column.ty.is_known_to_debezium();
    unknown == UnknownTypes::Omitted && !relation.is_key(index) && relation.columns.get(index).is_some_and(is_unknown)
}

/// The default that the schema has for a column, as PostgreSQL's text.
#[must_use]
pub fn default_text(column: &Column, codec: &Codec, content: Content) -> Option<String> {
    let expression = column.default.as_deref().filter(|_| content.column_defaults == ColumnDefaults::Source)?;
    codec.default_text(&column.ty, expression)
}

/// Notes what the records of a version lack under these forms, so that a later version's schema reads them also where it has that
/// under other ones: columns that are left out, and defaults.
pub fn note_lacking(relation: &mut Relation, content: Content) {
    for index in 0..relation.columns.len() {
        let omitted = is_omitted(relation, index, content.unknown_types);
        let column = &mut relation.columns[index];
        column.added |= omitted;
        if content.column_defaults == ColumnDefaults::None {
            column.default = None;
        }
    }
}

/// Whether a row's field is written without a union with null. With a default, it need not be null in the records that lack it.
#[must_use]
pub fn is_required(relation: &Relation, index: usize, has_default: bool, nullability: Nullability) -> bool {
    let is_kept = |column: &Column| !column.optional && (has_default || !column.added);
    let is_declared = |column: &Column| match nullability {
        Nullability::Widened => false,
        Nullability::Source => !column.nullable && is_kept(column),
        Nullability::Declared => !column.nullable,
    };
    relation.is_key(index) || relation.columns.get(index).is_some_and(is_declared)
}

fn row_fields(relation: &Relation, codecs: &[Codec], content: Content) -> Vec<Value> {
    let mut defined = Vec::new();
    (0..relation.columns.len())
        .filter(|index| !is_omitted(relation, *index, content.unknown_types))
        .filter_map(|index| Some(row_field(relation, index, codecs.get(index)?, content, &mut defined)))
        .collect()
}

fn row_field(
    relation: &Relation,
    index: usize,
    codec: &Codec,
    content: Content,
    defined: &mut Vec<&'static str>,
) -> Value {
    let column = &relation.columns[index];
    let mut parameters = codec.column_parameters(&column.name, &column.ty);
    if !column.nullable {
        parameters.insert(NULLABLE_PARAMETER.into(), json!("false"));
    }
    if let Some(missing) = &column.missing {
        parameters.insert(MISSING_PARAMETER.into(), json!(&**missing));
    }
    // Without its encoding nobody can tell bytes as text from text; where walrelay's headers are left out too, apply is told.
    parameters.retain(|name, _| match content.parameters {
        _ if name == ENCODING_PARAMETER && content.own_headers == OwnHeaders::Written => true,
        Parameters::All => true,
        Parameters::SourceType => name.starts_with(SOURCE_COLUMN_PARAMETERS),
        Parameters::None => false,
    });
    let mut field = Map::new();
    field.insert("name".into(), json!(escape(&column.name)));
    let default = default_text(column, codec, content).and_then(|text| codec.default_json(&text));
    let nullable = !is_required(relation, index, default.is_some(), content.nullability);
    // A default is of the first branch's type.
    let union = |ty: Value| match &default {
        _ if !nullable => ty,
        None => json!(["null", ty]),
        Some(_) => json!([ty, "null"]),
    };
    if let Some(name) = codec.defined(defined) {
        field.insert("type".into(), union(name));
        if content.parameters == Parameters::All {
            // A type that is only named cannot have parameters, so its field has them.
            field.insert(PARAMETERS.into(), Value::Object(parameters));
        }
    } else {
        let ty = codec.schema(parameters, defined);
        let ty = match &default {
            Some(default) => with_default(ty, default),
            None => ty,
        };
        field.insert("type".into(), union(ty));
    }
    if default.is_some() || nullable {
        field.insert("default".into(), default.unwrap_or_default());
    }
    Value::Object(field)
}

/// A type with the default of its field, in the place where Kafka Connect's converters have it.
fn with_default(ty: Value, default: &Value) -> Value {
    const BEHIND: [&str; 3] = ["connect.name", "connect.type", "logicalType"];
    let Value::Object(mut attributes) = ty else { return json!({"type": ty, DEFAULT: default}) };
    let place = attributes.keys().position(|name| BEHIND.contains(&name.as_str())).unwrap_or(attributes.len());
    attributes.shift_insert(place, DEFAULT.into(), default.clone());
    Value::Object(attributes)
}

fn record(namespace: &str, name: &str, fields: &Value, version: Option<u32>) -> Schema {
    let full = format!("{namespace}.{name}");
    let mut schema = Map::new();
    schema.insert("type".into(), json!("record"));
    schema.insert("name".into(), json!(name));
    schema.insert("namespace".into(), json!(namespace));
    schema.insert("fields".into(), fields.clone());
    if let Some(version) = version {
        schema.insert("connect.version".into(), json!(version));
    }
    schema.insert("connect.name".into(), json!(full));
    Schema { name: full, json: Value::Object(schema).to_string() }
}

fn fixed(text: &str) -> Value {
    serde_json::from_str(text).expect("the files of avro/ are JSON, as their own test checks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_parts_are_avro_schemas() {
        for text in [&*SOURCE, &*TRANSACTION, &*MESSAGE].map(ToString::to_string) {
            apache_avro::Schema::parse_str(&text).unwrap();
        }
        for schema in [message_key(), heartbeat_key(), heartbeat_value(), transaction_key(), transaction_value()] {
            assert_eq!(apache_avro::Schema::parse_str(&schema.json).unwrap().name().unwrap().to_string(), schema.name);
        }
        apache_avro::Schema::parse_str(&message_value().json).unwrap();
    }

    // trap T53
    #[test]
    fn a_key_schema_in_use_is_kept_while_an_enumeration_only_gains_labels() {
        let schema = |allowed: &str, name: &str| {
            let ty = json!({"type": "string", "connect.parameters": {"allowed": allowed}});
            let fields = json!([{"name": name, "type": ty}]);
            Schema { name: "Key".into(), json: json!({"type": "record", "fields": fields}).to_string() }
        };
        let used = schema("sad,happy", "allowed");
        let kept = |schema: Schema| schema.keep(Some(&used.json)).json == used.json;
        assert!(kept(schema("sad,ok,happy", "allowed")));
        for other in [schema("sad,glad", "allowed"), schema("sad", "allowed"), schema("sad,happy", "mood")] {
            assert!(!kept(other));
        }
    }

    // trap T53
    #[test]
    fn a_key_schema_in_use_is_kept_while_only_defaults_differ() {
        let codec =
            Codec::of_column(&crate::types::ColumnType::base(23, -1, "integer"), crate::types::Modes::default());
        let schema = |default: Option<i32>| key("p.public.t", [("id", &codec, default.map(Value::from))]).unwrap();
        let all = [None, Some(0), Some(1)];
        for used in all.map(schema) {
            apache_avro::Schema::parse_str(&used.json).unwrap();
            for now in all.map(schema) {
                assert_eq!(now.keep(Some(&used.json)).json, used.json);
            }
        }
        assert_ne!(schema(Some(0)).json, schema(None).json);
    }
}
