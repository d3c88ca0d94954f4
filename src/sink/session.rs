//! A connection to the target that applies batches, each in one transaction with the positions it reaches.
//!
//! ```text
//! BEGIN; lock the position rows of the batch's lanes in their generation (fence); read the hold
//!   per table: classes of loose keys, rows that key moves will need, what earlier moves left     (only where needed)
//!   per table: COPY the folded rows into the staging table, and note their keys while a resync goes on
//!   children first: DELETE; parents first: UPDATE, INSERT … ON CONFLICT
//! UPDATE positions; COMMIT
//! ```
//!
//! Nothing is written outside that transaction, so a kill at any point leaves rows and positions together (trap T60).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::{SimpleQueryMessage, Statement};

use crate::{
    event::{Cell, Resync, TableShape},
    lsn::{Lsn, Position},
    postgres::{Client, client::connect_with},
    schema::quote_literal,
    sink::{
        batch::{self, Applied, LaneDone, LanePart, MovedRows, Placed, Run, Staged},
        error::Error,
        labels,
        ledger::{APPLICATION_NAME, Claim, Ledger},
        moved,
        plan::{Manner, Plan, group},
        resyncs::Key,
        seen,
        settings::Sink,
        stage::StagedRows,
        table::{Evolution, ensure},
    },
};

/// How long a claim waits for the transaction of an earlier owner before it ends that owner's backend.
const ZOMBIE_PATIENCE: Duration = Duration::from_secs(10);

/// Staging tables kept per connection; each costs a truncation per transaction that uses any.
const MAX_STAGES: usize = 64;

/// A connection with its staging tables.
pub struct Session {
    client: Client,
    pid: i32,
    stages: HashMap<String, Statement>,
    /// Staging tables with rows of the open transaction.
    filled: BTreeSet<String>,
    /// Staging tables that the open transaction has created.
    created: Vec<String>,
    retired: bool,
}

impl Session {
    /// Connects to the sink's target.
    pub async fn connect(sink: &Sink) -> Result<Self, Error> {
        let mut extra = vec![("search_path", "pg_catalog"), ("lock_timeout", "0"), ("statement_timeout", "0")];
        if sink.settings().replica_role {
            extra.push(("session_replication_role", "replica"));
        }
        let client = connect_with(&sink.settings().server, APPLICATION_NAME, &extra).await?;
        // A default that lets a crash take committed batches back is not meant for this; others may be stronger than `on`.
        let sql = "SELECT pg_backend_pid(), CASE WHEN current_setting('synchronous_commit') = 'off' \
                   THEN set_config('synchronous_commit', 'on', false) END";
        let pid = client.query_one(sql, &[]).await.map_err(Error::query("connect"))?.get(0);
        Ok(Self { client, pid, stages: HashMap::new(), filled: BTreeSet::new(), created: Vec::new(), retired: false })
    }

    /// The client, for the ledger's own statements.
    #[must_use]
    pub fn client(&self) -> &tokio_postgres::Client {
        &self.client
    }

