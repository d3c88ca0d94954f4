//! What a resync has shown of a table's rows: the keys that its records told, until its end deletes all others (PROTOCOL 5, "Ghosts",
//! trap T26).
//!
//! Records of a resync carry its name ([`Resync`]). A batch that applies some adds the keys of the rows that it leaves, and removes
//! those of the rows that it deletes, in the transaction that writes the rows: one statement each, over the staged keys. So a kill at
//! any point leaves keys, rows and positions together. What else is in the batch is noted too, which does no harm: a row that the
//! stream has just written is no ghost.
//!
//! The keys lie in a table of their own, `seen_<number>`, in the schema of the books, which the [list](super::resyncs) names. Its columns
//! are the target's key columns, by name and type, under a primary key: what the target calls equal is one key. It is a logged table, for
//! an unlogged one would be empty after a crash of the server that the positions survive. The first batch that needs it creates it. A
//! topic has one at most: that of the latest resync. An earlier one came to no end, so that its table goes when a record of a later
//! one comes, and records of it that are still to come, in other partitions, are not noted.
//!
//! Where the key gets other columns or types while a resync goes on, its keys lie in two tables, of which the later one is not complete: nothing
//! is told of such a table's rows.
//!
//! The list also counts the rows that the resync had read. Fewer than it says that it published have not all come here, and then nothing
//! tells which rows the source has.

use tokio_postgres::{Client, types::PgLsn};

use crate::{
    event::{Op, Resync},
    schema::quote_identifier,
    sink::{
        batch::Run,
        error::Error,
        ledger::{Ledger, bound_waits, lock_ddl},
        plan::Plan,
        resyncs::{self, Key, Keys},
    },
};

/// Where the keys of a resync are noted: a table is made if there is none. In a transaction of its own.
pub async fn ensure(
    client: &Client,
    ledger: &Ledger,
    plan: &Plan,
    (resync, key): (Resync, &Key),
) -> Result<Keys, Error> {
    let latest = resyncs::latest(client, ledger, &plan.topic).await?;
    if let Some(keys) = latest.and_then(|latest| latest.keys_of(resync, key)) {
        return Ok(keys);
    }
    client.batch_execute("BEGIN").await.map_err(Error::query("begin"))?;
    let made = make(client, ledger, plan, (resync, key)).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(failed(plan))?;
    let keys = made?;
    resyncs::drop_ended(client, ledger).await?;
    Ok(keys)
}

async fn make(client: &Client, ledger: &Ledger, plan: &Plan, (resync, key): (Resync, &Key)) -> Result<Keys, Error> {
    bound_waits(client).await?;
    lock_ddl(client).await?;
    if let Some(latest) = resyncs::latest(client, ledger, &plan.topic).await? {
        if let Some(keys) = latest.keys_of(resync, key) {
            return Ok(keys);
        }
        let earlier = latest.resync;
        tracing::info!(topic = %plan.topic, resync = %earlier, "a resync has come to no end here, and removes nothing");
        resyncs::end(client, ledger, &[&plan.topic]).await?;
    }
    // What was noted of it in another table is not in this one.
    let sql = format!(
        "INSERT INTO {table} (instance, topic, epoch, commit_lsn, key, types, incomplete) VALUES ($1::text, $2::text, $3::bigint, \
         $4::pg_lsn, $5::text[], $6::text[], EXISTS (SELECT FROM {table} WHERE instance = $1::text AND topic = $2::text \
         AND epoch = $3::bigint AND commit_lsn = $4::pg_lsn)) RETURNING number",
        table = ledger.table("resync")
    );
    let (epoch, commit) = (i64::from(resync.epoch), PgLsn::from(resync.commit.0));
    let (topic, names, types) = (&*plan.topic, &key.names, &key.types);
    let row = client.query_one(&sql, &[&ledger.instance(), &topic, &epoch, &commit, names, types]).await;
    let number: i64 = row.map_err(failed(plan))?.get(0);
    let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
    let columns = quoted.iter().zip(types).map(|(name, type_sql)| format!("{name} {type_sql}"));
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))",
        ledger.seen_table(number),
        columns.collect::<Vec<_>>().join(", "),
        quoted.join(", ")
    );
    client.batch_execute(&sql).await.map_err(failed(plan))?;
    Ok(Keys::Table(number))
}

fn failed(plan: &Plan) -> impl FnOnce(tokio_postgres::Error) -> Error + '_ {
    Error::table(&plan.topic, plan.table(), "note the keys of")
}

/// Notes the keys of the rows that a run has staged, in the batch's transaction.
pub async fn note(client: &Client, ledger: &Ledger, plan: &Plan, number: i64) -> Result<(), Error> {
    let table = ledger.seen_table(number);
    let sql = format!("{};{}", plan.unsee(&table), plan.see(&table));
    client.batch_execute(&sql).await.map_err(failed(plan))
}

/// The statements that count the rows of a batch that resyncs had read; empty or ending in a semicolon. `blocked` has the events from
/// which on lanes are left out.
pub fn count<'a>(ledger: &Ledger, runs: impl Iterator<Item = &'a Run<'a>>, blocked: &[Option<usize>]) -> String {
    let is_applied = |lane: usize, index: usize| blocked.get(lane).is_some_and(|end| end.is_none_or(|end| index < end));
    let mut counts: Vec<(&str, i64, usize)> = Vec::new();
    for run in runs {
        let Some((resync, number)) = run.resync.zip(run.seen) else { continue };
        let read = run.events.iter().filter(|(lane, index, event)| {
            event.op == Op::Read && event.resync == Some(resync) && is_applied(*lane, *index)
        });
        counts.push((&*run.plan.topic, number, read.count()));
    }
    counts.retain(|(_, _, count)| *count > 0);
    // Always in the same order, for other lanes' batches count too.
    counts.sort_unstable();
    let table = ledger.table("resync");
    let statement = |(_, number, count): &(&str, i64, usize)| {
        format!("UPDATE {table} SET rows = rows + {count} WHERE number = {number};")
    };
    counts.iter().map(statement).collect()
}
