//! What bytes from the wire may turn out to be.

use crate::types::value::RenderError;

/// Why a value in binary has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// Bytes that no value of the type has.
    #[error("bytes that no {0} has in binary")]
    Bytes(&'static str),
    /// The text would be longer than any of the server's: a few bytes per item may have 131,072 digits each.
    #[error("a value whose text would be longer than a gigabyte")]
    Long,
}

/// The longest text of a value, in bytes: what the server allocates at most (`MaxAllocSize`).
pub(super) const MOST_TEXT: usize = 0x3FFF_FFFF;

impl From<RenderError> for BinaryError {
    fn from(error: RenderError) -> Self {
        Self::Bytes(error.0)
    }
}

/// Appends the text of a part: an item, a bound.
pub(super) type AppendPart<'a> = &'a dyn Fn(&[u8], &mut Vec<u8>) -> Result<(), BinaryError>;
