//! By which entries of the catalog a publication has its tables.
//!
//! The WAL does not tell that a table leaves a publication, nor that it comes back: what was changed in between is not sent, and
//! nothing else would be different. The entries tell: `ALTER PUBLICATION … DROP TABLE` deletes the one of the table, and what
//! adds the table again makes one with another OID (trap T37).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{error::Error, published};
use crate::postgres::Client;

/// How a publication has a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The publication's OID: what is changed while there is none the server tells.
    pub publication: u32,
    /// OIDs of the rows that say so, each of them enough: of `pg_publication_rel`, of `pg_publication_namespace`, and the
    /// publication's own if it is of all tables.
    pub entries: Vec<u32>,
    /// Row filter and column list. `SET TABLE` makes a new entry where they change, though the table never leaves.
    pub filter: String,
}

impl Membership {
    /// Whether the table has left since `earlier`, as far as can be told: another publication, filter or column list gives
    /// no answer, nor does a table without an entry of its own, as a partition has its root's.
    #[must_use]
    pub fn has_left_since(&self, earlier: &Self) -> bool {
        let comparable = self.publication == earlier.publication && self.filter == earlier.filter;
        let entered = !self.entries.is_empty() && !earlier.entries.is_empty();
        comparable && entered && !self.entries.iter().any(|entry| earlier.entries.contains(entry))
    }
}

/// How the publication has each of its tables, by `pg_class.oid`.
pub async fn read(client: &Client, publication: &str) -> Result<BTreeMap<u32, Membership>, Error> {
    let failed = |error| Error::statement(format!("reading the tables of publication {publication}"), error);
    let rows = client.query(&query(client.server_version()), &[&publication]).await.map_err(failed)?;
    let mut memberships = BTreeMap::new();
    for row in rows {
        let membership = Membership {
            publication: row.try_get(1).map_err(failed)?,
            entries: row.try_get(2).map_err(failed)?,
            filter: row.try_get(3).map_err(failed)?,
        };
        memberships.insert(row.try_get(0).map_err(failed)?, membership);
    }
    Ok(memberships)
}

/// How the publication has those of these tables that are its own, by `pg_class.oid`: a text that is another as soon as one of them leaves,
/// also if it comes back, or gets another row filter or column list. It waits for no lock.
pub async fn fingerprints(client: &Client, publication: &str, tables: &[u32]) -> Result<BTreeMap<u32, String>, Error> {
    let failed = |error| Error::statement(format!("looking for tables of publication {publication}"), error);
    let version = client.server_version();
    let sql = format!(
        "SELECT c.oid, {} FROM pg_publication b CROSS JOIN {} p JOIN pg_class c ON c.oid = p.relid \
         WHERE b.pubname = $1 AND c.oid = ANY ($2::oid[])",
        fingerprint_of(version),
        published::tables(version)
    );
    let rows = client.query(&sql, &[&publication, &tables]).await.map_err(failed)?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(failed)
}

/// The same of one table, whether or not the publication has it by now; `None` if either is gone.
pub async fn fingerprint(client: &Client, publication: &str, table: u32) -> Result<Option<String>, Error> {
    let failed = |error| Error::statement(format!("looking for a table of publication {publication}"), error);
    let sql = format!(
        "SELECT {} FROM pg_publication b CROSS JOIN pg_class c WHERE b.pubname = $1 AND c.oid = $2",
        fingerprint_of(client.server_version())
    );
    let rows = client.query(&sql, &[&publication, &table]).await.map_err(failed)?;
    rows.first().map(|row| row.try_get(0)).transpose().map_err(failed)
}

/// The rows of the catalog by which publication `b` has table `c`, each with the transaction that wrote it: of the publication, of the table
/// and of what it is a partition of, and from 15 on of their schemas. A table's dependency tells when it came to its schema.
fn fingerprint_of(server_version: u32) -> String {
    let tree = "(SELECT c.oid UNION ALL SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a)";
    let schemas = if server_version >= 150_000 {
        format!(
            "(SELECT string_agg(concat('s', s.oid, ',', s.xmin, ',', d.xmin), ' ' ORDER BY s.oid, t.oid) \
              FROM pg_class t JOIN pg_publication_namespace s ON s.pnnspid = t.relnamespace AND s.pnpubid = b.oid \
              LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.objsubid = 0 \
                 AND d.refclassid = 'pg_namespace'::regclass AND d.refobjid = t.relnamespace \
              WHERE t.oid IN {tree})"
        )
    } else {
        "NULL".to_owned()
    };
    format!(
        "concat_ws(' ', b.oid, b.xmin::text, \
            (SELECT string_agg(concat(r.oid, ',', r.xmin), ' ' ORDER BY r.oid) FROM pg_publication_rel r \
             WHERE r.prpubid = b.oid AND r.prrelid IN {tree}), {schemas})"
    )
}

/// Schemas, row filters and column lists exist from 15 on.
fn query(server_version: u32) -> String {
    let (schemas, filter) = if server_version >= 150_000 {
        (
            "UNION ALL SELECT s.oid FROM pg_publication_namespace s WHERE s.pnpubid = b.oid AND s.pnnspid = n.oid",
            "(SELECT concat_ws(' ', pg_get_expr(r.prqual, r.prrelid), r.prattrs::text) FROM pg_publication_rel r \
              WHERE r.prpubid = b.oid AND r.prrelid = c.oid)",
        )
    } else {
        ("", "NULL::text")
    };
    format!(
        "SELECT c.oid, b.oid, ARRAY(SELECT r.oid FROM pg_publication_rel r WHERE r.prpubid = b.oid AND r.prrelid = c.oid {schemas} \
                UNION ALL SELECT b.oid WHERE b.puballtables), coalesce({filter}, '') \
         FROM pg_publication b CROSS JOIN {} p \
         JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE b.pubname = $1",
        published::tables(server_version)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_left_when_none_of_its_entries_is_there_any_more() {
        let member = |publication, entries: &[u32], filter: &str| Membership {
            publication,
            entries: entries.into(),
            filter: filter.into(),
        };
        let now = member(8, &[2, 3], "");
        assert!(now.has_left_since(&member(8, &[1], "")));
        assert!(!now.has_left_since(&member(8, &[1, 3], "")));
        assert!(!now.has_left_since(&member(9, &[1], "")));
        assert!(!now.has_left_since(&member(8, &[1], "(id > 1)")));
        assert!(!now.has_left_since(&member(8, &[], "")));
        assert!(!member(8, &[], "").has_left_since(&now));
    }
}
