//! A snapshot that is cut goes on where it was, beside the stream, and the target equals the source in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use walrelay::cli::demo::{process::Process, random::Random};

use crate::support::{Consumed, LIMIT, Network, Scenario, await_condition};

/// What the log says when a snapshot goes on.
const GOES_ON: &str = "going on with the snapshot beside the stream";
/// What it says at its end.
const COMPLETE: &str = "the snapshot is complete, and recorded";
/// What it says where it cannot go on.
const STARTS_OVER: &str = "the snapshot was cut and cannot go on";

/// Text that TOAST stores out of line and cannot compress.
pub const LARGE_TEXT: &str = "(SELECT string_agg(md5(i::text || k::text), '') FROM generate_series(1, 90) k)";

/// A scenario whose capture reaches the source by a network that lets so many bytes of its first session through: fewer than the
/// tables have.
async fn scenario(name: &str, connections: i64, bytes: usize) -> (Scenario, Network) {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.snapshot_connections", connections);
    scenario.settings.set("capture.snapshot_chunk_bytes", "64KiB");
    let network = Network::before_source(&mut scenario).await;
    network.allow(bytes);
    (scenario, network)
}

/// How many blocks of tables are recorded as done; `None` where no snapshot is under way.
fn done(scenario: &Scenario) -> Option<u64> {
    let mut entries = BTreeMap::new();
    for record in scenario.state_topics().read(&scenario.name) {
        entries.insert(String::from_utf8(record.key?).expect("text"), record.value);
    }
    entries.remove("snapshot").flatten()?;
    let chunks = entries.into_iter().filter(|(key, _)| key.starts_with("chunks/")).filter_map(|(_, value)| value);
    let of_table = |value: Vec<u8>| -> u64 {
        let table: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
        let leaves = table["leaves"].as_array().expect("leaves").iter();
        let ranges = leaves.flat_map(|leaf| leaf["done"].as_array().expect("ranges").clone());
        ranges.map(|range| range[1].as_u64().expect("a block") - range[0].as_u64().expect("a block")).sum()
    };
    Some(chunks.map(of_table).sum())
}

/// Kills capture once more than so many blocks are recorded as done; gives how many are.
async fn cut(scenario: &Scenario, capture: &mut Process, blocks: u64) -> u64 {
    await_condition("blocks are recorded", LIMIT, async || done(scenario) > Some(blocks)).await;
    capture.kill_9().expect("capture can be killed");
    done(scenario).expect("the snapshot was through before it was cut")
}

/// Starts capture; its snapshot goes on.
async fn go_on(scenario: &Scenario) -> Process {
    let times = || scenario.log_text("capture").matches(GOES_ON).count();
    let before = times();
    let capture = scenario.spawn_capture();
    await_condition("the snapshot goes on", LIMIT, async || times() > before).await;
    capture
}

/// Records of rows that were read.
fn read(records: &[Consumed]) -> usize {
    records.iter().filter(|record| record.holds("\u{2}r")).count()
}

