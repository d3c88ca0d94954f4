//! The snapshot in chunks, on several connections: every row once, whatever a table is made of and whatever happens to it meanwhile.

use std::collections::BTreeSet;

use walrelay::{
    schema::TableName,
    source::{
        self, catalog,
        key_columns::KeyColumns,
        snapshot::{CopyFormat, SnapshotReader},
    },
};

use crate::{
    gap::gated_registry,
    sink_support::Database,
    support::{Consumed, LIMIT, PrivateParts, Scenario, await_condition},
};

/// Text that TOAST stores out of line and cannot compress.
const LARGE_TEXT: &str = "(SELECT string_agg(md5(i::text || k::text), '') FROM generate_series(1, 150) k)";

/// A scenario whose snapshot is read in chunks of some blocks.
async fn scenario(name: &str, connections: i64) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.snapshot_connections", connections);
    scenario.settings.set("capture.snapshot_chunk_bytes", "64KiB");
    scenario
}

/// What the log says of the snapshot.
fn read_as(scenario: &Scenario, field: &str) -> u64 {
    let log = scenario.log_text("capture");
    let line = log.lines().find(|line| line.contains("reading the snapshot")).unwrap_or_else(|| panic!("{log}"));
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line} has no {field}"))
}

/// How many records have this mark: Avro writes a text behind its length, twice.
fn marked(records: &[Consumed], mark: &str) -> usize {
    let length = char::from(u8::try_from(2 * mark.len()).expect("a short text"));
    records.iter().filter(|record| record.holds(&format!("{length}{mark}"))).count()
}

/// Traps T20, T22, T27, T29, T33.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_many_chunks_come_once_and_whole_over_several_connections() {
    let scenario = scenario("chunks", 4).await;
    let sql = format!(
        "CREATE TABLE a_empty (id int PRIMARY KEY);
         CREATE TABLE big (id int PRIMARY KEY, n int, body text);
         INSERT INTO big SELECT i, 0, repeat('x', 80) FROM generate_series(1, 20000) i;
         UPDATE big SET n = 1 WHERE id % 3 = 0; DELETE FROM big WHERE id BETWEEN 5000 AND 9000;
         CREATE TABLE keyless (n int, body text);
         INSERT INTO keyless SELECT i % 50, repeat('y', 100) FROM generate_series(1, 4000) i;
         CREATE TABLE one (id int PRIMARY KEY); INSERT INTO one VALUES (1);
         CREATE TABLE toasted (id int PRIMARY KEY, body text);
         INSERT INTO toasted SELECT i, {LARGE_TEXT} FROM generate_series(1, 40) i;
         CREATE TABLE parts (id int, gone int, body text, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         ALTER TABLE parts DROP COLUMN gone;
         CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (3000);
         CREATE TABLE parts_high (n int, was text, id int NOT NULL, body text);
         ALTER TABLE parts_high DROP COLUMN was;
         ALTER TABLE parts ATTACH PARTITION parts_high FOR VALUES FROM (3000) TO (9000);
         INSERT INTO parts (id, body, n) SELECT i, repeat('z', 60), i FROM generate_series(1, 6000) i;"
    );
    scenario.source(&sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let tables = ["a_empty", "big", "keyless", "one", "parts", "toasted"];
    let mut all = Vec::new();
    for table in tables {
        if table == "parts" {
            // The target's table has the source's columns in the root's order.
            let sum = "SELECT count(*) || ' ' || sum(id) || ' ' || sum(n) || ' ' || sum(length(body)) FROM parts";
            let expected = scenario.source_value(sum).await.expect("a sum");
            scenario.await_target(sum, &expected).await;
        } else {
            scenario.await_equal(table).await;
        }
        let rows = scenario.source_value(&format!("SELECT count(*) FROM {table}")).await.expect("a count");
        let records = scenario.topics().read(&format!("public.{table}"));
        assert_eq!(records.len().to_string(), rows, "records of {table}");
        assert!(table == "keyless" || distinct(&records) == records.len(), "a row of {table} came twice");
        let ends = ["first_in_data_collection", "last_in_data_collection"].map(|mark| marked(&records, mark));
        let expected = match table {
            "a_empty" => [0, 0],
            "one" => [0, 1],
            // Tables without key come first, and its first row is the first of all.
            "keyless" => [0, 1],
            // The last row of all is in the last table that has any.
            "toasted" => [1, 0],
            _ => [1, 1],
        };
        assert_eq!(ends, expected, "first and last rows of {table}");
        all.extend(records);
    }
    assert_eq!((marked(&all, "first"), marked(&all, "last")), (1, 1));
    let samples = scenario.metrics("capture").await;
    let chunks = |state| samples.sum_where("walrelay_capture_snapshot_chunks", "state", state);
    assert!(chunks("planned") > 50.0 && chunks("planned") - chunks("acknowledged") < 0.5, "{}", chunks("acknowledged"));
    assert_eq!(read_as(&scenario, "connections"), 4);
    assert!(read_as(&scenario, "chunks") > 50, "{}", read_as(&scenario, "chunks"));
    scenario.source("INSERT INTO parts (id, n) VALUES (7000, 1); UPDATE big SET n = 7 WHERE id % 100 = 1").await;
    scenario.await_equal("big").await;
    scenario.verify();
}

fn distinct(records: &[Consumed]) -> usize {
    records.iter().map(|record| &record.key).collect::<BTreeSet<_>>().len()
}

/// Traps T20, T21, T22: rows that are written meanwhile come by the stream, and none is lost or comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_grows_and_changes_while_it_is_read_is_equal_in_the_end() {
    let scenario = scenario("growing", 3).await;
    scenario
        .source(
            "CREATE TABLE big (id int PRIMARY KEY, n int, body text);
             INSERT INTO big SELECT i, 0, repeat('x', 200) FROM generate_series(1, 30000) i",
        )
        .await;
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "reading the snapshot").await;
    for round in 0..20 {
        let first = 30_000 + round * 500;
        let sql = format!(
            "INSERT INTO big SELECT i, {round}, repeat('y', 200) FROM generate_series({first} + 1, {first} + 500) i;
             UPDATE big SET n = n + 1 WHERE id % 20 = {round}; DELETE FROM big WHERE id % 100 = {round};"
        );
        scenario.source(&sql).await;
    }
    let _apply = scenario.apply().await;
    scenario.await_equal("big").await;
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.verify();
}

