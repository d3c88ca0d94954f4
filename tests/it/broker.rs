//! The broker is away, hangs, or refuses a record: nothing is confirmed to the source that Kafka does not have, and no
//! partition shows an event without its predecessor.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

/// Inserts a row in each of two transactions; gives the WAL position between them.
async fn insert_two(scenario: &Scenario, first: i32) -> String {
    scenario.source(&format!("INSERT INTO things VALUES ({first})")).await;
    let between = scenario.source_value("SELECT pg_current_wal_insert_lsn()").await.expect("a position");
    scenario.source(&format!("INSERT INTO things VALUES ({first} + 1)")).await;
    between
}

async fn has_confirmed(scenario: &Scenario, position: &str) -> bool {
    let confirmed = scenario.confirmed_flush().await.expect("the slot exists");
    let sql = format!("SELECT '{confirmed}'::pg_lsn >= '{position}'::pg_lsn");
    scenario.source_value(&sql).await.as_deref() == Some("t")
}

/// Traps T1, T59.
#[tokio::test(flavor = "multi_thread")]
async fn the_flush_lsn_stays_below_events_that_a_stopped_broker_has_not_acknowledged() {
    let private = PrivateParts::with_kafka();
    let mut scenario = Scenario::on(&private.parts, "flush").await;
    scenario.settings.set("capture.status_interval", "200ms");
    // The server asks for an update after half of it.
    scenario.source(&format!("ALTER DATABASE {} SET wal_sender_timeout = '1s'", scenario.name)).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let acknowledged = insert_two(&scenario, 1).await;
    await_condition("the first rows are confirmed", LIMIT, || has_confirmed(&scenario, &acknowledged)).await;

    let fault = private.stop();
    let pending = insert_two(&scenario, 10).await;
    let sent = format!(
        "SELECT pg_wal_lsn_diff(sent_lsn, '{pending}') >= 0 FROM pg_stat_replication WHERE pid = \
                        (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}')",
        scenario.name
    );
    let has_read = async || scenario.source_value_as_superuser(&sent).await.as_deref() == Some("t");
    await_condition("the server has sent the rows", LIMIT, has_read).await;
    let replied = format!(
        "SELECT reply_time FROM pg_stat_replication WHERE pid = \
         (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}')",
        scenario.name
    );
    let replies = Mutex::new(BTreeSet::new());
    await_condition("ten status updates have passed", LIMIT, async || {
        let reply = scenario.source_value_as_superuser(&replied).await.expect("the walsender is there");
        assert!(!has_confirmed(&scenario, &pending).await, "confirmed what Kafka does not have");
        let mut replies = replies.lock().expect("no panic while locked");
        replies.insert(reply);
        // The first one may have been on its way before.
        replies.len() > 10
    })
    .await;

    fault.heal();
    await_condition("the rows are confirmed", LIMIT, || has_confirmed(&scenario, &pending)).await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Traps T10, T76.
#[tokio::test(flavor = "multi_thread")]
async fn the_replication_connection_outlives_a_broker_that_hangs() {
    let private = PrivateParts::with_kafka();
    let mut scenario = Scenario::on(&private.parts, "hang").await;
    scenario.settings.set("capture.memory", "16MiB");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, body text)").await;
    scenario.source(&format!("ALTER DATABASE {} SET wal_sender_timeout = '3s'", scenario.name)).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", scenario.name);
    await_condition("capture streams", LIMIT, async || scenario.source_value(&sql).await.is_some()).await;
    let walsender = scenario.source_value(&sql).await.expect("it was there a moment ago");

    let fault = private.pause();
    scenario.source("INSERT INTO things SELECT i, repeat(md5(i::text), 60) FROM generate_series(1, 20000) i").await;
    let begun = Instant::now();
    await_condition("three time-outs of the server have passed", LIMIT, async || {
        assert_eq!(scenario.source_value(&sql).await.as_ref(), Some(&walsender), "the server ended the connection");
        begun.elapsed() > Duration::from_secs(10)
    })
    .await;

    fault.heal();
    scenario.await_target("SELECT count(*) FROM things", "20000").await;
    assert_eq!(scenario.source_value(&sql).await, Some(walsender));
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T77.
#[tokio::test(flavor = "multi_thread")]
async fn no_successor_of_a_refused_record_becomes_visible() {
    let scenario = Scenario::new("refused").await;
    let sql = "CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY);
               INSERT INTO things VALUES (1, 'first'); INSERT INTO others VALUES (1)";
    scenario.source(sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.topics().set("public.things", "max.message.bytes", "20000").await;

    let large = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 5000))";
    // On its own, since the broker refuses a batch whole.
    scenario.source("UPDATE things SET body = 'before it'").await;
    scenario.await_equal("things").await;
    let sql =
        format!("UPDATE things SET body = {large}; UPDATE things SET body = 'after it'; INSERT INTO others VALUES (2)");
    scenario.source(&sql).await;
    let stopped = async || scenario.readiness("capture").await.1.contains("public.things");
    await_condition("capture names the stopped table", LIMIT, stopped).await;
    scenario.source("UPDATE things SET body = 'long after it'; INSERT INTO others VALUES (3)").await;
    scenario.await_equal("others").await;
    let records = scenario.topics().read("public.things");
    assert!(records.iter().any(|record| record.holds("before it")));
    assert!(!records.iter().any(|record| record.holds("after it")), "a successor is visible");
}
