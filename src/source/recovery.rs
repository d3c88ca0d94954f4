//! Whether the server replays another one's WAL, as a stand-by does until it is promoted.

use super::error::Error;
use crate::postgres::Client;

/// Whether the server is a stand-by: it takes no writes, and so no publications, messages and locks of writers.
pub async fn is_stand_by(client: &Client) -> Result<bool, Error> {
    let failed = |error| Error::statement("asking whether the server is a stand-by", error);
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}
