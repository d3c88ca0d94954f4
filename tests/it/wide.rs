//! Tables of as many columns, and rows of as many bytes, as PostgreSQL allows: what apply stages them in must not need more.

use crate::support::Scenario;

/// Text that TOAST stores out of line and cannot compress.
const LARGE_TEXT: &str =
    "(SELECT string_agg(md5(i::text || random()::text || n::text), '') FROM generate_series(1, 200) i)";

/// Columns `c<first>` to `c<last>` of integers, texts and booleans, which a page has room for.
fn mixed(first: usize, last: usize) -> String {
    let ty = |number: usize| ["int", "text", "boolean"][number % 3];
    (first..=last).map(|number| format!("c{number} {}", ty(number))).collect::<Vec<_>>().join(", ")
}

/// Their values in a query that has `n`.
fn values(first: usize, last: usize) -> String {
    let value = |number: usize| match number % 3 {
        0 => format!("n + {number}"),
        1 => format!("'t' || n + {number}"),
        _ => format!("(n + {number}) % 2 = 0"),
    };
    (first..=last).map(value).collect::<Vec<_>>().join(", ")
}

/// Columns `b1` to `b<last>`, whose values fill a page to the last byte when there are 1,016 beside the key.
fn numbers(last: usize) -> String {
    (1..=last).map(|number| format!("b{number} bigint")).collect::<Vec<_>>().join(", ")
}

/// Columns `f1` to `f126` of 64 bytes and `h1` to `h8` of eight, whose values fill a page to the last byte beside the key.
fn few() -> String {
    let names = (1..=126).map(|number| format!("f{number} name"));
    names.chain((1..=8).map(|number| format!("h{number} bigint"))).collect::<Vec<_>>().join(", ")
}

/// Inserts rows of all tables.
async fn insert(scenario: &Scenario, from: usize, to: usize) {
    let rows = format!("generate_series({from}, {to}) n");
    let body = format!("CASE WHEN n % 2 = 0 THEN {LARGE_TEXT} END");
    let same = vec!["n"; 1017].join(", ");
    let names = vec!["'f' || n"; 126].join(", ");
    for sql in [
        format!("INSERT INTO keyed SELECT n, {}, {body}, n FROM {rows}", values(1, 1597)),
        format!("INSERT INTO seats SELECT n, {body}, {}, 'p' || n FROM {rows}", values(1, 1596)),
        format!("INSERT INTO log SELECT {} FROM {rows}, generate_series(1, 2)", values(1, 1600)),
        format!("INSERT INTO packed SELECT {same} FROM {rows}"),
        format!("INSERT INTO few SELECT n, {names}, {} FROM {rows}", ["n"; 8].join(", ")),
    ] {
        scenario.source(&sql).await;
    }
}

/// Every operation, also on rows of which the server leaves out a TOASTed value.
async fn change(scenario: &Scenario, from: usize) {
    let (second, third, fourth, last) = (from + 1, from + 2, from + 3, from + 5);
    let range = format!("BETWEEN {from} AND {last}");
    let sql = format!(
        "UPDATE keyed SET c3 = 0, c1597 = 'new' WHERE a {range};
         UPDATE keyed SET z = z + 1000 WHERE a IN ({from}, {second});
         UPDATE keyed SET a = -a, c1 = '' WHERE a IN ({third}, {fourth});
         DELETE FROM keyed WHERE a = {last};
         UPDATE seats SET no = DEFAULT WHERE id = {third};
         BEGIN; UPDATE seats SET place = 'free' WHERE id = {from}; UPDATE seats SET place = 'p{from}' WHERE id = {second};
         UPDATE seats SET place = 'p{second}', c1 = 'swapped' WHERE id = {from}; COMMIT;
         DELETE FROM seats WHERE id = {last};
         UPDATE log SET c1 = 'new', c1600 = c1600 || '!' WHERE c3 = {from} + 3;
         DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE c3 = {second} + 3);
         UPDATE packed SET b1016 = 0, b1 = -1 WHERE id {range}; UPDATE packed SET id = -id WHERE id = {from};
         DELETE FROM packed WHERE id = {last};
         UPDATE few SET f1 = 'new', f126 = 'more', h8 = -1 WHERE id {range}; UPDATE few SET id = -id WHERE id = {from};
         UPDATE few SET f2 = NULL, h1 = 0 WHERE id = {second}; DELETE FROM few WHERE id = {last};"
    );
    scenario.source(&sql).await;
}

const TABLES: [&str; 5] = ["keyed", "seats", "log", "packed", "few"];

/// By snapshot and by stream.
async fn arrive(name: &str, format: &str) {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.binary", format == "binary");
    let seats = format!(
        "CREATE TABLE seats (id int PRIMARY KEY, body text, {}, place text UNIQUE, no int GENERATED ALWAYS AS IDENTITY)",
        mixed(1, 1596)
    );
    let sql = format!(
        "CREATE TABLE keyed (a int, {}, body text, z int, PRIMARY KEY (z, a));
         CREATE TABLE log ({}); ALTER TABLE log REPLICA IDENTITY FULL;
         CREATE TABLE packed (id bigint PRIMARY KEY, {});
         CREATE TABLE few (id bigint PRIMARY KEY, {});",
        mixed(1, 1597),
        mixed(1, 1600),
        numbers(1016),
        few()
    );
    scenario.both(&seats).await;
    scenario.source(&sql).await;
    insert(&scenario, 1, 12).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in TABLES {
        scenario.await_equal(table).await;
    }
    insert(&scenario, 21, 32).await;
    change(&scenario, 1).await;
    change(&scenario, 21).await;
    for table in TABLES {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    let log = scenario.log_text("capture");
    let other = if format == "binary" { "text" } else { "binary" };
    assert!(log.contains(&format!("format=\"{format}\"")) && !log.contains(&format!("format=\"{other}\"")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_rows_at_the_limits_of_postgresql_arrive_in_binary() {
    arrive("limits_binary", "binary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_rows_at_the_limits_of_postgresql_arrive_in_text() {
    arrive("limits_text", "text").await;
}
