//! Databases, halves and load of the benchmark.

use std::{
    collections::BTreeMap,
    process,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tempfile::TempDir;
use tokio_postgres::Client;
use walrelay::{
    cli::demo::{
        parts::Parts,
        process::{Half, Process},
        scrape::Samples,
        settings::Settings,
    },
    pipeline::metrics::CAPTURE_UNACKNOWLEDGED,
};

use crate::Outcome;

/// About 200 bytes a row, as in the figures of the peers; the second unique key makes partitions depend on each other.
const TABLE: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, number text NOT NULL UNIQUE, customer_id int NOT NULL,
                     status text NOT NULL, amount numeric(12,2) NOT NULL, note text NOT NULL, updated_at timestamptz NOT NULL)";

/// Ten rows after `k`.
pub const ROW: &str = "SELECT i, 'A-' || i, i % 10000, 'new', i * 0.01, repeat(md5(i::text), 3), now() \
                       FROM generate_series(k + 1, k + 10) i";

const LIMIT: Duration = Duration::from_mins(20);

/// What capture's log says at the end of a snapshot.
const COMPLETE: &str = "the snapshot is complete, and recorded";

/// What all measurements share.
pub struct World {
    /// The parts.
    pub parts: Parts,
    /// Name of the databases and the publication.
    pub name: String,
    /// Name of the slot, and prefix of the topics.
    capturing: String,
    /// Rows of each step.
    pub rows: u64,
    /// The source database as superuser.
    pub source: Client,
    settings: Settings,
    folder: TempDir,
    halves: BTreeMap<&'static str, Process>,
    peaks: BTreeMap<&'static str, f64>,
}

