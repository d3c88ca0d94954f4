//! Transactions that the server sends while they run: killed captures, a full spool, a damaged one, prepared transactions, memory.

use std::{fs, os::unix::fs::FileExt as _};

use tokio_postgres::Client;
use walrelay::{
    cli::demo::process::Process,
    pipeline::metrics::{CAPTURE_IN_PROGRESS, CAPTURE_SPOOL, CAPTURE_STREAMING},
};

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

/// A scenario with a table, whose server sends transactions from 64 kB on while they run, and whose spool lies in the test's folder.
async fn scenario(name: &str) -> Scenario {
    prepared(Scenario::new(name).await).await
}

async fn prepared(mut scenario: Scenario) -> Scenario {
    let memory = format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", scenario.name);
    scenario.source(&memory).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, body text); INSERT INTO things VALUES (0)").await;
    let folder = scenario.folder().join("spool");
    fs::create_dir(&folder).expect("a folder for the spool");
    scenario.settings.set("capture.spool.directory", folder.to_str().expect("a plain path"));
    scenario
}

/// Rows of 300 bytes.
async fn insert(client: &Client, from: usize, to: usize) {
    let sql = format!("INSERT INTO things SELECT n, repeat('x', 300) FROM generate_series({from}, {to}) n");
    client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}"));
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn await_metric(scenario: &Scenario, what: &str, holds: impl Fn(&walrelay::cli::demo::scrape::Samples) -> bool) {
    await_condition(what, LIMIT, async || holds(&scenario.metrics("capture").await)).await;
}

async fn await_on_disk(scenario: &Scenario, bytes: f64) {
    await_metric(scenario, "the spool is on disk", |metrics| metrics.sum_where(CAPTURE_SPOOL, "where", "disk") > bytes)
        .await;
}

/// Traps T10, T38: in mid-stream, and in mid-replay.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_killed_over_a_transaction_in_progress_publishes_all_of_it_later() {
    let mut scenario = scenario("killed_spool").await;
    scenario.settings.set("capture.spool.memory", "256KiB");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let session = scenario.source_session().await;
    run(&session, "BEGIN").await;
    insert(&session, 1, 20_000).await;
    await_on_disk(&scenario, 1e6).await;
    capture.kill_9().expect("capture can be killed");
    let folder = scenario.folder().join("spool");
    assert_eq!(fs::read_dir(&folder).expect("the spool's folder").count(), 0, "a killed capture leaves files behind");

    capture = scenario.capture().await;
    insert(&session, 20_001, 60_000).await;
    // It is open, and holds nothing that is confirmed.
    let before = scenario.confirmed_flush().await;
    scenario.source("INSERT INTO things VALUES (-1)").await;
    let moved = async || scenario.confirmed_flush().await > before;
    await_condition("the slot moves on below the open transaction", LIMIT, moved).await;
    await_on_disk(&scenario, 1e6).await;
    run(&session, "COMMIT").await;
    let created =
        |metrics: &walrelay::cli::demo::scrape::Samples| metrics.sum_where("walrelay_capture_events_total", "op", "c");
    await_metric(&scenario, "the replay has begun", |metrics| created(metrics) > 100.0).await;
    capture.signal("STOP").expect("capture can be stopped");
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    assert_eq!(fs::read_dir(&folder).expect("the spool's folder").count(), 0);
    scenario.verify();
}

