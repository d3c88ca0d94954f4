//! Looks after the partitions of captured tables while a session streams, and tells of rows that no event tells of (`capture.on_partitions`).

use std::{collections::BTreeMap, time::Duration};

use super::{
    Error,
    partitions::{Changes, Judged, Verdict, are_too_many, describe},
    publisher::Publisher,
    session::Session,
    settings::PartitionPolicy,
    state::Update,
};
use crate::{
    lsn::Lsn,
    postgres::Client,
    retry::{Classify as _, chain},
    schema::TableName,
    source::{
        catalog::{self, PublishedTable},
        leaves::{self, Trees},
        publication::PublicationSpec,
        signal::{self, Signal, SignalError},
    },
};

const INTERVAL: Duration = Duration::from_secs(5);
/// What notes begin with.
const NOTE: &str = "partitions of ";

/// The partitioned tables that are captured, by `pg_class.oid`.
type Roots = BTreeMap<u32, TableName>;

/// A look at the catalog, and the end of the log behind it.
struct Look {
    trees: Trees,
    /// Of leaves that came since the last one: whether they have no rows; `None` where that cannot be told at once.
    emptiness: BTreeMap<u32, Option<bool>>,
    end: Lsn,
}

fn roots(session: &Session) -> Roots {
    let roots = session.published.iter().filter(|table| table.partitioned);
    roots.map(|table| (table.relation.oid, table.relation.name.clone())).collect()
}

/// The partitions that a snapshot will read, as they are before its slot is there: what comes between is told, though the snapshot may have it.
pub(super) async fn before_snapshot(client: &Client, published: &[PublishedTable]) -> Result<Trees, Error> {
    let roots: Vec<u32> = published.iter().filter(|table| table.partitioned).map(|table| table.relation.oid).collect();
    if roots.is_empty() { Ok(Trees::new()) } else { Ok(leaves::read(client, &roots).await?) }
}

/// Records partitions as known, of tables of which nothing is known if only these are wanted (`unknown`).
pub(super) async fn learn(session: &Session, trees: &Trees, unknown: bool) -> Result<(), Error> {
    let (roots, partitions) = (roots(session), &session.tables.partitions);
    let is_wanted = |oid: &u32, now| !(are_too_many(now) || unknown && partitions.knows(*oid));
    let wanted = trees.iter().filter(|(oid, now)| is_wanted(oid, now));
    let wanted: Vec<_> = wanted.filter_map(|(oid, now)| Some((*oid, roots.get(oid)?, now))).collect();
    // A TRUNCATE of one may be delivered while another one is recorded.
    for (oid, name, now) in &wanted {
        partitions.begin_anew(*oid, name, now);
    }
    for (oid, ..) in wanted {
        record(session, oid).await?;
    }
    Ok(())
}

async fn record(session: &Session, oid: u32) -> Result<(), Error> {
    let current = || session.tables.partitions.current(oid).map(Update::Leaves).into_iter().collect();
    session.position.record_current(current).await
}

/// Looks after partitions until it fails or is dropped. Who needs the connection tells of it.
pub(super) async fn watch(session: &Session, publisher: &Publisher) -> Result<(), Error> {
    let roots = roots(session);
    // Of tables that are not captured any more nothing is told.
    session.health.forget_notes(NOTE);
    if roots.is_empty() {
        return std::future::pending().await;
    }
    if session.settings.on_partitions != PartitionPolicy::Accept {
        for (oid, untold) in session.tables.partitions.untold() {
            roots.get(&oid).into_iter().for_each(|name| show(session, name, &untold));
        }
    }
    // A TRUNCATE may be committed between a look and the end of the log that is read behind it: then it excuses the next look.
    let (mut ends, mut next) = ([Lsn::ZERO; 2], None::<Look>);
    loop {
        let passed = publisher.deliveries().tracker(|tracker| tracker.acknowledged());
        if let Some(look) = next.take_if(|look| look.end <= passed) {
            for (oid, name) in &roots {
                judge(session, (*oid, name), &look, ends[0]).await?;
            }
            ends = [ends[1], look.end];
        }
        if next.is_none() {
            next = take_look(session, &roots).await;
            if let Some(look) = &next {
                // A TRUNCATE that is delivered from here on is one of a table that is known.
                learn(session, &look.trees, true).await?;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn take_look(session: &Session, roots: &Roots) -> Option<Look> {
    let oids: Vec<u32> = roots.keys().copied().collect();
    let trees = leaves::read(&session.client, &oids).await.ok()?;
    let mut emptiness = BTreeMap::new();
    for (oid, now) in &trees {
        for leaf in session.tables.partitions.strangers(*oid, now) {
            emptiness.insert(leaf, leaves::is_empty(&session.client, leaf).await);
        }
    }
    let end = catalog::current_wal_lsn(&session.client).await.ok()?;
    Some(Look { trees, emptiness, end })
}

async fn judge(session: &Session, (oid, name): (u32, &TableName), look: &Look, since: Lsn) -> Result<(), Error> {
    let Look { trees, emptiness, end } = look;
    // A table that is gone has nothing to compare.
    let Some(now) = trees.get(&oid) else { return Ok(()) };
    if are_too_many(now) {
        let untold = session.tables.partitions.untold().remove(&oid).unwrap_or_default();
        if session.tables.partitions.forget(oid) {
            let what = describe(&untold);
            tracing::error!(table = %name, partitions = now.len(), what, "its partitions are too many to be looked after, and what was told of them is forgotten");
            session.position.record(&[Update::ForgetLeaves { oid }]).await?;
        }
        session.health.forget_notes(&begin(name));
        session.health.note(format!("{}they are too many to be looked after ({})", begin(name), now.len()));
        return Ok(());
    }
    let (partitions, policy) = (&session.tables.partitions, session.settings.on_partitions);
    let judged = Judged { now, emptiness, since, end: *end };
    let Verdict { is_changed, untold, is_news } =
        partitions.judge((oid, name), &judged, policy == PartitionPolicy::Accept);
    if is_changed {
        record(session, oid).await?;
    }
    if is_changed && policy == PartitionPolicy::Accept {
        tracing::info!(table = %name, "the partitions are taken for known as they are (capture.on_partitions)");
    }
    show(session, name, &untold);
    if untold.is_empty() {
        return Ok(());
    }
    if is_news {
        let what = describe(&untold);
        tracing::error!(table = %name, what, "rows of partitions came or went, and no event tells of them");
    }
    // One that is being read leaves that, where its partitions are others than when it began.
    let is_read = || session.resyncs.members(..).iter().any(|(_, read)| *read == oid);
    if policy == PartitionPolicy::Resync && !is_read() && partitions.must_ask(oid, &untold) {
        ask(session, name).await;
    }
    Ok(())
}

/// Asks this capture for the table's rows, as an operator would.
async fn ask(session: &Session, table: &TableName) {
    if let Err(error) = send(session, table).await {
        tracing::error!(table = %table, error = chain(&error), hint = error.hint(), "the table is not read again yet");
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

fn show(session: &Session, table: &TableName, untold: &Changes) {
    session.health.forget_notes(&begin(table));
    if !untold.is_empty() {
        session.health.note(format!(
            "{}{}; no event tells of these rows: `walrelay resync {table}` brings the targets to what the source has, \
             and one start with capture.on_partitions = \"accept\" leaves them as they are",
            begin(table),
            describe(untold)
        ));
    }
}
