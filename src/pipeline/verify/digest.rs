//! One scan of a table on one side: the number of rows and the sum of their hashes per bucket, computed in the server.
//!
//! A row's text is that of `ROW(…)`, built from every column's output function: NULL and the empty string differ, and no
//! value can look like two. Two values are equal if the servers print them alike, so `1.0` and `1.00` differ, as they must
//! in a faithful copy, while the types may have different names. Rows fall into buckets by the MD5 of their key's text,
//! which is the same in every version, encoding and collation. Sums, not exclusive or, join the rows' hashes, so that two
//! equal rows do not cancel out where no key forbids them.

use std::{collections::BTreeMap, pin::pin};

use futures_util::TryStreamExt as _;

use super::{
    Error,
    session::{SALT, Session, Side},
    shape::Plan,
};
use crate::{schema::quote_identifier, types::Mask};

/// Rows and hashes of one bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    rows: i64,
    /// Sums of the two halves of the rows' MD5, which do not fit 64 bits.
    sums: (i128, i128),
}

/// One side's buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    buckets: Vec<Bucket>,
}

impl Digest {
    /// All rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.rows.unsigned_abs()).sum()
    }

    /// Numbers of the buckets that are not the same in `other`.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<i32> {
        let pairs = (0..).zip(self.buckets.iter().zip(&other.buckets));
        pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(number, _)| number).collect()
    }

    /// A table without rows.
    #[must_use]
    pub fn empty(plan: &Plan) -> Self {
        Self { buckets: vec![Bucket::default(); plan.buckets as usize] }
    }

    /// Scans the table. A table that the side does not have counts as empty.
    pub async fn scan(session: &Session, plan: &Plan) -> Result<Self, Error> {
        let mut digest = Self::empty(plan);
        let Some(rows) = Rows::new(session, plan) else { return Ok(digest) };
        let sql = rows.digest(plan.buckets);
        let doing = format!("hashing {}", rows.name);
        let none: [&str; 0] = [];
        let stream = session.client().query_raw(&sql, none).await.map_err(session.failed(&doing))?;
        let mut stream = pin!(stream);
        while let Some(row) = stream.try_next().await.map_err(session.failed(&doing))? {
            let read = || Ok((row.try_get::<_, i32>(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
            let (number, rows, first, second): (_, i64, String, String) = read().map_err(session.failed(&doing))?;
            let bucket = usize::try_from(number).ok().and_then(|number| digest.buckets.get_mut(number));
            let sums = first.parse().ok().zip(second.parse().ok());
            let answer = Error::Answer { side: session.side().name(), doing: "hashing a table" };
            let (Some(bucket), Some(sums)) = (bucket, sums) else { return Err(answer) };
            *bucket = Bucket { rows, sums };
        }
        Ok(digest)
    }
}

/// SQL for the compared rows of one side's table.
pub struct Rows {
    /// The table's name, for messages.
    pub name: String,
    from: String,
    row: String,
    key: String,
    row_md5: String,
    key_md5: String,
    masks: BTreeMap<String, Mask>,
}

impl Rows {
    /// `None` if the side does not have the table.
    #[must_use]
    pub fn new(session: &Session, plan: &Plan) -> Option<Self> {
        let (name, partitioned, filter) = match session.side() {
            Side::Source => (&plan.source, plan.source_partitioned, plan.filter.as_deref()),
            Side::Target => (&plan.target, plan.target_partitioned?, None),
        };
        // Rows of tables that inherit from an ordinary table are events of those tables.
        let only = if partitioned { "" } else { "ONLY " };
        let filter = filter.map_or_else(String::new, |filter| format!(" WHERE {filter}"));
        let masks = match session.side() {
            Side::Source => plan.masks.clone(),
            Side::Target => BTreeMap::new(),
        };
        let row = row_text(&plan.columns, &masks);
        let key = if plan.key.is_empty() { row.clone() } else { row_text(&plan.key, &masks) };
        Some(Self {
            name: name.to_string(),
            from: format!("FROM {only}{}{filter}", name.quoted()),
            row_md5: session.md5(&row),
            key_md5: session.md5(&key),
            row,
            key,
            masks,
        })
    }

    /// Per bucket: number, rows, and both sums as text.
    fn digest(&self, buckets: u32) -> String {
        format!(
            "SELECT {} AS bucket, count(*), sum(('x'||left(r,16))::bit(64)::int8)::text, \
             sum(('x'||right(r,16))::bit(64)::int8)::text FROM ({}) s GROUP BY 1",
            bucket(buckets),
            self.hashes("")
        )
    }

    /// The rows of the buckets in `$1` as (hash of the key, hash of the row, text of the key), in the order of the hashes.
    pub(super) fn of_buckets(&self, buckets: u32) -> String {
        let hashes = self.hashes(&format!(", {} AS t", self.key));
        let bucket = bucket(buckets);
        format!("SELECT decode(k,'hex'), decode(r,'hex'), t FROM ({hashes}) s WHERE {bucket} = ANY ($1) ORDER BY 1, 2")
    }

    /// The rows whose key has a text in `$1`: that text, and an array with the text (or its hash) of each of `columns`.
    pub(super) fn of_keys(&self, session: &Session, columns: &[String], values: bool) -> String {
        let column = |name| {
            let text = row_text(std::slice::from_ref(name), &self.masks);
            if values { text } else { session.md5(&text) }
        };
        let columns: Vec<String> = columns.iter().map(column).collect();
        let Self { key, from, .. } = self;
        format!("SELECT t, c FROM (SELECT {key} AS t, ARRAY[{}] AS c {from}) s WHERE t = ANY ($1)", columns.join(","))
    }

    /// The rows whose key has a hash in `$1` as (hash, text of the row): for rows that have no key.
    pub(super) fn of_hashes(&self) -> String {
        let Self { row, from, key_md5, .. } = self;
        format!("SELECT DISTINCT k, t FROM (SELECT {key_md5} AS k, {row} AS t {from} OFFSET 0) s WHERE k = ANY ($1)")
    }

    /// `OFFSET 0` keeps the planner from computing each hash once per use; it forbids nothing else.
    fn hashes(&self, more: &str) -> String {
        format!("SELECT {} AS k, {} AS r{more} {} OFFSET 0", self.key_md5, self.row_md5, self.from)
    }
}

/// The bucket of the key's hash `k`; `buckets` is a power of two up to 65,536.
fn bucket(buckets: u32) -> String {
    format!("(('x'||left(k,4))::bit(16)::int & {})", buckets - 1)
}

fn row_text(columns: &[String], masks: &BTreeMap<String, Mask>) -> String {
    let column = |name: &String| match masks.get(name) {
        Some(mask) => masked(*mask, &quote_identifier(name)),
        None => quote_identifier(name),
    };
    let columns: Vec<String> = columns.iter().map(column).collect();
    format!("ROW({})::text", columns.join(","))
}

/// What capture publishes in place of a column's text. The spaces at the end of a `char(n)` are no part of its text.
fn masked(mask: Mask, column: &str) -> String {
    match mask {
        Mask::Hash => format!("encode(sha256(convert_to({SALT} || {column}::text, 'UTF8')), 'hex')"),
        Mask::Asterisks(count) => format!("CASE WHEN {column} IS NOT NULL THEN repeat('*', {count}) END"),
        Mask::Truncate(count) => format!("left({column}::text, {count})"),
    }
}
