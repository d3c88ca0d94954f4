//! What holds the slot back is named, and a slot that is not what it was is an outcome of its own.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use walrelay::{cli::demo::process::Process, lsn::Lsn};

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

const HOLDERS: &str = "walrelay_capture_slot_holder_seconds";

async fn holders(scenario: &Scenario) -> BTreeMap<String, f64> {
    scenario.metrics("capture").await.sum_by(HOLDERS, "name")
}

/// Traps T12 and T18: a transaction of whatever database, and a prepared one, hold the slot while the stream goes on.
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

/// The ids of the inserts in the topic of `things`, in order.
fn created(scenario: &Scenario) -> Vec<String> {
    let mut ids: Vec<_> =
        scenario.topics().read("public.things").iter().map(|record| format!("{:?}", record.key)).collect();
    ids.sort();
    ids
}

fn lsn(text: Option<String>) -> Lsn {
    text.and_then(|text| text.parse().ok()).expect("a position")
}

/// Inserts rows, which are captured, and crashes the source, and capture before. Gives whether the slot is before the rows then.
async fn is_taken_back_by_a_crash(
    private: &PrivateParts,
    (scenario, capture): (&mut Scenario, &mut Process),
    rows: &mut usize,
) -> bool {
    scenario.source_value_as_superuser("CHECKPOINT").await;
    scenario.source(&format!("INSERT INTO things SELECT generate_series({rows} + 1, {rows} + 50)")).await;
    *rows += 50;
    let end = lsn(scenario.source_value("SELECT pg_current_wal_lsn()::text").await);
    let is_confirmed = async || lsn(scenario.confirmed_flush().await) >= end;
    await_condition("the slot is past the rows", LIMIT, is_confirmed).await;
    capture.kill_9().expect("capture can be killed");
    tokio::task::block_in_place(|| private.kill().heal());
    scenario.reconnect_source().await;
    lsn(scenario.confirmed_flush().await) < end
}

/// Trap T4: a crash takes the slot back to what it had on disk. What was published and recorded is not published again, in either
/// delivery mode.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashed_server_sends_again_is_published_once() {
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings("checkpoint_timeout = 1h"));
    for (name, delivery) in [("crashed", "at-least-once"), ("crashed_once", "exactly-once")] {
        let mut scenario = Scenario::on(&private.parts, name).await;
        scenario.settings.set("capture.delivery", delivery);
        scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
        let mut capture = scenario.capture().await;
        let mut rows = 0;
        // Every 15 s the server logs which transactions run, and then it may write the slot.
        while !is_taken_back_by_a_crash(&private, (&mut scenario, &mut capture), &mut rows).await {
            assert!(rows < 250, "the slot is never taken back");
            capture = scenario.capture().await;
        }
        let _capture = scenario.capture().await;
        scenario.source("INSERT INTO things VALUES (0)").await;
        let _apply = scenario.apply().await;
        scenario.await_equal("things").await;
        assert_eq!(created(&scenario).len(), rows + 1, "each row is in the topic once");
        scenario.verify();
    }
}

/// Traps T2 and T3: a transaction that began before others were published and confirmed, and commits behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_open_when_others_were_confirmed_comes_whole_after_a_kill() {
    let scenario = Scenario::new("open").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let early = scenario.source_session().await;
    early.batch_execute("BEGIN; INSERT INTO things SELECT generate_series(1, 20)").await.unwrap();
    scenario.source("INSERT INTO things SELECT generate_series(101, 120)").await;
    let end = lsn(scenario.source_value("SELECT pg_current_wal_lsn()::text").await);
    let is_confirmed = async || lsn(scenario.confirmed_flush().await) >= end;
    await_condition("the slot is past the later transaction", LIMIT, is_confirmed).await;
    early.batch_execute("INSERT INTO things SELECT generate_series(21, 40)").await.unwrap();
    capture.kill_9().expect("capture can be killed");
    early.batch_execute("COMMIT").await.unwrap();
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    assert_eq!(created(&scenario).len(), 60, "each row is in the topic once");
    scenario.verify();
}

