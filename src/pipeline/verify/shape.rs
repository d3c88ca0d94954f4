//! Which tables and columns are compared, read from both catalogs.
//!
//! The catalogs are read here and not through the adapters: the judge shares no code with what it judges.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, session::Session};
use crate::{record::Masks, schema::TableName, types::Mask};

/// A table as one side's catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// A partitioned table, whose rows are its partitions'.
    pub partitioned: bool,
    /// Its ordinary and generated columns, in order.
    pub columns: Vec<TableColumn>,
    /// The columns of the primary key, else of the replica identity index, else of a unique index over NOT NULL columns.
    pub key: Vec<String>,
    /// The planner's idea of its number of rows, at least 0.
    pub estimate: u64,
}

/// A column as one side's catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    /// Name.
    pub name: String,
    /// Whether it is computed from other columns.
    pub generated: bool,
}

/// A published table: which of its columns and rows are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The table.
    pub name: TableName,
    /// The published columns; `None` for all that are not generated.
    pub columns: Option<BTreeSet<String>>,
    /// The row filter as SQL.
    pub filter: Option<String>,
    /// Whether generated columns can be published at all, as from 18 on; 15 to 17 list them all the same.
    pub generated: bool,
}

/// What to compare of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The table at the source.
    pub source: TableName,
    /// The table at the target.
    pub target: TableName,
    /// Whether the source's table is partitioned.
    pub source_partitioned: bool,
    /// Whether the target's table is partitioned; `None` if it does not exist.
    pub target_partitioned: Option<bool>,
    /// The columns that both sides have, in the source's order.
    pub columns: Vec<String>,
    /// The key's columns; empty when rows are compared as a multiset.
    pub key: Vec<String>,
    /// The publication's row filter, for the source's scan.
    pub filter: Option<String>,
    /// What the source's columns are compared by that are masked.
    pub masks: BTreeMap<String, Mask>,
    /// How many buckets rows are hashed into: a power of two.
    pub buckets: u32,
    /// Differences of shape.
    pub shape: Vec<String>,
    /// What is left out and why.
    pub notes: Vec<String>,
}

/// Rows that a bucket should hold, so that a differing one is cheap to look into.
const ROWS_PER_BUCKET: u64 = 500;

impl Plan {
    /// Compares the catalogs' descriptions of a table.
    #[must_use]
    pub fn new(published: Published, source: &Table, target_name: TableName, target: Option<&Table>) -> Self {
        let mut plan = Self {
            source: published.name,
            target: target_name,
            source_partitioned: source.partitioned,
            target_partitioned: target.map(|table| table.partitioned),
            columns: Vec::new(),
            key: Vec::new(),
            filter: published.filter,
            masks: BTreeMap::new(),
            buckets: buckets(source.estimate.max(target.map_or(0, |table| table.estimate))),
            shape: Vec::new(),
            notes: Vec::new(),
        };
        for column in &source.columns {
            let name = &column.name;
            let included = match &published.columns {
                Some(columns) => columns.contains(name) && (published.generated || !column.generated),
                None => !column.generated,
            };
            if !included {
                let kind = if column.generated { "generated column" } else { "column" };
                plan.notes.push(format!("{kind} {name} is not published and not compared"));
            } else if target.is_none_or(|table| table.columns.iter().any(|other| other.name == *name)) {
                plan.columns.push(name.clone());
            } else {
                plan.shape.push(format!("column {name} is missing at the target"));
            }
        }
        if let Some(table) = target {
            let has = |name: &String| source.columns.iter().any(|column| column.name == *name);
            let added = table.columns.iter().map(|column| &column.name).filter(|name| !has(name));
            plan.notes.extend(added.map(|name| format!("column {name} is only at the target and not compared")));
        }
        if source.key.iter().all(|name| plan.columns.contains(name)) {
            plan.key.clone_from(&source.key);
        }
        if plan.key.is_empty() {
            plan.notes.push("without a key: rows are compared as a multiset".to_owned());
        }
        plan
    }
}

impl Plan {
    /// The same with the masks of the columns that are compared. Those are compared by their masks, which the target has.
    #[must_use]
    pub fn masked(mut self, masks: &Masks) -> Self {
        for name in &self.columns {
            if let Ok(Some(mask)) = masks.of(&self.source, name) {
                self.notes
                    .push(format!("column {name} is masked ({mask}): the source's masks are compared, not its values"));
                self.masks.insert(name.clone(), mask);
            }
        }
        self
    }
}

fn buckets(rows: u64) -> u32 {
    let wanted = (rows / ROWS_PER_BUCKET).clamp(64, 65_536);
    u32::try_from(wanted.next_power_of_two()).unwrap_or(65_536)
}

