//! Options that change between two starts: what may have been published is published again as it was.
//!
//! Positions are recorded once an hour where a test kills capture, so that it begins where the snapshot ended and has all of
//! the stream to publish again. The tables that tell have no key: an event that came at a second position would be a
//! second row.

use std::future::ready;

use walrelay::{cli::demo::process::Process, source};

use crate::support::{LIMIT, PrivateParts, Scenario, await_condition};

const LOG: &str = "CREATE TABLE log (note text); ALTER TABLE log REPLICA IDENTITY FULL;";
const NOTES: &str = "SELECT coalesce(string_agg(note, ' ' ORDER BY note), '') FROM log";

/// What the log says once the former publication is needed no longer, with what stands behind it there and not in a hint.
const FOUND: &str = "found the configured publication commit=";

/// A scenario whose captures record nothing of what they publish before a test kills them.
async fn scenario(name: &str, sql: &str) -> Scenario {
    prepared(Scenario::new(name).await, sql).await
}

async fn prepared(mut scenario: Scenario, sql: &str) -> Scenario {
    scenario.settings.set("capture.checkpoint_interval", "1h");
    scenario.source(sql).await;
    scenario
}

/// So many sessions have begun under the options of their time, and so many under the configured ones.
fn sessions(scenario: &Scenario) -> (usize, usize) {
    let log = scenario.log_text("capture");
    let count = |text| log.matches(text).count();
    (count("under the options of its time"), count("under the configured options"))
}

/// Starts capture under changed options, and waits for the session that works under them, behind one that publishes again.
async fn changed(scenario: &Scenario) -> Process {
    let before = sessions(scenario);
    let mut capture = scenario.spawn_capture();
    let begun = || {
        capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
        ready(sessions(scenario).1 > before.1)
    };
    await_condition("a session under the changed options begins", LIMIT, begun).await;
    assert!(sessions(scenario).0 > before.0, "nothing was published again");
    capture
}

/// One session after the other, and never two at once.
fn assert_quiet(scenario: &Scenario) {
    let log = scenario.log_text("capture");
    assert!(!log.contains("capture session ended"), "a session met its predecessor:\n{log}");
}

/// How many records of a table's topic hold the text.
fn held(scenario: &Scenario, table: &str, text: &str) -> usize {
    scenario.topics().read(table).iter().filter(|record| record.holds(text)).count()
}

async fn await_stopped(scenario: &Scenario, table: &str) {
    let stopped = async || scenario.readiness("capture").await.1.contains(table);
    await_condition(&format!("capture names {table} as stopped"), LIMIT, stopped).await;
}

/// Another publication numbers the changes of a transaction otherwise. Trap T37.
#[tokio::test(flavor = "multi_thread")]
async fn another_publication_holds_only_above_what_may_have_been_published() {
    let mut scenario = scenario("options", &format!("{LOG} CREATE TABLE noise (id int PRIMARY KEY)")).await;
    let other = format!("{}_other", scenario.name);
    scenario.source(&format!("CREATE PUBLICATION {other} FOR TABLE log, noise")).await;
    scenario.settings.set("capture.include", vec!["public.log"]);
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("BEGIN; INSERT INTO noise VALUES (1); INSERT INTO log VALUES ('once'); COMMIT").await;
    scenario.await_target(NOTES, "once").await;
    capture.kill_9().expect("capture can be killed");

    scenario.settings.set("capture.publication", &*other);
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let _capture = changed(&scenario).await;
    scenario.source("BEGIN; INSERT INTO noise VALUES (2); INSERT INTO log VALUES ('twice'); COMMIT").await;
    scenario.await_target(NOTES, "once twice").await;
    scenario.verify();
    assert_quiet(&scenario);
}

