//! What the topics lack of tables by choice (`capture.on_bad_row`). It outlasts sessions and processes: a target differs until the
//! table has been read again.
//!
//! Of a row that was left out a later update may lack columns, and it finds nothing to change at the sinks. So events of such a table
//! say that a row may be missing, as they do while rows are still to come.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::state::BadRows;
use crate::{lsn::Position, pipeline::health::Health, schema::TableName};

/// How often it is told of a table.
const INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// Without one, an event costs no more than this.
    any: AtomicBool,
    tables: Mutex<BTreeMap<TableName, Known>>,
}

#[derive(Debug)]
struct Known {
    rows: BadRows,
    /// The count that is recorded.
    recorded: u64,
    /// When it was told.
    told: Option<Instant>,
}

impl Lacking {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TableName, Known>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with what is recorded of captured tables, and shows it. Nothing else is lacking: a table is recorded first.
    pub(super) fn take_up<'a>(&self, recorded: impl Iterator<Item = &'a BadRows>, health: &Health) {
        let mut tables = self.lock();
        let mut before = std::mem::take(&mut *tables);
        for table in before.keys() {
            health.forget_notes(&begin(table));
        }
        for rows in recorded {
            // What is known is as much, or more.
            let known = before.remove(&rows.table);
            let mut known = known.unwrap_or_else(|| Known { rows: rows.clone(), recorded: 0, told: None });
            known.recorded = rows.count;
            health.note(note(&known.rows));
            tables.insert(rows.table.clone(), known);
        }
        self.any.store(!tables.is_empty(), Ordering::Release);
    }

    /// A change is left out, unless that is known from its last delivery. Gives what its table lacks by now, and whether it is time to
    /// record and to tell that.
    pub(super) fn note(
        &self,
        table: &TableName,
        at: Position,
        reason: &str,
        health: &Health,
    ) -> Option<(BadRows, bool)> {
        let mut tables = self.lock();
        let known = tables.entry(table.clone()).or_insert_with(|| {
            let rows = BadRows { table: table.clone(), count: 0, last: Position::default(), reason: String::new() };
            Known { rows, recorded: 0, told: None }
        });
        self.any.store(true, Ordering::Release);
        // Rows of a snapshot have one position.
        if known.rows.count > 0 && at.ordinal > 0 && at <= known.rows.last {
            return None;
        }
        known.rows.count += 1;
        known.rows.last = at;
        reason.clone_into(&mut known.rows.reason);
        health.forget_notes(&begin(table));
        health.note(note(&known.rows));
        let is_due = known.told.is_none_or(|told| told.elapsed() >= INTERVAL);
        if is_due {
            known.told = Some(Instant::now());
            known.recorded = known.rows.count;
        }
        Some((known.rows.clone(), is_due))
    }

    /// What is not recorded yet, and is to be recorded with the next position.
    pub(super) fn unrecorded(&self) -> Vec<BadRows> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut tables = self.lock();
        let news = tables.values_mut().filter(|known| known.recorded != known.rows.count);
        news.map(|known| {
            known.recorded = known.rows.count;
            known.rows.clone()
        })
        .collect()
    }

    /// Whether rows of the table may be missing at the sinks.
    pub(super) fn lacks_rows(&self, table: &TableName) -> bool {
        self.any.load(Ordering::Acquire) && self.lock().contains_key(table)
    }

    /// Every row of the table was read at or behind this position; whether it lacked some that are there now.
    pub(super) fn read_again(&self, table: &TableName, since: Position, health: &Health) -> bool {
        let mut tables = self.lock();
        if tables.get(table).is_none_or(|known| known.rows.last >= since) {
            return false;
        }
        tables.remove(table);
        self.any.store(!tables.is_empty(), Ordering::Release);
        health.forget_notes(&begin(table));
        true
    }
}

/// How the note of a table begins.
fn begin(table: &TableName) -> String {
    format!("left out of {table}: ")
}

fn note(BadRows { table, count, last, reason }: &BadRows) -> String {
    let changes = if *count == 1 { "change" } else { "changes" };
    format!(
        "{}{count} {changes}, the last one at {last}: {reason}; `walrelay verify` shows the rows, and `walrelay resync {table}` brings them once they can be published",
        begin(table)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lsn::Lsn, pipeline::health::Half};

    const fn at(commit: u64, ordinal: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal }
    }

    #[test]
    fn a_change_counts_once_however_often_it_comes_and_a_row_of_a_snapshot_each_time() {
        let (lacking, health) = (Lacking::default(), Health::new(Half::Capture, Duration::from_secs(9)));
        let (t, u) = (TableName::new("public", "t"), TableName::new("public", "u"));
        let count = |table, at| lacking.note(table, at, "too large", &health).map(|(rows, due)| (rows.count, due));
        assert_eq!([count(&t, at(10, 0)), count(&t, at(10, 0))], [Some((1, true)), Some((2, false))]);
        assert_eq!([count(&t, at(20, 3)), count(&t, at(20, 3)), count(&t, at(15, 1))], [Some((3, false)), None, None]);
        assert_eq!(count(&u, at(15, 1)), Some((1, true)));
        assert!(lacking.lacks_rows(&t) && lacking.lacks_rows(&u));
        let unrecorded = || lacking.unrecorded().into_iter().map(|rows| rows.count).collect::<Vec<_>>();
        assert_eq!([unrecorded(), unrecorded()], [vec![3], vec![]]);
        let notes = health.snapshot().notes;
        assert!(
            notes.len() == 2
                && notes.iter().any(
                    |note| note.starts_with("left out of public.t: 3 changes, the last one at 0:0/14:3: too large")
                ),
            "{notes:?}"
        );
    }

    #[test]
    fn a_table_lacks_nothing_once_it_was_read_again_and_nothing_was_left_out_since() {
        let (lacking, health) = (Lacking::default(), Health::new(Half::Capture, Duration::from_secs(9)));
        let t = TableName::new("public", "t");
        let recorded = BadRows { table: t.clone(), count: 7, last: at(20, 3), reason: "too large".into() };
        lacking.take_up([&recorded].into_iter(), &health);
        assert!(lacking.lacks_rows(&t) && health.snapshot().notes.len() == 1);
        assert!(!lacking.read_again(&t, at(20, 3), &health));
        assert!(lacking.read_again(&t, at(20, 4), &health));
        assert!(!lacking.lacks_rows(&t) && health.snapshot().notes.is_empty());
        lacking.take_up([&recorded].into_iter(), &health);
        assert_eq!(lacking.note(&t, at(30, 1), "too large", &health).map(|(rows, _)| rows.count), Some(8));
        lacking.take_up(std::iter::empty(), &health);
        assert!(!lacking.lacks_rows(&t) && health.snapshot().notes.is_empty());
    }
}
