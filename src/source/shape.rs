//! Column lists and row filters that capture gives the publication (from version 15 on), so that the server itself leaves out what is
//! not wanted: it never comes to Kafka, and the snapshot and `verify` look at the same.
//!
//! A list or a filter counts from the moment on when its table is taken into the publication. Later it is compared and never changed: what
//! was published under another one would have to be read again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use tokio_postgres::Row;

use super::error::Error;
use crate::{
    postgres::Client,
    schema::{TableName, quote_identifier},
};

/// From this version on publications have column lists and row filters.
const SINCE: u32 = 150_000;

/// What is published of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// Names of columns; none: all.
    columns: Vec<String>,
    /// A condition in SQL; none: all rows.
    filter: Option<String>,
}

/// What is published of some tables; of the others everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes(BTreeMap<TableName, Shape>);

impl Shapes {
    /// `columns`: names, separated by commas; `filters`: conditions; both by `schema.table`.
    #[must_use]
    pub fn new(columns: &BTreeMap<String, String>, filters: &BTreeMap<String, String>) -> Self {
        let mut shapes = BTreeMap::<TableName, Shape>::new();
        for (table, list) in columns {
            let columns = list.split(',').map(|name| name.trim().to_owned()).collect();
            shapes.entry(named(table)).or_default().columns = columns;
        }
        for (table, filter) in filters {
            shapes.entry(named(table)).or_default().filter = Some(filter.clone());
        }
        Self(shapes)
    }

    /// Tables for a publication, as `FOR TABLE` takes them. ONLY, so that inheritance children are published by a pattern of their own or
    /// not at all.
    #[must_use]
    pub fn list(&self, tables: &[TableName]) -> String {
        tables.iter().map(|table| self.entry(table)).collect::<Vec<_>>().join(", ")
    }

    /// Whether a column list is configured for the table.
    pub(super) fn has_list(&self, table: &TableName) -> bool {
        self.0.get(table).is_some_and(|shape| !shape.columns.is_empty())
    }

    fn entry(&self, table: &TableName) -> String {
        let mut entry = format!("ONLY {}", table.quoted());
        let Some(Shape { columns, filter }) = self.0.get(table) else { return entry };
        if !columns.is_empty() {
            let columns: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
            let _infallible = write!(entry, " ({})", columns.join(", "));
        }
        if let Some(filter) = filter {
            // The line ends a comment that the condition may end with.
            let _infallible = write!(entry, " WHERE ({filter}\n)");
        }
        entry
    }

    fn is_known(&self, client: &Client) -> Result<(), Error> {
        match self.0.keys().next() {
            Some(first) if client.server_version() < SINCE => Err(Error::ShapesUnknown { table: first.clone() }),
            _ => Ok(()),
        }
    }

    /// The tables that they name and that are not among these.
    pub fn strangers<'a>(&'a self, tables: &'a [TableName]) -> impl Iterator<Item = &'a TableName> {
        self.0.keys().filter(|table| !tables.contains(table))
    }

    /// An error where the server knows neither lists nor filters, or one is configured for a table that is not captured.
    pub fn check(&self, client: &Client, tables: &[TableName]) -> Result<(), Error> {
        self.is_known(client)?;
        match self.strangers(tables).next() {
            Some(table) => Err(Error::ShapeOfNone { table: table.clone() }),
            None => Ok(()),
        }
    }

    /// An error where the publication has a table with another list, or with a filter where none is wanted or the other way round: what can be
    /// told without a lock and without the right to create anything. Only [`Self::judge`] tells two filters apart. Gives whether the
    /// publication has all of these tables.
    pub async fn compare(&self, client: &Client, publication: &str) -> Result<bool, Error> {
        self.is_known(client)?;
        if self.0.is_empty() {
            return Ok(true);
        }
        let found = self.entries(client, publication).await?;
        for (table, shape) in &self.0 {
            let listed: BTreeSet<String> = shape.columns.iter().cloned().collect();
            let wanted = Entry { columns: (!listed.is_empty()).then_some(listed), is_filtered: shape.filter.is_some() };
            match found.get(table) {
                Some(None) => {
                    return Err(Error::ShapeOfWhole { publication: publication.to_owned(), table: table.clone() });
                }
                Some(Some(entry)) if *entry != wanted => return Err(self.differs(publication, table)),
                _ => {}
            }
        }
        Ok(found.len() == self.0.len())
    }

    /// How the publication has the tables; `None` where it has one by its schema or with all tables, and no list counts.
    async fn entries(&self, client: &Client, publication: &str) -> Result<BTreeMap<TableName, Option<Entry>>, Error> {
        let (schemas, names) = self.names();
        let rows = client.query(ENTRIES, &[&publication, &schemas, &names]).await.map_err(failed)?;
        let entry = |row: &Row| {
            let is_whole: bool = row.try_get(2)?;
            let columns: Option<Vec<String>> = row.try_get(3)?;
            let entry = Entry { columns: columns.map(BTreeSet::from_iter), is_filtered: row.try_get(4)? };
            Ok((name_at(row, 0)?, (!is_whole).then_some(entry)))
        };
        rows.iter().map(entry).collect::<Result<_, _>>().map_err(failed)
    }

