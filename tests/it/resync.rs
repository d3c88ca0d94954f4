//! `walrelay resync`: tables are read again while the stream goes on, and what the source does not have goes at the target.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use walrelay::cli::demo::process::Process;

use crate::{
    resume::{Changes, LARGE_TEXT},
    support::{Consumed, LIMIT, Network, Outcome, Scenario, await_condition},
};

/// What the log says when a resync begins, and at its end.
const BEGINS: &str = "a resync begins";
const ENDS: &str = "the resync ends";
const ROWS: u64 = 12_000;
/// Bytes of the server's that come through before it is looked what came of them: a small part of the rows.
const SLICE: usize = 2_000_000;

async fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("kafka.topics.partitions", 3);
    scenario
}

fn fill() -> String {
    format!(
        "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, body text);
         INSERT INTO items SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, {ROWS}) i;
         CREATE TABLE notes (id int PRIMARY KEY, n int NOT NULL, body text); ALTER TABLE notes REPLICA IDENTITY FULL;
         INSERT INTO notes SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, {ROWS}) i"
    )
}

/// Ghosts, lost rows and drifted ones.
const DAMAGE: &str = "
    INSERT INTO items SELECT -i, 7, 'ghost' FROM generate_series(1, 2000) i;
    INSERT INTO notes SELECT -i, 7, 'ghost' FROM generate_series(1, 2000) i;
    DELETE FROM items WHERE id % 5 = 0; DELETE FROM notes WHERE id % 5 = 0;
    UPDATE items SET n = -1 WHERE id % 7 = 0; UPDATE notes SET body = 'drifted' WHERE id % 7 = 0";

/// Runs the command; it must be followed.
fn ask(scenario: &Scenario, arguments: &[&str]) {
    let outcome = run(scenario, arguments);
    assert_eq!(outcome.code, Some(0), "resync says:\n{}", outcome.text);
}

fn run(scenario: &Scenario, arguments: &[&str]) -> Outcome {
    let arguments: Vec<_> = ["resync"].iter().chain(arguments).copied().collect();
    tokio::task::block_in_place(|| scenario.run(&arguments))
}

/// The resyncs that are recorded, by name.
fn recorded(scenario: &Scenario) -> BTreeMap<String, serde_json::Value> {
    let mut entries = BTreeMap::new();
    for record in scenario.state_topics().read(&scenario.name) {
        let key = String::from_utf8(record.key.expect("a key")).expect("text");
        if let Some(name) = key.strip_prefix("resync/") {
            match record.value {
                Some(value) => drop(entries.insert(name.to_owned(), serde_json::from_slice(&value).expect("JSON"))),
                None => drop(entries.remove(name)),
            }
        }
    }
    entries
}

/// How many blocks are recorded as read, of all tables; a whole one counts as very many.
fn blocks(run: &serde_json::Value) -> u64 {
    let of_table = |table: &serde_json::Value| {
        if table["chunks"]["windows"].as_bool() == Some(false) {
            return 1_000_000;
        }
        let ranges = table["chunks"]["leaves"].as_array().into_iter().flatten();
        let ranges = ranges.flat_map(|leaf| leaf["done"].as_array().expect("ranges").clone());
        ranges.map(|range| range[1].as_u64().expect("a block") - range[0].as_u64().expect("a block")).sum()
    };
    run["tables"].as_array().expect("tables").iter().map(of_table).sum()
}

async fn read(scenario: &Scenario) -> f64 {
    scenario.metrics("capture").await.sum("walrelay_capture_snapshot_rows_total")
}

async fn await_state(scenario: &Scenario, what: &str, holds: impl Fn(&BTreeMap<String, serde_json::Value>) -> bool) {
    await_condition(what, LIMIT, async || holds(&recorded(scenario))).await;
}

/// Lets bytes through by and by until more than so many blocks are recorded, and kills capture then; gives how many are. The load takes
/// its share of the bytes, so none of their sums is enough on every machine.
async fn cut(scenario: &Scenario, network: &Network, capture: &mut Process, more_than: u64) -> u64 {
    let is_recorded = async || {
        let is_recorded = recorded(scenario).values().map(blocks).sum::<u64>() > more_than;
        if !is_recorded {
            network.limit(SLICE);
        }
        is_recorded
    };
    await_condition("blocks are recorded", LIMIT, is_recorded).await;
    capture.kill_9().expect("capture can be killed");
    let runs = recorded(scenario);
    let run = runs.values().next().expect("the resync goes on");
    assert!(run.get("end").is_none(), "the resync was through before it was cut");
    blocks(run)
}

