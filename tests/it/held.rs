//! What becomes of a stopped table's changes: the source keeps them, within a limit, or they are dropped and the table is read again.

use walrelay::{cli::demo::process::Process, lsn::Lsn};

use crate::support::{LIMIT, Scenario, await_condition};

const JOIN: &str = "tables join what is captured";
const ENDS: &str = "the resync ends";

/// A table that has stopped at a row which its topic does not take, and another one.
async fn stopped(name: &str, settings: &[(&str, &str)]) -> (Scenario, Process, Process) {
    let mut scenario = Scenario::new(name).await;
    for (key, value) in settings {
        scenario.settings.set(key, *value);
    }
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY, body text)",
        )
        .await;
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things SELECT i, 'before' FROM generate_series(1, 50) i").await;
    scenario.await_equal("things").await;
    scenario.source("INSERT INTO things VALUES (99, repeat('x', 3000000))").await;
    let told = async || scenario.readiness("capture").await.1.contains("public.things");
    await_condition("capture names the table", LIMIT, told).await;
    scenario.source("DELETE FROM things WHERE id <= 10; INSERT INTO things VALUES (100, 'behind')").await;
    scenario.source("UPDATE things SET body = 'changed' WHERE id BETWEEN 20 AND 30").await;
    scenario.source("INSERT INTO others VALUES (1, 'behind')").await;
    scenario.await_equal("others").await;
    (scenario, capture, apply)
}

fn resume(scenario: &Scenario, tables: &[&str]) {
    let arguments: Vec<_> = ["resume"].iter().chain(tables).copied().collect();
    let outcome = tokio::task::block_in_place(|| scenario.run(&arguments));
    assert_eq!(outcome.code, Some(0), "resume says:\n{}", outcome.text);
}

async fn let_in(scenario: &Scenario, tables: &[&str]) {
    scenario.topics().set("public.things", "max.message.bytes", "9000000").await;
    resume(scenario, tables);
}

async fn is_whole(scenario: &Scenario) {
    scenario.await_equal("things").await;
    scenario.source("INSERT INTO things VALUES (200, 'last'); INSERT INTO others VALUES (2, 'last')").await;
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.verify();
    await_condition("capture is ready", LIMIT, async || scenario.readiness("capture").await.0 == 200).await;
}

async fn confirmed(scenario: &Scenario) -> Lsn {
    scenario.confirmed_flush().await.expect("a slot").parse().expect("an LSN")
}

async fn end_of_log(scenario: &Scenario) -> Lsn {
    scenario.source_value("SELECT pg_current_wal_flush_lsn()::text").await.expect("an LSN").parse().expect("an LSN")
}

/// Nothing is lost, and no restart is needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_table_goes_on_where_it_stopped_when_it_is_told_to() {
    let (scenario, mut capture, _apply) = stopped("told", &[]).await;
    let end = end_of_log(&scenario).await;
    // The limit of the record is as it was: it stops once more, and is not tried for ever.
    resume(&scenario, &[]);
    scenario.await_log(&mut capture, "stopped tables are tried again").await;
    let twice = async || scenario.log_text("capture").matches("table stopped").count() >= 2;
    await_condition("the table stops again", LIMIT, twice).await;
    scenario.source("INSERT INTO others VALUES (3, 'meanwhile')").await;
    scenario.await_equal("others").await;
    assert!(confirmed(&scenario).await < end, "the source keeps no log for the stopped table");
    assert_eq!(scenario.log_text("capture").matches("stopped tables are tried again").count(), 1);
    let held = async || scenario.metrics("capture").await.sum("walrelay_capture_held_bytes") > 0.0;
    await_condition("what is held is told", LIMIT, held).await;
    let_in(&scenario, &["public.things"]).await;
    is_whole(&scenario).await;
    assert!(!scenario.log_text("capture").contains(JOIN), "the table was read again");
}

/// The slot goes on, and what the targets have too much goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_table_whose_changes_are_dropped_is_read_again_when_it_goes_on() {
    let (scenario, mut capture, _apply) = stopped("dropped_changes", &[("capture.on_stop", "resync")]).await;
    let end = end_of_log(&scenario).await;
    let passed = async || confirmed(&scenario).await >= end;
    await_condition("the source need not keep the log", LIMIT, passed).await;
    assert!(scenario.readiness("capture").await.1.contains("are dropped"));
    capture.kill_9().expect("capture can be killed");
    // The row is as large as it was: the table joins, and is given up again.
    capture = scenario.spawn_capture();
    let named = async || scenario.readiness("capture").await.1.contains("not all of its rows could be read");
    await_condition("the table is named", LIMIT, named).await;
    let_in(&scenario, &["public.things"]).await;
    scenario.await_log(&mut capture, ENDS).await;
    is_whole(&scenario).await;
}

/// A table that nobody sees to does not fill the source's disk.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_limit_the_source_keeps_no_log_for_a_stopped_table() {
    let (scenario, mut capture, _apply) = stopped("limited", &[("capture.hold_limit", "40MiB")]).await;
    let end = end_of_log(&scenario).await;
    for id in 10..30 {
        let noise = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 90000))";
        scenario.source(&format!("INSERT INTO others SELECT {id}, left({noise}, 900000)")).await;
        scenario.source(&format!("UPDATE others SET body = left({noise}, 900000) WHERE id = {id}")).await;
    }
    let passed = async || confirmed(&scenario).await >= end;
    await_condition("the source need not keep the log", LIMIT, passed).await;
    scenario.await_equal("others").await;
    assert!(scenario.readiness("capture").await.1.contains("are dropped"));
    let_in(&scenario, &["public.things"]).await;
    scenario.await_log(&mut capture, ENDS).await;
    is_whole(&scenario).await;
}
