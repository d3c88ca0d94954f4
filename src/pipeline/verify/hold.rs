//! Stops `apply` at one LSN for the moment in which the target's snapshot is opened.
//!
//! A row in the bookkeeping table `hold_request` says before which commit LSN the lanes of an instance are to stop. A lane
//! that has applied everything below it and nothing else says so in `position.held_at`; an idle one by the progress record
//! (PROTOCOL, "Progress"). The request has an expiry that is renewed while it is waited for, so one that a dead process
//! left behind blocks nothing for long. Whether every lane really stood still is read again *inside* the target's
//! snapshot: that, and not the timing, makes the comparison exact.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tokio_postgres::types::ToSql;

use super::{Error, session::Session};
use crate::{
    lsn::Lsn,
    postgres::{self, Client, Settings},
    schema::quote_identifier,
};

/// How long a hold outlives a process that cannot renew it.
const LIFETIME: &str = "30 seconds";
const RENEWAL: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Where `apply` keeps its positions; the tables are described with the sink's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookkeeping {
    /// Schema of the bookkeeping tables.
    pub schema: String,
    /// The sink instance.
    pub instance: String,
}

impl Bookkeeping {
    fn table(&self, name: &str) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(name))
    }
}

/// The topics whose lanes must be held, with their partition counts where known.
pub type Topics = BTreeMap<String, Option<i32>>;

/// A request to hold the lanes, or the intention to make one.
pub struct Hold {
    client: Client,
    settings: Settings,
    bookkeeping: Bookkeeping,
    /// `created_at` of our row, which tells it from another's.
    token: String,
}

impl Hold {
    /// Connects, and writes nothing.
    pub async fn prepare(settings: &Settings, bookkeeping: Bookkeeping) -> Result<Self, Error> {
        let client = connect(settings).await?;
        let row = client.query_one("SELECT clock_timestamp()::text", &[]).await;
        let token = row.and_then(|row| row.try_get(0)).map_err(|error| failed("reading the target's clock", error))?;
        Ok(Self { client, settings: settings.clone(), bookkeeping, token })
    }

