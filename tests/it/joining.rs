//! Tables that come while capture goes on: each gets all its rows, and none of the others waits.

use std::time::Duration;

use rdkafka::topic_partition_list::Offset;
use tokio_postgres::Client;
use walrelay::cli::demo::process::Process;

use crate::{
    resume::{Changes, LARGE_TEXT},
    support::{LIMIT, Scenario, await_condition, holds_within},
};

const JOIN: &str = "tables join what is captured";
const ENDS: &str = "the resync ends";
const ROWS: u64 = 6_000;

/// Capture's readiness names the table, with this reason.
async fn await_told(scenario: &Scenario, table: &str, reason: &str) {
    let told = async || {
        let page = scenario.readiness("capture").await.1;
        page.contains(table) && page.contains(reason)
    };
    await_condition(&format!("capture tells of {table}: {reason}"), LIMIT, told).await;
}

async fn await_quiet(scenario: &Scenario) {
    await_condition("capture is ready", LIMIT, async || scenario.readiness("capture").await.0 == 200).await;
}

/// Rows from before, large values that no update repeats, keys that move, and a kill in the midst. Trap T24.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_created_later_comes_with_its_rows_while_it_changes() {
    let mut scenario = Scenario::new("joins").await;
    scenario.settings.set("kafka.topics.partitions", 3);
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["items", "notes"] {
        let fill = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL, body text);
             INSERT INTO {table} SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, {ROWS}) i"
        );
        scenario.source(&fill).await;
    }
    let changes = Changes::start(&scenario, ROWS).await;
    scenario.await_log(&mut capture, JOIN).await;
    let read = async || scenario.metrics("capture").await.sum("walrelay_capture_snapshot_rows_total") > 1_000.0;
    await_condition("rows are read", LIMIT, read).await;
    capture.kill_9().expect("capture can be killed");
    capture = scenario.spawn_capture();
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_target("SELECT count(*) FROM others", "1").await;
    scenario.await_log(&mut capture, ENDS).await;
    println!("{} transactions", changes.stop().await);
    for table in ["items", "notes", "others"] {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    await_quiet(&scenario).await;
    scenario.source("INSERT INTO items VALUES (0, 1, 'last')").await;
    scenario.await_equal("items").await;
}

/// A transaction that had the table open when it came into the publication: what it changed before is not sent, and must be read. Trap T24.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_had_the_table_open_when_it_came_into_the_publication_loses_nothing() {
    let mut scenario = Scenario::new("opened").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source("CREATE TABLE later (id int PRIMARY KEY, note text); INSERT INTO later VALUES (1, 'before')").await;
    scenario.settings.set("capture.exclude", vec!["public.later"]);
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let writer = scenario.source_session().await;
    let write = "BEGIN; INSERT INTO later VALUES (2, 'open'); UPDATE later SET note = 'open' WHERE id = 1";
    writer.batch_execute(write).await.expect("a write");
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.exclude", Vec::<String>::new());
    capture = scenario.spawn_capture();
    await_told(&scenario, "public.later", "transactions have it open").await;
    scenario.source(&format!("ALTER PUBLICATION {} ADD TABLE later", scenario.name)).await;
    scenario.await_log(&mut capture, JOIN).await;
    scenario.source("INSERT INTO later VALUES (3, 'after'); INSERT INTO others VALUES (1)").await;
    scenario.await_target("SELECT count(*) FROM others", "1").await;
    let rows_come = async || scenario.metrics("capture").await.sum("walrelay_capture_snapshot_rows_total") > 0.0;
    assert!(!holds_within(Duration::from_secs(3), rows_come).await, "rows were read beside an open transaction");
    writer.batch_execute("COMMIT").await.expect("a commit");
    scenario.await_equal("later").await;
    scenario.await_log(&mut capture, ENDS).await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM later").await.as_deref(), Some("3"));
    scenario.verify();
    await_quiet(&scenario).await;
}

