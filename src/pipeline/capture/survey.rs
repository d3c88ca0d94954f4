//! Which tables a session publishes, and to which topics.
//!
//! A session that replays what may have been published under options that hold no longer gives no word of its own on the
//! configuration: the operator has changed it already, and the session behind it judges the new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Error,
    departed::Departed,
    settings::{CaptureDeps, SnapshotMode},
    state::{FORMER_VERSION, OpenBarrier, SNAPSHOT_VERSION, State, Update},
    tables::Tables,
};
use crate::{
    avro::{content::Content, schema::note_lacking},
    lsn::{Lsn, Position},
    postgres,
    record::TopicNames,
    retry::{Classify as _, Severity, chain},
    schema::{Relation, TableName},
    source::{
        self,
        catalog::PublishedTable,
        identity::Blind,
        membership::{self, Membership},
        publication::{SignalTable, TablePatterns},
    },
};

const COPY_HINT: &str = "A new snapshot takes the table in: drop the slot and set [capture] on_gap = \"resnapshot\" and snapshot = \"initial\".";

/// The tables of a session.
#[derive(Default)]
pub(super) struct Survey {
    /// The configured tables of the publication.
    pub(super) published: Vec<PublishedTable>,
    /// Their topics.
    pub(super) topics: BTreeMap<TableName, String>,
    /// Tables that are captured no longer, and lack copies of barriers.
    pub(super) departed: Departed,
    /// How the publication has each table; empty in a replay, which has none to compare.
    members: BTreeMap<u32, Membership>,
}

/// A table that a stream leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Withheld {
    pub(super) name: TableName,
    pub(super) topic: String,
    /// Why.
    pub(super) reason: String,
    /// With all of its rows read again it could go on.
    pub(super) lacks_rows: bool,
}

/// Options that hold no longer, as far as the tables depend on them.
#[derive(Clone, Copy)]
pub(super) struct Replay<'a> {
    /// The tables that the configuration wants.
    pub(super) configured: &'a TablePatterns,
    /// Commits below it are published again.
    pub(super) below: Lsn,
}

impl Survey {
    /// The relation versions whose rows a snapshot publishes, by keys of the state. No Relation message has described them yet,
    /// and a key that changes before the first one must be noticed.
    pub(super) fn versions(&self) -> BTreeMap<String, Arc<Relation>> {
        let copied = self.published.iter().map(|table| &table.relation);
        let copied = copied.filter(|relation| self.topics.contains_key(&relation.name));
        copied.map(|relation| (format!("{}{SNAPSHOT_VERSION}", relation.oid), Arc::new(relation.clone()))).collect()
    }

    /// The recorded versions whose places [`Self::versions`] take, by keys of their own. One that is kept already stays: it is the
    /// oldest that records may have come by.
    pub(super) fn former(&self, state: &State) -> BTreeMap<String, Arc<Relation>> {
        let replaced = |(key, relation): (String, Arc<Relation>)| {
            let former = state.relations.get(&key).filter(|former| **former != *relation)?;
            let key = format!("{}{FORMER_VERSION}", relation.oid);
            (!state.relations.contains_key(&key)).then(|| (key, Arc::new(former.clone())))
        };
        self.versions().into_iter().filter_map(replaced).collect()
    }

    /// Topics of tables that are recorded as stopped and are not captured any more, and where each stopped.
    pub(super) fn stopped_elsewhere(&self, topics: &TopicNames, state: &State) -> BTreeMap<String, Position> {
        let names: BTreeSet<_> = state.relations.values().map(|relation| &relation.name).collect();
        let gone = names.into_iter().filter(|name| !self.topics.contains_key(name));
        let stopped = |name: &TableName| {
            let topic = topics.of_table(name).ok().filter(|topic| !self.topics.values().any(|taken| taken == topic))?;
            Some((topic, state.stopped.get(&name.to_string())?.position))
        };
        gone.filter_map(stopped).collect()
    }

