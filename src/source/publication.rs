//! The publication: which tables match the configuration, and that the publication holds them (trap T37).

use globset::{Glob, GlobSet, GlobSetBuilder};
use tokio_postgres::{Row, error::SqlState};

use super::{
    catalog,
    error::Error,
    identity::Blind,
    key_columns::KeyColumns,
    published, recovery,
    shape::Shapes,
    unidentified::{self, Settled, Unidentified},
    writers,
};
use crate::{
    postgres::{Client, sqlstate},
    retry::chain,
    schema::{TableName, quote_identifier},
    selection,
};

/// Globs over `schema.table`: what is included and not excluded.
#[derive(Clone, Debug)]
pub struct TablePatterns {
    include: GlobSet,
    exclude: GlobSet,
    patterns: (Vec<String>, Vec<String>),
    /// Each include pattern with its own matcher.
    each: Vec<(String, GlobSet)>,
}

impl TablePatterns {
    /// Compiles the globs. `*` does not cross the dot, so `public.*` is one schema and `*.orders` one table of each.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, Error> {
        let single = |pattern: &String| Ok((pattern.clone(), compile(std::slice::from_ref(pattern))?));
        let each = include.iter().map(single).collect::<Result<_, Error>>()?;
        let patterns = (include.to_vec(), exclude.to_vec());
        Ok(Self { include: compile(include)?, exclude: compile(exclude)?, patterns, each })
    }

    /// The globs of what is included.
    #[must_use]
    pub fn include(&self) -> &[String] {
        &self.patterns.0
    }

    /// The globs of what is left out.
    #[must_use]
    pub fn exclude(&self) -> &[String] {
        &self.patterns.1
    }

    /// The include patterns that none of the tables matches: most often a misspelt name.
    #[must_use]
    pub fn idle(&self, tables: &[TableName]) -> Vec<String> {
        let idle = self.each.iter().filter(|(_, set)| !tables.iter().any(|table| set.is_match(path(table))));
        idle.map(|(pattern, _)| pattern.clone()).collect()
    }

    /// Whether the table is to be captured.
    #[must_use]
    pub fn matches(&self, table: &TableName) -> bool {
        self.include.is_match(path(table)) && !self.excludes(table)
    }

    /// Whether the table is left out, included or not.
    #[must_use]
    pub fn excludes(&self, table: &TableName) -> bool {
        self.exclude.is_match(path(table))
    }

    /// The first of these tables that is included, if none of them is left out: what a name is that may be any of them.
    pub fn choose(&self, readings: impl Iterator<Item = TableName>) -> Option<TableName> {
        let mut chosen = None;
        for table in readings {
            if self.excludes(&table) {
                return None;
            }
            chosen = chosen.or_else(|| Some(table).filter(|table| self.matches(table)));
        }
        chosen
    }
}

fn path(table: &TableName) -> String {
    selection::path(&[&*table.schema, &*table.table])
}

fn compile(patterns: &[String]) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern).map_err(|source| Error::Pattern { pattern: pattern.clone(), source })?);
    }
    set.build().map_err(|source| Error::Pattern { pattern: patterns.join(", "), source })
}

/// `schema.table`, cut at its first dot; a pattern without a dot is a table of any schema.
fn glob(pattern: &str) -> Result<Glob, globset::Error> {
    let (schema, table) = pattern.split_once('.').unwrap_or(("*", pattern));
    selection::glob(&[schema, table])
}

/// What is wanted of the publication.
#[derive(Clone, Debug)]
pub struct PublicationSpec {
    /// Its name.
    pub name: String,
    /// The tables.
    pub tables: TablePatterns,
    /// Column lists and row filters of tables that are taken into it.
    pub shapes: Shapes,
    /// Key columns of tables by configuration.
    pub keys: KeyColumns,
    /// What becomes of tables whose updates the server would refuse once they are published.
    pub unidentified: Unidentified,
    /// Whether it may be created and altered.
    pub create: bool,
    /// The table whose rows are signals; it is captured only if the patterns want it.
    pub signal_table: Option<TableName>,
}