async fn settle(scenario: &Scenario, capture: &mut Process, apply: &mut Process, tables: &[&str]) {
    scenario.await_log(capture, COMPLETE).await;
    apply.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// Changes of all kinds, all the time, on rows that are read and on rows that are not.
pub struct Changes {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Changes {
    /// Of the tables `items` and `notes`, whose rows have ids from 1 on.
    pub async fn start(scenario: &Scenario, rows: u64) -> Self {
        let (client, stop) = (scenario.source_session().await, Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut random, mut done) = (Random::new(11), 0);
            while !asked.load(Ordering::Relaxed) {
                let (id, other) = (random.below(rows), random.below(rows));
                let body = format!("(SELECT string_agg(md5(k::text || '{other}'), '') FROM generate_series(1, 90) k)");
                let sql = match random.below(10) {
                    0 => format!("INSERT INTO items VALUES ({id}, 0, {body}) ON CONFLICT DO NOTHING"),
                    1 => format!("UPDATE items SET body = {body} WHERE id = {id}"),
                    2 => format!("DELETE FROM items WHERE id = {id}"),
                    3 => format!("UPDATE items SET id = id + {rows} WHERE id BETWEEN {id} AND {id} + 3"),
                    4 => format!(
                        "BEGIN; UPDATE items SET n = n - 1 WHERE id BETWEEN {id} AND {id} + 9; ROLLBACK; DELETE FROM notes WHERE id = {id}"
                    ),
                    5 => format!("UPDATE notes SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 9"),
                    _ => format!("UPDATE items SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 9"),
                };
                // The pace of the changes: each restart publishes all of them again, and reading goes on only as fast as the stream does.
                tokio::time::sleep(Duration::from_millis(20)).await;
                match client.batch_execute(&sql).await {
                    Ok(()) => done += 1,
                    // A random key is taken: nothing was written.
                    Err(error) if error.as_db_error().is_some() => {}
                    Err(error) => panic!("{error}"),
                }
            }
            done
        });
        Self { stop, task }
    }

    /// Ends them; gives the number of transactions.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the changes end in order")
    }
}

/// What was read of a table and is not recorded is read again: at most so much as is configured, for each connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_has_no_more_rows_read_again_than_a_chunk_of_each_connection() {
    const ROWS: usize = 60_000;
    /// Of a chunk of 64 KiB: 8 blocks of 226 rows.
    const CHUNK: usize = 1_808;
    let (scenario, network) = scenario("again", 2, 0).await;
    network.open();
    let fill = format!(
        "CREATE TABLE items (id int PRIMARY KEY, n int); INSERT INTO items SELECT i, 0 FROM generate_series(1, {ROWS}) i"
    );
    scenario.source(&fill).await;
    let mut capture = scenario.spawn_capture();
    cut(&scenario, &mut capture, 60).await;
    let mut capture = go_on(&scenario).await;
    scenario.await_log(&mut capture, COMPLETE).await;
    let again = read(&scenario.topics().read("public.items")) - ROWS;
    println!("{again} rows came again");
    assert!(again <= 2 * CHUNK, "{again} rows came again");
}

/// Traps T19, T20, T27, T28, T78: rows are inserted, changed with and without all their columns, moved and deleted, while capture is
/// killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_again_and_again_under_load_leaves_the_target_equal() {
    let (scenario, network) = scenario("resumed", 2, 12_000_000).await;
    let rows = 12_000;
    let fill = format!(
        "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, body text);
         INSERT INTO items SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, {rows}) i;
         CREATE TABLE notes (id int PRIMARY KEY, n int NOT NULL, body text); ALTER TABLE notes REPLICA IDENTITY FULL;
         INSERT INTO notes SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, {rows}) i"
    );
    scenario.source(&fill).await;
    let changes = Changes::start(&scenario, rows).await;
    let mut capture = scenario.spawn_capture();
    let mut blocks = cut(&scenario, &mut capture, 0).await;
    network.open();
    for _ in 0..2 {
        capture = go_on(&scenario).await;
        blocks = cut(&scenario, &mut capture, blocks).await;
    }
    let mut capture = go_on(&scenario).await;
    let mut apply = scenario.spawn_apply();
    scenario.await_log(&mut capture, COMPLETE).await;
    println!("{} transactions, {blocks} blocks before the last kill", changes.stop().await);
    settle(&scenario, &mut capture, &mut apply, &["items", "notes"]).await;
    assert!(!scenario.log_text("capture").contains(STARTS_OVER));
}

