//! Tables that somebody locks at the target: they wait, and others do not.

use std::time::{Duration, Instant};

use walrelay::{lsn::Position, pipeline::apply::Limits, postgres};

use crate::{
    applier::Applier,
    sink_support::{Database, at, insert, shape},
    support::{LIMIT, await_condition},
};

/// Who reads a table for so long as this connection is there, so that it gets no column.
async fn reader(db: &Database, table: &str) -> postgres::Client {
    let reader = postgres::connect(&db.settings, "reader").await.unwrap();
    reader.batch_execute(&format!("BEGIN; SELECT FROM {table}")).await.unwrap();
    reader
}

/// How many wait for a lock on the table.
fn waits(table: &str) -> String {
    format!("SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted")
}

fn says(applier: &Applier, what: &str) -> bool {
    applier.health.snapshot().waiting.keys().any(|waiting| waiting.contains(what))
}

/// Rows of a table that nobody locks, each in a job of its own.
async fn rounds(db: &Database, applier: &mut Applier, first: u64, last: u64) {
    for n in first..=last {
        applier.send("w.t", 0, vec![insert(&shape("t", &[("id*", "int")]), at(n, 1), &[&n.to_string()])]);
        db.until("SELECT max(id) FROM t", &[&n.to_string()]).await;
    }
}

/// Who reads for long keeps a column from being added, and no other reader from reading meanwhile.
#[tokio::test]
async fn a_column_that_waits_for_a_reader_holds_up_others_for_a_short_time() {
    let db = Database::create().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    let reader = postgres::connect(&db.settings, "reader").await.unwrap();
    reader.batch_execute("BEGIN; SELECT FROM a").await.unwrap();
    let mut applier = Applier::start(&db, &[("w.a", 1), ("w.b", 1)]).await;
    applier.send("w.a", 0, vec![insert(&shape("a", &[("id*", "int"), ("b", "text")]), at(1, 1), &["1", "x"])]);
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'a'::regclass AND NOT granted";
    db.until(waits, &["1"]).await;
    let another = postgres::connect(&db.settings, "another reader").await.unwrap();
    let read = tokio::time::timeout(LIMIT, another.batch_execute("SELECT FROM a")).await;
    read.expect("the table can be read").unwrap();
    // Many jobs in which the waiting table would be too.
    let begun = Instant::now();
    for n in 1..=30 {
        applier.send("w.b", 0, vec![insert(&shape("b", &[("id*", "int")]), at(n, 1), &[&n.to_string()])]);
        db.until("SELECT max(id) FROM b", &[&n.to_string()]).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "another table took {:?}", begun.elapsed());
    let now = applier.health.snapshot();
    assert!(now.waiting.keys().any(|what| what.contains("waits for a lock")), "{:?}", now.waiting);
    assert!(now.stopped.is_empty(), "{:?}", now.stopped);
    reader.batch_execute("COMMIT").await.unwrap();
    db.until("SELECT b FROM a", &["x"]).await;
    applier.finish().await;
}

/// All lanes of a table meet the lock that one of them has met.
#[tokio::test]
async fn a_lane_of_a_locked_table_is_not_tried_before_the_others_are() {
    let db = Database::create().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)").await;
    let wider = shape("a", &[("id*", "int"), ("b", "text")]);
    let limits = Limits { locked_every: Duration::from_mins(10), ..Limits::default() };
    let (topics, partitions) = ([("w.a", 2), ("w.t", 1)], [("w.a", 0), ("w.a", 1), ("w.t", 0)]);
    let mut applier = Applier::with_limits(&db, &topics, &partitions, limits).await;
    let _reader = reader(&db, "a").await;
    applier.send("w.a", 0, vec![insert(&wider, at(1, 1), &["1", "x"])]);
    await_condition("it waits", LIMIT, async || says(&applier, "topic w.a, partition 0, waits for a lock")).await;
    let begun = Instant::now();
    applier.send("w.a", 1, vec![insert(&wider, at(1, 2), &["2", "x"])]);
    let mut n = 0;
    // Longer than apply waits for a lock.
    while begun.elapsed() < Duration::from_secs(3) {
        n += 1;
        rounds(&db, &mut applier, n, n).await;
        assert_eq!(db.rows(&waits("a")).await, ["0"], "a lane of the table is tried");
    }
    applier.finish().await;
}

