//! Dead letters: what is kept of a change that no record of its table's topic can hold.
//!
//! A letter is JSON and not Avro: it holds rows of any table, and must not depend on a registry that may have refused them. Values
//! are PostgreSQL's own text, as far as there is any; objects in their place say why not. What is masked in records is not told at
//! all, and what they leave out neither.
//!
//! It fits whatever the topic takes: the largest values are cut first, then all columns, then the key.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    error::EncodeError,
    header::append_json_string,
    key,
    plan::Plan,
    row::{RowSource, with_text},
};
use crate::{
    event::{Datum, OldTuple, RecordBuf, RecordSpans, RowChange, TransactionMeta, Tuple},
    lsn::Position,
    types::{BinaryMode, append_encoded},
};

/// Characters of an error that are kept where nothing else has room.
const SHORT_ERROR: usize = 200;

/// A change that is left out.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// Of its table.
    pub plan: &'a Plan,
    /// Its transaction.
    pub transaction: &'a TransactionMeta,
    /// Its position.
    pub position: Position,
    /// What it is.
    pub change: &'a RowChange,
    /// Why no record of it could be published; without values.
    pub error: &'a str,
}

/// A column of a row in a letter.
struct Field {
    /// Its name and what stands for its value, as JSON.
    json: (Vec<u8>, Vec<u8>),
    /// Bytes of its value's text.
    size: usize,
}

impl Field {
    fn len(&self) -> usize {
        self.json.0.len() + self.json.1.len() + 2
    }

    fn cut(&self) -> Vec<u8> {
        mark("cut", self.size)
    }

    /// Bytes that are won by cutting it.
    fn gain(&self) -> usize {
        self.json.1.len().saturating_sub(self.cut().len())
    }
}

impl DeadLetter<'_> {
    /// Appends the letter as a record of at most `limit` bytes; `false`: not even its position has room in that.
    ///
    /// # Errors
    /// A value in binary that only the server can write the text of.
    pub fn encode(&self, limit: usize, out: &mut RecordBuf) -> Result<bool, EncodeError> {
        // What is masked in records is so before anything of it is looked at.
        let change = self.plan.masks.change(self.change);
        let (before, after) = rows(&change);
        let fallback = before.map(OldTuple::tuple);
        let is_whole = matches!(before, Some(OldTuple::Full(_)));
        let before = before.map(|old| self.fields((old.tuple(), None), is_whole, limit)).transpose()?;
        let after = after.map(|row| self.fields((row, fallback), true, limit)).transpose()?;
        let mut rows = [before, after];
        let mut key = self.key(&change).unwrap_or_default();
        let head = self.head(self.error);
        cut_largest(&mut rows, limit.saturating_sub(head.len() + key.len() + FRAME));
        let mut value = written(&head, &rows);
        if key.len() + value.len() > limit {
            let short: String = self.error.chars().take(SHORT_ERROR).collect();
            value = written(&self.head(&short), &[None, None]);
        }
        if key.len() + value.len() > limit {
            key.clear();
        }
        if value.len() > limit {
            return Ok(false);
        }
        append(&key, &value, out);
        Ok(true)
    }

    /// The row's key as its topic would have it; `None` if it has none, or one that cannot be written.
    fn key(&self, change: &RowChange) -> Option<Vec<u8>> {
        self.plan.key_schema.as_ref()?;
        let row = match change {
            RowChange::Read(row) | RowChange::Insert(row) => RowSource::new(self.plan, row, None),
            RowChange::Update { old, new } => RowSource::new(self.plan, new, old.as_ref().map(OldTuple::tuple)),
            RowChange::Delete(old) => RowSource::new(self.plan, old.tuple(), None),
        };
        let mut bytes = Vec::new();
        key::append(self.plan, row.ok()?, &mut Vec::new(), &mut bytes).ok()?;
        Some(bytes)
    }

    /// What a letter says beside the rows, without the brace that ends it.
    fn head(&self, error: &str) -> Vec<u8> {
        let Self { plan, transaction, position, change, .. } = self;
        let Position { epoch, commit, ordinal } = *position;
        let op = match change {
            RowChange::Read(_) => "r",
            RowChange::Insert(_) => "c",
            RowChange::Update { .. } => "u",
            RowChange::Delete(_) => "d",
        };
        let head = json!({
            "schema": &*plan.table.schema,
            "table": &*plan.table.table,
            "op": op,
            "position": format!("{epoch}:{}:{ordinal}", commit.0),
            "commit_us": transaction.commit_us,
            "transaction": transaction.xid,
            "error": error,
        });
        let mut text = head.to_string().into_bytes();
        text.pop();
        text
    }

    /// The columns that records have of a row; what the server sends as NULL of one that is not whole may be none. Values that are
    /// larger than `limit` are cut.
    fn fields(
        &self,
        (tuple, fallback): (&Tuple, Option<&Tuple>),
        is_whole: bool,
        limit: usize,
    ) -> Result<Vec<Field>, EncodeError> {
        let row = RowSource::new(self.plan, tuple, fallback)?;
        let mut fields = Vec::new();
        for (index, column) in self.plan.columns.iter().enumerate() {
            let datum = row.datum(index);
            if column.is_omitted || !is_whole && *datum == Datum::Null {
                continue;
            }
            let mut name = Vec::new();
            append_json_string(&column.name, &mut name);
            let (value, size) = match datum {
                _ if self.plan.masks.hides(index) => (b"{\"masked\":true}".to_vec(), 0),
                Datum::Null => (b"null".to_vec(), 0),
                Datum::Unchanged => (b"{\"unsent\":true}".to_vec(), 0),
                Datum::Text(text) => (text_json(text, limit), text.len()),
                Datum::Binary(bytes) => {
                    let text = |text: &[u8]| Ok((text_json(text, limit), text.len()));
                    match with_text(self.plan, column, bytes, text) {
                        // Its text is longer than any record.
                        Err(EncodeError::Long { .. }) => (mark("cut", bytes.len()), bytes.len()),
                        value => value?,
                    }
                }
            };
            fields.push(Field { json: (name, value), size });
        }
        Ok(fields)
    }
}

