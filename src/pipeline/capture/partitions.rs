//! What is known of the partitions that captured tables have: of the rows of one that came with rows, went, or was emptied by itself no event
//! tells (`capture.on_partitions`). It is recorded, for the targets differ until the table has been read again.
//!
//! The catalog shows the present, and the stream the past. So a look at the catalog is judged once the stream has come to where the log ended
//! by then: a TRUNCATE of the whole table, which gives all partitions new files, has been delivered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{lsn::Lsn, schema::TableName, source::leaves::Leaf};

/// How many partitions a note names.
const NAMED: usize = 5;
/// Partitions of one table: they are recorded together, in one record of the state topic, which takes about 1 MB.
const MOST_LEAVES: usize = 3000;
/// How many of those that went are remembered by name where there are too many.
const MOST_GONE: usize = 100;
/// TRUNCATEs of a table that are remembered until a look has seen them.
const MOST_TRUNCATED: usize = 16;
/// How often a table is asked for again that is not read.
const PATIENCE: Duration = Duration::from_mins(10);

/// The partitions of a table, and what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownLeaves {
    /// `pg_class.oid` of the partitioned table.
    pub(super) oid: u32,
    /// Its name.
    table: TableName,
    /// By `pg_class.oid`.
    leaves: BTreeMap<u32, KnownLeaf>,
    /// Where the whole table was truncated, as far as that may not be seen yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<Lsn>,
    /// The last of those that were seen: it comes again where the stream does.
    #[serde(default)]
    truncated_before: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownLeaf {
    name: String,
    came: String,
    /// `None` where only its rows are known, which have been read.
    file: Option<u32>,
    /// What became of it, and no event tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    untold: Option<Untold>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Untold {
    change: Change,
    /// The end of the log when it was seen.
    seen: Lsn,
}

impl From<&Leaf> for KnownLeaf {
    fn from(leaf: &Leaf) -> Self {
        Self { name: leaf.name.to_string(), came: leaf.came.clone(), file: Some(leaf.file), untold: None }
    }
}

/// What became of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    Attached,
    Gone,
    Emptied,
}

/// Partitions, and what became of each.
pub(super) type Changes = Vec<(String, Change)>;

impl KnownLeaves {
    fn new(oid: u32, table: &TableName, now: &BTreeMap<u32, Leaf>) -> Self {
        let leaves = now.iter().map(|(leaf, found)| (*leaf, KnownLeaf::from(found))).collect();
        Self { oid, table: table.clone(), leaves, truncated: Vec::new(), truncated_before: Lsn::ZERO }
    }

    /// The last TRUNCATE of the whole table up to a place in the log.
    fn truncated_up_to(&self, end: Lsn) -> Lsn {
        self.truncated.iter().copied().filter(|at| *at <= end).fold(self.truncated_before, Lsn::max)
    }

    fn untold(&self) -> Changes {
        let untold = self.leaves.values().filter_map(|leaf| Some((leaf.name.clone(), leaf.untold?.change)));
        let mut untold: Vec<_> = untold.collect();
        untold.sort();
        untold
    }

    /// All rows of these leaves were read, and no others stay at the targets but those that changed from this place in the log on.
    fn read(&mut self, read: &BTreeMap<u32, String>, begin: Lsn) {
        self.leaves.retain(|leaf, known| match known.untold {
            // Rows of one that went meanwhile may have been read, or have changed, before it did: those stay.
            Some(Untold { change: Change::Gone, seen }) => read.contains_key(leaf) || seen > begin,
            _ => true,
        });
        for (leaf, came) in read {
            let placeholder =
                || KnownLeaf { name: format!("partition {leaf}"), came: came.clone(), file: None, untold: None };
            let known = self.leaves.entry(*leaf).or_insert_with(placeholder);
            // What was emptied after it was read has its rows at the targets.
            let is_over = match known.untold {
                Some(Untold { change: Change::Attached, .. }) => true,
                Some(Untold { change: Change::Emptied, seen }) => seen <= begin,
                Some(Untold { change: Change::Gone, .. }) | None => false,
            };
            if is_over && known.came == *came {
                known.untold = None;
            }
        }
    }

