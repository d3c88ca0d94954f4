//! Errors of reaching a server and of talking to it.

use std::{io, path::PathBuf};

use super::server_error::ServerError;
use crate::retry::{Classify, Severity};

/// SQLSTATE `invalid_password`.
const WRONG_PASSWORD: &str = "28P01";

/// Why a connection or a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Name resolution or TCP failed.
    #[error("cannot connect to {address}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The connection attempt took too long.
    #[error("no connection to {address} within {seconds} s")]
    ConnectTimeout {
        /// `host:port`.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// `sslmode` demands TLS and the server answered that it has none.
    #[error("{address} does not offer TLS, which sslmode demands")]
    TlsUnavailable {
        /// `host:port`.
        address: String,
    },
    /// The server's answer to SSLRequest is neither `S` nor `N`.
    #[error("{address} answered the TLS request with byte {answer}")]
    TlsAnswer {
        /// `host:port`.
        address: String,
        /// The byte.
        answer: u8,
    },
    /// The TLS handshake failed, for example since the certificate is not trusted.
    #[error("TLS handshake with {address} failed")]
    TlsHandshake {
        /// `host:port`.
        address: String,
        /// rustls's reason.
        source: io::Error,
    },
    /// A certificate or key file cannot be used.
    #[error("cannot use {what} {}", path.display())]
    TlsFile {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS settings do not fit together.
    #[error("TLS settings cannot be used")]
    TlsConfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server refused the login.
    #[error("{address} refused user {user} for database {database}")]
    Login {
        /// `host:port`.
        address: String,
        /// The role.
        user: String,
        /// The database.
        database: String,
        /// The file that the password is read from.
        password_file: Option<PathBuf>,
        /// What the server said.
        source: Box<ServerError>,
    },
    /// The file with the password cannot be read.
    #[error("cannot read the password from {}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The login cannot be carried out on our side.
    #[error("cannot log in to {address} as {user}: {reason}")]
    Authentication {
        /// `host:port`.
        address: String,
        /// The role.
        user: String,
        /// Why.
        reason: String,
    },
    /// The server reported an error for a statement.
    #[error("{doing} failed")]
    Statement {
        /// What was tried, as a noun phrase.
        doing: String,
        /// What the server said.
        source: Box<ServerError>,
    },
    /// The connection broke, or the answer makes no sense to the client library.
    #[error("{doing} failed")]
    Connection {
        /// What was tried, as a noun phrase.
        doing: String,
        /// The library's reason.
        source: tokio_postgres::Error,
    },
}

impl Error {
    /// Wraps an error of tokio-postgres; `doing` is a noun phrase (`"reading the catalog"`).
    #[must_use]
    pub fn statement(doing: impl Into<String>, error: tokio_postgres::Error) -> Self {
        let doing = doing.into();
        match error.as_db_error() {
            Some(db) => Self::Statement { doing, source: Box::new(db.into()) },
            None => Self::Connection { doing, source: error },
        }
    }

    /// What the server said, where it was the server.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Login { source, .. } | Self::Statement { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::PasswordFile { .. } => Severity::Transient,
            // Server and file are not replaced at one moment.
            Self::Login { source, password_file: Some(_), .. } if source.is(WRONG_PASSWORD) => Severity::Transient,
            Self::TlsHandshake { source, .. } if source.kind() != io::ErrorKind::InvalidData => Severity::Transient,
            Self::Login { source, .. } | Self::Statement { source, .. } => source.severity(),
            Self::Connection { source, .. } if is_broken(source) => Severity::Transient,
            _ => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { address, .. } | Self::ConnectTimeout { address, .. } => {
                Some(format!("Check that a PostgreSQL server listens on {address} and that no firewall is between."))
            }
            Self::TlsUnavailable { .. } => {
                Some("Set ssl = on at the server, or choose sslmode prefer or disable.".to_owned())
            }
            Self::TlsHandshake { .. } => Some(
                "Check that ssl_root_cert holds the authority of the server's certificate, and that the certificate is \
                 for this host name (sslmode verify-full)."
                    .to_owned(),
            ),
            Self::PasswordFile { .. } => {
                Some("password_file names a file whose first line is the password; it is read at each login.".to_owned())
            }
            Self::Login { address, user, database, password_file, source } => {
                let remedy = match password_file {
                    Some(path) if source.is(WRONG_PASSWORD) => {
                        format!("Put the role's password into {}, which is read again at each attempt.", path.display())
                    }
                    _ => source.hint().unwrap_or_default(),
                };
                Some(format!("{remedy} The connection is to {address}, user {user}, database {database}."))
            }
            Self::Statement { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// Whether the library's error is about the connection and not about what we asked of it.
fn is_broken(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;

    error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<io::Error>)
}
