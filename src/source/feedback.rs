//! The arithmetic of status updates: what the server may forget, and when to tell it.
//!
//! `flushed` in a status update means "may forget", so it comes only from whoever knows that Kafka acknowledged every
//! event below it and that this is recorded (trap T1), and it never moves backward (trap T5).

use std::time::{Duration, Instant};

use crate::{lsn::Lsn, pgoutput::StatusUpdate};

/// Positions that were received and may be confirmed.
#[derive(Debug)]
pub struct Feedback {
    written: Lsn,
    flush: Lsn,
    sent_flush: Lsn,
    last_sent: Instant,
}

impl Feedback {
    /// `start` is where streaming began, and `confirmed` what is durable: streaming may begin above it, when changes below
    /// must stay in the WAL.
    #[must_use]
    pub const fn new(start: Lsn, confirmed: Lsn, now: Instant) -> Self {
        Self { written: start, flush: confirmed, sent_flush: confirmed, last_sent: now }
    }

    /// The server sent WAL up to here.
    pub fn received(&mut self, lsn: Lsn) {
        self.written = self.written.max(lsn);
    }

    /// Everything below `lsn` is durable; a lower position than before changes nothing.
    pub fn confirm(&mut self, lsn: Lsn) {
        self.flush = self.flush.max(lsn);
    }

    /// Highest position received.
    #[must_use]
    pub const fn written(&self) -> Lsn {
        self.written
    }

    /// The position that the last status update confirmed.
    #[must_use]
    pub const fn sent_flush(&self) -> Lsn {
        self.sent_flush
    }

    /// When an unasked update is due. Unasked updates go out only when the flush position moved, since steady ones keep
    /// the server from sending keepalives (trap T10); while reading is held back, requests cannot be seen, so they also go
    /// out every `held_back`.
    #[must_use]
    pub fn due(&self, min_interval: Duration, held_back: Option<Duration>) -> Option<Instant> {
        let news = (self.flush > self.sent_flush).then_some(min_interval);
        news.into_iter().chain(held_back).min().map(|interval| self.last_sent + interval)
    }

    /// The next status update, which counts as sent.
    pub fn next_update(&mut self, now: Instant, sent_us: i64, reply_requested: bool) -> StatusUpdate {
        self.sent_flush = self.flush;
        self.last_sent = now;
        // What is durable was received, also when it came over an earlier connection.
        let written = self.written.max(self.flush);
        StatusUpdate { written, flushed: self.flush, sent_us, reply_requested }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_update_confirms_less_than_one_before_nor_more_than_was_confirmed_to_us(
            start in 0_u64..100,
            steps in proptest::collection::vec((any::<bool>(), 0_u64..200), 0..50),
        ) {
            // trap T5
            let now = Instant::now();
            let mut feedback = Feedback::new(Lsn(start), Lsn(start), now);
            let (mut last, mut allowed) = (Lsn(start), Lsn(start));
            for (confirm, lsn) in steps {
                if confirm {
                    feedback.confirm(Lsn(lsn));
                    allowed = allowed.max(Lsn(lsn));
                } else {
                    feedback.received(Lsn(lsn));
                }
                let update = feedback.next_update(now, 0, false);
                prop_assert!(update.flushed >= last && update.flushed <= allowed);
                prop_assert!(update.written >= update.flushed);
                last = update.flushed;
            }
        }
    }

    #[test]
    fn unasked_updates_are_due_on_news_or_while_held_back() {
        // trap T10
        let now = Instant::now();
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(20));
        let mut feedback = Feedback::new(Lsn(5), Lsn(5), now);
        feedback.received(Lsn(9));
        assert_eq!(feedback.due(short, None), None);
        assert_eq!(feedback.due(short, Some(long)), Some(now + long));
        feedback.confirm(Lsn(7));
        assert_eq!(feedback.due(short, Some(long)), Some(now + short));
        feedback.next_update(now, 0, false);
        assert_eq!(feedback.due(short, None), None);
    }

    #[test]
    fn a_stream_that_begins_above_what_is_durable_confirms_only_that() {
        let now = Instant::now();
        let update = Feedback::new(Lsn(301), Lsn(250), now).next_update(now, 0, false);
        assert_eq!((update.written, update.flushed), (Lsn(301), Lsn(250)));
    }
}
