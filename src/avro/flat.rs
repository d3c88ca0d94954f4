//! What a flat record has beside the row: the form of a delete, and parts of the envelope as further fields or headers.
//!
//! The names, and how they are found in the envelope, are those of Debezium's transformation `ExtractNewRecordState`
//! (`add.fields`, `add.headers`, `delete.tombstone.handling.mode`).

use serde::{Deserialize, Serialize};

use crate::event::Op;

/// The field that tells deleted rows from others in flat records.
pub const DELETED: &str = "__deleted";

/// What a record's value is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Records {
    /// The envelope with the row before and after.
    #[default]
    Envelope,
    /// The row alone.
    Flat(Flat),
}

/// How flat records are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flat {
    /// What becomes of a delete.
    pub deletes: Deletes,
    /// Parts of the envelope as fields behind the row's, in this order.
    pub fields: Vec<Metadata>,
    /// Parts of the envelope as headers, in this order.
    pub headers: Vec<Metadata>,
}

/// The form of a delete in flat records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deletes {
    /// A record without a value.
    #[default]
    Tombstone,
    /// The row before, with `true` in the field `__deleted`, which every other record has with `false`.
    Rewrite,
    /// The same, and a record without a value behind it.
    RewriteWithTombstone,
    /// No record.
    Drop,
}

impl Records {
    /// Whether events of this kind are published.
    #[must_use]
    pub fn have(&self, op: Op) -> bool {
        match self {
            Self::Envelope => true,
            Self::Flat(flat) => match op {
                Op::Truncate => false,
                Op::Delete => flat.deletes != Deletes::Drop,
                _ => true,
            },
        }
    }
}

impl Deletes {
    /// Whether rows have the field `__deleted`.
    #[must_use]
    pub const fn is_rewritten(self) -> bool {
        matches!(self, Self::Rewrite | Self::RewriteWithTombstone)
    }
}

/// A part of the envelope under a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Which part.
    pub part: Part,
    /// The field's or header's name.
    pub name: std::sync::Arc<str>,
}

/// A part of the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the envelope's field of this name")]
pub enum Part {
    Op,
    TsMs,
    TsUs,
    TsNs,
    Source(SourcePart),
    Transaction(TransactionPart),
}

/// A field of the source block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the block's field of this name")]
pub enum SourcePart {
    Version,
    Connector,
    Name,
    TsMs,
    Snapshot,
    Db,
    Sequence,
    TsUs,
    TsNs,
    Schema,
    Table,
    TxId,
    Lsn,
    Xmin,
    Origin,
    OriginLsn,
}

/// A field of the transaction block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the block's field of this name")]
pub enum TransactionPart {
    Id,
    TotalOrder,
    DataCollectionOrder,
}

const SOURCE: [(&str, SourcePart); 16] = [
    ("version", SourcePart::Version),
    ("connector", SourcePart::Connector),
    ("name", SourcePart::Name),
    ("ts_ms", SourcePart::TsMs),
    ("snapshot", SourcePart::Snapshot),
    ("db", SourcePart::Db),
    ("sequence", SourcePart::Sequence),
    ("ts_us", SourcePart::TsUs),
    ("ts_ns", SourcePart::TsNs),
    ("schema", SourcePart::Schema),
    ("table", SourcePart::Table),
    ("txId", SourcePart::TxId),
    ("lsn", SourcePart::Lsn),
    ("xmin", SourcePart::Xmin),
    ("origin", SourcePart::Origin),
    ("origin_lsn", SourcePart::OriginLsn),
];
const TRANSACTION: [(&str, TransactionPart); 3] = [
    ("id", TransactionPart::Id),
    ("total_order", TransactionPart::TotalOrder),
    ("data_collection_order", TransactionPart::DataCollectionOrder),
];

impl Metadata {
    /// The part that a text asks for: a field of the envelope, of `source` or of `transaction`, with the name that it is to have
    /// behind a colon where that is another. A field of a block may stand alone where the envelope has none of its name. `None`:
    /// the envelope has no such part.
    #[must_use]
    pub fn new(text: &str, prefix: &str) -> Option<Self> {
        let (place, chosen) = text.split_once(':').map_or((text, None), |(place, name)| (place, Some(name)));
        let (part, own) = match place.split_once('.') {
            Some(("source", field)) => (Part::Source(source(field)?), format!("source_{field}")),
            Some(("transaction", field)) => (Part::Transaction(transaction(field)?), format!("transaction_{field}")),
            Some(_) => return None,
            None => (alone(place)?, place.to_owned()),
        };
        let name = chosen.map_or(own, str::to_owned);
        (chosen != Some("")).then(|| Self { part, name: format!("{prefix}{name}").into() })
    }
}

fn alone(field: &str) -> Option<Part> {
    Some(match field {
        "op" => Part::Op,
        "ts_ms" => Part::TsMs,
        "ts_us" => Part::TsUs,
        "ts_ns" => Part::TsNs,
        _ => transaction(field).map(Part::Transaction).or_else(|| source(field).map(Part::Source))?,
    })
}

fn source(field: &str) -> Option<SourcePart> {
    SOURCE.iter().find(|(name, _)| *name == field).map(|(_, part)| *part)
}

fn transaction(field: &str) -> Option<TransactionPart> {
    TRANSACTION.iter().find(|(name, _)| *name == field).map(|(_, part)| *part)
}

impl SourcePart {
    /// Its name in the block.
    #[must_use]
    pub fn name(self) -> &'static str {
        SOURCE.iter().find(|(_, part)| *part == self).map_or("", |(name, _)| name)
    }
}

impl TransactionPart {
    /// Its name in the block.
    #[must_use]
    pub fn name(self) -> &'static str {
        TRANSACTION.iter().find(|(_, part)| *part == self).map_or("", |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_as_debezium_names_them() {
        let read = |text| Metadata::new(text, "__").map(|read| (read.part, read.name.to_string()));
        let some = |part, name: &str| Some((part, name.to_owned()));
        assert_eq!(read("op"), some(Part::Op, "__op"));
        assert_eq!(read("ts_ms"), some(Part::TsMs, "__ts_ms"));
        assert_eq!(read("source.ts_ms"), some(Part::Source(SourcePart::TsMs), "__source_ts_ms"));
        assert_eq!(read("table"), some(Part::Source(SourcePart::Table), "__table"));
        assert_eq!(read("lsn:LSN"), some(Part::Source(SourcePart::Lsn), "__LSN"));
        assert_eq!(read("id"), some(Part::Transaction(TransactionPart::Id), "__id"));
        assert_eq!(read("transaction.id"), some(Part::Transaction(TransactionPart::Id), "__transaction_id"));
        for unknown in ["", "nothing", "source.op", "before.id", "op:", "transaction.lsn"] {
            assert_eq!(read(unknown), None, "{unknown}");
        }
        assert_eq!(&*Metadata::new("op", "").unwrap().name, "op");
    }
}
