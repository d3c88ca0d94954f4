//! What is published beside the changes of tables, each to a topic of its own: logical messages, and where transactions begin and
//! end. It stops as a table does, under a name like a table's.

use super::settings::CaptureSettings;
use crate::schema::TableName;

/// The name under which logical messages stop.
pub(super) fn messages(prefix: &str) -> TableName {
    TableName::new(prefix, "message")
}

/// The name under which begins and ends of transactions stop.
pub(super) fn transactions(prefix: &str) -> TableName {
    TableName::new(prefix, "transaction")
}

/// All of it under these settings, with its topics.
pub(super) fn of(settings: &CaptureSettings) -> impl Iterator<Item = (TableName, &str)> {
    let CaptureSettings { prefix, encoder, .. } = settings;
    let transactions = settings.transactions.as_deref().map(|topic| (transactions(prefix), topic));
    [(messages(prefix), encoder.topics.messages())].into_iter().chain(transactions)
}
