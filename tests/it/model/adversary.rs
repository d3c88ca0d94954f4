//! What befalls capture and apply while there is work: kills, ended connections, restarts, resyncs, silence, and crashes
//! of what they work with.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use walrelay::cli::demo::{process::Process, random::Random};

use super::{statements::TABLES, writers::Writers};
use crate::support::{LIMIT, PrivateParts, Scenario};

/// Both halves and what befell them.
pub struct Adversary<'a> {
    private: &'a PrivateParts,
    pub scenario: &'a mut Scenario,
    pub random: &'a mut Random,
    pub capture: Process,
    pub apply: Process,
    pub done: BTreeMap<&'static str, u64>,
    /// A position of the source behind the end of the initial snapshot.
    pub snapshot_end: u64,
}

impl<'a> Adversary<'a> {
    /// Starts both halves. Capture is killed while it reads the snapshot, and while this goes on beside the stream;
    /// then it is let alone until the snapshot is over, for each start publishes again everything since the snapshot's
    /// point.
    pub async fn start(private: &'a PrivateParts, scenario: &'a mut Scenario, random: &'a mut Random) -> Self {
        let (capture, apply) = (scenario.spawn_capture(), scenario.spawn_apply());
        let mut adversary = Self { private, scenario, random, capture, apply, done: BTreeMap::new(), snapshot_end: 0 };
        for _ in 0..3 {
            adversary.await_rows_of_snapshot().await;
            if is_snapshot_over(adversary.scenario) {
                break;
            }
            adversary.count("capture killed in the snapshot");
            adversary.kill_capture();
            // It may be asked to read tables again before it has read them.
            if adversary.random.below(2) == 0 {
                adversary.resync();
            }
        }
        adversary.await_told("the snapshot is over", async |adversary| is_snapshot_over(adversary.scenario)).await;
        let position = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        let position = adversary.scenario.source_value(position).await.and_then(|text| text.parse().ok());
        adversary.snapshot_end = position.expect("a position");
        adversary
    }

    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    async fn await_rows_of_snapshot(&mut self) {
        let rows = 1 + self.random.below(1500);
        self.await_told("capture reads the snapshot", async |adversary| {
            let read = adversary.scenario.metrics("capture").await.sum("walrelay_capture_snapshot_rows_total");
            read >= rows as f64 || is_snapshot_over(adversary.scenario)
        })
        .await;
    }

