//! Tables that foreign keys tie to each other, of which some have brought nothing yet, or are applied by another process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use walrelay::{event::TableShape, lsn::Position, pipeline::apply::Limits};

use crate::{
    applier::Applier,
    sink_support::{Database, at, insert, shape, update},
    support::{LIMIT, await_condition},
};

const FAMILY: &str = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
    CREATE TABLE g (id int PRIMARY KEY, c int REFERENCES c); CREATE TABLE t (id int PRIMARY KEY)";

fn shapes() -> [Arc<TableShape>; 4] {
    [
        shape("p", &[("id*", "int")]),
        shape("c", &[("id*", "int"), ("p", "int")]),
        shape("g", &[("id*", "int"), ("c", "int")]),
        shape("t", &[("id*", "int")]),
    ]
}

/// Many rounds of a table that nothing is tied to: what is in the queues meanwhile is tried. Progress tells of a record in
/// each of these topics too, which is on its way.
async fn rounds(db: &Database, applier: &mut Applier, first: u64, outstanding: &[(&str, i32)]) {
    let [.., t] = shapes();
    for n in first..first + 20 {
        applier.send("w.t", 0, vec![insert(&t, at(3, n), &[&n.to_string()])]);
        let ends = |next| outstanding.iter().map(move |(topic, n)| (((*topic).to_owned(), *n), next));
        applier.offsets.extend(ends(1));
        applier.progress(5);
        applier.offsets.extend(ends(0));
        db.until("SELECT max(id) FROM t", &[&n.to_string()]).await;
    }
}

// trap T65
#[tokio::test]
async fn a_row_waits_for_tables_of_which_nothing_was_applied_yet() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, g, _] = shapes();
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 2), ("w.g", 1), ("w.t", 1)]).await;
    applier.send("w.g", 0, vec![insert(&g, at(2, 3), &["1", "1"])]);
    rounds(&db, &mut applier, 1, &[("w.p", 0), ("w.c", 0), ("w.c", 1)]).await;
    applier.send("w.c", 0, vec![insert(&c, at(2, 2), &["1", "1"])]);
    applier.send("w.c", 1, vec![insert(&c, at(2, 4), &["2", "1"])]);
    rounds(&db, &mut applier, 21, &[("w.p", 0)]).await;
    assert!(applier.health.snapshot().stopped.is_empty(), "{:?}", applier.health.snapshot().stopped);
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1"])]);
    applier.progress(6);
    db.until("SELECT count(*) FROM g", &["1"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

/// A parent that was applied before, of which capture tells nothing any more.
// trap T65
#[tokio::test]
async fn a_row_does_not_wait_for_a_table_that_capture_has_left() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, ..] = shapes();
    let limits = Limits { patience: Duration::from_secs(2), ..Limits::default() };
    let topics = [("w.p", 1), ("w.c", 1)];
    let mut applier = Applier::with_limits(&db, &topics, &[("w.p", 0), ("w.c", 0)], limits).await;
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1"])]);
    applier.progress(3);
    db.until("SELECT count(*) FROM p", &["1"]).await;
    applier.tell_all_but("w.p", 4);
    // Another transaction behind it makes a cut, but capture may be about to tell of more tables.
    applier.send("w.c", 0, vec![insert(&c, at(5, 1), &["1", "2"]), insert(&c, at(6, 1), &["2", "1"])]);
    let says = async || applier.health.snapshot().waiting.keys().any(|what| what.contains("capture's progress"));
    await_condition("it says what it waits for", LIMIT, says).await;
    assert!(applier.health.snapshot().stopped.is_empty(), "{:?}", applier.health.snapshot().stopped);
    // What it needs was not read yet.
    applier.tell_all_but("w.p", 7);
    applier.send("w.p", 0, vec![insert(&p, at(4, 1), &["2"])]);
    db.until("SELECT count(*) FROM c", &["2"]).await;

    applier.send("w.c", 0, vec![insert(&c, at(8, 1), &["3", "9"]), insert(&c, at(9, 1), &["4", "1"])]);
    applier.tell_all_but("w.p", 10);
    let stopped = async || applier.health.snapshot().stopped.contains_key("public.c");
    await_condition("the table stops", LIMIT, stopped).await;
    applier.finish().await;
}

