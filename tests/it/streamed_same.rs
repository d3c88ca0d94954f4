//! Transactions that are sent in progress give the records that they give when the server keeps them until they commit.

use std::collections::{BTreeMap, btree_map::Entry};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use tokio_postgres::Client;
use walrelay::cli::demo::settings::{Settings, free_port};

use crate::support::{Consumed, LIMIT, Scenario, await_condition, schema_of};

/// Text that TOAST stores out of line and cannot compress.
const LARGE_TEXT: &str = "(SELECT string_agg(md5(i::text || random()::text), '') FROM generate_series(1, 200) i)";

/// A second capture of the scenario's tables, under which transactions come at their commit. Its name is as long.
fn settings_of_the_other(scenario: &Scenario) -> Settings {
    let mut settings = scenario.settings.clone();
    let name = scenario.name.replacen("same", "sane", 1);
    assert_ne!(name, scenario.name);
    settings.set("capture.slot", &*name);
    settings.set("kafka.prefix", &*name);
    settings.set("capture.streaming", false);
    settings.set("http.capture", format!("127.0.0.1:{}", free_port()));
    settings
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A few hundred rows are far beyond what the server keeps.
fn rows(table: &str, from: usize, to: usize) -> String {
    format!(
        "INSERT INTO {table} (id, note, body) SELECT n, 'note ' || n, CASE WHEN n % 50 = 0 THEN {LARGE_TEXT} ELSE repeat('x', 300) END \
         FROM generate_series({from}, {to}) n;"
    )
}

/// Two large transactions that are interleaved with each other and with small ones.
async fn interleaved(scenario: &Scenario) {
    let (one, two) = (scenario.source_session().await, scenario.source_session().await);
    run(&one, "BEGIN").await;
    run(&two, "BEGIN").await;
    for step in 0..3 {
        run(&one, &rows("a", 1000 + step * 500, 1499 + step * 500)).await;
        run(&two, &rows("b", 1000 + step * 500, 1499 + step * 500)).await;
        scenario
            .source(&format!("INSERT INTO a (id) VALUES ({}); INSERT INTO b (id) VALUES ({})", step + 1, step + 1))
            .await;
        scenario.source("SELECT pg_logical_emit_message(false, 'apart', 'at once')").await;
    }
    run(&one, "UPDATE a SET note = 'changed' WHERE id % 50 = 0; UPDATE a SET id = -id WHERE id % 70 = 0; DELETE FROM a WHERE id % 90 = 0").await;
    run(&two, "SELECT pg_logical_emit_message(true, 'within', 'in its place')").await;
    run(&two, "COMMIT").await;
    run(&one, "COMMIT").await;
}

/// Subtransactions: nested, released into one that is rolled back, rolled back and begun anew, failed in a function.
async fn nested(scenario: &Scenario) {
    let session = scenario.source_session().await;
    let sql = [
        "BEGIN;".to_owned(),
        rows("a", 5000, 5300),
        format!("SAVEPOINT s1; {} SAVEPOINT s2; {} RELEASE s2; {}", rows("a", 5301, 5500), rows("b", 5301, 5500), rows("b", 5501, 5600)),
        format!("ROLLBACK TO s1; {}", rows("b", 5601, 5900)),
        format!("SAVEPOINT s3; {} SAVEPOINT s4; {} ROLLBACK TO s4; RELEASE s3;", rows("a", 5901, 6000), rows("a", 6001, 6300)),
        format!("SAVEPOINT s5; {} ROLLBACK TO s5; {}", rows("a", 6301, 6600), rows("a", 6301, 6600)),
        "DO $$ BEGIN FOR i IN 1..40 LOOP BEGIN INSERT INTO a (id, note) SELECT 7000 + n, repeat('y', 200) FROM generate_series(1, 40) n; \
         IF i < 40 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;"
            .to_owned(),
        "COMMIT;".to_owned(),
        // All of it is rolled back, or all that is published.
        format!("BEGIN; {} ROLLBACK;", rows("a", 8000, 8600)),
        format!("BEGIN; SAVEPOINT s1; {} ROLLBACK TO s1; COMMIT;", rows("a", 8000, 8600)),
    ];
    for sql in sql {
        run(&session, &sql).await;
    }
}

/// Changes of a table in a transaction, one that stays and one that is rolled back, and a TRUNCATE.
async fn definitions(scenario: &Scenario) {
    let session = scenario.source_session().await;
    let sql = [
        format!(
            "BEGIN; {} SAVEPOINT s1; ALTER TABLE a ADD COLUMN gone int DEFAULT 7; {}",
            rows("a", 9000, 9300),
            rows("a", 9301, 9600)
        ),
        format!(
            "ROLLBACK TO s1; {} SAVEPOINT s2; ALTER TABLE a ADD COLUMN stays int; {}",
            rows("a", 9301, 9600),
            rows("a", 9601, 9900)
        ),
        "UPDATE a SET stays = id WHERE id > 9500; COMMIT;".to_owned(),
        format!("BEGIN; {} TRUNCATE b, c; {} COMMIT;", rows("b", 9000, 9300), rows("b", 9301, 9600)),
        rows("a", 10_000, 10_300),
        "CREATE TYPE mood AS ENUM ('sad', 'glad')".to_owned(),
        "BEGIN; ALTER TABLE c ADD COLUMN mood mood".to_owned(),
        "INSERT INTO c (id, body, mood) SELECT n, repeat('z', 300), 'glad' FROM generate_series(1, 500) n; COMMIT"
            .to_owned(),
    ];
    for sql in sql {
        run(&session, &sql).await;
    }
}

/// A value without what differs by the capture and by the moment of publishing.
fn normal(value: Value, names: &[&str]) -> Value {
    match value {
        Value::Record(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| !matches!(name.as_str(), "ts_ms" | "ts_us" | "ts_ns"));
            Value::Record(kept.map(|(name, value)| (name, normal(value, names))).collect())
        }
        Value::Union(branch, value) => Value::Union(branch, Box::new(normal(*value, names))),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| normal(item, names)).collect()),
        Value::String(text) => Value::String(without(text, names)),
        other => other,
    }
}

