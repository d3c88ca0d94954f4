//! The parts of a batch: what lanes bring, how it is cut into runs, and how runs become staged rows and positions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio_postgres::SimpleQueryRow;

use crate::{
    event::{Cell, ChangeEvent, Op, Resync},
    lsn::{Lsn, Position},
    schema::quote_literal,
    sink::{
        buffer::{Bag, Fold, Folded, KeyText, Misfit, MovedCells, Outcome, is_partial, key_text},
        error::Error,
        ledger::{Ledger, Owned},
        plan::{Manner, Plan, group},
        stage::StagedRows,
    },
};

/// What one lane brings into a batch: events above its mark, in order.
#[derive(Clone, Copy, Debug)]
pub struct LanePart<'a> {
    /// The lane under its claim.
    pub lane: &'a Owned,
    /// The lane's topic.
    pub topic: &'a Arc<str>,
    /// The next offset that the target must have stored; anything else means that the lane is not this owner's.
    pub from: Option<i64>,
    /// The lane's mark before the batch.
    pub mark: Position,
    /// Offset and event.
    pub events: &'a [(i64, ChangeEvent)],
    /// Offset after the last record that the part stands for, records without an event included.
    pub next_offset: i64,
}

/// How far a lane came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneDone {
    /// Offset of its next record.
    pub next_offset: i64,
    /// Its mark.
    pub mark: Position,
    /// How many of its events are in the target.
    pub applied: usize,
    /// The create half of a key move that waits for its delete half.
    pub waits: Option<Position>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is committed; per part how far it came.
    Done(Vec<LaneDone>),
    /// Nothing was done: lanes are to stop before this commit LSN.
    Held(Lsn),
}

impl LanePart<'_> {
    /// How far the lane comes when its event at index `blocked` has to wait.
    #[must_use]
    pub fn done(&self, blocked: Option<usize>) -> LaneDone {
        let waiting = blocked.and_then(|index| self.events.get(index));
        let applied = blocked.unwrap_or(self.events.len());
        let last = self.events.get(..applied).and_then(<[_]>::last);
        LaneDone {
            next_offset: waiting.map_or(self.next_offset, |(offset, _)| *offset),
            mark: last.map_or(self.mark, |(_, event)| event.position.max(self.mark)),
            applied,
            waits: waiting.map(|(_, event)| event.position),
        }
    }
}

/// An event of a batch: its lane, its index in the lane's part, itself.
pub type Placed<'a> = (usize, usize, &'a ChangeEvent);

/// Events of one table under one shape, in the source's order: lane, index in the lane's part, event.
#[derive(Debug)]
pub struct Run<'a> {
    /// The statements.
    pub plan: Arc<Plan>,
    /// The events.
    pub events: Vec<Placed<'a>>,
    /// The latest resync that some event is of.
    pub resync: Option<Resync>,
    /// The number of the table that notes its keys.
    pub seen: Option<i64>,
}

impl<'a> Run<'a> {
    /// A run without events.
    #[must_use]
    pub const fn new(plan: Arc<Plan>) -> Self {
        Self { plan, events: Vec::new(), resync: None, seen: None }
    }

    /// Appends an event.
    pub fn push(&mut self, placed: Placed<'a>) {
        self.resync = self.resync.max(placed.2.resync);
        self.events.push(placed);
    }
}

impl Run<'_> {
    /// Stages the keys of the chosen events; a row's number is its index in the returned list.
    ///
    /// # Errors
    /// A key is not in the encoding of its column.
    pub fn stage_keys(
        &self,
        number: i64,
        chosen: impl Fn(&ChangeEvent) -> bool,
    ) -> Result<(Vec<(Position, KeyText)>, StagedRows<'_>), Error> {
        let (mut keys, mut rows) = (Vec::new(), StagedRows::new(&self.plan.staging));
        for (_, _, event) in &self.events {
            if !chosen(event) {
                continue;
            }
            let (row, other) = match event.op {
                Op::Delete => (event.before.as_deref(), None),
                _ => (event.after.as_deref(), event.before.as_deref()),
            };
            let Some(row) = row else { continue };
            let Some(key) = key_text(&event.shape, row, other) else { continue };
            rows.push(number, i64::try_from(keys.len()).unwrap_or(i64::MAX), |index| match row.get(index) {
                _ if !self.plan.shape.key.contains(&index) => &Cell::Null,
                Some(Cell::Unchanged) | None => other.and_then(|other| other.get(index)).unwrap_or(&Cell::Null),
                Some(cell) => cell,
            })
            .map_err(|column| self.plan.misencoded(column))?;
            keys.push((event.position, key));
        }
        Ok((keys, rows))
    }

    /// A row that [`Plan::read_moving`] read, as cells of the shape.
    #[must_use]
    pub fn row_of(&self, row: &SimpleQueryRow) -> Vec<Cell> {
        let mut cells = vec![Cell::Unchanged; self.plan.shape.columns.len()];
        for (place, index) in self.plan.staged.iter().enumerate() {
            if let Some(cell) = cells.get_mut(*index) {
                *cell = row.get(place + 1).map_or(Cell::Null, |text| Cell::Text(text.into()));
            }
        }
        cells
    }
}