    /// Stopped tables stand before a statement that was sent by half: copies of it come to none of them, and sinks need not wait for that.
    pub(super) fn stand_before_barriers(names: &TopicNames, state: &mut State, tables: &Tables) -> Vec<Update> {
        tables.stand_before(|topic| state.first_barrier(topic));
        let mut updates = Vec::new();
        let known: BTreeSet<_> = state.relations.values().map(|relation| relation.name.clone()).collect();
        for table in known {
            let Some(at) = names.of_table(&table).ok().and_then(|topic| state.first_barrier(&topic)) else { continue };
            let table = table.to_string();
            if let Some(stopped) = state.stopped.get_mut(&table).filter(|stopped| stopped.position > at) {
                stopped.position = at;
                updates.push(Update::Stopped { table, stopped: stopped.clone() });
            }
        }
        updates
    }

    /// Whether a snapshot has the table's rows, also where it is called otherwise by now, or those of another one in its topic.
    pub(super) fn takes(&self, names: &TopicNames, relation: &Relation) -> bool {
        let own = self.published.iter().map(|table| &table.relation).find(|published| published.oid == relation.oid);
        let topic = names.of_table(&relation.name);
        own.is_some_and(|own| self.topics.contains_key(&own.name))
            || topic.is_ok_and(|topic| self.topics.values().any(|taken| *taken == topic))
    }

    /// Before a new snapshot into topics that may hold records: what was optional in them stays so.
    pub(super) fn keep_optional(&mut self, state: &State, content: Content) {
        for relation in self.published.iter_mut().map(|table| &mut table.relation) {
            let earlier: Vec<_> = state.relations.values().filter(|earlier| earlier.name == relation.name).collect();
            for earlier in earlier {
                relation.keep_optional(earlier);
            }
            note_lacking(relation, content);
        }
    }

    fn new(tables: &Tables, published: Vec<PublishedTable>, topics: BTreeMap<TableName, String>) -> Self {
        for (table, topic) in &topics {
            tables.name_topic(topic, table);
        }
        Self { published, topics, ..Self::default() }
    }

    /// Before a snapshot, which takes all configured tables.
    pub(super) async fn for_snapshot(
        deps: &CaptureDeps,
        tables: &Tables,
        client: &postgres::Client,
        state: &State,
    ) -> Result<Self, Error> {
        let spec = &deps.settings.publication;
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
        if let Some(reason) = &report.unjudged {
            tracing::warn!(reason, "row filters are taken for the publication's");
        }
        take_in_signals(deps, client).await?;
        for pattern in spec.tables.idle(&report.tables) {
            tracing::warn!(pattern, "no table matches this pattern of capture.include");
        }
        let is_left_out = |table: &TableName| report.left_out.iter().any(|blind| blind.table == *table);
        for table in report.tables.iter().filter(|table| !tables.is_stopped(table) && !is_left_out(table)) {
            deps.health.resume_table(&table.to_string());
        }
        leave_out(deps, report.left_out)?;
        let published = published(deps, client).await?;
        published.iter().try_for_each(PublishedTable::must_have_key)?;
        let masks = &deps.settings.encoder.masks;
        for now in published.iter().map(|table| &table.relation) {
            masks.check(now).map_err(Error::Mask)?;
            // Also a snapshot that takes the place of what was published must not tell what was masked.
            let mut recorded = state.relations.values().filter(|recorded| recorded.oid == now.oid);
            recorded.try_for_each(|recorded| masks.follow(recorded, now)).map_err(Error::Mask)?;
        }
        masks.find_all(published.iter().map(|table| &table.relation)).map_err(Error::Mask)?;
        let topics = name_topics(&deps.settings.encoder.topics, &published)?;
        let members = membership::read(client, &spec.name).await?;
        Ok(Self { members, ..Self::new(tables, published, topics) })
    }

