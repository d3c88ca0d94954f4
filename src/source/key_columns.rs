//! Key columns by configuration, in place of those that a table's indexes give (`message.key.columns` of Debezium): another one of its unique
//! keys, or one with further columns, by which rows are then spread over partitions.
//!
//! A key must be in every old row, or an update that moves it and a delete would have none; it is never NULL, since a primary key of the
//! target cannot be; and a unique index has to be within it. Without one, rows that differ in every committed state may be alike in the midst
//! of a statement (`SET seat = seat + 1`), and the delete of one would take the other one's row.
//!
//! The order is that of the table's columns, so that another order of names is no other key.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    error::Error,
    identity::IdentityProblem,
    key::{CatalogColumn, CatalogIndex, event_key},
    layout::Layout,
    shape::named,
};
use crate::{
    pgoutput::message::RelationBody,
    schema::{Relation, ReplicaIdentity, TableName},
};

/// Names of key columns by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyColumns(BTreeMap<TableName, BTreeSet<String>>);

impl KeyColumns {
    /// Names, separated by commas, by `schema.table`.
    #[must_use]
    pub fn new(lists: &BTreeMap<String, String>) -> Self {
        let columns = |list: &String| list.split(',').map(|name| name.trim().to_owned()).collect();
        Self(lists.iter().map(|(table, list)| (named(table), columns(list))).collect())
    }

    /// The key columns of a table; none where its indexes decide.
    #[must_use]
    pub fn of(&self, table: &TableName) -> Option<&BTreeSet<String>> {
        self.0.get(table)
    }

    /// The tables that they name and that are not among these.
    pub fn strangers<'a>(&'a self, tables: &'a [TableName]) -> impl Iterator<Item = &'a TableName> {
        self.0.keys().filter(|table| !tables.contains(table))
    }

    /// Whether a version has the key that is configured for its table; `None` where its indexes decide.
    #[must_use]
    pub fn agrees(&self, version: &Relation) -> Option<bool> {
        let names = self.of(&version.name)?;
        let mut key = version.key.iter().filter_map(|index| version.columns.get(*index));
        Some(version.key.len() == names.len() && key.all(|column| names.contains(&*column.name)))
    }

    /// An error where no unique index is within the configured key of a version at present.
    pub fn must_be_unique(&self, version: &Relation, layout: &Layout) -> Result<(), Error> {
        let Some(names) = self.of(&version.name) else { return Ok(()) };
        let key = version.key.iter().filter_map(|index| version.columns.get(*index));
        let attnums: Option<BTreeSet<i16>> = key.map(|column| Some(layout.find(column)?.attnum)).collect();
        // A key whose columns the catalog does not have as they are described is not judged.
        if attnums.is_none_or(|attnums| layout.keys.iter().any(|unique| unique.is_subset(&attnums))) {
            return Ok(());
        }
        let problem = IdentityProblem::KeyNotUnique { columns: names.iter().cloned().collect() };
        Err(Error::KeyColumnsUnfit { table: version.name.clone(), problem })
    }

    /// Gives a version the key that is configured for its table, whatever indexes the catalog has by now, in the order that the version before
    /// had it. An error where the version has not got the columns, or its old rows do not bring them: changes would be published under no key
    /// or another one.
    pub fn put(&self, message: &RelationBody, relation: Relation, last: Option<&Relation>) -> Result<Relation, Error> {
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
        let before = last.and_then(|last| last.key_in(&relation));
        let key = in_order(key, before.as_ref().unwrap_or(&relation.key));
        Ok(Relation { key, ..relation })
    }
}

/// The order of the columns, but for the key that the table has anyway.
fn in_order(mut key: Vec<usize>, own: &[usize]) -> Vec<usize> {
    key.sort_unstable();
    let mut sorted = own.to_vec();
    sorted.sort_unstable();
    if sorted == key { own.to_vec() } else { key }
}

