//! Target tables: what the catalog says of one, creating it, adding columns, and the checks that name their remedy.
//!
//! Names are matched case-sensitively (trap T69). Operators are named with their schema, since the session's search path
//! is `pg_catalog` and an extension's `=` (citext) lies elsewhere.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::{
    event::{ShapeColumn, TableShape},
    schema::{TableName, quote_identifier, quote_literal},
    sink::{
        error::Error,
        ledger::{bound_waits, lock_ddl},
        owners::Past,
        ties::ENFORCED,
    },
};

/// A column of a target table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetColumn {
    /// Its name.
    pub name: String,
    /// Its type without domains, with modifiers and collation, as SQL.
    pub type_sql: String,
    /// The server computes it: never written.
    pub generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: inserted with OVERRIDING SYSTEM VALUE, never updated (trap T68).
    pub identity_always: bool,
    /// Equal values of the type always have the same text.
    pub canonical: bool,
    /// The type's modifiers round values, which another type has in full: digits of a numeric, of seconds.
    pub rounds: bool,
    /// The enumeration that it is of, or whose items are.
    pub enumeration: Option<Enumeration>,
    /// Bytes of a value in a row (`pg_type.typlen`); `None` where that varies.
    pub width: Option<usize>,
}

/// An enumeration of the target that a column is of, or whose items are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enumeration {
    /// Its name as SQL.
    pub name: String,
    /// Its labels in their order.
    pub labels: Vec<String>,
}

/// A unique index that ON CONFLICT can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// Column names, in index order.
    pub columns: Vec<String>,
    /// The equality operator of each column, with its schema.
    pub equality: Vec<String>,
}

/// A target table as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: TableName,
    /// Its columns.
    pub columns: Vec<TargetColumn>,
    /// Its usable unique indexes, the primary key first.
    pub unique: Vec<UniqueIndex>,
    /// Rows of another table depend on rows of this one by more than NO ACTION (CASCADE, RESTRICT, SET …), so that a row
    /// must not be deleted to be inserted again.
    pub cascades: bool,
    /// Tables that this one references.
    pub parents: BTreeSet<TableName>,
    /// Tables that reference this one.
    pub children: BTreeSet<TableName>,
}

impl Target {
    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The unique index over exactly these columns.
    #[must_use]
    pub fn index_over(&self, columns: &BTreeSet<&str>) -> Option<&UniqueIndex> {
        self.unique.iter().find(|index| index.columns.iter().map(String::as_str).collect::<BTreeSet<_>>() == *columns)
    }

    /// Reads the catalog; `None` if there is no such table.
    pub async fn load(client: &Client, topic: &str, name: &TableName) -> Result<Option<Self>, Error> {
        let failed = || Error::table(topic, name, "describe");
        let sql = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
        let Some(row) = client.query_opt(sql, &[&&*name.schema, &&*name.table]).await.map_err(failed())? else {
            return Ok(None);
        };
        let oid: u32 = row.get(0);
        let columns = client.query(COLUMNS, &[&oid]).await.map_err(failed())?;
        let columns = columns
            .iter()
            .map(|row| TargetColumn {
                name: row.get(0),
                type_sql: row.get(1),
                generated: row.get(2),
                identity_always: row.get(3),
                canonical: row.get(4),
                enumeration: row.get::<_, Option<String>>(5).map(|name| Enumeration { name, labels: row.get(6) }),
                width: usize::try_from(row.get::<_, i16>(7)).ok(),
                rounds: row.get(8),
            })
            .collect();
        let unique = client.query(UNIQUE, &[&oid]).await.map_err(failed())?;
        let unique = unique.iter().map(|row| UniqueIndex { columns: row.get(0), equality: row.get(1) }).collect();
        let mut target = Self {
            name: name.clone(),
            columns,
            unique,
            cascades: false,
            parents: BTreeSet::new(),
            children: BTreeSet::new(),
        };
        for row in client.query(&foreign_keys(), &[&oid]).await.map_err(failed())? {
            let other = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            if row.get(2) {
                target.cascades |= row.get::<_, bool>(3);
                target.children.insert(other);
            } else {
                target.parents.insert(other);
            }
        }
        target.parents.remove(name);
        target.children.remove(name);
        Ok(Some(target))
    }
}