fn without(text: String, names: &[&str]) -> String {
    names.iter().fold(text, |text, name| text.replace(name, "name"))
}

/// The records of a topic, in their order.
async fn records(
    scenario: &Scenario,
    settings: &Settings,
    table: &str,
    schemas: &mut BTreeMap<u32, Schema>,
) -> Vec<String> {
    let prefix = settings.text("kafka.prefix");
    let topics = crate::support::Topics::new(&scenario.parts.kafka, prefix);
    let mut told = Vec::new();
    for Consumed { key, value, headers, .. } in topics.read(table) {
        let mut parts = Vec::new();
        for part in [key, value] {
            let Some(part) = part else {
                parts.push(None);
                continue;
            };
            let id = u32::from_be_bytes(part[1..5].try_into().unwrap());
            let schema = match schemas.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Schema::parse(&schema_of(scenario, id).await).expect("a schema")),
            };
            let reader = GenericDatumReader::builder(schema).build().expect("a reader");
            let value = reader.read_value(&mut &part[5..]).expect("Avro");
            parts.push(Some(normal(value, &[prefix, &scenario.name])));
        }
        let text = format!("{parts:?} {headers:?}");
        told.push(without(text, &[prefix, &scenario.name]));
    }
    told
}

async fn streamed(scenario: &Scenario, slot: &str) -> u32 {
    let sql = format!("SELECT coalesce(sum(stream_txns), 0) FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    scenario.source_value(&sql).await.and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn give_the_same(name: &str, binary: bool) {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.streaming", true);
    scenario.settings.set("capture.transactions", true);
    scenario.settings.set("capture.binary", binary);
    // The id of the key's schema, which is another for each capture, chooses the partition.
    scenario.settings.set("kafka.topics.partitions", 1);
    // So little that the file is used.
    scenario.settings.set("capture.spool.memory", "64KiB");
    let memory = format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", scenario.name);
    scenario.source(&memory).await;
    scenario.source(
        "CREATE TABLE a (id int PRIMARY KEY, note text, body text); CREATE TABLE b (id int PRIMARY KEY, note text, body text); \
         CREATE TABLE c (id int PRIMARY KEY, body text); ALTER TABLE b REPLICA IDENTITY FULL",
    )
    .await;
    let other = settings_of_the_other(&scenario);
    let _captures = (scenario.capture().await, scenario.capture_with(&other, "other").await);
    interleaved(&scenario).await;
    nested(&scenario).await;
    definitions(&scenario).await;
    scenario.source("INSERT INTO c VALUES (100000)").await;

    let last = scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await.unwrap();
    let slots = [scenario.name.clone(), other.text("capture.slot").to_owned()];
    let confirmed = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn >= '{last}'"
    );
    await_condition("both captures are through", LIMIT, async || {
        scenario.source_value(&confirmed).await.as_deref() == Some("2")
    })
    .await;
    let mut schemas = BTreeMap::new();
    for (table, least) in
        [("public.a", 3000), ("public.b", 2000), ("public.c", 499), ("message", 3), ("transaction", 10)]
    {
        let expected = records(&scenario, &other, table, &mut schemas).await;
        let found = records(&scenario, &scenario.settings, table, &mut schemas).await;
        assert!(expected.len() > least, "{table}: {} records", expected.len());
        for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let same = found == expected;
            assert!(same, "record {number} of {table}:\n{found:.3000}\ninstead of\n{expected:.3000}");
        }
        assert_eq!(found.len(), expected.len(), "{table}");
    }
    await_condition("the server counts what it sent in progress", LIMIT, async || {
        streamed(&scenario, &slots[0]).await >= 6
    })
    .await;
    assert_eq!(streamed(&scenario, &slots[1]).await, 0);
    crate::support::Topics::new(&scenario.parts.kafka, &slots[1]).delete_all().await;
}

// traps T32, T36, T38, T40
#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_progress_give_the_records_that_they_give_at_their_commit() {
    give_the_same("same_text", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_progress_give_the_same_records_in_binary() {
    give_the_same("same_binary", true).await;
}
