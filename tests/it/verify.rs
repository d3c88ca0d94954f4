//! `verify` against two real databases: what it finds, that it is exact under load, and that it never leaves `apply` held.

mod applier;
mod pair;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use walrelay::{
    pipeline::verify::{self, Bookkeeping, Error, Kind, Options},
    postgres::{self, Settings},
    schema::TableName,
};

use self::pair::{Pair, listed, table};
use crate::support::{LIMIT, await_condition};

const ITEMS: &str = "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric);
    INSERT INTO item SELECT i, 'item ' || i, i * 1.5 FROM generate_series(1, 2000) i;";

#[tokio::test]
async fn equal_tables_are_equal() {
    let pair = Pair::new("equal").await;
    pair.both(ITEMS).await;
    pair.both("CREATE TABLE empty (id int PRIMARY KEY)").await;
    pair.idle_lanes(&["item", "empty"]).await;
    let report = pair.verify().await;
    assert!(report.equal, "{report}");
    assert_eq!((table(&report, "item").rows_source, table(&report, "item").rows_target), (2000, 2000));
    assert!(report.tables.iter().all(|table| table.differences.is_empty()));
    assert_eq!(pair.holds().await, 0);
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walrelay_verify_%'
        AND database = current_database() AND NOT active";
    assert_eq!(pair.source.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_changed_a_missing_and_an_extra_row_are_listed_with_their_keys() {
    let pair = Pair::new("differing").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    pair.target("UPDATE item SET price = price + 1, name = upper(name) WHERE id = 321").await;
    pair.target("DELETE FROM item WHERE id = 7; INSERT INTO item VALUES (5000, 'x', 1)").await;
    let report = pair.verify().await;
    assert!(!report.equal);
    let item = table(&report, "item");
    assert_eq!((item.missing, item.extra, item.different), (1, 1, 1));
    assert_eq!((item.rows_source, item.rows_target), (2000, 2000));
    let mut found = listed(item);
    found.sort_by_key(|(_, key, _)| *key);
    let expected = [
        (Kind::Different, "(321)", vec!["name", "price"]),
        (Kind::Extra, "(5000)", vec![]),
        (Kind::Missing, "(7)", vec![]),
    ];
    assert_eq!(found, expected);
    let text = report.to_string();
    assert!(text.contains("different  (321)  in name, price\n") && text.contains("NOT EQUAL at "), "{text}");
    assert!(!text.contains("ITEM 321"), "values are shown only when asked for: {text}");
}

#[tokio::test]
async fn values_are_shown_when_asked_for() {
    let pair = Pair::new("values").await;
    pair.both(ITEMS).await;
    pair.both("CREATE TABLE log (line text); INSERT INTO log VALUES ('same')").await;
    pair.idle_lanes(&["item", "log"]).await;
    pair.target("UPDATE item SET name = NULL WHERE id = 3; INSERT INTO log VALUES ('one more')").await;
    let report = pair.verify_with(Options { show_values: true, ..pair.options() }).await.unwrap();
    let text = report.to_string();
    assert!(text.contains("different  (3)  in name (\"item 3\" > NULL)\n"), "{text}");
    assert!(text.contains("extra      (\"one more\")\n"), "{text}");
}

#[tokio::test]
async fn the_limit_bounds_the_list_and_not_the_totals() {
    let pair = Pair::new("limit").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    pair.target("TRUNCATE item; INSERT INTO item SELECT i, 'x', 0 FROM generate_series(1991, 2100) i").await;
    let report = pair.verify_with(Options { limit: 3, ..pair.options() }).await.unwrap();
    let item = table(&report, "item");
    assert_eq!((item.missing, item.extra, item.different), (1990, 100, 10));
    assert_eq!(item.differences.len(), 9);
    assert!(report.to_string().contains("… and 2091 more"), "{report}");
}

#[tokio::test]
async fn rows_without_a_key_are_compared_as_a_multiset() {
    let pair = Pair::new("keyless").await;
    pair.both(
        "CREATE TABLE log (line text, n int);
        INSERT INTO log VALUES ('a', 1), ('a', 1), ('b', 2), ('c', 3), ('c', 3), ('c', 3), (NULL, NULL)",
    )
    .await;
    pair.idle_lanes(&["log"]).await;
    assert!(pair.verify().await.equal);
    // Two equal rows become two others of the same bucket: neither counts nor an exclusive or of hashes would show it.
    pair.target(
        "DELETE FROM log WHERE line = 'a';
        INSERT INTO log SELECT line, 4 FROM (
            SELECT 'x' || i AS line FROM generate_series(1, 10000) i
            WHERE ('x' || left(md5(ROW('x' || i, 4)::text), 4))::bit(16)::int & 63
                = ('x' || left(md5(ROW('a', 1)::text), 4))::bit(16)::int & 63 LIMIT 1
        ) x, generate_series(1, 2)",
    )
    .await;
    let report = pair.verify().await;
    let log = table(&report, "log");
    assert_eq!((log.missing, log.extra, log.different), (2, 2, 0));
    assert_eq!(log.differences.iter().map(|found| found.rows).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn null_and_empty_and_neighbouring_columns_are_told_apart() {
    let pair = Pair::new("null").await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text[])").await;
    pair.idle_lanes(&["t"]).await;
    pair.source(r#"INSERT INTO t VALUES (1, NULL, '', '{}'), (2, 'x', 'y', '{NULL}'), (3, 'a,', 'b', NULL), (4, '"', '', NULL)"#).await;
    pair.target(r#"INSERT INTO t VALUES (1, '', NULL, '{}'), (2, 'x', 'y', '{"NULL"}'), (3, 'a', ',b', NULL), (4, '"', '', NULL)"#).await;
    let report = pair.verify().await;
    let mut found = listed(table(&report, "t"));
    found.sort_by_key(|(_, key, _)| *key);
    let different = |key, columns| (Kind::Different, key, columns);
    assert_eq!(
        found,
        [different("(1)", vec!["a", "b"]), different("(2)", vec!["c"]), different("(3)", vec!["a", "b"])]
    );
}

/// Trap T42: what roles and databases set must not reach the text. Trap T44: a scale is part of a value.
#[tokio::test]
async fn settings_do_not_matter_and_texts_do() {
    let pair = Pair::new("settings").await;
    pair.source(
        "ALTER DATABASE verify_settings_source SET datestyle = 'German'; ALTER DATABASE verify_settings_source
        SET timezone = 'Asia/Tokyo'; ALTER DATABASE verify_settings_source SET extra_float_digits = -5;
        ALTER DATABASE verify_settings_source SET bytea_output = 'escape'",
    )
    .await;
    pair.both("CREATE TYPE mood AS ENUM ('sad', 'ok')").await;
    pair.source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, f float8, b bytea, c char(5), m mood, o boolean)")
        .await;
    // A target that lacks a type has its text.
    pair.target("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, f float8, b bytea, c char(5), m text, o text)")
        .await;
    pair.both("INSERT INTO t VALUES (1, '2024-02-29 12:00+00', 0.1, '\\x00ff', 'ab', 'ok', 't')").await;
    pair.both("CREATE TABLE n (id int PRIMARY KEY, v numeric); INSERT INTO n VALUES (1, 1.0)").await;
    pair.target("UPDATE n SET v = 1.00").await;
    pair.idle_lanes(&["t", "n"]).await;
    let report = pair.verify().await;
    assert!(table(&report, "t").is_equal(), "{report}");
    assert_eq!(listed(table(&report, "n")), [(Kind::Different, "(1)", vec!["v"])]);
}

#[tokio::test]
async fn odd_identifiers_composite_keys_and_other_schemas_work() {
    let pair = Pair::new("odd").await;
    let create = r#"CREATE TABLE "it's ""odd"" %s" ("a b" text, "c""d" int, "É$1" text, PRIMARY KEY ("c""d", "a b"));
        INSERT INTO "it's ""odd"" %s" VALUES ('x, y', 1, 'v'), ('(', 2, 'w')"#;
    pair.source(create).await;
    pair.target(&format!(r#"CREATE SCHEMA "Copy"; SET search_path = "Copy"; {create}"#)).await;
    pair.target(r#"UPDATE "it's ""odd"" %s" SET "É$1" = 'changed' WHERE "c""d" = 1"#).await;
    pair.idle_lanes(&[r#"it's "odd" %s"#]).await;
    let target_table = |table: &TableName| Some(TableName::new("Copy", table.table.clone()));
    let report = pair.verify_with(Options { target_table: &target_table, ..pair.options() }).await.unwrap();
    assert_eq!(listed(&report.tables[0]), [(Kind::Different, r#"(1,"x, y")"#, vec!["É$1"])]);
}

#[tokio::test]
async fn shape_filters_partitions_and_generated_columns_are_as_published() {
    let pair = Pair::new("shape").await;
    let mut source = "DROP PUBLICATION walrelay;
        CREATE TABLE listed (id int PRIMARY KEY, a int, secret int); INSERT INTO listed VALUES (1, 1, 1);
        CREATE TABLE filtered (id int PRIMARY KEY, ok boolean); INSERT INTO filtered VALUES (1, true), (2, false);
        CREATE TABLE computed (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO computed VALUES (1);
        CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); INSERT INTO parted VALUES (1);
        CREATE TABLE wider (id int PRIMARY KEY, gone int); CREATE TABLE absent (id int PRIMARY KEY);
        INSERT INTO absent VALUES (1); CREATE TABLE unborn (id int PRIMARY KEY);
        CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES;
        CREATE PUBLICATION walrelay FOR TABLE listed (id, a), filtered WHERE (ok), computed, parted, wider, absent, unborn, bare
            WITH (publish_via_partition_root = true)".to_owned();
    if pair.source.server_version() < 150_000 {
        // It knows neither column lists nor row filters.
        for (since_15, before) in [
            (" (id, a), filtered WHERE (ok)", ", filtered"),
            (", secret int", ""),
            ("1, 1, 1", "1, 1"),
            (", (2, false)", ""),
        ] {
            source = source.replace(since_15, before);
        }
    }
    pair.source(&source).await;
    pair.target(
        "CREATE TABLE listed (id int PRIMARY KEY, a int); INSERT INTO listed VALUES (1, 1);
        CREATE TABLE filtered (id int PRIMARY KEY, ok boolean); INSERT INTO filtered VALUES (1, true);
        CREATE TABLE computed (id int PRIMARY KEY); INSERT INTO computed VALUES (1);
        CREATE TABLE parted (id int PRIMARY KEY); INSERT INTO parted VALUES (1);
        CREATE TABLE wider (id int PRIMARY KEY, added int); CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES",
    )
    .await;
    pair.idle_lanes(&["listed", "filtered", "computed", "parted", "wider", "absent", "unborn", "bare"]).await;
    let report = pair.verify().await;
    for name in ["listed", "filtered", "computed", "parted", "unborn", "bare"] {
        assert!(table(&report, name).is_equal(), "{name}: {report}");
    }
    assert_eq!(table(&report, "computed").notes, ["generated column g is not published and not compared"]);
    assert_eq!(table(&report, "wider").shape, ["column gone is missing at the target"]);
    assert_eq!(table(&report, "absent").shape, ["table public.absent is missing at the target"]);
    assert_eq!(table(&report, "absent").missing, 1);
}

/// Trap T75: both snapshots are at one LSN, whatever is written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_exact_while_the_source_is_written_to() {
    let pair = Pair::new("load").await;
    pair.both(applier::TABLE).await;
    let applier = applier::start(&pair, "verify_load").await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> =
        (0..3).map(|_| tokio::spawn(write(pair.source_settings.clone(), stop.clone(), written.clone()))).collect();
    let mut last = 0;
    for round in 0..8 {
        let report = pair.verify().await;
        assert!(report.equal, "round {round}: {report}");
        assert_eq!(pair.holds().await, 0);
        await_condition("the writers go on", LIMIT, async || written.load(Ordering::Relaxed) > last).await;
        last = written.load(Ordering::Relaxed);
    }
    // One row by hand, still under load: exactly that one.
    pair.target("INSERT INTO account VALUES (-1, 0)").await;
    let report = pair.verify().await;
    assert_eq!(listed(&report.tables[0]), [(Kind::Extra, "(-1)", vec![])]);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    applier.abort();
}

/// Writes until it is told to stop, and counts its transactions.
async fn write(settings: Settings, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let client = postgres::connect(&settings, "test writer").await.unwrap();
    // A pace that the applier, which commits one transaction at a time, keeps up with: no bursts after a pause.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let sql =
            "INSERT INTO account SELECT (random() * 500)::int, 1 ON CONFLICT (id) DO UPDATE SET n = account.n + 1;
            DELETE FROM account WHERE id = (random() * 5000)::int";
        client.batch_execute(sql).await.unwrap();
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Trap T79: a snapshot sees a table that is truncated after it as empty.
#[tokio::test]
async fn a_truncate_during_the_comparison_is_no_difference() {
    let pair = Pair::new("truncated").await;
    pair.both(ITEMS).await;
    let options = pair.options();
    let truncate = async {
        while pair.target.query_opt("SELECT FROM walrelay.hold", &[]).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        // The source's snapshot is open now, and the target's waits for the lane.
        let writer = postgres::connect(&pair.source_settings, "truncate").await.unwrap();
        let writing = tokio::spawn(async move { writer.batch_execute("TRUNCATE item").await });
        let waits = "SELECT FROM pg_stat_activity WHERE application_name = 'truncate' AND datname = current_database()
            AND wait_event_type = 'Lock'";
        while !writing.is_finished() && pair.source.query_opt(waits, &[]).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        pair.idle_lanes(&["item"]).await;
        writing.await.unwrap().unwrap();
    };
    let (report, ()) = tokio::join!(pair.verify_with(options), truncate);
    let report = report.unwrap();
    assert!(report.equal, "{report}");
    assert_eq!(table(&report, "item").rows_source, 2000);
}

#[tokio::test]
async fn a_time_out_names_the_lanes_that_are_behind_and_releases_the_others() {
    let pair = Pair::new("behind").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    pair.target(
        "INSERT INTO walrelay.position (instance, topic, partition, commit_lsn, owner)
        VALUES ('verify-test', 'test.public.item', 1, '0/10', 'host:7')",
    )
    .await;
    let options = Options { timeout: Duration::from_secs(4), ..pair.options() };
    let error = pair.verify_with(options).await.unwrap_err();
    let Error::HoldTimeout { lanes, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*lanes, ["test.public.item[1] is at 0/10 (owner host:7)"]);
    assert_eq!(pair.holds().await, 0);
}

#[tokio::test]
async fn a_stopped_lane_is_named_at_once() {
    let pair = Pair::new("stopped").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    pair.target("UPDATE walrelay.position SET held_at = NULL, stopped = 'no such column'").await;
    let error = pair.verify_with(pair.options()).await.unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
    assert!(error.to_string().contains("test.public.item[0] is at 0/0, stopped: no such column"), "{error}");
    assert_eq!(pair.holds().await, 0);
}

#[tokio::test]
async fn lanes_that_went_past_the_hold_are_an_error_and_not_a_difference() {
    let pair = Pair::new("past").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    pair.target("UPDATE walrelay.position SET commit_lsn = 'FFFFFFFF/FFFFFFFF'").await;
    let error = pair.verify_with(pair.options()).await.unwrap_err();
    assert!(matches!(error, Error::Overtaken { .. }), "{error:?}");
    assert_eq!(pair.holds().await, 0);
}

#[tokio::test]
async fn an_interruption_releases_the_hold() {
    let pair = Pair::new("interrupted").await;
    pair.both(ITEMS).await;
    // No lane at all: the hold would be waited for until the time-out.
    let watch = postgres::connect(&pair.target_settings, "test").await.unwrap();
    let held = async {
        while watch.query_opt("SELECT FROM walrelay.hold", &[]).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    let options = pair.options();
    let error = verify::run(&options, held).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error:?}");
    assert_eq!(pair.holds().await, 0);
}

#[tokio::test]
async fn the_hold_of_a_dead_verify_expires_and_that_of_a_living_one_is_respected() {
    let pair = Pair::new("dead").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    pair.target("INSERT INTO walrelay.hold_request VALUES ('verify-test', '0/1', now(), now() + interval '1 hour')")
        .await;
    let error = pair.verify_with(pair.options()).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error:?}");
    assert_eq!(pair.holds().await, 1, "the other's hold stays");
    pair.target("UPDATE walrelay.hold_request SET expires_at = now() - interval '1 second'").await;
    assert!(pair.verify().await.equal);
    assert_eq!(pair.holds().await, 0);
}

/// Trap T25.
#[tokio::test]
async fn a_time_out_at_the_source_names_the_transaction_that_blocks() {
    let pair = Pair::new("blocked").await;
    pair.both(ITEMS).await;
    pair.idle_lanes(&["item"]).await;
    let blocker = postgres::connect(&pair.source_settings, "month end").await.unwrap();
    blocker.batch_execute("BEGIN; UPDATE item SET price = 0 WHERE id = 1").await.unwrap();
    let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // It may wait first for transactions of others in this cluster, which end.
    let is_named = async || {
        let options = Options { timeout: Duration::from_secs(1), ..pair.options() };
        let error = pair.verify_with(options).await.unwrap_err();
        assert!(matches!(error, Error::SourceTimeout { .. }), "{error:?}");
        assert_eq!(pair.holds().await, 0);
        error.to_string().contains(&format!("process {pid} (month end, "))
    };
    await_condition("the blocker is named", LIMIT, is_named).await;
}

#[tokio::test]
async fn wrong_names_are_errors() {
    let pair = Pair::new("wrong").await;
    pair.both(ITEMS).await;
    let missing = Options { publication: "nope".into(), ..pair.options() };
    assert!(matches!(pair.verify_with(missing).await, Err(Error::NoPublication(name)) if name == "nope"));
    let tables = vec![TableName::new("public", "nope")];
    let unpublished = Options { tables, ..pair.options() };
    assert!(matches!(pair.verify_with(unpublished).await, Err(Error::NotPublished { .. })));
    let bookkeeping = Bookkeeping { schema: "nope".into(), instance: "x".into() };
    let unapplied = Options { bookkeeping, ..pair.options() };
    assert!(matches!(pair.verify_with(unapplied).await, Err(Error::NoBookkeeping { .. })));
}