    /// Waits for something while both halves run, and tells what they are at if it does not come.
    async fn await_told(&mut self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self).await {
            self.check_alive();
            if begun.elapsed() > LIMIT * 2 {
                let (page, metrics) =
                    (self.scenario.page("capture", "/").await, self.scenario.page("capture", "/metrics").await);
                panic!("{what}: not within {} s\n{page}\n{metrics}", (LIMIT * 2).as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Does its work until then.
    pub async fn rage(&mut self, writers: &Writers, until: Instant) {
        let mut crashes = self.crashes(until);
        while Instant::now() < until {
            // The random moment of the fault; nothing is expected to have happened by then.
            tokio::time::sleep(Duration::from_millis(100 + self.random.below(3500))).await;
            self.check_alive();
            match self.random.below(100) {
                0..28 => self.kill_capture(),
                28..36 => self.restart_capture().await,
                36..54 => self.kill_apply(),
                54..76 => self.end_connections().await,
                76..88 => self.resync(),
                88..92 => self.ask("paused", &["--pause"]),
                92..96 => self.ask("resumed", &["--resume"]),
                96..98 => self.ask("given up", &["--stop"]),
                _ => self.silence(writers).await,
            }
            if let Some(part) = crashes.pop_if(|(_, at)| Instant::now() > *at) {
                self.crash(part.0).await;
            }
        }
        // Each at most once: writers that come back must get their first answers.
        for part in crashes.into_iter().map(|(part, _)| part).collect::<BTreeSet<_>>() {
            self.crash(part).await;
        }
    }

    /// What crashes, and when, the last one first: the source and the broker, each once or twice.
    fn crashes(&mut self, until: Instant) -> Vec<(&'static str, Instant)> {
        let (now, mut parts) = (Instant::now(), vec!["source", "kafka"]);
        parts.push(if self.random.below(2) == 0 { "source" } else { "kafka" });
        let period = u64::try_from((until - now).as_millis()).expect("a short time");
        let mut at = |part| (part, now + Duration::from_millis(self.random.below(period)));
        let mut crashes: Vec<_> = parts.into_iter().map(&mut at).collect();
        crashes.sort_by_key(|(_, at)| Reverse(*at));
        crashes
    }

    /// The source forgets which confirmed positions it has not written yet (trap T4), and what it had not flushed.
    async fn crash(&mut self, part: &'static str) {
        self.count(if part == "source" { "source crashed" } else { "broker crashed" });
        self.private.crash(part);
        if part == "source" {
            self.scenario.reconnect_source().await;
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Neither half may end by itself.
    fn check_alive(&mut self) {
        self.capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
        self.apply.check_alive().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Each start asks for transactions in progress, or not.
    fn start_capture(&mut self) {
        self.scenario.settings.set("capture.streaming", self.random.below(2) == 0);
        self.capture = self.scenario.spawn_capture();
    }

    fn kill_capture(&mut self) {
        self.count("capture killed");
        self.capture.kill_9().expect("capture can be killed");
        self.start_capture();
    }

    async fn restart_capture(&mut self) {
        self.count("capture stopped");
        self.capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        self.start_capture();
    }

    fn kill_apply(&mut self) {
        self.count("apply killed");
        self.apply.kill_9().expect("apply can be killed");
        self.apply = self.scenario.spawn_apply();
    }

    /// One connection of capture's, or all.
    async fn end_connections(&mut self) {
        self.count("connections ended");
        let limit = if self.random.below(3) == 0 { "ALL" } else { "1" };
        let salt = self.random.number() % 1000;
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database()
             AND application_name IN ('walrelay capture', 'walrelay snapshot', 'walrelay backfill')
             ORDER BY md5(pid || '{salt}') LIMIT {limit}) one"
        );
        self.scenario.source(&sql).await;
    }

    fn resync(&mut self) {
        let first = usize::try_from(self.random.below(TABLES.len() as u64)).expect("a small number");
        let names: Vec<_> = TABLES.iter().map(|table| format!("public.{}", table.name)).collect();
        match self.random.below(4) {
            0 => {
                let from = self.random.below(1000);
                let condition = format!("id >= {from} AND id < {}", from + 400);
                self.ask("resyncs of a part", &["public.files", "--where", &condition]);
            }
            1 => self.ask("resyncs", &[&names[first], &names[(first + 1) % names.len()]]),
            _ => self.ask("resyncs", &[&names[first]]),
        }
    }

    /// Asks capture by the command.
    fn ask(&mut self, what: &'static str, arguments: &[&str]) {
        let arguments: Vec<_> = ["resync"].iter().chain(arguments).copied().collect();
        let outcome = tokio::task::block_in_place(|| self.scenario.run(&arguments));
        assert_eq!(outcome.code, Some(0), "{arguments:?} says:\n{}", outcome.text);
        self.count(what);
    }

    /// Nobody writes for longer than heartbeats and idle confirmations take.
    async fn silence(&mut self, writers: &Writers) {
        self.count("silence");
        writers.be_quiet(Duration::from_secs(3)).await;
    }

    /// Both halves come to rest: nothing is paused, and no table is stopped.
    pub async fn settle(&mut self) {
        self.ask("resumed", &["--resume"]);
        // A table that was given up on its way is tried again.
        let outcome = tokio::task::block_in_place(|| self.scenario.run(&["resume"]));
        assert_eq!(outcome.code, Some(0), "resume says:\n{}", outcome.text);
        for half in [&mut self.capture, &mut self.apply] {
            half.await_ready(LIMIT * 2).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Whether there was a snapshot, and capture's state has none any more.
fn is_snapshot_over(scenario: &Scenario) -> bool {
    let records = scenario.state_topics().read(&scenario.name);
    let last = records.iter().rfind(|record| record.key.as_deref() == Some(b"snapshot"));
    last.is_some_and(|record| record.value.is_none())
}
