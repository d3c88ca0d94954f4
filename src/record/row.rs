//! A tuple as the Avro record `Value`.

use std::cell::Cell;

use crate::{
    avro::encode,
    event::{Datum, Tuple},
    record::{
        error::EncodeError,
        header,
        key_form::KeyColumn,
        plan::{Plan, PlanColumn},
    },
    types::{BinaryError, Parsed, Value},
};

/// The columns of a changed row: what UPDATE did not send is taken from the old row, where that has it (trap T27).
#[derive(Clone, Copy)]
pub(super) struct RowSource<'a> {
    tuple: &'a Tuple,
    fallback: Option<&'a Tuple>,
}

impl<'a> RowSource<'a> {
    /// A row of the plan's relation.
    pub(super) fn new(plan: &Plan, tuple: &'a Tuple, fallback: Option<&'a Tuple>) -> Result<Self, EncodeError> {
        for tuple in std::iter::once(tuple).chain(fallback) {
            if tuple.len() != plan.columns.len() {
                let (expected, actual) = (plan.columns.len(), tuple.len());
                return Err(EncodeError::Width { table: plan.table.clone(), expected, actual });
            }
        }
        Ok(Self { tuple, fallback })
    }

    /// A column's datum. A key tuple is NULL in its other columns, so only a value counts as having one.
    #[inline]
    pub(super) fn datum(&self, index: usize) -> &'a Datum {
        match self.tuple.get(index) {
            Some(unchanged @ Datum::Unchanged) => match self.fallback.and_then(|fallback| fallback.get(index)) {
                Some(old @ (Datum::Text(_) | Datum::Binary(_))) => old,
                _ => unchanged,
            },
            Some(datum) => datum,
            None => &Datum::Null,
        }
    }
}

/// Appends the names of the columns without a value as items of a JSON array.
pub(super) fn append_unchanged_names(plan: &Plan, row: RowSource<'_>, names: &mut Vec<u8>) {
    for (index, column) in plan.columns.iter().enumerate() {
        if !column.is_omitted && matches!(row.datum(index), Datum::Unchanged) {
            header::append_json_item(&column.name, names);
        }
    }
}

/// Appends the record `Value` of these columns of the plan; `texts` gets the items of a JSON object for columns that Avro cannot
/// hold.
pub(super) fn append(
    plan: &Plan,
    columns: &[PlanColumn],
    row: RowSource<'_>,
    texts: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    for (index, column) in columns.iter().enumerate().filter(|(_, column)| !column.is_omitted) {
        match row.datum(index) {
            Datum::Null | Datum::Unchanged if column.is_key => return Err(key_missing(plan, column)),
            Datum::Null => append_null(column, texts, out),
            Datum::Unchanged => out.extend_from_slice(&column.unsent),
            Datum::Text(text) => append_text(plan, column, text, texts, scratch, out)?,
            Datum::Binary(bytes) => append_binary(plan, column, bytes, texts, scratch, out)?,
        }
    }
    Ok(())
}

