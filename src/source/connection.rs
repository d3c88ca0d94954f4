//! The replication connection: start-up, simple queries and the commands of the walsender.
//!
//! tokio-postgres has no replication mode, so this is a client of its own on the same transport (manual, "Streaming
//! Replication Protocol"). One command at a time; START_REPLICATION turns the connection into a [`ReplicationStream`].

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{backend::Message, frontend};

pub use super::command::{SlotOptions, StreamOptions, Streaming};
pub use super::timeline::TimelineSwitch;
use super::{authentication, command, error::Error, timeline, wire::Wire};
use crate::{
    lsn::Lsn,
    postgres::{
        self, ServerError, Settings, session,
        transport::{Transport, is_rejected, within_connect_timeout, without_tls},
    },
    schema::quote_identifier,
};

/// `application_name` of the replication connection, by which a predecessor's walsender is known (trap T14).
pub const APPLICATION_NAME: &str = "walrelay capture";

/// How long a command may take that waits for no transaction.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// The first server version that sends nothing of a transaction without events.
const TELLS_NO_EMPTY: u32 = 150_000;

/// Answer to `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier, the same on all its stand-bys.
    pub system_id: u64,
    /// Present timeline.
    pub timeline: u32,
    /// Present flush position (on a stand-by: replayed).
    pub xlogpos: Lsn,
    /// The database.
    pub database: String,
}

/// A slot that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Transactions that commit from here on are streamed; those before are in the snapshot (trap T20).
    pub consistent_point: Lsn,
    /// The exported snapshot, valid while the connection stays open and idle.
    pub snapshot_name: Option<String>,
}

/// Rows of a simple query, in text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimpleRows {
    /// Column names.
    pub columns: Vec<String>,
    /// Values by row and column; `None` is NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
}

impl SimpleRows {
    /// The value of a column in the first row, if it is there, not NULL, and UTF-8.
    #[must_use]
    pub fn first(&self, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        let value = self.rows.first()?.get(index)?.as_deref()?;
        std::str::from_utf8(value).ok()
    }
}

/// A replication connection on which no command runs.
#[derive(Debug)]
pub struct ReplicationConnection {
    wire: Wire,
    settings: Settings,
    server_version: u32,
    /// Process id and secret, for a cancel request.
    backend_key: (i32, i32),
    /// A command was abandoned half-way, so answers no longer belong to questions.
    abandoned: bool,
}

