//! Tables that come while capture goes on: they join at a position, and what lies before it is read beside the stream, as a resync reads it
//! that has its begin there.
//!
//! A session takes in, when it begins, what the publication has and no snapshot has read. Nothing has been published from the recorded
//! ceiling on, so a table that is captured from there on is so whenever the log comes again. A running session looks for such tables at
//! intervals, and ends between two transactions when there is one: the next session takes it in.
//!
//! Rows are read when every transaction has ended that had the table open for writing when it was in the publication already: what such a one
//! changed before the table came is neither sent nor seen.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Error,
    progress::topic_update,
    publisher::Publisher,
    resync::{Member, Run},
    session::Session,
    settings::{CaptureDeps, CaptureSettings},
    signals::{MOST_TABLES, parents_first},
    standing,
    state::{SNAPSHOT_VERSION, State, StateStore, Update},
    survey::{Survey, Withheld, report_withheld},
    tables::Tables,
    topics::Topics,
};
use crate::{
    lsn::{Lsn, Position},
    pipeline::health::Health,
    postgres,
    record::Encoder,
    retry::{Classify as _, Severity, chain},
    schema::{Relation, TableName},
    source::{
        self,
        catalog::PublishedTable,
        publication::{self, Joined},
        writers::Writer,
    },
};

/// How often it is looked for tables.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a session goes on at least while the slot is held for stopped tables.
const HELD_INTERVAL: Duration = Duration::from_mins(10);

/// What decides which tables join.
pub(super) struct Candidates<'a> {
    /// With the options of the session.
    pub(super) deps: &'a CaptureDeps,
    pub(super) client: &'a postgres::Client,
    pub(super) cluster: &'a Topics,
    pub(super) tables: &'a Tables,
    pub(super) state: &'a State,
}

/// The position behind which tables are captured that join, where commits below `published` may have been published. It is that of no
/// commit, so that no resync of a signal has its name: records of the WAL begin at multiples of eight.
pub(super) const fn begin(epoch: u32, published: Lsn) -> Position {
    Position { epoch, commit: Lsn(published.0.saturating_sub(1) | 7), ordinal: 0 }
}

impl Candidates<'_> {
    /// Of the tables that are left out takes in those that can join, as a resync with this begin. Gives whether there are more of them.
    pub(super) async fn join(
        &self,
        survey: &mut Survey,
        withheld: Vec<Withheld>,
        begin: Position,
    ) -> Result<(Run, bool), Error> {
        let CaptureSettings { snapshot, .. } = &self.deps.settings;
        let hindrance = match standing::hindrance(self.client, &self.deps.settings).await? {
            None if !snapshot.copies() => Some("capture.snapshot is \"never\": no rows are read"),
            hindrance => hindrance,
        };
        // The survey has been made: names that were given up have been so below. A stand-by takes in no table.
        let seen = if hindrance.is_none() { source::wal::inserted(self.client).await? } else { Lsn::ZERO };
        let (mut members, mut left_out, mut more) = (Vec::new(), Vec::new(), false);
        for mut table in withheld {
            if table.lacks_rows && members.len() >= MOST_TABLES {
                more = true;
                table.reason.push_str("; it is taken in behind others");
                left_out.push(table);
                continue;
            }
            let published = survey.published.iter().find(|published| published.relation.name == table.name);
            // One that has stopped in this process is tried again when it is told to, or by another process.
            let may_join =
                table.lacks_rows && !self.tables.is_stopped(&table.name) && !self.tables.was_cut(&table.name);
            // Sinks wait for what it lacks of a truncate, which it gets as one that is left out.
            if may_join && self.is_half_sent(&table.topic) {
                more = true;
                left_out.push(table);
                continue;
            }
            let Some(published) = published.filter(|_| may_join) else {
                left_out.push(table);
                continue;
            };
            match self.why_not(hindrance, published, &table.topic).await? {
                None => {
                    let member =
                        Member::new(published.relation.oid, table.name.clone(), table.topic.clone(), Vec::new());
                    let copies = self.is_copied(published, &member.topic);
                    members.push(member.joining(seen).copied_if(copies));
                    self.deps.health.resume_table(&table.name.to_string());
                    survey.topics.insert(table.name, table.topic);
                }
                Some(reason) => {
                    table.reason = format!("{}, and it cannot be taken in: {reason}", table.reason);
                    left_out.push(table);
                }
            }
        }
        report_withheld(self.deps, left_out);
        Ok((Run { begin, tables: parents_first(self.client, members).await?, end: None }, more))
    }

    /// Whether the rows of a table cannot be told from each other.
    fn is_copied(&self, published: &PublishedTable, topic: &str) -> bool {
        let encoder = Encoder::new(self.deps.settings.encoder.clone());
        encoder.tells_no_rows_apart(&published.relation, self.state.keys.get(topic))
    }

    /// Whether copies of a barrier may be missing in a topic.
    fn is_half_sent(&self, topic: &str) -> bool {
        self.state.barriers.iter().flat_map(|barrier| &barrier.topics).any(|(name, _)| name == topic)
    }

    /// Why a table cannot join.
    async fn why_not(
        &self,
        hindrance: Option<&'static str>,
        published: &PublishedTable,
        topic: &str,
    ) -> Result<Option<String>, Error> {
        if let Some(reason) = hindrance {
            return Ok(Some(reason.to_owned()));
        }
        if let Some(problem) = published.unreadable() {
            return Ok(Some(problem.describe(&published.relation.name)));
        }
        if let Err(error) = self.deps.settings.encoder.masks.check(&published.relation) {
            return Ok(Some(chain(&error)));
        }
        let kept = self.state.keys.get(topic);
        if self.is_copied(published, topic)
            && source::references::others_refer_to(self.client, published.relation.oid).await?
        {
            return Ok(Some("foreign keys refer to it, and its rows are not told apart by their keys' bytes: it would be emptied first".to_owned()));
        }
        let ready = async {
            // Nobody knows what records mean that this capture has not written.
            let unfit = match kept {
                None if self.cluster.has_held_records(topic).await? => {
                    Some(format!("its topic {topic} has records that this capture did not write: delete it"))
                }
                // Sinks take another topic of its name for none that goes on with it.
                Some(_) if !self.cluster.exists(topic).await? => {
                    Some(format!("its topic {topic} was deleted: it needs a new prefix and slot"))
                }
                _ => None,
            };
            if unfit.is_none() {
                self.cluster.ensure_table(&published.relation.name, topic, self.state).await?;
            }
            Ok(unfit)
        };
        match ready.await {
            Ok(unfit) => Ok(unfit),
            Err::<_, Error>(error) if error.severity() == Severity::Transient => Err(error),
            // Others go on without it, whatever it is.
            Err(error) => Ok(Some(chain(&error))),
        }
    }
}

