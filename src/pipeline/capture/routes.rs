//! Which relation goes where: the relation versions of the stream, their encode plans and topics.
//!
//! A version is recorded in the state before its first record, so that a replay after a restart encodes old changes with
//! the version that they were made under, whatever the catalog says by then (trap T36).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Error,
    publisher::{Publisher, Topic},
    session::Session,
    state::Update,
};
use crate::{
    avro::store::{SchemaStore, StoreError},
    lsn::Position,
    pgoutput::message::{RelationBody, TypeBody},
    pipeline::metrics::TableMetrics,
    record::{Encoder, KeyForm, Plan},
    retry::{Classify, Severity, chain},
    schema::{Relation, TableName},
};

/// A table whose changes are published.
pub(super) struct Running {
    pub(super) relation: Arc<Relation>,
    pub(super) plan: Arc<Plan>,
    pub(super) topic: Arc<Topic>,
    pub(super) metrics: TableMetrics,
}

impl Running {
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

    /// The same where these columns can be null, as a row has shown: no message tells that NOT NULL was dropped. Recorded under
    /// the version's key before it is used.
    pub(super) async fn admitting(
        &self,
        session: &Session,
        encoder: &mut Encoder,
        key: String,
        nulls: &[usize],
    ) -> Result<Self, Error> {
        let mut relation = (*self.relation).clone();
        for (_, column) in relation.columns.iter_mut().enumerate().filter(|(index, _)| nulls.contains(index)) {
            tracing::info!(table = %self.relation.name, column = %column.name, "the column can be null by now");
            column.nullable = true;
        }
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
        let plan = session.patiently(async |registry| encoder.prepare(&relation, kept, registry).await).await?;
        let metrics = session.metrics.table(&relation.name.to_string());
        Ok(Self { relation, plan, topic, metrics })
    }
}

/// Behind the OID, the key of the version that a snapshot read, which no message has described.
pub(super) const SNAPSHOT_VERSION: &str = "/snapshot";
/// The same of one that a snapshot read before the one that is under way.
pub(super) const FORMER_VERSION: &str = "/former";

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
}

/// The relations that the stream has announced.
pub(super) struct Routes {
    session: Arc<Session>,
    by_oid: HashMap<u32, Route>,
    types: HashMap<u32, TypeBody>,
    /// Relation versions by `oid/digest`.
    versions: BTreeMap<String, Arc<Relation>>,
}

impl Routes {
    pub(super) fn new(session: Arc<Session>, versions: BTreeMap<String, Arc<Relation>>) -> Self {
        Self { session, by_oid: HashMap::new(), types: HashMap::new(), versions }
    }

    /// The route of a relation; `None` if the stream has not announced it.
    pub(super) fn find(&self, oid: u32) -> Option<&Route> {
        self.by_oid.get(&oid)
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
            let plan = self.counting_plan(&body, encoder).await;
            self.by_oid.insert(oid, Route::Stopped { plan, topic: self.session.tables.topic_of(&name) });
            return Ok(());
        }
        if let Some((table, error)) = self.changed_hands(oid, &name) {
            let plan = self.counting_plan(&body, encoder).await;
            self.by_oid.insert(oid, Route::Stopped { plan, topic: self.session.tables.topic_of(&table) });
            if self.session.tables.is_stopped(&table) {
                return Ok(());
            }
            return self.session.stop_table(&table, position, &error, publisher).await;
        }
        let Some(topic) = self.session.topic_of(&name, publisher) else {
            return self.ignore(&body, &name, encoder, publisher).await;
        };
        match self.run(&body, Arc::clone(&topic), encoder).await {
            Ok(running) => {
                self.by_oid.insert(oid, Route::Running(Arc::new(running)));
                Ok(())
            }
            Err(error) if error.severity() == Severity::Definite => {
                let plan = self.counting_plan(&body, encoder).await;
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
        let plan = self.counting_plan(body, encoder).await;
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
            let reason = "it joined the publication after the snapshot; its rows are not captured";
            tracing::error!(table = %name, reason, "table stopped");
            self.session.health.stop_table(name.to_string(), reason);
        } else {
            tracing::debug!(table = %name, "the relation is not captured; its changes are skipped");
        }
        Ok(())
    }

