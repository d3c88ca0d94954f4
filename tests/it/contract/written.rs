//! What Debezium wrote for these tables: `tests/golden/data`, with `contract.CONFIGURATION.json` for what the files of single tables
//! do not hold (`ev_ddl` in all of its versions, `ev_toast` in all of its columns, messages, transactions).

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};
use walrelay::schema::Relation;

/// A table's topic.
pub struct Topic {
    /// As the catalog described it at first.
    pub relation: Relation,
    /// The schema of keys.
    pub key: Json,
    /// The schemas of values, oldest first.
    pub values: Vec<Json>,
    /// The records in order.
    pub events: Vec<Event>,
}

/// A record as it was read.
#[derive(Clone, Deserialize)]
pub struct Event {
    /// The key's bytes with a schema id in front, in hexadecimal.
    pub key_hex: Option<String>,
    /// What the value holds; null is a tombstone.
    pub value: Json,
    /// Headers but those of the context.
    pub headers: Map<String, Json>,
    /// Which of the topic's schemas the value has: the first where it is not said.
    #[serde(default)]
    pub schema: Option<usize>,
}

/// One configuration's topics.
pub struct Written {
    /// By table.
    pub tables: BTreeMap<&'static str, Topic>,
    /// The topic of messages.
    pub messages: Beside,
    /// The topic of transactions: values.
    pub transactions: Vec<Json>,
}

/// A topic that is no table's.
pub struct Beside {
    /// The schema of keys.
    pub key: Json,
    /// The schema of values.
    pub value: Json,
    /// The records in order.
    pub events: Vec<Event>,
}

#[derive(Deserialize)]
struct Table {
    relation: Relation,
    #[serde(flatten)]
    configurations: BTreeMap<String, Json>,
}

#[derive(Deserialize)]
struct OneVersion {
    key: Json,
    value: Json,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct AllVersions {
    key: Json,
    values: Vec<Json>,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Whole {
    ev_ddl: AllVersions,
    ev_toast: AllVersions,
    messages: Vec<Event>,
    transactions: Vec<Json>,
}

#[derive(Deserialize)]
struct Schemas {
    key: Json,
    value: Json,
}

fn data<T: DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(format!("{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).expect("the golden data")).expect("JSON of this form")
}

/// Schemas name their topic's prefix, which is another one here.
fn under_prefix(schema: &Json, theirs: &str, ours: &str) -> Json {
    serde_json::from_str(&schema.to_string().replace(&format!("\"{theirs}."), &format!("\"{ours}."))).expect("JSON")
}

impl Written {
    /// What was written under a configuration, `default` or `lossless`, its schemas under the given prefix.
    pub fn read(configuration: &str, prefix: &str) -> Self {
        let theirs = format!("g{configuration}");
        let whole: Whole = data(&format!("contract.{configuration}"));
        let mut tables: BTreeMap<_, _> = super::differences::TABLES
            .iter()
            .map(|table| (*table, Topic::one_version(&data(table), configuration)))
            .collect();
        for (table, versions) in [("ev_ddl", whole.ev_ddl), ("ev_toast", whole.ev_toast)] {
            let AllVersions { key, values, events } = versions;
            let topic = tables.get_mut(table).expect("a table");
            (topic.key, topic.values, topic.events) = (key, values, events);
        }
        for topic in tables.values_mut() {
            for schema in std::iter::once(&mut topic.key).chain(&mut topic.values) {
                *schema = under_prefix(schema, &theirs, prefix);
            }
        }
        // Recorded under one configuration; they are the same under the other.
        let Schemas { key, value } = data("message");
        let [key, value] = [key, value].map(|schema| under_prefix(&schema, "glossless", prefix));
        let messages = Beside { key, value, events: whole.messages };
        Self { tables, messages, transactions: whole.transactions }
    }
}

impl Topic {
    fn one_version(table: &Table, configuration: &str) -> Self {
        let version = table.configurations[configuration].clone();
        let OneVersion { key, value, events } = serde_json::from_value(version).expect("a topic");
        Self { relation: table.relation.clone(), key, values: vec![value], events }
    }
}