/// How the publication has the signal table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalTable {
    /// It publishes its rows.
    Published,
    /// It has been added to it.
    Added,
    /// It is captured, and joins as every captured table does.
    Joins,
    /// It lacks it, and this would add it.
    Lacking {
        /// The statement.
        sql: String,
    },
    /// There is no such table.
    Missing,
    /// Nothing tells its rows apart: published, the source would refuse their updates and deletes.
    Keyless,
}

/// What was found, and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicationReport {
    /// It did not exist and was created.
    pub created: bool,
    /// Tables that were added to it.
    pub added: Vec<TableName>,
    /// Its options were set.
    pub options_set: bool,
    /// Tables that it publishes although no pattern wants them; their events are not ours.
    pub extra: Vec<TableName>,
    /// The tables that are wanted, all of them published but for those left out.
    pub tables: Vec<TableName>,
    /// Tables, or partitions of them, for which a wanted table was not added to a publication that is there: the server would refuse
    /// their updates.
    pub left_out: Vec<Blind>,
    /// Why configured row filters were not compared with the publication's.
    pub unjudged: Option<String>,
}

/// Options with which walrelay creates a publication: every operation, partitioned tables under the root's name (trap T33).
const OPTIONS: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";

/// Makes sure that the publication holds every table that the patterns want, but for what the server would refuse updates of, where that is
/// not wanted. At a stand-by nothing can be created or altered.
pub async fn ensure(client: &Client, spec: &PublicationSpec) -> Result<PublicationReport, Error> {
    let may_create = spec.create && !recovery::is_stand_by(client).await?;
    let spec = &PublicationSpec { create: may_create, ..spec.clone() };
    let tables = wanted(client, spec).await?;
    spec.shapes.check(client, &tables)?;
    if let Some(table) = spec.keys.strangers(&tables).next() {
        return Err(Error::KeyColumnsOfNone { table: table.clone() });
    }
    let unjudged = judge(client, spec).await?;
    let Some(missing_options) = missing_options(client, &spec.name).await? else {
        return create(client, spec, tables, unjudged).await;
    };
    set_options(client, spec, &missing_options).await?;
    // Behind the options: whether partitions or their root are listed depends on them.
    let published = published(client, &spec.name).await?;
    let mut missing: Vec<TableName> = tables.iter().filter(|table| !published.contains(table)).cloned().collect();
    let is_extra = |table: &TableName| !tables.contains(table) && spec.signal_table.as_ref() != Some(table);
    let extra = published.into_iter().filter(is_extra).collect();
    let settled = settle(client, spec, &missing).await?;
    if !spec.create && !settled.blind.is_empty() {
        return Err(Error::Unidentified { publication: spec.name.clone(), blind: settled.blind });
    }
    missing.retain(|table| !settled.blind.iter().any(|blind| blind.table == *table));
    add(client, spec, &missing, &settled).await?;
    let left_out = settled.blind;
    let options_set = !missing_options.is_empty();
    Ok(PublicationReport { created: false, added: missing, options_set, extra, tables, left_out, unjudged })
}

/// What is to become of tables that are to come into the publication and whose updates the server would refuse then.
async fn settle(client: &Client, spec: &PublicationSpec, tables: &[TableName]) -> Result<Settled, Error> {
    unidentified::settle(client, (&spec.name, tables), &spec.shapes, spec.unidentified).await
}

/// Errors of column lists and row filters; why filters were not judged, where that would be needed only to be sure: it takes rights that
/// whoever changes nothing need not have, a primary, and locks.
async fn judge(client: &Client, spec: &PublicationSpec) -> Result<Option<String>, Error> {
    let adds = !spec.shapes.compare(client, &spec.name).await?;
    match spec.shapes.judge(client, &spec.name, adds).await {
        Ok(()) => Ok(None),
        Err(Error::Postgres(error))
            if !(spec.create && adds)
                && error.server_error().is_some_and(|said| sqlstate::refuses_change(&said.code)) =>
        {
            Ok(Some(format!("row filters could not be tried or compared: {}", chain(&error))))
        }
        Err(error) => Err(error),
    }
}

