//! Arrays and `hstore`.

use std::fmt::Write;

use super::{
    error::{AppendPart, BinaryError},
    reader::Reader,
};
use crate::types::{array::quote_item, hstore::append_pair, value::ShortText};

/// PostgreSQL has no more dimensions (`MAXDIM`).
const MOST_DIMENSIONS: usize = 6;

/// Dimensions, whether there are nulls, the items' OID; per dimension its length and lower bound; the items.
pub(super) fn array(reader: &mut Reader<'_>, item: AppendPart<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let wrong = BinaryError::Bytes("array");
    let count = reader.i32()?;
    let (_nulls, _oid) = (reader.i32()?, reader.u32()?);
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST_DIMENSIONS).ok_or(wrong)?;
    let mut dimensions = [(0, 0); MOST_DIMENSIONS];
    let dimensions = dimensions.get_mut(..count).ok_or(wrong)?;
    for (length, bound) in dimensions.iter_mut() {
        *length = usize::try_from(reader.i32()?).map_err(|_| wrong)?;
        *bound = reader.i32()?;
    }
    if dimensions.iter().any(|(length, _)| *length == 0) || count == 0 {
        out.extend_from_slice(b"{}");
        return Ok(());
    }
    if dimensions.iter().any(|(_, bound)| *bound != 1) {
        for (length, bound) in dimensions.iter() {
            let upper = i64::from(*bound) + i64::try_from(*length).map_err(|_| wrong)? - 1;
            let mut text = ShortText::new();
            write!(text, "[{bound}:{upper}]").map_err(|_| wrong)?;
            out.extend_from_slice(text.as_bytes());
        }
        out.push(b'=');
    }
    items(reader, item, dimensions, out)
}

/// One dimension's items: arrays of the inner ones, or values.
fn items(
    reader: &mut Reader<'_>,
    item: AppendPart<'_>,
    dimensions: &[(usize, i32)],
    out: &mut Vec<u8>,
) -> Result<(), BinaryError> {
    let [(length, _), inner @ ..] = dimensions else { return Ok(()) };
    out.push(b'{');
    for index in 0..*length {
        if index > 0 {
            out.push(b',');
        }
        if !inner.is_empty() {
            items(reader, item, inner, out)?;
            continue;
        }
        match reader.sized()? {
            Some(bytes) => {
                let start = out.len();
                item(bytes, out)?;
                quote_item(start, out);
            }
            None => out.extend_from_slice(b"NULL"),
        }
    }
    out.push(b'}');
    Ok(())
}

/// How many pairs; of each the key, and the value unless it is NULL.
pub(super) fn hstore(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let wrong = BinaryError::Bytes("hstore");
    let start = out.len();
    for _ in 0..reader.count(8)? {
        let key = reader.sized()?.ok_or(wrong)?;
        let value = reader.sized()?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| wrong);
        append_pair(text(key)?, value.map(text).transpose()?, start, out);
    }
    Ok(())
}
