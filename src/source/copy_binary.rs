//! Rows of COPY TO in binary format (manual, COPY, "Binary Format"): the values' own bytes.
//!
//! The server sends each row as a message, the first one behind the header, and the trailer as a message of its own. Only whole rows in a
//! message are relied on.

use bytes::{Buf as _, Bytes};

use crate::event::{Datum, Tuple};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Reads the messages of one COPY.
#[derive(Debug)]
pub struct BinaryRows {
    columns: usize,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Header,
    Row,
    Nothing,
}

impl BinaryRows {
    /// Of rows of so many columns.
    #[must_use]
    pub const fn new(columns: usize) -> Self {
        Self { columns, next: Next::Header }
    }

    /// Appends the rows of a message; an error says what is wrong with it, without its contents. Values are slices of the message.
    pub fn decode(&mut self, message: &Bytes, rows: &mut Vec<Tuple>) -> Result<(), &'static str> {
        let mut rest = message.clone();
        if self.next == Next::Header {
            read_header(&mut rest)?;
            self.next = Next::Row;
        }
        while !rest.is_empty() {
            if self.next == Next::Nothing {
                return Err("it goes on behind its end");
            }
            match rest.try_get_i16().map_err(|_short| SHORT)? {
                -1 => self.next = Next::Nothing,
                count if usize::try_from(count) == Ok(self.columns) => rows.push(self.row(&mut rest)?),
                _ => return Err("it does not have the number of columns that was asked for"),
            }
        }
        Ok(())
    }

    /// No message comes any more; an error if some of them are missing.
    pub fn end(&self) -> Result<(), &'static str> {
        if self.next == Next::Nothing { Ok(()) } else { Err("its end is missing") }
    }

    fn row(&self, rest: &mut Bytes) -> Result<Tuple, &'static str> {
        let mut tuple = Vec::with_capacity(self.columns);
        for _ in 0..self.columns {
            tuple.push(match rest.try_get_i32().map_err(|_short| SHORT)? {
                -1 => Datum::Null,
                length => Datum::Binary(take(rest, length)?),
            });
        }
        Ok(tuple)
    }
}

const SHORT: &str = "it ends inside a value";

/// The lower 16 flags may be ignored; of the others only "rows have OIDs" was ever used (below PostgreSQL 12).
fn read_header(rest: &mut Bytes) -> Result<(), &'static str> {
    if !rest.starts_with(SIGNATURE) {
        return Err("it does not begin as COPY's binary format does");
    }
    rest.advance(SIGNATURE.len());
    if rest.try_get_u32().map_err(|_short| SHORT)? >> 16 != 0 {
        return Err("its header has flags that are not known");
    }
    let length = rest.try_get_i32().map_err(|_short| SHORT)?;
    take(rest, length).map(drop)
}

fn take(rest: &mut Bytes, length: i32) -> Result<Bytes, &'static str> {
    let length = usize::try_from(length).map_err(|_negative| "a value has a negative length")?;
    if length > rest.len() { Err(SHORT) } else { Ok(rest.split_to(length)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(flags: u32, extension: &[u8]) -> Vec<u8> {
        let length = u32::try_from(extension.len()).unwrap();
        [SIGNATURE, &flags.to_be_bytes(), &length.to_be_bytes(), extension].concat()
    }

    /// What COPY TO writes (`CopyOneRowTo`).
    fn encode(row: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut bytes = i16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
        for value in row {
            let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
            bytes.extend(length.to_be_bytes());
            bytes.extend(value.iter().flatten());
        }
        bytes
    }

    fn decode(columns: usize, messages: &[Vec<u8>]) -> Result<Vec<Tuple>, &'static str> {
        let (mut reader, mut rows) = (BinaryRows::new(columns), Vec::new());
        for message in messages {
            reader.decode(&Bytes::from(message.clone()), &mut rows)?;
        }
        reader.end().map(|()| rows)
    }

    const TRAILER: [u8; 2] = [0xff, 0xff];

    type Row = Vec<Option<Vec<u8>>>;

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20));
        proptest::collection::vec(proptest::collection::vec(value, 3), 0..6)
    }

    proptest! {
        #[test]
        fn every_row_comes_back_byte_by_byte(rows in rows(), extension in proptest::collection::vec(any::<u8>(), 0..9)) {
            let expected: Vec<Tuple> = rows
                .iter()
                .map(|row| row.iter().map(|v| v.clone().map_or(Datum::Null, |v| Datum::Binary(v.into()))).collect())
                .collect();
            let mut messages: Vec<_> = rows.iter().map(|row| encode(row)).collect();
            messages.push(TRAILER.to_vec());
            messages[0].splice(0..0, header(0x0000_ffff, &extension));
            prop_assert_eq!(decode(3, &messages), Ok(expected.clone()));
            prop_assert_eq!(decode(3, &[messages.concat()]), Ok(expected));
            messages.pop();
            prop_assert!(decode(3, &messages).is_err(), "the trailer is missing");
        }

        #[test]
        fn a_message_that_is_cut_anywhere_is_an_error(rows in rows(), at in any::<prop::sample::Index>()) {
            let rows = rows.iter().map(|row| encode(row)).collect::<Vec<_>>().concat();
            let mut whole = [header(0, b""), rows, TRAILER.to_vec()].concat();
            whole.truncate(at.index(whole.len()));
            prop_assert!(decode(3, &[whole]).is_err());
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..50), columns in 0_usize..5) {
            let _ = decode(columns, std::slice::from_ref(&garbage));
            let _ = decode(columns, &[[header(0, b""), garbage].concat()]);
        }
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        let with_header = |rest: &[u8]| decode(1, &[[&header(0, b""), rest].concat()]);
        assert!(decode(1, &[header(1 << 16, b""), TRAILER.to_vec()]).is_err(), "rows with OIDs");
        assert!(with_header(&encode(&[None, None])).is_err(), "two columns");
        assert!(with_header(&[0, 1, 0xff, 0xff, 0xff, 0xfe]).is_err(), "a length of -2");
        assert!(with_header(&[0, 1, 0x7f, 0xff, 0xff, 0xff, 0]).is_err(), "a length beyond the message");
        assert!(with_header(&[TRAILER, TRAILER].concat()).is_err(), "two ends");
        assert!(with_header(&TRAILER).is_ok());
        assert_eq!(decode(0, &[header(0, b""), encode(&[]), TRAILER.to_vec()]), Ok(vec![vec![]]));
    }
}
