//! A change event as its record's bytes hold it: where its parts lie, before any value is turned into text.

use std::sync::Arc;

use super::{
    column_plan::{ColumnPlan, Found, Place},
    decode_plan::{EnvelopePlan, Step, TransactionStep},
    error::DecodeError,
    form::Presence,
    header,
    header_reader::{Headers, unreadable},
    parts::Parts,
    shared_run::Shared,
};
use crate::{
    avro::cursor::{self, Cursor},
    event::{Op, TableShape},
    lsn::Position,
    types::Placeholder,
};

/// A change event that borrows from its record and its decoder. Its columns' values are read when they are asked for.
#[derive(Debug)]
pub struct EventView<'a> {
    pub(super) reading: Reading<'a>,
    pub(super) shape: &'a Arc<TableShape>,
    pub(super) op: Op,
    pub(super) position: Position,
    pub(super) commit_ms: i64,
    pub(super) before: Option<&'a [Place]>,
    pub(super) after: Option<&'a [Place]>,
}

/// One record while it is decoded.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) topic: &'a str,
    /// The id of its value's schema.
    pub(super) id: u32,
    pub(super) body: &'a [u8],
    pub(super) plan: &'a EnvelopePlan,
    pub(super) placeholder: &'a Placeholder,
    pub(super) headers: &'a Headers,
    pub(super) offset: i64,
    /// Bytes that a row's text may have.
    pub(super) most: usize,
}

/// The columns of one row, in the order of its schema.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    body: &'a [u8],
    columns: &'a [ColumnPlan],
    places: &'a [Place],
}

impl<'a> EventView<'a> {
    /// What happened to the row.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.op
    }

    /// The event's position.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The table.
    #[must_use]
    pub const fn shape(&self) -> &'a Arc<TableShape> {
        self.shape
    }

    /// The row before the change.
    #[must_use]
    pub fn before(&self) -> Option<RowView<'a>> {
        self.before.map(|places| self.reading.row(places))
    }

    /// The row after it.
    #[must_use]
    pub fn after(&self) -> Option<RowView<'a>> {
        self.after.map(|places| self.reading.row(places))
    }

    /// What is known of an event from its parts.
    pub(super) fn new(
        reading: Reading<'a>,
        parts: &Parts<'_>,
        (places, shared): (&'a [Place], &mut Shared),
        shape: &'a Arc<TableShape>,
    ) -> Result<Self, DecodeError> {
        let content = |problem| DecodeError::Content { topic: reading.topic.to_owned(), problem };
        let op = Op::from_code(parts.op).ok_or_else(|| content("its op is unknown"))?;
        match op {
            Op::Create | Op::Update | Op::Read if parts.after.is_none() => return Err(content("it has no row after")),
            Op::Delete if parts.before.is_none() => return Err(content("it has no row before")),
            _ => {}
        }
        let position = match (parts.transaction, reading.headers.position) {
            (_, Some(position)) => Some(position),
            (_, None) if reading.is_foreign() => Position::of_offset(reading.offset),
            (Some((id, total_order)), None) => shared.position(id, total_order),
            (None, None) => None,
        };
        let position = position.ok_or_else(|| content("it has no position"))?;
        let width = reading.plan.columns.len();
        let row = |first: Option<usize>| first.and_then(|first| places.get(first..first + width));
        let (before, after) = (row(parts.before), row(parts.after));
        Ok(Self { op, position, commit_ms: parts.commit_ms, before, after, reading, shape })
    }
}

impl<'a> RowView<'a> {
    /// The columns' values as Avro has them; `None` is null. A header may say more of some (`docs/events.md`).
    ///
    /// # Errors
    /// The bytes are not what the schema says.
    pub fn values(self) -> impl Iterator<Item = Result<Option<Found<'a>>, cursor::DecodeError>> {
        let Self { body, columns, places } = self;
        columns.iter().zip(places).map(move |(column, place)| match place {
            Place::Null => Ok(None),
            Place::At(offset) => column.value(&mut Cursor::at(body, *offset)).map(Some),
        })
    }
}

