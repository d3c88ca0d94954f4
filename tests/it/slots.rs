//! What holds the slot back is named, and a slot that is not what it was is an outcome of its own.

use std::collections::BTreeMap;

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

const HOLDERS: &str = "walrelay_capture_slot_holder_seconds";

async fn holders(scenario: &Scenario) -> BTreeMap<String, f64> {
    scenario.metrics("capture").await.sum_by(HOLDERS, "name")
}

/// Trap T12: a transaction of whatever database, and a prepared one, hold the slot while the stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_hold_the_slot_are_named_until_they_end() {
    let parts = PrivateParts::with_source_settings("max_prepared_transactions=10");
    let scenario = Scenario::on(&parts.parts, "holders").await;
    let elsewhere = Scenario::on(&parts.parts, "holders").await;
    elsewhere.source("CREATE TABLE far (id int)").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let far = elsewhere.source_session().await;
    far.batch_execute("BEGIN; INSERT INTO far VALUES (1)").await.unwrap();
    let pid: i32 = far.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let gid = scenario.name.clone();
    scenario.source(&format!("BEGIN; INSERT INTO things VALUES (1); PREPARE TRANSACTION '{gid}'")).await;
    let restart = async || scenario.metrics("capture").await.sum_where(POSITION, "position", "restart");

    let are_named = async || {
        let holders = holders(&scenario).await;
        [pid.to_string(), gid.clone()].iter().all(|name| holders.get(name).is_some_and(|seconds| *seconds >= 30.0))
    };
    await_condition("both are named", LIMIT, are_named).await;
    let (status, text) = scenario.readiness("capture").await;
    let told = [format!("the transaction of process {pid} ("), format!("the prepared transaction {gid} (")];
    assert!(status == 200 && told.iter().all(|told| text.contains(told)), "{status} {text}");
    // They hold up nothing but the slot.
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_target("SELECT string_agg(id::text, ' ') FROM things", "2").await;
    let samples = scenario.metrics("capture").await;
    assert!(samples.sum("walrelay_capture_slot_retained_bytes") > 0.0);
    assert!((samples.sum("walrelay_capture_slot_safe_bytes") + 1.0).abs() < 0.5, "the parts set no limit");
    assert!(samples.sum("walrelay_capture_slot_catalog_xmin_age") > 0.0);
    let held = restart().await;

    far.batch_execute("COMMIT").await.unwrap();
    scenario.source(&format!("COMMIT PREPARED '{gid}'")).await;
    scenario.await_target("SELECT string_agg(id::text, ' ' ORDER BY id) FROM things", "1 2").await;
    let are_gone = async || {
        // The server moves the slot on only when it logs what runs, and something is decoded behind that.
        scenario.source("INSERT INTO things VALUES (3) ON CONFLICT (id) DO NOTHING").await;
        let holders = holders(&scenario).await;
        !holders.contains_key(&pid.to_string()) && !holders.contains_key(&gid) && restart().await > held
    };
    await_condition("they are named no longer, and the slot moves on", LIMIT, are_gone).await;
}

const POSITION: &str = "walrelay_capture_position_bytes";
