//! What a half knows about its own well-being: both pipelines write it, `/readyz`, the status page and the metrics read it.
//!
//! Ready means: started, heard from the server within the silence limit, and no table stopped. "Heard" is any sign of life
//! of the stream: an event, a keepalive, a consumer's poll that reached the broker. A half that hears nothing cannot know
//! whether it lags, so silence counts as lag (trap T74).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Which half of walrelay a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Source PostgreSQL to Kafka.
    Capture,
    /// Kafka to target PostgreSQL.
    Apply,
}

impl Half {
    /// The name of its command and the value of the metrics label `half`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Apply => "apply",
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shared handle; clones see the same state. Marks that a hot loop sets are atomics.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    half: Half,
    silence: Duration,
    born: Instant,
    started: AtomicBool,
    /// Milliseconds since `born`, and one more; 0: never. Not by the wall clock, which may be set.
    heard_ms: AtomicU64,
    /// Commit time of the oldest event that is not through yet, in milliseconds since the Unix epoch; `CAUGHT_UP`: none.
    behind_ms: AtomicI64,
    /// Set and read rarely.
    text: Mutex<Text>,
}

#[derive(Debug, Default)]
struct Text {
    phase: Cow<'static, str>,
    retrying: Option<String>,
    stopped: BTreeMap<String, String>,
    /// Since when what is waited for.
    waiting: BTreeMap<String, Instant>,
    notes: BTreeSet<String>,
}

const CAUGHT_UP: i64 = i64::MIN;

/// Everything that a reader may want to know, taken at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Which half this is.
    pub half: Half,
    /// What it is doing: `starting`, `snapshot`, `streaming`, `applying`, …
    pub phase: String,
    /// The trouble that it is retrying after, if any.
    pub retrying: Option<String>,
    /// Stopped tables with the reason of each.
    pub stopped: BTreeMap<String, String>,
    /// What it waits for, and for how long.
    pub waiting: BTreeMap<String, Duration>,
    /// What it does not do beside its work.
    pub notes: BTreeSet<String>,
    /// Time since the last sign of life; `None` before the first.
    pub silent_for: Option<Duration>,
    /// How far the half is behind the commit times of its input; `None` before the first sign of life.
    pub lag: Option<Duration>,
    /// Time since the process started this half.
    pub uptime: Duration,
    /// Why it is not ready; empty when it is.
    pub unready: Vec<String>,
}

impl Snapshot {
    /// Whether the half does its work.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.unready.is_empty()
    }
}

impl Health {
    /// A half that has not started yet; `silence` is the time without a sign of life after which it is not ready.
    #[must_use]
    pub fn new(half: Half, silence: Duration) -> Self {
        let text = Text { phase: Cow::Borrowed("starting"), ..Text::default() };
        Self(Arc::new(Inner {
            half,
            silence,
            born: Instant::now(),
            started: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            behind_ms: AtomicI64::new(CAUGHT_UP),
            text: Mutex::new(text),
        }))
    }

    /// Preparation is over, the work has begun. Counts as a sign of life.
    pub fn set_started(&self) {
        self.heard();
        self.0.started.store(true, Ordering::Release);
    }

