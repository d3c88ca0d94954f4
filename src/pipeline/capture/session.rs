//! What the parts of one session share, and what they may record.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeBounds,
    sync::{Arc, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex, Notify};

use super::{
    Error, beside,
    departed::Departed,
    followed::FollowedSignals,
    position::PositionRecord,
    publisher::Publisher,
    resync::{MOST_LEAVES, Run},
    resyncs::Resyncs,
    settings::{CaptureSettings, StopPolicy},
    state::{OpenBarrier, State, StoppedTable, Update},
    tables::Tables,
    topic::Topic,
    topics::Topics,
    windows::Windows,
};
use crate::{
    lsn::{Lsn, Position},
    pgoutput::message::{RelationBody, TypeBody},
    pipeline::{
        health::Health,
        metrics::{CaptureMetrics, lsn_value},
    },
    postgres,
    record::{EncodeError, Encoder, KeyForm},
    registry::Registry,
    retry::{Backoff, Classify, Severity, chain},
    schema::{Relation, TableName},
    source::{self, catalog::PublishedTable, publication::PublicationSpec},
};

/// One session's surroundings.
pub(super) struct Session {
    pub(super) settings: CaptureSettings,
    pub(super) health: Health,
    pub(super) metrics: CaptureMetrics,
    /// An ordinary connection to the source; it also holds the lock that keeps other captures of the slot out.
    pub(super) client: postgres::Client,
    pub(super) registry: Registry,
    /// The cluster's topics.
    pub(super) cluster: Topics,
    pub(super) position: PositionRecord,
    /// Epoch of all positions.
    pub(super) epoch: u32,
    /// The configured tables of the publication, as the catalog showed them when the session began.
    pub(super) published: Vec<PublishedTable>,
    /// Topic names of the configured tables.
    pub(super) topics: BTreeMap<TableName, String>,
    /// Tables that only barriers are still published of.
    pub(super) departed: Departed,
    /// Stopped tables of this process.
    pub(super) tables: Arc<Tables>,
    /// Barriers that are recorded as open.
    pub(super) barriers: Mutex<Vec<Position>>,
    /// Recorded key forms by topic.
    pub(super) keys: Mutex<BTreeMap<String, KeyForm>>,
    /// Topics of stopped tables that are not captured any more, and where each stopped.
    pub(super) lost: std::sync::Mutex<BTreeMap<String, Position>>,
    /// Tables that are read again.
    pub(super) resyncs: Resyncs,
    /// How far the signal topic was followed.
    pub(super) signals: FollowedSignals,
    /// What is read beside the stream.
    pub(super) windows: Arc<Windows>,
    /// The stream has told of a table of the publication that is not captured.
    pub(super) new_table: Notify,
    /// Rows can be read beside the stream, as far as that depends on no table.
    pub(super) reads_again: bool,
    /// The next session does what this one cannot.
    pub(super) another: Notify,
    /// Tables could join, but not in this session's beginning.
    pub(super) put_off: bool,
}

impl Session {
    /// An encoder for this capture's events.
    pub(super) fn encoder(&self) -> Encoder {
        Encoder::new(self.settings.encoder.clone())
    }

    /// The server has sent everything below `lsn`.
    pub(super) fn received(&self, lsn: Lsn) {
        self.health.heard();
        self.metrics.received.set(lsn_value(lsn));
    }

    /// Topics of stopped tables, and where they stopped.
    pub(super) fn stopped_topics(&self) -> BTreeMap<String, Position> {
        let stops = self.tables.stops();
        let stopped = stops.iter().filter_map(|(table, position)| Some((self.tables.topic_of(table)?.0, *position)));
        self.lost().clone().into_iter().chain(stopped).collect()
    }

    /// Whether the changes of a topic's table are dropped since it stopped.
    pub(super) fn drops_changes_of(&self, topic: &str) -> bool {
        self.tables.of_topic(topic).is_some_and(|table| self.tables.drops_changes(&table))
    }

