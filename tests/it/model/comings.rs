//! Tables that come and go while capture runs, each with its own name: whoever comes is captured with all its rows (trap T24). And a
//! partition that comes with rows and goes with them, of which no event tells (trap T33).

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio_postgres::{Client, Error, error::SqlState};
use walrelay::cli::demo::{parts::Parts, random::Random};

use super::{
    ledger::Counts,
    statements::in_ledger,
    writers::{Shared, connect_again, is_of_crash},
};
use crate::support::chain;

/// The value that chooses the partition.
pub const PART: &str = "9";
const PARTITION: &str = "parted_9";
/// No other writer knows its rows: their keys begin here.
const FIRST: u64 = 2_000_000;
/// What the names of such tables begin with.
pub const MADE: &str = "made_";
/// As many are there at a time: they join one after the other, and capture looks for them every ten seconds.
const MOST: usize = 1;
/// Rows that are there before the table is captured.
const ROWS: u64 = 300;

/// A session that makes tables, writes into them and drops them.
pub struct Maker {
    pub client: Client,
    /// The server and its database.
    pub source: (Parts, String),
    pub random: Random,
    pub shared: Arc<Shared>,
    /// No table is made later: it takes a while until one is captured.
    pub until: Instant,
}

/// Tables that were made.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// All of them.
    pub all: u64,
    /// Those that are there.
    pub there: BTreeSet<String>,
}

impl Made {
    /// The names of all of them.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (1..=self.all).map(|number| format!("{MADE}{number}"))
    }
}

impl Maker {
    pub async fn work(mut self) -> Made {
        let (shared, mut made) = (Arc::clone(&self.shared), Made::default());
        while !shared.stop.load(Ordering::Relaxed) {
            let quiet = shared.quiet.read().await;
            if let Err(error) = self.step(&mut made).await {
                self.recover(&error, &mut made).await;
            }
            drop(quiet);
            tokio::time::sleep(Duration::from_millis(self.random.below(400))).await;
        }
        made
    }

    async fn recover(&mut self, error: &Error, made: &mut Made) {
        if is_of_crash(error) {
            self.client = connect_again(&self.source).await;
            let there = format!("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE '{MADE}%'");
            let rows = self.client.query(&there, &[]).await.expect("the source answers");
            made.there = rows.iter().map(|row| row.get(0)).collect();
            return;
        }
        // Capture takes a table into the publication, and reads others.
        let expected = [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::T_R_DEADLOCK_DETECTED];
        let expected = error.code().is_some_and(|code| expected.contains(&code));
        assert!(expected, "the maker of tables ended: {}", chain(error));
        self.client.batch_execute("ROLLBACK").await.expect("the source answers");
    }

    async fn step(&mut self, made: &mut Made) -> Result<(), Error> {
        match self.random.below(40) {
            0 => return self.attach_or_detach().await,
            1..10 => return self.write_partition().await,
            _ => {}
        }
        let there: Vec<_> = made.there.iter().cloned().collect();
        if there.len() < MOST && Instant::now() < self.until {
            return self.make(made).await;
        }
        let Some(table) = there.get(usize::try_from(self.random.below(MOST as u64)).expect("a small number")) else {
            return Ok(());
        };
        if self.random.below(60) == 0 && Instant::now() < self.until {
            self.client.batch_execute(&format!("DROP TABLE {table}")).await?;
            made.there.remove(table);
            self.shared.count("tables dropped");
            return Ok(());
        }
        self.write(table).await
    }

    async fn has_partition(&self) -> Result<bool, Error> {
        let sql = format!("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('{PARTITION}'))");
        Ok(self.client.query_one(&sql, &[]).await?.get(0))
    }

