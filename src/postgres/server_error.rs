//! An error as the server reports it.

use postgres_protocol::message::backend::ErrorFields;

use super::sqlstate;
use crate::{
    lsn::Lsn,
    retry::{Classify, Severity},
};

/// The fields of an ErrorResponse that an operator needs.
///
/// The detail is left out: it quotes row values. So do the messages of data exceptions and integrity violations, which
/// are shown up to the first quotation only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {code})")]
pub struct ServerError {
    /// SQLSTATE, five characters.
    pub code: String,
    /// The primary message, without row values.
    pub message: String,
    /// The server's own hint.
    pub server_hint: Option<String>,
    /// The constraint, where the error is about one.
    pub constraint: Option<String>,
    /// `schema.table`, where the error is about one.
    pub table: Option<String>,
    /// The column, where the error is about one.
    pub column: Option<String>,
    /// The function of the server that reports it, which no language of messages changes.
    pub routine: Option<String>,
    /// The WAL position of the change at which an output plug-in failed, as its context tells it.
    pub change: Option<Lsn>,
}

impl ServerError {
    /// Builds an error from its code and message.
    #[must_use]
    pub fn new(code: impl Into<String>, message: &str) -> Self {
        let code = code.into();
        let message = if sqlstate::quotes_values(&code) { without_values(message) } else { message };
        Self {
            message: message.to_owned(),
            code,
            server_hint: None,
            constraint: None,
            table: None,
            column: None,
            routine: None,
            change: None,
        }
    }

    /// Reads the fields of an ErrorResponse or NoticeResponse; what is missing stays empty.
    #[must_use]
    pub fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        use fallible_iterator::FallibleIterator;

        let (mut code, mut message, mut hint) = (String::new(), String::new(), None);
        let (mut constraint, mut schema, mut table, mut column, mut change) = (None, None, None, None, None);
        let mut routine = None;
        while let Ok(Some(field)) = fields.next() {
            let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => code = value(),
                b'M' => message = value(),
                b'H' => hint = Some(value()),
                b'n' => constraint = Some(value()),
                b's' => schema = Some(value()),
                b't' => table = Some(value()),
                b'c' => column = Some(value()),
                b'R' => routine = Some(value()),
                b'W' => change = position_in(&value()),
                _ => {}
            }
        }
        let table = join_table(schema.as_deref(), table.as_deref());
        Self { server_hint: hint, constraint, table, column, routine, change, ..Self::new(code, &message) }
    }

    /// Whether it is an integrity violation, deadlock, … of this code.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        Self {
            server_hint: error.hint().map(str::to_owned),
            constraint: error.constraint().map(str::to_owned),
            table: join_table(error.schema(), error.table()),
            column: error.column().map(str::to_owned),
            ..Self::new(error.code().code(), error.message())
        }
    }
}

impl Classify for ServerError {
    fn severity(&self) -> Severity {
        sqlstate::severity(&self.code)
    }

    fn hint(&self) -> Option<String> {
        self.server_hint.clone().or_else(|| sqlstate::hint(&self.code).map(str::to_owned))
    }
}

/// The last position in a context like `slot "s", output plugin "pgoutput", in the change callback, associated LSN 0/1DA65EF8`,
/// in whatever language it is.
fn position_in(context: &str) -> Option<Lsn> {
    context.split_whitespace().rev().find_map(|word| word.parse().ok())
}

fn join_table(schema: Option<&str>, table: Option<&str>) -> Option<String> {
    Some(format!("{}.{}", schema?, table?))
}

/// `invalid input syntax for type integer: "x"` without the value behind the colon, nor one quoted before it.
fn without_values(message: &str) -> &str {
    let end = message.find(": ").into_iter().chain(message.find("value \"")).min();
    end.and_then(|end| message.get(..end)).unwrap_or(message).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_quote_values_are_cut_before_them() {
        let shown = |code: &str, message: &str| ServerError::new(code, message).to_string();
        let syntax = "invalid input syntax for type integer: \"secret\"";
        assert_eq!(shown("22P02", syntax), "invalid input syntax for type integer (SQLSTATE 22P02)");
        let range = "value \"99999\" is out of range for type smallint";
        assert!(!shown("22003", range).contains("99999"));
        let unique = "duplicate key value violates unique constraint \"t_pkey\"";
        assert_eq!(shown("23505", unique), format!("{unique} (SQLSTATE 23505)"));
        assert_eq!(shown("42P01", "relation: \"x\""), "relation: \"x\" (SQLSTATE 42P01)");
    }
}