/// Trap T23.
#[tokio::test(flavor = "multi_thread")]
async fn row_filter_and_column_list_of_a_root_hold_for_its_leaves() {
    let mut scenario = scenario("filtered", 2).await;
    if scenario.is_source_before(150_000).await {
        // It knows neither.
        return;
    }
    let sql = format!(
        r#"CREATE TABLE "Parts" (id int, n int, body text, secret text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
           CREATE TABLE low PARTITION OF "Parts" FOR VALUES FROM (0) TO (3000);
           CREATE TABLE high (secret text, body text, id int NOT NULL, n int);
           ALTER TABLE "Parts" ATTACH PARTITION high FOR VALUES FROM (3000) TO (9000);
           INSERT INTO "Parts" SELECT i, i % 10, repeat('z', 60), 'hidden' FROM generate_series(1, 6000) i;
           CREATE PUBLICATION {} FOR TABLE "Parts" (id, n, body) WHERE (n > 6 OR id < 10) WITH (publish_via_partition_root)"#,
        scenario.name
    );
    scenario.source(&sql).await;
    scenario.settings.set("capture.create_publication", false);
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let digest = r#"SELECT count(*) || md5(string_agg(id || ' ' || n || ' ' || body, ',' ORDER BY id)) FROM "Parts""#;
    let expected = scenario.source_value(&format!("{digest} WHERE n > 6 OR id < 10")).await.expect("a digest");
    scenario.await_target(digest, &expected).await;
    let records = scenario.topics().read("public.Parts");
    assert!(records.len() > 1000 && records.iter().all(|record| !record.holds("hidden")));
    assert!(read_as(&scenario, "chunks") > 4, "{}", read_as(&scenario, "chunks"));
}

