//! What is read beside the stream: the rest of a snapshot, and behind it one resync after the other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    Error,
    backfill::Backfill,
    copying,
    goal::{Goal, Rest},
    joining,
    publisher::Publisher,
    resync::Member,
    resyncs::Reads,
    session::Session,
    standing,
    unread::Unread,
};
use crate::{
    lsn::{Lsn, Position},
    source::{catalog::PublishedTable, chunk::Leaf, window::WindowReader},
};

/// How long to wait where a lock is held.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads until an error. A session that ends at a bound reads nothing again: its stream does not come to the markers.
pub(super) async fn run(
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    (rest, below): (Option<Rest>, Option<Lsn>),
) -> Result<(), Error> {
    if let Some(rest) = rest {
        let reader = WindowReader::connect(&session.settings.source).await?;
        Backfill::new(&session, &publisher, reader, rest).run().await?;
        session.resyncs.read(Reads::Nothing);
    }
    if below.is_some() {
        return std::future::pending().await;
    }
    loop {
        let begin = session.resyncs.next().await;
        let reader = WindowReader::connect(&session.settings.source).await?;
        if copying::run(&session, &publisher, &reader, begin).await? {
            return std::future::pending().await;
        }
        let rest = rest_of(&session, &reader, begin).await?;
        Backfill::new(&session, &publisher, reader, rest).run().await?;
        session.resyncs.read(Reads::Nothing);
    }
}

/// What a session finds recorded of resyncs, before its stream begins at `from`: a table that cannot be read leaves, and the rows that
/// are owed are noted for the resync that is read first. Behind a `gap` nothing can be swept: changes that were skipped are in no record. Behind the rest of a snapshot (`unread`) none has begun to be read.
pub(super) async fn take_up(
    (session, publisher): (&Session, &Publisher),
    (from, below, gap): (Lsn, Option<Lsn>, bool),
    unread: Option<&Vec<Unread>>,
) -> Result<(), Error> {
    let mut changed = session.resyncs.begin_session(from);
    // What its records or its publication are like may have changed since. Earlier options are asked by nobody: nothing is read under them.
    let hindrance = if below.is_none() && session.resyncs.count() > 0 {
        standing::hindrance(&session.client, &session.settings).await?
    } else {
        None
    };
    for (table, _) in session.resyncs.members(..) {
        // Under options that hold no longer other tables may be captured.
        let is_captured = below.is_some() || session.topics.contains_key(&table);
        let Some(reason) = why_not((gap, hindrance), session.tables.is_stopped(&table), is_captured) else { continue };
        session.resyncs.let_go(&table);
        changed.extend(session.resyncs.leave(&table, .., Position::default(), reason));
        session.tell_left(&table, reason);
    }
    session.position.record_current(|| session.resyncs.updates(&changed)).await?;
    for (topic, behind) in session.resyncs.kept_back() {
        publisher.stop(&topic, behind);
    }
    if unread.is_some() {
        session.resyncs.read(Reads::Snapshot);
    } else if let Some(begin) = session.resyncs.first() {
        session.windows.open(session.resyncs.unread(begin).iter().map(|member| member.oid));
    }
    Ok(())
}

/// Opens the tables of a resync that are to be read, and gives them. One of which nothing is read begins anew, whatever is known of it: an
/// earlier resync may have given it up. One that leaves while it is opened is shut again.
fn open(session: &Session, begin: Position) -> Vec<Member> {
    let members = session.resyncs.unread(begin);
    session.windows.shut(members.iter().filter(|member| member.chunks.is_none()).map(|member| member.oid));
    session.windows.open(members.iter().map(|member| member.oid));
    let stayed = session.resyncs.unread(begin);
    let has_left = |member: &&Member| !stayed.iter().any(|stays| stays.oid == member.oid);
    session.windows.shut(members.iter().filter(has_left).map(|member| member.oid));
    stayed
}

/// Why a table that is in a resync leaves it when a session begins.
fn why_not(
    (gap, hindrance): (bool, Option<&'static str>),
    is_stopped: bool,
    is_captured: bool,
) -> Option<&'static str> {
    match hindrance {
        _ if gap => Some("changes are missing"),
        Some(reason) => Some(reason),
        None if is_stopped => Some("it is stopped"),
        None if !is_captured => Some("it is not captured any more"),
        None => None,
    }
}

