//! Tables that come while capture goes on: they join at a position, and what lies before it is read beside the stream, as a resync reads it
//! that has its begin there.
//!
//! A session takes in, when it begins, what the publication has and no snapshot has read. Nothing has been published from the recorded
//! ceiling on, so a table that is captured from there on is so whenever the log comes again. A running session looks for such tables at
//! intervals, and ends between two transactions when there is one: the next session takes it in.
//!
//! Rows are read when every transaction has ended that had the table open for writing when it was in the publication already: what such a one
//! changed before the table came is neither sent nor seen.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Error,
    progress::topic_update,
    publisher::Publisher,
    resync::{Member, Run},
    session::Session,
    settings::{CaptureDeps, CaptureSettings, OriginFilter},
    signals::{MOST_TABLES, parents_first},
    standing,
    state::{SNAPSHOT_VERSION, State, StateStore, Update},
    survey::{Survey, Withheld, report_withheld},
    tables::Tables,
    topics::Topics,
};
use crate::{
    avro::{content::OwnHeaders, flat::Records},
    lsn::{Lsn, Position},
    postgres,
    retry::{Classify as _, Severity, chain},
    schema::{Relation, TableName},
    source::{
        self,
        catalog::PublishedTable,
        publication::{self, Joined},
    },
};

/// How often it is looked for tables.
const INTERVAL: Duration = Duration::from_secs(10);

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
            let may_join = table.lacks_rows && !self.tables.is_stopped(&table.name);
            let Some(published) = published.filter(|_| may_join) else {
                left_out.push(table);
                continue;
            };
            match self.why_not(hindrance, published, &table.topic).await? {
                None => {
                    let member =
                        Member::new(published.relation.oid, table.name.clone(), table.topic.clone(), Vec::new());
                    members.push(member.joining());
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
        if let Some(problem) = published.problems.first() {
            return Ok(Some(problem.describe(&published.relation.name)));
        }
        if published.relation.key.is_empty() {
            return Ok(Some("it has no key, so its rows cannot be told from those that the stream brings".to_owned()));
        }
        let kept = self.state.keys.get(topic);
        if kept.is_some_and(|form| form.one_partition) {
            return Ok(Some("its keys are not told apart by their bytes".to_owned()));
        }
        let ready = async {
            // Nobody knows what records mean that this capture has not written.
            let is_foreign = kept.is_none() && self.cluster.has_held_records(topic).await?;
            self.cluster.ensure_data(topic, self.state).await?;
            Ok(is_foreign)
        };
        match ready.await {
            Ok(true) => Ok(Some(format!("its topic {topic} has records that this capture did not write: delete it"))),
            Ok(false) => Ok(None),
            Err::<_, Error>(error) if error.severity() == Severity::Definite => Ok(Some(chain(&error))),
            Err(error) => Err(error),
        }
    }
}

/// Records that tables join, before anything behind the begin is published: the resync, and what a snapshot would have recorded of them.
pub(super) async fn record(
    store: &StateStore,
    state: &mut State,
    (survey, publisher): (&Survey, &Publisher),
    run: Run,
) -> Result<(), Error> {
    let mut updates = forget_former(&mut state.resyncs, survey, &run);
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
        let tables = run.tables.iter().map(|member| member.name.to_string()).collect::<Vec<_>>().join(", ");
        tracing::info!(
            tables,
            resync = run.name(),
            "tables join what is captured: their rows are read beside the stream"
        );
        updates.push(Update::Resync(Box::new(run.clone())));
        state.resyncs.push(run);
    }
    if updates.is_empty() { Ok(()) } else { store.write(&updates).await }
}

/// Tables that join are in no earlier resync any more, and of those that joined and are cut nothing is to be known where they are gone.
fn forget_former(resyncs: &mut [Run], survey: &Survey, joining: &Run) -> Vec<Update> {
    let mut updates = Vec::new();
    for run in resyncs {
        let before = run.tables.len();
        let goes_on = run.end.is_none();
        let is_published = |oid| survey.published.iter().any(|table| table.relation.oid == oid);
        run.tables.retain(|member| {
            let joins = joining.tables.iter().any(|joining| joining.oid == member.oid);
            let is_former = joins && goes_on;
            !is_former && !(member.is_cut() && (joins || !is_published(member.oid)))
        });
        if run.tables.len() != before {
            updates.push(Update::Resync(Box::new(run.clone())));
        }
    }
    updates
}

