//! Ranges and multiranges.

use super::{
    error::{AppendPart, BinaryError},
    reader::Reader,
};
use crate::types::array::quote;

const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;

/// Flags, and the bounds that are there.
pub(super) fn range(reader: &mut Reader<'_>, bound: AppendPart<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let flags = reader.u8()?;
    let has = |flag: u8| flags & flag != 0;
    if has(EMPTY) {
        out.extend_from_slice(b"empty");
        return Ok(());
    }
    out.push(if has(LOWER_INCLUSIVE) { b'[' } else { b'(' });
    if !has(LOWER_INFINITE) {
        append_bound(reader, bound, out)?;
    }
    out.push(b',');
    if !has(UPPER_INFINITE) {
        append_bound(reader, bound, out)?;
    }
    out.push(if has(UPPER_INCLUSIVE) { b']' } else { b')' });
    Ok(())
}

/// A bound's text, quoted as the server quotes it.
fn append_bound(reader: &mut Reader<'_>, bound: AppendPart<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let start = out.len();
    bound(reader.sized()?.ok_or(BinaryError::Bytes("range"))?, out)?;
    let text = out.get(start..).unwrap_or_default();
    let special = |byte: &u8| b"\"\\()[],".contains(byte) || byte.is_ascii_whitespace() || *byte == 0x0B;
    if text.is_empty() || text.iter().any(special) {
        quote(start, |byte| byte, out);
    }
    Ok(())
}

/// How many, and the ranges.
pub(super) fn multirange(reader: &mut Reader<'_>, range: AppendPart<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    out.push(b'{');
    for index in 0..reader.count(5)? {
        if index > 0 {
            out.push(b',');
        }
        range(reader.sized()?.ok_or(BinaryError::Bytes("multirange"))?, out)?;
    }
    out.push(b'}');
    Ok(())
}
