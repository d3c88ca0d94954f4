//! The signal table: an inserted row asks what `walrelay resync` and `walrelay resume` ask, as Debezium's users know it.

use serde_json::Value as Json;
use walrelay::cli::demo::process::Process;

use crate::support::{LIMIT, Scenario, await_condition};

const BEGINS: &str = "a resync begins";
const ENDS: &str = "the resync ends";
const SIGNALS: &str = "CREATE TABLE signals (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data text)";
const FILL: &str =
    "CREATE TABLE items (id int PRIMARY KEY, n int); INSERT INTO items SELECT i, 0 FROM generate_series(1, 1000) i;
     CREATE TABLE notes (id int PRIMARY KEY, n int); INSERT INTO notes SELECT i, 0 FROM generate_series(1, 1000) i";
const DAMAGE: &str = "INSERT INTO items SELECT -i, 7 FROM generate_series(1, 50) i; DELETE FROM items WHERE id % 5 = 0;
     INSERT INTO notes SELECT -i, 7 FROM generate_series(1, 50) i; UPDATE notes SET n = 3 WHERE id % 7 = 0";

/// A signal table that is not captured.
async fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.signal_table", "public.signals");
    scenario.settings.set("capture.exclude", vec!["public.signals".to_owned()]);
    scenario.source(SIGNALS).await;
    scenario.source(FILL).await;
    scenario
}

async fn both_halves(scenario: &Scenario) -> (Process, Process) {
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    settle(scenario).await;
    (capture, apply)
}

async fn settle(scenario: &Scenario) {
    scenario.await_equal("items").await;
    scenario.await_equal("notes").await;
}

async fn ask(scenario: &Scenario, kind: &str, data: &str) {
    let id = "(SELECT 'signal ' || count(*) FROM signals)";
    scenario.source(&format!("INSERT INTO signals VALUES ({id}, '{kind}', '{data}')")).await;
}

async fn await_page(scenario: &Scenario, text: &str) {
    let told = async || scenario.page("capture", "/").await.contains(text);
    await_condition(&format!("the status page says {text:?}"), LIMIT, told).await;
}

async fn await_count(scenario: &Scenario, text: &str, count: usize) {
    let seen = async || scenario.log_text("capture").matches(text).count() >= count;
    await_condition(&format!("{count} times {text:?}"), LIMIT, seen).await;
    assert_eq!(scenario.log_text("capture").matches(text).count(), count, "{text}");
}

