//! The whole path on the real parts, measured next to `pg_recvlogical` and PostgreSQL's own logical replication on the same
//! data in the same run.
//!
//! `WALRELAY_DEV_ENV` names the parts, `BENCH_ROWS` the number of rows (default 200000), `BENCH_SNAPSHOT_ROWS` those
//! of the large snapshot (2 million) and `BENCH_TRANSACTION_ROWS` those of the large transaction (10 million). Everything shares one machine, so
//! the ratios of one run say more than its figures. No start of a process counts: the figures of walrelay begin with its first
//! event, those of logical replication with its walsender; only those of COPY and `pg_recvlogical` begin with their command.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod large;
mod micro;
mod reference;
mod report;
mod world;

use std::{error::Error, path::PathBuf, process::ExitCode};

use walrelay::cli::demo::parts::{ENV_FILE, Parts};

use crate::{
    reference::{RawSlot, Subscription},
    report::{Measurement, Report},
    world::World,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const RECVLOGICAL: &str = "pg_recvlogical";
const REPLICATION: &str = "logical replication";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut cause: Option<&dyn Error> = Some(error.as_ref());
            while let Some(error) = cause {
                eprintln!("error: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let file = std::env::var_os(ENV_FILE).ok_or_else(|| format!("{ENV_FILE} is not set; run `make bench`"))?;
    let parts = Parts::from_file(&PathBuf::from(file))?;
    let rows = number("BENCH_ROWS", 200_000)?;
    let mut world = World::create(parts.clone(), "", rows).await?;
    let mut report = Report::new(rows);
    micro::add(&mut report)?;
    let outcome = measure(&mut world, &mut report).await;
    world.remove().await;
    outcome?;
    large::add(&parts, &mut report).await?;
    report.write()?;
    print!("{}", report.table());
    Ok(())
}

/// A number from the environment.
fn number(variable: &str, default: u64) -> Outcome<u64> {
    let Ok(text) = std::env::var(variable) else { return Ok(default) };
    text.parse().map_err(|_| format!("{variable}={text} is no number").into())
}

async fn measure(world: &mut World, report: &mut Report) -> Outcome<()> {
    let mut subscription = Subscription::create(world).await?;
    snapshot(world, report, &subscription).await?;
    let raw = RawSlot::create(world).await?;
    inserts(world, report, &mut subscription, &raw).await?;
    for change in CHANGES {
        changes(world, report, &mut subscription, &raw, change).await?;
    }
    world.verify().await?;
    world.source.batch_execute("TRUNCATE orders").await?;
    let sql = &format!("INSERT INTO orders {}", world::ROW);
    let refill = Change { what: "inserts after a TRUNCATE", captured: "c", applied: &["c"], sql };
    changes(world, report, &mut subscription, &raw, &refill).await?;
    world.verify().await?;
    report.add(Measurement::new("peak RSS capture", world.peak("capture"), "MiB"));
    report.add(Measurement::new("peak RSS apply", world.peak("apply"), "MiB"));
    subscription.remove(world).await?;
    raw.remove(world).await
}

async fn snapshot(world: &mut World, report: &mut Report, subscription: &Subscription) -> Outcome<()> {
    let copy = reference::copy_out(world).await?;
    let ours = world.put_through("capture", &["r"], world.rows).await?;
    let measurement = Measurement::new("snapshot into Kafka", ours, "rows/s");
    report.add(
        measurement.beside("COPY TO STDOUT", copy).beside("first copy of a subscription", subscription.first_copy),
    );
    Ok(())
}

/// A backlog of ten-row transactions: into Kafka, and from Kafka into the target together with the snapshot.
async fn inserts(
    world: &mut World,
    report: &mut Report,
    subscription: &mut Subscription,
    raw: &RawSlot,
) -> Outcome<()> {
    world.write_in_tens(&format!("INSERT INTO orders {}", world::ROW), world.rows).await?;
    let received = raw.drain(world).await?;
    let ours = world.put_through("capture", &["c"], world.rows).await?;
    report.add(Measurement::new("streaming inserts into Kafka", ours, "rows/s").beside(RECVLOGICAL, received));
    let replicated = subscription.catch_up(world).await?;
    let ours = world.put_through("apply", &["r", "c"], 2 * world.rows).await?;
    report.add(Measurement::new("apply inserts", ours, "rows/s").beside(REPLICATION, replicated));
    Ok(())
}

/// A change of the ten rows above `k`: what capture counts a row as, and the events that apply gets of it.
struct Change<'a> {
    what: &'a str,
    captured: &'a str,
    applied: &'a [&'a str],
    sql: &'a str,
}

/// A row that moves keeps its number, so the event that inserts it must not overtake the one that deletes it.
const CHANGES: &[Change<'_>] = &[
    Change {
        what: "updates",
        captured: "u",
        applied: &["u"],
        sql: "UPDATE orders SET status = 'paid', updated_at = now() WHERE id > k AND id <= k + 10",
    },
    Change {
        what: "key moves",
        captured: "u",
        applied: &["d", "c"],
        sql: "UPDATE orders SET id = -id WHERE id > k AND id <= k + 10",
    },
    Change {
        what: "deletes",
        captured: "d",
        applied: &["d"],
        sql: "DELETE FROM orders WHERE id < -k AND id >= -k - 10",
    },
];

/// The same change of as many rows through capture, and then through apply.
async fn changes(
    world: &mut World,
    report: &mut Report,
    subscription: &mut Subscription,
    raw: &RawSlot,
    &Change { what, captured, applied, sql }: &Change<'_>,
) -> Outcome<()> {
    world.write_in_tens(sql, 0).await?;
    let received = raw.drain(world).await?;
    let ours = world.put_through("capture", &[captured], world.rows).await?;
    let streaming = Measurement::new(&format!("streaming {what} into Kafka"), ours, "rows/s");
    report.add(streaming.beside(RECVLOGICAL, received));
    let replicated = subscription.catch_up(world).await?;
    // PostgreSQL is measured in rows of the source.
    let events = u32::try_from(applied.len())?;
    let ours = world.put_through("apply", applied, u64::from(events) * world.rows).await? / f64::from(events);
    report.add(Measurement::new(&format!("apply {what}"), ours, "rows/s").beside(REPLICATION, replicated));
    Ok(())
}