/// The root's grants are enough, and tables that are no heap are read as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_may_not_be_read_and_other_access_methods_are_read_as_a_whole() {
    let scenario = scenario("whole", 2).await;
    scenario.source_value_as_superuser("CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler").await;
    scenario
        .source(
            "CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (3000);
             CREATE TABLE high PARTITION OF parts FOR VALUES FROM (3000) TO (9000);
             INSERT INTO parts SELECT i, repeat('z', 60) FROM generate_series(1, 6000) i;
             CREATE TABLE strange (id int PRIMARY KEY, body text) USING other;
             INSERT INTO strange SELECT * FROM parts",
        )
        .await;
    let owner = "ALTER TABLE high OWNER TO postgres; REVOKE ALL ON high FROM PUBLIC";
    scenario.source_value_as_superuser(owner).await;
    assert_eq!(scenario.source_value("SELECT count(*) FROM high").await, None, "the leaf may not be read");
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["parts", "strange"] {
        scenario.await_equal(table).await;
        assert_eq!(scenario.topics().read(&format!("public.{table}")).len(), 6000);
    }
    assert_eq!(read_as(&scenario, "chunks"), 2);
}

/// What the log says how a table was read.
fn copied_as(scenario: &Scenario, table: &str) -> String {
    let log = scenario.log_text("capture");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("snapshot of table read")).collect();
    let line = lines.iter().find(|line| line.contains(&format!("table=public.{table} "))).expect("the table was read");
    line.split_once("copy=").expect("a format").1.trim().to_owned()
}

