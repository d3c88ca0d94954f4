//! Topics whose writer put bytes into texts (Debezium's `binary.handling.mode`): where the target has bytes, apply is told in
//! which encoding, or stops the table.

use std::{collections::BTreeMap, fs, path::PathBuf};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    debezium::{octets, registry},
    support::{LIMIT, Scenario, await_condition},
};

/// What Debezium wrote under a variant's settings, by topic.
#[derive(Deserialize)]
struct Recording {
    topics: BTreeMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
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
    fn recorded(variant: &str, table: &str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded").join(format!("{variant}.json"));
        let text = fs::read_to_string(path).expect("a recording");
        let mut recording: Recording = serde_json::from_str(&text).expect("JSON of this form");
        recording.topics.remove(&format!("public.{table}")).expect("the table's topic")
    }

    /// Writes the records into the topic of a table that has one partition, under the registry's ids.
    async fn publish(&self, scenario: &Scenario, table: &str) {
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

const BYTES: &str = "SELECT string_agg(id || ':' || coalesce(b::text, 'NULL'), ' ' ORDER BY id) FROM t_bytea";
const WRITTEN: &str = r"2:NULL 3:\x 4:\xdeadbeef 5:\xfbffbf 6:\xfb";

/// Rows, keys and arrays, also below a domain.
#[tokio::test(flavor = "multi_thread")]
async fn texts_become_bytes_where_the_target_has_bytes() {
    let mut scenario = Scenario::new("encoded").await;
    scenario.settings.set("format.binary", "base64");
    scenario
        .target(
            "CREATE DOMAIN octets AS bytea; CREATE TABLE t_bytea (id int PRIMARY KEY, b octets);
             CREATE TABLE m_key (d date, t time, ts timestamp, b bytea, n numeric, v text, PRIMARY KEY (d, t, ts, b, n));
             CREATE TABLE m_array (id int PRIMARY KEY, an102 text, an text, ats text, ats3 text, ad text, ati text, abt bytea[])",
        )
        .await;
    for table in ["t_bytea", "m_key", "m_array"] {
        Topic::recorded("types.connect", table).publish(&scenario, table).await;
    }
    let _apply = scenario.apply().await;
    scenario.await_target(BYTES, WRITTEN).await;
    scenario.await_target("SELECT string_agg(v || b::text, ' ') FROM m_key", r"stream\x00").await;
    let arrays = "SELECT string_agg(id || coalesce(abt::text, 'NULL'), ' ' ORDER BY id) FROM m_array";
    scenario.await_target(arrays, r#"1{"\\x00ff","\\xfbff"} 2NULL 3{}"#).await;
}

/// The schema tells that the column is one of bytes, and never how they were written.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_bytes_is_made_where_the_schema_tells_that_it_is_one() {
    let mut scenario = Scenario::new("encoded_made").await;
    scenario.settings.set("format.binary", "base64-url-safe");
    scenario.settings.set("format.unavailable_value", "not sent");
    Topic::recorded("types.isostring", "t_bytea").publish(&scenario, "t_bytea").await;
    let _apply = scenario.apply().await;
    scenario.await_target(BYTES, WRITTEN).await;
    let ty =
        "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 't_bytea'::regclass AND attname = 'b'";
    scenario.await_target(ty, "bytea").await;
}

/// PostgreSQL reads any text as bytes, so nothing else would tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_for_a_column_of_bytes_stops_the_table_while_its_encoding_is_not_known() {
    let scenario = Scenario::new("encoded_untold").await;
    scenario.target("CREATE TABLE t_bytea (id int PRIMARY KEY, b bytea)").await;
    scenario.target("CREATE TABLE m_array (id int PRIMARY KEY, an102 text, an text, ats text, ats3 text, ad text, ati text, abt bytea[])").await;
    for table in ["t_bytea", "m_array"] {
        Topic::recorded("types.microseconds", table).publish(&scenario, table).await;
    }
    let _apply = scenario.spawn_apply();
    let told = async || {
        let body = scenario.readiness("apply").await.1;
        ["table public.t_bytea", "column b", "table public.m_array", "column abt", "format.binary"]
            .iter()
            .all(|text| body.contains(text))
    };
    await_condition("apply names tables, columns and the key to set", LIMIT, told).await;
    scenario.await_target("SELECT count(*)::text FROM t_bytea", "0").await;
}

/// Texts in hexadecimal are none in base64.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_not_in_the_encoding_stops_the_table_and_shows_no_value() {
    let mut scenario = Scenario::new("encoded_else").await;
    scenario.settings.set("format.binary", "base64");
    scenario.target("CREATE TABLE t_bytea (id int PRIMARY KEY, b bytea)").await;
    Topic::recorded("types.microseconds", "t_bytea").publish(&scenario, "t_bytea").await;
    let _apply = scenario.spawn_apply();
    let body = async || scenario.readiness("apply").await.1;
    let told = async || {
        let body = body().await;
        ["offset 0", "column b", "base64", "format.binary"].iter().all(|text| body.contains(text))
    };
    await_condition("apply names the record and the encoding", LIMIT, told).await;
    assert!(!body().await.contains("00ff10"));
}
