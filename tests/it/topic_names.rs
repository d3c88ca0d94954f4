//! `[kafka.topics] names`: both halves follow the template, topics keep their names for as long as a slot has its state, and
//! topics that only look like a table's are taken for none.

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

/// Snapshot, changes, barriers, `verify` and `check` by topics with names of their own, beside those of the template.
#[tokio::test(flavor = "multi_thread")]
async fn topics_of_routes_carry_everything() {
    let mut scenario = Scenario::new("routes").await;
    let (name, of_things) = (scenario.name.clone(), scenario.topics_under("things-v2"));
    let mut routes = toml::Table::new();
    for (glob, topic) in [("public.things", &*of_things.name(&name)), ("s.*", "{prefix}.of-s-{table}")] {
        routes.insert(glob.to_owned(), topic.into());
    }
    scenario.settings.set("kafka.topics.routes", routes.clone());
    scenario.settings.set("apply.exclude", vec!["s.left_out"]);
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, t text); INSERT INTO things VALUES (1, 'a'); CREATE SCHEMA s;
             CREATE TABLE s.others (id int PRIMARY KEY, thing int REFERENCES things); INSERT INTO s.others VALUES (1, 1);
             CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1);
             CREATE TABLE s.left_out (id int PRIMARY KEY); INSERT INTO s.left_out VALUES (1)",
        )
        .await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario
        .source("TRUNCATE things, s.others; INSERT INTO things VALUES (2, 'b'); INSERT INTO s.others VALUES (2, 2)")
        .await;
    scenario
        .source("UPDATE things SET id = 3 WHERE false; UPDATE things SET t = 'c'; INSERT INTO plain VALUES (2)")
        .await;
    for table in ["things", "s.others", "plain"] {
        scenario.await_equal(table).await;
    }
    let topics = scenario.topics();
    assert!(of_things.read(&name).len() > 3 && !topics.read("of-s-others").is_empty());
    assert!(!topics.read("of-s-left_out").is_empty() && !topics.read("public.plain").is_empty());
    for topic in ["public.things", "s.others", "s.left_out"] {
        assert_eq!(topics.partitions(topic), 0, "{topic}");
    }
    assert_eq!(scenario.target_value("SELECT to_regclass('s.left_out')::text").await, None);
    scenario.verify();
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    // The slot has a state of these topics.
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    routes.remove("s.*");
    scenario.settings.set("kafka.topics.routes", routes);
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("[kafka.topics] names, messages and routes"), "{}", outcome.text);
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

/// Under this template, as under the prefix `walrelay`, walrelay's own topics have the form of tables' topics.
#[tokio::test(flavor = "multi_thread")]
async fn walrelay_s_own_topics_are_taken_for_no_table_s() {
    let mut scenario = Scenario::new("own").await;
    scenario.settings.set("kafka.topics.names", "{schema}.{table}.{prefix}");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.verify();
    let (status, body) = scenario.readiness("apply").await;
    assert_eq!(status, 200, "{body}");
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_topic_would_be_one_of_walrelay_s_own_is_refused() {
    let mut scenario = Scenario::new("taken").await;
    scenario.settings.set("kafka.topics.names", "{schema}.{table}.{prefix}");
    scenario.source("CREATE SCHEMA walrelay; CREATE TABLE walrelay.state (id int PRIMARY KEY)").await;
    let outcome = scenario.run_to_end("capture").await;
    assert_ne!(outcome.code, Some(0), "{}", outcome.text);
    for text in ["table walrelay.state", "walrelay's own topics", "kafka.topics.names"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}

/// The text between the names occurs in a table's name, too; the second glob has no exact pattern.
#[tokio::test(flavor = "multi_thread")]
async fn globs_leave_out_no_more_tables_than_at_capture() {
    let mut scenario = Scenario::new("globs").await;
    scenario.settings.set("kafka.topics.names", "{prefix}_{schema}_{table}");
    scenario.settings.set("apply.exclude", vec!["*.orders", "public.left?"]);
    for table in ["orders", "left1", "left_out", "old_orders"] {
        scenario.source(&format!("CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1)")).await;
    }
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO left1 VALUES (2); INSERT INTO left_out VALUES (2); TRUNCATE left1, old_orders").await;
    scenario.await_equal("left_out").await;
    scenario.await_equal("old_orders").await;
    scenario.verify();
    for table in ["orders", "left1"] {
        assert_eq!(scenario.target_value(&format!("SELECT to_regclass('{table}')::text")).await, None, "{table}");
    }
}

/// Its topic may be that of a table c in a schema a.b.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_left_out_by_the_other_reading_of_its_topic_is_not_missing() {
    let mut scenario = Scenario::new("readings").await;
    scenario.settings.set("apply.exclude", vec!["*.c"]);
    scenario.source("CREATE SCHEMA a; CREATE TABLE a.\"b.c\" (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO a.\"b.c\" VALUES (1); CREATE TABLE things (id int PRIMARY KEY)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (1)").await;
    scenario.await_equal("things").await;
    scenario.verify();
    assert_eq!(scenario.target_value("SELECT to_regclass('a.\"b.c\"')::text").await, None);
}

/// Topics of the prefix `<prefix>.eu` have the form of this one's.
#[tokio::test(flavor = "multi_thread")]
async fn another_source_s_events_are_told_and_not_applied() {
    let mut scenario = Scenario::new("alike").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let (_capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (1)").await;
    scenario.await_equal("things").await;
    scenario.source("DELETE FROM things").await;
    scenario.await_equal("things").await;
    let topics = scenario.topics();
    let records = topics.read("public.things");
    let insert = records.iter().find(|record| record.value.is_some()).expect("the insert");
    topics.create("eu.public.things", 1).await;
    topics.write("eu.public.things", 0, insert.key.as_deref(), insert.value.as_deref());
    let (topic, expected) = (topics.name("eu.public.things"), topics.name("public.things"));
    let told = async || {
        let (status, body) = scenario.readiness("apply").await;
        let texts = [&*topic, "partition 0, offset 0", "table public.things", &expected, "eu.public.things"];
        status == 503 && texts.into_iter().all(|text| body.contains(text)) && body.contains("another source")
    };
    await_condition("apply tells whose record it is", LIMIT, told).await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM things").await.as_deref(), Some("0"));
    apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("apply.exclude", vec!["eu.*"]);
    let _apply = scenario.apply().await;
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
    scenario.verify();
}
