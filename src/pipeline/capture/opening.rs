//! How a session begins: connections, publication, topics, state, slot, and the copy when one is due.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{Mutex, mpsc, watch};

use super::{
    Error,
    initial::Copy,
    options::{EventOptions, OptionHistory},
    position::PositionRecord,
    progress::topic_update,
    publisher::Publisher,
    session::Session,
    settings::{CaptureDeps, CaptureSettings, SnapshotMode},
    start::{self, Server, Slot, Start},
    state::{Checkpoint, Phase, State, StateStore, StoppedTable, Update},
    tables::Tables,
    topics::{Topics, state_topic},
};
use crate::{
    lsn::{Lsn, Position},
    postgres,
    record::{message_topic, topic_name},
    registry::Registry,
    retry::{Classify as _, Severity, chain},
    schema::{Relation, TableName},
    source::{
        self,
        catalog::PublishedTable,
        connection::{APPLICATION_NAME, ReplicationConnection, ReplicationStream, SlotOptions, StreamOptions},
        slot::SlotVerdict,
        snapshot::SnapshotReader,
        stream::{Batch, StreamHandle, spawn},
    },
};

/// How long the creation of a slot may wait for running transactions (trap T25).
const SLOT_LIMIT: Duration = Duration::from_mins(5);
/// Rows of the snapshot that are read at a time, in bytes.
const SNAPSHOT_BATCH_BYTES: usize = 1 << 20;

const COPY_HINT: &str = "A new snapshot takes the table in: drop the slot and set [capture] on_gap = \"resnapshot\".";

/// A session that is ready to stream.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) batches: mpsc::Receiver<Result<Batch, source::Error>>,
    pub(super) handle: StreamHandle,
    /// Relation versions by `oid/digest`.
    pub(super) versions: BTreeMap<String, Arc<Relation>>,
    /// The commit LSN at which the options of this session end.
    pub(super) below: Option<Lsn>,
}

/// How a stream goes on.
struct GoingOn {
    /// What is recorded from now on.
    checkpoint: Checkpoint,
    /// The stream's first commit LSN.
    from: Lsn,
    /// The commit LSN at which the options end.
    below: Option<Lsn>,
}

/// Everything that is known before the slot is touched.
struct Opening<'a> {
    deps: CaptureDeps,
    tables: &'a Arc<Tables>,
    client: postgres::Client,
    published: Vec<PublishedTable>,
    topics: BTreeMap<TableName, String>,
    cluster: Topics,
    /// From where on the server can send again: a crash of it may take the slot back, but never below.
    restart: Lsn,
}

/// Connects, decides where to begin, and copies if need be.
pub(super) async fn open(deps: &CaptureDeps, tables: &Arc<Tables>) -> Result<Opened, Error> {
    let settings = &deps.settings;
    let client = source::catalog::connect(&settings.source, APPLICATION_NAME).await?;
    if !source::lock::try_lock(&client, &settings.slot).await? {
        return Err(Error::Busy { slot: settings.slot.clone() });
    }
    let cluster = Topics::new(&settings.kafka, &settings.topics, settings.create_topics)?;
    cluster.ensure_own(&settings.prefix).await?;
    let peeked = StateStore::peek(&settings.kafka, &state_topic(&settings.prefix)).await?;
    let deps = deps.clone();
    let opening =
        Opening { deps, tables, client, published: Vec::new(), topics: BTreeMap::new(), cluster, restart: Lsn::ZERO };
    opening.begin(peeked).await
}

