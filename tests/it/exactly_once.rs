//! `capture.delivery = "exactly-once"`: whoever reads committed records sees each change once and in order, whatever is killed.
//!
//! The judge (`support/judge.rs`) is another consumer than walrelay's.

use std::time::Duration;

use walrelay::cli::demo::{process::Process, random::Random, scrape::Samples, settings::free_port};

use crate::{
    crash::seed,
    support::{
        LIMIT, Load, PrivateParts, Scenario, await_condition,
        judge::{self, Delivery, Judge, PARTITIONS, await_confirmed, make_judgeable, source_rows},
    },
};

const PACE: Duration = Duration::from_millis(15);
const THINGS: &str = "CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, body text);
    ALTER TABLE things REPLICA IDENTITY FULL; CREATE TABLE others (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)";

fn set(scenario: &mut Scenario) {
    make_judgeable(scenario);
    scenario.settings.set("capture.delivery", "exactly-once");
}

async fn exactly_once(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    set(&mut scenario);
    scenario
}

/// Waits until everything is confirmed to the source, and judges that each event came once.
async fn judge(scenario: &Scenario, tables: &[&str]) {
    judge::judge(scenario, tables, Delivery::Once).await;
}

/// Starts capture, and waits until its snapshot is through: rows of one that is cut may come twice.
async fn streaming(scenario: &Scenario) -> Process {
    let capture = scenario.capture().await;
    await_streaming(scenario).await;
    capture
}

async fn await_streaming(scenario: &Scenario) {
    let streams = async || scenario.page("capture", "/").await.contains("streaming");
    await_condition("capture streams", LIMIT, streams).await;
}

/// Waits until the running capture has handed so many events over.
async fn await_events(scenario: &Scenario, events: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let sent = async || scenario.metrics("capture").await.sum("walrelay_capture_events_total") >= events as f64;
    await_condition("events are sent", LIMIT, sent).await;
}

/// Traps T1, T17, T49.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_comes_once_however_often_capture_is_killed_under_load() {
    let mut scenario = exactly_once("once_killed").await;
    scenario.settings.set("capture.commit_interval", "20ms");
    Load::prepare(&scenario, 300).await;
    scenario.source("ALTER TABLE marks ADD n int NOT NULL DEFAULT 0").await;
    let mut random = Random::new(seed());
    let mut capture = streaming(&scenario).await;
    let load = Load::start_paced(&scenario, random.number(), PACE).await;
    for _ in 0..30 {
        // Also while it starts.
        let events = if random.below(5) == 0 { 0 } else { random.below(400) };
        await_events(&scenario, events).await;
        capture.kill_9().expect("capture can be killed");
        capture = scenario.spawn_capture();
    }
    let transactions = load.stop().await;
    println!("{transactions} transactions");
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    judge(&scenario, &Load::TABLES).await;
}

/// A source transaction that lies in many Kafka transactions: what is committed of it is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_that_is_cut_again_and_again_comes_once() {
    let mut scenario = exactly_once("once_large").await;
    scenario.settings.set("capture.commit_interval", "5ms");
    scenario.source(THINGS).await;
    let mut capture = streaming(&scenario).await;
    let sql = "BEGIN; INSERT INTO others VALUES (1); INSERT INTO things SELECT i, 0 FROM generate_series(1, 12000) i;
        TRUNCATE others; UPDATE things SET n = 1; UPDATE things SET id = -id WHERE id % 50 = 0;
        INSERT INTO others VALUES (2); COMMIT";
    scenario.source(sql).await;
    let mut seen = 0;
    for _ in 0..4 {
        await_events(&scenario, 1500).await;
        capture.kill_9().expect("capture can be killed");
        let committed = scenario.topics().read("public.things").len();
        assert!(committed > seen, "nothing more of it was committed: {committed} records after {seen}");
        seen = committed;
        capture = scenario.spawn_capture();
    }
    assert!(seen < 24_000, "it was not cut in its midst: {seen} records");
    judge(&scenario, &["things", "others"]).await;
}

