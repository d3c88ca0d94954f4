//! What must stay bounded however large it is: a snapshot that is read by several connections and cut, and one transaction of very
//! many rows. Capture alone is measured.

use toml::Value;
use walrelay::cli::demo::parts::Parts;

use crate::{
    Outcome, number,
    report::{Measurement, Report},
    world::World,
};

/// What a connection reads of a table at a time, in bytes; 8 MiB.
const CHUNK: u64 = 8 << 20;
/// Of the source's pages.
const BLOCK: u64 = 8192;
/// Memory that a transaction of any size may take, in MiB.
const MEMORY: f64 = 128.0;

/// Measures, and adds the figures.
pub async fn add(parts: &Parts, report: &mut Report) -> Outcome<()> {
    let rows = number("BENCH_SNAPSHOT_ROWS", 2_000_000)?;
    let mut world = World::create(parts.clone(), "large_", rows).await?;
    let outcome = measure(&mut world, report).await;
    world.remove().await;
    outcome
}

async fn measure(world: &mut World, report: &mut Report) -> Outcome<()> {
    let mut alone = None;
    for connections in [1, 2, 4] {
        let settings = [("capture.snapshot_connections", Value::from(connections))];
        world.capture_anew(&format!("by_{connections}"), &settings).await?;
        let rate = world.put_through("capture", &["r"], world.rows).await?;
        let measurement =
            Measurement::new(&format!("snapshot of {} rows, {connections} connections", world.rows), rate, "rows/s");
        report.add(measurement.beside("1 connection", *alone.get_or_insert(rate)));
    }
    resumed(world, report).await?;
    transaction(world, report).await
}

/// How many rows come twice when capture is killed in the middle of its snapshot.
async fn resumed(world: &mut World, report: &mut Report) -> Outcome<()> {
    let connections = 2_u32;
    let settings = [
        ("capture.snapshot_connections", Value::from(i64::from(connections))),
        ("capture.snapshot_chunk_bytes", Value::from("8MiB")),
    ];
    world.capture_anew("cut", &settings).await?;
    world.cut_capture(world.rows / 2).await?;
    world.finish_snapshot().await?;
    let again = world.records("orders")?.checked_sub(world.rows).ok_or("rows are missing in the topic")?;
    let sql = "SELECT pg_relation_size('orders')";
    let blocks = u64::try_from(world.source.query_one(sql, &[]).await?.get::<_, i64>(0))? / BLOCK;
    let chunk = u32::try_from(world.rows * (CHUNK / BLOCK) / blocks)?;
    let measurement =
        Measurement::new("rows read again after a kill, for a connection", ratio(again, connections)?, "rows");
    report.add(measurement.at_most(f64::from(chunk)));
    Ok(())
}

fn ratio(all: u64, of: u32) -> Outcome<f64> {
    Ok(f64::from(u32::try_from(all)?) / f64::from(of))
}

/// One transaction.
async fn transaction(world: &mut World, report: &mut Report) -> Outcome<()> {
    let rows = number("BENCH_TRANSACTION_ROWS", 10_000_000)?;
    let (name, owner) = (&world.name, &world.parts.user);
    let table = format!(
        "CREATE TABLE ticks (id bigint PRIMARY KEY, n int NOT NULL); ALTER TABLE ticks OWNER TO {owner};
         ALTER PUBLICATION {name} ADD TABLE ticks"
    );
    world.source.batch_execute(&table).await?;
    world.capture_anew("at_once", &[("capture.snapshot", Value::from("never"))]).await?;
    world.start_capture().await?;
    let sql = format!("INSERT INTO ticks SELECT i, i % 1000 FROM generate_series(1, {rows}) i");
    let (rate, peak) = world.put_through_at_once(&sql, rows).await?;
    report.add(Measurement::new(&format!("one transaction of {rows} rows into Kafka"), rate, "rows/s"));
    report.add(Measurement::new("peak RSS of it", peak, "MiB").at_most(MEMORY));
    Ok(())
}
