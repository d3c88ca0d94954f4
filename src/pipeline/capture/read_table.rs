//! A table whose rows are read beside the stream: what is known of it, and what is left of it.

use std::{collections::VecDeque, sync::Arc};

use super::unread::{Unread, UnreadLeaf};
use crate::{
    schema::Relation,
    source::{
        catalog::PublishedTable,
        window::{Layout, Places},
    },
};

/// Blocks of the first window.
const FIRST_BLOCKS: u64 = 16;

/// See the module.
pub(super) struct ReadTable {
    pub(super) published: Arc<PublishedTable>,
    pub(super) unread: Unread,
    /// What its rows are read by: its columns, and how the publication has it.
    pub(super) known_as: Option<(Layout, Option<String>)>,
    /// What is left, by leaf.
    pub(super) left: VecDeque<(usize, Places)>,
    /// How many places a window has.
    pub(super) places: u64,
    /// It was read again from its begin, since too many rows were owed.
    pub(super) again: bool,
    /// Windows of which nothing was published.
    pub(super) void: u64,
}

impl ReadTable {
    pub(super) fn new(unread: Unread) -> Self {
        let of_leaf = |(index, leaf): (usize, &UnreadLeaf)| {
            leaf.missing.iter().map(move |blocks| (index, Places::of_blocks(*blocks))).collect::<Vec<_>>()
        };
        let left = unread.leaves.iter().enumerate().flat_map(of_leaf).collect();
        let published = Arc::new(unread.published.clone());
        Self {
            published,
            unread,
            known_as: None,
            left,
            places: FIRST_BLOCKS * Places::PER_BLOCK,
            again: false,
            void: 0,
        }
    }

    pub(super) fn oid(&self) -> u32 {
        self.relation().oid
    }

    pub(super) fn relation(&self) -> &Relation {
        &self.published.relation
    }

    /// The next places to read. They end with a block, unless there is too much in one.
    pub(super) fn next(&self) -> Option<(usize, Places)> {
        let (leaf, Places { from, to }) = *self.left.front()?;
        let block_ends = (from / Places::PER_BLOCK + 1) * Places::PER_BLOCK;
        let end = from.saturating_add(self.places);
        let end = if end <= block_ends { end } else { end / Places::PER_BLOCK * Places::PER_BLOCK };
        Some((leaf, Places { from, to: end.min(to) }))
    }

    /// A leaf is read up to there.
    pub(super) fn came(&mut self, leaf: usize, to: u64) {
        if let Some((_, left)) = self.left.front_mut().filter(|(of, _)| *of == leaf) {
            left.from = left.from.max(to);
            if left.from >= left.to {
                self.left.pop_front();
            }
        }
    }
}
