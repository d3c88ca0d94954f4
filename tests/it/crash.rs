//! Both halves may be killed at any instant, as often as one likes: the target equals the source in the end.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use walrelay::{
    cli::demo::{process::Process, random::Random},
    pipeline::metrics::CAPTURE_UNACKNOWLEDGED,
};

use crate::support::{LIMIT, Load, Scenario, await_condition};

const SEED: &str = "WALRELAY_TEST_SEED";

/// A seed from the environment, else one of the clock; a failure shows it.
pub fn seed() -> u64 {
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::from(since.subsec_nanos()) + since.as_secs())
    });
    println!("repeat with {SEED}={seed}");
    seed
}

async fn settle(scenario: &Scenario, mut capture: Process, mut apply: Process) {
    for half in [&mut capture, &mut apply] {
        half.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }
    for table in Load::TABLES {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// Traps T1, T3, T20, T21, T60.
#[tokio::test(flavor = "multi_thread")]
async fn halves_that_are_killed_at_random_moments_under_load_leave_the_target_equal() {
    let scenario = Scenario::new("killed").await;
    Load::prepare(&scenario, 2000).await;
    let mut random = Random::new(seed());
    let load = Load::start(&scenario, random.number()).await;
    let (mut capture, mut apply) = (scenario.spawn_capture(), scenario.spawn_apply());
    let (begun, mut kills) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(20) {
        // The random moment of the fault; nothing is expected to have happened by then.
        tokio::time::sleep(Duration::from_millis(50 + random.below(1500))).await;
        let victim = random.below(3);
        if victim != 0 {
            capture.kill_9().expect("capture can be killed");
            capture = scenario.spawn_capture();
        }
        if victim != 1 {
            apply.kill_9().expect("apply can be killed");
            apply = scenario.spawn_apply();
        }
        kills += 1;
    }
    let transactions = load.stop().await;
    println!("{kills} kills, {transactions} transactions");
    settle(&scenario, capture, apply).await;
}

/// Trap T19.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_killed_in_its_snapshot_leaves_no_ghosts() {
    let mut scenario = Scenario::new("snapshot").await;
    scenario.settings.set("capture.snapshot_connections", 3);
    scenario.settings.set("capture.snapshot_chunk_bytes", "64KiB");
    Load::prepare(&scenario, 3000).await;
    let apply = scenario.spawn_apply();
    for round in 0..3 {
        let mut capture = scenario.spawn_capture();
        let rows = async || scenario.metrics("capture").await.sum("walrelay_capture_snapshot_rows_total") > 0.0;
        await_condition("the snapshot has begun", LIMIT, rows).await;
        capture.kill_9().expect("capture can be killed");
        let sql = format!(
            "DELETE FROM items WHERE id % 7 = {round}; UPDATE notes SET id = id + 10000 WHERE id % 11 = {round}"
        );
        scenario.source(&sql).await;
    }
    let capture = scenario.spawn_capture();
    settle(&scenario, capture, apply).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_that_are_asked_to_stop_end_in_order_and_go_on_later() {
    let scenario = Scenario::new("stopped").await;
    Load::prepare(&scenario, 200).await;
    let load = Load::start(&scenario, 1).await;
    for _ in 0..2 {
        let (mut capture, mut apply) = (scenario.capture().await, scenario.apply().await);
        let (before, wanted) = (load.transactions(), 50);
        await_condition("the load goes on", LIMIT, async || load.transactions() >= before + wanted).await;
        for half in [&mut capture, &mut apply] {
            let status = half.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(status.code(), Some(0), "{}", half.log_tail(20));
        }
    }
    load.stop().await;
    settle(&scenario, scenario.spawn_capture(), scenario.spawn_apply()).await;
}

/// Trap T59.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_stops_in_good_order_confirms_what_it_recorded_last() {
    let mut scenario = Scenario::new("last_word").await;
    // The row is recorded only at the end.
    scenario.settings.set("capture.checkpoint_interval", "1m");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let mut capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (1)").await;
    let through = async || {
        let samples = scenario.metrics("capture").await;
        samples.sum_where("walrelay_capture_events_total", "op", "c") > 0.0
            && samples.sum(CAPTURE_UNACKNOWLEDGED) == 0.0
    };
    await_condition("the row is acknowledged", LIMIT, through).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(scenario.confirmed_flush().await, Some(scenario.progress().lsn.to_string()));
}
