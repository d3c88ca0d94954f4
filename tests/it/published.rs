//! Which tables a publication has is read as the server's own view tells it, and waits for no table.

use walrelay::source::{catalog, key_columns::KeyColumns};

use crate::support::{LIMIT, Scenario, await_condition};

const TABLES: &str = "CREATE SCHEMA plain; CREATE SCHEMA \"Odd. schema\"; CREATE SCHEMA parts;
    CREATE TABLE plain.a (id int PRIMARY KEY, secret text, twice int GENERATED ALWAYS AS (id * 2) STORED, n int DEFAULT 5);
    ALTER TABLE plain.a DROP COLUMN n;
    CREATE TABLE plain.\"B b\" (\"Id\" int PRIMARY KEY, \"o'dd\" text);
    CREATE UNLOGGED TABLE plain.fleeting (id int PRIMARY KEY);
    CREATE VIEW plain.seen AS SELECT * FROM plain.a; CREATE MATERIALIZED VIEW plain.kept AS SELECT * FROM plain.a;
    CREATE SEQUENCE plain.counts;
    CREATE TABLE \"Odd. schema\".c (id int PRIMARY KEY); CREATE TABLE \"Odd. schema\".none ();
    CREATE TABLE plain.parent (id int); CREATE TABLE plain.child (more int) INHERITS (plain.parent);
    CREATE TABLE plain.root (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE parts.one PARTITION OF plain.root FOR VALUES IN (1);
    CREATE TABLE parts.more PARTITION OF plain.root FOR VALUES IN (2, 3) PARTITION BY RANGE (id);
    CREATE TABLE plain.deep PARTITION OF parts.more FOR VALUES FROM (0) TO (100);
    CREATE TABLE plain.rootless (id int PRIMARY KEY) PARTITION BY HASH (id)";

/// What follows `FOR`, for a publication without and with `publish_via_partition_root`.
const PUBLICATIONS: [&str; 14] = [
    "ALL TABLES",
    "TABLE plain.a, plain.\"B b\", \"Odd. schema\".none",
    "TABLE plain.a (id, secret) WHERE (id > 3 AND secret IS DISTINCT FROM 'a''b'), plain.\"B b\" (\"Id\")",
    "TABLE plain.root",
    "TABLE plain.root, parts.one",
    "TABLE parts.more, plain.deep",
    "TABLE plain.root WHERE (id > 1), parts.one (id, part)",
    "TABLE ONLY plain.parent",
    "TABLE plain.parent",
    "TABLE plain.rootless",
    "TABLES IN SCHEMA plain",
    "TABLES IN SCHEMA parts",
    "TABLES IN SCHEMA plain, parts, \"Odd. schema\"",
    "TABLES IN SCHEMA parts, TABLE plain.root, plain.a WHERE (id = 1)",
];

/// The view is the oracle: tables, columns that come, and row filters.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_has_the_tables_that_the_server_says() {
    let scenario = Scenario::new("published").await;
    scenario.source(TABLES).await;
    let admin = scenario.parts.source.connect(&scenario.name, "postgres", "").await.unwrap();
    let client = catalog::connect(&scenario.source_settings(), "test").await.unwrap();
    let view = "SELECT p.schemaname::text, p.tablename::text,
            ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND coalesce(to_jsonb(p) -> 'attnames' ? a.attname::text, true)
                AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000) ORDER BY a.attnum),
            to_jsonb(p) ->> 'rowfilter'
        FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = $1 ORDER BY 1, 2";
    let mut tables = 0;
    for (number, what) in PUBLICATIONS.iter().enumerate() {
        for root in [false, true] {
            let sql = format!(
                "DROP PUBLICATION IF EXISTS p{number};
                 CREATE PUBLICATION p{number} FOR {what} WITH (publish_via_partition_root = {root})"
            );
            if let Err(error) = admin.batch_execute(&sql).await {
                // Before 15 there are neither schemas nor filters nor lists, and a root has none where its partitions are published.
                let is_refused = client.server_version() < 150_000 || !root && what.contains("WHERE");
                assert!(is_refused, "{what}: {}", error.as_db_error().map_or("no answer", |error| error.message()));
                continue;
            }
            let name = format!("p{number}");
            let rows = client.query(view, &[&name]).await.unwrap();
            let expected: Vec<(String, String, Vec<String>, Option<String>)> =
                rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
            let read = catalog::read(&client, &name, &KeyColumns::default()).await.unwrap();
            let mut found: Vec<_> = read
                .tables
                .into_iter()
                .map(|table| {
                    let columns = table.relation.columns.iter().map(|column| column.name.to_string()).collect();
                    let name = table.relation.name;
                    (name.schema.to_string(), name.table.to_string(), columns, table.row_filter)
                })
                .collect();
            found.sort();
            let mut sorted = expected.clone();
            sorted.sort();
            // Before 15 the view has a partition twice that is listed beside its root.
            sorted.dedup();
            assert_eq!(found, sorted, "{what}, publish_via_partition_root = {root}");
            tables += found.len();
        }
    }
    let least = if client.server_version() < 150_000 { 30 } else { 40 };
    assert!(tables > least, "{tables} tables were compared");
}

