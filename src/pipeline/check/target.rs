//! The target: rights, and tables that are there already.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::{
    deps::TargetDeps,
    finding::{Finding, Findings, Part},
    tables,
};
use crate::{
    pipeline::applied::is_applied,
    postgres::{self, Client, Error},
    schema::{TableName, quote_identifier},
    source::catalog::PublishedTable,
};

const OLDEST_VERSION: u32 = 140_000;

pub(super) async fn check(deps: &TargetDeps, tables: &[PublishedTable]) -> Vec<Finding> {
    let mut findings = Findings::new(Part::Target);
    match postgres::connect(&deps.settings, "walrelay check").await {
        Ok(client) => {
            let version = client.server_version();
            findings
                .ok(client.address().to_owned(), format!("answers; PostgreSQL {}.{}", version / 10_000, version % 100));
            if version < OLDEST_VERSION {
                findings.problem("version", "is older than PostgreSQL 14", "Upgrade the server.");
            }
            if let Err(error) = look(&client, deps, tables, &mut findings).await {
                findings.failed("catalog", &error);
            }
            client.close().await;
        }
        Err(error) => findings.failed(deps.settings.address(), &error),
    }
    findings.into_list()
}

async fn look(
    client: &Client,
    deps: &TargetDeps,
    tables: &[PublishedTable],
    findings: &mut Findings,
) -> Result<(), Error> {
    encoding(client, findings).await?;
    let applied: Vec<_> =
        tables.iter().filter(|table| is_applied(&deps.tables, &deps.names, &table.relation.name)).collect();
    let places: Vec<_> = applied.iter().map(|table| (*table, place(deps, &table.relation.name))).collect();
    let mut creates = BTreeSet::from([deps.bookkeeping.clone()]);
    for (source, name) in places {
        match TargetTable::read(client, &name).await? {
            Some(target) => target.judge(findings, &name, source, &deps.settings.user),
            None => {
                creates.insert(name.schema.to_string());
                findings.ok(format!("table {name}"), "does not exist; apply creates it");
            }
        }
    }
    for schema in creates {
        rights(client, &schema, &deps.settings.user, findings).await?;
    }
    Ok(())
}

/// Where a source table is applied to.
fn place(deps: &TargetDeps, source: &TableName) -> TableName {
    let schema = deps.schemas.get(&*source.schema).map_or(&*source.schema, String::as_str);
    TableName::new(schema, source.table.clone())
}

async fn encoding(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let doing = "reading the database's encoding";
    let row = client.query_one("SELECT current_setting('server_encoding')", &[]).await;
    let encoding: String = row.and_then(|row| row.try_get(0)).map_err(|error| Error::statement(doing, error))?;
    if encoding == "UTF8" {
        findings.ok("encoding", "UTF8");
    } else {
        findings.warning(
            "encoding",
            format!("is {encoding}: characters that it lacks stop their table"),
            "Apply to a database with encoding UTF8.",
        );
    }
    Ok(())
}

/// Whether apply can create tables in a schema, or the schema itself.
async fn rights(client: &Client, schema: &str, user: &str, findings: &mut Findings) -> Result<(), Error> {
    let failed = |error| Error::statement(format!("reading the rights on schema {schema}"), error);
    let sql = "SELECT (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1), \
               has_database_privilege(current_database(), 'CREATE'), current_database()::text";
    let row = client.query_one(sql, &[&schema]).await.map_err(failed)?;
    let in_schema: Option<bool> = row.try_get(0).map_err(failed)?;
    let in_database: bool = row.try_get(1).map_err(failed)?;
    let database: String = row.try_get(2).map_err(failed)?;
    let (subject, role) = (format!("schema {schema}"), quote_identifier(user));
    match in_schema {
        Some(true) => findings.ok(subject, "the role may create tables in it"),
        Some(false) => findings.problem(
            subject,
            "the role may not create tables in it",
            format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role};", quote_identifier(schema)),
        ),
        None if in_database => findings.ok(subject, "does not exist; apply creates it"),
        None => findings.problem(
            subject,
            "does not exist, and the role may not create it",
            format!(
                "CREATE SCHEMA {} AUTHORIZATION {role}; or GRANT CREATE ON DATABASE {} TO {role};",
                quote_identifier(schema),
                quote_identifier(&database)
            ),
        ),
    }
    Ok(())
}

