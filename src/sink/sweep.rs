//! The end of a resync: what the source does not have goes (PROTOCOL 5, "Ghosts", trap T26).
//!
//! All lanes of the tables stand at one position, so the tables have what the source had there, and the keys that the resync has shown
//! ([`seen`](super::seen)) are those of the source's rows. One transaction deletes all other rows: readers see the table with them or
//! without them, and never an empty one. A table of which nothing can be told keeps its rows, with a warning; one that refuses the
//! deletion is left out, and stops when its own lane asks.
//!
//! A row that a row of an applied table references which stays, stays too ([`ghosts`](super::ghosts)): that table's lanes may be elsewhere in
//! the source's history, where the row is there again, and an action of the foreign key (CASCADE, SET NULL) would take what nothing brings
//! back. Tables that nobody applies here are the operator's: what his foreign keys do on a deletion is done, and what they refuse stops the
//! table.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, types::PgLsn};

use crate::{
    event::{Resync, Sweep},
    lsn::Position,
    postgres::sqlstate,
    retry::{Classify as _, Severity},
    schema::{TableName, quote_identifier},
    sink::{
        error::Error,
        ghosts::{self, Ghosts, children_first},
        ledger::{Ledger, position_of},
        predicate::{self, Unclear},
        resyncs,
        table::Target,
        ties::{self, Reference, own},
    },
};

/// A table at the end of a resync.
struct Member {
    topic: String,
    name: TableName,
    oid: u32,
    is_partitioned: bool,
    /// The resync whose keys were noted last, the table of these, and how many rows that it had read came here.
    noted: Option<(Resync, i64, i64)>,
    /// Whether the list has a line of some resync of the topic, ended ones included.
    is_listed: bool,
    /// Whether keys of that resync lie in a table that is none of its list any more.
    is_incomplete: bool,
    /// Whether some of its rows may have been applied without noting their keys, by a version that did not know resyncs.
    is_unnoted: bool,
}

impl Member {
    /// The table without those that inherit from it, which are tables of their own.
    fn own(&self) -> String {
        own(&self.name, self.is_partitioned)
    }
}

/// Deletes what the source does not have from the tables of these topics, in the caller's transaction, and answers of which topics that
/// is done. A refusal of another table than that of the `asking` topic is left to its own lanes.
pub async fn run<'a>(
    client: &Client,
    ledger: &Ledger,
    sweep: &Sweep,
    topics: &[&'a str],
    asking: &str,
) -> Result<Vec<&'a str>, Error> {
    let members = members(client, ledger, sweep.resync, topics).await?;
    let references =
        ties::references(client, ledger, &members.iter().map(|member| member.oid).collect::<Vec<_>>()).await?;
    let mut refused = BTreeSet::new();
    let mut found = BTreeMap::new();
    for member in &members {
        save(client).await?;
        match gather(client, ledger, sweep, member).await {
            Ok(Ok(ghosts)) => {
                found.insert(member.oid, ghosts);
            }
            Ok(Err(Unclear(why))) => tracing::warn!(
                table = %member.name, resync = %sweep.resync,
                "rows that the source does not have stay in the table: {why}; a new resync, or verify, shows whether there are any"
            ),
            Err(error) => {
                refused.insert(refuse(client, &[member], error, asking).await?);
            }
        }
    }
    let swept = Swept { client, resync: sweep.resync, references: &references };
    let tables: Vec<u32> = members.iter().map(|member| member.oid).filter(|oid| found.contains_key(oid)).collect();
    for group in children_first(&tables, &references) {
        ghosts::keep_referenced(client, &found, &references).await.map_err(Error::query("sweep tables"))?;
        let of_group: Vec<&Member> = members.iter().filter(|member| group.contains(&member.oid)).collect();
        save(client).await?;
        if let Err(error) = swept.delete(&of_group, &found).await {
            refused.insert(refuse(client, &of_group, error, asking).await?);
        }
        // What a refusal or a trigger has kept is no ghost for what it references.
        for ghosts in group.iter().filter_map(|oid| found.get(oid)) {
            ghosts.forget(client).await.map_err(Error::query("sweep tables"))?;
        }
    }
    let is_refused = |topic: &str| refused.iter().flatten().any(|refused| *refused == topic);
    let done: Vec<&str> = topics.iter().copied().filter(|topic| !is_refused(topic)).collect();
    resyncs::end_up_to(client, ledger, sweep.resync, &done).await?;
    Ok(done)
}

