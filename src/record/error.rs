//! Why an event cannot become a record, or a record an event.

use std::str::Utf8Error;

use crate::{
    avro::{cursor, store::StoreError, wire::FrameError, writer::WriterError},
    record::{mask::MaskError, topic::TopicNameError},
    retry::{Classify, Severity},
    schema::TableName,
    types::{BinaryError, RenderError},
};

/// An event cannot become a record.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The table has no topic.
    #[error(transparent)]
    Topic(#[from] TopicNameError),
    /// The registry did not take or know a schema.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A column cannot be masked as it is to be.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A flat record would have two fields of one name.
    #[error("table {table} has a column {field}, and flat records have a field of this name beside the row's")]
    FieldTaken {
        /// The table.
        table: TableName,
        /// The field's name.
        field: String,
    },
    /// The tuple does not belong to the plan's relation.
    #[error("tuple of table {table} has {actual} columns, its relation has {expected}")]
    Width {
        /// The table.
        table: TableName,
        /// Columns of the relation.
        expected: usize,
        /// Columns of the tuple.
        actual: usize,
    },
    /// The server sent a value in binary that only it can write the text of: a session that asks for text gets that.
    #[error("a value of column {column} ({ty}) of table {table} cannot be read in binary")]
    Binary {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// Its type, as PostgreSQL writes it.
        ty: String,
        /// What is wrong with the value; `None` if none of the type is read in binary.
        source: Option<BinaryError>,
    },
    /// The server sent a value in binary whose text it could not write itself.
    #[error("a value of column {column} ({ty}) of table {table} is longer than a gigabyte as text")]
    Long {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// Its type, as PostgreSQL writes it.
        ty: String,
    },
    /// A text is not UTF-8, as Avro and JSON demand.
    #[error("column {column} ({ty}) of table {table} holds text that is not UTF-8")]
    NotUtf8 {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// Its type, as PostgreSQL writes it.
        ty: String,
        /// Where it ceases to be.
        source: Utf8Error,
    },
    /// A key column has no value.
    #[error("key column {column} of table {table} is NULL or was not sent")]
    KeyMissing {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
}

impl Classify for EncodeError {
    fn severity(&self) -> Severity {
        match self {
            Self::Topic(error) => error.severity(),
            Self::Store(error) => error.severity(),
            Self::Mask(error) => error.severity(),
            Self::FieldTaken { .. }
            | Self::Width { .. }
            | Self::Long { .. }
            | Self::NotUtf8 { .. }
            | Self::KeyMissing { .. } => Severity::Definite,
            Self::Binary { .. } => Severity::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Topic(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Mask(error) => error.hint(),
            // Other names would not help while what the slot holds is published under the options that gave these.
            Self::FieldTaken { table, .. } => Some(format!(
                "Leave the table out ([capture] exclude = [\"{table}\"]), or publish under a new [kafka] prefix with a new slot, \
                 and drop the old slot; choose another format.flat.field_prefix there, or another name in format.flat.fields \
                 (part:name)."
            )),
            Self::NotUtf8 { .. } => {
                Some("The source database has no encoding (SQL_ASCII); correct the value, or leave the column out.".into())
            }
            Self::KeyMissing { .. } => Some(
                "The replica identity does not cover the event key: set REPLICA IDENTITY DEFAULT, FULL, or USING INDEX of the \
                 key's index. Or the column is NULL in this row: correct it, and set the column NOT NULL."
                    .into(),
            ),
            Self::Binary { .. } => Some("The next session asks for text.".into()),
            Self::Long { .. } => Some("Leave the column out, or correct the value and take a new snapshot.".into()),
            Self::Width { .. } => None,
        }
    }
}

fn of(column: Option<&str>) -> String {
    column.map(|column| format!(", column {column}")).unwrap_or_default()
}

/// A record cannot become an event. The caller knows partition and offset.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The registry did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes do not begin as a registry's client writes them.
    #[error("record of topic {topic} is not framed Avro")]
    Frame {
        /// The topic.
        topic: String,
        /// What its bytes begin with.
        source: FrameError,
    },
    /// The registry does not know the schema that the record names.
    #[error("record of topic {topic} has schema id {id}, which the registry does not know")]
    UnknownSchema {
        /// The topic.
        topic: String,
        /// The id.
        id: u32,
        /// The registry's answer.
        source: StoreError,
    },
    /// The registered schema cannot be read.
    #[error("schema {id} cannot be read")]
    Schema {
        /// The id.
        id: u32,
        /// Why.
        source: WriterError,
    },
    /// The registered schema is no change event's.
    #[error("schema {id} of topic {topic} is not a change event: {problem}")]
    NotAnEnvelope {
        /// The topic.
        topic: String,
        /// The id.
        id: u32,
        /// What it lacks.
        problem: String,
    },
    /// The record is a flat one, which tells neither what happened nor to which table.
    #[error("a record of topic {topic} is a row without its envelope (a flat record)")]
    Flat {
        /// The topic.
        topic: String,
    },
    /// The bytes do not match their schema.
    #[error("record of topic {topic} does not match its schema {id}{}", of(column.as_deref()))]
    Bytes {
        /// The topic.
        topic: String,
        /// The id.
        id: u32,
        /// The column that is read there, with its type; `None` outside of the rows.
        column: Option<String>,
        /// Where and how.
        source: cursor::DecodeError,
    },
    /// A value is not one that its column's type has.
    #[error("column {column} in a record of topic {topic} cannot be turned into text")]
    Render {
        /// The topic.
        topic: String,
        /// The column, with its type.
        column: String,
        /// What it should be.
        source: RenderError,
    },
    /// The row's text is far longer than its bytes, and longer than it may be.
    #[error("a row in a record of topic {topic} needs more than {most} bytes as text, column {column} included")]
    Oversized {
        /// The topic.
        topic: String,
        /// The column that is too much, with its type.
        column: String,
        /// What a row may need.
        most: usize,
    },
    /// The content contradicts itself or lacks what every event has.
    #[error("record of topic {topic} is no change event: {problem}")]
    Content {
        /// The topic.
        topic: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// An event of walrelay's lies in another topic than its table's is.
    #[error(
        "a record of topic {topic} is of table {table}, whose topic is {}: another source writes to it",
        expected.as_deref().unwrap_or("none by these names")
    )]
    OtherTable {
        /// The topic.
        topic: String,
        /// The table that the topic's name tells.
        read_as: Option<TableName>,
        /// The event's table.
        table: TableName,
        /// The topic of that.
        expected: Option<String>,
    },
    /// A header of ours cannot be read.
    #[error("header {header} of a record of topic {topic} cannot be read")]
    Header {
        /// The topic.
        topic: String,
        /// The header's name.
        header: &'static str,
    },
}