/// Cells with the names of their columns.
pub type NamedCells = Vec<(Arc<str>, Cell)>;

/// Key moves of one topic in one transaction.
#[derive(Debug, Default)]
pub struct MovedRows {
    /// What create halves can take, by their position.
    pub known: BTreeMap<Position, MovedCells>,
    /// Taken from the ledger by a create half.
    pub taken: Vec<Position>,
    /// To be left in the ledger for create halves elsewhere: the cells with their column names.
    pub left: BTreeMap<Position, Option<NamedCells>>,
}

/// What a run has staged.
#[derive(Debug)]
pub struct Staged {
    /// The statements.
    pub plan: Arc<Plan>,
    /// Rows to delete.
    pub deletes: u64,
    /// Whole rows to write.
    pub wholes: u64,
    /// Partial rows, by the columns they have; keyless: one group of rows to change.
    pub partial: Vec<PartialGroup>,
    /// Position of the run's last event.
    pub last: Position,
}

impl Staged {
    /// The groups whose rows may have another value in an identity column than the target, where no UPDATE may set it.
    #[must_use]
    pub fn renumbered(&self, manner: Manner) -> Vec<i64> {
        let whole = (self.wholes > 0).then_some((group::WHOLE, self.plan.staged.as_slice()));
        let partial = (group::PARTIAL..).zip(&self.partial).map(|(number, group)| (number, group.present.as_slice()));
        self.plan.renumbered(manner, &whole.into_iter().chain(partial).collect::<Vec<_>>())
    }
}

/// Partial rows that have the same columns.
#[derive(Debug)]
pub struct PartialGroup {
    /// Shape indices of the columns that the rows have.
    pub present: Vec<usize>,
    /// How many rows there are.
    pub rows: u64,
    /// The target may lack some of them, of which nothing is written then.
    pub may_be_missing: bool,
}

impl PartialGroup {
    /// How many rows of the target a statement must meet, where that is known.
    #[must_use]
    pub fn met(&self) -> Option<u64> {
        (!self.may_be_missing).then_some(self.rows)
    }
}

/// Folds a run of a keyed table into rows to stage.
pub fn fold<'p>(
    run: &'p Run<'_>,
    classes: HashMap<KeyText, u64>,
    targets: HashMap<Position, Vec<Cell>>,
    moved: &mut MovedRows,
    blocked: &mut [Option<usize>],
) -> Result<(Staged, StagedRows<'p>), Error> {
    let plan = &run.plan;
    let mut fold = Fold::new(classes, targets, moved.known.clone());
    let last = each(run, blocked, |event| fold.push(event))?;
    for (position, cells) in fold.left() {
        moved.known.insert(*position, cells.clone());
        let name = |(index, cell): &(usize, Cell)| {
            plan.shape.columns.get(*index).map(|column| (Arc::clone(&column.name), cell.clone()))
        };
        moved.left.insert(*position, cells.as_ref().map(|cells| cells.iter().filter_map(name).collect()));
    }
    for position in fold.taken() {
        if moved.left.remove(position).is_none() {
            moved.taken.push(*position);
        }
    }
    let mut staged = Staged { plan: Arc::clone(plan), deletes: 0, wholes: 0, partial: Vec::new(), last };
    let mut groups: HashMap<(Vec<usize>, bool), usize> = HashMap::new();
    let mut rows = StagedRows::new(&plan.staging);
    for (number, outcome) in (0..).zip(fold.outcomes()) {
        let (tag, row) = match outcome {
            Outcome::Delete(row) => {
                staged.deletes += 1;
                (group::DELETE, row)
            }
            Outcome::Row(row) if !is_partial(row) => {
                staged.wholes += 1;
                (group::WHOLE, row)
            }
            Outcome::Row(row) => (partial_group(plan, (row, false), &mut groups, &mut staged.partial), row),
            Outcome::Perhaps(row) => (partial_group(plan, (row, true), &mut groups, &mut staged.partial), row),
        };
        rows.push(tag, number, |index| match row.get(index) {
            Some(cell) if tag != group::DELETE || plan.shape.key.contains(&index) => cell,
            _ => &Cell::Null,
        })
        .map_err(|column| plan.misencoded(column))?;
    }
    Ok((staged, rows))
}

