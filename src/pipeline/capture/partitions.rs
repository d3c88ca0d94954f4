//! Partitions that came with rows, went, or were emptied by themselves: no event tells of their rows (`capture.on_partitions`). It outlasts
//! sessions and processes, for the targets differ until the table has been read again.
//!
//! The catalog shows the present, and the stream the past. So a look at the catalog is judged once the stream has come to where the log ended
//! by then: a TRUNCATE of the whole table, which gives all partitions new files, has been delivered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{lsn::Lsn, schema::TableName, source::leaves::Leaf};

/// How many partitions a note names.
const NAMED: usize = 5;

/// The partitions whose rows the topic has, or is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownLeaves {
    /// `pg_class.oid` of the partitioned table.
    pub(super) oid: u32,
    /// Its name.
    table: TableName,
    /// By `pg_class.oid`.
    leaves: BTreeMap<u32, KnownLeaf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownLeaf {
    name: String,
    came: String,
    file: u32,
    /// It lost its rows, and no event tells; who counts its rows later does not change that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    emptied: bool,
}

impl From<&Leaf> for KnownLeaf {
    fn from(leaf: &Leaf) -> Self {
        Self { name: leaf.name.to_string(), came: leaf.came.clone(), file: leaf.file, emptied: false }
    }
}

/// What became of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Attached,
    Gone,
    Emptied,
}

/// A table's partitions as this process knows them.
#[derive(Debug)]
struct Table {
    known: KnownLeaves,
    /// What was told last.
    told: Vec<(String, Change)>,
    /// For what the table was to be read again last.
    asked: Vec<(String, Change)>,
    /// Where the whole table was truncated, as far as that may not be judged yet.
    truncated: Vec<Lsn>,
    /// How the leaves came whose rows have been read since.
    read: Option<BTreeMap<u32, String>>,
}

impl Table {
    const fn new(known: KnownLeaves) -> Self {
        Self { known, told: Vec::new(), asked: Vec::new(), truncated: Vec::new(), read: None }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<BTreeMap<u32, Table>>);

/// What a look at a table gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// To be recorded.
    pub(super) record: Option<KnownLeaves>,
    /// Partitions of whose rows no event tells.
    pub(super) untold: Vec<(String, Change)>,
    /// They are others than were told before.
    pub(super) is_news: bool,
}