/// What is left of a table that capture has left is applied up to capture's progress, though nothing is told of the table itself.
// trap T65
#[tokio::test]
async fn the_rest_of_a_table_that_capture_has_left_holds_up_no_other() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, ..] = shapes();
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 1)]).await;
    // Both tables have plans, and the child's row comes first.
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1"])]);
    applier.send("w.c", 0, vec![insert(&c, at(2, 2), &["1", "1"])]);
    applier.progress(3);
    db.until("SELECT count(*) FROM c", &["1"]).await;
    // In some round the parent's row is being applied when the child's is refused.
    for n in 2..22 {
        let (id, commit) = (n.to_string(), 10 * n);
        applier.send("w.c", 0, vec![insert(&c, at(commit + 1, 1), &[&id, &id])]);
        applier.tell_all_but("w.p", commit + 2);
        applier.send("w.p", 0, vec![insert(&p, at(commit, 1), &[&id])]);
        db.until("SELECT max(id) FROM c", &[&id]).await;
    }
    await_condition("nothing waits", LIMIT, async || applier.health.snapshot().waiting.is_empty()).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

/// What it needs never comes: it says so and stops, and the others go on meanwhile.
// trap T65
#[tokio::test]
async fn a_row_of_a_table_that_capture_has_left_waits_only_so_long_for_what_never_comes() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, ..] = shapes();
    let limits = Limits { patience: Duration::from_secs(2), ..Limits::default() };
    let topics = [("w.p", 1), ("w.c", 1)];
    let mut applier = Applier::with_limits(&db, &topics, &[("w.p", 0), ("w.c", 0)], limits).await;
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1"])]);
    applier.send("w.c", 0, vec![insert(&c, at(2, 2), &["1", "1"])]);
    applier.progress(3);
    db.until("SELECT count(*) FROM c", &["1"]).await;
    // The parents are beyond it.
    applier.send("w.p", 0, vec![insert(&p, at(20, 1), &["3"])]);
    applier.tell_all_but("w.c", 21);
    db.until("SELECT max(id) FROM p", &["3"]).await;
    applier.send("w.c", 0, vec![insert(&c, at(10, 1), &["2", "9"]), insert(&c, at(11, 1), &["3", "1"])]);
    let reason = async || applier.health.snapshot().stopped.get("public.c").map(|stop| format!("{stop:?}"));
    await_condition("the table stops", LIMIT, async || reason().await.is_some()).await;
    assert!(reason().await.unwrap().contains("does not tell of the topic any more"), "{:?}", reason().await);
    applier.send("w.p", 0, vec![insert(&p, at(30, 1), &["2"])]);
    applier.tell_all_but("w.c", 31);
    db.until("SELECT count(*) FROM p", &["3"]).await;
    await_condition("nothing waits", LIMIT, async || applier.health.snapshot().waiting.is_empty()).await;
    applier.finish().await;
}

/// The last transaction of such a table is applied whole, in whatever order its rows would fit one after the other.
// trap T66
#[tokio::test]
async fn unique_values_change_places_in_the_last_transaction_of_a_table_that_capture_has_left() {
    let db = Database::create().await;
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE)").await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let limits = Limits { patience: Duration::from_secs(2), ..Limits::default() };
    let topics = [("w.t", 2), ("w.p", 1)];
    let mut applier = Applier::with_limits(&db, &topics, &[("w.t", 0), ("w.t", 1), ("w.p", 0)], limits).await;
    applier.send("w.t", 0, vec![insert(&t, at(2, 1), &["1", "x"]), insert(&t, at(2, 2), &["2", "y"])]);
    applier.progress(3);
    db.until("SELECT count(*) FROM t", &["2"]).await;
    applier.tell_all_but("w.t", 4);
    let swap = [("1", "tmp"), ("2", "x"), ("1", "y")].into_iter().zip(1..);
    applier.send("w.t", 0, swap.map(|((id, a), n)| update(&t, at(5, n), &[id, a])).collect());
    applier.tell_all_but("w.t", 6);
    db.until("SELECT * FROM t ORDER BY id", &["1|y", "2|x"]).await;
    await_condition("nothing waits", LIMIT, async || applier.health.snapshot().waiting.is_empty()).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

