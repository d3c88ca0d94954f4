//! Keys that say where signals come from, as Debezium's users know them.

use super::{
    key::{Key, Kind},
    rule,
};

/// A table.
pub(super) const SIGNAL_TABLE: Key = Key {
    path: "capture.signal_table",
    kind: Kind::Text(rule::table),
    default: None,
    doc: "Table (schema.table) whose inserted rows ask to read tables again, pause, go on and stop, as Debezium's signal.data.collection does (docs/operations.md).",
};

/// A topic.
pub(super) const SIGNAL_TOPIC: Key = Key {
    path: "capture.signal_topic",
    kind: Kind::Text(rule::topic),
    default: None,
    doc: "Topic whose records ask the same, as Debezium's signal.kafka.topic does: the key is kafka.prefix, the value {\"type\": …, \"data\": …} (docs/operations.md).",
};
