//! What is recorded of a snapshot's chunks: of each leaf its file, how many blocks it had, and which of them Kafka has all rows of.
//!
//! One entry of the state holds a table, and its ranges are merged, so the record stays small however many chunks there are.

use serde::{Deserialize, Serialize};

use crate::source::chunk::{BlockRange, Leaf};

/// Blocks, as ranges in order that touch nowhere: from, and the first one behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Takes blocks in.
    pub(super) fn add(&mut self, (from, to): (u32, u32)) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|range| range.1 < from);
        let last = self.0.partition_point(|range| range.0 <= to);
        let touched = self.0.get(first..last).unwrap_or_default();
        let from = touched.first().map_or(from, |range| range.0.min(from));
        let to = touched.last().map_or(to, |range| range.1.max(to));
        self.0.splice(first..last, [(from, to)]);
    }

    /// Those below `end` that are not in.
    pub(super) fn missing(&self, end: u32) -> Vec<(u32, u32)> {
        let (mut missing, mut from) = (Vec::new(), 0);
        for (start, behind) in self.0.iter().copied().chain([(end, end)]) {
            if from < start.min(end) {
                missing.push((from, start.min(end)));
            }
            from = from.max(behind);
        }
        missing
    }

    /// How many there are below `end`.
    pub(super) fn count(&self, end: u32) -> u64 {
        self.0.iter().map(|(from, to)| u64::from((*to).min(end).saturating_sub(*from))).sum()
    }
}

/// A leaf of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeafChunks {
    /// `pg_class.oid`.
    pub(super) oid: u32,
    /// Its file: in another one the rows lie elsewhere (trap T79).
    pub(super) file: Option<u32>,
    /// Its blocks when the snapshot was planned: what is behind them is younger than the snapshot. `None` where it is read as a whole.
    pub(super) blocks: Option<u32>,
    /// Blocks of which Kafka has all rows; of one that is read as a whole the first one stands for all.
    pub(super) done: Ranges,
}

impl LeafChunks {
    /// Of which nothing is done.
    pub(super) fn new(leaf: &Leaf) -> Self {
        Self { oid: leaf.oid, file: leaf.file, blocks: leaf.blocks, done: Ranges::default() }
    }

    /// The first block behind the leaf.
    pub(super) fn end(&self) -> u32 {
        self.blocks.unwrap_or(1)
    }

    /// Kafka has all rows of this range.
    pub(super) fn finish(&mut self, range: BlockRange) {
        self.done.add((range.from, range.to.unwrap_or_else(|| self.end())));
    }

    /// Blocks that are still to be read.
    pub(super) fn missing(&self) -> Vec<(u32, u32)> {
        self.done.missing(self.end())
    }
}

/// A table of the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableChunks {
    /// Its leaves; it is its own where it has no partitions.
    pub(super) leaves: Vec<LeafChunks>,
    /// Some of its rows were read beside the stream: single rows may be owed still, whatever blocks are done.
    #[serde(default)]
    pub(super) windows: bool,
}

impl TableChunks {
    /// Makes room for a leaf.
    pub(super) fn add(&mut self, leaf: &Leaf) {
        if !self.leaves.iter().any(|known| known.oid == leaf.oid) {
            self.leaves.push(LeafChunks::new(leaf));
        }
    }

    /// The record of a leaf.
    pub(super) fn leaf(&mut self, oid: u32) -> Option<&mut LeafChunks> {
        self.leaves.iter_mut().find(|leaf| leaf.oid == oid)
    }

    /// Whether it knows all of these leaves; one that was attached since came with rows.
    pub(super) fn has(&self, leaves: &[Leaf]) -> bool {
        leaves.iter().all(|leaf| self.leaves.iter().any(|known| known.oid == leaf.oid))
    }

    /// Whether all rows of the snapshot are known to be there.
    pub(super) fn is_whole(&self) -> bool {
        !self.windows && self.leaves.iter().all(|leaf| leaf.missing().is_empty())
    }

    /// Chunks of so many blocks, and those of them that are done.
    pub(super) fn figures(&self, blocks: u64) -> (u64, u64) {
        let blocks = blocks.max(1);
        let of_leaf = |leaf: &LeafChunks| {
            let all = u64::from(leaf.end()).div_ceil(blocks);
            let done = leaf.done.count(leaf.end()) / blocks;
            (all, if leaf.missing().is_empty() { all } else { done })
        };
        self.leaves.iter().map(of_leaf).fold((0, 0), |sum, leaf| (sum.0 + leaf.0, sum.1 + leaf.1))
    }
}

/// The record of the plan itself: with it the chunks of all tables are recorded, and the begin of the snapshot is acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotPlan {
    /// Relation versions from before the snapshot, by keys of the state, that are of no use behind its begin.
    pub(super) forget: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_the_blocks_that_were_added(added in proptest::collection::vec((0_u32..60, 0_u32..60), 0..20), end in 0_u32..70) {
            let (mut ranges, mut naive) = (Ranges::default(), BTreeSet::new());
            for (from, to) in added {
                ranges.add((from, to));
                naive.extend(from..to);
            }
            for pair in ranges.0.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0, "{ranges:?}");
            }
            let missing: Vec<u32> = ranges.missing(end).into_iter().flat_map(|(from, to)| from..to).collect();
            let expected: Vec<u32> = (0..end).filter(|block| !naive.contains(block)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(ranges.count(end), naive.range(..end).count() as u64);
        }
    }

    #[test]
    fn a_leaf_without_blocks_is_done_as_a_whole_and_an_empty_one_from_the_begin() {
        let leaf = |blocks| LeafChunks { oid: 1, file: Some(1), blocks, done: Ranges::default() };
        let mut whole = leaf(None);
        assert_eq!(whole.missing(), [(0, 1)]);
        whole.finish(BlockRange::WHOLE);
        assert!(whole.missing().is_empty() && leaf(Some(0)).missing().is_empty());
        let mut last = leaf(Some(30));
        last.finish(BlockRange { from: 20, to: None });
        assert_eq!(last.missing(), [(0, 20)]);
    }
}