/// Lanes that were applied together with one that stopped are free again, whether or not a cut comes.
// trap T65
#[tokio::test]
async fn a_group_of_which_a_table_stopped_holds_up_no_other() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, ..] = shapes();
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 1)]).await;
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1"])]);
    db.until("SELECT count(*) FROM p", &["1"]).await;
    applier.send("w.c", 0, vec![insert(&c, at(5, 1), &["1", "9"])]);
    applier.progress(6);
    let stopped = async || applier.health.snapshot().stopped.contains_key("public.c");
    await_condition("the table stops", LIMIT, stopped).await;
    // Nothing tells of a cut behind it.
    applier.send("w.p", 0, vec![insert(&p, at(7, 1), &["2"])]);
    db.until("SELECT count(*) FROM p", &["2"]).await;
    applier.finish().await;
}

/// A transaction whose answer was lost leaves nothing to apply together.
// traps T60, T65
#[tokio::test]
async fn a_group_of_which_nothing_is_left_holds_up_no_other() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, ..] = shapes();
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 1), ("w.t", 1)]).await;
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1"])]);
    db.until("SELECT count(*) FROM p", &["1"]).await;
    applier.send("w.c", 0, vec![insert(&c, at(5, 1), &["1", "9"])]);
    let says = async || applier.health.snapshot().waiting.keys().any(|what| what.contains("the least far"));
    await_condition("it says what it waits for", LIMIT, says).await;
    let applied = "BEGIN; INSERT INTO p VALUES (9); INSERT INTO c VALUES (1, 9); UPDATE walrelay.position \
                   SET next_offset = 1, commit_lsn = '0/5', ordinal = 1 WHERE topic = 'w.c'; COMMIT";
    db.run(applied).await;
    applier.progress(6);
    db.until("SELECT gen > 1 FROM walrelay.position WHERE topic = 'w.c'", &["t"]).await;
    rounds(&db, &mut applier, 1, &[]).await;
    assert!(applier.health.snapshot().waiting.is_empty(), "{:?}", applier.health.snapshot().waiting);
    // Nothing tells of a cut behind it.
    applier.send("w.p", 0, vec![insert(&p, at(7, 1), &["2"])]);
    db.until("SELECT count(*) FROM p", &["3"]).await;
    applier.finish().await;
}

// trap T65
#[tokio::test]
async fn a_row_that_waits_for_a_table_that_capture_has_stopped_says_so() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let [p, c, ..] = shapes();
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 1)]).await;
    applier.send("w.c", 0, vec![insert(&c, at(5, 2), &["1", "1"]), insert(&c, at(6, 2), &["2", "1"])]);
    // A session that begins when the table is stopped tells nothing else of it.
    let ends = applier.offsets.remove(&("w.p".to_owned(), 0)).unwrap();
    applier.progress_but(7, &[("w.p", at(5, 1))]);
    applier.offsets.insert(("w.p".to_owned(), 0), ends);
    let says = async || {
        let waiting = applier.health.snapshot().waiting;
        waiting
            .keys()
            .any(|what| what.contains("topic w.p, which has come the least far, whose table capture has stopped"))
    };
    await_condition("it says what it waits for", LIMIT, says).await;
    applier.send("w.p", 0, vec![insert(&p, at(5, 1), &["1"])]);
    applier.progress(7);
    db.until("SELECT p FROM c", &["1", "1"]).await;
    await_condition("nothing waits", LIMIT, async || applier.health.snapshot().waiting.is_empty()).await;
    applier.finish().await;
}

