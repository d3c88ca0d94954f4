//! A topic that was deleted and created again under its name is a gap, however much is in it.

use crate::support::{LIMIT, Scenario, await_condition};

const AGAIN: &str = "was deleted and created again";
const GONE: &str = "does not exist any more";

/// A source and a target with the same thirty rows of `things`, and nobody who works.
async fn applied(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("health.silence", "2s");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 30)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario
}

/// Deletes and creates the topic, and writes twice as much into each of its partitions as there was.
async fn recreate(scenario: &Scenario) {
    let topics = scenario.topics();
    let records = topics.read("public.things");
    topics.delete("public.things").await;
    topics.create("public.things", 3).await;
    for record in records.iter().chain(&records) {
        let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default());
        topics.write("public.things", record.partition, Some(key), Some(value));
    }
}

async fn await_unready(scenario: &Scenario, reason: &str) {
    let check = async || scenario.readiness("apply").await.1.contains(reason);
    await_condition(&format!("apply says {reason:?}"), LIMIT, check).await;
}

const POSITIONS: &str =
    "SELECT string_agg(partition || ':' || next_offset, ' ' ORDER BY partition) FROM walrelay.position";

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_recreated_beyond_the_recorded_ends_ends_capture() {
    let scenario = applied("recreated_source").await;
    recreate(&scenario).await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains(AGAIN) && outcome.text.contains("new [kafka] prefix"), "{}", outcome.text);
}

/// Trap T55.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_recreated_beyond_the_stored_offset_is_not_applied() {
    let scenario = applied("recreated_target").await;
    let positions = scenario.target_value(POSITIONS).await;
    scenario.target("DELETE FROM things WHERE id > 20").await;
    recreate(&scenario).await;
    let mut apply = scenario.spawn_apply();
    await_unready(&scenario, AGAIN).await;
    apply.check_alive().expect("one table does not end apply");
    assert_eq!(scenario.target_value("SELECT count(*) FROM things").await.as_deref(), Some("20"));
    assert_eq!(scenario.target_value(POSITIONS).await, positions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_while_it_is_applied_is_missed_and_not_applied_when_it_is_back() {
    let scenario = applied("deleted").await;
    let positions = scenario.target_value(POSITIONS).await;
    let mut apply = scenario.spawn_apply();
    let started = async || {
        let (status, body) = scenario.readiness("apply").await;
        status != 0 && !body.contains("not started")
    };
    await_condition("apply owns the partitions", LIMIT, started).await;
    scenario.topics().delete("public.things").await;
    await_unready(&scenario, GONE).await;
    // A process that was given none of its partitions knows of it by the target.
    apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _apply = scenario.spawn_apply();
    await_unready(&scenario, GONE).await;
    scenario.topics().create("public.things", 3).await;
    await_unready(&scenario, AGAIN).await;
    assert_eq!(scenario.target_value(POSITIONS).await, positions);
}
