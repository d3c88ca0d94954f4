//! Three brokers, of which the one that leads is killed under load: nothing is lost, and nothing is out of order.

use std::time::Duration;

use crate::{
    crash::seed,
    support::{
        LIMIT, Load, PrivateParts, Scenario, await_condition,
        judge::{Delivery, judge, make_judgeable},
    },
};

/// Between transactions, so that brokers that are being killed can follow on two cores.
const PACE: Duration = Duration::from_millis(10);
/// How often a leader is killed.
const ROUNDS: usize = 3;

async fn survives(name: &str, delivery: Delivery) {
    let private = tokio::task::block_in_place(PrivateParts::with_three_brokers);
    let mut scenario = Scenario::on(&private.parts, name).await;
    make_judgeable(&mut scenario);
    let mode = if delivery == Delivery::Once { "exactly-once" } else { "at-least-once" };
    scenario.settings.set("capture.delivery", mode);
    Load::prepare(&scenario, 200).await;
    scenario.source("ALTER TABLE marks ADD n int NOT NULL DEFAULT 0").await;
    let mut capture = scenario.capture().await;
    let streams = async || scenario.page("capture", "/").await.contains("streaming");
    await_condition("capture streams", LIMIT, streams).await;
    let load = Load::start_paced(&scenario, seed(), PACE).await;
    for round in 0..ROUNDS {
        let led = async || scenario.topics().leaders("public.items").iter().all(|leader| *leader > 0);
        await_condition("all partitions are led", LIMIT, led).await;
        let before = load.transactions();
        await_condition("the load goes on", LIMIT, async || load.transactions() > before + 50).await;
        let leader = scenario.topics().leaders("public.items")[round % 3];
        let fault = tokio::task::block_in_place(|| private.kill_broker(leader));
        let moved = async || {
            let leaders = scenario.topics().leaders("public.items");
            leaders.iter().all(|now| *now > 0 && *now != leader)
        };
        await_condition("others lead", LIMIT, moved).await;
        let events = scenario.metrics("capture").await.sum("walrelay_capture_events_total");
        let goes_on = async || scenario.metrics("capture").await.sum("walrelay_capture_events_total") > events + 100.0;
        await_condition("capture goes on with two brokers", LIMIT, goes_on).await;
        tokio::task::block_in_place(|| fault.heal());
    }
    println!("{} transactions", load.stop().await);
    judge(&scenario, &Load::TABLES, delivery).await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    let _apply = scenario.apply().await;
    for table in Load::TABLES {
        scenario.await_equal(table).await;
    }
}

/// Traps T10, T48: each event is there, and none is ahead of an earlier one of its partition.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_out_of_order_when_the_leader_is_killed_under_load() {
    survives("three", Delivery::Repeated).await;
}

/// Traps T10, T48: and each is there once.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_comes_once_when_the_leader_is_killed_under_load() {
    survives("three_once", Delivery::Once).await;
}
