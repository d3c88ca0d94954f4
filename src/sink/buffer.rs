//! Folding a batch: per key only the outcome of its events remains (trap T62).
//!
//! | before | event | after |
//! |---|---|---|
//! | nothing | insert, whole update | whole row |
//! | nothing | partial update | partial row: the target has the rest |
//! | nothing | delete | delete |
//! | whole or partial row | partial update | merged, as whole as it was |
//! | any row | whole update | whole row |
//! | any row | delete | delete |
//! | delete | insert, whole update | whole row |
//! | delete | partial update | refused: there is no row to change (trap T27) |
//!
//! While the source's snapshot of a table goes on, an event that lacks columns and finds no row is nothing: the row comes whole later.
//!
//! Every row in `r`, `c` and whole `u` events is written as an upsert: a row filter at the source turns updates into
//! inserts and deletes (trap T34), and a redelivered row changes nothing.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use crate::{
    event::{Cell, ChangeEvent, Op, TableShape},
    lsn::Position,
};

/// The text of a key, its columns delimited.
pub type KeyText = Vec<u8>;

/// What remains of a key's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The row is gone.
    Delete(Cow<'a, [Cell]>),
    /// The row has these cells; `Unchanged` ones are the target's.
    Row(Cow<'a, [Cell]>),
    /// The same of a row that the target may not have yet: then it is nothing.
    Perhaps(Cow<'a, [Cell]>),
}

/// Unchanged columns of a moved row: column index and value; `None`: there was no row.
pub type MovedCells = Option<Vec<(usize, Cell)>>;

/// An event that does not fit what is known of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The event.
    pub position: Position,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// What folding an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It is in the buffer.
    Taken,
    /// It is the create half of a key move whose other half has not been applied yet.
    Waits,
}

/// The events of one table version, folded per key.
#[derive(Debug, Default)]
pub struct Fold<'a> {
    slots: HashMap<KeyText, usize>,
    outcomes: Vec<Outcome<'a>>,
    /// Keys that the server calls equal, by their text; empty when text decides.
    classes: HashMap<KeyText, u64>,
    /// Rows of the target before this batch, by the position of the delete half that moves them away.
    targets: HashMap<Position, Vec<Cell>>,
    /// Moved columns by the position of the create half.
    moved: BTreeMap<Position, MovedCells>,
    taken: Vec<Position>,
    left: BTreeMap<Position, MovedCells>,
}

impl<'a> Fold<'a> {
    /// Starts a fold; `classes` numbers keys that may be equal under different texts, `targets` are the target's rows that
    /// delete halves of key moves will need, `moved` what earlier delete halves left for create halves.
    #[must_use]
    pub fn new(
        classes: HashMap<KeyText, u64>,
        targets: HashMap<Position, Vec<Cell>>,
        moved: BTreeMap<Position, MovedCells>,
    ) -> Self {
        Self { classes, targets, moved, ..Self::default() }
    }

    /// Folds one event in.
    pub fn push(&mut self, event: &'a ChangeEvent) -> Result<Folded, Misfit> {
        let misfit = |problem| Misfit { position: event.position, problem };
        match event.op {
            Op::Delete => {
                let before = event.before.as_deref().ok_or_else(|| misfit("a delete without the old key"))?;
                let slot = self.slot(&event.shape, before, None).map_err(misfit)?;
                if event.key_move && !event.moved_columns.is_empty() {
                    self.leave(event, slot.1);
                }
                self.put(slot, Outcome::Delete(Cow::Borrowed(before)));
            }
            Op::Create | Op::Read | Op::Update => return self.push_row(event),
            Op::Truncate | Op::Message => return Err(misfit("an event without a row")),
        }
        Ok(Folded::Taken)
    }

    fn push_row(&mut self, event: &'a ChangeEvent) -> Result<Folded, Misfit> {
        let misfit = |problem| Misfit { position: event.position, problem };
        let after = event.after.as_deref().ok_or_else(|| misfit("a row event without a row"))?;
        let before = event.before.as_deref();
        let mut row = Cow::Borrowed(after);
        if let Some(before) = before
            && is_partial(&row)
        {
            fill(&mut row, before);
        }
        let slot = self.slot(&event.shape, &row, before).map_err(misfit)?;
        if !is_partial(&row) {
            self.put(slot, Outcome::Row(row));
            return Ok(Folded::Taken);
        }
        if event.op != Op::Update {
            return self.push_moved(event, slot, row);
        }
        match slot.1.and_then(|at| self.outcomes.get(at)) {
            Some(Outcome::Delete(_)) if event.backfilling => return Ok(Folded::Taken),
            Some(Outcome::Delete(_)) => return Err(misfit("a partial update of a row that is deleted")),
            Some(Outcome::Row(known) | Outcome::Perhaps(known)) => fill(&mut row, known),
            None => {}
        }
        let may_be_missing = event.backfilling && is_partial(&row);
        self.put(slot, if may_be_missing { Outcome::Perhaps(row) } else { Outcome::Row(row) });
        Ok(Folded::Taken)
    }