    /// Goes on with a relation's version in which these columns can be null.
    pub(super) async fn admit_nulls(&mut self, oid: u32, nulls: &[usize], encoder: &mut Encoder) -> Result<(), Error> {
        let Some(Route::Running(running)) = self.by_oid.get(&oid) else { return Ok(()) };
        let of_version = |(_, version): &(&String, &Arc<Relation>)| Arc::ptr_eq(version, &running.relation);
        let Some(key) = self.versions.iter().find(of_version).map(|(key, _)| key.clone()) else { return Ok(()) };
        let running = running.admitting(&self.session, encoder, key.clone(), nulls).await?;
        self.versions.insert(key, Arc::clone(&running.relation));
        self.by_oid.insert(oid, Route::Running(Arc::new(running)));
        Ok(())
    }

    async fn run(&mut self, body: &RelationBody, topic: Arc<Topic>, encoder: &mut Encoder) -> Result<Running, Error> {
        let relation = self.version(body, &topic.name).await?;
        Running::new(&self.session, encoder, relation, topic).await
    }

    /// A plan for a stopped table; without one every change counts as one.
    async fn counting_plan(&self, body: &RelationBody, encoder: &mut Encoder) -> Option<Arc<Plan>> {
        let relation = self.session.describe(body, &self.types, self.last_version(body.oid).as_deref()).await.ok()?;
        let topic = self.session.settings.encoder.topics.of_table(&relation.name).ok()?;
        let kept = self.session.key_form(&topic).await;
        encoder.prepare(&relation, kept.as_ref(), &Unregistered).await.ok()
    }

    /// The recorded version that this message describes, or a new one, recorded before it is used.
    async fn version(&mut self, body: &RelationBody, topic: &str) -> Result<Arc<Relation>, Error> {
        let key = format!("{}/{:016x}", body.oid, digest(body));
        if let Some(known) = self.versions.get(&key).cloned() {
            self.check_collation(&known, topic).await?;
            return Ok(known);
        }
        let last = self.last_version(body.oid);
        let mut relation = self.session.describe(body, &self.types, last.as_deref()).await?;
        for (_, earlier) in self.versions_of(body.oid) {
            relation.keep_optional(earlier);
        }
        let relation = Arc::new(relation);
        if let Some(last) = last.filter(|last| key_of(last) != key_of(&relation)) {
            return Err(Error::KeyChanged { table: last.name.to_string() });
        }
        self.check_collation(&relation, topic).await?;
        let update = Update::Relation { key: key.clone(), relation: Arc::clone(&relation) };
        self.session.position.record(&[update]).await?;
        self.versions.insert(key, Arc::clone(&relation));
        Ok(relation)
    }

    async fn check_collation(&self, version: &Relation, topic: &str) -> Result<(), Error> {
        if self.session.collation_changed(version, topic).await? {
            return Err(Error::KeyChanged { table: version.name.to_string() });
        }
        Ok(())
    }

    /// The version before the next one: that in use, or else any that is known. What the snapshot read is the oldest.
    fn last_version(&self, oid: u32) -> Option<Arc<Relation>> {
        if let Some(Route::Running(running)) = self.by_oid.get(&oid) {
            return Some(Arc::clone(&running.relation));
        }
        let age = |key: &str| if key.ends_with(FORMER_VERSION) { 2 } else { u8::from(key.ends_with(SNAPSHOT_VERSION)) };
        let newest = self.versions_of(oid).max_by_key(|(key, _)| Reverse(age(key)));
        newest.map(|(_, version)| Arc::clone(version))
    }

    fn versions_of(&self, oid: u32) -> impl Iterator<Item = (&String, &Arc<Relation>)> {
        let prefix = format!("{oid}/");
        self.versions.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix))
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

/// Names and types of the key's columns.
fn key_of(relation: &Relation) -> Vec<(&str, u32)> {
    relation.key.iter().filter_map(|index| relation.columns.get(*index)).map(|c| (&*c.name, c.ty.oid)).collect()
}

/// Tells versions of one relation apart: FNV-1a over everything that the message says, stable over releases since it is
/// kept in the state.
fn digest(body: &RelationBody) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(body.schema.as_bytes());
    add(body.table.as_bytes());
    add(format!("{:?}", body.identity).as_bytes());
    for column in &body.columns {
        add(column.name.as_bytes());
        add(&[u8::from(column.identity)]);
        add(&column.type_oid.to_be_bytes());
        add(&column.typmod.to_be_bytes());
    }
    hash
}
