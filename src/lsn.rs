//! Log sequence numbers and the position of a change event.
//!
//! A change event is ordered by its [`Position`]: the epoch, the LSN of the commit record and the event's ordinal inside
//! its transaction. The LSN of the event itself is never used for ordering, since transactions interleave in the WAL
//! (trap T3).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log, in bytes; printed as PostgreSQL's `pg_lsn` does (`16/B374D848`).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The invalid LSN, below every real one.
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN.
#[derive(Debug, thiserror::Error)]
#[error("not a log sequence number: {0:?}")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Self(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// Where a change event stands in the order of its source.
///
/// Snapshot rows carry (epoch, consistent point, 0); the events of a transaction carry its commit LSN and count from 1.
/// Ordered lexicographically, so a later event of one source always compares greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Rises only when LSNs may be reused for other contents (after a fail-over to a server that was behind).
    pub epoch: u32,
    /// LSN of the transaction's commit record, or the consistent point of a snapshot.
    pub commit: Lsn,
    /// Number of the event inside its transaction, from 1; 0 for snapshot rows.
    pub ordinal: u64,
}

impl Position {
    /// Whether a partition whose high-water mark is `mark` has applied this event already.
    ///
    /// Snapshot rows of the mark's own snapshot are applied again: they share one position, and applying one twice changes
    /// nothing.
    #[must_use]
    pub fn is_applied_at(self, mark: Self) -> bool {
        self < mark || (self == mark && self.ordinal != 0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.epoch, self.commit, self.ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        for bad in ["", "16", "16/", "/1", "G/1", "1/100000000"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn snapshot_rows_are_applied_until_the_stream_is_above_them() {
        let at = |commit, ordinal| Position { epoch: 0, commit: Lsn(commit), ordinal };
        assert!(!at(10, 0).is_applied_at(at(10, 0)));
        assert!(at(10, 0).is_applied_at(at(11, 1)));
        assert!(at(11, 1).is_applied_at(at(11, 1)));
        assert!(!at(11, 2).is_applied_at(at(11, 1)));
    }
}
