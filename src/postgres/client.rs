//! An ordinary connection, by tokio-postgres on our own transport.

use std::{
    error::Error as _,
    io,
    ops::{Deref, DerefMut},
};

use tokio_postgres::{Config, NoTls};
use tokio_util::task::AbortOnDropHandle;

use super::{error::Error, session, settings::Settings, transport};

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
    let transport = transport::Transport::connect(settings).await?;
    let mut config = Config::new();
    config.user(&settings.user).dbname(&settings.database).application_name(application_name);
    config.options(session::options(extra)).ssl_mode(tokio_postgres::config::SslMode::Disable);
    if let Some(password) = &settings.password {
        config.password(password.read()?);
    }
    let connected = config.connect_raw(transport, NoTls).await;
    let (client, connection) = connected.map_err(|error| login_error(settings, error))?;
    // Left to itself it would read what is left of an answer to its end.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    }));
    let server_version = server_version(&client).await?;
    Ok(Client { session: client, connection, server_version, address: settings.address() })
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

async fn server_version(client: &tokio_postgres::Client) -> Result<u32, Error> {
    let doing = "reading the server version";
    let row = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await;
    let version: i32 = row.and_then(|row| row.try_get(0)).map_err(|error| Error::statement(doing, error))?;
    Ok(version.unsigned_abs())
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
