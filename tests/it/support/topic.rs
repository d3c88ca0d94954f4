//! A look into a scenario's topics, as any Kafka client has it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::Headers as _,
    metadata::{MetadataPartition, MetadataTopic},
    producer::{BaseProducer, BaseRecord, Producer as _},
    topic_partition_list::Offset,
};

use super::await_condition;

const LIMIT: Duration = Duration::from_mins(1);

/// One record as it lies in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// The partition.
    pub partition: i32,
    /// The framed key.
    pub key: Option<Vec<u8>>,
    /// The framed value.
    pub value: Option<Vec<u8>>,
    /// Header names with their values as text.
    pub headers: BTreeMap<String, String>,
}

impl Consumed {
    /// Whether the value holds these bytes: Avro writes texts as they are.
    pub fn holds(&self, text: &str) -> bool {
        self.value.as_deref().is_some_and(|value| value.windows(text.len()).any(|window| window == text.as_bytes()))
    }
}

/// The topics that begin with a scenario's prefix.
pub struct Topics {
    brokers: String,
    prefix: String,
}

impl Topics {
    pub fn new(brokers: &str, prefix: &str) -> Self {
        Self { brokers: brokers.to_owned(), prefix: prefix.to_owned() }
    }

    /// The topic of a table, `schema.table`.
    pub fn name(&self, table: &str) -> String {
        format!("{}.{table}", self.prefix)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("log_level", "0");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("an admin client")
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT))
    }

    fn consumer(&self) -> BaseConsumer {
        self.config()
            .set("group.id", format!("{}-look", self.prefix))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer")
    }

    /// Number of partitions of a table's topic; 0 when it is not there.
    pub fn partitions(&self, table: &str) -> usize {
        let metadata = self.consumer().fetch_metadata(Some(&self.name(table)), LIMIT).expect("metadata");
        metadata.topics().first().map_or(0, |topic| topic.partitions().len())
    }

    /// The properties of a table's topic, as the brokers show them.
    pub async fn properties(&self, table: &str) -> BTreeMap<String, String> {
        let topic = self.name(table);
        let answers = self.admin().describe_configs(&[ResourceSpecifier::Topic(&topic)], &Self::options()).await;
        let shown = answers.expect("an answer").into_iter().flat_map(|answer| answer.expect("a topic").entries);
        shown.filter_map(|entry| Some((entry.name, entry.value?))).collect()
    }

    /// The brokers that lead the partitions of a table's topic.
    pub fn leaders(&self, table: &str) -> Vec<i32> {
        let metadata = tokio::task::block_in_place(|| self.consumer().fetch_metadata(Some(&self.name(table)), LIMIT));
        let metadata = metadata.expect("metadata");
        metadata.topics().iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::leader).collect()
    }

    /// The least number of replicas that have all records, over all partitions of the cluster.
    pub fn in_sync(&self) -> usize {
        let metadata = tokio::task::block_in_place(|| self.consumer().fetch_metadata(None, LIMIT)).expect("metadata");
        let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
        partitions.map(|partition| partition.isr().len()).min().unwrap_or_default()
    }

    /// Everything that lies in a table's topic, partition by partition; what is written meanwhile may be missing.
    pub fn read(&self, table: &str) -> Vec<Consumed> {
        tokio::task::block_in_place(|| self.read_blocking(table))
    }

    fn read_blocking(&self, table: &str) -> Vec<Consumed> {
        let (topic, partitions) = (self.name(table), self.partitions(table));
        let consumer = self.consumer();
        let (mut assignment, mut open) = (TopicPartitionList::new(), BTreeMap::new());
        for partition in 0..partitions {
            let partition = i32::try_from(partition).expect("few partitions");
            let (_, end) = consumer.fetch_watermarks(&topic, partition, LIMIT).expect("the ends of a partition");
            open.insert(partition, end);
            assignment.add_partition_offset(&topic, partition, Offset::Beginning).expect("a valid offset");
        }
        consumer.assign(&assignment).expect("an assignment");
        let (mut records, mut heard) = (Vec::new(), Instant::now());
        while !open.is_empty() {
            assert!(heard.elapsed() < LIMIT, "{topic} does not end");
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    records.push(consumed(&message));
                    // Where records come all the time nobody is ever told that there is none.
                    if open.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                        open.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                // The client makes its connections anew.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
                )))
                | None => {}
                Some(Err(error)) => panic!("cannot read {topic}: {error}"),
            }
        }
        records.sort_by_key(|record| record.partition);
        records
    }

    /// Writes a record into a table's topic.
    pub fn write(&self, table: &str, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.write_all(table, partition, [(key, value)]);
    }

    /// Writes keys and values in order into a table's topic.
    pub fn write_all<'a>(
        &self,
        table: &str,
        partition: i32,
        records: impl IntoIterator<Item = (Option<&'a [u8]>, Option<&'a [u8]>)>,
    ) {
        let producer: BaseProducer = self.config().create().expect("a producer");
        let topic = self.name(table);
        for (key, value) in records {
            let mut record = BaseRecord::to(&topic).partition(partition);
            (record.key, record.payload) = (key, value);
            producer.send(record).unwrap_or_else(|(error, _)| panic!("cannot write to {topic}: {error}"));
        }
        tokio::task::block_in_place(|| producer.flush(LIMIT)).expect("the records are delivered");
    }

    /// Writes so many records of so many bytes into a partition of a table's topic.
    pub fn fill(&self, table: &str, partition: i32, records: usize, bytes: usize) {
        // They go as one batch, so that a consumer has all of them at once.
        let producer: BaseProducer = self.config().set("linger.ms", "200").create().expect("a producer");
        let (topic, value) = (self.name(table), vec![b'x'; bytes]);
        for _ in 0..records {
            let record: BaseRecord<'_, [u8], _> = BaseRecord::to(&topic).partition(partition).payload(&value);
            producer.send(record).unwrap_or_else(|(error, _)| panic!("cannot write to {topic}: {error}"));
        }
        tokio::task::block_in_place(|| producer.flush(LIMIT)).expect("the records are delivered");
    }

    /// Removes the records below an offset from a partition of a table's topic, as retention does.
    pub async fn delete_records(&self, table: &str, partition: i32, below: Offset) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.name(table), partition, below).expect("a valid offset");
        let answer = self.admin().delete_records(&offsets, &Self::options()).await.expect("an answer");
        assert!(answer.elements().iter().all(|element| element.error().is_ok()), "{answer:?}");
    }

    /// Sets a property of a table's topic.
    pub async fn set(&self, table: &str, property: &str, value: &str) {
        let topic = self.name(table);
        let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set(property, value);
        let answers = self.admin().alter_configs([&change], &Self::options()).await.expect("an answer");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    /// Deletes a table's topic, and waits until it is gone.
    pub async fn delete(&self, table: &str) {
        let answers = self.admin().delete_topics(&[&self.name(table)], &Self::options()).await.expect("an answer");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let gone = async || tokio::task::block_in_place(|| self.partitions(table)) == 0;
        await_condition("the topic is gone", LIMIT, gone).await;
    }

    /// Creates a table's topic.
    pub async fn create(&self, table: &str, partitions: i32) {
        let topic = self.name(table);
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let answers = self.admin().create_topics([&new], &Self::options()).await.expect("an answer");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let there = async || tokio::task::block_in_place(|| self.partitions(table)) > 0;
        await_condition("the topic is there", LIMIT, there).await;
    }

    /// Adds partitions to a table's topic.
    pub async fn grow(&self, table: &str, partitions: usize) {
        let topic = self.name(table);
        let more = NewPartitions::new(&topic, partitions);
        let answers = self.admin().create_partitions([&more], &Self::options()).await.expect("an answer");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    /// Deletes every topic of the scenario, walrelay's own included; best effort.
    pub async fn delete_all(&self) {
        let admin = self.admin();
        let Ok(metadata) = admin.inner().fetch_metadata(None, Duration::from_secs(3)) else { return };
        let own = format!(".{}", self.prefix);
        let separated = |rest: &str| rest.starts_with(['.', '_', '-']);
        let ours = |name: &&str| name.strip_prefix(&self.prefix).is_some_and(separated) || name.ends_with(&own);
        let names: Vec<&str> = metadata.topics().iter().map(MetadataTopic::name).filter(ours).collect();
        let _absent = admin.delete_topics(&names, &Self::options()).await;
    }
}

fn consumed(message: &rdkafka::message::BorrowedMessage<'_>) -> Consumed {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    Consumed {
        partition: message.partition(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
    }
}
