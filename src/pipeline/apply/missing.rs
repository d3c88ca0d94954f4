//! Partitions that barriers wait for: told once it has been the same ones for too long, for then nobody owns them, or their
//! owner hangs (PROTOCOL 8).

use std::time::{Duration, Instant};

use crate::pipeline::health::Health;

/// How long a barrier may wait for the same partitions before it is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is missing, and since when it is these.
#[derive(Debug)]
pub struct Missing {
    partitions: Vec<(String, i32)>,
    since: Instant,
}

impl Default for Missing {
    fn default() -> Self {
        Self { partitions: Vec::new(), since: Instant::now() }
    }
}

impl Missing {
    /// Takes note of the partitions that barriers wait for at this moment.
    pub fn found(&mut self, partitions: Vec<(String, i32)>, health: &Health) {
        if self.partitions != partitions {
            *self = Self { partitions, since: Instant::now() };
            health.gathered();
        }
        if self.partitions.is_empty() || self.since.elapsed() < PATIENCE {
            return;
        }
        let names: Vec<_> = self.partitions.iter().map(|(topic, partition)| format!("{topic}[{partition}]")).collect();
        let names = names.join(", ");
        let reason =
            format!("a truncate waits for {names}: run an apply of this group that has them, or see what keeps it");
        if health.waits_at_barrier(&reason) {
            tracing::warn!(reason, "a barrier is not complete");
        }
    }
}