    fn names(&self) -> (Vec<&str>, Vec<&str>) {
        self.0.keys().map(|table| (&*table.schema, &*table.table)).unzip()
    }

    fn has_filters(&self) -> bool {
        self.0.values().any(|shape| shape.filter.is_some())
    }

    /// An error where the server would refuse updates of a table for its list or filter, or the publication has the table with another
    /// filter. The server judges filters in publications that are rolled back at once; where tables are to be taken into the publication
    /// (`adds`) it judges the lists too.
    pub async fn judge(&self, client: &Client, publication: &str, adds: bool) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.fit(client, "").await?;
        if !adds && !self.has_filters() {
            return Ok(());
        }
        let found = filters(client, publication).await?;
        for (table, spelt) in self.probe(client, adds).await? {
            if found.get(&table).is_some_and(|found| *found != spelt) {
                return Err(self.differs(publication, &table));
            }
        }
        Ok(())
    }

    fn differs(&self, publication: &str, table: &TableName) -> Error {
        let name = quote_identifier(publication);
        let (quoted, entry) = (table.quoted(), self.entry(table));
        let sql = format!(
            "BEGIN; ALTER PUBLICATION {name} DROP TABLE ONLY {quoted}; ALTER PUBLICATION {name} ADD TABLE {entry}; COMMIT;"
        );
        Error::ShapeDiffers { publication: publication.to_owned(), table: table.clone(), sql }
    }

    /// The filters as the server spells them.
    async fn probe(&self, client: &Client, adds: bool) -> Result<BTreeMap<TableName, String>, Error> {
        // Who cleans a table or changes it holds this up, and is held up by it; what is only compared is not worth that.
        let patience = if adds { "5s" } else { "500ms" };
        let begin = format!("BEGIN; SET LOCAL lock_timeout = '{patience}'");
        client.batch_execute(&begin).await.map_err(failed)?;
        let spelt = self.probed(client, adds).await;
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        spelt
    }

    async fn probed(&self, client: &Client, adds: bool) -> Result<BTreeMap<TableName, String>, Error> {
        let [whole, filtered] = ["probe", "filters"].map(|name| format!("walrelay_{name}_{}", std::process::id()));
        if adds {
            self.publish(client, &whole).await?;
        }
        // Without lists, so that what it depends on are the filters' columns alone.
        let alone = self.0.iter().filter(|(_, shape)| shape.filter.is_some());
        let alone = alone.map(|(table, shape)| (table.clone(), Shape { columns: Vec::new(), ..shape.clone() }));
        Self(alone.collect()).publish(client, &filtered).await?;
        self.fit(client, &filtered).await?;
        filters(client, &filtered).await
    }

    async fn publish(&self, client: &Client, publication: &str) -> Result<(), Error> {
        let tables: Vec<TableName> = self.0.keys().cloned().collect();
        let of_tables = if tables.is_empty() { String::new() } else { format!("FOR TABLE {}", self.list(&tables)) };
        let sql = format!("CREATE PUBLICATION {publication} {of_tables} WITH (publish_via_partition_root)");
        client.batch_execute(&sql).await.map_err(failed)
    }

    /// Manual, "Publication", "Column Lists" and "Row Filters": a publication of updates and deletes whose list lacks a column of the replica
    /// identity, or whose filter has another column, makes the server refuse these. Of a partitioned table the identities of its
    /// partitions count. `filters` is a publication that has the filters; empty: they are not looked at.
    async fn fit(&self, client: &Client, filters: &str) -> Result<(), Error> {
        let (schemas, names) = self.names();
        for row in client.query(IDENTITIES, &[&filters, &schemas, &names]).await.map_err(failed)? {
            self.fits(&row)?;
        }
        Ok(())
    }

    fn fits(&self, row: &Row) -> Result<(), Error> {
        let (root, table) = (name_at(row, 0).map_err(failed)?, name_at(row, 2).map_err(failed)?);
        let is_full: bool = row.try_get(4).map_err(failed)?;
        let identity: Vec<String> = row.try_get(5).map_err(failed)?;
        let filtered: Vec<String> = row.try_get(6).map_err(failed)?;
        let listed = self.0.get(&root).map_or(&[][..], |shape| &shape.columns);
        let reason = if is_full {
            (!listed.is_empty()).then(|| "a column list does not go with REPLICA IDENTITY FULL".to_owned())
        } else {
            let unlisted = identity.iter().find(|column| !listed.is_empty() && !listed.contains(column));
            let beyond = filtered.iter().find(|column| !identity.contains(column));
            let unlisted = unlisted.map(|column| format!("its column list lacks {column} of the replica identity"));
            unlisted.or_else(|| {
                beyond.map(|column| format!("its row filter has {column}, which the replica identity has not"))
            })
        };
        let whose = if root == table { String::new() } else { format!(" (a partition of {root})") };
        match reason {
            Some(reason) => Err(Error::ShapeBlocks { table, reason: format!("{reason}{whose}") }),
            None => Ok(()),
        }
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::statement("reading capture.column_lists and capture.row_filters", error)
}

