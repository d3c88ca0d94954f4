//! The consumer of `apply`: one thread that polls librdkafka and speaks to the wiring over a channel.
//!
//! Offsets live in the target, not in Kafka (traps T60, T55): on every assignment the thread asks the wiring where to
//! begin and waits for the answer inside the rebalance, so no record is consumed from a partition that is not fenced yet.
//! When the byte budget is used up it pauses all partitions and goes on polling, so that the group does not expel it
//! (trap T71).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    ClientContext, Message, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
    topic_partition_list::Offset,
    types::RDKafkaRespErr,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Error, Settings, context::ClientLog};

/// A topic and one of its partitions.
pub type TopicPartition = (Arc<str>, i32);

/// What to consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// As a member of a group: these topics (a leading `^` makes a name a regular expression).
    Group {
        /// `group.id`
        group: String,
        /// Topic names or patterns.
        topics: Vec<String>,
    },
    /// Exactly these partitions, without a group's rebalances.
    Assigned {
        /// Names the instance towards brokers.
        group: String,
        /// The partitions.
        partitions: Vec<(String, i32)>,
    },
}

/// What the consumer adds to the shared settings.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// librdkafka properties of the consumer.
    pub properties: BTreeMap<String, String>,
    /// Bound of records between librdkafka and their consumer, in bytes; librdkafka's own queue has a third of it besides.
    pub budget_bytes: usize,
}

/// Where consumption of a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    /// At the beginning of the partition, which must still be there: nothing of it was applied yet.
    Earliest,
    /// At the oldest record that the partition still has: whatever was before it is of no interest.
    Oldest,
    /// At this offset.
    At(i64),
}

/// A record as it was consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The record's timestamp in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The framed key.
    pub key: Option<Bytes>,
    /// The framed value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers; a header without a value has an empty one.
    pub headers: Vec<(String, Bytes)>,
}

impl ConsumedRecord {
    /// Memory that the record holds, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        96 + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// What the consumer tells.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// Records, in partition order.
    Records {
        /// The records.
        records: Vec<ConsumedRecord>,
        /// Their share of the byte budget: drop it when their memory is released.
        permit: OwnedSemaphorePermit,
    },
    /// Partitions were assigned; consumption waits for where each begins.
    Assigned {
        /// The added partitions.
        partitions: Vec<TopicPartition>,
        /// The answer; without one the partitions are not consumed.
        reply: oneshot::Sender<Vec<(TopicPartition, StartOffset)>>,
    },
    /// Partitions are being taken away; the rebalance waits for the answer.
    Revoked {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// To be answered when their work is finished or rolled back.
        done: oneshot::Sender<()>,
    },
    /// The brokers say that a topic or a partition that is consumed is not there.
    Missing,
    /// The consumer is alive: sent at least once a second while there is nothing to consume.
    Idle,
    /// The consumer cannot go on.
    Failed(Error),
}

enum Command {
    Pause(Vec<TopicPartition>),
    Resume(Vec<TopicPartition>),
    Close,
}

/// Commands to the consumer thread. Dropping it closes the consumer.
pub struct ConsumerHandle {
    commands: std_mpsc::Sender<Command>,
}

impl ConsumerHandle {
    /// Stops fetching these partitions, until `resume`.
    pub fn pause(&self, partitions: Vec<TopicPartition>) {
        let _closed = self.commands.send(Command::Pause(partitions));
    }

    /// Fetches these partitions again.
    pub fn resume(&self, partitions: Vec<TopicPartition>) {
        let _closed = self.commands.send(Command::Resume(partitions));
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        let _closed = self.commands.send(Command::Close);
    }
}

/// The consumer.
pub struct Consumer;