/// Those of the topics' tables that are there.
async fn members(client: &Client, ledger: &Ledger, resync: Resync, topics: &[&str]) -> Result<Vec<Member>, Error> {
    let sql = format!(
        "SELECT t.topic, n.nspname::text, c.relname::text, c.oid, r.epoch, r.commit_lsn, r.number, r.rows, \
           EXISTS (SELECT FROM {resyncs} AS a WHERE a.instance = t.instance AND a.topic = t.topic), \
           coalesce((u.epoch, u.commit_lsn) >= ($3, $4), false), coalesce(r.incomplete, false), c.relkind = 'p' FROM {topics} AS t \
         JOIN pg_namespace n ON n.nspname = t.target_schema \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.target_table AND c.relkind IN ('r', 'p') \
         LEFT JOIN {resyncs} AS r ON r.instance = t.instance AND r.topic = t.topic AND NOT r.ended \
         LEFT JOIN {unnoted} AS u ON u.instance = t.instance AND u.topic = t.topic \
         WHERE t.instance = $1 AND t.topic = ANY ($2) ORDER BY t.topic",
        topics = ledger.table("topic"),
        resyncs = ledger.table("resync"),
        unnoted = ledger.table("unnoted")
    );
    let (epoch, commit) = (i64::from(resync.epoch), PgLsn::from(resync.commit.0));
    let rows = client.query(&sql, &[&ledger.instance(), &topics, &epoch, &commit]).await;
    let rows = rows.map_err(Error::query("look for tables to sweep"))?;
    rows.iter()
        .map(|row| {
            let at = row.get::<_, Option<i64>>(4).zip(row.get::<_, Option<PgLsn>>(5));
            let at = at.map(|(epoch, commit)| position_of(epoch, commit, 0)).transpose()?;
            let noted = at.zip(row.get::<_, Option<i64>>(6)).zip(row.get::<_, Option<i64>>(7));
            let resync = |at: Position| Resync { epoch: at.epoch, commit: at.commit };
            Ok(Member {
                topic: row.get(0),
                name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                oid: row.get(3),
                noted: noted.map(|((at, number), rows)| (resync(at), number, rows)),
                is_listed: row.get(8),
                is_unnoted: row.get(9),
                is_incomplete: row.get(10),
                is_partitioned: row.get(11),
            })
        })
        .collect()
}

/// What comes then can be taken back alone.
async fn save(client: &Client) -> Result<(), Error> {
    client.batch_execute("SAVEPOINT sweep").await.map_err(Error::query("sweep a table"))
}

/// Takes back what was done since the savepoint; the tables' topics. Gives back an error that is of the `asking` topic's table, or of none.
async fn refuse<'a>(
    client: &Client,
    members: &[&'a Member],
    error: Error,
    asking: &str,
) -> Result<Vec<&'a str>, Error> {
    if members.iter().any(|member| member.topic == asking) || error.severity() != Severity::Definite {
        return Err(error);
    }
    client.batch_execute("ROLLBACK TO SAVEPOINT sweep").await.map_err(Error::query("sweep a table"))?;
    Ok(members.iter().map(|member| &*member.topic).collect())
}

/// Gathers a table's ghosts; inside, why nothing can be told of it.
async fn gather(
    client: &Client,
    ledger: &Ledger,
    sweep: &Sweep,
    member: &Member,
) -> Result<Result<Ghosts, Unclear>, Error> {
    let condition = match condition(client, ledger, sweep, member).await? {
        Ok(condition) => condition,
        Err(unclear) => return Ok(Err(unclear)),
    };
    let table = (member.oid, member.own());
    Ghosts::gather(client, table, &condition).await.map(Ok).map_err(Error::swept(&member.topic, &member.name))
}