/// Records that tables join, before anything behind the begin is published: the resync, and what a snapshot would have recorded of them.
pub(super) async fn record(
    store: &StateStore,
    state: &mut State,
    (survey, publisher, health): (&Survey, &Publisher, &Health),
    run: Run,
) -> Result<(), Error> {
    // With its topic, a table that comes back were whole once nothing is known of its cut: that goes first.
    let mut updates = Vec::new();
    for gone in state.resyncs.iter().flat_map(|run| &run.tables).filter(|member| is_gone(member, survey)) {
        health.resume_table(&gone.name.to_string());
        if !survey.topics.values().any(|topic| *topic == gone.topic) {
            updates.push(Update::ForgetTopic { name: gone.topic.clone() });
        }
    }
    let tables = run.tables.iter().map(|member| member.name.to_string()).collect::<Vec<_>>().join(", ");
    let resync = run.name();
    updates.extend(forget_former(&mut state.resyncs, survey, &run));
    if !run.tables.is_empty() {
        let topics = run.tables.iter().filter_map(|member| publisher.topic(&member.topic));
        updates.extend(topics.map(|topic| topic_update(&topic)));
        for (key, relation) in versions(state, survey, &run) {
            state.relations.insert(key.clone(), (*relation).clone());
            updates.push(Update::Relation { key, relation });
        }
        updates.extend(survey.members(state));
        for name in run.tables.iter().map(|member| member.name.to_string()) {
            updates.extend(state.stopped.remove(&name).map(|_| Update::Resumed { table: name }));
        }
        updates.push(Update::Resync(Box::new(add(&mut state.resyncs, run))));
    }
    if !updates.is_empty() {
        store.write(&updates).await?;
    }
    if !tables.is_empty() {
        tracing::info!(tables, resync, "tables join what is captured: their rows are read beside the stream");
    }
    Ok(())
}

/// Adds a resync. One with its begin takes its tables: nothing has been published behind that, or the begin would be another.
pub(super) fn add(resyncs: &mut Vec<Run>, run: Run) -> Run {
    match resyncs.iter_mut().find(|known| known.begin == run.begin) {
        Some(known) => {
            known.tables.extend(run.tables);
            known.clone()
        }
        None => {
            resyncs.push(run.clone());
            run
        }
    }
}

/// Tables that join are in no earlier resync any more, and of those that joined and are cut nothing is to be known where they are gone.
fn forget_former(resyncs: &mut [Run], survey: &Survey, joining: &Run) -> Vec<Update> {
    let mut updates = Vec::new();
    for run in resyncs {
        let before = run.tables.len();
        let goes_on = run.end.is_none();
        run.tables.retain(|member| {
            let joins = joining.tables.iter().any(|joining| joining.oid == member.oid);
            let is_former = joins && (goes_on || member.is_cut());
            !is_former && !is_gone(member, survey)
        });
        if run.tables.len() != before {
            updates.push(Update::Resync(Box::new(run.clone())));
        }
    }
    updates
}

