//! Tables whose rows nothing tells apart. Once a publication has them the server refuses their updates and deletes, so that the application
//! would fail for being captured: a publication gets none unless that is wanted (manual, "Logical Replication", "Publication"; trap T31).

use tokio_postgres::Row;

use super::{
    error::Error,
    identity::{Blind, IdentityProblem},
    shape::Shapes,
};
use crate::{postgres::Client, schema::TableName};

/// What to do with them when a publication gets its tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unidentified {
    /// Create no publication with them, and add none to one that is there.
    #[default]
    Refuse,
    /// Give them REPLICA IDENTITY FULL.
    Full,
    /// Publish them as they are: nobody updates them, or deletes their rows.
    Publish,
}

/// The tables that stay as they are, and the statements that mend others.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Which must not be published.
    pub(super) blind: Vec<Blind>,
    /// Statements to run before, in the same transaction; empty where none is due.
    pub(super) sql: String,
}

/// How long the statements may wait for others, and keep those waiting who come behind them.
const LOCK_LIMIT: &str = "5s";

/// Judges tables that are to come into a publication.
pub(super) async fn settle(
    client: &Client,
    tables: &[TableName],
    shapes: &Shapes,
    policy: Unidentified,
) -> Result<Settled, Error> {
    if policy == Unidentified::Publish {
        return Ok(Settled::default());
    }
    let found = find(client, tables).await?;
    // The server refuses updates where a list leaves a column of the identity out, and the identity would be all of them.
    let is_mended = |blind: &Blind| policy == Unidentified::Full && blind.full_helps && !shapes.has_list(&blind.table);
    let (mended, blind): (Vec<_>, Vec<_>) = found.into_iter().partition(is_mended);
    let statement = |blind: &Blind| format!("ALTER TABLE ONLY {} REPLICA IDENTITY FULL; ", blind.relation.quoted());
    let mut sql: String = mended.iter().map(statement).collect();
    if !sql.is_empty() {
        sql.insert_str(0, &format!("SET LOCAL lock_timeout = '{LOCK_LIMIT}'; "));
    }
    Ok(Settled { blind, sql })
}

/// Those of the tables whose updates the server would refuse, with each of their partitions that is the reason. Nothing is opened.
pub(super) async fn find(client: &Client, tables: &[TableName]) -> Result<Vec<Blind>, Error> {
    let failed = |error| Error::statement("reading the replica identities", error);
    let schemas: Vec<&str> = tables.iter().map(|table| &*table.schema).collect();
    let names: Vec<&str> = tables.iter().map(|table| &*table.table).collect();
    let knows_generated = client.server_version() >= 180_000;
    let rows = client.query(IDENTITIES, &[&schemas, &names, &knows_generated]).await.map_err(failed)?;
    let found = rows.iter().map(blind).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    Ok(found.into_iter().flatten().collect())
}

fn blind(row: &Row) -> Result<Option<Blind>, tokio_postgres::Error> {
    let name = |at: usize| Ok(TableName::new(row.try_get::<_, &str>(at)?, row.try_get::<_, &str>(at + 1)?));
    let identity: &str = row.try_get(4)?;
    let (is_there, is_told): (bool, bool) = (row.try_get(5)?, row.try_get(6)?);
    let (generated, of_identity): (Option<String>, Option<String>) = (row.try_get(7)?, row.try_get(8)?);
    let problem = match identity {
        "n" => IdentityProblem::Nothing,
        "f" => match &generated {
            None => return Ok(None),
            Some(column) => IdentityProblem::Unpublished { column: column.clone(), generated: true },
        },
        _ if is_told => match of_identity {
            None => return Ok(None),
            Some(column) => IdentityProblem::Unpublished { column, generated: true },
        },
        _ if is_there => IdentityProblem::Deferrable,
        "d" => IdentityProblem::NoPrimaryKey,
        _ => IdentityProblem::IndexDropped,
    };
    Ok(Some(Blind { table: name(0)?, relation: name(2)?, problem, full_helps: generated.is_none() }))
}

/// Of tables (`$1`, `$2`), or of the partitions of those that have any: the replica identity, whether it has an index, whether that tells rows
/// apart, and a generated column of the table and of the index, where these are not published and the server cares for it (`$3`).
const IDENTITIES: &str = "
    WITH RECURSIVE below(root, relid) AS (
        SELECT c.oid, c.oid FROM unnest($1::text[], $2::text[]) t(schema, name)
        JOIN pg_namespace n ON n.nspname = t.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
        UNION ALL
        SELECT below.root, i.inhrelid FROM below JOIN pg_class c ON c.oid = below.relid AND c.relkind = 'p'
        JOIN pg_inherits i ON i.inhparent = c.oid)
    SELECT rn.nspname::text, r.relname::text, n.nspname::text, c.relname::text, c.relreplident::text,
           x.indexrelid IS NOT NULL, coalesce(x.indisvalid AND x.indimmediate, false),
           (SELECT min(a.attname::text) FROM pg_attribute a
            WHERE $3 AND a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''),
           (SELECT min(a.attname::text) FROM pg_attribute a
            WHERE $3 AND a.attrelid = c.oid AND a.attgenerated <> '' AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]))
    FROM below JOIN pg_class c ON c.oid = below.relid AND c.relkind <> 'p' JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = below.root JOIN pg_namespace rn ON rn.oid = r.relnamespace
    LEFT JOIN pg_index x ON x.indrelid = c.oid
        AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND x.indisreplident)
    ORDER BY 1, 2, 3, 4";
