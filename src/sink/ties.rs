//! Which tables a stopped one keeps from being emptied: those that foreign keys of the target tie to it.
//!
//! A table that a stopped one references cannot lose its rows alone: TRUNCATE is refused, DELETE too, or it takes the stopped
//! table's rows along (ON DELETE CASCADE). One that references a stopped table could, but its newer rows would then hang on
//! rows that are still to go, and go with them. So ties count in both directions, and through tables that are ready.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::{
    schema::TableName,
    sink::{error::Error, ledger::Ledger},
};

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tie {
    /// The table that has it.
    pub referencing: TableName,
    /// The table that it references.
    pub referenced: TableName,
}

/// A table as a relation of statements that concern its rows alone: those of tables that inherit from it may be another topic's (`ONLY`), those
/// of partitions are its own.
#[must_use]
pub fn own(name: &TableName, is_partitioned: bool) -> String {
    if is_partitioned { name.quoted() } else { format!("ONLY {}", name.quoted()) }
}

/// A foreign key between applied tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// OID of the applied table that has it, or one of whose partitions has.
    pub referencing: u32,
    /// OID of the applied table that it references, or one of whose partitions it does.
    pub referenced: u32,
    /// The table that has it.
    pub table: TableName,
    /// That table as a relation of a FROM clause.
    pub from: String,
    /// The condition that a row `t` of the referenced table is referenced by a row `k` of that one.
    pub same: String,
}

/// Whether constraint `f` is checked in this session. A partitioned table's has no triggers of its own in some versions, and
/// one that is NOT ENFORCED has none either: versions before 18 have no such column.
pub const ENFORCED: &str = "coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true) AND coalesce((SELECT bool_or(g.tgenabled = 'A' OR g.tgenabled = \
    CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END) \
    FROM pg_trigger g WHERE g.tgconstraint = f.oid), true)";

/// The stopped topics that each ready topic is tied to, by the foreign key that does it.
pub type Tied = BTreeMap<String, BTreeMap<String, Tie>>;

/// Which of the `ready` topics are tied to `stopped` ones. `target` gives the table of a topic that was never applied.
pub async fn to_stopped<'a>(
    client: &Client,
    ledger: &Ledger,
    target: &(dyn Fn(&str) -> Option<TableName> + Send + Sync),
    ready: impl Iterator<Item = &'a str>,
    stopped: &BTreeSet<&'a str>,
) -> Result<Tied, Error> {
    if stopped.is_empty() {
        return Ok(Tied::new());
    }
    let topics: Vec<&str> = ready.chain(stopped.iter().copied()).collect();
    let tables: Vec<Option<TableName>> = topics.iter().map(|topic| target(topic)).collect();
    let schemas: Vec<Option<&str>> = tables.iter().map(|table| table.as_ref().map(|table| &*table.schema)).collect();
    let names: Vec<Option<&str>> = tables.iter().map(|table| table.as_ref().map(|table| &*table.table)).collect();
    let sql = format!(
        "WITH own AS (SELECT u.topic, n.nspname::text AS schema, c.relname::text AS name, c.oid \
           FROM unnest($2::text[], $3::text[], $4::text[]) AS u (topic, schema, name) \
           LEFT JOIN {} t ON t.instance = $1 AND t.topic = u.topic \
           JOIN pg_class c ON c.relname = coalesce(t.target_table, u.name) \
           JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = coalesce(t.target_schema, u.schema)), \
         parts AS (SELECT topic, schema, name, oid FROM own \
           UNION SELECT topic, schema, name, relid FROM own CROSS JOIN LATERAL pg_partition_tree(oid)) \
         SELECT DISTINCT a.topic, a.schema, a.name, b.topic, b.schema, b.name FROM pg_constraint f \
         JOIN parts a ON a.oid = f.conrelid JOIN parts b ON b.oid = f.confrelid \
         WHERE f.contype = 'f' AND a.topic <> b.topic AND {ENFORCED}",
        ledger.table("topic")
    );
    let rows = client.query(&sql, &[&ledger.instance(), &topics, &schemas, &names]).await;
    let rows = rows.map_err(Error::query("look for foreign keys between tables"))?;
    let ties = rows.iter().map(|row| {
        let table = |at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
        (row.get(0), row.get(3), Tie { referencing: table(1), referenced: table(4) })
    });
    Ok(spread(&ties.collect::<Vec<_>>(), stopped))
}