/// A table that other globs leave out keeps what was published of it, again, and gets nothing of what came later.
#[tokio::test(flavor = "multi_thread")]
async fn other_globs_hold_only_above_what_may_have_been_published() {
    let mut scenario = scenario("globs", &format!("{LOG} CREATE TABLE others (id int PRIMARY KEY, note text)")).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO others VALUES (1, 'old-row'); INSERT INTO log VALUES ('a')").await;
    scenario.await_target(NOTES, "a").await;
    scenario.await_equal("others").await;
    capture.kill_9().expect("capture can be killed");
    scenario.source("INSERT INTO others VALUES (2, 'backlog-row'); INSERT INTO log VALUES ('b')").await;

    scenario.settings.set("capture.exclude", vec!["public.others"]);
    let _capture = changed(&scenario).await;
    scenario.source("INSERT INTO others VALUES (3, 'new-row'); INSERT INTO log VALUES ('c')").await;
    scenario.await_target(NOTES, "a b c").await;
    let counts = ["old-row", "backlog-row", "new-row"].map(|text| held(&scenario, "public.others", text));
    assert_eq!(counts, [2, 0, 0], "records of the table that is left out");
    assert_eq!(scenario.target_value("SELECT string_agg(note, ' ') FROM others").await.as_deref(), Some("old-row"));
    assert_quiet(&scenario);
}

/// The bound is where the server's WAL ended once: a server that writes nothing more must not keep the options waiting.
#[tokio::test(flavor = "multi_thread")]
async fn other_options_hold_at_an_idle_source_too() {
    let parts = PrivateParts::with_source_settings("autovacuum = off; checkpoint_timeout = '1h'");
    let mut scenario = prepared(Scenario::on(&parts.parts, "still").await, LOG).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let (mut idle, mut expected) = (false, Vec::new());
    // The server's background writer may add WAL at any time, which would end the wait: such a round says nothing.
    for round in 0..5 {
        expected.push(round.to_string());
        scenario.source(&format!("INSERT INTO log VALUES ('{round}')")).await;
        let end = scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await;
        scenario.await_target(NOTES, &expected.join(" ")).await;
        capture.kill_9().expect("capture can be killed");
        scenario.settings.set("capture.exclude", vec![format!("none.round{round}")]);
        capture = changed(&scenario).await;
        idle |= scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await == end;
        if idle {
            break;
        }
    }
    assert!(idle, "the options were changed only by further WAL");
    assert_quiet(&scenario);
}

/// Traps T1 and T37.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_killed_while_it_publishes_again_loses_nothing_and_repeats_no_position() {
    let mut scenario = scenario("replay", &format!("{LOG} CREATE TABLE noise (id serial PRIMARY KEY)")).await;
    let names = ["b", "c"].map(|suffix| format!("{}_{suffix}", scenario.name));
    for publication in &names {
        scenario.source(&format!("CREATE PUBLICATION {publication} FOR TABLE log, noise")).await;
    }
    scenario.settings.set("capture.include", vec!["public.log"]);
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let write = "BEGIN; INSERT INTO noise DEFAULT VALUES; INSERT INTO log SELECT 'x' FROM generate_series(1, 5000);
                 INSERT INTO noise DEFAULT VALUES; INSERT INTO log VALUES ('x'); COMMIT";
    for _ in 0..4 {
        scenario.source(write).await;
    }
    scenario.await_equal("log").await;
    capture.kill_9().expect("capture can be killed");
    scenario.source(write).await;

    for publication in &names {
        scenario.settings.set("capture.publication", &**publication);
        let mut replaying = scenario.spawn_capture();
        let begun = async || scenario.metrics("capture").await.sum("walrelay_capture_events_total") > 0.0;
        await_condition("events are published again", LIMIT, begun).await;
        replaying.kill_9().expect("capture can be killed");
    }
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let _capture = scenario.capture().await;
    scenario.source(write).await;
    scenario.await_equal("log").await;
    scenario.verify();
}

