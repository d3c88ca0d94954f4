//! Random changes, windows and snapshots: a sink that applies what is published has the source's rows in the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::schema::{Lineage, Relation, ReplicaIdentity, TableName};

const TABLE: u32 = 7;

/// A row at the source: what every update sends, what only some do, and the block where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    small: u8,
    large: u8,
    block: u8,
}

type Source = BTreeMap<u8, Stored>;
type Sink = BTreeMap<u8, (u8, u8)>;

#[derive(Clone, Copy, Debug)]
enum Wish {
    Insert(u8, Stored),
    /// Without `large`, it stays as it is and is not sent.
    Set(u8, Stored, bool),
    Delete(u8),
    Move(u8, u8, Stored, bool),
}

fn wish() -> impl Strategy<Value = Wish> {
    let key = 0..6_u8;
    let stored = (0..50_u8, 0..50_u8, 0..8_u8).prop_map(|(small, large, block)| Stored { small, large, block });
    prop_oneof![
        2 => (key.clone(), stored.clone()).prop_map(|(key, stored)| Wish::Insert(key, stored)),
        4 => (key.clone(), stored.clone(), any::<bool>()).prop_map(|(key, stored, all)| Wish::Set(key, stored, all)),
        1 => key.clone().prop_map(Wish::Delete),
        3 => (key.clone(), key, stored, any::<bool>()).prop_map(|(from, to, stored, all)| Wish::Move(from, to, stored, all)),
    ]
}

/// Windows of the table, when so much is visible.
fn open(visible: &Visible) -> Windows {
    let windows = Windows::new("run".to_owned());
    windows.open(std::iter::once(TABLE));
    windows.sees_all(visible);
    windows
}

fn text(value: u8) -> Datum {
    Datum::Text(Bytes::from(value.to_string()))
}

fn tuple(key: u8, stored: Stored) -> Tuple {
    vec![text(key), text(stored.small), text(stored.large)]
}

fn changed(gone: Option<u8>, key: Option<u8>, partial: Option<Stored>) -> ChangedRow {
    let partial = partial.zip(key).map(|(stored, key)| PartialRow {
        row: vec![text(key), text(stored.small), Datum::Unchanged],
        key: vec![key.to_string()],
    });
    ChangedRow { gone: gone.map(|key| vec![key]), key: key.map(|key| vec![key]), partial }
}

/// Carries a wish out at the source; gives what the stream tells of it, or nothing if it is not possible.
fn carry_out(source: &mut Source, wish: Wish) -> Option<(ChangedRow, Stored)> {
    match wish {
        Wish::Insert(key, stored) if !source.contains_key(&key) => {
            source.insert(key, stored);
            Some((changed(None, Some(key), None), stored))
        }
        Wish::Set(key, stored, all) => {
            let row = source.get_mut(&key)?;
            *row = Stored { large: if all { stored.large } else { row.large }, ..stored };
            Some((changed(None, Some(key), (!all).then_some(*row)), *row))
        }
        Wish::Delete(key) => source.remove(&key).map(|row| (changed(Some(key), None, None), row)),
        Wish::Move(from, to, stored, all) if !source.contains_key(&to) => {
            let row = source.remove(&from)?;
            let row = Stored { large: if all { stored.large } else { row.large }, ..stored };
            source.insert(to, row);
            Some((changed(Some(from), Some(to), (!all).then_some(row)), row))
        }
        Wish::Insert(..) | Wish::Move(..) => None,
    }
}

/// What the sink does: a row that it does not have cannot be changed.
fn apply(sink: &mut Sink, (change, row): &(ChangedRow, Stored)) {
    let from = change.gone.as_ref().and_then(|gone| sink.remove(&gone[0]));
    let Some(key) = change.key.as_ref().map(|key| key[0]) else { return };
    let large = match &change.partial {
        None => Some(row.large),
        Some(_) => from.or_else(|| sink.get(&key).copied()).map(|(_, large)| large),
    };
    if let Some(large) = large {
        sink.insert(key, (row.small, large));
    }
}