    fn lost(&self) -> MutexGuard<'_, BTreeMap<String, Position>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copies that the topic of a departed table lacks of barriers cannot be sent: the sinks are told that the table is
    /// stopped there, and wait no longer but for what foreign keys tie to it.
    pub(super) async fn lose(&self, table: &TableName, topic: &str, reason: &str) -> Result<(), Error> {
        let Some((_, position)) = self.departed.first(topic) else { return Ok(()) };
        let reason = format!("the rest of a barrier cannot be sent to its topic: {reason}");
        if self.lost().insert(topic.to_owned(), position).is_none() {
            let stopped = StoppedTable { position, reason: reason.clone(), dropped: false, lasting: false };
            self.position.record(&[Update::Stopped { table: table.to_string(), stopped }]).await?;
        }
        tracing::error!(table = %table, %position, reason, "sinks go on without the table, but for what foreign keys tie to it");
        self.health.stop_table(table.to_string(), reason);
        Ok(())
    }

    /// The topic of a table; `None` if it is not configured.
    pub(super) fn topic_of(&self, table: &TableName, publisher: &Publisher) -> Option<Arc<Topic>> {
        publisher.topic(self.topics.get(table)?)
    }

    /// Tables that stopped in an earlier process are tried again, and so is what is beside them: it was held in the WAL.
    pub(super) async fn retry_stopped(&self, state: &State) -> Result<(), Error> {
        let beside: Vec<_> = beside::of(&self.settings).map(|(name, _)| name).collect();
        let running = self.topics.keys().chain(&beside).filter(|table| !self.tables.is_stopped(table));
        let retried: Vec<_> =
            running.map(ToString::to_string).filter(|table| state.stopped.contains_key(table)).collect();
        if retried.is_empty() {
            return Ok(());
        }
        tracing::info!(tables = retried.join(", "), "trying stopped tables again");
        let updates: Vec<_> = retried.into_iter().map(|table| Update::Resumed { table }).collect();
        self.position.record(&updates).await
    }

    /// A topic of no captured table is forgotten, so that the table is not taken for whole when it comes back: its changes
    /// pass by meanwhile. In a `replay` under earlier options those of departed tables alone: others may be configured anew.
    pub(super) async fn forget_topics(&self, state: &State, replay: bool) -> Result<(), Error> {
        let is_beside = |name: &String| beside::of(&self.settings).any(|(_, topic)| topic == name);
        let captured = |name: &String| is_beside(name) || self.topics.values().any(|topic| topic == name);
        let gone = state.topics.keys().filter(|name| !captured(name) && (!replay || self.departed.has(name)));
        let updates: Vec<_> = gone.map(|name| Update::ForgetTopic { name: name.clone() }).collect();
        if updates.is_empty() { Ok(()) } else { self.position.record(&updates).await }
    }

    /// The table of the publication with this OID, as it was named when the session began.
    pub(super) fn known(&self, oid: u32) -> Option<&TableName> {
        self.published.iter().map(|table| &table.relation).find(|known| known.oid == oid).map(|known| &known.name)
    }

    /// Whether the relation is one of the publication's tables at present, and not a partition of one.
    pub(super) async fn is_published(&self, oid: u32) -> Result<bool, Error> {
        Ok(self.catalog().await?.by_oid(oid).is_some())
    }

    /// Whether sinks lack rows of a table, whatever comes of them.
    pub(super) fn lacks_rows(&self, relation: &Relation, at: Position) -> bool {
        self.tables.lacking.lacks_rows(&relation.name) || self.resyncs.lacks_rows(relation.oid, at)
    }

    /// The relation version that a Relation message describes, with what the catalog adds.
    pub(super) async fn describe(
        &self,
        body: &RelationBody,
        types: &HashMap<u32, TypeBody>,
        last: Option<&Relation>,
    ) -> Result<Relation, Error> {
        let keys = &self.settings.publication.keys;
        let mut known =
            self.published.iter().filter(|table| table.key_problem().is_none()).map(|table| &table.relation);
        let seen = known.find(|seen| source::version::agrees(body, seen) && source::version::may_have_key(body, seen));
        if let Some(seen) = seen {
            return Ok(keys.put(body, Relation { identity: body.identity, ..seen.clone() }, last)?);
        }
        let catalog = self.catalog().await?;
        let table = catalog.by_oid(body.oid);
        table.map_or(Ok(()), PublishedTable::must_have_key)?;
        let catalog = table.map(|table| &table.relation);
        let described = source::version::describe(&self.client, body, catalog, last, types).await?;
        Ok(keys.put(body, described, last)?)
    }

