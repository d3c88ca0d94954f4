//! The end of a resync where foreign keys tie tables, or something refuses the deletion.

use walrelay::event::{Comparison, Condition};

use crate::{
    resync_feed::{Feed, INTEGER, Table, column, delete, insert, read, resync, topic},
    sink_support::{Database, at},
};

const PARENT: &[(&str, u32, &str)] = &[column("id*", INTEGER)];
const CHILD: &[(&str, u32, &str)] = &[column("id*", INTEGER), column("p", INTEGER)];

/// A parent and a child, each in one partition, and in the target a foreign key between them that acts like this on a deletion.
async fn family(action: &str) -> (Database, Feed) {
    let db = Database::create().await;
    db.run(&format!(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p {action})"
    ))
    .await;
    let tables = [("p", PARENT), ("c", CHILD)];
    let feed = Feed::of(&tables.map(|(name, columns)| Table { name, partitions: 1, columns })).await;
    (db, feed)
}

/// The ids of both tables.
const BOTH: &str = "SELECT 'p' || id FROM p UNION ALL SELECT 'c' || id FROM c ORDER BY 1";

// traps T26, T65
#[tokio::test]
async fn children_are_swept_before_their_parents() {
    let (db, mut feed) = family("").await;
    db.run("INSERT INTO p VALUES (1), (2), (3); INSERT INTO c VALUES (10, 1), (20, 2), (30, 3)").await;
    let during = Some(resync(10));
    feed.put(("p", 0), at(20, 2), during, &read(&["1"]));
    feed.put(("p", 0), at(20, 3), during, &read(&["2"]));
    feed.put(("c", 0), at(21, 2), during, &read(&["10", "1"]));
    let sweep = feed.sweep(resync(10), &[("p", 2), ("c", 1)]);
    feed.put_sweep(at(31, 1), &sweep);
    let applier = feed.apply(&db).await;
    db.until(BOTH, &["c10", "p1", "p2"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// traps T26, T65
#[tokio::test]
async fn a_row_that_rows_of_another_applied_table_reference_stays_whatever_the_key_does() {
    for action in ["", "ON DELETE CASCADE", "ON DELETE SET NULL"] {
        let (db, mut feed) = family(action).await;
        db.run("INSERT INTO p VALUES (1), (2), (3)").await;
        // The child's lane is beyond the parent's: there the parent's row has come again.
        feed.put(("c", 0), at(40, 2), None, &insert(&["20", "2"]));
        feed.put(("p", 0), at(20, 2), Some(resync(10)), &read(&["1"]));
        let mut applier = feed.apply(&db).await;
        db.until("SELECT id FROM c", &["20"]).await;
        let sweep = feed.sweep(resync(10), &[("p", 1)]);
        feed.put_sweep(at(31, 1), &sweep);
        feed.deliver(&mut applier);
        db.until(BOTH, &["c20", "p1", "p2"]).await;
        feed.put(("p", 0), at(40, 1), None, &insert(&["2"]));
        feed.deliver(&mut applier);
        db.until("SELECT commit_lsn FROM walrelay.position WHERE topic LIKE '%p'", &["0/28"]).await;
        assert_eq!(db.rows("SELECT p FROM c").await, ["2"], "{action}");
        assert!(applier.health.snapshot().stopped.is_empty());
        applier.finish().await;
    }
}

// traps T26, T65
#[tokio::test]
async fn a_table_that_keeps_its_rows_keeps_those_that_they_reference_also_in_a_circle() {
    for is_conditioned in [false, true] {
        let (db, mut feed) = family("ON DELETE CASCADE DEFERRABLE").await;
        db.run("ALTER TABLE p ADD c int REFERENCES c ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED").await;
        db.run("BEGIN; INSERT INTO p VALUES (2, 20); INSERT INTO c VALUES (20, 2); COMMIT").await;
        let sweep = feed.sweep(resync(10), &[("p", 0), ("c", 0)]);
        for table in ["p", "c"] {
            // Of one of them nothing is told, or it is about other rows.
            let mut sweep = sweep.clone();
            if is_conditioned {
                let other = Condition { column: "id".into(), comparison: Comparison::Less, value: "0".into() };
                sweep.conditions.insert(topic(table), vec![other]);
            } else {
                sweep.rows.remove(&topic(table));
            }
            feed.put_sweep(at(if table == "p" { 31 } else { 32 }, 1), &sweep);
        }
        feed.put(("c", 0), at(40, 1), None, &insert(&["30", "∅"]));
        let applier = feed.apply(&db).await;
        db.until("SELECT count(*) FROM c WHERE id = 30", &["1"]).await;
        assert_eq!(db.rows(BOTH).await, ["c20", "c30", "p2"], "conditioned: {is_conditioned}");
        applier.finish().await;
    }
}

// trap T26
#[tokio::test]
async fn what_a_row_references_that_stays_stays_too_also_within_one_table() {
    for action in ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE RESTRICT", ""] {
        for is_conditioned in [false, true] {
            let (db, mut feed) = family("").await;
            db.run("DROP TABLE c").await;
            let tables = format!(
                "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES c {action});
                 ALTER TABLE p ADD c int REFERENCES c {action}"
            );
            db.run(&tables).await;
            // Of the chain 1 ← 2 ← 3 a row of an applied table holds the second; 4 ← 5 and 6 are free, and so is the circle 7, 8.
            db.run("INSERT INTO c VALUES (1, NULL), (2, 1), (3, 2), (4, NULL), (5, 4), (6, 6)").await;
            db.run("INSERT INTO c VALUES (7, NULL), (8, 7); UPDATE c SET p = 8 WHERE id = 7").await;
            db.run("INSERT INTO c VALUES (100, NULL); INSERT INTO p VALUES (9, 2)").await;
            feed.put(("p", 0), at(1, 1), None, &insert(&["50"]));
            let mut applier = feed.apply(&db).await;
            db.until("SELECT count(*) FROM p WHERE id = 50", &["1"]).await;
            let mut sweep = feed.sweep(resync(10), &[("c", 0)]);
            if is_conditioned {
                let low = Condition { column: "id".into(), comparison: Comparison::Less, value: "100".into() };
                sweep.conditions.insert(topic("c"), vec![low]);
            }
            feed.put_sweep(at(31, 1), &sweep);
            feed.put(("c", 0), at(40, 1), None, &insert(&["30", "∅"]));
            feed.deliver(&mut applier);
            db.until("SELECT count(*) FROM c WHERE id = 30", &["1"]).await;
            let left: &[&str] = if is_conditioned { &["1", "100", "2"] } else { &["1", "2"] };
            assert_eq!(db.rows("SELECT id FROM c WHERE id <> 30 ORDER BY id::text").await, left, "{action}");
            assert_eq!(db.rows("SELECT c FROM p WHERE id = 9").await, ["2"], "{action}");
            assert!(applier.health.snapshot().stopped.is_empty());
            applier.finish().await;
        }
    }
}

// trap T26
#[tokio::test]
async fn tables_that_inherit_from_a_swept_one_keep_their_rows() {
    let (db, mut feed) = family("").await;
    db.run("DROP TABLE c; CREATE TABLE c (p int, PRIMARY KEY (id)) INHERITS (p)").await;
    db.run("INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (3, 3)").await;
    feed.put(("p", 0), at(20, 2), Some(resync(10)), &read(&["1"]));
    let sweep = feed.sweep(resync(10), &[("p", 1)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("p", 0), at(42, 1), None, &insert(&["5"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT tableoid::regclass::text || id FROM p ORDER BY 1", &["c1", "c3", "p1", "p5"]).await;
    applier.finish().await;
}

// traps T26, T65
#[tokio::test]
async fn tables_that_reference_each_other_are_swept_together() {
    let (db, mut feed) = family("").await;
    db.run("ALTER TABLE p ADD c int REFERENCES c").await;
    let rows = "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (10, 1), (20, 2); UPDATE p SET c = id * 10";
    db.run(rows).await;
    feed.put(("p", 0), at(20, 2), Some(resync(10)), &read(&["1"]));
    feed.put(("c", 0), at(21, 2), Some(resync(10)), &read(&["10", "1"]));
    let sweep = feed.sweep(resync(10), &[("p", 1), ("c", 1)]);
    feed.put_sweep(at(31, 1), &sweep);
    let applier = feed.apply(&db).await;
    db.until(BOTH, &["c10", "p1"]).await;
    applier.finish().await;
}

// traps T26, T32
#[tokio::test]
async fn a_table_that_refuses_stops_alone_says_why_and_is_swept_when_it_does_so_no_more() {
    for (refusal, named, remedy) in [
        ("CREATE TABLE local (p int REFERENCES p); INSERT INTO local VALUES (2)", "local_p_fkey", "DROP TABLE local"),
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
             CREATE TRIGGER refuse BEFORE DELETE ON p FOR EACH ROW EXECUTE FUNCTION refuse()",
            "the trigger or the constraint",
            "DROP TRIGGER refuse ON p",
        ),
    ] {
        let (db, mut feed) = family("").await;
        db.run("INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (10, 1), (30, NULL)").await;
        db.run(refusal).await;
        let during = Some(resync(10));
        feed.put(("p", 0), at(20, 2), during, &read(&["1"]));
        feed.put(("c", 0), at(21, 2), during, &read(&["10", "1"]));
        let sweep = feed.sweep(resync(10), &[("p", 1), ("c", 1)]);
        feed.put_sweep(at(31, 1), &sweep);
        feed.put(("c", 0), at(32, 1), None, &insert(&["11", "1"]));
        feed.put(("p", 0), at(32, 2), None, &insert(&["5"]));
        let applier = feed.apply(&db).await;
        db.until(BOTH, &["c10", "c11", "p1", "p2"]).await;
        db.until("SELECT topic FROM walrelay.position WHERE stopped IS NOT NULL", &["w.public.p"]).await;
        let stopped = applier.health.snapshot().stopped;
        let reason = &stopped["public.p"];
        assert!(stopped.len() == 1 && reason.contains("does not have") && reason.contains(named), "{stopped:?}");
        applier.finish().await;
        db.run(remedy).await;
        let applier = feed.apply(&db).await;
        db.until(BOTH, &["c10", "c11", "p1", "p5"]).await;
        db.until("SELECT count(*) FROM walrelay.resync", &["0"]).await;
        applier.finish().await;
    }
}

// traps T26, T65
#[tokio::test]
async fn a_table_whose_rows_need_what_comes_behind_the_end_goes_on_without_a_sweep() {
    let (db, mut feed) = family("").await;
    db.run("INSERT INTO c VALUES (99, NULL)").await;
    feed.put(("p", 0), at(1, 1), None, &insert(&["7"]));
    // The parent's lane is far ahead: its row is gone, and so is the child's, behind the end.
    feed.put(("p", 0), at(42, 1), None, &delete(&["7"]));
    let mut applier = feed.apply(&db).await;
    db.until("SELECT commit_lsn FROM walrelay.position WHERE topic LIKE '%p'", &["0/2A"]).await;
    feed.put(("c", 0), at(20, 2), Some(resync(10)), &read(&["70", "7"]));
    let sweep = feed.sweep(resync(10), &[("c", 1)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("c", 0), at(41, 1), None, &delete(&["70", "∅"]));
    feed.put(("c", 0), at(43, 1), None, &insert(&["8", "∅"]));
    feed.deliver(&mut applier);
    applier.progress(100);
    db.until(BOTH, &["c8", "c99"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    db.until("SELECT count(*) FROM walrelay.resync WHERE NOT ended", &["0"]).await;
    applier.finish().await;
}

// traps T26, T65
#[tokio::test]
async fn a_table_goes_on_without_a_sweep_not_before_the_target_knows() {
    let (db, mut feed) = family("").await;
    feed.put(("p", 0), at(1, 1), None, &insert(&["7"]));
    feed.put(("p", 0), at(42, 1), None, &delete(&["7"]));
    let mut applier = feed.apply(&db).await;
    db.until("SELECT commit_lsn FROM walrelay.position WHERE topic LIKE '%p'", &["0/2A"]).await;
    // Another process has made the barrier's row, and has not come to its end.
    let other = walrelay::postgres::connect(&db.settings, "walrelay test").await.unwrap();
    let row = "BEGIN; INSERT INTO walrelay.barrier VALUES ('it', 0, '0/1F', 1, '[]')";
    other.batch_execute(row).await.unwrap();
    feed.put(("c", 0), at(20, 2), Some(resync(10)), &read(&["70", "7"]));
    let sweep = feed.sweep(resync(10), &[("c", 1)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("c", 0), at(41, 1), None, &delete(&["70", "∅"]));
    feed.put(("c", 0), at(43, 1), None, &insert(&["8", "∅"]));
    feed.deliver(&mut applier);
    applier.progress(100);
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'walrelay apply' AND wait_event_type = 'Lock'";
    db.until(waits, &["t"]).await;
    // It tries again, and jobs have had all the time that they need.
    let later = db.rows("SELECT clock_timestamp() + '1 s'").await.remove(0);
    db.until(&format!("{waits} AND query_start > '{later}'"), &["t"]).await;
    assert!(db.rows(BOTH).await.is_empty(), "beyond the end before the target knew");
    other.batch_execute("ROLLBACK").await.unwrap();
    db.until(BOTH, &["c8"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// traps T26, T65
#[tokio::test]
async fn a_parent_s_deletion_waits_for_the_child_that_stands_at_the_end_of_its_resync() {
    let (db, mut feed) = family("").await;
    feed.put(("p", 0), at(1, 1), None, &insert(&["7"]));
    feed.put(("c", 0), at(2, 1), None, &insert(&["70", "7"]));
    let mut applier = feed.apply(&db).await;
    db.until(BOTH, &["c70", "p7"]).await;
    db.run("INSERT INTO c VALUES (99, NULL)").await;
    feed.put(("p", 0), at(42, 1), None, &delete(&["7"]));
    feed.put(("c", 0), at(20, 2), Some(resync(10)), &read(&["70", "7"]));
    let sweep = feed.sweep(resync(10), &[("c", 1)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("c", 0), at(41, 1), None, &delete(&["70", "∅"]));
    feed.deliver(&mut applier);
    applier.progress(100);
    db.until("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)", &["0|0"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}