/// Traps T10, T48: commits are asked for again until the broker is back.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_comes_once_when_the_broker_is_killed_under_load() {
    let private = PrivateParts::with_kafka();
    let mut scenario = Scenario::on(&private.parts, "once_broker").await;
    set(&mut scenario);
    Load::prepare(&scenario, 300).await;
    scenario.source("ALTER TABLE marks ADD n int NOT NULL DEFAULT 0").await;
    let mut capture = streaming(&scenario).await;
    let load = Load::start_paced(&scenario, seed(), PACE).await;
    for round in 1..=3 {
        await_events(&scenario, 300 * round).await;
        let fault = private.kill();
        let before = load.transactions();
        await_condition("the load goes on", LIMIT, async || load.transactions() > before + 30).await;
        fault.heal();
    }
    load.stop().await;
    judge(&scenario, &Load::TABLES).await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
}

/// Traps T14, T17: what a frozen capture has sent and not committed is seen by nobody, also when it wakes up.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_was_frozen_in_a_transaction_writes_nothing_that_is_seen() {
    let scenario = exactly_once("once_frozen").await;
    scenario.source(THINGS).await;
    let mut slow = scenario.settings.clone();
    // It is frozen in a transaction, and would like to commit it when it wakes up.
    slow.set("capture.commit_interval", "3s");
    slow.set("http.capture", format!("127.0.0.1:{}", free_port()));
    let first = scenario.capture_with(&slow, "first").await;
    let streams = format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{}'", scenario.name);
    await_condition("it streams", LIMIT, async || scenario.source_value(&streams).await.is_some()).await;
    // The settings file names the page of the second one.
    let second = scenario.spawn_capture();
    scenario.source("INSERT INTO things SELECT i, 0 FROM generate_series(1, 500) i").await;
    let address = slow.text("http.capture").to_owned();
    let sent = async || {
        let samples = Samples::fetch(&address).await.unwrap_or_default();
        samples.sum("walrelay_capture_events_total") >= 100.0
    };
    await_condition("the first one sends", LIMIT, sent).await;
    first.signal("STOP").expect("capture can be frozen");
    assert_eq!(scenario.topics().read("public.things").len(), 0, "it was to be frozen before its commit");
    let unlock = "SELECT bool_and(pg_terminate_backend(pid, 10000))::text FROM pg_locks l \
                  JOIN pg_database d ON d.oid = l.database \
                  WHERE locktype = 'advisory' AND granted AND datname = current_database()";
    assert_eq!(scenario.source_value_as_superuser(unlock).await.as_deref(), Some("true"));
    scenario.source("UPDATE things SET n = 1; TRUNCATE others").await;
    await_confirmed(&scenario).await;

    first.signal("CONT").expect("capture can go on");
    let woke = async || scenario.log_text("first").contains("capture session ended");
    await_condition("the frozen one notices", LIMIT, woke).await;
    scenario.source("UPDATE things SET n = 2 WHERE id < 100").await;
    judge(&scenario, &["things", "others"]).await;
    drop(second);
}

