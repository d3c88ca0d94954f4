//! The registry's framing: 0x00, the schema id as four bytes big-endian, then the Avro body.

/// Bytes before the Avro body.
pub const PREFIX_LENGTH: usize = 5;

/// The bytes are not framed as the registry's clients frame them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short for a prefix.
    #[error("{0} bytes are too short for a schema id")]
    Short(usize),
    /// The first byte is not 0x00.
    #[error("the first byte is {0:#04x} instead of 0x00")]
    Magic(u8),
}

/// The prefix of a record whose schema has this id.
#[must_use]
pub const fn prefix(id: u32) -> [u8; PREFIX_LENGTH] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

/// Splits a framed key or value into schema id and body.
pub fn split(bytes: &[u8]) -> Result<(u32, &[u8]), FrameError> {
    match bytes {
        [0, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        [] | [0, ..] => Err(FrameError::Short(bytes.len())),
        [magic, ..] => Err(FrameError::Magic(*magic)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_split_where_it_was_joined() {
        let mut framed = prefix(0x0102_0304).to_vec();
        framed.push(7);
        assert_eq!(framed, [0, 1, 2, 3, 4, 7]);
        assert_eq!(split(&framed), Ok((0x0102_0304, &[7][..])));
        assert_eq!(split(&framed[..4]), Err(FrameError::Short(4)));
        assert_eq!(split(b"{\"id\":1}"), Err(FrameError::Magic(b'{')));
        assert_eq!(split(&[]), Err(FrameError::Short(0)));
    }
}
