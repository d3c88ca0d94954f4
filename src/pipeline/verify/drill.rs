//! Looks into the buckets that differ: which keys, how, and in which columns.
//!
//! Both sides send the rows of those buckets as hashes, sorted, and two sorted streams are merged: memory does not grow with
//! the number of differences, not even when the target is empty. Keys are texts, so keys that are equal to an operator but
//! print differently are one missing and one extra row.

use std::{cmp::Ordering, collections::HashMap, pin::Pin};

use futures_util::TryStreamExt as _;
use tokio_postgres::RowStream;

use super::{
    Error,
    digest::Rows,
    report::{ColumnDifference, Difference, Kind, TableReport},
    session::Session,
    shape::Plan,
};

/// How much is listed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows of each kind per table.
    pub rows: usize,
    /// Whether values of differing columns are read at all.
    pub values: bool,
}

/// Counts the differing rows of `buckets` into the report and lists the first ones.
pub async fn drill(
    source: &Session,
    target: &Session,
    plan: &Plan,
    buckets: &[i32],
    limits: Limits,
    report: &mut TableReport,
) -> Result<(), Error> {
    let (mut ours, mut theirs) =
        tokio::try_join!(Hashes::open(source, plan, buckets), Hashes::open(target, plan, buckets))?;
    let mut merge = Merge { keyed: !plan.key.is_empty(), limit: limits.rows, group: None, report };
    loop {
        let order = match (&ours.head, &theirs.head) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(ours), Some(theirs)) => (&ours.key, &ours.row).cmp(&(&theirs.key, &theirs.row)),
        };
        if order.is_le() {
            let hash = ours.advance(source).await?;
            merge.add(hash, u64::from(order.is_lt()), 0);
        }
        if order.is_ge() {
            let hash = theirs.advance(target).await?;
            merge.add(hash, 0, u64::from(order.is_gt()));
        }
    }
    merge.finish();
    drop((ours, theirs));
    if limits.values && plan.key.is_empty() {
        name_rows(source, target, plan, report).await
    } else {
        name_columns(source, target, plan, limits.values, report).await
    }
}

/// A row as hashes.
struct Hash {
    key: Vec<u8>,
    row: Vec<u8>,
    text: String,
}

/// One side's rows, sorted by the hash of the key, then of the row.
struct Hashes {
    stream: Option<Pin<Box<RowStream>>>,
    head: Option<Hash>,
}

impl Hashes {
    async fn open(session: &Session, plan: &Plan, buckets: &[i32]) -> Result<Self, Error> {
        let Some(rows) = Rows::new(session, plan) else { return Ok(Self { stream: None, head: None }) };
        let sql = rows.of_buckets(plan.buckets);
        let stream = session.client().query_raw(&sql, [buckets]).await.map_err(session.failed(DOING))?;
        let mut hashes = Self { stream: Some(Box::pin(stream)), head: None };
        hashes.advance(session).await?;
        Ok(hashes)
    }

    /// Replaces the head by the next row and returns the old one.
    async fn advance(&mut self, session: &Session) -> Result<Option<Hash>, Error> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let row = stream.try_next().await.map_err(session.failed(DOING))?;
        let read =
            |row: tokio_postgres::Row| Ok(Hash { key: row.try_get(0)?, row: row.try_get(1)?, text: row.try_get(2)? });
        let next = row.map(read).transpose().map_err(session.failed(DOING))?;
        Ok(std::mem::replace(&mut self.head, next))
    }
}

const DOING: &str = "listing the rows of differing buckets";

/// Unmatched rows of one key.
struct Group {
    key: Vec<u8>,
    text: String,
    source: u64,
    target: u64,
}

struct Merge<'a> {
    keyed: bool,
    limit: usize,
    group: Option<Group>,
    report: &'a mut TableReport,
}

