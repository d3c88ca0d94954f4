//! Standard output, where the results of commands go.

use std::io::{self, Write as _};

use crate::retry::{Classify, Severity};

/// Standard output does not take the result.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct Error(#[source] io::Error);

impl Classify for Error {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
}

/// Writes a command's result. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error(error)),
        _ => Ok(()),
    }
}