    /// `truncated`: where the whole table was truncated, as far as that explains this look.
    fn judge(&mut self, look: &Judged<'_>, truncated: &[Lsn]) {
        let untold = |change| Some(Untold { change, seen: look.end });
        // Behind a TRUNCATE of the whole table nothing is missing, and nothing too much.
        let is_over = |untold: &Untold| truncated.iter().any(|at| *at > untold.seen);
        let is_gone =
            |known: &KnownLeaf| known.untold.is_some_and(|untold| untold.change == Change::Gone && is_over(&untold));
        self.leaves.retain(|leaf, known| look.now.contains_key(leaf) || !is_gone(known));
        for (leaf, found) in look.now {
            let Some(before) = self.leaves.get_mut(leaf) else {
                let came_with_rows = match look.emptiness.get(leaf) {
                    _ if found.born => false,
                    Some(None) => continue,
                    Some(Some(empty)) => !empty,
                    None => true,
                };
                let change = came_with_rows.then_some(Change::Attached).and_then(untold);
                self.leaves.insert(*leaf, KnownLeaf { untold: change, ..found.into() });
                continue;
            };
            let is_moved = before.file.is_some_and(|file| file != found.file);
            let change = if before.came != found.came {
                untold(Change::Attached)
            } else if is_moved && found.uncounted && truncated.is_empty() {
                untold(Change::Emptied)
            } else {
                before.untold.filter(|known| !is_over(known))
            };
            *before = KnownLeaf { untold: change, ..found.into() };
        }
        for (_, known) in self.leaves.iter_mut().filter(|(leaf, _)| !look.now.contains_key(leaf)) {
            if known.untold.is_none_or(|untold| untold.change != Change::Gone) {
                known.untold = untold(Change::Gone);
            }
        }
        self.shrink(look.now);
    }

    fn shrink(&mut self, now: &BTreeMap<u32, Leaf>) {
        let mut left = MOST_GONE;
        if self.leaves.len() > MOST_LEAVES {
            self.leaves.retain(|leaf, _| {
                let stays = now.contains_key(leaf) || left > 0;
                left = left.saturating_sub(usize::from(!now.contains_key(leaf)));
                stays
            });
        }
    }
}

/// A look at a table's partitions.
pub(super) struct Judged<'a> {
    pub(super) now: &'a BTreeMap<u32, Leaf>,
    /// Whether strangers among them had no rows by then; `None` where that could not be told yet.
    pub(super) emptiness: &'a BTreeMap<u32, Option<bool>>,
    /// A TRUNCATE that commits from here on is not known to have been seen by an earlier look.
    pub(super) since: Lsn,
    /// The end of the log behind the look.
    pub(super) end: Lsn,
}

/// What a look gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// There is something to be recorded.
    pub(super) is_changed: bool,
    /// Partitions of whose rows no event tells.
    pub(super) untold: Changes,
    /// They are others than were told before.
    pub(super) is_news: bool,
}

/// A table's partitions as this process knows them.
#[derive(Debug)]
struct Table {
    known: KnownLeaves,
    /// What was told last.
    told: Changes,
    /// For what, and when, the table was to be read again last.
    asked: Option<(Changes, Instant)>,
}

