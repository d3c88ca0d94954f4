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

use super::{error::Error, published};
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

    /// An error where the server knows neither lists nor filters, or one is configured for a table that is not captured.
    pub fn check(&self, client: &Client, tables: &[TableName]) -> Result<(), Error> {
        self.is_known(client)?;
        match self.0.keys().find(|table| !tables.contains(table)) {
            Some(table) => Err(Error::ShapeOfNone { table: table.clone() }),
            None => Ok(()),
        }
    }

    /// An error where the publication has a table with another list, or with a filter where none is wanted or the other way round: what can be
    /// told without a lock and without the right to create anything. Only [`Self::judge`] tells two filters apart.
    pub async fn compare(&self, client: &Client, publication: &str) -> Result<(), Error> {
        self.is_known(client)?;
        if self.0.is_empty() {
            return Ok(());
        }
        let found = read(client, publication).await?;
        for (table, shape) in &self.0 {
            let Some((columns, filter)) = found.get(table) else { continue };
            let listed: BTreeSet<&String> = shape.columns.iter().collect();
            let is_listed = listed.is_empty() || columns.iter().flatten().collect::<BTreeSet<_>>() == listed;
            if !is_listed || shape.filter.is_some() != filter.is_some() {
                return Err(self.differs(publication, table));
            }
        }
        Ok(())
    }

    /// An error where the server would refuse updates of a table for its list or filter, or the publication has the table with another
    /// one. The server judges publications that are rolled back at once.
    pub async fn judge(&self, client: &Client, publication: &str) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let found = read(client, publication).await?;
        for (table, spelt) in self.probe(client).await? {
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
            "BEGIN; ALTER PUBLICATION {name} DROP TABLE {quoted}; ALTER PUBLICATION {name} ADD TABLE {entry}; COMMIT;"
        );
        Error::ShapeDiffers { publication: publication.to_owned(), table: table.clone(), sql }
    }

    async fn probe(&self, client: &Client) -> Result<BTreeMap<TableName, Spelt>, Error> {
        // Who cleans a table or changes it holds this up; it is no reason to wait for long.
        client.batch_execute("BEGIN; SET LOCAL lock_timeout = '5s'").await.map_err(failed)?;
        let spelt = self.probed(client).await;
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        spelt
    }

    async fn probed(&self, client: &Client) -> Result<BTreeMap<TableName, Spelt>, Error> {
        let [whole, filters] = ["probe", "filters"].map(|name| format!("walrelay_{name}_{}", std::process::id()));
        let filtered = self.0.iter().filter(|(_, shape)| shape.filter.is_some());
        let filtered = filtered.map(|(table, shape)| (table.clone(), Shape { columns: Vec::new(), ..shape.clone() }));
        for (probe, shapes) in [(&whole, self), (&filters, &Self(filtered.collect()))] {
            let tables: Vec<TableName> = shapes.0.keys().cloned().collect();
            let of_tables =
                if tables.is_empty() { String::new() } else { format!("FOR TABLE {}", shapes.list(&tables)) };
            let sql = format!("CREATE PUBLICATION {probe} {of_tables} WITH (publish_via_partition_root)");
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        let sql = identities(client.server_version());
        for row in client.query(&sql, &[&whole, &filters]).await.map_err(failed)? {
            self.fits(&row)?;
        }
        read(client, &whole).await
    }

    /// Manual, "Publication", "Column Lists" and "Row Filters": a publication of updates and deletes whose list lacks a column of the replica
    /// identity, or whose filter has another column, makes the server refuse these.
    fn fits(&self, row: &Row) -> Result<(), Error> {
        let (schema, table): (String, String) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let table = TableName::new(schema, table);
        let is_full: bool = row.try_get(2).map_err(failed)?;
        let identity: Vec<String> = row.try_get(3).map_err(failed)?;
        let filtered: Vec<String> = row.try_get(4).map_err(failed)?;
        let listed = self.0.get(&table).map_or(&[][..], |shape| &shape.columns);
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
        match reason {
            Some(reason) => Err(Error::ShapeBlocks { table, reason }),
            None => Ok(()),
        }
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::statement("reading capture.column_lists and capture.row_filters", error)
}

/// The tables of a publication (`$1`): whether the replica identity is the whole row, its columns, and those of the filter that
/// another publication (`$2`) has.
fn identities(server_version: u32) -> String {
    let tables = published::tables(server_version);
    format!(
        "SELECT p.schemaname::text, p.tablename::text, c.relreplident = 'f', \
                ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
                      WHERE i.indrelid = c.oid AND (c.relreplident = 'd' AND i.indisprimary \
                            OR c.relreplident = 'i' AND i.indisreplident)), \
                ARRAY(SELECT a.attname::text FROM pg_publication b JOIN pg_publication_rel r ON r.prpubid = b.oid \
                      JOIN pg_depend d ON d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid \
                           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
                      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0 \
                      WHERE b.pubname = $2 AND r.prrelid = c.oid) \
         FROM {tables} p JOIN pg_class c ON c.oid = p.relid"
    )
}

/// Columns and filter as the server spells them.
type Spelt = (Option<Vec<String>>, Option<String>);

async fn read(client: &Client, publication: &str) -> Result<BTreeMap<TableName, Spelt>, Error> {
    let failed = |error| Error::statement(format!("reading the tables of publication {publication}"), error);
    let tables = published::tables(client.server_version());
    let sql = format!("SELECT schemaname::text, tablename::text, attnames, rowfilter FROM {tables} p");
    let rows = client.query(&sql, &[&publication]).await.map_err(failed)?;
    let table = |row: &Row| {
        let (schema, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        Ok((TableName::new(schema, table), (row.try_get(2)?, row.try_get(3)?)))
    };
    rows.iter().map(table).collect::<Result<_, _>>().map_err(failed)
}

/// `schema.table`, cut at its first dot, as patterns are.
fn named(table: &str) -> TableName {
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
