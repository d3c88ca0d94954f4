//! Ghosts: rows of target tables that the source does not have, gathered and deleted at the end of a resync.
//!
//! They are gathered first, by their places, and locked: from then on nobody can begin to reference them. Then those are taken out that a
//! row references which stays, and again those that these reference, until none is left to take out. So no action of a foreign key between
//! applied tables has anything to do, whatever it is, and what is left goes table by table, children first; tables that foreign keys tie
//! into a circle go in one statement, at whose end they are judged.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, error::Error as PgError};

use crate::{postgres::sqlstate, retry::Severity, sink::ties::Reference};

/// The ghosts of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ghosts {
    /// `pg_class.oid` of the table.
    pub oid: u32,
    /// The table as a relation of a FROM clause.
    pub from: String,
    /// How many were gathered.
    pub gathered: u64,
}

impl Ghosts {
    /// Gathers and locks the rows of a table that meet a condition on it as `t`.
    ///
    /// # Errors
    /// The server's.
    pub async fn gather(client: &Client, (oid, from): (u32, String), condition: &str) -> Result<Self, PgError> {
        let places = places(oid);
        let sql = format!(
            "CREATE TEMP TABLE {places} ON COMMIT DROP AS \
             SELECT t.tableoid AS o, t.ctid AS c FROM {from} AS t WHERE {condition} FOR UPDATE"
        );
        let gathered = client.execute(&sql, &[]).await?;
        client.batch_execute(&format!("ANALYZE pg_temp.{places}")).await?;
        Ok(Self { oid, from, gathered })
    }

    /// Forgets them: rows that are still there stay.
    ///
    /// # Errors
    /// The server's.
    pub async fn forget(&self, client: &Client) -> Result<(), PgError> {
        client.batch_execute(&format!("DELETE FROM pg_temp.{}", places(self.oid))).await
    }
}

/// The table of the ghosts' places.
fn places(oid: u32) -> String {
    format!("walrelay_ghosts_{oid}")
}

/// Takes out the ghosts that rows reference which are no ghosts, or no more. Where it cannot be told what references a table's, all of them stay.
///
/// # Errors
/// The server's, that may pass.
pub async fn keep_referenced(
    client: &Client,
    ghosts: &BTreeMap<u32, Ghosts>,
    references: &[Reference],
) -> Result<(), PgError> {
    loop {
        let mut taken = 0;
        for key in references {
            let Some(own) = ghosts.get(&key.referenced) else { continue };
            taken += keep_referenced_by(client, own, (key, ghosts.get(&key.referencing))).await?;
        }
        if taken == 0 {
            return Ok(());
        }
    }
}

/// The same by one foreign key; how many are taken out.
async fn keep_referenced_by(
    client: &Client,
    own: &Ghosts,
    (key, others): (&Reference, Option<&Ghosts>),
) -> Result<u64, PgError> {
    let stays = others.map_or_else(String::new, |others| {
        let places = places(others.oid);
        format!(" AND NOT EXISTS (SELECT FROM pg_temp.{places} AS x WHERE x.o = k.tableoid AND x.c = k.ctid)")
    });
    let (places, from, table, same) = (places(own.oid), &own.from, &key.from, &key.same);
    let sql = format!(
        "DELETE FROM pg_temp.{places} AS g USING {from} AS t WHERE t.tableoid = g.o AND t.ctid = g.c \
         AND EXISTS (SELECT FROM {table} AS k WHERE {same}{stays})"
    );
    client.batch_execute("SAVEPOINT keep").await?;
    let taken = match client.execute(&sql, &[]).await {
        Err(error) if error.code().is_some_and(|code| sqlstate::severity(code.code()) != Severity::Transient) => {
            client.batch_execute("ROLLBACK TO SAVEPOINT keep").await?;
            own.forget(client).await?;
            let reason = error.as_db_error().map_or("no answer", |said| said.message());
            tracing::warn!(
                table = from,
                references = table,
                reason,
                "rows that the source does not have stay in the table, since it cannot be seen which of them rows reference"
            );
            0
        }
        taken => taken?,
    };
    client.batch_execute("RELEASE SAVEPOINT keep").await?;
    Ok(taken)
}

