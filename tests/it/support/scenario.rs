//! One test's world: a database at each end, and both halves as processes between them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio_postgres::Client;
use walrelay::{
    cli::demo::{
        parts::{Parts, Server},
        process::{Half, Process, tail},
        scrape::{self, Samples},
        settings::Settings,
    },
    postgres::SslMode,
    progress::Progress,
};

use super::{LIMIT, Topics, before_15, chain, holds_within, parts};

/// How a run of the program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to both outputs.
    pub text: String,
}

/// A test's databases, settings and processes. Dropping it removes all that it made, and after a failure prints the logs.
pub struct Scenario {
    /// The parts.
    pub parts: Parts,
    /// Name of the databases, the slot, the publication, the topic prefix and the group.
    pub name: String,
    /// The source database, as its owner, who is also the role of capture.
    pub source: Client,
    /// The target database, as its owner, who is also the role of apply.
    pub target: Client,
    /// What both halves are configured with; change it before starting them.
    pub settings: Settings,
    /// What both halves are run by.
    pub program: PathBuf,
    folder: TempDir,
}

impl Scenario {
    /// On the shared parts.
    pub async fn new(name: &str) -> Self {
        Self::on(&parts(), name).await
    }

    /// On other parts than the shared ones.
    pub async fn on(parts: &Parts, name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}_{}_{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let [source, target] = [&parts.source, &parts.target];
        for server in [source, target] {
            let admin = ok(server.connect("postgres", "postgres", "").await);
            let sql = format!("CREATE DATABASE {name} OWNER {}", parts.user);
            ok(server.execute(&admin, "create a database", &sql).await);
        }
        let mut settings = Settings::new(parts, &name, &name, &name);
        // Tables without a key are captured as others, whatever becomes of their updates.
        settings.set("capture.unidentified", "publish");
        Self {
            source: ok(source.connect(&name, &parts.user, &parts.password).await),
            target: ok(target.connect(&name, &parts.user, &parts.password).await),
            settings,
            program: PathBuf::from(env!("CARGO_BIN_EXE_walrelay")),
            folder: tempfile::Builder::new().prefix("walrelay-it-").tempdir().expect("a folder for the test"),
            parts: parts.clone(),
            name,
        }
    }

    /// Connects to the source anew, after it was another server for a while.
    pub async fn reconnect_source(&mut self) {
        self.source = ok(self.parts.source.connect(&self.name, &self.parts.user, &self.parts.password).await);
    }

    /// How walrelay reaches the source, as the role of capture.
    pub fn source_settings(&self) -> walrelay::postgres::Settings {
        let server = &self.parts.source;
        walrelay::postgres::Settings {
            host: server.host.clone(),
            port: server.port,
            database: self.name.clone(),
            user: self.parts.user.clone(),
            password: Some(self.parts.password.clone().into()),
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            connect_timeout_seconds: 10,
        }
    }

    /// Runs statements at the source.
    pub async fn source(&self, sql: &str) {
        ok(self.parts.source.execute(&self.source, &format!("run {}", shortened(sql)), sql).await);
    }

    /// Runs statements at the target.
    pub async fn target(&self, sql: &str) {
        ok(self.parts.target.execute(&self.target, &format!("run {}", shortened(sql)), sql).await);
    }

    /// Runs statements at both ends: what a target must have before apply can create tables, such as types.
    pub async fn both(&self, sql: &str) {
        self.source(sql).await;
        self.target(sql).await;
    }

    /// Whether the source is older than this version, as `server_version_num` has it.
    pub async fn is_source_before(&self, version: u32) -> bool {
        let known = self.source_value("SHOW server_version_num").await.and_then(|text| text.parse::<u32>().ok());
        known.expect("a version") < version
    }

    /// SQL with values of all types as this source takes it.
    pub async fn spelt(&self, sql: &str) -> String {
        if self.is_source_before(150_000).await { before_15(sql) } else { sql.to_owned() }
    }

    /// Waits until a table holds the same rows at both ends, compared here and not by walrelay.
    pub async fn await_equal(&self, table: &str) {
        let equal = self.becomes_equal(table).await;
        assert!(equal, "{table} does not hold the source's rows at the target\n{}", self.picture().await);
    }