impl ReplicationConnection {
    /// Connects with `replication=database` and the pinned session settings (trap T42).
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let attempt = async {
            let first = Box::pin(Self::establish(settings)).await;
            let Err(error) = first else { return first };
            let Some(plain) = without_tls(settings, error.server_error()) else { return Err(error) };
            let second = Box::pin(Self::establish(&plain)).await;
            second.map_err(|second| if is_rejected(second.server_error()) { error } else { second })
        };
        within_connect_timeout(settings, attempt).await
    }

    /// `server_version_num`: 150004 for 15.4.
    #[must_use]
    pub const fn server_version(&self) -> u32 {
        self.server_version
    }

    /// `IDENTIFY_SYSTEM`.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Error> {
        let rows = self.query("identifying the system", "IDENTIFY_SYSTEM").await?;
        let parse = || {
            Some(SystemIdentity {
                system_id: rows.first("systemid")?.parse().ok()?,
                timeline: rows.first("timeline")?.parse().ok()?,
                xlogpos: rows.first("xlogpos")?.parse().ok()?,
                database: rows.first("dbname")?.to_owned(),
            })
        };
        parse().ok_or_else(|| self.wire.protocol("IDENTIFY_SYSTEM returned no identity"))
    }

    /// Creates a logical slot for `pgoutput`, and gives up after `limit`: the server waits for all running transactions
    /// (trap T25). The statement is then cancelled, so no half-created slot stays behind.
    pub async fn create_logical_slot(
        &mut self,
        slot: &str,
        options: SlotOptions,
        limit: Duration,
    ) -> Result<CreatedSlot, Error> {
        let sql = command::create_slot(slot, options, self.server_version);
        let doing = format!("creating slot {slot}");
        let rows = match self.query_within(&doing, &sql, limit).await {
            Err(Error::Unanswered { .. }) => return Err(Error::SlotCreationTimeout { slot: slot.to_owned(), limit }),
            rows => rows?,
        };
        let consistent_point = rows.first("consistent_point").and_then(|text| text.parse().ok());
        let consistent_point = consistent_point
            .ok_or_else(|| self.wire.protocol("CREATE_REPLICATION_SLOT returned no consistent point"))?;
        Ok(CreatedSlot { consistent_point, snapshot_name: rows.first("snapshot_name").map(str::to_owned) })
    }

    /// Has a slot synchronised to stand-bys, or no longer, waiting until no one uses it (PostgreSQL 17; trap T16).
    pub async fn alter_failover(&mut self, slot: &str, failover: bool) -> Result<(), Error> {
        self.query(&format!("altering slot {slot}"), &command::alter_slot(slot, failover)).await.map(drop)
    }

    /// Drops a slot, waiting until no one uses it.
    pub async fn drop_slot(&mut self, slot: &str) -> Result<(), Error> {
        let sql = format!("DROP_REPLICATION_SLOT {} WAIT", quote_identifier(slot));
        self.query(&format!("dropping slot {slot}"), &sql).await.map(drop)
    }

    /// The switch points of the timelines before `timeline`; none for timeline 1, which has no history.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<TimelineSwitch>, Error> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let sql = format!("TIMELINE_HISTORY {timeline}");
        let rows = self.query("reading the timeline history", &sql).await?;
        rows.first("content")
            .and_then(timeline::parse_history)
            .ok_or_else(|| self.wire.protocol("unreadable timeline history"))
    }

    /// Runs a simple query (`SHOW …`, or plain SQL) and returns its rows.
    pub async fn query_simple(&mut self, sql: &str) -> Result<SimpleRows, Error> {
        self.query("a query on the replication connection", sql).await
    }

    /// Starts streaming from `start`, or from the slot's `confirmed_flush_lsn` if that is ahead: compare them first
    /// (trap T6). The slot's state is refused by the server if another session uses it (55006, transient).
    pub async fn start_replication(
        mut self,
        slot: &str,
        start: Lsn,
        publications: &[&str],
        options: StreamOptions,
    ) -> Result<ReplicationStream, Error> {
        let sender_timeout = self.sender_timeout().await?;
        let sql = command::start_replication(slot, start, publications, options);
        let doing = format!("starting replication from slot {slot}");
        let Ok(begun) = tokio::time::timeout(ANSWER_LIMIT, self.begin_copy(&doing, &sql)).await else {
            return Err(self.unanswered(&doing, ANSWER_LIMIT));
        };
        begun?;
        Ok(ReplicationStream {
            wire: self.wire,
            settings: self.settings,
            slot: slot.to_owned(),
            start,
            sender_timeout,
            streams: options.streaming != Streaming::Off,
            tells_empty: self.server_version < TELLS_NO_EMPTY,
        })
    }

    /// Runs a command that is answered by the begin of a copy in both directions.
    async fn begin_copy(&mut self, doing: &str, sql: &str) -> Result<(), Error> {
        self.send_query(sql).await?;
        loop {
            let frame = self.wire.next().await?;
            if frame.tag == b'W' {
                return Ok(());
            }
            match self.wire.decode(frame)? {
                Message::ErrorResponse(body) => {
                    let source = Box::new(ServerError::from_fields(body.fields()));
                    return Err(postgres::Error::Statement { doing: doing.to_owned(), source }.into());
                }
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(self.wire.protocol("START_REPLICATION was not answered by a copy")),
            }
        }
    }

    async fn establish(settings: &Settings) -> Result<Self, Error> {
        let transport = Transport::connect(settings).await?;
        let mut wire = Wire::new(transport, settings.address());
        let options = session::options(&[("search_path", "pg_catalog")]);
        let parameters = [
            ("user", settings.user.as_str()),
            ("database", &settings.database),
            ("replication", "database"),
            ("application_name", APPLICATION_NAME),
            ("options", &options),
        ];
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out).map_err(|error| wire.protocol(error.to_string()))?;
        wire.send(&out).await?;
        authentication::authenticate(&mut wire, settings).await?;
        let backend_key = until_ready(&mut wire, settings).await?;
        let settings = settings.clone();
        let mut connection = Self { wire, settings, server_version: 0, backend_key, abandoned: false };
        let rows = connection.query("reading the server version", "SHOW server_version_num").await?;
        let version = rows.first("server_version_num").and_then(|text| text.parse().ok());
        connection.server_version = version.ok_or_else(|| connection.wire.protocol("no server version"))?;
        if connection.server_version >= session::TRANSACTION_TIMEOUT_SINCE {
            // What is decoded is decoded in transactions, which last as long as Kafka lets them.
            connection.query("setting transaction_timeout", "SET transaction_timeout = 0").await?;
        }
        Ok(connection)
    }

    /// `wal_sender_timeout` of this session; `None` when it is off.
    async fn sender_timeout(&mut self) -> Result<Option<Duration>, Error> {
        let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let rows = self.query("reading wal_sender_timeout", sql).await?;
        let milliseconds: Option<u64> = rows.first("setting").and_then(|text| text.parse().ok());
        let milliseconds = milliseconds.ok_or_else(|| self.wire.protocol("wal_sender_timeout is no number"))?;
        Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
    }

    async fn send_query(&mut self, sql: &str) -> Result<(), Error> {
        if self.abandoned {
            return Err(self.wire.protocol("the command before was abandoned"));
        }
        self.abandoned = true;
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|error| self.wire.protocol(error.to_string()))?;
        self.wire.send(&out).await
    }

    async fn query(&mut self, doing: &str, sql: &str) -> Result<SimpleRows, Error> {
        self.query_within(doing, sql, ANSWER_LIMIT).await
    }

    /// When the limit is over the command is cancelled, so that the server does not do later what nobody waits for.
    async fn query_within(&mut self, doing: &str, sql: &str, limit: Duration) -> Result<SimpleRows, Error> {
        let answered = async {
            self.send_query(sql).await?;
            let result = self.answer(doing).await?;
            self.abandoned = false;
            result.map_err(Into::into)
        };
        if let Ok(answer) = tokio::time::timeout(limit, answered).await {
            return answer;
        }
        self.cancel().await;
        Err(self.unanswered(doing, limit))
    }

    fn unanswered(&self, doing: &str, limit: Duration) -> Error {
        Error::Unanswered { address: self.wire.address().to_owned(), doing: doing.to_owned(), limit }
    }

    /// Reads up to ReadyForQuery; the inner error is the server's, after which the connection can go on.
    async fn answer(&mut self, doing: &str) -> Result<Result<SimpleRows, postgres::Error>, Error> {
        let mut rows = SimpleRows::default();
        let mut refusal = None;
        loop {
            match self.wire.message().await? {
                Message::RowDescription(body) => {
                    let names = body.fields().map(|field| Ok(field.name().to_owned())).collect();
                    rows = SimpleRows { columns: self.checked(names)?, rows: Vec::new() };
                }
                Message::DataRow(body) => {
                    let data = body.buffer_bytes().clone();
                    let values = body.ranges().map(|range| Ok(range.map(|range| data.slice(range)))).collect();
                    rows.rows.push(self.checked(values)?);
                }
                Message::ErrorResponse(body) => refusal = Some(ServerError::from_fields(body.fields())),
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ReadyForQuery(_) => break,
                _ => return Err(self.wire.protocol(format!("{doing} was answered by something else than rows"))),
            }
        }
        Ok(match refusal {
            Some(source) => Err(postgres::Error::Statement { doing: doing.to_owned(), source: Box::new(source) }),
            None => Ok(rows),
        })
    }

    fn checked<T>(&self, result: std::io::Result<T>) -> Result<T, Error> {
        result.map_err(|error| self.wire.protocol(error.to_string()))
    }

    /// Asks the server to cancel the running command (manual, "Canceling Requests in Progress"), and waits until it did,
    /// some seconds at most. Failing to do so is no error of its own: the connection is given up anyway.
    async fn cancel(&mut self) {
        let (process_id, secret_key) = self.backend_key;
        let cancel = async {
            let mut transport = Transport::connect(&self.settings).await?;
            let mut out = BytesMut::new();
            frontend::cancel_request(process_id, secret_key, &mut out);
            let broken = |source| postgres::Error::Connect { address: self.settings.address(), source };
            tokio::io::AsyncWriteExt::write_all(&mut transport, &out).await.map_err(broken)?;
            tokio::io::AsyncWriteExt::flush(&mut transport).await.map_err(broken)?;
            while !matches!(self.wire.message().await?, Message::ReadyForQuery(_)) {}
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(5), cancel).await {
            Ok(Ok(())) => self.abandoned = false,
            Ok(Err(error)) => tracing::debug!(%error, "cancel request failed"),
            Err(_) => tracing::debug!("cancel request was not obeyed"),
        }
    }
}

