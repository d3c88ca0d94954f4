//! `[kafka.topics] names`: both halves follow the template, and topics keep their names for as long as a slot has its state.

use crate::support::{LIMIT, Scenario, await_condition};

const NAMES: &str = "{prefix}.{database}-{table}-{schema}";

async fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("kafka.topics.names", NAMES);
    scenario.settings.set("kafka.topics.messages", "{prefix}.notes");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, t text); INSERT INTO things VALUES (1, 'a')").await;
    scenario
}

/// Rows, a truncate of two tables, which apply can only join by the topics' tables, and globs, which it turns into patterns.
#[tokio::test(flavor = "multi_thread")]
async fn topics_of_a_template_carry_everything() {
    let mut scenario = scenario("names").await;
    scenario.settings.set("apply.exclude", vec!["public.left_out"]);
    scenario
        .source(
            "CREATE TABLE others (id int PRIMARY KEY, thing int REFERENCES things); INSERT INTO others VALUES (1, 1);
             CREATE TABLE left_out (id int PRIMARY KEY); INSERT INTO left_out VALUES (1)",
        )
        .await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.source("SELECT pg_logical_emit_message(true, 'note', 'text')").await;
    scenario
        .source("TRUNCATE things, others; INSERT INTO things VALUES (2, 'b'); INSERT INTO others VALUES (2, 2)")
        .await;
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    let topics = scenario.topics();
    for table in ["things", "others", "left_out"] {
        let topic = format!("{}-{table}-public", scenario.name);
        assert!(!topics.read(&topic).is_empty(), "{topic}");
    }
    assert_eq!((topics.read("notes").len(), topics.partitions("public.things")), (1, 0));
    assert_eq!(scenario.target_value("SELECT to_regclass('left_out')::text").await, None);
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_under_a_slot_with_state_are_refused() {
    let mut scenario = scenario("renamed").await;
    let mut capture = scenario.capture().await;
    let topic = format!("{}-things-public", scenario.name);
    let copied = async || !scenario.topics().read(&topic).is_empty();
    await_condition("the snapshot has read the table", LIMIT, copied).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("kafka.topics.names", "{prefix}.{schema}.{table}");
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let (recorded, configured) = (format!("{0}.{0}-{{table}}-{{schema}}", scenario.name), "{schema}.{table}");
    for text in [&*recorded, configured, "[kafka.topics] names"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
    assert_eq!(scenario.topics().partitions("public.things"), 0);
    scenario.settings.set("kafka.topics.names", NAMES);
    scenario.source("INSERT INTO things VALUES (2, 'b')").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
}

/// Trap T57: apply would take the topic for another table's.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_topic_reads_as_another_s_is_refused() {
    let scenario = scenario("ambiguous").await;
    scenario.source("CREATE SCHEMA s; CREATE TABLE s.\"a-b\" (id int PRIMARY KEY)").await;
    let outcome = scenario.run_to_end("capture").await;
    assert_ne!(outcome.code, Some(0), "{}", outcome.text);
    for text in ["s.a-b", "b-s.a", "kafka.topics.names"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}
