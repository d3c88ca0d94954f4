//! Key columns by configuration: what tells rows apart where indexes do not, or are not to.

use std::collections::BTreeSet;

use crate::support::{LIMIT, Scenario, await_condition};

const TABLES: &str = "CREATE TABLE seats (hall int NOT NULL, seat int NOT NULL, who text);
    ALTER TABLE seats REPLICA IDENTITY FULL;
    CREATE TABLE parts (id int NOT NULL, at int NOT NULL, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000);
    CREATE TABLE orders (id int PRIMARY KEY, tenant int NOT NULL, n int);
    ALTER TABLE orders REPLICA IDENTITY FULL;
    INSERT INTO seats SELECT n % 5, n, 'first' FROM generate_series(1, 40) n;
    INSERT INTO parts SELECT n, n * 4, 0 FROM generate_series(1, 40) n;
    INSERT INTO orders SELECT n, n % 5, 0 FROM generate_series(1, 40) n";

/// Updates, deletes and moves of every table, in the midst of old values and in all columns of a key.
const CHANGES: &str = "UPDATE seats SET who = 'second' WHERE seat % 3 = 0; DELETE FROM seats WHERE seat % 4 = 0;
    UPDATE seats SET seat = seat + 100 WHERE seat % 5 = 0; INSERT INTO seats VALUES (7, 1, 'new'), (1, 2000, NULL);
    UPDATE parts SET n = 1 WHERE id % 3 = 0; DELETE FROM parts WHERE id % 4 = 0; UPDATE parts SET at = 1000 - at WHERE id % 5 = 0;
    UPDATE parts SET id = id + 100 WHERE id % 7 = 0; INSERT INTO parts VALUES (4, 5, 6);
    UPDATE orders SET n = 1 WHERE id % 3 = 0; DELETE FROM orders WHERE id % 4 = 0; UPDATE orders SET tenant = 9 WHERE id % 5 = 0;
    INSERT INTO orders VALUES (4, 5, 6)";

fn table(entries: &[(&str, &str)]) -> toml::Table {
    entries.iter().map(|(name, text)| ((*name).to_owned(), toml::Value::from(*text))).collect()
}

