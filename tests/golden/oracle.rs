//! apache-avro as an independent reader of what the encoder wrote, in the JSON notation of the golden data.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use serde_json::{Map, Value as Json, json};

/// A schema, and its decimals' scales by field name.
type Parsed = (Schema, Map<String, Json>);

thread_local! {
    static PARSED: RefCell<HashMap<String, Rc<Parsed>>> = RefCell::default();
}

/// The content of a framed key or value by its schema; fails unless apache-avro reads exactly its bytes.
pub fn read(schema: &str, framed: &[u8]) -> Json {
    assert_eq!(framed[0], 0);
    let parse = || Rc::new((Schema::parse_str(schema).unwrap(), scales(schema)));
    let parsed = PARSED.with_borrow_mut(|known| Rc::clone(known.entry(schema.to_owned()).or_insert_with(parse)));
    let mut body = &framed[5..];
    let value = GenericDatumReader::builder(&parsed.0).build().unwrap().read_value(&mut body).unwrap();
    assert!(body.is_empty(), "{} bytes are left over", body.len());
    to_json(&value, &parsed.1)
}

/// Scale by field name, which apache-avro's values do not carry.
fn scales(schema: &str) -> Map<String, Json> {
    fn walk(json: &Json, name: &str, scales: &mut Map<String, Json>) {
        match json {
            Json::Object(object) => {
                if object.get("logicalType") == Some(&json!("decimal")) {
                    scales.insert(name.to_owned(), object["scale"].clone());
                }
                let name = if object.contains_key("default") || object.contains_key("type") {
                    object.get("name").and_then(Json::as_str).unwrap_or(name)
                } else {
                    name
                };
                object.values().for_each(|inner| walk(inner, name, scales));
            }
            Json::Array(items) => items.iter().for_each(|inner| walk(inner, name, scales)),
            _ => {}
        }
    }
    let mut scales = Map::new();
    walk(&serde_json::from_str(schema).unwrap(), "", &mut scales);
    scales
}

fn to_json(value: &Value, scales: &Map<String, Json>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Int(value) | Value::Date(value) | Value::TimeMillis(value) => json!(value),
        Value::Long(value) | Value::TimestampMillis(value) => json!(value),
        Value::Float(value) => float(f64::from(*value)),
        Value::Double(value) => float(*value),
        Value::String(value) => json!(value),
        Value::Bytes(bytes) => json!({"$bytes": hex(bytes)}),
        Value::Union(_, inner) => to_json(inner, scales),
        Value::Record(fields) => {
            Json::Object(fields.iter().map(|(name, value)| (name.clone(), field_json(name, value, scales))).collect())
        }
        // In the order of their keys, since the reader keeps none.
        Value::Map(items) => {
            let items: BTreeMap<_, _> = items.iter().map(|(key, item)| (key.clone(), to_json(item, scales))).collect();
            Json::Object(items.into_iter().collect())
        }
        other => panic!("no column is written as {other:?}"),
    }
}

/// A decimal's scale is its field's, also in an array.
fn field_json(name: &str, value: &Value, scales: &Map<String, Json>) -> Json {
    match value {
        Value::Union(_, inner) => field_json(name, inner, scales),
        Value::Array(items) => Json::Array(items.iter().map(|item| field_json(name, item, scales)).collect()),
        Value::Decimal(_) => decimal(name, value, scales),
        _ => to_json(value, scales),
    }
}

fn float(value: f64) -> Json {
    match value {
        value if value.is_nan() => json!({"$float": "nan"}),
        f64::INFINITY => json!({"$float": "inf"}),
        f64::NEG_INFINITY => json!({"$float": "-inf"}),
        // Through text, since the golden side came through serde_json's parser, which is off by a bit at times.
        value => serde_json::from_str(&json!(value).to_string()).unwrap(),
    }
}

fn decimal(name: &str, value: &Value, scales: &Map<String, Json>) -> Json {
    let Value::Decimal(decimal) = value else { panic!("{name} is no decimal") };
    let bytes: Vec<u8> = decimal.try_into().unwrap();
    if bytes.len() > 16 {
        return json!({"$bytes": hex(&bytes)});
    }
    let fill = if bytes[0] & 0x80 == 0 { 0 } else { 0xFF };
    let mut wide = [fill; 16];
    wide[16 - bytes.len()..].copy_from_slice(&bytes);
    let number = i128::from_be_bytes(wide);
    let scale = usize::try_from(scales[name].as_u64().unwrap()).unwrap();
    let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale > 0 { "." } else { "" };
    json!({"$decimal": format!("{}{whole}{point}{fraction}", if number < 0 { "-" } else { "" })})
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
