//! What can be wrong with a spool.

use std::{io, path::PathBuf};

/// Why the spool cannot go on. Nothing is lost with it: the server sends open transactions again.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Open transactions have used up the limit, or the disk.
    #[error("the spool of {} is full of open transactions at {bytes} bytes", folder.display())]
    Full {
        /// The folder.
        folder: PathBuf,
        /// What it holds in its file.
        bytes: u64,
        /// What the operating system said, where it was not the limit.
        source: Option<io::Error>,
    },
    /// The operating system refuses.
    #[error("the spool in {} cannot be {doing}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What was tried, as a participle.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Nobody knows which messages of a transaction count.
    #[error("the server does not know any more whether subtransactions of {xid} were rolled back")]
    Untold {
        /// The transaction.
        xid: u32,
    },
    /// What is read is not what was written.
    #[error("the spool in {} does not hold what was written to it: {reason}", folder.display())]
    Corrupt {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}
