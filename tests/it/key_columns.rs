//! Key columns by configuration: another unique key of a table, or one with further columns.

use std::collections::BTreeSet;

use crate::support::{LIMIT, Scenario, await_condition};

/// Bodies lie out of line, so that updates leave them out.
const TABLES: &str =
    "CREATE TABLE seats (hall int, seat int, badge int NOT NULL UNIQUE, who text, body text, PRIMARY KEY (hall, seat));
    ALTER TABLE seats REPLICA IDENTITY FULL;
    CREATE TABLE parts (id int NOT NULL UNIQUE, at int, n int, body text, PRIMARY KEY (at, id));
    CREATE TABLE orders (id int PRIMARY KEY, n int, tenant int NOT NULL, body text);
    ALTER TABLE orders REPLICA IDENTITY FULL;
    CREATE TABLE quiet (id int PRIMARY KEY, n int NOT NULL);
    ALTER TABLE quiet REPLICA IDENTITY FULL;
    ALTER TABLE seats ALTER body SET STORAGE EXTERNAL; ALTER TABLE parts ALTER body SET STORAGE EXTERNAL;
    ALTER TABLE orders ALTER body SET STORAGE EXTERNAL;
    INSERT INTO seats SELECT n % 5, n, n + 10, 'first', repeat('x', 9000) FROM generate_series(1, 40) n;
    INSERT INTO parts SELECT n, n * 4, 0, repeat('x', 9000) FROM generate_series(1, 40) n;
    INSERT INTO orders SELECT n, 0, n % 5, repeat('x', 9000) FROM generate_series(1, 40) n";

/// Updates, deletes and moves of every table, in the midst of old values and in all columns of a key.
const CHANGES: &str = "UPDATE seats SET who = 'second' WHERE seat % 3 = 0; DELETE FROM seats WHERE seat % 4 = 0;
    UPDATE seats SET badge = badge + 40 WHERE seat % 5 = 0; UPDATE seats SET hall = 7 WHERE seat = 9;
    INSERT INTO seats VALUES (7, 1, 100, 'new'), (1, 60, 101, NULL);
    UPDATE parts SET n = 1 WHERE id % 3 = 0; DELETE FROM parts WHERE id % 4 = 0; UPDATE parts SET at = 1000 - at WHERE id % 5 = 0;
    UPDATE parts SET id = id + 20 WHERE id > 33; INSERT INTO parts VALUES (4, 5, 6);
    UPDATE orders SET n = 1 WHERE id % 3 = 0; DELETE FROM orders WHERE id % 4 = 0; UPDATE orders SET tenant = 9 WHERE id % 5 = 0;
    INSERT INTO orders VALUES (4, 5, 6)";

fn table(entries: &[(&str, &str)]) -> toml::Table {
    entries.iter().map(|(name, text)| ((*name).to_owned(), toml::Value::from(*text))).collect()
}

/// The bytes of a key of small numbers behind the schema's id.
fn int_key(values: &[u8]) -> Vec<u8> {
    values.iter().map(|value| value * 2).collect()
}

fn keys(scenario: &Scenario, table: &str) -> BTreeSet<Vec<u8>> {
    let records = scenario.topics().read(table);
    records.iter().filter_map(|record| record.key.as_ref()).map(|key| key[5..].to_vec()).collect()
}

async fn primary_key(scenario: &Scenario, table: &str) -> Option<String> {
    let sql = format!(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype = 'p'"
    );
    scenario.target_value(&sql).await
}

async fn await_stopped(scenario: &Scenario, reason: &str) {
    let says = async || scenario.readiness("capture").await.1.contains(reason);
    await_condition(&format!("capture says: {reason}"), LIMIT, says).await;
}

/// Rows that are known by another unique key, by a part of their replica identity, and by one column more; also where they are read beside the
/// stream, and where their table joins.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_the_columns_of_the_configuration() {
    let mut scenario = Scenario::new("key_columns").await;
    scenario.source(TABLES).await;
    let mut columns = vec![("seats", "badge"), ("public.parts", "id"), ("public.orders", "tenant, id")];
    scenario.settings.set("capture.key_columns", table(&columns));
    let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(report.code, Some(0), "{}", report.text);

    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source(CHANGES).await;
    let mut tables = vec!["seats", "parts", "orders"];
    for table in &tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    for (table, key) in [("seats", "badge"), ("parts", "id"), ("orders", "id, tenant")] {
        assert_eq!(primary_key(&scenario, table).await.as_deref(), Some(&*format!("PRIMARY KEY ({key})")), "{table}");
    }
    // A row whose primary key moves keeps its key, and one that comes to another tenant does not.
    assert!(keys(&scenario, "public.seats").contains(&int_key(&[19])));
    assert!(keys(&scenario, "public.parts").contains(&int_key(&[5])));
    let of_order = keys(&scenario, "public.orders").into_iter().filter(|key| key[..1] == int_key(&[5]));
    assert_eq!(of_order.collect::<BTreeSet<_>>(), BTreeSet::from([int_key(&[5, 0]), int_key(&[5, 9])]));

    // Killed, and read again while the stream goes on; another table comes, which no primary key would let in.
    capture.kill_9().expect("capture can be killed");
    let later = "CREATE TABLE later (code int NOT NULL, other int NOT NULL, n int); CREATE UNIQUE INDEX ON later (code);
        CREATE UNIQUE INDEX ON later (other); ALTER TABLE later REPLICA IDENTITY FULL; INSERT INTO later VALUES (1, 2, 3), (2, 3, 4)";
    scenario.source(later).await;
    scenario.source("UPDATE seats SET who = 'third' WHERE seat = 3; DELETE FROM parts WHERE id = 1").await;
    columns.push(("later", "other"));
    scenario.settings.set("capture.key_columns", table(&columns));
    let _capture = scenario.capture().await;
    let ghosts = "UPDATE seats SET who = 'by hand' WHERE seat = 9; DELETE FROM seats WHERE seat = 7;
        INSERT INTO seats VALUES (9, 1, 99, 'ghost'); UPDATE parts SET n = 9; INSERT INTO orders VALUES (99, 1, 2)";
    scenario.target(ghosts).await;
    let asked =
        tokio::task::block_in_place(|| scenario.run(&["resync", "public.seats", "public.parts", "public.orders"]));
    assert_eq!(asked.code, Some(0), "{}", asked.text);
    scenario
        .source("UPDATE parts SET at = at + 1 WHERE id % 2 = 0; UPDATE seats SET hall = 8 WHERE seat % 2 = 0")
        .await;
    scenario.source("UPDATE later SET n = 9 WHERE code = 1; DELETE FROM later WHERE code = 2").await;
    tables.push("later");
    for table in tables {
        scenario.await_equal(table).await;
    }
    assert_eq!(primary_key(&scenario, "later").await.as_deref(), Some("PRIMARY KEY (other)"));
    scenario.verify();
}