/// The tables of a publication. With `only`, those of it; each must be there.
pub async fn published(session: &Session, publication: &str, only: &[TableName]) -> Result<Vec<Published>, Error> {
    let doing = "reading the publication";
    let client = session.client();
    let exists = client.query_opt("SELECT 1 FROM pg_publication WHERE pubname = $1", &[&publication]).await;
    if exists.map_err(session.failed(doing))?.is_none() {
        return Err(Error::NoPublication(publication.to_owned()));
    }
    // Column lists and row filters exist from 15; through jsonb one statement serves every version. The list of a table
    // without columns is null. Before 15 the view has a partition twice that the publication lists beside its root.
    let sql = "SELECT DISTINCT schemaname::text, tablename::text,
            ARRAY(SELECT jsonb_array_elements_text(nullif(to_jsonb(p) -> 'attnames', 'null'))), to_jsonb(p) ->> 'rowfilter'
        FROM pg_publication_tables p WHERE pubname = $1 ORDER BY 1, 2";
    let rows = client.query(sql, &[&publication]).await.map_err(session.failed(doing))?;
    let (mut tables, mut seen) = (Vec::new(), BTreeSet::new());
    for row in rows {
        let read =
            || Ok((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?, row.try_get(2)?, row.try_get(3)?));
        let (schema, table, columns, filter): (_, _, Vec<String>, _) = read().map_err(session.failed(doing))?;
        let name = TableName::new(schema, table);
        if only.is_empty() || only.contains(&name) {
            seen.insert(name.clone());
            let columns = (!columns.is_empty()).then(|| columns.into_iter().collect());
            tables.push(Published { name, columns, filter, generated: session.server_version() >= 180_000 });
        }
    }
    match only.iter().find(|name| !seen.contains(name)) {
        Some(table) => Err(Error::NotPublished { table: table.clone(), publication: publication.to_owned() }),
        None => Ok(tables),
    }
}

/// Descriptions of those of `names` that exist.
pub async fn describe(session: &Session, names: &[TableName]) -> Result<BTreeMap<TableName, Table>, Error> {
    let doing = "reading the catalog";
    let schemas: Vec<&str> = names.iter().map(|name| &*name.schema).collect();
    let tables: Vec<&str> = names.iter().map(|name| &*name.table).collect();
    let rows = session.client().query(DESCRIBE, &[&schemas, &tables]).await.map_err(session.failed(doing))?;
    let mut described = BTreeMap::new();
    for row in rows {
        let read = || {
            let names: Vec<String> = row.try_get(3)?;
            let generated: Vec<bool> = row.try_get(4)?;
            let columns = names.into_iter().zip(generated);
            let table = Table {
                partitioned: row.try_get(2)?,
                columns: columns.map(|(name, generated)| TableColumn { name, generated }).collect(),
                key: row.try_get(5)?,
                estimate: row.try_get::<_, i64>(6)?.unsigned_abs(),
            };
            Ok((TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?), table))
        };
        let (name, table) = read().map_err(session.failed(doing))?;
        described.insert(name, table);
    }
    Ok(described)
}

const DESCRIBE: &str = "
    SELECT n.nspname::text, c.relname::text, c.relkind = 'p',
        ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            ORDER BY attnum),
        ARRAY(SELECT attgenerated <> '' FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            ORDER BY attnum),
        ARRAY(SELECT a.attname::text FROM unnest(k.attnums) WITH ORDINALITY u (attnum, place)
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum ORDER BY u.place),
        coalesce((SELECT sum(greatest(leaf.reltuples, leaf.relpages, 0)) FROM pg_partition_tree(c.oid) t
            JOIN pg_class leaf ON leaf.oid = t.relid WHERE t.isleaf), greatest(c.reltuples, c.relpages, 0))::bigint
    FROM unnest($1::text[], $2::text[]) wanted (nsp, rel)
    JOIN pg_namespace n ON n.nspname = wanted.nsp
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.rel AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
    LEFT JOIN LATERAL (
        SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS attnums FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
            AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attnotnull
                AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
        ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid LIMIT 1
    ) k ON true";

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[&str], key: &[&str]) -> Table {
        let column =
            |name: &&str| TableColumn { name: name.trim_end_matches('*').to_owned(), generated: name.ends_with('*') };
        Table {
            partitioned: false,
            columns: columns.iter().map(column).collect(),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            estimate: 0,
        }
    }

    fn plan(columns: Option<&[&str]>, source: &Table, target: Option<&Table>) -> Plan {
        let name = TableName::new("public", "t");
        let columns = columns.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        Plan::new(Published { name: name.clone(), columns, filter: None, generated: false }, source, name, target)
    }

    #[test]
    fn only_published_columns_are_compared_and_the_rest_is_noted() {
        let table = table(&["id", "a", "g*"], &["id"]);
        let all = plan(None, &table, Some(&table));
        assert_eq!(all.columns, ["id", "a"]);
        assert_eq!(all.notes, ["generated column g is not published and not compared"]);
        let some = plan(Some(&["id", "g"]), &table, Some(&table));
        assert_eq!(some.columns, ["id"]);
        assert_eq!(some.notes.len(), 2);
        assert_eq!(some.notes[0], "column a is not published and not compared");
        assert!(some.shape.is_empty());
    }

    #[test]
    fn a_column_that_the_target_lacks_is_a_difference_of_shape() {
        let plan = plan(None, &table(&["id", "a"], &["id"]), Some(&table(&["id", "b"], &["id"])));
        assert_eq!(plan.shape, ["column a is missing at the target"]);
        assert_eq!(plan.notes, ["column b is only at the target and not compared"]);
        assert_eq!((plan.columns, plan.key), (vec!["id".to_owned()], vec!["id".to_owned()]));
    }

    #[test]
    fn a_key_that_is_not_wholly_compared_is_no_key() {
        let plan = plan(None, &table(&["id", "b", "a"], &["id", "b"]), Some(&table(&["id", "a"], &["id"])));
        assert!(plan.key.is_empty());
    }

    #[test]
    fn bucket_counts_are_powers_of_two_within_bounds() {
        assert_eq!([0, 32_000, 50_000, 1 << 40].map(buckets), [64, 64, 128, 65_536]);
    }
}
