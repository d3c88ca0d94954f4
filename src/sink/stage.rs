//! The staging tables of a plan, and the rows on their way into them.
//!
//! A staged row is (`g`, `i`, one column per source column that the target stores). A table has 1,600 columns at most, and a row
//! one page (manual, "PostgreSQL Limits"), and a source's row may use up both: with `g` and `i` it would be 16 bytes longer, and 24
//! where the null bitmap takes another eight. So columns of which a row could fill a page are divided between several staging
//! tables, with `g` and `i` in each:
//!
//! ```text
//! s: g, i, key columns, more columns       w1: g, i, more columns       w2: …
//! ```
//!
//! Statements that need the key alone read `s`; the others join the rest by `g` and `i`.
//!
//! A value takes what its type takes, or where that varies the 24 bytes at most from which on it is stored out of line (manual,
//! "TOAST"), rounded up to eight: then it does not matter what stands before it. Values that are never stored out of line and
//! leave no room for `g` and `i` (one `tsquery` of 8 kB, or many that fill a page) still do not fit.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{event::Cell, sink::copy::CopyText, types::EncodedText};

/// What a page has room for of one row: all but the page's header and the row's pointer (`MaxHeapTupleSize`).
const PAGE: usize = 8160;
/// Columns of a table, `g` and `i` aside.
const MOST: usize = 1598;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A column that is staged.
#[derive(Clone, Copy, Debug)]
pub struct StagedColumn<'a> {
    /// Its index in the shape.
    pub index: usize,
    /// The target's type without domains, as SQL.
    pub type_sql: &'a str,
    /// It belongs to the key.
    pub is_key: bool,
    /// Bytes of a value in a row (`pg_type.typlen`); `None` where that varies.
    pub width: Option<usize>,
    /// Its values come as texts in an encoding.
    pub encoded: Option<EncodedText>,
}

impl StagedColumn<'_> {
    /// Bytes that a value takes at most.
    fn most(&self) -> usize {
        self.width.unwrap_or(24).next_multiple_of(8)
    }
}

/// Whether rows of so many columns that take so many bytes fit into a page beside `g` and `i`.
const fn fits(columns: usize, bytes: usize) -> bool {
    // The null bitmap has a bit per column.
    let header = (23 + (columns + 2).div_ceil(8)).next_multiple_of(8);
    columns <= MOST && header + 16 + bytes <= PAGE
}

/// One staging table.
#[derive(Debug)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Creates it.
    pub ddl: String,
    /// Loads it.
    pub copy: String,
    /// Shape indices of its columns, in its order.
    columns: Vec<usize>,
    /// How the values of each come, if not as PostgreSQL's text.
    encoded: Vec<Option<EncodedText>>,
}

/// The staging tables of a plan, the one with the key first.
#[derive(Debug)]
pub struct Staging {
    first: Stage,
    /// Of a wide table.
    rest: Vec<Stage>,
}