    /// The create half of a key move: its unchanged columns come from the delete half.
    fn push_moved(&mut self, event: &ChangeEvent, slot: Slot, mut row: Cow<'a, [Cell]>) -> Result<Folded, Misfit> {
        let misfit = |problem| Misfit { position: event.position, problem };
        if !event.key_move {
            return Err(misfit("an insert without all its columns"));
        }
        let Some(moved) = self.moved.get(&event.position) else { return Ok(Folded::Waits) };
        let Some(cells) = moved.clone() else {
            if !event.backfilling {
                return Err(misfit("a key move of a row that was not there"));
            }
            self.take_moved(event.position);
            return Ok(Folded::Taken);
        };
        for (index, cell) in cells {
            if let Some(target) = row.to_mut().get_mut(index)
                && *target == Cell::Unchanged
            {
                *target = cell;
            }
        }
        if is_partial(&row) {
            return Err(misfit("a key move whose delete half lacks columns"));
        }
        self.take_moved(event.position);
        self.put(slot, Outcome::Row(row));
        Ok(Folded::Taken)
    }

    fn take_moved(&mut self, create: Position) {
        self.left.remove(&create);
        self.taken.push(create);
    }

    /// The delete half of a key move: keeps the columns that its create half does not carry.
    fn leave(&mut self, event: &ChangeEvent, slot: Option<usize>) {
        let known = slot.and_then(|at| self.outcomes.get(at));
        let stored = self.targets.get(&event.position);
        let cell = |index: &usize| -> Option<(usize, Cell)> {
            let value = match known {
                Some(Outcome::Delete(_)) => return None,
                Some(Outcome::Row(row) | Outcome::Perhaps(row)) => match row.get(*index) {
                    Some(Cell::Unchanged) | None => stored?.get(*index)?,
                    Some(cell) => cell,
                },
                None => stored?.get(*index)?,
            };
            Some((*index, value.clone()))
        };
        let cells: MovedCells = event.moved_columns.iter().map(cell).collect();
        let create = Position { ordinal: event.position.ordinal.saturating_add(1), ..event.position };
        self.left.insert(create, cells.clone());
        self.moved.insert(create, cells);
    }

    fn slot(&self, shape: &TableShape, row: &[Cell], other: Option<&[Cell]>) -> Result<Slot, &'static str> {
        let mut key = key_text(shape, row, other).ok_or("a key column without a value")?;
        if let Some(class) = self.classes.get(&key) {
            key = class.to_be_bytes().to_vec();
        }
        let at = self.slots.get(&key).copied();
        Ok((key, at))
    }

    fn put(&mut self, (key, at): Slot, outcome: Outcome<'a>) {
        if let Some(place) = at.and_then(|at| self.outcomes.get_mut(at)) {
            *place = outcome;
        } else {
            self.slots.insert(key, self.outcomes.len());
            self.outcomes.push(outcome);
        }
    }

    /// The outcomes, in the order in which their keys first came.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome<'a>] {
        &self.outcomes
    }

    /// Positions of create halves that took columns which an earlier batch had left for them.
    #[must_use]
    pub fn taken(&self) -> &[Position] {
        &self.taken
    }

    /// What delete halves leave for create halves that were not in the batch.
    #[must_use]
    pub const fn left(&self) -> &BTreeMap<Position, MovedCells> {
        &self.left
    }
}

type Slot = (KeyText, Option<usize>);

/// Whether the target's value is needed for some column.
#[must_use]
pub fn is_partial(row: &[Cell]) -> bool {
    row.contains(&Cell::Unchanged)
}

/// The text of a row's key; a key column that the row lacks is taken from `other`.
#[must_use]
pub fn key_text(shape: &TableShape, row: &[Cell], other: Option<&[Cell]>) -> Option<KeyText> {
    let mut key = Vec::with_capacity(24);
    for index in &shape.key {
        let cell = match row.get(*index)? {
            Cell::Unchanged => other?.get(*index)?,
            cell => cell,
        };
        let Cell::Text(text) = cell else { return None };
        let length = u32::try_from(text.len()).ok()?;
        key.extend_from_slice(&length.to_be_bytes());
        key.extend_from_slice(text);
    }
    Some(key)
}

