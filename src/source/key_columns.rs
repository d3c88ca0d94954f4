//! Key columns by configuration, in place of those that a table's indexes give (`message.key.columns` of Debezium): for tables that have no
//! unique index, or whose rows are to be told apart by fewer or by more columns than the replica identity has.
//!
//! A key must be in every old row, or an update that moves it and a delete would have none; and it is never NULL, since a primary key of the
//! target cannot be. Whether rows differ in it is told by unique indexes alone: without one it is the operator's word.

use std::collections::BTreeMap;

use super::{
    error::Error,
    identity::IdentityProblem,
    key::{CatalogColumn, CatalogIndex},
    shape::named,
};
use crate::{
    pgoutput::message::RelationBody,
    schema::{Relation, ReplicaIdentity, TableName},
};

/// Names of key columns, in the order of the key, by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyColumns(BTreeMap<TableName, Vec<String>>);

/// The key of a table as its catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenKey {
    /// Indices among the published columns, in the order of the key.
    pub columns: Vec<usize>,
    /// A unique index says that rows differ in it.
    pub proven: bool,
}

impl KeyColumns {
    /// Names, separated by commas, by `schema.table`.
    #[must_use]
    pub fn new(lists: &BTreeMap<String, String>) -> Self {
        let columns = |list: &String| list.split(',').map(|name| name.trim().to_owned()).collect();
        Self(lists.iter().map(|(table, list)| (named(table), columns(list))).collect())
    }

    /// The key columns of a table; none where its indexes decide.
    #[must_use]
    pub fn of(&self, table: &TableName) -> Option<&[String]> {
        self.0.get(table).map(Vec::as_slice)
    }

    /// Whether a version has the key that is configured for its table; `None` where its indexes decide.
    #[must_use]
    pub fn agrees(&self, version: &Relation) -> Option<bool> {
        let key = version.key.iter().filter_map(|index| version.columns.get(*index)).map(|column| &*column.name);
        self.of(&version.name).map(|names| key.eq(names.iter().map(String::as_str)))
    }

    /// The tables that they name and that are not among these.
    pub fn strangers<'a>(&'a self, tables: &'a [TableName]) -> impl Iterator<Item = &'a TableName> {
        self.0.keys().filter(|table| !tables.contains(table))
    }

    /// Gives a version the key that is configured for its table, whatever indexes the catalog has by now. An error where the version has not
    /// got the columns, or its old rows do not bring them: changes would be published under no key or another one.
    pub fn put(&self, message: &RelationBody, relation: Relation) -> Result<Relation, Error> {
        let Some(names) = self.of(&relation.name) else { return Ok(relation) };
        let unfit = |problem: IdentityProblem| Error::KeyColumnsUnfit { table: relation.name.clone(), problem };
        let mut key = Vec::with_capacity(names.len());
        for name in names {
            let index = relation.columns.iter().position(|column| *column.name == **name);
            let Some(index) = index else { return Err(unfit(IdentityProblem::NoKeyColumn { column: name.clone() })) };
            let sent = message.columns.get(index).is_some_and(|column| column.identity);
            if message.identity != ReplicaIdentity::Full && !sent {
                return Err(unfit(IdentityProblem::KeyNotInIdentity { column: name.clone() }));
            }
            key.push(index);
        }
        Ok(Relation { key, ..relation })
    }
}