/// The least number of rows that a reader at the target sees.
async fn watch(scenario: &Scenario, table: &'static str, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<i64> {
    let parts = &scenario.parts;
    let client = parts.target.connect(&scenario.name, &parts.user, &parts.password).await.expect("a session");
    tokio::spawn(async move {
        let mut least = i64::MAX;
        while !stop.load(Ordering::Relaxed) {
            let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.expect("a count");
            least = least.min(row.get(0));
        }
        least
    })
}

async fn both_halves(scenario: &Scenario, tables: &[&str]) -> (Process, Process) {
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    for table in tables {
        scenario.await_equal(table).await;
    }
    (capture, apply)
}

async fn settle(scenario: &Scenario, tables: &[&str]) {
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// Epoch, commit LSN and ordinal.
fn position(text: &str) -> (u64, u64, u64) {
    let numbers: Vec<u64> = text.split(':').map(|part| part.parse().expect("a number")).collect();
    (numbers[0], numbers[1], numbers[2])
}

/// The sweeps in a table's topic, by partition.
fn sweeps(records: &[Consumed]) -> BTreeMap<i32, BTreeSet<String>> {
    let mut sweeps = BTreeMap::<_, BTreeSet<_>>::new();
    for record in records.iter().filter(|record| record.headers.contains_key("walrelay.sweep")) {
        assert!(record.key.is_none() && record.value.is_none(), "{record:?}");
        let copy = format!("{} {}", record.headers["walrelay.pos"], record.headers["walrelay.sweep"]);
        sweeps.entry(record.partition).or_default().insert(copy);
    }
    sweeps
}

/// Ghosts, lost and drifted rows under load: the target is never empty, and another table's changes do not wait.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_read_again_while_the_stream_goes_on() {
    let mut scenario = scenario("again").await;
    scenario.settings.set("format.transaction", "none");
    scenario.source(&fill()).await;
    scenario.source("CREATE TABLE other (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = both_halves(&scenario, &["items", "notes"]).await;
    scenario.target(DAMAGE).await;
    let stop = Arc::new(AtomicBool::new(false));
    let least = watch(&scenario, "items", Arc::clone(&stop)).await;
    ask(&scenario, &["public.items", "public.notes"]);
    let changes = Changes::start(&scenario, ROWS).await;
    scenario.await_log(&mut capture, BEGINS).await;
    scenario.source("INSERT INTO other VALUES (1)").await;
    scenario.await_target("SELECT count(*) FROM other", "1").await;
    scenario.await_log(&mut capture, ENDS).await;
    println!("{} transactions", changes.stop().await);
    settle(&scenario, &["items", "notes"]).await;
    stop.store(true, Ordering::Relaxed);
    let least = least.await.expect("the reader ends in order");
    assert!(least > 9_000, "a reader saw {least} rows");
    records_tell_of_the_resync(&scenario);
    await_state(&scenario, "the resync is forgotten", BTreeMap::is_empty).await;
}

/// Every record of the table between begin and end has the resync's name, and no other; every partition has the same end.
fn records_tell_of_the_resync(scenario: &Scenario) {
    for table in ["public.items", "public.notes"] {
        let records = scenario.topics().read(table);
        let sweeps = sweeps(&records);
        let copies: BTreeSet<_> = sweeps.values().flatten().cloned().collect();
        assert_eq!((sweeps.len(), copies.len()), (3, 1), "{sweeps:?}");
        let copy = copies.first().expect("a copy");
        let (end, json) = copy.split_once(' ').expect("two parts");
        let sweep: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let resync = sweep["resync"].as_str().expect("a name");
        let topics: BTreeSet<_> = sweep["topics"].as_array().expect("topics").iter().map(ToString::to_string).collect();
        assert_eq!(topics.len(), 2, "{json}");
        assert!(sweep["rows"][scenario.topics().name(table)].as_u64() > Some(ROWS / 2), "{json}");
        let (begin, end) = (position(&format!("{resync}:1")), position(end));
        for record in records.iter().filter(|record| record.value.is_some()) {
            let at = position(&record.headers["walrelay.pos"]);
            let expected = (at > begin && at < end).then_some(resync);
            assert_eq!(record.headers.get("walrelay.resync").map(String::as_str), expected, "{at:?}");
        }
        assert!(records.iter().any(|record| record.headers.contains_key("walrelay.resync")));
    }
}

async fn is_cut_and_goes_on(mut scenario: Scenario) {
    let network = Network::before_source(&mut scenario).await;
    network.allow_all();
    let scenario = &scenario;
    scenario.source(&fill()).await;
    let (mut capture, _apply) = both_halves(scenario, &["items", "notes"]).await;
    scenario.target(DAMAGE).await;
    network.limit(SLICE);
    ask(scenario, &["public.items", "public.notes"]);
    let changes = Changes::start(scenario, ROWS).await;
    let blocks = cut(scenario, &network, &mut capture, 0).await;
    let names = recorded(scenario).into_keys().collect::<Vec<_>>();
    network.limit(SLICE);
    capture = scenario.spawn_capture();
    let blocks = cut(scenario, &network, &mut capture, blocks).await;
    network.allow_all();
    capture = scenario.spawn_capture();
    assert_eq!(recorded(scenario).into_keys().collect::<Vec<_>>(), names, "another resync");
    scenario.await_log(&mut capture, ENDS).await;
    println!("{} transactions, {blocks} blocks before the last kill", changes.stop().await);
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    settle(scenario, &["items", "notes"]).await;
    assert_eq!(scenario.log_text("capture").matches(BEGINS).count(), 1);
    await_state(scenario, "the resync is forgotten", BTreeMap::is_empty).await;
}

/// Traps T19, T20, T27, T28, T78.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_that_is_cut_again_and_again_goes_on() {
    is_cut_and_goes_on(scenario("cut_again").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_that_is_cut_goes_on_under_exactly_once_delivery() {
    let mut scenario = scenario("cut_once").await;
    scenario.settings.set("capture.delivery", "exactly-once");
    is_cut_and_goes_on(scenario).await;
}

/// A pause outlasts capture, and rows stay where a resync is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_pauses_goes_on_and_is_given_up() {
    let scenario = scenario("paused").await;
    scenario.source(&fill()).await;
    let (mut capture, _apply) = both_halves(&scenario, &["items", "notes"]).await;
    scenario.target("INSERT INTO items VALUES (-1, 0, 'ghost'); INSERT INTO notes VALUES (-1, 0, 'ghost')").await;
    capture.kill_9().expect("capture can be killed");
    ask(&scenario, &["public.items", "public.notes"]);
    ask(&scenario, &["--pause"]);
    let mut capture = scenario.spawn_capture();
    let paused = async || scenario.page("capture", "/").await.contains("resync (paused)");
    await_condition("the resync pauses", LIMIT, paused).await;
    capture.kill_9().expect("capture can be killed");
    capture = scenario.spawn_capture();
    await_condition("the resync pauses again", LIMIT, paused).await;
    scenario.source("UPDATE items SET n = 1 WHERE id <= 100").await;
    scenario.await_target("SELECT count(*) FROM items WHERE n = 1", "100").await;
    let runs = recorded(&scenario);
    assert!(runs.values().all(|run| blocks(run) == 0), "rows were read: {runs:?}");
    ask(&scenario, &["public.notes", "--stop"]);
    ask(&scenario, &["--resume"]);
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("items").await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM notes WHERE id < 0").await.as_deref(), Some("1"));
    ask(&scenario, &["public.notes"]);
    ask(&scenario, &["--pause"]);
    ask(&scenario, &["--stop"]);
    let given_up = async || scenario.log_text("capture").matches("it was told to stop").count() >= 2;
    await_condition("the resync is given up", LIMIT, given_up).await;
    scenario.source("INSERT INTO notes VALUES (0, 5, 'last')").await;
    scenario.await_target("SELECT count(*) FROM notes WHERE id = 0", "1").await;
    await_state(&scenario, "nothing is held any more", BTreeMap::is_empty).await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM notes WHERE id < 0").await.as_deref(), Some("1"));
    ask(&scenario, &["public.notes"]);
    settle(&scenario, &["items", "notes"]).await;
}

/// Only rows for which the condition holds are read, and go.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_some_rows_leaves_the_others() {
    let scenario = scenario("some_rows").await;
    let fill = "CREATE TABLE parts (kind text, id int, n int, PRIMARY KEY (kind, id));
         INSERT INTO parts SELECT k, i, 0 FROM generate_series(1, 1000) i, unnest(ARRAY['a', 'it''s']) k";
    scenario.source(fill).await;
    let (mut capture, _apply) = both_halves(&scenario, &["parts"]).await;
    let damage = "DELETE FROM parts WHERE id % 2 = 0; INSERT INTO parts SELECT kind, id + 5000, 9 FROM parts";
    scenario.target(damage).await;
    let condition = "kind = 'it''s' AND id >= 101 AND id < 6000";
    ask(&scenario, &["public.parts", "--where", condition]);
    scenario.await_log(&mut capture, ENDS).await;
    let digest = |rows: &str| format!("SELECT count(*) || ' ' || sum(id) FROM parts WHERE {rows}");
    let expected = scenario.source_value(&digest(condition)).await.expect("rows");
    scenario.await_target(&digest(condition), &expected).await;
    for (others, rows) in
        [("kind = 'a'", "1000"), ("kind <> 'a' AND id < 101", "50"), ("kind <> 'a' AND id >= 6000", "0")]
    {
        scenario.await_target(&format!("SELECT count(*) FROM parts WHERE {others}"), rows).await;
    }
    ask(&scenario, &["public.parts"]);
    settle(&scenario, &["parts"]).await;
}