    /// A sign of life from the server came now.
    pub fn heard(&self) {
        let now = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.heard_ms.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// The oldest event that is not through yet was committed at this time (milliseconds since the Unix epoch).
    pub fn behind_since(&self, commit_ms: i64) {
        self.0.behind_ms.store(commit_ms, Ordering::Relaxed);
    }

    /// Everything that the server has sent is through.
    pub fn caught_up(&self) {
        self.0.behind_ms.store(CAUGHT_UP, Ordering::Relaxed);
    }

    /// What the half is doing, in a word or two.
    pub fn set_phase(&self, phase: impl Into<Cow<'static, str>>) {
        self.text().phase = phase.into();
    }

    /// A transient error: the half is not ready until [`Health::recovered`].
    pub fn retrying(&self, reason: impl Into<String>) {
        self.text().retrying = Some(reason.into());
    }

    /// The work after a transient error goes on.
    pub fn recovered(&self) {
        self.text().retrying = None;
    }

    /// A table stopped. The name is `schema.table`, or the topic where the table is not known.
    pub fn stop_table(&self, table: impl Into<String>, reason: impl Into<String>) {
        self.text().stopped.insert(table.into(), reason.into());
    }

    /// Something that the operator asked for is given up, and nothing of the work itself: that goes on, and stays ready.
    pub fn note(&self, note: impl Into<String>) {
        self.text().notes.insert(note.into());
    }

    /// What began so is given up no longer, or for another reason.
    pub fn forget_notes(&self, beginning: &str) {
        self.text().notes.retain(|note| !note.starts_with(beginning));
    }

    /// All that it waits for until others or the configuration change. Not ready when a wait is longer than the allowed
    /// silence.
    pub fn waits_for(&self, reasons: BTreeSet<String>) {
        let mut text = self.text();
        if !(text.waiting.is_empty() && reasons.is_empty()) {
            text.waiting.retain(|reason, _| reasons.contains(reason));
            for reason in reasons {
                text.waiting.entry(reason).or_insert_with(Instant::now);
            }
        }
    }

    /// A stopped table goes on.
    pub fn resume_table(&self, table: &str) {
        self.text().stopped.remove(table);
    }

    /// Only these tables are stopped still.
    pub fn retain_stopped(&self, still: impl Fn(&str) -> bool) {
        self.text().stopped.retain(|table, _| still(table));
    }

    /// Which half this is.
    #[must_use]
    pub fn half(&self) -> Half {
        self.0.half
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(self.0.born.elapsed(), unix_ms())
    }

    /// The state at a time since the half was born, which is a moment of the wall clock.
    fn snapshot_at(&self, uptime: Duration, now_ms: i64) -> Snapshot {
        let heard = self.0.heard_ms.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis);
        let silent_for = heard.map(|heard| uptime.saturating_sub(heard));
        let (phase, retrying, stopped, waiting, notes) = {
            let text = self.text();
            let waiting = text.waiting.iter().map(|(reason, since)| (reason.clone(), since.elapsed())).collect();
            let phase = text.phase.clone().into_owned();
            (phase, text.retrying.clone(), text.stopped.clone(), waiting, text.notes.clone())
        };
        let mut snapshot = Snapshot {
            half: self.0.half,
            phase,
            retrying,
            stopped,
            waiting,
            notes,
            silent_for,
            lag: silent_for.map(|silent| self.lag(silent, now_ms)),
            uptime,
            unready: Vec::new(),
        };
        snapshot.unready = self.unready(&snapshot);
        snapshot
    }

    /// Behind: the age of the oldest event that is not through. Caught up: none, unless the silence is longer than allowed,
    /// for then nobody knows what the server has committed since.
    fn lag(&self, silent: Duration, now_ms: i64) -> Duration {
        match self.0.behind_ms.load(Ordering::Relaxed) {
            CAUGHT_UP if silent <= self.0.silence => Duration::ZERO,
            CAUGHT_UP => silent,
            commit_ms => since(commit_ms, now_ms),
        }
    }

