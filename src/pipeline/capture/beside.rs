//! What is published beside the changes of tables, each to a topic of its own: logical messages, and where transactions begin and
//! end. It stops as a table does, under a name that no table has.

use super::settings::CaptureSettings;
use crate::schema::TableName;

/// The name under which logical messages stop.
pub(super) fn messages(prefix: &str) -> TableName {
    named(prefix, "message")
}

/// The name under which begins and ends of transactions stop.
pub(super) fn transactions(prefix: &str) -> TableName {
    named(prefix, "transaction")
}

/// Every table has a schema, and one may be called as the prefix is.
fn named(prefix: &str, what: &str) -> TableName {
    TableName::new("", format!("topic {prefix}.{what}"))
}

/// All of it under these settings, with its topics.
pub(super) fn of(settings: &CaptureSettings) -> impl Iterator<Item = (TableName, &str)> {
    let CaptureSettings { prefix, encoder, .. } = settings;
    let transactions = settings.transactions.as_deref().map(|topic| (transactions(prefix), topic));
    [(messages(prefix), encoder.topics.messages())].into_iter().chain(transactions)
}
