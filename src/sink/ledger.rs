//! The bookkeeping schema in the target: how far every partition is, who owns it, and what lanes tell each other.
//!
//! | table | row | written by |
//! |---|---|---|
//! | `version` | version of this layout | the first applier |
//! | `topic` | a topic of an instance, its source and target table | the lane that first sees an event |
//! | `position` | mark, next offset, topic id, generation and owner of a partition; where it is parked, held or stopped | its lane |
//! | `barrier` | a TRUNCATE that partitions gather at | the first lane that reaches it |
//! | `moved` | unchanged columns of a key move between partitions | the delete's lane; the create's lane removes it |
//! | `resync` | the resync of a topic that is under way, and the number of the table `seen_…` that has the keys of its rows ([`resyncs`](super::resyncs)) | the first batch that needs it; batches count in it |
//! | `unnoted` | the mark of a topic when the books got the list of resyncs: up to it a version may have applied that notes no keys | the applier that adds the list to older books |
//! | `hold_request` | the commit LSN before which lanes are to stop, and when that expires | `verify` |
//! | `hold` | a view: the requests that have not expired | |
//!
//! All rows are keyed by the sink *instance* (consumer group and target schema rule), so that two instances never share
//! positions. Offsets live here and nowhere else: a position moves in the transaction that applies its events (trap T60).

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row, types::PgLsn};

use crate::{
    lsn::{Lsn, Position},
    schema::{quote_identifier, quote_literal},
    sink::error::Error,
};

/// Version of the layout.
pub const VERSION: i32 = 1;

/// The `application_name` of every connection of the sink; only such backends are terminated as zombies.
pub const APPLICATION_NAME: &str = "walrelay apply";

/// Key of the advisory lock that serializes changes of schema (of the bookkeeping and of target tables).
const DDL_LOCK: i64 = 0x7761_6c72_656c_6179;

/// Names of the bookkeeping tables and of the instance whose rows are used.
#[derive(Clone, Debug)]
pub struct Ledger {
    schema: String,
    instance: String,
}

/// One partition as its new owner found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The generation that every transaction of this owner must find.
    pub generation: i64,
    /// Offset of the next record to apply; `None`: nothing was applied yet.
    pub next_offset: Option<i64>,
    /// Position of the last applied event.
    pub mark: Position,
}

/// A partition with the generation under which it is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The generation of the claim.
    pub generation: i64,
}

impl From<&Claim> for Owned {
    fn from(claim: &Claim) -> Self {
        Self { topic: claim.topic.clone(), partition: claim.partition, generation: claim.generation }
    }
}

/// Where a lane stands as its process knows it: by what the target has told, or has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The lane under its claim.
    pub lane: Owned,
    /// The next offset that the target has stored.
    pub next_offset: Option<i64>,
    /// The mark that the target has stored.
    pub mark: Position,
}

/// How far a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Offset of the next record to apply.
    pub next_offset: Option<i64>,
    /// Position of the last applied event.
    pub mark: Position,
}

impl Standing {
    pub(crate) fn fenced(&self) -> Error {
        Error::Fenced { topic: self.lane.topic.clone(), partition: self.lane.partition }
    }
}

impl Ledger {
    /// Names the bookkeeping schema and the instance.
    #[must_use]
    pub fn new(schema: impl Into<String>, instance: impl Into<String>) -> Self {
        Self { schema: schema.into(), instance: instance.into() }
    }