impl Consumer {
    /// Starts the consumer's thread.
    pub fn spawn(
        settings: &Settings,
        own: &ConsumerSettings,
        subscription: Subscription,
    ) -> Result<(mpsc::UnboundedReceiver<ConsumerEvent>, ConsumerHandle), Error> {
        let group = match &subscription {
            Subscription::Group { group, .. } | Subscription::Assigned { group, .. } => group,
        };
        let (events, receiver) = mpsc::unbounded_channel();
        let (commands, inbox) = std_mpsc::channel();
        let mut config = settings.client_config(&BTreeMap::new());
        config
            .set("queued.max.messages.kbytes", (own.budget_bytes / 3 / 1024).max(1024).to_string())
            .set("fetch.wait.max.ms", "100")
            // A killed member is missed after this long; the fence makes an early verdict harmless.
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1500")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("topic.metadata.refresh.interval.ms", "5000");
        for (name, value) in &own.properties {
            config.set(name, value);
        }
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error");
        let context = Context {
            log: ClientLog::default(),
            events: events.clone(),
            assigned: Mutex::default(),
            starts: Mutex::default(),
            fresh: AtomicBool::new(false),
            revoked: Mutex::default(),
        };
        let consumer: BaseConsumer<Context> = config
            .create_with_context(context)
            .map_err(|source| Error::Configuration { reason: source.to_string() })?;
        let worker = Worker {
            consumer,
            brokers: settings.address(),
            events,
            inbox,
            budget: Arc::new(Semaphore::new(own.budget_bytes)),
            budget_bytes: own.budget_bytes,
            paused: BTreeSet::new(),
            choked: false,
            pending: Pending::default(),
            topics: BTreeMap::new(),
        };
        thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || worker.run(&subscription))
            .map_err(|error| Error::Configuration { reason: error.to_string() })?;
        Ok((receiver, ConsumerHandle { commands }))
    }
}

struct Context {
    log: ClientLog,
    events: mpsc::UnboundedSender<ConsumerEvent>,
    assigned: Mutex<BTreeSet<TopicPartition>>,
    /// Where consumption of partitions began, as far as an offset was given.
    starts: Mutex<BTreeMap<TopicPartition, i64>>,
    /// Partitions were assigned since this was last looked at.
    fresh: AtomicBool,
    /// Partitions that were revoked since this was last looked at.
    revoked: Mutex<BTreeSet<TopicPartition>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        ClientLog::line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.note(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = names(list);
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let outcome = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let list = self.start_offsets(partitions);
            if cooperative { consumer.incremental_assign(&list) } else { consumer.assign(&list) }
        } else {
            self.revoke(partitions);
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
        };
        if let Err(source) = outcome {
            let _closed = self.events.send(ConsumerEvent::Failed(Error::Consume { brokers: String::new(), source }));
        }
    }
}

impl Context {
    /// Asks the wiring where the new partitions begin.
    fn start_offsets(&self, partitions: Vec<TopicPartition>) -> TopicPartitionList {
        let (reply, answer) = oneshot::channel();
        if let Ok(mut assigned) = self.assigned.lock() {
            assigned.extend(partitions.iter().cloned());
        }
        self.fresh.store(true, Ordering::Relaxed);
        let _closed = self.events.send(ConsumerEvent::Assigned { partitions, reply });
        let mut list = TopicPartitionList::new();
        for ((topic, partition), start) in answer.blocking_recv().unwrap_or_default() {
            let offset = match start {
                // Not "wherever the log begins": that would pass over what retention has removed (trap T55).
                StartOffset::Earliest => Offset::Offset(0),
                StartOffset::Oldest => Offset::Beginning,
                StartOffset::At(offset) => Offset::Offset(offset),
            };
            if let Offset::Offset(offset) = offset
                && let Ok(mut starts) = self.starts.lock()
            {
                starts.insert((Arc::clone(&topic), partition), offset);
            }
            // An invalid offset (negative) cannot come from the position table.
            let _invalid = list.add_partition_offset(&topic, partition, offset);
        }
        list
    }

    fn revoke(&self, partitions: Vec<TopicPartition>) {
        let (done, finished) = oneshot::channel();
        if let Ok(mut assigned) = self.assigned.lock() {
            for partition in &partitions {
                assigned.remove(partition);
            }
        }
        if let Ok(mut revoked) = self.revoked.lock() {
            revoked.extend(partitions.iter().cloned());
        }
        if self.events.send(ConsumerEvent::Revoked { partitions, done }).is_ok() {
            let _closed = finished.blocking_recv();
        }
    }
}

fn names(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|element| (Arc::from(element.topic()), element.partition())).collect()
}

/// Records that wait for room in the budget.
#[derive(Default)]
struct Pending {
    records: Vec<ConsumedRecord>,
    bytes: usize,
}

impl Pending {
    fn push(&mut self, record: ConsumedRecord) {
        self.bytes += record.size();
        self.records.push(record);
    }

    /// Drops records of an assignment that is over: the next one begins at the stored offset, which may lie before them.
    fn forget(&mut self, revoked: &BTreeSet<TopicPartition>) {
        let bytes = &mut self.bytes;
        self.records.retain(|record| {
            let stays = !revoked.contains(&(Arc::clone(&record.topic), record.partition));
            *bytes -= if stays { 0 } else { record.size() };
            stays
        });
    }
}

