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
    /// The place of a record that tells none, made from its offset: it rises within one partition, and stands for nothing else.
    /// No event has an ordinal at LSN zero, so it is never that of an event with a commit LSN, and below all of these.
    #[must_use]
    pub fn of_offset(offset: i64) -> Option<Self> {
        let ordinal = u64::try_from(offset).ok()?.checked_add(1)?;
        Some(Self { epoch: 0, commit: Lsn::ZERO, ordinal })
    }

    /// Whether it was made from an offset, so that it compares with nothing outside its partition.
    #[must_use]
    pub fn is_of_offset(self) -> bool {
        self.epoch == 0 && self.commit == Lsn::ZERO && self.ordinal != 0
    }

    /// Whether a record at `offset` whose place is that offset follows this mark of its partition: nothing was applied to it,
    /// or what was applied had its place from offsets, too.
    ///
    /// Marks from offsets once had the form of a first event at LSN offset + 1. The WAL grows by more than a byte per record,
    /// so no commit LSN is as low as the offset that its record has.
    #[must_use]
    pub fn precedes_offset(self, offset: i64) -> bool {
        let old_form = self.epoch == 0 && self.ordinal == 1 && i64::try_from(self.commit.0).is_ok_and(|c| c <= offset);
        self == Self::default() || self.is_of_offset() || old_form
    }

    /// Whether a partition whose high-water mark is `mark` has applied this event already.
    ///
    /// Snapshot rows of the mark's own snapshot are applied again: they share one position, and applying one twice changes
    /// nothing. A place from an offset is applied at no mark of another kind.
    #[must_use]
    pub fn is_applied_at(self, mark: Self) -> bool {
        if self.is_of_offset() && !mark.is_of_offset() {
            return false;
        }
        self < mark || (self == mark && self.ordinal != 0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_of_offset() {
            return write!(f, "offset {}", self.ordinal - 1);
        }
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

    #[test]
    fn a_place_from_an_offset_is_no_event_s_and_below_all_of_them() {
        let at = |epoch, commit, ordinal| Position { epoch, commit: Lsn(commit), ordinal };
        let of = |offset| Position::of_offset(offset).unwrap();
        assert!(Position::default() < of(0) && of(0) < of(1) && of(i64::MAX) < at(0, 1 << 20, 0));
        assert!(of(0).is_of_offset() && of(7).is_applied_at(of(7)) && !of(8).is_applied_at(of(7)));
        assert_eq!((of(7).to_string(), Position::of_offset(-1)), ("offset 7".to_owned(), None));
        for other in [Position::default(), at(0, 1 << 20, 0), at(0, 1 << 20, 1), at(1, 0, 1)] {
            assert!(!other.is_of_offset(), "{other}");
        }
    }

    #[test]
    fn offsets_follow_only_offsets() {
        let at = |epoch, commit, ordinal| Position { epoch, commit: Lsn(commit), ordinal };
        // The last has the form that such marks once had.
        for mark in [Position::default(), Position::of_offset(6).unwrap(), at(0, 7, 1)] {
            assert!(mark.precedes_offset(7), "{mark}");
        }
        for mark in [at(0, 8, 1), at(0, 1 << 20, 0), at(0, 1 << 20, 1), at(0, 7, 2), at(1, 7, 1)] {
            assert!(!mark.precedes_offset(7), "{mark}");
        }
    }
}