/// Whether a table joined once, is cut, and is not captured any more.
fn is_gone(member: &Member, survey: &Survey) -> bool {
    member.is_cut() && !survey.published.iter().any(|table| table.relation.oid == member.oid)
}

/// What no message describes yet: a key that changes before the first one must be noticed.
fn versions(state: &State, survey: &Survey, run: &Run) -> BTreeMap<String, Arc<Relation>> {
    let is_known = |oid: u32| state.relations.values().any(|relation| relation.oid == oid);
    let joining = survey.published.iter().map(|table| &table.relation);
    let joining = joining.filter(|relation| run.tables.iter().any(|member| member.oid == relation.oid));
    let unknown = joining.filter(|relation| !is_known(relation.oid));
    unknown.map(|relation| (format!("{}{SNAPSHOT_VERSION}", relation.oid), Arc::new(relation.clone()))).collect()
}

/// Waits until the next session can take in a table, and tells of those that none can.
pub(super) async fn until_due(session: &Session) -> Result<(), Error> {
    if !session.settings.snapshot.copies() {
        return std::future::pending().await;
    }
    let begun = Instant::now();
    let (mut looker, mut refused) = (None, Refused::default());
    loop {
        match look(session, &mut looker, &mut refused).await {
            Ok(is_new) => {
                // The stream comes again from where the slot is held: not for every table that comes meanwhile.
                let may_end = session.resyncs.reads_nothing()
                    && (session.tables.held().is_empty() || begun.elapsed() > HELD_INTERVAL);
                let is_due = session.put_off && begun.elapsed() > INTERVAL && session.barriers.lock().await.is_empty();
                if (is_new || is_due) && may_end {
                    return Ok(());
                }
            }
            Err(error) => {
                looker = None;
                tracing::debug!(error = %chain(&error), "cannot look for tables");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = session.new_table.notified() => {}
        }
    }
}

/// Tables that are not taken in.
#[derive(Default)]
struct Refused {
    /// What was told of each.
    told: BTreeMap<TableName, String>,
    /// Those that the server refused: it is not asked again by this session.
    failed: BTreeMap<TableName, String>,
}

/// Whether a table has come that the next session may take in. What the publication lacks is taken into it, by a connection of its own:
/// locks are waited for, and what fails takes its transaction along.
async fn look(session: &Session, looker: &mut Option<postgres::Client>, refused: &mut Refused) -> Result<bool, Error> {
    let settings = &session.settings;
    let client = match looker {
        Some(client) => &*client,
        None => looker.insert(source::catalog::connect(&settings.source, "walrelay tables").await?),
    };
    let spec = &settings.publication;
    let hindrance = standing::hindrance(client, settings).await?.map(str::to_owned);
    let (unpublished, _) = publication::unpublished(client, spec).await?;
    let mut lacking = BTreeMap::new();
    for table in unpublished {
        let known =
            refused.failed.get(&table).cloned().or_else(|| hindrance.clone()).or_else(|| unfit(session, &table));
        let reason = match known {
            Some(reason) => Some(reason),
            None => take(client, session, &table, &mut refused.failed).await,
        };
        lacking.extend(reason.map(|reason| (table, reason)));
    }
    let mut is_new = false;
    for table in publication::published(client, &spec.name).await? {
        let is_known = session.published.iter().any(|known| known.relation.name == table);
        if is_known || !spec.tables.matches(&table) {
            continue;
        }
        match unfit(session, &table) {
            Some(reason) => drop(lacking.insert(table, reason)),
            None => is_new = true,
        }
    }
    tell(session, &mut refused.told, lacking);
    Ok(is_new)
}

/// Takes a table into the publication; why it is not.
async fn take(
    client: &postgres::Client,
    session: &Session,
    table: &TableName,
    failed: &mut BTreeMap<TableName, String>,
) -> Option<String> {
    let spec = &session.settings.publication;
    match publication::join(client, spec, table).await {
        Ok(Joined::Added) => {
            tracing::info!(table = %table, publication = spec.name, "a table came into the publication");
            None
        }
        Ok(Joined::Busy) => {
            Some("transactions have it open, so that it cannot come into the publication yet".to_owned())
        }
        Ok(Joined::Keyless { reason }) => Some(format!(
            "{reason}: in the publication its updates would fail; add a primary key, or set REPLICA IDENTITY FULL"
        )),
        Err(error) => {
            let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            let reason = format!("{}{hint}", chain(&error));
            failed.insert(table.clone(), reason.clone());
            Some(reason)
        }
    }
}

/// Why a table cannot come into this capture. One that was in the publication when the session began was taken out by somebody, and a session
/// that finds two tables with one topic captures none.
fn unfit(session: &Session, table: &TableName) -> Option<String> {
    if session.published.iter().any(|known| known.relation.name == *table) {
        return Some(
            "it left the publication while it was captured, or is another table by now; restart capture".to_owned(),
        );
    }
    let names = &session.settings.encoder.topics;
    match names.of_table(table) {
        Ok(topic) => {
            let is_taken = topic == names.messages() || session.topics.values().any(|taken| *taken == topic);
            is_taken
                .then(|| format!("its topic would be {topic}, which is another one's; leave it out by capture.exclude"))
        }
        Err(error) => Some(chain(&error)),
    }
}

/// Tells of tables that are not taken in, of each once with a reason; of what is none of them any more nothing stays.
fn tell(session: &Session, told: &mut BTreeMap<TableName, String>, lacking: BTreeMap<TableName, String>) {
    for table in told.keys().filter(|table| !lacking.contains_key(*table)) {
        session.health.resume_table(&table.to_string());
    }
    for (table, reason) in lacking.iter().filter(|(table, reason)| told.get(*table) != Some(*reason)) {
        tracing::error!(table = %table, reason, "the table is not captured");
        let reason = format!("it came behind the snapshot, and is not captured: {reason}");
        session.health.stop_table(table.to_string(), reason);
    }
    *told = lacking;
}

/// Waits until no transaction has tables that join open for writing that had them when this began, or until they have left.
pub(super) async fn await_writers(session: &Session, begin: Position) -> Result<(), Error> {
    let (mut waited, mut tries) = (None::<Vec<Writer>>, 0_u32);
    loop {
        let members = session.resyncs.members_of(begin).into_iter();
        let joining: Vec<_> =
            members.filter(|member| member.joins && !member.is_whole()).map(|member| member.oid).collect();
        let now = source::writers::find(&session.client, &joining).await?;
        let left = match waited.take() {
            Some(waited) => waited.into_iter().filter(|writer| now.contains(writer)).collect(),
            None => now,
        };
        if left.is_empty() {
            return Ok(());
        }
        tries += 1;
        if tries.is_multiple_of(300) {
            let pids = left.iter().filter_map(|writer| writer.pid).map(|pid| pid.to_string()).collect::<Vec<_>>();
            tracing::warn!(
                pids = pids.join(", "),
                prepared = left.iter().any(|writer| writer.pid.is_none()),
                "reading the rows of tables that join waits for transactions that have them open since before"
            );
        }
        waited = Some(left);
        session.health.heard();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_published_is_not_behind_the_begin_and_the_next_commit_is() {
        for published in [8, 9, 15, 16, 4096] {
            let begin = begin(1, Lsn(published)).commit.0;
            let last_below = (published - 1) / 8 * 8;
            assert!(last_below <= begin && begin < last_below + 8 && !begin.is_multiple_of(8), "{published}: {begin}");
        }
    }

    #[test]
    fn a_table_that_joins_again_leaves_what_goes_on_and_one_that_is_gone_what_was_cut() {
        let member = |oid: u32| Member::new(oid, TableName::new("public", "t"), "p.t".to_owned(), Vec::new());
        let cut = |oid| {
            let mut member = member(oid).joining(Lsn::ZERO);
            member.leave(Position::default(), "gone");
            member
        };
        let run = |begin, tables, end| Run { begin: begin_at(begin), tables, end };
        let mut resyncs = vec![
            run(7, vec![member(1), member(2)], Some(begin_at(9))),
            run(15, vec![member(1), cut(3), member(4)], None),
        ];
        let updates = forget_former(&mut resyncs, &Survey::default(), &run(23, vec![member(1)], None));
        let left = resyncs.iter().map(|run| run.tables.iter().map(|member| member.oid).collect::<Vec<_>>());
        assert_eq!(left.collect::<Vec<_>>(), [vec![1, 2], vec![4]]);
        assert_eq!(updates.len(), 1);
    }

    #[test]
    fn tables_that_join_where_others_have_joined_are_in_their_resync() {
        let member =
            |oid: u32| Member::new(oid, TableName::new("public", "t"), "p.t".to_owned(), Vec::new()).joining(Lsn::ZERO);
        let run = |begin, oid| Run { begin: begin_at(begin), tables: vec![member(oid)], end: None };
        let mut resyncs = Vec::new();
        for joining in [run(7, 1), run(7, 2), run(15, 3)] {
            add(&mut resyncs, joining);
        }
        let found: Vec<_> = resyncs
            .iter()
            .map(|run| (run.begin.commit.0, run.tables.iter().map(|table| table.oid).collect()))
            .collect();
        assert_eq!(found, [(7, vec![1, 2]), (15, vec![3])]);
    }

    const fn begin_at(commit: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal: 0 }
    }
}
