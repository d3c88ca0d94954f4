//! How a session begins: connections, publication, topics, state, slot, and the copy when one is due.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{Mutex, Notify, mpsc, watch};

use super::{
    Error,
    barrier::{check_barriers, check_skipped},
    beside,
    chunks::SnapshotPlan,
    destinations::Destinations,
    failover::Marking,
    goal::Rest,
    guard, in_progress,
    initial::{Beginning, Copy},
    joining,
    options::{EventOptions, OptionHistory},
    partition_watch,
    position::PositionRecord,
    progress::topic_update,
    publisher::Publisher,
    readers::Readers,
    reading,
    resync::Run,
    resyncs::Resyncs,
    server::{self, Timeline},
    session::Session,
    settings::{CaptureDeps, CaptureSettings, SnapshotMode},
    slot_watch, standby, standing,
    start::{self, GoingOn, Server, Slot, Start},
    state::{Checkpoint, Phase, State, StateStore, Update},
    survey::{Replay, Survey, Withheld, report_withheld},
    tables::Tables,
    topics::Topics,
    tuple_format::stream_options,
    unfinished::{copy_later, forget_former, forget_read, rest, without_stops},
    unread::{self, Unread},
    windows::Windows,
};
use crate::{
    lsn::{Lsn, Position},
    postgres,
    record::state_topic,
    registry::Registry,
    retry::{Classify as _, Severity},
    schema::Relation,
    source::{
        self,
        catalog::PublishedTable,
        connection::{APPLICATION_NAME, ReplicationConnection, SlotOptions},
        slot::SlotState,
        stream::{Batch, StreamHandle, spawn},
    },
};

/// How long the creation of a slot may wait for running transactions (trap T25).
const SLOT_LIMIT: Duration = Duration::from_mins(5);

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
    /// What is left of a snapshot.
    pub(super) rest: Option<Rest>,
}

/// Everything that is known before the slot is touched.
struct Opening<'a> {
    /// With the options of the session, which need not be the configured ones.
    deps: CaptureDeps,
    /// What the configuration wants.
    configured: Arc<CaptureSettings>,
    tables: &'a Arc<Tables>,
    client: postgres::Client,
    survey: Survey,
    cluster: Topics,
    /// From where on the server can send again: a crash of it may take the slot back, but never below.
    restart: Lsn,
    found: Option<SlotState>,
    /// Whether stand-bys keep it.
    marking: Marking,
    /// Tables could join, but not now.
    put_off: bool,
    /// What a cut snapshot leaves to be copied behind it.
    copies: Vec<PublishedTable>,
    /// What holds is not what is configured.
    replays: bool,
    /// Where the source is a stand-by.
    timeline: Option<Timeline>,
}

/// Connects, decides where to begin, and copies if need be. `None` where there is nothing to stream.
pub(super) async fn open(deps: &CaptureDeps, tables: &Arc<Tables>) -> Result<Option<Opened>, Error> {
    let settings = &deps.settings;
    for table in tables.resume() {
        deps.health.resume_table(&table.to_string());
    }
    let client = source::catalog::connect(&settings.source, APPLICATION_NAME).await?;
    standby::take_lock(&client, settings, &deps.health).await?;
    let marking = Marking::of(&client, settings).await?;
    let cluster = Topics::new(&settings.kafka, &settings.topics, settings.create_topics)?;
    cluster.ensure_own(&settings.prefix).await?;
    let peeked = StateStore::peek(&settings.kafka, &state_topic(&settings.prefix)).await?;
    let deps = deps.clone();
    let configured = Arc::new(deps.settings.clone());
    let opening = Opening {
        deps,
        configured,
        tables,
        client,
        survey: Survey::default(),
        cluster,
        restart: Lsn::ZERO,
        found: None,
        marking,
        put_off: false,
        copies: Vec::new(),
        replays: false,
        timeline: None,
    };
    Box::pin(opening.begin(peeked)).await
}