/// Reads up to the first ReadyForQuery and returns the key for cancel requests.
async fn until_ready(wire: &mut Wire, settings: &Settings) -> Result<(i32, i32), Error> {
    let mut key = (0, 0);
    loop {
        match wire.message().await? {
            Message::BackendKeyData(body) => key = (body.process_id(), body.secret_key()),
            Message::ReadyForQuery(_) => return Ok(key),
            Message::ErrorResponse(body) => {
                return Err(authentication::login(settings, ServerError::from_fields(body.fields())));
            }
            _ => return Err(wire.protocol("start-up did not end with ReadyForQuery")),
        }
    }
}

/// A connection that streams a slot; [`super::stream::spawn`] takes it over.
#[derive(Debug)]
pub struct ReplicationStream {
    pub(super) wire: Wire,
    /// Of the server, for questions that a stream has no answer to.
    pub(super) settings: Settings,
    pub(super) slot: String,
    pub(super) start: Lsn,
    pub(super) sender_timeout: Option<Duration>,
    /// Transactions come in progress.
    pub(super) streams: bool,
    /// Transactions without events come too.
    pub(super) tells_empty: bool,
}

impl ReplicationStream {
    /// The server's `wal_sender_timeout`; `None` when it is off.
    #[must_use]
    pub const fn sender_timeout(&self) -> Option<Duration> {
        self.sender_timeout
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
