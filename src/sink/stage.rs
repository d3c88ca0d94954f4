//! The staging tables of a plan, and the rows on their way into them.
//!
//! A staged row is (`g`, `i`, one column per source column that the target stores). A table has 1,600 columns at most, and a row
//! one page (manual, "PostgreSQL Limits"), and a source's row may use up both. So the columns of a wide table are divided
//! between two staging tables, with `g` and `i` in each:
//!
//! ```text
//! s: g, i, key columns, first half         w: g, i, second half
//! ```
//!
//! Statements that need the key alone read `s`; the others join `w` by `g` and `i`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{event::Cell, sink::copy::CopyText};

/// Columns up to which one staging table takes them all. With more, either half of a row is smaller than the source's row by
/// more than `g`, `i` and a null bitmap take: the other half has a byte per column, or bits of the source's null bitmap.
const MOST_IN_ONE: usize = 300;

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
}

/// The staging tables of a plan, the one with the key first.
#[derive(Debug)]
pub struct Staging {
    first: Stage,
    /// Of a wide table.
    second: Option<Stage>,
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
            name,
        }
    }
}

impl Staging {
    /// Divides the columns, if there are many.
    #[must_use]
    pub fn new(columns: &[StagedColumn<'_>]) -> Self {
        if columns.len() <= MOST_IN_ONE {
            return Self { first: Stage::new(columns), second: None };
        }
        let (mut first, rest): (Vec<_>, Vec<_>) = columns.iter().partition(|column| column.is_key);
        let (near, far) = rest.split_at((columns.len() / 2).saturating_sub(first.len()));
        first.extend(near);
        Self { first: Stage::new(&first), second: Some(Stage::new(far)) }
    }

    /// The tables.
    pub fn tables(&self) -> impl Iterator<Item = &Stage> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// `FROM` for what needs the key alone.
    #[must_use]
    pub fn keys(&self) -> String {
        format!("pg_temp.{} AS s", self.first.name)
    }

    /// `FROM` for what needs any column.
    #[must_use]
    pub fn rows(&self) -> String {
        let second = self.second.as_ref();
        let second = second.map(|stage| format!(" JOIN pg_temp.{} AS w ON w.g = s.g AND w.i = s.i", stage.name));
        self.keys() + &second.unwrap_or_default()
    }

    /// A staged column by its shape index, as [`Staging::rows`] names it.
    #[must_use]
    pub fn column(&self, index: usize) -> String {
        let is_far = self.second.as_ref().is_some_and(|stage| stage.columns.contains(&index));
        format!("{}.c{index}", if is_far { "w" } else { "s" })
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
        if let Some(stage) = &self.second
            && let far = set(stage)
            && !far.is_empty()
        {
            statements.push(format!(
                "UPDATE pg_temp.{} AS w SET {far} FROM {}, {other} WHERE w.g = s.g AND w.i = s.i AND {condition}",
                stage.name,
                self.keys()
            ));
        }
        statements
    }
}

/// Rows for the staging tables.
#[derive(Debug)]
pub struct StagedRows<'a> {
    staging: &'a Staging,
    texts: Vec<CopyText>,
}

impl<'a> StagedRows<'a> {
    /// No rows.
    #[must_use]
    pub fn new(staging: &'a Staging) -> Self {
        Self { staging, texts: staging.tables().map(|_| CopyText::default()).collect() }
    }

    /// Appends a row; `cell` gives the cell of a shape index.
    pub fn push<'c>(&mut self, group: i64, number: i64, cell: impl Fn(usize) -> &'c Cell) {
        for (stage, text) in self.staging.tables().zip(&mut self.texts) {
            text.int(group);
            text.int(number);
            for index in &stage.columns {
                text.cell(cell(*index));
            }
            text.end_row();
        }
    }

    /// The tables with what goes into each; nothing where there are no rows.
    pub fn into_tables(self) -> impl Iterator<Item = (&'a Stage, CopyText)> {
        self.staging.tables().zip(self.texts).filter(|(_, text)| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging(count: usize, key: &[usize]) -> Staging {
        let column = |index| StagedColumn { index, type_sql: "integer", is_key: key.contains(&index) };
        Staging::new(&(0..count).map(column).collect::<Vec<_>>())
    }

    #[test]
    fn many_columns_are_divided_in_halves_with_the_key_in_the_first() {
        let one = staging(MOST_IN_ONE, &[7]);
        assert_eq!(one.tables().count(), 1);
        assert_eq!(one.rows(), one.keys());
        let wide = staging(1600, &[0, 1599]);
        let sizes: Vec<_> = wide.tables().map(|stage| stage.columns.len()).collect();
        assert_eq!(sizes, [800, 800]);
        assert_eq!(
            (wide.column(1599), wide.column(797), wide.column(799)),
            ("s.c1599".into(), "s.c797".into(), "w.c799".into())
        );
        let mut all: Vec<_> = wide.tables().flat_map(|stage| stage.columns.clone()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..1600).collect::<Vec<_>>());
    }

    #[test]
    fn an_update_leaves_out_the_half_in_which_nothing_is_set() {
        let wide = staging(400, &[0]);
        let near = wide.update("t", "true", |index| (index == 3).then(|| "t.a".to_owned()));
        assert_eq!(near.len(), 1);
        let far = wide.update("t", "true", |index| (index == 399).then(|| "t.a".to_owned()));
        assert!(far[0].contains("SET i = s.i ") && far[1].contains("SET c399 = t.a "), "{far:?}");
    }
}