/// What no message describes yet: a key that changes before the first one must be noticed.
fn versions(state: &State, survey: &Survey, run: &Run) -> BTreeMap<String, Arc<Relation>> {
    let is_known = |oid: u32| state.relations.values().any(|relation| relation.oid == oid);
    let joining = survey.published.iter().map(|table| &table.relation);
    let joining = joining.filter(|relation| run.tables.iter().any(|member| member.oid == relation.oid));
    let unknown = joining.filter(|relation| !is_known(relation.oid));
    unknown.map(|relation| (format!("{}{SNAPSHOT_VERSION}", relation.oid), Arc::new(relation.clone()))).collect()
}

/// Whether a captured table can be read again as a whole when it goes on, as far as the configuration and its key tell.
pub(super) fn may_join_again(session: &Session, table: &TableName) -> bool {
    let CaptureSettings { snapshot, encoder, origin, .. } = &session.settings;
    let may_be_read = snapshot.copies()
        && encoder.records == Records::Envelope
        && encoder.content.own_headers == OwnHeaders::Written
        && *origin == OriginFilter::Any;
    let mut published = session.published.iter().map(|table| &table.relation);
    let has_key = published.any(|relation| relation.name == *table && !relation.key.is_empty());
    may_be_read && has_key && session.topics.contains_key(table)
}

/// Waits until the next session can take in a table, and tells of those that none can.
pub(super) async fn until_due(session: &Session) -> Result<(), Error> {
    if !session.settings.snapshot.copies() {
        return std::future::pending().await;
    }
    let mut refused = BTreeMap::new();
    loop {
        match look(session, &mut refused).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Whoever needs the connection ends the session.
            Err(error) => tracing::debug!(error = %chain(&error), "cannot look for tables"),
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = session.new_table.notified() => {}
        }
    }
}

/// Whether a table has come that the next session may take in. What the publication lacks is taken into it.
async fn look(session: &Session, refused: &mut BTreeMap<TableName, String>) -> Result<bool, Error> {
    let Session { client, settings, .. } = session;
    let spec = &settings.publication;
    let (unpublished, _) = publication::unpublished(client, spec).await?;
    for table in unpublished {
        let reason = match unfit(session, &table) {
            Some(reason) => reason,
            None => match publication::join(client, spec, &table).await {
                Ok(Joined::Added) => {
                    tracing::info!(table = %table, publication = spec.name, "a table came into the publication");
                    continue;
                }
                Ok(Joined::Busy) => {
                    "transactions have it open, so that it cannot come into the publication yet".to_owned()
                }
                Ok(Joined::Keyless) => {
                    "it has no primary key and no index as its replica identity: in the publication its updates would \
                     fail; add a primary key"
                        .to_owned()
                }
                Err(error) => chain(&error),
            },
        };
        refuse(session, refused, table, reason);
    }
    let mut is_new = false;
    for table in publication::published(client, &spec.name).await? {
        let is_known = session.published.iter().any(|known| known.relation.name == table);
        if is_known || !spec.tables.matches(&table) {
            continue;
        }
        match unfit(session, &table) {
            Some(reason) => refuse(session, refused, table, reason),
            None => is_new = true,
        }
    }
    Ok(is_new || session.put_off && session.resyncs.reads_nothing())
}

/// Why there can be no topic for a table: a session that finds two with one topic captures none.
fn unfit(session: &Session, table: &TableName) -> Option<String> {
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

/// Tells of a table that is not taken in, once for each reason.
fn refuse(session: &Session, refused: &mut BTreeMap<TableName, String>, table: TableName, reason: String) {
    if refused.get(&table) == Some(&reason) {
        return;
    }
    tracing::error!(table = %table, reason, "the table is not captured");
    session.health.stop_table(table.to_string(), format!("it came behind the snapshot, and is not captured: {reason}"));
    refused.insert(table, reason);
}

/// Waits until no transaction has tables open for writing that had them when this began.
pub(super) async fn await_writers(client: &postgres::Client, tables: &[u32]) -> Result<(), Error> {
    let mut writers = source::writers::find(client, tables).await?;
    let mut tries = 0_u32;
    while !writers.is_empty() {
        tries += 1;
        if tries.is_multiple_of(300) {
            let pids = writers.iter().filter_map(|writer| writer.pid).map(|pid| pid.to_string()).collect::<Vec<_>>();
            tracing::warn!(
                pids = pids.join(", "),
                prepared = writers.iter().any(|writer| writer.pid.is_none()),
                "reading the rows of a table that joins waits for transactions that have it open since before"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = source::writers::find(client, tables).await?;
        writers.retain(|writer| now.contains(writer));
    }
    Ok(())
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
            let mut member = member(oid).joining();
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

    const fn begin_at(commit: u64) -> Position {
        Position { epoch: 0, commit: Lsn(commit), ordinal: 0 }
    }
}
