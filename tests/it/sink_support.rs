//! What the tests share: the services, fresh databases, and ways to say what events and rows are.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use walrelay::{
    event::{Barrier, Cell, ChangeEvent, Op, Row, ShapeColumn, TableShape},
    lsn::{Lsn, Position},
    postgres::{Settings, SslMode},
    schema::TableName,
    sink,
};

/// The services that the environment names.
pub struct Parts {
    values: BTreeMap<String, String>,
}

impl Parts {
    /// Reads the file that `WALRELAY_DEV_ENV` names. A test without its services fails, it does not pass by doing nothing.
    pub fn from_env() -> Self {
        let path = std::env::var("WALRELAY_DEV_ENV").expect(
            "this test needs services: start them and set WALRELAY_DEV_ENV to the file of KEY=VALUE lines that names them",
        );
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read WALRELAY_DEV_ENV {path}: {error}"));
        let values = text
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("export ").split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
            .collect();
        Self { values }
    }

    fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("WALRELAY_DEV_ENV does not name {name}"))
    }

    fn target(&self, database: &str) -> Settings {
        Settings {
            host: self.value("WALRELAY_DEV_TARGET_HOST").to_owned(),
            port: self.value("WALRELAY_DEV_TARGET_PORT").parse().expect("a port"),
            database: database.to_owned(),
            user: "postgres".to_owned(),
            password: None,
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            connect_timeout_seconds: 10,
        }
    }
}

/// Settings of a sink on this database.
pub fn sink_settings(db: &Database, instance: &str) -> sink::Settings {
    sink::Settings {
        server: db.settings.clone(),
        schema: "walrelay".into(),
        instance: instance.into(),
        owner: "test".into(),
        schemas: BTreeMap::new(),
        evolve: true,
        take_over: false,
        replica_role: false,
        binary: walrelay::types::BinaryMode::Bytes,
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A fresh database on the target server.
pub struct Database {
    pub settings: Settings,
    pub client: walrelay::postgres::Client,
}

impl Database {
    pub async fn create() -> Self {
        let parts = Parts::from_env();
        let admin = walrelay::postgres::connect(&parts.target("postgres"), "walrelay test").await.unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("walrelay_it_{}_{number}", std::process::id());
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let settings = parts.target(&name);
        let client = walrelay::postgres::connect(&settings, "walrelay test").await.unwrap();
        Self { settings, client }
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The rows of a query as text: columns joined by `|`, NULL as `∅`.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        let answer = self.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        answer
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    let cells: Vec<&str> = (0..row.len()).map(|index| row.get(index).unwrap_or("∅")).collect();
                    Some(cells.join("|"))
                }
                _ => None,
            })
            .collect()
    }

    /// Waits until a query gives these rows. A query on a table that is not there yet gives none.
    pub async fn until(&self, sql: &str, expected: &[&str]) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let answer = self.client.simple_query(sql).await;
            let rows = if answer.is_ok() { self.rows(sql).await } else { Vec::new() };
            if answer.is_ok() && rows == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{sql}: {rows:?}, expected {expected:?} ({answer:?})");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A table's shape; key columns are marked with `*`.
pub fn shape(table: &str, columns: &[(&str, &str)]) -> Arc<TableShape> {
    let key = (0..columns.len()).filter(|index| columns[*index].0.ends_with('*')).collect();
    let columns = columns
        .iter()
        .map(|(name, type_sql)| ShapeColumn {
            name: Arc::from(name.trim_end_matches('*')),
            type_sql: Arc::from(*type_sql),
            guessed: false,
            nullable: !name.ends_with('*'),
            missing: None,
            may_be_encoded: false,
            labels: Vec::new(),
        })
        .collect();
    let (schema, table) = table.split_once('.').unwrap_or(("public", table));
    Arc::new(TableShape { name: TableName::new(schema, table), columns, key })
}

/// A row: `∅` is NULL, `?` is not in the event.
pub fn row(cells: &[&str]) -> Row {
    cells
        .iter()
        .map(|cell| match *cell {
            "∅" => Cell::Null,
            "?" => Cell::Unchanged,
            text => Cell::Text(text.into()),
        })
        .collect()
}

pub fn at(commit: u64, ordinal: u64) -> Position {
    Position { epoch: 0, commit: Lsn(commit), ordinal }
}

fn event(op: Op, shape: &Arc<TableShape>, position: Position) -> ChangeEvent {
    ChangeEvent {
        op,
        position,
        commit_ms: 0,
        shape: Arc::clone(shape),
        before: None,
        after: None,
        key_move: false,
        moved_columns: Vec::new(),
        backfilling: false,
        resync: None,
        barrier: None,
    }
}

pub fn insert(shape: &Arc<TableShape>, position: Position, after: &[&str]) -> ChangeEvent {
    ChangeEvent { after: Some(row(after)), ..event(Op::Create, shape, position) }
}

pub fn update(shape: &Arc<TableShape>, position: Position, after: &[&str]) -> ChangeEvent {
    ChangeEvent { after: Some(row(after)), ..event(Op::Update, shape, position) }
}

pub fn change(shape: &Arc<TableShape>, position: Position, before: &[&str], after: &[&str]) -> ChangeEvent {
    ChangeEvent { before: Some(row(before)), ..update(shape, position, after) }
}

pub fn delete(shape: &Arc<TableShape>, position: Position, before: &[&str]) -> ChangeEvent {
    ChangeEvent { before: Some(row(before)), ..event(Op::Delete, shape, position) }
}

pub fn truncate(shape: &Arc<TableShape>, position: Position, topics: &[(&str, i32)]) -> ChangeEvent {
    let topics = topics.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect();
    ChangeEvent { barrier: Some(Barrier { topics, ..Barrier::default() }), ..event(Op::Truncate, shape, position) }
}
