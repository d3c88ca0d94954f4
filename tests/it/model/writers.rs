//! Sessions that write at random, each repeatable by its seed as far as the others let it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::RwLock, task::JoinHandle};
use tokio_postgres::{Client, Error, SimpleQueryMessage, error::SqlState};
use walrelay::cli::demo::{self, parts::Parts, random::Random};

use super::{
    comings::{Made, Maker},
    ledger::Counts,
    statements::{Added, Effect, Statement, TABLES, definition, in_ledger, rewrite, statement, update_added},
};
use crate::support::{LIMIT, Scenario, chain};

const SESSIONS: u64 = 3;
/// The longest pause between two transactions, so that a capture which is killed all the time can follow.
const PACE: u64 = 100;

/// What the sessions share.
#[derive(Default)]
pub struct Shared {
    pub stop: AtomicBool,
    pub transactions: AtomicU64,
    /// Whoever holds it alone has no writer beside it.
    pub quiet: RwLock<()>,
    /// One session at a time changes definitions: types grow in a known order.
    pub defining: tokio::sync::Mutex<()>,
    added: Mutex<[Added; TABLES.len()]>,
    free: Mutex<BTreeMap<String, Option<u64>>>,
    done: Mutex<BTreeMap<&'static str, u64>>,
}

impl Shared {
    pub fn count(&self, what: &'static str) {
        *self.done.lock().unwrap().entry(what).or_default() += 1;
    }
}

/// Sessions at work.
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    maker: JoinHandle<Made>,
}

/// What they did.
pub struct Written {
    /// Messages outside of transactions, with their LSNs; none where a crash may have lost it.
    pub free: BTreeMap<String, Option<u64>>,
    pub made: Made,
    /// How often what was done.
    pub done: BTreeMap<&'static str, u64>,
}

impl Writers {
    /// Those that come and go do so in the first half of this period.
    pub async fn start(scenario: &Scenario, random: &mut Random, period: Duration) -> Self {
        let (shared, mut tasks) = (Arc::new(Shared::default()), Vec::new());
        for number in 0..SESSIONS {
            let client = connect(&scenario.parts, &scenario.name).await.expect("a connection");
            let session = Session {
                client,
                source: (scenario.parts.clone(), scenario.name.clone()),
                random: Random::new(random.number()),
                shared: Arc::clone(&shared),
                prepared: VecDeque::new(),
                number,
            };
            tasks.push(tokio::spawn(session.work()));
        }
        let source = (scenario.parts.clone(), scenario.name.clone());
        let client = connect(&source.0, &source.1).await.expect("a connection");
        let random = Random::new(random.number());
        let until = Instant::now() + period / 2;
        let maker = Maker { client, source, random, shared: Arc::clone(&shared), until };
        Self { shared, tasks, maker: tokio::spawn(maker.work()) }
    }

    /// Nobody writes while this lasts.
    pub async fn be_quiet(&self, period: Duration) {
        let _alone = self.shared.quiet.write().await;
        tokio::time::sleep(period).await;
    }

    /// Ends them; nothing stays open or prepared.
    pub async fn stop(mut self) -> Written {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a writer ends in order");
        }
        let made = (&mut self.maker).await.expect("the maker of tables ends in order");
        let (mut free, mut done) = (self.shared.free.lock().unwrap(), self.shared.done.lock().unwrap());
        Written { free: std::mem::take(&mut free), made, done: std::mem::take(&mut done) }
    }
}

impl Drop for Writers {
    /// After a failure nobody waits for them, and their server goes.
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.maker.abort();
    }
}

async fn connect(parts: &Parts, database: &str) -> Result<Client, demo::Error> {
    let client = parts.source.connect(database, &parts.user, &parts.password).await?;
    parts.source.execute(&client, "set", "SET lock_timeout = '1500ms'").await?;
    Ok(client)
}

