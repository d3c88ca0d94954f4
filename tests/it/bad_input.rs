//! Wrong configurations and wrong surroundings: one clear error with the name of the thing, and nothing lost.

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

/// A source with one table and one row.
async fn scenario(name: &str) -> Scenario {
    let scenario = Scenario::new(name).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, t text); INSERT INTO things VALUES (1, 'a')").await;
    scenario
}

/// The half gives up with this exit code, and its error holds all these texts.
async fn gives_up(scenario: &Scenario, half: &'static str, code: i32, texts: &[&str]) {
    let outcome = scenario.run_to_end(half).await;
    assert_eq!(outcome.code, Some(code), "{}", outcome.text);
    for text in texts {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_the_source_ends_capture() {
    let mut scenario = scenario("password").await;
    scenario.settings.set("source.password", "wrong");
    let user = scenario.parts.user.clone();
    gives_up(&scenario, "capture", 3, &["password authentication failed", &user]).await;
    assert!(!scenario.log_text("capture").contains("wrong"), "a secret in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_the_target_ends_apply() {
    let mut scenario = scenario("password").await;
    scenario.settings.set("target.password", "wrong");
    gives_up(&scenario, "apply", 3, &["password authentication failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_told_with_the_nearest_one() {
    let mut scenario = scenario("key").await;
    scenario.settings.set("capture.publicaton", "x");
    gives_up(&scenario, "capture", 2, &["capture.publicaton", "publication", "walrelay.toml"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_source_is_tried_again() {
    let mut scenario = scenario("unreachable").await;
    scenario.settings.set("source.port", 9);
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "127.0.0.1:9").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(scenario.readiness("capture").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_target_is_tried_again() {
    let mut scenario = scenario("unreachable").await;
    scenario.settings.set("target.port", 9);
    let mut apply = scenario.spawn_apply();
    scenario.await_log(&mut apply, "127.0.0.1:9").await;
    apply.check_alive().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(scenario.readiness("apply").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_level_replica_is_told_with_its_remedy() {
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings("wal_level = replica"));
    let scenario = Scenario::on(&private.parts, "wal_level").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    gives_up(&scenario, "capture", 3, &["wal_level", "logical"]).await;
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(outcome.code, Some(1), "{}", outcome.text);
    assert!(outcome.text.contains("wal_level"), "{}", outcome.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_slot_is_named_and_capture_goes_on_when_there_is_one() {
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings("max_replication_slots = 1"));
    let scenario = Scenario::on(&private.parts, "slots").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.source("SELECT pg_create_physical_replication_slot('taken')").await;
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "max_replication_slots").await;
    scenario.source("SELECT pg_drop_replication_slot('taken')").await;
    await_condition("capture is ready", LIMIT, async || scenario.readiness("capture").await.0 == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_lacks_a_configured_table_is_refused() {
    let mut scenario = scenario("publication").await;
    scenario.source("CREATE TABLE missing (id int PRIMARY KEY)").await;
    scenario
        .source(&format!("CREATE PUBLICATION {} FOR TABLE things WITH (publish_via_partition_root)", scenario.name))
        .await;
    scenario.settings.set("capture.create_publication", false);
    let name = scenario.name.clone();
    gives_up(&scenario, "capture", 3, &["public.missing", &name]).await;
}

/// Trap T51.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_partition_count_changed_is_refused() {
    let scenario = scenario("partitions").await;
    let mut capture = scenario.capture().await;
    let (topic, table) = (scenario.topics().name("public.things"), "public.things");
    await_condition("the topic is there", LIMIT, async || scenario.topics().partitions(table) == 3).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.topics().grow(table, 5).await;
    let outcome = scenario.run_to_end("capture").await;
    assert!(outcome.text.contains(&topic) && outcome.text.contains('5'), "{}", outcome.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_ours_stops_its_table_alone() {
    let scenario = scenario("foreign").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.topics().write("public.things", 1, Some(b"\0\0\0\0"), Some(b"not Avro"));
    let topic = scenario.topics().name("public.things");
    let told = async || {
        let (status, body) = scenario.readiness("apply").await;
        status == 503 && (body.contains(&topic) || body.contains("public.things"))
    };
    await_condition("apply names the stopped table", LIMIT, told).await;
    assert!(scenario.log_text("apply").contains(&topic), "{}", scenario.log_text("apply"));
    scenario.source("INSERT INTO others VALUES (2)").await;
    scenario.await_equal("others").await;
}

/// Trap T69.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_table_of_another_shape_stops_that_table_alone() {
    let scenario = scenario("shape").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)").await;
    scenario.target("CREATE TABLE things (id int PRIMARY KEY, t int)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.spawn_apply());
    scenario.await_equal("others").await;
    let told = async || {
        let (status, body) = scenario.readiness("apply").await;
        // the column and the remedy are told, the value is not
        status == 503
            && body.contains("public.things")
            && body.contains(", column t")
            && body.contains("the type that it has at the source")
    };
    await_condition("apply names the stopped table", LIMIT, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_table_without_the_key_is_refused_by_name() {
    let scenario = scenario("keyless").await;
    scenario.target("CREATE TABLE things (id int, t text)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.spawn_apply());
    let told = async || scenario.readiness("apply").await.1.contains("public.things");
    await_condition("apply names the stopped table", LIMIT, told).await;
}

/// Each stops its table alone, at its place: an unknown schema, bytes that end too early, and a schema that is no envelope's.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_stop_their_tables_at_their_places() {
    let scenario = Scenario::new("unreadable").await;
    let cases = [
        ("unknown", "schema id 2147483647, which the registry does not know"),
        ("truncated", "does not match its schema"),
        ("no_envelope", "is not a change event"),
    ];
    for (table, _) in cases.iter().chain(&[("others", "")]) {
        let create =
            format!("CREATE TABLE {table} (id int PRIMARY KEY, t text); INSERT INTO {table} VALUES (1, 'secret')");
        scenario.source(&create).await;
    }
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for (table, _) in cases {
        scenario.await_equal(table).await;
        let name = format!("public.{table}");
        let records = scenario.topics().read(&name);
        let known = records.iter().find(|record| record.holds("secret")).expect("the row's record");
        let offset = records.iter().filter(|record| record.partition == known.partition).count();
        let (key, value) = (known.key.clone().expect("a key"), known.value.clone().expect("a value"));
        let value = match table {
            "unknown" => [&[0, 0x7F, 0xFF, 0xFF, 0xFF], &value[5..]].concat(),
            "truncated" => value[..value.len() - 3].to_vec(),
            // The key's schema is that of a record, but of no envelope.
            _ => key.clone(),
        };
        scenario.topics().write(&name, known.partition, Some(&key), Some(&value));
        let topic = scenario.topics().name(&name);
        let places = [topic, format!("partition {}", known.partition), format!("offset {offset}")];
        let reason = cases.iter().find(|(case, _)| *case == table).expect("the case").1;
        let told = async || {
            let (status, body) = scenario.readiness("apply").await;
            status == 503 && body.contains(reason) && places.iter().all(|place| body.contains(place))
        };
        await_condition(&format!("apply says of {table}: {reason}"), LIMIT, told).await;
    }
    scenario.source("INSERT INTO others VALUES (2)").await;
    scenario.await_equal("others").await;
    let log = scenario.log_text("apply");
    assert!(!log.contains("secret"), "a row's value in the log: {log}");
}