/// What is done is not read again, and what is written meanwhile does not wait for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_goes_on_reads_the_rest_alone_and_the_stream_does_not_wait_for_it() {
    let (scenario, network) = scenario("rest", 1, 3_000_000).await;
    let fill = format!(
        "CREATE TABLE big (id int PRIMARY KEY, n int, body text);
         INSERT INTO big SELECT i, 0, repeat('x', 200) FROM generate_series(1, 40000) i;
         CREATE TABLE later (id int PRIMARY KEY, n int, body text);
         INSERT INTO later SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 300) i"
    );
    scenario.source(&fill).await;
    let mut capture = scenario.spawn_capture();
    let blocks = cut(&scenario, &mut capture, 200).await;
    network.allow(1_000_000);
    let mut capture = go_on(&scenario).await;
    // From version 16 on no table is begun while another one is locked.
    await_condition("a piece of the first table is recorded", LIMIT, async || done(&scenario) > Some(blocks)).await;
    let locked = scenario.source_session().await;
    locked.batch_execute("BEGIN; LOCK TABLE later IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    network.open();
    scenario.source("INSERT INTO big VALUES (0, 1, 'new'); DELETE FROM big WHERE id = 40000").await;
    let mut apply = scenario.apply().await;
    scenario.await_equal("big").await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM later").await.unwrap_or("0".to_owned()), "0");
    assert!(!scenario.log_text("capture").contains(COMPLETE));
    locked.batch_execute("COMMIT").await.expect("the lock is given up");
    settle(&scenario, &mut capture, &mut apply, &["big", "later"]).await;
    let again = read(&scenario.topics().read("public.big")) - 40_000;
    println!("{again} rows were read again");
    assert!(again < 10_000, "{again} rows were read again");
}

/// Traps T22, T23, T33, T79: rewritten, emptied, altered and dropped tables, partitions, a row filter and a column list.
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_tables_while_their_snapshot_is_cut_is_seen() {
    let (mut scenario, network) = scenario("meanwhile", 1, 15_000_000).await;
    scenario.settings.set("capture.binary", false);
    let name = scenario.name.clone();
    let shape = if scenario.is_source_before(150_000).await { "" } else { "(id, part, body) WHERE (id % 5 <> 0)" };
    let fill = format!(
        "CREATE TABLE a_rewritten (id int PRIMARY KEY, n int, body text);
         INSERT INTO a_rewritten SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 10000) i;
         CREATE TABLE b_cleared (id int PRIMARY KEY, body text);
         INSERT INTO b_cleared SELECT i, 'old' FROM generate_series(1, 500) i;
         CREATE TABLE c_altered (id int PRIMARY KEY, body text);
         INSERT INTO c_altered SELECT i, 'c' FROM generate_series(1, 500) i;
         CREATE TABLE d_dropped (id int PRIMARY KEY);
         INSERT INTO d_dropped SELECT i FROM generate_series(1, 500) i;
         CREATE TABLE e_parts (id int, part int, body text, secret text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE e_1 PARTITION OF e_parts FOR VALUES IN (1);
         CREATE TABLE e_2 (secret text, body text, part int NOT NULL, id int NOT NULL, PRIMARY KEY (id, part));
         ALTER TABLE e_parts ATTACH PARTITION e_2 FOR VALUES IN (2);
         INSERT INTO e_parts SELECT i, 1 + i % 2, 'e' || i, 'secret' FROM generate_series(1, 2000) i;
         CREATE TABLE f_changed_and_cleared (id int PRIMARY KEY, n int, body text);
         INSERT INTO f_changed_and_cleared SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 200) i;
         CREATE PUBLICATION {name} FOR TABLE a_rewritten, b_cleared, c_altered, d_dropped, f_changed_and_cleared,
            e_parts {shape} WITH (publish_via_partition_root = true)"
    );
    scenario.source(&fill).await;
    let mut capture = scenario.spawn_capture();
    cut(&scenario, &mut capture, 20).await;
    network.open();
    let meanwhile = "UPDATE a_rewritten SET n = 1 WHERE id % 3 = 0; DELETE FROM a_rewritten WHERE id % 7 = 0;
         UPDATE a_rewritten SET id = id + 100000 WHERE id % 11 = 0;
         INSERT INTO b_cleared VALUES (1000, 'between');
         INSERT INTO c_altered VALUES (1000, 'before');
         UPDATE e_parts SET part = 3 - part, body = 'moved' WHERE id % 4 = 0; DELETE FROM e_parts WHERE id % 9 = 0;
         UPDATE f_changed_and_cleared SET n = 1; DROP TABLE d_dropped";
    scenario.source(meanwhile).await;
    scenario.source("VACUUM FULL a_rewritten").await;
    scenario.source("TRUNCATE f_changed_and_cleared").await;
    scenario.source("TRUNCATE b_cleared; INSERT INTO b_cleared VALUES (1, 'new')").await;
    scenario.source("ALTER TABLE c_altered ADD COLUMN more int; UPDATE c_altered SET more = 5 WHERE id < 10").await;
    let mut capture = go_on(&scenario).await;
    scenario.source("UPDATE a_rewritten SET n = 2 WHERE id % 5 = 0; ALTER TABLE c_altered ADD COLUMN last text").await;
    scenario.source("INSERT INTO c_altered VALUES (2000, 'after', 6, 'x')").await;
    let mut apply = scenario.spawn_apply();
    settle(&scenario, &mut capture, &mut apply, &["a_rewritten", "b_cleared", "c_altered", "f_changed_and_cleared"])
        .await;
    let digest = "SELECT count(*) || md5(string_agg(id || ' ' || part || ' ' || body, ',' ORDER BY id)) FROM e_parts";
    let digest = if shape.is_empty() { digest.to_owned() } else { format!("{digest} WHERE id % 5 <> 0") };
    let expected = scenario.source_value(&digest).await.expect("rows");
    scenario.await_target(&digest, &expected).await;
}