thread_local! {
    /// The text of a value in binary; kept, so that no value needs an allocation of its own, unless it is as large as few are.
    static TEXT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The largest text whose room is kept, in bytes: what the threads keep is in no budget.
const KEPT_BYTES: usize = 1 << 20;

/// Calls `with` with the text of a value in binary.
pub(super) fn with_text<T>(
    plan: &Plan,
    column: &PlanColumn,
    bytes: &[u8],
    with: impl FnOnce(&[u8]) -> Result<T, EncodeError>,
) -> Result<T, EncodeError> {
    let mut text = TEXT.take();
    text.clear();
    let read = match &column.binary {
        Some(codec) => codec.append_text(bytes, &mut text).map_err(Some),
        None => Err(None),
    };
    let outcome = match read {
        Ok(()) => with(&text),
        Err(source) => Err(binary(plan, column, source)),
    };
    if text.capacity() <= KEPT_BYTES {
        TEXT.set(text);
    }
    outcome
}

fn append_binary(
    plan: &Plan,
    column: &PlanColumn,
    bytes: &[u8],
    texts: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let direct = column.binary.as_ref().and_then(|codec| column.codec.parse_binary(bytes, codec));
    let Some(Parsed::Value(value)) = &direct else {
        return with_text(plan, column, bytes, |text| append_text(plan, column, text, texts, scratch, out));
    };
    column.append_branch(out);
    encode::value(value, scratch, out);
    Ok(())
}

fn append_text(
    plan: &Plan,
    column: &PlanColumn,
    text: &[u8],
    texts: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let not_utf8 = |source| not_utf8(plan, column, source);
    if let Some(value) = column.codec.parse_simple(text).map_err(not_utf8)? {
        column.append_branch(out);
        encode::simple(value, out);
        return Ok(());
    }
    // Borrowed, since a value is as large as several words.
    let parsed = &column.codec.parse(text);
    let parsed = parsed.as_ref().map_err(|source| not_utf8(*source))?;
    if !matches!(parsed, Parsed::Value(_)) {
        header::append_json_item(&column.name, texts);
        texts.push(b':');
        header::append_json_string(std::str::from_utf8(text).map_err(not_utf8)?, texts);
    }
    match parsed {
        Parsed::Value(value) | Parsed::Lossy(value) => {
            column.append_branch(out);
            encode::value(value, scratch, out);
        }
        Parsed::Unrepresentable { stand_in } if column.is_required() => encode::value(stand_in, scratch, out),
        Parsed::Unrepresentable { .. } => out.extend_from_slice(&column.null),
    }
    Ok(())
}

/// A field that cannot be null has a fallback, one with a default has that, and `texts` tells that it is NULL.
fn append_null(column: &PlanColumn, texts: &mut Vec<u8>, out: &mut Vec<u8>) {
    if column.tells_null {
        header::append_json_item(&column.name, texts);
        texts.extend_from_slice(b":null");
    }
    out.extend_from_slice(&column.null);
}

/// Calls `with` with the canonical value of a key column.
pub(super) fn with_key_value<T>(
    plan: &Plan,
    row: RowSource<'_>,
    key: &KeyColumn,
    with: impl FnOnce(Value<'_>) -> T,
) -> Result<T, EncodeError> {
    let index = key.index;
    let column = plan.columns.get(index).ok_or_else(|| EncodeError::Width {
        table: plan.table.clone(),
        expected: index + 1,
        actual: plan.columns.len(),
    })?;
    let datum = row.datum(index);
    let direct = |bytes| column.binary.as_ref().and_then(|codec| key.codec.parse_binary_key(bytes, codec));
    if let Datum::Binary(bytes) = datum
        && let Some(Parsed::Value(value)) = direct(bytes)
    {
        return Ok(with(value));
    }
    let of_text = |text: &[u8]| match key.codec.parse_key(text).map_err(|source| not_utf8(plan, column, source))? {
        Parsed::Value(value) | Parsed::Lossy(value) | Parsed::Unrepresentable { stand_in: value } => Ok(with(value)),
    };
    match datum {
        Datum::Text(text) => of_text(text),
        Datum::Binary(bytes) => with_text(plan, column, bytes, of_text),
        Datum::Null | Datum::Unchanged => Err(key_missing(plan, column)),
    }
}

/// Calls `with` with the text of a key column; `None` where it has no value.
fn with_key_text<T>(
    plan: &Plan,
    key: &KeyColumn,
    datum: &Datum,
    with: impl FnOnce(Option<&[u8]>) -> Result<T, EncodeError>,
) -> Result<T, EncodeError> {
    match (datum, plan.columns.get(key.index)) {
        (Datum::Text(text), _) => with(Some(text)),
        (Datum::Binary(bytes), Some(column)) => with_text(plan, column, bytes, |text| with(Some(text))),
        _ => with(None),
    }
}

/// Whether two keys of the same bytes are different rows: their columns differ in what Avro's type cannot hold, of one of
/// them or of both. Where it holds both exactly, they are equal in two notations. Their texts decide, since equal values may
/// have other bytes in binary: an array tells whether it had a NULL once.
pub(super) fn differs_beyond_key_bytes(plan: &Plan, before: RowSource<'_>, after: RowSource<'_>) -> bool {
    let differ = |key: &KeyColumn, before: Option<&[u8]>, after: Option<&[u8]>| {
        let is_exact =
            |text: Option<&[u8]>| text.is_none_or(|text| matches!(key.codec.parse_key(text), Ok(Parsed::Value(_))));
        before != after && !(is_exact(before) && is_exact(after))
    };
    plan.key.iter().any(|key| {
        let (before, after) = (before.datum(key.index), after.datum(key.index));
        let by_text = || {
            with_key_text(plan, key, before, |before| {
                with_key_text(plan, key, after, |after| Ok(differ(key, before, after)))
            })
        };
        before != after && by_text().unwrap_or(true)
    })
}

fn not_utf8(plan: &Plan, column: &PlanColumn, source: std::str::Utf8Error) -> EncodeError {
    let (column, ty) = (column.name.to_string(), column.sql.to_string());
    EncodeError::NotUtf8 { table: plan.table.clone(), column, ty, source }
}

fn key_missing(plan: &Plan, column: &PlanColumn) -> EncodeError {
    EncodeError::KeyMissing { table: plan.table.clone(), column: column.name.to_string() }
}

fn binary(plan: &Plan, column: &PlanColumn, source: Option<BinaryError>) -> EncodeError {
    let (table, column, ty) = (plan.table.clone(), column.name.to_string(), column.sql.to_string());
    match source {
        Some(BinaryError::Long) => EncodeError::Long { table, column, ty },
        source => EncodeError::Binary { table, column, ty, source },
    }
}
