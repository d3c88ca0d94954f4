//! Signals in the stream: what becomes of one when the stream delivers it.
//!
//! A table that cannot be read again is told, and keeps no other of its signal from it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Error, held,
    publisher::Publisher,
    resync::{Member, Run},
    resyncs::{Heard, Reads},
    routes::{Route, Routes},
    session::Session,
    standing,
    state::Update,
};
use crate::{
    event::Condition,
    lsn::Position,
    pgoutput::message::LogicalMessage,
    postgres,
    schema::{Relation, TableName},
    source::{
        condition, references,
        request::{Named, Request},
        signal::{self, Signal, SignalRecord},
    },
};

/// What notes of the status page begin with that tell of resyncs.
pub(super) const NOTE: &str = "resync: ";
/// Tables of one resync: they are recorded together, in one record of the state topic.
pub(super) const MOST_TABLES: usize = 500;
/// A signal, and what is recorded of it at first, in bytes: a record grows while tables are read, and the state topic takes about 1 MB.
pub(super) const MOST_BYTES: usize = 256 << 10;

/// What a signal of the stream says.
pub(super) enum Said<'a> {
    /// A message's content.
    Message(&'a [u8]),
    /// What a message has of a record of the signal topic.
    Record(&'a [u8]),
    /// A heartbeat of some capture.
    Heartbeat(&'a [u8]),
    /// A row of the signal table; inside, why it cannot be followed.
    Row(Result<Request, String>),
}

impl<'a> Said<'a> {
    /// A logical message; `None` if it is no signal.
    pub(super) fn of(message: &'a LogicalMessage) -> Option<Self> {
        match &*message.prefix {
            signal::PREFIX => Some(Self::Message(&message.content)),
            signal::RECORD_PREFIX => Some(Self::Record(&message.content)),
            signal::HEARTBEAT_PREFIX => Some(Self::Heartbeat(&message.content)),
            _ => None,
        }
    }
}

/// Takes a signal at this position of the stream. What it asks for is recorded when this is back.
pub(super) async fn take(
    session: &Session,
    way: (&Publisher, &Routes),
    said: Said<'_>,
    at: Position,
) -> Result<(), Error> {
    let request = match said {
        Said::Message(content) => read(session, content, at),
        Said::Record(content) => return take_record(session, way, content, at).await,
        Said::Heartbeat(content) => {
            let is_own = parsed::<&str>(content).is_ok_and(|slot| slot == session.settings.slot);
            session.metrics.source_heartbeats.inc_by(u64::from(is_own));
            return Ok(());
        }
        Said::Row(request) => request.map(Some),
    };
    follow_or_refuse(session, way, request, at).await
}

async fn follow_or_refuse(
    session: &Session,
    way: (&Publisher, &Routes),
    request: Result<Option<Request>, String>,
    at: Position,
) -> Result<(), Error> {
    match request {
        Ok(Some(request)) => follow(session, way, request, at).await,
        Ok(None) => Ok(()),
        Err(reason) => {
            refuse(session, at, &reason);
            Ok(())
        }
    }
}

/// Takes a record of the signal topic, unless it is of another capture or was taken before.
async fn take_record(session: &Session, way: (&Publisher, &Routes), content: &[u8], at: Position) -> Result<(), Error> {
    let record: SignalRecord = match parsed(content) {
        Ok(record) => record,
        Err(reason) => return follow_or_refuse(session, way, Err(reason), at).await,
    };
    // A message that is left over from when another topic was configured, or none, asks for nothing.
    let is_own = record.slot == session.settings.slot && session.settings.signal_topic.as_ref() == Some(&record.topic);
    if !is_own || session.signals.is_copy(&record, at) {
        tracing::info!(position = %at, topic = record.topic, offset = record.offset,
            "a record of a signal topic was followed before, or is for another capture");
        return Ok(());
    }
    let read = record
        .value
        .as_deref()
        .map_or_else(|| Err("its value is no text, or longer than a signal may be".to_owned()), Request::of_record);
    let request = read.map(Some).map_err(|reason| format!("offset {} of the signal topic: {reason}", record.offset));
    follow_or_refuse(session, way, request, at).await?;
    let follow = || session.signals.follow(&record, at, session.position.flushed());
    session
        .position
        .record_current(|| follow().map(|followed| Update::Followed(Some(followed))).into_iter().collect())
        .await
}

fn parsed<'a, T: serde::Deserialize<'a>>(content: &'a [u8]) -> Result<T, String> {
    if content.len() > MOST_BYTES {
        return Err(format!("a signal has {} bytes, at most {MOST_BYTES} are taken", content.len()));
    }
    serde_json::from_slice(content).map_err(|error| format!("a signal cannot be read: {error}"))
}

/// What a message asks for; `None` if it asks another capture.
fn read(session: &Session, content: &[u8], at: Position) -> Result<Option<Request>, String> {
    let signal: Signal = parsed(content)?;
    if signal.is_for(&session.settings.slot) {
        return Ok(Some(signal.into()));
    }
    tracing::info!(position = %at, slot = signal.slot, "a signal is for the capture of another replication slot");
    Ok(None)
}

async fn follow(session: &Session, way: (&Publisher, &Routes), request: Request, at: Position) -> Result<(), Error> {
    // What it was for is over: it was followed before.
    let is_settled = at.commit < session.position.flushed();
    match request {
        Request::Resync { tables, conditions } => match session.resyncs.heard(at, session.position.flushed()) {
            Heard::Settled | Heard::Again => Ok(()),
            Heard::Second => {
                refuse(
                    session,
                    at,
                    "a transaction has more than one signal to read tables again: the first one counts",
                );
                Ok(())
            }
            Heard::New => begin(session, way, &wanted(session, &tables, &conditions), at).await,
        },
        Request::Nothing => Ok(()),
        Request::Pause | Request::GoOn | Request::Stop(_) | Request::ResumeTables(_) if is_settled => Ok(()),
        Request::Pause => {
            pause(session, true, at);
            Ok(())
        }
        Request::GoOn => {
            pause(session, false, at);
            Ok(())
        }
        Request::Stop(tables) => stop(session, &tables, at).await,
        Request::ResumeTables(tables) if session.tables.is_told_first(at) => {
            held::resume(session, &tables).unwrap_or_else(|reason| refuse(session, at, reason));
            Ok(())
        }
        Request::ResumeTables(_) => Ok(()),
    }
}

fn pause(session: &Session, pauses: bool, at: Position) {
    if session.resyncs.pause(pauses, at) {
        tracing::info!(position = %at, pauses, "reading tables again was told to pause or to go on");
    } else {
        refuse(session, at, "there is none that could pause or go on");
    }
}

/// The tables that are to be read again, each with its conditions.
fn wanted(
    session: &Session,
    tables: &[Named],
    conditions: &[(Option<Named>, Vec<Condition>)],
) -> Vec<(String, Vec<Condition>)> {
    let captured: Vec<_> = session.topics.keys().map(ToString::to_string).collect();
    let mut seen = BTreeSet::new();
    let names = tables.iter().flat_map(|named| named.expand(captured.iter().map(String::as_str)));
    let names: Vec<_> = names.filter(|name| seen.insert(name.clone())).collect();
    let of_table = |name: &String| {
        let mut of_it = conditions.iter().filter(|(about, _)| about.as_ref().is_none_or(|about| about.is(name)));
        of_it.next().map(|(_, conditions)| conditions.clone()).unwrap_or_default()
    };
    names
        .into_iter()
        .map(|name| {
            let conditions = of_table(&name);
            (name, conditions)
        })
        .collect()
}

/// Tells why something is not done.
fn refuse(session: &Session, at: Position, reason: &str) {
    tracing::warn!(position = %at, reason, "a signal is not followed, or not in all");
    session.health.note(format!("{NOTE}{reason}"));
}

async fn begin(
    session: &Session,
    way: (&Publisher, &Routes),
    wanted: &[(String, Vec<Condition>)],
    at: Position,
) -> Result<(), Error> {
    session.health.forget_notes(NOTE);
    let run = match run(session, way, wanted, at).await? {
        Ok(run) => run,
        Err(reason) => {
            refuse(session, at, &reason);
            // What refuses it may be gone when it comes again, and events behind it have come without its name by then.
            Run::refused(at)
        }
    };
    let (resync, goes_on) = (run.name(), run.goes_on());
    let names = run.tables.iter().map(|member| member.name.to_string()).collect::<Vec<_>>().join(", ");
    session.resyncs.begin(run);
    for (topic, behind) in session.resyncs.kept_back() {
        way.0.stop(&topic, behind);
    }
    session.position.record_current(|| session.resyncs.updates(&[at])).await?;
    if goes_on {
        tracing::info!(resync, tables = names, "a resync begins");
    }
    Ok(())
}

/// What a signal asks for; inside, why none of it is done.
async fn run(
    session: &Session,
    way: (&Publisher, &Routes),
    wanted: &[(String, Vec<Condition>)],
    at: Position,
) -> Result<Result<Run, String>, Error> {
    if let Some(reason) = standing::hindrance(&session.client, &session.settings).await? {
        return Ok(Err(reason.to_owned()));
    }
    if wanted.len() > MOST_TABLES {
        return Ok(Err(format!("more than {MOST_TABLES} tables at a time: ask for them one part after the other")));
    }
    let mut members: Vec<Member> = Vec::new();
    for (table, conditions) in wanted {
        match member(session, way, (table.as_str(), at), conditions).await? {
            Ok(member) if members.iter().any(|known| known.oid == member.oid) => {}
            Ok(member) => members.push(member),
            Err(reason) => refuse(session, at, &reason),
        }
    }
    if members.is_empty() {
        return Ok(Err("none of its tables can be read again".to_owned()));
    }
    let run = Run { begin: at, tables: parents_first(&session.client, members).await?, end: None };
    Ok(fitting(run))
}

/// The resync, unless its record is too large.
fn fitting(run: Run) -> Result<Run, String> {
    let bytes = run.bytes();
    if bytes <= MOST_BYTES {
        return Ok(run);
    }
    Err(format!(
        "its record would have {bytes} bytes, at most {MOST_BYTES} are kept: ask for fewer tables or shorter conditions"
    ))
}

/// The table as a member of a resync; inside, why it is none.
async fn member(
    session: &Session,
    (publisher, routes): (&Publisher, &Routes),
    (table, at): (&str, Position),
    conditions: &[Condition],
) -> Result<Result<Member, String>, Error> {
    let Some((name, topic)) = session.topics.iter().find(|(name, _)| name.to_string() == table) else {
        return Ok(Err(format!("table {table} is not captured")));
    };
    if session.tables.is_stopped(name) || publisher.topic(topic).is_none() {
        return Ok(Err(format!("table {table} is stopped")));
    }
    let Some(relation) = relation(session, routes, name) else {
        return Ok(Err(format!("table {table} is not published")));
    };
    let copies = session.is_read_at_one_point(&relation).await;
    if copies && !conditions.is_empty() {
        return Ok(Err(format!(
            "the rows of table {table} are not told apart by a key: it can only be read as a whole"
        )));
    }
    if copies && references::others_refer_to(&session.client, relation.oid).await? {
        return Ok(Err(format!(
            "foreign keys refer to table {table}, whose rows are not told apart by their keys' bytes: it would be emptied first"
        )));
    }
    if session.resyncs.is_covered(relation.oid, at) {
        return Ok(Err(format!("table {table} is in a resync already")));
    }
    let masks = &session.settings.encoder.masks;
    if let Some(hidden) = conditions.iter().find(|condition| masks.hides(name, &condition.column)) {
        // Targets have other values, and these must not come into Kafka.
        return Ok(Err(format!("column {} of table {table} is masked: rows cannot be chosen by it", hidden.column)));
    }
    let settled = condition::settle(&session.client, &relation, conditions).await?;
    let member = |conditions| Member::new(relation.oid, name.clone(), topic.clone(), conditions).copied_if(copies);
    Ok(settled.map(member))
}

/// The table as the stream has described it, or as it was when the session began.
fn relation(session: &Session, routes: &Routes, name: &TableName) -> Option<Arc<Relation>> {
    let known = session.published.iter().map(|table| &table.relation).find(|relation| relation.name == *name)?;
    match routes.find(known.oid) {
        Some(Route::Running(running)) => Some(Arc::clone(&running.relation)),
        _ => Some(Arc::new(known.clone())),
    }
}

/// Tables that others refer to come first: rows that the target lacks come before what hangs on them.
pub(super) async fn parents_first(client: &postgres::Client, members: Vec<Member>) -> Result<Vec<Member>, Error> {
    let oids: Vec<_> = members.iter().map(|member| member.oid).collect();
    let order = references::parents_first(client, &oids).await?;
    let mut members: HashMap<u32, Member> = members.into_iter().map(|member| (member.oid, member)).collect();
    Ok(order.iter().filter_map(|oid| members.remove(oid)).collect())
}

/// These tables, or all, leave their resyncs.
async fn stop(session: &Session, tables: &[Named], at: Position) -> Result<(), Error> {
    // One that comes again is of no resync that began behind it.
    let members = session.resyncs.members(..at);
    let named = |name: &TableName| tables.is_empty() || tables.iter().any(|named| named.is(&name.to_string()));
    let stopping: Vec<_> = members.iter().filter(|(name, _)| named(name)).collect();
    if stopping.is_empty() {
        refuse(session, at, "no resync that goes on has a table that was to be given up");
    }
    for (name, oid) in stopping {
        let (reads, member_of) = session.resyncs.reads(*oid);
        session.leave(name, ..at, at, "it was told to stop").await?;
        match reads {
            Reads::Resync(begin) if member_of == Some(begin) => session.windows.stop(*oid, "it was told to stop"),
            // Its rows are read for the snapshot, or not at all yet.
            Reads::Snapshot => {}
            // Nobody else would shut it, and the next resync would find it given up.
            Reads::Nothing | Reads::Resync(_) => session.windows.shut(std::iter::once(*oid)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Comparison;

    #[test]
    fn a_resync_whose_record_is_too_large_is_refused() {
        let run = |bytes: usize| {
            let value = "a".repeat(bytes);
            let condition = Condition { column: "name".to_owned(), comparison: Comparison::Equal, value };
            let member = |oid| {
                let name = TableName::new("public", format!("t{oid}"));
                Member::new(oid, name, format!("p.public.t{oid}"), vec![condition.clone()])
            };
            Run { begin: Position::default(), tables: (1..=20).map(member).collect(), end: None }
        };
        assert!(fitting(run(100)).is_ok());
        let reason = fitting(run(MOST_BYTES / 20)).unwrap_err();
        assert!(reason.contains("ask for fewer tables"), "{reason}");
    }
}