/// A table that stops in the midst of a transaction, and goes on later: it lacks nothing then, and the others have nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stopped_in_a_transaction_goes_on_where_it_stopped_and_the_others_where_they_were() {
    let scenario = exactly_once("once_stopped").await;
    scenario.source(THINGS).await;
    let mut capture = streaming(&scenario).await;
    let large = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 60000))";
    let sql = format!(
        "BEGIN; INSERT INTO things SELECT i, 0 FROM generate_series(1, 50) i; INSERT INTO others VALUES (1);
         INSERT INTO things VALUES (51, 0, {large}); INSERT INTO things VALUES (52); INSERT INTO others VALUES (2); COMMIT"
    );
    scenario.source(&sql).await;
    scenario.source("TRUNCATE others; INSERT INTO others VALUES (3); UPDATE things SET n = 2 WHERE id < 9").await;
    let stopped = async || scenario.readiness("capture").await.1.contains("public.things");
    await_condition("the table stops", LIMIT, stopped).await;
    let others = async || scenario.topics().read("public.others").len() > 2 + PARTITIONS;
    await_condition("the other table goes on", LIMIT, others).await;
    assert_eq!(scenario.topics().read("public.things").len(), 50);

    scenario.topics().set("public.things", "max.message.bytes", "9000000").await;
    for events in [1, 3, 0] {
        capture.kill_9().expect("capture can be killed");
        capture = scenario.spawn_capture();
        await_events(&scenario, events).await;
        scenario
            .source("INSERT INTO others SELECT max(id) + 1 FROM others; UPDATE things SET n = n + 1 WHERE id = 1")
            .await;
    }
    judge(&scenario, &["things", "others"]).await;
}

/// What the session had not committed when it was cut is not lost, though its table stops before it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_table_had_in_a_transaction_that_was_given_up_comes_when_it_goes_on() {
    let mut scenario = exactly_once("once_given_up").await;
    scenario.settings.set("capture.commit_interval", "4s");
    scenario.source(THINGS).await;
    let mut capture = streaming(&scenario).await;
    scenario.source("INSERT INTO things VALUES (1)").await;
    let large = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 60000))";
    scenario.source(&format!("INSERT INTO things VALUES (2, 0, {large})")).await;
    let stopped = async || scenario.readiness("capture").await.1.contains("public.things");
    await_condition("the table stops", LIMIT, stopped).await;
    let slot = &scenario.name;
    let cut = format!(
        "SELECT pg_terminate_backend(active_pid, 10000)::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    assert_eq!(scenario.source_value(&cut).await.as_deref(), Some("true"));
    await_condition("the session is cut", LIMIT, async || scenario.log_text("capture").contains("session ended")).await;
    assert_eq!(scenario.topics().read("public.things").len(), 0, "it was to be cut before its commit");
    scenario.source("INSERT INTO others VALUES (1)").await;
    let others = async || scenario.topics().read("public.others").len() == 1;
    await_condition("the other table goes on", LIMIT, others).await;

    scenario.topics().set("public.things", "max.message.bytes", "9000000").await;
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.spawn_capture();
    judge(&scenario, &["things", "others"]).await;
}

/// A snapshot that was cut goes on beside the stream: of changes, and of rows that windows have read, none comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_under_load_leaves_each_change_once() {
    let mut scenario = exactly_once("once_snapshot").await;
    scenario.settings.set("capture.transactions", false);
    scenario.settings.set("capture.snapshot_chunk_bytes", "64KiB");
    scenario.source(THINGS).await;
    scenario.source("INSERT INTO things SELECT i, 0, repeat('x', 200) FROM generate_series(1, 12000) i").await;
    for round in 1..=3 {
        let mut capture = scenario.spawn_capture();
        let rows = async || {
            let samples = scenario.metrics("capture").await;
            samples.sum("walrelay_capture_snapshot_rows_total") + samples.sum("walrelay_capture_events_total") > 1000.0
        };
        await_condition("the snapshot goes on", LIMIT, rows).await;
        scenario
            .source(&format!(
                "UPDATE things SET n = {round} WHERE id % 7 = {round}; DELETE FROM things WHERE id % 97 = {round}"
            ))
            .await;
        capture.kill_9().expect("capture can be killed");
    }
    let _capture = scenario.spawn_capture();
    scenario.source("UPDATE things SET n = 9 WHERE id % 11 = 3; INSERT INTO others VALUES (1)").await;
    await_confirmed(&scenario).await;
    let mut judge = Judge::new(&scenario, Delivery::Once);
    for table in ["things", "others"] {
        let left = judge.rows(table).await;
        assert!(left == source_rows(&scenario, table).await, "{table} has other rows");
    }
}