    /// A stream that goes on never gets a table silently: its earlier rows would be missing.
    pub(super) async fn for_stream(
        deps: &CaptureDeps,
        tables: &Tables,
        client: &postgres::Client,
        state: &State,
    ) -> Result<Self, Error> {
        let spec = &deps.settings.publication;
        source::publication::must_exist(client, &spec.name).await?;
        // What is to stay at the source since the configuration was changed would go on to be published.
        spec.shapes.compare(client, &spec.name).await?;
        take_in_signals(deps, client).await?;
        let (unpublished, strangers) = source::publication::unpublished(client, spec).await?;
        // Else they are taken into it while the stream goes on.
        let never = unpublished.iter().filter(|_| !deps.settings.snapshot.copies());
        for table in strangers {
            let reason = "it is no captured table, and capture.column_lists, capture.row_filters or capture.key_columns name it: nothing is kept back by that";
            tracing::error!(table = %table, reason, "a column list, a row filter or key columns are without effect");
            deps.health.stop_table(table.to_string(), reason);
        }
        for table in never {
            let reason = "it joined the configuration after the snapshot and is not in the publication; its rows are not captured";
            tracing::error!(table = %table, reason, "table stopped");
            deps.health.stop_table(table.to_string(), reason);
        }
        let published = published(deps, client).await?;
        let joining = source::catalog::preview(client, &unpublished, &spec.keys).await?.tables;
        let known = published.iter().chain(&joining).map(|table| &table.relation);
        // Masks that a table cannot have stop that one alone, when it is announced.
        let masks = &deps.settings.encoder.masks;
        masks.find_all(known.chain(state.relations.values())).map_err(Error::Mask)?;
        let topics = name_topics(&deps.settings.encoder.topics, &published)?;
        let members = membership::read(client, &spec.name).await?;
        Ok(Self { members, ..Self::new(tables, published, topics) })
    }

    /// Under the options of `deps`, which hold no longer. That no table matches them is no error: a table that is gone has
    /// nothing left to read its changes by.
    pub(super) async fn for_replay(
        deps: &CaptureDeps,
        tables: &Tables,
        client: &postgres::Client,
        state: &State,
        replay: Replay<'_>,
    ) -> Result<Self, Error> {
        let spec = &deps.settings.publication;
        match source::publication::must_exist(client, &spec.name).await {
            Err(source::Error::PublicationMissing { publication, sql }) => {
                return Err(Error::FormerPublication { publication, below: replay.below, sql });
            }
            found => found?,
        }
        let published = published(deps, client).await?;
        let topics = name_replayed(&deps.settings.encoder.topics, &published, state, replay.configured)?;
        Ok(Self::new(tables, published, topics))
    }

    /// Leaves out the tables whose rows no snapshot has published in whole: a stream alone would give them a part of their
    /// rows. Gives each with the reason.
    pub(super) fn withhold(
        &mut self,
        names: &TopicNames,
        state: &State,
        consistent_point: Lsn,
        is_stopped: impl Fn(&TableName) -> bool,
    ) -> Vec<Withheld> {
        let owners = owners(names, state);
        let reason = |table: &TableName, topic: &String| {
            let forbidden = self
                .renamed(state, table)
                .or_else(|| foreign(&owners, table, topic))
                .or_else(|| self.replaced(state, table));
            let lacks_rows = forbidden.is_none();
            let lack = || {
                cut(state, consistent_point, table)
                    .or_else(|| dropped(state, table).filter(|_| !is_stopped(table)))
                    .or_else(|| self.uncopied(state, table, topic))
                    .or_else(|| self.rejoined(state, table, topic))
            };
            Some((forbidden.or_else(lack)?, lacks_rows))
        };
        let withheld = |(table, topic): (&TableName, &String)| {
            let (reason, lacks_rows) = reason(table, topic)?;
            Some(Withheld { name: table.clone(), topic: topic.clone(), reason, lacks_rows })
        };
        let withheld: Vec<_> = self.topics.iter().filter_map(withheld).collect();
        for table in &withheld {
            self.topics.remove(&table.name);
        }
        withheld
    }

    /// Why a table that the stream has must not go on; `None` if all its rows are published, or are still read beside the stream.
    fn uncopied(&self, state: &State, table: &TableName, topic: &str) -> Option<String> {
        if !state.topics.contains_key(topic) {
            return Some("it joined the publication after the snapshot; its rows are not captured".to_owned());
        }
        let oid = self.published.iter().map(|table| &table.relation).find(|found| found.name == *table)?.oid;
        let mut members = state.resyncs.iter().flat_map(|run| &run.tables);
        let left = members.find(|member| member.oid == oid && member.is_cut())?.left.as_ref()?;
        Some(format!("not all of its rows were read when it joined the publication: {}", left.reason))
    }

    fn member(&self, table: &TableName) -> Option<&Membership> {
        let found = self.published.iter().map(|table| &table.relation).find(|relation| relation.name == *table)?;
        self.members.get(&found.oid)
    }

    /// Why a table must not go on that was not in the publication for a while: what was changed meanwhile is not sent.
    fn rejoined(&self, state: &State, table: &TableName, topic: &str) -> Option<String> {
        let left = self.member(table)?.has_left_since(state.members.get(topic)?);
        left.then(|| {
            "it left the publication and joined it again; what was changed in between is not captured".to_owned()
        })
    }

