//! SIGTERM while something that capture needs does not answer: it ends in time, confirms nothing that Kafka does not have, and leaves a
//! slot that the next start goes on with.

use std::time::{Duration, Instant};

use walrelay::{cli::demo::process::Process, lsn::Lsn};

use crate::support::{LIMIT, Network, PrivateParts, Scenario, await_condition};

/// What operations.md says of the end.
const DEADLINE: Duration = Duration::from_secs(30);

async fn position(scenario: &Scenario) -> Lsn {
    scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await.unwrap().parse().unwrap()
}

async fn confirmed(scenario: &Scenario) -> Lsn {
    scenario.confirmed_flush().await.expect("the slot exists").parse().unwrap()
}

/// Asks capture to stop; it does so with exit code 0 and before the deadline, and nobody holds the slot then.
async fn stop(scenario: &Scenario, capture: &mut Process) {
    let begun = Instant::now();
    let status = capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    println!("{}: ended after {:?}", scenario.name, begun.elapsed());
    assert!(begun.elapsed() < DEADLINE, "it took {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0), "{}", scenario.log_text("capture"));
    let free = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", scenario.name);
    let is_free = async || scenario.source_value(&free).await.as_deref() == Some("f");
    await_condition("the slot is free", LIMIT, is_free).await;
}

async fn of_kafka(private: &PrivateParts, delivery: &str) -> (Scenario, Process) {
    let mut scenario = Scenario::on(&private.parts, "stopping").await;
    scenario.settings.set("capture.delivery", delivery);
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let capture = scenario.capture().await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 100)").await;
    let acknowledged = position(&scenario).await;
    await_condition("the rows are confirmed", LIMIT, async || confirmed(&scenario).await >= acknowledged).await;
    (scenario, capture)
}

/// Writes rows that Kafka does not get, has capture stop over them, and gives where they begin.
async fn stop_over(scenario: &Scenario, capture: &mut Process) -> Lsn {
    let pending = position(scenario).await;
    scenario.source("INSERT INTO things SELECT generate_series(101, 200); DELETE FROM things WHERE id = 1").await;
    let end = position(scenario).await;
    let sent = format!(
        "SELECT sent_lsn >= '{end}' FROM pg_stat_replication WHERE pid = \
         (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}')",
        scenario.name
    );
    let is_sent = async || scenario.source_value_as_superuser(&sent).await.as_deref() == Some("t");
    await_condition("capture has got the rows", LIMIT, is_sent).await;
    stop(scenario, capture).await;
    assert!(confirmed(scenario).await <= pending, "confirmed what Kafka does not have");
    pending
}

/// Traps T1, T59.
#[tokio::test(flavor = "multi_thread")]
async fn capture_stops_in_time_while_kafka_hangs_and_loses_nothing() {
    let private = tokio::task::block_in_place(PrivateParts::with_kafka);
    let (once, mut of_once) = of_kafka(&private, "exactly-once").await;
    let (repeated, mut of_repeated) = of_kafka(&private, "at-least-once").await;
    let fault = tokio::task::block_in_place(|| private.pause());
    let pending = tokio::join!(stop_over(&once, &mut of_once), stop_over(&repeated, &mut of_repeated));
    tokio::task::block_in_place(|| fault.heal());
    for (scenario, pending) in [(&once, pending.0), (&repeated, pending.1)] {
        let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
        scenario.await_equal("things").await;
        await_condition("the rows are confirmed", LIMIT, async || confirmed(scenario).await > pending).await;
        scenario.verify();
    }
}

/// Trap T15: whoever asks for the end of the stream gets no answer.
#[tokio::test(flavor = "multi_thread")]
async fn capture_stops_in_time_while_the_source_is_silent_and_loses_nothing() {
    let mut scenario = Scenario::new("stopping").await;
    let network = Network::before_source(&mut scenario).await;
    network.allow_all();
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things SELECT generate_series(1, 100)").await;
    scenario.await_equal("things").await;
    network.fall_silent();
    scenario.source("INSERT INTO things SELECT generate_series(101, 200)").await;
    let pending = position(&scenario).await;
    stop(&scenario, &mut capture).await;
    assert!(confirmed(&scenario).await < pending, "confirmed what capture never got");
    let _capture = scenario.capture().await;
    scenario.source("DELETE FROM things WHERE id = 1").await;
    scenario.await_equal("things").await;
    scenario.verify();
}