    /// The schema of the books.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// A bookkeeping table's quoted name.
    #[must_use]
    pub fn table(&self, table: &str) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(table))
    }

    /// The instance as an SQL literal.
    #[must_use]
    pub fn instance_literal(&self) -> String {
        quote_literal(&self.instance)
    }

    /// The quoted name of a table of a resync's keys.
    #[must_use]
    pub fn seen_table(&self, number: i64) -> String {
        self.table(&format!("seen_{number}"))
    }

    /// Creates the bookkeeping schema if it is missing, and checks its version.
    pub async fn ensure(&self, client: &Client) -> Result<(), Error> {
        let failed = || Error::query("create the bookkeeping schema");
        client.batch_execute("BEGIN").await.map_err(failed())?;
        let done = self.ensure_in_transaction(client).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).await.map_err(failed());
        done.and(ended)
    }

    async fn ensure_in_transaction(&self, client: &Client) -> Result<(), Error> {
        let failed = || Error::query("create the bookkeeping schema");
        lock_ddl(client).await?;
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        let exists: bool = client.query_one(exists, &[&self.table("version")]).await.map_err(failed())?.get(0);
        if exists {
            let found = format!("SELECT version FROM {}", self.table("version"));
            let found: i32 = client.query_one(&found, &[]).await.map_err(failed())?.get(0);
            if found != VERSION {
                return Err(Error::Version { schema: self.schema.clone(), found, known: VERSION });
            }
            return self.ensure_resyncs(client).await;
        }
        let ddl = format!("{};{}", self.ddl(), self.resync_ddl());
        client.batch_execute(&ddl).await.map_err(failed())
    }

    /// Books that were made before resyncs were known lack their list. Earlier versions of the program do not mind it, and have noted
    /// nothing of a resync that may have begun by now: up to which mark, is kept.
    async fn ensure_resyncs(&self, client: &Client) -> Result<(), Error> {
        let failed = || Error::query("add to the bookkeeping schema");
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        let exists: bool = client.query_one(exists, &[&self.table("resync")]).await.map_err(failed())?.get(0);
        if exists {
            return Ok(());
        }
        let marks = format!(
            "INSERT INTO {} SELECT DISTINCT ON (instance, topic) instance, topic, epoch, commit_lsn FROM {} \
             WHERE (epoch, commit_lsn) > (0, '0/0') ORDER BY instance, topic, epoch DESC, commit_lsn DESC \
             ON CONFLICT (instance, topic) DO UPDATE SET epoch = EXCLUDED.epoch, commit_lsn = EXCLUDED.commit_lsn",
            self.table("unnoted"),
            self.table("position")
        );
        client.batch_execute(&format!("{}{marks}", self.resync_ddl())).await.map_err(failed())
    }

    fn ddl(&self) -> String {
        let [version, topic, position, barrier, moved, hold_request, hold] =
            ["version", "topic", "position", "barrier", "moved", "hold_request", "hold"].map(|table| self.table(table));
        let schema = quote_identifier(&self.schema);
        format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE {version} (version int NOT NULL);
             INSERT INTO {version} VALUES ({VERSION});
             CREATE TABLE {topic} (
               instance text, topic text, source_schema text NOT NULL, source_table text NOT NULL,
               target_schema text NOT NULL, target_table text NOT NULL,
               PRIMARY KEY (instance, topic), UNIQUE (target_schema, target_table));
             CREATE TABLE {position} (
               instance text, topic text, partition int, topic_id text, next_offset bigint,
               epoch bigint NOT NULL DEFAULT 0, commit_lsn pg_lsn NOT NULL DEFAULT '0/0', ordinal bigint NOT NULL DEFAULT 0,
               gen bigint NOT NULL DEFAULT 0, owner text, pid int,
               parked_epoch bigint, parked_lsn pg_lsn, parked_ordinal bigint,
               held_at pg_lsn, stopped text, updated_at timestamptz NOT NULL DEFAULT now(),
               PRIMARY KEY (instance, topic, partition)) WITH (fillfactor = 50);
             CREATE TABLE {barrier} (
               instance text, epoch bigint, commit_lsn pg_lsn, ordinal bigint, topics text NOT NULL,
               emptied text[] NOT NULL DEFAULT '{{}}', created_at timestamptz NOT NULL DEFAULT now(),
               PRIMARY KEY (instance, epoch, commit_lsn, ordinal));
             CREATE TABLE {moved} (
               instance text, topic text, epoch bigint, commit_lsn pg_lsn, ordinal bigint,
               found boolean NOT NULL, columns json NOT NULL,
               PRIMARY KEY (instance, topic, epoch, commit_lsn, ordinal));
             CREATE TABLE {hold_request} (
               instance text PRIMARY KEY, lsn pg_lsn NOT NULL, created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL);
             CREATE VIEW {hold} AS SELECT instance, lsn, created_at, expires_at FROM {hold_request}
               WHERE expires_at > clock_timestamp()"
        )
    }

    fn resync_ddl(&self) -> String {
        let (resync, unnoted) = (self.table("resync"), self.table("unnoted"));
        format!(
            "CREATE TABLE {resync} (
               number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
               instance text NOT NULL, topic text NOT NULL, epoch bigint NOT NULL, commit_lsn pg_lsn NOT NULL,
               key text[] NOT NULL, types text[] NOT NULL, rows bigint NOT NULL DEFAULT 0,
               incomplete boolean NOT NULL DEFAULT false, ended boolean NOT NULL DEFAULT false,
               created_at timestamptz NOT NULL DEFAULT now());
             CREATE UNIQUE INDEX ON {resync} (instance, topic) WHERE NOT ended;
             CREATE TABLE IF NOT EXISTS {unnoted} (
               instance text, topic text, epoch bigint NOT NULL, commit_lsn pg_lsn NOT NULL, PRIMARY KEY (instance, topic));"
        )
    }

    /// Takes partitions over: raises their generation, which fences every earlier owner, and tells where each stands.
    ///
    /// Waits for the open transaction of an earlier owner, which may still be committing (PROTOCOL 9); the caller bounds
    /// the wait. With `held` given, only partitions are taken back that are still in those generations, or in later ones of this
    /// owner: the answer to a claim may be lost with its connection.
    pub async fn claim(
        &self,
        client: &Client,
        owner: &str,
        partitions: &[(String, i32)],
        held: Option<&[i64]>,
    ) -> Result<Vec<Claim>, Error> {
        let topics: Vec<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
        let numbers: Vec<i32> = partitions.iter().map(|(_, partition)| *partition).collect();
        let position = self.table("position");
        let insert = format!(
            "INSERT INTO {position} (instance, topic, partition) \
             SELECT $1, topic, n FROM unnest($2::text[], $3::int[]) AS u(topic, n) ORDER BY 2, 3 ON CONFLICT DO NOTHING"
        );
        let failed = || Error::query("claim partitions");
        client.execute(&insert, &[&self.instance, &topics, &numbers]).await.map_err(failed())?;
        let update = format!(
            "WITH mine AS MATERIALIZED (SELECT p.topic, p.partition FROM {position} p \
               JOIN unnest($2::text[], $3::int[], $5::bigint[]) AS u(topic, n, gen) ON p.topic = u.topic AND p.partition = u.n \
               WHERE p.instance = $1 AND (u.gen IS NULL OR p.gen = u.gen OR p.gen > u.gen AND p.owner = $4) ORDER BY p.topic, p.partition FOR UPDATE OF p) \
             UPDATE {position} p SET owner = $4, gen = p.gen + 1, pid = pg_backend_pid(), held_at = NULL, stopped = NULL, \
               updated_at = now() FROM mine m WHERE p.instance = $1 AND p.topic = m.topic AND p.partition = m.partition \
             RETURNING p.topic, p.partition, p.gen, p.next_offset, p.epoch, p.commit_lsn, p.ordinal"
        );
        let none = vec![None::<i64>; partitions.len()];
        let gens: Vec<Option<i64>> = held.map_or(none, |gens| gens.iter().copied().map(Some).collect());
        let rows = client.query(&update, &[&self.instance, &topics, &numbers, &owner, &gens]).await.map_err(failed())?;
        rows.iter()
            .map(|row| {
                Ok(Claim {
                    topic: row.get(0),
                    partition: row.get(1),
                    generation: row.get(2),
                    next_offset: row.get(3),
                    mark: position_of(row.get(4), row.get(5), row.get(6))?,
                })
            })
            .collect()
    }

    /// Records the ids of the lanes' topics where none is recorded, and gives an error for each topic whose recorded id is
    /// another one: the topic was deleted and created again, so its offsets mean other records. Topics without an id are not
    /// compared. `claimed`: the lanes were just claimed, so one may take a new id if nothing was applied under another.
    pub async fn identify(
        &self,
        client: &Client,
        lanes: &[Owned],
        ids: &BTreeMap<String, Option<String>>,
        claimed: bool,
    ) -> Result<Vec<Error>, Error> {
        let known = |lane: &Owned| ids.get(&lane.topic)?.clone();
        let lanes: Vec<(&Owned, String)> = lanes.iter().filter_map(|lane| Some((lane, known(lane)?))).collect();
        let topics: Vec<&str> = lanes.iter().map(|(lane, _)| lane.topic.as_str()).collect();
        let numbers: Vec<i32> = lanes.iter().map(|(lane, _)| lane.partition).collect();
        let generations: Vec<i64> = lanes.iter().map(|(lane, _)| lane.generation).collect();
        let ids: Vec<&str> = lanes.iter().map(|(_, id)| id.as_str()).collect();
        let position = self.table("position");
        let failed = || Error::query("record topic ids");
        let record = format!(
            "UPDATE {position} p SET topic_id = u.id FROM unnest($2::text[], $3::int[], $4::bigint[], $5::text[]) AS u(topic, n, gen, id) \
             WHERE p.instance = $1 AND p.topic = u.topic AND p.partition = u.n AND p.gen = u.gen \
               AND p.topic_id IS DISTINCT FROM u.id AND (p.topic_id IS NULL OR $6 AND NOT EXISTS (\
                 SELECT FROM {position} o WHERE o.instance = p.instance AND o.topic = p.topic AND o.next_offset IS NOT NULL \
                   AND o.topic_id IS DISTINCT FROM u.id))"
        );
        client
            .execute(&record, &[&self.instance, &topics, &numbers, &generations, &ids, &claimed])
            .await
            .map_err(failed())?;
        let compare = format!(
            "SELECT DISTINCT ON (p.topic) p.topic, p.topic_id, u.id FROM {position} p \
             JOIN unnest($2::text[], $3::int[], $4::text[]) AS u(topic, n, id) ON p.topic = u.topic AND p.topic_id <> u.id \
             WHERE p.instance = $1 AND (p.partition = u.n OR p.next_offset IS NOT NULL) ORDER BY p.topic"
        );
        let rows = client.query(&compare, &[&self.instance, &topics, &numbers, &ids]).await.map_err(failed())?;
        let other = |row: &Row| Error::OtherTopic { topic: row.get(0), recorded: row.get(1), found: row.get(2) };
        Ok(rows.iter().map(other).collect())
    }

    /// Ends the transactions that `waiting` (a backend's pid) waits for, where they are this program's own.
    pub async fn terminate_zombies(client: &Client, waiting: i32) -> Result<u64, Error> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid = ANY (pg_blocking_pids($1)) AND application_name = $2";
        client.execute(sql, &[&waiting, &APPLICATION_NAME]).await.map_err(Error::query("terminate a stale applier"))
    }

    /// Writes one column of a partition's row, if it is still owned and has not gone back.
    async fn mark_row(&self, client: &Client, standing: &Standing, set: &str) -> Result<(), Error> {
        let sql = format!(
            "UPDATE {} SET {set}, updated_at = now() WHERE instance = $1 AND topic = $2 AND partition = $3 AND gen = $4 \
             AND coalesce(next_offset, -1) >= $5",
            self.table("position")
        );
        let (lane, from) = (&standing.lane, standing.next_offset.unwrap_or(-1));
        let written = client
            .execute(&sql, &[&self.instance, &lane.topic, &lane.partition, &lane.generation, &from])
            .await
            .map_err(Error::query("write a position"))?;
        if written == 1 { Ok(()) } else { Err(standing.fenced()) }
    }

    /// Says that a lane stands at a hold and applies nothing at or above it.
    pub async fn set_held(&self, client: &Client, lane: &Standing, held: Option<Lsn>) -> Result<(), Error> {
        let value = held.map_or("NULL".to_owned(), |lsn| format!("'{lsn}'"));
        self.mark_row(client, lane, &format!("held_at = {value}")).await
    }

    /// Says that a lane has stopped, so that barriers do not wait for its table.
    pub async fn set_stopped(&self, client: &Client, lane: &Standing, reason: &str) -> Result<(), Error> {
        self.mark_row(client, lane, &format!("stopped = {}", quote_literal(reason))).await
    }

    /// Says that a lane has committed everything below a barrier and waits at it.
    pub async fn set_parked(&self, client: &Client, lane: &Standing, at: Position) -> Result<(), Error> {
        let set = format!("parked_epoch = {}, parked_lsn = '{}', parked_ordinal = {}", at.epoch, at.commit, at.ordinal);
        self.mark_row(client, lane, &set).await
    }

    /// The topics of which something was applied.
    pub async fn topics(&self, client: &Client) -> Result<Vec<String>, Error> {
        let sql = format!(
            "SELECT DISTINCT topic FROM {} WHERE instance = $1 AND next_offset IS NOT NULL",
            self.table("position")
        );
        let rows =
            client.query(&sql, &[&self.instance]).await.map_err(Error::query("read which topics were applied"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// How far the partitions of these topics are, in whatever process they are applied.
    pub async fn standings(&self, client: &Client, topics: &[&str]) -> Result<Vec<Stand>, Error> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT topic, partition, next_offset, epoch, commit_lsn, ordinal FROM {} WHERE instance = $1 AND topic = ANY ($2)",
            self.table("position")
        );
        let rows = client.query(&sql, &[&self.instance, &topics]).await.map_err(Error::query("read positions"))?;
        rows.iter()
            .map(|row| {
                let mark = position_of(row.get(3), row.get(4), row.get(5))?;
                Ok(Stand { topic: row.get(0), partition: row.get(1), next_offset: row.get(2), mark })
            })
            .collect()
    }

    /// The commit LSN before which lanes are to stop, if `verify` holds them.
    pub async fn hold(&self, client: &Client) -> Result<Option<Lsn>, Error> {
        let sql = format!("SELECT lsn FROM {} WHERE instance = $1", self.table("hold"));
        let row = client.query_opt(&sql, &[&self.instance]).await.map_err(Error::query("read the hold"))?;
        Ok(row.map(|row| Lsn(u64::from(row.get::<_, PgLsn>(0)))))
    }
}

