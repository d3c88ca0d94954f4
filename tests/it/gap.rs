//! A gap in the source's log: capture stops, and begins anew only when it is told to.

use crate::support::Scenario;

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