/// The key that these names make of a table, as indices among its published columns, or why they cannot.
pub fn choose(
    names: &BTreeSet<String>,
    (identity, partitioned): (ReplicaIdentity, bool),
    columns: &[CatalogColumn],
    indexes: &[CatalogIndex],
) -> Result<Vec<usize>, IdentityProblem> {
    // What is in the old rows of a partition, its own replica identity says.
    if partitioned {
        return Err(IdentityProblem::KeyOfPartitioned);
    }
    let covering = |chosen: fn(&CatalogIndex) -> bool| {
        let index = indexes.iter().find(|index| chosen(index) && index.usable);
        Some(index.map_or(&[][..], |index| &index.attnums))
    };
    let sent = match identity {
        ReplicaIdentity::Full => None,
        ReplicaIdentity::Nothing => Some(&[][..]),
        ReplicaIdentity::Default => covering(|index| index.primary),
        ReplicaIdentity::Index => covering(|index| index.identity),
    };
    let published: Vec<_> = columns.iter().filter(|column| column.published).collect();
    let (mut key, mut chosen) = (Vec::with_capacity(names.len()), BTreeSet::new());
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
        chosen.insert(found.attnum);
    }
    let is_within = |index: &CatalogIndex| {
        index.usable && !index.attnums.is_empty() && index.attnums.iter().all(|attnum| chosen.contains(attnum))
    };
    if !indexes.iter().any(is_within) {
        return Err(IdentityProblem::KeyNotUnique { columns: names.iter().cloned().collect() });
    }
    Ok(in_order(key, &event_key(columns, indexes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema::Column, types::ColumnType};

    const FULL: (ReplicaIdentity, bool) = (ReplicaIdentity::Full, false);

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
        CatalogIndex {
            name: "i".into(),
            primary,
            identity: false,
            usable: true,
            immediate: true,
            attnums: attnums.to_vec(),
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_is_of_columns_that_every_old_row_brings_and_that_are_never_null() {
        let mut columns = [
            column(1, "hidden", false),
            column(2, "id", false),
            column(3, "at", false),
            column(4, "tenant", false),
            column(5, "n", true),
        ];
        columns[0].published = false;
        let indexes = [index(&[3, 2], true), index(&[2], false)];
        let key = |list: &[&str], identity| choose(&names(list), identity, &columns, &indexes);
        // Positions are among published columns, in their order but for the key that the table has anyway.
        assert_eq!(key(&["tenant", "id"], FULL), Ok(vec![0, 2]));
        assert_eq!(key(&["at", "id"], FULL), Ok(vec![1, 0]));
        assert_eq!(key(&["id"], (ReplicaIdentity::Default, false)), Ok(vec![0]));
        let absent = |column: &str| Err(IdentityProblem::NoKeyColumn { column: column.into() });
        assert_eq!(key(&["gone", "id"], FULL), absent("gone"));
        assert_eq!(key(&["hidden"], FULL), absent("hidden"));
        assert_eq!(key(&["id", "n"], FULL), Err(IdentityProblem::NullableKeyColumn { column: "n".into() }));
        let not_sent = Err(IdentityProblem::KeyNotInIdentity { column: "id".into() });
        assert_eq!(key(&["id"], (ReplicaIdentity::Nothing, false)), not_sent);
        assert_eq!(key(&["id"], (ReplicaIdentity::Index, false)), not_sent);
        let deferrable = [CatalogIndex { usable: false, ..index(&[2], true) }, index(&[2], false)];
        assert_eq!(choose(&names(&["id"]), (ReplicaIdentity::Default, false), &columns, &deferrable), not_sent);
        assert_eq!(key(&["id"], (ReplicaIdentity::Full, true)), Err(IdentityProblem::KeyOfPartitioned));
    }

    #[test]
    fn a_unique_index_has_to_be_within_the_key() {
        let columns = [column(1, "a", false), column(2, "b", false)];
        let key = |indexes: &[CatalogIndex]| choose(&names(&["a"]), FULL, &columns, indexes);
        let not_unique = Err(IdentityProblem::KeyNotUnique { columns: vec!["a".into()] });
        assert_eq!(key(&[index(&[1], false)]), Ok(vec![0]));
        assert_eq!(key(&[index(&[1, 2], true)]), not_unique);
        assert_eq!(key(&[CatalogIndex { usable: false, ..index(&[1], false) }]), not_unique);
        assert_eq!(key(&[index(&[], false)]), not_unique);
        assert_eq!(key(&[]), not_unique);
    }
}