/// A table's own entry in a publication.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// The columns of its list, if it has one.
    columns: Option<BTreeSet<String>>,
    /// Whether it has a filter.
    is_filtered: bool,
}

/// The entries of tables (`$2`, `$3`) in a publication (`$1`), and whether it has them by other means, where these count for nothing. Nothing
/// is opened.
const ENTRIES: &str = "
    SELECT n.nspname::text, c.relname::text, w.is_whole,
           CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(
                SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs)) END,
           r.prqual IS NOT NULL
    FROM pg_publication p CROSS JOIN unnest($2::text[], $3::text[]) t(schema, name)
    JOIN pg_namespace n ON n.nspname = t.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
    LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
    CROSS JOIN LATERAL (SELECT p.puballtables OR EXISTS (
        SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = n.oid) AS is_whole) w
    WHERE p.pubname = $1 AND (w.is_whole OR r.oid IS NOT NULL)";

/// Tables (`$2`, `$3`), and the partitions of those that have any: whether the replica identity is the whole row, its columns, and those of
/// the filter that a publication (`$1`) has for the table. Columns that a key only includes, and keys that are checked late, are no identity.
const IDENTITIES: &str = "
    WITH RECURSIVE below(root, relid) AS (
        SELECT c.oid, c.oid FROM unnest($2::text[], $3::text[]) t(schema, name)
        JOIN pg_namespace n ON n.nspname = t.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
        UNION ALL
        SELECT below.root, i.inhrelid FROM below JOIN pg_class c ON c.oid = below.relid AND c.relkind = 'p'
        JOIN pg_inherits i ON i.inhparent = c.oid)
    SELECT rn.nspname::text, r.relname::text, n.nspname::text, c.relname::text, c.relreplident = 'f',
           ARRAY(SELECT a.attname::text FROM pg_index i
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                 WHERE i.indrelid = c.oid AND i.indimmediate
                   AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)),
           ARRAY(SELECT a.attname::text FROM pg_publication b JOIN pg_publication_rel e ON e.prpubid = b.oid
                 JOIN pg_depend d ON d.classid = 'pg_publication_rel'::regclass AND d.objid = e.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
                 JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
                 WHERE b.pubname = $1 AND e.prrelid = r.oid)
    FROM below JOIN pg_class c ON c.oid = below.relid AND c.relkind <> 'p' JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = below.root JOIN pg_namespace rn ON rn.oid = r.relnamespace";

/// The row filters of a publication, as the server spells them.
async fn filters(client: &Client, publication: &str) -> Result<BTreeMap<TableName, String>, Error> {
    let sql = "SELECT n.nspname::text, c.relname::text, pg_get_expr(r.prqual, r.prrelid) FROM pg_publication p \
               JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 AND r.prqual IS NOT NULL";
    let rows = client.query(sql, &[&publication]).await.map_err(failed)?;
    rows.iter().map(|row| Ok((name_at(row, 0)?, row.try_get(2)?))).collect::<Result<_, _>>().map_err(failed)
}

/// Schema and table from two columns.
pub(super) fn name_at(row: &Row, index: usize) -> Result<TableName, tokio_postgres::Error> {
    let (schema, table): (String, String) = (row.try_get(index)?, row.try_get(index + 1)?);
    Ok(TableName::new(schema, table))
}

/// `schema.table`, cut at its first dot, as patterns are.
pub(super) fn named(table: &str) -> TableName {
    let (schema, table) = table.split_once('.').unwrap_or(("public", table));
    TableName::new(schema, table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_listed_with_what_is_wanted_of_them() {
        let one = |table: &str, text: &str| BTreeMap::from([(table.to_owned(), text.to_owned())]);
        let shapes = Shapes::new(&one("public.users", "id, E-mail,o\"k"), &one("sales.orders", "id > 3 -- why"));
        let tables = [("public", "users"), ("sales", "orders"), ("public", "rest")];
        assert_eq!(
            shapes.list(&tables.map(|(schema, table)| TableName::new(schema, table))),
            "ONLY \"public\".\"users\" (\"id\", \"E-mail\", \"o\"\"k\"), \
             ONLY \"sales\".\"orders\" WHERE (id > 3 -- why\n), ONLY \"public\".\"rest\""
        );
    }
}
