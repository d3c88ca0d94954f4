//! Tables whose rows cannot be told from each other, read again beside the stream: each row is there as often as at the source.
//!
//! A sink counts the rows that a change concerns: one that came twice, or not at all, stops the table there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use walrelay::cli::demo::random::Random;

use crate::{
    resume::LARGE_TEXT,
    support::{LIMIT, Scenario, await_condition},
};

const EMPTIED: &str = "the table is emptied at the sinks";
const JOIN: &str = "tables join what is captured";
const BEGINS: &str = "a resync begins";
const ENDS: &str = "the resync ends";
const ROWS: u64 = 4_000;
const PAUSE: Duration = Duration::from_millis(10);

/// Rows that are alike, too; those from 1,000 on no writer touches.
fn table(name: &str) -> String {
    format!(
        "CREATE TABLE {name} (n int, at int, body text); ALTER TABLE {name} REPLICA IDENTITY FULL;
         INSERT INTO {name} SELECT i % 1500, 0, {LARGE_TEXT} FROM generate_series(1, {ROWS}) i"
    )
}

/// Sessions that write the table, each with transactions of its own, so that they commit between each other.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Writers {
    async fn start(scenario: &Scenario, table: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for seed in 1..=3 {
            let (session, stop) = (scenario.source_session().await, Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let (mut random, mut transactions) = (Random::new(seed), 0);
                while !stop.load(Ordering::Relaxed) {
                    session.batch_execute(&transaction(table, &mut random)).await.expect("a transaction");
                    transactions += 1;
                    // A table that always has a writer cannot come into a publication.
                    tokio::time::sleep(PAUSE).await;
                }
                transactions
            }));
        }
        Self { stop, tasks }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = 0;
        for task in self.tasks {
            all += task.await.expect("writers end in order");
        }
        all
    }
}

fn transaction(table: &str, random: &mut Random) -> String {
    let (n, other) = (random.below(1000), random.below(1000));
    match random.below(4) {
        0 => format!("INSERT INTO {table} VALUES ({n}, {other}, 'new'), ({n}, {other}, 'new')"),
        1 => format!("UPDATE {table} SET at = at + 1 WHERE n = {n}"),
        2 => format!("DELETE FROM {table} WHERE n = {n}; INSERT INTO {table} VALUES ({other}, 1, NULL)"),
        _ => format!(
            "BEGIN; UPDATE {table} SET n = {other} WHERE n = {n}; INSERT INTO {table} VALUES ({n}, 2, 'b'); COMMIT"
        ),
    }
}

fn ask(scenario: &Scenario, arguments: &[&str]) {
    let arguments: Vec<_> = ["resync"].iter().chain(arguments).copied().collect();
    let outcome = tokio::task::block_in_place(|| scenario.run(&arguments));
    assert_eq!(outcome.code, Some(0), "resync says:\n{}", outcome.text);
}

async fn scenario(name: &str, delivery: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("kafka.topics.partitions", 3);
    scenario.settings.set("capture.delivery", delivery);
    scenario
}

async fn settle(scenario: &Scenario, tables: &[&str]) {
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// Ghosts, and rows that the target lost; and a kill in the midst of the copy.
async fn is_read_again_as_it_is(name: &str, delivery: &str, other_options: bool) {
    let mut scenario = scenario(name, delivery).await;
    scenario.source(&table("logs")).await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("logs").await;
    scenario.target("INSERT INTO logs SELECT -i, 0, 'ghost' FROM generate_series(1, 50) i").await;
    scenario.target("DELETE FROM logs WHERE n BETWEEN 1000 AND 1200").await;
    let writers = Writers::start(&scenario, "logs").await;
    ask(&scenario, &["public.logs"]);
    scenario.await_log(&mut capture, EMPTIED).await;
    capture.kill_9().expect("capture can be killed");
    // What may have been published comes again under the options of its time, by sessions of their own.
    scenario.settings.set("format.tombstones", !other_options);
    capture = scenario.spawn_capture();
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_target("SELECT count(*) FROM others", "1").await;
    scenario.await_log(&mut capture, ENDS).await;
    println!("{} transactions", writers.stop().await);
    settle(&scenario, &["logs", "others"]).await;
}

/// Trap T26.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_read_again_while_it_changes() {
    is_read_again_as_it_is("copied", "at-least-once", true).await;
}

