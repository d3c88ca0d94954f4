//! Which rows a change touches, and what an update that lacks columns says of its row: for rows that are read beside the stream.

use bytes::Bytes;

use super::{
    error::EncodeError,
    key,
    plan::Plan,
    row::{RowSource, differs_beyond_key_bytes, with_text},
};
use crate::event::{Datum, OldTuple, RowChange, Tuple};

/// What a change does to the rows of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRow {
    /// The key of a row that is no longer there under it.
    pub gone: Option<Vec<u8>>,
    /// The key of the row afterwards.
    pub key: Option<Vec<u8>>,
    /// What is known of the row afterwards, if that is not all.
    pub partial: Option<PartialRow>,
}

/// A row some of whose columns were not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRow {
    /// The columns that were.
    pub row: Tuple,
    /// The key's values as text, in key order.
    pub key: Vec<String>,
}

impl PartialRow {
    /// Puts what it knows into the row that it changes.
    pub fn change(&self, row: &mut Tuple) {
        for (column, new) in row.iter_mut().zip(&self.row) {
            if *new != Datum::Unchanged {
                new.clone_into(column);
            }
        }
    }
}

impl ChangedRow {
    /// The key of a row.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn key(plan: &Plan, row: &Tuple) -> Result<Vec<u8>, EncodeError> {
        key_of(plan, RowSource::new(plan, row, None)?)
    }

    /// Of a change of a table with a key.
    ///
    /// # Errors
    /// The key cannot be encoded.
    pub fn of(plan: &Plan, change: &RowChange) -> Result<Self, EncodeError> {
        match change {
            RowChange::Read(tuple) | RowChange::Insert(tuple) => {
                let row = RowSource::new(plan, tuple, None)?;
                let partial = is_partial(plan, row).then(|| partial(plan, row)).transpose()?;
                Ok(Self { gone: None, key: Some(key_of(plan, row)?), partial })
            }
            RowChange::Delete(old) => {
                let row = RowSource::new(plan, old.tuple(), None)?;
                Ok(Self { gone: Some(key_of(plan, row)?), key: None, partial: None })
            }
            RowChange::Update { old, new } => {
                let row = RowSource::new(plan, new, old.as_ref().map(OldTuple::tuple))?;
                let key = key_of(plan, row)?;
                let before = old.as_ref().map(|old| RowSource::new(plan, old.tuple(), None)).transpose()?;
                let before = before.map(|before| key_of(plan, before)).transpose()?;
                let partial = is_partial(plan, row).then(|| partial(plan, row)).transpose()?;
                Ok(Self { gone: before.filter(|before| *before != key), key: Some(key), partial })
            }
        }
    }
}

/// How many ordinals a change takes, also one that cannot be written: two where the row has moved to another key, else one.
///
/// # Errors
/// A key in binary that only the server can write the text of: it may be two as text.
pub fn ordinals(plan: &Plan, change: &RowChange) -> Result<u64, EncodeError> {
    let change = plan.masks.change(change);
    let RowChange::Update { old: Some(old), new } = &*change else { return Ok(1) };
    let rows = RowSource::new(plan, old.tuple(), None).and_then(|before| {
        let after = RowSource::new(plan, new, Some(old.tuple()))?;
        Ok((key_of(plan, before)?, before, after))
    });
    let (key, before, after) = match rows {
        Ok(rows) => rows,
        Err(error @ EncodeError::Binary { .. }) => return Err(error),
        Err(_) => return Ok(1),
    };
    let is_same = match key_of(plan, after) {
        Ok(other) => other == key && !differs_beyond_key_bytes(plan, before, after),
        Err(error @ EncodeError::Binary { .. }) => return Err(error),
        // One that cannot be written is another one.
        Err(_) => false,
    };
    Ok(if is_same { 1 } else { 2 })
}

fn key_of(plan: &Plan, row: RowSource<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    key::append(plan, row, &mut Vec::new(), &mut bytes)?;
    Ok(bytes)
}

fn is_partial(plan: &Plan, row: RowSource<'_>) -> bool {
    let unsent = |index| matches!(row.datum(index), Datum::Unchanged);
    plan.columns.iter().enumerate().any(|(index, column)| !column.is_omitted && unsent(index))
}

fn partial(plan: &Plan, row: RowSource<'_>) -> Result<PartialRow, EncodeError> {
    let mut key = Vec::with_capacity(plan.key.len());
    for part in &plan.key {
        let Some(column) = plan.columns.get(part.index) else { continue };
        let text = |text: &[u8]| Ok(String::from_utf8_lossy(text).into_owned());
        let text = match row.datum(part.index) {
            Datum::Text(bytes) => text(bytes)?,
            Datum::Binary(bytes) => with_text(plan, column, bytes, text)?,
            // Without a value the key could not be encoded either.
            Datum::Null | Datum::Unchanged => String::new(),
        };
        key.push(text);
    }
    let row = (0..plan.columns.len()).map(|index| own(row.datum(index))).collect();
    Ok(PartialRow { row, key })
}

/// The value in memory of its own: what it is a slice of holds others.
fn own(datum: &Datum) -> Datum {
    match datum {
        Datum::Null => Datum::Null,
        Datum::Unchanged => Datum::Unchanged,
        Datum::Text(text) => Datum::Text(Bytes::copy_from_slice(text)),
        Datum::Binary(bytes) => Datum::Binary(Bytes::copy_from_slice(bytes)),
    }
}