    /// Whether the connection is gone, or is not to be used again.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.retired || self.client.is_closed()
    }

    /// Another connection is to be made for what comes next.
    pub const fn retire(&mut self) {
        self.retired = true;
    }

    /// Claims partitions; a stale owner that still holds one after ten seconds has its backend terminated.
    pub async fn claim(
        &self,
        sink: &Sink,
        partitions: &[(String, i32)],
        held: Option<&[i64]>,
    ) -> Result<Vec<Claim>, Error> {
        let mut claim = pin!(sink.ledger().claim(&self.client, &sink.settings().owner, partitions, held));
        loop {
            if let Ok(done) = tokio::time::timeout(ZOMBIE_PATIENCE, &mut claim).await {
                return done;
            }
            let other = Self::connect(sink).await?;
            let ended = Ledger::terminate_zombies(&other.client, self.pid).await?;
            tracing::warn!(ended, "partitions are held by an open transaction of an earlier owner");
        }
    }

    /// The compiled plan of a shape; makes the target table fit it first.
    pub async fn plan(&self, sink: &Sink, topic: &Arc<str>, shape: &Arc<TableShape>) -> Result<Arc<Plan>, Error> {
        if let Some(plan) = sink.known_plan(topic, shape) {
            return Ok(plan);
        }
        let name = sink.target_of(&shape.name);
        let past = sink.ledger().past(&self.client, topic, &name).await?;
        let evolution = Evolution { allowed: sink.settings().evolve };
        let target = ensure(&self.client, topic, shape, &name, (evolution, &past)).await?;
        labels::add(&self.client, &target, shape, evolution).await;
        sink.ledger().register(&self.client, topic, &shape.name, &name).await?;
        let plan = Arc::new(Plan::new(Arc::clone(topic), Arc::clone(shape), target, sink.settings().binary)?);
        sink.remember_plan(Arc::clone(&plan));
        Ok(plan)
    }

    /// Applies the lanes' events and writes the positions they reach, in one transaction.
    ///
    /// A lane whose next event waits for the other half of a key move goes as far as that event. Nothing is applied if a
    /// hold of `verify` lies below some event; the caller cuts the lanes there and comes back.
    pub async fn apply(&mut self, sink: &Sink, parts: &[LanePart<'_>], manner: Manner) -> Result<Applied, Error> {
        let runs = self.runs(sink, parts).await?;
        let applied = self.transaction(sink, parts, &runs, manner).await;
        if applied.is_err() {
            // The table of a resync's keys may be gone, or another one by now.
            for part in parts {
                sink.forget_keys(part.topic);
            }
        }
        if !matches!(applied, Ok(Applied::Done(_))) && !self.client.is_closed() {
            self.client.batch_execute("ROLLBACK").await.map_err(Error::query("roll back"))?;
        }
        self.filled.clear();
        let created = std::mem::take(&mut self.created);
        if !matches!(applied, Ok(Applied::Done(_))) {
            // They went with the transaction that made them.
            for stage in created {
                self.stages.remove(&stage);
            }
        }
        applied
    }

    /// Per topic the events of all lanes in the source's order, cut where the shape changes; children before parents.
    async fn runs<'a>(&self, sink: &Sink, parts: &'a [LanePart<'a>]) -> Result<Vec<Vec<Run<'a>>>, Error> {
        let mut topics: BTreeMap<&str, (Arc<str>, Vec<Placed<'_>>, usize)> = BTreeMap::new();
        for (lane, part) in parts.iter().enumerate() {
            if part.events.is_empty() {
                continue;
            }
            let topic = topics.entry(part.topic).or_insert_with(|| (Arc::clone(part.topic), Vec::new(), 0));
            topic.2 += 1;
            topic.1.extend(part.events.iter().enumerate().map(|(index, (_, event))| (lane, index, event)));
        }
        let mut all = Vec::with_capacity(topics.len());
        for (name, mut events, lanes) in topics.into_values() {
            if lanes > 1 {
                events.sort_by_key(|(_, _, event)| event.position);
            }
            let mut runs: Vec<Run<'a>> = Vec::new();
            let mut last: Option<&Arc<TableShape>> = None;
            for (lane, index, event) in events {
                if !last.is_some_and(|shape| Arc::ptr_eq(shape, &event.shape)) {
                    let plan = self.plan(sink, &name, &event.shape).await?;
                    if !runs.last().is_some_and(|run| Arc::ptr_eq(&run.plan, &plan)) {
                        runs.push(Run::new(plan));
                    }
                    last = Some(&event.shape);
                }
                if let Some(run) = runs.last_mut() {
                    run.push((lane, index, event));
                }
            }
            for run in &mut runs {
                if let Some(resync) = run.resync.filter(|_| run.plan.is_keyed()) {
                    run.seen = self.seen(sink, &run.plan, resync).await?;
                }
            }
            all.push(runs);
        }
        Ok(batch::children_first(all))
    }

    /// The number of the table in which a resync's keys are noted.
    async fn seen(&self, sink: &Sink, plan: &Plan, resync: Resync) -> Result<Option<i64>, Error> {
        let key = Key { names: plan.key_names(), types: plan.key_types() };
        if let Some(keys) = sink.known_keys(&plan.topic, resync, &key) {
            return Ok(keys.table());
        }
        let keys = seen::ensure(&self.client, sink.ledger(), plan, (resync, &key)).await?;
        sink.remember_keys(&plan.topic, (resync, key), keys);
        Ok(keys.table())
    }

    async fn transaction(
        &mut self,
        sink: &Sink,
        parts: &[LanePart<'_>],
        topics: &[Vec<Run<'_>>],
        manner: Manner,
    ) -> Result<Applied, Error> {
        if let Some(hold) = self.begin(sink, parts, manner).await? {
            let slips = |part: &LanePart<'_>| part.events.iter().any(|(_, event)| event.position.commit >= hold);
            if parts.iter().any(slips) {
                return Ok(Applied::Held(hold));
            }
        }
        let mut blocked: Vec<Option<usize>> = vec![None; parts.len()];
        let mut moves = Vec::new();
        let mut writes = Vec::new();
        for runs in topics {
            let mut moved = MovedRows::default();
            for (at, run) in runs.iter().enumerate() {
                let staged = self.stage_run(sink, run, &mut moved, &mut blocked).await?;
                // Where all of it waits for something, nothing is staged, and the table for it need not be there.
                let is_staged = run.plan.staging.tables().any(|stage| self.filled.contains(&stage.name));
                if let Some(number) = run.seen.filter(|_| is_staged) {
                    seen::note(&self.client, sink.ledger(), &run.plan, number).await?;
                }
                self.prepare(&staged, manner).await?;
                if at + 1 == runs.len() {
                    writes.push(staged);
                } else {
                    self.write(&staged, manner).await?;
                }
            }
            if let Some(run) = runs.first() {
                moves.push((Arc::clone(&run.plan), moved));
            }
        }
        for staged in writes.iter().rev() {
            self.write(staged, manner).await?;
        }
        let done: Vec<LaneDone> = parts.iter().zip(&blocked).map(|(part, blocked)| part.done(*blocked)).collect();
        let mut sql = batch::position_update(sink.ledger(), parts, &done);
        for (plan, moved) in &moves {
            sql.push_str(&moved::statements(sink.ledger(), plan, moved)?);
        }
        sql.push_str(&seen::count(sink.ledger(), topics.iter().flatten(), &blocked));
        sql.push_str("COMMIT");
        let failed = |error: tokio_postgres::Error| match topics.first().and_then(|runs| runs.first()) {
            // A deferred constraint speaks at commit; which table's it is shows when tables are retried one by one.
            Some(run) => Error::table(&run.plan.topic, run.plan.table(), "commit")(error),
            None => Error::query("commit positions")(error),
        };
        self.client.batch_execute(&sql).await.map_err(failed)?;
        Ok(Applied::Done(done))
    }

    /// Begins, fences and reads the hold.
    async fn begin(&self, sink: &Sink, parts: &[LanePart<'_>], manner: Manner) -> Result<Option<Lsn>, Error> {
        let ledger = sink.ledger();
        let rows: Vec<String> =
            parts.iter().map(|part| format!("({},{})", quote_literal(&part.lane.topic), part.lane.partition)).collect();
        let defer = if manner == Manner::Replace { "SET CONSTRAINTS ALL DEFERRED;" } else { "" };
        let sql = format!(
            "BEGIN;{defer} SELECT topic, partition, gen, next_offset FROM {} WHERE instance = {instance} \
             AND (topic, partition) IN ({}) ORDER BY topic, partition FOR UPDATE; \
             SELECT lsn FROM {} WHERE instance = {instance}",
            ledger.table("position"),
            rows.join(","),
            ledger.table("hold"),
            instance = ledger.instance_literal(),
        );
        let answer = self.client.simple_query(&sql).await.map_err(Error::query("begin a batch"))?;
        let mut found = BTreeMap::new();
        let mut hold = None;
        for message in &answer {
            let SimpleQueryMessage::Row(row) = message else { continue };
            if row.len() == 1 {
                hold = row.get(0).and_then(|text| text.parse().ok());
            } else if let (Some(topic), Some(partition), Some(generation)) = (row.get(0), row.get(1), row.get(2)) {
                let next = row.get(3).and_then(|text| text.parse::<i64>().ok());
                found.insert((topic.to_owned(), partition.to_owned()), (generation.to_owned(), next));
            }
        }
        for part in parts {
            let row = found.get(&(part.lane.topic.clone(), part.lane.partition.to_string()));
            let mine = row.is_some_and(|(generation, next)| {
                *generation == part.lane.generation.to_string() && *next == part.from
            });
            if !mine {
                return Err(Error::Fenced { topic: part.lane.topic.clone(), partition: part.lane.partition });
            }
        }
        Ok(hold)
    }

    async fn stage_run(
        &mut self,
        sink: &Sink,
        run: &Run<'_>,
        moved: &mut MovedRows,
        blocked: &mut [Option<usize>],
    ) -> Result<Staged, Error> {
        let plan = &run.plan;
        let filled = plan.staging.tables().filter(|stage| self.filled.contains(&stage.name));
        let clear = filled.map(|stage| format!("TRUNCATE pg_temp.{}", stage.name)).collect::<Vec<_>>().join(";");
        if !clear.is_empty() {
            self.client.batch_execute(&clear).await.map_err(Error::table(&plan.topic, plan.table(), "stage"))?;
        }
        let (staged, rows) = if plan.is_keyed() {
            let classes = self.classes(run).await?;
            let targets = self.moving_rows(run).await?;
            moved::load(&self.client, sink.ledger(), run, moved).await?;
            batch::fold(run, classes, targets, moved, blocked)?
        } else {
            batch::bag(run, blocked)?
        };
        self.load(plan, rows).await?;
        Ok(staged)
    }

    /// Copies rows into the plan's staging tables, creating them on first use.
    async fn load(&mut self, plan: &Plan, rows: StagedRows<'_>) -> Result<(), Error> {
        let failed = || {
            let failed = Error::table(&plan.topic, plan.table(), "stage rows of");
            move |error| failed(error).in_staging(|staged| plan.staged_column(staged))
        };
        for (stage, text) in rows.into_tables() {
            if !self.stages.contains_key(&stage.name) {
                self.make_room().await?;
                self.client.batch_execute(&stage.ddl).await.map_err(failed())?;
                let copy = self.client.prepare(&stage.copy).await.map_err(failed())?;
                self.stages.insert(stage.name.clone(), copy);
                self.created.push(stage.name.clone());
            }
            let Some(copy) = self.stages.get(&stage.name) else { continue };
            self.filled.insert(stage.name.clone());
            let sink = self.client.copy_in::<_, Bytes>(copy).await.map_err(failed())?;
            let mut sink = pin!(sink);
            sink.send(Bytes::from(text.into_bytes())).await.map_err(failed())?;
            sink.finish().await.map_err(failed())?;
        }
        Ok(())
    }

    async fn make_room(&mut self) -> Result<(), Error> {
        while self.stages.len() >= MAX_STAGES {
            let Some(idle) = self.stages.keys().find(|stage| !self.filled.contains(*stage)).cloned() else { break };
            self.stages.remove(&idle);
            let drop = format!("DROP TABLE IF EXISTS pg_temp.{idle}");
            self.client.batch_execute(&drop).await.map_err(Error::query("drop a staging table"))?;
        }
        Ok(())
    }

    /// Which keys of the run are equal for the target although their texts differ (trap T81).
    async fn classes(&mut self, run: &Run<'_>) -> Result<HashMap<Vec<u8>, u64>, Error> {
        if !run.plan.loose_key {
            return Ok(HashMap::new());
        }
        let (keys, rows) = run.stage_keys(group::CLASS, |_| true)?;
        self.load(&run.plan, rows).await?;
        let mut classes = HashMap::new();
        for row in self.rows(&run.plan, &run.plan.classes()).await? {
            let number = |index: usize| row.get(index).and_then(|text| text.parse::<u64>().ok());
            if let (Some(at), Some(class)) = (number(0), number(1))
                && let Some((_, key)) = usize::try_from(at).ok().and_then(|at| keys.get(at))
            {
                classes.insert(key.clone(), class);
            }
        }
        Ok(classes)
    }

    /// The target's rows that delete halves of key moves take columns from, by the delete's position (trap T28).
    async fn moving_rows(&mut self, run: &Run<'_>) -> Result<HashMap<Position, Vec<Cell>>, Error> {
        let (keys, rows) = run.stage_keys(group::MOVE, |event| event.key_move && !event.moved_columns.is_empty())?;
        let mut found = HashMap::new();
        if keys.is_empty() {
            return Ok(found);
        }
        self.load(&run.plan, rows).await?;
        for row in self.rows(&run.plan, &run.plan.read_moving()).await? {
            let at = row.get(0).and_then(|text| text.parse::<usize>().ok());
            if let Some((position, _)) = at.and_then(|at| keys.get(at)) {
                found.insert(*position, run.row_of(&row));
            }
        }
        Ok(found)
    }

    async fn rows(&self, plan: &Plan, sql: &str) -> Result<Vec<tokio_postgres::SimpleQueryRow>, Error> {
        let answer = self.client.simple_query(sql).await.map_err(Error::table(&plan.topic, plan.table(), "read"))?;
        let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
        Ok(answer.into_iter().filter_map(row).collect())
    }

    /// What comes before any insertion: deletes, and completing partial rows that will be replaced.
    async fn prepare(&self, staged: &Staged, manner: Manner) -> Result<(), Error> {
        let plan = &staged.plan;
        let mut statements = Vec::new();
        if plan.is_keyed() {
            if plan.replaces(manner) {
                for (number, group) in (group::PARTIAL..).zip(&staged.partial) {
                    if group.may_be_missing {
                        statements.push((plan.leave_out_missing(number), None));
                    }
                    let complete = plan.complete(number, &group.present).into_iter().enumerate();
                    statements.extend(complete.map(|(at, sql)| (sql, group.met().filter(|_| at == 0))));
                }
            }
            if staged.deletes > 0 {
                statements.push((plan.delete(), None));
            }
        } else {
            if staged.deletes > 0 {
                statements.push((plan.write_matching(false), Some(staged.deletes)));
            }
            if let Some(changes) = staged.partial.first() {
                statements.push((plan.write_matching(true), Some(changes.rows)));
            }
        }
        self.run_counted(staged, "delete from", statements).await
    }

    async fn write(&self, staged: &Staged, manner: Manner) -> Result<(), Error> {
        let plan = &staged.plan;
        let mut statements = Vec::new();
        let renumbered = staged.renumbered(manner);
        if !renumbered.is_empty() {
            // Before the rest, so that numbers which become free can be taken by new rows.
            if plan.may_delete() {
                statements.push((plan.renumber(&renumbered), None));
            } else if !self.rows(plan, &plan.must_renumber(&renumbered)).await?.is_empty() {
                return Err(plan.not_renumbered());
            }
        }
        let replaces = plan.replaces(manner);
        if plan.is_keyed() && !replaces {
            for (number, group) in (group::PARTIAL..).zip(&staged.partial) {
                if let Some(sql) = plan.write_partial(number, &group.present) {
                    statements.push((sql, group.met()));
                }
            }
        }
        if staged.wholes > 0 || replaces && !staged.partial.is_empty() {
            statements.push((plan.write_whole(manner, staged.partial.len()), None));
        }
        self.run_counted(staged, "write to", statements).await
    }

    /// Runs statements in one round trip; one that must meet a number of rows and does not is a consistency error.
    async fn run_counted(
        &self,
        staged: &Staged,
        doing: &'static str,
        statements: Vec<(String, Option<u64>)>,
    ) -> Result<(), Error> {
        if statements.is_empty() {
            return Ok(());
        }
        let plan = &staged.plan;
        let sql: Vec<&str> = statements.iter().map(|(sql, _)| sql.as_str()).collect();
        let answer =
            self.client.simple_query(&sql.join(";")).await.map_err(Error::table(&plan.topic, plan.table(), doing))?;
        let counts = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        for (rows, (_, expected)) in counts.zip(&statements) {
            if expected.is_some_and(|expected| expected != rows) {
                return Err(Error::Inconsistent {
                    topic: plan.topic.to_string(),
                    table: plan.table().clone(),
                    position: staged.last,
                    problem: "a row that an update or delete needs is not in the target".to_owned(),
                });
            }
        }
        Ok(())
    }
}