impl Table {
    const fn new(known: KnownLeaves) -> Self {
        Self { known, told: Vec::new(), asked: None }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<BTreeMap<u32, Table>>);

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
            tables.insert(known.oid, Table { known: known.clone(), told, asked });
        }
    }

    /// Takes these partitions for known: a snapshot reads them, or nothing else is known.
    pub(super) fn begin_anew(&self, oid: u32, table: &TableName, now: &BTreeMap<u32, Leaf>) {
        self.lock().insert(oid, Table::new(KnownLeaves::new(oid, table, now)));
    }

    /// Whether something is known of a table.
    pub(super) fn knows(&self, oid: u32) -> bool {
        self.lock().contains_key(&oid)
    }

    /// Nothing more is known of a table; whether something was.
    pub(super) fn forget(&self, oid: u32) -> bool {
        self.lock().remove(&oid).is_some()
    }

    /// What is known of a table at present.
    pub(super) fn current(&self, oid: u32) -> Option<KnownLeaves> {
        self.lock().get(&oid).map(|table| table.known.clone())
    }

    /// The stream has come to a TRUNCATE of the table. Gives whether that is to be recorded before it is confirmed.
    pub(super) fn truncated(&self, oid: u32, commit: Lsn) -> bool {
        let mut tables = self.lock();
        let Some(Table { known, .. }) = tables.get_mut(&oid) else { return false };
        if commit <= known.truncated_before || known.truncated.contains(&commit) {
            return false;
        }
        // The first ones explain the look that is judged next, and the last one the look behind that.
        if known.truncated.len() >= MOST_TRUNCATED {
            known.truncated.pop();
        }
        known.truncated.push(commit);
        true
    }

    /// All rows of these leaves have been read since `begin`. Gives whether something is to be recorded.
    pub(super) fn read_again(&self, oid: u32, read: &BTreeMap<u32, String>, begin: Lsn) -> bool {
        let mut tables = self.lock();
        tables.get_mut(&oid).is_some_and(|table| {
            table.known.read(read, begin);
            table.asked = None;
            true
        })
    }

    /// The leaves of a look that are not known, and were not made as partitions.
    pub(super) fn strangers(&self, oid: u32, now: &BTreeMap<u32, Leaf>) -> Vec<u32> {
        let tables = self.lock();
        let Some(table) = tables.get(&oid) else { return Vec::new() };
        let is_strange = |(leaf, found): &(&u32, &Leaf)| !found.born && !table.known.leaves.contains_key(leaf);
        now.iter().filter(is_strange).map(|(leaf, _)| *leaf).collect()
    }

    /// Judges a look, or takes what it shows as known where that is wanted (`accept`).
    pub(super) fn judge(&self, (oid, name): (u32, &TableName), look: &Judged<'_>, accept: bool) -> Verdict {
        let mut tables = self.lock();
        let table = match tables.get_mut(&oid) {
            Some(table) if !accept => table,
            found => {
                let mut known = KnownLeaves::new(oid, name, look.now);
                known.truncated_before =
                    found.as_ref().map_or(Lsn::ZERO, |table| table.known.truncated_up_to(look.end));
                let is_news = found.is_none_or(|table| table.known != known);
                tables.insert(oid, Table::new(known));
                return Verdict { is_changed: is_news, ..Verdict::default() };
            }
        };
        let mut known = KnownLeaves { table: name.clone(), ..table.known.clone() };
        known.truncated_before = known.truncated_up_to(look.end);
        known.truncated.retain(|at| *at >= look.since);
        let truncated: Vec<Lsn> = known.truncated.iter().copied().filter(|at| *at <= look.end).collect();
        let is_moved = |(leaf, known): (&u32, &KnownLeaf)| {
            look.now.get(leaf).is_some_and(|found| known.file.is_some_and(|file| file != found.file))
        };
        if known.leaves.iter().any(is_moved) {
            known.truncated.retain(|at| *at > look.end);
        }
        known.judge(look, &truncated);
        let (is_changed, untold) = (known != table.known, known.untold());
        let is_news = untold != table.told;
        if untold.is_empty() {
            table.asked = None;
        }
        (table.known, table.told) = (known, untold.clone());
        Verdict { is_changed, untold, is_news }
    }

    /// What is known and was not told by events, by table.
    pub(super) fn untold(&self) -> BTreeMap<u32, Changes> {
        self.lock().iter().map(|(oid, table)| (*oid, table.known.untold())).collect()
    }

    /// Whether the table is to be read again for these by now.
    pub(super) fn must_ask(&self, oid: u32, untold: &Changes) -> bool {
        self.lock().get_mut(&oid).is_some_and(|table| {
            let is_due = |(asked, at): &(Changes, Instant)| asked != untold || at.elapsed() > PATIENCE;
            let is_due = table.asked.as_ref().is_none_or(is_due);
            if is_due {
                table.asked = Some((untold.clone(), Instant::now()));
            }
            is_due
        })
    }
}

