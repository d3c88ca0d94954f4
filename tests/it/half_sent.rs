//! A truncate that a crash of capture cut is completed, whatever has become of its tables since: sinks wait for all its copies.

use crate::support::{LIMIT, Scenario, await_condition};

/// Copies of barriers in the topic of a table.
fn copies(scenario: &Scenario, table: &str) -> usize {
    let records = scenario.topics().read(table);
    records.iter().filter(|record| record.headers.contains_key("walrelay.barrier")).count()
}

/// Two tables, of which `others` lacks copies of `TRUNCATE things, others` when capture is killed, and is given none before
/// [`let_through`]. Apply runs meanwhile, on `tables` at both ends.
async fn half_send(scenario: &Scenario, tables: &str) -> walrelay::cli::demo::process::Process {
    scenario.both(tables).await;
    let (mut capture, apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "others"] {
        scenario.source(&format!("INSERT INTO {table} SELECT generate_series(1, 10)")).await;
        scenario.await_equal(table).await;
    }
    refuse(scenario).await;
    scenario.source("TRUNCATE things, others").await;
    await_condition("one table has its copies", LIMIT, async || copies(scenario, "public.things") >= 3).await;
    capture.kill_9().expect("capture can be killed");
    assert!(copies(scenario, "public.others") < 3, "the truncate was sent in whole");
    assert_eq!(scenario.target_value("SELECT count(*) FROM things").await.as_deref(), Some("10"));
    apply
}

/// The brokers refuse what was not written in this very millisecond, and another attempt may succeed for all they tell.
async fn refuse(scenario: &Scenario) {
    scenario.topics().set("public.others", "message.timestamp.before.max.ms", "0").await;
}

async fn let_through(scenario: &Scenario) {
    scenario.topics().set("public.others", "message.timestamp.before.max.ms", "9000000").await;
}

const TABLES: &str = "CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)";
const TIED: &str =
    "CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY REFERENCES things)";

/// Trap T32.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_was_sent_by_half_is_completed_though_a_table_of_it_was_dropped_meanwhile() {
    let scenario = Scenario::new("half").await;
    let _apply = half_send(&scenario, TABLES).await;
    scenario.source("DROP TABLE others; INSERT INTO things VALUES (11)").await;
    let_through(&scenario).await;
    let mut capture = scenario.spawn_capture();
    scenario.await_equal("things").await;
    scenario.await_target("SELECT count(*) FROM others", "0").await;
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.capture().await;
    scenario.source("TRUNCATE things; INSERT INTO things VALUES (12)").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Traps T32 and T37: the new table of the name is not the one whose copies are missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_was_sent_by_half_is_completed_though_another_table_has_the_name_by_now() {
    let scenario = Scenario::new("half_renewed").await;
    let _apply = half_send(&scenario, TIED).await;
    scenario.source("DROP TABLE others; CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source(&format!("ALTER PUBLICATION {} ADD TABLE others", scenario.name)).await;
    scenario.source("INSERT INTO others VALUES (99); INSERT INTO things VALUES (11)").await;
    let_through(&scenario).await;
    let _capture = scenario.spawn_capture();
    scenario.await_equal("things").await;
    scenario.await_target("SELECT count(*) FROM others", "0").await;
    let told = async || scenario.readiness("capture").await.1.contains("another one than before");
    await_condition("capture names the table that another one has taken the place of", LIMIT, told).await;
}

/// Trap T24: what it missed meanwhile is in no log.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_gets_the_rest_of_a_truncate_after_it_left_is_read_again_when_it_comes_back() {
    let scenario = Scenario::new("half_left").await;
    let _apply = half_send(&scenario, TABLES).await;
    let publication = &scenario.name;
    scenario.source(&format!("ALTER PUBLICATION {publication} DROP TABLE others")).await;
    scenario.source("INSERT INTO others VALUES (31); INSERT INTO things VALUES (11)").await;
    let topic = format!("topic/{}", scenario.topics().name("public.others"));
    let forgotten = async || {
        let records = scenario.state_topics().read(&scenario.name);
        let last = records.iter().rfind(|record| record.key.as_deref() == Some(topic.as_bytes()));
        last.is_some_and(|record| record.value.is_none())
    };
    // A session that ends before the rest is sent.
    let mut capture = scenario.spawn_capture();
    await_condition("the topic is forgotten", LIMIT, forgotten).await;
    capture.kill_9().expect("capture can be killed");
    assert!(copies(&scenario, "public.others") < 3, "the truncate was sent in whole");

    // Capture takes it in by itself, where it was not killed before.
    let add = format!("ALTER PUBLICATION {publication} ADD TABLE others");
    scenario.source(&format!("DO $$ BEGIN {add}; EXCEPTION WHEN duplicate_object THEN END $$")).await;
    scenario.source("INSERT INTO others VALUES (32); INSERT INTO things VALUES (12)").await;
    let_through(&scenario).await;
    is_read_again(&scenario).await;
    assert_eq!(copies(&scenario, "public.others"), 3);
}

/// The table joins once it has the rest of the truncate, and the targets become equal.
async fn is_read_again(scenario: &Scenario) {
    let mut capture = scenario.spawn_capture();
    scenario.await_equal("things").await;
    scenario.await_log(&mut capture, "the resync ends").await;
    scenario.source("INSERT INTO others VALUES (33); INSERT INTO things VALUES (13)").await;
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.verify();
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
}