/// Bounds what statements of this transaction wait for locks: readers of a table queue behind a change that waits for one of
/// them, and other tables' changes behind the one that has the lock of `lock_ddl`. The error is a transient one.
pub(crate) async fn bound_waits(client: &Client) -> Result<(), Error> {
    client.batch_execute("SET LOCAL lock_timeout = '2s'").await.map_err(Error::query("bound the wait for locks"))
}

/// Serializes changes of schema until the transaction ends.
pub(crate) async fn lock_ddl(client: &Client) -> Result<(), Error> {
    let sql = format!("SELECT pg_advisory_xact_lock({DDL_LOCK})");
    client.batch_execute(&sql).await.map_err(Error::query("lock the schema"))
}

/// As `lock_ddl`, without waiting: whether the lock was free.
pub(crate) async fn try_lock_ddl(client: &Client) -> Result<bool, Error> {
    let sql = format!("SELECT pg_try_advisory_xact_lock({DDL_LOCK})");
    Ok(client.query_one(&sql, &[]).await.map_err(Error::query("lock the schema"))?.get(0))
}

/// Builds a position from its columns.
pub(crate) fn position_of(epoch: i64, commit: PgLsn, ordinal: i64) -> Result<Position, Error> {
    let damaged = |what: &str| Error::Damaged(format!("{what} is out of range"));
    Ok(Position {
        epoch: u32::try_from(epoch).map_err(|_| damaged("an epoch"))?,
        commit: Lsn(u64::from(commit)),
        ordinal: u64::try_from(ordinal).map_err(|_| damaged("an ordinal"))?,
    })
}