/// A table that is in the target already.
struct TargetTable {
    is_table: bool,
    columns: Vec<String>,
    /// Columns that no event fills: NOT NULL without default, identity or generation.
    required: Vec<String>,
    unique: Vec<Vec<String>>,
    writable: bool,
}

impl TargetTable {
    async fn read(client: &Client, name: &TableName) -> Result<Option<Self>, Error> {
        let sql = "SELECT c.relkind IN ('r', 'p') AS is_table, \
                has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND \
                has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE') AND \
                has_table_privilege(c.oid, 'TRUNCATE') AS writable, \
                (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a \
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns, \
                (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a \
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull \
                   AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '') AS required, \
                (SELECT coalesce(array_agg(columns), '{}') FROM ( \
                   SELECT (SELECT string_agg(a.attname::text, chr(1) ORDER BY a.attname) FROM pg_attribute a \
                           WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])) AS columns \
                   FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid \
                     AND i.indpred IS NULL AND i.indexprs IS NULL) u WHERE columns IS NOT NULL) AS unique_columns \
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
        let failed = |error| Error::statement(format!("reading table {name}"), error);
        let row = client.query_opt(sql, &[&&*name.schema, &&*name.table]).await.map_err(failed)?;
        row.map(|row| Self::from_row(&row)).transpose().map_err(failed)
    }

    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let unique: Vec<String> = row.try_get("unique_columns")?;
        Ok(Self {
            is_table: row.try_get("is_table")?,
            columns: row.try_get("columns")?,
            required: row.try_get("required")?,
            unique: unique.iter().map(|columns| columns.split('\u{1}').map(str::to_owned).collect()).collect(),
            writable: row.try_get("writable")?,
        })
    }

    fn judge(&self, findings: &mut Findings, name: &TableName, source: &PublishedTable, user: &str) {
        let (subject, quoted) = (format!("table {name}"), name.quoted());
        if !self.is_table {
            let remedy = "Move it away, or map the schema by apply.schemas.";
            findings.problem(subject, "is not a table but a view, sequence or the like", remedy);
            return;
        }
        let before = findings.problems();
        if !self.writable {
            let role = quote_identifier(user);
            findings.problem(
                &subject,
                "cannot be written by the role",
                format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {quoted} TO {role};"),
            );
        }
        let sent: Vec<&str> = source.relation.columns.iter().map(|column| &*column.name).collect();
        let has = |column: &&str| self.columns.iter().any(|own| own == column);
        let missing: Vec<_> = sent.iter().copied().filter(|column| !has(column)).collect();
        if !missing.is_empty() {
            let add: Vec<_> =
                missing.iter().map(|column| format!("ADD COLUMN {} …", quote_identifier(column))).collect();
            findings.problem(
                &subject,
                format!("lacks the columns {}", missing.join(", ")),
                format!("ALTER TABLE {quoted} {};", add.join(", ")),
            );
        }
        let unfilled: Vec<_> =
            self.required.iter().map(String::as_str).filter(|column| !sent.contains(column)).collect();
        if !unfilled.is_empty() {
            let relax: Vec<_> = unfilled
                .iter()
                .map(|column| format!("ALTER COLUMN {} DROP NOT NULL", quote_identifier(column)))
                .collect();
            findings.problem(
                &subject,
                format!("demands columns that the source does not have: {}", unfilled.join(", ")),
                format!("ALTER TABLE {quoted} {};", relax.join(", ")),
            );
        }
        self.judge_key(findings, &subject, &quoted, source);
        if findings.problems() == before {
            findings.ok(subject, "exists and fits");
        }
    }

    /// Trap T69: ON CONFLICT needs a unique index over exactly the event key.
    fn judge_key(&self, findings: &mut Findings, subject: &str, quoted: &str, source: &PublishedTable) {
        let key = tables::key(source);
        let mut sorted: Vec<String> = key.iter().map(ToString::to_string).collect();
        sorted.sort();
        if !key.is_empty() && !self.unique.contains(&sorted) {
            let columns: Vec<_> = key.iter().map(|column| quote_identifier(column)).collect();
            findings.problem(
                subject,
                format!("has no unique index over exactly the event key ({})", key.join(", ")),
                format!("ALTER TABLE {quoted} ADD PRIMARY KEY ({});", columns.join(", ")),
            );
        }
    }
}
