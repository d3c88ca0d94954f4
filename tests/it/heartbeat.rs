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
