//! Topics as Debezium wrote them (`tests/golden/recorded`), written into those of a scenario.

use std::{collections::BTreeMap, fs, path::PathBuf};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    debezium::{octets, registry},
    support::Scenario,
};

/// What Debezium wrote under a variant's settings, by topic.
#[derive(Deserialize)]
struct Recording {
    topics: BTreeMap<String, Topic>,
}

#[derive(Deserialize)]
pub struct Topic {
    /// By id.
    schemas: BTreeMap<u32, Json>,
    records: Vec<Recorded>,
}

/// Key and value in hexadecimal.
#[derive(Deserialize)]
struct Recorded {
    key: Option<String>,
    value: Option<String>,
}

impl Topic {
    /// What Debezium wrote of a table under a variant's settings.
    pub fn recorded(variant: &str, table: &str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded").join(format!("{variant}.json"));
        let text = fs::read_to_string(path).expect("a recording");
        let mut recording: Recording = serde_json::from_str(&text).expect("JSON of this form");
        recording.topics.remove(&format!("public.{table}")).expect("the table's topic")
    }

    /// Writes the records into the topic of a table that has one partition, under the registry's ids.
    pub async fn publish(&self, scenario: &Scenario, table: &str) {
        let (registry, topics, name) = (registry(scenario), scenario.topics(), format!("public.{table}"));
        topics.create(&name, 1).await;
        let subjects = self.schemas.iter().map(async |(id, schema)| {
            let subject = topics.name(&format!("debezium.{table}.{id}"));
            (*id, registry.register_schema(&subject, &schema.to_string()).await.expect("an id"))
        });
        let ids: BTreeMap<u32, u32> = join_all(subjects).await.into_iter().collect();
        let framed = |hex: &String| {
            let octets = octets(hex);
            let id = u32::from_be_bytes(octets[1..5].try_into().expect("four octets"));
            [&[0][..], &ids[&id].to_be_bytes(), &octets[5..]].concat()
        };
        let records: Vec<_> = self
            .records
            .iter()
            .map(|record| (record.key.as_ref().map(framed), record.value.as_ref().map(framed)))
            .collect();
        topics.write_all(&name, 0, records.iter().map(|(key, value)| (key.as_deref(), value.as_deref())));
    }
}
