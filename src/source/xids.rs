//! Transaction ids as the stream has them: 32 bits that wrap around (manual, "Transactions and Identifiers").

use super::error::Error;
use crate::postgres::Client;

/// The oldest transaction that still runs, prepared ones included; the next one to be, where none does. All older ones have ended.
pub async fn oldest_running(client: &Client) -> Result<u32, Error> {
    let failed = |error| Error::statement("looking for running transactions", error);
    let sql = "SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::bigint";
    let xid: i64 = client.query_one(sql, &[]).await.map_err(failed)?.try_get(0).map_err(failed)?;
    Ok(u32::try_from(xid).unwrap_or(0))
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