/// Whether there are more partitions than can be recorded.
pub(super) fn are_too_many(now: &BTreeMap<u32, Leaf>) -> bool {
    now.len() > MOST_LEAVES
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

    fn leaf(came: &str, file: u32) -> Leaf {
        Leaf {
            name: TableName::new("public", format!("p{came}").replace(',', "_").as_str()),
            came: came.to_owned(),
            file,
            uncounted: false,
            born: false,
        }
    }

    fn read(leaves: &[(u32, &str)]) -> BTreeMap<u32, String> {
        leaves.iter().map(|(leaf, came)| (*leaf, (*came).to_owned())).collect()
    }

    struct World(Partitions, TableName);

    impl World {
        fn new() -> Self {
            let world = Self(Partitions::default(), TableName::new("public", "t"));
            assert_eq!(world.judge(&[(11, leaf(",1", 11)), (12, leaf(",2", 12))], &[], 1), []);
            world
        }

        fn look(&self, leaves: &[(u32, Leaf)], emptiness: &[(u32, Option<bool>)], end: u64, accept: bool) -> Verdict {
            let (now, emptiness) = (leaves.iter().cloned().collect(), emptiness.iter().copied().collect());
            let look = Judged { now: &now, emptiness: &emptiness, since: Lsn(0), end: Lsn(end) };
            self.0.judge((ROOT, &self.1), &look, accept)
        }

        fn judge(&self, leaves: &[(u32, Leaf)], emptiness: &[(u32, Option<bool>)], end: u64) -> Vec<Change> {
            self.look(leaves, emptiness, end, false).untold.into_iter().map(|(_, change)| change).collect()
        }
    }

    #[test]
    fn what_came_with_rows_went_or_was_emptied_is_told_until_it_is_read() {
        let (world, stays) = (World::new(), (11, leaf(",1", 11)));
        let born = (13, Leaf { born: true, ..leaf(",3", 13) });
        let emptied = (12, Leaf { uncounted: true, ..leaf(",2", 99) });
        assert_eq!(world.judge(&[stays.clone(), emptied, born.clone()], &[], 2), [Change::Emptied]);
        // It stays so, whoever counts its rows later.
        assert_eq!(world.judge(&[stays.clone(), (12, leaf(",2", 99)), born.clone()], &[], 3), [Change::Emptied]);
        let now = [stays.clone(), born.clone(), (14, leaf(",4", 14)), (15, leaf(",5", 15)), (16, leaf(",6", 16))];
        let emptiness = [(15, Some(true)), (16, None)];
        assert_eq!(world.judge(&now, &emptiness, 4), [Change::Gone, Change::Attached]);
        assert_eq!(world.judge(&now, &[(16, Some(false))], 5), [Change::Gone, Change::Attached, Change::Attached]);
        world.0.read_again(ROOT, &read(&[(11, ",1"), (13, ",3"), (14, ",4"), (15, ",5"), (16, ",6")]), Lsn(6));
        assert_eq!(world.judge(&now, &[], 7), []);
        // Away for a while; and an attached one that leaves again.
        let back = [(11, leaf(",7", 11)), now[1].clone(), now[3].clone(), now[4].clone()];
        assert_eq!(world.judge(&back, &[], 8), [Change::Gone, Change::Attached]);
        assert_eq!(world.judge(&back[1..], &[], 9), [Change::Gone, Change::Gone]);
        assert!(world.look(&back, &[], 10, true).untold.is_empty());
        assert_eq!(world.judge(&back, &[], 11), []);
    }

    #[test]
    fn what_changes_while_a_table_is_read_stays_told() {
        let (world, stays) = (World::new(), (11, leaf(",1", 11)));
        let emptied = (12, Leaf { uncounted: true, ..leaf(",2", 99) });
        assert_eq!(world.judge(&[stays.clone(), emptied.clone()], &[], 5), [Change::Emptied]);
        world.0.read_again(ROOT, &read(&[(11, ",1"), (12, ",2")]), Lsn(4));
        assert_eq!(world.judge(&[stays.clone(), emptied.clone()], &[], 6), [Change::Emptied]);
        // Once more.
        let emptied = (12, Leaf { uncounted: true, ..leaf(",2", 100) });
        assert_eq!(world.judge(&[stays.clone(), emptied.clone()], &[], 7), [Change::Emptied]);
        world.0.read_again(ROOT, &read(&[(11, ",1"), (12, ",2")]), Lsn(6));
        assert_eq!(world.judge(&[stays.clone(), emptied.clone()], &[], 7), [Change::Emptied]);
        world.0.read_again(ROOT, &read(&[(11, ",1"), (12, ",2")]), Lsn(7));
        assert_eq!(world.judge(&[stays.clone(), emptied], &[], 7), []);
        assert_eq!(world.judge(std::slice::from_ref(&stays), &[], 8), [Change::Gone]);
        // Its rows were read before it went, and so stay at the targets.
        world.0.read_again(ROOT, &read(&[(11, ",1"), (12, ",2")]), Lsn(7));
        assert_eq!(world.judge(std::slice::from_ref(&stays), &[], 9), [Change::Gone]);
        // Nor does one end it that began before: rows that the stream told of meanwhile stay.
        world.0.read_again(ROOT, &read(&[(11, ",1")]), Lsn(7));
        assert_eq!(world.judge(std::slice::from_ref(&stays), &[], 9), [Change::Gone]);
        // One that came and was read between two looks.
        world.0.read_again(ROOT, &read(&[(11, ",1"), (14, ",4")]), Lsn(9));
        assert_eq!(world.judge(&[stays, (14, Leaf { uncounted: true, ..leaf(",4", 14) })], &[], 10), []);
    }

    #[test]
    fn a_truncate_of_the_whole_table_and_a_rewrite_that_keeps_rows_change_files_alone() {
        let (world, stays) = (World::new(), (11, leaf(",1", 11)));
        assert_eq!(world.judge(&[stays, (12, leaf(",2", 77))], &[], 2), []);
        assert!(world.0.truncated(ROOT, Lsn(5)) && !world.0.truncated(ROOT, Lsn(5)));
        let known = world.0.current(ROOT).unwrap();
        // Also by another process.
        world.0.take_up([&known].into_iter());
        let all = [(11, Leaf { uncounted: true, ..leaf(",1", 91) }), (12, Leaf { uncounted: true, ..leaf(",2", 92) })];
        assert_eq!(world.judge(&all, &[], 6), []);
        // It has been seen.
        let again = [all[0].clone(), (12, Leaf { uncounted: true, ..leaf(",2", 93) })];
        assert_eq!(world.judge(&again, &[], 7), [Change::Emptied]);
        // It comes again, and is older.
        assert!(!world.0.truncated(ROOT, Lsn(5)));
        assert_eq!(world.judge(&again, &[], 8), [Change::Emptied]);
        // What is told is over behind another one, also of a partition that went.
        assert_eq!(world.judge(&again[1..], &[], 8), [Change::Gone, Change::Emptied]);
        assert!(world.0.truncated(ROOT, Lsn(9)));
        assert_eq!(world.judge(&[(12, Leaf { uncounted: true, ..leaf(",2", 94) })], &[], 9), []);
    }

    #[test]
    fn what_is_recorded_is_compared_with_and_news_are_told_once() {
        let world = World::new();
        let recorded = world.0.lock()[&ROOT].known.clone();
        let json = serde_json::to_vec(&recorded).unwrap();
        assert_eq!(serde_json::from_slice::<KnownLeaves>(&json).unwrap(), recorded);
        let now = [(11, leaf(",1", 11))];
        let verdict = world.look(&now, &[], 2, false);
        assert_eq!(
            (verdict.is_news, describe(&verdict.untold)),
            (true, "public.p_2 was detached or dropped".to_owned())
        );
        assert!(!world.look(&now, &[], 3, false).is_news);
        assert!(world.0.must_ask(ROOT, &verdict.untold) && !world.0.must_ask(ROOT, &verdict.untold));
    }

    #[test]
    fn what_went_does_not_grow_for_ever() {
        let world = World::new();
        let many = |from: u32| {
            (from..from + 2500).map(|n| (n, Leaf { born: true, ..leaf(&format!(",{n}"), n) })).collect::<Vec<_>>()
        };
        assert_eq!(world.judge(&many(1000), &[], 2).len(), 2);
        assert_eq!(world.judge(&many(5000), &[], 3).len(), MOST_GONE);
    }
}
