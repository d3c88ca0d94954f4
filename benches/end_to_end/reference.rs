//! What PostgreSQL itself does with the same data: COPY, `pg_recvlogical`, and logical replication between the two servers.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, pin_mut};
use tokio_postgres::Client;

use crate::{
    Outcome,
    world::{World, rate},
};

const LIMIT: Duration = Duration::from_mins(10);

/// Rows a second of COPY … TO STDOUT in text format, the one that the snapshot uses.
pub async fn copy_out(world: &World) -> Outcome<f64> {
    let begun = Instant::now();
    let stream = world.source.copy_out("COPY orders TO STDOUT").await?;
    pin_mut!(stream);
    while let Some(chunk) = stream.next().await {
        chunk?;
    }
    Ok(rate(world.rows, begun))
}

/// A slot that `pg_recvlogical` drains into /dev/null.
pub struct RawSlot {
    name: String,
}

impl RawSlot {
    /// Makes the slot: its backlog begins here.
    pub async fn create(world: &World) -> Outcome<Self> {
        let name = format!("{}_raw", world.name);
        let sql = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        world.source.batch_execute(&sql).await?;
        Ok(Self { name })
    }

    /// Reads the backlog; rows a second.
    pub async fn drain(&self, world: &World) -> Outcome<f64> {
        let bin = world.parts.postgres_bin.as_ref().ok_or("WALRELAY_DEV_PG_BIN is not in the file of addresses")?;
        let end: String = world.source.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        let mut command = tokio::process::Command::new(bin.join("pg_recvlogical"));
        command.args(["-h", &world.parts.source.host, "-p", &world.parts.source.port.to_string(), "-U", "postgres"]);
        command.args([
            "-d",
            &world.name,
            "--slot",
            &self.name,
            "--start",
            "--no-loop",
            "-f",
            "/dev/null",
            "--endpos",
            &end,
        ]);
        command.args(["-o", "proto_version=1", "-o", &format!("publication_names={}", world.name)]);
        let begun = Instant::now();
        let output = command.output().await?;
        if !output.status.success() {
            return Err(format!("pg_recvlogical: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(rate(world.rows, begun))
    }

    /// Drops the slot.
    pub async fn remove(self, world: &World) -> Outcome<()> {
        world.source.batch_execute(&format!("SELECT pg_drop_replication_slot('{}')", self.name)).await?;
        Ok(())
    }
}

/// PostgreSQL's own logical replication into another database of the target server; disabled except when measured.
pub struct Subscription {
    name: String,
    client: Client,
    /// Rows a second of its first copy.
    pub first_copy: f64,
}

impl Subscription {
    /// Makes the database and the subscription, and waits for the first copy.
    pub async fn create(world: &World) -> Outcome<Self> {
        let name = format!("{}_ref", world.name);
        let admin = world.parts.target.connect("postgres", "postgres", "").await?;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let client = world.parts.target.connect(&name, "postgres", "").await?;
        client.batch_execute(World::table()).await?;
        let (source, database) = (&world.parts.source, &world.name);
        let sql = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION 'host={} port={} user=postgres dbname={database}' PUBLICATION {database}",
            source.host, source.port
        );
        let begun = Instant::now();
        client.batch_execute(&sql).await?;
        let ready = "SELECT count(*) = 1 FROM pg_subscription_rel WHERE srsubstate = 'r'";
        await_true(&client, ready).await?;
        let subscription = Self { name, client, first_copy: rate(world.rows, begun) };
        subscription.switch("DISABLE").await?;
        Ok(subscription)
    }

    async fn switch(&self, how: &str) -> Outcome<()> {
        self.client.batch_execute(&format!("ALTER SUBSCRIPTION {} {how}", self.name)).await?;
        Ok(())
    }

    /// Works the backlog off; rows a second from the first look that shows the walsender, for the server lets a subscription
    /// start no oftener than every five seconds.
    pub async fn catch_up(&mut self, world: &World) -> Outcome<f64> {
        let end: String = world.source.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        self.switch("ENABLE").await?;
        let there = format!("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{}')", self.name);
        await_true(&world.source, &there).await?;
        let begun = Instant::now();
        let done = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{}' AND replay_lsn >= '{end}')",
            self.name
        );
        await_true(&world.source, &done).await?;
        let rate = rate(world.rows, begun);
        self.switch("DISABLE").await?;
        Ok(rate)
    }

    /// Drops the subscription with its slot, and its database.
    pub async fn remove(self, world: &World) -> Outcome<()> {
        self.client.batch_execute(&format!("DROP SUBSCRIPTION {}", self.name)).await?;
        let admin = world.parts.target.connect("postgres", "postgres", "").await?;
        admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?;
        Ok(())
    }
}

async fn await_true(client: &Client, sql: &str) -> Outcome<()> {
    let begun = Instant::now();
    while !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
        if begun.elapsed() > LIMIT {
            return Err(format!("did not come true: {sql}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
