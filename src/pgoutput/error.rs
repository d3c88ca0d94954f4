//! What can be wrong with a message.

use crate::retry::{Classify, Severity};

/// The bytes are no message of the protocol. Offsets count from the first byte of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message ends inside a field.
    #[error("{what} is truncated at offset {offset}: {needed} bytes needed, {left} left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Where the field begins.
        offset: usize,
        /// Its length.
        needed: usize,
        /// Bytes up to the end of the message.
        left: usize,
    },
    /// A string has no terminating zero byte.
    #[error("{what} at offset {offset} has no terminating zero byte")]
    Unterminated {
        /// The field.
        what: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// A string is not UTF-8, which the session's `client_encoding` promises.
    #[error("{what} at offset {offset} is not UTF-8")]
    NotUtf8 {
        /// The field.
        what: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// A type byte, flag or count has a value that the protocol does not define.
    #[error("{what} at offset {offset} has the undefined value {value}")]
    Undefined {
        /// The field.
        what: &'static str,
        /// Where it is.
        offset: usize,
        /// Its value.
        value: i64,
    },
    /// The message goes on after its last field.
    #[error("{extra} bytes are left over at offset {offset}")]
    Trailing {
        /// Where the message should have ended.
        offset: usize,
        /// How many bytes follow.
        extra: usize,
    },
    /// A message that opens or closes a streamed block comes where it cannot.
    #[error("{0} outside its place in the stream")]
    OutOfPlace(&'static str),
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        Some(
            "The server sent something that is not the pgoutput protocol: check that nothing rewrites the connection, and \
             that the server is a PostgreSQL release that walrelay supports."
                .to_owned(),
        )
    }
}
