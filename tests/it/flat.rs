//! `[format] records = "flat"`: what other consumers find in the topics, that capture goes on past what has no flat form, and that
//! apply refuses such topics.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::support::{LIMIT, Scenario, await_condition, newest_schema};

const TABLE: &str = "public.things";

async fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("format.records", "flat");
    scenario.settings.set("format.flat.headers", vec!["op", "source.table"]);
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, t text); INSERT INTO things VALUES (1, 'first')").await;
    scenario
}

/// How many records of the topic have each operation in their header.
fn operations(scenario: &Scenario) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in scenario.topics().read(TABLE) {
        assert_eq!(record.value.is_none(), record.headers["__op"] == "d", "{record:?}");
        assert!(record.headers.contains_key("walrelay.pos"), "{record:?}");
        assert_eq!(record.headers["__source_table"], "things");
        *counts.entry(record.headers["__op"].clone()).or_default() += 1;
    }
    counts
}

async fn await_confirmed(scenario: &Scenario) {
    let position = scenario.source_value("SELECT pg_current_wal_insert_lsn()").await.expect("a position");
    let confirmed = async || {
        let Some(confirmed) = scenario.confirmed_flush().await else { return false };
        let sql = format!("SELECT '{confirmed}'::pg_lsn >= '{position}'::pg_lsn");
        scenario.source_value(&sql).await.as_deref() == Some("t")
    };
    await_condition("capture has confirmed everything", LIMIT, confirmed).await;
}

/// A truncate is no record, but an event: the slot moves on behind it, and a session after it begins there.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_published_without_envelopes_and_a_truncate_is_passed() {
    let scenario = scenario("flat").await;
    let mut capture = scenario.capture().await;
    let copied = async || !scenario.topics().read(TABLE).is_empty();
    await_condition("the snapshot has read the table", LIMIT, copied).await;
    scenario.source("UPDATE things SET t = 'other'; DELETE FROM things; INSERT INTO things VALUES (2, 'second')").await;
    scenario.source("BEGIN; TRUNCATE things; INSERT INTO things VALUES (3, 'third'); COMMIT").await;
    scenario.source("INSERT INTO things VALUES (4, 'fourth'); UPDATE things SET id = 5 WHERE id = 4").await;
    await_confirmed(&scenario).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    let mut capture = scenario.capture().await;
    scenario.source("TRUNCATE things; INSERT INTO things VALUES (6, 'sixth')").await;
    await_confirmed(&scenario).await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    let counts = operations(&scenario);
    let expected = [("r", 1), ("c", 5), ("u", 1), ("d", 2)];
    assert_eq!(counts, expected.map(|(op, count)| (op.to_owned(), count)).into());
    let third = scenario.topics().read(TABLE).into_iter().find(|record| record.holds("third")).expect("the row");
    assert!(third.headers["walrelay.pos"].ends_with(":2"), "the truncate has the first position: {third:?}");
    let schema = newest_schema(&scenario, &format!("{}-value", scenario.topics().name(TABLE))).await;
    assert_eq!((&schema["name"], &schema["fields"][1]["name"]), (&Json::from("Value"), &Json::from("t")));
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_refuses_a_flat_topic_with_its_place_and_what_to_set() {
    let scenario = scenario("flat_refused").await;
    let (_capture, mut apply) = (scenario.capture().await, scenario.spawn_apply());
    let topic = scenario.topics().name(TABLE);
    let told = async || {
        let (status, body) = scenario.readiness("apply").await;
        status == 503 && [&*topic, "flat record", "partition", "offset"].iter().all(|text| body.contains(text))
    };
    await_condition("apply names topic, partition and offset", LIMIT, told).await;
    apply.check_alive().unwrap_or_else(|error| panic!("{error}"));
    assert!(scenario.log_text("apply").contains("format.records"), "{}", scenario.log_text("apply"));
    assert_eq!(scenario.target_value("SELECT to_regclass('things')::text").await, None);

    let check = tokio::task::block_in_place(|| scenario.run(&["check", "--json"]));
    let report: Json = serde_json::from_str(&check.text).unwrap_or_else(|_| panic!("not JSON: {}", check.text));
    let findings = report["findings"].as_array().expect("a list");
    let about = findings.iter().find(|finding| finding["subject"] == "format.records").expect("a finding");
    assert_eq!(about["verdict"], "warning");
}
