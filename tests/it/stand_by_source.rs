//! Capture from a stand-by, which takes no writes: its slot is its own, and its publication the primary's (PostgreSQL 16 and later).

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

/// A primary that the scenario writes to, and its stand-by that capture reads from.
struct Pair {
    // Dropped before the servers.
    scenario: Scenario,
    primary: PrivateParts,
    stand_by: PrivateParts,
}

impl Pair {
    async fn start(name: &str, settings: &str) -> Self {
        let primary = tokio::task::block_in_place(|| PrivateParts::with_source_of(16, "autovacuum = off"));
        let stand_by = primary.stand_by(settings).await;
        let mut scenario = Scenario::on(&primary.parts, name).await;
        scenario.source("CREATE TABLE things (id int PRIMARY KEY, t text)").await;
        scenario.source("INSERT INTO things SELECT n, 'first' FROM generate_series(1, 500) n").await;
        let server = &stand_by.parts.source;
        scenario.settings.set("source.host", server.host.clone());
        scenario.settings.set("source.port", i64::from(server.port));
        Self { scenario, primary, stand_by }
    }

    async fn publish(&self) {
        let name = &self.scenario.name;
        let sql = format!("CREATE PUBLICATION {name} FOR TABLE things WITH (publish_via_partition_root = true)");
        self.scenario.source(&sql).await;
        self.await_replayed().await;
    }

    /// Waits until the stand-by has what the primary has now.
    async fn await_replayed(&self) {
        let end = self.scenario.source_value("SELECT pg_current_wal_lsn()::text").await.unwrap();
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        let client = self.stand_by.parts.source.connect("postgres", "postgres", "").await.unwrap();
        let is_there = async || client.query_one(&replayed, &[]).await.unwrap().get::<_, bool>(0);
        await_condition("the stand-by has replayed", LIMIT, is_there).await;
    }

    /// What a primary that is written to does every 15 s.
    async fn log_running_transactions(&self) -> AbortOnDropHandle<()> {
        let client = self.primary.parts.source.connect("postgres", "postgres", "").await.unwrap();
        AbortOnDropHandle::new(tokio::spawn(async move {
            while client.batch_execute("SELECT pg_log_standby_snapshot()").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }))
    }
}

/// Trap T25, and what a stand-by cannot do.
#[tokio::test(flavor = "multi_thread")]
async fn a_stand_by_is_captured_from_until_it_is_the_primary() {
    let mut pair = Pair::start("stand_by_source", "").await;
    let _apply = pair.scenario.spawn_apply();
    let report = tokio::task::block_in_place(|| pair.scenario.run(&["check"]));
    let outcome = pair.scenario.run_to_end("capture").await;
    for text in ["does not exist", "CREATE PUBLICATION", "on its primary"] {
        assert!(outcome.code != Some(0) && outcome.text.contains(text), "{text}: {}", outcome.text);
    }
    for text in ["CREATE PUBLICATION", "the server is a stand-by: the publication is made at its primary"] {
        assert!(report.code != Some(0) && report.text.contains(text), "{text}: {}", report.text);
    }

    pair.publish().await;
    let report = tokio::task::block_in_place(|| pair.scenario.run(&["check"]));
    assert_eq!(report.code, Some(0), "{}", report.text);
    let mut capture = pair.scenario.spawn_capture();
    pair.scenario.await_log(&mut capture, "SELECT pg_log_standby_snapshot() there").await;
    let ticks = pair.log_running_transactions().await;
    pair.scenario.source("INSERT INTO things VALUES (1000, 'new'); DELETE FROM things WHERE id = 7").await;
    pair.scenario.await_equal("things").await;
    let asked = tokio::task::block_in_place(|| pair.scenario.run(&["resync", "public.things"]));
    assert!(asked.code != Some(0) && asked.text.contains("the source is a stand-by"), "{}", asked.text);
    pair.scenario.verify();

    // Killed while the primary goes on, and again with the server itself.
    capture.kill_9().expect("capture can be killed");
    pair.scenario.source("UPDATE things SET t = 'second' WHERE id % 2 = 0; DELETE FROM things WHERE id % 5 = 0").await;
    let mut capture = pair.scenario.capture().await;
    pair.scenario.await_equal("things").await;
    let fault = pair.stand_by.kill();
    pair.scenario
        .source(
            "UPDATE things SET t = 'third' WHERE id % 3 = 0; TRUNCATE things; INSERT INTO things VALUES (1, 'fourth')",
        )
        .await;
    fault.heal();
    pair.scenario.await_equal("things").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));

    // Its slot is its own, so it outlives the promotion.
    pair.await_replayed().await;
    drop(ticks);
    pair.primary.kill_for_good();
    pair.stand_by.promote().await;
    pair.scenario.parts.source = pair.stand_by.parts.source.clone();
    pair.scenario.reconnect_source().await;
    pair.scenario.source("INSERT INTO things VALUES (2, 'promoted'); DELETE FROM things WHERE id = 1").await;
    pair.scenario.await_equal("things").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    pair.scenario.await_log(&mut capture, "the source has gone over from timeline 1 to 2").await;
    // What was recorded lies on the timeline that it was read from, so the next session finds no fork.
    capture.kill_9().expect("capture can be killed");
    pair.scenario.source("INSERT INTO things VALUES (3, 'after all')").await;
    let _capture = pair.scenario.capture().await;
    pair.scenario.await_equal("things").await;
    let log = pair.scenario.log_text("capture");
    assert_eq!(log.matches("snapshot of table read").count(), 1, "another snapshot was taken");
    pair.scenario.verify();
}

/// The primary removes what the slot of a stand-by needs that does not tell it so. Trap T13.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_primary_has_taken_the_catalog_from_is_a_gap() {
    let mut pair = Pair::start("conflicting", "hot_standby_feedback = off; max_standby_streaming_delay = 0").await;
    pair.publish().await;
    let _ticks = pair.log_running_transactions().await;
    let report = tokio::task::block_in_place(|| pair.scenario.run(&["check"]));
    assert!(report.text.contains("hot_standby_feedback is off"), "{}", report.text);
    let _apply = pair.scenario.spawn_apply();
    let mut capture = pair.scenario.capture().await;
    pair.scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let client = pair.stand_by.parts.source.connect("postgres", "postgres", "").await.unwrap();
    let column =
        if client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get::<_, i32>(0)
            < 170_000
        {
            "conflicting"
        } else {
            "invalidation_reason IS NOT NULL"
        };
    let conflicts = format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = '{}'", pair.scenario.name);
    let taken = async || {
        // Rows that came and went in one transaction are in nobody's way.
        pair.scenario.source("CREATE TABLE passing (id int)").await;
        pair.scenario.source("DROP TABLE passing").await;
        pair.scenario.source_value_as_superuser("VACUUM pg_catalog.pg_attribute").await;
        client.query_one(&conflicts, &[]).await.unwrap().get::<_, bool>(0)
    };
    await_condition("the slot conflicts with the primary", LIMIT, taken).await;

    pair.scenario.source("INSERT INTO things VALUES (1000, 'lost to the slot')").await;
    let outcome = pair.scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("resnapshot"), "{}", outcome.text);
    pair.scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = pair.scenario.capture().await;
    pair.scenario.await_equal("things").await;
    pair.scenario.verify();
}
