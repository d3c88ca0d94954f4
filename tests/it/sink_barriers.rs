//! Barriers: who is waited for, who is not, and what is emptied.

use std::time::Duration;

use walrelay::{
    schema::TableName,
    sink::{Session, Settings, Sink, table::Target, ties::ENFORCED},
};

use crate::{
    applier::Applier,
    sink_support::{Database, at, delete, insert, shape, sink_settings, truncate},
};

const T: &str = "w.t";

// trap T32
#[tokio::test]
async fn a_truncate_waits_for_all_partitions_and_spares_what_comes_after_it() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let u = shape("u", &[("id*", "int")]);
    let topics = [(T, 3), ("w.u", 1)];
    let mut applier = Applier::start(&db, &topics).await;
    for partition in 0..3 {
        applier.send(T, partition, vec![insert(&t, at(1, 1), &[&partition.to_string(), "before"])]);
    }
    applier.send("w.u", 0, vec![insert(&u, at(1, 2), &["1"])]);
    db.until("SELECT count(*) FROM t", &["3"]).await;
    // A record with a null key has a shape without a key.
    let barrier = || truncate(&shape("t", &[("id", "int"), ("a", "text")]), at(5, 1), &topics);
    let barrier_of_u = truncate(&shape("u", &[("id", "int")]), at(5, 1), &topics);
    applier.send(T, 0, vec![barrier(), insert(&t, at(6, 1), &["10", "after"])]);
    applier.send(T, 1, vec![barrier()]);
    let parked = "SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/5'";
    db.until(parked, &["2"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["3"]);
    applier.send(T, 2, vec![insert(&t, at(4, 1), &["7", "late, and before it"]), barrier()]);
    applier.send("w.u", 0, vec![barrier_of_u]);
    db.until("SELECT * FROM t", &["10|after"]).await;
    db.until("SELECT count(*) FROM u", &["0"]).await;
    db.until(parked, &["0"]).await;
    applier.send(T, 1, vec![barrier(), insert(&t, at(7, 1), &["11", "later"])]);
    db.until("SELECT id FROM t ORDER BY id", &["10", "11"]).await;
    db.until("SELECT count(*) FROM walrelay.barrier", &["0"]).await;
    applier.finish().await;
}

// trap T32
#[tokio::test]
async fn a_barrier_does_not_wait_for_a_table_that_capture_has_stopped_before_it() {
    let db = Database::create().await;
    let (t, u) = (shape("t", &[("id*", "int")]), shape("u", &[("id*", "int")]));
    let topics = [(T, 2), ("w.u", 2)];
    let mut applier = Applier::start(&db, &topics).await;
    let barrier = |table| truncate(&shape(table, &[("id", "int")]), at(5, 1), &topics);
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"]), barrier("t"), insert(&t, at(6, 1), &["2"])]);
    applier.send(T, 1, vec![barrier("t")]);
    applier.send("w.u", 0, vec![insert(&u, at(1, 2), &["1"])]);
    let parked = "SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/5'";
    db.until(parked, &["2"]).await;
    // A table that is stopped after the barrier still gets its copies.
    applier.progress_but(9, &[("w.u", at(5, 2))]);
    applier.send("w.u", 1, vec![barrier("u")]);
    db.until(parked, &["3"]).await;
    applier.progress_but(9, &[("w.u", at(4, 1))]);
    db.until("SELECT * FROM t", &["2"]).await;
    assert_eq!(db.rows("SELECT * FROM u").await, ["1"]);
    applier.send("w.u", 0, vec![insert(&u, at(4, 1), &["7"]), barrier("u"), insert(&u, at(7, 1), &["8"])]);
    db.until("SELECT * FROM u", &["8"]).await;
    assert_eq!(db.rows("SELECT * FROM t").await, ["2"]);
    db.until("SELECT count(*) FROM walrelay.barrier", &["0"]).await;
    applier.finish().await;
}

// trap T32
#[tokio::test]
async fn each_truncate_of_one_transaction_empties_what_came_before_it() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    let barrier = |ordinal| truncate(&shape("t", &[("id", "int")]), at(5, ordinal), &[(T, 2)]);
    let row = |commit, ordinal, id| insert(&t, at(commit, ordinal), &[id]);
    applier.send(T, 0, vec![row(1, 1, "1"), barrier(1), row(5, 2, "2"), barrier(3), row(6, 1, "3")]);
    applier.send(T, 1, vec![row(1, 2, "4"), barrier(1), barrier(3), row(6, 2, "5")]);
    db.until("SELECT id FROM t ORDER BY id", &["3", "5"]).await;
    db.until("SELECT count(*) FROM walrelay.barrier", &["0"]).await;
    applier.finish().await;
}

