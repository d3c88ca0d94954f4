//! TupleData: the columns of one row (manual, "Logical Replication Message Formats").

use super::{error::Error, reader::Reader};
use crate::event::{Datum, OldTuple, Tuple};

/// Reads TupleData: Int16 column count, then a kind byte and, for values, a length and the bytes.
pub fn read_tuple(reader: &mut Reader) -> Result<Tuple, Error> {
    let count = reader.count("column count")?;
    // One byte is the least that a column takes, so a garbage count allocates no more than the message's own size.
    let mut columns = Vec::with_capacity(count.min(reader.remaining()));
    for _ in 0..count {
        columns.push(read_datum(reader)?);
    }
    Ok(columns)
}

/// Reads the old row behind its kind byte (`K` or `O`), which stood at `offset`.
pub fn read_old_tuple(reader: &mut Reader, kind: u8, offset: usize) -> Result<OldTuple, Error> {
    match kind {
        b'K' => Ok(OldTuple::Key(read_tuple(reader)?)),
        b'O' => Ok(OldTuple::Full(read_tuple(reader)?)),
        other => Err(Reader::undefined("tuple kind", offset, other.into())),
    }
}

fn read_datum(reader: &mut Reader) -> Result<Datum, Error> {
    let offset = reader.offset();
    match reader.u8("column kind")? {
        b'n' => Ok(Datum::Null),
        b'u' => Ok(Datum::Unchanged),
        b't' => Ok(Datum::Text(read_value(reader)?)),
        b'b' => Ok(Datum::Binary(read_value(reader)?)),
        other => Err(Reader::undefined("column kind", offset, other.into())),
    }
}

fn read_value(reader: &mut Reader) -> Result<bytes::Bytes, Error> {
    let len = reader.length("column length")?;
    reader.bytes(len, "column value")
}