/// Deletes the ghosts of these tables, of several in one statement; how many of each are gone.
///
/// # Errors
/// What the target refuses; constraints that were deferred speak too.
pub async fn delete(client: &Client, group: &[&Ghosts]) -> Result<Vec<u64>, PgError> {
    let deletion = |ghosts: &Ghosts| {
        let (from, places) = (&ghosts.from, places(ghosts.oid));
        format!("DELETE FROM {from} AS t USING pg_temp.{places} AS g WHERE t.tableoid = g.o AND t.ctid = g.c")
    };
    let deleted = if let [one] = group {
        // Rules on the table are not for a part of another statement.
        vec![client.execute(&deletion(one), &[]).await?]
    } else {
        let parts = group.iter().enumerate().map(|(at, ghosts)| format!("d{at} AS ({} RETURNING 1)", deletion(ghosts)));
        let counts: Vec<String> = (0..group.len()).map(|at| format!("(SELECT count(*) FROM d{at})")).collect();
        let sql = format!("WITH {} SELECT ARRAY[{}]", parts.collect::<Vec<_>>().join(", "), counts.join(", "));
        let deleted: Vec<i64> = client.query_one(&sql, &[]).await?.try_get(0)?;
        deleted.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).collect()
    };
    // What is deferred would speak at the commit, and for no table.
    client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    Ok(deleted)
}

/// Groups tables that foreign keys tie into a circle, and orders the groups so that what references another one comes before it.
#[must_use]
pub fn children_first(tables: &[u32], references: &[Reference]) -> Vec<Vec<u32>> {
    let reached: BTreeMap<u32, BTreeSet<u32>> = tables.iter().map(|oid| (*oid, reach(*oid, references))).collect();
    let reaches = |from: u32, to: u32| reached.get(&from).is_some_and(|reached| reached.contains(&to));
    let mut waiting: Vec<u32> = tables.to_vec();
    let mut groups = Vec::new();
    // One is free that nobody references but who is in a circle with it.
    let is_free =
        |table: u32, waiting: &[u32]| waiting.iter().all(|other| !reaches(*other, table) || reaches(table, *other));
    while let Some(first) = waiting.iter().copied().find(|table| is_free(*table, &waiting)) {
        let is_tied = |other: &u32| *other == first || reaches(first, *other) && reaches(*other, first);
        let (group, rest) = waiting.into_iter().partition(is_tied);
        groups.push(group);
        waiting = rest;
    }
    groups
}

/// The tables that one references, also through others.
fn reach(table: u32, references: &[Reference]) -> BTreeSet<u32> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![table]);
    while let Some(from) = open.pop() {
        let next = references.iter().filter(|key| key.referencing == from).map(|key| key.referenced);
        open.extend(next.filter(|table| reached.insert(*table)));
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_come_before_parents_and_circles_together() {
        let key = |(referencing, referenced)| Reference {
            referencing,
            referenced,
            table: crate::schema::TableName::new("public", "t"),
            from: String::new(),
            same: String::new(),
        };
        let groups =
            |keys: &[(u32, u32)]| children_first(&[1, 2, 3, 4], &keys.iter().copied().map(key).collect::<Vec<_>>());
        assert_eq!(groups(&[]), [[1], [2], [3], [4]]);
        assert_eq!(groups(&[(4, 1), (4, 4), (2, 1)]), [[2], [3], [4], [1]]);
        assert_eq!(groups(&[(3, 2), (2, 3), (2, 1), (4, 3)]), [vec![4], vec![2, 3], vec![1]]);
        assert_eq!(groups(&[(1, 2), (2, 3), (3, 4), (4, 1)]), [[1, 2, 3, 4]]);
        // A table between that is none of these ties them too.
        assert_eq!(groups(&[(2, 9), (9, 1)]), [[2], [1], [3], [4]]);
    }
}