impl Opening<'_> {
    async fn begin(mut self, peeked: State) -> Result<Option<Opened>, Error> {
        let settings = self.deps.settings.clone();
        let mut replication = ReplicationConnection::connect(&settings.source).await?;
        let server = server::look(&self.client, &mut replication, peeked.checkpoint.as_ref()).await?;
        let slot = self.slot().await?;
        self.timeline = Timeline::of(&settings, server).await?;
        start::check_names(peeked.checkpoint.as_ref(), &settings.prefix, &settings.encoder.topics)?;
        start::check_headers(peeked.checkpoint.as_ref(), settings.encoder.content.own_headers)?;
        let is_taken = start::is_snapshot_taken(peeked.checkpoint.as_ref(), server, &settings.slot);
        if settings.snapshot == SnapshotMode::Only && is_taken {
            tracing::info!(slot = %settings.slot, "the snapshot was taken before, and no stream is wanted: nothing is left to do");
            return Ok(None);
        }
        let start = start::decide(&settings.slot, peeked.checkpoint.as_ref(), server, slot, settings.on_gap)?;
        tracing::info!(slot = %settings.slot, ?start, "beginning");
        let streaming = peeked.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.phase == Phase::Streaming);
        if streaming && !matches!(start, Start::Resume { .. }) {
            // What the stopped tables lack is gone with the slot. A snapshot that starts over leaves them out: else one topic
            // that is refused for good would keep it from ever coming to its end.
            self.tables.begin_anew();
            for (name, _) in beside::of(&settings) {
                self.deps.health.resume_table(&name.to_string());
            }
        }
        match start {
            Start::Resume { at, timeline } => {
                let going_on = self.going_on(&peeked, at, timeline)?;
                self.survey = match going_on.below {
                    Some(below) => {
                        let replay = Replay { configured: &self.configured.publication.tables, below };
                        Survey::for_replay(&self.deps, self.tables, &self.client, &peeked, replay).await?
                    }
                    None => Survey::for_stream(&self.deps, self.tables, &self.client, &peeked).await?,
                };
                Box::pin(self.resume(replication, peeked, going_on, None)).await.map(Some)
            }
            Start::Unfinished { at, timeline, drop_slot, epoch } => {
                let found = match at {
                    Ok(at) => self.unfinished(&peeked, at, timeline).await?,
                    Err(reason) => Err(reason.to_owned()),
                };
                match found {
                    Ok((on, unread)) => Box::pin(self.resume(replication, peeked, on, Some(unread))).await.map(Some),
                    Err(reason) => {
                        tracing::warn!(reason, "the snapshot was cut and cannot go on: it starts over");
                        self.again(replication, peeked, (server, drop_slot), epoch).await
                    }
                }
            }
            Start::Fresh { drop_slot } => {
                self.survey = Survey::for_snapshot(&self.deps, self.tables, &self.client, &peeked).await?;
                self.check_empty().await?;
                let intent = self.intent(server, 0, Phase::Intent, Lsn::ZERO);
                Box::pin(self.copy(replication, peeked, (server, drop_slot), intent)).await
            }
            Start::Again { drop_slot, epoch } => self.again(replication, peeked, (server, drop_slot), epoch).await,
        }
    }

    async fn again(
        mut self,
        replication: ReplicationConnection,
        peeked: State,
        found: (Server, bool),
        epoch: u32,
    ) -> Result<Option<Opened>, Error> {
        check_barriers(&self.deps.settings, &peeked)?;
        self.survey = Survey::for_snapshot(&self.deps, self.tables, &self.client, &peeked).await?;
        // Until the new slot is there, what was published tells a fork.
        let published = peeked.checkpoint.as_ref().filter(|recorded| recorded.epoch == epoch);
        let ceiling = published.map_or(Lsn::ZERO, |recorded| recorded.ceiling);
        let intent = self.intent(found.0, epoch, Phase::Snapshot, ceiling);
        Box::pin(self.copy(replication, peeked, found, intent)).await
    }

    /// How a cut snapshot goes on, or why it cannot.
    async fn unfinished(
        &mut self,
        peeked: &State,
        at: Lsn,
        timeline: u32,
    ) -> Result<Result<(GoingOn, Vec<Unread>), String>, Error> {
        if self.deps.settings.snapshot == SnapshotMode::Only {
            return Ok(Err("no stream is wanted".to_owned()));
        }
        let configured = self.deps.settings.clone();
        let going_on = self.going_on(peeked, at, timeline)?;
        if going_on.below.is_some() {
            self.deps.settings = configured;
            return Ok(Err("the options of its events are others by now".to_owned()));
        }
        self.survey = Survey::for_stream(&self.deps, self.tables, &self.client, peeked).await?;
        let found = unread::look(&self.client, &self.deps.settings, &self.survey.published, peeked).await?;
        Ok(found.map(|(unread, copies)| {
            self.copies = copies;
            (going_on, unread)
        }))
    }

    /// From where the stream goes on, and under which options: what may have been published is published again as it was.
    fn going_on(&mut self, peeked: &State, at: Lsn, timeline: u32) -> Result<GoingOn, Error> {
        let settings = &self.deps.settings;
        let Some(recorded) = peeked.checkpoint.clone() else {
            return Err(Error::StateMoved { slot: settings.slot.clone() });
        };
        let flush = recorded.flush.max(at);
        let gap = recorded.flush < flush;
        if gap {
            check_skipped(peeked, at)?;
            tracing::warn!(slot = %settings.slot, from = %recorded.flush, to = %at,
                "going on at the slot's position: what was committed between is not published");
        }
        let published = recorded.published.max(flush);
        // What lies below is acknowledged: a server that crashed, whose slot has gone back, need not send it again (trap T4).
        let from = self.tables.begin(flush);
        let configured = EventOptions::of(settings);
        let history = recorded.options.unwrap_or_else(|| OptionHistory::new(configured.clone()));
        let options = history.change(configured, recorded.ceiling, self.restart.min(at));
        let (valid, below) = options.at(from);
        let settings = valid.settings(settings.clone())?;
        let publication = &settings.publication.name;
        match below {
            Some(below) => tracing::info!(%from, %below, publication,
                "what may have been published is published again under the options of its time"),
            None => tracing::info!(%from, publication, "going on under the configured options"),
        }
        self.deps.settings = settings;
        Ok(GoingOn {
            checkpoint: Checkpoint { timeline, flush, published, options: Some(options), ..recorded },
            from,
            below,
            gap,
        })
    }

    /// What is recorded before a slot is created: a slot that is found with it is not in use.
    fn intent(&self, server: Server, epoch: u32, phase: Phase, ceiling: Lsn) -> Checkpoint {
        Checkpoint {
            system_id: server.system_id,
            timeline: server.timeline,
            slot: self.deps.settings.slot.clone(),
            epoch,
            phase,
            consistent_point: Lsn::ZERO,
            flush: Lsn::ZERO,
            published: Lsn::ZERO,
            ceiling,
            options: Some(OptionHistory::new(EventOptions::of(&self.deps.settings))),
            topic_names: Some(self.deps.settings.encoder.topics.text()),
        }
    }

    /// Without a record nobody knows what a topic holds: rows that are deleted by now, or LSNs that are used again.
    async fn check_empty(&self) -> Result<(), Error> {
        let prefix = &self.deps.settings.prefix;
        let mut topics = Vec::new();
        let beside = beside::of(&self.deps.settings).map(|(_, topic)| topic);
        for topic in self.survey.topics.values().map(String::as_str).chain(beside) {
            match self.cluster.has_held_records(topic).await {
                Ok(true) => topics.push(topic.to_owned()),
                // The brokers refuse to tell of this topic: its table stops alone, when its publisher is made.
                Err(error) if error.severity() != Severity::Definite => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        if topics.is_empty() { Ok(()) } else { Err(Error::UnknownTopics { topics, state: state_topic(prefix) }) }
    }

    async fn slot(&mut self) -> Result<Option<Slot>, Error> {
        let settings = &self.deps.settings;
        self.found = standby::settled_slot(&self.client, settings).await?;
        self.restart = self.found.as_ref().and_then(|slot| slot.restart_lsn).unwrap_or(Lsn::ZERO);
        start::usable(self.found.as_ref(), &settings.slot, &settings.source.database)
    }

    /// The slot is taken first, then earlier writers are fenced, then the state is read: a stand-by that fenced before it
    /// owned the slot would kill the active one (PROTOCOL, "State and slot").
    async fn resume(
        mut self,
        mut replication: ReplicationConnection,
        peeked: State,
        going_on: GoingOn,
        unread: Option<Vec<Unread>>,
    ) -> Result<Opened, Error> {
        let GoingOn { checkpoint, from, below, gap } = going_on;
        let publication = self.deps.settings.publication.name.clone();
        self.marking.keep(&mut replication, self.found.as_ref()).await?;
        let options = stream_options(&self.deps.settings, &self.client, &self.survey.published, self.tables);
        let options = in_progress::with_streaming(options, &self.deps, &self.client, self.tables);
        let stream =
            slot_watch::start_stream(&self.deps.settings, &self.client, &publication, (replication, options), from)
                .await?;
        // From here on keepalives are answered, however long Kafka takes (trap T10).
        let (flush, confirmed) = watch::channel(checkpoint.flush);
        let (batches, handle) = spawn(stream, self.deps.settings.stream.clone(), confirmed);
        let (store, mut state) = self.fence(&peeked).await?;
        let names = &self.deps.settings.encoder.topics;
        if unread.is_some() {
            forget_former(&store, &mut state).await?;
            copy_later(&store, &mut state, (names, &checkpoint), &self.copies).await?;
        }
        if state.checkpoint.as_ref() != Some(&checkpoint) {
            store.write(&[Update::Checkpoint(Box::new(checkpoint.clone()))]).await?;
        }
        store.write(&Survey::stand_before_barriers(names, &mut state, self.tables)).await?;
        let is_stopped = |table: &_| self.tables.is_stopped(table);
        let withheld = match &unread {
            // What stopped in a snapshot that goes on is tried again with it.
            Some(unread) => {
                self.survey.withhold(names, &without_stops(&state, unread), checkpoint.consistent_point, is_stopped)
            }
            None => self.survey.withhold(names, &state, checkpoint.consistent_point, is_stopped),
        };
        let mut join = None;
        match below {
            // Beside the rest of a snapshot, and behind a gap, nothing else is read.
            None if unread.is_some() || gap => {
                let may_join = |name: &_| !self.tables.is_stopped(name) && !self.tables.was_cut(name);
                self.put_off = withheld.iter().any(|table| table.lacks_rows && may_join(&table.name));
                report_withheld(&self.deps, withheld);
            }
            None => {
                let begin = joining::begin(checkpoint.epoch, from.max(checkpoint.ceiling));
                join = Some(self.join(&state, withheld, begin).await?);
            }
            // The options of another time say nothing of what can be read later.
            Some(_) => self.replays = true,
        }
        self.survey.depart(&self.deps.settings.encoder.topics, &state, from)?;
        let publisher = Arc::new(self.destinations().publisher(&state, from, &checkpoint).await?);
        if let Some(run) = join {
            joining::record(&store, &mut state, (&self.survey, &publisher, &self.deps.health), run).await?;
        }
        let (members, consistent_point) = (self.survey.members(&state), checkpoint.consistent_point);
        let session = Arc::new(self.session(store, &state, checkpoint, flush).await?);
        session.position.record(&members).await?;
        session.forget_topics(&state, below.is_some()).await?;
        reading::take_up((&session, &publisher), (from, below, gap), unread.as_ref()).await?;
        let rest = match unread {
            Some(unread) => {
                publisher.deliveries().tracker(|tracker| tracker.hold_for_snapshot(consistent_point));
                Some(rest(&session, &state, unread, consistent_point).await?)
            }
            None => None,
        };
        Ok(Opened { session, publisher, batches, handle, versions: state.versions(), below, rest })
    }

    async fn join(&mut self, state: &State, withheld: Vec<Withheld>, begin: Position) -> Result<Run, Error> {
        let Self { deps, client, cluster, tables, .. } = self;
        let candidates = joining::Candidates { deps, client, cluster, tables, state };
        let (run, more) = candidates.join(&mut self.survey, withheld, begin).await?;
        self.put_off = more;
        Ok(run)
    }

    /// A new slot, and what was committed before it.
    async fn copy(
        mut self,
        mut replication: ReplicationConnection,
        peeked: State,
        found: (Server, bool),
        mut checkpoint: Checkpoint,
    ) -> Result<Option<Opened>, Error> {
        self.tables.republished(Lsn::ZERO);
        let (server, drop_slot) = found;
        let again = checkpoint.phase == Phase::Snapshot;
        let (store, mut state) = self.fence(&peeked).await?;
        self.survey.depart_anew(&self.deps.settings.encoder.topics, &state);
        self.survey.keep_optional(&state, self.deps.settings.encoder.content);
        let deps = self.deps.clone();
        let settings = &deps.settings;
        let copying = settings.snapshot.copies();
        let streaming = settings.snapshot != SnapshotMode::Only;
        let mut updates = vec![Update::Checkpoint(Box::new(checkpoint.clone()))];
        updates.extend(forget_read(&mut state));
        // The new snapshot reads the tables as they are: a key that changed since is theirs from its begin. What is known of them
        // from before stays until it is through, and that of tables which it leaves out for good: a later one must know which of
        // their fields were optional.
        let mut versions = self.survey.versions();
        let (taken, left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            state.relations.iter().partition(|(_, relation)| self.survey.takes(&settings.encoder.topics, relation));
        // A version that the registry refuses takes the place of one that records have come by, and until the begin is sent the
        // next session needs that one.
        let former = self.survey.former(&state);
        let forgotten = taken.into_keys().filter(|key| !versions.contains_key(*key)).chain(former.keys());
        let forgotten: Vec<_> = forgotten.cloned().collect();
        let left: Vec<_> = left.into_iter().map(|(key, relation)| (key.clone(), Arc::new(relation.clone()))).collect();
        let begin = (again && copying).then(|| state.earlier_versions());
        if copying {
            // The topic of messages has no barrier behind which its keys may be others.
            let topic = settings.encoder.topics.messages().to_owned();
            state.keys.remove(&topic);
            updates.push(Update::ForgetKey { topic });
        }
        store.write(&updates).await?;
        if drop_slot {
            replication.drop_slot(&settings.slot).await?;
            tracing::info!(slot = %settings.slot, "dropped the slot of an earlier start");
        }
        // One that nothing is streamed from must keep no WAL for nobody, also where capture is killed.
        let options = SlotOptions {
            export_snapshot: copying,
            failover: streaming && self.marking.creates,
            temporary: !streaming,
        };
        if server.stands_by {
            server::tell_wait(&self.deps.health);
        }
        let trees = partition_watch::before_snapshot(&self.client, &self.survey.published).await?;
        let slot = replication.create_logical_slot(&settings.slot, options, SLOT_LIMIT).await?;
        let at = slot.consistent_point;
        if let Some(timeline) = &self.timeline {
            timeline.must_last().await?;
        }
        tracing::info!(slot = %settings.slot, consistent_point = %at, timeline = server.timeline, "created replication slot");
        checkpoint = Checkpoint {
            phase: Phase::Snapshot,
            consistent_point: at,
            flush: at,
            published: at,
            ceiling: at.max(checkpoint.ceiling),
            ..checkpoint
        };
        let mut updates = vec![Update::Checkpoint(Box::new(checkpoint.clone()))];
        updates.extend(
            versions
                .iter()
                .chain(&former)
                .map(|(key, relation)| Update::Relation { key: key.clone(), relation: Arc::clone(relation) }),
        );
        store.write(&updates).await?;
        let mut publisher = self.destinations().publisher(&state, at, &checkpoint).await?;
        if begin.is_some() {
            self.destinations().add_stopped(&state, &mut publisher).await?;
        }
        let publisher = Arc::new(publisher);
        let mut tables = self.survey.published.clone();
        // A snapshot that is cut in the midst of these copies them anew.
        tables.sort_by_key(|table| !table.relation.key.is_empty());
        let publication = settings.publication.name.clone();
        // A table that was left out is not whole any longer, whatever its topic held before.
        let left_out = state.topics.keys().filter(|name| !publisher.topics().any(|topic| *topic.name == ***name));
        let mut recorded: Vec<_> = left_out.map(|name| Update::ForgetTopic { name: name.clone() }).collect();
        recorded.extend(self.survey.members(&state));
        let beginning = Beginning {
            updates: publisher.topics().map(|topic| topic_update(topic)).chain(recorded.iter().cloned()).collect(),
            plan: SnapshotPlan { forget: forgotten.clone() },
        };
        let (flush, confirmed) = watch::channel(at);
        let session = Arc::new(self.session(store, &state, checkpoint, flush).await?);
        session.forget_topics(&state, false).await?;
        partition_watch::learn(&session, &trees, false).await?;
        session.health.set_started();
        session.health.set_phase("snapshot");
        let snapshot = slot.snapshot_name.filter(|_| copying);
        let copied = async {
            let readers = match snapshot {
                Some(snapshot) => Some(Readers::open(&session.settings, &snapshot, &tables).await?),
                None => None,
            };
            if let Some(readers) = readers.as_ref().filter(|_| streaming) {
                guard::check(&session, readers.bytes).await?;
            }
            Copy::new(&session, &publisher, at).run(readers, &tables, begin, beginning).await
        };
        let copied = tokio::select! {
            copied = copied => copied,
            lost = slot_watch::until_lost(&session, None) => return Err(lost),
        };
        if let Err(Error::LittleWal { .. }) = &copied {
            // It would keep log for nobody.
            replication.drop_slot(&session.settings.slot).await?;
        }
        let admitted = copied?;
        let mut lacking = session.health.snapshot().stopped;
        lacking.retain(|name, _| session.topics.keys().any(|table| table.to_string() == *name));
        if !streaming && !lacking.is_empty() {
            // It stays unfinished, so that the next start takes another one.
            return Err(Error::SnapshotLacks { tables: lacking.into_keys().collect() });
        }
        versions.extend(admitted);
        let mut copied: Vec<_> = publisher.topics().map(|topic| topic_update(topic)).collect();
        copied.extend(recorded);
        copied.extend(forgotten.into_iter().map(|key| Update::ForgetRelation { key }));
        copied.push(Update::Plan(None));
        copied.extend(tables.iter().map(|table| Update::ForgetChunks { oid: table.relation.oid }));
        copied.extend(session.barriers.lock().await.drain(..).map(Update::CloseBarrier));
        session.position.finish_snapshot(copied).await?;
        if !streaming {
            replication.drop_slot(&session.settings.slot).await?;
            tracing::info!("the snapshot is acknowledged and recorded, and no stream is wanted");
            return Ok(None);
        }
        versions.extend(left);
        let options = stream_options(&session.settings, &session.client, &session.published, &session.tables);
        let options = in_progress::with_streaming(options, &deps, &session.client, &session.tables);
        let stream =
            slot_watch::start_stream(&session.settings, &session.client, &publication, (replication, options), at)
                .await?;
        let (batches, handle) = spawn(stream, session.settings.stream.clone(), confirmed);
        Ok(Some(Opened { session, publisher, batches, handle, versions, below: None, rest: None }))
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

    fn destinations(&self) -> Destinations<'_> {
        let Self { deps, configured, tables, survey, cluster, .. } = self;
        Destinations { deps, configured, tables, survey, cluster }
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
        let (epoch, ceiling) = (checkpoint.epoch, checkpoint.ceiling);
        let position = PositionRecord::new(store, checkpoint, flush, self.timeline);
        self.tables.settle_signals(Position { epoch, commit: ceiling, ordinal: 0 });
        let reads_again = !self.replays
            && settings.snapshot.copies()
            && standing::hindrance(&self.client, &settings).await?.is_none();
        let lost = self.survey.stopped_elsewhere(&settings.encoder.topics, state);
        let session = Session {
            windows: Arc::new(Windows::of_session(source::window::unseen(&self.client).await?)),
            settings,
            health: self.deps.health.clone(),
            metrics: self.deps.metrics.clone(),
            client: self.client,
            registry,
            cluster: self.cluster,
            position,
            epoch,
            published: self.survey.published,
            topics: self.survey.topics,
            departed: self.survey.departed,
            tables: Arc::clone(self.tables),
            barriers: Mutex::new(state.barriers.iter().map(|barrier| barrier.position).collect()),
            keys: Mutex::new(state.keys.clone()),
            lost: std::sync::Mutex::new(lost),
            resyncs: Resyncs::new(state.resyncs.clone()),
            signals: state.followed.clone().into(),
            new_table: Notify::new(),
            another: Notify::new(),
            reads_again,
            put_off: self.put_off,
        };
        session.retry_stopped(state).await?;
        Ok(session)
    }
}
