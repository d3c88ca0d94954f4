//! The idempotent, gapless producer.
//!
//! A partition never shows event n+1 without n (PROTOCOL, "Producing without gaps"; trap T77): idempotence and
//! `enable.gapless.guarantee` are on, nothing expires, and any failed delivery ends the producer. A time-out means
//! "unknown", not "not written", so the wiring starts again from its recorded position.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};

use super::{Error, Settings, context::ClientLog};
use crate::event::Record;

/// Of all producers with one id the newest alone may write, and its records become visible by commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transactional {
    /// `transactional.id`.
    pub id: String,
    /// How long the brokers leave a transaction open, from its first record on.
    pub timeout: Duration,
}

/// What the producer adds to the shared settings.
#[derive(Clone, Debug, Default)]
pub struct ProducerSettings {
    /// librdkafka properties of the producer; the guarantees below cannot be overridden.
    pub properties: BTreeMap<String, String>,
    /// Compression of the batches (`lz4`, `zstd`, `gzip`, `snappy`, `none`).
    pub compression: String,
    /// Bound of records that wait for the brokers, in bytes.
    pub queue_bytes: usize,
    /// How long a batch waits to fill, in milliseconds.
    pub linger_ms: u32,
    /// Whether it writes in transactions.
    pub transactional: Option<Transactional>,
}

/// One delivery report.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// What `try_send` was given with the record.
    pub token: usize,
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The record's offset, when it was delivered.
    pub offset: i64,
    /// Why it was not: a [`Error::Delivery`].
    pub error: Option<Error>,
}

/// Receives delivery reports, on librdkafka's thread: must not block.
pub trait DeliveryObserver: Send + Sync + 'static {
    /// One record was acknowledged by all in-sync replicas, or failed.
    fn delivered(&self, delivery: Delivery<'_>);
}

/// What librdkafka tells a producer's client.
pub(super) struct Context<O> {
    pub(super) log: ClientLog,
    observer: O,
    queued: Queued,
}

/// Bytes of records that are not reported yet. librdkafka's own bound takes no record that is larger than the bound, ever.
#[derive(Debug)]
struct Queued {
    bytes: AtomicUsize,
    limit: usize,
}

impl Queued {
    /// Whether there is room; one record that is larger than all of it takes all of it.
    fn take(&self, size: usize) -> bool {
        let more = |bytes: usize| {
            let more = bytes.saturating_add(size);
            (bytes == 0 || more <= self.limit).then_some(more)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, size: usize) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
    }
}

impl<O: DeliveryObserver> ClientContext for Context<O> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        ClientLog::line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.note(&error, reason);
    }
}

impl<O: DeliveryObserver> ProducerContext for Context<O> {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error)),
        };
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        self.queued.give_back(message.key_len() + message.payload_len());
        let error = error.map(|source| Error::Delivery { topic: topic.to_owned(), partition, source: source.clone() });
        self.observer.delivered(Delivery { token, topic, partition, offset, error });
    }
}

/// Bytes of the queue per record at least: small records are bounded by their number.
const RECORD_SHARE: usize = 512;

/// The largest bound in KiB that librdkafka knows: the bytes are bounded here.
const UNBOUNDED: &str = "2147483647";

/// Sends records; reports go to the [`DeliveryObserver`].
pub struct Producer<O: DeliveryObserver> {
    pub(super) inner: ThreadedProducer<Context<O>>,
    pub(super) brokers: Arc<str>,
    pub(super) transactional: Option<Transactional>,
}

impl<O: DeliveryObserver> Producer<O> {
    /// Connects lazily; a wrong property is an error at once.
    pub fn new(settings: &Settings, own: &ProducerSettings, observer: O) -> Result<Self, Error> {
        let mut config = settings.client_config(&BTreeMap::new());
        config
            .set("linger.ms", own.linger_ms.to_string())
            .set("batch.size", "1000000")
            .set("batch.num.messages", "100000")
            .set("compression.type", &own.compression)
            // librdkafka keeps some 200 bytes besides each record, which its bound in bytes leaves out.
            .set("queue.buffering.max.messages", (own.queue_bytes / RECORD_SHARE).max(1000).to_string())
            .set("queue.buffering.max.kbytes", UNBOUNDED)
            // The topic's own limit is checked before a record gets here.
            .set("message.max.bytes", "1000000000")
            .set("partitioner", "murmur2_random");
        for (name, value) in &own.properties {
            config.set(name, value);
        }
        config
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("partitioner", "murmur2_random");
        if let Some(transactional) = &own.transactional {
            transactional.set(&mut config);
        }
        let queued = Queued { bytes: AtomicUsize::new(0), limit: own.queue_bytes.max(1 << 20) };
        let context = Context { log: ClientLog::default(), observer, queued };
        let inner = config
            .create_with_context(context)
            .map_err(|source| Error::Configuration { reason: source.to_string() })?;
        Ok(Self { inner, brokers: settings.address().into(), transactional: own.transactional.clone() })
    }

    /// Hands a record over; `false` when the queue is full and the caller has to wait for deliveries (trap T76).
    pub fn try_send(&self, topic: &str, record: &Record<'_>, token: usize) -> Result<bool, Error> {
        let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let queued = &self.inner.context().queued;
        if !queued.take(size) {
            return Ok(false);
        }
        let mut base: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(topic, token);
        base.key = record.key;
        base.payload = record.value;
        base.partition = record.partition;
        let headers = record.headers();
        if headers.len() > 0 {
            let mut owned = OwnedHeaders::new_with_capacity(headers.len());
            for (key, value) in headers {
                owned = owned.insert(Header { key, value: Some(value) });
            }
            base.headers = Some(owned);
        }
        let sent = self.inner.send(base).map_err(|(error, _)| error);
        if sent.is_err() {
            // Of this one nothing will be reported.
            queued.give_back(size);
        }
        match sent {
            Ok(()) => Ok(true),
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => Ok(false),
            Err(source) => Err(Error::Produce { topic: topic.to_owned(), source }),
        }
    }

    /// Records that are queued or unacknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.inner.in_flight_count()).unwrap_or(0)
    }

    /// The broker's words, when it refuses the log-in.
    #[must_use]
    pub fn authentication_failure(&self) -> Option<Error> {
        self.inner.context().log.authentication_failure(&self.brokers)
    }

    /// To be called now and then: see [`super::recovery`].
    pub fn recover(&self) {
        self.inner.context().log.recover(self.inner.client(), &self.brokers);
    }

    /// Drops everything that is queued or in flight: nothing of it may be written after this returns its reports.
    pub fn purge(&self) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
        // Serves the reports of what was purged, so that its memory is released.
        let _unfinished = self.inner.flush(Duration::from_millis(100));
    }

    /// The observer.
    #[must_use]
    pub fn observer(&self) -> &O {
        &self.inner.context().observer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_larger_than_the_queue_passes_alone() {
        let queued = Queued { bytes: AtomicUsize::new(0), limit: 100 };
        assert!(queued.take(60) && queued.take(40) && !queued.take(1));
        queued.give_back(60);
        assert!(!queued.take(1000) && queued.take(60));
        queued.give_back(60);
        queued.give_back(40);
        assert!(queued.take(1000) && !queued.take(1));
        queued.give_back(1000);
        assert!(queued.take(1));
    }
}
