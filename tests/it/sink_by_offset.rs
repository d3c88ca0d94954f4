//! Lanes whose records have no position but their offset: where they are not applied, and what they wait for.

use std::time::Duration;

use walrelay::{event::ChangeEvent, lsn::Position, pipeline::apply::Limits};

use crate::{
    applier::Applier,
    sink_support::{Database, at, delete, insert, shape, update},
};

const T: &str = "w.t";
/// As low as a commit LSN can be.
const LOW: u64 = 1 << 20;
const FAMILY: &str = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)";

fn of(offset: i64) -> Position {
    Position::of_offset(offset).expect("an offset")
}

fn committed(milliseconds: i64, event: ChangeEvent) -> ChangeEvent {
    ChangeEvent { commit_ms: milliseconds, ..event }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_record_of_another_producer_behind_walrelay_s_own_stops_its_table() {
    let db = Database::create().await;
    let (t, u) = (shape("t", &[("id*", "int")]), shape("u", &[("id*", "int")]));
    let topics = [(T, 1), ("w.u", 1)];
    let mut applier = Applier::start(&db, &topics).await;
    applier.send(T, 0, vec![insert(&t, at(LOW, 1), &["1"]), insert(&t, of(1), &["2"])]);
    applier.send("w.u", 0, vec![insert(&u, at(LOW, 2), &["1"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    db.until("SELECT id FROM u", &["1"]).await;
    let reason = |applier: &Applier| applier.health.snapshot().stopped.get("public.t").cloned().unwrap_or_default();
    until("the table is stopped", || !reason(&applier).is_empty()).await;
    assert!(reason(&applier).contains("topic w.t, partition 0, offset 1: a record of another producer"));
    assert!(reason(&applier).contains("prefix"), "it says what to do: {}", reason(&applier));
    applier.finish().await;
    let mut applier = Applier::start(&db, &topics).await;
    applier.send(T, 0, vec![insert(&t, of(1), &["2"])]);
    until("the mark tells it after a restart, too", || !reason(&applier).is_empty()).await;
    db.until("SELECT next_offset, id FROM t, walrelay.position WHERE topic = 'w.t'", &["1|1"]).await;
    applier.finish().await;
}

#[tokio::test]
async fn walrelay_s_records_follow_those_of_another_producer_however_high_their_offsets() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let high = 1 << 40;
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    applier.offsets.insert((T.to_owned(), 0), high);
    applier.send(T, 0, vec![insert(&t, of(high), &["1", "x"]), update(&t, of(high + 1), &["1", "y"])]);
    db.until("SELECT * FROM t", &["1|y"]).await;
    db.until("SELECT epoch, commit_lsn, ordinal FROM walrelay.position", &["0|0/0|1099511627778"]).await;
    applier.finish().await;
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    applier.send(T, 0, vec![update(&t, of(high + 2), &["1", "z"]), insert(&t, at(LOW, 0), &["2", "new"])]);
    db.until("SELECT * FROM t ORDER BY id", &["1|z", "2|new"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// the mark that an earlier version has left
#[tokio::test]
async fn marks_in_the_old_form_of_offsets_are_followed_by_offsets() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    applier.send(T, 0, vec![insert(&t, of(0), &["1"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    applier.finish().await;
    db.run("UPDATE walrelay.position SET commit_lsn = '0/1', ordinal = 1").await;
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    applier.send(T, 0, vec![insert(&t, of(1), &["2"])]);
    db.until("SELECT count(*) FROM t", &["2"]).await;
    applier.send(T, 0, vec![insert(&t, of(2), &["3"])]);
    db.until("SELECT count(*) FROM t", &["3"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T65
#[tokio::test]
async fn a_child_waits_until_another_topic_brings_its_parent() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 1)]).await;
    applier.send("w.p", 0, vec![insert(&p, of(0), &["1"])]);
    db.until("SELECT id FROM p", &["1"]).await;
    let child = |offset: i64, parent: &str| insert(&c, of(offset), &[&offset.to_string(), parent]);
    applier.send("w.c", 0, (0..9).map(|offset| child(offset, "1")).chain([child(9, "3"), child(10, "1")]).collect());
    db.until("SELECT max(id) FROM c", &["8"]).await;
    let waits = |applier: &Applier| applier.health.snapshot().waiting.keys().any(|text| text.contains("offset 9"));
    until("health says what it waits for", || waits(&applier)).await;
    applier.send("w.p", 0, vec![insert(&p, of(1), &["2"])]);
    db.until("SELECT max(id) FROM p", &["2"]).await;
    applier.send("w.p", 0, vec![insert(&p, of(2), &["3"])]);
    db.until("SELECT max(id) FROM c", &["10"]).await;
    until("nothing waits", || applier.health.snapshot().waiting.is_empty()).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T65
#[tokio::test]
async fn a_referenced_key_that_changes_is_applied_together_with_those_that_refer_to_it() {
    let db = Database::create().await;
    db.run(&FAMILY.replace("REFERENCES p", "REFERENCES p DEFERRABLE")).await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let mut applier = Applier::start(&db, &[("w.p", 1), ("w.c", 1)]).await;
    applier.send("w.p", 0, vec![insert(&p, of(0), &["1"])]);
    db.until("SELECT id FROM p", &["1"]).await;
    applier.send("w.c", 0, vec![insert(&c, of(0), &["7", "1"])]);
    db.until("SELECT * FROM c", &["7|1"]).await;
    // The last child's parent never comes.
    let children = [(20, "7", "2"), (30, "8", "9")].into_iter().zip(1..);
    let children = children.map(|((time, id, parent), offset)| committed(time, update(&c, of(offset), &[id, parent])));
    applier.send("w.c", 0, children.collect());
    let parents = [delete(&p, of(1), &["1"]), insert(&p, of(2), &["2"])];
    applier.send("w.p", 0, parents.into_iter().map(|event| committed(20, event)).collect());
    db.until("SELECT p.id, c.id FROM p JOIN c ON c.p = p.id", &["2|7"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T65
#[tokio::test]
async fn a_child_whose_parent_never_comes_stops_its_table_alone() {
    let db = Database::create().await;
    db.run(FAMILY).await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let topics = [("w.p", 1), ("w.c", 1)];
    let limits = Limits { patience: Duration::from_millis(1), ..Limits::default() };
    let mut applier = Applier::with_limits(&db, &topics, &[("w.p", 0), ("w.c", 0)], limits).await;
    applier.send("w.p", 0, vec![insert(&p, of(0), &["1"])]);
    db.until("SELECT id FROM p", &["1"]).await;
    applier.send("w.c", 0, vec![insert(&c, of(0), &["1", "1"]), insert(&c, of(1), &["2", "2"])]);
    until("the table is stopped", || applier.health.snapshot().stopped.contains_key("public.c")).await;
    let reason = applier.health.snapshot().stopped["public.c"].clone();
    assert!(reason.contains("topic w.c, partition 0, offset 1") && reason.contains("c_p_fkey"), "{reason}");
    assert!(reason.contains("no order over topics") && reason.contains("apply.replica_role"), "{reason}");
    db.until("SELECT * FROM c", &["1|1"]).await;
    applier.send("w.p", 0, vec![insert(&p, of(1), &["3"])]);
    db.until("SELECT count(*) FROM p", &["2"]).await;
    applier.finish().await;
}

// trap T66
#[tokio::test]
async fn unique_values_change_places_within_a_partition_and_wait_for_other_ones() {
    let db = Database::create().await;
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE)").await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    applier.send(T, 0, vec![insert(&t, of(0), &["1", "x"]), insert(&t, of(1), &["2", "y"])]);
    db.until("SELECT count(*) FROM t", &["2"]).await;
    let swap = [("1", "tmp"), ("2", "x"), ("1", "y")].into_iter().zip(2..);
    applier.send(T, 0, swap.map(|((id, a), offset)| update(&t, of(offset), &[id, a])).collect());
    db.until("SELECT * FROM t ORDER BY id", &["1|y", "2|x"]).await;
    applier.send(T, 1, vec![insert(&t, of(0), &["3", "x"])]);
    let waits = || applier.health.snapshot().waiting.keys().any(|text| text.contains("partition 1, offset 0"));
    until("health says what it waits for", waits).await;
    applier.send(T, 0, vec![update(&t, of(5), &["2", "z"])]);
    db.until("SELECT * FROM t ORDER BY id", &["1|y", "2|z", "3|x"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}
