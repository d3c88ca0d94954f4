//! A snapshot that was cut: what its session needs beside the stream's, and what is forgotten when.

use std::sync::Arc;

use super::{
    Error,
    goal::{Goal, Rest},
    joining,
    resync::{Member, Run},
    session::Session,
    state::{Checkpoint, State, StateStore, Update},
    unread::Unread,
};
use crate::{
    lsn::Lsn,
    record::TopicNames,
    source::{self, catalog::PublishedTable},
};

/// What is left to read beside the stream. A table that has stopped in this process, or is left out, stays as it is.
pub(super) async fn rest(
    session: &Arc<Session>,
    state: &State,
    unread: Vec<Unread>,
    consistent_point: Lsn,
) -> Result<Rest, Error> {
    let visible = source::window::visible(&session.client).await?;
    let windows = &session.windows;
    windows.open(unread.iter().map(|unread| unread.published.relation.oid));
    windows.sees_all(&visible);
    for Unread { published, .. } in &unread {
        let (oid, name) = (published.relation.oid, &published.relation.name);
        if session.tables.is_stopped(name) || !session.topics.contains_key(name) {
            windows.stop(oid, "it stopped before all its rows were read");
        }
    }
    let planned = state.chunks.keys().copied().collect();
    Ok(Rest { unread, goal: Goal::Snapshot { planned, consistent_point } })
}

/// The begin of the snapshot is behind every sink's records, so the versions from before it are of no use.
pub(super) async fn forget_former(store: &StateStore, state: &mut State) -> Result<(), Error> {
    let Some(plan) = state.plan.as_mut().filter(|plan| !plan.forget.is_empty()) else { return Ok(()) };
    let forget = std::mem::take(&mut plan.forget);
    state.relations.retain(|key, _| !forget.contains(key));
    let mut updates: Vec<_> = forget.into_iter().map(|key| Update::ForgetRelation { key }).collect();
    updates.push(Update::Plan(state.plan.clone()));
    store.write(&updates).await
}

/// Tables whose rows cannot be told from each other are copied once the rest is read, as those are that join: the snapshot goes on without them.
pub(super) async fn copy_later(
    store: &StateStore,
    state: &mut State,
    (names, checkpoint): (&TopicNames, &Checkpoint),
    copies: &[PublishedTable],
) -> Result<(), Error> {
    let (mut members, mut updates) = (Vec::new(), Vec::new());
    for PublishedTable { relation, .. } in copies {
        let Ok(topic) = names.of_table(&relation.name) else { continue };
        let member = Member::new(relation.oid, relation.name.clone(), topic, Vec::new());
        // Some of its rows are there.
        members.push(Member { copies: true, emptied: true, ..member });
        state.chunks.remove(&relation.oid);
        updates.push(Update::ForgetChunks { oid: relation.oid });
        let table = relation.name.to_string();
        updates.extend(state.stopped.remove(&table).map(|_| Update::Resumed { table }));
    }
    if members.is_empty() {
        return Ok(());
    }
    let begin = joining::begin(checkpoint.epoch, checkpoint.consistent_point);
    let run = Run { begin, tables: members, end: None };
    let tables = run.tables.iter().map(|member| member.name.to_string()).collect::<Vec<_>>().join(", ");
    tracing::info!(
        tables,
        "rows of tables are missing that cannot be told from those that are there: the tables are copied behind the rest"
    );
    // One that was cut before may have left others.
    let run = joining::add(&mut state.resyncs, run);
    state.resyncs.sort_by_key(|run| run.begin);
    updates.push(Update::Resync(Box::new(run)));
    store.write(&updates).await
}

/// The state as if none of these tables had stopped.
pub(super) fn without_stops(state: &State, unread: &[Unread]) -> State {
    let mut state = state.clone();
    for Unread { published, .. } in unread {
        state.stopped.remove(&published.relation.name.to_string());
    }
    state
}

/// What was recorded of a snapshot that is given up, and of resyncs: their tables are read from the begin, and emptied before.
pub(super) fn forget_read(state: &mut State) -> Vec<Update> {
    let tables = state.chunks.keys().map(|oid| Update::ForgetChunks { oid: *oid });
    let resyncs = std::mem::take(&mut state.resyncs).into_iter().map(|run| Update::ForgetResync(run.begin));
    let bad_rows = std::mem::take(&mut state.bad_rows).into_keys().map(|table| Update::ForgetBadRows { table });
    let leaves = std::mem::take(&mut state.leaves).into_keys().map(|oid| Update::ForgetLeaves { oid });
    state.plan.iter().map(|_| Update::Plan(None)).chain(tables).chain(resyncs).chain(bad_rows).chain(leaves).collect()
}