/// A lane that is in a job while its table stops waits for nothing afterwards.
#[tokio::test]
async fn a_lane_that_met_a_lock_while_its_table_stopped_is_told_as_stopped_alone() {
    let db = Database::create().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)").await;
    let (a, wider) = (shape("a", &[("id*", "int")]), shape("a", &[("id*", "int"), ("b", "text")]));
    let mut applier = Applier::start(&db, &[("w.a", 2), ("w.t", 1)]).await;
    // As low as a commit LSN can be.
    applier.send("w.a", 1, vec![insert(&a, at(1 << 20, 1), &["1"])]);
    db.until("SELECT id FROM a", &["1"]).await;
    let _reader = reader(&db, "a").await;
    applier.send("w.a", 0, vec![insert(&wider, at(1 << 20, 2), &["2", "x"])]);
    db.until(&waits("a"), &["1"]).await;
    // A record of another producer behind walrelay's own is refused without a look at the table.
    applier.send("w.a", 1, vec![insert(&a, Position::of_offset(1).unwrap(), &["3"])]);
    let stopped = "SELECT count(*) FROM walrelay.position WHERE topic = 'w.a' AND stopped IS NOT NULL";
    db.until(stopped, &["2"]).await;
    rounds(&db, &mut applier, 1, 5).await;
    assert!(!says(&applier, "waits for a lock"), "{:?}", applier.health.snapshot().waiting);
    applier.finish().await;
}

const FAMILY: &str = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p); \
                      CREATE TABLE t (id int PRIMARY KEY)";

/// A child whose parent somebody keeps from coming for much longer than patience lasts. Some of the parent's partitions may
/// be another process's.
async fn outlasts(partitions: &[(&str, i32)], place: impl Fn(u32) -> Position) {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let (p, c) = (shape("p", &[("id*", "int"), ("b", "text")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let patience = Duration::from_secs(1);
    let limits = Limits { patience, locked_every: patience, ..Limits::default() };
    let mut applier = Applier::with_limits(&db, &[("w.c", 1), ("w.p", 2), ("w.t", 1)], partitions, limits).await;
    let reader = reader(&db, "p").await;
    applier.send("w.p", 0, vec![insert(&p, place(0), &["1", "x"])]);
    await_condition("it waits", LIMIT, async || says(&applier, "topic w.p, partition 0, waits for a lock")).await;
    applier.send("w.c", 0, vec![insert(&c, place(1), &["1", "1"])]);
    let mut n = 0;
    await_condition("the child waits", LIMIT, async || says(&applier, "c_p_fkey")).await;
    let begun = Instant::now();
    while begun.elapsed() < patience * 8 {
        n += 1;
        rounds(&db, &mut applier, n, n).await;
    }
    assert!(applier.health.snapshot().stopped.is_empty(), "{:?}", applier.health.snapshot().stopped);
    drop(reader);
    db.until("SELECT p.b, c.id FROM p JOIN c ON c.p = p.id", &["x|1"]).await;
    await_condition("nothing waits", LIMIT, async || applier.health.snapshot().waiting.is_empty()).await;
    applier.finish().await;
}

// trap T65
#[tokio::test]
async fn a_row_waits_longer_than_patience_while_its_parent_s_table_is_locked() {
    outlasts(&[("w.c", 0), ("w.p", 0), ("w.t", 0)], |n| at(10, u64::from(n))).await;
}

// trap T65
#[tokio::test]
async fn a_row_of_another_producer_waits_longer_than_patience_while_its_parent_s_table_is_locked() {
    outlasts(&[("w.c", 0), ("w.p", 0), ("w.p", 1), ("w.t", 0)], |n| Position::of_offset(i64::from(n)).unwrap()).await;
}