/// The resyncs that are recorded are forgotten.
async fn await_forgotten(scenario: &Scenario) {
    let forgotten = async || {
        let mut open = std::collections::BTreeSet::new();
        for record in scenario.state_topics().read(&scenario.name) {
            let key = String::from_utf8(record.key.expect("a key")).expect("text");
            if key.starts_with("resync/") {
                if record.value.is_some() {
                    open.insert(key)
                } else {
                    open.remove(&key)
                };
            }
        }
        open.is_empty()
    };
    await_condition("no resync is recorded any more", LIMIT, forgotten).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_asks_for_tables_by_regular_expressions_and_is_published_nowhere_itself() {
    let scenario = scenario("sig_asks").await;
    // What is there before is no signal.
    ask(&scenario, "execute-snapshot", r#"{"data-collections": ["public.items"]}"#).await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    scenario.target(DAMAGE).await;
    let data = r#"{"data-collections": ["public\\.(items|notes)"], "type": "incremental"}"#;
    ask(&scenario, "execute-snapshot", data).await;
    scenario.await_log(&mut capture, ENDS).await;
    settle(&scenario).await;
    // Neither do updates and deletes ask for anything, nor a truncate.
    scenario
        .source("UPDATE signals SET id = id || 'x'; DELETE FROM signals WHERE id LIKE '%0x'; TRUNCATE signals")
        .await;
    scenario.source("INSERT INTO items VALUES (5000, 1)").await;
    settle(&scenario).await;
    await_count(&scenario, BEGINS, 1).await;
    let records = scenario.topics().read("public.items");
    assert!(records.iter().any(|record| record.headers.contains_key("walrelay.sweep")));
    assert_eq!(scenario.target_value("SELECT to_regclass('signals')::text").await, None);
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_those_of_each_table() {
    let scenario = scenario("sig_where").await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    scenario.target("UPDATE items SET n = 9; UPDATE notes SET n = 9").await;
    let data = r#"{"data-collections": ["public.items", "public.notes"], "additional-conditions":
        [{"data-collection": "public.items", "filter": "id >= 100 AND id < 200"}]}"#;
    ask(&scenario, "execute-snapshot", data).await;
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("notes").await;
    let healed = "SELECT count(*) || ' ' || min(id) || ' ' || max(id) FROM items WHERE n = 0";
    scenario.await_target(healed, "100 100 199").await;
    // The older form, of all tables.
    let data = r#"{"data-collections": ["public.items"], "additional-condition": "id < 100"}"#;
    ask(&scenario, "execute-snapshot", data).await;
    scenario.await_target(healed, "199 1 199").await;
}

/// What cannot be followed is told, and the next one is followed.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_told_and_ends_nothing() {
    let scenario = scenario("sig_bad").await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    for (kind, data, told) in [
        ("make-coffee", "{}", "make-coffee"),
        ("execute-snapshot", "{\"data-collections\": [\"private", "is no JSON"),
        ("execute-snapshot", r#"{"data-collections": []}"#, "names no tables"),
        ("execute-snapshot", r#"{"data-collections": ["public.missing"]}"#, "table public.missing is not captured"),
        ("execute-snapshot", r#"{"data-collections": ["public.("]}"#, "no regular expression"),
        (
            "execute-snapshot",
            r#"{"data-collections": ["public.items"], "additional-condition": "n = 1"}"#,
            "not part of the key",
        ),
        ("stop-snapshot", "", "no resync that goes on"),
        ("pause-snapshot", "{}", "none that could pause"),
        ("resume-tables", r#"{"data-collections": ["public.items"]}"#, "has stopped"),
    ] {
        // Else the notes of one that begins take the place of those before.
        ask(&scenario, kind, data).await;
        await_page(&scenario, told).await;
    }
    scenario.await_log(&mut capture, "a signal is not followed").await;
    assert!(!scenario.log_text("capture").contains("private"), "values of rows are in no log");
    scenario.target(DAMAGE).await;
    ask(&scenario, "execute-snapshot", r#"{"data-collections": ["public.items", "public.notes"], "type": "blocking"}"#)
        .await;
    scenario.await_log(&mut capture, ENDS).await;
    settle(&scenario).await;
    assert_eq!(scenario.readiness("capture").await.0, 200);
}

/// Signals that came while capture was down are followed in their order, and none is when they come again.
#[tokio::test(flavor = "multi_thread")]
async fn each_signal_is_followed_once_however_often_capture_is_killed() {
    let scenario = scenario("sig_kill").await;
    scenario.source("CREATE TABLE large (id int PRIMARY KEY, body text)").await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    // A stopped table keeps the slot below all of them: they come again with every start.
    scenario.source("INSERT INTO large VALUES (1, repeat('x', 3000000))").await;
    let stopped = async || scenario.readiness("capture").await.1.contains("public.large");
    await_condition("the table has stopped", LIMIT, stopped).await;
    scenario.target(DAMAGE).await;
    capture.kill_9().expect("capture can be killed");
    ask(&scenario, "execute-snapshot", r#"{"data-collections": ["public.*s"]}"#).await;
    ask(&scenario, "pause-snapshot", "{}").await;
    ask(&scenario, "stop-snapshot", r#"{"data-collections": ["public.notes"]}"#).await;
    for _ in 0..2 {
        capture = scenario.spawn_capture();
        await_page(&scenario, "resync (paused)").await;
        capture.kill_9().expect("capture can be killed");
    }
    ask(&scenario, "resume-snapshot", "").await;
    capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("items").await;
    await_count(&scenario, BEGINS, 1).await;
    let ghosts = "SELECT count(*) FROM notes WHERE id < 0";
    assert_eq!(scenario.target_value(ghosts).await.as_deref(), Some("50"), "notes was given up");
    for _ in 0..2 {
        capture.kill_9().expect("capture can be killed");
        capture = scenario.spawn_capture();
        scenario.source("UPDATE items SET n = n + 1 WHERE id = 1").await;
        scenario.await_equal("items").await;
    }
    await_count(&scenario, BEGINS, 1).await;
    // The stopped table goes on by a row too.
    scenario.topics().set("public.large", "max.message.bytes", "9000000").await;
    ask(&scenario, "resume-tables", r#"{"data-collections": ["public.large"]}"#).await;
    scenario.await_equal("large").await;
    await_forgotten(&scenario).await;
    await_count(&scenario, BEGINS, 1).await;
    await_condition("capture is ready", LIMIT, async || scenario.readiness("capture").await.0 == 200).await;
}

/// Trap T27: a row's values are there where it is inserted, and no update of it is a signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_of_any_size_is_read_and_one_of_a_captured_table_is_published_too() {
    let mut scenario = Scenario::new("sig_captured").await;
    scenario.settings.set("capture.signal_table", "public.signals");
    scenario.settings.set("capture.delivery", "exactly-once");
    let table = "CREATE TABLE signals (key uuid PRIMARY KEY, what varchar(32), how jsonb);
         ALTER TABLE signals ALTER how SET STORAGE EXTERNAL";
    scenario.source(table).await;
    scenario.source(FILL).await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    scenario.target(DAMAGE).await;
    let data = "jsonb_build_object('data-collections', ARRAY['public.items', 'public.notes'],
        'remark', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 20000) i))";
    scenario.source(&format!("INSERT INTO signals VALUES (gen_random_uuid(), 'execute-snapshot', {data})")).await;
    scenario.await_log(&mut capture, ENDS).await;
    scenario.source("UPDATE signals SET what = 'execute-snapshot '").await;
    settle(&scenario).await;
    scenario.await_equal("signals").await;
    await_count(&scenario, BEGINS, 1).await;
    scenario.verify();
}

fn finding(scenario: &Scenario) -> (String, String) {
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check", "--json"]));
    let report: Json = serde_json::from_str(&outcome.text).unwrap_or_else(|_| panic!("not JSON: {}", outcome.text));
    let all = report["findings"].as_array().expect("findings");
    let found: Vec<_> = all.iter().filter(|finding| finding["subject"] == "signal table public.signals").collect();
    assert_eq!(found.len(), 1, "{}", outcome.text);
    let text = |field: &str| found[0][field].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("remedy"))
}

/// Capture goes on without it, and each remedy of `walrelay check` removes what it is for.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_table_that_is_missing_or_not_published_is_told_with_what_to_do() {
    let mut scenario = Scenario::new("sig_missing").await;
    let name = scenario.name.clone();
    scenario.settings.set("capture.signal_table", "public.signals");
    scenario.settings.set("capture.include", vec!["public.items".to_owned(), "public.notes".to_owned()]);
    scenario.settings.set("capture.create_publication", false);
    scenario.source(FILL).await;
    let publication =
        format!("CREATE PUBLICATION {name} FOR TABLE items, notes WITH (publish_via_partition_root = true)");
    scenario.source(&publication).await;
    let (mut capture, _apply) = both_halves(&scenario).await;
    await_page(&scenario, "signal table public.signals: it does not exist").await;
    for _ in ["it does not exist", "it is not published"] {
        let (verdict, remedy) = finding(&scenario);
        assert_eq!(verdict, "problem");
        scenario.source(&remedy).await;
    }
    assert_eq!(finding(&scenario).0, "ok");
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    capture = scenario.capture().await;
    scenario.target(DAMAGE).await;
    ask(&scenario, "execute-snapshot", r#"{"data-collections": [".*"]}"#).await;
    scenario.await_log(&mut capture, ENDS).await;
    settle(&scenario).await;
    assert!(!scenario.page("capture", "/").await.contains("signal table"), "nothing is told any more");
}
