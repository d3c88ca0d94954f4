//! Transaction ids as the stream has them: 32 bits that wrap around (manual, "Transactions and Identifiers").

use super::{catalog, connection::APPLICATION_NAME, error::Error};
use crate::postgres::{Client, Settings};

/// How many subtransactions are asked after at once.
const AT_ONCE: usize = 100_000;

/// What the server knows of subtransactions; their ids are completed from the one that is next.
const STATUS: &str = "SELECT s.xid, pg_xact_status((n.xid - ((n.xid - s.xid) & 4294967295))::text::xid8) \
                      FROM unnest($1::bigint[]) s(xid), \
                      (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) n(xid)";

/// The oldest transaction that still runs, prepared ones included; the next one to be, where none does. All older ones have ended.
pub async fn oldest_running(client: &Client) -> Result<u32, Error> {
    let failed = |error| Error::statement("looking for running transactions", error);
    let sql = "SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::bigint";
    let xid: i64 = client.query_one(sql, &[]).await.map_err(failed)?.try_get(0).map_err(failed)?;
    Ok(u32::try_from(xid).unwrap_or(0))
}

/// Which of these subtransactions were rolled back; `None` where the server does not know it of one. To be asked when the transaction
/// that they belong to has committed in the WAL: what was rolled back has been by then, and so is known, while what was not may still
/// look as if it ran.
pub async fn rolled_back(settings: &Settings, subxids: &[u32]) -> Result<Option<Vec<u32>>, Error> {
    let failed = |error| Error::statement("asking which savepoints were rolled back", error);
    let client = catalog::connect(settings, APPLICATION_NAME).await?;
    let mut rolled_back = Vec::new();
    for some in subxids.chunks(AT_ONCE) {
        let some: Vec<i64> = some.iter().copied().map(i64::from).collect();
        for row in client.query(STATUS, &[&some]).await.map_err(failed)? {
            let (xid, status): (i64, Option<&str>) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            match (u32::try_from(xid), status) {
                (Ok(xid), Some("aborted")) => rolled_back.push(xid),
                (Ok(_), Some(_)) => {}
                _ => return Ok(None),
            }
        }
    }
    Ok(Some(rolled_back))
}

/// Whether one id is older than the other; ids of one time are less than 2^31 apart.
#[must_use]
pub const fn precedes(xid: u32, other: u32) -> bool {
    xid.wrapping_sub(other).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_compared_across_the_wrap() {
        assert!(precedes(3, 4) && !precedes(4, 4) && !precedes(5, 4));
        assert!(precedes(u32::MAX - 5, 3) && !precedes(3, u32::MAX - 5));
    }
}
