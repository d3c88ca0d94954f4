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
            Some(Outcome::Delete(_)) => return Err(misfit("a partial update of a row that is deleted")),
            Some(Outcome::Row(known)) => fill(&mut row, known),
            None => {}
        }
        self.put(slot, Outcome::Row(row));
        Ok(Folded::Taken)
    }

    /// The create half of a key move: its unchanged columns come from the delete half.
    fn push_moved(&mut self, event: &ChangeEvent, slot: Slot, mut row: Cow<'a, [Cell]>) -> Result<Folded, Misfit> {
        let misfit = |problem| Misfit { position: event.position, problem };
        if !event.key_move {
            return Err(misfit("an insert without all its columns"));
        }
        let Some(moved) = self.moved.get(&event.position) else { return Ok(Folded::Waits) };
        let cells = moved.as_ref().ok_or_else(|| misfit("a key move of a row that was not there"))?;
        let cells = cells.clone();
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
        self.left.remove(&event.position);
        self.taken.push(event.position);
        self.put(slot, Outcome::Row(row));
        Ok(Folded::Taken)
    }

    /// The delete half of a key move: keeps the columns that its create half does not carry.
    fn leave(&mut self, event: &ChangeEvent, slot: Option<usize>) {
        let known = slot.and_then(|at| self.outcomes.get(at));
        let stored = self.targets.get(&event.position);
        let cell = |index: &usize| -> Option<(usize, Cell)> {
            let value = match known {
                Some(Outcome::Delete(_)) => return None,
                Some(Outcome::Row(row)) => match row.get(*index) {
                    Some(Cell::Unchanged) | None => stored?.get(*index)?,
                    Some(cell) => cell,
                },
                None => stored?.get(*index)?,
            };
            Some((*index, value.clone()))
        };
        let cells: MovedCells = event.moved_columns.iter().map(cell).collect();
        let create = Position { ordinal: event.position.ordinal + 1, ..event.position };
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
