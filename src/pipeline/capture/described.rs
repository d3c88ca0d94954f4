//! How the stream and the catalog describe a relation, compared.

use std::sync::Arc;

use crate::{
    pgoutput::message::{ColumnBody, RelationBody},
    schema::{Relation, ReplicaIdentity},
};

/// Whether rows that were read by one version's columns have the other's.
pub(super) fn has_columns(version: &Relation, read: &Relation) -> bool {
    let column = |relation: &Relation| {
        relation
            .columns
            .iter()
            .map(|column| (Arc::clone(&column.name), column.ty.oid, column.ty.typmod))
            .collect::<Vec<_>>()
    };
    version.name == read.name && column(version) == column(read)
}

/// What the server would tell of a relation.
pub(super) fn body_of(relation: &Relation) -> RelationBody {
    let column = |(index, column): (usize, &crate::schema::Column)| ColumnBody {
        identity: relation.identity == ReplicaIdentity::Full || relation.is_key(index),
        name: Arc::clone(&column.name),
        type_oid: column.ty.oid,
        typmod: column.ty.typmod,
    };
    RelationBody {
        xid: None,
        oid: relation.oid,
        schema: Arc::clone(&relation.name.schema),
        table: Arc::clone(&relation.name.table),
        identity: relation.identity,
        columns: relation.columns.iter().enumerate().map(column).collect(),
    }
}