fn number(datum: &Datum) -> u8 {
    let Datum::Text(text) = datum else { panic!("{datum:?} is published") };
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

fn table() -> Arc<PublishedTable> {
    let relation = Relation {
        oid: TABLE,
        name: TableName::new("public", "t"),
        identity: ReplicaIdentity::Default,
        columns: Vec::new(),
        key: vec![0],
        lineage: Lineage::default(),
    };
    Arc::new(PublishedTable {
        relation,
        partitioned: false,
        row_filter: None,
        estimated_rows: None,
        problems: Vec::new(),
    })
}

/// The stream, and who reads beside it, at one place of the log.
struct World {
    windows: Windows,
    sources: Vec<Source>,
    events: Vec<Option<(ChangedRow, Stored)>>,
    sink: Sink,
    at: usize,
    number: u64,
}

impl World {
    fn new(start: &Source, wishes: &[Wish], done: u8) -> Self {
        let (mut sources, mut events) = (vec![start.clone()], Vec::new());
        for wish in wishes {
            let mut source = sources.last().unwrap().clone();
            events.push(carry_out(&mut source, *wish));
            sources.push(source);
        }
        let there = start.iter().filter(|(_, row)| row.block < done);
        let sink = there.map(|(key, row)| (*key, (row.small, row.large))).collect();
        let windows = open(&Visible::parse("1:1:").unwrap());
        Self { windows, sources, events, sink, at: 0, number: 0 }
    }

    /// The stream goes on by so many transactions; the ids of these are their places, from 1.
    fn stream(&mut self, count: u8) {
        for _ in 0..count {
            let Some(event) = self.events.get(self.at) else { return };
            self.at += 1;
            let xid = u32::try_from(self.at).unwrap();
            if let Some(event) = event {
                if self.windows.is_open(TABLE) {
                    self.windows.change(TABLE, xid, event.0.clone());
                }
                apply(&mut self.sink, event);
            }
            self.windows.committed(xid);
        }
    }

    /// A window of what `wanted` holds for; the snapshot and the high marker come so many transactions behind.
    fn window(&mut self, (behind, high): (u8, u8), asked: Vec<Vec<u8>>, wanted: impl Fn(u8, &Stored) -> bool) {
        self.number = self.windows.want(TABLE);
        assert!(self.windows.marker(self.windows.low_marker(self.number).as_bytes()).is_none());
        let seen = (self.at + usize::from(behind)).min(self.events.len());
        let visible = Visible::parse(&format!("{0}:{0}:", seen + 1)).unwrap();
        assert!(self.windows.sees_all(&visible));
        let rows = self.sources[seen].iter().filter(|(key, row)| wanted(**key, row));
        let rows: Vec<Tuple> = rows.map(|(key, row)| tuple(*key, *row)).collect();
        // The rows may come before or behind changes that the stream delivers.
        self.stream(behind / 2);
        self.windows.read_rows(Rows { table: table(), rows, visible, asked, resync: false });
        let left = seen - self.at.min(seen);
        self.stream(u8::try_from(left).unwrap());
        self.stream(high);
        let closed = self.windows.marker(self.windows.high_marker(self.number).as_bytes()).unwrap();
        let keys = closed.rows.rows.iter().map(|row| vec![number(&row[0])]).collect();
        let BroughtUp { rows, gone } = closed.bring_up(keys).unwrap();
        for (key, row) in &rows {
            assert_eq!(key[0], number(&row[0]));
            self.sink.insert(number(&row[0]), (number(&row[1]), number(&row[2])));
            self.windows.paid(TABLE, std::iter::once(&**key));
        }
        self.windows.paid(TABLE, gone.iter().map(|key| &**key));
        self.windows.end(self.number, Outcome::Published(Lsn(1), 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Traps T27, T28.
    #[test]
    fn a_sink_has_the_source_s_rows_once_the_table_is_whole(
        start in proptest::collection::btree_map(
            0..6_u8,
            (0..50_u8, 0..50_u8, 0..8_u8).prop_map(|(small, large, block)| Stored { small, large, block }),
            0..6,
        ),
        wishes in proptest::collection::vec(wish(), 0..60),
        done in 0..8_u8,
        paces in proptest::collection::vec((0..6_u8, 0..6_u8, 0..6_u8), 8),
        again in proptest::option::of(0..8_u8),
    ) {
        let mut world = World::new(&start, &wishes, done);
        let mut left: Vec<u8> = (done..8).rev().collect();
        let mut paces = paces.into_iter().cycle();
        while world.windows.is_open(TABLE) {
            let (before, behind, high) = paces.next().unwrap();
            world.stream(before);
            if again == Some(u8::try_from(world.number).unwrap()) {
                world.windows.lock().read_again();
                world.windows.take_again(TABLE);
                left = (0..8).rev().collect();
            }
            if let Some(block) = left.pop() {
                world.window((behind, high), Vec::new(), |_, row| row.block == block);
                continue;
            }
            world.windows.all_read(TABLE);
            let owed = world.windows.owed(TABLE, 2);
            if owed.is_empty() {
                prop_assert!(world.windows.close(TABLE).is_some());
                continue;
            }
            let asked: Vec<_> = owed.into_iter().map(|(key, _)| key).collect();
            let keys = asked.clone();
            world.window((behind, high), asked, |key, _| keys.contains(&vec![key]));
        }
        prop_assert_eq!(world.windows.owed_bytes(), 0);
        let present = &world.sources[world.at];
        prop_assert_eq!(&world.sink, &present.iter().map(|(key, row)| (*key, (row.small, row.large))).collect());
        world.stream(u8::MAX);
        let last = world.sources.last().unwrap();
        prop_assert_eq!(&world.sink, &last.iter().map(|(key, row)| (*key, (row.small, row.large))).collect());
    }
}

/// Trap T78: a transaction that the stream has delivered may not be visible yet.
#[test]
fn a_snapshot_that_lacks_what_was_delivered_before_its_marker_is_not_taken() {
    let visible = |text| Visible::parse(text).unwrap();
    let windows = open(&visible("5:5:"));
    windows.committed(4);
    windows.committed(5);
    assert_eq!(windows.want(TABLE), 1);
    assert!(windows.marker(b"run:1:low").is_none());
    windows.committed(6);
    assert!(!windows.sees_all(&visible("5:6:5")));
    assert!(windows.sees_all(&visible("6:8:6")), "what came behind the marker is between the markers");
    assert_eq!(windows.lock().delivered.clone(), [6]);
}

/// What was given up is read again only where it is opened anew.
#[test]
fn a_table_that_was_given_up_is_read_again_once_it_was_shut() {
    let windows = open(&Visible::default());
    windows.stop(TABLE, "told to");
    windows.open(std::iter::once(TABLE));
    assert!(!windows.is_open(TABLE));
    windows.shut(std::iter::once(TABLE));
    windows.open(std::iter::once(TABLE));
    assert!(windows.is_open(TABLE) && windows.stopped().is_empty());
}

/// A dead run's markers come again with the changes around them.
#[test]
fn the_markers_of_another_run_mean_nothing() {
    let windows = open(&Visible::default());
    for content in ["other:1:low", "run:x:low", "run:1:", "run1:1:low", "", "run:1:high"] {
        assert!(windows.marker(content.as_bytes()).is_none(), "{content}");
    }
    assert_eq!(windows.lock().low, 0);
    assert!(windows.marker(b"run:1:low").is_none());
    assert_eq!(windows.lock().low, 1);
}

/// What others see late must be known when reading begins, and what is delivered meanwhile must take no room.
#[test]
fn what_is_delivered_is_remembered_before_anything_is_read() {
    let windows = Windows::new("run".to_owned());
    assert!(!windows.is_open(TABLE) && !windows.committed(4));
    windows.open(std::iter::once(TABLE));
    windows.want(TABLE);
    assert!(windows.marker(b"run:1:low").is_none());
    assert!(!windows.sees_all(&Visible::parse("4:6:4").unwrap()));
    assert!(windows.sees_all(&Visible::parse("5:6:").unwrap()));
    windows.shut(std::iter::once(TABLE));
    assert!(!windows.is_open(TABLE));
    let full = (10..).take(MOST_DELIVERED + 1).filter(|xid| windows.committed(*xid)).count();
    assert_eq!(full, 1);
    windows.sees_all(&Visible::parse("200000:200000:").unwrap());
    assert!(windows.lock().delivered.is_empty());
}
