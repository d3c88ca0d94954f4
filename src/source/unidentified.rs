//! Tables whose rows nothing tells apart. Once a publication has them the server refuses their updates and deletes, so that the application
//! would fail for being captured: a publication gets none unless that is wanted (manual, "Logical Replication", "Publication"; trap T31).

use tokio_postgres::Row;

use super::{
    error::Error,
    identity::{Blind, IdentityProblem},
    shape::{Shapes, name_at},
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
    /// Statements to run before; each does no harm alone.
    pub(super) statements: Vec<String>,
}

impl Settled {
    /// The statements, followed by another one.
    pub(super) fn before(&self, sql: &str) -> String {
        self.statements.iter().map(|statement| format!("{statement} ")).chain([sql.to_owned()]).collect()
    }

    /// Mends what can be, table by table: locks are waited for shortly, and no table's is kept while another's is waited for.
    pub(super) async fn mend(&self, client: &Client) -> Result<(), Error> {
        for statement in &self.statements {
            let timed = format!("SET LOCAL lock_timeout = '{LOCK_LIMIT}'; {statement}");
            let failed = |error| Error::statement(format!("running {statement}"), error);
            client.batch_execute(&timed).await.map_err(failed)?;
            tracing::info!(statement, "a table got a replica identity (capture.unidentified)");
        }
        Ok(())
    }
}

/// How long a statement may wait for others, and keep those waiting who come behind it.
const LOCK_LIMIT: &str = "5s";

/// Judges tables that are to come into a publication.
pub(super) async fn settle(
    client: &Client,
    (publication, tables): (&str, &[TableName]),
    shapes: &Shapes,
    policy: Unidentified,
) -> Result<Settled, Error> {
    if policy == Unidentified::Publish {
        return Ok(Settled::default());
    }
    let mut settled = Settled::default();
    for blind in find(client, publication, tables).await? {
        // The list of a table is judged for itself, and says which generated columns are published. The server refuses updates where one
        // leaves a column of the identity out, and the identity would be all of them.
        let has_list = shapes.has_list(&blind.table);
        let mend = blind.mend.filter(|mend| policy == Unidentified::Full && !(has_list && *mend == FULL));
        match mend {
            _ if has_list && matches!(blind.problem, IdentityProblem::Unpublished { .. }) => {}
            None => settled.blind.push(blind),
            Some(identity) => settled
                .statements
                .push(format!("ALTER TABLE ONLY {} REPLICA IDENTITY {identity};", blind.relation.quoted())),
        }
    }
    Ok(settled)
}

const FULL: &str = "FULL";

/// Those of the tables whose updates the server would refuse in the publication, with each of their partitions that is the reason. Of a
/// partitioned table its own identity counts too: partitions that are made later have its keys, and events are written by it. Nothing is
/// opened.
pub(super) async fn find(client: &Client, publication: &str, tables: &[TableName]) -> Result<Vec<Blind>, Error> {
    let failed = |error| Error::statement("reading the replica identities", error);
    let schemas: Vec<&str> = tables.iter().map(|table| &*table.schema).collect();
    let names: Vec<&str> = tables.iter().map(|table| &*table.table).collect();
    let knows_generated = client.server_version() >= 180_000;
    let rows = client.query(IDENTITIES, &[&schemas, &names, &knows_generated, &publication]).await.map_err(failed)?;
    let found = rows.iter().map(blind).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    Ok(found.into_iter().flatten().collect())
}

fn blind(row: &Row) -> Result<Option<Blind>, tokio_postgres::Error> {
    let identity: &str = row.try_get(4)?;
    let (is_there, is_told): (bool, bool) = (row.try_get(5)?, row.try_get(6)?);
    let (generated, of_identity): (Option<String>, Option<String>) = (row.try_get(7)?, row.try_get(8)?);
    let has_primary_key: bool = row.try_get(9)?;
    let unpublished = |column: &String| IdentityProblem::Unpublished { column: column.clone(), generated: true };
    let problem = match identity {
        "n" => Some(IdentityProblem::Nothing),
        "f" => generated.as_ref().map(unpublished),
        _ if is_told => of_identity.as_ref().map(unpublished),
        _ if is_there => Some(IdentityProblem::Deferrable),
        "d" => Some(IdentityProblem::NoPrimaryKey),
        _ => Some(IdentityProblem::IndexDropped),
    };
    let mend = if has_primary_key { Some("DEFAULT") } else { generated.is_none().then_some(FULL) };
    let named = |problem| Ok(Blind { table: name_at(row, 0)?, relation: name_at(row, 2)?, problem, mend });
    problem.map(named).transpose()
}

/// Of tables (`$1`, `$2`), and of the partitions of those that have any: the replica identity, whether it has an index, whether that tells
/// rows apart, a generated column of the table and of the index, where these are not published in `$4` and the server cares for it (`$3`), and
/// whether there is a primary key that tells rows apart. A partitioned table's own index is not valid before all partitions have it.
const IDENTITIES: &str = "
    WITH RECURSIVE below(root, relid) AS (
        SELECT c.oid, c.oid FROM unnest($1::text[], $2::text[]) t(schema, name)
        JOIN pg_namespace n ON n.nspname = t.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
        UNION ALL
        SELECT below.root, i.inhrelid FROM below JOIN pg_class c ON c.oid = below.relid AND c.relkind = 'p'
        JOIN pg_inherits i ON i.inhparent = c.oid AND NOT i.inhdetachpending),
    hidden AS (
        SELECT a.attrelid, a.attnum, a.attname::text FROM pg_attribute a
        WHERE $3 AND a.attrelid IN (SELECT relid FROM below) AND a.attnum > 0 AND NOT a.attisdropped
          AND (a.attgenerated = 'v' OR a.attgenerated = 's' AND NOT EXISTS (
                SELECT FROM pg_publication p WHERE p.pubname = $4 AND to_jsonb(p) ->> 'pubgencols' = 's')))
    SELECT rn.nspname::text, r.relname::text, n.nspname::text, c.relname::text, c.relreplident::text,
           x.indexrelid IS NOT NULL, coalesce(x.indimmediate AND (x.indisvalid OR c.relkind = 'p'), false),
           (SELECT min(h.attname) FROM hidden h WHERE h.attrelid = c.oid),
           (SELECT min(h.attname) FROM hidden h
            WHERE h.attrelid = c.oid AND h.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])),
           EXISTS (SELECT FROM pg_index k WHERE k.indrelid = c.oid AND k.indisprimary AND k.indimmediate
                   AND (k.indisvalid OR c.relkind = 'p') AND NOT EXISTS (
                        SELECT FROM hidden h WHERE h.attrelid = c.oid AND h.attnum = ANY (k.indkey::int2[])))
    FROM below JOIN pg_class c ON c.oid = below.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = below.root JOIN pg_namespace rn ON rn.oid = r.relnamespace
    LEFT JOIN pg_index x ON x.indrelid = c.oid
        AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND x.indisreplident)
    WHERE c.relpersistence = 'p' AND (c.relkind = 'r' OR c.relkind = 'p' AND c.oid = r.oid)
    ORDER BY 1, 2, 3, 4";
