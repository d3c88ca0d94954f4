//! The real parts that the demo, the tests and the benchmarks work with, as `dev/parts env` prints them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use tokio_postgres::{Client, Config, NoTls};

use super::error::Error;

/// Environment variable that names the file of addresses.
pub const ENV_FILE: &str = "WALRELAY_DEV_ENV";

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `source` or `target`.
    pub name: &'static str,
    /// Host.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Server {
    /// Its name and address, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} {}:{}", self.name, self.host, self.port)
    }

    /// Opens a connection; the superuser `postgres` needs no password, as the parts are set up.
    pub async fn connect(&self, database: &str, user: &str, password: &str) -> Result<Client, Error> {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).dbname(database).user(user).password(password);
        config.application_name("walrelay demo");
        let (client, connection) = config
            .connect(NoTls)
            .await
            .map_err(|source| self.failed(format!("connect to database {database}"), source))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(client)
    }

    /// Runs statements that return nothing.
    pub async fn execute(&self, client: &Client, what: &str, sql: &str) -> Result<(), Error> {
        client.batch_execute(sql).await.map_err(|source| self.failed(what.to_owned(), source))
    }

    /// Names what failed and where.
    pub fn failed(&self, operation: impl Into<String>, source: tokio_postgres::Error) -> Error {
        Error::Server { operation: operation.into(), server: self.describe(), source }
    }
}

/// Addresses of all parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The source server.
    pub source: Server,
    /// The target server.
    pub target: Server,
    /// Kafka's bootstrap addresses, separated by commas.
    pub kafka: String,
    /// The registry's base URL.
    pub registry: String,
    /// Role of both servers that owns the databases.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The program that started the parts, and its state folder: for faults.
    pub control: Option<Control>,
    /// Folder of PostgreSQL's programs, where known.
    pub postgres_bin: Option<PathBuf>,
}

/// How to stop and start single parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The program.
    pub program: PathBuf,
    /// Its state folder.
    pub state: PathBuf,
}

impl Parts {
    /// Reads the file of `KEY=VALUE` lines.
    pub fn from_file(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file).map_err(|source| Error::Parts { file: file.to_owned(), source })?;
        let values = Values { file, map: parse(&text) };
        let control = values.optional("PARTS").zip(values.optional("STATE"));
        Ok(Self {
            source: values.server("source", "WALRELAY_DEV_SOURCE_HOST", "WALRELAY_DEV_SOURCE_PORT")?,
            target: values.server("target", "WALRELAY_DEV_TARGET_HOST", "WALRELAY_DEV_TARGET_PORT")?,
            kafka: values.text("WALRELAY_DEV_KAFKA")?,
            registry: values.text("WALRELAY_DEV_REGISTRY")?,
            user: values.text("WALRELAY_DEV_USER")?,
            password: values.text("WALRELAY_DEV_PASSWORD")?,
            control: control.map(|(program, state)| Control { program: program.into(), state: state.into() }),
            postgres_bin: values.optional("PG_BIN").filter(|path| !path.is_empty()).map(PathBuf::from),
        })
    }
}

struct Values<'a> {
    file: &'a Path,
    map: HashMap<String, String>,
}

impl Values<'_> {
    fn optional(&self, key: &str) -> Option<String> {
        self.map.get(&format!("WALRELAY_DEV_{key}")).cloned()
    }

    fn text(&self, key: &'static str) -> Result<String, Error> {
        self.map.get(key).cloned().ok_or_else(|| Error::MissingPart { file: self.file.to_owned(), key })
    }

    fn server(&self, name: &'static str, host: &'static str, port: &'static str) -> Result<Server, Error> {
        let number = self.text(port)?.parse();
        let port = number.map_err(|_| Error::MissingPart { file: self.file.to_owned(), key: port })?;
        Ok(Server { name, host: self.text(host)?, port })
    }
}

/// Lines as `printf %q` writes them: a backslash takes the next character literally, `''` is empty, quotes enclose.
fn parse(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches("export ").split_once('='))
        .map(|(key, value)| (key.to_owned(), unquote(value)))
        .collect()
}

fn unquote(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut quote = None;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => plain.extend(characters.next()),
            ('\'' | '"', None) => quote = Some(character),
            (_, Some(open)) if character == open => quote = None,
            _ => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_quoting_is_undone() {
        let map = parse("A=plain\nB=a\\ b\nC=''\nexport D='x y'\n# no\n");
        let value = |key: &str| map.get(key).map(String::as_str);
        assert_eq!(value("A"), Some("plain"));
        assert_eq!(value("B"), Some("a b"));
        assert_eq!(value("C"), Some(""));
        assert_eq!(value("D"), Some("x y"));
    }

    #[test]
    fn a_missing_address_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        fs::write(&file, "WALRELAY_DEV_SOURCE_HOST=127.0.0.1\nWALRELAY_DEV_SOURCE_PORT=x\n").unwrap();
        let error = Parts::from_file(&file).unwrap_err().to_string();
        assert!(error.contains("WALRELAY_DEV_SOURCE_PORT"), "{error}");
    }
}
