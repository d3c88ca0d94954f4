//! What every librdkafka client of ours logs and remembers.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rdkafka::{
    ClientContext,
    client::Client,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

use super::{Error, recovery::Outage};

/// Whether brokers have let this process in: it has one set of credentials, and these were right.
static ADMITTED: AtomicBool = AtomicBool::new(false);

/// Whether a broker that has let the client in answers with this code. librdkafka's own lie below −1, which is the brokers'
/// "unknown error"; three of the brokers' are about the log-in itself.
const fn is_of_a_broker(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    let log_in =
        matches!(code, Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism | Code::IllegalSASLState);
    code as i32 >= -1 && !log_in
}

/// Remembers why connections fail, so that a time-out can be told as what it is.
#[derive(Debug, Default)]
pub(super) struct ClientLog {
    authentication: Mutex<Option<String>>,
    outage: Outage,
}

impl ClientLog {
    /// The last refused log-in at these brokers, with their words.
    pub(super) fn authentication_failure(&self, brokers: &str) -> Option<Error> {
        let reason = self.authentication.lock().ok().and_then(|reason| reason.clone())?;
        Some(Error::Authentication { brokers: brokers.to_owned(), reason, admitted: ADMITTED.load(Ordering::Relaxed) })
    }

    /// To be called now and then by whoever works with the client: see [`super::recovery`].
    pub(super) fn recover<C: ClientContext>(&self, client: &Client<C>, brokers: &str) {
        self.outage.end(client, brokers);
    }

    /// Notes a refused log-in; an error of another kind is of no interest here.
    pub(super) fn note_refusal(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        if code == Some(RDKafkaErrorCode::Authentication)
            && let Ok(mut slot) = self.authentication.lock()
        {
            *slot = Some(reason.to_owned());
        }
    }

    /// What the outcome of a request, begun at `begun`, tells of the client's brokers. One that answers has let the client in.
    pub(super) fn heed(&self, begun: Instant, failure: Option<RDKafkaErrorCode>) {
        use RDKafkaErrorCode as Code;
        match failure {
            Some(Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown) => {
                self.outage.unanswered(begun);
            }
            Some(Code::Authentication) => self.outage.answered(),
            Some(code) if !is_of_a_broker(code) => {}
            _ => {
                ADMITTED.store(true, Ordering::Relaxed);
                self.outage.answered();
                if let Ok(mut slot) = self.authentication.lock() {
                    *slot = None;
                }
            }
        }
    }

    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        self.note_refusal(code, reason);
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.outage.note();
        }
        if code != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(target: "walrelay::kafka", ?code, reason, "kafka connection");
        }
    }

    pub(super) fn line(level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "walrelay::librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::debug!(target: "walrelay::librdkafka", facility, "{message}");
            }
            _ => tracing::trace!(target: "walrelay::librdkafka", facility, "{message}"),
        }
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Self::line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
    }
}

impl ConsumerContext for ClientLog {}

impl ProducerContext for ClientLog {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{Classify as _, Severity};

    #[test]
    fn a_refused_log_in_is_remembered_until_a_broker_answers() {
        use RDKafkaErrorCode as Code;
        let log = ClientLog::default();
        log.note_refusal(Some(Code::Authentication), "no");
        let others = [Code::InvalidArgument, Code::QueueFull, Code::SaslAuthenticationFailed, Code::IllegalSASLState];
        for failure in [Code::Authentication, Code::OperationTimedOut].into_iter().chain(others) {
            log.heed(Instant::now(), Some(failure));
            assert!(log.authentication_failure("b").is_some(), "{failure:?}");
        }
        for answer in [None, Some(Code::TopicAuthorizationFailed), Some(Code::Unknown)] {
            log.note_refusal(Some(Code::Authentication), "no");
            log.heed(Instant::now(), answer);
            assert!(log.authentication_failure("b").is_none(), "{answer:?}");
        }
        // What checks the credentials may be down.
        log.note_refusal(Some(Code::Authentication), "no");
        assert_eq!(log.authentication_failure("b").unwrap().severity(), Severity::Transient);
    }
}
