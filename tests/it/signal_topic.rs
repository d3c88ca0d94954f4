//! The signal topic: a record asks what a row of the signal table asks, as Debezium's users know it.

use walrelay::cli::demo::process::Process;

use crate::support::{LIMIT, Scenario, Topics, await_condition};

const BEGINS: &str = "a resync begins";
const HANDED_ON: &str = "a record of the signal topic is in the source's log";
const FILL: &str =
    "CREATE TABLE items (id int PRIMARY KEY, n int); INSERT INTO items SELECT i, 0 FROM generate_series(1, 1000) i;
     CREATE TABLE notes (id int PRIMARY KEY, n int); INSERT INTO notes SELECT i, 0 FROM generate_series(1, 1000) i";
const DAMAGE: &str = "INSERT INTO items SELECT -i, 7 FROM generate_series(1, 50) i; DELETE FROM items WHERE id % 5 = 0;
     INSERT INTO notes SELECT -i, 7 FROM generate_series(1, 50) i; UPDATE notes SET n = 3 WHERE id % 7 = 0";
const BOTH: &str = r#"{"data-collections": ["public\\.(items|notes)"], "type": "incremental"}"#;

/// A scenario with a signal topic that is not there yet.
async fn scenario(name: &str) -> (Scenario, Topics) {
    let mut scenario = Scenario::new(name).await;
    let topics = scenario.topics_under("signals");
    scenario.settings.set("capture.signal_topic", topics.name(&scenario.name));
    scenario.source(FILL).await;
    (scenario, topics)
}

async fn both_halves(scenario: &Scenario) -> (Process, Process) {
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    settle(scenario).await;
    await_log(scenario, "following the signal topic", 1).await;
    (capture, apply)
}

async fn settle(scenario: &Scenario) {
    scenario.await_equal("items").await;
    scenario.await_equal("notes").await;
}

