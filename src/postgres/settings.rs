//! Where a server is and who we are there.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{error::Error, server_error::ServerError};

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

/// Where a role's password comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The configuration says it.
    Text(String),
    /// The first line of a file, which is read at each login: what replaces the password need not start the process anew.
    File(PathBuf),
}

impl Password {
    /// The password as of now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<String, Error> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|source| Error::PasswordFile { path: path.clone(), source })?;
                Ok(text.lines().next().unwrap_or_default().to_owned())
            }
        }
    }

    /// The file, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
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
    pub password: Option<Password>,
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

impl Settings {
    /// `host:port`, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The server refused the login. A password that comes from a file may be another one soon.
    #[must_use]
    pub fn refused(&self, source: ServerError) -> Error {
        Error::Login {
            address: self.address(),
            user: self.user.clone(),
            database: self.database.clone(),
            password_file: self.password.as_ref().and_then(Password::file).map(Path::to_owned),
            source: Box::new(source),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("ssl_mode", &self.ssl_mode)
            .field("ssl_root_cert", &self.ssl_root_cert)
            .field("ssl_cert", &self.ssl_cert)
            .field("ssl_key", &self.ssl_key)
            .field("connect_timeout_seconds", &self.connect_timeout_seconds)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_masks_the_password() {
        let settings = Settings {
            host: "::1".into(),
            port: 5432,
            database: "shop".into(),
            user: "walrelay".into(),
            password: Some("hunter2".into()),
            ssl_mode: SslMode::VerifyFull,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            connect_timeout_seconds: 10,
        };
        let text = format!("{settings:?}");
        assert!(text.contains("***") && !text.contains("hunter2"), "{text}");
        assert_eq!(settings.address(), "[::1]:5432");
    }
}
