//! What the server says beside the changes of a stream.

use std::time::{Duration, Instant};

use super::wire::log_notice;
use crate::postgres::ServerError;

/// SQLSTATE of what the catalog does not have: in a stream, the publication as it was when a change was made.
const UNDEFINED_OBJECT: &str = "42704";
/// SQLSTATE of the warning that a server from version 18 on gives instead, and passes over the change. It is that of others too.
const NOT_IN_STATE: &str = "55000";
/// Where a server from version 17 on tells, with the same SQLSTATE, what a stand-by of `synchronized_standby_slots` lacks: it sends
/// nothing before that one has it.
const AWAITS_STAND_BYS: &str = "StandbySlotsHaveCaughtup";
/// It is said with each message of ours.
const INTERVAL: Duration = Duration::from_mins(1);

/// Whether the server waits for a stand-by before it sends more.
pub(super) fn awaits_stand_by(said: &ServerError) -> bool {
    said.routine.as_deref() == Some(AWAITS_STAND_BYS)
}

/// Whether an error is that the publication was not there.
pub(super) fn lacks_publication(error: &ServerError) -> bool {
    error.is(UNDEFINED_OBJECT) && !awaits_stand_by(error)
}

/// Whether a notice is that a change was passed over, since the publication was not there.
pub(super) fn passes_over(notice: &ServerError) -> bool {
    notice.is(NOT_IN_STATE) && !awaits_stand_by(notice)
}

/// Notices that are for the log alone.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// When the wait for a stand-by was last told.
    told: Option<Instant>,
}

impl Remarks {
    pub(super) fn log(&mut self, slot: &str, notice: &ServerError) {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= INTERVAL);
        if awaits_stand_by(notice) && is_due {
            self.told = Some(Instant::now());
            tracing::warn!(slot, "the server sends nothing before its stand-by has it: {}", notice.message);
        } else {
            log_notice(notice);
        }
    }
}
