//! What is read of a message inside a streamed block while it only passes by: whose it is.
//!
//! Up to the commit nobody knows whether a message counts, so its bytes are kept as they came, and parsed when they do (manual,
//! "Logical Streaming Replication Parameters"; trap T38).

/// The transaction that a message inside a streamed block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This transaction or subtransaction.
    Transaction(u32),
    /// The block's top-level transaction: an Origin message carries no id.
    Block,
}

/// Whose the message is; `None` for what has no place inside a block, or is cut off.
#[must_use]
pub fn owner(data: &[u8]) -> Option<Owner> {
    match data {
        [b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M', a, b, c, d, ..] => {
            Some(Owner::Transaction(u32::from_be_bytes([*a, *b, *c, *d])))
        }
        [b'O', ..] => Some(Owner::Block),
        _ => None,
    }
}

/// What is described by a message that describes a relation or a type: the message's type byte and the OID. `in_stream` says
/// whether it stands inside a streamed block.
#[must_use]
pub fn described(data: &[u8], in_stream: bool) -> Option<(u8, u32)> {
    let tag = *data.first().filter(|tag| matches!(tag, b'R' | b'Y'))?;
    let begin = if in_stream { 5 } else { 1 };
    let oid = data.get(begin..begin + 4)?.try_into().ok()?;
    Some((tag, u32::from_be_bytes(oid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_a_block_names_its_transaction_behind_its_type() {
        assert_eq!(owner(b"I\0\0\x01\x02rest"), Some(Owner::Transaction(0x102)));
        assert_eq!(owner(b"O........name\0"), Some(Owner::Block));
    }

    #[test]
    fn what_is_cut_off_or_has_no_place_in_a_block_is_nobodys() {
        for data in [&b""[..], b"I\0\0\x01", b"E", b"S\0\0\0\x01\x01", b"B"] {
            assert_eq!(owner(data), None, "{data:?}");
        }
    }

    #[test]
    fn relations_and_types_are_told_by_their_oid() {
        assert_eq!(described(b"R\0\0\0\x07rest", false), Some((b'R', 7)));
        assert_eq!(described(b"Y\0\0\0\x01\0\0\0\x08rest", true), Some((b'Y', 8)));
        assert_eq!((described(b"I\0\0\0\x07", false), described(b"R\0\0\0\x07", true)), (None, None));
    }
}
