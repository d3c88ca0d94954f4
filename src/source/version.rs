//! From a Relation message of the stream to a described relation version (PROTOCOL 7).
//!
//! The message has names, type OIDs and modifiers, but no attnums, no nullability and no key; the catalog has them, but of
//! today. They belong together only if they agree column by column.

use std::{
    collections::{BTreeSet, HashMap},
    hash::BuildHasher,
};

use super::{column_type, error::Error};
use crate::{
    pgoutput::message::{ColumnBody, RelationBody, TypeBody},
    postgres::Client,
    schema::{Column, Lineage, Relation, ReplicaIdentity, TableName, quote_identifier},
    types::ColumnType,
};

/// Whether the catalog's descriptor is of the version that the message describes: name, and names, type OIDs and modifiers
/// of all columns in order.
#[must_use]
pub fn agrees(message: &RelationBody, catalog: &Relation) -> bool {
    let same = |(sent, known): (&ColumnBody, &Column)| {
        sent.name == known.name && sent.type_oid == known.ty.oid && sent.typmod == known.ty.typmod
    };
    message.oid == catalog.oid
        && message.schema == catalog.name.schema
        && message.table == catalog.name.table
        && message.columns.len() == catalog.columns.len()
        && message.columns.iter().zip(&catalog.columns).all(same)
}

/// Whether the key of an older descriptor may still be that of the message: the columns that identify rows are its key.
/// Under FULL all columns do, which says nothing.
#[must_use]
pub fn may_have_key(message: &RelationBody, known: &Relation) -> bool {
    let same = |(index, column): (usize, &ColumnBody)| column.identity == known.is_key(index);
    message.identity == ReplicaIdentity::Full || message.columns.iter().enumerate().all(same)
}

/// Describes the relation version of a message.
///
/// `catalog` is today's descriptor, `last` the version of the same relation before this one, `types` the Type messages seen
/// on this stream. Where the catalog does not agree, names and types come from the message, and the key is carried over
/// by name; an error if its columns are gone.
pub async fn describe(
    client: &Client,
    message: &RelationBody,
    catalog: Option<&Relation>,
    last: Option<&Relation>,
    types: &HashMap<u32, TypeBody, impl BuildHasher>,
) -> Result<Relation, Error> {
    if let Some(catalog) = catalog.filter(|catalog| agrees(message, catalog)) {
        return Ok(Relation { identity: message.identity, ..catalog.clone() });
    }
    let types = column_types(client, message, types).await?;
    assemble(message, last.or(catalog), types)
}

/// Describes types of a version anew, as the catalog has them at present: an enumeration may have more labels by now. A type
/// that is gone stays as it was described.
pub async fn describe_types(client: &Client, relation: &mut Relation, oids: &BTreeSet<u32>) -> Result<(), Error> {
    let columns = relation.columns.iter_mut().filter(|column| oids.contains(&column.ty.oid));
    let mut types: Vec<&mut ColumnType> = columns.map(|column| &mut column.ty).collect();
    let wanted: Vec<_> = types.iter().map(|ty| (ty.oid, ty.typmod)).collect();
    let known = column_type::read(client, &wanted).await;
    let known = known.map_err(|error| Error::statement("reading the types of columns", error))?;
    for (ty, id) in types.iter_mut().zip(wanted) {
        if let Some(found) = known.find(id) {
            **ty = found;
        }
    }
    Ok(())
}

/// Numbers and names of a relation's columns whose collation is nondeterministic at present: equal texts may have other
/// bytes.
pub async fn nondeterministic(client: &Client, oid: u32) -> Result<Vec<(i16, String)>, Error> {
    let sql = "SELECT attnum, attname::text FROM pg_attribute JOIN pg_collation c ON c.oid = attcollation
        WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND NOT collisdeterministic";
    let failed = |error| Error::statement("reading the collations of columns", error);
    let rows = client.query(sql, &[&oid]).await.map_err(failed)?;
    rows.iter().map(|row| Ok((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?))).collect()
}

/// Builds a version from the message alone, with the types of its columns.
fn assemble(message: &RelationBody, before: Option<&Relation>, types: Vec<ColumnType>) -> Result<Relation, Error> {
    let name = TableName::new(message.schema.clone(), message.table.clone());
    let column = |(sent, ty): (&ColumnBody, ColumnType)| {
        let known = before.and_then(|before| before.columns.iter().find(|column| column.name == sent.name));
        Column {
            name: sent.name.clone(),
            attnum: known.and_then(|column| column.attnum),
            ty,
            nullable: known.is_none_or(|column| column.nullable),
            nondeterministic: known.is_some_and(|column| column.nondeterministic),
            optional: known.is_some_and(|column| column.optional),
            added: known.is_some_and(|column| column.added),
            default: known.and_then(|column| column.default.clone()),
            missing: known.and_then(|column| column.missing.clone()),
            null_items: known.is_some_and(|column| column.null_items),
        }
    };
    let columns = message.columns.iter().zip(types).map(column).collect();
    let key = match before {
        Some(before) => carry_key(message, &name, before)?,
        None => flagged_key(message),
    };
    Ok(Relation { oid: message.oid, name, identity: message.identity, columns, key, lineage: Lineage::default() })
}