    /// What is to be recorded of how the publication has the captured tables.
    pub(super) fn members(&self, state: &State) -> Vec<Update> {
        let news = |(table, topic): (&TableName, &String)| {
            let member = self.member(table).filter(|member| state.members.get(topic) != Some(*member))?;
            Some(Update::Member { topic: topic.clone(), member: member.clone() })
        };
        self.topics.iter().filter_map(news).collect()
    }

    /// Why a table must not go on that was recorded under another name (trap T37): its topic would be another one.
    fn renamed(&self, state: &State, table: &TableName) -> Option<String> {
        let found = self.published.iter().map(|table| &table.relation).find(|relation| relation.name == *table)?;
        let mut names =
            state.relations.values().filter(|version| version.oid == found.oid).map(|version| &version.name);
        let other = names.next().filter(|first| *first != table && names.all(|name| name != table))?;
        Some(Error::Renamed { table: other.to_string(), name: table.to_string() }.to_string())
    }

    /// Why a table must not go on where another one of its name was recorded (trap T37): what that one had is not its own.
    fn replaced(&self, state: &State, table: &TableName) -> Option<String> {
        let mut recorded = state.relations.values().filter(|version| version.name == *table).peekable();
        recorded.peek()?;
        let found = self.published.iter().map(|table| &table.relation).find(|relation| relation.name == *table)?;
        let other = recorded.all(|version| version.oid != found.oid);
        other.then(|| Error::Replaced { table: table.to_string() }.to_string())
    }

    /// Looks for tables that left while a barrier was sent by half: it is repeated by the replay, whose stream begins at `from`,
    /// and the server still sends their truncates. To be called once it is known which tables are left out.
    pub(super) fn depart(&mut self, names: &TopicNames, state: &State, from: Lsn) -> Result<(), Error> {
        let open = state.barriers.iter().filter(|barrier| barrier.position.commit >= from).cloned().collect();
        self.departed = self.departed(names, state, open);
        match self.departed.unknown() {
            Some((topic, position)) => Err(Error::HalfBroadcast { topic: topic.clone(), position }),
            None => Ok(()),
        }
    }

    /// The same before a snapshot over what was published before: its begin sets free what waits at such barriers.
    pub(super) fn depart_anew(&mut self, names: &TopicNames, state: &State) {
        self.departed = self.departed(names, state, state.barriers.clone());
        if let Some((topic, position)) = self.departed.unknown() {
            tracing::warn!(topic, %position, "sinks may wait for a truncate of a table of which nothing is recorded");
        }
    }

    fn departed(&self, names: &TopicNames, state: &State, open: Vec<OpenBarrier>) -> Departed {
        let captured = self.topics.values().map(String::as_str).collect();
        let departed = Departed::of(names, state, open, &captured);
        for (_, relation) in departed.tables() {
            tracing::info!(table = %relation.name, "sending the rest of a barrier to a table that is not captured any more");
        }
        departed
    }
}

/// Masks that cannot be, and names under which nothing is masked, before anything is published.
/// Shows the tables that a stream leaves out.
pub(super) fn report_withheld(deps: &CaptureDeps, withheld: Vec<Withheld>) {
    for Withheld { name, reason, .. } in withheld {
        tracing::error!(table = %name, reason, hint = COPY_HINT, "table stopped");
        deps.health.stop_table(name.to_string(), reason);
    }
}

/// What notes of the status page begin with that tell of the signal table.
const SIGNALS: &str = "signal table ";

/// Tells of tables that do not come into the publication. They would never come where no stream goes on, or none whose tables may join.
fn leave_out(deps: &CaptureDeps, mut left_out: Vec<Blind>) -> Result<(), Error> {
    let comes_later = matches!(deps.settings.snapshot, SnapshotMode::Initial | SnapshotMode::WhenNeeded);
    if !comes_later && !left_out.is_empty() {
        let publication = deps.settings.publication.name.clone();
        return Err(source::Error::Unidentified { publication, blind: left_out }.into());
    }
    left_out.dedup_by(|next, first| next.table == first.table);
    for blind in &left_out {
        let reason = format!("it is not taken into the publication: {}", blind.describe());
        let remedy = blind.problem.remedy(&blind.relation);
        tracing::error!(table = %blind.table, reason, remedy, "the table is not captured: it comes with a primary key, or by a new snapshot");
        deps.health.stop_table(blind.table.to_string(), &reason);
    }
    Ok(())
}