impl<'a> Reading<'a> {
    /// The row whose columns lie at these places.
    pub(super) const fn row(&self, places: &'a [Place]) -> RowView<'a> {
        RowView { body: self.body, columns: self.plan.columns.as_slice(), places }
    }

    /// Whether another producer wrote the record. Ours tell a type in the schema or a position in a header.
    pub(super) const fn is_foreign(&self) -> bool {
        self.plan.is_foreign && self.headers.position.is_none()
    }

    /// The error for bytes that are not what the schema says.
    pub(super) fn bytes(&self, column: Option<&ColumnPlan>, source: cursor::DecodeError) -> DecodeError {
        DecodeError::Bytes {
            topic: self.topic.to_owned(),
            id: self.id,
            column: column.map(ColumnPlan::described),
            source,
        }
    }

    /// Indices of the columns that the server did not send.
    pub(super) fn unchanged_columns(&self) -> Result<Vec<usize>, DecodeError> {
        let index = |name: &String| self.plan.column(name).ok_or_else(|| unreadable(self.topic, header::UNCHANGED));
        self.headers.unchanged.iter().map(index).collect()
    }

    /// Walks over the envelope; `places` gets those of both rows' columns.
    pub(super) fn parts(&self, places: &mut Vec<Place>, shared: &mut Shared) -> Result<Parts<'a>, DecodeError> {
        places.clear();
        let mut reading = None;
        let found = (places, &mut *shared);
        self.walk(&mut Cursor::new(self.body), found, &mut reading).map_err(|source| self.bytes(reading, source))
    }

    /// Where it fails, `reading` is the column that was being read.
    fn walk(
        &self,
        cursor: &mut Cursor<'a>,
        (places, shared): (&mut Vec<Place>, &mut Shared),
        reading: &mut Option<&'a ColumnPlan>,
    ) -> Result<Parts<'a>, cursor::DecodeError> {
        let mut parts = Parts::default();
        for step in &self.plan.steps {
            match step {
                Step::Before(presence) => parts.before = self.place_row(*presence, cursor, places, reading)?,
                Step::After(presence) => parts.after = self.place_row(*presence, cursor, places, reading)?,
                Step::Op => parts.op = cursor.text()?,
                Step::Source(runs) => shared.read_source((runs, &self.plan.writer), cursor, &mut parts)?,
                Step::Transaction(presence, steps) => {
                    if presence.read(cursor)? {
                        parts.transaction = Some(self.transaction(steps, cursor)?);
                    }
                }
                Step::Skip(skip) => skip.run(&self.plan.writer, cursor)?,
            }
        }
        cursor.finish()?;
        Ok(parts)
    }

    /// Puts down where a row's columns lie, if there is one, and answers which place is the first.
    fn place_row(
        &self,
        presence: Presence,
        cursor: &mut Cursor<'a>,
        places: &mut Vec<Place>,
        reading: &mut Option<&'a ColumnPlan>,
    ) -> Result<Option<usize>, cursor::DecodeError> {
        if !presence.read(cursor)? {
            return Ok(None);
        }
        let first = places.len();
        // A copy stays in registers.
        let mut at = *cursor;
        for column in &self.plan.columns {
            places.push(column.place(&mut at).inspect_err(|_| *reading = Some(column))?);
        }
        *cursor = at;
        Ok(Some(first))
    }

    fn transaction(
        &self,
        steps: &[TransactionStep],
        cursor: &mut Cursor<'a>,
    ) -> Result<(&'a [u8], i64), cursor::DecodeError> {
        let (mut id, mut total_order) = (&[][..], 0);
        for step in steps {
            match step {
                TransactionStep::Id => id = cursor.text()?,
                TransactionStep::TotalOrder => total_order = cursor.long()?,
                TransactionStep::Skip(skip) => skip.run(&self.plan.writer, cursor)?,
            }
        }
        Ok((id, total_order))
    }
}