    /// The same for changes that are counted and not published. They are counted by the key under which the table was published before: it
    /// tells which updates are two events, also where another key is configured by now.
    pub(super) async fn describe_counted(
        &self,
        body: &RelationBody,
        types: &HashMap<u32, TypeBody>,
        last: Option<&Relation>,
    ) -> Result<Relation, Error> {
        let mut known = self.published.iter().map(|table| &table.relation);
        let described = match known.find(|seen| source::version::agrees(body, seen)) {
            Some(seen) => Relation { identity: body.identity, ..seen.clone() },
            None => {
                let catalog = self.catalog().await?;
                let catalog = catalog.by_oid(body.oid).map(|table| &table.relation);
                source::version::describe(&self.client, body, catalog, last, types).await?
            }
        };
        Ok(match last.and_then(|last| last.key_in(&described)) {
            Some(key) => Relation { key, ..described },
            None => self.settings.publication.keys.put(body, described.clone(), None).unwrap_or(described),
        })
    }

    async fn catalog(&self) -> Result<source::catalog::Catalog, Error> {
        let PublicationSpec { name, keys, .. } = &self.settings.publication;
        Ok(source::catalog::read(&self.client, name, keys).await?)
    }

    /// Whether equal keys may have other bytes by now than when the version was described, so that they would lie in other
    /// partitions of the topic. The collation is in no message.
    pub(super) async fn collation_changed(&self, version: &Relation, topic: &str) -> Result<bool, Error> {
        if self.key_form(topic).await.is_some_and(|kept| kept.one_partition) {
            return Ok(false);
        }
        let key = version.key.iter().filter_map(|index| version.columns.get(*index));
        let mut strict = key.filter(|column| !column.nondeterministic && column.ty.is_collatable()).peekable();
        if strict.peek().is_none() {
            return Ok(false);
        }
        let lenient = source::version::nondeterministic(&self.client, version.oid).await?;
        Ok(strict.any(|column| {
            // A renamed column keeps its number, one that was made anew its name.
            let same = |(attnum, name): &(i16, String)| column.attnum == Some(*attnum) || **name == *column.name;
            lenient.iter().any(same)
        }))
    }

