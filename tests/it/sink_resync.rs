//! A resync at the sink, by records as capture writes them: what it has shown stays, and at its end the rest goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use walrelay::{
    event::{Comparison, Condition, Gate},
    sink::{Session, Sink, barrier::leave},
};

use crate::{
    resync_feed::{Feed, INTEGER, TEXT, Table, column, delete, insert, read, rekey, resync, topic, update},
    sink_support::{Database, at, sink_settings},
};

/// A key and a text.
const COLUMNS: &[(&str, u32, &str)] = &[column("id*", INTEGER), column("v", TEXT)];

const fn table(name: &str, partitions: i32) -> Table<'_> {
    Table { name, partitions, columns: COLUMNS }
}

/// The partition that a test has a number's records in.
fn partition(id: i32) -> i32 {
    id % 3
}

/// A table in three partitions, with the rows 1 to 9 of before, and two that only the target has.
async fn drifted() -> (Database, Feed) {
    let db = Database::create().await;
    let mut feed = Feed::of(&[table("t", 3)]).await;
    for (ordinal, id) in (1..).zip(1..10) {
        feed.put(("t", partition(id)), at(1, ordinal), None, &insert(&[&id.to_string(), "before"]));
    }
    let applier = feed.apply(&db).await;
    db.until("SELECT count(*) FROM t", &["9"]).await;
    applier.finish().await;
    db.run("INSERT INTO t VALUES (100, 'ghost'), (101, 'ghost'), (102, 'ghost')").await;
    (db, feed)
}

/// Rows of a resync: one record each.
fn read_again(feed: &mut Feed, ids: &[i32], commit: u64) {
    for (ordinal, id) in (2..).zip(ids) {
        let row = read(&[&id.to_string(), "read again"]);
        feed.put(("t", partition(*id)), at(commit, ordinal), Some(resync(10)), &row);
    }
}

async fn no_notes_are_left(db: &Database) {
    db.until("SELECT count(*) FROM walrelay.resync", &["0"]).await;
    assert_eq!(db.rows("SELECT relname FROM pg_class WHERE relname LIKE 'seen%' AND relkind = 'r'").await, [""; 0]);
    db.until("SELECT count(*) FROM walrelay.barrier", &["0"]).await;
}

const IDS: &str = "SELECT id FROM t ORDER BY id";