/// What cannot be read again is told before anything is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_again_is_refused() {
    let mut scenario = scenario("refused").await;
    let name = scenario.name.clone();
    let fill = format!(
        "CREATE TABLE keyed (id int PRIMARY KEY, name text); CREATE TABLE named (name text PRIMARY KEY);
         CREATE TABLE keyless (n int); ALTER TABLE keyless REPLICA IDENTITY FULL;
         CREATE TABLE apart (id int PRIMARY KEY);
         CREATE PUBLICATION {name} FOR TABLE keyed, named, keyless WITH (publish_via_partition_root = true)"
    );
    scenario.source(&fill).await;
    scenario.settings.set("capture.create_publication", false);
    scenario.settings.set("capture.exclude", vec!["public.apart".to_owned()]);
    let _capture = scenario.capture().await;
    for (arguments, code, text) in [
        (
            &["public.keyless", "--where", "n = 1"][..],
            3,
            "table public.keyless has no key, by which rows could be chosen",
        ),
        (&["public.missing"], 3, "table public.missing does not exist"),
        (&["public.apart"], 2, "table public.apart is excluded"),
        (&["public.keyed", "--where", "name = 'a'"], 3, "column name is not part of the key"),
        (&["public.keyed", "--where", "id = 'a'"], 3, "the value for column id is none of type integer"),
        (&["public.keyed", "--where", "id = 1 OR id = 2"], 2, "expected AND at character 8"),
        (&["public.named", "--where", "name > 'a'"], 3, "only = is possible"),
        (&["keyed"], 2, "a table is named as schema.table"),
        (&[], 2, "required"),
        (&["--pause", "--stop"], 2, "cannot be used with"),
    ] {
        let outcome = run(&scenario, arguments);
        assert!(outcome.code == Some(code) && outcome.text.contains(text), "{arguments:?}: {}", outcome.text);
    }
    // Whoever writes the message by hand is told by capture.
    let by_hand = r#"{"type": "resync", "tables": ["public.keyless", "public.keyed"], "where": [["id", "<", "now"]]}"#;
    scenario.source(&format!("SELECT pg_logical_emit_message(true, 'walrelay.signal', '{by_hand}')")).await;
    let page = async || scenario.page("capture", "/").await;
    let told = async || page().await.contains("the rows of table public.keyless are not told apart by a key");
    await_condition("capture tells", LIMIT, told).await;
    await_condition("capture tells", LIMIT, async || page().await.contains("is none of type integer")).await;
    scenario.settings.set("format.own_headers", false);
    scenario.settings.set("format.parameters", "source-type");
    let outcome = run(&scenario, &["public.keyed"]);
    assert!(outcome.code == Some(2) && outcome.text.contains("own_headers = false"), "{}", outcome.text);
}