/// A table with a type that is not read in binary leaves the others as they are; the stream asks for text for all.
#[tokio::test(flavor = "multi_thread")]
async fn each_table_is_read_in_binary_where_all_its_columns_are() {
    let scenario = scenario("copied", 2).await;
    let columns = "id int PRIMARY KEY, n numeric, t text, at timestamptz, tags text[]";
    let rows = r#"SELECT i, i / 7.0, E'\N	' || i, to_timestamp(i / 3.0), ARRAY['a"', NULL] FROM generate_series(1, 900) i
                  UNION ALL SELECT 0, NULL, NULL, 'infinity', NULL"#;
    scenario
        .source(&format!(
            "CREATE TABLE plain ({columns}); INSERT INTO plain {rows};
             CREATE TABLE special ({columns}, x xml); INSERT INTO special SELECT *, '<a/>' FROM plain"
        ))
        .await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["plain", "special"] {
        scenario.await_equal(table).await;
    }
    assert_eq!(["plain", "special"].map(|table| copied_as(&scenario, table)), [r#""binary""#, r#""text""#]);

    let mut as_text = Scenario::new("as_text").await;
    as_text.settings.set("capture.binary", false);
    as_text.source(&format!("CREATE TABLE plain ({columns}); INSERT INTO plain {rows}")).await;
    let (_capture, _apply) = (as_text.capture().await, as_text.apply().await);
    as_text.await_equal("plain").await;
    assert_eq!(copied_as(&as_text, "plain"), r#""text""#);
}

/// Rows show several connections that the catalog's word does not hold: the version is made once for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_beyond_the_catalog_widen_their_table_for_all_connections() {
    let mut scenario = scenario("beyond", 4).await;
    scenario.settings.set("format.nullability", "source");
    scenario
        .source(
            "CREATE DOMAIN whole AS int NOT NULL;
             CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL, body text);
             INSERT INTO things SELECT i, i, repeat('x', 100) FROM generate_series(1, 10000) i;",
        )
        .await;
    // As pg_dump restores it: a constraint that is not checked for the rows that are there.
    let unchecked = "UPDATE pg_attribute SET attnotnull = false WHERE attrelid = 'things'::regclass AND attname = 'n'; \
                     UPDATE things SET n = NULL WHERE id % 3 = 0; \
                     UPDATE pg_attribute SET attnotnull = true WHERE attrelid = 'things'::regclass AND attname = 'n'";
    scenario.source_value_as_superuser(unchecked).await;
    scenario.target("CREATE TABLE things (id int PRIMARY KEY, n int, body text)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    assert_eq!(scenario.topics().read("public.things").len(), 10_000);
}

/// A table of rows at the target's server, and a snapshot that another session keeps.
struct Exported {
    db: Database,
    keeper: walrelay::postgres::Client,
    name: String,
}

impl Exported {
    async fn of(sql: &str) -> Self {
        let db = Database::create().await;
        db.run(sql).await;
        let keeper = catalog::connect(&db.settings, "walrelay test").await.unwrap();
        keeper.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        let name = keeper.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
        Self { db, keeper, name }
    }

    /// Exports another snapshot in place of this one.
    async fn again(&mut self) {
        self.keeper.batch_execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        self.name = self.keeper.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    }

    async fn tables(&self, names: &[&str]) -> Vec<catalog::PublishedTable> {
        let names: Vec<_> = names.iter().map(|name| TableName::new("public", *name)).collect();
        let client = catalog::connect(&self.db.settings, "walrelay test").await.unwrap();
        catalog::preview(&client, &names, &KeyColumns::default()).await.unwrap().tables
    }

    async fn reader(&self) -> SnapshotReader {
        SnapshotReader::open(&self.db.settings, &self.name, 1 << 20).await.unwrap()
    }
}

/// Trap T79: between the snapshot and the locks a table may get another file, which holds none of the snapshot's rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_rewritten_or_truncated_since_the_snapshot_is_not_read() {
    let create = "CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things SELECT generate_series(1, 100);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (200);
         INSERT INTO parts SELECT * FROM things;
         CREATE TABLE loose (id int NOT NULL); INSERT INTO loose VALUES (250)";
    let changes = [
        "TRUNCATE things",
        "VACUUM FULL things",
        "ALTER TABLE things ALTER id TYPE bigint",
        "TRUNCATE high",
        "ALTER TABLE parts DETACH PARTITION high",
        "DROP TABLE high",
        "ALTER TABLE parts ATTACH PARTITION loose FOR VALUES FROM (200) TO (300)",
    ];
    for change in changes {
        let exported = Exported::of(create).await;
        let tables = exported.tables(&["things", "parts"]).await;
        exported.db.run(change).await;
        let reader = exported.reader().await;
        reader.lock(&tables).await.unwrap();
        let planned = reader.plan(&tables, 8192).await;
        assert!(matches!(planned, Err(source::Error::Rewritten { .. })), "{change}: {planned:?}");
    }
    let exported = Exported::of(create).await;
    let tables = exported.tables(&["things", "parts"]).await;
    exported.db.run("DELETE FROM things; DELETE FROM parts; ALTER TABLE low RENAME TO lower").await;
    exported.db.run("VACUUM things").await;
    let reader = exported.reader().await;
    reader.lock(&tables).await.unwrap();
    let mut rows = 0;
    for chunk in reader.plan(&tables, 8192).await.unwrap() {
        let mut chunk = reader.read(&tables[chunk.table], &chunk, CopyFormat::Binary).await.unwrap();
        while let Some(batch) = chunk.next().await.unwrap() {
            rows += batch.rows.len();
        }
    }
    assert_eq!(rows, 200, "deleted and renamed since, which the snapshot does not show");
}

/// A partition that is being detached is none any more for the root, nor for the stream; it stays in the catalog as long as its
/// statement is not repeated with FINALIZE.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_detaching_was_interrupted_is_left_out() {
    let mut exported = Exported::of(
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (200);
         INSERT INTO parts SELECT generate_series(1, 100)",
    )
    .await;
    let holder = catalog::connect(&exported.db.settings, "walrelay test").await.unwrap();
    holder.batch_execute("BEGIN; SELECT * FROM public.parts").await.unwrap();
    let other = catalog::connect(&exported.db.settings, "walrelay test").await.unwrap();
    other.batch_execute("SET statement_timeout = '500ms'").await.unwrap();
    other.batch_execute("ALTER TABLE public.parts DETACH PARTITION public.high CONCURRENTLY").await.unwrap_err();
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(exported.db.rows("SELECT count(*) FROM parts").await, ["9"]);
    exported.again().await;
    let tables = exported.tables(&["parts"]).await;
    let reader = exported.reader().await;
    reader.lock(&tables).await.unwrap();
    let chunks = reader.plan(&tables, 8192).await.unwrap();
    assert_eq!(chunks.iter().map(|chunk| &*chunk.leaf.name).collect::<Vec<_>>(), ["public.low"]);
}