/// The tables of the publication that are configured. A stream that goes on never gets a table silently: its earlier rows
/// would be missing; a snapshot takes all of them.
async fn published_tables(
    deps: &CaptureDeps,
    tables: &Tables,
    client: &postgres::Client,
    goes_on: bool,
) -> Result<Vec<PublishedTable>, Error> {
    let settings = &deps.settings;
    let spec = &settings.publication;
    if goes_on {
        source::publication::must_exist(client, &spec.name).await?;
        for table in source::publication::unpublished(client, spec).await? {
            let reason = "it joined the configuration after the snapshot and is not in the publication; its rows are not captured";
            tracing::error!(table = %table, reason, "table stopped");
            deps.health.stop_table(table.to_string(), reason);
        }
    } else {
        let report = source::publication::ensure(client, spec).await?;
        tracing::info!(
            publication = spec.name,
            created = report.created,
            options_set = report.options_set,
            added = %list(&report.added),
            tables = %list(&report.tables),
            not_configured = %list(&report.extra),
            "publication is ready"
        );
        for pattern in spec.tables.idle(&report.tables) {
            tracing::warn!(pattern, "no table matches this pattern of capture.include");
        }
        for table in report.tables.iter().filter(|table| !tables.is_stopped(table)) {
            deps.health.resume_table(&table.to_string());
        }
    }
    let published = source::catalog::read(client, &spec.name).await?.tables;
    Ok(published.into_iter().filter(|table| spec.tables.matches(&table.relation.name)).collect())
}

