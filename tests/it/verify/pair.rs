//! A source and a target database of a test's own, with a publication and the tables in which `apply` keeps its positions.

use std::{collections::HashMap, env, fs, time::Duration};

use walrelay::{
    pipeline::verify::{self, Bookkeeping, Error, Kind, Options, Report, TableReport},
    postgres::{self, Client, Settings, SslMode},
    record::Masks,
    schema::TableName,
};

const SCHEMA: &str = "walrelay";
pub const INSTANCE: &str = "verify-test";

/// Both databases.
pub struct Pair {
    pub source_settings: Settings,
    pub target_settings: Settings,
    pub source: Client,
    pub target: Client,
}

impl Pair {
    pub async fn new(test: &str) -> Self {
        let file = env::var("WALRELAY_DEV_ENV")
            .expect("WALRELAY_DEV_ENV is not set: run `dev/parts up` and set it to the file that this names");
        let addresses = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let values: HashMap<_, _> = addresses.lines().filter_map(|line| line.split_once('=')).collect();
        let source_settings = create_database(&values, "SOURCE", &format!("verify_{test}_source")).await;
        let target_settings = create_database(&values, "TARGET", &format!("verify_{test}_target")).await;
        let source = postgres::connect(&source_settings, "test").await.unwrap();
        let target = postgres::connect(&target_settings, "test").await.unwrap();
        source.batch_execute("CREATE PUBLICATION walrelay FOR ALL TABLES").await.unwrap();
        target.batch_execute(BOOKKEEPING).await.unwrap();
        Self { source_settings, target_settings, source, target }
    }

    pub async fn source(&self, sql: &str) {
        self.source.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn target(&self, sql: &str) {
        self.target.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn both(&self, sql: &str) {
        self.source(sql).await;
        self.target(sql).await;
    }

    /// A lane of each table that has nothing left to apply: whatever hold comes, it stands there already.
    pub async fn idle_lanes(&self, tables: &[&str]) {
        for table in tables {
            let topic = topic(&TableName::new("public", *table)).replace('\'', "''");
            let sql = format!(
                "INSERT INTO walrelay.position (instance, topic, partition, held_at)
                 VALUES ('{INSTANCE}', '{topic}', 0, 'FFFFFFFF/FFFFFFFF')"
            );
            self.target(&sql).await;
        }
    }

    pub fn options(&self) -> Options<'static> {
        Options {
            source: self.source_settings.clone(),
            target: self.target_settings.clone(),
            publication: "walrelay".into(),
            tables: Vec::new(),
            target_table: &|table| Some(table.clone()),
            topic: &topic,
            masks: Masks::default(),
            bookkeeping: Bookkeeping { schema: SCHEMA.into(), instance: INSTANCE.into() },
            kafka: None,
            timeout: Duration::from_mins(1),
            parallel: 2,
            limit: 20,
            show_values: false,
        }
    }

    pub async fn verify(&self) -> Report {
        self.verify_with(self.options()).await.unwrap()
    }

    pub async fn verify_with(&self, options: Options<'_>) -> Result<Report, Error> {
        verify::run(&options, std::future::pending()).await
    }

    pub async fn holds(&self) -> i64 {
        self.target.query_one("SELECT count(*) FROM walrelay.hold_request", &[]).await.unwrap().get(0)
    }
}

pub fn topic(table: &TableName) -> String {
    format!("test.{}.{}", table.schema, table.table)
}

pub fn table<'a>(report: &'a Report, name: &str) -> &'a TableReport {
    report.tables.iter().find(|table| &*table.source.table == name).expect("the table was compared")
}

/// Kind, key and columns of the listed differences.
pub fn listed(table: &TableReport) -> Vec<(Kind, &str, Vec<&str>)> {
    table
        .differences
        .iter()
        .map(|found| {
            (found.kind, found.key.as_str(), found.columns.iter().map(|column| column.name.as_str()).collect())
        })
        .collect()
}

async fn create_database(values: &HashMap<&str, &str>, server: &str, database: &str) -> Settings {
    let value = |name: &str| {
        let name = format!("WALRELAY_DEV_{server}_{name}");
        values.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the file of addresses")).to_string()
    };
    let settings = |database: &str| Settings {
        host: value("HOST"),
        port: value("PORT").parse().unwrap(),
        database: database.into(),
        user: "postgres".into(),
        password: None,
        ssl_mode: SslMode::Disable,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        connect_timeout_seconds: 10,
    };
    let admin = postgres::connect(&settings("postgres"), "test").await.unwrap();
    // A slot of a run that was cut short keeps its database.
    let slots =
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1 AND NOT active";
    admin.execute(slots, &[&database]).await.unwrap();
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await.unwrap();
    admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    settings(database)
}

/// What of the sink's bookkeeping `verify` reads and writes.
const BOOKKEEPING: &str = "
    CREATE SCHEMA walrelay;
    CREATE TABLE walrelay.position (
        instance text, topic text, partition int, commit_lsn pg_lsn NOT NULL DEFAULT '0/0', held_at pg_lsn,
        parked_lsn pg_lsn, stopped text, owner text, PRIMARY KEY (instance, topic, partition));
    CREATE TABLE walrelay.hold_request (
        instance text PRIMARY KEY, lsn pg_lsn NOT NULL, created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL);
    CREATE VIEW walrelay.hold AS
        SELECT instance, lsn FROM walrelay.hold_request WHERE expires_at > clock_timestamp();";
