//! Barriers: a TRUNCATE that all partitions of all its tables gather at before it happens once (PROTOCOL 8, trap T32).
//!
//! Lanes tell through their position rows that they are parked; whoever finds everybody there empties the tables. Several
//! processes do this together: the barrier's row is the lock. A stopped table is left out and emptied when its own lanes
//! arrive, so the row lists what is done. Tables that a foreign key ties to it wait for it, see [`ties`].
//!
//! All copies of a barrier stand at one position, whichever table they are of, so the row is the position's and `emptied`
//! lists topics. A lane that is parked at a later barrier counts as arrived: it has consumed everything below this one. That
//! sets lanes free whose barrier was only half broadcast when capture was killed in its snapshot: the next snapshot begins
//! with a barrier of its own.
//!
//! The end of a resync is a barrier too: what is done there is [`sweep`]. A stopped table keeps no other one waiting then, for none is
//! emptied, and a row that another table's rows reference stays.
//!
//! A barrier's row goes when every lane has passed it. A process that lost its connection right then asks again; that a lane
//! of its topic has a mark at the barrier or beyond tells that the table was emptied, and that newer rows may be in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use tokio_postgres::{Client, error::SqlState, types::PgLsn};

use crate::{
    event::{Barrier, Gate},
    lsn::Position,
    schema::{TableName, quote_literal},
    sink::{
        error::Error,
        ledger::{Ledger, Standing, bound_waits},
        resyncs, sweep,
        ties::{self, Tie},
    },
};

/// How a barrier stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gathering {
    /// The topic's table is emptied: its lanes go on.
    Passed,
    /// Not everybody has arrived yet.
    Waits(BTreeSet<Awaited>),
    /// `verify` holds lanes below the barrier.
    Held,
}

/// What a barrier waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Awaited {
    /// A partition of a topic.
    Partition(String, i32),
    /// A topic whose table is stopped, and the foreign key that forbids to empty another table without it.
    Stopped(String, Tie),
    /// A topic whose table somebody has locked, or that another process sweeps.
    Lock(String),
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(topic, partition) => write!(f, "topic {topic}, partition {partition}"),
            Self::Lock(topic) => {
                write!(f, "a lock that somebody has at the target, on rows or tables that topic {topic} needs")
            }
            Self::Stopped(topic, Tie { referencing, referenced }) => write!(
                f,
                "topic {topic}, whose table is stopped, since at the target a foreign key of table {referencing} references \
                 table {referenced}: let the stopped table go on, with a new snapshot where nothing else lets it, or drop the \
                 foreign key"
            ),
        }
    }
}

/// What a sink knows of topics beside the asking lane's.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    /// The target table of a topic that this sink applies, as its name tells.
    pub target: &'a (dyn Fn(&str) -> Option<TableName> + Send + Sync),
    /// Topics whose tables capture has stopped, and where: their copies of later barriers come when the tables go on, for
    /// themselves.
    pub withheld: &'a BTreeMap<String, Position>,
}

impl Others<'_> {
    fn is_withheld(&self, topic: &str, at: Position) -> bool {
        self.withheld.get(topic).is_some_and(|stopped| *stopped <= at)
    }
}

/// Empties the tables of a barrier if all partitions that it needs have arrived. `topic` is the asking lane's. At the end of a resync
/// a lock that is not to be had soon is waited for by asking again: other lanes have need of the connection.
pub async fn gather(
    client: &Client,
    ledger: &Ledger,
    at: Position,
    gate: &Gate,
    topic: &str,
    others: Others<'_>,
) -> Result<Gathering, Error> {
    let failed = || Error::query("gather at a barrier");
    client.batch_execute("BEGIN").await.map_err(failed())?;
    let done = gather_in_transaction(client, ledger, at, gate, topic, others).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(failed())?;
    if matches!(gate, Gate::Sweep(_)) && done.as_ref().is_err_and(Error::is_locked) {
        return Ok(Gathering::Waits(BTreeSet::from([Awaited::Lock(topic.to_owned())])));
    }
    if matches!(done, Ok(Gathering::Passed)) && (matches!(gate, Gate::Sweep(_)) || begins_anew(at)) {
        resyncs::drop_ended(client, ledger).await?;
    }
    done
}

/// Whether a barrier here is the begin of a new snapshot (PROTOCOL 1: its position has no ordinal).
const fn begins_anew(at: Position) -> bool {
    at.ordinal == 0
}

