//! An applier on a real target whose consumer is the test.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use prometheus::Registry;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use walrelay::{
    event::ChangeEvent,
    kafka::{ConsumedRecord, ConsumerEvent, StartOffset, TopicPartition},
    lsn::{Lsn, Position},
    pipeline::{
        apply::{Decode, Deps, Error, FlowControl, Incoming, Limits, TableOf, run},
        health::{Half, Health},
        metrics::ApplyMetrics,
    },
    progress::Progress,
    record::DecodeError,
    retry::{Classify as _, Severity},
    schema::TableName,
    sink::Sink,
};

use crate::sink_support::{Database, sink_settings};

type Script = Arc<Mutex<Vec<ChangeEvent>>>;

/// Reads a record's value as the number of an event in the script.
struct Scripted(Script);

impl Decode for Scripted {
    async fn decode(&mut self, record: &ConsumedRecord) -> Result<Option<Incoming>, DecodeError> {
        let number = record.value.as_ref().map(|value| std::str::from_utf8(value).unwrap().parse::<usize>().unwrap());
        Ok(number.map(|number| Incoming::Change(self.0.lock().unwrap()[number].clone())))
    }
}

struct NoFlow;

impl FlowControl for NoFlow {
    fn pause(&self, _partitions: Vec<TopicPartition>) {}
    fn resume(&self, _partitions: Vec<TopicPartition>) {}
}

/// An applier whose consumer is the test.
pub struct Applier {
    pub events: mpsc::UnboundedSender<ConsumerEvent>,
    script: Script,
    budget: Arc<Semaphore>,
    pub offsets: HashMap<(String, i32), i64>,
    pub health: Health,
    task: JoinHandle<Result<(), Error>>,
    stop: oneshot::Sender<()>,
}