fn fill(row: &mut Cow<'_, [Cell]>, from: &[Cell]) {
    for (cell, known) in row.to_mut().iter_mut().zip(from) {
        if *cell == Cell::Unchanged {
            *cell = known.clone();
        }
    }
}

/// What remains of a keyless table's events: one entry per row that is touched, identified by all its cells.
#[derive(Debug, Default)]
pub struct Bag {
    entries: Vec<BagEntry>,
    current: HashMap<Vec<Cell>, Vec<usize>>,
}

/// A row of a keyless table: what it is in the target, and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BagEntry {
    /// The target's row; `None`: it is new.
    pub old: Option<Vec<Cell>>,
    /// The row afterwards; `None`: it is gone.
    pub new: Option<Vec<Cell>>,
}

impl Bag {
    /// Takes one event in. Updates and deletes need the whole old row (trap T29).
    pub fn push(&mut self, event: &ChangeEvent) -> Result<(), Misfit> {
        let misfit = |problem| Misfit { position: event.position, problem };
        let before = || match event.before.as_deref() {
            Some(before) if !is_partial(before) => Ok(before.to_vec()),
            _ => Err(misfit("a change of a row without key and without REPLICA IDENTITY FULL")),
        };
        let after = || event.after.as_deref().ok_or_else(|| misfit("a row event without a row"));
        match event.op {
            Op::Create | Op::Read => {
                let row = after()?;
                if is_partial(row) {
                    return Err(misfit("an insert without all its columns"));
                }
                self.place(None, row.to_vec());
            }
            Op::Update => {
                let old = before()?;
                let mut row = Cow::Borrowed(after()?);
                fill(&mut row, &old);
                let row = row.into_owned();
                match self.take(&old) {
                    Some(at) => self.set(at, row),
                    None => self.place(Some(old), row),
                }
            }
            Op::Delete => {
                let old = before()?;
                match self.take(&old) {
                    Some(at) => {
                        if let Some(entry) = self.entries.get_mut(at) {
                            entry.new = None;
                        }
                    }
                    None => self.entries.push(BagEntry { old: Some(old), new: None }),
                }
            }
            Op::Truncate | Op::Message => return Err(misfit("an event without a row")),
        }
        Ok(())
    }

    fn place(&mut self, old: Option<Vec<Cell>>, new: Vec<Cell>) {
        self.current.entry(new.clone()).or_default().push(self.entries.len());
        self.entries.push(BagEntry { old, new: Some(new) });
    }