async fn gather_in_transaction(
    client: &Client,
    ledger: &Ledger,
    at: Position,
    gate: &Gate,
    topic: &str,
    others: Others<'_>,
) -> Result<Gathering, Error> {
    let barrier = gate.barrier();
    let emptied = lock(client, ledger, at, gate).await?;
    if emptied.contains(topic) || was_passed(client, ledger, at, topic).await? {
        return Ok(Gathering::Passed);
    }
    if ledger.hold(client).await?.is_some_and(|hold| hold <= at.commit) {
        return Ok(Gathering::Held);
    }
    let due = |name: &str| !emptied.contains(name) && (name == topic || (others.target)(name).is_some());
    // Of a stopped table the end of a resync says neither how many rows were read nor which: it gets an end of its own.
    let stopped_too = if matches!(gate, Gate::Sweep(_)) { &[][..] } else { &barrier.stopped };
    let listed: Vec<&(String, i32)> = barrier.topics.iter().chain(stopped_too).filter(|(name, _)| due(name)).collect();
    let arrivals = arrivals(client, ledger, at, &listed).await?;
    // Since it was looked at above: what a lane beyond the barrier has written is not for it to take.
    if arrivals.get(topic).is_some_and(Lanes::passed) {
        return Ok(Gathering::Passed);
    }
    let (mut ready, mut stopped) = (BTreeMap::new(), BTreeSet::new());
    for entry @ (name, partitions) in listed {
        let lanes = arrivals.get(name.as_str());
        if name != topic && lanes.is_some_and(Lanes::passed) {
            continue;
        }
        let here = |partition: i32| lanes.is_some_and(|lanes| lanes.has_arrived(partition));
        let absent: Vec<i32> = (0..*partitions).filter(|n| !here(*n)).collect();
        let is_withheld = barrier.stopped.contains(entry) || others.is_withheld(name, at);
        if name != topic && (!absent.is_empty() && is_withheld || lanes.is_some_and(Lanes::stopped)) {
            stopped.insert(name.as_str());
        } else {
            ready.insert(name.as_str(), absent);
        }
    }
    if matches!(gate, Gate::Truncate(_)) {
        let tied = ties::to_stopped(client, ledger, others.target, ready.keys().copied(), &stopped).await?;
        if let Some(ties) = tied.get(topic) {
            let awaited = |(name, tie): (&String, &Tie)| Awaited::Stopped(name.clone(), tie.clone());
            return Ok(Gathering::Waits(ties.iter().map(awaited).collect()));
        }
        ready.retain(|name, _| !tied.contains_key(*name));
    }
    let awaited = |(name, absent): (&&str, &Vec<i32>)| -> Vec<Awaited> {
        absent.iter().map(|partition| Awaited::Partition((*name).to_owned(), *partition)).collect()
    };
    let missing: BTreeSet<Awaited> = ready.iter().flat_map(awaited).collect();
    if !missing.is_empty() {
        return Ok(Gathering::Waits(missing));
    }
    let ready: Vec<&str> = ready.into_keys().collect();
    let done = match gate {
        Gate::Truncate(_) => {
            empty(client, ledger, at, &ready, topic).await?;
            ready
        }
        Gate::Sweep(sweep) => sweep::run(client, ledger, sweep, &ready, topic).await?,
    };
    done_with(client, ledger, at, &done).await?;
    Ok(Gathering::Passed)
}

/// Leaves the topic's table as it is, and says that its lanes are beyond the barrier: the end of a resync that they cannot stand at.
/// `false` if the barrier's row is somebody else's right now.
pub async fn leave(client: &Client, ledger: &Ledger, at: Position, gate: &Gate, topic: &str) -> Result<bool, Error> {
    let failed = || Error::query("leave a barrier");
    client.batch_execute("BEGIN").await.map_err(failed())?;
    let left = leave_in_transaction(client, ledger, at, gate, topic).await;
    let end = if left.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(failed())?;
    match left {
        Err(error) if error.is_locked() => Ok(false),
        left => left.map(|()| true),
    }
}

async fn leave_in_transaction(
    client: &Client,
    ledger: &Ledger,
    at: Position,
    gate: &Gate,
    topic: &str,
) -> Result<(), Error> {
    if !lock(client, ledger, at, gate).await?.contains(topic) {
        if let Gate::Sweep(sweep) = gate {
            resyncs::end_up_to(client, ledger, sweep.resync, &[topic]).await?;
        }
        done_with(client, ledger, at, &[topic]).await?;
    }
    Ok(())
}

/// Says that nothing is to be done any more for these topics.
async fn done_with(client: &Client, ledger: &Ledger, at: Position, topics: &[&str]) -> Result<(), Error> {
    let sql =
        format!("UPDATE {} SET emptied = emptied || $1::text[] WHERE {}", ledger.table("barrier"), row(ledger, at));
    client.execute(&sql, &[&topics]).await.map(drop).map_err(Error::query("say what a barrier is done with"))
}

fn topics_text(barrier: &Barrier) -> String {
    serde_json::to_string(&barrier.topics).unwrap_or_default()
}

