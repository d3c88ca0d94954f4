//! An ordinary connection, by tokio-postgres on our own transport.

use std::{
    error::Error as _,
    io,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use tokio_postgres::{Config, Connection, NoTls, tls::NoTlsStream};
use tokio_util::task::AbortOnDropHandle;

use super::{
    error::Error,
    session,
    settings::Settings,
    transport::{self, Transport},
    watched::{Finding, Pulse, Watched},
};

/// `application_name` of the connections that ask after another one.
const ASKS: &str = "walrelay asks";

/// A session with pinned settings; derefs to the client of tokio-postgres.
///
/// Dropping it ends the connection at once, also in the midst of an answer; [`Client::close`] ends the session in good order.
#[derive(Debug)]
pub struct Client {
    session: tokio_postgres::Client,
    connection: AbortOnDropHandle<()>,
    server_version: u32,
    address: String,
}

/// Connects with the settings of [`session::PINNED`].
pub async fn connect(settings: &Settings, application_name: &str) -> Result<Client, Error> {
    connect_with(settings, application_name, &[]).await
}

/// As [`connect`], with more settings pinned for the session.
pub async fn connect_with(
    settings: &Settings,
    application_name: &str,
    extra: &[(&str, &str)],
) -> Result<Client, Error> {
    let attempt = async {
        let first = Box::pin(log_in(settings, application_name, extra)).await;
        let Err(error) = first else { return first };
        let Some(plain) = transport::without_tls(settings, error.server_error()) else { return Err(error) };
        Box::pin(log_in(&plain, application_name, extra))
            .await
            .map_err(|second| if transport::is_rejected(second.server_error()) { error } else { second })
    };
    transport::within_connect_timeout(settings, attempt).await
}

async fn log_in(settings: &Settings, application_name: &str, extra: &[(&str, &str)]) -> Result<Client, Error> {
    let (client, connection, pulse) = open(settings, application_name, extra).await?;
    // Left to itself it would read what is left of an answer to its end.
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (server_version, own) = identity(&client).await?;
    let address = settings.address();
    let connection = AbortOnDropHandle::new(tokio::spawn(attend(connection, pulse, settings.clone(), own)));
    Ok(Client { session: client, connection, server_version, address })
}

type Driver = Connection<Watched<Transport>, NoTlsStream>;

async fn open(
    settings: &Settings,
    application_name: &str,
    extra: &[(&str, &str)],
) -> Result<(tokio_postgres::Client, Driver, Arc<Pulse>), Error> {
    let transport = Transport::connect(settings).await?;
    let mut config = Config::new();
    config.user(&settings.user).dbname(&settings.database).application_name(application_name);
    config.options(session::options(extra)).ssl_mode(tokio_postgres::config::SslMode::Disable);
    if let Some(password) = &settings.password {
        config.password(password.read()?);
    }
    let (transport, pulse) = Watched::new(transport);
    let connected = config.connect_raw(transport, NoTls).await;
    let (client, connection) = connected.map_err(|error| login_error(settings, error))?;
    Ok((client, connection, pulse))
}

/// Lets the connection work until it ends, or nothing is to be expected of it any longer.
async fn attend(
    connection: AbortOnDropHandle<Result<(), tokio_postgres::Error>>,
    pulse: Arc<Pulse>,
    settings: Settings,
    own: Identity,
) {
    let least = Duration::from_secs(settings.connect_timeout_seconds);
    tokio::select! {
        ended = connection => if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "connection ended");
        },
        reason = pulse.until_lost(least, || ask_after(&settings, &own)) => {
            tracing::warn!(address = settings.address(), pid = own.pid, reason, "an answer does not come: the connection is given up");
        }
    }
}

/// What becomes of a session.
async fn ask_after(settings: &Settings, own: &Identity) -> Finding {
    match state_of(settings, own).await {
        Ok(Asked::Elsewhere) => Finding::Unknown,
        Ok(Asked::Gone) => Finding::Doubtful("the server has no such session any more"),
        Ok(Asked::There(State { state: Some(state), .. })) if state.starts_with("idle") => {
            Finding::Doubtful("the server has answered, or was never asked")
        }
        Ok(Asked::There(State { waits_for: Some(event), .. })) if event == "ClientWrite" => {
            Finding::Doubtful("what the server sends does not get here")
        }
        Ok(Asked::There(State { waits_for: Some(event), .. })) if event == "ClientRead" => {
            Finding::Doubtful("what was sent does not get to the server")
        }
        Ok(Asked::There(_)) => Finding::Works,
        Err(Error::Connect { .. } | Error::ConnectTimeout { .. }) => {
            Finding::Doubtful("the server is not to be reached either")
        }
        Err(_) => Finding::Unknown,
    }
}