struct Worker {
    consumer: BaseConsumer<Context>,
    brokers: String,
    events: mpsc::UnboundedSender<ConsumerEvent>,
    inbox: std_mpsc::Receiver<Command>,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    /// Paused by command.
    paused: BTreeSet<TopicPartition>,
    /// All partitions are paused because the budget is used up.
    choked: bool,
    /// Polled, and not handed over yet.
    pending: Pending,
    /// One shared name per topic.
    topics: BTreeMap<String, Arc<str>>,
}

impl Worker {
    const BATCH_BYTES: usize = 256 * 1024;
    const BATCH_RECORDS: usize = 2000;
    /// How long may be looked for an offset that is out of range.
    const LOOK_LIMIT: Duration = Duration::from_secs(10);
    const WAIT: Duration = Duration::from_millis(20);

    fn run(mut self, subscription: &Subscription) {
        if let Err(source) = self.subscribe(subscription) {
            self.fail(Error::Consume { brokers: self.brokers.clone(), source });
            return;
        }
        let mut last_idle = Instant::now();
        while self.obey() && !self.events.is_closed() {
            self.consumer.context().log.recover(self.consumer.client(), &self.brokers);
            let free = self.budget.available_permits();
            self.choke(free < (self.budget_bytes / 4).max(self.share()));
            match self.fill().map(|()| self.hand_over()) {
                Ok(true) => {}
                Ok(false) => {
                    if last_idle.elapsed() >= Duration::from_millis(500) {
                        last_idle = Instant::now();
                        let _closed = self.events.send(ConsumerEvent::Idle);
                    }
                }
                Err(error) => {
                    self.fail(error);
                    return;
                }
            }
        }
    }

    fn subscribe(&self, subscription: &Subscription) -> Result<(), KafkaError> {
        match subscription {
            Subscription::Group { topics, .. } => {
                let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
                self.consumer.subscribe(&topics)
            }
            Subscription::Assigned { partitions, .. } => {
                let partitions = partitions.iter().map(|(topic, n)| (Arc::from(topic.as_str()), *n)).collect();
                self.consumer.assign(&self.consumer.context().start_offsets(partitions))
            }
        }
    }

    fn fail(&self, error: Error) {
        let _closed = self.events.send(ConsumerEvent::Failed(error));
    }