/// The key that these names make of a table, or why they cannot.
pub fn choose(
    names: &[String],
    identity: ReplicaIdentity,
    columns: &[CatalogColumn],
    indexes: &[CatalogIndex],
) -> Result<ChosenKey, IdentityProblem> {
    let sent = match identity {
        ReplicaIdentity::Full => None,
        ReplicaIdentity::Nothing => Some(&[][..]),
        ReplicaIdentity::Default => Some(attnums(indexes.iter().find(|index| index.primary))),
        ReplicaIdentity::Index => Some(attnums(indexes.iter().find(|index| index.identity))),
    };
    let published: Vec<_> = columns.iter().filter(|column| column.published).collect();
    let (mut key, mut chosen) = (Vec::with_capacity(names.len()), Vec::with_capacity(names.len()));
    for name in names {
        let found = published.iter().enumerate().find(|(_, column)| *column.column.name == **name);
        let Some((index, found)) = found else {
            return Err(IdentityProblem::NoKeyColumn { column: name.clone() });
        };
        if found.column.nullable {
            return Err(IdentityProblem::NullableKeyColumn { column: name.clone() });
        }
        if sent.is_some_and(|sent| !sent.contains(&found.attnum)) {
            return Err(IdentityProblem::KeyNotInIdentity { column: name.clone() });
        }
        key.push(index);
        chosen.push(found.attnum);
    }
    let proves = |index: &CatalogIndex| {
        index.usable && !index.attnums.is_empty() && index.attnums.iter().all(|attnum| chosen.contains(attnum))
    };
    Ok(ChosenKey { columns: key, proven: indexes.iter().any(proves) })
}

fn attnums(index: Option<&CatalogIndex>) -> &[i16] {
    index.map_or(&[], |index| &index.attnums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema::Column, types::ColumnType};

    fn column(attnum: i16, name: &str, nullable: bool) -> CatalogColumn {
        let column = Column {
            name: name.into(),
            attnum: Some(attnum),
            ty: ColumnType::base(23, -1, "integer"),
            nullable,
            nondeterministic: false,
            optional: false,
            added: false,
            default: None,
            missing: None,
            null_items: false,
        };
        CatalogColumn { column, attnum, published: true, generated: false }
    }

    fn index(attnums: &[i16], primary: bool) -> CatalogIndex {
        CatalogIndex { name: "i".into(), primary, identity: false, usable: true, attnums: attnums.to_vec() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_is_of_columns_that_every_old_row_brings_and_that_are_never_null() {
        let mut columns =
            [column(1, "hidden", false), column(2, "id", false), column(4, "at", false), column(5, "n", true)];
        columns[0].published = false;
        let primary = [index(&[2, 4], true)];
        let key = |list: &[&str], identity| choose(&names(list), identity, &columns, &primary);
        let chosen = |columns: &[usize], proven| Ok(ChosenKey { columns: columns.to_vec(), proven });
        // Positions are among published columns.
        assert_eq!(key(&["at", "id"], ReplicaIdentity::Full), chosen(&[1, 0], true));
        assert_eq!(key(&["id"], ReplicaIdentity::Full), chosen(&[0], false));
        assert_eq!(key(&["id"], ReplicaIdentity::Default), chosen(&[0], false));
        let absent = |column: &str| Err(IdentityProblem::NoKeyColumn { column: column.into() });
        assert_eq!(key(&["id", "gone"], ReplicaIdentity::Full), absent("gone"));
        assert_eq!(key(&["hidden"], ReplicaIdentity::Full), absent("hidden"));
        assert_eq!(key(&["n"], ReplicaIdentity::Full), Err(IdentityProblem::NullableKeyColumn { column: "n".into() }));
        let not_sent = Err(IdentityProblem::KeyNotInIdentity { column: "id".into() });
        assert_eq!(key(&["id"], ReplicaIdentity::Nothing), not_sent);
        assert_eq!(key(&["id"], ReplicaIdentity::Index), not_sent);
        assert_eq!(choose(&names(&["id"]), ReplicaIdentity::Default, &columns, &[]), not_sent);
    }

    #[test]
    fn an_index_within_the_key_proves_it_and_one_beyond_it_does_not() {
        let columns = [column(1, "a", false), column(2, "b", false)];
        let proven = |indexes: &[CatalogIndex]| {
            choose(&names(&["a"]), ReplicaIdentity::Full, &columns, indexes).map(|key| key.proven)
        };
        assert_eq!(proven(&[index(&[1], false)]), Ok(true));
        assert_eq!(proven(&[index(&[1, 2], true)]), Ok(false));
        assert_eq!(proven(&[CatalogIndex { usable: false, ..index(&[1], false) }]), Ok(false));
        assert_eq!(proven(&[CatalogIndex { usable: false, ..index(&[], false) }, index(&[], false)]), Ok(false));
    }
}
