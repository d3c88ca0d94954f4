//! Tables as the source describes them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    lsn::{Lsn, Position},
    types::{Codec, ColumnType, Modes},
};

/// A schema-qualified table name, unquoted, in the server's own case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema (namespace).
    pub schema: Arc<str>,
    /// The table inside the schema.
    pub table: Arc<str>,
}

impl TableName {
    /// Joins a schema and a table name.
    #[must_use]
    pub fn new(schema: impl Into<Arc<str>>, table: impl Into<Arc<str>>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// The name as SQL text, both parts quoted.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What only stands for a table has no schema.
        if self.schema.is_empty() { f.write_str(&self.table) } else { write!(f, "{}.{}", self.schema, self.table) }
    }
}

/// An identifier in double quotes, inner quotes doubled (manual, "Identifiers and Key Words").
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal in single quotes; uses the `E''` form when a backslash is in it, so it means the same whatever
/// `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// What an UPDATE or DELETE writes into the WAL of the old row (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing; the source refuses updates and deletes of a published table.
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`: the columns of a unique index.
    Index,
}

impl ReplicaIdentity {
    /// Reads `pg_class.relreplident` or the byte of a Relation message.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'd' => Some(Self::Default),
            b'n' => Some(Self::Nothing),
            b'f' => Some(Self::Full),
            b'i' => Some(Self::Index),
            _ => None,
        }
    }
}

/// One published column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The column's name, unquoted.
    pub name: Arc<str>,
    /// `pg_attribute.attnum`, where the catalog told it: survives a rename.
    pub attnum: Option<i16>,
    /// The column's type with its modifier.
    #[serde(rename = "type")]
    pub ty: ColumnType,
    /// Whether the source column accepts NULL.
    pub nullable: bool,
    /// Whether its collation calls texts equal that differ in their bytes (`pg_collation.collisdeterministic` is false).
    #[serde(default)]
    pub nondeterministic: bool,
    /// Whether its field can be null in the topic whatever the source says: records of earlier versions have null there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Whether records of earlier versions lack it, so that its field can be null or has a default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub added: bool,
    /// The expression of its default (`pg_get_expr`), where it has one and is no generated column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Arc<str>>,
    /// The value, as text, of rows that are older than the column and of which no event tells it (`pg_attribute.attmissingval`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Arc<str>>,
    /// Whether its arrays can have NULL, as a row has shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub null_items: bool,
}

impl Column {
    /// Whether its field can be null whatever the source says, also where a schema has the defaults of columns.
    fn is_optional(&self) -> bool {
        let has_default = |expression: &str| {
            Codec::of_column(&self.ty, Modes::default()).default_text(&self.ty, expression).is_some()
        };
        self.optional || self.added && !self.default.as_deref().is_some_and(has_default)
    }

    /// Takes the default that the column has by now. A field that could be null without one stays so.
    pub fn set_default(&mut self, expression: Option<&str>) {
        if self.default.as_deref() != expression {
            self.optional = self.is_optional();
            self.default = expression.map(Into::into);
        }
    }
}

/// One version of a published relation: its published columns in the order of its tuples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema and table.
    pub name: TableName,
    /// What the WAL holds of old rows.
    pub identity: ReplicaIdentity,
    /// The published columns, in tuple order.
    pub columns: Vec<Column>,
    /// Indices into `columns` of the event key, in key order; empty when the table has none.
    ///
    /// The replica identity index, where one was chosen; else the primary key; else a unique index over NOT NULL columns.
    pub key: Vec<usize>,
    /// Which of the relation's versions it is.
    #[serde(default)]
    pub lineage: Lineage,
}

/// Which of a relation's versions one is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Counts versions as the stream announces them, from 1; 0 where that was not recorded.
    pub number: u32,
    /// The file that the rows lay in (`pg_relation_filenode`), where it is known.
    pub file: Option<u32>,
    /// Where the stream came to it when it got that number; `None` where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
    /// Behind which changes of rows that no event tells the operator had the stream go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<Judged>,
    /// The defaults that its columns had, in order of the places where the stream came to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Told>,
}

/// The defaults of columns from one place of the stream on. A change of them makes no other version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Where the stream came to them.
    pub position: Position,
    /// Expressions (`pg_get_expr`) by the columns' names.
    pub defaults: BTreeMap<Arc<str>, Arc<str>>,
}

/// A change of rows that no event tells, behind which the operator had the stream go on. The stream comes to the same place again
/// when changes are sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Where the stream came to it.
    pub position: Position,
    /// What it was, and what of the catalog told of it: what the catalog tells later at the same place is another change.
    pub what: String,
}

impl Relation {
    /// Whether the column at `index` belongs to the event key.
    #[must_use]
    pub fn is_key(&self, index: usize) -> bool {
        self.key.contains(&index)
    }

    /// Where another version has the columns of this one's key, by their names; `None` where it lacks one.
    #[must_use]
    pub fn key_in(&self, other: &Self) -> Option<Vec<usize>> {
        let names = self.key.iter().filter_map(|index| self.columns.get(*index)).map(|column| &column.name);
        names.map(|name| other.columns.iter().position(|column| column.name == *name)).collect()
    }

    /// Records the present defaults with the place where the stream came to them. What nothing from `needed` on can come by is
    /// forgotten.
    pub fn record_defaults(&mut self, position: Position, needed: Lsn) {
        let named = |column: &Column| Some((Arc::clone(&column.name), Arc::clone(column.default.as_ref()?)));
        let defaults: BTreeMap<_, _> = self.columns.iter().filter_map(named).collect();
        let told = &mut self.lineage.told;
        if told.last().is_none_or(|last| last.defaults != defaults) {
            told.push(Told { position, defaults });
        }
        let first = told.iter().rposition(|told| told.position.commit < needed).unwrap_or(0);
        told.drain(..first);
    }

    /// Gives the columns the defaults that records at a position came by; whether it is recorded which.
    pub fn recall_defaults(&mut self, position: Position) -> bool {
        let Some(told) = self.lineage.told.iter().rev().find(|told| told.position <= position) else { return false };
        for column in &mut self.columns {
            column.set_default(told.defaults.get(&column.name).map(|default| &**default));
        }
        true
    }

    /// Makes the columns optional that can be NULL in an earlier version of the relation, and notes those that it does not have:
    /// a reader of the new schema must be able to read that version's records too.
    pub fn keep_optional(&mut self, earlier: &Self) {
        for column in &mut self.columns {
            let before = earlier.columns.iter().find(|known| known.name == column.name);
            column.optional |= before.is_some_and(|known| known.nullable || known.is_optional());
            column.added |= before.is_none_or(|known| known.added);
            column.null_items |= before.is_some_and(|known| known.null_items);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_optional_if_any_earlier_version_can_be_null_there_and_added_if_one_lacks_it() {
        let relation = |columns: &[(&str, bool)]| {
            let column = |(name, nullable): &(&str, bool)| Column {
                name: (*name).into(),
                attnum: None,
                ty: ColumnType::base(23, -1, "integer"),
                nullable: *nullable,
                nondeterministic: false,
                optional: false,
                added: false,
                default: None,
                missing: None,
                null_items: false,
            };
            let (identity, columns) = (ReplicaIdentity::Default, columns.iter().map(column).collect());
            Relation {
                oid: 1,
                name: TableName::new("public", "t"),
                identity,
                columns,
                key: Vec::new(),
                lineage: Lineage::default(),
            }
        };
        let mut newest = relation(&[("kept", false), ("added", false), ("strict", false)]);
        newest.keep_optional(&relation(&[("kept", false), ("strict", true)]));
        newest.keep_optional(&relation(&[("kept", false), ("added", false), ("strict", false)]));
        let flags = |relation: &Relation| -> Vec<_> {
            relation.columns.iter().map(|column| (column.optional, column.added)).collect()
        };
        assert_eq!(flags(&newest), [(false, false), (false, true), (true, false)]);
        let next = || relation(&[("kept", false), ("added", false), ("strict", false)]);
        let mut later = next();
        later.keep_optional(&newest);
        assert_eq!(flags(&later), [(false, false), (true, true), (true, false)]);
        // With a default its field was never null, and is not as long as it keeps one.
        newest.columns[1].default = Some("5".into());
        let mut later = next();
        later.columns[1].default = Some("6".into());
        later.keep_optional(&newest);
        assert_eq!(flags(&later), [(false, false), (false, true), (true, false)]);
        later.columns[1].set_default(None);
        assert!(!later.columns[1].optional);
        later.columns[1].set_default(Some("7"));
        assert!(later.columns[1].optional, "it could be null meanwhile");
    }

    #[test]
    fn what_comes_again_has_the_default_that_it_came_by() {
        let at = |commit| Position { epoch: 0, commit: Lsn(commit), ordinal: 1 };
        let column = Column {
            name: "n".into(),
            attnum: None,
            ty: ColumnType::base(23, -1, "integer"),
            nullable: true,
            nondeterministic: false,
            optional: false,
            added: false,
            default: None,
            missing: None,
            null_items: false,
        };
        let mut relation = Relation {
            oid: 1,
            name: TableName::new("public", "t"),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
            key: Vec::new(),
            lineage: Lineage::default(),
        };
        for (commit, default) in [(100, "5"), (150, "5"), (200, "7"), (300, "8")] {
            relation.columns[0].set_default(Some(default));
            relation.record_defaults(at(commit), Lsn(0));
        }
        for (commit, default) in [(100, "5"), (199, "5"), (200, "7"), (250, "7"), (400, "8"), (120, "5")] {
            assert!(relation.recall_defaults(at(commit)));
            assert_eq!(relation.columns[0].default.as_deref(), Some(default), "{commit}");
        }
        assert!(!relation.recall_defaults(at(99)));
        relation.recall_defaults(at(400));
        relation.record_defaults(at(400), Lsn(250));
        let kept: Vec<_> = relation.lineage.told.iter().map(|told| told.position.commit.0).collect();
        assert_eq!(kept, [200, 300], "a record at 250 came by what was told at 200");
    }

    #[test]
    fn names_and_literals_are_quoted_for_sql() {
        assert_eq!(TableName::new("a b", "c\"d").quoted(), r#""a b"."c""d""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), r"E'a\\''b'");
    }
}