/// Rows without a key cannot be told from those that are there: such a table is copied anew, behind the rest, and no other starts over.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_in_a_table_without_key_goes_on() {
    let (scenario, network) = scenario("keyless", 1, 3_000_000).await;
    let fill = "CREATE TABLE a_keyed (id int PRIMARY KEY); INSERT INTO a_keyed SELECT generate_series(1, 20000);
         CREATE TABLE z_keyless (n int, body text); ALTER TABLE z_keyless REPLICA IDENTITY FULL;
         INSERT INTO z_keyless SELECT i % 100, repeat('z', 200) FROM generate_series(1, 40000) i";
    scenario.source(fill).await;
    let mut capture = scenario.spawn_capture();
    cut(&scenario, &mut capture, 0).await;
    network.open();
    let write = "DELETE FROM z_keyless WHERE n = 7; UPDATE z_keyless SET n = n + 1000 WHERE n < 5; INSERT INTO z_keyless VALUES (8, 'y'), (8, 'y');
         DELETE FROM a_keyed WHERE id % 3 = 0";
    scenario.source(write).await;
    let mut capture = go_on(&scenario).await;
    scenario.source(write).await;
    scenario.await_log(&mut capture, "the table is emptied at the sinks").await;
    let mut apply = scenario.spawn_apply();
    settle(&scenario, &mut capture, &mut apply, &["z_keyless", "a_keyed"]).await;
    assert!(!scenario.log_text("capture").contains(STARTS_OVER));
}

/// The row that a table without key ends with waits for no other table.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_behind_its_tables_without_key_goes_on() {
    let (scenario, network) = scenario("behind", 1, 3_000_000).await;
    let fill = "CREATE TABLE a_keyed (id int PRIMARY KEY, body text);
         INSERT INTO a_keyed SELECT i, repeat('a', 200) FROM generate_series(1, 30000) i;
         CREATE TABLE z_keyless (n int); ALTER TABLE z_keyless REPLICA IDENTITY FULL;
         INSERT INTO z_keyless SELECT i % 100 FROM generate_series(1, 1000) i";
    scenario.source(fill).await;
    let mut capture = scenario.spawn_capture();
    // The table without key is small and comes first.
    cut(&scenario, &mut capture, 100).await;
    network.open();
    scenario.source("DELETE FROM z_keyless WHERE n = 7; DELETE FROM a_keyed WHERE id % 3 = 0").await;
    let mut capture = go_on(&scenario).await;
    let mut apply = scenario.spawn_apply();
    settle(&scenario, &mut capture, &mut apply, &["a_keyed", "z_keyless"]).await;
}