/// Trap T80.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_is_full_of_open_transactions_leaves_them_to_the_server_for_a_while() {
    let mut scenario = scenario("full_spool").await;
    scenario.settings.set("capture.spool.memory", "256KiB");
    scenario.settings.set("capture.spool.limit", "1MiB");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    // It is ready while it reads the snapshot, and asks for the stream behind that.
    await_metric(&scenario, "streaming is on", |metrics| metrics.sum(CAPTURE_STREAMING) > 0.0).await;
    let (one, two) = (scenario.source_session().await, scenario.source_session().await);
    for (session, from) in [(&one, 10_000), (&two, 20_000)] {
        run(session, "BEGIN").await;
        insert(session, from, from + 5000).await;
    }
    scenario.await_log(&mut capture, "is full of open transactions").await;
    await_metric(&scenario, "streaming is off", |metrics| {
        metrics.sum(CAPTURE_STREAMING) == 0.0 && metrics.sum(CAPTURE_IN_PROGRESS) == 0.0
    })
    .await;
    // Others go on meanwhile, and the half is ready.
    scenario.source("INSERT INTO things VALUES (1)").await;
    scenario.await_target("SELECT count(*)::text FROM things", "2").await;
    await_condition("capture is ready", LIMIT, async || scenario.readiness("capture").await.0 == 200).await;
    let page = scenario.page("capture", "/").await;
    assert!(page.contains("the server keeps large transactions"), "{page}");
    run(&two, "COMMIT").await;
    run(&one, "ROLLBACK").await;
    scenario.await_equal("things").await;
    await_metric(&scenario, "streaming is on again", |metrics| metrics.sum(CAPTURE_STREAMING) > 0.0).await;
    let page = scenario.page("capture", "/").await;
    assert!(!page.contains("the server keeps large transactions"), "{page}");
    run(&two, "BEGIN").await;
    insert(&two, 30_000, 32_000).await;
    await_metric(&scenario, "one is in progress again", |metrics| metrics.sum(CAPTURE_IN_PROGRESS) > 0.0).await;
    run(&two, "COMMIT").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Flips a byte in every block of capture's spool, which only a process's own list of open files still leads to.
fn damage(capture: &Process) {
    let files = format!("/proc/{}/fd", capture.id());
    let mut damaged = 0;
    for entry in fs::read_dir(files).expect("the list of open files").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if !target.to_string_lossy().contains("/spool/") {
            continue;
        }
        let file = fs::File::options().read(true).write(true).open(entry.path()).expect("the spool's file");
        let len = file.metadata().expect("its length").len();
        for block in (0..len).step_by(64 * 1024) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, block + 1000).expect("a block");
            file.write_all_at(&[!byte[0]], block + 1000).expect("a block");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "capture has no spool open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_is_told_and_read_anew_from_the_server() {
    let mut scenario = scenario("damaged_spool").await;
    scenario.settings.set("capture.spool.memory", "256KiB");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let session = scenario.source_session().await;
    run(&session, "BEGIN").await;
    insert(&session, 1, 5000).await;
    await_on_disk(&scenario, 5e5).await;
    damage(&capture);
    run(&session, "COMMIT").await;
    scenario.await_log(&mut capture, "does not hold what was written to it: a block has another checksum").await;
    scenario.await_equal("things").await;
    let streams = |metrics: &walrelay::cli::demo::scrape::Samples| metrics.sum(CAPTURE_STREAMING) > 0.0;
    await_metric(&scenario, "streaming is on again", streams).await;
    scenario.verify();
}

