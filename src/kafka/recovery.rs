//! Brings a client back that has lost every broker.
//!
//! A broker that wakes after it was fenced answers with metadata that lists topics and no broker. librdkafka (2.12) takes that
//! for the truth: it forgets all brokers, the configured ones included, and may stop the timer that would ask those again, so the
//! client stays silent for good (its issue 5301). Given the configured brokers once more, it connects and goes on; nothing that
//! is queued or in flight is lost.

#![expect(unsafe_code, reason = "librdkafka's call for adding brokers has no safe wrapper")]

use std::{
    ffi::CString,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{ClientContext, bindings::rd_kafka_brokers_add, client::Client};

/// How long a client that has lost its brokers may recover by itself. It tells the loss again at each of its own attempts.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a client lost its last broker.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// The client says that all brokers are down.
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Requests are not answered since then; for a client whose errors nobody polls.
    pub(super) fn unanswered(&self, since: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(since);
    }

    /// The client has a broker.
    pub(super) fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Gives the client its configured brokers again, once, when it has been silent since it lost them.
    pub(super) fn end<C: ClientContext>(&self, client: &Client<C>, brokers: &str) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none_or(|since| since.elapsed() < PATIENCE) {
            return;
        }
        *since = None;
        drop(since);
        let Ok(list) = CString::new(brokers) else { return };
        // SAFETY: the client is alive as long as it is borrowed, librdkafka's calls may come from any thread, and it copies the
        // list before it returns.
        let known = unsafe { rd_kafka_brokers_add(client.native_ptr(), list.as_ptr()) };
        tracing::info!(target: "walrelay::kafka", known, brokers, "reminded the client of its configured brokers");
    }
}