/// The signal table comes into the publication. That it does not keeps nothing else: it is told.
async fn take_in_signals(deps: &CaptureDeps, client: &postgres::Client) -> Result<(), Error> {
    let spec = &deps.settings.publication;
    deps.health.forget_notes(SIGNALS);
    let Some(table) = &spec.signal_table else { return Ok(()) };
    let reason = match source::publication::take_in_signals(client, spec).await {
        Err(error) if error.severity() == Severity::Transient => return Err(error.into()),
        Err(error) => chain(&error),
        Ok(None | Some(SignalTable::Published | SignalTable::Joins)) => return Ok(()),
        Ok(Some(SignalTable::Added)) => {
            tracing::info!(table = %table, publication = spec.name, "the signal table is in the publication from now on");
            return Ok(());
        }
        Ok(Some(SignalTable::Lacking { sql })) => {
            format!("it is not in publication {}, so its rows ask for nothing: {sql}", spec.name)
        }
        Ok(Some(SignalTable::Missing)) => "it does not exist; once it does, restart capture".to_owned(),
        Ok(Some(SignalTable::Keyless)) => {
            "it has no primary key, so that the source would refuse updates and deletes of its rows in a publication"
                .to_owned()
        }
    };
    tracing::error!(table = %table, reason, "no row of the signal table is followed");
    deps.health.note(format!("{SIGNALS}{table}: {reason}"));
    Ok(())
}

/// The configured tables of the publication, as they may be recorded.
async fn published(deps: &CaptureDeps, client: &postgres::Client) -> Result<Vec<PublishedTable>, Error> {
    let spec = &deps.settings.publication;
    let mut published = source::catalog::read(client, &spec.name, &spec.keys).await?.tables;
    published.retain(|table| spec.tables.matches(&table.relation.name));
    for table in &mut published {
        deps.settings.encoder.masks.forget_defaults(&mut table.relation);
    }
    Ok(published)
}

fn list(tables: &[TableName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Every table has a topic of its own (trap T57).
fn name_topics(names: &TopicNames, published: &[PublishedTable]) -> Result<BTreeMap<TableName, String>, Error> {
    let mut topics = BTreeMap::new();
    let mut tables = BTreeMap::new();
    for table in published {
        let name = &table.relation.name;
        let topic = names.of_table(name).map_err(crate::record::EncodeError::from)?;
        if topic == names.messages() {
            let (first, second) = ("logical messages".to_owned(), name.to_string());
            return Err(Error::SharedTopic { first, second, topic });
        }
        if let Some(other) = tables.insert(topic.clone(), name) {
            return Err(shared(other, name, topic));
        }
        topics.insert(name.clone(), topic);
    }
    Ok(topics)
}

/// The topics under options that hold no longer. A table that made capture refuse them has published nothing: one without a
/// legal topic name, and the later one of two that share a topic. They are left out, so that their exclusion, which is the
/// remedy, helps.
fn name_replayed(
    names: &TopicNames,
    published: &[PublishedTable],
    state: &State,
    configured: &TablePatterns,
) -> Result<BTreeMap<TableName, String>, Error> {
    let mut sharing = BTreeMap::<String, Vec<&Relation>>::new();
    for table in published {
        if let Ok(topic) = names.of_table(&table.relation.name) {
            sharing.entry(topic).or_default().push(&table.relation);
        }
    }
    let mut topics = BTreeMap::new();
    for (topic, relations) in sharing {
        if let Some(owner) = owner(&topic, &relations, state, configured)? {
            topics.insert(owner.name.clone(), topic);
        }
    }
    Ok(topics)
}

/// Whose changes the topic holds: those of the relation with a recorded version. While there is none, no change is
/// published, and the topic is the configuration's choice.
fn owner<'a>(
    topic: &str,
    relations: &[&'a Relation],
    state: &State,
    configured: &TablePatterns,
) -> Result<Option<&'a Relation>, Error> {
    if let [only] = relations {
        return Ok(Some(only));
    }
    let is_recorded = |relation: &&&Relation| state.relations.values().any(|version| version.oid == relation.oid);
    if let Some(recorded) = relations.iter().find(is_recorded) {
        return Ok(Some(recorded));
    }
    let mut wanted = relations.iter().filter(|relation| configured.matches(&relation.name));
    match (wanted.next(), wanted.next()) {
        (Some(first), Some(second)) => Err(shared(&first.name, &second.name, topic.to_owned())),
        (first, _) => Ok(first.copied()),
    }
}

fn shared(first: &TableName, second: &TableName, topic: String) -> Error {
    Error::SharedTopic { first: first.to_string(), second: second.to_string(), topic }
}

/// Why a table must not go on that stopped while its rows were read for the snapshot.
fn cut(state: &State, consistent_point: Lsn, table: &TableName) -> Option<String> {
    let stopped = state.stopped.get(&table.to_string())?;
    let in_snapshot = stopped.position.commit == consistent_point && stopped.position.ordinal == 0;
    in_snapshot.then(|| format!("its snapshot was cut: {}", stopped.reason))
}

/// Why a table must not go on whose changes were dropped since it stopped.
fn dropped(state: &State, table: &TableName) -> Option<String> {
    let stopped = state.stopped.get(&table.to_string()).filter(|stopped| stopped.dropped)?;
    Some(format!(
        "it stopped at {}, and its changes from there on are in no topic: {}",
        stopped.position, stopped.reason
    ))
}

/// The tables whose changes may be in each topic.
fn owners<'a>(names: &TopicNames, state: &'a State) -> BTreeMap<String, BTreeSet<&'a TableName>> {
    let mut owners = BTreeMap::<_, BTreeSet<_>>::new();
    for relation in state.relations.values() {
        if let Ok(topic) = names.of_table(&relation.name) {
            owners.entry(topic).or_default().insert(&relation.name);
        }
    }
    owners
}