/// The key of the version before, found again by name.
fn carry_key(message: &RelationBody, table: &TableName, before: &Relation) -> Result<Vec<usize>, Error> {
    let (mut key, mut gone) = (Vec::new(), Vec::new());
    for column in before.key.iter().filter_map(|&index| before.columns.get(index)) {
        match message.columns.iter().position(|sent| sent.name == column.name) {
            Some(index) => key.push(index),
            None => gone.push(column.name.to_string()),
        }
    }
    if gone.is_empty() { Ok(key) } else { Err(Error::KeyColumnsGone { table: table.clone(), columns: gone }) }
}

/// The columns that the message flags as identity; under FULL all are, which says nothing.
fn flagged_key(message: &RelationBody) -> Vec<usize> {
    if message.identity == ReplicaIdentity::Full {
        return Vec::new();
    }
    let columns = message.columns.iter().enumerate();
    columns.filter(|(_, column)| column.identity).map(|(index, _)| index).collect()
}

/// The message's column types. One that was dropped since has the name of its Type message, or else is treated as text.
async fn column_types(
    client: &Client,
    message: &RelationBody,
    types: &HashMap<u32, TypeBody, impl BuildHasher>,
) -> Result<Vec<ColumnType>, Error> {
    let wanted: Vec<_> = message.columns.iter().map(|column| (column.type_oid, column.typmod)).collect();
    let known = column_type::read(client, &wanted).await;
    let known = known.map_err(|error| Error::statement("reading the types of columns", error))?;
    let sent = |oid| {
        let body = types.get(&oid)?;
        Some(format!("{}.{}", quote_identifier(&body.schema), quote_identifier(&body.name)))
    };
    let named = |(oid, typmod)| {
        let gone = || ColumnType::base(oid, typmod, &sent(oid).unwrap_or_else(|| "text".to_owned()));
        known.find((oid, typmod)).unwrap_or_else(gone)
    };
    Ok(wanted.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(columns: &[(&str, u32)]) -> RelationBody {
        let column = |(name, oid): &(&str, u32)| ColumnBody {
            identity: *name == "id",
            name: (*name).into(),
            type_oid: *oid,
            typmod: -1,
        };
        RelationBody {
            xid: None,
            oid: 16,
            schema: "public".into(),
            table: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        }
    }

    fn types(columns: &[(&str, u32)]) -> Vec<ColumnType> {
        columns.iter().map(|(_, oid)| ColumnType::base(*oid, -1, "any")).collect()
    }

    fn relation(columns: &[(&str, u32)], key: &[usize]) -> Relation {
        let mut relation = assemble(&message(columns), None, types(columns)).unwrap();
        relation.key = key.to_vec();
        for (attnum, column) in (1..).zip(&mut relation.columns) {
            column.attnum = Some(attnum);
            column.nullable = false;
        }
        relation
    }

    #[test]
    fn a_descriptor_agrees_only_when_every_column_does() {
        // trap T35
        let columns = [("id", 23), ("a", 25)];
        assert!(agrees(&message(&columns), &relation(&columns, &[0])));
        for other in [&[("id", 23)][..], &[("a", 25), ("id", 23)], &[("id", 23), ("a", 1043)], &[("id", 23), ("b", 25)]]
        {
            assert!(!agrees(&message(other), &relation(&columns, &[0])), "{other:?}");
        }
        let renamed = RelationBody { table: "u".into(), ..message(&columns) };
        assert!(!agrees(&renamed, &relation(&columns, &[0])));
    }

    #[test]
    fn a_descriptor_with_another_key_than_the_identity_columns_is_not_believed() {
        let columns = [("id", 23), ("a", 25)];
        assert!(may_have_key(&message(&columns), &relation(&columns, &[0])));
        assert!(!may_have_key(&message(&columns), &relation(&columns, &[1])));
        let full = RelationBody { identity: ReplicaIdentity::Full, ..message(&columns) };
        assert!(may_have_key(&full, &relation(&columns, &[1])));
    }

    #[test]
    fn where_the_catalog_is_ahead_the_key_is_carried_over_by_name() {
        // trap T36
        let before = relation(&[("id", 23), ("a", 25), ("n", 23)], &[2, 0]);
        let columns = [("a", 25), ("id", 20), ("n", 23)];
        let version = assemble(&message(&columns), Some(&before), types(&columns)).unwrap();
        assert_eq!(version.key, [2, 1]);
        assert_eq!(version.columns[1].attnum, Some(1));
        assert_eq!(version.columns[1].ty.oid, 20);
        assert!(!version.columns[1].nullable);

        let gone = assemble(&message(&[("id", 23)]), Some(&before), types(&[("id", 23)])).unwrap_err();
        assert!(matches!(gone, Error::KeyColumnsGone { columns, .. } if columns == ["n"]));
    }

    #[test]
    fn without_a_version_before_the_flagged_columns_are_the_key_unless_identity_is_full() {
        let columns = [("a", 25), ("id", 23)];
        let mut sent = message(&columns);
        assert_eq!(assemble(&sent, None, types(&columns)).unwrap().key, [1]);
        sent.identity = ReplicaIdentity::Full;
        assert_eq!(assemble(&sent, None, types(&columns)).unwrap().key, [0; 0]);
    }
}