async fn create(
    client: &Client,
    spec: &PublicationSpec,
    tables: Vec<TableName>,
    unjudged: Option<String>,
) -> Result<PublicationReport, Error> {
    let publication = spec.name.clone();
    let settled = settle(client, spec, &tables).await?;
    if !settled.blind.is_empty() {
        return Err(Error::Unidentified { publication, blind: settled.blind });
    }
    let caution =
        unjudged.map_or("", |_| " -- A filter may use columns of the replica identity alone, or updates fail.");
    let sql = format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH ({OPTIONS});{caution}",
        quote_identifier(&publication),
        spec.shapes.list(&tables)
    );
    if !spec.create {
        return Err(Error::PublicationMissing { publication, sql: settled.before(&sql) });
    }
    settled.mend(client).await?;
    execute(client, &format!("creating publication {publication}"), &sql).await?;
    Ok(PublicationReport { created: true, tables, ..PublicationReport::default() })
}

async fn set_options(client: &Client, spec: &PublicationSpec, missing: &[&'static str]) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let publication = spec.name.clone();
    let sql = format!("ALTER PUBLICATION {} SET ({OPTIONS});", quote_identifier(&publication));
    if !spec.create {
        return Err(Error::PublicationOptions { publication, missing: missing.to_vec(), sql });
    }
    execute(client, &format!("altering publication {publication}"), &sql).await
}

async fn add(client: &Client, spec: &PublicationSpec, missing: &[TableName], settled: &Settled) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let publication = spec.name.clone();
    let list = spec.shapes.list(missing);
    let sql = format!("ALTER PUBLICATION {} ADD TABLE {list};", quote_identifier(&publication));
    if !spec.create {
        return Err(Error::PublicationLacks { publication, tables: missing.to_vec(), sql: settled.before(&sql) });
    }
    settled.mend(client).await?;
    execute(client, &format!("adding tables to publication {publication}"), &sql).await
}

/// Adds the signal table to the publication, where that may be altered; `None` if none is wanted. To be called behind [`ensure`].
pub async fn take_in_signals(client: &Client, spec: &PublicationSpec) -> Result<Option<SignalTable>, Error> {
    let Some(table) = &spec.signal_table else { return Ok(None) };
    let found = look_for_signals(client, spec, table).await?;
    let SignalTable::Lacking { sql } = &found else { return Ok(Some(found)) };
    if !spec.create || recovery::is_stand_by(client).await? {
        return Ok(Some(found));
    }
    // Nothing else waits for who has the table for itself.
    let timed = format!("SET LOCAL statement_timeout = '{LOCK_LIMIT}'; {sql}");
    match client.batch_execute(&timed).await {
        Ok(()) => Ok(Some(SignalTable::Added)),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(Some(found)),
        Err(error) => Err(Error::statement(format!("adding the signal table to publication {}", spec.name), error)),
    }
}

/// How the publication has the signal table at present.
pub async fn look_for_signals(
    client: &Client,
    spec: &PublicationSpec,
    table: &TableName,
) -> Result<SignalTable, Error> {
    if published(client, &spec.name).await?.contains(table) {
        return Ok(SignalTable::Published);
    }
    let failed = |error| Error::statement(format!("looking for the signal table {table}"), error);
    let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table.quoted()]).await;
    if !row.and_then(|row| row.try_get::<_, bool>(0)).map_err(failed)? {
        return Ok(SignalTable::Missing);
    }
    if spec.tables.matches(table) {
        return Ok(SignalTable::Joins);
    }
    if !has_identity(client, table).await.map_err(failed)? {
        return Ok(SignalTable::Keyless);
    }
    let sql = format!("ALTER PUBLICATION {} ADD TABLE {};", quote_identifier(&spec.name), table.quoted());
    Ok(SignalTable::Lacking { sql })
}

/// What became of a table that was to come into the publication while it is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The publication has it.
    Added,
    /// It is open for writing: what its transactions have changed so far would not be sent.
    Busy,
    /// Nothing tells its rows apart: published the source would refuse their updates.
    Keyless {
        /// In which way.
        reason: String,
    },
}

/// How long writers may have to wait behind the lock under which a table comes into the publication.
const LOCK_LIMIT: &str = "200ms";

