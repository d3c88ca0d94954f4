//! The primary is lost and its stand-by promoted, which has kept the slot (PostgreSQL 17 and later; trap T16).

use std::time::Duration;

use serde_json::Value as Json;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{LIMIT, Network, PrivateParts, STAND_BY_SLOT, Scenario, await_condition};

/// A primary and its stand-by, and capture's way to whichever is behind it.
struct Cluster {
    // Dropped before the servers.
    scenario: Scenario,
    network: Network,
    primary: PrivateParts,
    stand_by: PrivateParts,
}

impl Cluster {
    /// With a table, and settings of the primary.
    async fn start(name: &str, settings: &str) -> Self {
        let primary = tokio::task::block_in_place(|| PrivateParts::with_source_of(17, settings));
        let stand_by = primary.stand_by("sync_replication_slots = on").await;
        let mut scenario = Scenario::on(&primary.parts, name).await;
        scenario.source("CREATE TABLE things (id int PRIMARY KEY, t text)").await;
        scenario.source("INSERT INTO things SELECT n, 'first' FROM generate_series(1, 50) n").await;
        let network = Network::before_source(&mut scenario).await;
        network.allow_all();
        Self { scenario, network, primary, stand_by }
    }

    /// Waits until the slot outlives a promotion: capture has confirmed something behind the begin of the copy (trap T82).
    async fn await_kept(&self) {
        let Self { scenario, stand_by, .. } = self;
        let admin = stand_by.parts.source.connect("postgres", "postgres", "").await.unwrap();
        let kept = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}' AND synced AND NOT temporary",
            scenario.name
        );
        let is_kept = async || {
            scenario.source_value_as_superuser("SELECT pg_log_standby_snapshot()::text").await;
            scenario.source("UPDATE things SET t = t WHERE id = 1").await;
            admin.query_one(&kept, &[]).await.unwrap().get::<_, i64>(0) == 1
        };
        await_condition("the stand-by keeps the slot", LIMIT, is_kept).await;
    }

    /// The stand-by is what the scenario and capture call the source from now on.
    async fn move_source(&mut self) {
        self.scenario.parts.source = self.stand_by.parts.source.clone();
        self.scenario.reconnect_source().await;
    }

    async fn timeline(&self) -> Option<String> {
        let sql = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)::int";
        self.scenario.source_value(sql).await
    }

    async fn epochs(&self) -> String {
        let sql = "SELECT string_agg(DISTINCT epoch::text, ',') FROM walrelay.position WHERE commit_lsn > '0/0'";
        self.scenario.target_value(sql).await.unwrap_or_default()
    }

    fn snapshots(&self) -> usize {
        self.scenario.log_text("capture").matches("snapshot of table read").count()
    }
}