/// The changes of a stopped table stay in the WAL over every change of options, each under those of its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_table_goes_on_under_the_options_of_each_of_its_changes() {
    let tables = "CREATE TABLE big (id serial PRIMARY KEY, body text); CREATE TABLE noise (id serial PRIMARY KEY)";
    let mut scenario = scenario("held", &format!("{LOG} {tables}")).await;
    let names = ["b", "c"].map(|suffix| format!("{}_{suffix}", scenario.name));
    scenario.source(&format!("CREATE PUBLICATION {} FOR TABLE noise, log, big", names[0])).await;
    scenario.source(&format!("CREATE PUBLICATION {} FOR TABLE log, big", names[1])).await;
    scenario.settings.set("capture.include", vec!["public.log", "public.big"]);
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let write = |note: &str, size: usize| {
        format!(
            "BEGIN; INSERT INTO noise DEFAULT VALUES; INSERT INTO log VALUES ('{note}');
             INSERT INTO big (body) VALUES (repeat('x', {size})); INSERT INTO log VALUES ('{note}'); COMMIT"
        )
    };
    scenario.source(&write("a", 9)).await;
    scenario.await_target(NOTES, "a a").await;
    scenario.source(&write("b", 3_000_000)).await;
    await_stopped(&scenario, "public.big").await;
    scenario.await_target(NOTES, "a a b b").await;

    for (publication, note, all) in [(&names[0], "c", "a a b b c c"), (&names[1], "d", "a a b b c c d d")] {
        capture.kill_9().expect("capture can be killed");
        scenario.settings.set("capture.publication", &**publication);
        capture = changed(&scenario).await;
        scenario.source(&write(note, 9)).await;
        scenario.await_target(NOTES, all).await;
        await_stopped(&scenario, "public.big").await;
        assert_eq!(scenario.target_value("SELECT count(*) FROM big").await.as_deref(), Some("1"));
    }
    capture.kill_9().expect("capture can be killed");
    scenario.topics().set("public.big", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("big").await;
    scenario.source(&write("e", 9)).await;
    scenario.await_target(NOTES, "a a b b c c d d e e").await;
    scenario.verify();
    assert_quiet(&scenario);
}

/// Logical messages are no table: whatever the globs are, what stopped them keeps holding their place in the WAL.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_messages_stay_stopped_over_a_change_of_globs() {
    let mut scenario = scenario("message", LOG).await;
    scenario.settings.set("capture.include", vec!["public.*"]);
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("SELECT pg_logical_emit_message(true, 'walrelay', repeat('x', 3000000))").await;
    let name = format!("{}.message", scenario.name);
    await_stopped(&scenario, &name).await;
    scenario.source("INSERT INTO log VALUES ('a')").await;
    scenario.await_target(NOTES, "a").await;
    capture.kill_9().expect("capture can be killed");
    let held = scenario.confirmed_flush().await;

    scenario.settings.set("capture.exclude", vec!["public.none"]);
    let _capture = changed(&scenario).await;
    scenario.source("INSERT INTO log VALUES ('b')").await;
    scenario.await_target(NOTES, "a b").await;
    await_stopped(&scenario, &name).await;
    assert_eq!(scenario.confirmed_flush().await, held, "the message is confirmed, but not published");
}

/// Two names with points may give one topic. Excluding the table that came later is the remedy, so it must help. Trap T57.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_would_share_a_topic_can_be_excluded() {
    let mut scenario = scenario("shared", &format!("{LOG} CREATE TABLE \"x.y\" (id int PRIMARY KEY, note text)")).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO \"x.y\" VALUES (1, 'old-row')").await;
    scenario.await_equal("\"x.y\"").await;
    capture.kill_9().expect("capture can be killed");
    let sql = "CREATE SCHEMA \"public.x\"; CREATE TABLE \"public.x\".y (id int PRIMARY KEY); ALTER PUBLICATION";
    scenario.source(&format!("{sql} {} ADD TABLE \"public.x\".y", scenario.name)).await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("both be published to topic"), "{}", outcome.text);

    scenario.settings.set("capture.exclude", vec!["*.y"]);
    let mut capture = changed(&scenario).await;
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source("INSERT INTO \"x.y\" VALUES (2, 'new-row'); INSERT INTO \"public.x\".y VALUES (3)").await;
    scenario.await_equal("\"x.y\"").await;
    assert_eq!(held(&scenario, "public.x.y", "old-row"), 2, "the table was published again under its earlier options");
    assert_quiet(&scenario);
}

