//! The model test: sessions write at random; capture, apply, the source and the broker are killed at random, tables are
//! read again; then a checker that shares no code with walrelay reads the topics and holds them against the source and against what the
//! writers counted.
//!
//! It wants a machine of its own (`make model`): beside other tests capture cannot follow its writers.
//!
//! A run draws a seed and prints it; `WALRELAY_MODEL_SEED` repeats what the seed decides: statements, faults and
//! pauses, but not how the sessions' statements and the faults meet. `WALRELAY_MODEL_SECONDS` is the time of each
//! delivery mode. It is spent in rounds, each with databases and topics of its own and with the next seed, so that the
//! checker's memory is bounded however long it takes.

mod adversary;
mod checker;
mod comings;
mod findings;
mod fold;
mod history;
mod ledger;
mod order;
mod sabotage;
mod statements;
mod writers;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio_postgres::SimpleQueryMessage;
use walrelay::cli::demo::random::Random;

use self::{
    adversary::Adversary,
    checker::{Truth, check},
    comings::{MADE, Made, PART},
    findings::Findings,
    fold::rows_of_json,
    history::{History, Row},
    ledger::LEDGER,
    statements::{AT_SOURCE, AT_TARGET, TABLES, fill, last},
    writers::Writers,
};
use crate::support::{
    PrivateParts, Scenario,
    judge::{Delivery, PARTITIONS, await_confirmed},
};

const SEED: &str = "WALRELAY_MODEL_SEED";
const SECONDS: &str = "WALRELAY_MODEL_SECONDS";
/// The time of writing in one round, in seconds.
const ROUND: u64 = 90;

/// Settings of the source.
const SOURCE: &str = "max_prepared_transactions=10";

/// Says at the end of a failed round how to repeat it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("repeat with {SEED}={}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[ignore = "wants a machine of its own: make model"]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_each_change_is_delivered_in_order() {
    run(Delivery::Repeated).await;
}

#[ignore = "wants a machine of its own: make model"]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_each_change_is_delivered_once() {
    run(Delivery::Once).await;
}

async fn run(delivery: Delivery) {
    let private = PrivateParts::with_source_settings_and_kafka(SOURCE);
    let drawn = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    let first = number(SEED).unwrap_or(drawn);
    let (seconds, begun) = (number(SECONDS).unwrap_or(ROUND), Instant::now());
    for seed in first.. {
        let seed = Seed(seed);
        let left = seconds.saturating_sub(begun.elapsed().as_secs()).min(ROUND);
        println!("{delivery:?}: {left} s with {SEED}={}", seed.0);
        round(&private, delivery, seed.0, Duration::from_secs(left)).await;
        if begun.elapsed().as_secs() + 10 > seconds {
            break;
        }
    }
}

async fn scenario(private: &PrivateParts, delivery: Delivery, random: &mut Random) -> Scenario {
    let mut scenario = Scenario::on(&private.parts, "model").await;
    let delivery = if delivery == Delivery::Once { "exactly-once" } else { "at-least-once" };
    for (name, value) in [
        ("capture.delivery", delivery),
        ("capture.snapshot_chunk_bytes", "64KiB"),
        ("capture.heartbeat_interval", "1s"),
        ("capture.on_unlogged", "continue"),
        ("capture.spool.memory", "256KiB"),
        ("capture.on_partitions", "resync"),
    ] {
        scenario.settings.set(name, value);
    }
    let tables = TABLES.iter().map(|table| table.name).chain([LEDGER]).map(|name| format!("public.{name}"));
    scenario.settings.set("capture.include", tables.chain([format!("public.{MADE}*")]).collect::<Vec<_>>());
    scenario.settings.set("kafka.topics.partitions", i64::try_from(PARTITIONS).expect("a small number"));
    // Transactions of some rows are sent while they run already.
    scenario.source(&format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", scenario.name)).await;
    scenario.source(AT_SOURCE).await;
    for table in &TABLES {
        scenario.source(&fill(table, random)).await;
    }
    scenario.target(AT_TARGET).await;
    scenario
}

async fn round(private: &PrivateParts, delivery: Delivery, seed: u64, period: Duration) {
    let mut random = Random::new(seed);
    let mut scenario = scenario(private, delivery, &mut random).await;
    let writers = Writers::start(&scenario, &mut random, period).await;
    let begun = Instant::now();
    let mut adversary = Adversary::start(private, &mut scenario, &mut random).await;
    println!("the snapshot was over after {:?}", begun.elapsed());
    // A slow snapshot must not take the time of all the rest.
    adversary.rage(&writers, (begun + period).max(Instant::now() + period / 2)).await;
    let written = writers.stop().await;
    println!("writers: {:?}\nadversary: {:?}", written.done, adversary.done);
    adversary.settle().await;
    let Adversary { scenario, snapshot_end, capture: _capture, apply: _apply, .. } = adversary;
    let begun = Instant::now();
    for table in &written.made.there {
        scenario.await_equal(table).await;
    }
    let of_partition =
        format!("SELECT coalesce(string_agg(id || ' ' || n, ',' ORDER BY id), '') FROM parted WHERE part = {PART}");
    let expected = scenario.source_value(&of_partition).await.expect("rows");
    scenario.await_target(&of_partition, &expected).await;
    println!("what came is read after {:?}", begun.elapsed());
    scenario.source(&last()).await;
    let begun = Instant::now();
    await_confirmed(scenario).await;
    println!("confirmed after {:?}", begun.elapsed());
    let (prefix, rows) = (scenario.name.clone(), source_rows(scenario, &written.made).await);
    let truth = Truth { prefix, delivery, snapshot_end, rows, free: written.free };
    let names = TABLES.iter().map(|table| table.name).chain([LEDGER]).map(str::to_owned);
    let is_captured = |name: &String| scenario.topics().partitions(&format!("public.{name}")) > 0;
    let made = written.made.names().filter(|name| tokio::task::block_in_place(|| is_captured(name)));
    let history = History::read(scenario, &names.chain(made).collect::<Vec<_>>()).await;
    println!("read after {:?}", begun.elapsed());
    let mut findings = Findings::default();
    let checked = check(&history, &truth, &mut findings);
    println!("checked after {:?}: {:?}", begun.elapsed(), checked.counted);
    assert!(findings.is_empty(), "{delivery:?}, seed {seed}: {}", findings.text());
    scenario.verify();
    println!("verified after {:?}", begun.elapsed());
    sabotage::must_be_found(&history, &truth, checked, &mut random);
    println!("sabotaged after {:?}", begun.elapsed());
}

async fn source_rows(scenario: &Scenario, made: &Made) -> BTreeMap<String, BTreeMap<Row, Row>> {
    let mut rows = BTreeMap::<String, BTreeMap<Row, Row>>::new();
    let tables = TABLES.iter().map(|table| (table.name, table.key)).chain([(LEDGER, &["tx"][..])]);
    for (table, key) in tables.chain(made.there.iter().map(|name| (&**name, &["id"][..]))) {
        let sql = format!("SELECT to_json(t) FROM {table} t");
        let messages = scenario.source.simple_query(&sql).await.expect("the source's rows");
        let lines = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        rows.insert(table.to_owned(), rows_of_json(&lines.collect::<Vec<_>>(), key));
    }
    rows
}