/// Trap T38: what an open transaction had below the slot's position when capture connects, the server reads again and puts into a
/// file, then sends with what comes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_savepoint_that_is_rolled_back_after_a_restart_do_not_arrive() {
    let scenario = scenario("spilled").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let session = scenario.source_session().await;
    run(&session, "BEGIN; SAVEPOINT s").await;
    insert(&session, 1000, 3000).await;
    let decoded = scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await.expect("a position");
    scenario.source("INSERT INTO things VALUES (-1)").await;
    let slot = &scenario.name;
    let read =
        format!("SELECT confirmed_flush_lsn >= '{decoded}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let is_read = async || scenario.source_value(&read).await.as_deref() == Some("t");
    await_condition("the slot is past the savepoint", LIMIT, is_read).await;
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.capture().await;
    insert(&session, 4000, 4000).await;
    let decoded = scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await.expect("a position");
    scenario.source("INSERT INTO things VALUES (-2)").await;
    let read =
        format!("SELECT confirmed_flush_lsn >= '{decoded}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let is_read = async || scenario.source_value(&read).await.as_deref() == Some("t");
    await_condition("the server has read it", LIMIT, is_read).await;
    run(&session, "ROLLBACK TO s; INSERT INTO things VALUES (3, 'kept'); COMMIT").await;
    scenario.await_equal("things").await;
    let rows = scenario.topics().read("public.things").len();
    assert_eq!(rows, 4, "of the snapshot and of three transactions");
}

/// Trap T38: of changes that the server had put into a file before it sent them it does not tell that they were rolled back. It puts
/// them there when it meets its limit within a row, and forgets when there are more than it reads back at once.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_savepoint_that_the_server_does_not_tell_of_do_not_arrive() {
    let scenario = scenario("untold").await;
    let memory = format!("ALTER DATABASE {} SET logical_decoding_work_mem = '10MB'", scenario.name);
    scenario.source(&format!("{memory}; ALTER TABLE things ALTER body SET STORAGE EXTERNAL")).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let session = scenario.source_session().await;
    let insert = |from: i32, to: i32| {
        format!("INSERT INTO things SELECT n, repeat('x', 16000) FROM generate_series({from}, {to}) n;")
    };
    run(&session, &format!("BEGIN; SAVEPOINT told; {} ROLLBACK TO told", insert(1, 10))).await;
    run(&session, &format!("SAVEPOINT kept; INSERT INTO things VALUES (20, 'kept'); {} RELEASE kept", insert(21, 30)))
        .await;
    run(&session, &format!("SAVEPOINT untold; {}", insert(1000, 2000))).await;
    await_metric(&scenario, "it is in progress", |metrics| metrics.sum(CAPTURE_IN_PROGRESS) > 0.0).await;
    run(&session, "ROLLBACK TO untold; INSERT INTO things VALUES (3, 'kept'); COMMIT").await;
    scenario.await_equal("things").await;
    let rows = scenario.topics().read("public.things").len();
    assert_eq!(rows, 1 + 11 + 1, "the snapshot's and what was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_for_the_spool_the_server_keeps_large_transactions() {
    let mut scenario = scenario("no_spool").await;
    scenario.settings.set("capture.spool.directory", "/nowhere/at/all");
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    // It is ready while it reads the snapshot, and asks for the stream behind that.
    let told = "the spool in /nowhere/at/all cannot be made";
    let is_told = async || scenario.page("capture", "/").await.contains(told);
    await_condition("the page tells of the spool", LIMIT, is_told).await;
    assert!(scenario.metrics("capture").await.sum(CAPTURE_STREAMING) < 1.0);
    insert(&scenario.source, 1, 5000).await;
    scenario.await_equal("things").await;
}

/// Trap T39.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_arrives_though_the_slot_moved_past_it_before_a_crash() {
    let parts = PrivateParts::with_source_settings("max_prepared_transactions=10");
    let scenario = prepared(Scenario::on(&parts.parts, "prepared").await).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let session = scenario.source_session().await;
    for (name, first, last) in [("small", 1, 2), ("large", 1000, 3000), ("gone", 5000, 7000)] {
        run(&session, "BEGIN").await;
        insert(&session, first, last).await;
        run(&session, &format!("PREPARE TRANSACTION '{name}'")).await;
    }
    let prepared = scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await.expect("a position");
    let past = format!(
        "SELECT confirmed_flush_lsn >= '{prepared}' FROM pg_replication_slots WHERE slot_name = '{}'",
        scenario.name
    );
    await_condition("the slot is past the prepared ones", LIMIT, async || {
        scenario.source("INSERT INTO things SELECT min(id) - 1 FROM things").await;
        scenario.source_value(&past).await.as_deref() == Some("t")
    })
    .await;
    capture.kill_9().expect("capture can be killed");
    run(&session, "COMMIT PREPARED 'large'").await;
    run(&session, "COMMIT PREPARED 'small'").await;
    run(&session, "ROLLBACK PREPARED 'gone'").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.await_target("SELECT count(*)::text FROM things WHERE id > 0", "2003").await;
    scenario.verify();
}

/// One transaction that is many times larger than what capture may hold: 66 MB of rows, and 20 MiB of bounds.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_many_rows_is_captured_in_bounded_memory() {
    const ROWS: usize = 200_000;
    let mut scenario = scenario("large").await;
    scenario.settings.set("capture.memory", "16MiB");
    scenario.settings.set("capture.spool.memory", "4MiB");
    let capture = scenario.capture().await;
    let before = capture.peak_memory().expect("its memory");
    insert(&scenario.source, 1, ROWS).await;
    await_condition(&format!("{ROWS} events"), LIMIT, async || {
        scenario.metrics("capture").await.sum_where("walrelay_capture_events_total", "op", "c") >= 200_000.0
    })
    .await;
    let peak = capture.peak_memory().expect("its memory");
    println!("{} MiB at the start, {} MiB at most", before >> 20, peak >> 20);
    assert!(peak < before + (40 << 20), "{} MiB at the start, {} MiB at most", before >> 20, peak >> 20);
}