fn row(ledger: &Ledger, at: Position) -> String {
    format!(
        "instance = {} AND epoch = {} AND commit_lsn = '{}' AND ordinal = {}",
        ledger.instance_literal(),
        at.epoch,
        at.commit,
        at.ordinal
    )
}

/// How long the row of a resync's end is waited for: another process that has it may be sweeping tables of many rows.
const ROW_TIMEOUT: &str = "100ms";

/// Locks the barrier's row, creating it first; the topics that are emptied already. At the end of a resync what comes then waits for
/// locks no longer than a change of a schema does.
async fn lock(client: &Client, ledger: &Ledger, at: Position, gate: &Gate) -> Result<BTreeSet<String>, Error> {
    let failed = || Error::query("lock a barrier");
    let is_sweep = matches!(gate, Gate::Sweep(_));
    if is_sweep {
        let bound = format!("SET LOCAL lock_timeout = '{ROW_TIMEOUT}'");
        client.batch_execute(&bound).await.map_err(failed())?;
    }
    let table = ledger.table("barrier");
    let insert = format!(
        "INSERT INTO {table} VALUES ({}, {}, '{}', {}, {}) ON CONFLICT DO NOTHING",
        ledger.instance_literal(),
        at.epoch,
        at.commit,
        at.ordinal,
        quote_literal(&topics_text(gate.barrier()))
    );
    client.execute(&insert, &[]).await.map_err(failed())?;
    let select = format!("SELECT emptied FROM {table} WHERE {} FOR UPDATE", row(ledger, at));
    let emptied: Vec<String> = client.query_one(&select, &[]).await.map_err(failed())?.get(0);
    if is_sweep {
        bound_waits(client).await?;
    }
    Ok(emptied.into_iter().collect())
}

/// The lanes of a topic as their rows tell.
#[derive(Debug, Default)]
struct Lanes(BTreeMap<i32, Arrival>);

#[derive(Debug)]
struct Arrival {
    stopped: bool,
    arrived: bool,
    passed: bool,
}

impl Lanes {
    fn stopped(&self) -> bool {
        self.0.values().any(|lane| lane.stopped)
    }

    /// Whether some lane's mark is at the barrier or beyond: the table was emptied, and may have newer rows.
    fn passed(&self) -> bool {
        self.0.values().any(|lane| lane.passed)
    }

    /// Whether a partition is parked at the barrier or beyond it.
    fn has_arrived(&self, partition: i32) -> bool {
        self.0.get(&partition).is_some_and(|lane| lane.arrived)
    }
}

/// Who of the listed topics has arrived.
async fn arrivals(
    client: &Client,
    ledger: &Ledger,
    at: Position,
    listed: &[&(String, i32)],
) -> Result<BTreeMap<String, Lanes>, Error> {
    let topics: Vec<&str> = listed.iter().map(|(topic, _)| topic.as_str()).collect();
    let sql = format!(
        "SELECT topic, partition, stopped IS NOT NULL, (epoch, commit_lsn, ordinal) >= ($3, $4, $5) \
         OR coalesce((parked_epoch, parked_lsn, parked_ordinal) >= ($3, $4, $5), false), \
         (epoch, commit_lsn, ordinal) >= ($3, $4, $5) \
         FROM {} WHERE instance = $1 AND topic = ANY ($2)",
        ledger.table("position")
    );
    let (epoch, commit) = (i64::from(at.epoch), PgLsn::from(at.commit.0));
    let ordinal = i64::try_from(at.ordinal).unwrap_or(i64::MAX);
    let rows = client
        .query(&sql, &[&ledger.instance(), &topics, &epoch, &commit, &ordinal])
        .await
        .map_err(Error::query("read who is at a barrier"))?;
    let mut lanes: BTreeMap<String, Lanes> = BTreeMap::new();
    for row in rows {
        let arrival = Arrival { stopped: row.get(2), arrived: row.get(3), passed: row.get(4) };
        lanes.entry(row.get(0)).or_default().0.insert(row.get(1), arrival);
    }
    Ok(lanes)
}

/// Whether some lane of the topic has passed the barrier: it could not have done so before the table was emptied.
async fn was_passed(client: &Client, ledger: &Ledger, at: Position, topic: &str) -> Result<bool, Error> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {} WHERE instance = $1 AND topic = $2 AND (epoch, commit_lsn, ordinal) >= ({}, '{}', {}))",
        ledger.table("position"),
        at.epoch,
        at.commit,
        at.ordinal
    );
    let row = client.query_one(&sql, &[&ledger.instance(), &topic]).await;
    row.map(|row| row.get(0)).map_err(Error::query("read who has passed a barrier"))
}

/// How long a TRUNCATE waits for readers of its tables, who in turn make later readers wait.
const LOCK_TIMEOUT: &str = "2s";