/// Rows that the target lacks come before what hangs on them, and ghosts go behind what hangs on them.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_foreign_keys_tie_are_read_again_together() {
    let scenario = scenario("tied").await;
    let tables = "CREATE TABLE a_lines (id int PRIMARY KEY, parent int NOT NULL);
         CREATE TABLE z_orders (id int PRIMARY KEY, n int);
         ALTER TABLE a_lines ADD FOREIGN KEY (parent) REFERENCES z_orders";
    scenario.both(tables).await;
    let fill = "INSERT INTO z_orders SELECT i, 0 FROM generate_series(1, 3000) i;
         INSERT INTO a_lines SELECT i, 1 + i % 3000 FROM generate_series(1, 9000) i";
    scenario.source(fill).await;
    let (mut capture, _apply) = both_halves(&scenario, &["a_lines", "z_orders"]).await;
    let damage = "DELETE FROM a_lines WHERE parent <= 500; DELETE FROM z_orders WHERE id <= 500;
         INSERT INTO z_orders SELECT 9000 + i, 0 FROM generate_series(1, 50) i;
         INSERT INTO a_lines SELECT 90000 + i, 9000 + i FROM generate_series(1, 50) i";
    scenario.target(damage).await;
    ask(&scenario, &["public.a_lines", "public.z_orders"]);
    scenario.await_log(&mut capture, ENDS).await;
    settle(&scenario, &["a_lines", "z_orders"]).await;
}

