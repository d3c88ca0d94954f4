//! Rows as a table's events leave them: what an event says of a row before it must be so, and in the end all rows are
//! the source's.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    comings::PART,
    findings::{Findings, difference},
    history::{At, Columns, Event, Op, Row, row_of_json},
    order::is_of_exported_snapshot,
};

/// What stands for a text that was not sent.
const PLACEHOLDER: &str = "__debezium_unavailable_value";

/// What is known of a row.
#[derive(Clone, Debug)]
enum Known {
    Deleted,
    /// Columns that the events so far did not tell are missing.
    There(Row),
}

/// A table.
struct Fold<'a> {
    table: &'a str,
    findings: &'a mut Findings,
    rows: BTreeMap<Row, Known>,
    columns: Rc<Columns>,
    /// Behind it a row that no event told of is none.
    whole_from: Option<At>,
    /// What was a moved row before, by the position of its delete.
    moved: BTreeMap<At, Option<Row>>,
    /// The keys of rows in each resync's events, and how many rows it read.
    resyncs: BTreeMap<String, (BTreeSet<Row>, u64)>,
}

/// What a table's events are held against.
pub struct Expected<'a> {
    /// The table's topic.
    pub topic: String,
    /// A position behind which no row of the initial snapshot comes.
    pub snapshot_end: u64,
    /// The source's rows by key.
    pub rows: &'a BTreeMap<Row, Row>,
}

/// Folds a table's events, in order and each once, and compares what is left with the source's rows.
pub fn check(table: &str, events: &[Rc<Event>], expected: &Expected<'_>, findings: &mut Findings) {
    let mut fold = Fold {
        table,
        findings,
        rows: BTreeMap::new(),
        columns: Rc::default(),
        whole_from: whole_from(events, expected.snapshot_end),
        moved: BTreeMap::new(),
        resyncs: BTreeMap::new(),
    };
    for event in events {
        fold.take(event, &expected.topic);
    }
    fold.compare(expected.rows);
}

/// Where the last row was read before the snapshot's end, or a truncate left none to be read: rows may have been unread until then.
fn whole_from(events: &[Rc<Event>], snapshot_end: u64) -> Option<At> {
    let at = |op| events.iter().filter(move |event| event.op == op).filter_map(|event| event.at);
    let exported = events.iter().filter_map(|event| event.at).filter(|at| is_of_exported_snapshot(*at)).max();
    let reads = at(Op::Read).filter(|at| at.commit < snapshot_end).max();
    at(Op::Truncate).find(|at| Some(*at) > exported && at.commit < snapshot_end).or(reads)
}

