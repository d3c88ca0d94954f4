//! A resync: tables that are read again while the stream goes on. What is recorded of one, and what it says of an event.
//!
//! It begins with a signal in the stream and ends with a marker there, so which events lie in between their positions tell, also when they
//! come again. It is recorded before anything behind its signal is published, and forgotten once neither its signal nor its end comes
//! again. A table may leave it before its end: nothing of that table is swept then. One that all tables have left is void.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chunks::TableChunks;
use crate::{
    event::{Condition, Resync},
    lsn::{Lsn, Position},
    schema::TableName,
    source::visible::Visible,
};

/// Partitions of a table, and of all tables of a resync: they are recorded together, and the state topic takes about 1 MB.
pub(super) const MOST_LEAVES: usize = 4_000;
const MOST_LEAVES_OF_ALL: usize = 12_000;

/// What is recorded of a resync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The position of its signal.
    pub(super) begin: Position,
    /// Its tables, in the order in which they are read.
    pub(super) tables: Vec<Member>,
    /// The position of its end, where the sweep stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<Position>,
}

/// A table of a resync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// `pg_class.oid`.
    pub(super) oid: u32,
    pub(super) name: TableName,
    pub(super) topic: String,
    /// Which of its rows are read; without any condition, all.
    #[serde(rename = "where", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<Condition>,
    /// What Kafka has of its rows; `None` before the first one is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chunks: Option<TableChunks>,
    /// Rows that were read and that Kafka has, no more than there are: sinks compare with it what has come to them. Those that no record
    /// tells of when capture is cut are read again.
    #[serde(default)]
    pub(super) rows: u64,
    /// The stream has told of a row of it under the resync's name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) streamed: bool,
    /// Its leaves before it was looked where its rows lie, and how each had come to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) leaves: BTreeMap<u32, String>,
    /// How the publication had it before it was looked where its rows lie.
    #[serde(rename = "published", default, skip_serializing_if = "String::is_empty")]
    pub(super) membership: String,
    /// Its changes are published from the begin on: it was not captured before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) joins: bool,
    /// Where the WAL ended when it had its name, before its rows are read: what commits below under another name, or as another table, is
    /// from before.
    #[serde(default)]
    pub(super) seen: Lsn,
    /// Its rows cannot be told from each other: all of them are read at one point, and its changes are published from there on alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) copies: bool,
    /// That point, once Kafka has all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copied: Option<CopyPoint>,
    /// They came in this session, which does not publish what is behind the point: the next one does.
    #[serde(skip)]
    pub(super) is_fresh: bool,
    /// For that the sinks have been told to empty it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) emptied: bool,
    /// It is in the resync no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left: Option<Left>,
}

/// What a copy of a table shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyPoint {
    /// The commit whose position its rows have. They show what commits up to here.
    pub(super) at: Lsn,
    /// They show nothing that commits from here on.
    pub(super) until: Lsn,
    /// Which transactions in between they show.
    pub(super) visible: Visible,
}

impl CopyPoint {
    /// Whether the rows show what a transaction did that commits here.
    pub(super) fn shows(&self, commit: Lsn, xid: u32) -> bool {
        commit <= self.at || commit < self.until && self.visible.sees(xid)
    }
}

/// What Kafka has by now of a table that is read.
pub(super) struct Came {
    /// `pg_class.oid`.
    pub(super) oid: u32,
    /// All that it has.
    pub(super) chunks: TableChunks,
    /// Rows that are new.
    pub(super) rows: u64,
}

/// Where a table left its resync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    /// Where the stream was: until nothing up to there comes again, it is known that the table has left.
    pub(super) at: Position,
    /// Why.
    pub(super) reason: String,
}

impl Member {
    /// A table of which nothing is read.
    pub(super) const fn new(oid: u32, name: TableName, topic: String, conditions: Vec<Condition>) -> Self {
        Self {
            oid,
            name,
            topic,
            conditions,
            chunks: None,
            rows: 0,
            streamed: false,
            leaves: BTreeMap::new(),
            membership: String::new(),
            joins: false,
            seen: Lsn::ZERO,
            copies: false,
            copied: None,
            is_fresh: false,
            emptied: false,
            left: None,
        }
    }

    /// It joins what is captured, as it was when the WAL ended here.
    pub(super) fn joining(self, seen: Lsn) -> Self {
        Self { joins: true, seen, ..self }
    }

    /// It is read at one point, or not.
    pub(super) fn copied_if(self, copies: bool) -> Self {
        Self { copies, ..self }
    }

