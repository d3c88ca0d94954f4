//! A gap in the source's log: capture stops, and begins anew only when it is told to.

use crate::support::{LIMIT, Scenario, await_condition};

/// Traps T6 and T26: what happened while nobody looked is gone, and so must be the rows that it removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_stops_capture_and_a_new_snapshot_leaves_no_ghosts_and_takes_new_tables_in() {
    let mut scenario = Scenario::new("gap").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, name text)").await;
    scenario.source("INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 500) n").await;
    let apply = scenario.spawn_apply();
    let capture = scenario.capture().await;
    scenario.await_equal("things").await;
    drop(capture);

    scenario.source("DELETE FROM things WHERE id % 3 = 0; UPDATE things SET name = 'late' WHERE id % 5 = 0").await;
    scenario.source("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1), (2)").await;
    let slot = scenario.name.clone();
    scenario.source(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("resnapshot"), "{}", outcome.text);

    scenario.settings.set("capture.on_gap", "resnapshot");
    let capture = scenario.capture().await;
    for table in ["things", "later"] {
        scenario.await_equal(table).await;
    }
    scenario.source("INSERT INTO later VALUES (3)").await;
    scenario.await_equal("later").await;
    scenario.verify();
    drop((capture, apply));
}

/// Trap T13: nothing reads from the slot while the snapshot runs, so nothing else would tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_during_the_snapshot_is_noticed_before_its_end() {
    let mut scenario = Scenario::new("slot").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    scenario.settings.set("registry.urls", vec!["http://127.0.0.1:9"]);
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "waiting for the schema registry").await;
    scenario.lose_slot().await;
    scenario.await_log(&mut capture, "was lost while it was in use: it was dropped").await;
    let slots = async || scenario.confirmed_flush().await.is_some();
    await_condition("the snapshot starts over with a new slot", LIMIT, slots).await;
    drop(capture);

    let registry = scenario.parts.registry.clone();
    scenario.settings.set("registry.urls", vec![registry]);
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
}

/// Trap T55: an offset that the log does not have is no reason to begin anywhere else.
#[tokio::test(flavor = "multi_thread")]
async fn apply_ends_at_an_offset_that_its_topic_does_not_have_and_says_which() {
    let scenario = Scenario::new("out_of_range").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things VALUES (1); INSERT INTO others VALUES (1)").await;
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "others"] {
        scenario.await_equal(table).await;
    }
    drop((capture, apply));
    scenario
        .target("UPDATE walrelay.position SET next_offset = 999 WHERE topic LIKE '%.things' AND partition = 1")
        .await;
    let outcome = scenario.run_to_end("apply").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let place = format!("offset 999 of topic {}.public.things, partition 1 (it has 0 to ", scenario.name);
    assert!(outcome.text.contains(&place), "{}", outcome.text);
    assert!(!outcome.text.contains(".public.others, partition"), "{}", outcome.text);
}
