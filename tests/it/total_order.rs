//! `[format] total_order = "published"`: what transaction blocks number where not everything that counts is a record at once.

use std::collections::BTreeSet;

use walrelay::cli::demo::process::Process;

use crate::{
    support::{LIMIT, Scenario, await_condition},
    transactions::numbers,
};

async fn scenario(name: &str, sql: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("format.total_order", "published");
    scenario.both(sql).await;
    scenario
}

/// Starts capture, and waits until what comes next is in the stream and not in the snapshot.
async fn streaming(scenario: &Scenario) -> Process {
    let mut capture = scenario.capture().await;
    scenario.await_log(&mut capture, "values are asked for").await;
    capture
}

/// Waits until so many records with different numbers lie in a table's topic, and gives these.
async fn await_numbers(scenario: &Scenario, table: &str, count: usize) -> Vec<(i64, i64)> {
    let lie = async || scenario.topics().read(table).len() >= count;
    await_condition(&format!("{count} records of {table} are there"), LIMIT, lie).await;
    numbers(scenario, table).await
}

/// Of a moved key the new row alone is a record, so it takes one number.
#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_a_moved_key_has_the_next_number_where_deletes_are_none() {
    let mut scenario = scenario("order_flat", "CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.settings.set("format.records", "flat");
    scenario.settings.set("format.flat.deletes", "drop");
    scenario.settings.set("format.flat.headers", vec!["total_order", "transaction.data_collection_order"]);
    let _capture = streaming(&scenario).await;
    scenario
        .source("BEGIN; INSERT INTO things VALUES (1), (2); DELETE FROM things WHERE id = 1; UPDATE things SET id = 3; INSERT INTO things VALUES (4); COMMIT")
        .await;
    let lie = async || scenario.topics().read("public.things").len() == 4;
    await_condition("four rows are there", LIMIT, lie).await;
    let records = scenario.topics().read("public.things");
    let orders: BTreeSet<[&str; 2]> = records
        .iter()
        .map(|record| ["__total_order", "__transaction_data_collection_order"].map(|name| &*record.headers[name]))
        .collect();
    assert_eq!(orders, BTreeSet::from([["1", "1"], ["2", "2"], ["3", "3"], ["4", "4"]]));
    let positions: BTreeSet<&str> =
        records.iter().filter_map(|record| record.headers["walrelay.pos"].rsplit(':').next()).collect();
    assert_eq!(positions, BTreeSet::from(["1", "2", "5", "6"]), "a position counts what the server delivers");
}

/// The tables of a statement share an ordinal, and no number.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_has_a_number_of_its_own_for_each_of_its_tables() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE left_out (id int PRIMARY KEY);";
    let mut scenario = scenario("order_truncate", tables).await;
    scenario.settings.set("format.truncates", "single");
    scenario.settings.set("capture.exclude", vec!["public.left_out"]);
    scenario.settings.set("kafka.topics.partitions", 1);
    let publication = format!("CREATE PUBLICATION {} FOR TABLE a, b, left_out", scenario.name);
    scenario.source(&publication).await;
    let (_capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    scenario
        .source("BEGIN; INSERT INTO a VALUES (1); INSERT INTO left_out VALUES (1); TRUNCATE a, left_out, b; INSERT INTO b VALUES (2); INSERT INTO a VALUES (2); COMMIT")
        .await;
    let (a, b) = (await_numbers(&scenario, "public.a", 3).await, await_numbers(&scenario, "public.b", 2).await);
    assert_eq!(a, [(1, 1), (2, 2), (5, 3)]);
    assert_eq!(b, [(3, 1), (4, 2)]);
    scenario.await_target("SELECT string_agg(t, ' ' ORDER BY t) FROM (SELECT 'a' || id AS t FROM a UNION ALL SELECT 'b' || id FROM b) t", "a2 b2").await;
}

/// A number that was given once is not given otherwise later, so the events of a stopped table have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_stopped_table_keep_their_numbers() {
    let tables = "CREATE TABLE log (id int PRIMARY KEY, note text); CREATE TABLE big (id int PRIMARY KEY, body text);";
    let mut scenario = scenario("order_stopped", tables).await;
    scenario.settings.set("kafka.topics.partitions", 1);
    let (mut capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    let large = "INSERT INTO big VALUES (1, repeat('x', 3000000))";
    scenario
        .source(&format!("BEGIN; INSERT INTO log VALUES (1, 'a'); {large}; INSERT INTO log VALUES (2, 'b'); COMMIT"))
        .await;
    let stopped = async || scenario.readiness("capture").await.1.contains("public.big");
    await_condition("capture names the table as stopped", LIMIT, stopped).await;
    scenario.source("BEGIN; UPDATE big SET id = 2; INSERT INTO log VALUES (3, 'c'); COMMIT").await;
    let expected = [(1, 1), (3, 2), (3, 1)];
    assert_eq!(await_numbers(&scenario, "public.log", 3).await, expected);
    capture.kill_9().expect("it can be killed");

    scenario.topics().set("public.big", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("big").await;
    scenario.await_equal("log").await;
    let distinct = |mut numbers: Vec<(i64, i64)>| {
        numbers.dedup();
        numbers
    };
    // The moved key's tombstone has no number.
    assert_eq!(distinct(await_numbers(&scenario, "public.big", 4).await), [(2, 1), (1, 1), (2, 2)]);
    assert_eq!(distinct(await_numbers(&scenario, "public.log", 3).await), expected);
}
