//! How a table's rows lie in the server at present: what tells that they changed without an event (PROTOCOL 7).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::future::try_join;
use tokio_postgres::types::ToSql;

use super::error::Error;
use crate::{
    postgres::Client,
    schema::{Column, Relation},
    types::single_item,
};

/// A table's columns, indexes and file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The file that the rows lie in (`pg_relation_filenode`): another one after each rewrite. A partitioned table has none.
    pub file: Option<u32>,
    /// The columns.
    pub columns: Vec<LaidColumn>,
    /// The columns of each index that may identify rows, by number.
    pub keys: Vec<BTreeSet<i16>>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaidColumn {
    /// Its name.
    pub name: Arc<str>,
    /// `pg_attribute.attnum`: survives a rename.
    pub attnum: i16,
    /// `pg_attribute.atttypid`
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`
    pub typmod: i32,
    /// `pg_attribute.attmissingval`: the value, as text, that rows have which are older than the column.
    pub missing: Option<String>,
    /// Rows that are older than it may have got a value by themselves: it or its type has a default, it is an identity column, or
    /// allows no NULL.
    pub is_filled: bool,
    /// It is a generated column, which servers before 18 do not publish.
    pub is_generated: bool,
    /// The expression of its default (`pg_get_expr`), where it is no generated column.
    pub default: Option<Box<str>>,
}

/// Leaves of a partitioned table have what it has not itself. They are found without a lock: whoever holds one on a leaf would hold
/// up the stream.
const COLUMNS: &str = "WITH RECURSIVE tree AS (SELECT $1::oid AS relid UNION ALL SELECT i.inhrelid FROM tree \
        JOIN pg_class c ON c.oid = tree.relid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = tree.relid) \
    SELECT a.attname::text, a.attnum, a.atttypid, a.atttypmod, a.atthasdef OR a.attidentity <> '' OR a.attnotnull \
        OR (SELECT y.typdefault IS NOT NULL FROM pg_type y WHERE y.oid = a.atttypid), \
    coalesce(a.attmissingval::text, (SELECT l.attmissingval::text FROM tree t \
        JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname WHERE l.atthasmissing LIMIT 1)), \
    pg_relation_filenode(a.attrelid), a.attgenerated <> '', \
    (SELECT pg_get_expr(d.adbin, 0) FROM pg_attrdef d \
        WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = '') \
    FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";

const KEYS: &str = "SELECT ARRAY(SELECT k FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(k, n) WHERE n <= i.indnkeyatts) \
    FROM pg_index i WHERE i.indrelid = $1 AND (i.indisprimary AND i.indimmediate OR i.indisreplident OR i.indisunique AND i.indimmediate \
        AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
        AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND NOT a.attnotnull \
            AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])))";

/// Reads the layout of a table; that of one which is gone is empty. `client` must come from [`connect`](super::catalog::connect).
pub async fn read(client: &Client, oid: u32) -> Result<Layout, Error> {
    let failed = |error| Error::statement("reading how the rows of a table lie", error);
    let parameters: [&(dyn ToSql + Sync); 1] = [&oid];
    let answers = try_join(client.query(COLUMNS, &parameters), client.query(KEYS, &parameters)).await;
    let (columns, keys) = answers.map_err(failed)?;
    let mut layout = Layout::default();
    for row in &columns {
        let name: &str = row.try_get(0).map_err(failed)?;
        let missing: Option<&str> = row.try_get(5).map_err(failed)?;
        layout.file = row.try_get(6).map_err(failed)?;
        layout.columns.push(LaidColumn {
            name: name.into(),
            attnum: row.try_get(1).map_err(failed)?,
            type_oid: row.try_get(2).map_err(failed)?,
            typmod: row.try_get(3).map_err(failed)?,
            is_filled: row.try_get(4).map_err(failed)?,
            is_generated: row.try_get(7).map_err(failed)?,
            default: row.try_get::<_, Option<&str>>(8).map_err(failed)?.map(Into::into),
            missing: missing.and_then(single_item),
        });
    }
    for row in &keys {
        let attnums: Vec<i16> = row.try_get(0).map_err(failed)?;
        layout.keys.push(attnums.into_iter().collect());
    }
    Ok(layout)
}

/// The labels of enumerations at present, in their order, by `pg_type.oid`. A type that is gone has none.
pub async fn labels(client: &Client, oids: &[u32]) -> Result<BTreeMap<u32, Vec<String>>, Error> {
    let failed = |error| Error::statement("reading the labels of enumerations", error);
    let sql = "SELECT enumtypid, array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum \
               WHERE enumtypid = ANY ($1) GROUP BY enumtypid";
    let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
    rows.iter().map(|row| Ok((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?))).collect()
}

impl Layout {
    /// The column as it is described; `None` where the catalog has another one by now.
    #[must_use]
    pub fn find(&self, column: &Column) -> Option<&LaidColumn> {
        let same = |laid: &&LaidColumn| {
            laid.name == column.name && laid.type_oid == column.ty.oid && laid.typmod == column.ty.typmod
        };
        self.columns.iter().find(same)
    }

    /// Gives the columns the defaults that they have at present: a change of one is in no message.
    pub fn tell_defaults(&self, relation: &mut Relation) {
        for column in &mut relation.columns {
            if let Some(laid) = self.find(column) {
                column.set_default(laid.default.as_deref());
            }
        }
    }
}
