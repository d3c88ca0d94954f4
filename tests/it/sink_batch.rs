//! The sink, batch by batch, on a real target.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use walrelay::{
    event::{Barrier, ChangeEvent, Gate, TableShape},
    lsn::Position,
    sink::{
        Applied, Error, LaneDone, LanePart, Manner, Session, Settings, Sink,
        barrier::{Gathering, Others, gather, pass},
        ledger::{Ledger, Owned, Standing},
    },
};

use crate::resync_feed::resync;
use crate::sink_support::{Database, at, change, delete, insert, shape, sink_settings, update};

static NONE: BTreeMap<String, Position> = BTreeMap::new();
const EVERYTHING: Others<'static> = Others { target: &|_| None, withheld: &NONE };

struct Rig {
    db: Database,
    sink: Sink,
    session: Session,
    topic: Arc<str>,
    owned: Owned,
    stored: Option<i64>,
    mark: Position,
}

impl Rig {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let db = Database::create().await;
        let mut settings = sink_settings(&db, "it");
        change(&mut settings);
        let sink = Sink::new(settings);
        let session = Session::connect(&sink).await.unwrap();
        sink.ledger().ensure(session.client()).await.unwrap();
        sink.ledger().ensure(session.client()).await.unwrap();
        let owned = Owned { topic: "topic".into(), partition: 0, generation: 0 };
        let mut rig = Self { db, sink, session, topic: "topic".into(), owned, stored: None, mark: Position::default() };
        rig.claim_anew().await;
        rig
    }

    /// Claims the partition as a new process does.
    async fn claim_anew(&mut self) {
        let claim = self.session.claim(&self.sink, &[("topic".into(), 0)], None).await.unwrap().remove(0);
        self.owned.generation = claim.generation;
        (self.stored, self.mark) = (claim.next_offset, claim.mark);
    }

    fn standing(&self) -> Standing {
        Standing { lane: self.owned.clone(), next_offset: self.stored, mark: self.mark }
    }

    async fn apply(&mut self, events: Vec<ChangeEvent>) -> Result<LaneDone, Error> {
        self.apply_as(events, Manner::Upsert).await
    }

    async fn apply_as(&mut self, events: Vec<ChangeEvent>, manner: Manner) -> Result<LaneDone, Error> {
        let from = self.stored.unwrap_or(0);
        let events: Vec<(i64, ChangeEvent)> = (from..).zip(events).collect();
        let part = LanePart {
            lane: &self.owned,
            topic: &self.topic,
            from: self.stored,
            mark: self.mark,
            events: &events,
            next_offset: from + i64::try_from(events.len()).unwrap(),
        };
        let Applied::Done(done) = self.session.apply(&self.sink, &[part], manner).await? else { panic!("held") };
        self.stored = Some(done[0].next_offset);
        self.mark = done[0].mark;
        Ok(done[0])
    }
}

fn plain() -> Arc<TableShape> {
    shape("t", &[("id*", "bigint"), ("a", "text"), ("b", "numeric(8,2)")])
}

