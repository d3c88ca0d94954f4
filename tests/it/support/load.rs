//! A mixed write load on the source that a seed repeats: inserts, updates, deletes, key moves, swaps of a secondary unique
//! value, updates that leave a large value unchanged, and TRUNCATE.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use walrelay::cli::demo::random::Random;

use super::{Scenario, chain};

const TABLES: &str = "
    CREATE TABLE items (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int NOT NULL DEFAULT 0, body text);
    CREATE TABLE notes (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, body text);
    ALTER TABLE notes REPLICA IDENTITY FULL;
    CREATE TABLE marks (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());";

const IDS: u64 = 3000;

/// A running load; it ends with [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Load {
    /// The tables of the load.
    pub const TABLES: [&'static str; 3] = ["items", "notes", "marks"];

    /// Creates and fills the tables at the source, and `items` with its secondary key at the target too.
    pub async fn prepare(scenario: &Scenario, rows: usize) {
        scenario.both(TABLES).await;
        let body = "(SELECT string_agg(md5(i::text || k::text), '') FROM generate_series(1, 90) k)";
        let fill = format!(
            "INSERT INTO items SELECT i, 'c' || i, 0, {body} FROM generate_series(1, {rows}) i;
             INSERT INTO notes SELECT id, 0, body FROM items;
             INSERT INTO marks SELECT id FROM items;"
        );
        scenario.source(&fill).await;
    }

    /// Starts writing as fast as the source takes it.
    pub async fn start(scenario: &Scenario, seed: u64) -> Self {
        Self::start_paced(scenario, seed, Duration::ZERO).await
    }

    /// Starts writing with a pause between transactions, so that a capture which is killed all the time can follow.
    pub async fn start_paced(scenario: &Scenario, seed: u64, pause: Duration) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (parts, database) = (scenario.parts.clone(), scenario.name.clone());
        let client = parts.source.connect(&database, &parts.user, &parts.password).await;
        let client = client.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let task = tokio::spawn({
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            async move {
                let mut random = Random::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let sql = transaction(&mut random);
                    match client.batch_execute(&sql).await {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        // A random key or code is taken: nothing was written.
                        Err(error) if error.as_db_error().is_some() => {
                            client.batch_execute("ROLLBACK").await.expect("the source answers");
                            0
                        }
                        Err(error) => panic!("the load ended: {}", chain(&error)),
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        });
        Self { stop, done, task }
    }

    /// Committed transactions so far.
    pub fn transactions(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends it; gives the number of committed transactions.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load ends in order");
        self.done.load(Ordering::Relaxed)
    }
}

/// One to six statements; one in eleven rolls back, one in a few hundred holds a TRUNCATE.
fn transaction(random: &mut Random) -> String {
    let count = 1 + random.below(6);
    let statements: Vec<String> = (0..count).map(|_| statement(random)).collect();
    let end = if random.below(11) == 0 { "ROLLBACK" } else { "COMMIT" };
    format!("BEGIN; {}; {end}", statements.join("; "))
}

fn statement(random: &mut Random) -> String {
    let (id, other) = (random.below(IDS), random.below(IDS));
    let table = if random.below(2) == 0 { "items" } else { "notes" };
    let code = if table == "items" { ", code" } else { "" };
    let own_code = |id| if table == "items" { format!(", 'c{id}'") } else { String::new() };
    match random.below(100) {
        0..20 => format!(
            "INSERT INTO {table} (id, body{code}) SELECT {id}, string_agg(md5(k::text), '{other}'){} \
             FROM generate_series(1, {}) k ON CONFLICT DO NOTHING",
            own_code(id),
            1 + random.below(120)
        ),
        20..50 => format!("UPDATE {table} SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 5"),
        50..60 => format!("UPDATE {table} SET body = repeat('{other} ', 20) WHERE id = {id}"),
        60..70 => format!("DELETE FROM {table} WHERE id = {id}"),
        70..80 => {
            format!(
                "UPDATE {table} SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM {table} WHERE id = {other})"
            )
        }
        80..88 => format!(
            "UPDATE items SET code = 'free' WHERE id = {id}; UPDATE items SET code = 'x{id}' WHERE id = {other}; \
             UPDATE items SET code = 'y{other}' WHERE id = {id}"
        ),
        88..99 => format!("INSERT INTO marks VALUES ({id}) ON CONFLICT (id) DO UPDATE SET at = clock_timestamp()"),
        _ if random.below(3) == 0 => "TRUNCATE notes, marks".to_owned(),
        _ => "TRUNCATE marks".to_owned(),
    }
}
