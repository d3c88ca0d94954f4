//! The statements of one table version: staging table, and the set-based statements that move staged rows into the target.
//!
//! A staged row is (`g`, `i`, one column per source column that the target stores): `g` says what the row is for
//! ([`group`]), `i` numbers it ([`stage`](super::stage)). Staging columns have the target's own types, so the server's input
//! functions parse the text. There is no statement per row anywhere.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    event::TableShape,
    schema::{TableName, quote_identifier},
    sink::{
        encoded::encoded,
        error::Error,
        stage::{Misencoded, StagedColumn, Staging},
        table::Target,
    },
    types::BinaryMode,
};

/// Values of the staging column `g`.
pub mod group {
    /// Keyless: what the rows to change are in the target.
    pub const OLD: i64 = -4;
    /// Keys whose equality class the server tells.
    pub const CLASS: i64 = -3;
    /// Keys whose rows are read before a key move deletes them.
    pub const MOVE: i64 = -2;
    /// Keys (keyless: whole rows) to delete.
    pub const DELETE: i64 = -1;
    /// Whole rows.
    pub const WHOLE: i64 = 0;
    /// The first of the groups of partial rows; keyless: what rows to change become.
    pub const PARTIAL: i64 = 1;
}

/// How rows get into the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// INSERT … ON CONFLICT DO UPDATE: rows stay in place.
    Upsert,
    /// Rows are deleted and inserted again in one statement, so that values of unique columns can change places
    /// (trap T66). Where a row must not be deleted, as `Upsert`.
    Replace,
}

/// The compiled statements of a shape against a target table.
#[derive(Debug)]
pub struct Plan {
    /// The topic.
    pub topic: Arc<str>,
    /// The source's shape.
    pub shape: Arc<TableShape>,
    /// The target as it was when the plan was made.
    pub target: Target,
    /// The staging tables.
    pub staging: Staging,
    /// Whether equal keys may have different texts, so that the server must say which keys are equal.
    pub loose_key: bool,
    /// Shape indices of the staged columns, in the shape's order.
    pub staged: Vec<usize>,
    written: Vec<usize>,
    settable: Vec<usize>,
    /// A GENERATED ALWAYS identity column outside the key; a table has one identity column at most.
    identity: Option<usize>,
    join: String,
    overriding: &'static str,
    replaceable: bool,
    binary: BinaryMode,
}

impl Plan {
    /// Compiles the statements. The target must have every column of the shape. Texts that may be bytes are so in the encoding
    /// `binary` where the target's column is one of bytes.
    pub fn new(topic: Arc<str>, shape: Arc<TableShape>, target: Target, binary: BinaryMode) -> Result<Self, Error> {
        let vanished = || Error::Damaged(format!("table {} has changed while it was described", target.name));
        let key: BTreeSet<&str> =
            shape.key.iter().filter_map(|index| shape.columns.get(*index)).map(|column| &*column.name).collect();
        let mut staged = Vec::new();
        let (mut written, mut settable, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        let (mut loose_key, mut overrides, mut identity) = (false, false, None);
        for (index, column) in shape.columns.iter().enumerate() {
            let stored = target.column(&column.name).ok_or_else(vanished)?;
            let is_key = shape.key.contains(&index);
            if stored.generated && !is_key {
                continue;
            }
            let encoded = encoded(&topic, &target, (column, stored), binary)?;
            // Hexadecimal digits may be capitals.
            loose_key |= is_key && (!stored.canonical || encoded.is_some());
            staged.push(index);
            columns.push(StagedColumn { index, type_sql: &stored.type_sql, is_key, width: stored.width, encoded });
            if !stored.generated {
                written.push(index);
                overrides |= stored.identity_always;
                if stored.identity_always && !is_key {
                    identity = Some(index);
                }
                if !stored.identity_always && (!is_key || !stored.canonical) {
                    settable.push(index);
                }
            }
        }
        let join = if key.is_empty() { String::new() } else { join(&shape, &target, &key).ok_or_else(vanished)? };
        let staging = Staging::new(&columns);
        let beyond = target
            .columns
            .iter()
            .any(|stored| !stored.generated && !shape.columns.iter().any(|column| *column.name == *stored.name));
        let overriding = if overrides { " OVERRIDING SYSTEM VALUE" } else { "" };
        let replaceable = !beyond && !target.cascades;
        Ok(Self {
            topic,
            shape,
            target,
            staging,
            loose_key,
            staged,
            written,
            settable,
            identity,
            join,
            overriding,
            replaceable,
            binary,
        })
    }

    /// The error for a text that is not in the encoding of its column's bytes.
    #[must_use]
    pub fn misencoded(&self, Misencoded(index): Misencoded) -> Error {
        let column = self.shape.columns.get(index).map_or_else(String::new, |column| column.name.to_string());
        let encoding = self.binary.encoding().unwrap_or_default();
        Error::Misencoded { topic: self.topic.to_string(), table: self.table().clone(), column, encoding }
    }

    /// Whether rows have a key.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        !self.shape.key.is_empty()
    }