impl World {
    /// Fills a source database and makes an empty target.
    pub async fn create(parts: Parts, what: &str, rows: u64) -> Outcome<Self> {
        let name = format!("bench_{what}{}", process::id());
        for server in [&parts.source, &parts.target] {
            let admin = server.connect("postgres", "postgres", "").await?;
            admin.batch_execute(&format!("CREATE DATABASE {name} OWNER {}", parts.user)).await?;
        }
        let source = parts.source.connect(&name, "postgres", "").await?;
        let fill = ROW.replace("k + 10", &rows.to_string()).replace("k + 1", "1");
        let owner = &parts.user;
        let sql = format!(
            "{TABLE}; ALTER TABLE orders OWNER TO {owner}; INSERT INTO orders {fill}; CHECKPOINT; \
                           ANALYZE orders; CREATE PUBLICATION {name} FOR TABLE orders; ALTER PUBLICATION {name} OWNER TO {owner}"
        );
        source.batch_execute(&sql).await?;
        let settings = Settings::new(&parts, &name, &name, &name);
        let folder = tempfile::Builder::new().prefix("walrelay-bench-").tempdir()?;
        settings.write(&folder.path().join("walrelay.toml"))?;
        let (halves, peaks) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { parts, capturing: name.clone(), name, rows, source, settings, folder, halves, peaks })
    }

    /// Capture begins anew, with a slot and topics of these names, and with these settings. The slot before goes.
    pub async fn capture_anew(&mut self, name: &str, settings: &[(&str, toml::Value)]) -> Outcome<()> {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        self.source.execute(sql, &[&self.capturing]).await?;
        self.capturing = format!("{}_{name}", self.name);
        self.peaks.clear();
        for key in ["capture.slot", "kafka.prefix"] {
            self.settings.set(key, self.capturing.as_str());
        }
        for (key, value) in settings {
            self.settings.set(key, value.clone());
        }
        Ok(self.settings.write(&self.folder.path().join("walrelay.toml"))?)
    }

    /// Starts capture, and waits until it streams.
    pub async fn start_capture(&mut self) -> Outcome<()> {
        self.start("capture")?;
        let process = self.halves.get_mut("capture").ok_or("the half does not run")?;
        Ok(process.await_ready(Duration::from_mins(1)).await?)
    }

    /// Starts capture, and kills it once it has read so many rows.
    pub async fn cut_capture(&mut self, rows: u64) -> Outcome<()> {
        let begun = Instant::now();
        self.start("capture")?;
        while self.events("capture", &["r"]).await? < rows {
            if begun.elapsed() > LIMIT {
                return Err(format!("capture did not read {rows} rows").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut process = self.halves.remove("capture").ok_or("the half does not run")?;
        Ok(process.kill_9()?)
    }

    /// Starts capture and stops it once its snapshot is through.
    pub async fn finish_snapshot(&mut self) -> Outcome<()> {
        let begun = Instant::now();
        self.start("capture")?;
        loop {
            self.events("capture", &["r"]).await?;
            let half = self.halves.get("capture").ok_or("the half does not run")?;
            if std::fs::read_to_string(&half.half().log)?.contains(COMPLETE) {
                return self.stop("capture").await;
            }
            if begun.elapsed() > LIMIT {
                return Err(format!("the snapshot goes on; {}", half.log_tail(20)).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many records a table's topic has.
    pub fn records(&self, table: &str) -> Outcome<u64> {
        const LIMIT: Duration = Duration::from_secs(15);
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.parts.kafka).create()?;
        let topic = format!("{}.public.{table}", self.capturing);
        let metadata = client.fetch_metadata(Some(&topic), LIMIT)?;
        let mut records = 0;
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (first, next) = client.fetch_watermarks(&topic, partition.id(), LIMIT)?;
            records += u64::try_from(next - first)?;
        }
        Ok(records)
    }

    /// The table, for the reference.
    pub const fn table() -> &'static str {
        TABLE
    }

    fn start(&mut self, name: &'static str) -> Outcome<()> {
        let half = Half {
            name,
            program: env!("CARGO_BIN_EXE_walrelay").into(),
            config: self.folder.path().join("walrelay.toml"),
            log: self.folder.path().join(format!("{name}.log")),
            http: self.settings.text(&format!("http.{name}")).to_owned(),
        };
        self.halves.insert(name, half.spawn()?);
        Ok(())
    }

    /// Notes a half's peak memory and stops it.
    async fn stop(&mut self, name: &'static str) -> Outcome<()> {
        let mut process = self.halves.remove(name).ok_or("the half does not run")?;
        self.note_peak(name, &process);
        process.stop(Duration::from_mins(1)).await?;
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a peak of memory is far below 2^52 bytes")]
    fn note_peak(&mut self, name: &'static str, process: &Process) {
        let peak = process.peak_memory().unwrap_or_default() as f64 / 1_048_576.0;
        let known = self.peaks.entry(name).or_default();
        *known = known.max(peak);
    }

    /// Largest memory of a half so far, in MiB.
    pub fn peak(&self, name: &str) -> f64 {
        self.peaks.get(name).copied().unwrap_or_default()
    }

    /// Lets capture, which streams, put a statement's inserts into Kafka; events a second from the statement's end, and the largest
    /// memory of the process in MiB.
    pub async fn put_through_at_once(&mut self, statement: &str, count: u64) -> Outcome<(f64, f64)> {
        self.source.batch_execute(statement).await?;
        let begun = Instant::now();
        while self.events("capture", &["c"]).await? < count || !self.is_through("capture").await? {
            if begun.elapsed() > LIMIT {
                let log = self.halves.get("capture").map(|half| half.log_tail(20)).unwrap_or_default();
                return Err(format!("capture did not put {count} events through; {log}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rate = rate(count, begun);
        self.stop("capture").await?;
        Ok((rate, self.peak("capture")))
    }

    /// Starts a half, lets it put this many events of these ops through, and stops it; events a second from the first look
    /// that shows any, so that the start of the process does not count; it does where that look shows all.
    pub async fn put_through(&mut self, name: &'static str, ops: &[&str], count: u64) -> Outcome<f64> {
        let begun = Instant::now();
        self.start(name)?;
        let mut first = None;
        loop {
            let seen = self.events(name, ops).await?;
            let (since, before) = *first.get_or_insert((Instant::now(), seen));
            if before == 0 {
                first = None;
            }
            if seen >= count && self.is_through(name).await? {
                let rate = if before < count { rate(seen - before, since) } else { rate(seen, begun) };
                self.stop(name).await?;
                return Ok(rate);
            }
            if begun.elapsed() > LIMIT {
                let log = self.halves.get(name).map(|half| half.log_tail(20)).unwrap_or_default();
                return Err(format!("{name} put {seen} of {count} events {ops:?} through; {log}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Capture counts what it hands over: it is through when Kafka has acknowledged all of it, and when its slot streams,
    /// since it records the end of a snapshot first.
    async fn is_through(&self, name: &str) -> Outcome<bool> {
        if name == "capture" {
            let half = self.halves.get(name).ok_or("the half does not run")?;
            let samples = Samples::fetch(&half.half().http).await.unwrap_or_default();
            if samples.sum(CAPTURE_UNACKNOWLEDGED) != 0.0 {
                return Ok(false);
            }
        }
        let sql = "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = $1 AND active";
        Ok(name != "capture" || self.source.query_one(sql, &[&self.capturing]).await?.get(0))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and far below 2^52")]
    async fn events(&mut self, name: &'static str, ops: &[&str]) -> Outcome<u64> {
        let metric = format!("walrelay_{name}_events_total");
        let process = self.halves.get_mut(name).ok_or("the half does not run")?;
        process.check_alive()?;
        let samples = Samples::fetch(&process.half().http).await.unwrap_or_default();
        Ok(ops.iter().map(|op| samples.sum_where(&metric, "op", op)).sum::<f64>() as u64)
    }

    /// Runs a statement for the ten keys above `k`, each time in a transaction of its own, for as many keys above `from`
    /// as a step has rows.
    pub async fn write_in_tens(&self, statement: &str, from: u64) -> Outcome<()> {
        let last = from + self.rows - 10;
        let sql = format!("DO $$ BEGIN FOR k IN {from}..{last} BY 10 LOOP {statement}; COMMIT; END LOOP; END $$");
        self.source.batch_execute(&sql).await?;
        Ok(())
    }

    /// Both ends are equal, or the figures are worth nothing.
    pub async fn verify(&mut self) -> Outcome<()> {
        for name in ["capture", "apply"] {
            self.start(name)?;
        }
        for process in self.halves.values_mut() {
            process.await_ready(Duration::from_mins(1)).await?;
        }
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_walrelay"));
        command.arg("verify").arg("--config").arg(self.folder.path().join("walrelay.toml"));
        let output = command.output().await?;
        for name in ["apply", "capture"] {
            self.stop(name).await?;
        }
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("source and target differ:\n{text}").into()) }
    }

    /// Removes the databases; topics stay until the parts are reset.
    pub async fn remove(&mut self) {
        self.halves.clear();
        for server in [&self.parts.source, &self.parts.target] {
            let Ok(admin) = server.connect("postgres", "postgres", "").await else { continue };
            let sql = format!(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{0}' AND pid <> pg_backend_pid();
                 SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{0}'",
                self.name
            );
            let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
            for sql in [sql, drop] {
                if let Err(error) = admin.batch_execute(&sql).await {
                    eprintln!("cannot clean up: {error}");
                }
            }
        }
    }
}

/// Rows a second since a moment.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn rate(rows: u64, begun: Instant) -> f64 {
    rows as f64 / begun.elapsed().as_secs_f64()
}