/// The foreign keys by which tables of these books, whichever instance applies them, reference the tables with these OIDs; each may
/// reference itself.
pub async fn references(client: &Client, ledger: &Ledger, tables: &[u32]) -> Result<Vec<Reference>, Error> {
    let sql = format!(
        "WITH own AS (SELECT c.oid FROM {} t JOIN pg_namespace n ON n.nspname = t.target_schema \
           JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.target_table), \
         parts AS (SELECT oid AS root, oid FROM own UNION SELECT oid, relid FROM own CROSS JOIN LATERAL pg_partition_tree(oid) \
           UNION SELECT oid, relid FROM own CROSS JOIN LATERAL pg_partition_ancestors(oid)) \
         SELECT a.root, b.root, n.nspname::text, r.relname::text, r.relkind = 'p', \
           (SELECT string_agg(format('t.%I OPERATOR(%I.%s) k.%I', y.attname, m.nspname, o.oprname, x.attname) || coalesce((\
              SELECT format(' COLLATE %I.%I', cn.nspname, cl.collname) FROM pg_collation cl JOIN pg_namespace cn ON cn.oid = cl.collnamespace \
              WHERE cl.oid = y.attcollation AND x.attcollation <> y.attcollation), ''), ' AND ') \
            FROM unnest(f.conkey, f.confkey, f.conpfeqop) AS u (mine, other, equality) \
            JOIN pg_attribute x ON x.attrelid = f.conrelid AND x.attnum = u.mine \
            JOIN pg_attribute y ON y.attrelid = f.confrelid AND y.attnum = u.other \
            JOIN pg_operator o ON o.oid = u.equality JOIN pg_namespace m ON m.oid = o.oprnamespace) \
         FROM pg_constraint f JOIN parts a ON a.oid = f.conrelid JOIN parts b ON b.oid = f.confrelid \
         JOIN pg_class r ON r.oid = f.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE f.contype = 'f' AND f.conparentid = 0 AND b.root = ANY ($1) AND {ENFORCED}",
        ledger.table("topic")
    );
    let rows = client.query(&sql, &[&tables]).await.map_err(Error::query("look for foreign keys between tables"))?;
    let reference = |row: &tokio_postgres::Row| {
        let table = TableName::new(row.get::<_, String>(2), row.get::<_, String>(3));
        let from = own(&table, row.get(4));
        Reference { referencing: row.get(0), referenced: row.get(1), table, from, same: row.get(5) }
    };
    Ok(rows.iter().map(reference).collect())
}

/// Hands what a topic is tied to on to its neighbours, as far as these are not stopped themselves.
fn spread(ties: &[(String, String, Tie)], stopped: &BTreeSet<&str>) -> Tied {
    let is_stopped = |topic: &String| stopped.contains(topic.as_str());
    let mut tied = Tied::new();
    let mut grows = true;
    while grows {
        grows = false;
        for (from, to, tie) in ties.iter().flat_map(|(a, b, tie)| [(a, b, tie), (b, a, tie)]) {
            if is_stopped(to) {
                continue;
            }
            let more = if is_stopped(from) {
                BTreeMap::from([(from.clone(), tie.clone())])
            } else {
                tied.get(from).cloned().unwrap_or_default()
            };
            let known = tied.entry(to.clone()).or_default();
            for (topic, tie) in more {
                grows |= known.insert(topic, tie).is_none();
            }
        }
    }
    tied.retain(|_, stopped| !stopped.is_empty());
    tied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_reach_through_tables_that_are_ready_and_not_beyond() {
        let tie = |a: &str, b: &str| {
            let table = |name: &str| TableName::new("public", name);
            (a.to_owned(), b.to_owned(), Tie { referencing: table(a), referenced: table(b) })
        };
        let ties = [tie("grandchild", "child"), tie("child", "parent"), tie("other", "stranger")];
        let found = spread(&ties, &BTreeSet::from(["parent"]));
        let by = BTreeMap::from([("parent".to_owned(), tie("child", "parent").2)]);
        assert_eq!(found, Tied::from([("child".to_owned(), by.clone()), ("grandchild".to_owned(), by)]));
        let found = spread(&ties, &BTreeSet::from(["child"]));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["grandchild", "parent"]);
    }
}
