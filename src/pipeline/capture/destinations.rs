//! The topics of a session, made ready, and the producer for them.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Error, bad_row, beside,
    delivered::{self, Delivered},
    publisher::Publisher,
    settings::{BadRowPolicy, CaptureDeps, CaptureSettings, Delivery},
    state::{BadRows, Checkpoint, State, StoppedTable, TopicRecord, blocking},
    survey::Survey,
    tables::Tables,
    topics::{DataTopic, Topics},
};
use crate::{
    kafka::{self, ProducerSettings, StateTopic},
    lsn::{Lsn, Position},
    record::position_topic,
    retry::{Classify as _, Severity, chain},
    schema::TableName,
};

/// What decides where a session publishes to.
pub(super) struct Destinations<'a> {
    /// With the options of the session.
    pub(super) deps: &'a CaptureDeps,
    /// What the configuration wants.
    pub(super) configured: &'a CaptureSettings,
    pub(super) tables: &'a Arc<Tables>,
    pub(super) survey: &'a Survey,
    pub(super) cluster: &'a Topics,
}

impl Destinations<'_> {
    /// A publisher for which everything below `start` is acknowledged. A table whose topic is refused for good is stopped.
    /// What is in Kafka already is left out, where that is known.
    pub(super) async fn publisher(
        &self,
        state: &State,
        start: Lsn,
        checkpoint: &Checkpoint,
    ) -> Result<Publisher, Error> {
        let settings = &self.deps.settings;
        for (topic, record) in &state.topics {
            self.tables.count_partitions(topic, record.partitions);
        }
        let mut ready = self.topics_of_tables(state).await?;
        ready.extend(self.topics_beside(state).await?);
        let (departed, refused) = self.departed(state).await?;
        let letters = self.dead_letters().await?;
        let smallest = ready
            .iter()
            .chain(&departed)
            .chain(&letters)
            .map(|topic| topic.max_message_bytes)
            .min()
            .unwrap_or(usize::MAX);
        let is_exact = settings.delivery == Delivery::ExactlyOnce;
        let transactional = is_exact.then(|| settings.transactional());
        let producer = ProducerSettings { transactional, ..settings.producer.clone() };
        let mut publisher = Publisher::new(&settings.kafka, &producer, start, smallest, &self.deps.metrics)?;
        for topic in ready {
            let topic = publisher.add_topic(&topic)?;
            self.tables.count_partitions(&topic.name, topic.partitions);
        }
        for topic in departed {
            publisher.add_departed(&topic)?;
        }
        publisher.refuse(refused);
        if let Some(topic) = letters {
            publisher.add_dead_letters(&topic)?;
        }
        let captured = |rows: &&BadRows| self.survey.topics.contains_key(&rows.table);
        self.tables.lacking.take_up(state.bad_rows.values().filter(captured), &self.deps.health);
        self.tables.partitions.take_up(state.leaves.values());
        if let Some(lowest) = self.tables.lowest_stop() {
            // What lay before the stop may have been given up with the session in which it came, and is not sent until the table
            // goes on.
            publisher.deliveries().tracker(|tracker| tracker.hold(lowest.min(start)));
        }
        self.deps.metrics.exactly_once.set(i64::from(is_exact));
        self.go_on(&mut publisher, state, checkpoint).await?;
        Ok(publisher)
    }

    /// Fences earlier producers, and then sees how far they came. One that delivers at least once does so too, where an earlier one
    /// delivered exactly once: it must not repeat what that one has committed.
    async fn go_on(&self, publisher: &mut Publisher, state: &State, checkpoint: &Checkpoint) -> Result<(), Error> {
        let settings = &self.deps.settings;
        let is_exact = settings.delivery == Delivery::ExactlyOnce;
        let topic = position_topic(&settings.prefix);
        if is_exact {
            self.cluster.ensure_position(&settings.prefix).await?;
            publisher.fence().await?;
        } else if self.cluster.has_position(&settings.prefix).await? {
            let (kafka, transactional) = (settings.kafka.clone(), settings.transactional());
            blocking(move || kafka::fence(&kafka, &transactional)).await?;
        } else {
            return Ok(());
        }
        let (kafka, name) = (settings.kafka.clone(), topic.clone());
        let found = blocking(move || StateTopic::read(&kafka, &name)).await?;
        let wrong = |source| Error::State { topic: topic.clone(), key: delivered::KEY.to_owned(), source };
        let mut before = Delivered::new(found.get(delivered::KEY).map(Vec::as_slice), checkpoint).map_err(wrong)?;
        self.find_ends(publisher, state).await?;
        let stopped = self.tables.stops();
        let stopped: Vec<_> = stopped.iter().filter_map(|(table, _)| self.tables.topic_name_of(table)).collect();
        if is_exact {
            before.at_least(checkpoint.epoch, checkpoint.flush);
        }
        before.keep(|topic| publisher.topic(topic).is_some(), &stopped);
        if is_exact {
            publisher.transact(before, topic, settings.commit_interval)?;
        } else {
            publisher.leave_out(before);
        }
        Ok(())
    }

    /// A log's end counts the markers of transactions, which sinks are never given: where records end is told to them.
    async fn find_ends(&self, publisher: &Publisher, state: &State) -> Result<(), Error> {
        let mut known = BTreeMap::new();
        for topic in publisher.topics() {
            let recorded = state.topics.get(&*topic.name).map_or(&[][..], |TopicRecord { ends, .. }| ends);
            let end =
                |partition: i32| usize::try_from(partition).ok().and_then(|n| recorded.get(n)).map_or(0, |end| *end);
            known.extend((0..topic.partitions).map(|n| ((topic.name.to_string(), n), end(n).max(0))));
        }
        let kafka = self.deps.settings.kafka.clone();
        let ends = blocking(move || kafka::ends_of_records(&kafka, &known)).await?;
        for ((topic, partition), end) in ends {
            if let (Some(topic), Ok(partition)) = (publisher.topic(&topic), usize::try_from(partition)) {
                topic.ends_at(partition, end);
            }
        }
        Ok(())
    }

    /// Makes the topics of tables known for the begin alone that stopped in an earlier session of this snapshot: that one may have
    /// ended before its begin was sent, and rows from before the snapshot would stay at the sinks. Topics that the brokers refuse
    /// are left out, since the snapshot would never come to its end.
    pub(super) async fn add_stopped(&self, state: &State, publisher: &mut Publisher) -> Result<(), Error> {
        for table in self.tables.stopped_in_place() {
            let Some(topic) = self.survey.topics.get(&table) else { continue };
            match self.cluster.ensure_table(&table, topic, state).await {
                Ok(topic) => publisher.add_departed(&topic)?,
                Err(error) if error.severity() == Severity::Definite => {
                    tracing::warn!(table = %table, error = %chain(&error), "the table is not emptied at the sinks");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn topics_of_tables(&self, state: &State) -> Result<Vec<DataTopic>, Error> {
        let mut ready = Vec::new();
        for (table, topic) in self.survey.topics.iter().filter(|(table, _)| !self.tables.is_stopped(table)) {
            let found = self.cluster.ensure_table(table, topic, state).await;
            ready.extend(self.unless_refused(table, found, self.configured.publication.tables.matches(table))?);
        }
        Ok(ready)
    }

    async fn topics_beside(&self, state: &State) -> Result<Vec<DataTopic>, Error> {
        let mut ready = Vec::new();
        for (name, topic) in beside::of(&self.deps.settings) {
            self.tables.name_topic(topic, &name);
            if !self.tables.is_stopped(&name) {
                let is_of_transactions = self.deps.settings.transactions.as_deref() == Some(topic);
                let found = if is_of_transactions {
                    self.cluster.ensure_transactions(topic, state).await
                } else {
                    self.cluster.ensure_beside(topic, state).await
                };
                let is_configured = !is_of_transactions || self.configured.transactions.as_deref() == Some(topic);
                ready.extend(self.unless_refused(&name, found, is_configured)?);
            }
        }
        Ok(ready)
    }

    /// The topic of dead letters, where it is wanted. Without it capture goes on, and a row that cannot be published stops its table.
    async fn dead_letters(&self) -> Result<Option<DataTopic>, Error> {
        let settings = &self.deps.settings;
        if settings.on_bad_row != BadRowPolicy::DeadLetter || self.tables.are_dead_letters_refused() {
            return Ok(None);
        }
        match self.cluster.ensure_dead_letters(settings.encoder.topics.dead_letters()).await {
            Ok(topic) => Ok(Some(topic)),
            Err(error) if error.severity() == Severity::Transient => Err(error),
            Err(error) => {
                bad_row::give_up_letters(self.tables, &self.deps.health, &error);
                Ok(None)
            }
        }
    }

    /// A topic that the brokers refuse leaves the others to go on, and nothing of its table is confirmed. That holds for
    /// whatever else has become of one that only earlier options want.
    fn unless_refused(
        &self,
        table: &TableName,
        found: Result<DataTopic, Error>,
        is_configured: bool,
    ) -> Result<Option<DataTopic>, Error> {
        match found {
            Ok(topic) => Ok(Some(topic)),
            Err(error) if error.severity() == Severity::Definite => Ok(self.stop(table, &error)),
            Err(error) if error.severity() == Severity::Fatal && !is_configured => Ok(self.stop(table, &error)),
            Err(error) => Err(error),
        }
    }

    /// Stops a table before anything of it is published by this session.
    fn stop(&self, table: &TableName, error: &Error) -> Option<DataTopic> {
        let reason = chain(error);
        tracing::error!(table = %table, reason, hint = error.hint(), "table stopped");
        self.deps.health.stop_table(table.to_string(), reason.clone());
        self.tables.stop(
            table.clone(),
            StoppedTable { position: Position::default(), reason, dropped: false, lasting: false },
        );
        None
    }

    /// The topics of departed tables, and of those that are not what they were the reason.
    async fn departed(&self, state: &State) -> Result<(Vec<DataTopic>, BTreeMap<String, String>), Error> {
        let (mut ready, mut refused) = (Vec::new(), BTreeMap::new());
        for (topic, _) in self.survey.departed.tables() {
            match self.cluster.find_data(topic, state).await {
                Ok(found) => ready.push(found),
                Err(error) if error.severity() == Severity::Transient => return Err(error),
                Err(error) => drop(refused.insert(topic.to_owned(), chain(&error))),
            }
        }
        Ok((ready, refused))
    }
}