/// The creation of a slot waits for transactions that may have altered a table which was looked at before: its bytes would be read as
/// another type's.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_altered_before_the_snapshot_is_not_read_as_it_was() {
    let create = "CREATE TABLE things (id int PRIMARY KEY, n bigint); INSERT INTO things VALUES (1, 1);
         CREATE PUBLICATION shown FOR TABLE things";
    let changes = [
        "ALTER TABLE things ALTER n TYPE double precision",
        "ALTER TABLE things DROP n, ADD n bigint",
        "ALTER TABLE things RENAME n TO m",
        "ALTER TABLE things RENAME TO others",
        "ALTER TABLE things ADD other int",
        "DROP TABLE things",
        "CREATE SCHEMA away; ALTER TABLE things SET SCHEMA away",
        "DROP TABLE things; CREATE TABLE things (id int PRIMARY KEY, n bigint); ALTER PUBLICATION shown ADD TABLE things",
    ];
    for change in changes.into_iter().chain(["INSERT INTO things VALUES (2, 2)"]) {
        let mut exported = Exported::of(create).await;
        let client = catalog::connect(&exported.db.settings, "walrelay test").await.unwrap();
        let tables = catalog::read(&client, "shown", &KeyColumns::default()).await.unwrap().tables;
        exported.db.run(change).await;
        exported.again().await;
        let reader = exported.reader().await;
        let checked = match reader.lock(&tables).await {
            Ok(()) => reader.check_unaltered("shown", &tables).await,
            missing => missing,
        };
        let altered = matches!(checked, Err(source::Error::Altered { .. }));
        assert!(altered || change.starts_with("INSERT") && checked.is_ok(), "{change}: {checked:?}");
    }
}

/// A statement that waits for the first connection's lock stands before the locks of others: were they waited for, each would wait
/// for the other.
#[tokio::test(flavor = "multi_thread")]
async fn another_connection_does_not_wait_behind_a_statement_that_waits_for_the_first() {
    let exported = Exported::of("CREATE TABLE things (id int PRIMARY KEY)").await;
    let tables = exported.tables(&["things"]).await;
    let (first, second) = (exported.reader().await, exported.reader().await);
    first.lock(&tables).await.unwrap();
    assert!(second.try_lock(&tables).await.unwrap());
    let other = catalog::connect(&exported.db.settings, "walrelay test").await.unwrap();
    let statement = tokio::spawn(async move { other.batch_execute("TRUNCATE public.things").await });
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'public.things'::regclass AND NOT granted";
    await_condition("the statement waits", LIMIT, async || exported.db.rows(waits).await == ["1"]).await;
    let third = exported.reader().await;
    let locked = tokio::time::timeout(LIMIT, third.try_lock(&tables)).await;
    assert!(!locked.expect("nobody waits for the lock").unwrap());
    for reader in [first, second] {
        reader.close().await;
    }
    statement.await.unwrap().unwrap();
}