/// The bytes of a key of ints behind the schema's id.
fn int_key(values: &[i32]) -> Vec<u8> {
    let zigzag = |value: &i32| u8::try_from((value << 1) ^ (value >> 31)).expect("a small number");
    values.iter().map(zigzag).collect()
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

/// Rows without a unique index, rows that are known by a part of their primary key, and rows whose key is to have one column more.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_the_columns_of_the_configuration() {
    let mut scenario = Scenario::new("key_columns").await;
    scenario.source(TABLES).await;
    let columns = [("seats", "seat, hall"), ("public.parts", "id"), ("public.orders", "tenant, id")];
    scenario.settings.set("capture.key_columns", table(&columns));
    let report = tokio::task::block_in_place(|| scenario.run(&["check"])).text;
    assert_eq!(report.matches("no unique index says that rows differ in capture.key_columns").count(), 2, "{report}");
    assert!(report.contains("CREATE UNIQUE INDEX ON \"public\".\"seats\""), "{report}");

    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source(CHANGES).await;
    let tables = ["seats", "parts", "orders"];
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    for (table, key) in [("seats", "seat, hall"), ("parts", "id"), ("orders", "tenant, id")] {
        assert_eq!(primary_key(&scenario, table).await.as_deref(), Some(&*format!("PRIMARY KEY ({key})")), "{table}");
    }
    // A row that moves to another partition of its table keeps its key, and one that moves to another tenant does not.
    assert!(keys(&scenario, "public.seats").contains(&int_key(&[3, 3])));
    assert!(keys(&scenario, "public.parts").contains(&int_key(&[5])));
    let of_order: BTreeSet<_> =
        keys(&scenario, "public.orders").into_iter().filter(|key| key[1..] == int_key(&[5])).collect();
    assert_eq!(of_order, BTreeSet::from([int_key(&[0, 5]), int_key(&[9, 5])]));

    // Killed, and read again while the stream goes on.
    capture.kill_9().expect("capture can be killed");
    scenario.source("UPDATE seats SET who = 'third' WHERE seat = 3; DELETE FROM parts WHERE id = 1").await;
    let _capture = scenario.capture().await;
    scenario.target("UPDATE seats SET who = 'by hand' WHERE seat = 9; DELETE FROM seats WHERE seat = 7; INSERT INTO seats VALUES (9, 1, 'ghost')").await;
    let asked = tokio::task::block_in_place(|| scenario.run(&["resync", "public.seats"]));
    assert_eq!(asked.code, Some(0), "{}", asked.text);
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// What would leave changes without a key is refused before anything is created, and stops its table later.
#[tokio::test(flavor = "multi_thread")]
async fn key_columns_that_some_changes_would_not_have_are_refused() {
    let mut scenario = Scenario::new("key_columns_bad").await;
    let tables = "CREATE TABLE seats (hall int NOT NULL, seat int NOT NULL, who text);
        CREATE TABLE others (id int PRIMARY KEY, n int)";
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
    refused(("seats", "seat"), "which the replica identity leaves out", "REPLICA IDENTITY FULL").await;
    refused(("others", "n"), "which may be NULL", "SET NOT NULL").await;
    refused(("others", "none"), "which is no published column", "without quotes").await;
    refused(("other", "id"), "public.other, which is no captured table", "schema.table").await;

    scenario.source("ALTER TABLE seats REPLICA IDENTITY FULL; INSERT INTO seats VALUES (1, 1, 'a')").await;
    scenario.settings.set("capture.key_columns", table(&[("seats", "seat")]));
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO seats VALUES (1, 2, 'b'); INSERT INTO others VALUES (1, 1)").await;
    for table in ["seats", "others"] {
        scenario.await_equal(table).await;
    }
    let stopped = async |reason: &str| {
        let says = async || scenario.readiness("capture").await.1.contains(reason);
        await_condition(reason, LIMIT, says).await;
    };
    // A NULL has no place in a key.
    scenario
        .source("ALTER TABLE seats ALTER seat DROP NOT NULL; INSERT INTO seats VALUES (1, NULL, 'c'), (1, 3, 'd')")
        .await;
    scenario.source("INSERT INTO others VALUES (2, 2)").await;
    stopped("public.seats").await;
    scenario.await_equal("others").await;
    assert_eq!(scenario.target_value("SELECT count(*) FROM seats").await.as_deref(), Some("2"));
}

/// Rows must not lie under other keys than before: as for every other key, a topic keeps its own until there is a new snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn other_key_columns_stop_the_table_until_they_are_set_back() {
    let mut scenario = Scenario::new("key_columns_other").await;
    scenario.source(TABLES).await;
    let columns = table(&[("seats", "seat, hall"), ("parts", "id")]);
    scenario.settings.set("capture.key_columns", columns.clone());
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let tables = ["seats", "parts", "orders"];
    for table in tables {
        scenario.await_equal(table).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.key_columns", table(&[("parts", "id")]));
    let mut capture = scenario.capture().await;
    scenario.source(CHANGES).await;
    for table in ["parts", "orders"] {
        scenario.await_equal(table).await;
    }
    let stopped = async || scenario.readiness("capture").await.1.contains("public.seats");
    await_condition("the table whose key is another one is stopped", LIMIT, stopped).await;
    let first = "SELECT count(*) FROM seats WHERE who = 'first'";
    assert_eq!(scenario.target_value(first).await.as_deref(), Some("40"), "something came under another key");

    // Old rows that lack what the key is of stop it too, and what came before them goes on.
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.key_columns", columns);
    let _capture = scenario.capture().await;
    for table in tables {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    scenario.source("ALTER TABLE seats REPLICA IDENTITY NOTHING; INSERT INTO seats VALUES (8, 8, 'without')").await;
    let unfit = async || scenario.readiness("capture").await.1.contains("which the replica identity leaves out");
    await_condition("the table whose old rows lack the key is stopped", LIMIT, unfit).await;
}