/// The condition that rows meet which the source does not have, on the table as `t`.
async fn condition(
    client: &Client,
    ledger: &Ledger,
    sweep: &Sweep,
    member: &Member,
) -> Result<Result<String, Unclear>, Error> {
    let described = |error: tokio_postgres::Error| Error::table(&member.topic, &member.name, "describe")(error);
    let Some(target) = Target::load(client, &member.topic, &member.name).await? else {
        return Ok(Err(Unclear("it is not there any more".to_owned())));
    };
    let conditions = sweep.conditions.get(&member.topic).map_or(&[][..], Vec::as_slice);
    let Some(published) = sweep.rows.get(&member.topic).copied() else {
        return Ok(Err(Unclear("the resync does not say how many rows of it it has read".to_owned())));
    };
    if member.is_unnoted {
        let early = "it may have begun when an earlier version of the program applied the table, which notes no keys";
        return Ok(Err(Unclear(early.to_owned())));
    }
    let noted = member.noted.filter(|(resync, ..)| *resync == sweep.resync);
    if noted.is_some() && member.is_incomplete {
        return Ok(Err(Unclear("its key got other columns or types while the resync went on".to_owned())));
    }
    let within = match predicate::compile(client, (member.oid, &target), conditions).await {
        Ok(Ok(within)) => within,
        Ok(Err(unclear)) => return Ok(Err(unclear)),
        Err(error) if error.code().is_some_and(|code| sqlstate::quotes_values(code.code())) => {
            client.batch_execute("ROLLBACK TO SAVEPOINT sweep").await.map_err(described)?;
            let unknown = "the resync's condition has a value that the type of its column has not here";
            return Ok(Err(Unclear(unknown.to_owned())));
        }
        Err(error) => return Err(described(error)),
    };
    let Some((_, number, rows)) = noted else {
        let empty = "nothing of the resync came here, and it has read rows, or another one has left what it noted";
        return Ok(if published == 0 && !member.is_listed { Ok(within) } else { Err(Unclear(empty.to_owned())) });
    };
    if u64::try_from(rows).unwrap_or(0) < published {
        return Ok(Err(Unclear("some of the rows that the resync has read never came here".to_owned())));
    }
    let seen = ledger.seen_table(number);
    let key = client.query(KEY_COLUMNS, &[&seen]).await.map_err(described)?;
    let key: BTreeSet<String> = key.iter().map(|row| row.get(0)).collect();
    let Some(index) = target.index_over(&key.iter().map(String::as_str).collect()) else {
        return Ok(Err(Unclear("it has another key than when the resync began".to_owned())));
    };
    // Nobody has looked at it since it was filled.
    client.batch_execute(&format!("ANALYZE {seen}")).await.map_err(described)?;
    let same = index.columns.iter().zip(&index.equality).map(|(name, equality)| {
        let name = quote_identifier(name);
        format!("t.{name} {equality} s.{name}")
    });
    let same = same.collect::<Vec<_>>().join(" AND ");
    Ok(Ok(format!("{within} AND NOT EXISTS (SELECT FROM {seen} AS s WHERE {same})")))
}

/// Names of a table's columns.
const KEY_COLUMNS: &str =
    "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped";

/// What the deletions of a sweep need to know.
struct Swept<'a> {
    client: &'a Client,
    resync: Resync,
    references: &'a [Reference],
}

impl Swept<'_> {
    /// Deletes the ghosts of a group, and tells of those that stay.
    async fn delete(&self, group: &[&Member], found: &BTreeMap<u32, Ghosts>) -> Result<(), Error> {
        let Some(first) = group.first() else { return Ok(()) };
        let ghosts: Vec<&Ghosts> = group.iter().filter_map(|member| found.get(&member.oid)).collect();
        let deleted = ghosts::delete(self.client, &ghosts).await.map_err(Error::swept(&first.topic, &first.name))?;
        for ((member, ghosts), deleted) in group.iter().zip(ghosts).zip(deleted) {
            tracing::info!(
                table = %member.name, resync = %self.resync, deleted,
                "a resync has ended, and rows that the source does not have are gone"
            );
            let left = ghosts.gathered.saturating_sub(deleted);
            if left > 0 {
                let keys = self.references.iter().filter(|key| key.referenced == member.oid);
                let tables: BTreeSet<String> = keys.map(|key| key.table.to_string()).collect();
                let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
                tracing::warn!(
                    table = %member.name, left,
                    "rows that the source does not have stay in the table, since rows of {tables} reference them, or a trigger keeps them: \
                     a resync of all tables that reference them together removes both"
                );
            }
        }
        Ok(())
    }
}
