//! Which topic of which instance a target table belongs to: one only, since two would move its rows back and forth.
//!
//! The table `topic` of the books says so. Another apply may keep its books in another schema of the same database, so
//! those are looked at too; what this role may not read, it cannot know of (docs/guarantees.md).

use tokio_postgres::Client;

use crate::{
    schema::{TableName, quote_literal},
    sink::{
        error::Error,
        ledger::{Ledger, bound_waits, lock_ddl, try_lock_ddl},
        resyncs,
    },
};

/// Schemas other than `$1` with walrelay's books that this role may read.
const OTHER_BOOKS: &str = "
SELECT n.nspname::text FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
WHERE n.nspname <> $1 AND c.relname IN ('version', 'topic', 'position', 'barrier', 'moved', 'hold_request') AND c.relkind = 'r'
GROUP BY n.oid, n.nspname
HAVING count(*) = 6 AND has_schema_privilege(n.oid, 'USAGE')
  AND bool_and(c.relname <> 'topic' OR has_table_privilege(c.oid, 'SELECT') AND (
    SELECT count(*) = 4 FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
      AND a.attname IN ('instance', 'topic', 'target_schema', 'target_table')))
ORDER BY n.nspname";

/// What the books say of a target table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// Nothing was applied to it, or everything was emptied since: it may be created.
    Blank,
    /// It was there, and the topic's positions tell what is in it.
    Applied {
        /// The statements that make the books forget how far this instance has applied it.
        forget: String,
    },
}

impl Ledger {
    /// Registers a topic's tables if the target table is there: that it is missing later means that somebody dropped it.
    /// Refused when another instance or topic applies to the same target table.
    pub async fn register(
        &self,
        client: &Client,
        topic: &str,
        source: &TableName,
        target: &TableName,
    ) -> Result<(), Error> {
        self.registered(client, topic, (source, target), true).await.map(|_done| ())
    }

    /// As `register`; `false` if somebody else changes schemas right now, so that it would have to wait.
    pub async fn try_register(
        &self,
        client: &Client,
        topic: &str,
        source: &TableName,
        target: &TableName,
    ) -> Result<bool, Error> {
        self.registered(client, topic, (source, target), false).await
    }

    async fn registered(
        &self,
        client: &Client,
        topic: &str,
        tables: (&TableName, &TableName),
        waits: bool,
    ) -> Result<bool, Error> {
        if self.is_registered(client, topic, tables).await? {
            self.check_free(client, topic, tables.1).await?;
            return Ok(true);
        }
        client.batch_execute("BEGIN").await.map_err(Error::query("begin"))?;
        let done = self.register_in_transaction(client, topic, tables, waits).await;
        let end = if matches!(done, Ok(true)) { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).await.map_err(Error::query("register a topic"));
        let done = done?;
        ended.map(|()| done)
    }

    /// Whether some table is registered for a topic of this instance.
    pub async fn is_known(&self, client: &Client, topic: &str) -> Result<bool, Error> {
        let sql = format!("SELECT EXISTS (SELECT FROM {} WHERE instance = $1 AND topic = $2)", self.table("topic"));
        let row = client.query_one(&sql, &[&self.instance(), &topic]).await;
        row.map(|row| row.get(0)).map_err(Error::query("look for a topic's table"))
    }

