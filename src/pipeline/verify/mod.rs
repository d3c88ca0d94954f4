//! `verify`: are the tables of source and target equal? Exact, under load, without locks.
//!
//! ```text
//! source: temporary slot ──► (snapshot, C)            sees the transactions with a commit LSN below C
//! target: hold(C) ──► every lane at C ──► snapshot    sees the same ones; the hold is released at once
//! both:   one scan per table into bucket hashes ──► equal, or the rows of differing buckets are compared
//! ```
//!
//! Rows can be written at the source all the time; `apply` stands still for the moment between the hold and the target's
//! snapshot. As under `pg_dump`, TRUNCATE and ALTER TABLE wait on either side until the comparison is over: a snapshot sees a
//! table that is rewritten after it as empty.
//! Equality is exact, so one look is enough: a difference is a defect, not a lag (trap T75). Should `apply` be past C
//! before the hold reaches it, another attempt first holds it at the present end of the WAL, and only then asks for C.

mod digest;
mod drill;
mod error;
mod hold;
mod point;
mod report;
mod session;
mod shape;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use crate::{kafka, lsn::Lsn, postgres::Settings, record::Masks, schema::TableName};

use self::{
    digest::Digest,
    drill::{Limits, drill},
    hold::{Hold, Topics},
    point::{SourcePoint, wal_end},
    session::{Session, Side},
    shape::{Plan, Published},
};
pub use self::{
    error::Error,
    hold::Bookkeeping,
    report::{ColumnDifference, Difference, Kind, Report, TableReport},
};

/// How often C is taken anew because `apply` was faster than the hold.
const ATTEMPTS: usize = 3;

/// What to compare and how.
pub struct Options<'a> {
    /// The source.
    pub source: Settings,
    /// The target.
    pub target: Settings,
    /// The publication whose tables, columns and rows are compared.
    pub publication: String,
    /// Only these tables of it; empty: all.
    pub tables: Vec<TableName>,
    /// The target's table of a source's table; `None` if `apply` leaves it out.
    pub target_table: &'a (dyn Fn(&TableName) -> Option<TableName> + Sync),
    /// The topic of a source's table.
    pub topic: &'a (dyn Fn(&TableName) -> String + Sync),
    /// The masks of columns.
    pub masks: Masks,
    /// Where `apply` keeps its positions.
    pub bookkeeping: Bookkeeping,
    /// The cluster that tells how many partitions a topic has; without it, those that `apply` ever owned count.
    pub kafka: Option<kafka::Settings>,
    /// Time limit of the wait for the source's snapshot, and of the wait for `apply`.
    pub timeout: Duration,
    /// Tables that are compared at a time, each over one connection to either side.
    pub parallel: usize,
    /// Differing rows of each kind that are listed per table.
    pub limit: usize,
    /// Whether values of differing columns are shown; keys always are.
    pub show_values: bool,
}

/// Compares; `shutdown` interrupts. However it ends, `apply` is released.
pub async fn run(options: &Options<'_>, shutdown: impl Future<Output = ()>) -> Result<Report, Error> {
    let mut hold = None;
    let outcome = tokio::select! {
        outcome = compare(options, &mut hold) => outcome,
        () = shutdown => Err(Error::Interrupted),
    };
    release(&mut hold).await;
    outcome
}

async fn release(hold: &mut Option<Hold>) {
    let Some(hold) = hold.take() else { return };
    if let Err(error) = hold.release().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "apply is held until the hold expires");
    }
}

async fn compare(options: &Options<'_>, hold: &mut Option<Hold>) -> Result<Report, Error> {
    let first = source(options).await?;
    let tables = tables(options, &first).await?;
    let mut pairs = vec![(first, Session::connect(Side::Target, &options.target).await?)];
    while pairs.len() < options.parallel.min(tables.len()) {
        pairs.push((source(options).await?, Session::connect(Side::Target, &options.target).await?));
    }
    let topics = topics(options, &tables).await?;
    let names = Names {
        source: tables.iter().map(|table| table.name.clone()).collect(),
        target: tables.iter().filter_map(|table| (options.target_table)(&table.name)).collect(),
        topics,
    };
    let (lsn, stood) = align(options, &pairs, &names, hold).await?;
    let plans = plans(options, tables, &pairs).await?;
    tracing::info!(%lsn, tables = plans.len(), stood_seconds = stood.as_secs_f64(), "comparing");
    Ok(Report::new(lsn, stood, compare_all(options, &pairs, &plans).await?))
}

