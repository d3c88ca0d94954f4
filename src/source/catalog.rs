//! The catalog of the published tables: three bulk queries, whatever the number of tables.
//!
//! It is read over an ordinary connection, so it shows the present, while the stream shows the past: a Relation message
//! is compared with it by [`super::version`] before it is believed (trap T35).

use std::collections::HashMap;

use tokio_postgres::Row;

use super::{
    column_type::{self, TypeId, Types},
    error::Error,
    identity::IdentityProblem,
    key::{CatalogColumn, CatalogIndex, event_key, identity_problems},
    key_columns::{self, KeyColumns},
    published,
};
use crate::{
    lsn::Lsn,
    postgres::{self, Client, Settings},
    schema::{Column, Lineage, Relation, ReplicaIdentity, TableName},
    types::ColumnType,
};

/// A table of the publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTable {
    /// Its published columns and event key.
    pub relation: Relation,
    /// It is the root of partitions.
    pub partitioned: bool,
    /// The publication's row filter, as SQL (15+).
    pub row_filter: Option<String>,
    /// Rows as ANALYZE last counted them, partitions included; `None` if it never did.
    pub estimated_rows: Option<u64>,
    /// What is wrong with its replica identity, and with the key that is configured; in the latter case its key is empty.
    pub problems: Vec<IdentityProblem>,
}

impl PublishedTable {
    /// Why it cannot have the key that is configured for it.
    #[must_use]
    pub fn key_problem(&self) -> Option<&IdentityProblem> {
        self.problems.iter().find(|problem| problem.is_of_configured_key())
    }

    /// What keeps its rows from being read beside the stream. That nothing tells them apart does not: they are read at one point.
    #[must_use]
    pub fn unreadable(&self) -> Option<&IdentityProblem> {
        let tells_none_apart = |problem: &IdentityProblem| {
            self.relation.key.is_empty()
                && matches!(
                    problem,
                    IdentityProblem::FullWithoutKey | IdentityProblem::NoPrimaryKey | IdentityProblem::Nothing
                )
        };
        self.problems.iter().find(|problem| !tells_none_apart(problem))
    }

    /// An error where it cannot have the key that is configured for it.
    pub fn must_have_key(&self) -> Result<(), Error> {
        let unfit = |problem: &IdentityProblem| Error::KeyColumnsUnfit {
            table: self.relation.name.clone(),
            problem: problem.clone(),
        };
        self.key_problem().map_or(Ok(()), |problem| Err(unfit(problem)))
    }
}

/// All tables of a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Sorted by name.
    pub tables: Vec<PublishedTable>,
}

impl Catalog {
    /// The table with this `pg_class.oid`.
    #[must_use]
    pub fn by_oid(&self, oid: u32) -> Option<&PublishedTable> {
        self.tables.iter().find(|table| table.relation.oid == oid)
    }

    /// The table of this name.
    #[must_use]
    pub fn by_name(&self, name: &TableName) -> Option<&PublishedTable> {
        self.tables.iter().find(|table| table.relation.name == *name)
    }
}

/// Connects for catalog queries and snapshots: `search_path` is `pg_catalog` alone, so that type names and row filters come
/// out qualified, and row security may not hide rows silently. Without compilation, which would take many times as long as such a query.
pub async fn connect(settings: &Settings, application_name: &str) -> Result<Client, Error> {
    let extra = [("search_path", "pg_catalog"), ("row_security", "off"), ("jit", "off")];
    Ok(postgres::client::connect_with(settings, application_name, &extra).await?)
}

/// Reads the tables of a publication, with the keys that are configured for some of them. `client` must come from [`connect`].
pub async fn read(client: &Client, publication: &str, keys: &KeyColumns) -> Result<Catalog, Error> {
    let failed = |error| Error::statement(format!("reading the tables of publication {publication}"), error);
    let sql = tables_query("p.attnames, p.rowfilter", &published::tables(client.server_version()));
    let tables = client.query(&sql, &[&publication]).await.map_err(failed)?;
    describe(client, &tables, keys).await.map_err(failed)
}