#[tokio::test]
async fn a_batch_creates_the_table_and_leaves_the_outcome_of_its_events() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![
        insert(&t, at(1, 1), &["1", "one\twith\ttabs\\N", "1.50"]),
        insert(&t, at(1, 2), &["2", "∅", "2"]),
        insert(&t, at(1, 3), &["3", "three", "∅"]),
        delete(&t, at(1, 4), &["2", "?", "?"]),
        update(&t, at(2, 1), &["3", "?", "3.25"]),
    ])
    .await
    .unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM t ORDER BY id").await, ["1|one\twith\ttabs\\N|1.50", "3|three|3.25"]);
    rig.apply(vec![update(&t, at(3, 1), &["1", "?", "7"]), update(&t, at(3, 2), &["3", "drei", "?"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM t ORDER BY id").await, ["1|one\twith\ttabs\\N|7.00", "3|drei|3.25"]);
    let position = "SELECT next_offset, commit_lsn, ordinal FROM walrelay.position";
    assert_eq!(rig.db.rows(position).await, ["7|0/3|2"]);
}

// traps T26, T60
#[tokio::test]
async fn keys_of_a_resync_whose_table_is_gone_are_noted_anew_after_one_failure_in_whatever_manner() {
    let mut rig = Rig::new().await;
    let t = plain();
    let during = |event: ChangeEvent| ChangeEvent { resync: Some(resync(10)), ..event };
    rig.apply(vec![during(insert(&t, at(20, 1), &["1", "one", "∅"]))]).await.unwrap();
    let number = rig.db.rows("SELECT number FROM walrelay.resync").await.remove(0);
    rig.db.run(&format!("DROP TABLE walrelay.seen_{number}; DELETE FROM walrelay.resync")).await;
    let event = during(insert(&t, at(21, 1), &["2", "two", "∅"]));
    let refused = rig.apply_as(vec![event.clone()], Manner::Replace).await;
    assert!(refused.is_err(), "{refused:?}");
    rig.apply_as(vec![event], Manner::Replace).await.unwrap();
    assert_eq!(rig.db.rows("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
}

// trap T27
#[tokio::test]
async fn a_partial_update_of_a_missing_row_is_an_error_and_writes_nothing() {
    let mut rig = Rig::new().await;
    let t = plain();
    let events = vec![insert(&t, at(1, 1), &["1", "x", "1"]), update(&t, at(1, 2), &["9", "?", "1"])];
    let error = rig.apply(events).await.unwrap_err();
    assert!(matches!(error, Error::Inconsistent { .. }), "{error:?}");
    assert_eq!(rig.db.rows("SELECT * FROM t").await, [""; 0]);
    assert_eq!(rig.db.rows("SELECT next_offset FROM walrelay.position").await, ["∅"]);
}

// traps T67, T68, T69
#[tokio::test]
async fn key_only_identity_generated_and_oddly_named_columns_are_written() {
    let mut rig = Rig::new().await;
    let odd = shape("Odd schema.ta\"ble", &[("Id*", "int"), ("sel ect", "text")]);
    rig.apply(vec![insert(&odd, at(1, 1), &["1", "x"]), update(&odd, at(1, 2), &["1", "it's"])]).await.unwrap();
    assert_eq!(rig.db.rows(r#"SELECT "Id", "sel ect" FROM "Odd schema"."ta""ble""#).await, ["1|it's"]);
    rig.db.run("DELETE FROM walrelay.topic").await;

    let key_only = shape("k", &[("a*", "int"), ("b*", "int")]);
    let twice = vec![insert(&key_only, at(2, 1), &["1", "2"])];
    rig.apply(twice).await.unwrap();
    rig.apply(vec![update(&key_only, at(2, 2), &["1", "2"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM k").await, ["1|2"]);
    rig.db.run("DELETE FROM walrelay.topic").await;

    rig.db
        .run("CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, double int GENERATED ALWAYS AS (a * 2) STORED)")
        .await;
    let g = shape("g", &[("id*", "int"), ("a", "int"), ("double", "int")]);
    rig.apply(vec![insert(&g, at(3, 1), &["5", "1", "2"])]).await.unwrap();
    rig.apply(vec![update(&g, at(3, 2), &["5", "4", "8"])]).await.unwrap();
    rig.apply_as(vec![update(&g, at(3, 3), &["5", "6", "12"])], Manner::Replace).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM g").await, ["5|6|12"]);
}

// trap T68
#[tokio::test]
async fn an_identity_column_beside_the_key_takes_the_sources_value_and_the_row_keeps_the_rest() {
    let mut rig = Rig::new().await;
    rig.db
        .run(
            "CREATE TABLE n (id int PRIMARY KEY, no bigint GENERATED ALWAYS AS IDENTITY UNIQUE, body text, \
             mine text DEFAULT 'default', twice bigint GENERATED ALWAYS AS (no * 2) STORED); \
             CREATE TABLE child (n int REFERENCES n)",
        )
        .await;
    let n = shape("n", &[("id*", "int"), ("no", "bigint"), ("body", "text")]);
    let rows = [["1", "10", "one"], ["2", "20", "two"], ["3", "30", "three"], ["4", "40", "four"]];
    rig.apply(rows.iter().map(|row| insert(&n, at(1, 1), row)).collect()).await.unwrap();
    rig.db.run("UPDATE n SET mine = 'mine'; INSERT INTO child SELECT id FROM n").await;
    for (commit, manner) in [(2, Manner::Upsert), (3, Manner::Replace)] {
        rig.apply_as(
            vec![
                update(&n, at(commit, 1), &["1", "20", "?"]),
                update(&n, at(commit, 2), &["2", "10", "?"]),
                delete(&n, at(commit, 3), &["3", "?", "?"]),
                insert(&n, at(commit, 4), &["3", "33", "again"]),
                update(&n, at(commit, 5), &["4", "40", "vier"]),
                insert(&n, at(commit, 6), &["5", "30", "takes a number that is free again"]),
            ],
            manner,
        )
        .await
        .unwrap();
        let rows = rig.db.rows("SELECT id, no, body, mine, twice FROM n ORDER BY id").await;
        let new = "5|30|takes a number that is free again|default|60";
        let expected = ["1|20|one|mine|40", "2|10|two|mine|20", "3|33|again|mine|66", "4|40|vier|mine|80", new];
        assert_eq!(rows, expected, "{manner:?}");
        rig.apply(rows_back(&n, commit)).await.unwrap();
    }
    assert_eq!(rig.db.rows("SELECT n FROM child ORDER BY n").await, ["1", "2", "3", "4"]);

    rig.db.run("DELETE FROM walrelay.topic").await;
    rig.db.run("CREATE TABLE m (id int PRIMARY KEY, no smallint GENERATED ALWAYS AS IDENTITY UNIQUE, body text)").await;
    let m = shape("m", &[("id*", "int"), ("no", "smallint"), ("body", "text")]);
    rig.apply(vec![insert(&m, at(5, 1), &["1", "1", "one"]), insert(&m, at(5, 2), &["2", "2", "two"])]).await.unwrap();
    let places = vec![update(&m, at(6, 1), &["1", "2", "?"]), update(&m, at(6, 2), &["2", "1", "zwei"])];
    rig.apply_as(places, Manner::Replace).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM m ORDER BY id").await, ["1|2|one", "2|1|zwei"]);
}

/// Events that undo the renumbering, but for the bodies.
fn rows_back(n: &Arc<TableShape>, commit: u64) -> Vec<ChangeEvent> {
    vec![
        delete(n, at(commit, 11), &["5", "?", "?"]),
        update(n, at(commit, 12), &["1", "10", "?"]),
        update(n, at(commit, 13), &["2", "20", "?"]),
        update(n, at(commit, 14), &["3", "30", "?"]),
    ]
}

// trap T68
#[tokio::test]
async fn a_row_with_an_identity_column_that_others_depend_on_is_not_deleted_but_the_table_is_refused() {
    let mut rig = Rig::new().await;
    rig.db
        .run(
            "CREATE TABLE n (id int PRIMARY KEY, no bigint GENERATED ALWAYS AS IDENTITY, body text); \
             CREATE TABLE child (n int REFERENCES n ON DELETE CASCADE)",
        )
        .await;
    let n = shape("n", &[("id*", "int"), ("no", "bigint"), ("body", "text")]);
    rig.apply(vec![insert(&n, at(1, 1), &["1", "10", "one"])]).await.unwrap();
    rig.db.run("INSERT INTO child VALUES (1)").await;
    rig.apply(vec![update(&n, at(2, 1), &["1", "10", "eins"])]).await.unwrap();
    for manner in [Manner::Upsert, Manner::Replace] {
        let error = rig.apply_as(vec![update(&n, at(3, 1), &["1", "11", "?"])], manner).await.unwrap_err();
        let Error::Unfit { remedy, .. } = &error else { panic!("{error:?}") };
        let (_, rest) = remedy.split_once("ALTER TABLE").unwrap();
        let (statement, _) = rest.split_once(", then").unwrap();
        assert_eq!(rig.db.rows("SELECT * FROM n, child").await, ["1|10|eins|1"]);
        if manner == Manner::Replace {
            rig.db.run(&format!("ALTER TABLE{statement}")).await;
        }
    }
    rig.sink.forget_plans("topic");
    rig.apply(vec![update(&n, at(3, 1), &["1", "11", "?"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM n, child").await, ["1|11|eins|1"]);
}

// trap T68; as replica the server lets foreign keys act on nothing
#[tokio::test]
async fn a_row_with_an_identity_column_is_replaced_as_replica_and_what_depends_on_it_stays() {
    let mut rig = Rig::with(|settings| settings.replica_role = true).await;
    rig.db
        .run(
            "CREATE TABLE n (id int PRIMARY KEY, no bigint GENERATED ALWAYS AS IDENTITY, body text); \
             CREATE TABLE child (n int REFERENCES n ON DELETE CASCADE)",
        )
        .await;
    let n = shape("n", &[("id*", "int"), ("no", "bigint"), ("body", "text")]);
    rig.apply(vec![insert(&n, at(1, 1), &["1", "10", "one"])]).await.unwrap();
    rig.db.run("INSERT INTO child VALUES (1)").await;
    rig.apply(vec![update(&n, at(2, 1), &["1", "11", "?"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM n, child").await, ["1|11|one|1"]);
}

// trap T69
#[tokio::test]
async fn a_table_without_the_key_constraint_is_refused_with_the_remedy() {
    let mut rig = Rig::new().await;
    rig.db.run("CREATE TABLE t (id bigint, a text, b numeric)").await;
    let error = rig.apply(vec![insert(&plain(), at(1, 1), &["1", "x", "1"])]).await.unwrap_err();
    let hint = walrelay::retry::Classify::hint(&error).unwrap();
    assert!(hint.contains(r#"ALTER TABLE "public"."t" ADD UNIQUE ("id")"#), "{hint}");
}

#[tokio::test]
async fn a_new_column_is_added_and_an_unknown_type_becomes_text() {
    let mut rig = Rig::new().await;
    rig.apply(vec![insert(&plain(), at(1, 1), &["1", "x", "1"])]).await.unwrap();
    let wider =
        shape("t", &[("id*", "bigint"), ("a", "text"), ("b", "numeric(8,2)"), ("m", "public.mood"), ("d", "date")]);
    let newer = insert(&wider, at(2, 1), &["2", "y", "2", "happy", "infinity"]);
    rig.apply(vec![insert(&plain(), at(1, 2), &["3", "z", "3"]), newer]).await.unwrap();
    let rows = rig.db.rows("SELECT *, pg_typeof(m) FROM t ORDER BY id").await;
    assert_eq!(rows, ["1|x|1.00|∅|∅|text", "2|y|2.00|happy|infinity|text", "3|z|3.00|∅|∅|text"]);
}

// trap T81
#[tokio::test]
async fn keys_that_the_target_calls_equal_are_folded_into_one() {
    let mut rig = Rig::new().await;
    let n = shape("n", &[("id*", "numeric"), ("a", "text"), ("b", "text")]);
    rig.apply(vec![
        insert(&n, at(1, 1), &["1.0", "first", "kept"]),
        update(&n, at(1, 2), &["1.00", "second", "?"]),
        insert(&n, at(1, 3), &["2", "gone", "x"]),
        delete(&n, at(1, 4), &["2.000", "?", "?"]),
    ])
    .await
    .unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM n").await, ["1.00|second|kept"]);
    rig.apply(vec![update(&n, at(2, 1), &["1", "third", "?"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM n").await, ["1|third|kept"]);
}

// traps T29, T30
#[tokio::test]
async fn keyless_rows_are_matched_one_by_one_even_without_an_equality() {
    let mut rig = Rig::new().await;
    let j = shape("j", &[("doc", "json"), ("p", "point"), ("a", "text")]);
    let x = ["{\"a\": 1}", "(1,2)", "∅"];
    let y = ["{\"a\":1}", "(1,2)", ""];
    rig.apply(vec![
        insert(&j, at(1, 1), &x),
        insert(&j, at(1, 2), &x),
        insert(&j, at(1, 3), &x),
        insert(&j, at(1, 4), &y),
    ])
    .await
    .unwrap();
    rig.apply(vec![
        delete(&j, at(2, 1), &x),
        change(&j, at(2, 2), &x, &["∅", "?", "changed"]),
        change(&j, at(2, 3), &["∅", "(1,2)", "changed"], &["∅", "(3,4)", "twice"]),
        insert(&j, at(2, 4), &["[]", "(0,0)", "new"]),
        delete(&j, at(2, 5), &["[]", "(0,0)", "new"]),
    ])
    .await
    .unwrap();
    let rows = rig.db.rows("SELECT * FROM j ORDER BY a").await;
    assert_eq!(rows, ["{\"a\":1}|(1,2)|", "∅|(3,4)|twice", "{\"a\": 1}|(1,2)|∅"]);
    let error = rig.apply(vec![delete(&j, at(3, 1), &["{}", "(9,9)", "none"])]).await.unwrap_err();
    assert!(matches!(error, Error::Inconsistent { .. }), "{error:?}");
}

// trap T60
#[tokio::test]
async fn a_fenced_owner_writes_nothing_more() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![insert(&t, at(1, 1), &["1", "x", "1"])]).await.unwrap();
    let elsewhere = Sink::new(Settings { owner: "elsewhere".into(), ..sink_settings(&rig.db, "it") });
    let other = Session::connect(&elsewhere).await.unwrap();
    let claim = other.claim(&elsewhere, &[("topic".into(), 0)], None).await.unwrap().remove(0);
    assert_eq!((claim.next_offset, claim.mark), (Some(1), at(1, 1)));
    let error = rig.apply(vec![insert(&t, at(2, 1), &["2", "x", "1"])]).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
    assert_eq!(rig.db.rows("SELECT id FROM t").await, ["1"]);
    let again = rig.session.claim(&rig.sink, &[("topic".into(), 0)], Some(&[rig.owned.generation])).await.unwrap();
    assert!(again.is_empty(), "a lost partition was taken back: {again:?}");
}

// trap T60
#[tokio::test]
async fn of_two_owners_in_one_generation_only_the_one_at_the_stored_offset_goes_on() {
    let mut rig = Rig::new().await;
    let log = shape("log", &[("a", "int")]);
    rig.apply(vec![insert(&log, at(1, 1), &["1"])]).await.unwrap();
    let before = rig.standing();
    rig.apply(vec![insert(&log, at(2, 1), &["2"])]).await.unwrap();
    let (client, ledger) = (rig.session.client(), rig.sink.ledger());
    // A barrier at offset 1, as the one saw it before the other applied further.
    let passed = pass(client, ledger, &before, at(2, 0), 2).await.unwrap_err();
    assert!(matches!(passed, Error::Fenced { .. }), "{passed:?}");
    // What the one believes is ahead of what the target has after it went back.
    let ahead = Standing { next_offset: Some(7), mark: at(7, 1), ..before };
    let errors = [
        pass(client, ledger, &ahead, at(8, 1), 8).await.unwrap_err(),
        ledger.set_parked(client, &ahead, at(8, 1)).await.unwrap_err(),
        ledger.set_held(client, &ahead, None).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| matches!(error, Error::Fenced { .. })), "{errors:?}");
    let row = "SELECT next_offset, commit_lsn, parked_lsn FROM walrelay.position";
    assert_eq!(rig.db.rows(row).await, ["2|0/2|∅"]);
    assert_eq!(rig.db.rows("SELECT a FROM log ORDER BY a").await, ["1", "2"]);
}

// trap T60
#[tokio::test]
async fn a_default_that_lets_a_crash_lose_commits_is_overruled_and_stronger_ones_are_not() {
    let rig = Rig::new().await;
    for (default, expected) in [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")] {
        let name = &rig.db.settings.database;
        rig.db.run(&format!("ALTER DATABASE {name} SET synchronous_commit = {default}")).await;
        let session = Session::connect(&rig.sink).await.unwrap();
        let found: String = session.client().query_one("SHOW synchronous_commit", &[]).await.unwrap().get(0);
        assert_eq!(found, expected);
    }
}

// trap T60
#[tokio::test]
async fn a_zombie_in_an_open_transaction_is_terminated() {
    let rig = Rig::new().await;
    let zombie = Session::connect(&rig.sink).await.unwrap();
    zombie.client().batch_execute("BEGIN; UPDATE walrelay.position SET next_offset = 77").await.unwrap();
    let begun = std::time::Instant::now();
    let claim = rig.session.claim(&rig.sink, &[("topic".into(), 0)], None).await.unwrap().remove(0);
    assert_eq!(claim.next_offset, None);
    assert!(begun.elapsed() >= Duration::from_secs(9), "the zombie got no time to finish");
    assert!(zombie.client().simple_query("COMMIT").await.is_err());
}

#[tokio::test]
async fn another_instance_on_the_same_table_is_refused_unless_it_takes_over() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![insert(&t, at(1, 1), &["1", "x", "1"])]).await.unwrap();
    let second = Sink::new(sink_settings(&rig.db, "second"));
    let client = rig.session.client();
    let topics = ["topic".to_owned()];
    let refused =
        second.ledger().settle_owners(client, &topics, |name| second.target_of(name), false).await.unwrap_err();
    assert!(matches!(refused, Error::Owned { .. }), "{refused:?}");
    second.ledger().settle_owners(client, &topics, |name| second.target_of(name), true).await.unwrap();
    let claim = rig.session.claim(&second, &[("topic".into(), 0)], None).await.unwrap().remove(0);
    assert_eq!((claim.next_offset, claim.mark), (Some(1), at(1, 1)));
    let error = rig.apply(vec![insert(&t, at(2, 1), &["2", "x", "1"])]).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
}

// trap T32
#[tokio::test]
async fn a_barrier_that_all_lanes_have_passed_does_not_empty_the_table_again() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![insert(&t, at(1, 1), &["1", "before", "1"])]).await.unwrap();
    let barrier = Gate::Truncate(Barrier { topics: vec![("topic".into(), 1)], ..Barrier::default() });
    let ledger = rig.sink.ledger();
    ledger.set_parked(rig.session.client(), &rig.standing(), at(2, 1)).await.unwrap();
    let gathered = gather(rig.session.client(), ledger, at(2, 1), &barrier, "topic", EVERYTHING).await.unwrap();
    assert_eq!(gathered, Gathering::Passed);
    pass(rig.session.client(), ledger, &rig.standing(), at(2, 1), 2).await.unwrap();
    (rig.stored, rig.mark) = (Some(2), at(2, 1));
    rig.apply(vec![insert(&t, at(3, 1), &["2", "after", "1"])]).await.unwrap();
    // A process that lost its connection after the commit does not know that its lane is beyond the barrier.
    let ledger = rig.sink.ledger();
    let gathered = gather(rig.session.client(), ledger, at(2, 1), &barrier, "topic", EVERYTHING).await.unwrap();
    assert_eq!(gathered, Gathering::Passed);
    assert_eq!(rig.db.rows("SELECT a FROM t").await, ["after"]);
}

// trap T32
#[tokio::test]
async fn a_reader_of_the_table_does_not_hold_a_barrier_up() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![insert(&t, at(1, 1), &["1", "before", "1"])]).await.unwrap();
    let reader = walrelay::postgres::connect(&rig.db.settings, "walrelay test").await.unwrap();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t").await.unwrap();
    let barrier = Gate::Truncate(Barrier { topics: vec![("topic".into(), 1)], ..Barrier::default() });
    let ledger = rig.sink.ledger();
    ledger.set_parked(rig.session.client(), &rig.standing(), at(2, 1)).await.unwrap();
    let gathering = gather(rig.session.client(), ledger, at(2, 1), &barrier, "topic", EVERYTHING);
    let gathered =
        tokio::time::timeout(Duration::from_secs(20), gathering).await.expect("the reader is not waited for");
    assert_eq!(gathered.unwrap(), Gathering::Passed);
    assert_eq!(rig.db.rows("SELECT count(*) FROM t").await, ["0"]);
    let seen = reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(seen, 1, "the reader's snapshot lost its rows");
}

#[tokio::test]
async fn a_topic_id_is_recorded_once_and_another_one_is_refused_where_something_was_applied() {
    let db = Database::create().await;
    let ledger = Ledger::new("walrelay", "it");
    ledger.ensure(&db.client).await.unwrap();
    let claims = ledger.claim(&db.client, "test", &[("t".to_owned(), 0), ("t".to_owned(), 1)], None).await.unwrap();
    let lanes: Vec<Owned> = claims.iter().map(Owned::from).collect();
    let identify = async |id: Option<&str>, claimed| {
        let ids = BTreeMap::from([("t".to_owned(), id.map(str::to_owned))]);
        let others = ledger.identify(&db.client, &lanes, &ids, claimed).await.unwrap();
        others.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let recorded = "SELECT topic_id FROM walrelay.position ORDER BY partition";
    assert!(identify(Some("a"), true).await.is_empty());
    assert_eq!(db.rows(recorded).await, ["a", "a"]);
    assert_eq!(identify(Some("b"), false).await.len(), 1, "what was consumed may be of another topic");
    assert!(identify(Some("b"), true).await.is_empty(), "nothing was applied");
    assert_eq!(db.rows(recorded).await, ["b", "b"]);
    db.run("UPDATE walrelay.position SET next_offset = 5 WHERE partition = 0").await;
    let refused = identify(Some("c"), true).await;
    assert_eq!(refused, ["topic t was deleted and created again: its id is c, records were applied from b"]);
    assert_eq!(db.rows(recorded).await, ["b", "b"]);
    assert!(identify(None, true).await.is_empty(), "a broker that tells no ids");

    db.run("UPDATE walrelay.position SET topic_id = NULL").await;
    assert!(identify(Some("c"), true).await.is_empty(), "positions of a time when the brokers told no ids");
    assert_eq!(db.rows(recorded).await, ["c", "c"]);
}

#[tokio::test]
async fn a_table_that_was_applied_to_and_is_dropped_is_not_created_anew_until_its_positions_are_gone() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![insert(&t, at(1, 1), &["1", "x", "1"])]).await.unwrap();
    rig.db.run("DROP TABLE t").await;
    rig.sink.forget_plans("topic");
    let error = rig.apply(vec![insert(&t, at(2, 1), &["2", "y", "2"])]).await.unwrap_err();
    let Error::Unfit { topic, table, remedy, .. } = &error else { panic!("{error:?}") };
    assert_eq!((topic.as_str(), table.to_string().as_str()), ("topic", "public.t"));
    assert!(error.to_string().contains("public.t") && error.to_string().contains("missing"), "{error}");
    assert_eq!(rig.db.rows("SELECT to_regclass('public.t')").await, ["∅"]);

    let (_, rest) = remedy.split_once("DELETE").unwrap();
    let (statement, _) = rest.split_once(" to have it").unwrap();
    rig.db.run(&format!("DELETE{statement}")).await;
    rig.claim_anew().await;
    rig.apply(vec![insert(&t, at(1, 1), &["1", "x", "1"]), insert(&t, at(2, 1), &["2", "y", "2"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
}

#[tokio::test]
async fn a_dropped_table_that_a_barrier_empties_is_created_anew() {
    let mut rig = Rig::new().await;
    let t = plain();
    rig.apply(vec![insert(&t, at(1, 1), &["1", "x", "1"])]).await.unwrap();
    rig.db.run("DROP TABLE t").await;
    rig.sink.forget_plans("topic");
    let (client, ledger) = (rig.session.client(), rig.sink.ledger());
    let barrier = Gate::Truncate(Barrier { topics: vec![("topic".into(), 1)], ..Barrier::default() });
    let name = walrelay::schema::TableName::new("public", "t");
    ledger.register(client, "topic", &name, &name).await.unwrap();
    ledger.set_parked(client, &rig.standing(), at(2, 1)).await.unwrap();
    assert_eq!(gather(client, ledger, at(2, 1), &barrier, "topic", EVERYTHING).await.unwrap(), Gathering::Passed);
    pass(client, ledger, &rig.standing(), at(2, 1), 2).await.unwrap();
    (rig.stored, rig.mark) = (Some(2), at(2, 1));
    rig.apply(vec![insert(&t, at(3, 1), &["3", "z", "3"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT id FROM t").await, ["3"]);
}

// trap T68
#[tokio::test]
async fn keyless_rows_with_columns_that_the_target_writes_itself_are_replaced() {
    let mut rig = Rig::new().await;
    rig.db
        .run(
            "CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY); \
             CREATE TABLE noted (id int GENERATED ALWAYS AS IDENTITY, t text); \
             CREATE TABLE fixed (n int GENERATED ALWAYS AS (7) STORED)",
        )
        .await;
    let counted = shape("counted", &[("id", "int")]);
    rig.apply(vec![
        insert(&counted, at(1, 1), &["1"]),
        insert(&counted, at(1, 2), &["1"]),
        change(&counted, at(1, 3), &["1"], &["5"]),
    ])
    .await
    .unwrap();
    rig.apply(vec![change(&counted, at(2, 1), &["5"], &["6"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT id FROM counted ORDER BY id").await, ["1", "6"]);

    rig.db.run("DELETE FROM walrelay.topic").await;
    let noted = shape("noted", &[("id", "int"), ("t", "text")]);
    rig.apply(vec![insert(&noted, at(3, 1), &["1", "x"]), insert(&noted, at(3, 2), &["2", "y"])]).await.unwrap();
    rig.apply(vec![change(&noted, at(4, 1), &["1", "x"], &["9", "z"]), delete(&noted, at(4, 2), &["2", "y"])])
        .await
        .unwrap();
    assert_eq!(rig.db.rows("SELECT * FROM noted").await, ["9|z"]);

    rig.db.run("DELETE FROM walrelay.topic").await;
    let fixed = shape("fixed", &[("n", "int")]);
    rig.apply(vec![insert(&fixed, at(5, 1), &["1"]), insert(&fixed, at(5, 2), &["2"])]).await.unwrap();
    rig.apply(vec![change(&fixed, at(6, 1), &["1"], &["3"]), delete(&fixed, at(6, 2), &["2"])]).await.unwrap();
    assert_eq!(rig.db.rows("SELECT n FROM fixed").await, ["7"]);
}