/// Trap T34: columns and rows that are not wanted never come to Kafka, neither by the snapshot nor by the stream, and an update brings a row
/// into a filter, or out of it; another wish later is told.
#[tokio::test(flavor = "multi_thread")]
async fn column_lists_and_row_filters_of_the_configuration_are_the_publications() {
    let mut scenario = Scenario::new("shaped").await;
    let tables = "CREATE TABLE users (id int PRIMARY KEY, secret text, \"E-mail\" text, country text);
        CREATE TABLE orders (id int PRIMARY KEY, region text NOT NULL, n int);
        ALTER TABLE orders REPLICA IDENTITY FULL; CREATE TABLE rest (id int PRIMARY KEY, secret text)";
    scenario.source(tables).await;
    let rows = |from: i32| {
        format!(
            "INSERT INTO users SELECT i, 'hidden', i || '@x', 'de' FROM generate_series({from}, {from} + 9) i;
             INSERT INTO orders SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, i FROM generate_series({from}, {from} + 9) i;
             INSERT INTO rest SELECT i, 'shown' FROM generate_series({from}, {from} + 9) i"
        )
    };
    scenario.source(&rows(1)).await;
    scenario.settings.set("capture.column_lists", table("public.users", "id, country, E-mail"));
    scenario.settings.set("capture.row_filters", table("public.orders", "region = 'eu' -- not the others"));
    if are_refused_before_15(&scenario).await {
        return;
    }
    let mut capture = scenario.capture().await;
    let _apply = scenario.apply().await;
    scenario.source(&rows(11)).await;
    scenario.source("UPDATE orders SET region = 'us' WHERE id = 4; UPDATE orders SET region = 'eu' WHERE id = 5").await;
    scenario.source("UPDATE users SET secret = 'more' WHERE id = 3").await;
    scenario.await_equal("rest").await;
    scenario
        .await_target("SELECT string_agg(id::text, ' ' ORDER BY id) FROM orders", "2 5 6 8 10 12 14 16 18 20")
        .await;
    scenario
        .await_target("SELECT string_agg(\"E-mail\" || country, ' ') FROM users WHERE id IN (3, 13)", "3@xde 13@xde")
        .await;
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attname::text COLLATE \"C\") FROM pg_attribute
        WHERE attrelid = 'users'::regclass AND attnum > 0";
    assert_eq!(scenario.target_value(columns).await.as_deref(), Some("E-mail country id"));
    assert!(
        !scenario.topics().read("public.users").iter().any(|record| record.holds("hidden") || record.holds("more"))
    );
    scenario.verify();

    // The next start finds the same, spelt by the server; another one is told before anything is published.
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let report = check(&scenario);
    assert!(!report.contains("column list"), "{report}");
    // What is to stay at the source from now on is not published because the slot goes on.
    scenario.settings.set("capture.column_lists", table("public.users", "id, E-mail"));
    scenario.source("INSERT INTO users VALUES (99, 'hidden', '99@x', 'fr')").await;
    let outcome = scenario.run_to_end("capture").await;
    assert!(outcome.code != Some(0) && outcome.text.contains("another column list or row filter"), "{}", outcome.text);
    scenario.settings.set("capture.column_lists", table("public.users", "country, id, E-mail"));
    let mut capture = scenario.capture().await;
    scenario.await_target("SELECT country FROM users WHERE id = 99", "fr").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.row_filters", table("public.orders", "region = 'us'"));
    let report = check(&scenario);
    assert!(report.contains("another column list or row filter") && report.contains("ADD TABLE"), "{report}");
    scenario.settings.set("capture.row_filters", table("public.none", "true"));
    let report = check(&scenario);
    assert!(report.contains("public.none, which is no captured table"), "{report}");
}