/// What is left to read of a resync. Its tables are open to the stream before it is looked where their rows lie: a row that moves
/// behind that is owed, and one that has moved before lies in what is found.
async fn rest_of(session: &Arc<Session>, reader: &WindowReader, begin: Position) -> Result<Rest, Error> {
    let mut members = open(session, begin);
    let oids: Vec<_> = members.iter().map(|member| member.oid).collect();
    let publication = &session.settings.publication.name;
    let found = (reader.leaves_now(&oids).await?, reader.memberships(publication, &oids).await?);
    let crowded = session.resyncs.note_leaves(begin, found, (false, session.place()));
    session.position.record_current(|| session.resyncs.updates(&[begin])).await?;
    for (member, reason) in crowded {
        give_up(session, &member, &reason);
        session.tell_left(&member.name, &reason);
        members.retain(|other| other.oid != member.oid);
    }
    // Behind what the publication is compared with at the end.
    joining::await_writers(session, begin).await?;
    let (found, leaves) = look(session, reader, &members).await?;
    let (mut unread, mut conditions) = (Vec::new(), BTreeMap::new());
    for member in members {
        let Some(published) = found.get(&member.oid) else {
            let reason = "it was dropped or renamed, or left the publication, before its rows were read";
            leave(session, begin, &member, reason).await?;
            continue;
        };
        let mut recorded = member.chunks.clone().unwrap_or_default();
        // Single rows may be owed, whatever blocks are read.
        recorded.windows = true;
        let leaves = leaves.get(&member.oid).cloned().unwrap_or_default();
        let table = Unread::of(published.clone(), recorded, leaves);
        if let Err(reason) = table.may_be_read(session.key_form(&member.topic).await.as_ref()) {
            leave(session, begin, &member, &reason).await?;
            continue;
        }
        conditions.insert(member.oid, member.conditions);
        unread.push(table);
    }
    Ok(Rest { unread, goal: Goal::Resync { begin, conditions } })
}

async fn leave(session: &Session, begin: Position, member: &Member, reason: &str) -> Result<(), Error> {
    give_up(session, member, reason);
    session.leave(&member.name, begin..=begin, session.place(), reason).await
}

/// Nothing more of a table is read.
fn give_up(session: &Session, member: &Member, reason: &str) {
    session.windows.stop(member.oid, reason);
    session.windows.shut(std::iter::once(member.oid));
}

/// The tables as they are published, and their leaves, by OID. Waits while a statement has one of them.
async fn look(
    session: &Session,
    reader: &WindowReader,
    members: &[Member],
) -> Result<(HashMap<u32, PublishedTable>, HashMap<u32, Vec<Leaf>>), Error> {
    loop {
        if let Some(catalog) =
            reader.catalog(&session.settings.publication.name, &session.settings.publication.keys).await?
        {
            let is_its = |table: &&PublishedTable| {
                let relation = &table.relation;
                members.iter().any(|member| member.oid == relation.oid && member.name == relation.name)
            };
            let tables: Vec<_> = catalog.tables.iter().filter(is_its).cloned().collect();
            if let Some(chunks) = reader.leaves(&tables).await? {
                let mut leaves = HashMap::<u32, Vec<Leaf>>::new();
                for chunk in chunks {
                    let Some(table) = tables.get(chunk.table) else { continue };
                    leaves.entry(table.relation.oid).or_default().push((*chunk.leaf).clone());
                }
                return Ok((tables.into_iter().map(|table| (table.relation.oid, table)).collect(), leaves));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_leave_behind_a_gap_and_where_something_forbids_it() {
        assert_eq!(why_not((false, None), false, true), None);
        assert_eq!(why_not((true, None), false, true), Some("changes are missing"));
        assert_eq!(why_not((false, Some("a stand-by")), false, true), Some("a stand-by"));
        assert_eq!(why_not((false, None), true, true), Some("it is stopped"));
        assert_eq!(why_not((false, None), false, false), Some("it is not captured any more"));
    }
}
