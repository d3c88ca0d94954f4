//! Under which subject a schema is registered.

use serde::{Deserialize, Serialize};

/// How a subject is named; the strategies of Confluent's serializers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubjectNaming {
    /// `<topic>-key`, `<topic>-value`
    #[default]
    Topic,
    /// The full name of the record.
    Record,
    /// `<topic>-<full name of the record>`
    TopicRecord,
}

/// Which half of a record a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl SubjectNaming {
    /// The subject of a topic's key or value, whose schema is a record of this full name.
    #[must_use]
    pub fn subject(self, topic: &str, part: Part, record: &str) -> String {
        match (self, part) {
            (Self::Topic, Part::Key) => format!("{topic}-key"),
            (Self::Topic, Part::Value) => format!("{topic}-value"),
            (Self::Record, _) => record.to_owned(),
            (Self::TopicRecord, _) => format!("{topic}-{record}"),
        }
    }
}
