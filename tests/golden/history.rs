//! Schemas that were published once stay readable, and change only on purpose.

use std::{fs, path::PathBuf};

use walrelay::avro::writer::Writer;

use crate::support::{Pipe, golden};

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

#[test]
fn every_published_schema_is_readable() {
    let mut files = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        Writer::parse(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        files += 1;
    }
    assert!(files >= 2 * PUBLISHED.len());
}
