//! A cursor over one message that checks every step and knows what it was reading.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use crate::lsn::Lsn;

/// Microseconds between the Unix epoch and PostgreSQL's (2000-01-01 00:00:00 UTC).
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Reads fields from the front of a message; integers are big-endian (manual, "Message Data Types").
#[derive(Debug)]
pub struct Reader {
    data: Bytes,
    offset: usize,
}

impl Reader {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(data: Bytes) -> Self {
        Self { data, offset: 0 }
    }

    /// Offset of the next byte.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.data.len() - self.offset
    }

    /// The next `len` bytes, as a slice of the message.
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<Bytes, Error> {
        let end = self.end_of(len, what)?;
        let slice = self.data.slice(self.offset..end);
        self.offset = end;
        Ok(slice)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Bytes {
        let slice = self.data.slice(self.offset..);
        self.offset = self.data.len();
        slice
    }

    /// Byte1 or Int8.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    /// Int16.
    pub fn i16(&mut self, what: &'static str) -> Result<i16, Error> {
        Ok(i16::from_be_bytes(self.array(what)?))
    }

    /// Int32, signed.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, Error> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    /// Int32 that holds an OID or a transaction id.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Int64 that holds an LSN.
    pub fn lsn(&mut self, what: &'static str) -> Result<Lsn, Error> {
        Ok(Lsn(u64::from_be_bytes(self.array(what)?)))
    }

    /// Int64 that holds microseconds since 2000-01-01, as microseconds since the Unix epoch.
    pub fn timestamp_us(&mut self, what: &'static str) -> Result<i64, Error> {
        let since_2000 = i64::from_be_bytes(self.array(what)?);
        Ok(since_2000.saturating_add(POSTGRES_EPOCH_US))
    }

    /// Int32 length that may not be negative.
    pub fn length(&mut self, what: &'static str) -> Result<usize, Error> {
        let offset = self.offset;
        let value = self.i32(what)?;
        usize::try_from(value).map_err(|_| Error::Undefined { what, offset, value: value.into() })
    }

    /// Int16 count that may not be negative.
    pub fn count(&mut self, what: &'static str) -> Result<usize, Error> {
        let offset = self.offset;
        let value = self.i16(what)?;
        usize::try_from(value).map_err(|_| Error::Undefined { what, offset, value: value.into() })
    }

    /// String: UTF-8 up to a zero byte.
    pub fn string(&mut self, what: &'static str) -> Result<Arc<str>, Error> {
        let offset = self.offset;
        let rest = self.data.get(offset..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == 0).ok_or(Error::Unterminated { what, offset })?;
        let text = rest.get(..len).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| Error::NotUtf8 { what, offset })?;
        let text = Arc::from(text);
        self.offset = offset + len + 1;
        Ok(text)
    }

    /// The error for a value at `offset` that the protocol does not define.
    #[must_use]
    pub const fn undefined(what: &'static str, offset: usize, value: i64) -> Error {
        Error::Undefined { what, offset, value }
    }

    /// Checks that the message ends here.
    pub fn finish(&self) -> Result<(), Error> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(Error::Trailing { offset: self.offset, extra }),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let end = self.end_of(N, what)?;
        let array = self.data.get(self.offset..end).and_then(|slice| slice.try_into().ok());
        self.offset = end;
        Ok(array.expect("end_of checked that N bytes are there"))
    }

    fn end_of(&self, len: usize, what: &'static str) -> Result<usize, Error> {
        let left = self.remaining();
        if len > left {
            return Err(Error::Truncated { what, offset: self.offset, needed: len, left });
        }
        Ok(self.offset + len)
    }
}