/// A publication can make the source's own statements fail: nothing of the kind is created.
#[tokio::test(flavor = "multi_thread")]
async fn lists_and_filters_that_would_make_updates_fail_at_the_source_are_refused() {
    let mut scenario = Scenario::new("blocking").await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, n int, body text); INSERT INTO things VALUES (1, 1, 'a')")
        .await;
    scenario.source("CREATE TABLE whole (id int, n int); ALTER TABLE whole REPLICA IDENTITY FULL").await;
    scenario.source("CREATE TABLE including (id int, n int, PRIMARY KEY (id) INCLUDE (n))").await;
    let parts = "CREATE TABLE parts (id int, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE leaf PARTITION OF parts FOR VALUES FROM (0) TO (9); ALTER TABLE parts REPLICA IDENTITY FULL";
    scenario.source(parts).await;
    scenario.settings.set("capture.row_filters", table("public.things", "id > 0"));
    if are_refused_before_15(&scenario).await {
        return;
    }
    let none = toml::Table::new;
    for (lists, filters, reason) in [
        (table("public.things", "n, body"), none(), "lacks id of the replica identity"),
        (none(), table("public.things", "n > 0"), "its row filter has n"),
        (table("public.things", "id, n"), table("public.things", "id > 0 AND n > 0"), "its row filter has n"),
        (table("public.whole", "id"), none(), "does not go with REPLICA IDENTITY FULL"),
        // What a key only includes is no part of the identity, and of a partitioned table the partitions' identities count.
        (none(), table("public.including", "n > 0"), "its row filter has n"),
        (
            none(),
            table("public.parts", "n > 0"),
            "its row filter has n, which the replica identity has not (a partition of public.parts)",
        ),
    ] {
        scenario.settings.set("capture.column_lists", lists);
        scenario.settings.set("capture.row_filters", filters);
        let report = check(&scenario);
        assert!(report.contains(reason), "{reason}: {report}");
        let outcome = scenario.run_to_end("capture").await;
        assert!(outcome.code != Some(0) && outcome.text.contains(reason), "{reason}: {}", outcome.text);
        assert_eq!(scenario.source_value("SELECT count(*)::text FROM pg_publication").await.as_deref(), Some("0"));
    }
    scenario.source("UPDATE things SET body = 'b'").await;
    scenario.settings.set("capture.column_lists", table("public.things", "id, n"));
    scenario.settings.set("capture.row_filters", table("public.things", "id > 0"));
    let _capture = scenario.capture().await;
    scenario.source("UPDATE things SET body = 'c', n = 2; INSERT INTO things VALUES (0, 0, 'd'), (2, 3, 'e')").await;
    let _apply = scenario.apply().await;
    scenario.await_target("SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM things", "1 2, 2 3").await;
}