/// One TRUNCATE of all tables; DELETE where a foreign key of another table forbids it, or a reader stays for long: he would
/// hold up the control session, and with it every lane of the process. A refusal is laid to the asking topic's table. A
/// table that somebody has dropped lacks no row any more, so its topic is as one that was never applied. What a resync has shown of
/// the rows goes with them; a new snapshot ends the resync.
async fn empty(client: &Client, ledger: &Ledger, at: Position, topics: &[&str], asking: &str) -> Result<(), Error> {
    if begins_anew(at) {
        resyncs::end(client, ledger, topics).await?;
    }
    let seen = resyncs::tables(client, ledger, topics).await?;
    let forget = format!(
        "DELETE FROM {} AS t WHERE instance = $1 AND topic = ANY ($2) AND NOT EXISTS (SELECT FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = t.target_schema AND c.relname = t.target_table)",
        ledger.table("topic")
    );
    client
        .execute(&forget, &[&ledger.instance(), &topics])
        .await
        .map_err(Error::query("empty the tables of a barrier"))?;
    let sql = format!(
        "SELECT t.topic, n.nspname::text, c.relname::text FROM {} AS t JOIN pg_namespace n ON n.nspname = t.target_schema \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.target_table \
         WHERE t.instance = $1 AND t.topic = ANY ($2) ORDER BY t.topic <> $3, t.topic",
        ledger.table("topic")
    );
    let rows = client
        .query(&sql, &[&ledger.instance(), &topics, &asking])
        .await
        .map_err(Error::query("empty the tables of a barrier"))?;
    let name = |row: &tokio_postgres::Row| TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
    let tables: Vec<String> = rows.iter().map(|row| name(row).quoted()).chain(seen).collect();
    let Some(table) = rows.first().map(name) else { return Ok(()) };
    let refused = || Error::table(asking, &table, "empty");
    let truncate =
        format!("SAVEPOINT truncate; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; TRUNCATE {}", tables.join(", "));
    match client.batch_execute(&truncate).await {
        Err(error)
            if [&SqlState::FEATURE_NOT_SUPPORTED, &SqlState::LOCK_NOT_AVAILABLE]
                .iter()
                .any(|code| error.code() == Some(code)) => {}
        other => return other.map_err(refused()),
    }
    let mut delete = String::from("ROLLBACK TO SAVEPOINT truncate; SET CONSTRAINTS ALL DEFERRED;");
    for table in &tables {
        delete.push_str(&format!("DELETE FROM {table};"));
    }
    delete.push_str("SET CONSTRAINTS ALL IMMEDIATE");
    client.batch_execute(&delete).await.map_err(refused())
}

/// Moves a lane beyond a barrier, and forgets barriers that every partition of the instance has passed. A lane that has
/// gone back, or that is beyond the barrier's record already, is fenced.
pub async fn pass(
    client: &Client,
    ledger: &Ledger,
    standing: &Standing,
    at: Position,
    next_offset: i64,
) -> Result<(), Error> {
    let failed = || Error::query("pass a barrier");
    let (position, barrier, instance) = (ledger.table("position"), ledger.table("barrier"), ledger.instance_literal());
    let sql = format!(
        "UPDATE {position} SET next_offset = $4, epoch = $5, commit_lsn = $6, ordinal = $7, \
         parked_epoch = NULL, parked_lsn = NULL, parked_ordinal = NULL, held_at = NULL, updated_at = now() \
         WHERE instance = {instance} AND topic = $1 AND partition = $2 AND gen = $3 \
         AND coalesce(next_offset, -1) >= $8 AND coalesce(next_offset, -1) < $4"
    );
    let (lane, from) = (&standing.lane, standing.next_offset.unwrap_or(-1));
    let (epoch, commit) = (i64::from(at.epoch), PgLsn::from(at.commit.0));
    let ordinal = i64::try_from(at.ordinal).unwrap_or(i64::MAX);
    let written = client
        .execute(
            &sql,
            &[&lane.topic, &lane.partition, &lane.generation, &next_offset, &epoch, &commit, &ordinal, &from],
        )
        .await
        .map_err(failed())?;
    if written != 1 {
        return Err(standing.fenced());
    }
    let forget = format!(
        "DELETE FROM {barrier} b WHERE instance = {instance} AND NOT EXISTS (\
           SELECT FROM json_array_elements(b.topics::json) AS l(pair) CROSS JOIN LATERAL generate_series(0, (pair ->> 1)::int - 1) AS n \
           LEFT JOIN {position} p ON p.instance = b.instance AND p.topic = pair ->> 0 AND p.partition = n \
           WHERE p.topic IS NULL AND EXISTS (SELECT FROM {position} o WHERE o.instance = b.instance AND o.topic = pair ->> 0) \
             OR (p.epoch, p.commit_lsn, p.ordinal) < (b.epoch, b.commit_lsn, b.ordinal))"
    );
    client.batch_execute(&forget).await.map_err(failed())
}