/// Rows of a partition that comes meanwhile are neither read nor streamed: the table leaves, and keeps them at the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_partitions_than_when_reading_began_leaves() {
    let mut scenario = scenario("attached").await;
    // Detached it is a table of its own, which would join.
    scenario.settings.set("capture.exclude", vec!["public.p_2".to_owned()]);
    let fill = "CREATE TABLE parts (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE p_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE p_2 PARTITION OF parts FOR VALUES IN (2);
         INSERT INTO parts SELECT i, 1 + i % 2 FROM generate_series(1, 2000) i";
    scenario.source(fill).await;
    let (mut capture, _apply) = both_halves(&scenario, &["parts"]).await;
    capture.kill_9().expect("capture can be killed");
    scenario.source("ALTER TABLE parts DETACH PARTITION p_2").await;
    ask(&scenario, &["public.parts"]);
    ask(&scenario, &["--pause"]);
    capture = scenario.spawn_capture();
    let paused = async || scenario.page("capture", "/").await.contains("resync (paused)");
    await_condition("the resync pauses", LIMIT, paused).await;
    scenario.source("ALTER TABLE parts ATTACH PARTITION p_2 FOR VALUES IN (2)").await;
    ask(&scenario, &["--resume"]);
    scenario.await_log(&mut capture, "a partition was attached").await;
    scenario.source("INSERT INTO parts VALUES (9000, 1)").await;
    scenario.await_target("SELECT count(*) FROM parts WHERE id = 9000", "1").await;
    await_state(&scenario, "the resync is forgotten", BTreeMap::is_empty).await;
    assert!(!scenario.log_text("capture").contains(ENDS));
    settle(&scenario, &["parts"]).await;
}

/// How many blocks of `items` are recorded as read, while some are missing.
fn read_of_items(runs: &BTreeMap<String, serde_json::Value>) -> Option<u64> {
    let tables = runs.values().next()?["tables"].as_array()?;
    let items = tables.iter().find(|table| table["name"]["table"] == "items")?;
    items["chunks"]["leaves"][0]["done"][0][1].as_u64()
}

