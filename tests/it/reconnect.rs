//! The life of capture's connections to the source: each fault ends them, none ends capture, and nothing is lost or out of order.

use std::{fs, time::Duration};

use tokio::time::Instant;
use walrelay::cli::demo::process::Process;

use crate::{
    crash::seed,
    support::{
        LIMIT, Load, Network, PrivateParts, Scenario, await_condition,
        judge::{Delivery, await_confirmed, judge, make_judgeable},
    },
};

/// The server's `wal_sender_timeout`, in seconds. Twice as much silence ends a connection.
const TIMEOUT: u64 = 3;

/// How many sessions capture has begun.
fn sessions(scenario: &Scenario) -> usize {
    scenario.log_text("capture").matches("beginning slot=").count()
}

async fn ends_sessions(scenario: &Scenario) {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
         WHERE datname = '{}' AND application_name LIKE 'walrelay%' AND application_name <> 'walrelay demo'",
        scenario.name
    );
    scenario.source_value_as_superuser(&sql).await;
}

/// Under load, in both modes of delivery: connections that are cut, and that the server ends.
async fn connections_end_under_load(delivery: Delivery) {
    let mut scenario = Scenario::new("connections").await;
    let mode = if delivery == Delivery::Once { "exactly-once" } else { "at-least-once" };
    scenario.settings.set("capture.delivery", mode);
    make_judgeable(&mut scenario);
    Load::prepare(&scenario, 300).await;
    let network = Network::before_source(&mut scenario).await;
    network.allow_all();
    let mut capture = scenario.capture().await;
    let _apply = scenario.apply().await;
    // Rows that are read beside the stream are no events of a transaction.
    for table in Load::TABLES {
        scenario.await_equal(table).await;
    }
    let load = Load::start_paced(&scenario, seed(), Duration::from_millis(20)).await;
    for fault in ["cut", "ended", "cut", "ended"] {
        let before = load.transactions();
        await_condition("the load goes on", LIMIT, async || load.transactions() > before + 20).await;
        if fault == "cut" {
            network.cut();
        } else {
            ends_sessions(&scenario).await;
        }
        let begun = Instant::now();
        await_confirmed(&scenario).await;
        println!("{fault}: on again after {:?}", begun.elapsed());
        capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    }
    println!("{} transactions", load.stop().await);
    judge(&scenario, &Load::TABLES, delivery).await;
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_under_load_lose_nothing() {
    connections_end_under_load(Delivery::Repeated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_under_load_repeat_nothing_where_each_change_comes_once() {
    connections_end_under_load(Delivery::Once).await;
}

async fn things(scenario: &Scenario) -> (Process, Process) {
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things SELECT generate_series(1, 100)")
        .await;
    let halves = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    halves
}

/// Trap T15: the server has lost the connections and nobody says so to capture, which notices the silence.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_given_up() {
    let mut scenario = Scenario::new("silent").await;
    let name = scenario.name.clone();
    scenario.source(&format!("ALTER DATABASE {name} SET wal_sender_timeout = '{TIMEOUT}s'")).await;
    let network = Network::before_source(&mut scenario).await;
    network.allow_all();
    let (mut capture, _apply) = things(&scenario).await;
    for id in [1000, 2000] {
        let before = sessions(&scenario);
        network.fall_silent();
        scenario.source(&format!("INSERT INTO things VALUES ({id})")).await;
        scenario.await_equal("things").await;
        assert!(sessions(&scenario) > before, "the row came without a new session");
        capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    }
    scenario.verify();
}

/// A server that stops in good order, one that crashes, and one that has another certificate of another authority afterwards: files
/// are read at each connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_or_has_other_certificates_is_followed_by_the_same_process() {
    let private = PrivateParts::with_source_settings("");
    let mut scenario = Scenario::on(&private.parts, "restarted").await;
    scenario.settings.set("source.sslmode", "verify-full");
    scenario.settings.set("source.ssl_root_cert", private.authority().to_str().expect("text"));
    let (mut capture, _apply) = things(&scenario).await;
    for restart in 1..=3 {
        match restart {
            1 => private.stop().heal(),
            2 => private.kill().heal(),
            _ => private.replace_certificates(),
        }
        scenario.reconnect_source().await;
        scenario.source(&format!("INSERT INTO things VALUES (1000 * {restart})")).await;
        scenario.await_equal("things").await;
        capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(sessions(&scenario) >= 4, "it came back without a new session");
    scenario.verify();
}

/// The password is another one at the server for a while before it is in the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_replaced_in_its_file_lets_the_same_process_in() {
    let mut scenario = Scenario::new("rotated").await;
    let role = scenario.name.clone();
    let owner = scenario.parts.user.clone();
    let superuser = async |sql: String| {
        let server = scenario.parts.source.clone();
        let admin = server.connect("postgres", "postgres", "").await.expect("a session");
        admin.batch_execute(&sql).await.expect("the statement");
    };
    superuser(format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'hunter-1' IN ROLE {owner}")).await;
    let file = scenario.folder().join("password");
    fs::write(&file, "hunter-1\n").expect("the file can be written");
    let path = file.to_str().expect("text").to_owned();
    superuser(format!("SELECT 1; ALTER ROLE {role} SET role = '{owner}'")).await;
    scenario.settings.unset("source", "password");
    scenario.settings.set("source.password_file", path.as_str());
    scenario.settings.set("source.user", role.as_str());
    let (mut capture, _apply) = things(&scenario).await;
    superuser(format!("ALTER ROLE {role} PASSWORD 'hunter-2'")).await;
    ends_sessions(&scenario).await;
    scenario.source("INSERT INTO things VALUES (1000)").await;
    scenario.await_log(&mut capture, "Put the role's password into").await;
    fs::write(&file, "hunter-2\n").expect("the file can be written");
    scenario.await_equal("things").await;
    scenario.verify();
    assert!(!scenario.log_text("capture").contains("hunter"), "the password is in the log");
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
}

/// Trap T15: while a snapshot is read nothing streams, and no statement has a limit. The server is asked whether it has the session still.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_while_a_snapshot_is_read_are_given_up() {
    let mut scenario = Scenario::new("silent_snapshot").await;
    scenario.settings.set("source.connect_timeout", "1s");
    let fill = "CREATE TABLE things (id int PRIMARY KEY, body text);
                INSERT INTO things SELECT i, repeat('x', 500) FROM generate_series(1, 40000) i";
    scenario.source(fill).await;
    let network = Network::before_source(&mut scenario).await;
    network.allow(2_000_000);
    let (mut capture, _apply) = (scenario.spawn_capture(), scenario.spawn_apply());
    let copies = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE 'COPY%' AND wait_event = 'ClientWrite'",
        scenario.name
    );
    let is_cut = async || scenario.source_value_as_superuser(&copies).await.is_some_and(|count| count != "0");
    await_condition("a copy is under way", LIMIT, is_cut).await;
    network.fall_silent();
    network.open();
    scenario.await_log(&mut capture, "an answer does not come").await;
    scenario.source("DELETE FROM things WHERE id % 3 = 0; INSERT INTO things VALUES (0, 'new')").await;
    scenario.await_equal("things").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    scenario.verify();
}