/// Trap T55, at capture: of a partition that retention has emptied nothing is left to read, and nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn capture_starts_over_partitions_whose_records_are_gone() {
    let scenario = exactly_once("once_emptied").await;
    scenario.source(THINGS).await;
    let mut capture = streaming(&scenario).await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 30)").await;
    await_confirmed(&scenario).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    for partition in 0..i32::try_from(PARTITIONS).expect("a small number") {
        scenario.topics().delete_records("public.things", partition, rdkafka::topic_partition_list::Offset::End).await;
    }
    let _capture = streaming(&scenario).await;
    scenario.source("INSERT INTO things VALUES (31)").await;
    await_confirmed(&scenario).await;
    assert_eq!(scenario.topics().read("public.things").len(), 1);
}

/// Whoever comes behind exactly-once delivery does not repeat what is committed, however it delivers itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_may_be_another_at_each_start() {
    let mut scenario = exactly_once("once_mode").await;
    // Nothing is recorded but by the Kafka transactions themselves.
    scenario.settings.set("capture.checkpoint_interval", "1h");
    scenario.source(THINGS).await;
    scenario.source("INSERT INTO things SELECT i, 0 FROM generate_series(1, 50) i").await;
    let mut from = 100;
    let mut capture: Option<Process> = None;
    for (delivery, kill) in [
        ("exactly-once", true),
        ("at-least-once", false),
        ("exactly-once", true),
        ("exactly-once", false),
        ("at-least-once", false),
    ] {
        drop(capture.take());
        scenario.settings.set("capture.delivery", delivery);
        let mut next = streaming(&scenario).await;
        let rows = format!(
            "INSERT INTO things SELECT i, 0 FROM generate_series({from}, {from} + 39) i; TRUNCATE others;
             INSERT INTO others VALUES ({from})"
        );
        scenario.source(&rows).await;
        let there = async || {
            scenario.topics().read("public.others").iter().filter(|r| r.value.is_some()).count()
                >= (from / 100) * (PARTITIONS + 1)
        };
        await_condition("the rows are there", LIMIT, there).await;
        if kill {
            next.kill_9().expect("capture can be killed");
        } else {
            next.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        }
        capture = Some(next);
        from += 100;
    }
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let _capture = scenario.capture().await;
    judge(&scenario, &["things", "others"]).await;
}

/// What is asked for must be possible: a longer time than the brokers allow is told, and by `check` beforehand.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_that_the_brokers_do_not_allow_is_refused() {
    let mut scenario = exactly_once("once_timeout").await;
    scenario.source(THINGS).await;
    scenario.settings.set("capture.transaction_timeout", "20m");
    let found = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(found.code == Some(1) && found.text.contains("transaction.max.timeout.ms"), "{}", found.text);
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("transaction_timeout"), "{}", outcome.text);
}

/// Progress lists offsets that sinks come to: an idle stream opens no transaction, and markers are counted by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn apply_comes_to_the_end_of_partitions_that_end_with_markers() {
    let scenario = exactly_once("once_idle").await;
    scenario.source(THINGS).await;
    scenario.source("INSERT INTO things SELECT i, 0 FROM generate_series(1, 9) i").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.source("UPDATE things SET n = 5; TRUNCATE others").await;
    scenario.await_equal("things").await;
    scenario.verify();
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.capture().await;
    // Nothing was changed since: what is said of idle partitions has to do.
    scenario.verify();
    let committed = async || scenario.metrics("capture").await.sum("walrelay_capture_kafka_transactions_total");
    let before = committed().await;
    let told = async || scenario.page("capture", "/").await.contains("exactly once");
    await_condition("the page tells of it", Duration::from_secs(9), told).await;
    assert!(committed().await <= before, "an idle stream opens transactions");
}
