//! Arrays and `hstore`.

use super::{super::hstore::append_pair, BinaryCodec, BinaryError, Reader, append_item};

/// PostgreSQL has no more dimensions (`MAXDIM`).
const MOST_DIMENSIONS: usize = 6;

/// Dimensions, whether there are nulls, the items' OID; per dimension its length and lower bound; the items.
pub(super) fn array(reader: &mut Reader<'_>, item: &BinaryCodec, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let wrong = BinaryError("array");
    let count = reader.i32()?;
    let (_nulls, _oid) = (reader.i32()?, reader.u32()?);
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST_DIMENSIONS).ok_or(wrong)?;
    let (mut lengths, mut bounds) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        lengths.push(usize::try_from(reader.i32()?).map_err(|_| wrong)?);
        bounds.push(reader.i32()?);
    }
    let all = lengths.iter().try_fold(1_usize, |all, length| all.checked_mul(*length)).ok_or(wrong)?;
    if all == 0 || count == 0 {
        out.extend_from_slice(b"{}");
        return Ok(());
    }
    if bounds.iter().any(|bound| *bound != 1) {
        for (length, bound) in lengths.iter().zip(&bounds) {
            let upper = i64::from(*bound) + i64::try_from(*length).map_err(|_| wrong)? - 1;
            out.extend_from_slice(format!("[{bound}:{upper}]").as_bytes());
        }
        out.push(b'=');
    }
    items(reader, item, &lengths, &mut Vec::new(), out)
}

fn items(
    reader: &mut Reader<'_>,
    item: &BinaryCodec,
    lengths: &[usize],
    text: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), BinaryError> {
    let [length, inner @ ..] = lengths else { return Ok(()) };
    out.push(b'{');
    for index in 0..*length {
        if index > 0 {
            out.push(b',');
        }
        if !inner.is_empty() {
            items(reader, item, inner, text, out)?;
            continue;
        }
        match reader.sized()? {
            Some(bytes) => {
                text.clear();
                item.append_text(bytes, text)?;
                append_item(text, out);
            }
            None => out.extend_from_slice(b"NULL"),
        }
    }
    out.push(b'}');
    Ok(())
}

/// How many pairs; of each the key, and the value unless it is NULL.
pub(super) fn hstore(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let wrong = BinaryError("hstore");
    let start = out.len();
    for _ in 0..reader.count(8)? {
        let key = reader.sized()?.ok_or(wrong)?;
        let value = reader.sized()?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| wrong);
        append_pair(text(key)?, value.map(text).transpose()?, start, out);
    }
    Ok(())
}
