//! What to do about an error: try again, stop one table, or stop the program.
//!
//! Every error enum of the crate decides its [`Severity`] beside its definition; the wiring acts on it in one place.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// What the program does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The outside world may heal by itself: tear down, back off, start again from the recorded position.
    Transient,
    /// One table cannot go on (a value, a schema, a record): that table stops, the others go on.
    Definite,
    /// Going on could lose data or cannot work (wrong password, wrong configuration, a gap): exit with the remedy.
    Fatal,
}

/// An error that knows its severity and what the operator can do about it.
pub trait Classify: std::error::Error {
    /// What the program does about it.
    fn severity(&self) -> Severity;

    /// A full sentence for the operator, or `None` when the message says it all.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error with its causes on one line; a cause whose text is in the line already is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Exponential back-off with a ceiling: 100 ms, 200 ms, … up to 10 s, reset by success. Each delay is shorter by chance, by up to half, so
/// that those whom one fault has met do not come back at one moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(10);

    /// Starts at the shortest delay.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The delay to wait now; the one after it is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(Self::CEILING);
        delay.mul_f64(1.0 - by_chance() / 2.0)
    }

    /// The work went well: the next delay is the shortest again.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// From 0 to 1, another one each time: the standard library seeds each state of its hasher anew.
fn by_chance() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_ceiling_and_differ_by_chance() {
        let delays = |_| {
            let mut backoff = Backoff::new();
            (0..10).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        let runs: Vec<_> = (0..20).map(delays).collect();
        for (n, whole) in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000].into_iter().enumerate() {
            let of_run: Vec<_> = runs.iter().map(|run| run[n]).collect();
            let whole = Duration::from_millis(whole);
            assert!(of_run.iter().all(|delay| (whole / 2..=whole).contains(delay)), "{of_run:?}");
            assert!(of_run.windows(2).any(|two| two[0] != two[1]), "{of_run:?}");
        }
        let mut backoff = Backoff { next: Backoff::CEILING };
        backoff.reset();
        assert!(backoff.next_delay() <= Backoff::FIRST);
    }
}