/// A session that can mask as capture does.
async fn source(options: &Options<'_>) -> Result<Session, Error> {
    let session = Session::connect(Side::Source, &options.source).await?;
    session.set_salt(&options.masks).await?;
    Ok(session)
}

/// The names of what is compared.
struct Names {
    source: Vec<TableName>,
    target: Vec<TableName>,
    topics: Topics,
}

/// The published tables that are applied, or those of them that were asked for.
async fn tables(options: &Options<'_>, session: &Session) -> Result<Vec<Published>, Error> {
    let mut tables = shape::published(session, &options.publication, &options.tables).await?;
    if let Some(table) = options.tables.iter().find(|table| (options.target_table)(table).is_none()) {
        return Err(Error::NotApplied(table.clone()));
    }
    tables.retain(|table| (options.target_table)(&table.name).is_some());
    if tables.is_empty() { Err(Error::NoTables) } else { Ok(tables) }
}

/// The tables' topics; one that Kafka does not have has no lane to wait for.
async fn topics(options: &Options<'_>, tables: &[Published]) -> Result<Topics, Error> {
    let names = tables.iter().map(|table| (options.topic)(&table.name));
    let Some(kafka) = options.kafka.clone() else { return Ok(names.map(|name| (name, None)).collect()) };
    let limit = options.timeout;
    let count = move || kafka::Admin::new(&kafka)?.partition_counts(limit);
    let counts = tokio::task::spawn_blocking(count).await.expect("the call returns its errors and is never cancelled");
    let counts = counts.map_err(Error::Kafka)?;
    Ok(names.map(|name| (counts.get(&name).copied().unwrap_or(0), name)).map(|(n, name)| (name, Some(n))).collect())
}