/// Tables that the server lets be updated only while no publication has them, with what is said of each.
const BLIND: &str = "CREATE TABLE keyless (id int, n int); CREATE TABLE silent (id int PRIMARY KEY, n int);
    ALTER TABLE silent REPLICA IDENTITY NOTHING; CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, n int);
    CREATE TABLE chosen (id int NOT NULL, n int); CREATE UNIQUE INDEX of_chosen ON chosen (id);
    ALTER TABLE chosen REPLICA IDENTITY USING INDEX of_chosen; DROP INDEX of_chosen;
    CREATE TABLE parts (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
    CREATE TABLE leaf PARTITION OF parts FOR VALUES FROM (0) TO (9); ALTER TABLE leaf REPLICA IDENTITY NOTHING;
    CREATE TABLE loose (id int, n int) PARTITION BY RANGE (id); CREATE TABLE loose_leaf PARTITION OF loose FOR VALUES FROM (0) TO (9)";
const BLINDNESS: [(&str, &str); 6] = [
    ("loose", "public.loose has no primary key"),
    ("keyless", "public.keyless has no primary key"),
    ("silent", "public.silent has REPLICA IDENTITY NOTHING"),
    ("late", "public.late has a deferrable key"),
    ("chosen", "public.chosen lost its identity index"),
    (
        "parts",
        "public.leaf has REPLICA IDENTITY NOTHING: the source refuses UPDATE and DELETE (a partition of public.parts)",
    ),
];

/// Trap T31: to be captured must not break the application.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_publishes_no_table_whose_updates_the_source_would_refuse() {
    let mut scenario = Scenario::new("blind").await;
    scenario.source("CREATE TABLE sound (id int PRIMARY KEY, n int); CREATE TABLE whole (id int, n int)").await;
    scenario.source("ALTER TABLE whole REPLICA IDENTITY FULL").await;
    scenario.source(BLIND).await;
    let tables = BLINDNESS.map(|(table, _)| table);
    for table in tables.iter().chain(&["sound", "whole"]) {
        scenario.source(&format!("INSERT INTO {table} VALUES (1, 1), (2, 2)")).await;
    }
    scenario.settings.set("capture.unidentified", "refuse");
    let report = check(&scenario);
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in BLINDNESS.iter().map(|(_, text)| *text).chain(["capture.unidentified", "capture.exclude"]) {
        assert!(outcome.text.contains(text) && report.contains(text), "{text}: {}\n{report}", outcome.text);
    }
    for sound in ["public.sound", "public.whole"] {
        assert!(!outcome.text.contains(sound), "{sound}: {}", outcome.text);
    }
    assert_eq!(scenario.source_value("SELECT count(*)::text FROM pg_publication").await.as_deref(), Some("0"));

    // The server agrees on each: it refuses what it did not refuse before.
    for table in tables {
        scenario
            .source(&format!("UPDATE {table} SET n = n + 1 WHERE id = 1; CREATE PUBLICATION one FOR TABLE {table}"))
            .await;
        let session = scenario.source_session().await;
        let error = session.batch_execute(&format!("UPDATE {table} SET n = 9")).await.expect_err(table);
        assert_eq!(error.code().map(|code| code.code()), Some("55000"), "{table}");
        scenario.source("DROP PUBLICATION one").await;
    }

    scenario.settings.set("capture.unidentified", "full");
    let _capture = scenario.capture().await;
    let _apply = scenario.apply().await;
    for table in tables.iter().chain(&["sound", "whole"]) {
        scenario.source(&format!("UPDATE {table} SET n = 7 WHERE id = 1; INSERT INTO {table} VALUES (5, 5)")).await;
        scenario.source(&format!("DELETE FROM {table} WHERE id = 2")).await;
        scenario.await_equal(table).await;
    }
    // Where the constraint is checked late, rows exchange their keys and are alike in between: the first one's delete is not the second one's.
    scenario.source("INSERT INTO late VALUES (7, 7), (8, 8)").await;
    scenario.source("UPDATE late SET id = id + 1 WHERE id > 5; INSERT INTO sound VALUES (9, 9)").await;
    scenario.await_equal("sound").await;
    scenario
        .await_target("SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM late WHERE id > 5", "8 7, 9 8")
        .await;
    // Whatever told rows apart before does it still, or again.
    let full = "SELECT string_agg(relname::text, ' ' ORDER BY relname::text COLLATE \"C\") FROM pg_class WHERE relreplident = 'f'";
    assert_eq!(scenario.source_value(full).await.as_deref(), Some("chosen keyless late loose loose_leaf whole"));
}

/// Nor does a snapshot into a publication that is there, which the others do not have to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_there_gets_no_table_whose_updates_the_source_would_refuse() {
    let mut scenario = Scenario::new("blind").await;
    scenario
        .source("CREATE TABLE sound (id int PRIMARY KEY, n int); CREATE TABLE more (id int PRIMARY KEY, n int)")
        .await;
    scenario.source("CREATE TABLE keyless (id int, n int)").await;
    for table in ["sound", "more", "keyless"] {
        scenario.source(&format!("INSERT INTO {table} VALUES (1, 1)")).await;
    }
    let options = "publish_via_partition_root = true";
    scenario.source(&format!("CREATE PUBLICATION {} FOR TABLE sound WITH ({options})", scenario.name)).await;
    scenario.settings.set("capture.unidentified", "refuse");
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "values are asked for").await;
    let _apply = scenario.apply().await;
    for table in ["sound", "more", "keyless"] {
        scenario.source(&format!("UPDATE {table} SET n = 7")).await;
    }
    for table in ["sound", "more"] {
        scenario.await_equal(table).await;
    }
    let (status, text) = scenario.readiness("capture").await;
    assert!(status == 503 && text.contains("public.keyless") && !text.contains("public.more"), "{status} {text}");
    // Given a key, it comes as every later table does.
    scenario.source("ALTER TABLE keyless ADD PRIMARY KEY (id)").await;
    scenario.await_equal("keyless").await;
    await_condition("capture is ready", LIMIT, async || scenario.readiness("capture").await.0 == 200).await;
}