/// Traps T26 and T49.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_read_again_exactly_once() {
    is_read_again_as_it_is("copied_once", "exactly-once", false).await;
}

/// Trap T24; the keys of the second table are equal in other bytes too.
#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_join_with_their_rows_while_they_change() {
    let scenario = scenario("copied_joins", "at-least-once").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source(&table("logs")).await;
    let folded = "CREATE COLLATION public.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE public.persons (name text COLLATE public.folded PRIMARY KEY, n int)";
    scenario.both(folded).await;
    scenario.source("INSERT INTO persons SELECT 'Name ' || i, i FROM generate_series(1, 100) i").await;
    let writers = Writers::start(&scenario, "logs").await;
    scenario.await_log(&mut capture, JOIN).await;
    scenario.await_log(&mut capture, ENDS).await;
    scenario.source("UPDATE persons SET name = upper(name), n = n + 1 WHERE n % 3 = 0").await;
    println!("{} transactions", writers.stop().await);
    settle(&scenario, &["logs", "persons"]).await;
}

/// A row whose key is written otherwise and is equal to what it was. Trap T81.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_written_otherwise_follows() {
    let scenario = scenario("written_otherwise", "at-least-once").await;
    let folded = "CREATE COLLATION public.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE public.persons (name text COLLATE public.folded PRIMARY KEY, n int)";
    scenario.both(folded).await;
    scenario.source("INSERT INTO persons SELECT 'Name ' || i, i FROM generate_series(1, 100) i").await;
    let _capture = scenario.capture().await;
    let write = async |half: &str| {
        scenario.source(&format!("UPDATE persons SET name = {half}(name), n = n + 1 WHERE n % 3 = 0")).await;
    };
    write("upper").await;
    await_condition("all is published", LIMIT, async || scenario.topics().read("public.persons").len() >= 199).await;
    let _apply = scenario.apply().await;
    scenario.await_equal("persons").await;
    write("lower").await;
    settle(&scenario, &["persons"]).await;
}

/// What was kept back for a copy that never came is published, a TRUNCATE together with others too.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_given_up_before_it_begins_leaves_the_table_as_it_was() {
    for delivery in ["at-least-once", "exactly-once"] {
        let scenario = scenario(&format!("copied_{}", &delivery[..2]), delivery).await;
        scenario.source(&table("logs")).await;
        scenario.source("CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)").await;
        let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
        scenario.await_equal("logs").await;
        let holder = scenario.source_session().await;
        holder.batch_execute("BEGIN; LOCK TABLE logs").await.expect("a lock");
        ask(&scenario, &["public.logs"]);
        scenario.await_log(&mut capture, BEGINS).await;
        ask(&scenario, &["--pause"]);
        let idle = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'walrelay backfill' AND state = 'idle'
                       AND datname = current_database() AND now() - state_change > interval '3 s'";
        let pauses = async || scenario.source_value_as_superuser(idle).await.as_deref() == Some("1");
        await_condition("nothing tries to read the table", LIMIT, pauses).await;
        holder.batch_execute("COMMIT").await.expect("a commit");
        let write = "INSERT INTO logs VALUES (1, 2, 'held'); TRUNCATE logs, others; INSERT INTO logs VALUES (3, 4, 'x'), (3, 4, 'x');
                     INSERT INTO others VALUES (2)";
        scenario.source(write).await;
        scenario.await_target("SELECT sum(id) FROM others", "2").await;
        assert_eq!(scenario.target_value("SELECT count(*) FROM logs").await, Some(ROWS.to_string()));
        ask(&scenario, &["--stop", "public.logs"]);
        settle(&scenario, &["logs", "others"]).await;
    }
}