// trap T26
#[tokio::test]
async fn rows_that_the_source_does_not_have_go_at_the_end_and_what_the_resync_has_shown_stays() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    read_again(&mut feed, &[1, 2, 3, 4], 20);
    let during = Some(resync(10));
    feed.put(("t", partition(3)), at(21, 1), during, &delete(&["3", "∅"]));
    feed.put(("t", partition(10)), at(22, 1), during, &insert(&["10", "new"]));
    feed.put(("t", partition(5)), at(23, 1), during, &update(&["5", "changed"]));
    // The key moves from one partition to another, before its row is read.
    let moves = rekey(&["7", "∅"], &["14", "moved"]);
    feed.put_half(("t", partition(7)), at(24, 1), during, (&moves, false));
    feed.put_half(("t", partition(14)), at(24, 1), during, (&moves, true));
    // A row that only the target had comes into being at the source.
    feed.put(("t", partition(102)), at(25, 1), during, &insert(&["102", "no ghost"]));
    read_again(&mut feed, &[6, 8, 9], 30);
    feed.deliver(&mut applier);
    db.until(
        "SELECT id FROM t WHERE v <> 'before' ORDER BY id",
        &["1", "2", "4", "5", "6", "8", "9", "10", "14", "100", "101", "102"],
    )
    .await;
    db.until("SELECT rows FROM walrelay.resync", &["7"]).await;
    let sweep = feed.sweep(resync(10), &[("t", 7)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("t", partition(11)), at(32, 1), None, &insert(&["11", "after"]));
    feed.deliver(&mut applier);
    db.until(IDS, &["1", "2", "4", "5", "6", "8", "9", "10", "11", "14", "102"]).await;
    no_notes_are_left(&db).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn a_row_that_is_deleted_after_it_was_read_and_comes_again_is_gone_or_there_as_at_the_source() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    let during = Some(resync(10));
    read_again(&mut feed, &[1, 2, 3, 4, 5, 6, 7, 8, 9], 20);
    feed.deliver(&mut applier);
    db.until("SELECT rows FROM walrelay.resync", &["9"]).await;
    feed.put(("t", partition(1)), at(21, 1), during, &delete(&["1", "∅"]));
    feed.put(("t", partition(2)), at(21, 2), during, &delete(&["2", "∅"]));
    feed.deliver(&mut applier);
    db.until("SELECT count(*) FROM t WHERE id < 3", &["0"]).await;
    // Somebody writes the deleted row into the target; the source has it no more.
    db.run("INSERT INTO t VALUES (1, 'ghost')").await;
    feed.put(("t", partition(2)), at(22, 1), during, &insert(&["2", "again"]));
    let sweep = feed.sweep(resync(10), &[("t", 9)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.deliver(&mut applier);
    db.until(IDS, &["2", "3", "4", "5", "6", "7", "8", "9"]).await;
    applier.finish().await;
}

// traps T26, T32
#[tokio::test]
async fn a_truncate_in_between_takes_what_was_shown_before_it() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    read_again(&mut feed, &[1, 2, 3], 20);
    feed.truncate(&["t"], at(21, 1));
    feed.deliver(&mut applier);
    db.until("SELECT count(*) FROM t", &["0"]).await;
    db.run("INSERT INTO t VALUES (1, 'ghost'), (50, 'ghost')").await;
    feed.put(("t", partition(7)), at(22, 1), Some(resync(10)), &insert(&["7", "after"]));
    let sweep = feed.sweep(resync(10), &[("t", 3)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.deliver(&mut applier);
    db.until(IDS, &["7"]).await;
    no_notes_are_left(&db).await;
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn a_new_snapshot_in_between_ends_the_resync() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    read_again(&mut feed, &[1, 2, 3], 20);
    feed.truncate(&["t"], at(40, 0));
    feed.put(("t", partition(4)), at(40, 0), None, &read(&["4", "snapshot"]));
    feed.deliver(&mut applier);
    db.until(IDS, &["4"]).await;
    no_notes_are_left(&db).await;
    applier.finish().await;
}

// traps T26, T60
#[tokio::test]
async fn a_kill_at_any_point_loses_no_row_and_keeps_no_ghost() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    read_again(&mut feed, &[1, 2, 3, 4], 20);
    feed.deliver(&mut applier);
    db.until("SELECT rows FROM walrelay.resync", &["4"]).await;
    applier.kill().await;
    read_again(&mut feed, &[5, 6, 7, 8, 9], 30);
    let sweep = feed.sweep(resync(10), &[("t", 9)]);
    // Two of the three copies: the lanes park, and the applier is killed between the last of them and the sweep.
    feed.put_sweep_in(("t", 0), at(31, 1), &sweep);
    feed.put_sweep_in(("t", 1), at(31, 1), &sweep);
    let applier = feed.apply(&db).await;
    db.until("SELECT rows FROM walrelay.resync", &["9"]).await;
    db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/1F'", &["2"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["12"], "swept before all partitions had arrived");
    applier.kill().await;
    feed.put_sweep_in(("t", 2), at(31, 1), &sweep);
    let mut applier = feed.apply(&db).await;
    db.until(IDS, &["1", "2", "3", "4", "5", "6", "7", "8", "9"]).await;
    // Once more, as after a kill of capture, and behind rows that are in no resync.
    feed.put(("t", partition(12)), at(32, 1), None, &insert(&["12", "after"]));
    feed.put_sweep(at(31, 1), &sweep);
    feed.deliver(&mut applier);
    db.until("SELECT sum(next_offset) FROM walrelay.position", &[&feed.ends().to_string()]).await;
    applier.kill().await;
    let applier = feed.apply(&db).await;
    db.until(IDS, &["1", "2", "3", "4", "5", "6", "7", "8", "9", "12"]).await;
    no_notes_are_left(&db).await;
    applier.finish().await;
}

// traps T26, T32
#[tokio::test]
async fn two_processes_note_and_sweep_together() {
    let (db, mut feed) = drifted().await;
    let name = |partition| (topic("t"), partition);
    let mut first = feed.apply_of(&db, &[name(0)]).await;
    let mut second = feed.apply_of(&db, &[name(1), name(2)]).await;
    read_again(&mut feed, &[1, 2, 3, 4, 5, 6, 7, 8], 20);
    feed.put(("t", partition(8)), at(21, 1), Some(resync(10)), &delete(&["8", "∅"]));
    let sweep = feed.sweep(resync(10), &[("t", 8)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.deliver(&mut first);
    db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/1F'", &["1"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t WHERE v = 'ghost'").await, ["3"]);
    feed.deliver(&mut second);
    db.until(IDS, &["1", "2", "3", "4", "5", "6", "7"]).await;
    for (partition, applier) in [(0, &mut first), (1, &mut second)] {
        feed.put(("t", partition), at(32, 1), None, &insert(&[&(30 + partition).to_string(), "after"]));
        feed.deliver(applier);
    }
    db.until("SELECT count(*) FROM t", &["9"]).await;
    no_notes_are_left(&db).await;
    first.finish().await;
    second.finish().await;
}

// trap T26
#[tokio::test]
async fn a_resync_that_came_to_no_end_removes_nothing_and_its_keys_go_with_the_next() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    let (dead, next) = (Some(resync(10)), Some(resync(40)));
    // The dead one has shown a row that is deleted while none goes on, and that somebody writes into the target again.
    feed.put(("t", partition(100)), at(20, 2), dead, &read(&["100", "read"]));
    feed.deliver(&mut applier);
    db.until("SELECT commit_lsn, rows FROM walrelay.resync", &["0/A|1"]).await;
    feed.put(("t", partition(100)), at(30, 1), None, &delete(&["100", "∅"]));
    feed.deliver(&mut applier);
    db.until("SELECT count(*) FROM t WHERE id = 100", &["0"]).await;
    db.run("INSERT INTO t VALUES (100, 'ghost')").await;
    feed.put(("t", partition(1)), at(50, 2), next, &read(&["1", "read again"]));
    feed.deliver(&mut applier);
    db.until("SELECT commit_lsn, rows FROM walrelay.resync WHERE NOT ended", &["0/28|1"]).await;
    // Another partition is behind.
    feed.put(("t", partition(102)), at(21, 2), dead, &read(&["102", "read"]));
    feed.put(("t", partition(102)), at(31, 1), None, &delete(&["102", "∅"]));
    feed.put(("t", partition(2)), at(51, 2), next, &read(&["2", "read again"]));
    let sweep = feed.sweep(resync(40), &[("t", 2)]);
    feed.put_sweep(at(60, 1), &sweep);
    feed.deliver(&mut applier);
    db.until(IDS, &["1", "2"]).await;
    no_notes_are_left(&db).await;
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn nothing_goes_where_the_resync_s_rows_did_not_all_come_and_all_goes_where_it_read_none() {
    for (came, published, left) in [(0, 5, 12), (3, 5, 12), (0, 0, 0), (5, 5, 5)] {
        let (db, mut feed) = drifted().await;
        read_again(&mut feed, &[1, 2, 3, 4, 5][..came], 20);
        let sweep = feed.sweep(resync(10), &[("t", published)]);
        feed.put_sweep(at(31, 1), &sweep);
        feed.put(("t", 0), at(32, 1), None, &insert(&["30", "after"]));
        let applier = feed.apply(&db).await;
        db.until("SELECT id FROM t WHERE v = 'after'", &["30"]).await;
        let rows = db.rows("SELECT count(*) FROM t WHERE v <> 'after'").await;
        assert_eq!(rows, [left.to_string()], "{came} of {published}");
        no_notes_are_left(&db).await;
        applier.finish().await;
    }
}

// trap T26
#[tokio::test]
async fn nothing_goes_of_a_table_of_which_the_end_does_not_say_how_many_rows_were_read() {
    let (db, mut feed) = drifted().await;
    read_again(&mut feed, &[1, 2], 20);
    let mut sweep = feed.sweep(resync(10), &[("t", 2)]);
    sweep.rows.clear();
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("t", 0), at(32, 1), None, &insert(&["30", "after"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT id FROM t WHERE v = 'after'", &["30"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t WHERE v = 'ghost'").await, ["3"]);
    applier.finish().await;
}

// traps T26, T32
#[tokio::test]
async fn a_stopped_table_is_swept_by_its_own_end_alone_wherever_its_lanes_are() {
    let (db, _) = drifted().await;
    db.run("UPDATE walrelay.position SET parked_epoch = 0, parked_lsn = '0/1F', parked_ordinal = 1").await;
    let mut feed = Feed::of(&[table("t", 3), table("u", 1)]).await;
    let mut sweep = feed.sweep(resync(10), &[("u", 0)]);
    sweep.barrier.stopped = vec![(topic("t"), 3)];
    sweep.rows.insert(topic("t"), 0);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("u", 0), at(32, 1), None, &insert(&["1", "after"]));
    let applier = feed.apply_of(&db, &[(topic("u"), 0)]).await;
    db.until("SELECT id FROM u", &["1"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["12"]);
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn leaving_the_end_of_a_resync_ends_that_and_earlier_ones_and_no_later_one() {
    let (db, mut feed) = drifted().await;
    feed.put(("t", 0), at(50, 2), Some(resync(40)), &read(&["3", "read again"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT commit_lsn, rows FROM walrelay.resync", &["0/28|1"]).await;
    applier.finish().await;
    let sink = Sink::new(sink_settings(&db, "it"));
    let session = Session::connect(&sink).await.unwrap();
    for (named, left) in [(10, "1"), (40, "0")] {
        let gate = Gate::Sweep(feed.sweep(resync(named), &[("t", 1)]));
        assert!(leave(session.client(), sink.ledger(), at(named + 50, 1), &gate, &topic("t")).await.unwrap());
        assert_eq!(db.rows("SELECT count(*) FROM walrelay.resync WHERE NOT ended").await, [left], "{named}");
    }
}

// trap T26
#[tokio::test]
async fn what_is_beyond_the_conditions_stays() {
    let (db, mut feed) = drifted().await;
    db.run("INSERT INTO t VALUES (-1, 'ghost'), (99, 'ghost'), (103, 'ghost'), (104, 'ghost')").await;
    read_again(&mut feed, &[9], 20);
    let condition = |comparison, value: &str| Condition { column: "id".into(), comparison, value: value.into() };
    let mut sweep = feed.sweep(resync(10), &[("t", 1)]);
    let conditions = vec![condition(Comparison::AtLeast, "9"), condition(Comparison::Less, "103")];
    sweep.conditions.insert(topic("t"), conditions);
    feed.put_sweep(at(31, 1), &sweep);
    let mut applier = feed.apply(&db).await;
    db.until(IDS, &["-1", "1", "2", "3", "4", "5", "6", "7", "8", "9", "103", "104"]).await;
    // Of no row that was read all within the conditions goes, and no other one.
    let mut sweep = feed.sweep(resync(40), &[("t", 0)]);
    sweep.conditions.insert(topic("t"), vec![condition(Comparison::Equal, "103")]);
    feed.put_sweep(at(50, 1), &sweep);
    feed.deliver(&mut applier);
    db.until(IDS, &["-1", "1", "2", "3", "4", "5", "6", "7", "8", "9", "104"]).await;
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn conditions_whose_order_depends_on_a_collation_remove_nothing() {
    let db = Database::create().await;
    let columns = [column("k*", TEXT), column("v", TEXT)];
    let mut feed = Feed::of(&[Table { name: "t", partitions: 1, columns: &columns }]).await;
    db.run("CREATE TABLE t (k text PRIMARY KEY, v text); INSERT INTO t VALUES ('B', 'ghost'), ('a', 'ghost')").await;
    feed.put(("t", 0), at(20, 2), Some(resync(10)), &read(&["c", "read"]));
    let condition = |comparison, value: &str| Condition { column: "k".into(), comparison, value: value.into() };
    let mut sweep = feed.sweep(resync(10), &[("t", 1)]);
    sweep.conditions.insert(topic("t"), vec![condition(Comparison::Greater, "A")]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("t", 0), at(32, 1), None, &insert(&["d", "after"]));
    let mut applier = feed.apply(&db).await;
    db.until("SELECT count(*) FROM t", &["4"]).await;
    // That two texts are the same does not depend on it.
    let mut sweep = feed.sweep(resync(40), &[("t", 0)]);
    sweep.conditions.insert(topic("t"), vec![condition(Comparison::Equal, "a")]);
    feed.put_sweep(at(50, 1), &sweep);
    feed.deliver(&mut applier);
    db.until("SELECT k FROM t ORDER BY k COLLATE \"C\"", &["B", "c", "d"]).await;
    applier.finish().await;
}

// traps T26, T81
#[tokio::test]
async fn conditions_on_a_column_that_takes_different_texts_for_equal_remove_nothing() {
    let db = Database::create().await;
    let columns = [column("k*", (1700, "numeric")), column("v", TEXT)];
    let mut feed = Feed::of(&[Table { name: "t", partitions: 1, columns: &columns }]).await;
    db.run("CREATE TABLE t (k numeric PRIMARY KEY, v text); INSERT INTO t VALUES (1.00, 'ghost')").await;
    for (commit, comparison) in (31..).zip([Comparison::Equal, Comparison::AtMost]) {
        let mut sweep = feed.sweep(resync(commit - 20), &[("t", 0)]);
        sweep.conditions.insert(topic("t"), vec![Condition { column: "k".into(), comparison, value: "1".into() }]);
        feed.put_sweep(at(commit, 1), &sweep);
    }
    feed.put(("t", 0), at(40, 1), None, &insert(&["7", "after"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT k FROM t ORDER BY k", &["1.00", "7"]).await;
    applier.finish().await;
}

// traps T26, T81
#[tokio::test]
async fn keys_that_the_target_calls_equal_are_one() {
    let db = Database::create().await;
    let columns = [column("k*", (1186, "interval")), column("v", TEXT)];
    let mut feed = Feed::of(&[Table { name: "t", partitions: 1, columns: &columns }]).await;
    let during = Some(resync(10));
    feed.put(("t", 0), at(20, 2), during, &read(&["1 mon", "read"]));
    feed.put(("t", 0), at(20, 3), during, &read(&["2 days", "read"]));
    let mut applier = feed.apply(&db).await;
    db.until("SELECT rows FROM walrelay.resync", &["2"]).await;
    feed.put(("t", 0), at(21, 1), during, &delete(&["48:00:00", "∅"]));
    feed.put(("t", 0), at(21, 2), during, &insert(&["30 days", "the same key as a month"]));
    feed.deliver(&mut applier);
    db.until("SELECT k FROM t", &["30 days"]).await;
    db.run("INSERT INTO t VALUES ('2 days', 'ghost'); UPDATE t SET k = '720:00:00' WHERE k = '1 mon'").await;
    let sweep = feed.sweep(resync(10), &[("t", 2)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.deliver(&mut applier);
    db.until("SELECT k FROM t", &["720:00:00"]).await;
    applier.finish().await;
}

// traps T26, T27
#[tokio::test]
async fn an_update_that_lacks_columns_of_a_row_that_is_not_there_is_nothing_until_the_row_is_read() {
    let (db, mut feed) = drifted().await;
    db.run("DELETE FROM t WHERE id IN (1, 2)").await;
    let mut applier = feed.apply(&db).await;
    let during = Some(resync(10));
    feed.put(("t", partition(1)), at(20, 1), during, &update(&["1", "?"]));
    feed.put(("t", partition(2)), at(20, 2), during, &update(&["2", "?"]));
    feed.deliver(&mut applier);
    db.until("SELECT count(*) FROM walrelay.position WHERE commit_lsn = '0/14'", &["2"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t WHERE id < 3").await, ["0"]);
    read_again(&mut feed, &[1, 3, 4, 5, 6, 7, 8, 9], 30);
    feed.put(("t", partition(2)), at(32, 1), during, &delete(&["2", "∅"]));
    let sweep = feed.sweep(resync(10), &[("t", 8)]);
    feed.put_sweep(at(40, 1), &sweep);
    feed.deliver(&mut applier);
    db.until(IDS, &["1", "3", "4", "5", "6", "7", "8", "9"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T26
#[tokio::test(flavor = "multi_thread")]
async fn readers_see_the_rows_at_every_moment() {
    let db = Database::create().await;
    let mut feed = Feed::of(&[table("t", 3)]).await;
    db.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'before' FROM generate_series(1, 20000) n").await;
    let reader = walrelay::postgres::connect(&db.settings, "walrelay test").await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let counts = tokio::spawn(async move {
        let mut counts = Vec::new();
        loop {
            let is_last = end.load(Ordering::Acquire);
            counts.push(reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0));
            if is_last {
                return counts;
            }
        }
    });
    let ids: Vec<i32> = (1..=1000).collect();
    read_again(&mut feed, &ids, 20);
    let sweep = feed.sweep(resync(10), &[("t", 1000)]);
    feed.put_sweep(at(31, 1), &sweep);
    let applier = feed.apply(&db).await;
    db.until("SELECT count(*) FROM t", &["1000"]).await;
    ended.store(true, Ordering::Release);
    let counts = tokio::time::timeout(Duration::from_secs(20), counts).await.unwrap().unwrap();
    assert!(counts.iter().all(|count| [20000, 1000].contains(count)), "{counts:?}");
    assert_eq!((counts.first(), counts.last()), (Some(&20000), Some(&1000)));
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn somebody_who_reads_the_keys_holds_nothing_up_and_they_go_later() {
    let (db, mut feed) = drifted().await;
    let mut applier = feed.apply(&db).await;
    read_again(&mut feed, &[1, 2], 20);
    feed.deliver(&mut applier);
    db.until("SELECT rows FROM walrelay.resync", &["2"]).await;
    let name = db.rows("SELECT 'walrelay.seen_' || number FROM walrelay.resync").await.remove(0);
    let reader = walrelay::postgres::connect(&db.settings, "walrelay test").await.unwrap();
    reader.batch_execute(&format!("BEGIN; SELECT FROM {name}")).await.unwrap();
    let sweep = feed.sweep(resync(10), &[("t", 2)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.deliver(&mut applier);
    db.until(IDS, &["1", "2"]).await;
    db.until("SELECT ended FROM walrelay.resync", &["t"]).await;
    applier.finish().await;
    reader.batch_execute("COMMIT").await.unwrap();
    let applier = feed.apply(&db).await;
    no_notes_are_left(&db).await;
    applier.finish().await;
}

// traps T26, T32
#[tokio::test]
async fn a_lock_holds_up_the_end_of_a_resync_alone_and_no_other_table() {
    for held in
        ["SELECT FROM t WHERE id = 100 FOR UPDATE", "INSERT INTO walrelay.barrier VALUES ('it', 0, '0/1F', 1, '[]')"]
    {
        let (db, _) = drifted().await;
        db.run("CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1, 'before')").await;
        let mut feed = Feed::of(&[table("t", 3), table("u", 1)]).await;
        for (ordinal, id) in (1..).zip(1..10) {
            feed.put(("t", partition(id)), at(1, ordinal), None, &insert(&[&id.to_string(), "before"]));
        }
        let other = walrelay::postgres::connect(&db.settings, "walrelay test").await.unwrap();
        other.batch_execute(&format!("BEGIN; {held}")).await.unwrap();
        read_again(&mut feed, &[1, 2], 20);
        let sweep = feed.sweep(resync(10), &[("t", 2)]);
        feed.put_sweep(at(31, 1), &sweep);
        let mut applier = feed.apply(&db).await;
        db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/1F'", &["3"]).await;
        feed.truncate(&["u"], at(32, 1));
        feed.deliver(&mut applier);
        db.until("SELECT count(*) FROM u", &["0"]).await;
        assert_eq!(db.rows("SELECT count(*) FROM t").await, ["12"]);
        other.batch_execute("ROLLBACK").await.unwrap();
        db.until(IDS, &["1", "2"]).await;
        applier.finish().await;
    }
}

// trap T26
#[tokio::test]
async fn a_resync_that_may_have_begun_before_the_books_had_the_list_removes_nothing() {
    for (began, published, left) in [(10, 9, "12"), (19, 0, "12"), (20, 0, "12"), (21, 0, "0")] {
        let (db, mut feed) = drifted().await;
        // What an earlier version has applied.
        db.run("DROP TABLE walrelay.resync, walrelay.unnoted; UPDATE walrelay.position SET commit_lsn = '0/14' WHERE partition = 1").await;
        if published > 0 {
            read_again(&mut feed, &[1, 2, 3, 4, 5, 6, 7, 8, 9], 25);
        }
        let sweep = feed.sweep(resync(began), &[("t", published)]);
        feed.put_sweep(at(31, 1), &sweep);
        feed.put(("t", 0), at(32, 1), None, &insert(&["30", "after"]));
        let applier = feed.apply(&db).await;
        db.until("SELECT id FROM t WHERE v = 'after'", &["30"]).await;
        assert_eq!(db.rows("SELECT count(*) FROM t WHERE v <> 'after'").await, [left], "{began}");
        applier.finish().await;
    }
}

// trap T26
#[tokio::test]
async fn all_rows_go_only_where_no_resync_has_left_a_line() {
    let (db, mut feed) = drifted().await;
    let during = Some(resync(10));
    feed.put(("t", partition(1)), at(20, 2), during, &read(&["1", "read again"]));
    let sweep = feed.sweep(resync(40), &[("t", 0)]);
    feed.put_sweep(at(50, 1), &sweep);
    feed.put(("t", 0), at(52, 1), None, &insert(&["30", "after"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT id FROM t WHERE v = 'after'", &["30"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t WHERE v <> 'after'").await, ["12"]);
    no_notes_are_left(&db).await;
    applier.finish().await;
}

// trap T26
#[tokio::test]
async fn a_key_whose_type_becomes_another_one_in_between_leaves_all_rows() {
    let (db, mut feed) = drifted().await;
    let during = Some(resync(10));
    feed.put(("t", partition(1)), at(20, 1), during, &update(&["1", "changed"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT v FROM t WHERE id = 1", &["changed"]).await;
    applier.finish().await;
    db.run("ALTER TABLE t ALTER id TYPE bigint").await;
    feed.put(("t", partition(2)), at(21, 1), during, &update(&["2", "changed"]));
    let sweep = feed.sweep(resync(10), &[("t", 0)]);
    feed.put_sweep(at(31, 1), &sweep);
    feed.put(("t", 0), at(32, 1), None, &insert(&["30", "after"]));
    let applier = feed.apply(&db).await;
    db.until("SELECT id FROM t WHERE v = 'after'", &["30"]).await;
    assert_eq!(db.rows("SELECT count(*) FROM t WHERE v <> 'after'").await, ["12"]);
    no_notes_are_left(&db).await;
    applier.finish().await;
}

#[tokio::test]
async fn books_of_before_get_the_list_of_resyncs_and_another_instance_takes_it_over() {
    let (db, mut feed) = drifted().await;
    db.run("DROP TABLE walrelay.resync").await;
    let mut applier = feed.apply(&db).await;
    read_again(&mut feed, &[1, 2], 20);
    feed.deliver(&mut applier);
    db.until("SELECT instance, rows, ended FROM walrelay.resync", &["it|2|f"]).await;
    applier.finish().await;
    let second = Sink::new(sink_settings(&db, "second"));
    let session = Session::connect(&second).await.unwrap();
    let (client, topics) = (session.client(), [topic("t")]);
    second.ledger().settle_owners(client, &topics, |name| second.target_of(name), true).await.unwrap();
    assert_eq!(db.rows("SELECT instance, rows, ended FROM walrelay.resync").await, ["second|2|f"]);
}
