//! How far a snapshot has come: bars on a terminal and else log lines at intervals, gauges, and the phase that `/readyz` and the status
//! page show.
//!
//! A chunk counts as read when all but a held row of it is on its way, and as acknowledged when Kafka has all of it.

use std::time::{Duration, Instant};

use super::{
    copied::{Copied, CopiedTable},
    copy_bars::CopyBars,
    figures::{Figures, per_second},
    publisher::Publisher,
    session::Session,
};
use crate::pipeline::bars::bars;

/// How often it is told in the log.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often bars move.
const BARS_INTERVAL: Duration = Duration::from_millis(500);

/// Tells of one snapshot.
pub(super) struct CopyProgress {
    what: &'static str,
    since: Instant,
    ticks: tokio::time::Interval,
    last: (Instant, u64),
    bars: Option<CopyBars>,
}

impl CopyProgress {
    pub(super) fn new(beside: bool) -> Self {
        let now = Instant::now();
        let bars = CopyBars::new(bars());
        let interval = if bars.is_some() { BARS_INTERVAL } else { INTERVAL };
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let what = if beside { "streaming, and copying a table" } else { "snapshot" };
        Self { what, since: now, ticks, last: (now, 0), bars }
    }

    /// Waits until it is time to tell again.
    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// Tells of all, and of each table that is under way.
    pub(super) fn tell(&mut self, copied: &Copied, session: &Session) {
        let all = copied.tables.iter().map(CopiedTable::figures).fold(Figures::default(), Figures::and);
        let now = Instant::now();
        let pace = per_second(all.rows - self.last.1.min(all.rows), now - self.last.0);
        self.last = (now, all.rows);
        let left = all.left(now - self.since);
        match &mut self.bars {
            Some(bars) => {
                let names: Vec<_> =
                    copied.tables.iter().map(|table| table.published.relation.name.to_string()).collect();
                let tables = names.iter().zip(&copied.tables).enumerate();
                bars.show((all, pace, left), tables.map(|(index, (name, table))| (index, &**name, table.figures())));
            }
            None => log(copied, (all, pace, left)),
        }
        let ([of, chunks], percent) = (all.chunks, all.percent());
        let left = left.map_or_else(String::new, |left| format!(", about {} s left", left.as_secs()));
        session.health.set_phase(format!("{}: {percent} %, {chunks} of {of} chunks{left}", self.what));
    }
}

fn log(copied: &Copied, (all, pace, left): (Figures, u64, Option<Duration>)) {
    for table in &copied.tables {
        let Figures { rows, chunks: [of, chunks], .. } = table.figures();
        if rows > 0 && chunks < of {
            tracing::info!(table = %table.published.relation.name, rows, chunks, of, "snapshot of table goes on");
        }
    }
    let ([of, chunks], percent) = (all.chunks, all.percent());
    let seconds_left = left.map(|left| left.as_secs());
    tracing::info!(rows = all.rows, rows_per_second = pace, chunks, of, percent, seconds_left, "snapshot goes on");
}

/// Sets the gauges of all tables.
pub(super) fn measure(copied: &Copied, session: &Session, publisher: &Publisher) {
    for table in &copied.tables {
        let name = table.published.relation.name.to_string();
        let units = copied.units_of(table.index);
        let (mut planned, mut acknowledged) = (0, 0);
        publisher.deliveries().tracker(|tracker| {
            for unit in units {
                planned += 1;
                acknowledged += i64::from(tracker.is_through(unit));
            }
        });
        session.metrics.snapshot_chunks(&name, planned, acknowledged);
    }
}