impl Classify for DecodeError {
    fn severity(&self) -> Severity {
        match self {
            Self::Store(error) => error.severity(),
            _ => Severity::Definite,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Frame { .. } | Self::NotAnEnvelope { .. } | Self::Content { .. } => {
                Some("Something else writes to this topic; subscribe only to topics of a capture.".into())
            }
            Self::Flat { .. } => Some(
                "Let capture write envelopes (format.records = \"envelope\") under another kafka.prefix and capture.slot, and \
                 point apply to that prefix; flat records are for other consumers."
                    .into(),
            ),
            Self::OtherTable { read_as, .. } => {
                let glob = read_as.as_ref().map_or_else(|| "…".to_owned(), ToString::to_string);
                Some(format!(
                    "Leave the topic out ([apply] exclude = [\"{glob}\"], or a glob for all of the other source), or give the sources \
                     prefixes of which none begins another's topics; both halves must agree on [kafka] prefix and [kafka.topics] names."
                ))
            }
            Self::UnknownSchema { .. } => {
                Some("Point apply to the registry that capture uses, or restore the deleted schema there.".into())
            }
            Self::Oversized { .. } => Some(
                "Raise apply.memory, of which a row may take one worker's share (apply.workers), or correct the length that the \
                 column's schema tells."
                    .into(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_field_s_remedies_hold_under_the_options_of_before() {
        let error = EncodeError::FieldTaken { table: TableName::new("public", "things"), field: "__op".into() };
        let hint = error.hint().unwrap();
        for remedy in ["exclude = [\"public.things\"]", "new [kafka] prefix with a new slot"] {
            assert!(hint.contains(remedy), "{hint}");
        }
    }
}
