//! Keys that are tables by the names of the source's tables: their entries' names are free, and their values texts.

use super::{
    key::{Key, Kind},
    rule, topic_list,
};

/// Which columns are captured.
pub(super) const COLUMN_LISTS: Key = Key {
    path: "capture.column_lists",
    kind: Kind::Names(rule::column_list),
    default: None,
    doc: "Columns to capture by schema.table (a name without a dot is of schema public), separated by commas; of other tables all. The publication has them, from PostgreSQL 15 on.",
};

/// Which rows are captured.
pub(super) const ROW_FILTERS: Key = Key {
    path: "capture.row_filters",
    kind: Kind::Names(rule::text),
    default: None,
    doc: "Rows to capture by schema.table (a name without a dot is of schema public), as a condition in SQL; of other tables all. The publication has it, from PostgreSQL 15 on.",
};

/// What tells the rows of some tables apart.
pub(super) const KEY_COLUMNS: Key = Key {
    path: "capture.key_columns",
    kind: Kind::Names(rule::column_list),
    default: None,
    doc: "Key columns by schema.table (a name without a dot is of schema public), separated by commas, in place of the primary key or unique index: columns that are NOT NULL and part of the replica identity, which FULL makes of all, and that a unique index is within. Not for partitioned tables.",
};

/// What is published in place of some columns.
pub(super) const MASKS: Key = Key {
    path: "capture.masks",
    kind: Kind::Names(rule::mask),
    default: None,
    doc: "What is published in place of columns of text, by globs over schema.table.column: their hash (SHA-256 of mask_salt and the text, in hexadecimal digits), so many asterisks, or their first characters. NULL stays NULL. A name is stronger than a glob; two globs must not contradict each other.",
};

/// What hashes begin with.
pub(super) const MASK_SALT: Key = Key {
    path: "capture.mask_salt",
    kind: Kind::Secret,
    default: None,
    doc: "What texts are hashed with: whoever does not know it cannot try texts out. verify needs it too. Better given by environment or file.",
};

/// The same in a file.
pub(super) const MASK_SALT_FILE: Key =
    Key { path: "capture.mask_salt_file", kind: Kind::File, default: None, doc: "File whose first line is mask_salt." };

/// How topics of some tables are created.
pub(super) const TOPICS_OF_TABLES: Key = Key {
    path: "kafka.topics.tables",
    kind: Kind::Names(topic_list::rule),
    default: None,
    doc: "Settings of topics that are created for some tables, by globs over schema.table, in place of those above: partitions, replication_factor, retention, retention_bytes and topic properties. A name is stronger than a glob; two globs must not contradict each other.",
};

/// How topics of some tables are named.
pub(super) const ROUTES: Key = Key {
    path: "kafka.topics.routes",
    kind: Kind::Names(rule::text),
    default: None,
    doc: "Names of the topics of some tables, by globs over schema.table, in place of names: a topic's name for a table, a template with {table} where the glob names the schema, else with {schema} and {table}; {prefix} and {database} if wanted. A name is stronger than a glob; two globs must not contradict each other. Both halves must agree.",
};

/// Keys whose entries are named by globs, and of how many names each.
pub(super) const GLOBS: [(&str, usize); 3] = [(TOPICS_OF_TABLES.path, 2), (ROUTES.path, 2), (MASKS.path, 3)];
