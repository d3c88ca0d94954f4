//! Looks after the partitions of captured tables while a session streams, and tells of rows that no event tells of (`capture.on_partitions`).

use std::{collections::BTreeMap, time::Duration};

use super::{
    Error,
    partitions::{Verdict, describe},
    publisher::Publisher,
    session::Session,
    settings::PartitionPolicy,
    state::Update,
};
use crate::{
    lsn::Lsn,
    pipeline::ack::AckTracker,
    retry::{Classify as _, chain},
    schema::TableName,
    source::{
        catalog,
        leaves::{self, Leaf, Trees},
        publication::PublicationSpec,
        signal::{self, Signal, SignalError},
    },
};

const INTERVAL: Duration = Duration::from_secs(5);
/// What notes begin with.
const NOTE: &str = "partitions of ";

/// A look at the catalog, and the end of the log behind it.
struct Look {
    trees: Trees,
    end: Lsn,
}

/// Looks after partitions until it fails or is dropped. Who needs the connection tells of it.
pub(super) async fn watch(session: &Session, publisher: &Publisher) -> Result<(), Error> {
    let roots = session.published.iter().filter(|table| table.partitioned);
    let roots: BTreeMap<u32, TableName> =
        roots.map(|table| (table.relation.oid, table.relation.name.clone())).collect();
    // Of tables that are not captured any more nothing is told.
    session.health.forget_notes(NOTE);
    if roots.is_empty() {
        return std::future::pending().await;
    }
    let oids: Vec<u32> = roots.keys().copied().collect();
    // A TRUNCATE may be committed between a look and the end of the log that is read behind it: then it excuses the next look.
    let (mut ends, mut next) = ([Lsn::ZERO; 2], None::<Look>);
    loop {
        let passed = publisher.deliveries().tracker(|tracker: &mut AckTracker| tracker.acknowledged());
        if let Some(look) = next.take_if(|look| look.end <= passed) {
            for (oid, name) in &roots {
                // A table that is gone has nothing to compare.
                let Some(now) = look.trees.get(oid) else { continue };
                judge(session, (*oid, name), now, (ends[0], look.end)).await?;
            }
            ends = [ends[1], look.end];
            session.tables.partitions.forget_truncated(ends[0]);
        }
        if next.is_none() {
            next = take_look(session, &oids).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn take_look(session: &Session, oids: &[u32]) -> Option<Look> {
    let trees = leaves::read(&session.client, oids).await.ok()?;
    let end = catalog::current_wal_lsn(&session.client).await.ok()?;
    Some(Look { trees, end })
}

async fn judge(
    session: &Session,
    table: (u32, &TableName),
    now: &BTreeMap<u32, Leaf>,
    between: (Lsn, Lsn),
) -> Result<(), Error> {
    let partitions = &session.tables.partitions;
    let mut empty = Vec::new();
    for leaf in partitions.strangers(table.0, now) {
        if leaves::is_empty(&session.client, leaf).await {
            empty.push(leaf);
        }
    }
    let Verdict { record, untold, is_news } = partitions.judge(table, (now, &empty), between);
    if let Some(known) = record {
        session.position.record(&[Update::Leaves(known)]).await?;
    }
    let name = table.1;
    session.health.forget_notes(&begin(name));
    if untold.is_empty() {
        return Ok(());
    }
    let what = describe(&untold);
    session.health.note(note(name, &what));
    if is_news {
        tracing::error!(table = %name, what, "rows of partitions came or went, and no event tells of them");
    }
    // One that is being read leaves that, where its partitions are others than when it began.
    let is_read = || session.resyncs.members(..).iter().any(|(_, oid)| *oid == table.0);
    let is_wanted = session.settings.on_partitions == PartitionPolicy::Resync && !is_read();
    if is_wanted && partitions.must_ask(table.0, &untold) {
        ask(session, name).await;
    }
    Ok(())
}

/// Asks this capture for the table's rows, as an operator would.
async fn ask(session: &Session, table: &TableName) {
    if let Err(error) = send(session, table).await {
        tracing::error!(table = %table, error = chain(&error), hint = error.hint(), "the table is not read again");
    }
}

async fn send(session: &Session, table: &TableName) -> Result<(), SignalError> {
    let PublicationSpec { name, keys, .. } = &session.settings.publication;
    let asked = signal::resync(&session.client, (name, keys), std::slice::from_ref(table), &[]).await?;
    signal::must_be_taken(&session.client).await?;
    signal::send(&session.client, &Signal { slot: Some(session.settings.slot.clone()), ..asked }).await.map(drop)
}

fn begin(table: &TableName) -> String {
    format!("{NOTE}{table}: ")
}

fn note(table: &TableName, what: &str) -> String {
    format!(
        "{}{what}; no event tells of these rows: `walrelay resync {table}` brings the targets to what the source has",
        begin(table)
    )
}
