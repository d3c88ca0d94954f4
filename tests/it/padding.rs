//! Rows that are far larger than their records: a bit string travels without its leading zeros.

use std::time::Duration;

use crate::support::{Scenario, await_condition};

const ROWS: usize = 40;
const MEMORY: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn padded_rows_take_no_more_memory_than_they_may() {
    let mut scenario = Scenario::new("padding").await;
    scenario.settings.set("apply.memory", "16MiB");
    // A worker's share holds one row of `fits` and none of `beyond`.
    for (table, length) in [("fits", 3_000_000), ("beyond", 3_500_000)] {
        scenario.source(&format!("CREATE TABLE {table} (id int PRIMARY KEY, b bit({length}))")).await;
        scenario
            .source(&format!("INSERT INTO {table} SELECT i, i::bit({length}) FROM generate_series(1, {ROWS}) i"))
            .await;
    }
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "snapshot of table read table=public.fits").await;
    let apply = scenario.spawn_apply();
    let sums =
        "SELECT count(*) || ' ' || sum(b::bit(32)::int) FROM (SELECT substring(b FROM 2999969) AS b FROM fits) t";
    scenario.await_target(sums, &format!("{ROWS} {}", ROWS * (ROWS + 1) / 2)).await;
    let told = async || {
        let text = scenario.readiness("apply").await.1;
        text.contains("public.beyond") && text.contains("apply.memory")
    };
    await_condition("the table with larger rows is stopped", Duration::from_secs(15), told).await;
    let peak = apply.peak_memory().expect("it runs");
    assert!(peak < 10 * MEMORY, "{} MiB", peak >> 20);
}
