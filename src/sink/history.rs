//! Whether the target is still where this process has seen it.
//!
//! A target can go back in time: it loses its last commits in a crash with `synchronous_commit = off`, or to a stand-by that
//! was behind when it was promoted, or it is restored from a backup. Its rows and its books go back together, so a process
//! that begins at the stored offsets repeats what was lost. A process that runs on has given up the records in
//! between, and must not go on from where it believes to be. What keeps it from that:
//!
//! - A transaction that applies events must find its lane's generation *and* the offset that its first record follows
//!   (`Session::apply`); one that passes a barrier, an offset between that and the barrier's. A row that went back has an
//!   earlier one.
//! - A connection sees one history of the target, for a server goes back only with all its connections gone. So a new control
//!   connection first compares all rows with what the process believes ([`astray`]), also where no record comes that could
//!   meet the fence; then it tells anew who is parked, held or stopped, since that may be lost where no offset is.
//! - Connections of one process may lie on both sides of a fail-over, the old server still alive. The fence shows that,
//!   and ends the connections that meet it. The rows are also compared every few seconds.
//!
//! A lane that is found before its standing ends all lanes of the process, and it begins anew from what is stored. No memory
//! outlives that: queues, marks, parked barriers, holds, compiled plans. What the target keeps beside the positions (`moved`
//! columns, emptied barriers) was written in one transaction with them or after them, so it is as old as they are.
//!
//! Generations go back too, so two processes may come to hold one lane in the same generation: one claimed it in the history
//! that is lost, the other since. The offsets decide between them. A lane's queue begins at its offset and has no gap, so
//! whoever finds the stored offset equal to his own applies what comes next, whoever was there before; the other one is
//! fenced, and takes the lane back in a higher generation, from the stored offset.

use tokio_postgres::{Client, types::PgLsn};

use crate::sink::{
    error::Error,
    ledger::{Ledger, Standing},
};

/// A lane whose row is not the one that its process has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Astray {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The process that has taken it over; `None`: the row stands before what was committed.
    pub owner: Option<String>,
}

/// Compares rows with standings. `owner` is the asking process: a later generation of its own is that of a claim which was
/// committed and whose answer was lost, so the lane is where it was, and is claimed again when its old generation is fenced.
pub async fn astray(
    client: &Client,
    ledger: &Ledger,
    owner: &str,
    standings: &[Standing],
) -> Result<Vec<Astray>, Error> {
    if standings.is_empty() {
        return Ok(Vec::new());
    }
    let topics: Vec<&str> = standings.iter().map(|standing| &*standing.lane.topic).collect();
    let partitions: Vec<i32> = standings.iter().map(|standing| standing.lane.partition).collect();
    let generations: Vec<i64> = standings.iter().map(|standing| standing.lane.generation).collect();
    let offsets: Vec<i64> = standings.iter().map(|standing| standing.next_offset.unwrap_or(-1)).collect();
    let epochs: Vec<i64> = standings.iter().map(|standing| i64::from(standing.mark.epoch)).collect();
    let commits: Vec<PgLsn> = standings.iter().map(|standing| PgLsn::from(standing.mark.commit.0)).collect();
    let ordinal = |standing: &Standing| i64::try_from(standing.mark.ordinal).unwrap_or(i64::MAX);
    let ordinals: Vec<i64> = standings.iter().map(ordinal).collect();
    let sql = format!(
        "SELECT u.topic, u.n, \
           CASE WHEN p.gen > u.gen AND later THEN coalesce(p.owner, 'nobody') END \
         FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::pg_lsn[], $9::bigint[]) \
           AS u (topic, n, gen, next, epoch, lsn, ordinal) \
         LEFT JOIN {} p ON p.instance = $1 AND p.topic = u.topic AND p.partition = u.n \
         CROSS JOIN LATERAL (SELECT coalesce(p.next_offset, -1) >= u.next \
           AND (p.epoch, p.commit_lsn, p.ordinal) >= (u.epoch, u.lsn, u.ordinal)) AS l (later) \
         WHERE ((p.gen = u.gen OR p.gen > u.gen AND p.owner = $2) AND later) IS NOT TRUE ORDER BY u.topic, u.n",
        ledger.table("position")
    );
    let rows = client
        .query(
            &sql,
            &[&ledger.instance(), &owner, &topics, &partitions, &generations, &offsets, &epochs, &commits, &ordinals],
        )
        .await
        .map_err(Error::query("compare positions"))?;
    Ok(rows.iter().map(|row| Astray { topic: row.get(0), partition: row.get(1), owner: row.get(2) }).collect())
}
