//! `capture.transactions`: begins and ends of transactions, with counts that are those of the tables' topics, the same at every
//! delivery.

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use walrelay::cli::demo::process::Process;

use crate::support::{Consumed, LIMIT, Scenario, await_condition, newest_schema};

const VALUE: &str = include_str!("../../avro/transaction_metadata.avsc");
/// Without a key: an event that came at a second position would be a second row.
const LOG: &str = "CREATE TABLE log (note text); ALTER TABLE log REPLICA IDENTITY FULL;";

/// Epoch, commit LSN and ordinal.
type At = (u32, u64, u64);

/// A begin or an end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    at: At,
    id: String,
    /// Events and those of each collection, of an end.
    counts: Option<(i64, Vec<(String, i64)>)>,
}

/// Sets what makes every record tell its position in a header.
async fn scenario(name: &str, sql: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.transactions", true);
    scenario.settings.set("format.parameters", "source-type");
    scenario.both(sql).await;
    scenario
}

fn position(record: &Consumed) -> Option<At> {
    let text = record.headers.get("walrelay.pos")?;
    let mut parts = text.split(':').map(|part| part.parse::<u64>().expect("a number"));
    let mut next = || parts.next().expect("three numbers");
    Some((u32::try_from(next()).expect("an epoch"), next(), next()))
}

fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    let Value::Record(fields) = value else { panic!("{value:?} is no record") };
    let (_, field) = fields.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no field {name}"));
    if let Value::Union(_, inner) = field { inner } else { field }
}

fn text(value: &Value) -> String {
    let Value::String(text) = value else { panic!("{value:?} is no text") };
    text.clone()
}

fn number(value: &Value) -> i64 {
    let Value::Long(number) = value else { panic!("{value:?} is no number") };
    *number
}

fn told(record: &Consumed) -> Told {
    let schema = Schema::parse_str(VALUE).expect("a schema");
    let mut body = &record.value.as_deref().expect("a value")[5..];
    let value = GenericDatumReader::builder(&schema).build().expect("a reader").read_value(&mut body).expect("Avro");
    let collection = |item: &Value| {
        let Value::Union(_, item) = item else { panic!("{item:?} is no union") };
        (text(field(item, "data_collection")), number(field(item, "event_count")))
    };
    let counts = match (&*text(field(&value, "status")), field(&value, "data_collections")) {
        ("BEGIN", Value::Null) => None,
        ("END", Value::Array(items)) => {
            Some((number(field(&value, "event_count")), items.iter().map(collection).collect()))
        }
        other => panic!("{other:?}"),
    };
    let id = text(field(&value, "id"));
    // The same schema of a key has the id alone.
    assert!(record.key.as_deref().expect("a key").ends_with(id.as_bytes()));
    Told { at: position(record).expect("a position"), id, counts }
}

/// What the topic tells, each position once: those that come again must be what they were, to the byte.
fn all_told(scenario: &Scenario) -> Vec<Told> {
    let mut known = BTreeMap::<At, Consumed>::new();
    let mut all = Vec::new();
    for record in scenario.topics().read("transaction") {
        let at = position(&record).expect("a position");
        match known.get(&at) {
            Some(before) => assert_eq!(*before, record, "another record at {at:?}"),
            None => {
                assert!(known.last_key_value().is_none_or(|(last, _)| *last < at), "{at:?} comes behind later ones");
                all.push(told(&record));
                known.insert(at, record);
            }
        }
    }
    all
}

pub fn ends(scenario: &Scenario) -> Vec<(i64, Vec<(String, i64)>)> {
    all_told(scenario).into_iter().filter_map(|told| told.counts).collect()
}

