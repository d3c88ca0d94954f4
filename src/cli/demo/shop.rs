//! The small shop that the demo fills: the same tables that `docker compose` users get.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::{
    error::Error,
    parts::{Parts, Server},
};

/// Name of the database at both ends, and first part of everything else that the demo makes.
pub const NAME: &str = "shop";

/// Tables of the shop with what their changes carry.
pub const TABLES: [(&str, &str); 7] = [
    ("customers", "identity DEFAULT, unique email"),
    ("orders", "identity DEFAULT, enum"),
    ("order_lines", "identity USING INDEX"),
    ("documents", "identity FULL, large text"),
    ("notes", "identity DEFAULT, large text"),
    ("audit_log", "no key"),
    ("carts", "truncated now and then"),
];

const TABLES_SQL: &str = include_str!("../../../postgres-init/source/20-shop.sql");
const ROWS_SQL: &str = include_str!("../../../postgres-init/source/30-rows.sql");

/// Makes the databases anew, the source's with its tables and rows; whatever an earlier run left is removed.
pub async fn create(parts: &Parts) -> Result<(), Error> {
    for server in [&parts.source, &parts.target] {
        let admin = server.connect("postgres", "postgres", "").await?;
        remove(server, &admin).await?;
        let sql = format!("CREATE DATABASE {NAME} OWNER {}", parts.user);
        server.execute(&admin, "create database shop", &sql).await?;
    }
    let source = parts.source.connect(NAME, "postgres", "").await?;
    parts.source.execute(&source, "create the shop's tables", TABLES_SQL).await?;
    parts.source.execute(&source, "fill the shop's tables", ROWS_SQL).await
}

async fn remove(server: &Server, admin: &Client) -> Result<(), Error> {
    let end = format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{NAME}'");
    server.execute(admin, "end the connections to database shop", &end).await?;
    let slots = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{NAME}' AND NOT active"
    );
    server.execute(admin, "drop the slots of database shop", &slots).await?;
    server.execute(admin, "drop database shop", &format!("DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")).await
}

/// Number of rows of each table, in the order of [`TABLES`]; `None` where the table is not there.
pub async fn row_counts(server: &Server) -> Result<Vec<Option<i64>>, Error> {
    let client = server.connect(NAME, "postgres", "").await?;
    let mut counts = Vec::new();
    for (table, _) in TABLES {
        let known = format!("SELECT to_regclass('public.{table}') IS NOT NULL");
        let failed = |source| server.failed(format!("count the rows of {table}"), source);
        let known: bool = client.query_one(&known, &[]).await.map_err(failed)?.get(0);
        let count = format!("SELECT count(*) FROM public.{table}");
        counts.push(if known { Some(client.query_one(&count, &[]).await.map_err(failed)?.get(0)) } else { None });
    }
    Ok(counts)
}

/// Waits until both ends hold as many rows, or the limit passes. It only keeps the wait out of the verdict: `verify` judges.
pub async fn await_row_counts(parts: &Parts, limit: Duration) -> Result<(), Error> {
    let begun = Instant::now();
    let expected = row_counts(&parts.source).await?;
    while row_counts(&parts.target).await? != expected && begun.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