    /// Carries out waiting commands; `false` when the consumer is to close.
    fn obey(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Pause(partitions)) => {
                    self.set_paused(&partitions, true);
                    self.paused.extend(partitions);
                }
                Ok(Command::Resume(partitions)) => {
                    for partition in &partitions {
                        self.paused.remove(partition);
                    }
                    if !self.choked {
                        self.set_paused(&partitions, false);
                    }
                }
                Ok(Command::Close) | Err(std_mpsc::TryRecvError::Disconnected) => return false,
                Err(std_mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn set_paused(&self, partitions: &[TopicPartition], pause: bool) {
        let assigned = self.consumer.context().assigned.lock().map(|set| set.clone()).unwrap_or_default();
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions.iter().filter(|partition| assigned.contains(*partition)) {
            list.add_partition(topic, *partition);
        }
        if list.count() == 0 {
            return;
        }
        let outcome = if pause { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(source) = outcome {
            tracing::debug!(%source, pause, "partitions changed while pausing");
        }
    }

    fn choke(&mut self, wanted: bool) {
        // A partition that was assigned meanwhile is fetched until it is paused too.
        let assigned_since = self.consumer.context().fresh.swap(false, Ordering::Relaxed);
        if wanted == self.choked && !(wanted && assigned_since) {
            return;
        }
        self.choked = wanted;
        let assigned = self.consumer.context().assigned.lock().map(|set| set.clone()).unwrap_or_default();
        let affected: Vec<_> = assigned.into_iter().filter(|partition| !self.paused.contains(partition)).collect();
        self.set_paused(&affected, wanted);
    }

    /// Polls until a batch is full or nothing is there. With the budget used up it polls once, to serve rebalances: fetching
    /// is paused then.
    fn fill(&mut self) -> Result<(), Error> {
        let mut wait = if self.pending.records.is_empty() || self.choked { Self::WAIT } else { Duration::ZERO };
        while self.choked || self.pending.bytes < Self::BATCH_BYTES && self.pending.records.len() < Self::BATCH_RECORDS
        {
            let polled = self.consumer.poll(wait);
            if let Ok(mut revoked) = self.consumer.context().revoked.lock()
                && !revoked.is_empty()
            {
                self.pending.forget(&std::mem::take(&mut revoked));
            }
            match polled {
                Some(Ok(message)) => self.pending.push(own(&mut self.topics, &message)),
                Some(Err(error)) => self.judge(error)?,
                None => return Ok(()),
            }
            if self.choked {
                return Ok(());
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// The part of the budget that the pending records take. A batch larger than the whole budget takes all of it.
    fn share(&self) -> usize {
        self.pending.bytes.min(self.budget_bytes)
    }

    /// Hands the pending records over, if there is room; `true` if it did.
    fn hand_over(&mut self) -> bool {
        if self.pending.records.is_empty() {
            return false;
        }
        let share = u32::try_from(self.share()).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_many_owned(share) else { return false };
        let records = std::mem::take(&mut self.pending).records;
        let _closed = self.events.send(ConsumerEvent::Records { records, permit });
        true
    }

    /// librdkafka does not say which partition it is, so the offsets to be fetched next are compared with the log.
    fn out_of_range(&self) -> Error {
        let context = self.consumer.context();
        let assigned = context.assigned.lock().map(|set| set.clone()).unwrap_or_default();
        let starts = context.starts.lock().map(|starts| starts.clone()).unwrap_or_default();
        let positions = self.consumer.position().unwrap_or_default();
        let deadline = Instant::now() + Self::LOOK_LIMIT;
        let mut outside = Vec::new();
        for (topic, partition) in &assigned {
            let position = positions.find_partition(topic, *partition).map(|element| element.offset());
            let next = match position {
                Some(Offset::Offset(next)) => Some(next),
                _ => starts.get(&(Arc::clone(topic), *partition)).copied(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(next) = next.filter(|_| !left.is_zero()) else { continue };
            let Ok((first, end)) = self.consumer.fetch_watermarks(topic, *partition, left) else { continue };
            if !(first..=end).contains(&next) {
                outside
                    .push(format!("offset {next} of topic {topic}, partition {partition} (it has {first} to {end})"));
            }
        }
        if outside.is_empty() {
            let topics: BTreeSet<&str> = assigned.iter().map(|(topic, _)| &**topic).collect();
            outside.push(format!("an offset of one of {}", topics.into_iter().collect::<Vec<_>>().join(", ")));
        }
        Error::OffsetOutOfRange { places: outside.join(", ") }
    }

    /// Passing connection troubles are librdkafka's; the rest ends the consumer.
    fn judge(&self, error: KafkaError) -> Result<(), Error> {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code();
        if let Some(refused) = self.consumer.context().log.authentication_failure(&self.brokers) {
            return Err(refused);
        }
        match code {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Err(self.out_of_range()),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                tracing::debug!(?code, "kafka consumer");
                let _closed = self.events.send(ConsumerEvent::Missing);
                Ok(())
            }
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::RebalanceInProgress
                | Code::PollExceeded
                | Code::PartitionEOF,
            ) => {
                tracing::debug!(?code, "kafka consumer");
                Ok(())
            }
            _ => Err(Error::Consume { brokers: self.brokers.clone(), source: error }),
        }
    }
}

fn own(topics: &mut BTreeMap<String, Arc<str>>, message: &BorrowedMessage<'_>) -> ConsumedRecord {
    let topic = match topics.get(message.topic()) {
        Some(topic) => Arc::clone(topic),
        None => Arc::clone(topics.entry(message.topic().to_owned()).or_insert_with(|| Arc::from(message.topic()))),
    };
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let owned = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice).unwrap_or_default();
        headers.iter().map(|header| (header.key.to_owned(), owned(header.value))).collect()
    });
    ConsumedRecord {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_revoked_partition_do_not_reach_its_next_assignment() {
        let record = |partition, offset| ConsumedRecord {
            topic: Arc::from("t"),
            partition,
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(Bytes::from_static(b"value")),
            headers: Vec::new(),
        };
        let mut pending = Pending::default();
        for (partition, offset) in [(0, 7), (1, 3), (0, 8)] {
            pending.push(record(partition, offset));
        }
        pending.forget(&BTreeSet::from([(Arc::from("t"), 0)]));
        assert_eq!(pending.records, [record(1, 3)]);
        assert_eq!(pending.bytes, record(1, 3).size());
    }
}
