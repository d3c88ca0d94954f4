//! What is published beside the changes of tables, each to a topic of its own. It stops as a table does, under a name like a
//! table's.

use super::settings::CaptureSettings;
use crate::schema::TableName;

/// The name under which logical messages stop.
pub(super) fn messages(prefix: &str) -> TableName {
    TableName::new(prefix, "message")
}

/// All of it under these settings, with its topics.
pub(super) fn of(settings: &CaptureSettings) -> impl Iterator<Item = (TableName, &str)> {
    [(messages(&settings.prefix), settings.encoder.topics.messages())].into_iter()
}
