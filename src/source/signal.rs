//! What is asked of a running capture: through the source's own log, so that it has a place among the changes.
//!
//! A signal is a transactional logical message with a prefix of its own and a small JSON:
//! `{"type": "resync", "tables": ["public.items"], "where": [["id", ">=", "5"]]}`. Whoever may call `pg_logical_emit_message` may send one.

use serde::{Deserialize, Serialize};

use super::{
    catalog::{self, PublishedTable},
    condition,
    error::Error,
    key_columns::KeyColumns,
    publication, recovery, window,
};
use crate::{
    event::Condition,
    lsn::Lsn,
    postgres::Client,
    retry::{Classify, Severity},
    schema::{TableName, quote_literal},
};

/// The prefix of signals.
pub const PREFIX: &str = "walrelay.signal";

/// The prefix of messages that hand records of the signal topic on.
pub const RECORD_PREFIX: &str = "walrelay.signal-record";

/// The prefix of heartbeats: their content is the slot of the capture that wrote them.
pub const HEARTBEAT_PREFIX: &str = "walrelay.heartbeat";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// To read tables again.
    Resync,
    /// To read nothing more for now.
    Pause,
    /// To go on reading.
    Resume,
    /// To give up reading tables again; without tables, all of them.
    Stop,
    /// To let stopped tables go on; without tables, all of them.
    ResumeTables,
}

/// A signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// What is asked for.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Of the capture with this replication slot; without one, of every capture of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Of these tables: `schema.table`, unquoted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Of these rows of each of the tables alone.
    #[serde(default, rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Signal {
    /// Whether the capture with this replication slot is asked.
    #[must_use]
    pub fn is_for(&self, slot: &str) -> bool {
        self.slot.as_deref().is_none_or(|asked| asked == slot)
    }
}

/// A record of the signal topic, as it is handed on by the source's log: so it has a place among the changes, and comes again where
/// these do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRecord {
    /// Of the capture with this replication slot.
    pub slot: String,
    /// The topic's name.
    pub topic: String,
    /// Its id, which tells it from others of its name; `None` where the brokers give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The record's offset.
    pub offset: i64,
    /// Its value; `None` where that is no text, or too long for a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Why a signal is not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The source.
    #[error(transparent)]
    Source(#[from] Error),
    /// It replays another server's log, and writes none.
    #[error("the source is a stand-by, which takes no messages and cannot read tables again")]
    StandBy,
    /// The role may not write messages.
    #[error("the role of [source] may not call pg_logical_emit_message")]
    Forbidden,
    /// The publication leaves out changes.
    #[error(
        "publication {publication} does not publish all of insert, update and delete: rows that move would be missed"
    )]
    PublishesNotAll {
        /// The publication.
        publication: String,
    },
    /// A table cannot be read again.
    #[error("table {table} {reason}")]
    Table {
        /// The table.
        table: TableName,
        /// Why not.
        reason: &'static str,
        /// What to do.
        hint: String,
    },
    /// The rows are not told by the key.
    #[error("{0}")]
    Condition(String),
}

impl Classify for SignalError {
    fn severity(&self) -> Severity {
        if let Self::Source(error) = self { error.severity() } else { Severity::Fatal }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Source(error) => return error.hint(),
            Self::StandBy => "A new snapshot reads the tables there: drop the slot and set [capture] on_gap = \"resnapshot\".".into(),
            Self::Forbidden => {
                "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO the role (from PostgreSQL 17 on: (boolean, text, text, boolean)).".into()
            }
            Self::PublishesNotAll { publication } => {
                format!("ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');", crate::schema::quote_identifier(publication))
            }
            Self::Table { hint, .. } => hint.clone(),
            Self::Condition(_) => "Compare columns of the key with values: --where \"id >= 5 AND id < 100\".".into(),
        })
    }
}

/// Looks whether a resync of these tables can be asked for. Gives the signal, with values as the server writes them.
pub async fn resync(
    client: &Client,
    (publication, keys): (&str, &KeyColumns),
    tables: &[TableName],
    conditions: &[Condition],
) -> Result<Signal, SignalError> {
    publication::must_exist(client, publication).await?;
    if !window::carries_all(client, publication).await? {
        return Err(SignalError::PublishesNotAll { publication: publication.to_owned() });
    }
    let published = catalog::read(client, publication, keys).await?;
    let mut all = Vec::new();
    for table in tables {
        let found = look(client, &published, publication, table).await?;
        if found.relation.key.is_empty() && !conditions.is_empty() {
            let (table, reason) = (table.clone(), "has no key, by which rows could be chosen");
            return Err(SignalError::Table {
                table,
                reason,
                hint: "Leave --where out: all of its rows are read.".to_owned(),
            });
        }
        let settled = condition::settle(client, &found.relation, conditions).await?;
        all.push(settled.map_err(SignalError::Condition)?);
    }
    // Where tables have other types, capture finds the values of each.
    let conditions = if all.len() == 1 { all.swap_remove(0) } else { conditions.to_vec() };
    Ok(Signal { kind: Kind::Resync, slot: None, tables: tables.iter().map(ToString::to_string).collect(), conditions })
}