/// Writes from several sessions until the server is gone.
async fn write(scenario: &Scenario) -> Vec<AbortOnDropHandle<()>> {
    let mut writers = Vec::new();
    for session in 1..=3 {
        let client = scenario.source_session().await;
        writers.push(AbortOnDropHandle::new(tokio::spawn(async move {
            for round in 0.. {
                let id = session * 1_000_000 + round * 10;
                let sql = format!(
                    "INSERT INTO things SELECT n, repeat('load', 50) FROM generate_series({id}, {id} + 9) n;
                     UPDATE things SET t = 'round {round}' WHERE id = {session}; DELETE FROM things WHERE id = {id} - 5"
                );
                if client.batch_execute(&sql).await.is_err() {
                    return;
                }
            }
        })));
    }
    writers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_stand_by_that_kept_the_slot_is_followed_under_load_without_a_new_snapshot() {
    let mut cluster = Cluster::start("failover", &format!("synchronized_standby_slots = '{STAND_BY_SLOT}'")).await;
    let _apply = cluster.scenario.spawn_apply();
    let mut capture = cluster.scenario.capture().await;
    cluster.scenario.await_equal("things").await;
    cluster.await_kept().await;

    let writers = write(&cluster.scenario).await;
    let loaded = async || {
        let rows = cluster.scenario.target_value("SELECT count(*) FROM things WHERE t LIKE 'load%'").await;
        rows.is_some_and(|rows| rows.parse::<u32>().unwrap() > 2000)
    };
    await_condition("the load arrives", LIMIT, loaded).await;
    cluster.primary.kill_for_good();
    drop(writers);
    // The address moves before the stand-by is promoted.
    cluster.network.lead_to(&cluster.stand_by.parts.source);
    cluster.scenario.await_log(&mut capture, "a stand-by that is not promoted yet").await;
    cluster.stand_by.promote().await;
    cluster.move_source().await;
    assert_eq!(cluster.timeline().await.as_deref(), Some("2"));
    cluster.scenario.source("INSERT INTO things VALUES (-1, 'new'); DELETE FROM things WHERE id = 7").await;
    cluster.scenario.await_equal("things").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((cluster.epochs().await.as_str(), cluster.snapshots()), ("0", 1));
    cluster.scenario.verify();
}

/// What the primary had beyond what it sent to capture is in no topic, so its loss is none of capture's.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_stand_by_need_not_have_what_the_primary_kept_from_capture() {
    let mut cluster = Cluster::start("kept_back", &format!("synchronized_standby_slots = '{STAND_BY_SLOT}'")).await;
    let _apply = cluster.scenario.spawn_apply();
    let mut capture = cluster.scenario.capture().await;
    cluster.scenario.await_equal("things").await;
    cluster.await_kept().await;

    cluster.scenario.await_equal("things").await;
    cluster.network.limit(0);
    cluster.scenario.source("INSERT INTO things VALUES (100, 'sent')").await;
    let end = cluster.scenario.source_value("SELECT pg_current_wal_lsn()::text").await.unwrap();
    let sent = format!(
        "SELECT (min(sent_lsn) >= '{end}')::text FROM pg_stat_replication WHERE application_name = 'walrelay capture'"
    );
    let is_sent = async || cluster.scenario.source_value_as_superuser(&sent).await.as_deref() == Some("true");
    await_condition("the row is sent to capture", LIMIT, is_sent).await;
    let fault = cluster.stand_by.stop();
    cluster.scenario.source("INSERT INTO things SELECT n, 'kept back' FROM generate_series(200, 300) n").await;
    cluster.network.allow_all();
    cluster.scenario.await_target("SELECT t FROM things WHERE id = 100", "sent").await;
    cluster.scenario.await_log(&mut capture, "the server sends nothing before its stand-by has it").await;
    cluster.primary.kill_for_good();
    fault.heal();
    cluster.stand_by.promote().await;
    cluster.network.lead_to(&cluster.stand_by.parts.source);
    cluster.move_source().await;
    cluster.scenario.source("INSERT INTO things VALUES (-1, 'new')").await;
    cluster.scenario.await_equal("things").await;
    let back = cluster.scenario.target_value("SELECT count(*) FROM things WHERE t = 'kept back'").await;
    assert_eq!(back.as_deref(), Some("0"));
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((cluster.epochs().await.as_str(), cluster.snapshots()), ("0", 1));
    cluster.scenario.verify();
}