/// Takes one more table into the publication, under a lock that keeps writers out for that moment. Before it is known that updates do not
/// fail by it.
pub async fn join(client: &Client, spec: &PublicationSpec, table: &TableName) -> Result<Joined, Error> {
    let publication = spec.name.clone();
    let doing = format!("adding table {table} to publication {publication}");
    let list = spec.shapes.list(std::slice::from_ref(table));
    let add = format!("ALTER PUBLICATION {} ADD TABLE {list};", quote_identifier(&publication));
    if !spec.create {
        return Err(Error::PublicationLacks { publication, tables: vec![table.clone()], sql: add });
    }
    let is_told_apart = match spec.keys.of(table) {
        Some(_) => is_fit(client, spec, table).await?,
        None => has_identity(client, table).await.map_err(|error| Error::statement(doing.clone(), error))?,
    };
    if !is_told_apart {
        let blind = unidentified::find(client, &publication, std::slice::from_ref(table)).await?;
        if let Some(blind) = blind.first() {
            return Ok(Joined::Keyless { reason: blind.describe() });
        }
    }
    // Who waits for a lock keeps others waiting: it is asked for where it is likely to be there.
    let oid = client.query_one("SELECT to_regclass($1)::oid", &[&table.quoted()]).await;
    let oid: Option<u32> =
        oid.and_then(|row| row.try_get(0)).map_err(|error| Error::statement(doing.clone(), error))?;
    if !writers::find(client, oid.as_slice()).await?.is_empty() {
        return Ok(Joined::Busy);
    }
    judge(client, spec).await?;
    // One message is one transaction. The time is that of all locks, of partitions too. The commit waits for no stand-by under them.
    let sql = format!(
        "SET LOCAL statement_timeout = '{LOCK_LIMIT}'; SET LOCAL synchronous_commit = local; \
         LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE; {add}",
        table.quoted()
    );
    match client.batch_execute(&sql).await {
        Ok(()) => Ok(Joined::Added),
        Err(error) if matches!(error.code(), Some(&SqlState::QUERY_CANCELED | &SqlState::T_R_DEADLOCK_DETECTED)) => {
            Ok(Joined::Busy)
        }
        Err(error) => Err(Error::statement(doing, error)),
    }
}

/// Whether a table can have the key that is configured for it, and be updated in a publication; an error says why it cannot have the key.
async fn is_fit(client: &Client, spec: &PublicationSpec, table: &TableName) -> Result<bool, Error> {
    let found = catalog::preview(client, std::slice::from_ref(table), &spec.keys).await?;
    let Some(found) = found.by_name(table) else { return Ok(false) };
    found.must_have_key()?;
    Ok(found.problems.is_empty())
}

/// Whether a table and all of its partitions have an index that their rows are told by; that of a deferrable constraint tells nothing, nor do
/// generated columns, which are not published.
async fn has_identity(client: &Client, table: &TableName) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT bool_and(EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
                      AND CASE WHEN c.relreplident IN ('d', 'f') THEN i.indisprimary \
                               WHEN c.relreplident = 'i' THEN i.indisreplident ELSE false END) \
                 AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                      AND a.attgenerated <> '' AND (c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i \
                          WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND CASE c.relreplident \
                                WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)))) \
               FROM pg_class c WHERE c.oid IN (SELECT to_regclass($1)::oid UNION \
                                               SELECT relid::oid FROM pg_partition_tree(to_regclass($1)))";
    let row = client.query_one(sql, &[&table.quoted()]).await?;
    Ok(row.try_get::<_, Option<bool>>(0)?.unwrap_or(false))
}

async fn execute(client: &Client, doing: &str, sql: &str) -> Result<(), Error> {
    client.batch_execute(sql).await.map_err(|error| Error::statement(doing, error))
}

/// The permanent tables that match, partitions left out where their root matches; an error if there are none.
pub async fn wanted(client: &Client, spec: &PublicationSpec) -> Result<Vec<TableName>, Error> {
    let failed = |error| Error::statement("listing the tables", error);
    let sql = "SELECT n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid) \
               LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace \
               WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' \
                 AND n.nspname NOT LIKE 'pg\\_%' \
               ORDER BY 1, 2";
    let mut tables = Vec::new();
    for row in client.query(sql, &[]).await.map_err(failed)? {
        let table = name_at(&row, 0).map_err(failed)?;
        let root = name_at(&row, 2).map_err(failed)?;
        let matches = |name: &Option<TableName>| name.as_ref().is_some_and(|name| spec.tables.matches(name));
        if matches(&table) && !matches(&root) {
            tables.extend(table);
        }
    }
    if tables.is_empty() {
        let database = client.query_one("SELECT current_database()::text", &[]).await;
        let database = database.and_then(|row| row.try_get(0)).map_err(failed)?;
        return Err(Error::NoTableMatches { database, patterns: spec.tables.include().join(", ") });
    }
    Ok(tables)
}