/// Each of the two rows takes all that a job may hold of texts that are far longer than their records.
#[tokio::test]
async fn rows_that_do_not_fit_into_one_job_together_are_applied_one_after_the_other() {
    let db = Database::create().await;
    db.run("CREATE TABLE p (id int PRIMARY KEY, b text); CREATE TABLE c (id int PRIMARY KEY REFERENCES p, b text)")
        .await;
    let columns = [("id*", "int"), ("b", "text")];
    let (p, c) = (shape("p", &columns), shape("c", &columns));
    let limits = Limits { workers: 1, budget_bytes: 1000, ..Limits::default() };
    let topics = [("w.c", 1), ("w.p", 1)];
    let mut applier = Applier::with_limits(&db, &topics, &[("w.c", 0), ("w.p", 0)], limits).await;
    let text = "x".repeat(900);
    applier.send("w.c", 0, vec![insert(&c, at(2, 2), &["1", &text])]);
    applier.send("w.p", 0, vec![insert(&p, at(2, 1), &["1", &text])]);
    db.until("SELECT count(*) FROM c", &["1"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

/// A child's applier and the parent's, neither of which has the other's partition.
async fn apart(db: &Database, patience: Duration) -> (Applier, Applier) {
    let (topics, limits) = ([("w.p", 1), ("w.c", 1)], Limits { patience, ..Limits::default() });
    let mut child = Applier::with_limits(db, &topics, &[("w.c", 0)], limits).await;
    // Progress tells of it, though its records come elsewhere.
    child.offsets.insert(("w.p".to_owned(), 0), i64::MAX);
    (child, Applier::with_limits(db, &topics, &[("w.p", 0)], limits).await)
}

/// The child's table stands still for much longer than patience lasts while the parent's comes nearer row by row, and stops
/// when that rests.
async fn comes_nearer(place: impl Fn(i64) -> Position) {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let ([p, c, ..], patience) = (shapes(), Duration::from_secs(2));
    let (mut child, mut parent) = apart(&db, patience).await;
    child.send("w.c", 0, vec![insert(&c, place(1000), &["1", "1000"])]);
    if !place(0).is_of_offset() {
        child.progress(2000);
    }
    let (begun, mut n) = (Instant::now(), 0);
    while begun.elapsed() < patience * 3 {
        parent.send("w.p", 0, vec![insert(&p, place(n), &[&n.to_string()])]);
        db.until("SELECT max(id) FROM p", &[&n.to_string()]).await;
        n += 1;
    }
    assert!(child.health.snapshot().stopped.is_empty(), "{:?}", child.health.snapshot().stopped);
    assert!(!child.health.snapshot().waiting.is_empty(), "health says that it waits");
    parent.send("w.p", 0, vec![insert(&p, place(n), &["1000"])]);
    db.until("SELECT p FROM c", &["1000"]).await;
    await_condition("nothing waits", LIMIT, async || child.health.snapshot().waiting.is_empty()).await;

    child.send("w.c", 0, vec![insert(&c, place(1001), &["2", "1001"])]);
    let stopped = async || child.health.snapshot().stopped.contains_key("public.c");
    await_condition("the table stops", LIMIT, stopped).await;
    child.finish().await;
    parent.finish().await;
}

// trap T65
#[tokio::test]
async fn a_row_waits_as_long_as_another_process_comes_nearer_to_its_parent() {
    comes_nearer(|n| at(10 + u64::try_from(n).unwrap(), 1)).await;
}

// trap T65
#[tokio::test]
async fn a_row_of_another_producer_waits_as_long_as_another_process_brings_parents() {
    comes_nearer(|n| Position::of_offset(n).unwrap()).await;
}