/// What only earlier options want is no trouble of the configuration. Trap T24.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_only_earlier_options_want_is_not_shown_as_stopped() {
    let mut scenario = scenario("former", &format!("{LOG} CREATE TABLE later (id int PRIMARY KEY)")).await;
    scenario.settings.set("capture.exclude", vec!["public.later"]);
    // Else it would be taken in with its rows.
    scenario.settings.set("capture.snapshot", "never");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO log VALUES ('a')").await;
    scenario.await_target(NOTES, "a").await;
    capture.kill_9().expect("capture can be killed");

    scenario.settings.set("capture.exclude", vec!["public.none"]);
    let mut capture = changed(&scenario).await;
    await_stopped(&scenario, "public.later").await;
    scenario.source("INSERT INTO log VALUES ('b')").await;
    scenario.await_target(NOTES, "a b").await;
    capture.kill_9().expect("capture can be killed");

    scenario.settings.set("capture.exclude", vec!["public.later"]);
    let mut capture = changed(&scenario).await;
    scenario.source("INSERT INTO log VALUES ('c')").await;
    scenario.await_target(NOTES, "a b c").await;
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    assert_quiet(&scenario);
}

/// A table that is dropped leaves nothing to publish again, and the configuration says so already.
#[tokio::test(flavor = "multi_thread")]
async fn earlier_globs_that_nothing_matches_any_more_are_no_error() {
    let mut scenario = scenario("gone", &format!("{LOG} CREATE TABLE gone (id int PRIMARY KEY)")).await;
    scenario.settings.set("capture.include", vec!["public.gone"]);
    scenario.settings.set("capture.snapshot", "never");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO gone VALUES (1)").await;
    scenario.await_equal("gone").await;
    capture.kill_9().expect("capture can be killed");
    scenario.source("DROP TABLE gone").await;

    scenario.settings.set("capture.include", vec!["public.log"]);
    let _capture = changed(&scenario).await;
    await_stopped(&scenario, "public.log").await;
    assert_quiet(&scenario);
}

/// The server reads a publication as it was at each commit, but which tables it has only the present one tells.
#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_publication_is_needed_until_all_of_it_is_published_again() {
    let mut scenario = scenario("dropped", &format!("{LOG} CREATE TABLE noise (id int)")).await;
    scenario.settings.set("capture.include", vec!["public.log"]);
    let (first, other) = (scenario.name.clone(), format!("{}_other", scenario.name));
    scenario.source(&format!("CREATE PUBLICATION {other} FOR TABLE log")).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    // More WAL behind it: what may have been published ends there, and no commit says so.
    let noise = async {
        for _ in 0..100 {
            scenario.source("INSERT INTO noise SELECT generate_series(1, 100)").await;
        }
    };
    tokio::join!(scenario.source("INSERT INTO log VALUES ('a')"), noise);
    scenario.await_target(NOTES, "a").await;
    capture.kill_9().expect("capture can be killed");
    scenario.source(&format!("DROP PUBLICATION {first}")).await;

    scenario.settings.set("capture.publication", &*other);
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let remedy = format!("Create publication {first} again");
    assert!(outcome.text.contains(&remedy), "{}", outcome.text);

    // Behind what it is needed for, so nothing is missing that the other one has.
    scenario.source("INSERT INTO log VALUES ('b')").await;
    scenario.source(&format!("CREATE PUBLICATION {first} FOR TABLE log")).await;
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let mut capture = changed(&scenario).await;
    scenario.await_target(NOTES, "a b").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source(&format!("DROP PUBLICATION {first}; INSERT INTO log VALUES ('c')")).await;
    let _capture = scenario.capture().await;
    scenario.await_target(NOTES, "a b c").await;
    scenario.verify();
}

