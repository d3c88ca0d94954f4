//! A change event of its own, with the texts of its rows' values.

use std::cell::Cell as Slot;

use super::{
    column_plan::{ColumnPlan, Place, TextError},
    error::DecodeError,
    header_reader::NamedTexts,
    view::{EventView, Reading},
};
use crate::{
    avro::cursor::Cursor,
    event::{self, Cell, ChangeEvent, Op, Row, Span},
};

thread_local! {
    /// A row's texts and where they lie, before their number is known; kept, unless they are as large as few are.
    static BUFFERS: Slot<(Vec<u8>, Vec<Span>)> = const { Slot::new((Vec::new(), Vec::new())) };
}

/// The largest texts whose room is kept, in bytes: what the threads keep is in no budget.
const KEPT_BYTES: usize = 1 << 20;

impl EventView<'_> {
    /// The event with its rows as PostgreSQL's text.
    ///
    /// # Errors
    /// A value is not one that its column's type has, its text is longer than a row's may be, or its bytes are not what the schema
    /// says; or a header names a column that there is not.
    pub fn into_event(self) -> Result<ChangeEvent, DecodeError> {
        let Self { reading, shape, op, position, commit_ms, before, after } = self;
        let unchanged = reading.unchanged_columns()?;
        let texts = reading.headers.texts.as_ref();
        let row = |places: Option<_>, texts, unchanged| places.map(|places| reading.render(places, texts, unchanged));
        let mut before = row(before, texts.map(|texts| &texts.before), &[][..]).transpose()?;
        let after = row(after, texts.map(|texts| &texts.after), &unchanged).transpose()?;
        if let Some(before) = before.as_mut().filter(|_| !shape.key.is_empty()) {
            let others = before.iter_mut().enumerate().filter(|(index, _)| !shape.key.contains(index));
            others.filter(|(_, cell)| **cell == Cell::Null).for_each(|(_, cell)| *cell = Cell::Unchanged);
        }
        Ok(ChangeEvent {
            op,
            position,
            commit_ms,
            shape: shape.clone(),
            before,
            after,
            // Nobody sends the other half of a foreign move what it lacks.
            key_move: reading.headers.key_move && !reading.is_foreign(),
            moved_columns: if op == Op::Delete { unchanged } else { Vec::new() },
            backfilling: reading.headers.backfilling && !reading.is_foreign(),
            resync: reading.headers.resync.filter(|_| !reading.is_foreign()),
            barrier: reading.headers.barrier.clone(),
        })
    }
}

impl Reading<'_> {
    /// A row's cells.
    fn render(&self, places: &[Place], texts: Option<&NamedTexts>, unchanged: &[usize]) -> Result<Row, DecodeError> {
        let (mut arena, mut spans) = BUFFERS.take();
        arena.clear();
        spans.clear();
        let mut cells = self.plan.columns.iter().zip(places).enumerate().map(|(index, (column, place))| {
            if unchanged.contains(&index) {
                // What stands in for it is not looked at: the form of the values need not hold it.
                return Ok(Span::Unchanged);
            }
            match texts.and_then(|texts| texts.get(&*column.shape.name)) {
                None => self.span(column, *place, &mut arena),
                Some(None) => Ok(Span::Null),
                Some(Some(text)) => {
                    let start = arena.len();
                    arena.extend_from_slice(text.as_bytes());
                    self.text_since(start, column, &arena)
                }
            }
        });
        let outcome = cells.try_for_each(|span| span.map(|span| spans.push(span)));
        let row = outcome.map(|()| event::row(&arena, &spans));
        if arena.capacity() <= KEPT_BYTES {
            BUFFERS.set((arena, spans));
        }
        row
    }

    /// Where the text of a column lies, which is appended.
    fn span(&self, column: &ColumnPlan, place: Place, arena: &mut Vec<u8>) -> Result<Span, DecodeError> {
        let Place::At(offset) = place else { return Ok(Span::Null) };
        let found =
            column.value(&mut Cursor::at(self.body, offset)).map_err(|source| self.bytes(Some(column), source))?;
        if self.is_foreign() && column.is_placeholder(found, self.placeholder) {
            return Ok(Span::Unchanged);
        }
        let start = arena.len();
        column.append_text(found, arena, self.most).map_err(|error| match error {
            TextError::Render(source) => {
                let column = column.described();
                DecodeError::Render { topic: self.topic.to_owned(), column, source }
            }
            TextError::Beyond => self.oversized(column),
        })?;
        self.text_since(start, column, arena)
    }

    fn text_since(&self, start: usize, column: &ColumnPlan, arena: &[u8]) -> Result<Span, DecodeError> {
        let ends = u32::try_from(start).ok().zip(u32::try_from(arena.len()).ok());
        ends.map(|(start, end)| Span::Text(start, end)).ok_or_else(|| self.oversized(column))
    }

    fn oversized(&self, column: &ColumnPlan) -> DecodeError {
        let (topic, column) = (self.topic.to_owned(), column.described());
        DecodeError::Oversized { topic, column, most: self.most.min(u32::MAX as usize) }
    }
}