/// Traps T5 and T8: a cluster that is busy elsewhere moves the slot, and no restart takes it back.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_follows_a_busy_cluster_and_never_goes_back() {
    let mut scenario = Scenario::new("busy").await;
    scenario.settings.set("capture.include", vec!["public.things".to_owned()]);
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE busy (id int)").await;
    let mut capture = scenario.capture().await;
    let mut highest = lsn(scenario.confirmed_flush().await);
    for restart in [false, true, true] {
        if restart {
            capture.kill_9().expect("capture can be killed");
            capture = scenario.capture().await;
            let begun = Instant::now();
            // As long as it takes to stream, and to send status updates.
            await_condition("the slot is looked at for a while", LIMIT, async || {
                let confirmed = lsn(scenario.confirmed_flush().await);
                assert!(confirmed >= highest, "{confirmed} is below {highest}");
                begun.elapsed() > Duration::from_secs(2)
            })
            .await;
        }
        scenario.source("INSERT INTO busy SELECT generate_series(1, 1000)").await;
        let end = lsn(scenario.source_value("SELECT pg_current_wal_lsn()::text").await);
        await_condition("the slot follows", LIMIT, async || lsn(scenario.confirmed_flush().await) >= end).await;
        highest = end;
    }
    assert!(scenario.topics().read("public.things").is_empty());
}

/// Trap T7: a slot of the same name that somebody made anew lacks what was committed in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_made_anew_is_a_gap() {
    let mut scenario = Scenario::new("anew").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.lose_slot().await;
    scenario.source(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", scenario.name)).await;
    scenario.source("INSERT INTO things VALUES (3)").await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("ahead of the recorded"), "{}", outcome.text);
    scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Slots of this name that are no place to go on from, each by its own reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_somebody_else_is_refused_by_its_reason() {
    let scenario = Scenario::new("foreign").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let name = scenario.name.clone();
    let elsewhere = scenario.parts.source.connect("postgres", "postgres", "").await.unwrap();
    for (create, reason) in [
        (format!("SELECT pg_create_physical_replication_slot('{name}')"), "it is a physical slot"),
        (
            format!("SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')"),
            "its output plug-in is test_decoding",
        ),
        (format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"), "it belongs to database postgres"),
    ] {
        elsewhere.batch_execute(&create).await.unwrap();
        let outcome = scenario.run_to_end("capture").await;
        assert!(outcome.code == Some(3) && outcome.text.contains(reason), "{reason}: {}", outcome.text);
        elsewhere.batch_execute(&format!("SELECT pg_drop_replication_slot('{name}')")).await.unwrap();
    }
    let _capture = scenario.capture().await;
}

/// Another cluster under the same address is no source to go on with.
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_not_taken_for_the_source() {
    let mut scenario = Scenario::new("cluster").await;
    scenario.both("CREATE TABLE things (id int PRIMARY KEY)").await;
    let mut capture = scenario.capture().await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("source.port", i64::from(scenario.parts.target.port));
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("another database cluster (system identifier"), "{}", outcome.text);
}

/// Trap T13: PostgreSQL 18 invalidates a slot that nobody has used for a while, at its next checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_idle_for_too_long_is_a_gap_with_its_reason() {
    let settings = "idle_replication_slot_timeout = '1s'; checkpoint_timeout = 1h";
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_of(18, settings));
    let mut scenario = Scenario::on(&private.parts, "idle_slot").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(report.text.contains("idle_replication_slot_timeout"), "{}", report.text);
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    // One that is in use is not idle.
    scenario.source_value_as_superuser("CHECKPOINT").await;
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source("INSERT INTO things VALUES (3); DELETE FROM things WHERE id = 1").await;
    let reason = format!("SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = '{}'", scenario.name);
    let is_lost = async || {
        scenario.source_value_as_superuser("CHECKPOINT").await;
        scenario.source_value(&reason).await.as_deref() == Some("idle_timeout")
    };
    await_condition("a checkpoint invalidates the slot", LIMIT, is_lost).await;

    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let told = ["was invalidated by the server (idle_timeout)", "SET idle_replication_slot_timeout = 0", "resnapshot"];
    for text in told {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
    scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.verify();
}