impl Applier {
    pub async fn start(db: &Database, topics: &[(&str, i32)]) -> Self {
        let partitions: Vec<(&str, i32)> =
            topics.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition))).collect();
        Self::with_partitions(db, topics, &partitions).await
    }

    pub async fn with_partitions(db: &Database, topics: &[(&str, i32)], partitions: &[(&str, i32)]) -> Self {
        Self::with_budget(db, topics, partitions, Limits::default().budget_bytes).await
    }

    pub async fn with_budget(
        db: &Database,
        topics: &[(&str, i32)],
        partitions: &[(&str, i32)],
        budget_bytes: usize,
    ) -> Self {
        Self::with_limits(db, topics, partitions, Limits { workers: 3, budget_bytes, ..Limits::default() }).await
    }

    pub async fn with_limits(
        db: &Database,
        topics: &[(&str, i32)],
        partitions: &[(&str, i32)],
        limits: Limits,
    ) -> Self {
        let script = Script::default();
        let known = Arc::clone(&script);
        let decoder = move || Scripted(Arc::clone(&known));
        let table_of = |topic: &str| Some(TableName::new("public", topic.strip_prefix("w.")?));
        let applier = Self::decoding(db, topics, partitions, limits, (decoder, Arc::new(table_of))).await;
        Self { script, ..applier }
    }

    /// One whose records are decoded like this, and whose topics are those of these tables.
    pub async fn decoding<D: Decode + 'static>(
        db: &Database,
        topics: &[(&str, i32)],
        partitions: &[(&str, i32)],
        limits: Limits,
        (decoder, table_of): (impl Fn() -> D + Send + Sync + 'static, Arc<TableOf>),
    ) -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        let script = Script::default();
        let health = Health::new(Half::Apply, Duration::from_secs(30));
        let deps = Deps {
            sink: Arc::new(Sink::new(sink_settings(db, "it"))),
            events: receiver,
            flow: Box::new(NoFlow),
            decoder: Box::new(decoder),
            table_of,
            progress_topic: Some("progress".into()),
            partition_counts: topics.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect(),
            explicit: None,
            topic_ids: Arc::new(|topics| Ok(topics.iter().map(|topic| ((*topic).to_owned(), None)).collect())),
            limits,
            metrics: ApplyMetrics::new(&Registry::new()).unwrap(),
            health: health.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(deps, async {
            let _ = stopped.await;
        }));
        let budget = Arc::new(Semaphore::new(1 << 26));
        let mut applier = Self { events, script, budget, offsets: HashMap::new(), health, task, stop };
        applier.assign(partitions).await;
        applier
    }

    pub async fn assign(&mut self, partitions: &[(&str, i32)]) {
        let partitions = partitions.iter().map(|(topic, partition)| (Arc::from(*topic), *partition)).collect();
        let (reply, answer) = oneshot::channel();
        self.events.send(ConsumerEvent::Assigned { partitions, reply }).unwrap();
        for ((topic, partition), start) in answer.await.expect("an answer to the assignment") {
            let next = if let StartOffset::At(offset) = start { offset } else { 0 };
            self.offsets.insert((topic.to_string(), partition), next);
        }
    }

    pub fn send(&mut self, topic: &str, partition: i32, events: Vec<ChangeEvent>) {
        let mut script = self.script.lock().unwrap();
        let mut records = Vec::new();
        for event in events {
            let offset = self.offsets.entry((topic.to_owned(), partition)).or_default();
            records.push(record(topic, partition, *offset, Some(script.len().to_string())));
            *offset += 1;
            script.push(event);
        }
        drop(script);
        self.deliver(records);
    }

    pub fn deliver(&self, records: Vec<ConsumedRecord>) {
        let bytes = u32::try_from(records.iter().map(ConsumedRecord::size).sum::<usize>()).unwrap();
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(bytes).expect("room in the budget");
        self.events.send(ConsumerEvent::Records { records, permit }).unwrap();
    }

    /// Everything below this commit LSN has been sent.
    pub fn progress(&self, lsn: u64) {
        self.progress_but(lsn, &[]);
    }

    /// As `progress`, but for what capture has stopped.
    pub fn progress_but(&self, lsn: u64, stopped: &[(&str, Position)]) {
        let stopped = stopped.iter().map(|(topic, position)| ((*topic).to_owned(), *position)).collect();
        self.tell(Progress { lsn: Lsn(lsn), stopped, ..Progress::default() });
    }

    /// As `progress`, but for a topic that capture does not tell of.
    pub fn tell_all_but(&mut self, topic: &str, lsn: u64) {
        let (kept, told) = self.offsets.drain().partition(|((name, _), _)| name == topic);
        self.offsets = told;
        self.progress(lsn);
        self.offsets.extend::<HashMap<_, _>>(kept);
    }

    /// A progress record about what has been sent.
    pub fn tell(&self, progress: Progress) {
        let mut offsets: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for ((topic, partition), next) in &self.offsets {
            let of_topic = offsets.entry(topic.clone()).or_default();
            let place = usize::try_from(*partition).unwrap();
            of_topic.resize(of_topic.len().max(place + 1), i64::MAX);
            of_topic[place] = *next;
        }
        let progress = Progress { offsets, ..progress };
        self.deliver(vec![record("progress", 0, 0, Some(serde_json::to_string(&progress).unwrap()))]);
    }

    /// Waits until it ends because the target has gone back in time.
    pub async fn gone_back(self) {
        let ended =
            tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it sees that the target went back");
        let error = ended.unwrap().unwrap_err();
        assert!(matches!(error, Error::WentBack { .. }) && error.severity() == Severity::Transient, "{error:?}");
    }

    /// Ends it wherever it is, as a kill does.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()), "it had ended by itself");
    }

    pub async fn finish(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }
}

fn record(topic: &str, partition: i32, offset: i64, value: Option<String>) -> ConsumedRecord {
    ConsumedRecord {
        topic: Arc::from(topic),
        partition,
        offset,
        timestamp_ms: 0,
        key: None,
        value: value.map(Bytes::from),
        headers: Vec::new(),
    }
}