    /// Whether a table comes to hold the same rows at both ends.
    pub async fn becomes_equal(&self, table: &str) -> bool {
        let digest = format!(
            "SELECT count(*) || ' rows ' || md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")) FROM {table} t"
        );
        let expected = self.source_value(&digest).await;
        holds_within(LIMIT, async || self.target_value(&digest).await == expected).await
    }

    /// The first column of the first row at the source, as text; `None` for NULL or no row.
    pub async fn source_value(&self, sql: &str) -> Option<String> {
        value(&self.source, sql).await
    }

    /// The same, seen by a superuser.
    pub async fn source_value_as_superuser(&self, sql: &str) -> Option<String> {
        value(&ok(self.parts.source.connect(&self.name, "postgres", "").await), sql).await
    }

    /// The same at the target; a table that is not there yet gives `None`.
    pub async fn target_value(&self, sql: &str) -> Option<String> {
        value(&self.target, sql).await
    }

    /// Waits until a query at the target gives this text.
    pub async fn await_target(&self, sql: &str, expected: &str) {
        let check = async || self.target_value(sql).await.as_deref() == Some(expected);
        let holds = holds_within(LIMIT, check).await;
        assert!(holds, "target does not give {expected} for {sql}\n{}", self.picture().await);
    }

    /// Starts capture; it need not become ready.
    pub fn spawn_capture(&self) -> Process {
        self.spawn("capture")
    }

    /// Starts apply; it need not become ready.
    pub fn spawn_apply(&self) -> Process {
        self.spawn("apply")
    }

    /// Starts another apply beside the scenario's, with settings and a log of its own.
    pub fn spawn_apply_with(&self, settings: &Settings, name: &str) -> Process {
        self.spawn_with("apply", settings, name)
    }

    /// Starts another capture beside the scenario's, with settings and a log of its own.
    pub fn spawn_capture_with(&self, settings: &Settings, name: &str) -> Process {
        self.spawn_with("capture", settings, name)
    }

    fn spawn_with(&self, half: &'static str, settings: &Settings, name: &str) -> Process {
        let config = self.folder.path().join(format!("{name}.toml"));
        ok(settings.write(&config));
        let http = settings.text(&format!("http.{half}")).to_owned();
        ok(Half { name: half, program: self.program.clone(), config, log: self.log(name), http }.spawn())
    }

    /// Starts another capture beside the scenario's, with settings and a log of its own, and waits until it streams.
    pub async fn capture_with(&self, settings: &Settings, name: &str) -> Process {
        let config = self.folder.path().join(format!("{name}.toml"));
        ok(settings.write(&config));
        let http = settings.text("http.capture").to_owned();
        let mut process =
            ok(Half { name: "capture", program: self.program.clone(), config, log: self.log(name), http }.spawn());
        Self::await_streaming(&mut process).await;
        process
    }

    /// Another connection to the source, as its owner.
    pub async fn source_session(&self) -> Client {
        ok(self.parts.source.connect(&self.name, &self.parts.user, &self.parts.password).await)
    }

    /// The folder of this test's logs and settings.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts capture and waits until it streams: before that a snapshot begins anew where it is cut, and what is written is its own.
    pub async fn capture(&self) -> Process {
        let mut process = self.spawn_capture();
        Self::await_streaming(&mut process).await;
        process
    }

    async fn await_streaming(capture: &mut Process) {
        ok(capture.await_ready(LIMIT).await);
        let begun = Instant::now();
        loop {
            let page = scrape::fetch(&capture.half().http, "/readyz").await;
            if page.is_ok_and(|page| page.body.contains(r#""phase":"streaming"#)) {
                return;
            }
            ok(capture.check_alive());
            assert!(begun.elapsed() < LIMIT, "capture does not come to stream");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts apply and waits until it is ready.
    pub async fn apply(&self) -> Process {
        let mut process = self.spawn_apply();
        ok(process.await_ready(LIMIT).await);
        process
    }

    fn spawn(&self, name: &'static str) -> Process {
        let half = Half {
            name,
            program: self.program.clone(),
            config: self.write_settings(),
            log: self.log(name),
            http: self.settings.text(&format!("http.{name}")).to_owned(),
        };
        ok(half.spawn())
    }

    /// Starts a half that must give up, and gives how it did.
    pub async fn run_to_end(&self, name: &'static str) -> Outcome {
        let mut process = self.spawn(name);
        let status = ok(process.await_exit(LIMIT).await);
        Outcome { code: status.code(), text: self.log_text(name) }
    }

    /// Runs another subcommand to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(self.write_settings())
            .output()
            .expect("the program can be run");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Outcome { code: output.status.code(), text }
    }

    /// The judge: both ends are equal at one LSN. Both halves must run.
    pub fn verify(&self) {
        let outcome = tokio::task::block_in_place(|| self.run(&["verify"]));
        assert_eq!(outcome.code, Some(0), "verify says:\n{}", outcome.text);
    }

    /// Waits until the log of a half that goes on holds a text.
    pub async fn await_log(&self, half: &mut Process, text: &str) {
        let name = half.half().name;
        let begun = Instant::now();
        while !self.log_text(name).contains(text) {
            ok(half.check_alive());
            assert!(begun.elapsed() < LIMIT, "the log of {name} does not say {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The whole log of a half.
    pub fn log_text(&self, name: &str) -> String {
        fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// What `/readyz` of a half answers: status and body; status 0 when nobody answers.
    pub async fn readiness(&self, name: &str) -> (u16, String) {
        let page = scrape::fetch(self.settings.text(&format!("http.{name}")), "/readyz").await;
        page.map_or((0, String::new()), |page| (page.status, page.body))
    }

    /// A page of a half; empty when nobody answers.
    pub async fn page(&self, name: &str, path: &str) -> String {
        let page = scrape::fetch(self.settings.text(&format!("http.{name}")), path).await;
        page.map_or_else(|_| String::new(), |page| page.body)
    }

    /// The metrics of a half.
    pub async fn metrics(&self, name: &str) -> Samples {
        Samples::fetch(self.settings.text(&format!("http.{name}"))).await.unwrap_or_default()
    }

    /// What both halves say of themselves: for the message of a failed test.
    async fn picture(&self) -> String {
        let mut text = String::new();
        for half in ["capture", "apply"] {
            for page in ["/readyz", "/metrics"] {
                let body = scrape::fetch(self.settings.text(&format!("http.{half}")), page).await;
                let body = body.map_or_else(|error| error.to_string(), |page| page.body);
                let lines = body.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
                text = lines.fold(format!("{text}\n{half} {page}:"), |text, line| format!("{text}\n  {line}"));
            }
        }
        text
    }

    /// The slot's `confirmed_flush_lsn`.
    pub async fn confirmed_flush(&self) -> Option<String> {
        let sql =
            format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'", self.name);
        self.source_value(&sql).await
    }

    /// Drops the slot, also under a capture that streams from it.
    pub async fn lose_slot(&self) {
        let slot = &self.name;
        let found = format!("FROM pg_replication_slots WHERE slot_name = '{slot}'");
        self.source(&format!("SELECT pg_terminate_backend(active_pid, 10000) {found}")).await;
        self.source(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    }

    /// The state topic, which is named after the scenario.
    pub fn state_topics(&self) -> Topics {
        self.topics_under("walrelay.state")
    }

    /// Topics with another prefix.
    pub fn topics_under(&self, prefix: &str) -> Topics {
        Topics::new(&self.parts.kafka, prefix)
    }

    /// The topics of this scenario.
    pub fn topics(&self) -> Topics {
        Topics::new(&self.parts.kafka, &self.name)
    }

    /// What capture told the sinks last.
    pub fn progress(&self) -> Progress {
        let records = Topics::new(&self.parts.kafka, "walrelay.progress").read(&self.name);
        let last = records.last().and_then(|record| record.value.as_deref()).expect("a progress record");
        Progress::parse(last).expect("a progress record in its format")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn write_settings(&self) -> PathBuf {
        let file = self.folder.path().join("walrelay.toml");
        ok(self.settings.write(&file));
        file
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if thread::panicking() {
            for name in ["capture", "apply"] {
                print_tail(&self.log(name));
            }
            eprintln!("the whole logs are kept in {}", self.folder.path().display());
            self.folder.disable_cleanup(true);
        }
        let (parts, name) = (self.parts.clone(), self.name.clone());
        // A runtime of its own: the test's may be the one that is being unwound.
        let cleaning = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(clean(&parts, &name)))
        });
        let _failed = cleaning.join();
    }
}

async fn clean(parts: &Parts, name: &str) {
    for server in [&parts.source, &parts.target] {
        if let Err(error) = remove(server, name).await {
            eprintln!("{}", chain(&error));
        }
    }
    let topics = Topics::new(&parts.kafka, name);
    let limit = Duration::from_secs(5);
    if tokio::time::timeout(limit, topics.delete_all()).await.is_err() {
        eprintln!("topics of {name} stay behind");
    }
}

async fn remove(server: &Server, name: &str) -> Result<(), walrelay::cli::demo::Error> {
    let admin = server.connect("postgres", "postgres", "").await?;
    let end = format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}';
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}';"
    );
    server.execute(&admin, "drop the slot of a test", &end).await?;
    server.execute(&admin, "drop the database of a test", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
}

async fn value(client: &Client, sql: &str) -> Option<String> {
    let messages = client.simple_query(sql).await.ok()?;
    messages.into_iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
        _ => None,
    })?
}

fn print_tail(log: &Path) {
    eprintln!("--- {}\n{}", log.display(), tail(log, 40));
}

fn shortened(sql: &str) -> String {
    sql.split_whitespace().take(8).collect::<Vec<_>>().join(" ")
}

fn ok<T>(outcome: Result<T, walrelay::cli::demo::Error>) -> T {
    outcome.unwrap_or_else(|error| panic!("{}", chain(&error)))
}
