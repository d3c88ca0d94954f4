//! What the events of one transaction have in common in their bytes, read once for all of them.
//!
//! In the source block of a table's events only `sequence` and `lsn` differ from one event of a transaction to the next, and
//! the id of their transaction block is the same. Equal bytes under one schema are equal values, so that what they told the
//! last time is known when they come again.

use std::ops::Range;

use super::{
    decode_plan::{SourceRun, SourceStep},
    parts::Parts,
    source::position_of_block,
};
use crate::{
    avro::{
        cursor::{Cursor, DecodeError},
        writer::Writer,
    },
    lsn::Position,
};

/// Bytes of a run that are kept: names have 63 at most (manual, "Identifiers and Key Words"), and what is kept is in no budget.
const MOST: usize = 1024;

/// What was read last under a schema.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// By the runs of the source block.
    runs: Vec<Told>,
    /// The id of a transaction block, and the position that it told.
    transaction: Option<(Vec<u8>, Position)>,
}

/// The bytes of one run, and what they told; none before the first.
#[derive(Debug, Default)]
struct Told {
    bytes: Vec<u8>,
    commit_ms: Option<i64>,
    schema: Option<Range<usize>>,
    table: Option<Range<usize>>,
}

impl Shared {
    /// Reads the source block.
    pub(super) fn read_source<'a>(
        &mut self,
        (runs, writer): (&[SourceRun], &Writer),
        cursor: &mut Cursor<'a>,
        parts: &mut Parts<'a>,
    ) -> Result<(), DecodeError> {
        if self.runs.len() < runs.len() {
            self.runs.resize_with(runs.len(), Told::default);
        }
        for (run, told) in runs.iter().zip(&mut self.runs) {
            match run {
                SourceRun::OfEvent(skip) => skip.run(writer, cursor)?,
                SourceRun::Shared(steps) => match told.strip(cursor) {
                    Some(bytes) => told.tell(bytes, parts),
                    None => *told = Told::read((steps, writer), cursor, parts, std::mem::take(&mut told.bytes))?,
                },
            }
        }
        Ok(())
    }

    /// The position that a transaction block tells, or `None` if its id is not one of ours.
    pub(super) fn position(&mut self, id: &[u8], total_order: i64) -> Option<Position> {
        match (&self.transaction, u64::try_from(total_order)) {
            (Some((last, position)), Ok(ordinal)) if last.as_slice() == id => Some(Position { ordinal, ..*position }),
            _ => {
                let position = position_of_block(id, total_order)?;
                let (mut kept, _) = self.transaction.take().unwrap_or((Vec::new(), position));
                kept.clear();
                kept.extend_from_slice(id);
                self.transaction = Some((kept, position));
                Some(position)
            }
        }
    }
}