    /// The target table's name.
    #[must_use]
    pub const fn table(&self) -> &TableName {
        &self.target.name
    }

    /// The target's name of a staging column.
    pub fn staged_column(&self, column: &str) -> Option<&str> {
        let index: usize = column.strip_prefix('c')?.parse().ok()?;
        self.shape.columns.get(index).map(|column| &*column.name)
    }

    /// Deletes the rows whose keys are staged.
    #[must_use]
    pub fn delete(&self) -> String {
        let (table, keys, join) = (self.table().quoted(), self.staging.keys(), &self.join);
        format!("DELETE FROM {table} AS t USING {keys} WHERE s.g = {} AND {join}", group::DELETE)
    }

    /// Writes staged rows that have every column.
    #[must_use]
    pub fn write_whole(&self, manner: Manner, partial_groups: usize) -> String {
        let (table, keys, rows, join) = (self.table().quoted(), self.staging.keys(), self.staging.rows(), &self.join);
        // Without a list all columns take their defaults, as a table of generated columns must.
        let names =
            if self.written.is_empty() { String::new() } else { format!(" ({})", self.names(&self.written, "")) };
        let values = self.values(&self.written);
        let overriding = self.overriding;
        if !self.is_keyed() {
            return format!(
                "INSERT INTO {table}{names}{overriding} SELECT {values} FROM {rows} WHERE s.g = {} ORDER BY s.i",
                group::WHOLE
            );
        }
        if manner == Manner::Replace && self.replaceable {
            // Counting the deleted rows makes the whole deletion happen before the first insertion. A foreign key with
            // NO ACTION is checked when the statement ends, and then finds the row again.
            return format!(
                "WITH gone AS (DELETE FROM {table} AS t USING {keys} WHERE s.g BETWEEN {whole} AND \
                 {partial_groups} AND {join} RETURNING 1) \
                 INSERT INTO {table}{names}{overriding} SELECT {values} FROM (SELECT count(*) FROM gone) AS n, \
                 {rows} WHERE s.g BETWEEN {whole} AND {partial_groups}",
                whole = group::WHOLE,
            );
        }
        let keys = self.names(&self.shape.key, "");
        let action = if self.settable.is_empty() {
            "DO NOTHING".to_owned()
        } else {
            let set = self.settable.iter().map(|index| format!("{0} = EXCLUDED.{0}", self.name(*index)));
            format!("DO UPDATE SET {}", set.collect::<Vec<_>>().join(", "))
        };
        format!(
            "INSERT INTO {table}{names}{overriding} SELECT {values} FROM {rows} WHERE s.g = {} \
             ON CONFLICT ({keys}) {action}",
            group::WHOLE
        )
    }

    /// Whether `manner` inserts partial rows too, after [`Plan::complete`].
    #[must_use]
    pub fn replaces(&self, manner: Manner) -> bool {
        manner == Manner::Replace && self.replaceable
    }

    /// Those of a batch's groups whose rows have a value for the identity column that no UPDATE may set, and that are written
    /// in place; empty for a table without such a column.
    #[must_use]
    pub fn renumbered(&self, manner: Manner, staged: &[(i64, &[usize])]) -> Vec<i64> {
        let Some(identity) = self.identity.filter(|_| self.is_keyed() && !self.replaces(manner)) else {
            return Vec::new();
        };
        staged.iter().filter(|(_, present)| present.contains(&identity)).map(|(number, _)| *number).collect()
    }

    /// Whether rows may be deleted and inserted again without an effect on rows of other tables.
    #[must_use]
    pub const fn may_delete(&self) -> bool {
        !self.target.cascades
    }

