//! A gap in the source's log: capture stops, and begins anew only when it is told to.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{LIMIT, Scenario, await_condition, set_compatibility};

/// Traps T6 and T26: what happened while nobody looked is gone, and so must be the rows that it removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_stops_capture_and_a_new_snapshot_leaves_no_ghosts_and_takes_new_tables_in() {
    let mut scenario = Scenario::new("gap").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, name text)").await;
    scenario.source("INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 500) n").await;
    let apply = scenario.spawn_apply();
    let capture = scenario.capture().await;
    scenario.await_equal("things").await;
    drop(capture);

    scenario.source("DELETE FROM things WHERE id % 3 = 0; UPDATE things SET name = 'late' WHERE id % 5 = 0").await;
    scenario.source("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1), (2)").await;
    let slot = scenario.name.clone();
    scenario.source(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("resnapshot"), "{}", outcome.text);

    scenario.settings.set("capture.on_gap", "resnapshot");
    let capture = scenario.capture().await;
    for table in ["things", "later"] {
        scenario.await_equal(table).await;
    }
    scenario.source("INSERT INTO later VALUES (3)").await;
    scenario.await_equal("later").await;
    scenario.verify();
    drop((capture, apply));
}

/// Trap T6: the server sends nothing below the slot, and does not say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_moved_ahead_stops_capture_unless_it_is_trusted() {
    let mut scenario = Scenario::new("ahead").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 10)").await;
    let _apply = scenario.spawn_apply();
    let mut capture = scenario.capture().await;
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    scenario.source("INSERT INTO things SELECT generate_series(11, 20)").await;
    let advance = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", scenario.name);
    scenario.source_value_as_superuser(&advance).await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in ["ahead of the recorded", "resnapshot", "trust-slot"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }

    scenario.settings.set("capture.on_gap", "trust-slot");
    let mut capture = scenario.capture().await;
    assert!(scenario.log_text("capture").contains("what was committed between is not published"));
    scenario.source("INSERT INTO things SELECT generate_series(21, 30)").await;
    scenario.await_target("SELECT count(*) || ' to ' || max(id) FROM things", "20 to 30").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // What it goes on from is recorded: the default policy does as well.
    scenario.settings.set("capture.on_gap", "stop");
    scenario.source("INSERT INTO things SELECT generate_series(31, 40)").await;
    let _capture = scenario.capture().await;
    scenario.await_target("SELECT count(*) || ' to ' || max(id) FROM things", "30 to 40").await;
}

/// Trap T26: a table that stops before its rows are read has no rows of an earlier snapshot any more, like one that stops among
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stops_while_a_new_snapshot_is_prepared_is_emptied_with_the_others() {
    let mut scenario = Scenario::new("unprepared").await;
    for table in ["things", "others"] {
        scenario.source(&format!("CREATE TABLE {table} (id int PRIMARY KEY, n int)")).await;
        scenario.source(&format!("INSERT INTO {table} SELECT n, n FROM generate_series(1, 30) n")).await;
    }
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "others"] {
        scenario.await_equal(table).await;
    }
    let subject = format!("{}-value", scenario.topics().name("public.things"));
    set_compatibility(&scenario, &subject, "BACKWARD_TRANSITIVE").await;
    drop(capture);
    scenario.lose_slot().await;
    scenario.source("DELETE FROM things WHERE id > 9; DELETE FROM others WHERE id > 9").await;
    scenario.source("ALTER TABLE things ALTER n TYPE text").await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    let capture = scenario.spawn_capture();
    scenario.await_equal("others").await;
    let told = async || scenario.readiness("capture").await.1.contains("public.things");
    await_condition("capture names the table that the registry refuses", LIMIT, told).await;
    scenario.await_target("SELECT count(*) FROM things", "0").await;
    drop(capture);

    set_compatibility(&scenario, &subject, "NONE").await;
    scenario.lose_slot().await;
    scenario.target("ALTER TABLE things ALTER n TYPE text").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T26: the session that stops such a table may end before its begin is sent, and the next one sends another.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stopped_in_a_session_that_was_cut_before_its_begin_is_emptied_by_the_next_one() {
    let mut scenario = Scenario::new("cut_begin").await;
    for table in ["things", "zothers"] {
        scenario.source(&format!("CREATE TABLE {table} (id int PRIMARY KEY, n int)")).await;
        scenario.source(&format!("INSERT INTO {table} SELECT n, n FROM generate_series(1, 30) n")).await;
    }
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "zothers"] {
        scenario.await_equal(table).await;
    }
    let subject = format!("{}-value", scenario.topics().name("public.things"));
    set_compatibility(&scenario, &subject, "BACKWARD_TRANSITIVE").await;
    drop(capture);
    scenario.lose_slot().await;
    scenario.source("DELETE FROM things WHERE id > 9; DELETE FROM zothers WHERE id > 9").await;
    scenario.source("ALTER TABLE things ALTER n TYPE text").await;
    // The second table waits for its schemas until the slot is lost once more.
    let (url, gate) = gated_registry(&scenario.parts.registry, "public.zothers").await;
    scenario.settings.set("registry.urls", vec![url]);
    scenario.settings.set("capture.on_gap", "resnapshot");
    let mut capture = scenario.spawn_capture();
    let told = async || scenario.readiness("capture").await.1.contains("public.things");
    await_condition("capture names the table that the registry refuses", LIMIT, told).await;
    scenario.lose_slot().await;
    scenario.await_log(&mut capture, "was lost while it was in use: it was dropped").await;
    gate.send_replace(true);
    scenario.await_equal("zothers").await;
    scenario.await_target("SELECT count(*) FROM things", "0").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    drop(capture);

    // A restart does not take it for whole: its rows are read.
    set_compatibility(&scenario, &subject, "NONE").await;
    scenario.target("ALTER TABLE things ALTER n TYPE text").await;
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "the resync ends").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T13: nothing reads from the slot while the snapshot runs, so nothing else would tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_during_the_snapshot_is_noticed_before_its_end() {
    let mut scenario = Scenario::new("slot").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    scenario.settings.set("registry.urls", vec!["http://127.0.0.1:9"]);
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "waiting for the schema registry").await;
    scenario.lose_slot().await;
    scenario.await_log(&mut capture, "was lost while it was in use: it was dropped").await;
    let slots = async || scenario.confirmed_flush().await.is_some();
    await_condition("the snapshot starts over with a new slot", LIMIT, slots).await;
    drop(capture);

    let registry = scenario.parts.registry.clone();
    scenario.settings.set("registry.urls", vec![registry]);
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
}

