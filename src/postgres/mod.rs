//! How to reach a PostgreSQL server: settings, TLS and an ordinary connection. Both ends use it.

use std::path::PathBuf;

use serde::Deserialize;

/// How far TLS is demanded (libpq's `sslmode`; manual, "SSL Support").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS when the server offers it, the certificate unchecked.
    #[default]
    Prefer,
    /// TLS or no connection, the certificate unchecked (checked against `ssl_root_cert` when that is set, as libpq does).
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this host name.
    VerifyFull,
}

/// Address and credentials of one PostgreSQL server.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Password, if the server asks for one.
    pub password: Option<String>,
    /// How far TLS is demanded.
    pub ssl_mode: SslMode,
    /// PEM file of the authorities to trust; the system's store when absent.
    pub ssl_root_cert: Option<PathBuf>,
    /// PEM file of the client certificate chain.
    pub ssl_cert: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    pub ssl_key: Option<PathBuf>,
    /// Time limit of a connection attempt, in seconds.
    pub connect_timeout_seconds: u64,
}
