//! What differs between two Avro schemas, field by field: registries tell it in words of their own, some without the field.

use std::collections::BTreeMap;

use serde_json::Value;

/// The fields that are not alike, as `Record.field`, with their types; empty if none is, or one of the texts is no JSON.
pub(super) fn difference(registered: &str, refused: &str) -> Vec<String> {
    let (Some(old), Some(new)) = (fields_of(registered), fields_of(refused)) else { return Vec::new() };
    let mut found = Vec::new();
    for (field, old_type) in &old {
        match new.get(field) {
            Some(new_type) if new_type == old_type => {}
            Some(new_type) => found.push(format!("field {field} is {new_type} instead of {old_type}")),
            None => found.push(format!("field {field} ({old_type}) is gone")),
        }
    }
    let added = new.iter().filter(|(field, _)| !old.contains_key(*field));
    found.extend(added.map(|(field, new_type)| format!("field {field} ({new_type}) is new")));
    found
}

/// A registry's reason without the registered schema, which Confluent's quotes whole among its details.
pub(super) fn without_schema(reason: &str) -> String {
    let parts = reason.split_once(", {oldSchema: '").and_then(|(before, rest)| {
        let end = ["'}, {", "'}]"].iter().filter_map(|end| rest.find(end)).min()?;
        Some([before, rest.get(end + "'}".len()..)?])
    });
    parts.map_or_else(|| reason.to_owned(), |parts| parts.concat())
}

fn fields_of(schema: &str) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    collect(&serde_json::from_str(schema).ok()?, &mut fields);
    Some(fields)
}

/// The nesting is bounded by the JSON parser.
fn collect(schema: &Value, fields: &mut BTreeMap<String, String>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| collect(branch, fields)),
        Value::Object(named) => {
            let record = named.get("name").and_then(Value::as_str).unwrap_or_default();
            for field in named.get("fields").and_then(Value::as_array).into_iter().flatten() {
                let (Some(name), Some(ty)) = (field.get("name").and_then(Value::as_str), field.get("type")) else {
                    continue;
                };
                let default = if field.get("default").is_some() { "" } else { " without a default" };
                fields.insert(format!("{record}.{name}"), format!("{}{default}", type_name(ty)));
                collect(ty, fields);
            }
            ["type", "items", "values"].iter().filter_map(|key| named.get(*key)).for_each(|ty| collect(ty, fields));
        }
        _ => {}
    }
}

/// A type in a few words, without attributes that no reader minds.
fn type_name(schema: &Value) -> String {
    match schema {
        Value::String(name) => name.clone(),
        Value::Array(branches) => branches.iter().map(type_name).collect::<Vec<_>>().join(" or "),
        Value::Object(named) => {
            let text = |key: &str| named.get(key).and_then(Value::as_str);
            let logical = text("logicalType").map(|logical| format!(" ({logical})")).unwrap_or_default();
            match (text("name"), text("type")) {
                (Some(name), Some(_)) => name.to_owned(),
                (_, Some(name)) => format!("{name}{logical}"),
                _ => named.get("type").map(type_name).unwrap_or_default(),
            }
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(fields: &str) -> String {
        format!(
            r#"{{"type":"record","name":"Envelope","fields":[
                {{"name":"before","type":["null",{{"type":"record","name":"Value","fields":[{fields}]}}],"default":null}},
                {{"name":"after","type":["null","Value"],"default":null}}]}}"#
        )
    }

    #[test]
    fn fields_that_changed_came_or_went_are_named_once_with_their_types() {
        let old = envelope(
            r#"{"name":"id","type":{"type":"int","connect.parameters":{"a":"1"}}},
               {"name":"n","type":["null",{"type":"long"}],"default":null},{"name":"gone","type":"string"}"#,
        );
        let new = envelope(
            r#"{"name":"id","type":{"type":"int","connect.parameters":{"a":"2"}}},
               {"name":"n","type":["null",{"type":"bytes","logicalType":"decimal"}],"default":null},
               {"name":"extra","type":"int"}"#,
        );
        let expected = [
            "field Value.gone (string without a default) is gone",
            "field Value.n is null or bytes (decimal) instead of null or long",
            "field Value.extra (int without a default) is new",
        ];
        assert_eq!(difference(&old, &new), expected);
    }

    #[test]
    fn a_reason_loses_the_schema_that_it_quotes_and_nothing_else() {
        let quoting =
            |schema| format!("not compatible, details: [{{oldSchemaVersion: 1}}{schema}, {{compatibility: 'FULL'}}]");
        let schema = r#", {oldSchema: '{"type":"record","fields":[{"name":"a","type":"int"}]}'}"#;
        assert_eq!(without_schema(&quoting(schema)), quoting(""));
        let last = "details: [{oldSchemaVersion: 1}, {oldSchema: '\"int\"'}]";
        assert_eq!(without_schema(last), "details: [{oldSchemaVersion: 1}]");
        for whole in ["READER_FIELD_MISSING_DEFAULT_VALUE: b", "a, {oldSchema: '"] {
            assert_eq!(without_schema(whole), whole);
        }
    }

    #[test]
    fn schemas_without_fields_and_texts_that_are_none_differ_in_no_field() {
        assert_eq!(
            difference("\"string\"", &envelope("")),
            ["field Envelope.after (null or Value) is new", "field Envelope.before (null or Value) is new"]
        );
        assert_eq!(difference("<html>", "\"int\""), [""; 0]);
    }
}