/// Changes are untold while the publication does not have a table: rows that move meanwhile into blocks that are read already have not come,
/// and must stay at the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_out_of_the_publication_meanwhile_leaves() {
    let mut scenario = scenario("out_meanwhile").await;
    let network = Network::before_source(&mut scenario).await;
    network.allow_all();
    let name = scenario.name.clone();
    scenario.source(&fill()).await;
    // Twice as much as two windows have, and room in the first blocks.
    let more = format!("INSERT INTO items SELECT i + {ROWS}, 0, {LARGE_TEXT} FROM generate_series(1, {ROWS}) i");
    scenario.source(&more).await;
    scenario.source("DELETE FROM items WHERE id <= 1000").await;
    // Slots that others make at the moment keep what was deleted, for all databases.
    let has_room = async || {
        scenario.source("VACUUM items").await;
        let dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'items'";
        scenario.source_value(dead).await.as_deref() == Some("0")
    };
    await_condition("deleted rows make room", LIMIT, has_room).await;
    let (mut capture, _apply) = both_halves(&scenario, &["items", "notes"]).await;
    scenario.target("INSERT INTO items VALUES (-1, 0, 'ghost'); INSERT INTO notes VALUES (-1, 0, 'ghost')").await;
    let before = read(&scenario).await;
    // More than the first window, and less than the second.
    network.limit(12_000_000);
    ask(&scenario, &["public.items", "public.notes"]);
    await_condition("rows are read", LIMIT, async || read(&scenario).await > before).await;
    ask(&scenario, &["--pause"]);
    network.allow_all();
    scenario.await_log(&mut capture, "was told to pause").await;
    let paused = async || scenario.page("capture", "/").await.contains("resync (paused)");
    await_condition("the resync pauses", LIMIT, paused).await;
    await_state(&scenario, "rows are recorded", |runs| read_of_items(runs).is_some()).await;
    let read = read_of_items(&recorded(&scenario)).expect("some blocks are missing");
    scenario.source(&format!("ALTER PUBLICATION {name} DROP TABLE items")).await;
    let moving = format!("id > {}", 2 * ROWS - 2000);
    let moved = format!("SELECT count(*) FROM items WHERE {moving} AND ctid < '({read},0)'");
    assert_eq!(scenario.source_value(&moved).await.as_deref(), Some("0"), "they are read already");
    scenario.source(&format!("UPDATE items SET n = 1 WHERE {moving}")).await;
    assert_ne!(scenario.source_value(&moved).await.as_deref(), Some("0"), "none has moved");
    scenario.source(&format!("ALTER PUBLICATION {name} ADD TABLE items")).await;
    ask(&scenario, &["--resume"]);
    scenario.await_log(&mut capture, ENDS).await;
    scenario.await_equal("notes").await;
    scenario.source("INSERT INTO items VALUES (0, 5, 'last')").await;
    scenario.await_target("SELECT count(*) FROM items WHERE id IN (-1, 0)", "2").await;
    scenario.await_target(&format!("SELECT count(*) FROM items WHERE {moving}"), "2000").await;
    let page = scenario.page("capture", "/").await;
    assert!(page.contains("resync: of table public.items it is given up: the publication has it otherwise"), "{page}");
}

/// What may not be read leaves the resync, and neither ends the session nor stops the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_rows_may_not_be_read_leaves() {
    let scenario = scenario("unreadable").await;
    let user = scenario.parts.user.clone();
    let fill = "CREATE TABLE a_parts (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE p_1 PARTITION OF a_parts FOR VALUES IN (1); INSERT INTO a_parts SELECT i, 1 FROM generate_series(1, 500) i;
         CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items SELECT i FROM generate_series(1, 500) i";
    scenario.source(fill).await;
    let (mut capture, _apply) = both_halves(&scenario, &["a_parts", "items"]).await;
    scenario.target("INSERT INTO a_parts VALUES (-1, 1); INSERT INTO items VALUES (-1)").await;
    capture.kill_9().expect("capture can be killed");
    ask(&scenario, &["public.a_parts", "public.items"]);
    ask(&scenario, &["--pause"]);
    capture = scenario.spawn_capture();
    let paused = async || scenario.page("capture", "/").await.contains("resync (paused)");
    await_condition("the resync pauses", LIMIT, paused).await;
    scenario.source(&format!("REVOKE SELECT ON p_1 FROM {user}")).await;
    ask(&scenario, &["--resume"]);
    scenario.await_log(&mut capture, ENDS).await;
    scenario.source("INSERT INTO a_parts VALUES (9000, 1)").await;
    scenario.await_target("SELECT count(*) FROM a_parts WHERE id IN (-1, 9000)", "2").await;
    scenario.await_equal("items").await;
    assert!(!scenario.log_text("capture").contains("table stopped"));
}

