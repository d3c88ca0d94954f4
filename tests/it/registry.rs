//! The schema registry is away at the start, or in the middle.

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

/// Trap T56.
#[tokio::test(flavor = "multi_thread")]
async fn capture_waits_for_a_registry_that_is_down_at_the_start() {
    let private = PrivateParts::with_registry();
    let scenario = Scenario::on(&private.parts, "registry").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let fault = private.stop();
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, &scenario.parts.registry).await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    let (status, body) = scenario.readiness("capture").await;
    assert_eq!(status, 503, "{body}");
    fault.heal();
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T56.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_in_the_middle_loses_nothing() {
    let private = PrivateParts::with_registry();
    let scenario = Scenario::on(&private.parts, "registry").await;
    scenario.source("CREATE TABLE early (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY, t text)").await;
    scenario.source("INSERT INTO early VALUES (0)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("early").await;
    let fault = private.stop();
    scenario.source("INSERT INTO early SELECT generate_series(1, 100)").await;
    // A new version of the table needs a new schema.
    scenario.source("ALTER TABLE late ADD COLUMN extra int").await;
    scenario.source("BEGIN; INSERT INTO late VALUES (1, 'x', 2); INSERT INTO early VALUES (200); COMMIT").await;
    scenario.source("UPDATE late SET t = 'y'; DELETE FROM early WHERE id = 5").await;
    let troubled =
        async || scenario.log_text("capture").contains("registry") && scenario.readiness("capture").await.0 == 503;
    await_condition("capture tells of the registry", LIMIT, troubled).await;
    fault.heal();
    scenario.await_equal("early").await;
    scenario.await_equal("late").await;
    scenario.verify();
}