    /// It has joined, or was emptied, and not all of its rows are read, nor will be.
    pub(super) const fn is_cut(&self) -> bool {
        self.lacks_rows_unless_whole() && self.left.is_some()
    }

    /// Whether sinks lack rows of it where not all of them come.
    pub(super) const fn lacks_rows_unless_whole(&self) -> bool {
        self.joins || self.emptied
    }

    /// Whether Kafka has all rows that the resync has to read.
    pub(super) fn is_whole(&self) -> bool {
        if self.copies {
            return self.copied.is_some() && !self.is_fresh;
        }
        self.chunks.as_ref().is_some_and(TableChunks::is_whole)
    }

    /// Whether some of the leaves that it has `now` are none of those that were read, or were away meanwhile.
    pub(super) fn has_other_leaves(&self, now: Option<&BTreeMap<u32, String>>) -> bool {
        now.into_iter().flatten().any(|(leaf, came)| self.leaves.get(leaf) != Some(came))
    }

    /// Whether the publication has it `now` as when its rows began to be read: in between every change was told.
    pub(super) fn is_published_as(&self, now: Option<&String>) -> bool {
        !self.membership.is_empty() && now == Some(&self.membership)
    }

    /// It leaves. What its record has of its partitions nobody needs any more.
    pub(super) fn leave(&mut self, at: Position, reason: &str) {
        self.leaves.clear();
        self.left = Some(Left { at, reason: reason.to_owned() });
    }

    /// How many rows sinks must have come by; `None` where the count tells them nothing: no row was read, and others may not have come to
    /// them.
    pub(super) const fn published(&self) -> Option<u64> {
        if self.rows == 0 && self.streamed { None } else { Some(self.rows) }
    }

    pub(super) const fn is_in(&self) -> bool {
        self.left.is_none()
    }
}

impl Run {
    /// What is recorded of a signal that is refused as a whole, so that it is not followed when it comes again.
    pub(super) const fn refused(begin: Position) -> Self {
        Self { begin, tables: Vec::new(), end: None }
    }