/// Debezium's `initial_only`: its users expect rows, an end, and no slot that keeps WAL for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_only_ends_well_leaves_no_slot_and_is_taken_once() {
    let mut scenario = scenario("only", 2).await;
    scenario.settings.set("capture.snapshot", "only");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, n int)").await;
    scenario.source("INSERT INTO things SELECT i, i FROM generate_series(1, 3000) i").await;
    let _apply = scenario.spawn_apply();
    for again in [false, true] {
        let outcome = scenario.run_to_end("capture").await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.text);
        assert_eq!(outcome.text.contains("nothing is left to do"), again, "{}", outcome.text);
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        assert_eq!(scenario.source_value(slots).await.as_deref(), Some("0"));
        assert_eq!(scenario.topics().read("public.things").len(), 3000);
        scenario.await_target("SELECT count(*) FROM things", "3000").await;
        scenario.source("INSERT INTO things SELECT max(id) + 1 FROM things").await;
    }
    // What came since is in no slot: a stream does not go on as if nothing were missing.
    scenario.settings.set("capture.snapshot", "initial");
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("does not exist any more"), "{}", outcome.text);
    scenario.settings.set("capture.snapshot", "when-needed");
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Kills leave no temporary slot behind; a table that cannot be copied is no good end, and the next start tries all again.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_only_that_is_cut_or_lacks_a_table_is_not_taken_for_whole() {
    let mut scenario = scenario("only_cut", 2).await;
    scenario.settings.set("capture.snapshot", "only");
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY);
             INSERT INTO things SELECT i, repeat('x', 300) FROM generate_series(1, 20000) i; INSERT INTO others VALUES (1);",
        )
        .await;
    let mut capture = scenario.spawn_capture();
    let rows = async || scenario.metrics("capture").await.sum("walrelay_capture_snapshot_rows_total") > 0.0;
    await_condition("the snapshot has begun", LIMIT, rows).await;
    capture.kill_9().expect("capture can be killed");
    let large = "INSERT INTO others VALUES (2); DELETE FROM things WHERE id % 2 = 0; ALTER TABLE others ADD t text;
                 UPDATE others SET t = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 9000) i) WHERE id = 2";
    scenario.source(large).await;
    scenario.topics().set("public.others", "max.message.bytes", "100000").await;
    let _apply = scenario.spawn_apply();
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("the snapshot lacks public.others"), "{}", outcome.text);
    scenario.source("UPDATE others SET t = 'small'").await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    for table in ["things", "others"] {
        scenario.await_equal(table).await;
    }
}

/// Traps T6, T13: nobody has to set anything for the new snapshot when the slot is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_again_when_it_is_needed() {
    let mut scenario = scenario("needed", 2).await;
    scenario.settings.set("capture.snapshot", "when-needed");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, n int)").await;
    scenario.source("INSERT INTO things SELECT i, i FROM generate_series(1, 3000) i").await;
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    drop(capture);
    let capture = scenario.capture().await;
    scenario.source("UPDATE things SET n = 0 WHERE id = 1").await;
    scenario.await_equal("things").await;
    assert_eq!(scenario.log_text("capture").matches("reading the snapshot").count(), 1, "it was not needed");
    drop(capture);
    scenario.lose_slot().await;
    scenario.source("DELETE FROM things WHERE id % 3 = 0").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T13: little room for the log is told before the first row, and a slot that is lost on the way is found before the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_may_be_lost_is_told_beforehand_and_one_that_is_lost_is_found_on_the_way() {
    let settings = "max_slot_wal_keep_size = 16MB; min_wal_size = 32MB; max_wal_size = 64MB";
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings(settings));
    let mut scenario = Scenario::on(&private.parts, "little").await;
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, body text);
             INSERT INTO things SELECT i, repeat('x', 1500) FROM generate_series(1, 30000) i",
        )
        .await;
    scenario.settings.set("capture.snapshot_guard", "stop");
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("max_slot_wal_keep_size"), "{}", outcome.text);
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(scenario.source_value(slots).await.as_deref(), Some("0"), "no slot stays for nobody");

    scenario.settings.set("capture.snapshot_guard", "warn");
    let (url, gate) = gated_registry(&scenario.parts.registry, "").await;
    scenario.settings.set("registry.urls", vec![url]);
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "WARN the server keeps").await;
    for _ in 0..4 {
        scenario.source("SELECT pg_logical_emit_message(false, 'x', 'y')").await;
        scenario.source_value_as_superuser("SELECT pg_switch_wal()").await;
    }
    scenario.source_value_as_superuser("CHECKPOINT").await;
    scenario.await_log(&mut capture, "was lost while it was in use").await;
    gate.send_replace(true);
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.verify();
}