fn partial_group(
    plan: &Plan,
    (row, may_be_missing): (&[Cell], bool),
    groups: &mut HashMap<(Vec<usize>, bool), usize>,
    partial: &mut Vec<PartialGroup>,
) -> i64 {
    let present = |index: &&usize| row.get(**index).is_some_and(|cell| *cell != Cell::Unchanged);
    let present: Vec<usize> = plan.staged.iter().filter(present).copied().collect();
    let at = *groups.entry((present.clone(), may_be_missing)).or_insert_with(|| {
        partial.push(PartialGroup { present, rows: 0, may_be_missing });
        partial.len() - 1
    });
    if let Some(group) = partial.get_mut(at) {
        group.rows += 1;
    }
    group::PARTIAL + i64::try_from(at).unwrap_or(i64::MAX - 1)
}

/// Folds a run of a keyless table into rows to stage.
pub fn bag<'p>(run: &'p Run<'_>, blocked: &mut [Option<usize>]) -> Result<(Staged, StagedRows<'p>), Error> {
    let plan = &run.plan;
    let mut bag = Bag::default();
    let last = each(run, blocked, |event| bag.push(event).map(|()| Folded::Taken))?;
    let mut staged = Staged { plan: Arc::clone(plan), deletes: 0, wholes: 0, partial: Vec::new(), last };
    let mut changes = 0;
    let mut rows = StagedRows::new(&plan.staging);
    for (number, entry) in (0..).zip(bag.entries()) {
        let in_place = entry.old.is_some() && entry.new.is_some() && plan.changes_in_place();
        let [was, becomes] = if in_place { [group::OLD, group::PARTIAL] } else { [group::DELETE, group::WHOLE] };
        for (tag, row) in [(was, &entry.old), (becomes, &entry.new)] {
            let Some(row) = row else { continue };
            match tag {
                group::DELETE => staged.deletes += 1,
                group::WHOLE => staged.wholes += 1,
                group::PARTIAL => changes += 1,
                _ => {}
            }
            let pushed = rows.push(tag, number, |index| row.get(index).unwrap_or(&Cell::Null));
            pushed.map_err(|column| plan.misencoded(column))?;
        }
    }
    if changes > 0 {
        staged.partial.push(PartialGroup { present: plan.staged.clone(), rows: changes, may_be_missing: false });
    }
    Ok((staged, rows))
}

/// Gives the run's events to `push` in order; a lane whose event waits is left out from there on.
fn each<'a>(
    run: &Run<'a>,
    blocked: &mut [Option<usize>],
    mut push: impl FnMut(&'a ChangeEvent) -> Result<Folded, Misfit>,
) -> Result<Position, Error> {
    let mut last = Position::default();
    for (lane, index, event) in &run.events {
        let Some(blocked) = blocked.get_mut(*lane) else { continue };
        if blocked.is_some() {
            continue;
        }
        let inconsistent = |misfit: Misfit| Error::Inconsistent {
            topic: run.plan.topic.to_string(),
            table: run.plan.table().clone(),
            position: misfit.position,
            problem: misfit.problem.to_owned(),
        };
        match push(event).map_err(inconsistent)? {
            Folded::Taken => last = event.position,
            Folded::Waits => *blocked = Some(*index),
        }
    }
    Ok(last)
}

/// Orders tables so that one that references another comes before it (cycles keep their order).
#[must_use]
pub fn children_first(topics: Vec<Vec<Run<'_>>>) -> Vec<Vec<Run<'_>>> {
    let mut waiting = topics;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let tables: BTreeSet<_> =
            waiting.iter().filter_map(|runs| runs.first()).map(|run| run.plan.table().clone()).collect();
        let free = |runs: &Vec<Run<'_>>| {
            runs.first().is_none_or(|run| run.plan.target.children.iter().all(|child| !tables.contains(child)))
        };
        let at = waiting.iter().position(free).unwrap_or(0);
        ordered.push(waiting.remove(at));
    }
    ordered
}

/// Writes how far the lanes came.
#[must_use]
pub fn position_update(ledger: &Ledger, parts: &[LanePart<'_>], done: &[LaneDone]) -> String {
    let rows: Vec<String> = parts
        .iter()
        .zip(done)
        .map(|(part, done)| {
            format!(
                "({}, {}, {}::bigint, {}::bigint, '{}'::pg_lsn, {}::bigint)",
                quote_literal(&part.lane.topic),
                part.lane.partition,
                done.next_offset,
                done.mark.epoch,
                done.mark.commit,
                done.mark.ordinal
            )
        })
        .collect();
    format!(
        "UPDATE {} AS p SET next_offset = v.next, epoch = v.epoch, commit_lsn = v.lsn, ordinal = v.ordinal, \
         pid = pg_backend_pid(), held_at = NULL, parked_epoch = NULL, parked_lsn = NULL, parked_ordinal = NULL, \
         updated_at = now() \
         FROM (VALUES {}) AS v (topic, partition, next, epoch, lsn, ordinal) \
         WHERE p.instance = {} AND p.topic = v.topic AND p.partition = v.partition;",
        ledger.table("position"),
        rows.join(", "),
        ledger.instance_literal()
    )
}