/// While nothing else is written, each that joins does so at the same place. Trap T24.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_joins_while_another_one_waits_keeps_neither_from_its_rows() {
    let scenario = Scenario::new("together").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    capture.kill_9().expect("capture can be killed");
    let writer = scenario.source_session().await;
    let tables = ["first", "second", "third"];
    for (before, table) in tables.into_iter().enumerate() {
        let fill =
            format!("CREATE TABLE {table} (id int PRIMARY KEY, note text); INSERT INTO {table} VALUES (1, 'row')");
        scenario.source(&fill).await;
        if table == "first" {
            writer.batch_execute("BEGIN; UPDATE first SET note = 'open'").await.expect("a write");
        }
        scenario.source(&format!("ALTER PUBLICATION {} ADD TABLE {table}", scenario.name)).await;
        capture = scenario.spawn_capture();
        let joins = async || scenario.log_text("capture").matches(JOIN).count() > before;
        await_condition(&format!("{table} joins"), LIMIT, joins).await;
        capture.kill_9().expect("capture can be killed");
    }
    println!(
        "{}",
        scenario.log_text("capture").lines().filter(|line| line.contains(JOIN)).collect::<Vec<_>>().join("\n")
    );
    capture = scenario.spawn_capture();
    writer.batch_execute("COMMIT").await.expect("a commit");
    scenario.await_log(&mut capture, ENDS).await;
    for table in tables {
        scenario.await_equal(table).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    scenario.verify();
    await_quiet(&scenario).await;
}

/// In a publication the source would refuse its updates.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_stays_as_it_is_until_it_has_one() {
    let scenario = Scenario::new("keyless_later").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let fill = "CREATE TABLE later (id int NOT NULL, n int); INSERT INTO later VALUES (1, 1);
         CREATE TABLE parted (id int NOT NULL, n int) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100); INSERT INTO parted VALUES (1, 1)";
    scenario.source(fill).await;
    for table in ["public.later", "public.parted"] {
        await_told(&scenario, table, "add a primary key").await;
    }
    scenario.source("UPDATE later SET n = 2; UPDATE parted SET n = 2; INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    scenario.source("ALTER TABLE later ADD PRIMARY KEY (id); ALTER TABLE parted ADD PRIMARY KEY (id)").await;
    for table in ["later", "parted"] {
        scenario.await_equal(table).await;
    }
    scenario.source("UPDATE later SET n = 3; UPDATE parted SET n = 3; DELETE FROM others").await;
    for table in ["later", "parted", "others"] {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    await_quiet(&scenario).await;
}

/// Trap T24: the WAL does not tell that a table was away, and what was changed meanwhile is not sent: it is read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_left_the_publication_or_the_configuration_for_a_while_is_read_again() {
    let mut scenario = Scenario::new("rejoined").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (1), (2)").await;
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    let alter = format!("ALTER PUBLICATION {}", scenario.name);
    scenario.source(&format!("{alter} DROP TABLE things")).await;
    scenario.source("INSERT INTO things VALUES (3); DELETE FROM things WHERE id = 1").await;
    scenario.source(&format!("{alter} ADD TABLE things")).await;
    capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (4)").await;
    scenario.await_equal("things").await;
    scenario.await_log(&mut capture, ENDS).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    scenario.settings.set("capture.exclude", vec!["public.things"]);
    capture = scenario.capture().await;
    scenario
        .source("INSERT INTO things VALUES (5); DELETE FROM things WHERE id = 2; INSERT INTO others VALUES (1)")
        .await;
    scenario.await_equal("others").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.exclude", Vec::<String>::new());
    capture = scenario.capture().await;
    scenario.await_log(&mut capture, JOIN).await;
    scenario.source("INSERT INTO things VALUES (6)").await;
    scenario.await_equal("things").await;
    scenario.await_log(&mut capture, ENDS).await;
    scenario.verify();
    await_quiet(&scenario).await;
}