/// What is around the rows at most: their names, braces and commas.
const FRAME: usize = 32;

fn rows(change: &RowChange) -> (Option<&OldTuple>, Option<&Tuple>) {
    match change {
        RowChange::Read(row) | RowChange::Insert(row) => (None, Some(row)),
        RowChange::Update { old, new } => (old.as_ref(), Some(new)),
        RowChange::Delete(old) => (Some(old), None),
    }
}

/// A value as JSON. What is longer than everything that there is room for is not even written.
fn text_json(text: &[u8], limit: usize) -> Vec<u8> {
    let mut json = Vec::new();
    match std::str::from_utf8(text) {
        _ if text.len() > limit => json = mark("cut", text.len()),
        Ok(text) => append_json_string(text, &mut json),
        Err(_) => {
            json.extend_from_slice(b"{\"base64\":\"");
            append_encoded(text, BinaryMode::Base64, &mut json);
            json.extend_from_slice(b"\"}");
        }
    }
    json
}

fn mark(name: &str, bytes: usize) -> Vec<u8> {
    let mut json = String::new();
    write!(json, "{{\"{name}\":{bytes}}}").expect("a text never fails to be written");
    json.into_bytes()
}

/// Cuts the largest values until the rows have room in so many bytes, or nothing more is won.
fn cut_largest(rows: &mut [Option<Vec<Field>>], room: usize) {
    let mut fields: Vec<&mut Field> = rows.iter_mut().flatten().flatten().collect();
    let mut length: usize = fields.iter().map(|field| field.len()).sum();
    fields.sort_by_key(|field| std::cmp::Reverse(field.gain()));
    for field in fields {
        if length <= room || field.gain() == 0 {
            return;
        }
        length -= field.gain();
        field.json.1 = field.cut();
    }
}

fn written(head: &[u8], [before, after]: &[Option<Vec<Field>>; 2]) -> Vec<u8> {
    let mut value = head.to_vec();
    for (name, row) in [("before", before), ("after", after)] {
        let Some(fields) = row else { continue };
        value.extend_from_slice(format!(",\"{name}\":").as_bytes());
        let mut separator = b'{';
        for Field { json: (name, json), .. } in fields {
            value.push(std::mem::replace(&mut separator, b','));
            value.extend_from_slice(name);
            value.push(b':');
            value.extend_from_slice(json);
        }
        value.extend_from_slice(if fields.is_empty() { b"{}" } else { b"}" });
    }
    value.push(b'}');
    value
}

/// Letters without a key lie in one partition, in their order.
fn append(key: &[u8], value: &[u8], out: &mut RecordBuf) {
    let start = out.bytes.len();
    out.bytes.extend_from_slice(key);
    let middle = out.bytes.len();
    out.bytes.extend_from_slice(value);
    let headers = out.headers.len()..out.headers.len();
    let (key, partition) = if key.is_empty() { (None, Some(0)) } else { (Some(start..middle), None) };
    out.records.push(RecordSpans { key, value: Some(middle..out.bytes.len()), headers, partition });
}