impl Fold<'_> {
    fn wrong(&mut self, event: &Event, what: &str) {
        let at = event.at.map_or_else(String::new, |at| at.to_string());
        self.findings.add(format!("{}, {:?} of {:?} at {at}: {what}", self.table, event.op, event.key));
    }

    fn take(&mut self, event: &Event, topic: &str) {
        let at = event.at.expect("events of tables have positions");
        if !event.columns.missing.is_empty() {
            self.evolve(&event.columns);
        }
        match event.op {
            Op::Insert => self.insert(event, at),
            Op::Update => self.update(event, at),
            Op::Delete => self.delete(event, at),
            Op::Read => self.read(event, at),
            // At the point of a snapshot it begins a new one, whose rows are still to come.
            Op::Truncate => {
                self.rows.clear();
                self.resyncs.values_mut().for_each(|(keys, _)| keys.clear());
            }
            Op::Sweep => self.sweep(event, topic),
            Op::Tombstone | Op::Message => {}
        }
        self.note_resync(event);
    }

    /// Rows that are older than a column have its missing value; a dropped column is nobody's.
    fn evolve(&mut self, columns: &Rc<Columns>) {
        if Rc::ptr_eq(columns, &self.columns) || *columns == self.columns {
            return;
        }
        let former = std::mem::replace(&mut self.columns, Rc::clone(columns));
        let added = columns.missing.iter().filter(|(name, _)| !former.missing.contains_key(*name));
        let added: Row = added.map(|(name, missing)| (name.clone(), missing.clone())).collect();
        for known in self.rows.values_mut() {
            if let Known::There(row) = known {
                row.retain(|name, _| columns.missing.contains_key(name));
                row.extend(added.clone());
            }
        }
    }

    fn key(&mut self, event: &Event) -> Row {
        event.key.clone().unwrap_or_else(|| {
            self.wrong(event, "no key");
            Row::new()
        })
    }

    /// Whether rows of this key come and go without an event: no event needs to agree with the one before, and only in the end all do.
    fn is_loose(&self, key: &Row) -> bool {
        self.table == "parted" && key["part"].as_deref() == Some(PART)
    }

    fn is_whole(&self, at: At) -> bool {
        self.whole_from.is_none_or(|from| at > from)
    }

    fn insert(&mut self, event: &Event, at: At) {
        let key = self.key(event);
        if let Some(Known::There(row)) = self.rows.get(&key).filter(|_| !self.is_loose(&key)) {
            let row = format!("the row is there: {row:?}");
            self.wrong(event, &row);
        }
        let moved = (event.moved[1].is_some()).then(|| {
            let from = At { ordinal: at.ordinal - 1, ..at };
            self.moved.remove(&from).unwrap_or_else(|| {
                self.wrong(event, "a moved row that was not deleted just before");
                None
            })
        });
        self.put(event, at, key, moved.flatten());
    }

    fn update(&mut self, event: &Event, at: At) {
        let key = self.key(event);
        let former = self.former(event, at, &key);
        self.put(event, at, key, former);
    }

    /// The row that an event changes or deletes, compared with what the event says that it was.
    fn former(&mut self, event: &Event, at: At, key: &Row) -> Option<Row> {
        let known = match self.rows.get(key).cloned() {
            _ if self.is_loose(key) => None,
            Some(Known::There(row)) => Some(row),
            Some(Known::Deleted) => {
                self.wrong(event, "the row was deleted");
                None
            }
            None if self.is_whole(at) => {
                self.wrong(event, "there is no such row");
                None
            }
            None => None,
        };
        // The column of the writing transaction is never null, so an image without it has the key alone.
        let Some(before) = event.before.as_ref().filter(|before| before["tx"].is_some()) else { return known };
        if let Some(known) = &known {
            self.must_agree(event, known, before);
        }
        Some(before.clone())
    }

    fn must_agree(&mut self, event: &Event, known: &Row, told: &Row) {
        let told: Row = told.clone().into_iter().filter(|(name, _)| known.contains_key(name)).collect();
        let differs = difference(&told, known);
        if !differs.is_empty() {
            self.wrong(event, &format!("by what came before {differs}"));
        }
    }

    /// The row of the event, whose columns that were not sent are those of the former one.
    fn put(&mut self, event: &Event, at: At, key: Row, former: Option<Row>) {
        let Some(mut row) = event.after.clone() else { return self.wrong(event, "no row") };
        if former.is_none() && !event.unchanged.is_empty() && !event.is_backfilling && !self.is_whole(at) {
            self.wrong(event, "the row is still to come, and no header says so");
        }
        for name in &event.unchanged {
            if row.remove(name).flatten().as_deref() != Some(PLACEHOLDER) {
                self.wrong(event, &format!("{name} was not sent, and has another value than the placeholder"));
            }
            if let Some(value) = former.as_ref().and_then(|former| former.get(name)) {
                row.insert(name.clone(), value.clone());
            }
        }
        if row.values().flatten().any(|text| text == PLACEHOLDER) {
            self.wrong(event, "a placeholder that no header tells of");
        }
        self.must_have_key(event, &key, &row);
        self.rows.insert(key, Known::There(row));
    }

    fn must_have_key(&mut self, event: &Event, key: &Row, row: &Row) {
        if key.iter().any(|(name, value)| row.get(name) != Some(value)) {
            self.wrong(event, &format!("the row has another key: {row:?}"));
        }
    }

    fn delete(&mut self, event: &Event, at: At) {
        let key = self.key(event);
        let former = self.former(event, at, &key);
        if event.moved[0].is_some() {
            self.moved.insert(at, former);
        }
        self.rows.insert(key, Known::Deleted);
    }

    /// A row that was read is what the stream has made of it by then.
    fn read(&mut self, event: &Event, at: At) {
        let key = self.key(event);
        let Some(row) = event.after.clone() else { return self.wrong(event, "no row") };
        match self.rows.get(&key).cloned() {
            _ if self.is_loose(&key) => {}
            Some(Known::There(known)) => self.must_agree(event, &known, &row),
            Some(Known::Deleted) => self.wrong(event, "the row was deleted"),
            None if self.is_whole(at) => self.wrong(event, "no event told of this row"),
            None => {}
        }
        self.must_have_key(event, &key, &row);
        self.rows.insert(key, Known::There(row));
    }

    fn note_resync(&mut self, event: &Event) {
        let (Some(name), Some(key)) = (&event.resync, &event.key) else { return };
        let (keys, rows) = self.resyncs.entry(name.clone()).or_default();
        *rows += u64::from(event.op == Op::Read);
        match event.op {
            Op::Delete => drop(keys.remove(key)),
            _ => drop(keys.insert(key.clone())),
        }
    }

    /// Nothing was done to the target behind capture's back, so a resync must not find a row to be deleted, but of a partition that went.
    fn sweep(&mut self, event: &Event, topic: &str) {
        let sweep: serde_json::Value = serde_json::from_str(event.sweep.as_deref().unwrap_or("null")).expect("JSON");
        let (keys, rows) = self.resyncs.remove(sweep["resync"].as_str().expect("a name")).unwrap_or_default();
        let told = sweep["rows"][topic].as_u64();
        if told.is_some_and(|told| told > rows) {
            self.wrong(event, &format!("{rows} rows of the resync came of {told:?}"));
        }
        if sweep["where"].get(topic).is_some() {
            return;
        }
        let swept: Vec<Row> =
            self.rows.keys().filter(|key| self.is_loose(key) && !keys.contains(*key)).cloned().collect();
        for key in swept {
            self.rows.insert(key, Known::Deleted);
        }
        let there = self.rows.iter().filter(|(_, known)| matches!(known, Known::There(_)));
        let lost: Vec<Row> = there.map(|(key, _)| key).filter(|key| !keys.contains(*key)).take(3).cloned().collect();
        if !lost.is_empty() {
            self.wrong(event, &format!("the sweep deletes rows: {lost:?}"));
        }
    }

    fn compare(&mut self, expected: &BTreeMap<Row, Row>) {
        for (key, row) in expected {
            let differs = match self.rows.get(key) {
                Some(Known::There(known)) => difference(known, row),
                Some(Known::Deleted) => "it was deleted".to_owned(),
                None => "no event tells of it".to_owned(),
            };
            if !differs.is_empty() {
                self.findings.add(format!("{}, in the end the source has {key:?}: {differs}", self.table));
            }
        }
        let there = self.rows.iter().filter(|(_, known)| matches!(known, Known::There(_)));
        for (key, _) in there.filter(|(key, _)| !expected.contains_key(*key)) {
            self.findings.add(format!("{}, in the end the source has no {key:?}", self.table));
        }
        for at in self.moved.keys() {
            self.findings.add(format!("{}: the row that was moved at {at} came nowhere", self.table));
        }
    }
}

/// A table's rows by key, from a list in JSON.
pub fn rows_of_json(lines: &[String], key: &[&str]) -> BTreeMap<Row, Row> {
    let row = |line: &String| {
        let row = row_of_json(line);
        (key.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect(), row)
    };
    lines.iter().map(row).collect()
}