/// Reads tables as a publication of whole tables would publish them. `client` must come from [`connect`].
pub async fn preview(client: &Client, tables: &[TableName], keys: &KeyColumns) -> Result<Catalog, Error> {
    let failed = |error| Error::statement("reading the tables", error);
    let schemas: Vec<&str> = tables.iter().map(|table| &*table.schema).collect();
    let names: Vec<&str> = tables.iter().map(|table| &*table.table).collect();
    let tables = client.query(&tables_query("NULL::text[], NULL::text", LISTED), &[&schemas, &names]).await;
    let tables = tables.map_err(failed)?;
    describe(client, &tables, keys).await.map_err(failed)
}

/// Adds columns and indexes to the rows of [`tables_query`].
async fn describe(client: &Client, tables: &[Row], keys: &KeyColumns) -> Result<Catalog, tokio_postgres::Error> {
    let version = client.server_version();
    let oids = tables.iter().map(|row| row.try_get(0)).collect::<Result<Vec<u32>, _>>()?;
    let columns = client.query(COLUMNS, &[&oids]).await?;
    let types = columns.iter().map(type_id).collect::<Result<Vec<_>, _>>()?;
    let types = column_type::read(client, &types).await?;
    let mut columns = by_relation(&columns, |row| column(row, &types))?;
    let indexes = client.query(INDEXES, &[&oids]).await?;
    let mut indexes = by_relation(&indexes, index)?;
    let mut catalog = Catalog::default();
    for (row, oid) in tables.iter().zip(oids) {
        let columns = columns.remove(&oid).unwrap_or_default();
        let indexes = indexes.remove(&oid).unwrap_or_default();
        catalog.tables.push(table((row, oid), columns, &indexes, (version, keys))?);
    }
    Ok(catalog)
}

/// The end of WAL at present: what lag is measured against.
pub async fn current_wal_lsn(client: &Client) -> Result<Lsn, Error> {
    let failed = |error| Error::statement("reading the end of WAL", error);
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text";
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    let text: String = row.try_get(0).map_err(failed)?;
    Ok(text.parse().unwrap_or(Lsn::ZERO))
}

/// Tables by schemas (`$1`) and names (`$2`).
const LISTED: &str = "(SELECT * FROM unnest($1::text[], $2::text[]) AS l(schemaname, tablename))";

/// No function here opens a table, or this would wait while a statement has one for itself.
fn tables_query(columns: &str, from: &str) -> String {
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relreplident::text, \
                CASE WHEN c.relkind = 'p' \
                     THEN (WITH RECURSIVE t(oid) AS ( \
                              SELECT c.oid UNION SELECT i.inhrelid FROM t JOIN pg_inherits i ON i.inhparent = t.oid) \
                           SELECT sum(nullif(l.reltuples, -1)) FROM t JOIN pg_class l ON l.oid = t.oid \
                           WHERE l.relkind <> 'p') \
                     ELSE nullif(c.reltuples, -1) END::float8, {columns}, pg_relation_filenode(c.oid) \
         FROM {from} p JOIN pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         ORDER BY 2, 3"
    )
}

/// A default names no column, so its expression is spelt without its table, which the server would open from 17 on.
const COLUMNS: &str = "SELECT attrelid, attnum, attname::text, atttypid, atttypmod, attnotnull, attgenerated <> '', \
    NOT coalesce((SELECT collisdeterministic FROM pg_collation c WHERE c.oid = attcollation), true), \
    (SELECT pg_get_expr(adbin, 0) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum AND attgenerated = '') \
    FROM pg_attribute \
    WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum";

const INDEXES: &str = "SELECT i.indrelid, c.relname::text, i.indisprimary, i.indisreplident, \
    i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL, \
    ARRAY(SELECT k FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(k, n) WHERE n <= i.indnkeyatts ORDER BY n), i.indimmediate \
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
    WHERE i.indrelid = ANY($1) AND (i.indisunique OR i.indisreplident)";

