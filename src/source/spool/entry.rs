//! How one message lies in a transaction's stream of bytes: its length, its place in the WAL, its bytes as they came.
//!
//! A message that describes a relation or a type also has the number that it arrived under, by which it is known to be older or
//! newer than another.

use bytes::{Buf, Bytes, BytesMut};

use crate::lsn::Lsn;

/// Length (4 bytes), WAL position (8), arrival (8).
pub const HEADER: usize = 20;

/// A message on its way into the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its place in the WAL.
    pub wal_start: Lsn,
    /// Its number among all messages of the connection.
    pub arrival: u64,
    /// The plug-in's message.
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// What stands in front of the message.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        // PostgreSQL builds no message of 4 GB.
        let len = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        header[..4].copy_from_slice(&len.to_be_bytes());
        header[4..12].copy_from_slice(&self.wal_start.0.to_be_bytes());
        header[12..].copy_from_slice(&self.arrival.to_be_bytes());
        header
    }
}

/// A message that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its place in the WAL.
    pub wal_start: Lsn,
    /// Its number among all messages of the connection.
    pub arrival: u64,
    /// The plug-in's message.
    pub data: Bytes,
}

/// How many bytes the first entry takes; `None` if not even that is there.
#[must_use]
pub fn size(buffer: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*buffer.first_chunk()?);
    Some(HEADER + usize::try_from(len).unwrap_or(usize::MAX - HEADER))
}

/// Takes the first entry, if all of it is there.
pub fn take(buffer: &mut BytesMut) -> Option<Kept> {
    let size = size(buffer).filter(|size| *size <= buffer.len())?;
    let mut data = buffer.split_to(size).freeze();
    data.advance(4);
    let (wal_start, arrival) = (Lsn(data.get_u64()), data.get_u64());
    Some(Kept { wal_start, arrival, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_went_once_all_of_it_is_there() {
        let entry = Entry { wal_start: Lsn(7), arrival: 9, data: b"message" };
        let whole = [&entry.header()[..], entry.data].concat();
        for len in 0..whole.len() {
            assert_eq!(take(&mut BytesMut::from(&whole[..len])), None);
        }
        let mut buffer = BytesMut::from(&[&whole[..], b"next"].concat()[..]);
        let kept = Kept { wal_start: Lsn(7), arrival: 9, data: Bytes::from_static(b"message") };
        assert_eq!(take(&mut buffer), Some(kept));
        assert_eq!(&buffer[..], b"next");
    }
}