impl Merge<'_> {
    fn add(&mut self, hash: Option<Hash>, source: u64, target: u64) {
        let Some(hash) = hash else { return };
        if source + target == 0 {
            return;
        }
        if self.group.as_ref().is_none_or(|group| group.key != hash.key) {
            self.finish();
            let text = if self.keyed { hash.text } else { hexadecimal(&hash.key) };
            self.group = Some(Group { key: hash.key, text, source: 0, target: 0 });
        }
        if let Some(group) = &mut self.group {
            group.source += source;
            group.target += target;
        }
    }

    /// Reports the group: as many rows as both sides have of the key are different, the rest is missing or extra.
    fn finish(&mut self) {
        let Some(group) = self.group.take() else { return };
        let both = group.source.min(group.target);
        let report = &mut *self.report;
        let kinds = [
            (Kind::Different, both, &mut report.different),
            (Kind::Missing, group.source - both, &mut report.missing),
            (Kind::Extra, group.target - both, &mut report.extra),
        ];
        for (kind, rows, total) in kinds {
            *total += rows;
            let listed = report.differences.iter().filter(|difference| difference.kind == kind).count();
            if rows > 0 && listed < self.limit {
                report.differences.push(Difference { kind, key: group.text.clone(), rows, columns: Vec::new() });
            }
        }
    }
}

/// Finds the columns in which the listed different rows differ.
async fn name_columns(
    source: &Session,
    target: &Session,
    plan: &Plan,
    values: bool,
    report: &mut TableReport,
) -> Result<(), Error> {
    let different = |difference: &&mut Difference| difference.kind == Kind::Different;
    let keys: Vec<String> = report.differences.iter_mut().filter(different).map(|d| d.key.clone()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let columns: Vec<String> = plan.columns.iter().filter(|name| !plan.key.contains(name)).cloned().collect();
    let (mut ours, mut theirs) =
        tokio::try_join!(texts(source, plan, &columns, values, &keys), texts(target, plan, &columns, values, &keys))?;
    for difference in report.differences.iter_mut().filter(different) {
        let (Some(ours), Some(theirs)) = (ours.remove(&difference.key), theirs.remove(&difference.key)) else {
            continue;
        };
        let cells = columns.iter().zip(ours.into_iter().zip(theirs)).filter(|(_, (ours, theirs))| ours != theirs);
        difference.columns = cells
            .map(|(name, (ours, theirs))| ColumnDifference {
                name: name.clone(),
                values: values.then(|| (field(&ours), field(&theirs))),
            })
            .collect();
    }
    Ok(())
}

/// Per key the text (or hash) of each column.
async fn texts(
    session: &Session,
    plan: &Plan,
    columns: &[String],
    values: bool,
    keys: &[String],
) -> Result<HashMap<String, Vec<String>>, Error> {
    let doing = "comparing the columns of differing rows";
    let Some(rows) = Rows::new(session, plan) else { return Ok(HashMap::new()) };
    let sql = rows.of_keys(session, columns, values);
    let found = session.client().query(&sql, &[&keys]).await.map_err(session.failed(doing))?;
    let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    found.iter().map(read).collect::<Result<_, _>>().map_err(session.failed(doing))
}

/// Puts the row's text in place of its hash, where values may be shown and there is no key.
async fn name_rows(source: &Session, target: &Session, plan: &Plan, report: &mut TableReport) -> Result<(), Error> {
    let doing = "reading the rows that differ";
    let hashes: Vec<String> = report.differences.iter().map(|difference| difference.key.clone()).collect();
    let mut texts: HashMap<String, String> = HashMap::new();
    for session in [source, target] {
        let Some(rows) = Rows::new(session, plan) else { continue };
        let found = session.client().query(&rows.of_hashes(), &[&hashes]).await.map_err(session.failed(doing))?;
        let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let found: Vec<_> = found.iter().map(read).collect::<Result<_, _>>().map_err(session.failed(doing))?;
        texts.extend(found);
    }
    for difference in &mut report.differences {
        if let Some(text) = texts.remove(&difference.key) {
            difference.key = text;
        }
    }
    Ok(())
}

/// The only field of a row's text: `("a b")` is `"a b"`, `()` is NULL.
fn field(row: &str) -> String {
    row.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(row).to_owned()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('?')));
        text
    })
}