    /// What its record takes, in bytes; it becomes more while it is read.
    pub(super) fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }

    /// Tables whose partitions there is no room for leave, so that it can be recorded. Gives them with the reasons.
    pub(super) fn leave_crowded(&mut self, at: Position) -> Vec<(Member, String)> {
        let (begin, mut left) = (self.begin, Vec::new());
        loop {
            let all: usize = self.tables.iter().filter(|table| table.is_in()).map(|table| table.leaves.len()).sum();
            let members = self.tables.iter_mut().filter(|table| table.is_in());
            let Some(most) = members.max_by_key(|table| table.leaves.len()) else { return left };
            let reason = if most.leaves.len() > MOST_LEAVES {
                format!("it has more than {MOST_LEAVES} partitions")
            } else if all > MOST_LEAVES_OF_ALL {
                format!("the tables of its resync have more than {MOST_LEAVES_OF_ALL} partitions")
            } else {
                return left;
            };
            most.leave(at.max(begin), &reason);
            left.push((most.clone(), reason));
        }
    }

    /// Its name in records.
    pub(super) const fn resync(&self) -> Resync {
        Resync { epoch: self.begin.epoch, commit: self.begin.commit }
    }

    /// Its name in the state.
    pub(super) fn name(&self) -> String {
        Self::name_of(self.begin)
    }

    /// The name in the state of the one whose signal is here.
    pub(super) fn name_of(begin: Position) -> String {
        Resync { epoch: begin.epoch, commit: begin.commit }.to_string()
    }

    /// All tables have left.
    pub(super) fn is_void(&self) -> bool {
        self.end.is_none() && !self.tables.iter().any(Member::is_in)
    }

    /// It has come to no end yet.
    pub(super) fn goes_on(&self) -> bool {
        self.end.is_none() && !self.is_void()
    }

    /// Kafka has all rows of all tables that are in it.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_void() && self.tables.iter().filter(|table| table.is_in()).all(Member::is_whole)
    }

    /// The table, if its event at this position is the resync's. One that has left counts too: it leaves beside the stream, before that is
    /// recorded, and an event must be the same when it comes again. Nothing of it is swept, so it does not matter what its rows are called.
    pub(super) fn covers(&self, oid: u32, at: Position) -> Option<&Member> {
        if at <= self.begin || self.end.is_some_and(|end| at >= end) {
            return None;
        }
        self.tables.iter().find(|table| table.oid == oid)
    }

    /// Whether rows of a table of it are not in Kafka. Of one that joins and is cut, they stay missing at the sinks.
    pub(super) fn owes(&self, member: &Member) -> bool {
        if member.is_in() { self.end.is_none() && !member.is_whole() } else { member.lacks_rows_unless_whole() }
    }

    /// Whether the table has joined in it and is cut, so that sinks lack rows of it whatever came since.
    pub(super) fn lacks_rows(&self, oid: u32, at: Position) -> bool {
        at > self.begin && self.tables.iter().any(|table| table.oid == oid && table.is_cut())
    }

    /// Whether the table is captured only from a later position on.
    pub(super) fn joins_behind(&self, oid: u32, at: Position) -> bool {
        let mut tables = self.tables.iter().filter(|table| table.oid == oid);
        if at <= self.begin {
            return tables.any(|table| table.joins);
        }
        tables.filter_map(|table| table.copied.as_ref()).any(|point| at.commit <= point.at)
    }

    /// Whether rows of the table that were read at one point show what a transaction did here.
    pub(super) fn shows(&self, oid: u32, at: Position, xid: u32) -> bool {
        let mut points = self.tables.iter().filter(|table| table.oid == oid).filter_map(|table| table.copied.as_ref());
        at > self.begin && points.any(|point| point.shows(at.commit, xid))
    }

    /// Whether a table has joined under this name, and what commits here may be from before it had it.
    pub(super) fn is_before_name(&self, name: &TableName, at: Position) -> bool {
        let had_none = |table: &Member| table.joins && table.name == *name && at.commit < table.seen;
        self.tables.iter().any(had_none)
    }

    /// The first commit that an event of it can have; the begin of tables that join is that of none, and lies right below one.
    const fn first(&self) -> Lsn {
        first_behind(self.begin)
    }

    /// Where the flush LSN has to stay, when everything below `acknowledged` is in Kafka: rows that are owed are told again by the stream
    /// alone, and so is an end whose copies may be missing.
    pub(super) fn hold(&self, acknowledged: Lsn) -> Option<Lsn> {
        let is_over = self.end.map_or(self.is_void(), |end| end.commit < acknowledged);
        (!is_over).then(|| self.first())
    }

    /// Whether nothing of it comes again from a stream that begins at `flush`.
    pub(super) fn is_past(&self, flush: Lsn) -> bool {
        let left = self.tables.iter().filter_map(|table| Some(table.left.as_ref()?.at.commit));
        let last = left.chain(self.end.map(|end| end.commit)).fold(self.begin.commit, Lsn::max);
        // It is the one record that rows of a table that is cut are missing.
        !self.goes_on() && last < flush && !self.tables.iter().any(Member::is_cut)
    }

    /// A session begins at `from`: where that is behind the begin, it is not told which rows are owed, and reads all of them again.
    pub(super) fn begin_session(&mut self, from: Lsn) -> bool {
        if !self.goes_on() || from <= self.first() {
            return false;
        }
        let mut begun = false;
        for table in &mut self.tables {
            begun |= table.chunks.take().is_some();
        }
        begun
    }
}

/// The first commit that an event behind this position can have.
pub(super) const fn first_behind(begin: Position) -> Lsn {
    Lsn(begin.commit.0.saturating_add(1) & !7)
}

/// The content of the message at which a resync of the capture with this slot ends. Captures of one database see each other's messages, and
/// one signal may begin resyncs of one name in several.
pub(super) fn end_marker(slot: &str, begin: Position) -> String {
    format!("resync:{slot}:{}:end", Run::name_of(begin))
}