    /// What the registry answers is taken from a try; `None`, after a while, where it is to be asked again. While it is down, nothing is lost
    /// by waiting.
    pub(super) async fn patiently<T>(
        &self,
        tried: Result<T, EncodeError>,
        backoff: &mut Backoff,
    ) -> Result<Option<T>, Error> {
        match tried {
            Ok(answer) => {
                self.health.recovered();
                Ok(Some(answer))
            }
            Err(error) if error.severity() == Severity::Transient => {
                self.metrics.errors.count(Severity::Transient);
                self.health.retrying(chain(&error));
                tracing::warn!(error = %chain(&error), hint = error.hint(), "waiting for the schema registry");
                tokio::time::sleep(backoff.next_delay()).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The recorded key form of a topic.
    pub(super) async fn key_form(&self, topic: &str) -> Option<KeyForm> {
        self.keys.lock().await.get(topic).cloned()
    }

    /// Records the key form of a topic before its first record; an error if rows would lie elsewhere than under `kept` (trap
    /// T53).
    pub(super) async fn keep_key_form(
        &self,
        table: &TableName,
        topic: &str,
        form: KeyForm,
        kept: Option<KeyForm>,
    ) -> Result<(), Error> {
        let table = table.to_string();
        match kept {
            Some(kept) if kept == form => Ok(()),
            Some(kept) if !form.keeps(&kept) => Err(match (kept.schema, form.schema) {
                (Some((kept, before)), Some((found, now))) if before == now && kept != found => {
                    Error::KeySchemaId { table, kept, found }
                }
                _ => Error::KeyChanged { table },
            }),
            _ => {
                self.position.record(&[Update::Key { topic: topic.to_owned(), form: form.clone() }]).await?;
                self.keys.lock().await.insert(topic.to_owned(), form);
                Ok(())
            }
        }
    }

    /// Records a barrier before its first copy, with the key forms of its topics, which may be others behind it.
    pub(super) async fn open_barrier(
        &self,
        barrier: OpenBarrier,
        forms: BTreeMap<String, KeyForm>,
    ) -> Result<(), Error> {
        let position = barrier.position;
        let mut keys = self.keys.lock().await;
        let mut updates = vec![Update::OpenBarrier(barrier)];
        let others = forms.iter().filter(|(topic, form)| keys.get(*topic) != Some(form));
        updates.extend(others.map(|(topic, form)| Update::Key { topic: topic.clone(), form: form.clone() }));
        self.position.record(&updates).await?;
        keys.extend(forms);
        self.barriers.lock().await.push(position);
        Ok(())
    }

    /// Whether the rows of a table cannot be told from each other, so that all of them are to be read at one point.
    pub(super) async fn is_read_at_one_point(&self, relation: &Relation) -> bool {
        let Ok(topic) = self.settings.encoder.topics.of_table(&relation.name) else { return false };
        self.encoder().tells_no_rows_apart(relation, self.key_form(&topic).await.as_ref())
    }

    /// Whether a table can be read again as a whole when it goes on.
    pub(super) async fn may_join_again(&self, table: &TableName) -> bool {
        let Some(found) = self.published.iter().find(|published| published.relation.name == *table) else {
            return false;
        };
        if !self.reads_again || found.unreadable().is_some() {
            return false;
        }
        if self.is_read_at_one_point(&found.relation).await {
            return !source::references::others_refer_to(&self.client, found.relation.oid).await.unwrap_or(true);
        }
        // One that cannot be looked at now is held.
        match source::chunk::leaves_in_ranges(&self.client, found).await {
            Ok(leaves) => leaves.is_some_and(|leaves| leaves <= MOST_LEAVES),
            Err(error) => {
                tracing::warn!(table = %table, error = chain(&error), "cannot look whether the table could be read again");
                false
            }
        }
    }

    /// Stops one table at an event, until it is told to go on or another process tries: recorded before the flush LSN may pass. The WAL holds
    /// its changes, unless they are dropped and it is read again.
    pub(super) async fn stop_table(
        &self,
        table: &TableName,
        position: Position,
        error: &Error,
        publisher: &Publisher,
    ) -> Result<(), Error> {
        let reason = chain(error);
        // What was kept back is in no topic.
        let position = self.resyncs.kept_back_from(table).map_or(position, |from| position.min(from));
        // One that joins lacks rows, and is read again all the same.
        let is_dropped = self.settings.on_stop == StopPolicy::Resync || self.resyncs.is_joining(table);
        let lasting = matches!(
            error,
            Error::Renamed { .. }
                | Error::Replaced { .. }
                | Error::KeyChanged { .. }
                | Error::KeySchemaId { .. }
                | Error::Unlogged { .. }
        );
        let dropped = is_dropped && !lasting && self.may_join_again(table).await;
        if !dropped {
            publisher.deliveries().tracker(|tracker| tracker.hold(position.commit));
        }
        if let Some(topic) = self.tables.topic_name_of(table) {
            publisher.stop(&topic, position);
        }
        let stopped = StoppedTable { position, reason: reason.clone(), dropped, lasting };
        let left = self.resyncs.leave(table, .., position, &reason);
        let updates = || {
            let stopped = Update::Stopped { table: table.to_string(), stopped: stopped.clone() };
            [stopped].into_iter().chain(self.resyncs.updates(left.as_slice())).collect()
        };
        self.position.record_current(updates).await?;
        if left.is_some() {
            self.tell_left(table, &reason);
        }
        self.end_if_kept_back(table);
        tracing::error!(table = %table, %position, reason, hint = error.hint(), "table stopped");
        self.metrics.errors.count(Severity::Definite);
        self.health.stop_table(table.to_string(), if dropped { stopped.told_as_dropped() } else { reason });
        self.tables.stop(table.clone(), stopped);
        Ok(())
    }

    /// Where the stream is, for what happens beside it: behind the events of the transaction at hand.
    pub(super) fn place(&self) -> Position {
        Position { epoch: self.epoch, commit: self.windows.at(), ordinal: u64::MAX }
    }

    /// A table leaves the resync that it is in, if that has one of these begins: nothing of it is swept at the sinks.
    pub(super) async fn leave(
        &self,
        table: &TableName,
        begins: impl RangeBounds<Position>,
        at: Position,
        reason: &str,
    ) -> Result<(), Error> {
        let Some(begin) = self.resyncs.leave(table, begins, at, reason) else { return Ok(()) };
        self.position.record_current(|| self.resyncs.updates(&[begin])).await?;
        self.tell_left(table, reason);
        self.end_if_kept_back(table);
        Ok(())
    }

    /// The next session publishes what this one has kept back of a table, from where the flush LSN is held on.
    fn end_if_kept_back(&self, table: &TableName) {
        if self.resyncs.kept_back_from(table).is_some() {
            self.tables.republished(Lsn::ZERO);
            self.another.notify_one();
        }
    }

    /// A resync has come to its end, and what it has read was missing of tables that joined before.
    pub(super) async fn heal(&self, ended: &Run) -> Result<(), Error> {
        let healed = self.resyncs.heal(ended);
        self.forget_bad_rows(ended).await?;
        if healed.is_empty() {
            return Ok(());
        }
        for name in ended.tables.iter().map(|member| &member.name).filter(|name| !self.resyncs.is_cut(name)) {
            if !self.tables.is_stopped(name) {
                self.health.resume_table(&name.to_string());
            }
            self.tables.heal(name);
        }
        self.position.record_current(|| self.resyncs.updates(&healed)).await
    }

    /// The stream has come to a TRUNCATE of these tables. It is recorded before it can be confirmed: it tells why partitions have new files.
    pub(super) async fn note_truncated(&self, relations: &[u32], commit: Lsn) -> Result<(), Error> {
        let roots = self.published.iter().filter(|table| table.partitioned).map(|table| table.relation.oid);
        let truncated = roots.filter(|oid| relations.contains(oid));
        let truncated: Vec<u32> = truncated.filter(|oid| self.tables.partitions.truncated(*oid, commit)).collect();
        if truncated.is_empty() {
            return Ok(());
        }
        self.record_leaves(&truncated).await
    }

    async fn record_leaves(&self, tables: &[u32]) -> Result<(), Error> {
        let current =
            || tables.iter().filter_map(|oid| self.tables.partitions.current(*oid)).map(Update::Leaves).collect();
        self.position.record_current(current).await
    }

    /// What was left out of tables before they were read again as a whole is there now, or gone at the source; and so are rows of partitions of
    /// which no event told.
    async fn forget_bad_rows(&self, ended: &Run) -> Result<(), Error> {
        let (mut updates, mut read) = (Vec::new(), Vec::new());
        for member in ended.tables.iter().filter(|member| member.is_in() && member.conditions.is_empty()) {
            // A copy shows what was before its point.
            let point = member.copied.as_ref().map(|point| Position { commit: point.at, ordinal: 0, ..ended.begin });
            let since = point.unwrap_or(ended.begin);
            if self.tables.partitions.read_again(member.oid, &member.leaves, since.commit) {
                read.push(member.oid);
            }
            if self.tables.lacking.read_again(&member.name, since, &self.health) {
                updates.push(Update::ForgetBadRows { table: member.name.to_string() });
            }
        }
        self.record_leaves(&read).await?;
        self.position.record(&updates).await
    }

    /// Tells that a table has left its resync.
    pub(super) fn tell_left(&self, table: &TableName, reason: &str) {
        tracing::warn!(table = %table, reason, "the table is not read again, or not in whole: its rows at the sinks stay");
        self.health.note(format!("resync: of table {table} it is given up: {reason}"));
        // One that was left out of the configuration is nobody's concern.
        if self.resyncs.is_cut(table) && self.topics.contains_key(table) {
            let reason = format!(
                "it joined what is captured, and not all of its rows could be read: {reason}; `walrelay resume`, or a restart, tries again"
            );
            self.tables.cut(table.clone());
            self.health.stop_table(table.to_string(), reason);
        }
    }
}
