//! Passwords and TLS at real servers: both kinds of connections to PostgreSQL, every `sslmode`, every method of `pg_hba.conf`;
//! passwords at Kafka.

use std::{collections::HashMap, env, fs, path::PathBuf};

use walrelay::{
    postgres::{self, Settings, SslMode},
    source::connection::ReplicationConnection,
};

use crate::support::{LIMIT, Scenario};

/// The addresses and files that `dev/parts env` prints.
struct Server(HashMap<String, String>);

impl Server {
    fn read() -> Self {
        let file = env::var("WALRELAY_DEV_ENV").expect("WALRELAY_DEV_ENV names the file of addresses");
        let text = fs::read_to_string(file).expect("the file of addresses can be read");
        Self(text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
    }

    fn value(&self, name: &str) -> String {
        self.0[&format!("WALRELAY_DEV_{name}")].clone()
    }

    fn settings(&self, user: &str, ssl_mode: SslMode) -> Settings {
        Settings {
            host: self.value("SOURCE_HOST"),
            port: self.value("SOURCE_PORT").parse().unwrap(),
            database: "postgres".into(),
            user: user.into(),
            password: Some(self.value("PASSWORD").into()),
            ssl_mode,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            connect_timeout_seconds: 10,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.value(name).into()
    }
}

/// Logs in on an ordinary and on a replication connection, which must agree; tells whether TLS is in use.
async fn log_in(settings: &Settings) -> Result<bool, String> {
    let ordinary = postgres::connect(settings, "walrelay test").await;
    let replication = ReplicationConnection::connect(settings).await;
    assert_eq!(ordinary.is_ok(), replication.is_ok(), "{:?} {:?}", ordinary.err(), replication.err());
    replication.map_err(|error| walrelay::retry::chain(&error))?;
    let client = ordinary.map_err(|error| error.to_string())?;
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_password_method_of_the_server_is_answered() {
    let server = Server::read();
    for user in ["walrelay", "walrelay_md5", "walrelay_clear"] {
        for (mode, tls) in [(SslMode::Disable, false), (SslMode::Prefer, true), (SslMode::Require, true)] {
            assert_eq!(log_in(&server.settings(user, mode)).await, Ok(tls), "{user} {mode:?}");
        }
        let wrong = Settings { password: Some("wrong".into()), ..server.settings(user, SslMode::Prefer) };
        assert!(log_in(&wrong).await.unwrap_err().contains("password authentication failed"), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_takes_what_pg_hba_allows_and_require_insists_on_tls() {
    let server = Server::read();
    let outcome = async |user, mode| log_in(&server.settings(user, mode)).await;
    assert_eq!(outcome("walrelay_tls", SslMode::Prefer).await, Ok(true));
    assert_eq!(outcome("walrelay_notls", SslMode::Prefer).await, Ok(false));
    assert!(outcome("walrelay_tls", SslMode::Disable).await.unwrap_err().contains("no encryption"));
    assert!(outcome("walrelay_notls", SslMode::Require).await.unwrap_err().contains("SSL encryption"));
    // refused with and without TLS: the first refusal is told
    assert!(outcome("walrelay_cert", SslMode::Prefer).await.unwrap_err().contains("walrelay_cert"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_ca_checks_the_authority_and_verify_full_the_host_too() {
    let server = Server::read();
    let settings =
        |mode, ca: &str| Settings { ssl_root_cert: Some(server.file(ca)), ..server.settings("walrelay", mode) };
    let elsewhere = |settings| Settings { host: server.value("SOURCE_OTHER_HOST"), ..settings };
    assert_eq!(log_in(&settings(SslMode::VerifyFull, "CA")).await, Ok(true));
    assert_eq!(log_in(&elsewhere(settings(SslMode::VerifyCa, "CA"))).await, Ok(true));
    let error = log_in(&elsewhere(settings(SslMode::VerifyFull, "CA"))).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    // `require` checks the authority when one is given, as libpq does
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let error = log_in(&settings(mode, "STRANGER_CA")).await.unwrap_err();
        assert!(error.contains("UnknownIssuer"), "{mode:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_logs_in_without_a_password() {
    let server = Server::read();
    let bare = Settings { password: None, ..server.settings("walrelay_cert", SslMode::Require) };
    assert!(log_in(&bare).await.is_err());
    let own = Settings { ssl_cert: Some(server.file("CLIENT_CERT")), ssl_key: Some(server.file("CLIENT_KEY")), ..bare };
    assert_eq!(log_in(&own).await, Ok(true));
}

/// A broker that refuses a log-in closes the connection and says so to nobody who only waits for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_kafka_refuses_is_told_as_that_and_the_right_one_lets_both_halves_in() {
    let mut scenario = Scenario::new("sasl").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let set = |scenario: &mut Scenario, password: &str| {
        let mut properties = toml::Table::new();
        for (name, value) in [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "walrelay"),
            ("sasl.password", password),
        ] {
            properties.insert(name.to_owned(), value.into());
        }
        scenario.settings.set("kafka.properties", properties);
    };
    scenario.settings.set("kafka.brokers", vec![Server::read().value("KAFKA_SASL")]);
    set(&mut scenario, "wrong-password");
    for half in ["capture", "apply"] {
        let outcome = scenario.run_to_end(half).await;
        assert_eq!(outcome.code, Some(3), "{half}: {}", outcome.text);
        for text in ["refuses the credentials", "Check the sasl.* and ssl.* properties"] {
            assert!(outcome.text.contains(text), "{half}: {text:?} is not in\n{}", outcome.text);
        }
        assert!(!outcome.text.contains("wrong-password"), "{half}: {}", outcome.text);
    }
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(outcome.text.contains("refuses the credentials"), "{}", outcome.text);

    set(&mut scenario, &Server::read().value("PASSWORD"));
    let (mut capture, mut apply) = (scenario.spawn_capture(), scenario.spawn_apply());
    for half in [&mut capture, &mut apply] {
        half.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }
    scenario.await_equal("things").await;
}
