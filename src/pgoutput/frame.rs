//! What travels inside CopyData while a slot is streamed (manual, "Streaming Replication Protocol").

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    error::Error,
    reader::{POSTGRES_EPOCH_US, Reader},
};
use crate::lsn::Lsn;

/// A CopyData payload from the walsender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// `w`: one message of the output plug-in.
    XLogData {
        /// WAL position of the message; for a Commit the end of the transaction.
        wal_start: Lsn,
        /// The server's idea of the end of WAL; for logical slots the same as `wal_start`.
        wal_end: Lsn,
        /// When it was sent, in microseconds since the Unix epoch, by the server's clock.
        sent_us: i64,
        /// The plug-in's message.
        data: Bytes,
    },
    /// `k`: the server is alive.
    Keepalive {
        /// Everything before this position has been decoded and what was to send has been sent (trap T8).
        wal_end: Lsn,
        /// When it was sent, in microseconds since the Unix epoch, by the server's clock.
        sent_us: i64,
        /// The server wants a status update at once, or it will close the connection.
        reply_requested: bool,
    },
}

impl Frame {
    /// Reads a CopyData payload.
    pub fn parse(payload: Bytes) -> Result<Self, Error> {
        let mut reader = Reader::new(payload);
        match reader.u8("frame type")? {
            b'w' => Ok(Self::XLogData {
                wal_start: reader.lsn("start of the WAL data")?,
                wal_end: reader.lsn("end of WAL")?,
                sent_us: reader.timestamp_us("send time")?,
                data: reader.rest(),
            }),
            b'k' => {
                let wal_end = reader.lsn("end of WAL")?;
                let sent_us = reader.timestamp_us("send time")?;
                let offset = reader.offset();
                let reply_requested = match reader.u8("reply request")? {
                    0 => false,
                    1 => true,
                    other => return Err(Reader::undefined("reply request", offset, other.into())),
                };
                reader.finish()?;
                Ok(Self::Keepalive { wal_end, sent_us, reply_requested })
            }
            other => Err(Reader::undefined("frame type", 0, other.into())),
        }
    }
}

/// What we tell the server: how far we received and how far it may forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Received.
    pub written: Lsn,
    /// Durable in Kafka and recorded; the slot's `confirmed_flush_lsn` moves here. Zero leaves it alone.
    pub flushed: Lsn,
    /// Our clock, in microseconds since the Unix epoch.
    pub sent_us: i64,
    /// Ask the server to answer with a keepalive at once.
    pub reply_requested: bool,
}

impl StatusUpdate {
    /// Appends the payload of a CopyData message (`r`, 34 bytes). The applied position is the flushed one.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(34);
        out.put_u8(b'r');
        out.put_u64(self.written.0);
        out.put_u64(self.flushed.0);
        out.put_u64(self.flushed.0);
        out.put_i64(self.sent_us.saturating_sub(POSTGRES_EPOCH_US));
        out.put_u8(self.reply_requested.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalive(reply: u8) -> Vec<u8> {
        let mut bytes = vec![b'k'];
        bytes.extend(0x16_B374_D848_u64.to_be_bytes());
        bytes.extend(1_000_000_i64.to_be_bytes());
        bytes.push(reply);
        bytes
    }

    #[test]
    fn frames_are_read_as_the_manual_lays_them_out() {
        let frame = Frame::parse(keepalive(1).into()).unwrap();
        let sent_us = POSTGRES_EPOCH_US + 1_000_000;
        assert_eq!(frame, Frame::Keepalive { wal_end: Lsn(0x16_B374_D848), sent_us, reply_requested: true });

        let mut bytes = vec![b'w'];
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(9_u64.to_be_bytes());
        bytes.extend((-1_i64).to_be_bytes());
        bytes.extend(b"data");
        let frame = Frame::parse(bytes.into()).unwrap();
        let data = Bytes::from_static(b"data");
        let sent_us = POSTGRES_EPOCH_US - 1;
        assert_eq!(frame, Frame::XLogData { wal_start: Lsn(7), wal_end: Lsn(9), sent_us, data });
    }

    #[test]
    fn truncated_overlong_and_unknown_frames_are_errors() {
        let whole = keepalive(0);
        for len in 0..whole.len() {
            let error = Frame::parse(Bytes::copy_from_slice(&whole[..len])).unwrap_err();
            assert!(matches!(error, Error::Truncated { offset, .. } if offset <= len), "{len}: {error}");
        }
        let mut long = whole;
        long.push(0);
        assert_eq!(Frame::parse(long.into()).unwrap_err(), Error::Trailing { offset: 18, extra: 1 });
        assert!(matches!(Frame::parse(keepalive(2).into()), Err(Error::Undefined { offset: 17, value: 2, .. })));
        assert!(matches!(Frame::parse(Bytes::from_static(b"x")), Err(Error::Undefined { offset: 0, .. })));
    }

    #[test]
    fn a_status_update_has_34_bytes_and_counts_time_from_2000() {
        let mut out = BytesMut::new();
        let update =
            StatusUpdate { written: Lsn(3), flushed: Lsn(2), sent_us: POSTGRES_EPOCH_US + 5, reply_requested: true };
        update.encode(&mut out);
        let mut expected = vec![b'r'];
        for field in [3_u64, 2, 2, 5] {
            expected.extend(field.to_be_bytes());
        }
        expected.push(1);
        assert_eq!(out, expected);
        assert_eq!(out.len(), 34);
    }
}