    /// Holds the lanes before `lsn`, or moves the hold there.
    pub async fn place(&self, lsn: Lsn) -> Result<(), Error> {
        let table = self.bookkeeping.table("hold_request");
        let sql = format!(
            "INSERT INTO {table} AS h (instance, lsn, created_at, expires_at)
             VALUES ($1, $2::text::pg_lsn, $3::text::timestamptz, clock_timestamp() + interval '{LIFETIME}')
             ON CONFLICT (instance) DO UPDATE
             SET lsn = EXCLUDED.lsn, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
             WHERE h.created_at = EXCLUDED.created_at OR h.expires_at < clock_timestamp()"
        );
        let lsn = lsn.to_string();
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.bookkeeping.instance, &lsn, &self.token];
        match self.client.execute(&sql, &parameters).await {
            Ok(0) => Err(Error::Busy { instance: self.bookkeeping.instance.clone() }),
            Ok(_) => Ok(()),
            Err(error) => Err(self.bookkeeping_error("holding apply", error)),
        }
    }

    /// Waits until every lane stands at `lsn`.
    pub async fn wait(&self, lsn: Lsn, topics: &Topics, limit: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut renewed = start;
        loop {
            let lanes = Lanes::read(&self.client, &self.bookkeeping, lsn, topics).await?;
            if lanes.are_held(lsn)? {
                return Ok(());
            }
            if start.elapsed() > limit {
                return Err(Error::HoldTimeout { lsn, limit, lanes: lanes.behind });
            }
            if renewed.elapsed() > RENEWAL {
                self.place(lsn).await?;
                renewed = Instant::now();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Checks, in the snapshot of `session`, that every lane stood at `lsn` when it was taken.
    pub async fn check(&self, session: &Session, lsn: Lsn, topics: &Topics) -> Result<(), Error> {
        let lanes = Lanes::read(session.client(), &self.bookkeeping, lsn, topics).await?;
        if lanes.are_held(lsn)? { Ok(()) } else { Err(Error::Overtaken { lsn, lanes: lanes.behind }) }
    }

    /// Lets `apply` go on, over a new connection if this one broke.
    pub async fn release(self) -> Result<(), Error> {
        if self.delete(&self.client).await.is_ok() {
            return Ok(());
        }
        self.delete(&connect(&self.settings).await?).await
    }

    async fn delete(&self, client: &Client) -> Result<(), Error> {
        let table = self.bookkeeping.table("hold_request");
        let sql = format!("DELETE FROM {table} WHERE instance = $1 AND created_at = $2::text::timestamptz");
        let deleted = client.execute(&sql, &[&self.bookkeeping.instance, &self.token]).await;
        deleted.map(drop).map_err(|error| self.bookkeeping_error("releasing apply", error))
    }

    fn bookkeeping_error(&self, doing: &str, error: tokio_postgres::Error) -> Error {
        let code = error.code().map(tokio_postgres::error::SqlState::code);
        if matches!(code, Some("42P01" | "3F000")) {
            return Error::NoBookkeeping { table: self.bookkeeping.table("hold_request") };
        }
        failed(doing, error)
    }
}

async fn connect(settings: &Settings) -> Result<Client, Error> {
    Ok(postgres::client::connect_with(settings, "walrelay verify", &[("search_path", "pg_catalog")]).await?)
}

fn failed(doing: &str, error: tokio_postgres::Error) -> Error {
    Error::Postgres(postgres::Error::statement(format!("{doing} (target)"), error))
}

/// What the position rows say about a hold.
#[derive(Debug, Default)]
struct Lanes {
    /// Lanes that do not stand at the LSN yet and where they are.
    behind: Vec<String>,
    /// Lanes that have applied something at or above it.
    beyond: Vec<String>,
    /// Lanes that will never get there.
    stopped: Vec<String>,
}

/// A row of the position table.
struct Lane {
    topic: String,
    partition: i32,
    mark: Lsn,
    held_at: Option<Lsn>,
    parked_at: Option<Lsn>,
    stopped: Option<String>,
    owner: Option<String>,
}

impl Lanes {
    async fn read(
        client: &tokio_postgres::Client,
        bookkeeping: &Bookkeeping,
        lsn: Lsn,
        topics: &Topics,
    ) -> Result<Self, Error> {
        let doing = "reading the positions of apply";
        let sql = format!(
            "SELECT topic, partition, commit_lsn::text, held_at::text, parked_lsn::text, stopped, owner
             FROM {} WHERE instance = $1 AND topic = ANY ($2) ORDER BY 1, 2",
            bookkeeping.table("position")
        );
        let names: Vec<&str> = topics.keys().map(String::as_str).collect();
        let rows = client.query(&sql, &[&bookkeeping.instance, &names]).await.map_err(|e| failed(doing, e))?;
        let lanes: Result<Vec<_>, _> = rows.iter().map(Lane::read).collect();
        Ok(Self::sort(lanes.map_err(|e| failed(doing, e))?, lsn, topics))
    }

    fn sort(lanes: Vec<Lane>, lsn: Lsn, topics: &Topics) -> Self {
        let mut sorted = Self::default();
        for (topic, partitions) in topics {
            let known: Vec<i32> = lanes.iter().filter(|lane| lane.topic == *topic).map(|lane| lane.partition).collect();
            if known.is_empty() && partitions.is_none() {
                sorted.behind.push(format!("no applier has {topic}"));
            }
            let unclaimed = (0..partitions.unwrap_or(0)).filter(|number| !known.contains(number));
            sorted.behind.extend(unclaimed.map(|number| format!("no applier has {topic}[{number}]")));
        }
        for lane in lanes {
            let is_there = lane.held_at.is_some_and(|held_at| held_at >= lsn);
            if lane.mark >= lsn {
                sorted.beyond.push(lane.to_string());
            } else if !is_there && lane.stopped.is_some() {
                sorted.stopped.push(lane.to_string());
            } else if !is_there {
                sorted.behind.push(lane.to_string());
            }
        }
        sorted
    }

    /// Whether none is behind; an error if one can never be held at the LSN.
    fn are_held(&self, lsn: Lsn) -> Result<bool, Error> {
        if !self.stopped.is_empty() {
            return Err(Error::Stopped { lanes: self.stopped.clone() });
        }
        if !self.beyond.is_empty() {
            return Err(Error::Overtaken { lsn, lanes: self.beyond.clone() });
        }
        Ok(self.behind.is_empty())
    }
}

impl Lane {
    fn read(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        let lsn = |index| {
            let text: Option<String> = row.try_get(index)?;
            Ok::<_, tokio_postgres::Error>(text.and_then(|text| text.parse::<Lsn>().ok()))
        };
        Ok(Self {
            topic: row.try_get(0)?,
            partition: row.try_get(1)?,
            mark: lsn(2)?.unwrap_or_default(),
            held_at: lsn(3)?,
            parked_at: lsn(4)?,
            stopped: row.try_get(5)?,
            owner: row.try_get(6)?,
        })
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}] is at {}", self.topic, self.partition, self.mark)?;
        if let Some(lsn) = self.held_at {
            write!(f, ", held at {lsn}")?;
        }
        if let Some(lsn) = self.parked_at {
            write!(f, ", parked at {lsn}")?;
        }
        if let Some(reason) = &self.stopped {
            write!(f, ", stopped: {reason}")?;
        }
        match &self.owner {
            Some(owner) => write!(f, " (owner {owner})"),
            None => write!(f, " (no owner)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(partition: i32, mark: u64, held_at: Option<u64>) -> Lane {
        let (topic, owner) = ("shop.public.a".to_owned(), Some("host:1".to_owned()));
        Lane { topic, partition, mark: Lsn(mark), held_at: held_at.map(Lsn), parked_at: None, stopped: None, owner }
    }

    fn topics(partitions: Option<i32>) -> Topics {
        BTreeMap::from([("shop.public.a".to_owned(), partitions)])
    }

    #[test]
    fn lanes_are_held_only_if_each_partition_says_so_and_is_below() {
        let at = Lsn(16);
        let sort = |lanes, partitions| Lanes::sort(lanes, at, &topics(partitions));
        assert!(sort(vec![lane(0, 15, Some(16)), lane(1, 0, Some(16))], Some(2)).are_held(at).unwrap());
        let old = sort(vec![lane(0, 15, Some(15)), lane(1, 0, None)], None);
        assert!(!old.are_held(at).unwrap());
        let expected =
            ["shop.public.a[0] is at 0/F, held at 0/F (owner host:1)", "shop.public.a[1] is at 0/0 (owner host:1)"];
        assert_eq!(old.behind, expected);
        let lost = sort(vec![lane(1, 0, Some(16))], Some(2));
        assert_eq!(lost.behind, ["no applier has shop.public.a[0]"]);
        assert_eq!(sort(vec![], None).behind, ["no applier has shop.public.a"]);
        assert!(sort(vec![], Some(0)).are_held(at).unwrap());
    }

    #[test]
    fn a_lane_at_or_above_the_lsn_has_overtaken_the_hold_whatever_it_says() {
        let lanes = Lanes::sort(vec![lane(0, 16, Some(16))], Lsn(16), &topics(Some(1)));
        assert!(matches!(lanes.are_held(Lsn(16)), Err(Error::Overtaken { .. })));
    }

    #[test]
    fn a_stopped_lane_is_an_error_at_once() {
        let stopped = Lane { stopped: Some("schema".into()), ..lane(0, 1, None) };
        let lanes = Lanes::sort(vec![stopped], Lsn(16), &topics(Some(1)));
        let error = lanes.are_held(Lsn(16)).unwrap_err().to_string();
        assert!(error.contains("shop.public.a[0] is at 0/1, stopped: schema"), "{error}");
    }
}