/// One that is told to be given up is named until it has been read, be it by a resync.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_which_not_all_rows_were_read_is_named_until_a_resync_has_them() {
    let scenario = Scenario::new("cut_joining").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later SELECT generate_series(1, 500)").await;
    let holder = scenario.source_session().await;
    scenario.await_log(&mut capture, "a table came into the publication").await;
    holder.batch_execute("BEGIN; LOCK TABLE later IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    scenario.await_log(&mut capture, JOIN).await;
    let stop = tokio::task::block_in_place(|| scenario.run(&["resync", "public.later", "--stop"]));
    assert_eq!(stop.code, Some(0), "{}", stop.text);
    await_told(&scenario, "public.later", "not all of its rows could be read").await;
    holder.batch_execute("COMMIT").await.expect("an end");
    scenario.source("INSERT INTO later VALUES (501); INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    let resync = tokio::task::block_in_place(|| scenario.run(&["resync", "public.later"]));
    assert_eq!(resync.code, Some(0), "{}", resync.text);
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("later").await;
    await_quiet(&scenario).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO later VALUES (502)").await;
    scenario.await_equal("later").await;
    scenario.verify();
    assert_eq!(scenario.log_text("capture").matches(JOIN).count(), 1, "the table joined once more");
}

/// What the slot has of another table that had its name before is none of it. Trap T37.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_took_a_name_while_capture_was_away_is_read() {
    let scenario = Scenario::new("name_taken").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    capture.kill_9().expect("capture can be killed");

    for rows in ["(1), (2)", "(2), (4)"] {
        scenario.source("DROP TABLE IF EXISTS taken; CREATE TABLE taken (id int PRIMARY KEY)").await;
        scenario.source(&format!("ALTER PUBLICATION {} ADD TABLE taken", scenario.name)).await;
        scenario.source(&format!("INSERT INTO taken VALUES {rows}")).await;
    }
    capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, JOIN).await;
    scenario.source("INSERT INTO taken VALUES (5); INSERT INTO others VALUES (2)").await;
    scenario.await_equal("others").await;
    scenario.await_equal("taken").await;
    scenario.await_log(&mut capture, ENDS).await;
    await_quiet(&scenario).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    scenario.source("UPDATE taken SET id = id + 10").await;
    scenario.await_equal("taken").await;
    scenario.verify();
    await_quiet(&scenario).await;
}

/// What it lacks, it lacks behind the end of its resync too, to which the others come: updates of rows that sinks do not have must not stop it.
#[tokio::test(flavor = "multi_thread")]
async fn updates_of_rows_that_were_not_read_are_told_as_such_behind_the_end_too() {
    let scenario = Scenario::new("cut_among").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    capture.kill_9().expect("capture can be killed");
    for table in ["first", "second"] {
        let fill = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, n int, body text);
             INSERT INTO {table} SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 20) i;
             ALTER PUBLICATION {} ADD TABLE {table}",
            scenario.name
        );
        scenario.source(&fill).await;
    }
    let holder = scenario.source_session().await;
    holder.batch_execute("BEGIN; LOCK TABLE first IN EXCLUSIVE MODE").await.expect("a lock");
    capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, JOIN).await;
    let stop = tokio::task::block_in_place(|| scenario.run(&["resync", "public.first", "--stop"]));
    assert_eq!(stop.code, Some(0), "{}", stop.text);
    await_told(&scenario, "public.first", "not all of its rows could be read").await;
    holder.batch_execute("COMMIT").await.expect("an end");
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("second").await;
    scenario.source("UPDATE first SET n = 1; INSERT INTO first VALUES (21, 1, 'last')").await;
    scenario.await_target("SELECT count(*) FROM first WHERE id = 21", "1").await;
    let resync = tokio::task::block_in_place(|| scenario.run(&["resync", "public.first"]));
    assert_eq!(resync.code, Some(0), "{}", resync.text);
    scenario.await_equal("first").await;
    scenario.verify();
    await_quiet(&scenario).await;
}

/// The table of the parents was away, and a row of it is not read yet on which a child hangs: not beside a transaction that had the table open
/// before, which the session holds. It has no id, so that nothing else waits for it.
async fn parents_come_back(scenario: &Scenario) -> (Process, Client) {
    let alter = format!("ALTER PUBLICATION {}", scenario.name);
    scenario.source(&format!("{alter} DROP TABLE parents")).await;
    scenario.source("INSERT INTO parents VALUES (2)").await;
    scenario.source(&format!("{alter} ADD TABLE parents")).await;
    let writer = scenario.source_session().await;
    writer.batch_execute("BEGIN; LOCK TABLE parents IN ROW EXCLUSIVE MODE").await.expect("a lock");
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, JOIN).await;
    scenario.source("INSERT INTO children VALUES (2, 2)").await;
    (capture, writer)
}

