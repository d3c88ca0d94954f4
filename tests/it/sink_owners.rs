//! One target table belongs to one topic of one instance, whichever schema its books are in.

use walrelay::{
    postgres,
    schema::TableName,
    sink::{self, Error, Session, Sink, ledger::Ledger},
};

use crate::{
    applier::Applier,
    sink_support::{Database, at, insert, shape, sink_settings, truncate},
};

const TOPIC: &str = "shop.public.t";

fn table() -> TableName {
    TableName::new("public", "t")
}

/// A session of a sink that keeps its books in `schema`, which is there afterwards.
async fn session(database: &Database, schema: &str, instance: &str) -> (Sink, Session) {
    let sink = Sink::new(sink::Settings { schema: schema.to_owned(), ..sink_settings(database, instance) });
    let session = Session::connect(&sink).await.unwrap();
    sink.ledger().ensure(session.client()).await.unwrap();
    (sink, session)
}

async fn register(ledger: &Ledger, session: &Session) -> Result<(), Error> {
    ledger.register(session.client(), TOPIC, &table(), &table()).await
}

fn remedy(error: &Error) -> &str {
    let Error::Unfit { remedy, .. } = error else { panic!("{error:?}") };
    remedy
}

/// Two applies with books of their own would each move the table's rows back to what they know (trap T60).
#[tokio::test]
async fn a_table_that_other_books_have_is_refused_until_they_forget_it() {
    let database = Database::create().await;
    database.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let (first, a) = session(&database, "walrelay", "g").await;
    let (second, b) = session(&database, "Other books", "g").await;
    register(first.ledger(), &a).await.unwrap();
    register(first.ledger(), &a).await.unwrap();

    let error = register(second.ledger(), &b).await.unwrap_err();
    assert!(error.to_string().contains("bookkeeping schema walrelay"), "{error}");
    let before = second.ledger().past(b.client(), TOPIC, &table()).await.unwrap_err();
    assert_eq!(remedy(&before), remedy(&error));
    assert_eq!(database.rows("SELECT * FROM \"Other books\".topic").await, Vec::<String>::new());

    // The remedy's statements, as an operator runs them.
    let statements = remedy(&error).split_once("run ").unwrap().1.rsplit_once("and start").unwrap().0;
    database.run(statements).await;
    register(second.ledger(), &b).await.unwrap();
    let back = register(first.ledger(), &a).await.unwrap_err();
    assert!(back.to_string().contains("bookkeeping schema Other books"), "{back}");
}

/// What another group has of the topic is none of the statements' business, and positions of the same topic are worth keeping.
#[tokio::test]
async fn the_remedy_forgets_the_found_instance_alone_and_nothing_where_its_positions_can_be_taken_over() {
    let database = Database::create().await;
    database.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let (first, a) = session(&database, "walrelay", "g").await;
    let (second, b) = session(&database, "other", "g").await;
    register(first.ledger(), &a).await.unwrap();
    for instance in ["g", "h"] {
        let row =
            format!("INSERT INTO walrelay.position (instance, topic, partition) VALUES ('{instance}', '{TOPIC}', 0)");
        database.run(&row).await;
    }
    for instance in ["g", "h"] {
        let line = format!(
            "INSERT INTO walrelay.resync (instance, topic, epoch, commit_lsn, key, types) \
             VALUES ('{instance}', '{TOPIC}', 0, '0/A', '{{id}}', '{{integer}}')"
        );
        database.run(&line).await;
    }
    let error = register(second.ledger(), &b).await.unwrap_err();
    let statements = remedy(&error).split_once("run ").unwrap().1.rsplit_once("and start").unwrap().0;
    database.run(statements).await;
    assert_eq!(database.rows("SELECT instance FROM walrelay.position").await, ["h"]);
    assert_eq!(database.rows("SELECT instance FROM walrelay.resync WHERE NOT ended").await, ["h"]);
    assert!(database.rows("SELECT * FROM walrelay.topic").await.is_empty());

    register(first.ledger(), &a).await.unwrap();
    let (third, c) = session(&database, "walrelay", "h").await;
    let error = register(third.ledger(), &c).await.unwrap_err();
    assert!(remedy(&error).contains("apply.take_over = true") && !remedy(&error).contains("DELETE"), "{error:?}");
}

/// Both may start at the same moment.
#[tokio::test]
async fn of_two_that_register_a_table_at_once_one_is_refused() {
    let database = Database::create().await;
    let (first, a) = session(&database, "one", "g").await;
    let (second, b) = session(&database, "two", "h").await;
    for round in 0..20 {
        database.run("DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (id int)").await;
        database.run("TRUNCATE one.topic, two.topic").await;
        let (x, y) = tokio::join!(register(first.ledger(), &a), register(second.ledger(), &b));
        assert!(x.is_ok() != y.is_ok(), "round {round}: {x:?}, {y:?}");
    }
}

/// A schema that only looks alike, and one that this role may not read, are left alone.
#[tokio::test]
async fn schemas_that_are_not_books_are_not_taken_for_such() {
    let database = Database::create().await;
    database.run("CREATE TABLE public.t (id int)").await;
    for table in ["version", "topic", "position", "barrier", "moved", "hold_request"] {
        database.run(&format!("CREATE SCHEMA IF NOT EXISTS alike; CREATE TABLE alike.{table} (topic text)")).await;
    }
    let (sink, session) = session(&database, "walrelay", "g").await;
    register(sink.ledger(), &session).await.unwrap();
}

/// The lock of changes to schemas, as another apply has it for as long as its ALTER TABLE waits.
const LOCK: &str = "SELECT pg_advisory_lock(x'77616c72656c6179'::bigint)";

/// A barrier of a table that is new to the books asks for the lock in the session that all lanes share.
#[tokio::test]
async fn barriers_pass_while_another_apply_changes_a_schema() {
    let db = Database::create().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (7)").await;
    let (a, b) = (shape("a", &[("id*", "int")]), shape("b", &[("id*", "int")]));
    let mut applier = Applier::start(&db, &[("w.a", 1), ("w.b", 1)]).await;
    applier.send("w.a", 0, vec![insert(&a, at(1, 1), &["1"])]);
    db.until("SELECT id FROM a", &["1"]).await;

    let other = postgres::connect(&db.settings, "other apply").await.unwrap();
    other.batch_execute(LOCK).await.unwrap();
    applier.send("w.b", 0, vec![truncate(&b, at(2, 1), &[("w.b", 1)])]);
    for n in 3..9 {
        let row = n.to_string();
        let events = vec![truncate(&a, at(n, 1), &[("w.a", 1)]), insert(&a, at(n, 2), &[&row])];
        applier.send("w.a", 0, events);
        db.until("SELECT id FROM a", &[&row]).await;
    }
    assert_eq!(db.rows("SELECT id FROM b").await, ["7"], "the barrier of the table that is new to the books waits");
    drop(other);
    db.until("SELECT id FROM b", &[]).await;
    applier.finish().await;
}