    fn set(&mut self, at: usize, row: Vec<Cell>) {
        self.current.entry(row.clone()).or_default().push(at);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.new = Some(row);
        }
    }

    /// An entry whose row is this one, no longer to be found under it.
    fn take(&mut self, row: &[Cell]) -> Option<usize> {
        self.current.get_mut(row)?.pop()
    }

    /// The rows that are inserted, changed or deleted.
    pub fn entries(&self) -> impl Iterator<Item = &BagEntry> {
        self.entries.iter().filter(|entry| entry.old != entry.new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{event::ShapeColumn, lsn::Lsn, schema::TableName};

    fn shape() -> Arc<TableShape> {
        let column = |name: &str| ShapeColumn {
            name: name.into(),
            type_sql: "text".into(),
            guessed: false,
            nullable: true,
            missing: None,
            may_be_encoded: false,
            labels: Vec::new(),
        };
        Arc::new(TableShape {
            name: TableName::new("public", "t"),
            columns: ["id", "a", "b"].map(column).to_vec(),
            key: vec![0],
        })
    }

    fn cell(value: u8) -> Cell {
        Cell::Text(value.to_string().into())
    }

    fn event(shape: &Arc<TableShape>, ordinal: u64, op: Op) -> ChangeEvent {
        ChangeEvent {
            op,
            position: Position { epoch: 0, commit: Lsn(1), ordinal },
            commit_ms: 0,
            shape: Arc::clone(shape),
            before: None,
            after: None,
            key_move: false,
            moved_columns: Vec::new(),
            backfilling: false,
            resync: None,
            barrier: None,
        }
    }

    type Table = BTreeMap<u8, [u8; 2]>;

    /// What an operation asks for; what is not possible in the table as it is becomes nothing.
    #[derive(Clone, Copy, Debug)]
    enum Wish {
        Insert(u8, u8, u8),
        Set(u8, Option<u8>, Option<u8>),
        Delete(u8),
        Move(u8, u8, u8, bool),
    }

    fn wish() -> impl Strategy<Value = Wish> {
        let (key, value) = (0..5_u8, 0..20_u8);
        prop_oneof![
            (key.clone(), value.clone(), value.clone()).prop_map(|(k, a, b)| Wish::Insert(k, a, b)),
            (key.clone(), proptest::option::of(value.clone()), proptest::option::of(value.clone()))
                .prop_map(|(k, a, b)| Wish::Set(k, a, b)),
            key.clone().prop_map(Wish::Delete),
            (key.clone(), key, value, any::<bool>()).prop_map(|(k, to, a, all)| Wish::Move(k, to, a, all)),
        ]
    }

    /// Carries a wish out row by row, and tells the events that a source would have logged.
    fn carry_out(table: &mut Table, wish: Wish, ordinal: u64, shape: &Arc<TableShape>) -> Vec<ChangeEvent> {
        let row = |key: u8, a: Option<u8>, b: Option<u8>| {
            Some(vec![cell(key), a.map_or(Cell::Unchanged, cell), b.map_or(Cell::Unchanged, cell)])
        };
        let key_only = |key: u8| Some(vec![cell(key), Cell::Unchanged, Cell::Unchanged]);
        match wish {
            Wish::Insert(key, a, b) if !table.contains_key(&key) => {
                table.insert(key, [a, b]);
                vec![ChangeEvent { after: row(key, Some(a), Some(b)), ..event(shape, ordinal, Op::Create) }]
            }
            Wish::Set(key, a, b) => {
                let Some(stored) = table.get_mut(&key) else { return Vec::new() };
                *stored = [a.unwrap_or(stored[0]), b.unwrap_or(stored[1])];
                vec![ChangeEvent { after: row(key, a, b), ..event(shape, ordinal, Op::Update) }]
            }
            Wish::Delete(key) if table.remove(&key).is_some() => {
                vec![ChangeEvent { before: key_only(key), ..event(shape, ordinal, Op::Delete) }]
            }
            Wish::Move(key, to, a, all) if table.contains_key(&key) && !table.contains_key(&to) => {
                let [_, b] = table.remove(&key).unwrap();
                table.insert(to, [a, b]);
                let moved_columns = if all { Vec::new() } else { vec![2] };
                let gone = ChangeEvent {
                    before: key_only(key),
                    key_move: true,
                    moved_columns,
                    ..event(shape, ordinal, Op::Delete)
                };
                let after = row(to, Some(a), all.then_some(b));
                vec![gone, ChangeEvent { after, key_move: true, ..event(shape, ordinal + 1, Op::Create) }]
            }
            _ => Vec::new(),
        }
    }

    fn number(cell: &Cell) -> Option<u8> {
        let Cell::Text(text) = cell else { return None };
        std::str::from_utf8(text).unwrap().parse().ok()
    }

    /// What the statements do: a partial row must meet a row.
    fn apply(table: &mut Table, outcomes: &[Outcome<'_>]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Delete(row) => drop(table.remove(&number(&row[0]).unwrap())),
                Outcome::Row(row) => {
                    let key = number(&row[0]).unwrap();
                    let stored = table.get(&key).copied();
                    let value = |index: usize| number(&row[index]).unwrap_or_else(|| stored.unwrap()[index - 1]);
                    table.insert(key, [value(1), value(2)]);
                }
                Outcome::Perhaps(row) => {
                    let key = number(&row[0]).unwrap();
                    let Some(stored) = table.get(&key).copied() else { continue };
                    let value = |index: usize| number(&row[index]).unwrap_or(stored[index - 1]);
                    table.insert(key, [value(1), value(2)]);
                }
            }
        }
    }

    proptest! {
        // traps T28, T62
        #[test]
        fn a_fold_leaves_what_row_by_row_application_leaves(
            start in proptest::collection::btree_map(0..5_u8, [0..20_u8, 0..20_u8], 0..5),
            wishes in proptest::collection::vec(wish(), 0..30),
        ) {
            let shape = shape();
            let (mut naive, mut events) = (start.clone(), Vec::new());
            for (number, wish) in (0..).zip(wishes) {
                events.extend(carry_out(&mut naive, wish, number * 2 + 1, &shape));
            }
            let target = |event: &ChangeEvent| {
                let key = number(&event.before.as_ref()?[0])?;
                let [a, b] = start.get(&key)?;
                event.key_move.then(|| (event.position, vec![cell(key), cell(*a), cell(*b)]))
            };
            let targets = events.iter().filter_map(target).collect();
            let mut fold = Fold::new(HashMap::new(), targets, BTreeMap::new());
            for event in &events {
                prop_assert_eq!(fold.push(event), Ok(Folded::Taken));
            }
            let mut folded = start;
            apply(&mut folded, fold.outcomes());
            prop_assert_eq!(folded, naive);
            prop_assert!(fold.left().is_empty());
        }

        /// Rows that are still to come are changed, moved and deleted as if they were there; what is there is never wrong.
        #[test]
        fn a_row_that_is_still_to_come_is_left_out_and_no_other_one_is_wrong(
            start in proptest::collection::btree_map(0..5_u8, [0..20_u8, 0..20_u8], 0..5),
            there in proptest::collection::vec(any::<bool>(), 5),
            wishes in proptest::collection::vec(wish(), 0..30),
        ) {
            let shape = shape();
            let (mut naive, mut events) = (start.clone(), Vec::new());
            for (number, wish) in (0..).zip(wishes) {
                events.extend(carry_out(&mut naive, wish, number * 2 + 1, &shape));
            }
            for event in &mut events {
                event.backfilling = true;
            }
            let mut folded = start;
            folded.retain(|key, _| there[usize::from(*key)]);
            let target = |event: &ChangeEvent| {
                let key = number(&event.before.as_ref()?[0])?;
                let [a, b] = folded.get(&key)?;
                event.key_move.then(|| (event.position, vec![cell(key), cell(*a), cell(*b)]))
            };
            let targets = events.iter().filter_map(target).collect();
            let mut fold = Fold::new(HashMap::new(), targets, BTreeMap::new());
            for event in &events {
                prop_assert_eq!(fold.push(event), Ok(Folded::Taken));
            }
            prop_assert!(fold.left().is_empty());
            apply(&mut folded, fold.outcomes());
            for (key, row) in &folded {
                prop_assert_eq!(naive.get(key), Some(row));
            }
            let has_whole = |event: &&ChangeEvent| event.after.as_ref().is_some_and(|after| !is_partial(after));
            if let Some(at) = events.iter().rposition(|event| has_whole(&event)) {
                let key = number(&events[at].after.as_ref().unwrap()[0]).unwrap();
                // Another row, which is still to come, may be moved to where this one was.
                let is_its_end = |event: &ChangeEvent| {
                    event.op == Op::Delete && event.before.as_ref().is_some_and(|row| number(&row[0]) == Some(key))
                };
                prop_assume!(!events[at..].iter().any(is_its_end));
                prop_assert_eq!(folded.get(&key), naive.get(&key), "a whole row is known from its event on");
            }
        }
    }

    // trap T27
    #[test]
    fn a_partial_update_after_a_delete_is_refused() {
        let shape = shape();
        let gone = ChangeEvent { before: Some(vec![cell(1), Cell::Null, Cell::Null]), ..event(&shape, 1, Op::Delete) };
        let after = Some(vec![cell(1), Cell::Unchanged, Cell::Null]);
        let change = ChangeEvent { after, ..event(&shape, 2, Op::Update) };
        let mut fold = Fold::default();
        fold.push(&gone).unwrap();
        assert!(fold.push(&change).is_err());
    }

    // trap T28
    #[test]
    fn the_create_half_of_a_key_move_waits_for_its_other_half() {
        let shape = shape();
        let after = Some(vec![cell(2), cell(0), Cell::Unchanged]);
        let come = ChangeEvent { after, key_move: true, ..event(&shape, 2, Op::Create) };
        let mut fold = Fold::default();
        assert_eq!(fold.push(&come), Ok(Folded::Waits));
        let moved = BTreeMap::from([(come.position, Some(vec![(2, cell(9))]))]);
        let mut fold = Fold::new(HashMap::new(), HashMap::new(), moved);
        assert_eq!(fold.push(&come), Ok(Folded::Taken));
        assert_eq!(fold.taken(), [come.position]);
        assert_eq!(fold.outcomes(), [Outcome::Row(Cow::Owned(vec![cell(2), cell(0), cell(9)]))]);
        let mut fold = Fold::new(HashMap::new(), HashMap::new(), BTreeMap::from([(come.position, None)]));
        assert!(fold.push(&come).is_err(), "a row that was not there was moved");
    }

    #[test]
    fn the_highest_ordinal_that_a_record_can_carry_is_no_reason_to_panic() {
        let before = Some(vec![cell(1), Cell::Unchanged, Cell::Unchanged]);
        let gone = event(&shape(), u64::MAX, Op::Delete);
        let gone = ChangeEvent { before, key_move: true, moved_columns: vec![2], ..gone };
        let mut fold = Fold::default();
        assert_eq!(fold.push(&gone), Ok(Folded::Taken));
        assert!(fold.left().contains_key(&gone.position));
    }
}