/// Nothing keeps the primary from sending to capture what the stand-by lacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_stand_by_that_kept_the_slot_and_lacks_what_was_published_is_a_fork() {
    let mut cluster = Cluster::start("phantom", "").await;
    let _apply = cluster.scenario.spawn_apply();
    let mut capture = cluster.scenario.capture().await;
    cluster.scenario.await_equal("things").await;
    cluster.await_kept().await;
    let fault = cluster.stand_by.stop();
    let lost = "INSERT INTO things SELECT n, 'lost' FROM generate_series(100, 150) n; DELETE FROM things WHERE id < 10";
    cluster.scenario.source(lost).await;
    cluster.scenario.await_equal("things").await;
    cluster.primary.kill_for_good();
    fault.heal();
    cluster.stand_by.promote().await;
    cluster.network.lead_to(&cluster.stand_by.parts.source);
    cluster.move_source().await;

    let status = capture.await_exit(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let log = cluster.scenario.log_text("capture");
    assert_eq!(status.code(), Some(3), "{log}");
    for text in ["the source's history ends at", "on timeline 2", "resnapshot"] {
        assert!(log.contains(text), "{text:?} is not in\n{log}");
    }
    cluster.scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = cluster.scenario.capture().await;
    cluster.scenario.source("UPDATE things SET t = 'kept' WHERE id = 1").await;
    cluster.scenario.await_equal("things").await;
    assert_eq!(cluster.epochs().await, "1");
    cluster.scenario.verify();
}

/// The verdict and the message of each finding about failovers.
fn findings(scenario: &Scenario) -> Vec<(String, String)> {
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check", "--json"]));
    let report: Json = serde_json::from_str(&outcome.text).unwrap_or_else(|_| panic!("not JSON: {}", outcome.text));
    let about = report["findings"].as_array().unwrap().iter().filter(|finding| {
        let subject = finding["subject"].as_str().unwrap_or_default();
        finding["part"] == "source" && (subject == "failover" || subject.starts_with("slot "))
    });
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    about.map(|finding| (text(&finding["verdict"]), text(&finding["message"]))).collect()
}

fn says(findings: &[(String, String)], verdict: &str, message: &str) -> bool {
    findings.iter().any(|(given, text)| given == verdict && text.contains(message))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_whether_stand_bys_keep_the_slot_and_a_slot_without_it_is_altered_on_demand() {
    let mut cluster = Cluster::start("marked", "").await;
    let _apply = cluster.scenario.spawn_apply();
    let slot = cluster.scenario.name.clone();
    let marked = format!("SELECT failover::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    for (failover, expected) in [("off", "false"), ("auto", "false"), ("on", "true"), ("auto", "true")] {
        cluster.scenario.settings.set("capture.failover", failover);
        let mut capture = cluster.scenario.capture().await;
        cluster.scenario.source("UPDATE things SET t = t || '.' WHERE id < 5").await;
        cluster.scenario.await_equal("things").await;
        let found = cluster.scenario.source_value(&marked).await;
        assert_eq!(found.as_deref(), Some(expected), "capture.failover = {failover}");
        let found = findings(&cluster.scenario);
        let without = says(&found, "warning", "made without FAILOVER");
        assert_eq!(without, (failover, expected) == ("auto", "false"), "{failover}: {found:?}");
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let _capture = cluster.scenario.capture().await;
    cluster.await_kept().await;
    let found = findings(&cluster.scenario);
    assert!(says(&found, "warning", "synchronized_standby_slots names no slot"), "{found:?}");

    let admin = cluster.primary.parts.source.connect("postgres", "postgres", "").await.unwrap();
    for (names, verdict, message) in [
        (STAND_BY_SLOT, "ok", "stand-bys keep the slot"),
        ("nobody", "problem", "slot nobody of synchronized_standby_slots does not exist"),
    ] {
        admin.execute(&format!("ALTER SYSTEM SET synchronized_standby_slots = '{names}'"), &[]).await.unwrap();
        admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
        let told = async || {
            // The server takes the setting up in its own time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            says(&findings(&cluster.scenario), verdict, message)
        };
        await_condition(message, LIMIT, told).await;
    }
    admin.execute("ALTER SYSTEM RESET synchronized_standby_slots", &[]).await.unwrap();
    admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    cluster.network.lead_to(&cluster.stand_by.parts.source);
    let found = findings(&cluster.scenario);
    assert!(says(&found, "ok", "this stand-by is set up to keep slots"), "{found:?}");
    assert!(says(&found, "ok", "is kept here as a copy of the primary's"), "{found:?}");
}
