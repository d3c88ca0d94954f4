//! The resyncs of a session, as the stream and who reads beside it know them.
//!
//! The stream task begins and ends them and asks for each event; who reads takes the first one that goes on, and adds what is read. Both
//! change what is recorded, so a record is made of what is here when it is its turn
//! ([`PositionRecord::record_current`](super::position::PositionRecord::record_current)).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeBounds,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::{
    chunks::TableChunks,
    resync::{Came, CopyPoint, Member, Run, first_behind},
    state::Update,
};
use crate::{
    event::Resync,
    lsn::{Lsn, Position},
    schema::TableName,
    source::window::Leaves,
};

/// The resync of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Labelled {
    pub(super) resync: Resync,
    /// Rows of the table are still to come.
    pub(super) unread: bool,
}

/// What is known of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was followed, or refused, and what is known of that is forgotten.
    Settled,
    /// It has come before, and may be over.
    Again,
    /// It is not the first one of its transaction, by whose commit a resync is named.
    Second,
    New,
}

impl Labelled {
    fn of(run: &Run, member: &Member) -> Self {
        Self { resync: run.resync(), unread: run.owes(member) }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resyncs {
    /// Whether there is any: without one, an event costs no more than this.
    any: AtomicBool,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// In the order of their begins.
    runs: Vec<Run>,
    paused: bool,
    reads: Reads,
    /// Tables that are read at one point, or were to be: this session publishes nothing of them behind these positions, and the next one does.
    kept_back: BTreeMap<u32, Position>,
}

impl Inner {
    fn is_kept_back(&self, relation: u32, at: Position) -> bool {
        self.kept_back.get(&relation).is_some_and(|from| at > *from)
    }

    fn keep_back(&mut self, run: &Run) {
        let copying = run.tables.iter().filter(|member| run.goes_on() && member.copies && member.is_in());
        let unread = copying.filter(|member| member.copied.is_none());
        for member in unread {
            // Where it has been kept back for another one, the lower begin holds.
            self.kept_back.entry(member.oid).or_insert(run.begin);
        }
    }
}

/// What is read beside the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reads {
    #[default]
    Nothing,
    /// The rest of a snapshot.
    Snapshot,
    /// The resync with this begin.
    Resync(Position),
}

impl Resyncs {
    /// Those that are recorded.
    pub(super) fn new(runs: Vec<Run>) -> Self {
        let any = AtomicBool::new(!runs.is_empty());
        let mut inner = Inner::default();
        for run in &runs {
            inner.keep_back(run);
        }
        inner.runs = runs;
        Self { any, inner: Mutex::new(inner), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let changed = change(&mut inner);
        if !inner.runs.iter().any(Run::goes_on) {
            inner.paused = false;
        }
        self.any.store(!inner.runs.is_empty() || !inner.kept_back.is_empty(), Ordering::Relaxed);
        drop(inner);
        self.changed.notify_waiters();
        changed
    }

    // The stream's side.

    /// The resync that an event of a relation belongs to.
    pub(super) fn of(&self, relation: u32, at: Position) -> Option<Labelled> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let labelled =
            |run: &Run| run.covers(relation, at).map(|member| (!member.copies).then(|| Labelled::of(run, member)));
        self.lock().runs.iter().rev().find_map(labelled).flatten()
    }

    /// Whether a table is captured only from a later position on.
    pub(super) fn joins_behind(&self, relation: u32, at: Position) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let inner = self.lock();
        inner.is_kept_back(relation, at) || inner.runs.iter().any(|run| run.joins_behind(relation, at))
    }

    /// Whether nothing of a table is published here: its rows are read at one point, and the next session publishes what they do not show.
    pub(super) fn is_kept_back(&self, relation: u32, at: Position) -> bool {
        self.any.load(Ordering::Relaxed) && self.lock().is_kept_back(relation, at)
    }