/// Opens both snapshots at one LSN on all sessions; returns it, and how long `apply` was held.
async fn align(
    options: &Options<'_>,
    pairs: &[(Session, Session)],
    names: &Names,
    slot: &mut Option<Hold>,
) -> Result<(Lsn, Duration), Error> {
    let mut attempt = 1;
    loop {
        let hold = Hold::prepare(&options.target, options.bookkeeping.clone()).await?;
        // Known to the caller before it is written, so that an interruption at any point releases it.
        let hold = &*slot.insert(hold);
        let mut start = Instant::now();
        if attempt > 1 {
            hold.place(wal_end(&pairs[0].0).await?).await?;
        }
        let outcome = match source_snapshot(options, pairs, names).await {
            Ok(lsn) => {
                if attempt == 1 {
                    start = Instant::now();
                }
                target_snapshot(options, pairs, names, hold, lsn).await.map(|()| lsn)
            }
            Err(error) => Err(error),
        };
        release(slot).await;
        match outcome {
            Ok(lsn) => return Ok((lsn, start.elapsed())),
            Err(error @ (Error::Overtaken { .. } | Error::Rewritten { .. })) if attempt < ATTEMPTS => {
                tracing::info!(error = &error as &dyn std::error::Error, attempt, "trying again");
                try_join_all(pairs.iter().flat_map(|(source, target)| [source.end(), target.end()])).await?;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens one snapshot of the source on all sessions. The slot is gone afterwards.
async fn source_snapshot(options: &Options<'_>, pairs: &[(Session, Session)], names: &Names) -> Result<Lsn, Error> {
    let point = SourcePoint::take(&options.source, options.timeout).await?;
    for (source, _) in pairs {
        source.import(&point.snapshot).await?;
    }
    if let Some((first, _)) = pairs.first() {
        lock(first, &names.source, options.timeout).await?;
    }
    Ok(point.lsn)
}

/// Locks the tables; one session's lock is enough for all that share its snapshot.
async fn lock(session: &Session, tables: &[TableName], limit: Duration) -> Result<(), Error> {
    let rewritten = session.lock(tables, limit).await?;
    if rewritten.is_empty() {
        return Ok(());
    }
    Err(Error::Rewritten { side: session.side().name(), tables: rewritten })
}

/// Holds `apply` at `lsn` and opens one snapshot of the target on all sessions.
async fn target_snapshot(
    options: &Options<'_>,
    pairs: &[(Session, Session)],
    names: &Names,
    hold: &Hold,
    lsn: Lsn,
) -> Result<(), Error> {
    hold.place(lsn).await?;
    hold.wait(lsn, &names.topics, options.timeout).await?;
    let mut sessions = pairs.iter().map(|(_, target)| target);
    let Some(first) = sessions.next() else { return Ok(()) };
    let snapshot = first.export().await?;
    hold.check(first, lsn, &names.topics).await?;
    lock(first, &names.target, options.timeout).await?;
    for session in sessions {
        session.import(&snapshot).await?;
    }
    Ok(())
}

/// What to compare of each table, as both snapshots have it; the largest first.
async fn plans(
    options: &Options<'_>,
    tables: Vec<Published>,
    pairs: &[(Session, Session)],
) -> Result<Vec<Plan>, Error> {
    let Some((source, target)) = pairs.first() else { return Ok(Vec::new()) };
    let named = |table: Published| Some(((options.target_table)(&table.name)?, table));
    let tables: Vec<_> = tables.into_iter().filter_map(named).collect();
    let source_names: Vec<_> = tables.iter().map(|(_, table)| table.name.clone()).collect();
    let target_names: Vec<_> = tables.iter().map(|(target, _)| target.clone()).collect();
    let (sources, targets): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tokio::try_join!(shape::describe(source, &source_names), shape::describe(target, &target_names))?;
    let plan = |(target_name, table): (TableName, Published)| {
        let source = sources.get(&table.name).ok_or_else(|| Error::NoTable(table.name.clone()))?;
        let target = targets.get(&target_name);
        Ok(Plan::new(table, source, target_name, target).masked(&options.masks))
    };
    let mut plans = tables.into_iter().map(plan).collect::<Result<Vec<_>, Error>>()?;
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.buckets));
    Ok(plans)
}

/// Every pair of sessions takes the next table until none is left.
async fn compare_all(
    options: &Options<'_>,
    pairs: &[(Session, Session)],
    plans: &[Plan],
) -> Result<Vec<TableReport>, Error> {
    let next = AtomicUsize::new(0);
    let workers = pairs.iter().map(|(source, target)| async {
        let mut reports = Vec::new();
        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            reports.push(compare_table(options, source, target, plan).await?);
        }
        Ok::<_, Error>(reports)
    });
    let mut reports = try_join_all(workers).await?.concat();
    reports.sort_by(|one, other| one.source.cmp(&other.source));
    Ok(reports)
}

async fn compare_table(
    options: &Options<'_>,
    source: &Session,
    target: &Session,
    plan: &Plan,
) -> Result<TableReport, Error> {
    let start = Instant::now();
    let mut report = TableReport::new(plan.source.clone(), plan.target.clone());
    report.shape.clone_from(&plan.shape);
    report.notes.clone_from(&plan.notes);
    let (ours, theirs) = tokio::try_join!(Digest::scan(source, plan), Digest::scan(target, plan))?;
    (report.rows_source, report.rows_target) = (ours.rows(), theirs.rows());
    if plan.target_partitioned.is_none() {
        // `apply` creates a table with its first row.
        let text = format!("table {} is missing at the target", plan.target);
        if report.rows_source == 0 { report.notes.push(text) } else { report.shape.push(text) }
    }
    let buckets = ours.differing(&theirs);
    if !buckets.is_empty() {
        let limits = Limits { rows: options.limit, values: options.show_values };
        drill(source, target, plan, &buckets, limits, &mut report).await?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    tracing::debug!(table = %plan.source, equal = report.is_equal(), "compared");
    Ok(report)
}
