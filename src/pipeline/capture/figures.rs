//! How far a snapshot has come, in numbers.
//!
//! What is left is told by bytes of the chunks that were read, since rows are not counted before they come.

use std::time::Duration;

/// Figures of a snapshot at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Rows that were sent.
    pub(super) rows: u64,
    /// Chunks, and those of them that were read.
    pub(super) chunks: [u64; 2],
    /// Their bytes, and those of the ones that were read.
    pub(super) bytes: [u64; 2],
}

impl Figures {
    /// These and others.
    pub(super) fn and(self, other: Self) -> Self {
        let sum = |[of, read]: [u64; 2], [more_of, more_read]: [u64; 2]| {
            [of.saturating_add(more_of), read.saturating_add(more_read)]
        };
        Self {
            rows: self.rows.saturating_add(other.rows),
            chunks: sum(self.chunks, other.chunks),
            bytes: sum(self.bytes, other.bytes),
        }
    }

    /// Hundredths of the bytes that were read; of the chunks where they have none.
    pub(super) fn percent(&self) -> u64 {
        let [whole, done] = if self.bytes[0] > 0 { self.bytes } else { self.chunks };
        u128::from(done.min(whole)).saturating_mul(100).checked_div(u128::from(whole)).map_or(100, saturated)
    }

    /// How long the rest takes at the pace so far; `None` before there is one.
    pub(super) fn left(&self, elapsed: Duration) -> Option<Duration> {
        let [whole, done] = self.bytes;
        let rest = u128::from(whole.saturating_sub(done));
        let left = elapsed.as_millis().checked_mul(rest)?.checked_div(u128::from(done))?;
        Some(Duration::from_millis(saturated(left)))
    }
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A pace.
pub(super) fn per_second(rows: u64, time: Duration) -> u64 {
    saturated(u128::from(rows) * 1000 / time.as_millis().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_bytes() {
        let figures = Figures { rows: 10, chunks: [4, 3], bytes: [1000, 250] };
        assert_eq!(figures.percent(), 25);
        assert_eq!(figures.left(Duration::from_secs(5)), Some(Duration::from_secs(15)));
        assert_eq!(Figures { bytes: [1000, 0], ..figures }.left(Duration::from_secs(5)), None);
        assert_eq!(Figures { bytes: [0, 0], ..figures }.percent(), 75, "empty tables have chunks");
        assert_eq!(Figures::default().percent(), 100);
        let huge = Figures { bytes: [u64::MAX, u64::MAX], ..figures };
        assert_eq!((huge.percent(), huge.left(Duration::MAX)), (100, Some(Duration::ZERO)));
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
    }
}