fn ask(scenario: &Scenario, topics: &Topics, kind: &str, data: &str) {
    let value = format!(r#"{{"id": "x", "type": "{kind}", "data": {data}}}"#);
    write(scenario, topics, &scenario.name, value.as_bytes());
}

fn write(scenario: &Scenario, topics: &Topics, key: &str, value: &[u8]) {
    topics.write(&scenario.name, 0, Some(key.as_bytes()), Some(value));
}

async fn await_log(scenario: &Scenario, text: &str, count: usize) {
    let seen = async || scenario.log_text("capture").matches(text).count() >= count;
    await_condition(&format!("{count} times {text:?}"), LIMIT, seen).await;
}

async fn await_page(scenario: &Scenario, text: &str) {
    let told = async || scenario.page("capture", "/").await.contains(text);
    await_condition(&format!("the status page says {text:?}"), LIMIT, told).await;
}

/// Since changes come in order, so many resyncs have begun by all signals before.
async fn begun(scenario: &Scenario, count: usize) {
    scenario.source("UPDATE items SET n = n + 1 WHERE id = 1").await;
    settle(scenario).await;
    assert_eq!(scenario.log_text("capture").matches(BEGINS).count(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_under_the_prefix_asks_in_debeziums_form() {
    let (mut scenario, topics) = scenario("topic_asks").await;
    scenario.settings.set("capture.delivery", "exactly-once");
    // What is there before is no signal.
    topics.create(&scenario.name, 1).await;
    ask(&scenario, &topics, "execute-snapshot", BOTH);
    let (mut capture, _apply) = both_halves(&scenario).await;
    scenario.target(DAMAGE).await;
    let value = format!(r#"{{"type": "execute-snapshot", "data": {BOTH}}}"#);
    write(&scenario, &topics, "another", value.as_bytes());
    topics.write(&scenario.name, 0, None, Some(value.as_bytes()));
    ask(&scenario, &topics, "execute-snapshot", BOTH);
    scenario.await_log(&mut capture, "the resync ends").await;
    settle(&scenario).await;
    begun(&scenario, 1).await;
    // The data as a text, with a condition.
    scenario.target("UPDATE items SET n = 9").await;
    let data = r#"{"data-collections": ["public.items"], "additional-condition": "id >= 100 AND id < 200"}"#;
    ask(&scenario, &topics, "execute-snapshot", &serde_json::to_string(data).expect("a text"));
    scenario
        .await_target("SELECT count(*) || ' ' || min(id) || ' ' || max(id) FROM items WHERE n = 0", "100 100 199")
        .await;
    await_log(&scenario, "the resync ends", 2).await;
    ask(&scenario, &topics, "execute-snapshot", BOTH);
    settle(&scenario).await;
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_followed_once_however_often_capture_is_killed() {
    let (scenario, topics) = scenario("topic_kill").await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    // They come while capture is down, and as soon as they are handed on it is killed.
    for round in 1..=4 {
        scenario.target(DAMAGE).await;
        capture.kill_9().expect("capture can be killed");
        ask(&scenario, &topics, "execute-snapshot", BOTH);
        capture = scenario.spawn_capture();
        await_log(&scenario, HANDED_ON, round).await;
        capture.kill_9().expect("capture can be killed");
        capture = scenario.spawn_capture();
        settle(&scenario).await;
        begun(&scenario, round).await;
    }
    // A copy further on, as one makes that is killed before the stream has brought the first.
    let (slot, topic) = (&scenario.name, topics.name(&scenario.name));
    let value = format!(r#"{{"type": "execute-snapshot", "data": {BOTH}}}"#);
    let copy =
        |offset: i64| serde_json::json!({"slot": slot, "topic": topic, "offset": offset, "value": value}).to_string();
    for offset in [0, 3] {
        let emit = format!("SELECT pg_logical_emit_message(true, 'walrelay.signal-record', $x${}$x$)", copy(offset));
        scenario.source(&emit).await;
    }
    begun(&scenario, 4).await;
    ask(&scenario, &topics, "execute-snapshot", BOTH);
    scenario.target(DAMAGE).await;
    settle(&scenario).await;
    begun(&scenario, 5).await;
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_records_from_being_followed_is_told_and_ends_nothing() {
    let (mut scenario, topics) = scenario("topic_told").await;
    scenario.settings.set("kafka.topics.create", false);
    for table in ["public.items", "public.notes", "message"] {
        scenario.topics().create(table, 3).await;
    }
    for topic in ["state", "progress"] {
        scenario.topics_under(&format!("walrelay.{topic}")).create(&scenario.name, 1).await;
    }
    scenario.topics_under("walrelay.state").set(&scenario.name, "cleanup.policy", "compact").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    settle(&scenario).await;
    await_page(&scenario, "does not exist").await;
    topics.create(&scenario.name, 2).await;
    await_page(&scenario, "it has 2 partitions").await;
    topics.delete(&scenario.name).await;
    topics.create(&scenario.name, 1).await;
    await_log(&scenario, "following the signal topic", 1).await;
    assert!(!scenario.page("capture", "/").await.contains("signal topic"), "nothing is told any more");
    for (value, told) in [
        (&b"private"[..], "offset 0 of the signal topic: the record is no JSON"),
        (b"{\"data\": \"private\"}", "offset 1 of the signal topic: the record is not the JSON"),
        (b"\xff\xfe", "offset 2 of the signal topic: its value is no text"),
        (br#"{"type": "make-coffee"}"#, "make-coffee"),
        (
            br#"{"type": "execute-snapshot", "data": {"data-collections": ["public.missing"]}}"#,
            "public.missing is not captured",
        ),
        (br#"{"type": "pause-snapshot"}"#, "none that could pause"),
    ] {
        write(&scenario, &topics, &scenario.name, value);
        await_page(&scenario, told).await;
    }
    assert!(!scenario.log_text("capture").contains("private"), "values are in no log");
    assert_eq!(scenario.readiness("capture").await.0, 200);
    // One that is created anew is read from its begin.
    topics.delete(&scenario.name).await;
    topics.create(&scenario.name, 1).await;
    ask(&scenario, &topics, "execute-snapshot", BOTH);
    scenario.target(DAMAGE).await;
    settle(&scenario).await;
    begun(&scenario, 1).await;
}
