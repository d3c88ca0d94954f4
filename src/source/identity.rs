//! What can be wrong with a table's replica identity, with the remedy.

use crate::schema::{TableName, quote_identifier};

/// A reason why changes of a published table fail at the source, or have no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityProblem {
    /// REPLICA IDENTITY NOTHING: the source refuses updates and deletes.
    Nothing,
    /// Identity DEFAULT without a primary key: the source refuses updates and deletes.
    NoPrimaryKey,
    /// The constraint whose index is the identity is checked late: the source refuses updates and deletes.
    Deferrable,
    /// The identity index was dropped: the source refuses updates and deletes.
    IndexDropped,
    /// A column of the identity is not published: the source refuses updates and deletes.
    Unpublished {
        /// The column.
        column: String,
        /// It is a generated column.
        generated: bool,
    },
    /// Identity FULL and no unique key: changes are captured, but equal rows cannot be told apart.
    FullWithoutKey,
    /// A configured key column is not published, or there is none.
    NoKeyColumn {
        /// The column.
        column: String,
    },
    /// A configured key column may be NULL.
    NullableKeyColumn {
        /// The column.
        column: String,
    },
    /// No unique index is within the configured key columns.
    KeyNotUnique {
        /// The columns.
        columns: Vec<String>,
    },
    /// Key columns are configured for a partitioned table.
    KeyOfPartitioned,
    /// A configured key column is not in the old rows of updates and deletes.
    KeyNotInIdentity {
        /// The column.
        column: String,
    },
}

impl IdentityProblem {
    /// Whether the source refuses updates and deletes of the table while it is published.
    #[must_use]
    pub const fn blocks_changes(&self) -> bool {
        !matches!(self, Self::FullWithoutKey) && !self.is_of_configured_key()
    }

    /// Whether the table cannot have the key that is configured for it.
    #[must_use]
    pub const fn is_of_configured_key(&self) -> bool {
        matches!(
            self,
            Self::NoKeyColumn { .. }
                | Self::NullableKeyColumn { .. }
                | Self::KeyNotUnique { .. }
                | Self::KeyOfPartitioned
                | Self::KeyNotInIdentity { .. }
        )
    }

    /// What is wrong, for `table`.
    #[must_use]
    pub fn describe(&self, table: &TableName) -> String {
        match self {
            Self::Nothing => format!("{table} has REPLICA IDENTITY NOTHING: the source refuses UPDATE and DELETE"),
            Self::NoPrimaryKey => format!("{table} has no primary key: the source refuses UPDATE and DELETE"),
            Self::Deferrable => {
                format!("{table} has a deferrable key, which tells no rows apart: the source refuses UPDATE and DELETE")
            }
            Self::IndexDropped => format!("{table} lost its identity index: the source refuses UPDATE and DELETE"),
            Self::Unpublished { column, .. } => {
                format!("{table}: identity column {column} is not published: the source refuses UPDATE and DELETE")
            }
            Self::FullWithoutKey => format!("{table} has no unique key: equal rows cannot be told apart"),
            Self::NoKeyColumn { column } => {
                format!("{table}: capture.key_columns names {column}, which is no published column")
            }
            Self::NullableKeyColumn { column } => {
                format!("{table}: capture.key_columns names {column}, which may be NULL, and a key cannot be")
            }
            Self::KeyNotUnique { columns } => format!(
                "{table}: no unique index is within capture.key_columns ({}), so rows that differ in the end may be alike in between, and the delete of one would take another",
                columns.join(", ")
            ),
            Self::KeyOfPartitioned => {
                format!(
                    "{table}: capture.key_columns names a partitioned table, whose partitions decide what old rows have"
                )
            }
            Self::KeyNotInIdentity { column } => format!(
                "{table}: capture.key_columns names {column}, which the replica identity leaves out: deleted and moved rows would have no key"
            ),
        }
    }

    /// The statement that repairs it.
    #[must_use]
    pub fn remedy(&self, table: &TableName) -> String {
        let quoted = table.quoted();
        match self {
            Self::NoPrimaryKey | Self::IndexDropped => format!(
                "ALTER TABLE {quoted} ADD PRIMARY KEY (…); or, if it can have none: \
                 ALTER TABLE {quoted} REPLICA IDENTITY FULL;"
            ),
            Self::Nothing => format!(
                "ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT; or, without a primary key: \
                 ALTER TABLE {quoted} REPLICA IDENTITY FULL;"
            ),
            Self::Deferrable => format!(
                "make the constraint NOT DEFERRABLE (drop it and add it anew); or, which leaves its rows without a key: \
                 ALTER TABLE {quoted} REPLICA IDENTITY FULL;"
            ),
            Self::Unpublished { generated: true, .. } => {
                format!("ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT; or publish the generated column")
            }
            Self::Unpublished { column, .. } => format!("add column {column} to the publication's column list"),
            Self::FullWithoutKey => format!(
                "ALTER TABLE {quoted} ADD PRIMARY KEY (…); or CREATE UNIQUE INDEX ON {quoted} (…) over columns that are NOT NULL"
            ),
            Self::NoKeyColumn { .. } => {
                "Name columns that the publication has, as they are written in the catalog, without quotes.".to_owned()
            }
            Self::NullableKeyColumn { column } => {
                format!("ALTER TABLE {quoted} ALTER COLUMN {} SET NOT NULL; or name others", quote_identifier(column))
            }
            Self::KeyNotUnique { columns } => {
                let columns: Vec<_> = columns.iter().map(|column| quote_identifier(column)).collect();
                format!("CREATE UNIQUE INDEX CONCURRENTLY ON {quoted} ({});", columns.join(", "))
            }
            Self::KeyOfPartitioned => "Remove it: the key is that of the primary key, or of a unique index.".to_owned(),
            Self::KeyNotInIdentity { .. } => format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL;"),
        }
    }
}

/// A table, or a partition of one, of which the server would refuse updates and deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// The table that is to be published.
    pub table: TableName,
    /// The table whose replica identity it is: the same, or a partition.
    pub relation: TableName,
    /// Why.
    pub problem: IdentityProblem,
    /// The replica identity that mends it, if one does.
    pub mend: Option<&'static str>,
}

impl Blind {
    /// What is wrong, and with which partition.
    #[must_use]
    pub fn describe(&self) -> String {
        let whose =
            if self.table == self.relation { String::new() } else { format!(" (a partition of {})", self.table) };
        format!("{}{whose}", self.problem.describe(&self.relation))
    }
}
