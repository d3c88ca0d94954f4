//! What is written for values beyond those that a type's Avro form is for: Debezium's form depends on where it met the value.

use super::modes::SpecialValues;

/// Where a value comes from, as far as that decides its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// From anywhere: it travels in `walrelay.text` alone.
    Besides,
    /// From the stream, in Debezium's form.
    Streamed,
    /// From a snapshot, where Debezium reads dates through Java's older classes.
    Read,
    /// From an array, where it reads all dates and times through them.
    Item,
}

impl Special {
    /// That of a column's own values in the stream.
    pub(super) const fn of(mode: SpecialValues) -> Self {
        match mode {
            SpecialValues::Null => Self::Besides,
            SpecialValues::Debezium => Self::Streamed,
        }
    }

    /// The same for values that a snapshot reads.
    pub(super) const fn of_read(self) -> Self {
        if matches!(self, Self::Streamed) { Self::Read } else { self }
    }

    /// The same for the items of an array.
    pub(super) const fn of_items(self) -> Self {
        if matches!(self, Self::Streamed) { Self::Item } else { self }
    }

    /// Whether the form is Debezium's.
    pub(super) const fn is_debezium(self) -> bool {
        !matches!(self, Self::Besides)
    }
}