    async fn attach_or_detach(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        // It has the table's columns.
        let _alone = shared.defining.lock().await;
        if self.has_partition().await? {
            let sql = format!("BEGIN; ALTER TABLE parted DETACH PARTITION {PARTITION}; DROP TABLE {PARTITION}; COMMIT");
            self.client.batch_execute(&sql).await?;
            self.shared.count("partitions detached");
            return Ok(());
        }
        let (from, n) = (FIRST + self.random.below(50), self.random.below(100));
        // In one transaction it would pass for one that was made as a partition.
        let fill = format!(
            "BEGIN; DROP TABLE IF EXISTS {PARTITION}; CREATE TABLE {PARTITION} (LIKE parted);
             INSERT INTO {PARTITION} (id, part, tx, n, body)
             SELECT i, {PART}, 0, {n}, 'attached' FROM generate_series({from}, {from} + 100) i; COMMIT"
        );
        self.client.batch_execute(&fill).await?;
        let attach = format!("ALTER TABLE parted ATTACH PARTITION {PARTITION} FOR VALUES IN ({PART})");
        self.client.batch_execute(&attach).await?;
        self.shared.count("partitions attached");
        Ok(())
    }

    /// Changes of the partition's rows are in the log as any others.
    async fn write_partition(&mut self) -> Result<(), Error> {
        if !self.has_partition().await? {
            return Ok(());
        }
        let tx = 1 + self.shared.transactions.fetch_add(1, Ordering::Relaxed);
        let (id, n) = (FIRST + self.random.below(150), self.random.below(100));
        let sql = match self.random.below(3) {
            0 => format!(
                "INSERT INTO parted (id, part, tx, n, body) VALUES ({id}, {PART}, {tx}, {n}, 'new') ON CONFLICT (id, part) DO NOTHING"
            ),
            1 => format!("DELETE FROM parted WHERE part = {PART} AND id = {id}"),
            _ => format!("UPDATE parted SET n = {n}, tx = {tx} WHERE part = {PART} AND id BETWEEN {id} AND {id} + 3"),
        };
        self.client.batch_execute("BEGIN").await?;
        let rows = self.client.execute(&sql, &[]).await?;
        let counts = (rows > 0).then(|| ("parted".to_owned(), rows)).into_iter().collect();
        self.client.batch_execute(&format!("{}; COMMIT", in_ledger(tx, &counts))).await?;
        self.shared.count("written to the partition");
        Ok(())
    }

    async fn make(&mut self, made: &mut Made) -> Result<(), Error> {
        made.all += 1;
        let table = format!("{MADE}{}", made.all);
        let sql = format!(
            "BEGIN; CREATE TABLE {table} (id int PRIMARY KEY, tx bigint NOT NULL, n int, body text);
             INSERT INTO {table} SELECT i, 0, i % 10, CASE WHEN i % 3 = 0 THEN (SELECT string_agg(md5(i || ' ' || k), '')
             FROM generate_series(1, 90) k) ELSE 'first' END FROM generate_series(1, {ROWS}) i; COMMIT"
        );
        self.client.batch_execute(&sql).await?;
        made.there.insert(table);
        self.shared.count("tables made");
        Ok(())
    }

    /// A transaction, with its row in the ledger.
    async fn write(&mut self, table: &str) -> Result<(), Error> {
        let (tx, mut counts) = (1 + self.shared.transactions.fetch_add(1, Ordering::Relaxed), Counts::new());
        self.client.batch_execute("BEGIN").await?;
        for _ in 0..=self.random.below(3) {
            let (id, n) = (self.random.below(ROWS + ROWS / 2), self.random.below(100));
            let (sql, each) = match self.random.below(5) {
                0 => (format!("INSERT INTO {table} VALUES ({id}, {tx}, {n}, 'new') ON CONFLICT (id) DO NOTHING"), 1),
                1 => (format!("DELETE FROM {table} WHERE id = {id}"), 1),
                2 => (
                    format!(
                        "UPDATE {table} SET id = -1 - id, tx = {tx} WHERE id = {id}
                         AND NOT EXISTS (SELECT FROM {table} other WHERE id = -1 - {id})"
                    ),
                    2,
                ),
                _ => (format!("UPDATE {table} SET n = {n}, tx = {tx} WHERE id BETWEEN {id} AND {id} + 3"), 1),
            };
            let rows = self.client.execute(&sql, &[]).await?;
            if rows > 0 {
                *counts.entry(table.to_owned()).or_default() += rows * each;
            }
        }
        self.client.batch_execute(&format!("{}; COMMIT", in_ledger(tx, &counts))).await?;
        self.shared.count("written to made tables");
        Ok(())
    }
}
