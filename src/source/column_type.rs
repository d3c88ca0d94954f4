//! Types as the catalog describes them: what a column's type is made of, down to the base types.

use std::{collections::HashMap, sync::Arc};

use tokio_postgres::Row;

use crate::{
    postgres::Client,
    types::{ColumnType, TypeKind},
};

/// Domains over arrays of domains …: deeper nesting is read as a base type.
const DEEPEST: usize = 16;

/// A type by `pg_type.oid` and modifier.
pub(super) type TypeId = (u32, i32);

/// Types of a catalog, with all that they are made of.
#[derive(Debug, Default)]
pub(super) struct Types(HashMap<TypeId, Described>);

#[derive(Debug)]
struct Described {
    sql: Arc<str>,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Base,
    Enum(Vec<Arc<str>>),
    Domain(TypeId),
    Array(TypeId),
    Extension(Arc<str>),
}

/// An array type is the one that its element names as its own: `int2vector` has elements too, and is none.
const QUERY: &str = "\
    WITH RECURSIVE made AS ( \
        SELECT t.oid, t.typtype = 'd' AS domain, t.typtype = 'e' AS enum, t.typbasetype AS base, t.typtypmod AS modifier, e.oid AS element \
        FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid), \
    wanted(oid, typmod) AS ( \
        SELECT o, m FROM unnest($1::oid[], $2::int4[]) u(o, m) \
        UNION SELECT CASE WHEN m.domain THEN m.base ELSE m.element END, CASE WHEN m.domain THEN m.modifier ELSE w.typmod END \
        FROM wanted w JOIN made m ON m.oid = w.oid WHERE m.domain OR m.element IS NOT NULL) \
    SELECT w.oid, w.typmod, format_type(w.oid, w.typmod), \
        CASE WHEN m.domain THEN m.base END, m.modifier, m.element, \
        CASE WHEN m.enum THEN ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = w.oid ORDER BY enumsortorder) END, \
        (SELECT t.typname::text FROM pg_type t WHERE t.oid = w.oid AND EXISTS (SELECT FROM pg_depend d \
         WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')) \
    FROM wanted w JOIN made m ON m.oid = w.oid";

/// Reads the types; those that do not exist any longer are left out. The names are qualified as the client's `search_path`
/// demands.
pub(super) async fn read(client: &Client, wanted: &[TypeId]) -> Result<Types, tokio_postgres::Error> {
    let oids: Vec<u32> = wanted.iter().map(|(oid, _)| *oid).collect();
    let typmods: Vec<i32> = wanted.iter().map(|(_, typmod)| *typmod).collect();
    let rows = client.query(QUERY, &[&oids, &typmods]).await?;
    rows.iter().map(described).collect::<Result<_, _>>().map(Types)
}

fn described(row: &Row) -> Result<(TypeId, Described), tokio_postgres::Error> {
    let (oid, typmod): (u32, i32) = (row.try_get(0)?, row.try_get(1)?);
    let base: Option<u32> = row.try_get(3)?;
    let element: Option<u32> = row.try_get(5)?;
    let labels: Option<Vec<&str>> = row.try_get(6)?;
    let extension: Option<&str> = row.try_get(7)?;
    let parts = match (base, element, labels, extension) {
        (Some(base), ..) => Parts::Domain((base, row.try_get(4)?)),
        (None, Some(element), ..) => Parts::Array((element, typmod)),
        (None, None, Some(labels), _) => Parts::Enum(labels.into_iter().map(Arc::from).collect()),
        (None, None, None, Some(name)) => Parts::Extension(name.into()),
        (None, None, None, None) => Parts::Base,
    };
    let sql: &str = row.try_get(2)?;
    Ok(((oid, typmod), Described { sql: sql.into(), parts }))
}

impl Types {
    /// The type; `None` when it was not there.
    pub(super) fn find(&self, id: TypeId) -> Option<ColumnType> {
        self.nested(id, 0)
    }

    fn nested(&self, id: TypeId, depth: usize) -> Option<ColumnType> {
        let found = self.0.get(&id)?;
        let below = |id| (depth < DEEPEST).then(|| self.nested(id, depth + 1)).flatten().map(Arc::new);
        let kind = match &found.parts {
            Parts::Base => TypeKind::Base,
            Parts::Enum(labels) => TypeKind::Enum(labels.clone()),
            Parts::Domain(base) => below(*base).map_or(TypeKind::Base, TypeKind::Domain),
            Parts::Array(element) => below(*element).map_or(TypeKind::Base, TypeKind::Array),
            Parts::Extension(name) => TypeKind::Extension(Arc::clone(name)),
        };
        Some(ColumnType { oid: id.0, typmod: id.1, sql: Arc::clone(&found.sql), kind })
    }
}