/// The published table.
async fn look<'a>(
    client: &Client,
    published: &'a catalog::Catalog,
    publication: &str,
    table: &TableName,
) -> Result<&'a PublishedTable, SignalError> {
    let refused = |reason, hint| SignalError::Table { table: table.clone(), reason, hint };
    let Some(found) = published.by_name(table) else {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let failed = |error| Error::statement(format!("looking for table {table}"), error);
        let row = client.query_one(sql, &[&table.quoted()]).await.map_err(failed)?;
        let exists: bool = row.try_get(0).map_err(failed)?;
        return Err(if exists {
            let hint = format!(
                "Only tables of publication {publication} are captured; of a partitioned table that is its root."
            );
            refused("is not published", hint)
        } else {
            refused("does not exist", "Name it as schema.table, in the server's own case.".to_owned())
        });
    };
    if let Some(problem) = found.key_problem() {
        return Err(refused("cannot have the key that is configured for it", problem.remedy(table)));
    }
    Ok(found)
}

/// Looks whether the server takes messages of this role.
///
/// # Errors
/// It does not.
pub async fn must_be_taken(client: &Client) -> Result<(), SignalError> {
    if window::takes_markers(client).await? {
        return Ok(());
    }
    Err(if recovery::is_stand_by(client).await? { SignalError::StandBy } else { SignalError::Forbidden })
}

/// Writes a signal into the log, in a transaction of its own. Gives the message's place there.
pub async fn send(client: &Client, signal: &Signal) -> Result<Lsn, SignalError> {
    emit(client, PREFIX, signal).await
}

/// Writes a record of the signal topic into the log, in a transaction of its own.
///
/// # Errors
/// The source's.
pub async fn hand_on(client: &Client, record: &SignalRecord) -> Result<Lsn, SignalError> {
    emit(client, RECORD_PREFIX, record).await
}

/// Writes a heartbeat of the capture with this slot into the log, in a transaction of its own: it is flushed with that, and has a commit time.
///
/// # Errors
/// The source's.
pub async fn beat(client: &Client, slot: &str) -> Result<Lsn, SignalError> {
    emit(client, HEARTBEAT_PREFIX, &slot).await
}

async fn emit(client: &Client, prefix: &str, content: &impl Serialize) -> Result<Lsn, SignalError> {
    let content = serde_json::to_string(content).expect("texts under text keys are always valid JSON");
    // Capture reads the log of the server itself, whatever stand-bys wait for, and other statements wait behind this one.
    let sql = format!(
        "SELECT pg_logical_emit_message(true, {}, {})::text, set_config('synchronous_commit', 'local', true)",
        quote_literal(prefix),
        quote_literal(&ascii(&content))
    );
    let failed = |error| Error::statement("writing a signal", error);
    let row = client.query_one(&sql, &[]).await.map_err(failed)?;
    let text: String = row.try_get(0).map_err(failed)?;
    Ok(text.parse().unwrap_or(Lsn::ZERO))
}

/// The same JSON without other characters than every encoding of a database has: messages come as they were stored.
fn ascii(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            plain.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                plain.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_written_in_characters_that_all_encodings_have() {
        let text = "Größe \u{1f600} \u{0} \\u00e4";
        let json = ascii(&serde_json::to_string(text).unwrap());
        assert!(json.is_ascii());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_signal_is_a_small_json() {
        let json = r#"{"type":"resync","tables":["public.t"],"where":[["id",">=","5"]]}"#;
        let signal: Signal = serde_json::from_str(json).unwrap();
        assert_eq!((signal.kind, &*signal.tables), (Kind::Resync, &["public.t".to_owned()][..]));
        assert_eq!(serde_json::to_string(&signal).unwrap(), json);
        let stop: Signal = serde_json::from_str(r#"{"type":"stop"}"#).unwrap();
        assert_eq!(serde_json::to_string(&stop).unwrap(), r#"{"type":"stop"}"#);
        assert!(serde_json::from_str::<Signal>(r#"{"type":"other"}"#).is_err());
        assert!(stop.is_for("any"));
        let own: Signal = serde_json::from_str(r#"{"type":"pause","slot":"own"}"#).unwrap();
        assert!(own.is_for("own") && !own.is_for("other"));
    }
}