/// What somebody else has made of a publication is told before a secret leaves, whatever rights capture has.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_somebody_else_is_compared_with_lists_and_filters() {
    let mut scenario = Scenario::new("others").await;
    let tables = "CREATE TABLE users (id int PRIMARY KEY, secret text); INSERT INTO users VALUES (1, 'hidden');
        CREATE TABLE root (id int PRIMARY KEY, secret text) PARTITION BY RANGE (id);
        CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9); INSERT INTO root VALUES (1, 'hidden')";
    scenario.source(tables).await;
    let name = scenario.name.clone();
    scenario.settings.set("capture.column_lists", table("public.root", "id"));
    if are_refused_before_15(&scenario).await {
        return;
    }
    let refused = async |scenario: &Scenario, reason: &str| {
        let report = check(scenario);
        assert!(report.contains(reason), "{reason}: {report}");
        let outcome = scenario.run_to_end("capture").await;
        assert!(outcome.code != Some(0) && outcome.text.contains(reason), "{reason}: {}", outcome.text);
    };
    // Under the server's default of publish_via_partition_root the leaf is published, and not the root that has the entry.
    scenario.source(&format!("CREATE PUBLICATION {name} FOR TABLE root, users")).await;
    refused(&scenario, "another column list or row filter").await;
    scenario.source(&format!("DROP PUBLICATION {name}")).await;
    scenario.source_value_as_superuser(&format!("CREATE PUBLICATION {name} FOR ALL TABLES")).await;
    refused(&scenario, "with all tables").await;
    scenario.source_value_as_superuser(&format!("DROP PUBLICATION {name}")).await;
    scenario.settings.set("capture.column_lists", toml::Table::new());
    scenario.settings.set("capture.row_filters", table("public.users", "id > 1"));
    scenario.settings.set("capture.create_publication", false);
    let options = "publish_via_partition_root = true";
    scenario.source(&format!("CREATE PUBLICATION {name} FOR TABLE root, users WHERE (id > 0) WITH ({options})")).await;
    refused(&scenario, "another column list or row filter").await;
    scenario.source(&format!("ALTER PUBLICATION {name} SET TABLE root, users WHERE (id > 1)")).await;
    let mut capture = scenario.capture().await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    // A name that is no captured table's keeps nothing back, and is told though the slot goes on.
    scenario.settings.set("capture.column_lists", table("public.user", "id"));
    let _capture = scenario.spawn_capture();
    let told = async || scenario.page("capture", "/").await.contains("public.user");
    await_condition("the name is told", LIMIT, told).await;
}

/// Whether the server knows neither column lists nor row filters: then nothing is published without them, and `check` tells what to do.
async fn are_refused_before_15(scenario: &Scenario) -> bool {
    if !scenario.is_source_before(150_000).await {
        return false;
    }
    let reason = "and the server knows neither before PostgreSQL 15";
    let report = check(scenario);
    let outcome = scenario.run_to_end("capture").await;
    assert!(report.contains(reason), "{report}");
    assert!(outcome.code == Some(3) && outcome.text.contains(reason), "{:?}: {}", outcome.code, outcome.text);
    assert_eq!(scenario.source_value("SELECT count(*)::text FROM pg_publication").await.as_deref(), Some("0"));
    true
}

/// What `walrelay check` says.
fn check(scenario: &Scenario) -> String {
    tokio::task::block_in_place(|| scenario.run(&["check"])).text
}

fn table(name: &str, text: &str) -> toml::Table {
    toml::Table::from_iter([(name.to_owned(), toml::Value::from(text))])
}

/// A statement that has a table for hours holds up neither the start of a stream, nor the tables beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_statement_has_for_itself_does_not_hold_up_the_start_of_a_stream() {
    let scenario = Scenario::new("has_one").await;
    let tables = "CREATE TABLE free (id int PRIMARY KEY, n int DEFAULT 1);
        CREATE TABLE taken (id int PRIMARY KEY, n int DEFAULT 1);
        CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (100)";
    scenario.source(tables).await;
    scenario.source("INSERT INTO free VALUES (1); INSERT INTO taken VALUES (1); INSERT INTO root VALUES (1)").await;
    let _apply = scenario.spawn_apply();
    let mut capture = scenario.capture().await;
    for table in ["free", "taken", "root"] {
        scenario.await_equal(table).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source("INSERT INTO taken VALUES (2); INSERT INTO root VALUES (2)").await;
    let statement = scenario.source_session().await;
    statement.batch_execute("BEGIN; LOCK TABLE taken, leaf IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut capture = scenario.spawn_capture();
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source("INSERT INTO free VALUES (2)").await;
    for table in ["free", "root"] {
        let rows = format!("SELECT count(*) FROM {table}");
        await_condition(table, LIMIT, async || scenario.target_value(&rows).await.as_deref() == Some("2")).await;
    }
    statement.batch_execute("COMMIT").await.unwrap();
    scenario.await_equal("taken").await;
}
