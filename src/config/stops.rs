//! Keys that say what happens where a table cannot go on as it is.

use super::{
    key::{Key, Kind},
    rule,
};

/// When rows changed and no event tells.
pub(super) const ON_UNLOGGED: Key = Key {
    path: "capture.on_unlogged",
    kind: Kind::Choice(&["stop", "continue"]),
    default: Some("\"stop\""),
    doc: "When rows of a table changed in a way that no event tells (a column or a label renamed, a column retyped with a rewrite): stop the table, or go on.",
};

/// When partitions change and no event tells.
pub(super) const ON_PARTITIONS: Key = Key {
    path: "capture.on_partitions",
    kind: Kind::Choice(&["tell", "resync", "accept"]),
    default: Some("\"tell\""),
    doc: "When a partition is attached with rows, detached, dropped, or truncated by itself, of whose rows no event tells: tell of it in the log and at /readyz until the table has been read again (tell), have it read again, so that the targets get these rows, or lose them (resync), or leave it so (accept).",
};

/// When a table stops.
pub(super) const ON_STOP: Key = Key {
    path: "capture.on_stop",
    kind: Kind::Choice(&["hold", "resync"]),
    default: Some("\"hold\""),
    doc: "When a table stops: let the source keep the log until it goes on, or drop its changes and read it again then (walrelay resume, or a restart).",
};

/// How long that holds the log.
pub(super) const HOLD_LIMIT: Key = Key {
    path: "capture.hold_limit",
    kind: Kind::Size,
    default: Some("\"64GiB\""),
    doc: "Log that the source may keep for stopped tables, and at most half of what it lets a slot keep; beyond that they are read again, as by on_stop = \"resync\".",
};

/// When a single row cannot be published.
pub(super) const ON_BAD_ROW: Key = Key {
    path: "capture.on_bad_row",
    kind: Kind::Choice(&["stop", "dead-letter", "skip"]),
    default: Some("\"stop\""),
    doc: "When the change of a single row cannot be published (its record is too large for its topic, or a value cannot be written): stop the table, or leave the change out, with a record in the topic of dead letters or without (docs/operations.md).",
};

/// Where such rows go.
pub(super) const DEAD_LETTERS: Key = Key {
    path: "kafka.topics.dead_letters",
    kind: Kind::Text(rule::dead_letter_topic),
    default: Some("\"{prefix}.dead-letter\""),
    doc: "How the topic of dead letters is named, if there is one (capture.on_bad_row). Both halves must agree.",
};