/// The server finds no publication at a change that is older than it: the former one has that change. A message needs no
/// publication, and is published under the new one by then.
#[tokio::test(flavor = "multi_thread")]
async fn changes_from_before_the_new_publication_are_published_as_the_former_one_has_them() {
    for message in ["", "SELECT pg_logical_emit_message(true, 'walrelay', 'news');"] {
        let mut scenario = scenario("young", LOG).await;
        let (first, other) = (scenario.name.clone(), format!("{}_other", scenario.name));
        let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
        scenario.source("INSERT INTO log VALUES ('a')").await;
        scenario.await_target(NOTES, "a").await;
        capture.kill_9().expect("capture can be killed");
        scenario.source(message).await;
        scenario.source("INSERT INTO log VALUES ('b')").await;
        scenario.source(&format!("CREATE PUBLICATION {other} FOR TABLE log")).await;
        scenario.settings.set("capture.publication", &*other);
        let mut capture = scenario.capture().await;
        scenario.source("INSERT INTO log VALUES ('c')").await;
        scenario.await_target(NOTES, "a b c").await;
        capture.kill_9().expect("capture can be killed");

        scenario.settings.set("capture.checkpoint_interval", "100ms");
        let mut capture = scenario.capture().await;
        scenario.source("INSERT INTO log VALUES ('d')").await;
        // Only then it is known that nothing older than the new publication comes any more.
        scenario.await_log(&mut capture, FOUND).await;
        scenario.await_target(NOTES, "a b c d").await;
        scenario.verify();
        let log = scenario.log_text("capture");
        assert!(log.find(FOUND) > log.rfind("from before publication"), "{log}");
        assert_eq!(log.matches(FOUND).count(), 1, "{log}");
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        scenario.source(&format!("DROP PUBLICATION {first}; INSERT INTO log VALUES ('e')")).await;
        let _capture = scenario.capture().await;
        scenario.await_target(NOTES, "a b c d e").await;
    }
}

/// A row is changed while there is no publication: between the drop and the next one of its name. Another one was there all the time.
async fn changed_without(scenario: &Scenario) -> Process {
    let first = &scenario.name;
    scenario.source(&format!("CREATE PUBLICATION {first}_other FOR TABLE log")).await;
    let (mut capture, apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO log VALUES ('a')").await;
    scenario.await_target(NOTES, "a").await;
    capture.kill_9().expect("capture can be killed");
    scenario.source(&format!("INSERT INTO log VALUES ('b'); DROP PUBLICATION {first}")).await;
    scenario.source("INSERT INTO log VALUES ('c')").await;
    scenario.source(&format!("CREATE PUBLICATION {first} FOR TABLE log")).await;
    apply
}

async fn ends_without_its_publication(scenario: &Scenario) {
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in ["while its publication did not exist", "A new snapshot", "resnapshot"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}

/// The publication that was there has what its predecessor lacks, above what may have been published under that. Before 15 the server begins
/// the transaction before it looks for the publication, so that transaction may have been published already.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_were_made_without_the_publication_are_read_by_another_one_that_was_there() {
    let mut scenario = scenario("there", LOG).await;
    let _apply = changed_without(&scenario).await;
    ends_without_its_publication(&scenario).await;
    scenario.settings.set("capture.publication", format!("{}_other", scenario.name));
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    if scenario.is_source_before(150_000).await {
        return ends_without_its_publication(&scenario).await;
    }
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO log VALUES ('d')").await;
    scenario.await_target(NOTES, "a b c d").await;
    scenario.verify();
}

/// What was changed while there was no publication cannot be read by the server, and must not be passed over. Traps T6 and T37.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_were_made_without_the_publication_end_capture_until_a_new_snapshot_has_them() {
    let mut scenario = scenario("absent", LOG).await;
    let _apply = changed_without(&scenario).await;
    ends_without_its_publication(&scenario).await;
    scenario.await_target(NOTES, "a b").await;

    scenario.lose_slot().await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let _capture = scenario.capture().await;
    scenario.await_target(NOTES, "a b c").await;
    scenario.source("INSERT INTO log VALUES ('d')").await;
    scenario.await_target(NOTES, "a b c d").await;
    scenario.verify();
}

/// The next session of a process must not wait for the end of its predecessor's connection. Trap T17.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_slot_is_free_as_soon_as_it_is_given_back() {
    let scenario = Scenario::new("lock").await;
    let settings = scenario.source_settings();
    let connect = async || source::catalog::connect(&settings, "walrelay test").await.unwrap();
    let (first, second) = (connect().await, connect().await);
    assert!(source::lock::try_lock(&first, "s").await.unwrap());
    assert!(!source::lock::try_lock(&second, "s").await.unwrap());
    source::lock::unlock(&first, "s").await.unwrap();
    assert!(source::lock::try_lock(&second, "s").await.unwrap());
}