/// The resync of the capture with this slot that ends at a message of this content.
pub(super) fn ended_by(slot: &str, content: &[u8]) -> Option<Resync> {
    let text = std::str::from_utf8(content).ok()?.strip_prefix("resync:")?.strip_prefix(slot)?;
    text.strip_prefix(':')?.strip_suffix(":end")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_joins_is_captured_from_the_begin_on_and_its_lack_is_not_forgotten() {
        let mut run = run();
        run.tables[1] = member(2).joining(Lsn(150));
        let before = [(1, at(103, 1)), (2, at(104, 3)), (2, at(104, 4))].map(|(oid, at)| run.joins_behind(oid, at));
        assert_eq!(before, [false, true, false]);
        let is_before = |name: u32, at| run.is_before_name(&TableName::new("public", format!("t{name}")), at);
        assert_eq!([is_before(2, at(104, 3)), is_before(2, at(149, 9)), is_before(2, at(150, 1))], [true, true, false]);
        assert!(!is_before(1, at(149, 9)));
        run.end = Some(at(200, 1));
        assert!(run.is_past(Lsn(201)));
        run.tables[1].leave(at(150, 2), "dropped");
        assert!(!run.is_past(Lsn(900)));
    }

    fn point() -> CopyPoint {
        CopyPoint { at: Lsn(120), until: Lsn(140), visible: Visible::parse("10:20:12").unwrap() }
    }

    // trap T78
    #[test]
    fn a_copy_shows_what_is_below_its_point_and_behind_it_what_its_snapshot_sees() {
        let shown = [(119, 30), (120, 30), (128, 11), (128, 12), (139, 19), (139, 20), (140, 11)];
        let shown = shown.map(|(commit, xid)| point().shows(Lsn(commit), xid));
        assert_eq!(shown, [true, true, true, false, true, false, false]);
        let json = serde_json::to_string(&point()).unwrap();
        assert_eq!(serde_json::from_str::<CopyPoint>(&json).unwrap(), point());
    }

    #[test]
    fn of_a_copied_table_what_lies_below_the_point_is_not_published_and_what_the_copy_shows_is_not() {
        let mut run = run();
        run.tables[1] = Member { copied: Some(point()), ..member(2).copied_if(true) };
        let early = [at(104, 2), at(112, 1), at(120, 9), at(128, 1)].map(|position| run.joins_behind(2, position));
        assert_eq!(early, [false, true, true, false]);
        assert!(run.shows(2, at(128, 1), 11) && !run.shows(2, at(128, 1), 12) && !run.shows(1, at(128, 1), 11));
        assert!(!run.shows(2, at(96, 1), 11));
        assert!(run.tables[1].is_whole());
        run.tables[1].is_fresh = true;
        assert!(!run.tables[1].is_whole());
    }

    const fn at(commit: u64, ordinal: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal }
    }

    fn member(oid: u32) -> Member {
        Member::new(oid, TableName::new("public", format!("t{oid}")), format!("p.public.t{oid}"), Vec::new())
    }

    fn run() -> Run {
        Run { begin: at(104, 3), tables: vec![member(1), member(2)], end: None }
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a member has")]
    fn left(at: Position) -> Option<Left> {
        Some(Left { at, reason: "dropped".to_owned() })
    }

    #[test]
    fn an_event_belongs_to_a_resync_by_its_position_alone() {
        let mut run = run();
        run.tables[1].left = left(at(150, 2));
        run.end = Some(at(200, 1));
        let covers = |oid, position| run.covers(oid, position).is_some();
        assert!(!covers(1, at(104, 3)) && covers(1, at(104, 4)) && !covers(1, at(103, 9)));
        assert!(covers(1, at(199, 9)) && !covers(1, at(200, 1)) && !covers(1, at(200, 2)));
        assert!(covers(2, at(150, 1)) && covers(2, at(199, 9)) && !covers(2, at(200, 1)) && !covers(3, at(150, 1)));
    }

    #[test]
    fn a_table_that_leaves_changes_no_event_before_that_is_recorded() {
        let mut run = run();
        let before = run.covers(2, at(160, 1)).is_some();
        run.tables[1].left = left(at(150, 2));
        assert_eq!(run.covers(2, at(160, 1)).is_some(), before);
    }

    #[test]
    fn the_flush_lsn_waits_for_the_end_and_not_for_what_is_void() {
        let mut run = run();
        assert_eq!((run.hold(Lsn(900)), run.is_past(Lsn(900))), (Some(Lsn(104)), false));
        run.end = Some(at(200, 1));
        assert_eq!((run.hold(Lsn(200)), run.hold(Lsn(201))), (Some(Lsn(104)), None));
        assert!(!run.is_past(Lsn(200)) && run.is_past(Lsn(201)));
        run.end = None;
        run.tables.iter_mut().for_each(|table| table.left = left(at(150, 2)));
        assert!(run.is_void() && run.hold(Lsn(120)).is_none());
        assert!(!run.is_past(Lsn(150)) && run.is_past(Lsn(151)));
    }

    #[test]
    fn a_refused_signal_holds_nothing_and_is_known_until_it_is_past() {
        let refused = Run::refused(at(104, 3));
        assert!(refused.is_void() && !refused.goes_on() && refused.hold(Lsn(900)).is_none());
        assert!(!refused.is_past(Lsn(104)) && refused.is_past(Lsn(105)));
    }

    #[test]
    fn a_count_of_no_rows_says_nothing_where_the_stream_has_told_of_some() {
        let member = |rows, streamed| Member { rows, streamed, ..member(1) };
        let published = [(0, false), (0, true), (5, true)].map(|(rows, streamed)| member(rows, streamed).published());
        assert_eq!(published, [Some(0), None, Some(5)]);
    }

    #[test]
    fn it_is_whole_when_every_table_is_that_has_not_left() {
        let mut run = run();
        assert!(!run.is_whole());
        run.tables[0].chunks = Some(TableChunks { windows: true, ..TableChunks::default() });
        run.tables[1].left = left(at(150, 2));
        assert!(!run.is_whole());
        run.tables[0].chunks = Some(TableChunks::default());
        assert!(run.is_whole());
        run.tables[0].left = left(at(150, 2));
        assert!(run.is_void() && !run.is_whole());
    }

    #[test]
    fn a_leaf_that_came_or_came_back_is_told_and_one_that_went_is_none() {
        let leaves = |leaves: &[(u32, &str)]| leaves.iter().map(|(oid, came)| (*oid, (*came).to_owned())).collect();
        let known = Member { leaves: leaves(&[(11, ",740"), (12, ",741")]), ..member(1) };
        for (now, others) in [
            (leaves(&[(11, ",740"), (12, ",741")]), false),
            (leaves(&[(11, ",740")]), false),
            (leaves(&[(11, ",740"), (12, ",741"), (13, ",900")]), true),
            (leaves(&[(11, ",740"), (12, ",900")]), true),
        ] {
            assert_eq!(known.has_other_leaves(Some(&now)), others, "{now:?}");
        }
        assert!(!known.has_other_leaves(None));
    }

    #[test]
    fn what_is_published_otherwise_is_told_and_what_was_never_noted_too() {
        let member = |membership: &str| Member { membership: membership.to_owned(), ..member(1) };
        let now = "9 740 12,741".to_owned();
        assert!(member("9 740 12,741").is_published_as(Some(&now)));
        assert!(!member("9 740 11,739").is_published_as(Some(&now)));
        assert!(!member("9 740 12,741").is_published_as(None));
        assert!(!member("").is_published_as(Some(&String::new())));
    }

    #[test]
    fn tables_with_too_many_partitions_leave_the_largest_first() {
        let crowded = |counts: &[u32]| {
            let with = |(index, count): (usize, &u32)| {
                let leaves = (0..*count).map(|leaf| (leaf, String::new())).collect();
                Member { leaves, ..member(u32::try_from(index).unwrap()) }
            };
            let mut run = Run { tables: counts.iter().enumerate().map(with).collect(), ..run() };
            let left: Vec<_> = run.leave_crowded(at(90, 1)).into_iter().map(|(member, _)| member.oid).collect();
            assert!(run.tables.iter().all(|table| table.is_in() || table.leaves.is_empty()));
            assert!(run.tables.iter().filter_map(|table| table.left.as_ref()).all(|left| left.at == run.begin));
            left
        };
        assert_eq!(crowded(&[4000, 4000, 4000]), [0; 0]);
        assert_eq!(crowded(&[4001, 1, 9000]), [2, 0]);
        assert_eq!(crowded(&[3990, 4000, 3980, 70]), [1]);
    }

    #[test]
    fn what_is_read_counts_where_the_stream_tells_again_what_is_owed() {
        let mut run = run();
        run.tables[0].chunks = Some(TableChunks::default());
        assert!(!run.begin_session(Lsn(104)) && run.tables[0].is_whole());
        assert!(run.begin_session(Lsn(105)) && run.tables[0].chunks.is_none());
        run.tables[0].chunks = Some(TableChunks::default());
        run.end = Some(at(200, 1));
        assert!(!run.begin_session(Lsn(105)) && run.tables[0].is_whole());
    }

    #[test]
    fn its_end_is_told_from_markers_of_windows() {
        let marker = end_marker("own", at(104, 3));
        assert_eq!(ended_by("own", marker.as_bytes()), Some(run().resync()));
        assert_eq!(ended_by("other", marker.as_bytes()), None);
        assert_eq!(ended_by("ow", marker.as_bytes()), None);
        for content in ["0123456789abcdef:7:low", "resync:own:0:end", "resync:own:0:100", "resync::end", ""] {
            assert_eq!(ended_by("own", content.as_bytes()), None, "{content}");
        }
    }

    #[test]
    fn a_record_of_the_least_is_read() {
        let json = r#"{"begin":{"epoch":0,"commit":104,"ordinal":3},"tables":[{"oid":1,"name":{"schema":"public","table":"t1"},"topic":"p.public.t1"}]}"#;
        let read: Run = serde_json::from_str(json).unwrap();
        assert_eq!(read, Run { tables: vec![member(1)], ..run() });
    }
}