/// The same where capture takes it into the publication itself, while it sends the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_back_to_the_capture_that_sends_it_the_rest_of_a_truncate_is_read_again() {
    let scenario = Scenario::new("half_back").await;
    let _apply = half_send(&scenario, TABLES).await;
    scenario.source(&format!("ALTER PUBLICATION {} DROP TABLE others", scenario.name)).await;
    scenario.source("INSERT INTO others VALUES (31); INSERT INTO things VALUES (11)").await;
    let_through(&scenario).await;
    is_read_again(&scenario).await;
    let _capture = scenario.capture().await;
    scenario.source("TRUNCATE others; INSERT INTO others VALUES (34)").await;
    scenario.await_equal("others").await;
    assert_eq!(copies(&scenario, "public.others"), 6, "the rest of one truncate, and its own");
}

/// Trap T32: a table that stops behind a statement of which it lacks copies holds up no other one, and gets them when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stops_behind_a_truncate_that_was_sent_by_half_holds_up_no_other() {
    let scenario = Scenario::new("half_stopped").await;
    let tables = "CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY, body text)";
    scenario.both(tables).await;
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "others"] {
        scenario.source(&format!("INSERT INTO {table} SELECT generate_series(1, 10)")).await;
        scenario.await_equal(table).await;
    }
    refuse(&scenario).await;
    let large = "INSERT INTO others VALUES (11, repeat('x', 3000000))";
    scenario.source(&format!("BEGIN; TRUNCATE things, others; {large}; COMMIT; INSERT INTO things VALUES (11)")).await;
    scenario.await_equal("things").await;
    assert!(copies(&scenario, "public.others") < 3, "the truncate was sent in whole");
    assert!(scenario.readiness("capture").await.1.contains("public.others"), "the table has not stopped");
    drop(capture);

    let_through(&scenario).await;
    scenario.topics().set("public.others", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("others").await;
    scenario.verify();
}

/// Traps T6 and T32: the statement is in no log any more, and lanes that stand at it must go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_snapshot_sets_lanes_free_that_wait_for_a_table_that_was_dropped_meanwhile() {
    let mut scenario = Scenario::new("half_anew").await;
    let _apply = half_send(&scenario, TIED).await;
    scenario.lose_slot().await;
    scenario.source("DROP TABLE others; INSERT INTO things VALUES (11)").await;
    let_through(&scenario).await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    let capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.await_target("SELECT count(*) FROM others", "0").await;
    drop(capture);
    let _capture = scenario.capture().await;
    scenario.source("TRUNCATE things; INSERT INTO things VALUES (12)").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Traps T6 and T32: the begin of a new snapshot is cut like a truncate, and without a snapshot nothing would take its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_was_sent_by_half_is_not_given_up_for_a_slot_without_a_snapshot() {
    let mut scenario = Scenario::new("half_never").await;
    let _apply = half_send(&scenario, TABLES).await;
    scenario.lose_slot().await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    let mut capture = scenario.spawn_capture();
    await_condition("one table has its begin", LIMIT, async || copies(&scenario, "public.things") >= 6).await;
    capture.kill_9().expect("capture can be killed");
    scenario.settings.set("capture.on_gap", "stop");
    scenario.settings.set("capture.snapshot", "never");
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let (topic, remedy) = (scenario.topics().name("public.others"), "snapshot = \"initial\"");
    for text in [&*topic, remedy] {
        assert!(outcome.text.replace('\\', "").contains(text), "{text:?} is not in\n{}", outcome.text);
    }

    scenario.settings.set("capture.snapshot", "initial");
    let_through(&scenario).await;
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (12); INSERT INTO others VALUES (12)").await;
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.verify();
}

/// Trap T32: copies that can never be sent are not passed over in silence, nor waited for without need, nor is a topic made for them.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_a_topic_that_cannot_get_the_rest_of_a_truncate_is_told_as_stopped() {
    let scenario = Scenario::new("half_lost").await;
    let _apply = half_send(&scenario, TABLES).await;
    scenario.source(&format!("ALTER PUBLICATION {} DROP TABLE others", scenario.name)).await;
    scenario.topics().delete("public.others").await;
    let gone = async || scenario.topics().partitions("public.others") == 0;
    await_condition("the topic is deleted", LIMIT, gone).await;
    let mut capture = scenario.spawn_capture();
    scenario.source("INSERT INTO things VALUES (12)").await;
    scenario.await_equal("things").await;
    // Why, is told anew when capture sees that it cannot take the table in either.
    let told = async || scenario.readiness("capture").await.1.contains("public.others");
    await_condition("capture names the table whose topic is gone", LIMIT, told).await;
    let topic = scenario.topics().name("public.others");
    let stopped = || scenario.progress().stopped.get(&topic).copied();
    let at = stopped().expect("the sinks are told");
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.spawn_capture();
    scenario.source("TRUNCATE things; INSERT INTO things VALUES (13)").await;
    scenario.await_equal("things").await;
    assert_eq!(stopped(), Some(at), "the sinks are told by the next process too");
    assert_eq!(scenario.topics().partitions("public.others"), 0, "a topic was created for nothing");
}