/// An address of the registry that answers what holds this text from the moment on when the gate opens; it ends with the test's
/// runtime.
pub async fn gated_registry(registry: &str, held: &'static str) -> (String, watch::Sender<bool>) {
    let (authority, path) = registry.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/{path}", listener.local_addr().unwrap());
    let (gate, opened) = watch::channel(false);
    let behind = authority.to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (behind, mut opened) = (behind.clone(), opened.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(behind).await?;
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let requests = async {
                    let mut buffer = vec![0; 1 << 16];
                    loop {
                        let length = from_client.read(&mut buffer).await?;
                        let request = String::from_utf8_lossy(&buffer[..length]);
                        if length == 0 || request.contains(held) && opened.wait_for(|open| *open).await.is_err() {
                            return std::io::Result::Ok(());
                        }
                        to_server.write_all(&buffer[..length]).await?;
                    }
                };
                tokio::select! {
                    ended = requests => ended,
                    ended = copy(&mut from_server, &mut to_client) => ended.map(drop),
                }
            });
        }
    });
    (url, gate)
}

/// Trap T13: the snapshot ends before anybody looks at the slot again, and the stream finds it missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_before_its_stream_begins_is_a_gap_that_a_new_snapshot_closes() {
    let mut scenario = Scenario::new("between").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (url, gate) = gated_registry(&scenario.parts.registry, "").await;
    scenario.settings.set("registry.urls", vec![url]);
    scenario.settings.set("capture.on_gap", "resnapshot");
    let mut capture = scenario.spawn_capture();
    await_condition("the slot is there", LIMIT, async || scenario.confirmed_flush().await.is_some()).await;
    // The registry is asked behind the slot, so the snapshot has not begun to be published.
    scenario.await_log(&mut capture, "created replication slot").await;
    scenario.lose_slot().await;
    scenario.source("DELETE FROM things; INSERT INTO things VALUES (2)").await;
    gate.send_replace(true);
    scenario.await_log(&mut capture, "was lost while it was in use: it was dropped").await;
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    scenario.verify();
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
}

/// Trap T55: an offset that the log does not have is no reason to begin anywhere else.
#[tokio::test(flavor = "multi_thread")]
async fn apply_ends_at_an_offset_that_its_topic_does_not_have_and_says_which() {
    let scenario = Scenario::new("out_of_range").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things VALUES (1); INSERT INTO others VALUES (1)").await;
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "others"] {
        scenario.await_equal(table).await;
    }
    drop((capture, apply));
    scenario
        .target("UPDATE walrelay.position SET next_offset = 999 WHERE topic LIKE '%.things' AND partition = 1")
        .await;
    let outcome = scenario.run_to_end("apply").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let place = format!("offset 999 of topic {}.public.things, partition 1 (it has 0 to ", scenario.name);
    assert!(outcome.text.contains(&place), "{}", outcome.text);
    assert!(!outcome.text.contains(".public.others, partition"), "{}", outcome.text);
}