/// Why a table must not be published to a topic that the snapshot filled for another table (trap T57).
fn foreign(owners: &BTreeMap<String, BTreeSet<&TableName>>, table: &TableName, topic: &str) -> Option<String> {
    let owner = owners.get(topic)?.iter().find(|owner| **owner != table)?;
    Some(format!("its topic {topic} holds the changes of table {owner}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::capture::state::{OpenBarrier, TopicRecord},
        schema::{Lineage, ReplicaIdentity},
    };

    fn relation(oid: u32, schema: &str, table: &str) -> Relation {
        let name = TableName::new(schema, table);
        Relation {
            oid,
            name,
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
            key: Vec::new(),
            lineage: Lineage::default(),
        }
    }

    fn published(relation: Relation) -> PublishedTable {
        PublishedTable { relation, partitioned: false, row_filter: None, estimated_rows: None, problems: Vec::new() }
    }

    fn survey(relation: &Relation) -> Survey {
        let published = vec![published(relation.clone())];
        let topics = name_topics(&TopicNames::new("p"), &published).unwrap();
        Survey { published, topics, ..Survey::default() }
    }

    fn replayed(recorded: Option<u32>, exclude: &str) -> Result<Vec<String>, Error> {
        let (first, second) = (relation(1, "public", "x.y"), relation(2, "public.x", "y"));
        let mut state = State::default();
        if let Some(oid) = recorded {
            state.relations.insert(format!("{oid}/0"), relation(oid, "public", "any"));
        }
        let configured = TablePatterns::new(&["*.*".to_owned()], &[exclude.to_owned()])?;
        let tables = [published(first), published(second), published(relation(3, "public", &"t".repeat(300)))];
        let topics = name_replayed(&TopicNames::new("p"), &tables, &state, &configured)?;
        Ok(topics.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn the_version_that_a_new_snapshot_replaces_is_kept_however_often_it_starts_over() {
        let (accepted, refused) = (relation(1, "public", "t"), Relation { key: vec![0], ..relation(1, "public", "t") });
        let mut state = State::default();
        assert!(survey(&refused).former(&state).is_empty());
        state.relations.insert("1/snapshot".into(), accepted.clone());
        assert!(survey(&accepted).former(&state).is_empty());
        let former = survey(&refused).former(&state);
        assert!(former.len() == 1 && former.values().all(|former| **former == accepted));
        for (key, relation) in former.into_iter().chain(survey(&refused).versions()) {
            state.relations.insert(key, (*relation).clone());
        }
        let other = Relation { key: vec![1], ..relation(1, "public", "t") };
        assert!(survey(&other).former(&state).is_empty());
        assert!(state.relations.values().any(|kept| *kept == accepted));
    }

    // trap T57
    #[test]
    fn of_two_tables_that_share_a_topic_the_one_with_a_recorded_version_is_published_again() {
        for exclude in ["*.y", "*.x.y", "none.none"] {
            assert_eq!(replayed(Some(2), exclude).unwrap(), [relation(2, "public.x", "y").name.to_string()]);
        }
    }

    #[test]
    fn a_shared_topic_without_a_recorded_version_is_the_choice_of_the_configuration() {
        assert_eq!(replayed(None, "*.y").unwrap(), [relation(1, "public", "x.y").name.to_string()]);
        assert_eq!(replayed(None, "*.*").unwrap(), [""; 0]);
        assert!(matches!(replayed(None, "none.none"), Err(Error::SharedTopic { .. })));
    }

    #[test]
    fn a_table_without_a_legal_topic_name_is_left_out_of_what_is_published_again() {
        assert_eq!(replayed(Some(1), "none.none").unwrap().len(), 1);
    }

    fn half_sent(recorded: &[Relation], from: Lsn) -> Result<Vec<String>, Error> {
        let position = Position { epoch: 0, commit: Lsn(100), ordinal: 1 };
        let barrier = OpenBarrier { position, topics: vec![("p.public.gone".into(), 3), ("p.public.kept".into(), 3)] };
        let relations = recorded.iter().map(|relation| (format!("{}/0", relation.oid), relation.clone())).collect();
        let state = State { barriers: vec![barrier], relations, ..State::default() };
        let mut survey = survey(&relation(1, "public", "kept"));
        survey.depart(&TopicNames::new("p"), &state, from)?;
        Ok(survey.departed.tables().map(|(topic, _)| topic.to_owned()).collect())
    }

    #[test]
    fn a_table_without_a_record_of_its_columns_cannot_get_the_rest_of_a_truncate() {
        let gone = relation(2, "public", "gone");
        assert_eq!(half_sent(&[gone], Lsn(100)).unwrap(), ["p.public.gone"]);
        assert!(matches!(half_sent(&[], Lsn(100)), Err(Error::HalfBroadcast { .. })));
        assert_eq!(half_sent(&[], Lsn(101)).unwrap(), [""; 0]);
    }

    // trap T37
    #[test]
    fn a_table_that_has_the_name_of_a_recorded_one_is_left_out_and_gets_nothing_but_the_rest_of_a_truncate() {
        let (former, later) = (relation(1, "public", "t"), relation(2, "public", "t"));
        let position = Position { epoch: 0, commit: Lsn(100), ordinal: 1 };
        let barriers = vec![OpenBarrier { position, topics: vec![("p.public.t".into(), 3)] }];
        let relations = [("1/0".to_owned(), former.clone())].into();
        let topics = [("p.public.t".to_owned(), TopicRecord { id: None, partitions: 3, ends: vec![1, 1, 1] })].into();
        let state = State { relations, topics, barriers, ..State::default() };
        let mut same = survey(&former);
        assert_eq!(same.withhold(&TopicNames::new("p"), &state, Lsn(1), |_| false), []);
        let mut other = survey(&later);
        assert!(
            other.withhold(&TopicNames::new("p"), &state, Lsn(1), |_| false)[0]
                .reason
                .contains("another one than before")
        );
        other.depart(&TopicNames::new("p"), &state, Lsn(100)).unwrap();
        assert!(other.departed.find(1).is_some() && other.departed.find(2).is_none());
    }

    // trap T57
    #[test]
    fn a_table_is_not_published_to_the_topic_of_one_that_was_captured_before() {
        let (former, later) = (relation(1, "public", "x.y"), relation(2, "public.x", "y"));
        let mut state = State::default();
        let record = TopicRecord { id: None, partitions: 1, ends: vec![1] };
        state.topics.insert("p.public.x.y".to_owned(), record);
        let withheld = |state: &State, relation: &Relation| {
            survey(relation).withhold(&TopicNames::new("p"), state, Lsn(1), |_| false).len()
        };
        assert_eq!(withheld(&state, &later), 0);
        state.relations.insert("1/0".to_owned(), former.clone());
        assert_eq!((withheld(&state, &later), withheld(&state, &former)), (1, 0));
    }
}