/// What would leave changes without a key, or let one row take another's, is refused before anything is created.
#[tokio::test(flavor = "multi_thread")]
async fn key_columns_that_rows_are_not_told_apart_by_are_refused() {
    let mut scenario = Scenario::new("key_columns_bad").await;
    let tables = "CREATE TABLE seats (hall int, seat int, badge int NOT NULL UNIQUE, PRIMARY KEY (hall, seat));
        CREATE TABLE others (id int PRIMARY KEY, n int UNIQUE, tenant int NOT NULL);
        ALTER TABLE others REPLICA IDENTITY FULL;
        CREATE TABLE root (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (100)";
    scenario.source(tables).await;
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", scenario.name);
    let mut refused = async |columns: (&str, &str), reason: &str, remedy: &str| {
        scenario.settings.set("capture.key_columns", table(&[columns]));
        let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
        let outcome = scenario.run_to_end("capture").await;
        for text in [reason, remedy] {
            assert!(report.code != Some(0) && report.text.contains(text), "{text}: {}", report.text);
            assert!(outcome.code != Some(0) && outcome.text.contains(text), "{text}: {}", outcome.text);
        }
        assert_eq!(scenario.source_value(&slots).await.as_deref(), Some("0"), "a slot was created");
    };
    refused(("seats", "badge"), "which the replica identity leaves out", "REPLICA IDENTITY FULL").await;
    refused(("others", "n"), "which may be NULL", "SET NOT NULL").await;
    refused(("others", "none"), "which is no published column", "without quotes").await;
    refused(("others", "tenant"), "no unique index is within capture.key_columns (tenant)", "CREATE UNIQUE INDEX")
        .await;
    refused(("root", "at, id"), "a partitioned table", "Remove it").await;
    refused(("other", "id"), "public.other, which is no captured table", "schema.table").await;
}

/// Rows must not lie under other keys than before: as for every other key, a topic keeps its own until there is a new snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn other_key_columns_stop_the_table_until_they_are_set_back() {
    let mut scenario = Scenario::new("key_columns_other").await;
    scenario.source(TABLES).await;
    let columns = table(&[("seats", "badge"), ("parts", "id"), ("orders", "tenant, id"), ("quiet", "n, id")]);
    scenario.settings.set("capture.key_columns", columns.clone());
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let tables = ["seats", "parts", "orders"];
    for table in tables {
        scenario.await_equal(table).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario
        .settings
        .set("capture.key_columns", table(&[("parts", "id"), ("orders", "id, tenant"), ("quiet", "n, id")]));
    let mut capture = scenario.capture().await;
    scenario.source(CHANGES).await;
    for table in ["parts", "orders"] {
        scenario.await_equal(table).await;
    }
    await_stopped(&scenario, "public.seats").await;
    let first = "SELECT count(*) FROM seats WHERE who = 'first'";
    assert_eq!(scenario.target_value(first).await.as_deref(), Some("40"), "something came under another key");
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.key_columns", columns);
    let _capture = scenario.capture().await;
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();

    // What no longer tells rows apart stops its table: an index that is gone, a NULL, and old rows that lack the key.
    let before = scenario.target_value("SELECT count(*) FROM seats").await;
    scenario.source("ALTER TABLE orders DROP CONSTRAINT orders_pkey; INSERT INTO orders VALUES (4, 7, 7)").await;
    await_stopped(&scenario, "public.orders: no unique index is within").await;
    scenario.source("ALTER TABLE quiet DROP CONSTRAINT quiet_pkey; INSERT INTO quiet VALUES (1, 2)").await;
    await_stopped(&scenario, "public.quiet: no unique index is within").await;
    scenario.source("ALTER TABLE parts REPLICA IDENTITY NOTHING; INSERT INTO parts VALUES (200, 8)").await;
    await_stopped(&scenario, "public.parts: capture.key_columns names id, which the replica identity leaves out").await;
    scenario.source("ALTER TABLE seats ALTER badge DROP NOT NULL; INSERT INTO seats VALUES (9, 1), (9, 2)").await;
    await_stopped(&scenario, "public.seats").await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM seats").await, before);
    assert_eq!(scenario.target_value("SELECT count(*) FROM orders WHERE tenant = 7").await.as_deref(), Some("0"));
}
