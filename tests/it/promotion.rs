//! The source is replaced by an older image of itself that was promoted, as after a failover or a restore.

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

/// A source server of its own whose rows are captured and applied; capture has ended in order.
async fn captured(private: &PrivateParts, name: &str) -> Scenario {
    let scenario = Scenario::on(&private.parts, name).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, t text)").await;
    scenario.source("INSERT INTO things SELECT n, 'first' FROM generate_series(1, 50) n").await;
    let apply = scenario.spawn_apply();
    capture_until_equal(&scenario).await;
    drop(apply);
    scenario
}

/// Lets capture run until the target has what the source has. Apply must run.
async fn capture_until_equal(scenario: &Scenario) {
    let mut capture = scenario.capture().await;
    scenario.await_equal("things").await;
    let status = capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status.code(), Some(0), "{}", capture.log_tail(20));
}

async fn epochs(scenario: &Scenario) -> String {
    let sql = "SELECT string_agg(DISTINCT epoch::text, ',') FROM walrelay.position WHERE commit_lsn > '0/0'";
    scenario.target_value(sql).await.unwrap_or_default()
}

async fn timeline(scenario: &Scenario) -> Option<String> {
    scenario.source_value("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)::int").await
}

/// Trap T16: the topic holds what the promoted server never had, and its LSNs get other contents.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_server_that_lacks_what_was_published_stops_capture_or_is_copied_in_a_new_epoch() {
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings(""));
    let mut scenario = captured(&private, "forked").await;
    let _apply = scenario.apply().await;
    private.take_image();
    scenario.reconnect_source().await;
    let lost = "INSERT INTO things SELECT n, 'lost' FROM generate_series(51, 90) n; DELETE FROM things WHERE id < 10;
                UPDATE things SET t = 'lost' WHERE id < 30";
    scenario.source(lost).await;
    capture_until_equal(&scenario).await;
    private.promote_image().await;
    scenario.reconnect_source().await;
    scenario.source("INSERT INTO things SELECT n, 'kept' FROM generate_series(81, 110) n").await;
    assert_eq!(timeline(&scenario).await.as_deref(), Some("2"));

    let published = scenario.topics().read("public.things").len();
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in ["the source's history ends at", "on timeline 2", "resnapshot"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
    assert_eq!(scenario.topics().read("public.things").len(), published, "nothing is published");

    scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.source("UPDATE things SET t = t || '!' WHERE id % 3 = 0; DELETE FROM things WHERE id = 100").await;
    scenario.await_equal("things").await;
    assert_eq!(epochs(&scenario).await, "1");
    scenario.verify();
}

/// Trap T16: what was published stays published while a new snapshot has no slot of its own yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_killed_before_its_new_slot_is_there_knows_what_was_published() {
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings(""));
    let mut scenario = captured(&private, "intent").await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    let _apply = scenario.apply().await;
    private.take_image();
    scenario.reconnect_source().await;
    scenario.source("INSERT INTO things SELECT n, 'lost' FROM generate_series(51, 5000) n").await;
    capture_until_equal(&scenario).await;

    scenario.lose_slot().await;
    // A running transaction keeps the server from creating the slot.
    scenario.source("BEGIN; INSERT INTO things VALUES (0, 'open')").await;
    let mut capture = scenario.spawn_capture();
    let intended = async || {
        let records = scenario.state_topics().read(&scenario.name);
        records.iter().any(|record| record.holds("\"phase\":\"snapshot\",\"consistent_point\":0,"))
    };
    await_condition("the new snapshot is recorded", LIMIT, intended).await;
    capture.kill_9().expect("capture can be killed");
    private.promote_image().await;
    scenario.reconnect_source().await;

    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    assert_eq!(epochs(&scenario).await, "1");
    scenario.verify();
}

/// Trap T16: nothing was published beyond the switch, so nothing is lost and nothing is copied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_server_that_has_all_that_was_published_is_followed_in_the_same_epoch() {
    let private = tokio::task::block_in_place(|| PrivateParts::with_source_settings(""));
    let mut scenario = captured(&private, "promoted").await;
    let _apply = scenario.apply().await;
    private.take_image();
    private.promote_image().await;
    scenario.reconnect_source().await;
    for round in 1..=2 {
        // While nobody captures.
        let sql = format!(
            "INSERT INTO things SELECT n, 'round' FROM generate_series({round} * 100, {round} * 100 + 20) n;
             UPDATE things SET t = t || {round} WHERE id % 5 = 0; DELETE FROM things WHERE id = {round}"
        );
        scenario.source(&sql).await;
        capture_until_equal(&scenario).await;
    }
    assert_eq!(timeline(&scenario).await.as_deref(), Some("2"));
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (1000, 'last')").await;
    scenario.await_equal("things").await;
    assert_eq!(epochs(&scenario).await, "0");
    let snapshots = scenario.log_text("capture").matches("snapshot of table read").count();
    assert_eq!(snapshots, 1, "{}", scenario.log_text("capture"));
    scenario.verify();
}
