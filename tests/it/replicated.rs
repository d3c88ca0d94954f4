//! Three brokers, of which the one that leads is killed under load: nothing is lost, and nothing is out of order.

use std::time::Duration;

use walrelay::cli::demo::process::Process;

use crate::{
    crash::seed,
    support::{
        LIMIT, Load, PrivateParts, Scenario, await_condition,
        judge::{Delivery, judge, make_judgeable},
    },
};

/// Between transactions, so that brokers that are being killed can follow on two cores.
const PACE: Duration = Duration::from_millis(100);

/// A capture under load.
struct Loaded {
    scenario: Scenario,
    delivery: Delivery,
    capture: Process,
    load: Load,
}

impl Loaded {
    async fn start(private: &PrivateParts, name: &str, delivery: Delivery) -> Self {
        let mut scenario = Scenario::on(&private.parts, name).await;
        make_judgeable(&mut scenario);
        let mode = if delivery == Delivery::Once { "exactly-once" } else { "at-least-once" };
        scenario.settings.set("capture.delivery", mode);
        Load::prepare(&scenario, 100).await;
        scenario.source("ALTER TABLE marks ADD n int NOT NULL DEFAULT 0").await;
        let capture = scenario.capture().await;
        let streams = async || scenario.page("capture", "/").await.contains("streaming");
        await_condition("capture streams", LIMIT, streams).await;
        let load = Load::start_paced(&scenario, seed(), PACE).await;
        Self { scenario, delivery, capture, load }
    }

    /// Waits until more transactions are committed, and more of their events handed over.
    async fn go_on(&self) {
        let sent = async || self.scenario.metrics("capture").await.sum("walrelay_capture_events_total");
        let (transactions, events) = (self.load.transactions(), sent().await);
        let more = async || self.load.transactions() > transactions + 20 && sent().await > events + 50.0;
        await_condition("capture goes on under load", LIMIT, more).await;
    }

    async fn judge(mut self) {
        println!("{} transactions", self.load.stop().await);
        judge(&self.scenario, &Load::TABLES, self.delivery).await;
        self.capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Traps T10, T48: each event is there, none ahead of an earlier one of its partition, and once where that is promised.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_out_of_order_when_the_leader_is_killed_under_load() {
    let private = tokio::task::block_in_place(PrivateParts::with_three_brokers);
    let repeated = Loaded::start(&private, "three", Delivery::Repeated).await;
    let once = Loaded::start(&private, "three_once", Delivery::Once).await;
    let topics = once.scenario.topics();
    for partition in 0..3 {
        tokio::join!(repeated.go_on(), once.go_on());
        // One that has just come back has to catch up, or nobody could take the place of the next one.
        await_condition("all replicas are in sync", LIMIT, async || topics.in_sync() == 3).await;
        let leader = topics.leaders("public.items")[partition];
        let fault = tokio::task::block_in_place(|| private.kill_broker(leader));
        let moved = async || topics.leaders("public.items").iter().all(|now| *now > 0 && *now != leader);
        await_condition("others lead", LIMIT, moved).await;
        tokio::join!(repeated.go_on(), once.go_on());
        tokio::task::block_in_place(|| fault.heal());
    }
    tokio::join!(repeated.judge(), once.judge());
}
