//! Lanes: several partitions in parallel, what they wait for, and what stops them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;
use walrelay::{
    kafka::ConsumerEvent,
    lsn::{Lsn, Position},
    progress::Progress,
};

use crate::{
    applier::Applier,
    sink_support::{Database, at, delete, insert, shape, truncate, update},
};

const T: &str = "w.t";

// trap T60
#[tokio::test]
async fn redelivered_records_change_nothing() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    let history = || {
        vec![
            insert(&t, at(1, 1), &["1", "old"]),
            update(&t, at(2, 1), &["1", "new"]),
            insert(&t, at(2, 2), &["2", "x"]),
            delete(&t, at(3, 1), &["2", "?"]),
        ]
    };
    applier.send(T, 0, history());
    db.until("SELECT * FROM t", &["1|new"]).await;
    db.until("SELECT next_offset FROM walrelay.position", &["4"]).await;
    db.run(
        "CREATE TABLE audit (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
            'BEGIN INSERT INTO public.audit VALUES (1); RETURN NULL; END'; \
            CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    applier.send(T, 0, history());
    db.until("SELECT next_offset, commit_lsn FROM walrelay.position", &["8|0/3"]).await;
    assert_eq!(db.rows("SELECT * FROM t").await, ["1|new"]);
    assert_eq!(db.rows("SELECT count(*) FROM audit").await, ["0"]);
    applier.finish().await;
    let again = Applier::start(&db, &[(T, 1)]).await;
    assert_eq!(again.offsets[&(T.to_owned(), 0)], 8);
}

