//! Transactions of a producer: its records become visible together, and of the producers with one id the newest alone may
//! write (PROTOCOL, "Exactly once into Kafka"; traps T17, T49). All calls block; run them on a blocking thread.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer as _},
};

use super::{
    Error, Settings,
    context::ClientLog,
    producer::{DeliveryObserver, Producer, Transactional},
};

/// How long the coordinator of an id may take to answer, and to end what an earlier producer left open.
const FENCE_LIMIT: Duration = Duration::from_secs(30);
/// How long one attempt of a commit may take.
const COMMIT_ATTEMPT: Duration = Duration::from_secs(5);
/// How often one is made at most.
const RETRY: Duration = Duration::from_millis(100);
/// librdkafka's own default, which it replaces by the transaction's time-out where none is set: a request to a broker that hangs
/// would be waited for as long.
const SOCKET_TIMEOUT: Duration = Duration::from_mins(1);

impl Transactional {
    /// Makes a producer of this configuration a transactional one.
    pub(super) fn set(&self, config: &mut ClientConfig) {
        config.set("transactional.id", &self.id).set("transaction.timeout.ms", self.timeout.as_millis().to_string());
        if config.get("socket.timeout.ms").is_none() {
            config.set("socket.timeout.ms", SOCKET_TIMEOUT.min(self.timeout).as_millis().to_string());
        }
    }

    fn failed<C: ClientContext>(&self, operation: &'static str, source: KafkaError, client: &Client<C>) -> Error {
        use RDKafkaErrorCode as Code;
        let fences = |code| matches!(code, Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced);
        let id = self.id.clone();
        match source.rdkafka_error_code() {
            Some(Code::InvalidTransactionTimeout) => Error::TransactionTimeout { id, wanted: self.timeout },
            Some(code) if fences(code) => Error::Superseded { id },
            _ if client.fatal_error().is_some_and(|(code, _)| fences(code)) => Error::Superseded { id },
            _ => Error::Transaction { operation, id, source },
        }
    }
}

/// Ends what earlier producers with the id have left open, and lets them write nothing more, for one who produces without
/// transactions from now on.
pub fn fence(settings: &Settings, transactional: &Transactional) -> Result<(), Error> {
    let mut config = settings.client_config(&BTreeMap::new());
    transactional.set(&mut config);
    let producer: BaseProducer<ClientLog> = config
        .create_with_context(ClientLog::default())
        .map_err(|source| Error::Configuration { reason: source.to_string() })?;
    let failed = |source| transactional.failed("fence earlier producers", source, producer.client());
    producer.init_transactions(FENCE_LIMIT).map_err(failed)
}

impl<O: DeliveryObserver> Producer<O> {
    /// Ends what earlier producers with the same id have left open, and lets them write nothing more.
    pub fn fence(&self) -> Result<(), Error> {
        self.inner.init_transactions(FENCE_LIMIT).map_err(|source| self.failed("fence earlier producers", source))
    }

    /// Begins a transaction. The brokers hear of it with its first record.
    pub fn begin(&self) -> Result<(), Error> {
        self.inner.begin_transaction().map_err(|source| self.failed("begin a transaction", source))
    }

    /// Commits the transaction; until then nothing may be sent. A commit that timed out may still succeed, and is asked for again
    /// until the brokers answer or it is `given_up`: an outage is no reason to give it up.
    pub fn commit(&self, given_up: &AtomicBool) -> Result<(), Error> {
        let (log, begun) = (&self.inner.context().log, Instant::now());
        loop {
            let attempt = Instant::now();
            let error = match self.inner.commit_transaction(COMMIT_ATTEMPT) {
                Ok(()) => {
                    log.heed(begun, None);
                    return Ok(());
                }
                Err(error) => error,
            };
            let is_open = is_unanswered(&error) && self.inner.client().fatal_error().is_none();
            if !is_open || given_up.load(Ordering::Relaxed) {
                return Err(self.failed("commit a transaction", error));
            }
            log.heed(begun, error.rdkafka_error_code());
            log.recover(self.inner.client(), &self.brokers);
            // Not every answer that says "again" takes its time.
            std::thread::sleep(RETRY.saturating_sub(attempt.elapsed()));
            tracing::warn!("kafka does not answer; waiting for a transaction to be committed");
        }
    }

    /// Gives the transaction up: no reader of committed records sees anything of it.
    pub fn abort(&self, limit: Duration) -> Result<(), Error> {
        self.inner.abort_transaction(limit).map_err(|source| self.failed("abort a transaction", source))
    }

    fn failed(&self, operation: &'static str, source: KafkaError) -> Error {
        match &self.transactional {
            Some(transactional) => transactional.failed(operation, source, self.inner.client()),
            None => Error::Transaction { operation, id: String::new(), source },
        }
    }
}

/// Whether the outcome of a call is still to come.
fn is_unanswered(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort() && !error.is_fatal(),
        error => error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut),
    }
}
