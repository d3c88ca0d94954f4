//! How far a snapshot has come: log lines at intervals, gauges, and the phase that `/readyz` and the status page show.
//!
//! A chunk counts as read when all but a held row of it is on its way, and as acknowledged when Kafka has all of it.

use std::time::{Duration, Instant};

use super::{
    copied::Copied,
    figures::{Figures, per_second},
    publisher::Publisher,
    session::Session,
};

/// How often it is told.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells of one snapshot.
pub(super) struct CopyProgress {
    since: Instant,
    ticks: tokio::time::Interval,
    last: (Instant, u64),
}

impl CopyProgress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { since: now, ticks, last: (now, 0) }
    }

    /// Waits until it is time to tell again.
    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// Tells of all, and of each table that is under way.
    pub(super) fn tell(&mut self, copied: &Copied, session: &Session) {
        let mut all = Figures::default();
        for table in &copied.tables {
            let Figures { rows, chunks, bytes } = table.figures();
            all.rows += rows;
            for index in [0, 1] {
                all.chunks[index] += chunks[index];
                all.bytes[index] += bytes[index];
            }
            if rows > 0 && chunks[1] < chunks[0] {
                let [of, read] = chunks;
                tracing::info!(table = %table.published.relation.name, rows, chunks = read, of, "snapshot of table goes on");
            }
        }
        let now = Instant::now();
        let pace = per_second(all.rows - self.last.1.min(all.rows), now - self.last.0);
        self.last = (now, all.rows);
        let ([of, chunks], percent) = (all.chunks, all.percent());
        let seconds_left = all.left(now - self.since).map(|left| left.as_secs());
        tracing::info!(rows = all.rows, rows_per_second = pace, chunks, of, percent, seconds_left, "snapshot goes on");
        let left = seconds_left.map_or_else(String::new, |left| format!(", about {left} s left"));
        session.health.set_phase(format!("snapshot: {percent} %, {chunks} of {of} chunks{left}"));
    }
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
