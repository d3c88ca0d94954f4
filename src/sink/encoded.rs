//! Columns whose values come as texts of which no schema tells that they stand for something else: bytes in an encoding (Debezium's
//! `binary.handling.mode`), and decimals, whose special values have Debezium's words (`decimal.handling.mode`).
//!
//! PostgreSQL reads any text as a `bytea`, so written as they are they would be other bytes, in silence. Whether a text is one of
//! bytes, the target's column tells; in which encoding, only the configuration.

use crate::{
    event::ShapeColumn,
    sink::{
        error::Error,
        table::{Target, TargetColumn},
    },
    types::{BinaryMode, EncodedText, Meaning},
};

/// How a column's texts become what the target's column holds; `None` where they go as they are.
///
/// # Errors
/// They stand for bytes, and `binary` names no encoding.
pub fn encoded(
    topic: &str,
    target: &Target,
    (column, stored): (&ShapeColumn, &TargetColumn),
    binary: BinaryMode,
) -> Result<Option<EncodedText>, Error> {
    let in_array = stored.type_sql.ends_with("[]");
    if column.may_be_encoded && stored.type_sql.starts_with("numeric") {
        return Ok(Some(EncodedText { meaning: Meaning::Decimal, in_array }));
    }
    if !column.may_be_encoded || !matches!(&*stored.type_sql, "bytea" | "bytea[]") {
        return Ok(None);
    }
    if binary != BinaryMode::Bytes {
        return Ok(Some(EncodedText { meaning: Meaning::Bytes(binary), in_array }));
    }
    Err(Error::Unfit {
        topic: topic.to_owned(),
        table: target.name.clone(),
        problem: format!("column {} is {}, and its values come as texts of an encoding that nothing tells", stored.name, stored.type_sql),
        remedy: "Set format.binary for apply to what the topic's producer writes (base64, base64-url-safe or hex; Debezium's \
                 binary.handling.mode), or make the column text, then start again."
            .to_owned(),
    })
}