impl Stage {
    fn new(columns: &[StagedColumn<'_>]) -> Self {
        let name = format!("walrelay_stage_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (mut definitions, mut names) = (String::from("g bigint, i bigint"), String::from("g, i"));
        for StagedColumn { index, type_sql, .. } in columns {
            definitions.push_str(&format!(", c{index} {type_sql}"));
            names.push_str(&format!(", c{index}"));
        }
        Self {
            ddl: format!("CREATE TEMP TABLE IF NOT EXISTS {name} ({definitions}) ON COMMIT DELETE ROWS"),
            copy: format!("COPY pg_temp.{name} ({names}) FROM STDIN"),
            columns: columns.iter().map(|column| column.index).collect(),
            encoded: columns.iter().map(|column| column.encoded).collect(),
            name,
        }
    }
}

impl Staging {
    /// Divides the columns, where a row of all could fill a page.
    #[must_use]
    pub fn new(columns: &[StagedColumn<'_>]) -> Self {
        if fits(columns.len(), columns.iter().map(StagedColumn::most).sum()) {
            return Self { first: Stage::new(columns), rest: Vec::new() };
        }
        let (mut first, others): (Vec<_>, Vec<_>) = columns.iter().partition(|column| column.is_key);
        let mut rest: Vec<Vec<StagedColumn<'_>>> = Vec::new();
        let mut bytes = first.iter().map(StagedColumn::most).sum::<usize>();
        for column in others {
            let part = rest.last_mut().unwrap_or(&mut first);
            bytes += column.most();
            if fits(part.len() + 1, bytes) {
                part.push(column);
            } else {
                bytes = column.most();
                rest.push(vec![column]);
            }
        }
        Self { first: Stage::new(&first), rest: rest.iter().map(|part| Stage::new(part)).collect() }
    }

    /// The tables.
    pub fn tables(&self) -> impl Iterator<Item = &Stage> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// `FROM` for what needs the key alone.
    #[must_use]
    pub fn keys(&self) -> String {
        format!("pg_temp.{} AS s", self.first.name)
    }

    /// `FROM` for what needs any column.
    #[must_use]
    pub fn rows(&self) -> String {
        let join = |(n, stage): (usize, &Stage)| {
            format!(" JOIN pg_temp.{} AS w{n} ON w{n}.g = s.g AND w{n}.i = s.i", stage.name)
        };
        self.keys() + &(1..).zip(&self.rest).map(join).collect::<String>()
    }

    /// A staged column by its shape index, as [`Staging::rows`] names it.
    #[must_use]
    pub fn column(&self, index: usize) -> String {
        match (1..).zip(&self.rest).find(|(_, stage)| stage.columns.contains(&index)) {
            Some((n, _)) => format!("w{n}.c{index}"),
            None => format!("s.c{index}"),
        }
    }

    /// Statements that set columns of the staged rows for which `condition` holds on `s` and `other`; the first one meets every
    /// row. `value` gives what a column is set to, if it is.
    #[must_use]
    pub fn update(&self, other: &str, condition: &str, value: impl Fn(usize) -> Option<String>) -> Vec<String> {
        let set = |stage: &Stage| {
            let set = stage.columns.iter().filter_map(|index| Some(format!("c{index} = {}", value(*index)?)));
            set.collect::<Vec<_>>().join(", ")
        };
        let near = Some(set(&self.first)).filter(|set| !set.is_empty()).unwrap_or_else(|| "i = s.i".to_owned());
        let mut statements = vec![format!("UPDATE {} SET {near} FROM {other} WHERE {condition}", self.keys())];
        for stage in &self.rest {
            let far = set(stage);
            if !far.is_empty() {
                statements.push(format!(
                    "UPDATE pg_temp.{} AS w SET {far} FROM {}, {other} WHERE w.g = s.g AND w.i = s.i AND {condition}",
                    stage.name,
                    self.keys()
                ));
            }
        }
        statements
    }
}

/// Rows for the staging tables.
#[derive(Debug)]
pub struct StagedRows<'a> {
    staging: &'a Staging,
    texts: Vec<CopyText>,
    /// A text that was decoded.
    decoded: Vec<u8>,
}

/// A text is not in the encoding in which bytes come: the shape index of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misencoded(pub usize);

impl<'a> StagedRows<'a> {
    /// No rows.
    #[must_use]
    pub fn new(staging: &'a Staging) -> Self {
        Self { staging, texts: staging.tables().map(|_| CopyText::default()).collect(), decoded: Vec::new() }
    }

    /// Appends a row; `cell` gives the cell of a shape index.
    ///
    /// # Errors
    /// A text is not in its column's encoding; the rows are of no use then.
    pub fn push<'c>(&mut self, group: i64, number: i64, cell: impl Fn(usize) -> &'c Cell) -> Result<(), Misencoded> {
        let Self { staging, texts, decoded } = self;
        for (stage, text) in staging.tables().zip(texts) {
            text.int(group);
            text.int(number);
            for (index, encoded) in stage.columns.iter().zip(&stage.encoded) {
                match (cell(*index), encoded) {
                    (Cell::Text(value), Some(encoded)) => {
                        decoded.clear();
                        encoded.append_decoded(value, decoded).map_err(|_| Misencoded(*index))?;
                        text.text(decoded);
                    }
                    (cell, _) => text.cell(cell),
                }
            }
            text.end_row();
        }
        Ok(())
    }

    /// The tables with what goes into each; nothing where there are no rows.
    pub fn into_tables(self) -> impl Iterator<Item = (&'a Stage, CopyText)> {
        self.staging.tables().zip(self.texts).filter(|(_, text)| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging(count: usize, key: &[usize], width: Option<usize>) -> Staging {
        let column =
            |index| StagedColumn { index, type_sql: "name", is_key: key.contains(&index), width, encoded: None };
        Staging::new(&(0..count).map(column).collect::<Vec<_>>())
    }

    fn sizes(staging: &Staging) -> Vec<usize> {
        staging.tables().map(|stage| stage.columns.len()).collect()
    }

    #[test]
    fn columns_that_could_fill_a_page_are_divided_with_the_key_in_the_first_table() {
        for (width, most, bytes) in
            [(Some(64), 126, 8064), (Some(8), 999, 7992), (Some(1), 999, 7992), (None, 336, 8064)]
        {
            let header = |columns: usize| (23 + (columns + 2).div_ceil(8)).next_multiple_of(8);
            assert!(header(most) + 16 + bytes <= PAGE && header(most + 1) + 16 + bytes + bytes / most > PAGE);
            assert_eq!(sizes(&staging(most, &[7], width)), [most]);
            assert_eq!(sizes(&staging(most + 1, &[7], width)), [most, 1]);
        }
        let wide = staging(1600, &[0, 1599], Some(8));
        assert_eq!(sizes(&wide), [999, 601]);
        assert_eq!(
            (wide.column(1599), wide.column(997), wide.column(998)),
            ("s.c1599".into(), "s.c997".into(), "w1.c998".into())
        );
        let wider = staging(1600, &[0, 1599], Some(64));
        assert_eq!(wider.column(1598), format!("w{}.c1598", wider.rest.len()));
        assert_eq!(wider.rows().matches(" JOIN ").count(), wider.rest.len());
        for staging in [wide, wider] {
            let mut all: Vec<_> = staging.tables().flat_map(|stage| stage.columns.clone()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..1600).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_update_leaves_out_the_tables_in_which_nothing_is_set() {
        let wide = staging(300, &[0], Some(64));
        let near = wide.update("t", "true", |index| (index == 3).then(|| "t.a".to_owned()));
        assert_eq!(near.len(), 1);
        let far = wide.update("t", "true", |index| (index == 299).then(|| "t.a".to_owned()));
        assert!(far[0].contains("SET i = s.i ") && far[1].contains("SET c299 = t.a "), "{far:?}");
        assert_eq!((wide.rest.len(), far.len()), (2, 2));
    }
}
