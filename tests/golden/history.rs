//! Schemas that were published once stay readable, and change only on purpose.

use std::{fs, path::PathBuf};

use walrelay::{
    avro::wire,
    record::{DecodeError, Decoder},
};

use crate::support::{MemoryStore, Pipe, golden, now};

/// Tables whose schemas show every shape of a field, with the file that keeps each.
const PUBLISHED: [(&str, &str); 8] = [
    ("ev_compkey", "composite key"),
    ("t_array", "arrays"),
    ("t_domain", "domains"),
    ("t_enum", "enumerations"),
    ("t_numeric", "decimals"),
    ("t_timestamp", "dates and times"),
    ("t_text", "texts"),
    ("t_uuid", "semantic key"),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("avro/history")
}

#[test]
fn today_s_schemas_are_the_newest_of_the_history() {
    let mut pipe = Pipe::new("shop");
    for (table, shows) in PUBLISHED {
        let plan = pipe.plan(&golden(table).relation);
        for (part, schema) in [("key", plan.key_schema().unwrap()), ("value", plan.value_schema())] {
            let path = folder().join(format!("{table}-{part}.1.avsc"));
            let kept = fs::read_to_string(&path).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(schema).unwrap();
            let today = format!("{}\n", serde_json::to_string_pretty(&json).unwrap());
            assert!(
                kept == today,
                "the {part} schema of {table} ({shows}) is not the newest in avro/history; if the change is meant and readers \
                 of the old one are safe, keep the old file and add this one:\n{today}"
            );
        }
    }
}

/// Each is an envelope of rows whose fields have a way to text, under the key schema of its version: what remains is that a record
/// without a byte does not match it.
#[test]
fn every_published_schema_is_readable() {
    let mut files = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let value_path = entry.unwrap().path();
        let name = value_path.file_name().unwrap().to_str().unwrap();
        if !name.contains("-value.") {
            continue;
        }
        let key_path = value_path.with_file_name(name.replace("-value.", "-key."));
        let store = MemoryStore::default();
        let mut decoder = Decoder::new(usize::MAX);
        for (id, path) in (1..).zip([&key_path, &value_path]) {
            let json = fs::read_to_string(path).unwrap();
            store.0.lock().unwrap().push((name.to_owned(), json));
            now(decoder.fetch("t", id, &store)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let read = decoder.decode("t", Some(&wire::prefix(1)), Some(&wire::prefix(2)), [], 0);
        assert!(matches!(read, Err(DecodeError::Bytes { .. })), "{name}: {read:?}");
        files += 1;
    }
    assert!(files >= PUBLISHED.len());
}