/// What tells a session from all others.
struct Identity {
    pid: i32,
    /// Address and port of the server, and when the session began.
    place: String,
}

/// What is heard of a session.
enum Asked {
    /// The name of the host leads to another server by now.
    Elsewhere,
    Gone,
    There(State),
}

/// What the server shows of a session.
struct State {
    state: Option<String>,
    waits_for: Option<String>,
}

/// Asked by a connection of its own.
async fn state_of(settings: &Settings, own: &Identity) -> Result<Asked, Error> {
    let failed = |error| Error::statement("asking after a session", error);
    let attempt = async {
        let (client, connection, _) = open(settings, ASKS, &[]).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let sql = format!(
            "SELECT {SERVER} = split_part($2, ' ', 1), {SERVER} || ' ' || {BEGAN} = $2, a.state, a.wait_event, a.pid \
               FROM (VALUES (1)) AS one LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = $1"
        );
        let row = client.query_one(&sql, &[&own.pid, &own.place]).await.map_err(failed)?;
        let is_server: bool = row.try_get(0).map_err(failed)?;
        let is_session: bool = row.try_get(1).map_err(failed)?;
        if !is_server {
            return Ok(Asked::Elsewhere);
        }
        // Another session has its process id by now, or none.
        if row.try_get::<_, Option<i32>>(4).map_err(failed)?.is_none() || !is_session {
            return Ok(Asked::Gone);
        }
        let state = State { state: row.try_get(2).map_err(failed)?, waits_for: row.try_get(3).map_err(failed)? };
        Ok(Asked::There(state))
    };
    transport::within_connect_timeout(settings, attempt).await
}

impl Client {
    /// `server_version_num`: 150004 for 15.4.
    #[must_use]
    pub const fn server_version(&self) -> u32 {
        self.server_version
    }

    /// `host:port` of the server.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends the session and waits until the server was told so.
    pub async fn close(self) {
        drop(self.session);
        // The task ends by itself once the client is gone; that it may have panicked changes nothing here.
        let _ = self.connection.await;
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.session
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.session
    }
}

/// The server, as a session sees it. Behind a host name there may be several, and one may be another's stand-by.
const SERVER: &str = "coalesce(host(inet_server_addr()), '') || ':' || coalesce(inet_server_port(), 0)";

/// When a session began; empty where the role may not see that, as one that acts as another role.
const BEGAN: &str = "coalesce(extract(epoch FROM a.backend_start)::text, '')";

/// The server's version, and the session there.
async fn identity(client: &tokio_postgres::Client) -> Result<(u32, Identity), Error> {
    let failed = |error| Error::statement("reading the server version", error);
    let sql = format!(
        "SELECT current_setting('server_version_num')::int, pg_backend_pid(), {SERVER} || ' ' || {BEGAN} \
           FROM (VALUES (1)) AS one LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = pg_backend_pid()"
    );
    let row = client.query_one(&sql, &[]).await.map_err(failed)?;
    let version: i32 = row.try_get(0).map_err(failed)?;
    let own = Identity { pid: row.try_get(1).map_err(failed)?, place: row.try_get(2).map_err(failed)? };
    Ok((version.unsigned_abs(), own))
}

fn login_error(settings: &Settings, error: tokio_postgres::Error) -> Error {
    let (address, user) = (settings.address(), settings.user.clone());
    if let Some(db) = error.as_db_error() {
        return settings.refused(db.into());
    }
    let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match io {
        Some(kind) if !matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::Other) => {
            Error::Connect { address, source: io::Error::new(kind, error) }
        }
        _ => Error::Authentication { address, user, reason: reason(&error) },
    }
}

/// The library's message with its causes: what it says of a login never holds the password.
fn reason(error: &tokio_postgres::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