    fn unready(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.0.started.load(Ordering::Acquire) {
            reasons.push(format!("not started yet ({})", snapshot.phase));
        } else if let Some(silent) = snapshot.silent_for.filter(|silent| *silent > self.0.silence) {
            reasons.push(format!("nothing heard for {} s", silent.as_secs()));
        }
        reasons.extend(snapshot.retrying.iter().map(|reason| format!("retrying: {reason}")));
        reasons.extend(snapshot.stopped.iter().map(|(table, reason)| format!("table {table} is stopped: {reason}")));
        let long = snapshot.waiting.iter().filter(|(_, waited)| **waited > self.0.silence);
        reasons.extend(long.map(|(reason, waited)| format!("waiting for {} s: {reason}", waited.as_secs())));
        reasons
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since the Unix epoch.
fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Time between two moments; none when the clocks disagree about their order.
fn since(then_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_mins(1);

    /// A moment of the wall clock.
    const NOW: i64 = 1_700_000_000_000;

    /// A half that has started, and when.
    fn started() -> (Health, Duration) {
        let health = Health::new(Half::Capture, SILENCE);
        health.set_started();
        let heard = health.0.heard_ms.load(Ordering::Relaxed);
        (health, Duration::from_millis(heard - 1))
    }

    #[test]
    fn a_half_is_ready_once_it_has_started() {
        let health = Health::new(Half::Capture, SILENCE);
        assert_eq!(health.snapshot().unready, ["not started yet (starting)"]);
        assert_eq!(health.snapshot().lag, None);
        health.set_started();
        assert!(health.snapshot().is_ready());
    }

    // trap T74
    #[test]
    fn silence_makes_it_unready_and_counts_as_lag() {
        let (health, heard) = started();
        let at_limit = health.snapshot_at(heard + SILENCE, NOW);
        assert!(at_limit.is_ready());
        assert_eq!(at_limit.lag, Some(Duration::ZERO));
        let after = health.snapshot_at(heard + Duration::from_secs(61), NOW);
        assert_eq!(after.unready, ["nothing heard for 61 s"]);
        assert_eq!(after.lag, Some(Duration::from_secs(61)));
    }

    #[test]
    fn a_wall_clock_that_is_set_makes_no_silence_and_hides_none() {
        let (health, heard) = started();
        for now in [NOW, NOW + 86_400_000, NOW - 86_400_000, 0] {
            let soon = health.snapshot_at(heard + Duration::from_secs(1), now);
            assert!(soon.is_ready() && soon.lag == Some(Duration::ZERO), "{soon:?}");
            let late = health.snapshot_at(heard + Duration::from_secs(61), now);
            assert_eq!(late.silent_for, Some(Duration::from_secs(61)), "at {now}");
            assert!(!late.is_ready());
        }
    }

    #[test]
    fn lag_is_measured_from_the_commit_time() {
        let (health, heard) = started();
        health.behind_since(NOW - 5_000);
        assert_eq!(health.snapshot_at(heard, NOW).lag, Some(Duration::from_secs(5)));
        health.behind_since(NOW + 5_000);
        assert_eq!(health.snapshot_at(heard, NOW).lag, Some(Duration::ZERO), "the source's clock is ahead");
        health.caught_up();
        assert_eq!(health.snapshot_at(heard, NOW).lag, Some(Duration::ZERO));
    }

    #[test]
    fn stopped_tables_and_retries_make_it_unready_until_they_are_over() {
        let (health, _) = started();
        health.stop_table("public.orders", "schema refused");
        health.retrying("broker unreachable");
        assert_eq!(
            health.snapshot().unready,
            ["retrying: broker unreachable", "table public.orders is stopped: schema refused"]
        );
        health.resume_table("public.orders");
        health.recovered();
        assert!(health.snapshot().is_ready());
    }

    #[test]
    fn what_is_given_up_beside_the_work_is_shown_and_leaves_it_ready() {
        let (health, _) = started();
        health.note("no heartbeats are sent");
        assert!(health.snapshot().is_ready());
        assert_eq!(health.snapshot().notes, ["no heartbeats are sent".to_owned()].into());
        health.note("another");
        health.forget_notes("no heartbeats");
        assert_eq!(health.snapshot().notes, ["another".to_owned()].into());
    }

    #[test]
    fn only_the_tables_that_are_stopped_still_are_shown() {
        let (health, _) = started();
        health.stop_table("public.orders", "schema refused");
        health.stop_table("public.lines", "schema refused");
        health.retain_stopped(|table| table == "public.lines");
        assert_eq!(health.snapshot().unready, ["table public.lines is stopped: schema refused"]);
    }

    #[test]
    fn a_wait_that_outlasts_the_silence_limit_is_named() {
        let health = Health::new(Half::Apply, Duration::ZERO);
        health.set_started();
        let reason = "topic a, partition 2, waits for other partitions";
        health.waits_for([reason.to_owned()].into());
        let unready = health.snapshot().unready;
        assert!(unready.iter().any(|text| text.ends_with(reason)), "{unready:?}");
        health.waits_for(BTreeSet::new());
        assert!(health.snapshot().waiting.is_empty());
    }
}