/// Columns with domains resolved; the collation is named where it is not the type's own.
const COLUMNS: &str = "
WITH RECURSIVE base AS (
  SELECT a.attnum, a.attname, a.attgenerated <> '' AS generated, a.attidentity = 'a' AS always, a.attcollation,
         t.oid AS type, a.atttypmod AS typmod, t.typtype, t.typbasetype, t.typtypmod, t.typcollation
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT b.attnum, b.attname, b.generated, b.always, b.attcollation,
         t.oid, b.typtypmod, t.typtype, t.typbasetype, t.typtypmod, t.typcollation
  FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
SELECT b.attname::text,
       format_type(b.type, b.typmod) || CASE WHEN b.attcollation <> 0 AND b.attcollation <> b.typcollation
         THEN format(' COLLATE %I.%I', n.nspname, c.collname) ELSE '' END,
       b.generated, b.always,
       (c.oid IS NULL OR c.collisdeterministic) AND (b.typtype = 'e' OR b.type = 1700 AND b.typmod >= 0 OR b.type IN
         (16, 17, 19, 20, 21, 23, 25, 26, 774, 829, 1042, 1043, 1082, 1083, 1114, 1184, 2950, 3220)),
       format_type(e.oid, NULL), ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = e.oid ORDER BY enumsortorder),
       (SELECT typlen FROM pg_type WHERE oid = b.type),
       b.type = 1700 AND b.typmod >= 0 OR b.type IN (1083, 1114, 1184, 1266) AND b.typmod BETWEEN 0 AND 5
FROM base b LEFT JOIN pg_type e ON e.typtype = 'e' AND b.type IN (e.oid, e.typarray) LEFT JOIN pg_collation c ON c.oid = b.attcollation LEFT JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE b.typtype <> 'd' ORDER BY b.attnum";

/// Unique indexes that can arbitrate ON CONFLICT, with the equality operators of their operator classes.
const UNIQUE: &str = "
SELECT array_agg(a.attname::text ORDER BY k.n), array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.n)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass c ON c.oid = k.opclass
JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype
  AND s.amopstrategy = 3
JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.n <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC, i.indexrelid";

/// Foreign keys in both directions that are checked in this session: the other table, whether it references this one,
/// whether it acts on a delete.
fn foreign_keys() -> String {
    format!(
        "SELECT n.nspname::text, r.relname::text, f.confrelid = $1, f.confdeltype <> 'a' \
         FROM pg_constraint f \
         JOIN pg_class r ON r.oid = CASE WHEN f.confrelid = $1 THEN f.conrelid ELSE f.confrelid END \
         JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE f.contype = 'f' AND (f.confrelid = $1 OR f.conrelid = $1) AND {ENFORCED}"
    )
}

/// What the sink may do to the target's schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evolution {
    /// Create missing schemas and tables, add missing columns.
    pub allowed: bool,
}

/// Makes the target table fit the shape, or says what is in the way. Runs in its own transaction. A table that was applied
/// to and is missing is not created anew: its rows would be missing.
pub async fn ensure(
    client: &Client,
    topic: &str,
    shape: &TableShape,
    name: &TableName,
    (evolution, past): (Evolution, &Past),
) -> Result<Target, Error> {
    if let Some(target) = Target::load(client, topic, name).await?
        && missing_columns(&target, shape).is_empty()
    {
        check_key(&target, topic, shape)?;
        return Ok(target);
    }
    client.batch_execute("BEGIN").await.map_err(Error::query("begin"))?;
    let done = change(client, topic, shape, name, (evolution, past)).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(Error::table(topic, name, "change"))?;
    let target = done?;
    check_key(&target, topic, shape)?;
    Ok(target)
}

async fn change(
    client: &Client,
    topic: &str,
    shape: &TableShape,
    name: &TableName,
    (evolution, past): (Evolution, &Past),
) -> Result<Target, Error> {
    bound_waits(client).await?;
    lock_ddl(client).await?;
    let sql = match (Target::load(client, topic, name).await?, past) {
        (None, Past::Applied { forget }) => return Err(dropped(topic, name, forget)),
        (None, Past::Blank) => create_table(client, topic, shape, name).await?,
        (Some(target), _) => {
            let missing = missing_columns(&target, shape);
            let columns = columns_sql(client, topic, name, shape, &missing).await?;
            let adds: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN {column}")).collect();
            if adds.is_empty() { String::new() } else { format!("ALTER TABLE {} {}", name.quoted(), adds.join(", ")) }
        }
    };
    if !sql.is_empty() {
        if !evolution.allowed {
            return Err(Error::Unfit {
                topic: topic.to_owned(),
                table: name.clone(),
                problem: "the table or some of its columns are missing".to_owned(),
                remedy: format!("Run {sql} or allow the sink to change tables."),
            });
        }
        tracing::info!(table = %name, "changing the target table to fit the source");
        client.batch_execute(&sql).await.map_err(Error::table(topic, name, "change"))?;
    }
    Target::load(client, topic, name).await?.ok_or_else(|| Error::Damaged(format!("table {name} has vanished")))
}