// trap T66
#[tokio::test]
async fn unique_values_change_places_across_partitions() {
    let db = Database::create().await;
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, big text)").await;
    let t = shape("t", &[("id*", "int"), ("a", "text"), ("big", "text")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1", "x", "one"])]);
    applier.send(T, 1, vec![insert(&t, at(1, 2), &["2", "y", "two"])]);
    db.until("SELECT count(*) FROM t", &["2"]).await;
    applier.send(T, 0, vec![update(&t, at(2, 1), &["1", "tmp", "?"]), update(&t, at(2, 3), &["1", "y", "?"])]);
    applier.send(T, 1, vec![update(&t, at(2, 2), &["2", "x", "?"])]);
    applier.progress(3);
    db.until("SELECT id, a, big FROM t ORDER BY id", &["1|y|one", "2|x|two"]).await;
    applier.send(T, 0, vec![update(&t, at(4, 1), &["1", "z", "?"])]);
    db.until("SELECT id, a FROM t ORDER BY id", &["1|z", "2|x"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T65
#[tokio::test]
async fn a_child_row_waits_for_its_parent() {
    let db = Database::create().await;
    db.run("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)").await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let mut applier = Applier::start(&db, &[("w.p", 2), ("w.c", 2)]).await;
    applier.send("w.p", 0, vec![insert(&p, at(1, 1), &["1"])]);
    // A child that came first would wait for a cut, which needs progress.
    db.until("SELECT id FROM p", &["1"]).await;
    applier.send("w.c", 0, vec![insert(&c, at(1, 2), &["1", "1"])]);
    db.until("SELECT * FROM c", &["1|1"]).await;
    applier.send("w.c", 1, vec![insert(&c, at(2, 2), &["2", "2"])]);
    tokio::task::yield_now().await;
    applier.send("w.p", 1, vec![insert(&p, at(2, 1), &["2"])]);
    applier.progress(3);
    db.until("SELECT * FROM c ORDER BY id", &["1|1", "2|2"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// trap T28
#[tokio::test]
async fn a_key_move_carries_unchanged_columns_across_partitions_in_either_order() {
    for create_first in [true, false] {
        let db = Database::create().await;
        let t = shape("t", &[("id*", "int"), ("a", "text"), ("body", "text")]);
        let mut applier = Applier::start(&db, &[(T, 3)]).await;
        applier.send(T, 0, vec![insert(&t, at(1, 1), &["1", "x", "long body"])]);
        db.until("SELECT id FROM t", &["1"]).await;
        let mut gone = delete(&t, at(2, 1), &["1", "?", "?"]);
        gone.key_move = true;
        gone.moved_columns = vec![2];
        let mut come = insert(&t, at(2, 2), &["2", "y", "?"]);
        come.key_move = true;
        let waiting = "SELECT count(*) FROM walrelay.position WHERE partition = 1 AND next_offset = 1";
        if create_first {
            applier.send(
                T,
                1,
                vec![insert(&t, at(1, 2), &["9", "n", "nine"]), come, update(&t, at(3, 1), &["2", "z", "?"])],
            );
            db.until(waiting, &["1"]).await;
            applier.send(T, 0, vec![gone]);
        } else {
            applier.send(T, 0, vec![gone]);
            db.until("SELECT count(*) FROM walrelay.moved", &["1"]).await;
            applier.send(
                T,
                1,
                vec![insert(&t, at(1, 2), &["9", "n", "nine"]), come, update(&t, at(3, 1), &["2", "z", "?"])],
            );
        }
        db.until("SELECT * FROM t ORDER BY id", &["2|z|long body", "9|n|nine"]).await;
        db.until("SELECT count(*) FROM walrelay.moved", &["0"]).await;
        assert!(applier.health.snapshot().stopped.is_empty());
        applier.finish().await;
    }
}

// trap T75
#[tokio::test]
async fn a_hold_stops_every_lane_before_its_lsn_until_it_is_released() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let mut applier = Applier::start(&db, &[(T, 3)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1", "x"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    db.run("INSERT INTO walrelay.hold VALUES ('it', '0/10', now(), 'infinity')").await;
    applier.send(T, 0, vec![insert(&t, at(9, 1), &["2", "below"]), insert(&t, at(16, 1), &["3", "at"])]);
    applier.send(T, 1, vec![insert(&t, at(17, 1), &["4", "above"])]);
    db.until("SELECT id FROM t ORDER BY id", &["1", "2"]).await;
    let held = "SELECT partition FROM walrelay.position WHERE held_at = '0/10' ORDER BY 1";
    db.until(held, &["0", "1"]).await;
    applier.progress(18);
    db.until(held, &["0", "1", "2"]).await;
    assert_eq!(db.rows("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
    db.run("DELETE FROM walrelay.hold").await;
    db.until("SELECT id FROM t ORDER BY id", &["1", "2", "3", "4"]).await;
    db.until("SELECT count(*) FROM walrelay.position WHERE held_at IS NOT NULL", &["0"]).await;
    applier.finish().await;
}

// trap T75
#[tokio::test]
async fn an_idle_lane_stands_at_no_hold_by_what_was_told_in_an_earlier_epoch() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1", "x"])]);
    applier.progress(100);
    db.until("SELECT id FROM t", &["1"]).await;
    // The source went back in time, and commits below what the sinks were told before.
    let later = |commit| Position { epoch: 1, ..at(commit, 1) };
    let told = |lsn| Progress { epoch: 1, lsn: Lsn(lsn), ..Progress::default() };
    applier.tell(told(5));
    db.run("INSERT INTO walrelay.hold VALUES ('it', '0/10', now(), 'infinity')").await;
    applier.send(T, 1, vec![insert(&t, later(17), &["4", "above"])]);
    let held = "SELECT partition FROM walrelay.position WHERE held_at = '0/10' ORDER BY 1";
    db.until(held, &["1"]).await;
    applier.send(T, 0, vec![update(&t, later(9), &["1", "below"])]);
    db.until("SELECT * FROM t", &["1|below"]).await;
    assert_eq!(db.rows(held).await, ["1"]);
    applier.tell(told(18));
    db.until(held, &["0", "1"]).await;
    db.run("DELETE FROM walrelay.hold").await;
    db.until("SELECT id FROM t ORDER BY id", &["1", "4"]).await;
    applier.finish().await;
}

// trap T72
#[tokio::test]
async fn a_poison_record_stops_its_table_at_its_offset_and_no_other() {
    let db = Database::create().await;
    let (t, u) = (shape("t", &[("id*", "int"), ("a", "text")]), shape("u", &[("id*", "int"), ("a", "text")]));
    let mut applier = Applier::start(&db, &[(T, 1), ("w.u", 1)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1", "x"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    db.run("ALTER TABLE t ADD CHECK (a <> 'poison')").await;
    let mut events: Vec<_> = (2..12).map(|id| insert(&t, at(2, id), &[&id.to_string(), "x"])).collect();
    events[6] = insert(&t, at(2, 8), &["8", "poison"]);
    applier.send(T, 0, events);
    applier.send("w.u", 0, vec![insert(&u, at(2, 20), &["1", "fine"])]);
    db.until("SELECT a FROM u", &["fine"]).await;
    db.until("SELECT max(id) FROM t", &["7"]).await;
    db.until("SELECT next_offset FROM walrelay.position WHERE topic = 'w.t' AND stopped IS NOT NULL", &["7"]).await;
    let snapshot = applier.health.snapshot();
    assert!(!snapshot.is_ready());
    let reason = &snapshot.stopped["public.t"];
    assert!(reason.contains("topic w.t, partition 0, offset 7") && reason.contains("t_a_check"), "{reason}");
    assert!(!reason.contains("poison"), "a row's value is shown: {reason}");
    applier.send("w.u", 0, vec![insert(&u, at(3, 1), &["2", "goes on"])]);
    db.until("SELECT count(*) FROM u", &["2"]).await;
    applier.finish().await;
}

#[tokio::test]
async fn a_broken_connection_is_made_again_and_nothing_is_applied_twice() {
    let db = Database::create().await;
    let log = shape("log", &[("a", "int")]);
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    for round in 1..=20_u64 {
        applier.send(T, 0, vec![insert(&log, at(round, 1), &[&round.to_string()])]);
        db.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walrelay apply' \
                AND datname = current_database()",
        )
        .await;
    }
    db.until("SELECT count(*), count(DISTINCT a) FROM log", &["20|20"]).await;
    applier.finish().await;
}

/// Ends all connections of apply, as a crash or a fail-over does.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name = 'walrelay apply' AND datname = current_database()";

// trap T60
#[tokio::test]
async fn what_a_target_lost_by_going_back_is_applied_again() {
    for (idle, forgotten) in [
        (true, "next_offset = 1, commit_lsn = '0/1'"),
        (false, "next_offset = 1, commit_lsn = '0/1'"),
        (true, "gen = gen - 1"),
    ] {
        let db = Database::create().await;
        let t = shape("t", &[("id*", "int")]);
        let mut applier = Applier::start(&db, &[(T, 2)]).await;
        applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"]), insert(&t, at(2, 1), &["2"])]);
        db.until("SELECT next_offset FROM walrelay.position WHERE partition = 0", &["2"]).await;
        let back = format!("UPDATE walrelay.position SET {forgotten} WHERE partition = 0; DELETE FROM t WHERE id = 2");
        db.run(&format!("BEGIN; {back}; COMMIT; {END}")).await;
        if !idle {
            applier.send(T, 0, vec![insert(&t, at(3, 1), &["3"])]);
        }
        applier.gone_back().await;
        assert_eq!(db.rows("SELECT id FROM t").await, ["1"]);
        let applier = Applier::start(&db, &[(T, 2)]).await;
        let expected = db.rows("SELECT next_offset FROM walrelay.position WHERE partition = 0").await;
        assert_eq!(expected, [applier.offsets[&(T.to_owned(), 0)].to_string()]);
        applier.finish().await;
    }
}

// trap T60
#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_made_again_and_is_no_target_that_went_back() {
    for idle in [true, false] {
        let db = Database::create().await;
        let t = shape("t", &[("id*", "int")]);
        let mut applier = Applier::start(&db, &[(T, 2)]).await;
        applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"])]);
        db.until("SELECT id FROM t", &["1"]).await;
        // What a claim leaves that was committed while its connection broke.
        let claimed = "UPDATE walrelay.position SET gen = gen + 1 WHERE partition = 0";
        db.run(&format!("BEGIN; {claimed}; COMMIT; {END}")).await;
        if idle {
            let connected = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'walrelay apply' \
                             AND datname = current_database() AND query LIKE '%\"hold\"%'";
            db.until(connected, &["t"]).await;
        }
        applier.send(T, 0, vec![insert(&t, at(2, 1), &["2"])]);
        applier.send(T, 1, vec![insert(&t, at(2, 2), &["3"])]);
        db.until("SELECT id FROM t ORDER BY id", &["1", "2", "3"]).await;
        let owned = "SELECT gen > 2 FROM walrelay.position WHERE partition = 0";
        assert_eq!(db.rows(owned).await, ["t"]);
        applier.finish().await;
    }
}

// traps T32, T60
#[tokio::test]
async fn a_stopped_lane_whose_generation_has_gone_on_is_claimed_again_and_says_that_it_is_stopped() {
    let db = Database::create().await;
    db.run("CREATE TABLE t (id int PRIMARY KEY CHECK (id < 5))").await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 1)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"]), insert(&t, at(2, 1), &["7"])]);
    let told = "SELECT stopped IS NOT NULL FROM walrelay.position";
    db.until(told, &["t"]).await;
    db.run(&format!("BEGIN; UPDATE walrelay.position SET gen = gen + 1, stopped = NULL; COMMIT; {END}")).await;
    db.until(told, &["t"]).await;
    applier.send(T, 0, vec![insert(&t, at(3, 1), &["2"])]);
    applier.finish().await;
    assert_eq!(db.rows("SELECT id FROM t").await, ["1"]);
    assert_eq!(db.rows("SELECT next_offset, gen FROM walrelay.position").await, ["1|3"]);
}

// traps T32, T60
#[tokio::test]
async fn a_target_that_has_forgotten_who_is_parked_is_told_again() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    let barrier = || truncate(&shape("t", &[("id", "int")]), at(5, 1), &[(T, 2)]);
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"]), barrier(), insert(&t, at(6, 1), &["2"])]);
    db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/5'", &["1"]).await;
    db.run("INSERT INTO walrelay.hold VALUES ('it', '0/3', now(), 'infinity')").await;
    db.until("SELECT count(*) FROM walrelay.position WHERE held_at = '0/3'", &["1"]).await;
    let lost =
        "UPDATE walrelay.position SET parked_epoch = NULL, parked_lsn = NULL, parked_ordinal = NULL, held_at = NULL";
    db.run(&format!("{lost}; DELETE FROM walrelay.barrier; {END}")).await;
    db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/5' AND held_at = '0/3'", &["1"]).await;
    db.run("DELETE FROM walrelay.hold").await;
    applier.send(T, 1, vec![barrier()]);
    db.until("SELECT id FROM t", &["2"]).await;
    applier.finish().await;
}

// traps T60, T74
#[tokio::test]
async fn a_partition_that_another_process_has_taken_over_is_left_to_it_and_named() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    db.run("UPDATE walrelay.position SET gen = gen + 1, owner = 'elsewhere:7' WHERE partition = 0").await;
    applier.send(T, 0, vec![insert(&t, at(2, 1), &["2"])]);
    let named = async |applier: &Applier| {
        let waits = |text: &String| text.contains("topic w.t, partition 0") && text.contains("elsewhere:7");
        applier.health.snapshot().waiting.keys().any(waits)
    };
    let becomes = async |wanted: bool, applier: &Applier| {
        while named(applier).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let told = becomes(true, &applier);
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("health names the partition and its owner");
    applier.send(T, 1, vec![insert(&t, at(3, 1), &["3"])]);
    db.until("SELECT id FROM t ORDER BY id", &["1", "3"]).await;
    // It is given to this process once more.
    applier.assign(&[(T, 0)]).await;
    applier.send(T, 0, vec![insert(&t, at(2, 1), &["2"])]);
    db.until("SELECT id FROM t ORDER BY id", &["1", "2", "3"]).await;
    let forgotten = becomes(false, &applier);
    tokio::time::timeout(Duration::from_secs(20), forgotten).await.expect("health names it no longer");
    applier.finish().await;
}

#[tokio::test]
async fn revoked_partitions_are_let_go_and_go_on_elsewhere() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int"), ("a", "text")]);
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1", "x"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    let (done, finished) = oneshot::channel();
    applier.events.send(ConsumerEvent::Revoked { partitions: vec![(Arc::from(T), 0)], done }).unwrap();
    finished.await.unwrap();
    let mut other = Applier::with_partitions(&db, &[(T, 2)], &[(T, 0)]).await;
    other.send(T, 0, vec![update(&t, at(2, 1), &["1", "there"])]);
    applier.send(T, 1, vec![insert(&t, at(2, 2), &["2", "here"])]);
    db.until("SELECT * FROM t ORDER BY id", &["1|there", "2|here"]).await;
    applier.finish().await;
    other.finish().await;
}

// trap T65
#[tokio::test]
async fn rows_of_a_snapshot_wait_for_their_parents_although_no_cut_fits_into_the_memory() {
    let db = Database::create().await;
    db.run("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)").await;
    let (p, c) = (shape("p", &[("id*", "int")]), shape("c", &[("id*", "int"), ("p", "int")]));
    let topics = [("w.p", 1), ("w.c", 2)];
    let mut applier = Applier::with_budget(&db, &topics, &[("w.p", 0), ("w.c", 0), ("w.c", 1)], 1).await;
    applier.send("w.p", 0, vec![insert(&p, at(1, 1), &["9"])]);
    db.until("SELECT id FROM p", &["9"]).await;
    applier.send("w.c", 0, vec![insert(&c, at(1, 2), &["9", "9"])]);
    db.until("SELECT * FROM c", &["9|9"]).await;
    applier.send("w.c", 1, vec![insert(&c, at(5, 0), &["1", "1"])]);
    let waiting = async {
        while applier.health.snapshot().waiting.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("health says what is waited for");
    applier.send("w.p", 0, vec![insert(&p, at(5, 0), &["1"])]);
    db.until("SELECT * FROM c ORDER BY id", &["1|1", "9|9"]).await;
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

// traps T65, T66
#[tokio::test]
async fn a_transaction_that_fails_only_together_with_an_earlier_one_does_not_stop_its_table() {
    let db = Database::create().await;
    db.run(
        "CREATE TABLE p (id int PRIMARY KEY, a text UNIQUE); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)",
    )
    .await;
    let p = shape("p", &[("id*", "int"), ("a", "text")]);
    let c = shape("c", &[("id*", "int"), ("p", "int")]);
    let wider = shape("c", &[("id*", "int"), ("p", "int"), ("b", "text")]);
    let mut applier = Applier::start(&db, &[("w.p", 2), ("w.c", 1)]).await;
    applier.send("w.p", 0, vec![insert(&p, at(1, 1), &["1", "x"])]);
    applier.send("w.p", 1, vec![insert(&p, at(1, 2), &["2", "y"])]);
    db.until("SELECT count(*) FROM p", &["2"]).await;
    // With this row the tables are known to be related.
    applier.send("w.c", 0, vec![insert(&c, at(1, 3), &["9", "1"])]);
    db.until("SELECT count(*) FROM c", &["1"]).await;
    // Two values change places, so no lane gets on alone; and the child's shape changes between two parents.
    let swap = |ordinal, a: &str| update(&p, at(2, ordinal), &["1", a]);
    let parents = [insert(&p, at(2, 4), &["3", "z"]), insert(&p, at(3, 1), &["4", "w"])];
    applier.send("w.p", 0, [swap(1, "t"), swap(3, "y")].into_iter().chain(parents).collect());
    applier.send("w.p", 1, vec![update(&p, at(2, 2), &["2", "x"])]);
    applier.send("w.c", 0, vec![insert(&c, at(2, 5), &["1", "3"]), insert(&wider, at(3, 2), &["2", "4", "b"])]);
    applier.progress(4);
    db.until("SELECT * FROM c ORDER BY id", &["1|3|∅", "2|4|b", "9|1|∅"]).await;
    assert_eq!(db.rows("SELECT * FROM p ORDER BY id").await, ["1|y", "2|x", "3|z", "4|w"]);
    assert!(applier.health.snapshot().stopped.is_empty());
    applier.finish().await;
}

#[tokio::test]
async fn a_topic_whose_table_another_topic_has_stops_alone() {
    let db = Database::create().await;
    let t = shape("t", &[("id*", "int")]);
    let mut applier = Applier::start(&db, &[(T, 1), ("w.u", 1)]).await;
    applier.send(T, 0, vec![insert(&t, at(1, 1), &["1"])]);
    db.until("SELECT id FROM t", &["1"]).await;
    applier.send("w.u", 0, vec![insert(&t, at(2, 1), &["2"])]);
    db.until("SELECT topic FROM walrelay.position WHERE stopped IS NOT NULL", &["w.u"]).await;
    applier.send(T, 0, vec![insert(&t, at(3, 1), &["3"])]);
    db.until("SELECT id FROM t ORDER BY id", &["1", "3"]).await;
    applier.finish().await;
}

#[tokio::test]
async fn a_target_table_that_refuses_updates_for_its_own_publication_stops_alone() {
    let db = Database::create().await;
    db.run("CREATE TABLE t (id int, a text, UNIQUE (id)); CREATE PUBLICATION onward FOR TABLE t").await;
    let (t, u) = (shape("t", &[("id*", "int"), ("a", "text")]), shape("u", &[("id*", "int")]));
    let mut applier = Applier::start(&db, &[(T, 1), ("w.u", 1)]).await;
    applier.send(T, 0, vec![delete(&t, at(3, 1), &["1", "?"])]);
    db.until("SELECT topic FROM walrelay.position WHERE stopped IS NOT NULL", &["w.t"]).await;
    applier.send("w.u", 0, vec![insert(&u, at(4, 1), &["1"])]);
    db.until("SELECT id FROM u", &["1"]).await;
    applier.finish().await;
}

// trap T74
#[tokio::test]
async fn lag_is_measured_from_the_commit_of_the_oldest_event_that_is_not_applied() {
    let db = Database::create().await;
    let mut applier = Applier::start(&db, &[(T, 2)]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let mut barrier = truncate(&shape("t", &[("id", "int")]), at(5, 1), &[(T, 2)]);
    barrier.commit_ms = i64::try_from(now).unwrap() - 100_000;
    applier.send(T, 0, vec![barrier]);
    db.until("SELECT count(*) FROM walrelay.position WHERE parked_lsn = '0/5'", &["1"]).await;
    let told = async {
        loop {
            let now = applier.health.snapshot();
            let waits = now.waiting.keys().eq(["a barrier waits for topic w.t, partition 1"]);
            if waits && now.lag.is_some_and(|lag| (100..160).contains(&lag.as_secs())) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("the commit's age is the lag, and the wait is named");
    applier.finish().await;
}