// trap T19
#[tokio::test]
async fn a_half_broadcast_barrier_is_overtaken_by_the_next_snapshots() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    let barrier = |commit| truncate(&shape("t", &[("id", "int")]), at(commit, 0), &[(T, 2)]);
    let row = |commit, id| insert(&t, at(commit, 0), &[id]);
    applier.send(T, 0, vec![row(1, "1"), barrier(5)]);
    applier.send(T, 1, vec![row(1, "2")]);
    db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/5'", &["1"]).await;
    applier.send(T, 0, vec![barrier(9), row(9, "3")]);
    applier.send(T, 1, vec![barrier(9), row(9, "4")]);
    db.until("SELECT id FROM t ORDER BY id", &["3", "4"]).await;
    db.until("SELECT count(*) FROM walrelay.barrier", &["0"]).await;
    applier.finish().await;
}

// traps T32, T65
#[tokio::test]
async fn a_child_that_is_truncated_does_not_wait_for_the_parent_that_was_deleted_since() {
    let db = Database::create().await;
    db.run("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)").await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 2)]).await;
    applier.send("w.p", 0, vec![insert(&p, at(1, 1), &["1"]), delete(&p, at(9, 1), &["1"])]);
    db.until("SELECT next_offset FROM walrelay.position WHERE topic = 'w.p'", &["2"]).await;
    let barrier = || truncate(&shape("c", &[("id", "int"), ("p", "int")]), at(5, 1), &[("w.c", 2)]);
    applier.send("w.c", 0, vec![barrier()]);
    let after = insert(&c, at(10, 1), &["2", "∅"]);
    applier.send("w.c", 1, vec![insert(&c, at(2, 1), &["1", "1"]), barrier(), after]);
    applier.progress(20);
    db.until("SELECT * FROM c", &["2|∅"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T32
#[tokio::test]
async fn a_table_that_cannot_be_emptied_stops_alone() {
    let db = Database::create().await;
    let (t, u) = (shape("t", &[("id*", "int")]), shape("u", &[("id*", "int")]));
    let mut applier = Applier::start(&db, &[(T, 1), ("w.u", 1)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    db.run("CREATE TABLE local (t int REFERENCES t); INSERT INTO local VALUES (1)").await;
    applier.send(T, 0, vec![truncate(&shape("t", &[("id", "int")]), at(5, 1), &[(T, 1)])]);
    db.until("SELECT topic FROM walrelay.position WHERE stopped IS NOT NULL", &["w.t"]).await;
    let reason = applier.health.snapshot().stopped["public.t"].clone();
    assert!(reason.contains("topic w.t, partition 0") && reason.contains("local_t_fkey"), "{reason}");
    applier.send("w.u", 0, vec![insert(&u, at(6, 1), &["1"])]);
    db.until("SELECT id FROM u", &["1"]).await;
    applier.finish().await;
}

/// Waits until health says that a barrier waits for the stopped table of this topic, and why.
async fn waits_for_stopped(applier: &Applier, topic: &str, key: &str) {
    let named = |text: &String| {
        text.starts_with(&format!("a barrier waits for topic {topic}, whose table is stopped")) && text.contains(key)
    };
    let told = async {
        while !applier.health.snapshot().waiting.keys().any(named) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await;
    assert!(told.is_ok(), "{:?}", applier.health.snapshot());
}

/// Two tables tied by a foreign key that acts, and an unrelated one; each topic has a partition.
async fn tied() -> (Database, [(&'static str, i32); 3]) {
    let db = Database::create().await;
    db.run(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); \
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE)",
    )
    .await;
    (db, [("w.p", 1), ("w.c", 1), ("w.other", 1)])
}

// traps T32, T65
#[tokio::test]
async fn a_parent_is_emptied_together_with_the_child_that_is_stopped_and_tables_without_a_tie_do_not_wait() {
    let (db, topics) = tied().await;
    let [p, c, other] = ["p", "c", "other"].map(|table| shape(table, &[("id*", "int")]));
    let mut applier = Applier::start(&db, &topics).await;
    let barrier = |table| truncate(&shape(table, &[("id", "int")]), at(5, 1), &topics);
    // Nothing of the child was applied yet, so its table is known by the topic's name alone.
    applier.progress_but(9, &[("w.c", at(2, 1))]);
    db.run("INSERT INTO c VALUES (7)").await;
    applier.send("w.p", 0, vec![insert(&p, at(1, 1), &["1"]), barrier("p"), insert(&p, at(6, 1), &["2"])]);
    applier.send("w.other", 0, vec![insert(&other, at(1, 2), &["1"]), barrier("other")]);
    db.until("SELECT count(*) FROM other", &["0"]).await;
    waits_for_stopped(&applier, "w.c", "a foreign key of table public.c references table public.p").await;
    assert_eq!(db.rows("SELECT id FROM p").await, ["1"]);

    applier.progress(9);
    applier.send("w.other", 0, vec![insert(&other, at(7, 2), &["3"])]);
    applier.send("w.c", 0, vec![insert(&c, at(2, 1), &["1"]), barrier("c"), insert(&c, at(7, 1), &["8"])]);
    db.until("SELECT id FROM c", &["8"]).await;
    db.until("SELECT id FROM p", &["2"]).await;
    db.until("SELECT id FROM other", &["3"]).await;
    db.until("SELECT count(*) FROM walrelay.barrier", &["0"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// traps T32, T65
#[tokio::test]
async fn a_child_does_not_hang_newer_rows_on_those_of_a_stopped_parent_that_are_still_to_go() {
    let (db, topics) = tied().await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let mut applier = Applier::start(&db, &topics).await;
    let barrier = |table| truncate(&shape(table, &[("id", "int")]), at(5, 1), &topics);
    applier.send("w.p", 0, vec![insert(&p, at(1, 1), &["1"])]);
    db.until("SELECT id FROM p", &["1"]).await;
    applier.send("w.c", 0, vec![insert(&c, at(1, 2), &["1", "1"]), barrier("c"), insert(&c, at(6, 2), &["2", "1"])]);
    applier.send("w.other", 0, vec![barrier("other")]);
    applier.progress_but(9, &[("w.p", at(4, 1))]);
    waits_for_stopped(&applier, "w.p", "a foreign key of table public.c references table public.p").await;
    assert_eq!(db.rows("SELECT id FROM c").await, ["1"]);
    applier.progress(9);
    applier.send("w.p", 0, vec![insert(&p, at(4, 1), &["3"]), barrier("p"), insert(&p, at(6, 1), &["1"])]);
    applier.progress(9);
    db.until("SELECT * FROM c", &["2|1"]).await;
    assert_eq!(db.rows("SELECT id FROM p").await, ["1"]);
    applier.finish().await;
}

/// A server before version 18 has no such constraints, so the rows are made up from those that it has.
#[tokio::test]
async fn a_foreign_key_that_is_not_enforced_ties_nothing() {
    let (db, _) = tied().await;
    let count = |extra: &str| {
        let rows = format!("SELECT c.*{extra} FROM pg_constraint c WHERE c.contype = 'f'");
        format!("SELECT count(*) FROM ({rows}) f WHERE {ENFORCED}")
    };
    let plain = db.rows(&count("")).await;
    assert_ne!(plain, ["0"]);
    let of = async |replica_role: bool| {
        let sink = Sink::new(Settings { replica_role, ..sink_settings(&db, "it") });
        let session = Session::connect(&sink).await.unwrap();
        Target::load(session.client(), "w.c", &TableName::new("public", "c")).await.unwrap().unwrap().parents
    };
    assert_eq!(of(false).await, [TableName::new("public", "p")].into());
    assert!(of(true).await.is_empty(), "a key that this session does not check is taken for a tie");
    if db.rows("SELECT current_setting('server_version_num')::int < 180000").await == ["t"] {
        assert_eq!(db.rows(&count(", true AS conenforced")).await, plain);
        assert_eq!(db.rows(&count(", false AS conenforced")).await, ["0"]);
        return;
    }
    let constraints = "SELECT string_agg(format('ALTER TABLE %s ALTER CONSTRAINT %I NOT ENFORCED', conrelid::regclass, conname), ';') \
                       FROM pg_constraint WHERE contype = 'f'";
    db.run(&db.rows(constraints).await[0]).await;
    assert_eq!(db.rows(&count("")).await, ["0"]);
    assert!(of(false).await.is_empty(), "a key that is not enforced is taken for a tie");
}
