//! Event keys: canonical bytes for the partitioner and the comparison of old and new, JSON for Debezium's headers.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value as Json, json};

use crate::{
    avro::{encode, name::escape},
    record::{
        error::EncodeError,
        plan::Plan,
        row::{RowSource, with_key_value},
    },
    types::Value,
};

/// Appends the framed key; nothing for a table without one.
pub(super) fn append(
    plan: &Plan,
    row: RowSource<'_>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if let Some(schema) = &plan.key_schema {
        out.extend_from_slice(&schema.prefix);
    }
    for column in &plan.key {
        with_key_value(plan, row, column, |value| encode::value(&value, scratch, out))?;
    }
    Ok(())
}

/// The key as Kafka Connect's JSON converter writes a struct without its schema.
pub(super) fn json(plan: &Plan, row: RowSource<'_>) -> Result<String, EncodeError> {
    let mut key = Map::new();
    for column in &plan.key {
        key.insert(escape(&column.name).into_owned(), with_key_value(plan, row, column, value_json)?);
    }
    Ok(Json::Object(key).to_string())
}

fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::Boolean(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Long(value) => json!(value),
        Value::Float(value) => float_json(f64::from(value), value.to_string()),
        Value::Double(value) => float_json(value, value.to_string()),
        Value::Text(value) => json!(value),
        Value::Short(value) => json!(value.as_str()),
        Value::Bytes(bytes) => base64(|out| bytes.append_to(out)),
        Value::Encoded(bytes, mode) => {
            let mut text = Vec::new();
            bytes.append_encoded_to(mode, &mut Vec::new(), &mut text);
            json!(String::from_utf8_lossy(&text))
        }
        Value::Array(array) => {
            let mut items = Vec::with_capacity(array.len());
            array.each(|item| items.push(item.map_or(Json::Null, value_json)));
            Json::Array(items)
        }
        Value::Hstore(pairs) => {
            let mut text = Vec::new();
            pairs.append_json_to(&mut text);
            json!(String::from_utf8_lossy(&text))
        }
        Value::Map(pairs) => {
            let mut object = Map::new();
            pairs.each(&mut Vec::new(), |key, value| {
                let value = value.map_or(Json::Null, |value| json!(String::from_utf8_lossy(value)));
                object.insert(String::from_utf8_lossy(key).into_owned(), value);
            });
            Json::Object(object)
        }
        Value::Bits(bits) => base64(|out| bits.append_to(out)),
        Value::Point { x, y } => json!({"x": x, "y": y}),
        Value::Decimal(unscaled) => base64(|out| unscaled.append_to(out)),
        Value::VariableScaleDecimal { scale, unscaled } => {
            json!({"scale": scale, "value": base64(|out| unscaled.append_to(out))})
        }
    }
}

/// JSON has no NaN and no infinities; Jackson quotes them.
fn float_json(number: f64, shortest: String) -> Json {
    if number.is_nan() {
        return json!("NaN");
    }
    if number.is_infinite() {
        return json!(if number > 0.0 { "Infinity" } else { "-Infinity" });
    }
    // A float's shortest digits, which are not those of the same number as a double.
    shortest.parse().map_or(Json::String(shortest), |number: f64| json!(number))
}

fn base64(append: impl FnOnce(&mut Vec<u8>)) -> Json {
    let mut bytes = Vec::new();
    append(&mut bytes);
    json!(STANDARD.encode(bytes))
}