fn dropped(topic: &str, name: &TableName, forget: &str) -> Error {
    Error::Unfit {
        topic: topic.to_owned(),
        table: name.clone(),
        problem: "it is missing, and rows were applied to it".to_owned(),
        remedy: format!(
            "Stop apply; then restore the table with its rows, or run {forget} to have it built from the beginning of the topic; \
             then start again."
        ),
    }
}

fn missing_columns(target: &Target, shape: &TableShape) -> Vec<usize> {
    let missing = |index: &usize| shape.columns.get(*index).is_some_and(|column| target.column(&column.name).is_none());
    (0..shape.columns.len()).filter(missing).collect()
}

async fn create_table(client: &Client, topic: &str, shape: &TableShape, name: &TableName) -> Result<String, Error> {
    let failed = || Error::table(topic, name, "create");
    let exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let exists: bool = client.query_one(exists, &[&&*name.schema]).await.map_err(failed())?.get(0);
    let all: Vec<usize> = (0..shape.columns.len()).collect();
    let mut parts = columns_sql(client, topic, name, shape, &all).await?;
    if !shape.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key_names(shape)));
    }
    let schema = if exists { String::new() } else { format!("CREATE SCHEMA {};", quote_identifier(&name.schema)) };
    Ok(format!("{schema}CREATE TABLE {} ({})", name.quoted(), parts.join(", ")))
}

/// Columns' definitions: the source's type if the target knows it, else text.
async fn columns_sql(
    client: &Client,
    topic: &str,
    name: &TableName,
    shape: &TableShape,
    indices: &[usize],
) -> Result<Vec<String>, Error> {
    let columns: Vec<&ShapeColumn> = indices.iter().filter_map(|index| shape.columns.get(*index)).collect();
    let types: Vec<&str> = columns.iter().map(|column| &*column.type_sql).collect();
    let sql = "SELECT to_regtype(t) IS NOT NULL FROM unnest($1::text[]) WITH ORDINALITY AS u(t, n) ORDER BY n";
    let known = client.query(sql, &[&types]).await.map_err(Error::table(topic, name, "describe"))?;
    let mut definitions = Vec::with_capacity(columns.len());
    for (column, known) in columns.into_iter().zip(known) {
        if column.guessed {
            tracing::warn!(
                table = %name, column = %column.name, r#type = %column.type_sql,
                "the schema does not tell the source's type, and this one has its values; alter the column if it is another"
            );
        }
        let known: bool = known.get(0);
        if !known {
            tracing::warn!(table = %name, column = %column.name, r#type = %column.type_sql, "type unknown to the target, text is used");
        }
        let type_sql = if known { &*column.type_sql } else { "text" };
        // Rows that are still to come under an earlier schema have it too.
        let missing = column.missing.as_deref().map(|text| format!(" DEFAULT {}", quote_literal(text)));
        definitions.push(format!("{} {type_sql}{}", quote_identifier(&column.name), missing.unwrap_or_default()));
    }
    Ok(definitions)
}

fn key_names(shape: &TableShape) -> String {
    let names = shape.key.iter().filter_map(|index| shape.columns.get(*index));
    names.map(|column| quote_identifier(&column.name)).collect::<Vec<_>>().join(", ")
}

fn check_key(target: &Target, topic: &str, shape: &TableShape) -> Result<(), Error> {
    let key: BTreeSet<&str> =
        shape.key.iter().filter_map(|index| shape.columns.get(*index)).map(|column| &*column.name).collect();
    if key.is_empty() || target.index_over(&key).is_some() {
        return Ok(());
    }
    let names = key_names(shape);
    Err(Error::Unfit {
        topic: topic.to_owned(),
        table: target.name.clone(),
        problem: format!("it has no unique, not deferrable constraint over exactly the event key ({names})"),
        remedy: format!("Run ALTER TABLE {} ADD UNIQUE ({names}), then start again.", target.name.quoted()),
    })
}
