//! `hstore`: Avro `string` with a JSON object of texts and nulls, `io.debezium.data.Json`, or `map` of nullable strings.

use serde_json::{Map, Value as Json, json};

use super::{
    hstore_json::HstoreText,
    json as json_text,
    modes::HstoreMode,
    semantic::{Attributes, named},
    value::{Parsed, RenderError, Value},
};

/// The field's schema.
pub(super) fn schema(mode: HstoreMode, parameters: Attributes) -> Json {
    if mode == HstoreMode::Json {
        return named("string", json_text::NAME, parameters);
    }
    let mut schema = json!({"type": "map", "values": ["null", "string"]});
    if !parameters.is_empty() {
        schema["connect.parameters"] = Json::Object(parameters);
    }
    schema
}

pub(super) fn parse(text: &str, mode: HstoreMode) -> Parsed<'_> {
    match HstoreText::new(text) {
        Some(pairs) if mode == HstoreMode::Map => Parsed::Value(Value::Map(pairs)),
        Some(pairs) => Parsed::Value(Value::Hstore(pairs)),
        None => Parsed::Unrepresentable { stand_in: Value::Text("") },
    }
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let failed = RenderError("hstore");
    let Value::Text(text) = value else { return Err(failed) };
    let pairs: Map<String, Json> = serde_json::from_str(text).map_err(|_| failed)?;
    let start = out.len();
    for (key, value) in &pairs {
        let value = match value {
            Json::Null => None,
            Json::String(text) => Some(text.as_str()),
            _ => return Err(failed),
        };
        append_pair(key, value, start, out);
    }
    Ok(())
}

/// Appends a pair to an `hstore` whose text begins at `start`.
pub fn append_pair(key: &str, value: Option<&str>, start: usize, out: &mut Vec<u8>) {
    if out.len() > start {
        out.extend_from_slice(b", ");
    }
    append_quoted(key, out);
    out.extend_from_slice(b"=>");
    match value {
        Some(text) => append_quoted(text, out),
        None => out.extend_from_slice(b"NULL"),
    }
}

fn append_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Option<String> {
        let Parsed::Value(Value::Hstore(hstore)) = parse(text, HstoreMode::Json) else { return None };
        let mut out = Vec::new();
        hstore.append_json_to(&mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn pairs_become_a_json_object_and_come_back() {
        for (text, object) in [
            ("", "{}"),
            (r#""k"=>"v", "n"=>NULL"#, r#"{"k":"v","n":null}"#),
            (r#"""=>"""#, r#"{"":""}"#),
            (r#""a\"b"=>"c\\d", "é"=>"=>, ""#, r#"{"a\"b":"c\\d","é":"=>, "}"#),
            ("\"l\"=>\"\n\t\u{1}\"", "{\"l\":\"\\n\\t\\u0001\"}"),
            (r#""NULL"=>"NULL""#, r#"{"NULL":"NULL"}"#),
        ] {
            assert_eq!(json(text).as_deref(), Some(object));
            let mut back = Vec::new();
            render(Value::Text(object), &mut back).unwrap();
            assert_eq!(String::from_utf8(back).unwrap(), text);
        }
    }

    #[test]
    fn what_the_server_does_not_write_is_not_guessed_at() {
        for text in [
            "a=>1",
            "\"a\"",
            "\"a\"=>",
            "\"a\"=>\"b\",",
            "\"a\"=>\"b\", ",
            "\"a\"=>\"b\"\"c\"=>\"d\"",
            "\"a\\\"=>\"b\"",
        ] {
            assert_eq!(json(text), None, "{text}");
        }
        for object in ["", "[]", "{\"a\":1}", "{\"a\":{}}"] {
            assert!(render(Value::Text(object), &mut Vec::new()).is_err(), "{object}");
        }
    }
}