impl Partitions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Table>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with what is recorded.
    pub(super) fn take_up<'a>(&self, recorded: impl Iterator<Item = &'a KnownLeaves>) {
        let mut tables = self.lock();
        let mut before = std::mem::take(&mut *tables);
        for known in recorded {
            let (told, asked) = before.remove(&known.oid).map(|table| (table.told, table.asked)).unwrap_or_default();
            tables.insert(known.oid, Table { told, asked, ..Table::new(known.clone()) });
        }
    }

    /// The stream has come to a TRUNCATE of the table.
    pub(super) fn truncated(&self, oid: u32, commit: Lsn) {
        if let Some(table) = self.lock().get_mut(&oid) {
            table.truncated.push(commit);
        }
    }

    /// All rows of these leaves have been read.
    pub(super) fn read_again(&self, oid: u32, leaves: &BTreeMap<u32, String>) {
        if let Some(table) = self.lock().get_mut(&oid) {
            table.read = Some(leaves.clone());
        }
    }

    /// The leaves that came and whose rows nothing tells of, so far as the catalog says.
    pub(super) fn strangers(&self, oid: u32, now: &BTreeMap<u32, Leaf>) -> Vec<u32> {
        let tables = self.lock();
        let Some(table) = tables.get(&oid) else { return Vec::new() };
        let is_strange = |(leaf, found): &(&u32, &Leaf)| {
            !found.born && table.known.leaves.get(leaf).is_none_or(|known| known.came != found.came)
        };
        now.iter().filter(is_strange).map(|(leaf, _)| *leaf).collect()
    }

    /// Judges a look; `empty`: leaves that came without rows. A TRUNCATE that commits between two places in the log is why files are others.
    pub(super) fn judge(
        &self,
        (oid, name): (u32, &TableName),
        (now, empty): (&BTreeMap<u32, Leaf>, &[u32]),
        (since, end): (Lsn, Lsn),
    ) -> Verdict {
        let mut tables = self.lock();
        let Some(table) = tables.get_mut(&oid) else {
            let leaves = now.iter().map(|(leaf, found)| (*leaf, KnownLeaf::from(found))).collect();
            let known = KnownLeaves { oid, table: name.clone(), leaves };
            tables.insert(oid, Table::new(known.clone()));
            return Verdict { record: Some(known), ..Verdict::default() };
        };
        let was_truncated = table.truncated.iter().any(|at| (since..=end).contains(at));
        let is_seen = |(leaf, known): (&u32, &KnownLeaf)| now.get(leaf).is_some_and(|found| found.file != known.file);
        if was_truncated && table.known.leaves.iter().any(is_seen) {
            table.truncated.retain(|at| *at > end);
        }
        let mut known = KnownLeaves { table: name.clone(), ..table.known.clone() };
        if let Some(read) = table.read.take() {
            known.leaves.retain(|leaf, _| now.contains_key(leaf) || read.contains_key(leaf));
            let is_read = |(leaf, found): &(&u32, &Leaf)| read.get(leaf) == Some(&found.came);
            known.leaves.extend(now.iter().filter(is_read).map(|(leaf, found)| (*leaf, found.into())));
        }
        let mut untold = Vec::new();
        for (leaf, found) in now {
            let is_complete = found.born || empty.contains(leaf);
            match known.leaves.get_mut(leaf) {
                Some(before) if before.came == found.came => {
                    let is_emptied = before.file != found.file && found.uncounted && !was_truncated;
                    // Behind a TRUNCATE of the whole table nothing is missing.
                    let emptied = is_emptied || before.emptied && !was_truncated;
                    *before = KnownLeaf { emptied, ..found.into() };
                    if emptied {
                        untold.push((found.name.to_string(), Change::Emptied));
                    }
                }
                None if is_complete => drop(known.leaves.insert(*leaf, found.into())),
                _ => untold.push((found.name.to_string(), Change::Attached)),
            }
        }
        let gone = known.leaves.iter().filter(|(leaf, _)| !now.contains_key(leaf));
        untold.extend(gone.map(|(_, known)| (known.name.clone(), Change::Gone)));
        untold.sort();
        let record = (known != table.known).then(|| known.clone());
        let is_news = untold != table.told;
        (table.known, table.told) = (known, untold.clone());
        Verdict { record, untold, is_news }
    }

    /// Whether the table is to be read again for these, which was not asked for yet.
    pub(super) fn must_ask(&self, oid: u32, untold: &[(String, Change)]) -> bool {
        self.lock().get_mut(&oid).is_some_and(|table| {
            let is_news = table.asked != untold;
            table.asked = untold.to_vec();
            is_news
        })
    }

    /// TRUNCATEs up to there have been judged.
    pub(super) fn forget_truncated(&self, up_to: Lsn) {
        for table in self.lock().values_mut() {
            table.truncated.retain(|at| *at > up_to);
        }
    }
}