/// What forbids a resync is seen also behind its signal, by the next session and at the end; capture goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_ends_where_the_publication_leaves_out_changes() {
    let scenario = scenario("narrowed").await;
    let name = scenario.name.clone();
    scenario
        .source("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items SELECT i FROM generate_series(1, 500) i")
        .await;
    let (mut capture, _apply) = both_halves(&scenario, &["items"]).await;
    scenario.target("INSERT INTO items VALUES (-1)").await;
    capture.kill_9().expect("capture can be killed");
    ask(&scenario, &["public.items"]);
    ask(&scenario, &["--pause"]);
    capture = scenario.spawn_capture();
    let paused = async || scenario.page("capture", "/").await.contains("resync (paused)");
    await_condition("the resync pauses", LIMIT, paused).await;
    capture.kill_9().expect("capture can be killed");
    scenario.source(&format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, truncate')")).await;
    capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "the stream leaves out changes that move rows").await;
    scenario.source("INSERT INTO items VALUES (9000)").await;
    scenario.await_target("SELECT count(*) FROM items WHERE id = 9000", "1").await;
    await_state(&scenario, "the resync is forgotten", BTreeMap::is_empty).await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM items WHERE id = -1").await.as_deref(), Some("1"));
    assert!(!scenario.log_text("capture").contains(ENDS));
}

/// A table that is dropped, emptied, rewritten or altered while it is read again, and partitions.
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_tables_meanwhile_is_seen() {
    let scenario = scenario("meanwhile_again").await;
    let fill = format!(
        "CREATE TABLE a_rewritten (id int PRIMARY KEY, n int, body text);
         INSERT INTO a_rewritten SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 3000) i;
         CREATE TABLE b_cleared (id int PRIMARY KEY, body text);
         INSERT INTO b_cleared SELECT i, 'old' FROM generate_series(1, 500) i;
         CREATE TABLE d_dropped (id int PRIMARY KEY);
         INSERT INTO d_dropped SELECT i FROM generate_series(1, 500) i;
         CREATE TABLE e_parts (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE e_1 PARTITION OF e_parts FOR VALUES IN (1); CREATE TABLE e_2 PARTITION OF e_parts FOR VALUES IN (2);
         INSERT INTO e_parts SELECT i, 1 + i % 2, 'e' || i FROM generate_series(1, 2000) i"
    );
    scenario.source(&fill).await;
    let kept = ["a_rewritten", "b_cleared", "e_parts"];
    let (mut capture, _apply) = both_halves(&scenario, &kept).await;
    for table in ["a_rewritten", "b_cleared"] {
        scenario.target(&format!("INSERT INTO {table} (id) VALUES (-1); DELETE FROM {table} WHERE id % 3 = 0")).await;
    }
    scenario.target("INSERT INTO e_parts VALUES (-1, 1, 'ghost'); DELETE FROM e_parts WHERE id % 3 = 0").await;
    ask(&scenario, &["public.a_rewritten", "public.b_cleared", "public.d_dropped", "public.e_parts"]);
    ask(&scenario, &["--pause"]);
    scenario.await_log(&mut capture, BEGINS).await;
    let meanwhile = "UPDATE a_rewritten SET n = 1 WHERE id % 2 = 0; DELETE FROM a_rewritten WHERE id % 7 = 0;
         UPDATE a_rewritten SET id = id + 100000 WHERE id % 11 = 0;
         UPDATE e_parts SET part = 3 - part, body = 'moved' WHERE id % 4 = 0; DROP TABLE d_dropped";
    scenario.source(meanwhile).await;
    scenario.source("VACUUM FULL a_rewritten").await;
    scenario.source("TRUNCATE b_cleared; INSERT INTO b_cleared VALUES (1, 'new')").await;
    ask(&scenario, &["--resume"]);
    scenario.await_log(&mut capture, ENDS).await;
    settle(&scenario, &kept).await;
    let log = scenario.log_text("capture");
    assert!(log.lines().any(|line| line.contains("the table is not read again") && line.contains("public.d_dropped")));
}