    /// The same, or the rows that were read show what this transaction did.
    pub(super) fn keeps_back(&self, relation: u32, at: Position, xid: u32) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let inner = self.lock();
        inner.is_kept_back(relation, at) || inner.runs.iter().any(|run| run.shows(relation, at, xid))
    }

    /// Topics of tables that are kept back, and behind which position.
    pub(super) fn kept_back(&self) -> Vec<(String, Position)> {
        let inner = self.lock();
        let members = inner.runs.iter().flat_map(|run| &run.tables);
        members.filter_map(|member| Some((member.topic.clone(), *inner.kept_back.get(&member.oid)?))).collect()
    }

    /// Behind which position something of a table may have been kept back.
    pub(super) fn kept_back_from(&self, table: &TableName) -> Option<Position> {
        let inner = self.lock();
        let mut members = inner.runs.iter().flat_map(|run| &run.tables).filter(|member| member.name == *table);
        members.find_map(|member| inner.kept_back.get(&member.oid).copied())
    }

    /// Nothing of a table has been kept back, and nothing is.
    pub(super) fn let_go(&self, table: &TableName) {
        self.change(|inner| {
            let Inner { runs, kept_back, .. } = inner;
            let members = runs.iter().flat_map(|run| &run.tables).filter(|member| member.name == *table);
            for member in members {
                kept_back.remove(&member.oid);
            }
        });
    }

    /// Whether a table has joined under this name, and what commits here may be from before it had it: its rows are read behind that, and
    /// have what became of it.
    pub(super) fn is_before_name(&self, table: &TableName, at: Position) -> bool {
        self.any.load(Ordering::Relaxed) && self.lock().runs.iter().any(|run| run.is_before_name(table, at))
    }

    /// Whether a table has joined, and its rows are still read.
    pub(super) fn is_joining(&self, table: &TableName) -> bool {
        let inner = self.lock();
        let mut members = inner.runs.iter().filter(|run| run.goes_on()).flat_map(|run| &run.tables);
        members.any(|member| member.name == *table && member.lacks_rows_unless_whole() && member.is_in())
    }

    /// A resync has come to its end: what it has read as a whole is not cut any more. Gives the begins of those in which that was.
    pub(super) fn heal(&self, ended: &Run) -> Vec<Position> {
        let whole = ended.tables.iter().filter(|member| member.is_in() && member.conditions.is_empty());
        let whole: Vec<_> = whole.map(|member| member.oid).collect();
        self.change(|inner| {
            let mut healed = Vec::new();
            for run in inner.runs.iter_mut().filter(|run| run.begin != ended.begin) {
                let before = run.tables.len();
                run.tables.retain(|member| !(member.is_cut() && whole.contains(&member.oid)));
                healed.extend((run.tables.len() != before).then_some(run.begin));
            }
            healed
        })
    }

    /// Whether a table has joined, and rows of it will not be read any more.
    pub(super) fn is_cut(&self, table: &TableName) -> bool {
        let inner = self.lock();
        inner.runs.iter().flat_map(|run| &run.tables).any(|member| member.name == *table && member.is_cut())
    }

    /// The same of a change that the stream tells of, which is noted.
    pub(super) fn of_change(&self, relation: u32, at: Position) -> Option<Labelled> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut inner = self.lock();
        let run = inner.runs.iter_mut().rev().find(|run| run.covers(relation, at).is_some())?;
        let member = run.tables.iter_mut().find(|table| table.oid == relation).filter(|member| !member.copies)?;
        member.streamed = true;
        run.covers(relation, at).map(|member| Labelled::of(run, member))
    }

    /// What is known of a signal at this position, where nothing below `flushed` has to come again.
    pub(super) fn heard(&self, at: Position, flushed: Lsn) -> Heard {
        if at.commit < flushed {
            return Heard::Settled;
        }
        let inner = self.lock();
        let known = inner.runs.iter().find(|run| run.begin.commit == at.commit);
        known.map_or(Heard::New, |run| if run.begin == at { Heard::Again } else { Heard::Second })
    }

    /// Whether the table is in a resync that goes on here.
    pub(super) fn is_covered(&self, oid: u32, at: Position) -> bool {
        let is_in = |run: &Run| run.covers(oid, at).is_some_and(Member::is_in);
        self.lock().runs.iter().any(|run| run.goes_on() && is_in(run))
    }

    /// Begins one.
    pub(super) fn begin(&self, run: Run) {
        self.change(|inner| {
            inner.keep_back(&run);
            inner.runs.push(run);
        });
    }

    /// A table leaves the resync that it is in, if that has one of these begins: nothing of it will be swept. Gives its begin.
    pub(super) fn leave(
        &self,
        table: &TableName,
        begins: impl RangeBounds<Position>,
        at: Position,
        reason: &str,
    ) -> Option<Position> {
        self.change(|inner| {
            for run in inner.runs.iter_mut().filter(|run| run.goes_on() && begins.contains(&run.begin)) {
                let mut members = run.tables.iter_mut();
                if let Some(member) = members.find(|member| member.name == *table && member.is_in()) {
                    member.leave(at.max(run.begin), reason);
                    return Some(run.begin);
                }
            }
            None
        })
    }

    /// The tables of all resyncs that go on and have one of these begins, with their OIDs.
    pub(super) fn members(&self, begins: impl RangeBounds<Position>) -> Vec<(TableName, u32)> {
        let inner = self.lock();
        let runs = inner.runs.iter().filter(|run| run.goes_on() && begins.contains(&run.begin));
        let tables = runs.flat_map(|run| &run.tables);
        tables.filter(|table| table.is_in()).map(|table| (table.name.clone(), table.oid)).collect()
    }

    /// Reading pauses, or goes on, from here; `false` where no resync was going on.
    pub(super) fn pause(&self, paused: bool, at: Position) -> bool {
        self.change(|inner| {
            // A signal that comes again is of no resync that began behind it.
            let goes_on = inner.runs.iter().any(|run| run.goes_on() && run.begin < at);
            if goes_on {
                inner.paused = paused;
            }
            goes_on
        })
    }

    /// The stream is at the end of a resync: gives it, if that is so, or was so when this position came before.
    pub(super) fn end(&self, resync: Resync, at: Position) -> Option<Run> {
        self.change(|inner| {
            let run = inner.runs.iter_mut().find(|run| run.resync() == resync)?;
            if run.end.is_none() && run.is_whole() {
                run.end = Some(at);
            }
            (run.end == Some(at)).then(|| run.clone())
        })
    }

    // The side of who reads.

    /// Waits for a resync that goes on, and gives its begin: it is the one that is read.
    pub(super) async fn next(&self) -> Position {
        self.until(|inner| {
            let begin = inner.runs.iter().find(|run| run.goes_on())?.begin;
            inner.reads = Reads::Resync(begin);
            Some(begin)
        })
        .await
    }

    /// Something else is read, or nothing.
    pub(super) fn read(&self, reads: Reads) {
        self.lock().reads = reads;
    }

    /// What is read, and the begin of the resync that the table is in.
    pub(super) fn reads(&self, oid: u32) -> (Reads, Option<Position>) {
        let inner = self.lock();
        let mut runs = inner.runs.iter().filter(|run| run.goes_on());
        let run = runs.find(|run| run.tables.iter().any(|table| table.oid == oid && table.is_in()));
        (inner.reads, run.map(|run| run.begin))
    }

    /// Whether nothing is read beside the stream, nor waits to be.
    pub(super) fn reads_nothing(&self) -> bool {
        let inner = self.lock();
        inner.reads == Reads::Nothing && !inner.runs.iter().any(Run::goes_on)
    }

    /// The first resync that goes on, if there is one.
    pub(super) fn first(&self) -> Option<Position> {
        self.lock().runs.iter().find(|run| run.goes_on()).map(|run| run.begin)
    }

    /// Waits until a resync has come to its end, or is void.
    pub(super) async fn over(&self, begin: Position) {
        let goes_on = |inner: &Inner| inner.runs.iter().any(|run| run.begin == begin && run.goes_on());
        self.until(|inner| (!goes_on(inner)).then_some(())).await;
    }

    /// Whether a resync has come to no end, and is not void.
    pub(super) fn goes_on(&self, begin: Position) -> bool {
        self.lock().runs.iter().any(|run| run.begin == begin && run.goes_on())
    }

    /// Waits while reading pauses.
    pub(super) async fn unpaused(&self) {
        self.until(|inner| (!inner.paused).then_some(())).await;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// The tables that are in a resync that goes on.
    pub(super) fn members_of(&self, begin: Position) -> Vec<Member> {
        let inner = self.lock();
        let tables = inner.runs.iter().filter(|run| run.begin == begin && run.goes_on()).flat_map(|run| &run.tables);
        tables.filter(|table| table.is_in()).cloned().collect()
    }

    /// The leaves of tables of a resync, and how the publication has them, before it is looked where their rows lie. Of one that is read
    /// already those from before count. Gives the tables that leave here, since there is no room for their leaves, with the reasons.
    pub(super) fn note_leaves(
        &self,
        begin: Position,
        (mut leaves, mut memberships): (Leaves, BTreeMap<u32, String>),
        (copies, at): (bool, Position),
    ) -> Vec<(Member, String)> {
        self.change(|inner| {
            let Some(run) = inner.runs.iter_mut().find(|run| run.begin == begin && run.goes_on()) else {
                return Vec::new();
            };
            let begins = |member: &&mut Member| member.chunks.is_none() && member.copied.is_none() && member.is_in();
            for member in run.tables.iter_mut().filter(|member| member.copies == copies).filter(begins) {
                member.leaves = leaves.remove(&member.oid).unwrap_or_default();
                member.membership = memberships.remove(&member.oid).unwrap_or_default();
            }
            run.leave_crowded(at)
        })
    }

    /// The begin of a resync, if an end of it that comes now would be its end.
    pub(super) fn about_to_end(&self, resync: Resync) -> Option<Position> {
        let inner = self.lock();
        let mut runs = inner.runs.iter().filter(|run| run.goes_on() && run.is_whole());
        runs.find(|run| run.resync() == resync).map(|run| run.begin)
    }

    /// The tables of a resync that are not whole, but for those that are read at one point.
    pub(super) fn unread(&self, begin: Position) -> Vec<Member> {
        self.not_whole(begin, false)
    }

    /// The tables of a resync that are to be read at one point, each.
    pub(super) fn uncopied(&self, begin: Position) -> Vec<Member> {
        self.not_whole(begin, true)
    }

    fn not_whole(&self, begin: Position, copies: bool) -> Vec<Member> {
        let inner = self.lock();
        let tables = inner.runs.iter().filter(|run| run.begin == begin && run.goes_on()).flat_map(|run| &run.tables);
        let not_whole = |table: &&Member| table.copies == copies && table.is_in() && !table.is_whole();
        tables.filter(not_whole).cloned().collect()
    }

    /// A table is about to be emptied at the sinks, for the rows that are read at one point: where they do not come, it lacks them. `false` where it
    /// has left by now.
    pub(super) fn empties(&self, begin: Position, oid: u32) -> bool {
        self.change(|inner| {
            let mut members = inner.runs.iter_mut().filter(|run| run.begin == begin).flat_map(|run| &mut run.tables);
            let member = members.find(|member| member.oid == oid && member.is_in());
            member.map(|member| member.emptied = true).is_some()
        })
    }

    /// Kafka has all rows of a table that were read at this point.
    pub(super) fn copied(&self, begin: Position, oid: u32, point: &CopyPoint) {
        self.change(|inner| {
            let Some(run) = inner.runs.iter_mut().find(|run| run.begin == begin) else { return };
            for member in run.tables.iter_mut().filter(|member| member.oid == oid) {
                (member.copied, member.is_fresh) = (Some(point.clone()), true);
            }
        });
    }

    /// Kafka has these rows of tables of a resync.
    pub(super) fn advance(&self, begin: Position, tables: Vec<Came>) {
        self.change(|inner| {
            let Some(run) = inner.runs.iter_mut().find(|run| run.begin == begin) else { return };
            for Came { oid, chunks, rows } in tables {
                if let Some(member) = run.tables.iter_mut().find(|member| member.oid == oid) {
                    member.rows += rows;
                    // Of a whole one no more has to be known, and a record must not grow with the tables.
                    member.chunks = Some(if chunks.is_whole() { TableChunks::default() } else { chunks });
                }
            }
        });
    }

    /// Topics of which rows are still to be read, by a resync that goes on or by none, where a table that joined was cut.
    pub(super) fn unread_topics(&self) -> BTreeSet<String> {
        if !self.any.load(Ordering::Relaxed) {
            return BTreeSet::new();
        }
        let inner = self.lock();
        let members = inner.runs.iter().flat_map(|run| run.tables.iter().filter(|member| run.owes(member)));
        members.map(|member| member.topic.clone()).collect()
    }

    /// Whether rows of a table will be missing at the sinks behind the end of the resync that it joined in.
    pub(super) fn lacks_rows(&self, relation: u32, at: Position) -> bool {
        self.any.load(Ordering::Relaxed) && self.lock().runs.iter().any(|run| run.lacks_rows(relation, at))
    }

    /// How many resyncs go on.
    pub(super) fn count(&self) -> usize {
        self.lock().runs.iter().filter(|run| run.goes_on()).count()
    }

    // The records.

    /// A session begins at `from`; gives the begins of those that are read from the begin again.
    pub(super) fn begin_session(&self, from: Lsn) -> Vec<Position> {
        self.change(|inner| {
            let again = inner.runs.iter_mut().filter_map(|run| run.begin_session(from).then_some(run.begin));
            again.collect()
        })
    }

    /// What is to be recorded of these.
    pub(super) fn updates(&self, begins: &[Position]) -> Vec<Update> {
        let inner = self.lock();
        let runs = inner.runs.iter().filter(|run| begins.contains(&run.begin));
        runs.map(|run| Update::Resync(Box::new(run.clone()))).collect()
    }

    /// Where the flush LSN has to stay.
    pub(super) fn hold(&self, acknowledged: Lsn) -> Option<Lsn> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let inner = self.lock();
        let kept_back = inner.kept_back.values().map(|from| first_behind(*from));
        inner.runs.iter().filter_map(|run| run.hold(acknowledged)).chain(kept_back).min()
    }

    /// The begins of those of which nothing comes again from `flush` on.
    pub(super) fn past(&self, flush: Lsn) -> Vec<Position> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.lock().runs.iter().filter(|run| run.is_past(flush)).map(|run| run.begin).collect()
    }

    /// Forgets these.
    pub(super) fn forget(&self, begins: &[Position]) {
        if !begins.is_empty() {
            self.change(|inner| inner.runs.retain(|run| !begins.contains(&run.begin)));
        }
    }

    async fn until<T>(&self, mut ready: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.lock()) {
                return value;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::visible::Visible;

    const fn at(commit: u64, ordinal: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal }
    }

    fn name(oid: u32) -> TableName {
        TableName::new("public", format!("t{oid}"))
    }

    fn run(commit: u64, oids: &[u32]) -> Run {
        let member = |oid: &u32| Member::new(*oid, name(*oid), format!("p.public.t{oid}"), Vec::new());
        Run { begin: at(commit, 1), tables: oids.iter().map(member).collect(), end: None }
    }

    #[test]
    fn a_table_that_is_in_one_resync_after_another_has_the_name_of_the_later() {
        let resyncs = Resyncs::default();
        assert_eq!(resyncs.of(1, at(150, 1)), None);
        resyncs.begin(run(100, &[1]));
        assert!(resyncs.is_covered(1, at(110, 1)) && !resyncs.is_covered(1, at(100, 1)));
        assert!(!resyncs.is_covered(2, at(110, 1)) && resyncs.heard(at(100, 1), Lsn(100)) == Heard::Again);
        assert_eq!(resyncs.leave(&name(1), .., at(120, 1), "stopped"), Some(at(100, 1)));
        assert_eq!(resyncs.leave(&name(1), .., at(130, 1), "again"), None);
        resyncs.begin(run(140, &[1, 2]));
        let of = |position| resyncs.of(1, position).map(|labelled| labelled.resync.commit.0);
        assert_eq!((of(at(110, 1)), of(at(130, 1)), of(at(150, 1))), (Some(100), Some(100), Some(140)));
        assert_eq!(resyncs.first(), Some(at(140, 1)));
    }

    #[test]
    fn a_table_that_is_copied_is_kept_back_for_the_whole_session_and_holds_the_flush_lsn() {
        let copying = |commit| {
            let mut run = run(commit, &[1, 2]);
            run.tables[0].copies = true;
            run
        };
        let resyncs = Resyncs::new(vec![copying(104)]);
        let is_kept_back = |oid, position| resyncs.is_kept_back(oid, position);
        assert!(is_kept_back(1, at(104, 2)) && !is_kept_back(1, at(104, 1)) && !is_kept_back(2, at(200, 1)));
        assert!(resyncs.joins_behind(1, at(200, 1)) && resyncs.of(1, at(200, 1)).is_none());
        assert_eq!(resyncs.kept_back(), [("p.public.t1".to_owned(), at(104, 1))]);
        let oids = |members: Vec<Member>| members.iter().map(|member| member.oid).collect::<Vec<_>>();
        assert_eq!((oids(resyncs.uncopied(at(104, 1))), oids(resyncs.unread(at(104, 1)))), (vec![1], vec![2]));
        let point = CopyPoint { at: Lsn(120), until: Lsn(120), visible: Visible::default() };
        resyncs.copied(at(104, 1), 1, &point);
        // What was not published meanwhile the next session publishes.
        assert!(is_kept_back(1, at(200, 1)) && resyncs.end(run(104, &[]).resync(), at(200, 1)).is_none());
        resyncs.leave(&name(2), .., at(150, 1), "dropped");
        resyncs.leave(&name(1), .., at(150, 1), "dropped");
        assert!(is_kept_back(1, at(200, 1)) && resyncs.hold(Lsn(900)) == Some(Lsn(104)));
        let mut copied = copying(104);
        copied.tables[0].copied = Some(point);
        let next = Resyncs::new(vec![copied]);
        assert!(next.joins_behind(1, at(120, 1)) && !next.joins_behind(1, at(121, 1)));
        assert!(!next.keeps_back(1, at(128, 1), 7) && next.kept_back().is_empty());
        let given_up = Resyncs::new(vec![copying(104)]);
        given_up.let_go(&name(1));
        assert!(!given_up.is_kept_back(1, at(200, 1)));
    }

    #[test]
    fn an_end_counts_when_all_is_read_and_again_at_its_own_place_alone() {
        let resyncs = Resyncs::new(vec![run(104, &[1])]);
        let resync = run(104, &[]).resync();
        assert_eq!(resyncs.end(resync, at(200, 1)), None);
        assert!(resyncs.of(1, at(150, 1)).unwrap().unread);
        resyncs.advance(at(104, 1), vec![Came { oid: 1, chunks: TableChunks::default(), rows: 2 }]);
        assert!(!resyncs.of(1, at(151, 1)).unwrap().unread);
        let ended = resyncs.end(resync, at(210, 1)).unwrap();
        assert_eq!((ended.end, ended.tables[0].rows), (Some(at(210, 1)), 2));
        assert!(resyncs.of(1, at(209, 1)).is_some() && resyncs.of(1, at(211, 1)).is_none());
        assert_eq!(resyncs.end(resync, at(220, 1)), None);
        assert_eq!(resyncs.end(resync, at(210, 1)), Some(ended));
        assert_eq!((resyncs.hold(Lsn(210)), resyncs.hold(Lsn(211))), (Some(Lsn(104)), None));
        let past = resyncs.past(Lsn(211));
        resyncs.forget(&past);
        assert!(past == [at(104, 1)] && resyncs.heard(at(104, 1), Lsn(104)) == Heard::New);
    }

    #[test]
    fn a_table_is_refused_while_it_is_in_a_resync_and_not_once_it_has_left_or_that_is_over() {
        let resyncs = Resyncs::new(vec![run(100, &[1, 2])]);
        assert!(resyncs.is_covered(1, at(150, 1)) && resyncs.is_covered(2, at(150, 1)));
        resyncs.leave(&name(1), .., at(150, 1), "stopped");
        assert!(!resyncs.is_covered(1, at(150, 2)) && resyncs.is_covered(2, at(150, 2)));
        resyncs.advance(at(100, 1), vec![Came { oid: 2, chunks: TableChunks::default(), rows: 2 }]);
        assert!(resyncs.end(run(100, &[]).resync(), at(200, 1)).is_some());
        assert!(!resyncs.is_covered(2, at(201, 1)));
    }

    #[test]
    fn what_one_resync_says_of_a_table_that_has_left_it_does_not_touch_the_next() {
        let resyncs = Resyncs::new(vec![run(100, &[1, 2]), run(140, &[1])]);
        let leave = |begin| resyncs.leave(&name(1), at(begin, 1)..=at(begin, 1), at(150, 1), "it cannot be read");
        assert_eq!([leave(100), leave(100), leave(140)], [Some(at(100, 1)), None, Some(at(140, 1))]);
    }

    #[test]
    fn a_signal_that_comes_again_is_of_no_resync_behind_it() {
        let resyncs = Resyncs::new(vec![run(140, &[1])]);
        assert!(!resyncs.pause(true, at(130, 1)) && !resyncs.is_paused());
        assert!(resyncs.members(..at(130, 1)).is_empty());
        assert_eq!(resyncs.leave(&name(1), ..at(130, 1), at(130, 1), "stopped"), None);
        assert!(resyncs.pause(true, at(150, 1)) && resyncs.is_paused());
        assert!(!resyncs.pause(false, at(130, 1)) && resyncs.is_paused());
        assert_eq!(resyncs.members(..at(150, 1)), [(name(1), 1)]);
        assert_eq!(resyncs.leave(&name(1), ..at(150, 1), at(150, 1), "stopped"), Some(at(140, 1)));
    }

    #[test]
    fn a_change_of_the_stream_is_noted_and_a_row_that_is_read_is_not() {
        let resyncs = Resyncs::new(vec![run(100, &[1])]);
        assert!(resyncs.of_change(1, at(100, 1)).is_none() && resyncs.of(1, at(150, 1)).is_some());
        assert!(!resyncs.members_of(at(100, 1))[0].streamed);
        assert_eq!(resyncs.of_change(1, at(150, 2)), resyncs.of(1, at(150, 2)));
        assert!(resyncs.members_of(at(100, 1))[0].streamed);
    }

    #[test]
    fn a_signal_below_the_flush_lsn_is_settled() {
        let resyncs = Resyncs::default();
        let heard = |flushed| resyncs.heard(at(100, 1), Lsn(flushed));
        assert_eq!([heard(99), heard(100), heard(101)], [Heard::New, Heard::New, Heard::Settled]);
    }

    #[test]
    fn a_second_signal_of_one_transaction_is_told_from_the_first_that_comes_again() {
        let resyncs = Resyncs::new(vec![run(100, &[1])]);
        let heard = |ordinal| resyncs.heard(at(100, ordinal), Lsn(100));
        assert_eq!([heard(1), heard(2)], [Heard::Again, Heard::Second]);
    }

    #[test]
    fn leaves_count_from_when_reading_begins() {
        let resyncs = Resyncs::new(vec![run(100, &[1])]);
        let note = |came: &str| {
            let leaves = Leaves::from([(1, BTreeMap::from([(11, came.to_owned())]))]);
            let memberships = BTreeMap::from([(1, format!("9 {came}"))]);
            assert!(resyncs.note_leaves(at(100, 1), (leaves, memberships), (false, at(120, 1))).is_empty());
        };
        note(",740");
        note(",741");
        resyncs.advance(at(100, 1), vec![Came { oid: 1, chunks: TableChunks::default(), rows: 0 }]);
        note(",742");
        let member = resyncs.members_of(at(100, 1)).remove(0);
        assert_eq!(member.leaves, BTreeMap::from([(11, ",741".to_owned())]));
        assert_eq!(member.membership, "9 ,741");
        assert_eq!(resyncs.about_to_end(run(100, &[]).resync()), Some(at(100, 1)));
        resyncs.leave(&name(1), .., at(150, 1), "another leaf");
        assert_eq!(resyncs.about_to_end(run(100, &[]).resync()), None);
    }

    #[tokio::test]
    async fn who_reads_waits_for_what_goes_on() {
        let resyncs = std::sync::Arc::new(Resyncs::default());
        let waiting = tokio::spawn({
            let resyncs = std::sync::Arc::clone(&resyncs);
            async move {
                let begin = resyncs.next().await;
                resyncs.unpaused().await;
                resyncs.over(begin).await;
                begin
            }
        });
        assert!(!resyncs.pause(true, at(90, 1)));
        assert!(!resyncs.is_paused(), "nothing is read that could pause");
        resyncs.begin(run(100, &[1]));
        tokio::task::yield_now().await;
        assert_eq!(resyncs.reads(1), (Reads::Resync(at(100, 1)), Some(at(100, 1))));
        resyncs.leave(&name(1), .., at(120, 1), "stopped");
        assert_eq!(resyncs.reads(1).1, None);
        assert_eq!(waiting.await.unwrap(), at(100, 1));
    }
}
