//! `capture.heartbeat_interval`: records come while the source is idle, and capture goes on where they or their topic are refused.

use crate::support::{LIMIT, Scenario, Topics, await_condition};

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_while_the_source_is_idle() {
    let mut scenario = Scenario::new("heartbeat").await;
    // Longer than a fetch waits, or the reader would never see the topic's end.
    scenario.settings.set("capture.heartbeat_interval", "1s");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let topics = Topics::new(&scenario.parts.kafka, "__debezium-heartbeat");
    let beats = || if topics.partitions(&scenario.name) == 0 { 0 } else { topics.read(&scenario.name).len() };
    let before = beats();
    await_condition("heartbeats go on", LIMIT, async || beats() > before + 2).await;
    let last = topics.read(&scenario.name).pop().expect("a heartbeat");
    assert!(last.key.is_some_and(|key| key.ends_with(scenario.name.as_bytes())));
    assert_eq!((topics.partitions(&scenario.name), last.headers.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_topic_that_is_refused_does_not_end_capture() {
    let mut scenario = Scenario::new("heartbeat_refused").await;
    scenario.settings.set("capture.heartbeat_interval", "50ms");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    Topics::new(&scenario.parts.kafka, "__debezium-heartbeat").create(&scenario.name, 2).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_log(&mut capture, "no heartbeats are sent").await;
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
}

/// The topic took them at first.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_that_are_refused_later_do_not_end_capture() {
    let mut scenario = Scenario::new("heartbeat_denied").await;
    scenario.settings.set("capture.heartbeat_interval", "100ms");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let topics = Topics::new(&scenario.parts.kafka, "__debezium-heartbeat");
    await_condition("heartbeats are sent", LIMIT, async || topics.partitions(&scenario.name) > 0).await;
    topics.set(&scenario.name, "max.message.bytes", "1").await;
    scenario.await_log(&mut capture, "no heartbeats are sent").await;
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
    let told = async || {
        let (status, body) = scenario.readiness("capture").await;
        status == 200 && body.contains("no heartbeats are sent")
    };
    await_condition("capture is ready and tells it", LIMIT, told).await;
    scenario.await_log(&mut capture, "capture session ended").await;
}

/// Trap T11: without a table, and in no topic.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_at_the_source_come_back_by_its_log_and_go_nowhere() {
    let mut scenario = Scenario::new("heartbeat_source").await;
    scenario.settings.set("capture.source_heartbeat_interval", "200ms");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let beats = async || scenario.metrics("capture").await.sum("walrelay_capture_source_heartbeats_total");
    let before = beats().await;
    await_condition("heartbeats come back", LIMIT, async || beats().await > before + 3.0).await;
    // Another capture's, and what anybody may send, are no heartbeats of this one, and no messages either.
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    for content in ["\"other\"", "{", ""] {
        scenario.source(&format!("SELECT pg_logical_emit_message(true, 'walrelay.heartbeat', '{content}')")).await;
    }
    scenario.source("SELECT pg_logical_emit_message(true, 'note', 'text')").await;
    let _capture = scenario.capture().await;
    let messages = || scenario.topics().read("message");
    await_condition("the other message comes", LIMIT, async || !messages().is_empty()).await;
    await_condition("heartbeats come back", LIMIT, async || beats().await > 3.0).await;
    assert_eq!(messages().len(), 1);
}

/// Trap T11: a role that may not, and the stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_that_the_source_does_not_take_are_told() {
    let mut scenario = Scenario::new("heartbeat_unwritten").await;
    scenario.settings.set("capture.source_heartbeat_interval", "1s");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let admin = scenario.parts.source.connect(&scenario.name, "postgres", "").await.unwrap();
    // Its arguments differ by version.
    let revoke = "DO $$ DECLARE f regprocedure; BEGIN
        FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' AND proargtypes[1] = 25 AND proargtypes[2] = 25 LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        END LOOP; END $$";
    admin.batch_execute(revoke).await.unwrap();
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let told = async || {
        let (status, body) = scenario.readiness("capture").await;
        status == 200 && body.contains("no heartbeats are written at the source: the role of [source] may not call")
    };
    await_condition("capture is ready and tells it", LIMIT, told).await;
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
}
