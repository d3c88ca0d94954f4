//! The parts of an event's envelope that its reader asks for.

/// What the walk over an envelope finds.
#[derive(Default)]
pub(super) struct Parts<'a> {
    /// Which place is the first one of the row before, if there is one.
    pub(super) before: Option<usize>,
    /// The same of the row after.
    pub(super) after: Option<usize>,
    pub(super) op: &'a [u8],
    pub(super) commit_ms: i64,
    pub(super) schema: &'a [u8],
    pub(super) table: &'a [u8],
    pub(super) transaction: Option<(&'a [u8], i64)>,
}
