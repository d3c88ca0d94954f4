//! What schemas and events say around the values, where consumers have a choice.

use serde::{Deserialize, Serialize};

/// The parts that may be walrelay's own or Debezium's. Positions, and what values lose, travel in headers where a form leaves them
/// out, so that apply gets the same rows; the source's types have no other place than the parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Content {
    /// Which fields of a row can be null.
    pub nullability: Nullability,
    /// What schemas say of the source's columns.
    pub parameters: Parameters,
    /// Which events have a transaction block.
    pub transaction: TransactionBlock,
    /// What a transaction block's id names.
    pub transaction_id: TransactionId,
    /// Whether records have Debezium's four `__debezium.context.*` headers.
    pub context_headers: bool,
    /// Whether a delete is followed by a tombstone.
    pub tombstones: Tombstones,
    /// Whether a row without a key has such a tombstone too: a record without key and value.
    pub keyless_tombstones: bool,
    /// Whether a TRUNCATE has records.
    pub truncates: Truncates,
    /// Whether records have walrelay's own headers.
    pub own_headers: OwnHeaders,
    /// Whether begins and ends of transactions without events are told.
    pub empty_transactions: EmptyTransactions,
    /// What the numbers in transaction blocks count.
    pub total_order: TotalOrder,
    /// Whether schemas have the defaults of columns.
    pub column_defaults: ColumnDefaults,
    /// What becomes of columns whose types Debezium does not know.
    pub unknown_types: UnknownTypes,
    /// How the keys of moved rows are written in headers.
    pub header_converter: HeaderConverter,
}

impl Content {
    /// What Debezium says around values unless it is told otherwise.
    pub const DEBEZIUM: Self = Self {
        nullability: Nullability::Declared,
        parameters: Parameters::None,
        transaction: TransactionBlock::None,
        transaction_id: TransactionId::Event,
        context_headers: true,
        tombstones: Tombstones::OnDelete,
        keyless_tombstones: true,
        truncates: Truncates::Skipped,
        own_headers: OwnHeaders::LeftOut,
        empty_transactions: EmptyTransactions::Told,
        total_order: TotalOrder::Published,
        column_defaults: ColumnDefaults::Source,
        unknown_types: UnknownTypes::Omitted,
        header_converter: HeaderConverter::Simple,
    };
}

/// How the keys in `__debezium.newkey` and `__debezium.oldkey` are written: by which of Kafka Connect's converters
/// (`header.converter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderConverter {
    /// As JSON (`JsonConverter` without schemas).
    #[default]
    Json,
    /// As `SimpleHeaderConverter` does, the worker's default: decimals are plain numbers, and moments of Connect's own types have
    /// no quotes.
    Simple,
}

/// Whether records have the headers `walrelay.*`. Without them nothing tells what a form loses, nor positions: apply reads the
/// topics as another producer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnHeaders {
    /// They have.
    #[default]
    Written,
    /// They have not.
    LeftOut,
}

/// Whether a transaction of which nothing is published has a begin and an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyTransactions {
    /// It has none.
    #[default]
    LeftOut,
    /// It has both, as with Debezium.
    Told,
}

/// What `total_order` and `data_collection_order` count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TotalOrder {
    /// What the server delivers: with the commit it is an event's position.
    #[default]
    Delivered,
    /// What is published, as with Debezium.
    Published,
}

/// Whether schemas have the defaults of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnDefaults {
    /// They have none.
    #[default]
    None,
    /// They have those that Debezium reads from the source's catalog, and the default is written in place of NULL.
    Source,
}

/// What becomes of columns outside the key whose types Debezium does not know (`include.unknown.datatypes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownTypes {
    /// Their values are PostgreSQL's text.
    #[default]
    Text,
    /// They have no field. A `name` has one, with a value only in snapshots.
    Omitted,
}

/// Whether a TRUNCATE has records (`skipped.operations`). The begin of a new snapshot has them in any case, for nothing else
/// tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncates {
    /// It has, in all partitions.
    #[default]
    Broadcast,
    /// It has one for each of its tables, as with Debezium.
    Single,
    /// It has none.
    #[serde(rename = "none")]
    Skipped,
}

/// Whether a delete is followed by a record without a value, which lets compaction forget the key
/// (`tombstones.on.delete`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tombstones {
    /// It is.
    #[default]
    OnDelete,
    /// It is not.
    Never,
}

/// Which fields of a row can be null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nullability {
    /// All but those of the key, so that a delete can say which values it does not know.
    #[default]
    Widened,
    /// Those that the source declares so, and columns that are optional for the records before. A value that is not known is 0,
    /// the empty string or 1970-01-01, as Debezium has it.
    Source,
    /// Those that the source declares so, whatever records before have, as with Debezium: the registry may refuse such a schema.
    Declared,
}

/// The `connect.parameters` of a row's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parameters {
    /// The source's types as Debezium and as PostgreSQL name them: apply creates the same columns.
    #[default]
    All,
    /// As Debezium names them (`column.propagate.source.type`).
    SourceType,
    /// None.
    None,
}

/// Which events have a transaction block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransactionBlock {
    /// All.
    #[default]
    All,
    /// Those of the stream, as with Debezium's `provide.transaction.metadata`.
    Streamed,
    /// None.
    None,
}

/// The LSN behind the transaction's number in the id of a transaction block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransactionId {
    /// That of the commit: all events of a transaction have one id, and with the order it is their position.
    #[default]
    Commit,
    /// That of the event, as with Debezium.
    Event,
}

impl TransactionBlock {
    /// Whether an event has one; `streamed` if it is not a snapshot's.
    #[must_use]
    pub const fn is_written(self, streamed: bool) -> bool {
        match self {
            Self::All => true,
            Self::Streamed => streamed,
            Self::None => false,
        }
    }
}
