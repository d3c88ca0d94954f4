//! Which relation goes where: the encode plans of the relation versions of the stream, and their topics.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{Error, publisher::Publisher, session::Session, state::Update, topic::Topic, versions::Versions};
use crate::{
    avro::store::{SchemaStore, StoreError},
    event::{Op, RecordBuf, RowChange},
    lsn::{Lsn, Position},
    pgoutput::message::{RelationBody, TypeBody},
    pipeline::metrics::TableMetrics,
    record::{Beyond, Encoder, EncoderSettings, KeyForm, Masks, Plan},
    retry::{Backoff, Classify, Severity, chain},
    schema::{Relation, TableName},
    source,
};

/// A table whose changes are published.
pub(super) struct Running {
    pub(super) relation: Arc<Relation>,
    pub(super) plan: Arc<Plan>,
    pub(super) topic: Arc<Topic>,
    pub(super) metrics: TableMetrics,
}

impl Running {
    /// A change of the table is on its way, in these records.
    pub(super) fn count(&self, change: &RowChange, records: &RecordBuf) {
        let op = match change {
            RowChange::Read(_) => Op::Read,
            RowChange::Insert(_) => Op::Create,
            RowChange::Update { .. } => Op::Update,
            RowChange::Delete(_) => Op::Delete,
        };
        self.metrics.events(op).inc();
        self.metrics.bytes.inc_by(records.bytes.len() as u64);
    }

    /// Registers the relation's schemas and compiles its plan, with keys as the topic has them.
    pub(super) async fn new(
        session: &Session,
        encoder: &mut Encoder,
        relation: Arc<Relation>,
        topic: Arc<Topic>,
    ) -> Result<Self, Error> {
        let kept = session.key_form(&topic.name).await;
        if kept.as_ref().is_some_and(|kept| !encoder.keeps_keys(&relation, kept)) {
            return Err(Error::KeyChanged { table: relation.name.to_string() });
        }
        let running = Self::prepared(session, encoder, relation, topic, kept.as_ref()).await?;
        let (table, topic, plan) = (&running.relation.name, &running.topic.name, &running.plan);
        session.keep_key_form(table, topic, plan.key_form(), kept).await?;
        Ok(running)
    }

    /// The same for a barrier that empties the topic, and from which on keys may be others.
    pub(super) async fn anew(
        session: &Session,
        encoder: &mut Encoder,
        relation: Arc<Relation>,
        topic: Arc<Topic>,
    ) -> Result<Self, Error> {
        Self::prepared(session, encoder, relation, topic, None).await
    }

