//! What bytes from the wire may turn out to be.

use crate::types::value::RenderError;

/// Bytes that no value of the type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes that no {0} has in binary")]
pub struct BinaryError(pub(super) &'static str);

impl From<RenderError> for BinaryError {
    fn from(error: RenderError) -> Self {
        Self(error.0)
    }
}

/// Appends the text of a part: an item, a bound.
pub(super) type AppendPart<'a> = &'a dyn Fn(&[u8], &mut Vec<u8>) -> Result<(), BinaryError>;