    /// Gives rows of the target the staged value of their identity column, where it is another one, and leaves everything
    /// else of them as it is, columns that the source does not have included. An UPDATE must not set the column (trap T68), so
    /// the rows are deleted and inserted again: in one statement, as [`Plan::write_whole`] does and for the same reasons.
    #[must_use]
    pub fn renumber(&self, groups: &[i64]) -> String {
        let (table, differ) = (self.table().quoted(), self.differ(groups));
        let identity = self.identity.unwrap_or_default();
        let kept = self.target.columns.iter().filter(|column| !column.generated && !column.identity_always);
        let mut names: Vec<String> = kept.map(|column| quote_identifier(&column.name)).collect();
        let mut values: Vec<String> = names.iter().map(|name| format!("t.{name}")).collect();
        names.push(self.name(identity));
        values.push(self.staging.column(identity));
        format!(
            "WITH gone AS (DELETE FROM {table} AS t USING {differ} RETURNING {}) \
             INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT gone.* FROM (SELECT count(*) FROM gone) AS n, gone",
            values.join(", "),
            names.join(", ")
        )
    }

    /// One row if [`Plan::renumber`] has something to do.
    #[must_use]
    pub fn must_renumber(&self, groups: &[i64]) -> String {
        let (table, differ) = (self.table().quoted(), self.differ(groups));
        format!("SELECT FROM {table} AS t, {differ} LIMIT 1")
    }

