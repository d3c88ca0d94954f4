//! Transactions that keep a slot's `restart_lsn` where it is, since decoding begins anew below the first change of the oldest one that runs, in
//! whatever database of the cluster (trap T12); and the creation of a slot waiting (trap T25).

use std::time::Duration;

use tokio_postgres::Row;

use super::error::Error;
use crate::{postgres::Client, schema::quote_literal};

/// A transaction that has changed something and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub xid: String,
    /// Who has it.
    pub by: Owner,
    /// The database that it runs in.
    pub database: String,
    /// The role.
    pub user: String,
    /// Since it began, or was prepared; `None` where the role may not see it.
    pub since: Option<Duration>,
}

/// Who has to end a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A session.
    Session {
        /// Of its server process.
        pid: i32,
        /// What its client calls itself.
        application: String,
    },
    /// Nobody: it is prepared, and waits for COMMIT PREPARED or ROLLBACK PREPARED.
    Prepared {
        /// Its global identifier.
        gid: String,
    },
}

impl Running {
    /// Who has it, and where.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { by, database, user, .. } = self;
        match by {
            Owner::Session { pid, application } => {
                format!("the transaction of process {pid} ({application}, user {user}, database {database})")
            }
            Owner::Prepared { gid } => format!("the prepared transaction {gid} (user {user}, database {database})"),
        }
    }

    /// The statement that ends it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.by {
            Owner::Session { pid, .. } => format!("SELECT pg_terminate_backend({pid});"),
            Owner::Prepared { gid } => format!("ROLLBACK PREPARED {}; or COMMIT PREPARED", quote_literal(gid)),
        }
    }
}

/// The oldest transactions that run, the oldest first; a stand-by does not show those of its primary. Nothing is opened.
pub async fn oldest(client: &Client, limit: i64) -> Result<Vec<Running>, Error> {
    let failed = |error| Error::statement("looking for transactions that hold the slot", error);
    let rows = client.query(OLDEST, &[&limit]).await.map_err(failed)?;
    rows.iter().map(running).collect::<Result<_, _>>().map_err(failed)
}

fn running(row: &Row) -> Result<Running, tokio_postgres::Error> {
    let by = match row.try_get::<_, Option<String>>(1)? {
        Some(gid) => Owner::Prepared { gid },
        None => Owner::Session {
            pid: row.try_get(0)?,
            application: row.try_get::<_, Option<String>>(2)?.unwrap_or_default(),
        },
    };
    let seconds: Option<f64> = row.try_get(4)?;
    Ok(Running {
        xid: row.try_get(7)?,
        by,
        database: row.try_get::<_, Option<String>>(3)?.unwrap_or_default(),
        user: row.try_get::<_, Option<String>>(6)?.unwrap_or_default(),
        // A clock that was set back gives less than none.
        since: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()),
    })
}

const OLDEST: &str = "
    SELECT pid, NULL::text, application_name::text, datname::text,
           extract(epoch FROM clock_timestamp() - xact_start)::float8, age(backend_xid), usename::text,
           backend_xid::text
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 0, gid::text, NULL, database::text, extract(epoch FROM clock_timestamp() - prepared)::float8, age(transaction), owner::text, transaction::text
    FROM pg_prepared_xacts ORDER BY 6 DESC LIMIT $1";