fn list(tables: &[TableName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn name_topics(
    deps: &CaptureDeps,
    tables: &Tables,
    published: &[PublishedTable],
) -> Result<BTreeMap<TableName, String>, Error> {
    let mut topics = BTreeMap::new();
    for table in published {
        let name = &table.relation.name;
        let topic = topic_name(&deps.settings.prefix, name).map_err(crate::record::EncodeError::from)?;
        if let Some(other) = tables.name_topic(&topic, name) {
            return Err(Error::SharedTopic { first: other.to_string(), second: name.to_string(), topic });
        }
        topics.insert(name.clone(), topic);
    }
    Ok(topics)
}

impl Opening<'_> {
    async fn begin(mut self, peeked: State) -> Result<Opened, Error> {
        let settings = self.deps.settings.clone();
        let mut replication = ReplicationConnection::connect(&settings.source).await?;
        let server = self.server(&mut replication, peeked.checkpoint.as_ref()).await?;
        let slot = self.slot().await?;
        let start = start::decide(&settings.slot, peeked.checkpoint.as_ref(), server, slot, settings.on_gap)?;
        tracing::info!(slot = %settings.slot, ?start, "beginning");
        match start {
            Start::Resume { at, timeline } => {
                let going_on = self.going_on(&peeked, at, timeline)?;
                self.survey(true).await?;
                self.resume(replication, peeked, going_on).await
            }
            Start::Fresh { drop_slot } => {
                self.survey(false).await?;
                let intent = self.intent(server, 0, Phase::Intent);
                self.copy(replication, peeked, (server, drop_slot), intent).await
            }
            Start::Again { drop_slot, epoch } => {
                self.survey(false).await?;
                let intent = self.intent(server, epoch, Phase::Snapshot);
                self.copy(replication, peeked, (server, drop_slot), intent).await
            }
        }
    }

    /// Which tables there are, and their topics.
    async fn survey(&mut self, goes_on: bool) -> Result<(), Error> {
        self.published = published_tables(&self.deps, self.tables, &self.client, goes_on).await?;
        self.topics = name_topics(&self.deps, self.tables, &self.published)?;
        Ok(())
    }

    /// From where the stream goes on, and under which options: what may have been published is published again as it was.
    fn going_on(&mut self, peeked: &State, at: Lsn, timeline: u32) -> Result<GoingOn, Error> {
        let settings = &self.deps.settings;
        let Some(recorded) = peeked.checkpoint.clone() else {
            return Err(Error::StateMoved { slot: settings.slot.clone() });
        };
        let from = self.tables.begin(at);
        let options = recorded.options.change(EventOptions::of(settings), recorded.ceiling, self.restart.min(at));
        let (valid, below) = options.at(from);
        let settings = valid.settings(settings.clone())?;
        if let Some(below) = below {
            tracing::info!(%below, publication = settings.publication.name,
                "what may have been published is published again under the options of its time");
        }
        self.deps.settings = settings;
        Ok(GoingOn { checkpoint: Checkpoint { timeline, options, ..recorded }, from, below })
    }

    /// What is recorded before a slot is created: a slot that is found with it is not in use.
    fn intent(&self, server: Server, epoch: u32, phase: Phase) -> Checkpoint {
        Checkpoint {
            system_id: server.system_id,
            timeline: server.timeline,
            slot: self.deps.settings.slot.clone(),
            epoch,
            phase,
            consistent_point: Lsn::ZERO,
            flush: Lsn::ZERO,
            published: Lsn::ZERO,
            ceiling: Lsn::ZERO,
            options: OptionHistory::new(EventOptions::of(&self.deps.settings)),
        }
    }

    async fn server(
        &self,
        replication: &mut ReplicationConnection,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Server, Error> {
        let identity = replication.identify_system().await?;
        let mut switch_point = None;
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.timeline != identity.timeline) {
            let history = replication.timeline_history(identity.timeline).await?;
            switch_point =
                history.iter().find(|switch| switch.timeline == checkpoint.timeline).map(|switch| switch.switch);
        }
        let (system_id, timeline, wal_end) = (identity.system_id, identity.timeline, identity.xlogpos);
        Ok(Server { system_id, timeline, wal_end, switch_point })
    }

    async fn slot(&mut self) -> Result<Option<Slot>, Error> {
        let settings = self.deps.settings.clone();
        let found = source::slot::read(&self.client, &settings.slot).await?;
        self.restart = found.as_ref().and_then(|slot| slot.restart_lsn).unwrap_or(Lsn::ZERO);
        let unusable = |reason: String| Error::SlotUnusable { slot: settings.slot.clone(), reason };
        match source::slot::assess(found.as_ref(), &settings.source.database, None) {
            SlotVerdict::Missing => Ok(None),
            SlotVerdict::Ready { confirmed_flush } | SlotVerdict::Ahead { confirmed_flush, .. } => {
                Ok(Some(Slot { confirmed_flush, lost: false }))
            }
            SlotVerdict::Lost { .. } => Ok(Some(Slot { confirmed_flush: Lsn::ZERO, lost: true })),
            SlotVerdict::InUse { pid, application } => {
                Err(Error::SlotInUse { slot: settings.slot.clone(), pid, application: application.unwrap_or_default() })
            }
            SlotVerdict::TwoPhase => Err(unusable("it decodes prepared transactions early (two_phase)".into())),
            SlotVerdict::Foreign { reason } => Err(unusable(reason)),
        }
    }

    /// The slot is taken first, then earlier writers are fenced, then the state is read: a stand-by that fenced before it
    /// owned the slot would kill the active one (PROTOCOL, "State and slot").
    async fn resume(
        mut self,
        replication: ReplicationConnection,
        peeked: State,
        going_on: GoingOn,
    ) -> Result<Opened, Error> {
        let GoingOn { checkpoint, from, below } = going_on;
        let publication = self.deps.settings.publication.name.clone();
        let stream = start_stream(&self.deps.settings, &publication, replication, from).await?;
        // From here on keepalives are answered, however long Kafka takes (trap T10).
        let (flush, confirmed) = watch::channel(checkpoint.flush);
        let (batches, handle) = spawn(stream, self.deps.settings.stream, confirmed);
        let (store, state) = self.fence(&peeked).await?;
        if state.checkpoint.as_ref() != Some(&checkpoint) {
            store.write(&[Update::Checkpoint(checkpoint.clone())]).await?;
        }
        self.check_barriers(&state)?;
        self.withhold(&state, checkpoint.consistent_point);
        let publisher = Arc::new(self.publisher(&state, from).await?);
        let session = Arc::new(self.session(store, &state, checkpoint, flush).await?);
        if below.is_none() {
            session.forget_topics(&state).await?;
        }
        Ok(Opened { session, publisher, batches, handle, versions: versions(&state), below })
    }

    /// A new slot, and what was committed before it.
    async fn copy(
        self,
        mut replication: ReplicationConnection,
        peeked: State,
        found: (Server, bool),
        mut checkpoint: Checkpoint,
    ) -> Result<Opened, Error> {
        // A new snapshot begins anew, also in this process.
        self.tables.republished(Lsn::ZERO);
        let settings = &self.deps.settings;
        let (server, drop_slot) = found;
        let again = checkpoint.phase == Phase::Snapshot;
        let (store, state) = self.fence(&peeked).await?;
        let mut updates = vec![Update::Checkpoint(checkpoint.clone())];
        // The new snapshot reads the tables as they are: a key that changed since is theirs from its begin.
        updates.extend(state.relations.keys().map(|key| Update::ForgetRelation { key: key.clone() }));
        store.write(&updates).await?;
        if drop_slot {
            replication.drop_slot(&settings.slot).await?;
            tracing::info!(slot = %settings.slot, "dropped the slot of an earlier start");
        }
        let copying = settings.snapshot == SnapshotMode::Initial;
        let options = SlotOptions { export_snapshot: copying, failover: true, temporary: false };
        let slot = replication.create_logical_slot(&settings.slot, options, SLOT_LIMIT).await?;
        let at = slot.consistent_point;
        tracing::info!(slot = %settings.slot, consistent_point = %at, timeline = server.timeline, "created replication slot");
        checkpoint = Checkpoint {
            phase: Phase::Snapshot,
            consistent_point: at,
            flush: at,
            published: at,
            ceiling: at,
            ..checkpoint
        };
        store.write(&[Update::Checkpoint(checkpoint.clone())]).await?;
        let publisher = Arc::new(self.publisher(&state, at).await?);
        let tables = self.published.clone();
        let publication = settings.publication.name.clone();
        let (flush, confirmed) = watch::channel(at);
        let session = self.session(store, &state, checkpoint, flush).await?;
        session.forget_topics(&state).await?;
        session.health.set_started();
        session.health.set_phase("snapshot");
        let reader = match slot.snapshot_name.filter(|_| copying) {
            Some(snapshot) => {
                let reader = SnapshotReader::open(&session.settings.source, &snapshot, SNAPSHOT_BATCH_BYTES).await?;
                reader.lock(&tables).await?;
                Some(reader)
            }
            None => None,
        };
        Copy::new(&session, &publisher, at).run(reader, &tables, again && copying).await?;
        let copied = publisher.topics().map(|topic| topic_update(topic)).collect();
        session.position.finish_snapshot(copied).await?;
        let stream = start_stream(&session.settings, &publication, replication, at).await?;
        let (batches, handle) = spawn(stream, session.settings.stream, confirmed);
        Ok(Opened { session: Arc::new(session), publisher, batches, handle, versions: BTreeMap::new(), below: None })
    }

    /// Fences earlier writers; what they recorded must be what the decision was made on.
    async fn fence(&self, peeked: &State) -> Result<(StateStore, State), Error> {
        let settings = &self.deps.settings;
        let topic = state_topic(&settings.prefix);
        let (store, state) = StateStore::open(&settings.kafka, &topic).await?;
        if state.checkpoint != peeked.checkpoint {
            return Err(Error::StateMoved { slot: settings.slot.clone() });
        }
        Ok((store, state))
    }

    /// Leaves out the tables whose rows no snapshot has published in whole: a stream alone would give them a part of their
    /// rows.
    fn withhold(&mut self, state: &State, consistent_point: Lsn) {
        let reasons: Vec<_> = self
            .topics
            .iter()
            .filter_map(|(table, topic)| Some((table.clone(), uncopied(state, consistent_point, table, topic)?)))
            .collect();
        for (table, reason) in reasons {
            self.topics.remove(&table);
            tracing::error!(table = %table, reason, hint = COPY_HINT, "table stopped");
            self.deps.health.stop_table(table.to_string(), reason);
        }
    }

    /// A barrier whose broadcast was cut is repeated by the replay; that needs its tables to be captured still.
    fn check_barriers(&self, state: &State) -> Result<(), Error> {
        for barrier in &state.barriers {
            let lost = barrier.topics.iter().find(|(topic, _)| !self.topics.values().any(|known| known == topic));
            if let Some((topic, _)) = lost {
                return Err(Error::HalfBroadcast { topic: topic.clone(), position: barrier.position });
            }
        }
        Ok(())
    }

    /// Stops a table before anything of it is published by this session.
    fn stop_unpublished(&self, table: &TableName, error: &Error) {
        let reason = chain(error);
        tracing::error!(table = %table, reason, hint = error.hint(), "table stopped");
        self.deps.health.stop_table(table.to_string(), reason.clone());
        self.tables.stop(table.clone(), StoppedTable { position: Position::default(), reason });
    }

    async fn publisher(&self, state: &State, start: Lsn) -> Result<Publisher, Error> {
        let settings = &self.deps.settings;
        let mut ready = Vec::new();
        for (table, topic) in self.topics.iter().filter(|(table, _)| !self.tables.is_stopped(table)) {
            match self.cluster.ensure_data(topic, state).await {
                Ok(topic) => ready.push(topic),
                // The brokers refuse this topic; the others go on, and nothing of its table is confirmed.
                Err(error) if error.severity() == Severity::Definite => self.stop_unpublished(table, &error),
                Err(error) => return Err(error),
            }
        }
        ready.push(self.cluster.ensure_data(&message_topic(&settings.prefix), state).await?);
        let smallest = ready.iter().map(|topic| topic.max_message_bytes).min().unwrap_or(usize::MAX);
        let mut publisher = Publisher::new(
            &settings.kafka,
            &settings.producer,
            start,
            smallest,
            self.deps.metrics.unacknowledged.clone(),
        )?;
        for topic in ready {
            publisher.add_topic(&topic)?;
        }
        if let Some(lowest) = self.tables.lowest_stop() {
            publisher.deliveries().tracker(|tracker| tracker.hold(lowest));
        }
        Ok(publisher)
    }

    async fn session(
        self,
        store: StateStore,
        state: &State,
        checkpoint: Checkpoint,
        flush: watch::Sender<Lsn>,
    ) -> Result<Session, Error> {
        let settings = self.deps.settings.clone();
        let registry = Registry::new(&settings.registry)?;
        let epoch = checkpoint.epoch;
        let position = PositionRecord::new(store, checkpoint, flush);
        let session = Session {
            settings,
            health: self.deps.health.clone(),
            metrics: self.deps.metrics.clone(),
            client: self.client,
            registry,
            cluster: self.cluster,
            position,
            epoch,
            published: self.published,
            topics: self.topics,
            tables: Arc::clone(self.tables),
            barriers: Mutex::new(state.barriers.iter().map(|barrier| barrier.position).collect()),
        };
        session.retry_stopped(state).await?;
        Ok(session)
    }
}

async fn start_stream(
    settings: &CaptureSettings,
    publication: &str,
    replication: ReplicationConnection,
    at: Lsn,
) -> Result<ReplicationStream, Error> {
    Ok(replication.start_replication(&settings.slot, at, &[publication], StreamOptions::default()).await?)
}

/// Why a table that the stream has must not go on; `None` if all its rows are published.
fn uncopied(state: &State, consistent_point: Lsn, table: &TableName, topic: &str) -> Option<String> {
    let in_snapshot =
        |stopped: &&StoppedTable| stopped.position.commit == consistent_point && stopped.position.ordinal == 0;
    if let Some(stopped) = state.stopped.get(&table.to_string()).filter(in_snapshot) {
        return Some(format!("its snapshot was cut: {}", stopped.reason));
    }
    let joined = || "it joined the publication after the snapshot; its rows are not captured".to_owned();
    (!state.topics.contains_key(topic)).then(joined)
}

fn versions(state: &State) -> BTreeMap<String, Arc<Relation>> {
    state.relations.iter().map(|(key, relation)| (key.clone(), Arc::new(relation.clone()))).collect()
}
