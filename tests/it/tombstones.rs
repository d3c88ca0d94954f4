//! Tombstones of rows without a key, which are records without key and value: apply passes over them, whoever wrote them.

use crate::{
    recorded::Topic,
    support::{LIMIT, Scenario, await_condition},
};

const TABLE: &str = "CREATE TABLE s_gone (n int, v text); ALTER TABLE s_gone REPLICA IDENTITY FULL;";

/// Waits until apply has passed the last of so many records.
async fn await_passed(scenario: &Scenario, records: u32) {
    let topic = scenario.topics().name("public.s_gone");
    let passed = async || {
        let offset = scenario.metrics("apply").await.sum_where("walrelay_apply_offset", "topic", &topic);
        (offset - f64::from(records)).abs() < 0.5
    };
    await_condition("apply has passed all records", LIMIT, passed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_without_a_key_have_tombstones_where_these_are_wanted() {
    let mut scenario = Scenario::new("tombstones").await;
    scenario.settings.set("format.keyless_tombstones", true);
    scenario.both(TABLE).await;
    scenario.source("INSERT INTO s_gone VALUES (1, 'first'), (1, 'second')").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("s_gone").await;
    scenario.source("DELETE FROM s_gone WHERE v = 'first'; INSERT INTO s_gone VALUES (2, 'third')").await;
    scenario.await_target("SELECT string_agg(v, ' ' ORDER BY v) FROM s_gone", "second third").await;
    await_passed(&scenario, 5).await;
    let records = scenario.topics().read("public.s_gone");
    let of_nothing: Vec<_> = records.iter().map(|record| record.key.is_none() && record.value.is_none()).collect();
    assert_eq!(of_nothing, [false, false, false, true, false]);
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_s_tombstones_without_a_key_are_passed() {
    let scenario = Scenario::new("their_tombstones").await;
    scenario.target(TABLE).await;
    let topic = Topic::recorded("stream.transactions", "s_gone");
    topic.publish(&scenario, "s_gone").await;
    let _apply = scenario.apply().await;
    await_passed(&scenario, 7).await;
    scenario.await_target("SELECT count(*)::text FROM s_gone", "0").await;
    assert_eq!(scenario.readiness("apply").await.0, 200);
}