/// For people.
pub(super) fn describe(untold: &[(String, Change)]) -> String {
    let one = |(name, change): &(String, Change)| match change {
        Change::Attached => format!("{name} was attached with rows"),
        Change::Gone => format!("{name} was detached or dropped"),
        Change::Emptied => format!("{name} was truncated, or rewritten by ALTER TABLE"),
    };
    let mut named: Vec<_> = untold.iter().take(NAMED).map(one).collect();
    let more = untold.len().saturating_sub(NAMED);
    named.extend((more > 0).then(|| format!("and {more} more")));
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u32 = 1;
    const ALL: (Lsn, Lsn) = (Lsn(0), Lsn(9));

    fn leaf(came: &str, file: u32) -> Leaf {
        Leaf {
            name: TableName::new("public", format!("p{came}").replace(',', "_").as_str()),
            came: came.to_owned(),
            file,
            uncounted: false,
            born: false,
        }
    }

    fn look(leaves: &[(u32, Leaf)]) -> BTreeMap<u32, Leaf> {
        leaves.iter().cloned().collect()
    }

    struct World(Partitions, TableName);

    impl World {
        fn new() -> Self {
            let world = Self(Partitions::default(), TableName::new("public", "t"));
            let first =
                world.0.judge((ROOT, &world.1), (&look(&[(11, leaf(",1", 11)), (12, leaf(",2", 12))]), &[]), ALL);
            assert!(first.record.is_some() && first.untold.is_empty());
            world
        }

        fn judge(&self, leaves: &[(u32, Leaf)], empty: &[u32]) -> Vec<Change> {
            let verdict = self.0.judge((ROOT, &self.1), (&look(leaves), empty), ALL);
            verdict.untold.into_iter().map(|(_, change)| change).collect()
        }
    }

    #[test]
    fn what_came_with_rows_went_or_was_emptied_is_told_until_it_is_read() {
        let (world, stays) = (World::new(), (11, leaf(",1", 11)));
        assert_eq!(world.judge(&[stays.clone(), (12, leaf(",2", 12))], &[]), []);
        let born = (13, Leaf { born: true, ..leaf(",3", 13) });
        let emptied = (12, Leaf { uncounted: true, ..leaf(",2", 99) });
        assert_eq!(world.judge(&[stays.clone(), emptied, born.clone()], &[]), [Change::Emptied]);
        // It stays so, whoever counts its rows later.
        assert_eq!(world.judge(&[stays.clone(), (12, leaf(",2", 99)), born.clone()], &[]), [Change::Emptied]);
        let now = [stays.clone(), born.clone(), (14, leaf(",4", 14)), (15, leaf(",5", 15))];
        assert_eq!(world.judge(&now, &[15]), [Change::Gone, Change::Attached]);
        world.0.read_again(ROOT, &BTreeMap::from([(11, ",1".to_owned()), (13, ",3".into()), (14, ",4".into())]));
        assert_eq!(world.judge(&now, &[]), []);
        // Away for a while.
        assert_eq!(
            world.judge(&[(11, leaf(",7", 11)), now[1].clone(), now[2].clone(), now[3].clone()], &[]),
            [Change::Attached]
        );
    }

    #[test]
    fn a_truncate_of_the_whole_table_and_a_rewrite_that_keeps_rows_change_files_alone() {
        let (world, stays) = (World::new(), (11, leaf(",1", 11)));
        assert_eq!(world.judge(&[stays.clone(), (12, leaf(",2", 77))], &[]), []);
        world.0.truncated(ROOT, Lsn(5));
        let all = [(11, Leaf { uncounted: true, ..leaf(",1", 91) }), (12, Leaf { uncounted: true, ..leaf(",2", 92) })];
        assert_eq!(world.judge(&all, &[]), []);
        // It has been seen.
        let again = [all[0].clone(), (12, Leaf { uncounted: true, ..leaf(",2", 93) })];
        assert_eq!(world.judge(&again, &[]), [Change::Emptied]);
    }

    #[test]
    fn what_is_recorded_is_compared_with_and_news_are_told_once() {
        let world = World::new();
        let recorded = world.0.lock()[&ROOT].known.clone();
        let later = Partitions::default();
        later.take_up([&recorded].into_iter());
        let now = look(&[(11, leaf(",1", 11))]);
        let verdict = later.judge((ROOT, &world.1), (&now, &[]), ALL);
        assert_eq!(
            (verdict.record, verdict.is_news, describe(&verdict.untold)),
            (None, true, "public.p_2 was detached or dropped".to_owned())
        );
        later.take_up([&recorded].into_iter());
        assert!(!later.judge((ROOT, &world.1), (&now, &[]), ALL).is_news);
    }
}