fn by_relation<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<HashMap<u32, Vec<T>>, tokio_postgres::Error> {
    let mut map: HashMap<u32, Vec<T>> = HashMap::new();
    for row in rows {
        map.entry(row.try_get(0)?).or_default().push(read(row)?);
    }
    Ok(map)
}

fn type_id(row: &Row) -> Result<TypeId, tokio_postgres::Error> {
    Ok((row.try_get(3)?, row.try_get(4)?))
}

fn column(row: &Row, types: &Types) -> Result<CatalogColumn, tokio_postgres::Error> {
    let attnum = row.try_get(1)?;
    let id = type_id(row)?;
    // A type that was dropped meanwhile took the column with it; the stream tells.
    let ty = types.find(id).unwrap_or_else(|| ColumnType::base(id.0, id.1, "text"));
    let name: &str = row.try_get(2)?;
    let not_null: bool = row.try_get(5)?;
    let column = Column {
        name: name.into(),
        attnum: Some(attnum),
        ty,
        nullable: !not_null,
        nondeterministic: row.try_get(7)?,
        optional: false,
        added: false,
        default: row.try_get::<_, Option<&str>>(8)?.map(Into::into),
        missing: None,
        null_items: false,
    };
    Ok(CatalogColumn { column, attnum, published: true, generated: row.try_get(6)? })
}

fn index(row: &Row) -> Result<CatalogIndex, tokio_postgres::Error> {
    Ok(CatalogIndex {
        name: row.try_get(1)?,
        primary: row.try_get(2)?,
        identity: row.try_get(3)?,
        usable: row.try_get(4)?,
        attnums: row.try_get(5)?,
        immediate: row.try_get(6)?,
    })
}

fn table(
    (row, oid): (&Row, u32),
    mut columns: Vec<CatalogColumn>,
    indexes: &[CatalogIndex],
    (server_version, keys): (u32, &KeyColumns),
) -> Result<PublishedTable, tokio_postgres::Error> {
    let name = TableName::new(row.try_get::<_, &str>(1)?, row.try_get::<_, &str>(2)?);
    let identity: &str = row.try_get(4)?;
    // The catalog knows no other letters; DEFAULT is what a table has unless it says otherwise.
    let identity = identity.bytes().next().and_then(ReplicaIdentity::from_byte).unwrap_or(ReplicaIdentity::Default);
    let rows: Option<f64> = row.try_get(5)?;
    let listed: Option<Vec<String>> = row.try_get(6)?;
    for column in &mut columns {
        let listed = listed.as_ref().is_none_or(|listed| listed.iter().any(|name| **name == *column.column.name));
        // Below 18 a generated column is never sent, even where the view lists it.
        column.published = listed && (!column.generated || server_version >= 180_000);
    }
    let mut problems = identity_problems(identity, &columns, indexes, server_version);
    let partitioned = row.try_get(3)?;
    let choose = |names| key_columns::choose(names, (identity, partitioned), &columns, indexes);
    let key = match keys.of(&name).map(choose) {
        None => event_key(&columns, indexes),
        Some(Ok(key)) => key,
        Some(Err(problem)) => {
            problems.retain(|problem| *problem != IdentityProblem::FullWithoutKey);
            problems.push(problem);
            Vec::new()
        }
    };
    let columns = columns.into_iter().filter(|column| column.published).map(|column| column.column).collect();
    Ok(PublishedTable {
        relation: Relation {
            oid,
            name,
            identity,
            columns,
            key,
            lineage: Lineage { file: row.try_get(8)?, ..Lineage::default() },
        },
        partitioned,
        row_filter: row.try_get(7)?,
        estimated_rows: rows.map(whole),
        problems,
    })
}

/// An estimate as a count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates, and NaN becomes 0")]
fn whole(rows: f64) -> u64 {
    rows as u64
}