    fn differ(&self, groups: &[i64]) -> String {
        let (rows, join, identity) = (self.staging.rows(), &self.join, self.identity.unwrap_or_default());
        let groups = groups.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "{rows} WHERE s.g IN ({groups}) AND {join} AND t.{} IS DISTINCT FROM {}",
            self.name(identity),
            self.staging.column(identity)
        )
    }

    /// What is told where [`Plan::renumber`] is needed and rows must not be deleted.
    #[must_use]
    pub fn not_renumbered(&self) -> Error {
        let (table, column) = (self.table().quoted(), self.name(self.identity.unwrap_or_default()));
        Error::Unfit {
            topic: self.topic.to_string(),
            table: self.table().clone(),
            problem: format!(
                "the source has changed a value of identity column {column}, which is GENERATED ALWAYS, and foreign keys of \
                 other tables act when a row is deleted to be inserted again"
            ),
            remedy: format!(
                "Run ALTER TABLE {table} ALTER COLUMN {column} SET GENERATED BY DEFAULT, then start again."
            ),
        }
    }

    /// Changes the given columns of the rows whose keys are staged in a group; `None` if no column is left to set.
    #[must_use]
    pub fn write_partial(&self, number: i64, present: &[usize]) -> Option<String> {
        let set: Vec<String> = present
            .iter()
            .filter(|index| self.settable.contains(index))
            .map(|index| format!("{} = {}", self.name(*index), self.staging.column(*index)))
            .collect();
        let (table, rows, join) = (self.table().quoted(), self.staging.rows(), &self.join);
        (!set.is_empty()).then(|| {
            let set = set.join(", ");
            format!("UPDATE {table} AS t SET {set} FROM {rows} WHERE s.g = {number} AND {join}")
        })
    }

    /// Fills the other columns of a group's staged rows from the target; the first statement meets every row.
    #[must_use]
    pub fn complete(&self, number: i64, present: &[usize]) -> Vec<String> {
        let target = format!("{} AS t", self.table().quoted());
        let of_group = format!("s.g = {number} AND {}", self.join);
        let value = |index| (!present.contains(&index)).then(|| format!("t.{}", self.name(index)));
        self.staging.update(&target, &of_group, value)
    }

    /// Removes those of a group's staged rows that the target does not have.
    #[must_use]
    pub fn leave_out_missing(&self, number: i64) -> String {
        let (table, keys, join) = (self.table().quoted(), self.staging.keys(), &self.join);
        format!("DELETE FROM {keys} WHERE s.g = {number} AND NOT EXISTS (SELECT FROM {table} AS t WHERE {join})")
    }

    /// Names of the key's columns, in key order.
    #[must_use]
    pub fn key_names(&self) -> Vec<String> {
        self.shape.key.iter().filter_map(|index| Some(self.shape.columns.get(*index)?.name.to_string())).collect()
    }

    /// Types of the target's key columns, in key order.
    #[must_use]
    pub fn key_types(&self) -> Vec<String> {
        let column = |index: &usize| self.target.column(&self.shape.columns.get(*index)?.name);
        self.shape.key.iter().filter_map(column).map(|column| column.type_sql.clone()).collect()
    }

    /// Adds the staged keys of rows that stay or come to a table that has the key's columns.
    #[must_use]
    pub fn see(&self, seen: &str) -> String {
        let (names, values, keys) =
            (self.names(&self.shape.key, ""), self.values(&self.shape.key), self.staging.keys());
        format!(
            "INSERT INTO {seen} ({names}) SELECT {values} FROM {keys} WHERE s.g >= {} ON CONFLICT DO NOTHING",
            group::WHOLE
        )
    }

    /// Removes the staged keys of rows that go from such a table.
    #[must_use]
    pub fn unsee(&self, seen: &str) -> String {
        let (keys, join) = (self.staging.keys(), &self.join);
        format!("DELETE FROM {seen} AS t USING {keys} WHERE s.g = {} AND {join}", group::DELETE)
    }

    /// Numbers the equality classes of the staged keys.
    #[must_use]
    pub fn classes(&self) -> String {
        let (order, keys) = (self.values(&self.shape.key), self.staging.keys());
        format!("SELECT s.i, dense_rank() OVER (ORDER BY {order}) FROM {keys} WHERE s.g = {}", group::CLASS)
    }

    /// Reads all written columns of the rows whose keys are staged for key moves; the first output column is the number.
    #[must_use]
    pub fn read_moving(&self) -> String {
        let columns = self.names(&self.staged, "t.");
        let (table, keys, join) = (self.table().quoted(), self.staging.keys(), &self.join);
        format!("SELECT s.i, {columns} FROM {table} AS t JOIN {keys} ON {join} WHERE s.g = {}", group::MOVE)
    }

    /// Keyless: whether a change can be an UPDATE; where the target writes some column by itself the row is replaced.
    #[must_use]
    pub fn changes_in_place(&self) -> bool {
        !self.settable.is_empty() && self.settable.len() == self.written.len()
    }

    /// Keyless: deletes, or with `change` ([`Plan::changes_in_place`]) alters, exactly one target row per staged old row. Rows are compared by their
    /// text, for not every type has an equality (trap T30), and counted off against each other.
    #[must_use]
    pub fn write_matching(&self, change: bool) -> String {
        let number = if change { group::OLD } else { group::DELETE };
        let (table, rows) = (self.table().quoted(), self.staging.rows());
        let (old, here) = (self.values(&self.staged), self.names(&self.staged, "t."));
        let matching = format!(
            "WITH wanted AS MATERIALIZED (SELECT s.i, ROW({old})::text AS r, \
               row_number() OVER (PARTITION BY ROW({old})::text ORDER BY s.i) AS n FROM {rows} WHERE s.g = {number}), \
             found AS (SELECT t.tableoid AS o, t.ctid AS c, ROW({here})::text AS r, \
               row_number() OVER (PARTITION BY ROW({here})::text ORDER BY t.tableoid, t.ctid) AS n FROM {table} AS t \
               WHERE ROW({here})::text IN (SELECT r FROM wanted)), \
             pair AS (SELECT w.i, f.o, f.c FROM wanted AS w JOIN found AS f ON f.r = w.r AND f.n = w.n) "
        );
        if change {
            let set =
                self.settable.iter().map(|index| format!("{} = {}", self.name(*index), self.staging.column(*index)));
            let set = set.collect::<Vec<_>>().join(", ");
            format!(
                "{matching}UPDATE {table} AS t SET {set} FROM pair AS p, {rows} WHERE s.i = p.i AND s.g = {} \
                 AND t.tableoid = p.o AND t.ctid = p.c",
                group::PARTIAL
            )
        } else {
            format!("{matching}DELETE FROM {table} AS t USING pair AS p WHERE t.tableoid = p.o AND t.ctid = p.c")
        }
    }

    fn name(&self, index: usize) -> String {
        self.shape.columns.get(index).map_or_else(String::new, |column| quote_identifier(&column.name))
    }

    fn names(&self, indices: &[usize], prefix: &str) -> String {
        indices.iter().map(|index| format!("{prefix}{}", self.name(*index))).collect::<Vec<_>>().join(", ")
    }

    /// Staged columns.
    fn values(&self, indices: &[usize]) -> String {
        indices.iter().map(|index| self.staging.column(*index)).collect::<Vec<_>>().join(", ")
    }
}

/// `t.key = s.key` with the operators of the key's unique index.
fn join(shape: &TableShape, target: &Target, key: &BTreeSet<&str>) -> Option<String> {
    let index = target.index_over(key)?;
    let mut terms = Vec::with_capacity(key.len());
    for (name, equality) in index.columns.iter().zip(&index.equality) {
        let number = shape.columns.iter().position(|column| *column.name == **name)?;
        terms.push(format!("t.{} {equality} s.c{number}", quote_identifier(name)));
    }
    Some(terms.join(" AND "))
}
