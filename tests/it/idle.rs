//! An idle source: who is well says so, and who hears nothing does not.

use std::time::{Duration, Instant};

use crate::support::{LIMIT, Scenario, await_condition};

/// Trap T74.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_apply_is_ready_as_long_as_capture_lives() {
    let mut scenario = Scenario::new("idle").await;
    scenario.settings.set("health.silence", "8s");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let begun = Instant::now();
    await_condition("twice the silence limit has passed", LIMIT, async || {
        let (status, body) = scenario.readiness("apply").await;
        assert_eq!(status, 200, "{body}");
        begun.elapsed() > Duration::from_secs(16)
    })
    .await;
    drop(capture);
    let told = async || scenario.readiness("apply").await.1.contains("nothing heard");
    await_condition("apply misses capture", LIMIT, told).await;
}
