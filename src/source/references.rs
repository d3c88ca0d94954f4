//! Foreign keys among tables, as far as they give an order.

use std::collections::BTreeSet;

use super::error::Error;
use crate::postgres::Client;

/// The tables (`pg_class.oid`) in an order in which those that others refer to come first. Among tables that refer to each other in a circle
/// the given order holds.
pub async fn parents_first(client: &Client, tables: &[u32]) -> Result<Vec<u32>, Error> {
    let sql = "SELECT DISTINCT conrelid, confrelid FROM pg_constraint \
               WHERE contype = 'f' AND conrelid = ANY($1) AND confrelid = ANY($1) AND conrelid <> confrelid";
    let failed = |error| Error::statement("reading the foreign keys among tables", error);
    let rows = client.query(sql, &[&tables]).await.map_err(failed)?;
    let pairs = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    Ok(order(tables, &pairs.collect::<Result<_, _>>().map_err(failed)?))
}

/// Whether foreign keys of other tables refer to this one (`pg_class.oid`): where it is emptied, their rows would go or be refused.
pub async fn others_refer_to(client: &Client, table: u32) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = $1 AND conrelid <> $1)";
    let failed = |error| Error::statement("reading the foreign keys to a table", error);
    client.query_one(sql, &[&table]).await.and_then(|row| row.try_get(0)).map_err(failed)
}

/// `references`: child and parent.
fn order(tables: &[u32], references: &BTreeSet<(u32, u32)>) -> Vec<u32> {
    let (mut left, mut ordered) = (tables.to_vec(), Vec::with_capacity(tables.len()));
    while !left.is_empty() {
        let waits = |table: u32| references.iter().any(|(child, parent)| *child == table && left.contains(parent));
        let next = left.iter().position(|table| !waits(*table)).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_refer_to_comes_first() {
        let references = [(1, 2), (2, 3)].into();
        assert_eq!(order(&[1, 2, 3, 4], &references), [3, 2, 1, 4]);
        assert_eq!(order(&[4, 1], &references), [4, 1]);
    }

    #[test]
    fn a_circle_keeps_its_order() {
        assert_eq!(order(&[1, 2, 3], &[(1, 2), (2, 1), (3, 1)].into()), [1, 2, 3]);
    }
}
