//! Two captures of one slot: one works, the other stands by.

use std::time::{Duration, Instant};

use walrelay::cli::demo::{process::Process, scrape, settings::free_port};

use crate::support::{LIMIT, Scenario, await_condition};

/// A stand-by looks twice in a second, and opens its session then.
const SECONDS: Duration = Duration::from_secs(15);

/// A capture with a name, a port and a log of its own.
struct Agent {
    name: &'static str,
    http: String,
    process: Process,
}

impl Agent {
    fn spawn(scenario: &Scenario, name: &'static str) -> Self {
        let mut settings = scenario.settings.clone();
        let http = format!("127.0.0.1:{}", free_port());
        settings.set("http.capture", http.clone());
        Self { name, process: scenario.spawn_capture_with(&settings, name), http }
    }

    async fn await_ready(&mut self) {
        self.process.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn says(&self, text: &str) -> bool {
        scrape::fetch(&self.http, "/readyz").await.is_ok_and(|page| page.body.contains(text))
    }

    async fn await_standing_by(&self) {
        let stands_by = async || self.says("standing by").await;
        await_condition(&format!("{} stands by", self.name), LIMIT, stands_by).await;
    }
}

async fn scenario_with_rows(name: &str) -> Scenario {
    let scenario = Scenario::new(name).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 100)").await;
    scenario
}

fn walsender(scenario: &Scenario) -> String {
    let slot = &scenario.name;
    format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{slot}' AND active_pid IS NOT NULL")
}

/// Trap T17.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_stands_by_takes_over_within_seconds_when_the_first_is_killed() {
    let scenario = scenario_with_rows("standby").await;
    let _apply = scenario.spawn_apply();
    let mut first = Agent::spawn(&scenario, "first");
    first.await_ready().await;
    let mut second = Agent::spawn(&scenario, "second");
    second.await_standing_by().await;
    scenario.source("INSERT INTO things SELECT generate_series(101, 200)").await;
    scenario.await_equal("things").await;

    let mut from = 201;
    for _ in 0..2 {
        first.process.kill_9().expect("capture can be killed");
        let killed = Instant::now();
        let sql = format!("INSERT INTO things SELECT generate_series({from}, {})", from + 99);
        scenario.source(&sql).await;
        second.await_ready().await;
        let taken = killed.elapsed();
        assert!(taken < SECONDS, "taking over took {taken:?}");
        scenario.await_equal("things").await;
        // What was killed comes back, and stands by in its turn.
        first = Agent::spawn(&scenario, first.name);
        first.await_standing_by().await;
        (first, second, from) = (second, first, from + 100);
    }
    let rows = scenario.source_value("SELECT count(*) FROM things").await;
    assert_eq!(rows.as_deref(), Some("400"));
}

/// Traps T14 and T17: a frozen process holds the slot still when its lock is gone. When it wakes up, its session ends, and
/// nothing of it reaches the state.
#[tokio::test(flavor = "multi_thread")]
async fn a_walsender_that_a_frozen_capture_holds_is_ended_and_the_frozen_one_stands_by_when_it_wakes() {
    let scenario = scenario_with_rows("frozen").await;
    let _apply = scenario.spawn_apply();
    let mut first = Agent::spawn(&scenario, "first");
    first.await_ready().await;
    // It streams: the snapshot is acknowledged before.
    scenario.await_equal("things").await;
    let streams = async || scenario.source_value(&walsender(&scenario)).await.is_some();
    await_condition("the first one streams", LIMIT, streams).await;
    let mut second = Agent::spawn(&scenario, "second");
    second.await_standing_by().await;

    first.process.signal("STOP").expect("capture can be frozen");
    scenario.source("INSERT INTO things SELECT generate_series(101, 200)").await;
    let unlock = "SELECT bool_and(pg_terminate_backend(pid, 10000))::text FROM pg_locks l \
                  JOIN pg_database d ON d.oid = l.database \
                  WHERE locktype = 'advisory' AND granted AND datname = current_database()";
    assert_eq!(scenario.source_value_as_superuser(unlock).await.as_deref(), Some("true"));
    second.await_ready().await;
    assert!(scenario.log_text("second").contains("an earlier capture left behind"));
    scenario.await_equal("things").await;

    first.process.signal("CONT").expect("capture can go on");
    first.await_standing_by().await;
    second.process.check_alive().unwrap_or_else(|error| panic!("{error}"));
    scenario.source("INSERT INTO things SELECT generate_series(201, 300)").await;
    scenario.await_equal("things").await;
    assert!(!second.says("standing by").await);
    assert!(!scenario.log_text("second").contains("capture session ended"), "the one that took over is not disturbed");
}