    /// The table of a topic that is not captured any more, for the barriers that lack its copies; `None` if none can be sent:
    /// the table is told as stopped then.
    pub(super) async fn departed(
        session: &Session,
        encoder: &mut Encoder,
        publisher: &Publisher,
        relation: &Arc<Relation>,
        topic: &str,
    ) -> Result<Option<Arc<Self>>, Error> {
        let Some(known) = publisher.topic(topic) else {
            session.lose(&relation.name, topic, publisher.refusal(topic)).await?;
            return Ok(None);
        };
        let kept = session.key_form(topic).await;
        match Self::prepared(session, encoder, Arc::clone(relation), known, kept.as_ref()).await {
            Ok(running) => Ok(Some(Arc::new(running))),
            Err(error) if error.severity() == Severity::Definite => {
                session.lose(&relation.name, topic, &chain(&error)).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The same with room for what a row at this position has shown, and no message tells. Recorded under the version's key
    /// before it is used.
    pub(super) async fn admitting(
        &self,
        session: &Session,
        encoder: &mut Encoder,
        (key, position): (String, Position),
        beyond: &Beyond,
    ) -> Result<Self, Error> {
        let mut relation = (*self.relation).clone();
        let column = |index: &usize| relation.columns.get(*index);
        for column in beyond.nulls.iter().filter_map(column) {
            tracing::info!(table = %relation.name, column = %column.name, "the column can be null by now");
        }
        for column in beyond.labels.keys().filter_map(column) {
            tracing::info!(table = %relation.name, column = %column.name, "the column's enumeration has other labels by now");
        }
        if !beyond.labels.is_empty() {
            let labelled = beyond.labels.keys().filter_map(column).map(|column| column.ty.oid).collect::<BTreeSet<_>>();
            source::version::describe_types(&session.client, &mut relation, &labelled).await?;
            session.check_labels(&self.relation, &mut relation, position).await?;
            // A label that the row has and the enumeration has not any more was renamed too.
            let mut with_row = relation.clone();
            beyond.admit(&mut with_row);
            session.check_labels(&with_row, &mut relation, position).await?;
        }
        beyond.admit(&mut relation);
        let relation = Arc::new(relation);
        session.position.record(&[Update::Relation { key, relation: Arc::clone(&relation) }]).await?;
        Self::new(session, encoder, relation, Arc::clone(&self.topic)).await
    }

    async fn prepared(
        session: &Session,
        encoder: &mut Encoder,
        relation: Arc<Relation>,
        topic: Arc<Topic>,
        kept: Option<&KeyForm>,
    ) -> Result<Self, Error> {
        let mut backoff = Backoff::new();
        let plan = loop {
            let prepared = encoder.prepare(&relation, kept, &session.registry).await;
            if let Some(plan) = session.patiently(prepared, &mut backoff).await? {
                break plan;
            }
        };
        let metrics = session.metrics.table(&relation.name.to_string());
        Ok(Self { relation, plan, topic, metrics })
    }
}

/// What happens to the changes of a relation.
pub(super) enum Route {
    Running(Arc<Running>),
    /// Its changes stay in the WAL. The plan, where there is one, only tells how many ordinals a change takes: they must be
    /// the same when the table goes on. Its topic is told to the sinks with what concerns the table too.
    Stopped {
        plan: Option<Arc<Plan>>,
        topic: Option<(String, i32)>,
    },
    /// It is sent, but not captured. The plan counts ordinals here too: a table may be captured by the next session, and the
    /// positions of its transactions must not shift. Truncates that were sent by half go to a departed table.
    Ignored {
        plan: Option<Arc<Plan>>,
        departed: Option<Arc<Running>>,
    },
    /// It is captured from a later position on.
    Early {
        plan: Option<Arc<Plan>>,
        body: Box<RelationBody>,
    },
}

impl Route {
    /// What tells how many ordinals a change takes; without one, each takes one.
    pub(super) fn plan(&self) -> Option<&Arc<Plan>> {
        match self {
            Self::Running(running) => Some(&running.plan),
            Self::Stopped { plan, .. } | Self::Ignored { plan, .. } | Self::Early { plan, .. } => plan.as_ref(),
        }
    }
}

/// The relations that the stream has announced.
pub(super) struct Routes {
    session: Arc<Session>,
    by_oid: HashMap<u32, Route>,
    types: HashMap<u32, TypeBody>,
    versions: Versions,
}

impl Routes {
    /// `published`: what commits below it may have been published by an earlier session.
    pub(super) fn new(session: Arc<Session>, versions: BTreeMap<String, Arc<Relation>>, published: Lsn) -> Self {
        let versions = Versions::new(Arc::clone(&session), versions, published);
        Self { session, by_oid: HashMap::new(), types: HashMap::new(), versions }
    }

    /// The route of a relation; `None` if the stream has not announced it.
    pub(super) fn find(&self, oid: u32) -> Option<&Route> {
        self.by_oid.get(&oid)
    }

    /// The description of a table whose events before this position were not captured, if they are from here on.
    pub(super) fn joins_at(&self, oid: u32, position: Position) -> Option<RelationBody> {
        let Some(Route::Early { body, .. }) = self.by_oid.get(&oid) else { return None };
        (!self.session.resyncs.joins_behind(oid, position)).then(|| (**body).clone())
    }

    /// Remembers the name of a type.
    pub(super) fn name_type(&mut self, body: TypeBody) {
        self.types.insert(body.oid, body);
    }

    /// Stops a table; its name, if it was running.
    pub(super) fn stop(&mut self, oid: u32) -> Option<TableName> {
        let Some(Route::Running(running)) = self.by_oid.get(&oid) else { return None };
        let (table, plan) = (running.relation.name.clone(), Some(Arc::clone(&running.plan)));
        let topic = Some(running.topic.label());
        self.by_oid.insert(oid, Route::Stopped { plan, topic });
        Some(table)
    }

    /// Goes on with an earlier description of a table, unless that has stopped meanwhile.
    pub(super) fn put_back(&mut self, former: Arc<Running>) {
        if let Some(Route::Running(running)) = self.by_oid.get_mut(&former.relation.oid) {
            *running = former;
        }
    }

    /// A Relation message: `position` is that of the next event, which may be the relation's first.
    pub(super) async fn announce(
        &mut self,
        body: RelationBody,
        position: Position,
        encoder: &mut Encoder,
        publisher: &Publisher,
    ) -> Result<(), Error> {
        let (oid, name) = (body.oid, TableName::new(Arc::clone(&body.schema), Arc::clone(&body.table)));
        if self.session.tables.is_stopped(&name) {
            let plan = self.counting_plan(&body, encoder).await?;
            self.by_oid.insert(oid, Route::Stopped { plan, topic: self.session.tables.topic_of(&name) });
            return Ok(());
        }
        if self.session.resyncs.joins_behind(oid, position) {
            let plan = self.counting_plan(&body, encoder).await?;
            self.by_oid.insert(oid, Route::Early { plan, body: Box::new(body) });
            return Ok(());
        }
        if let Some((table, error)) = self.changed_hands(oid, &name) {
            let plan = self.counting_plan(&body, encoder).await?;
            // It had the name before the table that joined, or that had another one.
            if self.session.resyncs.is_before_name(&table, position) {
                self.by_oid.insert(oid, Route::Ignored { plan, departed: None });
                return Ok(());
            }
            self.by_oid.insert(oid, Route::Stopped { plan, topic: self.session.tables.topic_of(&table) });
            if self.session.tables.is_stopped(&table) {
                return Ok(());
            }
            return self.session.stop_table(&table, position, &error, publisher).await;
        }
        let Some(topic) = self.session.topic_of(&name, publisher) else {
            return self.ignore(&body, &name, encoder, publisher).await;
        };
        match self.run(&body, position, Arc::clone(&topic), encoder).await {
            Ok(running) => {
                self.by_oid.insert(oid, Route::Running(Arc::new(running)));
                Ok(())
            }
            Err(error) if error.severity() == Severity::Definite => {
                let plan = self.counting_plan(&body, encoder).await?;
                self.by_oid.insert(oid, Route::Stopped { plan, topic: Some(topic.label()) });
                self.session.stop_table(&name, position, &error, publisher).await
            }
            Err(error) => Err(error),
        }
    }

    /// A captured table that is called otherwise by now, or another table under a captured one's name (trap T37): events of
    /// one relation never go on in the topic of another, nor do they end without a word.
    fn changed_hands(&self, oid: u32, name: &TableName) -> Option<(TableName, Error)> {
        let captured = |table: &TableName| self.session.topics.contains_key(table);
        match self.session.known(oid) {
            Some(known) if known != name && captured(known) => {
                Some((known.clone(), Error::Renamed { table: known.to_string(), name: name.to_string() }))
            }
            None if captured(name) => Some((name.clone(), Error::Replaced { table: name.to_string() })),
            _ => None,
        }
    }

    /// Skips a relation that is not captured; one that should be is named.
    async fn ignore(
        &mut self,
        body: &RelationBody,
        name: &TableName,
        encoder: &mut Encoder,
        publisher: &Publisher,
    ) -> Result<(), Error> {
        let plan = self.counting_plan(body, encoder).await?;
        let departed = match self.session.departed.find(body.oid) {
            Some((topic, relation)) => Running::departed(&self.session, encoder, publisher, relation, topic).await?,
            None => None,
        };
        if self.by_oid.insert(body.oid, Route::Ignored { plan, departed }).is_some() {
            return Ok(());
        }
        // One that was there when the session began has been named already. Partitions are announced too, and are captured
        // as their root.
        let wanted = self.session.known(body.oid).is_none() && self.session.settings.publication.tables.matches(name);
        if wanted && self.session.is_published(body.oid).await? {
            if self.session.settings.snapshot.copies() {
                tracing::info!(table = %name, "the publication has a table that is not captured yet");
                self.session.new_table.notify_one();
            } else {
                let reason = "it joined the publication after the snapshot; its rows are not captured";
                tracing::error!(table = %name, reason, "table stopped");
                self.session.health.stop_table(name.to_string(), reason);
            }
        } else {
            tracing::debug!(table = %name, "the relation is not captured; its changes are skipped");
        }
        Ok(())
    }

    /// Goes on with a relation's version that has room for what a row has.
    pub(super) async fn admit(
        &mut self,
        oid: u32,
        beyond: &Beyond,
        position: Position,
        encoder: &mut Encoder,
    ) -> Result<(), Error> {
        let Some(Route::Running(running)) = self.by_oid.get(&oid) else { return Ok(()) };
        let Some(key) = self.versions.key_of(&running.relation) else { return Ok(()) };
        let running = running.admitting(&self.session, encoder, (key.clone(), position), beyond).await?;
        self.versions.replace(key, Arc::clone(&running.relation));
        self.by_oid.insert(oid, Route::Running(Arc::new(running)));
        Ok(())
    }

    async fn run(
        &mut self,
        body: &RelationBody,
        position: Position,
        topic: Arc<Topic>,
        encoder: &mut Encoder,
    ) -> Result<Running, Error> {
        let running = match self.by_oid.get(&body.oid) {
            Some(Route::Running(running)) => Some(Arc::clone(&running.relation)),
            _ => None,
        };
        let relation = self.versions.described(body, &self.types, running, (position, &topic.name)).await?;
        Running::new(&self.session, encoder, relation, topic).await
    }

    /// A plan for a stopped table; without one every change counts as one. It must not depend on whether the server answered this time.
    async fn counting_plan(&self, body: &RelationBody, encoder: &mut Encoder) -> Result<Option<Arc<Plan>>, Error> {
        let last = self.last_version(body.oid);
        let relation = match self.session.describe_counted(body, &self.types, last.as_deref()).await {
            Ok(relation) => relation,
            Err(error) if error.severity() == Severity::Transient => return Err(error),
            Err(_) => return Ok(None),
        };
        let Ok(topic) = self.session.settings.encoder.topics.of_table(&relation.name) else { return Ok(None) };
        let kept = self.session.key_form(&topic).await;
        if let Ok(plan) = encoder.prepare(&relation, kept.as_ref(), &Unregistered).await {
            return Ok(Some(plan));
        }
        // How many ordinals a change takes is no matter of masks, which may be configured otherwise when it comes again.
        let settings = EncoderSettings { masks: Masks::default(), ..self.session.settings.encoder.clone() };
        Ok(Encoder::new(settings).prepare(&relation, kept.as_ref(), &Unregistered).await.ok())
    }

    /// The version before the next one: that in use, or else the newest that is known.
    fn last_version(&self, oid: u32) -> Option<Arc<Relation>> {
        match self.by_oid.get(&oid) {
            Some(Route::Running(running)) => Some(Arc::clone(&running.relation)),
            _ => self.versions.newest(oid).cloned(),
        }
    }
}

/// Gives every schema the same id: for plans that nothing is published with.
struct Unregistered;

impl SchemaStore for Unregistered {
    async fn register(&self, _subject: &str, _schema: &str) -> Result<u32, StoreError> {
        Ok(0)
    }

    async fn schema(&self, _id: u32) -> Result<Arc<str>, StoreError> {
        Ok("".into())
    }
}