/// Trap T66: a parent that is read again comes later than children which refer to it, whatever came of the parent's table meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_waits_for_its_parent_that_is_still_to_be_read() {
    let scenario = Scenario::new("parent_later").await;
    let tables = "CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents)";
    scenario.both(tables).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1)").await;
    scenario.await_equal("children").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    let (_capture, writer) = parents_come_back(&scenario).await;
    let waits = async || scenario.page("apply", "/").await.contains("capture has still to read rows of topic");
    await_condition("the child waits for its parent", LIMIT, waits).await;
    scenario.source("INSERT INTO parents VALUES (4)").await;
    scenario.await_target("SELECT count(*) FROM parents WHERE id = 4", "1").await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM children").await.as_deref(), Some("1"));
    writer.batch_execute("COMMIT").await.expect("a commit");
    scenario.await_equal("children").await;
    scenario.await_equal("parents").await;
    scenario.verify();
    await_quiet(&scenario).await;
}

/// Trap T66: where apply comes later than all of that, nothing tells any more that rows were read, and the parent lies behind the child
/// all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_waits_for_its_parent_that_was_read_before_apply_came() {
    let mut scenario = Scenario::new("parent_read").await;
    scenario.settings.set("apply.memory", "4MiB");
    let tables = "CREATE TABLE parents (id int PRIMARY KEY, body text); CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents)";
    scenario.both(tables).await;
    let mut capture = scenario.capture().await;
    scenario.source("INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1)").await;
    let published = async |children: usize| {
        let read = async || scenario.topics().read("public.children").len() == children;
        await_condition("the children are in Kafka", LIMIT, read).await;
    };
    published(1).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    let (_capture, writer) = parents_come_back(&scenario).await;
    published(2).await;
    // More than apply may hold, behind the child and in front of the rows that are read.
    scenario.source("INSERT INTO parents SELECT i, repeat(md5(i::text), 80) FROM generate_series(10, 4000) i").await;
    writer.batch_execute("COMMIT").await.expect("a commit");
    await_quiet(&scenario).await;
    await_condition("nothing is to be read any more", LIMIT, async || scenario.progress().unread.is_empty()).await;
    // Retention has taken what was told meanwhile.
    let progress = scenario.topics_under("walrelay.progress");
    let told = i64::try_from(progress.read(&scenario.name).len()).expect("few records");
    progress.delete_records(&scenario.name, 0, Offset::Offset(told - 1)).await;
    let _apply = scenario.apply().await;
    scenario.await_equal("children").await;
    scenario.await_equal("parents").await;
    scenario.verify();
}

/// Changes from before are in the rows that are read. Sent again, they are as little published as they were.
#[tokio::test(flavor = "multi_thread")]
async fn changes_from_before_a_table_joined_are_not_published_when_they_are_sent_again() {
    let mut scenario = Scenario::new("early").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.settings.set("capture.snapshot", "never");
    scenario.settings.set("capture.checkpoint_interval", "1h");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let fill = format!(
        "CREATE TABLE later (id int PRIMARY KEY, n int, body text);
         INSERT INTO later SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 20) i"
    );
    scenario.source(&fill).await;
    scenario.source(&format!("ALTER PUBLICATION {} ADD TABLE later", scenario.name)).await;
    scenario.source("UPDATE later SET n = 1; DELETE FROM later WHERE id = 20; INSERT INTO others VALUES (1)").await;
    await_told(&scenario, "public.later", "its rows are not captured").await;
    scenario.await_target("SELECT count(*) FROM others", "1").await;
    capture.kill_9().expect("capture can be killed");

    scenario.settings.set("capture.snapshot", "initial");
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("later").await;
    let records = scenario.topics().read("public.later");
    let changed = records.iter().filter(|record| record.value.is_some()).count();
    assert_eq!(changed, 19, "{records:?}");
    scenario.verify();
    await_quiet(&scenario).await;
}