impl Told {
    /// The run's bytes, if they are the same again; the cursor is moved past them then.
    #[inline]
    fn strip<'a>(&self, cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
        if self.bytes.is_empty() { None } else { cursor.strip(&self.bytes) }
    }

    /// Tells it again of the same bytes.
    #[inline]
    fn tell<'a>(&self, bytes: &'a [u8], parts: &mut Parts<'a>) {
        let slice = |range: &Option<Range<usize>>| range.clone().and_then(|range| bytes.get(range));
        if let Some(commit_ms) = self.commit_ms {
            parts.commit_ms = commit_ms;
        }
        if let Some(schema) = slice(&self.schema) {
            parts.schema = schema;
        }
        if let Some(table) = slice(&self.table) {
            parts.table = table;
        }
    }

    /// Reads a run step by step; its bytes are put into `kept`.
    fn read<'a>(
        (steps, writer): (&[SourceStep], &Writer),
        cursor: &mut Cursor<'a>,
        parts: &mut Parts<'a>,
        mut kept: Vec<u8>,
    ) -> Result<Self, DecodeError> {
        let (mut told, start) = (Self::default(), *cursor);
        let range = |text: &[u8], end: &Cursor<'_>| {
            let end = end.offset() - start.offset();
            Some(end - text.len()..end)
        };
        for step in steps {
            match step {
                SourceStep::TsMs(presence) if presence.read(cursor)? => {
                    parts.commit_ms = cursor.long()?;
                    told.commit_ms = Some(parts.commit_ms);
                }
                SourceStep::Schema(presence) if presence.read(cursor)? => {
                    parts.schema = cursor.text()?;
                    told.schema = range(parts.schema, cursor);
                }
                SourceStep::Table(presence) if presence.read(cursor)? => {
                    parts.table = cursor.text()?;
                    told.table = range(parts.table, cursor);
                }
                SourceStep::Skip(skip) => skip.run(writer, cursor)?,
                SourceStep::TsMs(_) | SourceStep::Schema(_) | SourceStep::Table(_) => {}
            }
        }
        kept.clear();
        let bytes = start.until(cursor);
        if bytes.len() <= MOST {
            kept.extend_from_slice(bytes);
        }
        Ok(Self { bytes: kept, ..told })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        avro::encode,
        lsn::Lsn,
        record::{decode_plan::source_runs, source::compose_sequence},
    };

    const SOURCE: &str = r#"{"type":"record","name":"Source","fields":[
        {"name":"version","type":"string"},{"name":"ts_ms","type":"long"},{"name":"sequence","type":["null","string"]},
        {"name":"schema","type":"string"},{"name":"table","type":["null","string"]},{"name":"lsn","type":["null","long"]},
        {"name":"xmin","type":["null","long"]}]}"#;

    /// What a source block tells; other events of the same or another transaction, of the same or another table.
    type Told = (i64, u64, &'static str, Option<&'static str>);

    fn told() -> impl Strategy<Value = Told> {
        // A name that another begins with, one that is empty, and one that is too long to be kept.
        let names = prop::sample::select(vec!["", "a", "ab", "public", Box::leak("x".repeat(MOST).into_boxed_str())]);
        (prop::sample::select(vec![0, 1, 64, i64::MAX]), 0..3_u64, names.clone(), prop::option::of(names))
    }

    fn block((ts_ms, lsn, schema, table): Told) -> Vec<u8> {
        let (mut out, mut sequence) = (Vec::new(), Vec::new());
        encode::string("1", &mut out);
        encode::long(ts_ms, &mut out);
        compose_sequence(None, Lsn(lsn), &mut sequence);
        encode::optional_string(std::str::from_utf8(&sequence).ok(), &mut out);
        encode::string(schema, &mut out);
        encode::optional_string(table, &mut out);
        encode::optional_long(Some(lsn.cast_signed()), &mut out);
        encode::optional_long(None, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_block_tells_the_same_after_any_other(blocks in prop::collection::vec((told(), any::<bool>()), 1..20)) {
            let writer = Writer::parse(SOURCE).unwrap();
            let runs = source_runs(&writer, &writer.root).unwrap();
            let mut shared = Shared::default();
            for (told, whole) in blocks {
                let bytes = block(told);
                if !whole {
                    let mut cursor = Cursor::new(&bytes[..bytes.len() / 2]);
                    shared.read_source((&runs, &writer), &mut cursor, &mut Parts::default()).unwrap_err();
                }
                let (mut cursor, mut parts) = (Cursor::new(&bytes), Parts::default());
                shared.read_source((&runs, &writer), &mut cursor, &mut parts).unwrap();
                cursor.finish().unwrap();
                let (ts_ms, _, schema, table) = told;
                let expected = (ts_ms, schema.as_bytes(), table.unwrap_or_default().as_bytes());
                prop_assert_eq!((parts.commit_ms, parts.schema, parts.table), expected);
            }
        }

        #[test]
        fn a_position_is_that_of_its_own_block(
            blocks in prop::collection::vec(("([1-3]|snapshot):[1-3](:[1-3])?|x:1", -1..4_i64), 1..20),
        ) {
            let mut shared = Shared::default();
            for (id, total_order) in blocks {
                let id = id.as_bytes();
                prop_assert_eq!(shared.position(id, total_order), position_of_block(id, total_order));
            }
        }
    }
}