pub fn counts(events: i64, collections: &[(&str, i64)]) -> (i64, Vec<(String, i64)>) {
    (events, collections.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
}

/// The judge: begins and ends enclose the events of their transactions, and ends count what lies in the topics of these tables
/// (`schema.table`) and in that of messages.
fn assert_told(scenario: &Scenario, tables: &[&str]) {
    let messages = scenario.topics().name("message");
    let mut found = BTreeMap::<(u32, u64), BTreeMap<String, BTreeSet<u64>>>::new();
    for (collection, topic) in tables.iter().map(|table| (*table, *table)).chain([(&*messages, "message")]) {
        for (epoch, commit, ordinal) in scenario.topics().read(topic).iter().filter_map(position) {
            // Rows of a snapshot are of no transaction.
            if ordinal > 0 {
                let of_transaction = found.entry((epoch, commit)).or_default();
                of_transaction.entry(collection.to_owned()).or_default().insert(ordinal);
            }
        }
    }
    let all = all_told(scenario);
    for pair in all.chunks(2) {
        let [begin, end] = pair else { panic!("no end behind {pair:?}") };
        let (epoch, commit, last) = end.at;
        assert_eq!((begin.at, &begin.counts, &begin.id), ((epoch, commit, 0), &None, &end.id), "{pair:?}");
        let (events, collections) = end.counts.clone().expect("an end");
        let lying = found.remove(&(epoch, commit)).unwrap_or_default();
        let counted: BTreeMap<_, _> = collections.into_iter().collect();
        let expected: BTreeMap<_, _> =
            lying.iter().map(|(name, at)| (name.clone(), i64::try_from(at.len()).expect("few"))).collect();
        assert_eq!(counted, expected, "{end:?}");
        assert_eq!(events, counted.values().sum::<i64>(), "{end:?}");
        assert!(lying.values().flatten().all(|ordinal| *ordinal < last), "{end:?} is not behind {lying:?}");
    }
    assert!(found.is_empty(), "nothing is told of the transactions of {found:?}");
}

/// What the transaction blocks of a topic's records number them with, in the transaction and in the table.
pub async fn numbers(scenario: &Scenario, table: &str) -> Vec<(i64, i64)> {
    let subject = format!("{}-value", scenario.topics().name(table));
    let schema = Schema::parse(&newest_schema(scenario, &subject).await).expect("a schema");
    let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
    let mut records = scenario.topics().read(table);
    records.sort_by_key(position);
    let bodies = records.iter().filter_map(|record| record.value.as_deref()?.get(5..));
    let events = bodies.map(|mut body| reader.read_value(&mut body).expect("Avro"));
    let blocks = events.map(|event| field(&event, "transaction").clone());
    blocks
        .map(|block| ["total_order", "data_collection_order"].map(|name| number(field(&block, name))).into())
        .collect()
}

async fn await_stopped(scenario: &Scenario, name: &str) {
    let stopped = async || scenario.readiness("capture").await.1.contains(name);
    await_condition(&format!("capture names {name} as stopped"), LIMIT, stopped).await;
}

async fn await_ends(scenario: &Scenario, number: usize) {
    await_condition(&format!("{number} ends are told"), LIMIT, async || ends(scenario).len() >= number).await;
}

/// Starts capture, and waits until what comes next is in the stream and not in the snapshot.
async fn streaming(scenario: &Scenario) -> Process {
    let mut capture = scenario.capture().await;
    scenario.await_log(&mut capture, "values are asked for").await;
    capture
}

fn kill(mut process: Process) {
    process.kill_9().expect("it can be killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_count_the_events_of_each_table_that_is_captured() {
    let tables = "CREATE TABLE things (id int PRIMARY KEY, t text); CREATE TABLE others (id int PRIMARY KEY);
                  CREATE TABLE left_out (id int PRIMARY KEY);";
    let mut scenario = scenario("transactions", tables).await;
    scenario.settings.set("capture.exclude", vec!["public.left_out"]);
    scenario.source("INSERT INTO things VALUES (1, 'a'), (2, 'b'); INSERT INTO others VALUES (1)").await;
    let publication = format!("CREATE PUBLICATION {} FOR TABLE things, others, left_out", scenario.name);
    scenario.source(&publication).await;
    let (_capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    scenario.await_equal("things").await;
    for transaction in [
        "BEGIN; INSERT INTO things VALUES (3, 'c'), (4, 'd'); INSERT INTO left_out VALUES (1); UPDATE things SET t = 'e';
         DELETE FROM others; COMMIT",
        "INSERT INTO left_out VALUES (2)",
        "UPDATE things SET id = 9 WHERE id = 4",
        "BEGIN; INSERT INTO left_out VALUES (3); TRUNCATE things, others, left_out; INSERT INTO things VALUES (1, 'f'); COMMIT",
        "BEGIN; INSERT INTO others VALUES (7); SELECT pg_logical_emit_message(true, 'note', 'text'); COMMIT",
        "SELECT pg_logical_emit_message(false, 'note', 'apart')",
        "BEGIN; INSERT INTO others VALUES (8); ROLLBACK",
        "INSERT INTO others VALUES (9)",
    ] {
        scenario.source(transaction).await;
    }
    let message = scenario.topics().name("message");
    let (things, others) = ("public.things", "public.others");
    await_ends(&scenario, 5).await;
    assert_eq!(
        ends(&scenario),
        [
            counts(7, &[(things, 6), (others, 1)]),
            counts(2, &[(things, 2)]),
            counts(3, &[(things, 2), (others, 1)]),
            counts(2, &[(others, 1), (&message, 1)]),
            counts(1, &[(others, 1)]),
        ]
    );
    assert_told(&scenario, &[things, others]);
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.verify();
    assert_eq!(scenario.topics().partitions("transaction"), 1);
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    assert!(outcome.text.contains(&scenario.topics().name("transaction")), "{}", outcome.text);
}

/// Debezium's ids and numbers tell no position, and its default has no truncates: capture goes on behind one, which takes an ordinal
/// and counts nothing, so that a transaction of nothing else is an empty one, and apply goes by the headers.
#[tokio::test(flavor = "multi_thread")]
async fn debezium_s_ids_and_left_out_truncates_leave_positions_as_they_are() {
    let mut scenario = scenario("own_ids", "CREATE TABLE things (id int PRIMARY KEY, t text);").await;
    scenario.settings.set("format.compatibility", "debezium");
    scenario.settings.set("format.truncates", "none");
    scenario.settings.set("format.own_headers", true);
    let (mut capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (1, 'a'), (2, 'b')").await;
    scenario
        .source("BEGIN; TRUNCATE things; INSERT INTO things VALUES (3, 'c'); UPDATE things SET t = 'd'; COMMIT")
        .await;
    scenario.source("TRUNCATE things").await;
    scenario.source("INSERT INTO things VALUES (4, 'e')").await;
    await_ends(&scenario, 4).await;
    let counted: Vec<i64> = ends(&scenario).into_iter().map(|(events, _)| events).collect();
    assert_eq!(counted, [2, 2, 0, 1]);
    for pair in all_told(&scenario).chunks(2) {
        let [begin, end] = pair else { panic!("no end behind {pair:?}") };
        let lsn = |told: &Told| {
            let (xid, lsn) = told.id.split_once(':').expect("two numbers");
            (xid.to_owned(), lsn.parse::<u64>().expect("an LSN"))
        };
        let ((of_begin, first), (of_end, last)) = (lsn(begin), lsn(end));
        let commit = begin.at.1;
        assert!(of_begin == of_end && first < commit && commit < last, "{pair:?}");
    }
    assert_eq!(
        numbers(&scenario, "public.things").await,
        [(1, 1), (2, 2), (1, 1), (2, 2), (1, 1)],
        "the truncate has none"
    );
    let at: BTreeSet<u64> =
        scenario.topics().read("public.things").iter().filter_map(position).map(|at| at.2).collect();
    assert_eq!(at, BTreeSet::from([1, 2, 3]), "the truncate has the first ordinal of its transaction");
    scenario.await_target("SELECT string_agg(id || t, ' ' ORDER BY id) FROM things", "1a 2b 3d 4e").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(outcome.text.contains("format.truncates"), "{}", outcome.text);
}

/// What Debezium publishes, and nothing else: its headers, one record for each table of a TRUNCATE, empty transactions.
/// Apply reads the topics as Debezium's.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_debezium_s_forms_at_once_leave_nothing_of_walrelay_s_own() {
    let tables = "CREATE TABLE things (id int PRIMARY KEY, t text, n int); CREATE TABLE others (id int PRIMARY KEY);
                  CREATE TABLE left_out (id int PRIMARY KEY);";
    let mut scenario = Scenario::new("exactly").await;
    scenario.settings.set("format.compatibility", "debezium");
    scenario.settings.set("capture.transactions", true);
    scenario.settings.set("capture.exclude", vec!["public.left_out"]);
    scenario.settings.set("format.truncates", "single");
    scenario.settings.set("kafka.topics.partitions", 3);
    scenario.both(tables).await;
    scenario
        .source("ALTER TABLE things ALTER t SET STORAGE EXTERNAL; INSERT INTO things VALUES (1, repeat('a', 9000))")
        .await;
    scenario.source(&format!("CREATE PUBLICATION {} FOR TABLE things, others, left_out", scenario.name)).await;
    let (capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    for transaction in [
        "INSERT INTO things VALUES (2, 'b'), (3, 'c')",
        "UPDATE things SET n = 5 WHERE id = 1",
        "UPDATE things SET id = 7 WHERE id = 3",
        "DELETE FROM things WHERE id = 2",
        "INSERT INTO left_out VALUES (1)",
        "INSERT INTO others VALUES (1)",
    ] {
        scenario.source(transaction).await;
    }
    // The text of the first row is not sent again: what stands for it is known for that.
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.source("TRUNCATE things, others").await;
    let told = async || scenario.topics().read("transaction").len() == 14;
    await_condition("seven transactions begin and end", LIMIT, told).await;
    await_condition("the truncate stops its table", LIMIT, async || {
        scenario.readiness("apply").await.1.contains("a truncate without the partitions that it concerns")
    })
    .await;
    let truncates = |table: &str| scenario.topics().read(table).iter().filter(|record| record.key.is_none()).count();
    assert_eq!([truncates("public.things"), truncates("public.others")], [1, 1]);
    for topic in ["public.things", "public.others", "transaction"] {
        for record in scenario.topics().read(topic) {
            let own: Vec<_> = record.headers.keys().filter(|name| name.starts_with("walrelay")).collect();
            assert!(own.is_empty(), "{topic}: {own:?}");
        }
    }
    // Capture does not begin to write what sinks would take for another producer's.
    scenario.settings.set("format.own_headers", true);
    kill(capture);
    let outcome = scenario.run_to_end("capture").await;
    assert!(outcome.code != Some(0) && outcome.text.contains("own_headers"), "{}", outcome.text);
    scenario.settings.set("format.own_headers", false);
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    for key in ["format.truncates", "format.own_headers"] {
        assert!(outcome.text.contains(key), "{}", outcome.text);
    }
}

/// Traps T1 and T37: positions are recorded once an hour, so that each start publishes everything again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_again_after_a_crash_is_the_same_to_the_byte() {
    let tables = "CREATE TABLE things (id int PRIMARY KEY, t text);";
    let mut scenario = scenario("told_again", &format!("{LOG}{tables}")).await;
    scenario.settings.set("capture.checkpoint_interval", "1h");
    let (mut capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    scenario.await_equal("things").await;
    let write = async |round: i32| {
        let from = round * 3000;
        let sql = format!(
            "BEGIN; INSERT INTO things SELECT n, 'x' FROM generate_series({from}, {from} + 2999) n;
             INSERT INTO log SELECT 'x' FROM generate_series(1, 3000);
             UPDATE things SET id = -id - 1 WHERE id >= {from} AND id % 7 = 0; COMMIT"
        );
        scenario.source(&sql).await;
        scenario.source("BEGIN; TRUNCATE things; INSERT INTO log VALUES ('y'); COMMIT").await;
    };
    for round in 0..4 {
        let some = || scenario.topics().read("transaction").len();
        let before = some();
        write(round).await;
        await_condition("something is told", LIMIT, async || some() > before).await;
        // In the middle of a transaction, most of the time.
        kill(capture);
        capture = scenario.spawn_capture();
    }
    write(4).await;
    await_ends(&scenario, 10).await;
    let repeated = scenario.topics().read("transaction").len() - all_told(&scenario).len();
    assert!(repeated > 0, "nothing was told again");
    scenario.await_equal("log").await;
    scenario.await_equal("things").await;
    assert_told(&scenario, &["public.things", "public.log"]);
    assert_eq!(ends(&scenario).len(), 10);
    kill(capture);
}

/// What was told once is not told again otherwise, so the events of a stopped table count from the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_stopped_table_count_as_they_will_be_published() {
    let tables = "CREATE TABLE big (id int PRIMARY KEY, body text);";
    let scenario = scenario("told_stopped", &format!("{LOG}{tables}")).await;
    let (capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    let large = "INSERT INTO big VALUES (1, repeat('x', 3000000))";
    scenario.source(&format!("BEGIN; INSERT INTO log VALUES ('a'); {large}; UPDATE big SET id = 2; COMMIT")).await;
    await_stopped(&scenario, "public.big").await;
    scenario.source("UPDATE big SET id = 3").await;
    scenario.source("BEGIN; TRUNCATE big; INSERT INTO log VALUES ('b'); COMMIT").await;
    await_ends(&scenario, 3).await;
    let before = all_told(&scenario);
    let (log, big) = ("public.log", "public.big");
    let expected = [counts(4, &[(log, 1), (big, 3)]), counts(2, &[(big, 2)]), counts(2, &[(big, 1), (log, 1)])];
    assert_eq!(ends(&scenario), expected);
    kill(capture);

    scenario.topics().set("public.big", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO log VALUES ('c')").await;
    await_ends(&scenario, 4).await;
    scenario.await_equal("log").await;
    scenario.await_equal("big").await;
    assert_eq!(all_told(&scenario)[..6], before);
    assert_told(&scenario, &[log, big]);
}

/// As with messages, what the topic refuses for good stops what it holds, and nothing else; and it is held in the WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_transactions_that_refuses_records_stops_alone() {
    let scenario = scenario("told_refused", LOG).await;
    let (capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    let topics = scenario.topics();
    topics.set("transaction", "max.message.bytes", "1").await;
    let name = topics.name("transaction");
    let stopped = async || {
        scenario.source("INSERT INTO log VALUES ('one of many')").await;
        let (status, body) = scenario.readiness("capture").await;
        assert_ne!(status, 0, "capture has ended:\n{}", scenario.log_text("capture"));
        body.contains(&name)
    };
    await_condition("capture names the topic as stopped", LIMIT, stopped).await;
    scenario.source("INSERT INTO log VALUES ('more')").await;
    scenario.await_equal("log").await;
    kill(capture);

    topics.set("transaction", "max.message.bytes", "1000000").await;
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO log VALUES ('last')").await;
    scenario.await_equal("log").await;
    let all = scenario.source_value("SELECT count(*)::text FROM log").await.expect("a number");
    await_ends(&scenario, all.parse().expect("a number")).await;
    assert_told(&scenario, &["public.log"]);
}

/// What does not fit is not even sent; and a topic that others made with more partitions has all in the first one.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_no_begin_stops_alone_until_it_does() {
    let scenario = scenario("told_small", LOG).await;
    let topics = scenario.topics();
    topics.create("transaction", 3).await;
    topics.set("transaction", "max.message.bytes", "1").await;
    let (capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    scenario.source("INSERT INTO log VALUES ('a')").await;
    await_stopped(&scenario, &topics.name("transaction")).await;
    assert!(scenario.readiness("capture").await.1.contains("does not fit"));
    scenario.source("INSERT INTO log VALUES ('b')").await;
    scenario.await_equal("log").await;
    kill(capture);

    topics.set("transaction", "max.message.bytes", "1000000").await;
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO log VALUES ('c')").await;
    await_ends(&scenario, 3).await;
    assert_told(&scenario, &["public.log"]);
    assert!(topics.read("transaction").iter().all(|record| record.partition == 0));
}

/// What is no record does not count.
#[tokio::test(flavor = "multi_thread")]
async fn of_flat_records_those_count_that_are_written() {
    let mut scenario = scenario("told_flat", "CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.settings.set("format.records", "flat");
    scenario.settings.set("format.flat.deletes", "drop");
    let _capture = streaming(&scenario).await;
    for transaction in [
        "BEGIN; INSERT INTO things VALUES (1), (2), (3); DELETE FROM things WHERE id = 1; COMMIT",
        "DELETE FROM things WHERE id = 2",
        "UPDATE things SET id = 4 WHERE id = 3",
        "TRUNCATE things",
        "BEGIN; TRUNCATE things; INSERT INTO things VALUES (5); COMMIT",
    ] {
        scenario.source(transaction).await;
    }
    await_ends(&scenario, 3).await;
    let things = "public.things";
    assert_eq!(ends(&scenario), [3, 1, 1].map(|events| counts(events, &[(things, events)])));
    assert_told(&scenario, &[things]);
}

/// Nothing is told but where it is asked for; what may have been published before is published again as it was.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_told_from_where_the_option_holds() {
    let mut scenario = scenario("told_later", LOG).await;
    scenario.settings.set("capture.transactions", false);
    scenario.settings.set("capture.checkpoint_interval", "1h");
    let (capture, _apply) = (streaming(&scenario).await, scenario.apply().await);
    scenario.source("INSERT INTO log VALUES ('a')").await;
    scenario.await_equal("log").await;
    assert_eq!(scenario.topics().partitions("transaction"), 0);
    kill(capture);

    scenario.settings.set("capture.transactions", true);
    for (topic, note, records) in [("transaction", "b", 2), ("tx", "c", 2), ("transaction", "d", 4)] {
        scenario.settings.set("kafka.topics.transactions", format!("{{prefix}}.{topic}"));
        let capture = scenario.capture().await;
        scenario.source(&format!("INSERT INTO log VALUES ('{note}')")).await;
        let topics = scenario.topics();
        let told = || topics.read(topic).iter().filter_map(position).collect::<BTreeSet<_>>();
        await_condition("the row's transaction is told", LIMIT, async || told().len() >= records).await;
        scenario.await_equal("log").await;
        assert_eq!(told().len(), records, "{topic}");
        kill(capture);
    }
    assert_eq!(ends(&scenario), [counts(1, &[("public.log", 1)]), counts(1, &[("public.log", 1)])]);
}
