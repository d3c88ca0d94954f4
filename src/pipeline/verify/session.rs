//! A read-only session that sees one snapshot and prints values as the other side does.

use std::time::Duration;

use super::Error;
use crate::{
    postgres::{self, Client, Settings},
    record::Masks,
    schema::{TableName, quote_literal},
};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Source,
    /// The target.
    Target,
}

impl Side {
    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// The salt, once it is set.
pub const SALT: &str = "current_setting('walrelay.mask_salt')";

/// A connection inside a REPEATABLE READ, READ ONLY transaction.
pub struct Session {
    client: Client,
    side: Side,
    utf8: bool,
}

impl Session {
    /// Connects. `search_path` is pinned beside the usual settings, since the text of `regclass` and the like depends on it
    /// (trap T42); JIT would compile for longer than most scans run.
    pub async fn connect(side: Side, settings: &Settings) -> Result<Self, Error> {
        let pinned = [("search_path", "pg_catalog"), ("jit", "off")];
        let client = postgres::client::connect_with(settings, "walrelay verify", &pinned).await?;
        let row = client.query_one("SELECT current_setting('server_encoding')", &[]).await;
        let encoding: String =
            row.and_then(|row| row.try_get(0)).map_err(|e| failed(side, "reading its encoding", e))?;
        if client.server_version() >= 140_000 {
            // A scan must not go on for hours after we are gone; before 14 the server cannot notice in mid-query.
            let set = client.batch_execute("SET client_connection_check_interval = '2s'").await;
            set.map_err(|e| failed(side, "setting up the session", e))?;
        }
        Ok(Self { client, side, utf8: encoding == "UTF8" })
    }

    /// Keeps the salt of masks at hand for [`SALT`]: in no statement's text, which servers show and log.
    pub async fn set_salt(&self, masks: &Masks) -> Result<(), Error> {
        if masks.is_empty() {
            return Ok(());
        }
        let salt = masks.salt().reveal();
        let set = self.client.execute("SELECT set_config('walrelay.mask_salt', $1, false)", &[&salt]).await;
        set.map(drop).map_err(|e| failed(self.side, "setting up the session", e))
    }

    /// Which server it is at.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// `server_version_num`.
    #[must_use]
    pub const fn server_version(&self) -> u32 {
        self.client.server_version()
    }

    /// Begins with a snapshot of its own and exports it for [`Session::import`] on other sessions of this server.
    pub async fn export(&self) -> Result<String, Error> {
        self.begin("").await?;
        let row = self.client.query_one("SELECT pg_export_snapshot()", &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|e| failed(self.side, "exporting a snapshot", e))
    }

    /// Begins with a snapshot that another session exported and still holds.
    pub async fn import(&self, snapshot: &str) -> Result<(), Error> {
        self.begin(&format!("SET TRANSACTION SNAPSHOT {};", quote_literal(snapshot))).await
    }

    /// Keeps the tables from being truncated or rewritten until the transaction ends, and names those that were since its
    /// snapshot: it would see them empty (trap T79). Tables that do not exist are left out.
    pub async fn lock(&self, tables: &[TableName], limit: Duration) -> Result<Vec<String>, Error> {
        let schemas: Vec<&str> = tables.iter().map(|name| &*name.schema).collect();
        let names: Vec<&str> = tables.iter().map(|name| &*name.table).collect();
        let rows = self.client.query(EXISTING, &[&schemas, &names]).await;
        let rows = rows.map_err(|e| failed(self.side, "locking the tables", e))?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let name =
            |row: &tokio_postgres::Row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)).quoted();
        let existing: Vec<String> = rows.iter().map(name).collect();
        let sql = format!(
            "SET LOCAL lock_timeout = {}; LOCK TABLE {} IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0",
            limit.as_millis(),
            existing.join(", ")
        );
        self.client.batch_execute(&sql).await.map_err(|e| failed(self.side, "locking the tables", e))?;
        let rows = self.client.query(REWRITTEN, &[&schemas, &names]).await;
        let rows = rows.map_err(|e| failed(self.side, "looking for rewritten tables", e))?;
        Ok(rows.iter().map(name).collect())
    }

    /// Gives the snapshot up, so that another can be opened.
    pub async fn end(&self) -> Result<(), Error> {
        self.client.batch_execute("ROLLBACK").await.map_err(|e| failed(self.side, "closing the snapshot", e))
    }

    async fn begin(&self, then: &str) -> Result<(), Error> {
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;{then}");
        self.client.batch_execute(&sql).await.map_err(|e| failed(self.side, "opening the snapshot", e))
    }

    /// MD5 of a text expression, as 32 hexadecimal digits, over its UTF-8 bytes whatever the database's encoding is.
    #[must_use]
    pub fn md5(&self, text: &str) -> String {
        if self.utf8 { format!("md5({text})") } else { format!("md5(convert_to({text},'UTF8'))") }
    }

    /// The client, for queries.
    #[must_use]
    pub fn client(&self) -> &tokio_postgres::Client {
        &self.client
    }

    /// Wraps an error of a statement of this session.
    pub fn failed(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + use<> {
        let (side, doing) = (self.side, doing.to_owned());
        move |error| failed(side, &doing, error)
    }
}

const EXISTING: &str = "
    SELECT n.nspname::text, c.relname::text FROM unnest($1::text[], $2::text[]) AS u(s, t)
    JOIN pg_namespace n ON n.nspname = u.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = u.t
    WHERE c.relkind IN ('r', 'p')";

/// The catalog row is the snapshot's, the function's answer the present one.
const REWRITTEN: &str = "
    WITH RECURSIVE tree AS (
        SELECT n.nspname, c.relname, c.oid, c.relkind, c.relfilenode FROM unnest($1::text[], $2::text[]) AS u(s, t)
        JOIN pg_namespace n ON n.nspname = u.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = u.t
        UNION ALL
        SELECT t.nspname, t.relname, c.oid, c.relkind, c.relfilenode FROM tree t
        JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid WHERE t.relkind = 'p')
    SELECT DISTINCT nspname::text, relname::text FROM tree
    WHERE relkind = 'r' AND relfilenode IS DISTINCT FROM pg_relation_filenode(oid)";

fn failed(side: Side, doing: &str, error: tokio_postgres::Error) -> Error {
    Error::Postgres(postgres::Error::statement(format!("{doing} ({})", side.name()), error))
}
