//! The mixed write load on the shop: inserts, updates, deletes, key moves, swaps of a secondary unique value, updates that
//! leave a large value unchanged, roll-backs, and TRUNCATE.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{self, MissedTickBehavior},
};
use tokio_postgres::Client;

use super::{error::Error, parts::Parts, random::Random, shop};

/// One transaction is begun so often.
const PACE: Duration = Duration::from_millis(4);

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
    task: JoinHandle<Result<(), Error>>,
}

impl Load {
    /// Starts writing.
    pub async fn start(parts: &Parts, seed: u64) -> Result<Self, Error> {
        let client = parts.source.connect(shop::NAME, &parts.user, &parts.password).await?;
        let (stop, transactions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = Writer {
            client,
            parts: parts.clone(),
            random: Random::new(seed),
            stop: Arc::clone(&stop),
            transactions: Arc::clone(&transactions),
        };
        Ok(Self { stop, transactions, task: tokio::spawn(writer.run()) })
    }

    /// Committed transactions so far.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Ends it; gives the number of committed transactions.
    pub async fn stop(self) -> Result<u64, Error> {
        self.stop.store(true, Ordering::Relaxed);
        match self.task.await {
            Ok(outcome) => outcome.map(|()| self.transactions.load(Ordering::Relaxed)),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

struct Writer {
    client: Client,
    parts: Parts,
    random: Random,
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self) -> Result<(), Error> {
        let mut pace = time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let sql = transaction(&mut self.random);
            match self.client.batch_execute(&sql).await {
                Ok(()) => {
                    self.transactions.fetch_add(1, Ordering::Relaxed);
                }
                // A random key or unique value is taken.
                Err(error) if error.code().is_some_and(|code| code.code().starts_with("23")) => {
                    self.parts.source.execute(&self.client, "roll back", "ROLLBACK").await?;
                }
                Err(error) => return Err(self.parts.source.failed("write to the shop", error)),
            }
        }
        Ok(())
    }
}

/// A transaction of one to five statements. One in sixteen rolls a savepoint back, one in sixteen itself.
fn transaction(random: &mut Random) -> String {
    let count = 1 + random.below(5);
    let mut sql = String::from("BEGIN; ");
    for _ in 0..count {
        sql.push_str(&statement(random));
        sql.push_str("; ");
    }
    match random.below(16) {
        0 => sql.push_str("SAVEPOINT s; DELETE FROM notes; ROLLBACK TO s; COMMIT"),
        1 => sql.push_str("ROLLBACK"),
        _ => sql.push_str("COMMIT"),
    }
    sql
}

fn statement(random: &mut Random) -> String {
    let (one, other) = (1 + random.below(1000), 1 + random.below(1000));
    match random.below(1000) {
        0..80 => customers(random, one, other),
        80..420 => orders(random, one, other),
        420..600 => order_lines(random, one, other),
        600..700 => documents(random, other),
        700..820 => notes(random, one, other),
        820..900 => {
            format!("INSERT INTO audit_log (actor, action, detail) VALUES ('load', 'visit', '{{\"customer\": {one}}}')")
        }
        900..996 => carts(random, one),
        _ => "TRUNCATE carts".to_owned(),
    }
}

fn customers(random: &mut Random, one: u64, other: u64) -> String {
    match random.below(8) {
        0 => format!(
            "INSERT INTO customers (email, name) VALUES ('new{one}.{other}@example.org', '') ON CONFLICT DO NOTHING"
        ),
        1 => "DELETE FROM customers WHERE id = (SELECT max(id) FROM customers WHERE id > 1000)".to_owned(),
        2 => format!(
            "UPDATE customers SET id = id + 100000 WHERE id = (SELECT max(id) FROM customers WHERE id BETWEEN 1001 AND 99999) AND {one} > 300"
        ),
        // Two rows swap their unique value: at no moment do both have it.
        3 | 4 if one != other => format!(
            "UPDATE customers SET email = 'in transit' WHERE id = {one}; \
             UPDATE customers SET email = 'swap{one}.' || txid_current() WHERE id = {other}; \
             UPDATE customers SET email = 'swap{other}.' || txid_current() WHERE id = {one}"
        ),
        _ => format!(
            "UPDATE customers SET score = {other} / 7.0, tags = array_append(tags[1:2], '{other}') WHERE id = {one}"
        ),
    }
}

fn orders(random: &mut Random, one: u64, other: u64) -> String {
    match random.below(10) {
        0..4 => {
            format!("INSERT INTO orders (customer_id, amount, note) VALUES ({one}, {other}.{:02}, NULL)", other % 100)
        }
        4..8 => format!(
            "UPDATE orders SET status = 'shipped', amount = amount + 0.01 WHERE id BETWEEN {one} * 3 AND {one} * 3 + 9"
        ),
        8 => format!("UPDATE orders SET id = id + 1000000 WHERE id = {one} * 3"),
        _ => format!("DELETE FROM orders WHERE id = {one} * 3 + 1"),
    }
}

fn order_lines(random: &mut Random, one: u64, other: u64) -> String {
    match random.below(6) {
        0 | 1 => format!(
            "INSERT INTO order_lines VALUES ({one}, {}, 'SKU-{other}', 1, 9.99, NULL) ON CONFLICT DO NOTHING",
            10 + random.below(90)
        ),
        2 => format!("UPDATE order_lines SET sku_code = 'MOVED-{other}' WHERE order_id = {one} AND line = 1"),
        3 => format!("DELETE FROM order_lines WHERE order_id = {one} AND line > 2"),
        _ => format!("UPDATE order_lines SET quantity = quantity + 1, discount = 'NaN' WHERE order_id = {one}"),
    }
}

fn documents(random: &mut Random, other: u64) -> String {
    let which = "(SELECT id FROM documents ORDER BY md5(id::text || '";
    match random.below(5) {
        0 => format!("INSERT INTO documents (title, body) VALUES ('New {other}', repeat(md5('{other}'), 200))"),
        1 => format!("UPDATE documents SET body = repeat(md5('{other}'), 250) WHERE id = {which}{other}') LIMIT 1)"),
        2 => format!("UPDATE documents SET id = gen_random_uuid() WHERE id = {which}{other}') LIMIT 1)"),
        _ => format!(
            "UPDATE documents SET title = 'Retitled {other}', revised = now() WHERE id = {which}{other}') LIMIT 1)"
        ),
    }
}

fn notes(random: &mut Random, one: u64, other: u64) -> String {
    let id = 1 + one % 200;
    match random.below(8) {
        0 | 1 => format!("INSERT INTO notes (customer_id, body) VALUES ({one}, repeat(md5('{other}'), 150))"),
        2 => format!("UPDATE notes SET body = '' WHERE id = {id}"),
        // The key moves, and the large text stays behind in the old row: the server does not send it.
        3 | 4 => {
            "UPDATE notes SET id = id + 100000 WHERE id = (SELECT max(id) FROM notes WHERE id BETWEEN 201 AND 99999)"
                .to_owned()
        }
        5 => format!("DELETE FROM notes WHERE id = {id} + 200"),
        _ => format!("UPDATE notes SET remind_at = '24:00' WHERE id = {id}"),
    }
}

fn carts(random: &mut Random, one: u64) -> String {
    match random.below(4) {
        0 => format!("INSERT INTO carts (customer_id) SELECT generate_series({one}, {one} + 20)"),
        1 => format!(
            "UPDATE carts SET items = items || '[{one}]', updated = clock_timestamp() WHERE customer_id = {one}"
        ),
        2 => format!("DELETE FROM carts WHERE customer_id = {one}"),
        _ => format!("INSERT INTO carts (customer_id, items) VALUES ({one}, '[{{\"sku\": \"SKU-{one}\"}}]')"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_holds_every_kind_of_change() {
        let mut random = Random::new(1);
        let all: String = (0..3000).map(|_| transaction(&mut random)).collect();
        for kind in [
            "INSERT INTO",
            "UPDATE notes SET remind_at",
            "DELETE FROM",
            "SET id = id + 100000",
            "in transit",
            "TRUNCATE",
            "ROLLBACK TO",
        ] {
            assert!(all.contains(kind), "{kind}");
        }
    }
}