/// Schema and table from two columns; `None` if they are NULL.
fn name_at(row: &Row, index: usize) -> Result<Option<TableName>, tokio_postgres::Error> {
    let schema: Option<&str> = row.try_get(index)?;
    let table: Option<&str> = row.try_get(index + 1)?;
    Ok(schema.zip(table).map(|(schema, table)| TableName::new(schema, table)))
}

/// What the publication does not publish though it should; `None` if it does not exist.
async fn missing_options(client: &Client, publication: &str) -> Result<Option<Vec<&'static str>>, Error> {
    let failed = |error| Error::statement(format!("reading publication {publication}"), error);
    let sql = "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&publication]).await.map_err(failed)? else { return Ok(None) };
    let names = ["insert", "update", "delete", "truncate", "partitions under their root"];
    let mut missing = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        if !row.try_get::<_, bool>(index).map_err(failed)? {
            missing.push(name);
        }
    }
    Ok(Some(missing))
}

/// An error if the publication does not exist: the server would send nothing of any table.
pub async fn must_exist(client: &Client, publication: &str) -> Result<(), Error> {
    if missing_options(client, publication).await?.is_some() {
        return Ok(());
    }
    let sql = format!("CREATE PUBLICATION {} FOR TABLE … WITH ({OPTIONS});", quote_identifier(publication));
    Err(Error::PublicationMissing { publication: publication.to_owned(), sql })
}

/// The tables that the patterns want and the publication does not hold, and those that are no captured ones and have a column list, a row
/// filter or key columns.
pub async fn unpublished(client: &Client, spec: &PublicationSpec) -> Result<(Vec<TableName>, Vec<TableName>), Error> {
    let published = published(client, &spec.name).await?;
    let wanted = wanted(client, spec).await?;
    let strangers = spec.shapes.strangers(&wanted).chain(spec.keys.strangers(&wanted)).cloned().collect();
    Ok((wanted.into_iter().filter(|table| !published.contains(table)).collect(), strangers))
}

/// The tables that the publication publishes at present, sorted.
pub async fn published(client: &Client, publication: &str) -> Result<Vec<TableName>, Error> {
    let failed = |error| Error::statement(format!("reading the tables of publication {publication}"), error);
    let tables = published::tables(client.server_version());
    let sql = format!("SELECT schemaname::text, tablename::text FROM {tables} p ORDER BY 1, 2");
    let rows = client.query(&sql, &[&publication]).await.map_err(failed)?;
    let names: Result<Vec<_>, _> = rows.iter().map(|row| name_at(row, 0)).collect();
    Ok(names.map_err(failed)?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(include: &[&str], exclude: &[&str]) -> TablePatterns {
        let owned = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
        TablePatterns::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_told() {
        let tables = [TableName::new("public", "orders"), TableName::new("public", "a.b/c")];
        assert_eq!(patterns(&["public.*", "public.order", "*.a.b*"], &[]).idle(&tables), ["public.order"]);
    }

    #[test]
    fn globs_match_schema_and_table_apart() {
        let chosen = patterns(&["public.*", "sales.order?", "events"], &["public.tmp_*"]);
        let matches = |schema: &str, table: &str| chosen.matches(&TableName::new(schema, table));
        assert!(matches("public", "customers") && matches("public", "odd.name") && matches("public", "odd/name"));
        assert!(!matches("public", "tmp_x") && !matches("public2", "customers"));
        assert!(matches("sales", "orders") && !matches("sales", "order"));
        assert!(matches("any", "events") && !matches("any", "other"));
    }

    #[test]
    fn a_broken_glob_is_named() {
        let error = TablePatterns::new(&["public.[a".to_owned()], &[]).unwrap_err();
        assert!(matches!(error, Error::Pattern { pattern, .. } if pattern == "public.[a"));
    }
}
