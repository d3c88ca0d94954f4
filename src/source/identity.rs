//! What can be wrong with a table's replica identity, with the remedy.

use crate::schema::TableName;

/// A reason why changes of a published table fail at the source, or have no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityProblem {
    /// REPLICA IDENTITY NOTHING: the source refuses updates and deletes.
    Nothing,
    /// Identity DEFAULT without a primary key: the source refuses updates and deletes.
    NoPrimaryKey,
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
}

impl IdentityProblem {
    /// Whether the source refuses updates and deletes of the table while it is published.
    #[must_use]
    pub const fn blocks_changes(&self) -> bool {
        !matches!(self, Self::FullWithoutKey)
    }

    /// What is wrong, for `table`.
    #[must_use]
    pub fn describe(&self, table: &TableName) -> String {
        match self {
            Self::Nothing => format!("{table} has REPLICA IDENTITY NOTHING: the source refuses UPDATE and DELETE"),
            Self::NoPrimaryKey => format!("{table} has no primary key: the source refuses UPDATE and DELETE"),
            Self::IndexDropped => format!("{table} lost its identity index: the source refuses UPDATE and DELETE"),
            Self::Unpublished { column, .. } => {
                format!("{table}: identity column {column} is not published: the source refuses UPDATE and DELETE")
            }
            Self::FullWithoutKey => format!("{table} has no unique key: equal rows cannot be told apart"),
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
            Self::Unpublished { generated: true, .. } => {
                format!("ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT; or publish the generated column")
            }
            Self::Unpublished { column, .. } => format!("add column {column} to the publication's column list"),
            Self::FullWithoutKey => format!("ALTER TABLE {quoted} ADD PRIMARY KEY (…);"),
        }
    }
}