/// Connects once the source is there again.
pub async fn connect_again((parts, database): &(Parts, String)) -> Client {
    let begun = Instant::now();
    loop {
        match connect(parts, database).await {
            Ok(client) => return client,
            Err(error) => assert!(begun.elapsed() < LIMIT, "the source does not come back: {}", chain(&error)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Session {
    client: Client,
    /// The server and its database.
    source: (Parts, String),
    random: Random,
    shared: Arc<Shared>,
    prepared: VecDeque<String>,
    number: u64,
}

/// A transaction as far as it is written.
struct Transaction {
    tx: u64,
    counts: Counts,
    /// A table's columns, when it is committed.
    added: Option<(usize, Added)>,
    /// Held back from PREPARE, since all others would wait for its locks.
    has_strong_locks: bool,
}

/// Whether the connection is gone.
pub fn is_of_crash(error: &Error) -> bool {
    error.is_closed() || error.code().is_none() || error.code() == Some(&SqlState::CRASH_SHUTDOWN)
}

impl Session {
    async fn work(mut self) {
        let shared = Arc::clone(&self.shared);
        while !shared.stop.load(Ordering::Relaxed) {
            let shared = shared.quiet.read().await;
            if let Err(error) = self.step().await {
                if is_of_crash(&error) { self.reconnect().await } else { self.recover(&error).await }
            }
            drop(shared);
            tokio::time::sleep(Duration::from_millis(self.random.below(PACE))).await;
        }
        while let Some(name) = self.prepared.pop_front() {
            self.finish(&name).await.expect("a prepared transaction ends");
        }
    }

    /// After a crash of the source. Whether the last statement was done, only the source knows.
    async fn reconnect(&mut self) {
        self.shared.count("reconnected");
        self.client = connect_again(&self.source).await;
        let prepared =
            format!("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'model {} %' ORDER BY prepared", self.number);
        self.prepared = self.names(&prepared).await.into();
        let shared = Arc::clone(&self.shared);
        let _alone = shared.defining.lock().await;
        for (number, table) in TABLES.iter().enumerate() {
            let added = format!(
                "SELECT attname || ' ' || atthasdef FROM pg_attribute WHERE attrelid = '{}'::regclass AND attname LIKE 'c\\_%'
                 AND NOT attisdropped ORDER BY attnum",
                table.name
            );
            let columns = self.names(&added).await.into_iter().filter_map(|column| {
                let (name, has_default) = column.split_once(' ')?;
                Some((name.to_owned(), has_default == "true"))
            });
            let columns = columns.collect();
            shared.added.lock().unwrap()[number] = columns;
        }
    }

    async fn names(&self, sql: &str) -> Vec<String> {
        let rows = self.client.query(sql, &[]).await.expect("the source answers");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// What other sessions cause is expected: the transaction is gone as a whole.
    async fn recover(&mut self, error: &Error) {
        let expected = [
            &SqlState::LOCK_NOT_AVAILABLE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            // A row moved to another partition meanwhile.
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::UNIQUE_VIOLATION,
            &SqlState::NOT_NULL_VIOLATION,
            &SqlState::UNDEFINED_COLUMN,
        ];
        assert!(error.code().is_some_and(|code| expected.contains(&code)), "a writer ended: {}", chain(error));
        self.shared.count("failed");
        self.run("ROLLBACK").await.expect("the source answers");
    }

    /// Number of rows of the last statement.
    async fn run(&self, sql: &str) -> Result<u64, Error> {
        let messages = self.client.simple_query(sql).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        Ok(rows.last().unwrap_or_default())
    }

    async fn step(&mut self) -> Result<(), Error> {
        if self.random.below(4) == 0
            && let Some(name) = self.prepared.pop_front()
        {
            self.finish(&name).await?;
        }
        match self.random.below(300) {
            0 => self.rewrite().await,
            1..6 => self.say_freely().await,
            _ => self.transaction().await,
        }
    }

    async fn finish(&mut self, name: &str) -> Result<(), Error> {
        let verb = if self.random.below(3) == 0 { "ROLLBACK" } else { "COMMIT" };
        self.shared.count(if verb == "COMMIT" { "committed prepared" } else { "rolled back prepared" });
        self.run(&format!("{verb} PREPARED '{name}'")).await.map(drop)
    }

    async fn rewrite(&mut self) -> Result<(), Error> {
        let sql = rewrite(&mut self.random);
        self.run(&sql).await?;
        self.shared.count("rewrites");
        Ok(())
    }

    /// A message outside of a transaction, at times in one that is rolled back.
    async fn say_freely(&mut self) -> Result<(), Error> {
        let rolls_back = self.random.below(2) == 0;
        if rolls_back {
            self.run("BEGIN; INSERT INTO ledger VALUES (-1, 0, 0, '')").await?;
        }
        let text = format!("free {}", self.shared.transactions.fetch_add(1, Ordering::Relaxed));
        let sql = format!("SELECT (pg_logical_emit_message(false, 'model', '{text}') - '0/0'::pg_lsn)::bigint");
        self.shared.free.lock().unwrap().insert(text.clone(), None);
        let lsn: i64 = self.client.query_one(&sql, &[]).await?.get(0);
        if rolls_back {
            self.run("ROLLBACK").await?;
        }
        // A crash may lose it until a later commit is durable.
        self.run("SELECT pg_logical_emit_message(true, 'flush', '')").await?;
        self.shared.free.lock().unwrap().insert(text, Some(u64::try_from(lsn).expect("an LSN")));
        Ok(())
    }

    async fn transaction(&mut self) -> Result<(), Error> {
        let tx = 1 + self.shared.transactions.fetch_add(1, Ordering::Relaxed);
        let mut transaction = Transaction { tx, counts: Counts::new(), added: None, has_strong_locks: false };
        let shared = Arc::clone(&self.shared);
        let defining = if self.random.below(40) == 0 { shared.defining.try_lock().ok() } else { None };
        self.run("BEGIN").await?;
        for _ in 0..=self.random.below(4) {
            if self.random.below(8) == 0 {
                self.savepoint(&mut transaction).await?;
            } else {
                self.statement(&mut transaction, true).await?;
            }
        }
        if defining.is_some() {
            self.define(&mut transaction).await?;
            self.statement(&mut transaction, true).await?;
        }
        self.end(transaction).await
    }

    async fn end(&mut self, transaction: Transaction) -> Result<(), Error> {
        let Transaction { tx, counts, added, has_strong_locks } = transaction;
        let end = self.random.below(100);
        if end < 8 {
            self.shared.count("rolled back");
            return self.run("ROLLBACK").await.map(drop);
        }
        self.run(&in_ledger(tx, &counts)).await?;
        if end < 14 && !has_strong_locks && self.prepared.len() < 2 {
            let name = format!("model {} {tx}", self.number);
            self.run(&format!("PREPARE TRANSACTION '{name}'")).await?;
            self.prepared.push_back(name);
            return Ok(());
        }
        self.run("COMMIT").await?;
        if let Some((table, added)) = added {
            self.shared.added.lock().unwrap()[table] = added;
            self.shared.count("definitions");
        }
        self.shared.count(if counts.values().sum::<u64>() > 300 { "large" } else { "committed" });
        Ok(())
    }

    async fn statement(&mut self, transaction: &mut Transaction, may_say: bool) -> Result<(), Error> {
        let statement = loop {
            let statement = self.next_statement(transaction.tx);
            if may_say || statement.effect != Effect::Message {
                break statement;
            }
        };
        let rows = self.run(&statement.sql).await?;
        let mut add = |name: String, events| *transaction.counts.entry(name).or_default() += events;
        for table in &statement.tables {
            match statement.effect {
                Effect::Rows(each) if rows > 0 => add(TABLES[*table].name.to_owned(), rows * each),
                Effect::Truncate => add(format!("{}!", TABLES[*table].name), 1),
                Effect::Rows(_) | Effect::Message => {}
            }
        }
        if statement.effect == Effect::Message {
            add("message".to_owned(), 1);
        }
        transaction.has_strong_locks |= statement.effect == Effect::Truncate;
        Ok(())
    }

    fn next_statement(&mut self, tx: u64) -> Statement {
        let number = usize::try_from(self.random.below(20)).expect("a small number");
        let added = self.shared.added.lock().unwrap().get(number).cloned();
        let of_added = added.and_then(|added| update_added(&mut self.random, number, tx, &added));
        of_added.unwrap_or_else(|| statement(&mut self.random, tx))
    }

    /// Statements that are undone, or not. No messages: of those that are sent before their transaction commits the server does not tell in
    /// which savepoint they stand.
    async fn savepoint(&mut self, transaction: &mut Transaction) -> Result<(), Error> {
        let before = transaction.counts.clone();
        self.run("SAVEPOINT within").await?;
        for _ in 0..=self.random.below(3) {
            self.statement(transaction, false).await?;
        }
        if self.random.below(3) == 0 {
            return self.run("RELEASE within").await.map(drop);
        }
        transaction.counts = before;
        self.shared.count("rolled back to a savepoint");
        self.run("ROLLBACK TO within").await.map(drop)
    }

    async fn define(&mut self, transaction: &mut Transaction) -> Result<(), Error> {
        let number = usize::try_from(self.random.below(TABLES.len() as u64)).expect("a small number");
        let added = self.shared.added.lock().unwrap()[number].clone();
        let (statements, added) = definition(&mut self.random, number, transaction.tx, transaction.tx, &added);
        for sql in &statements {
            let rows = self.run(sql).await?;
            if sql.starts_with("UPDATE") && rows > 0 {
                *transaction.counts.entry(TABLES[number].name.to_owned()).or_default() += rows;
            }
        }
        transaction.added = Some((number, added));
        transaction.has_strong_locks = true;
        Ok(())
    }
}