    async fn is_registered(
        &self,
        client: &Client,
        topic: &str,
        (source, target): (&TableName, &TableName),
    ) -> Result<bool, Error> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {} WHERE instance = $1 AND topic = $2 AND source_schema = $3 AND source_table = $4 \
             AND target_schema = $5 AND target_table = $6)",
            self.table("topic")
        );
        let names: [&str; 4] = [&source.schema, &source.table, &target.schema, &target.table];
        let [source_schema, source_table, target_schema, target_table] = names;
        let row = client
            .query_one(&sql, &[&self.instance(), &topic, &source_schema, &source_table, &target_schema, &target_table])
            .await
            .map_err(Error::query("look for a topic's table"))?;
        Ok(row.get(0))
    }

    async fn register_in_transaction(
        &self,
        client: &Client,
        topic: &str,
        (source, target): (&TableName, &TableName),
        waits: bool,
    ) -> Result<bool, Error> {
        // Of two that register the table in different schemas, the second one sees the first one's row.
        if waits {
            bound_waits(client).await?;
            lock_ddl(client).await?;
        } else if !try_lock_ddl(client).await? {
            return Ok(false);
        }
        self.check_free(client, topic, target).await?;
        let names: [&str; 4] = [&source.schema, &source.table, &target.schema, &target.table];
        let [source_schema, source_table, target_schema, target_table] = names;
        let sql = format!(
            "INSERT INTO {} SELECT $1, $2, $3, $4, $5::text, $6::text WHERE EXISTS (SELECT FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $5 AND c.relname = $6) \
             ON CONFLICT (instance, topic) DO UPDATE SET \
             source_schema = EXCLUDED.source_schema, source_table = EXCLUDED.source_table, \
             target_schema = EXCLUDED.target_schema, target_table = EXCLUDED.target_table",
            self.table("topic")
        );
        client
            .execute(&sql, &[&self.instance(), &topic, &source_schema, &source_table, &target_schema, &target_table])
            .await
            .map_err(Error::query("register a topic"))?;
        Ok(true)
    }

    /// Refuses a target table that another instance or topic is registered for, in these books or in others of the database.
    async fn check_free(&self, client: &Client, topic: &str, target: &TableName) -> Result<(), Error> {
        let failed = || Error::query("look for a table's topic");
        let mut books = vec![(None, self.clone())];
        for row in client.query(OTHER_BOOKS, &[&self.schema()]).await.map_err(failed())? {
            let schema: String = row.get(0);
            books.push((Some(schema.clone()), Self::new(schema, self.instance())));
        }
        for (elsewhere, ledger) in books {
            let sql = format!(
                "SELECT instance, topic FROM {} WHERE target_schema = $1 AND target_table = $2 \
                 AND (instance, topic) IS DISTINCT FROM ($3, $4)",
                ledger.table("topic")
            );
            // Of other books every row counts: they have marks of their own.
            let mine = if elsewhere.is_none() { (Some(self.instance()), Some(topic)) } else { (None, None) };
            let row = client.query_opt(&sql, &[&&*target.schema, &&*target.table, &mine.0, &mine.1]).await;
            if let Some(row) = row.map_err(failed())? {
                // Books of an earlier version have no list of resyncs.
                let listed = "SELECT to_regclass($1) IS NOT NULL";
                let listed = client.query_one(listed, &[&ledger.table("resync")]).await.map_err(failed())?.get(0);
                let forget = ledger.forget(row.get(0), row.get(1), listed);
                return Err(Self::occupied(topic, target, (row.get(0), row.get(1), forget), elsewhere.as_deref()));
            }
        }
        Ok(())
    }

    fn occupied(topic: &str, target: &TableName, by: (String, String, String), elsewhere: Option<&str>) -> Error {
        let (instance, other, forget) = by;
        let of = elsewhere.map(|schema| format!(" in bookkeeping schema {schema}"));
        // The topic's positions are worth keeping where these books have them.
        let replace = if elsewhere.is_none() && other == topic {
            "If this instance replaces the other one, stop that for good and set apply.take_over = true.".to_owned()
        } else {
            format!(
                "If topic {topic} replaces the other one, stop both applies, empty table {target}, run {forget}and start \
                 again."
            )
        };
        Error::Unfit {
            topic: topic.to_owned(),
            table: target.clone(),
            problem: format!("topic {other} of instance {instance} is applied to it already{}", of.unwrap_or_default()),
            remedy: format!(
                "Apply one of the two elsewhere (apply.schemas), or leave its table out (apply.exclude). {replace}"
            ),
        }
    }

    /// The statements with which the books forget a topic of an instance; the keys that resyncs have noted of it are of no use then, where
    /// the books have a list of these.
    fn forget(&self, instance: &str, topic: &str, is_listed: bool) -> String {
        let rows = ["topic", "position", "moved"].map(|table| format!("{}; ", self.forget_in(table, instance, topic)));
        let resyncs = if is_listed { format!("{}; ", self.end_resyncs(instance, topic)) } else { String::new() };
        format!("{}{resyncs}", rows.concat())
    }

    fn end_resyncs(&self, instance: &str, topic: &str) -> String {
        let (table, instance, topic) = (self.table("resync"), quote_literal(instance), quote_literal(topic));
        format!("UPDATE {table} SET ended = true WHERE instance = {instance} AND topic = {topic}")
    }

    fn forget_in(&self, table: &str, instance: &str, topic: &str) -> String {
        let (table, instance, topic) = (self.table(table), quote_literal(instance), quote_literal(topic));
        format!("DELETE FROM {table} WHERE instance = {instance} AND topic = {topic}")
    }

    /// What the books say of a topic's target table. Refused when another instance or topic applies to it.
    pub async fn past(&self, client: &Client, topic: &str, target: &TableName) -> Result<Past, Error> {
        self.check_free(client, topic, target).await?;
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {} WHERE instance = $1 AND topic = $2 AND target_schema = $3 AND target_table = $4) \
             AND EXISTS (SELECT FROM {} WHERE instance = $1 AND topic = $2 AND (epoch, commit_lsn, ordinal) <> (0, '0/0', 0))",
            self.table("topic"),
            self.table("position")
        );
        let row = client
            .query_one(&sql, &[&self.instance(), &topic, &&*target.schema, &&*target.table])
            .await
            .map_err(Error::query("read what was applied to a table"))?;
        Ok(if row.get(0) {
            let instance = self.instance();
            let position = self.forget_in("position", instance, topic);
            Past::Applied { forget: format!("{position}; {};", self.end_resyncs(instance, topic)) }
        } else {
            Past::Blank
        })
    }

    /// Instances other than this one that apply these topics to the tables that `target` gives; with `take_over`, their
    /// rows become this instance's, positions included.
    pub async fn settle_owners(
        &self,
        client: &Client,
        topics: &[String],
        target: impl Fn(&TableName) -> TableName,
        take_over: bool,
    ) -> Result<(), Error> {
        let failed = || Error::query("look for other appliers");
        let sql = format!(
            "SELECT instance, topic, source_schema, source_table, target_schema, target_table FROM {} \
             WHERE topic = ANY ($1) AND instance <> $2",
            self.table("topic")
        );
        for row in client.query(&sql, &[&topics, &self.instance()]).await.map_err(failed())? {
            let text = |index: usize| row.get::<_, String>(index);
            let table = TableName::new(text(4), text(5));
            if target(&TableName::new(text(2), text(3))) != table {
                continue;
            }
            let (instance, topic) = (text(0), text(1));
            if !take_over {
                return Err(Error::Owned { table, instance });
            }
            self.take_over(client, &instance, &topic).await?;
        }
        Ok(())
    }

    async fn take_over(&self, client: &Client, from: &str, topic: &str) -> Result<(), Error> {
        tracing::warn!(topic, from, to = self.instance(), "taking the topic over from another instance");
        let mut sql = format!("BEGIN;{}", resyncs::take_over(self, from, topic));
        let (mine, from, topic) = (self.instance_literal(), quote_literal(from), quote_literal(topic));
        for table in ["topic", "position", "moved"] {
            let table = self.table(table);
            sql.push_str(&format!("DELETE FROM {table} WHERE instance = {mine} AND topic = {topic};"));
            let fence = if table == self.table("position") { ", gen = gen + 1" } else { "" };
            sql.push_str(&format!(
                "UPDATE {table} SET instance = {mine}{fence} WHERE instance = {from} AND topic = {topic};"
            ));
        }
        let barrier = self.table("barrier");
        sql.push_str(&format!(
            "INSERT INTO {barrier} SELECT {mine}, epoch, commit_lsn, ordinal, topics, emptied, created_at FROM {barrier} \
             WHERE instance = {from} ON CONFLICT DO NOTHING; COMMIT"
        ));
        client.batch_execute(&sql).await.map_err(Error::query("take a topic over"))
    }
}
