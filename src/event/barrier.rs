//! What every partition of some topics carries at one position: a TRUNCATE, or the end of a resync (PROTOCOL: barriers).

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::lsn::Lsn;

/// A TRUNCATE (or a new snapshot generation) that every partition of every listed topic carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// The topics of the statement's tables with their partition counts, sorted by topic.
    pub topics: Vec<(String, i32)>,
    /// Those that the statement concerns too, and that get their copies when capture goes on with their tables: sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<(String, i32)>,
}

impl Barrier {
    /// How many partitions of a topic carry it; `None` if the topic is not listed.
    #[must_use]
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        self.topics.iter().find(|(name, _)| name == topic).map(|(_, partitions)| *partitions)
    }
}

/// The name of a resync: where the signal that asked for it was committed. Its text is `epoch:commit LSN`, in decimal.
///
/// A table is in one at a time, so of two that a table was in, the greater one is the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resync {
    /// Epoch of the position.
    pub epoch: u32,
    /// LSN of the signal's commit record.
    pub commit: Lsn,
}

impl fmt::Display for Resync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.commit.0)
    }
}

/// The text is no name of a resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a resync's name, which is its epoch and its commit LSN in decimal")]
pub struct ParseResyncError;

impl FromStr for Resync {
    type Err = ParseResyncError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, commit) = text.split_once(':').ok_or(ParseResyncError)?;
        let epoch = epoch.parse().map_err(|_| ParseResyncError)?;
        let commit = commit.parse().map_err(|_| ParseResyncError)?;
        Ok(Self { epoch, commit: Lsn(commit) })
    }
}

impl Serialize for Resync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Resync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How a column's value compares with a given one, by the order of the column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `=`
    #[serde(rename = "=")]
    Equal,
    /// `<`
    #[serde(rename = "<")]
    Less,
    /// `<=`
    #[serde(rename = "<=")]
    AtMost,
    /// `>`
    #[serde(rename = ">")]
    Greater,
    /// `>=`
    #[serde(rename = ">=")]
    AtLeast,
}

/// A condition on a key column; in JSON `[column, comparison, value]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, Comparison, String)", into = "(String, Comparison, String)")]
pub struct Condition {
    /// The column's name.
    pub column: String,
    /// The comparison, the column's value on its left.
    pub comparison: Comparison,
    /// PostgreSQL's text of the value on its right.
    pub value: String,
}

impl From<(String, Comparison, String)> for Condition {
    fn from((column, comparison, value): (String, Comparison, String)) -> Self {
        Self { column, comparison, value }
    }
}

impl From<Condition> for (String, Comparison, String) {
    fn from(Condition { column, comparison, value }: Condition) -> Self {
        (column, comparison, value)
    }
}

/// The end of a resync: what the source did not have goes at the sinks. Every partition of every listed topic carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// The resync that ends.
    pub resync: Resync,
    /// Who carries it.
    #[serde(flatten)]
    pub barrier: Barrier,
    /// By topic, how many rows the resync has published that it had read.
    #[serde(default)]
    pub rows: BTreeMap<String, u64>,
    /// By topic, what rows it was about, where that is not all: all conditions hold for these.
    #[serde(rename = "where", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Vec<Condition>>,
}

/// What lanes gather at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Tables are emptied.
    Truncate(Barrier),
    /// Rows that the source does not have are deleted.
    Sweep(Sweep),
}

impl Gate {
    /// Who carries it.
    #[must_use]
    pub const fn barrier(&self) -> &Barrier {
        match self {
            Self::Truncate(barrier) | Self::Sweep(Sweep { barrier, .. }) => barrier,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resync_s_name_reads_back_and_nothing_else_is_one() {
        let resync = Resync { epoch: 3, commit: Lsn(u64::MAX) };
        assert_eq!(resync.to_string(), "3:18446744073709551615");
        assert_eq!("3:18446744073709551615".parse(), Ok(resync));
        for bad in ["", "3", ":", "3:", ":3", "1:2:3", "-1:2", "1:18446744073709551616", "4294967296:1", "1:A"] {
            assert_eq!(bad.parse::<Resync>(), Err(ParseResyncError), "{bad:?}");
        }
        assert!(Resync { epoch: 0, commit: Lsn(9) } < Resync { epoch: 1, commit: Lsn(1) });
    }

    #[test]
    fn a_sweep_is_the_json_of_the_contract() {
        let condition = |column: &str, comparison, value: &str| Condition {
            column: column.into(),
            comparison,
            value: value.into(),
        };
        let sweep = Sweep {
            resync: Resync { epoch: 0, commit: Lsn(7) },
            barrier: Barrier { topics: vec![("p.s.t".into(), 3)], stopped: vec![("p.s.u".into(), 1)] },
            rows: BTreeMap::from([("p.s.t".into(), 9)]),
            conditions: BTreeMap::from([(
                "p.s.t".into(),
                vec![condition("id", Comparison::AtLeast, "5"), condition("id", Comparison::Less, "it's")],
            )]),
        };
        let text = r#"{"resync":"0:7","topics":[["p.s.t",3]],"stopped":[["p.s.u",1]],"rows":{"p.s.t":9},"where":{"p.s.t":[["id",">=","5"],["id","<","it's"]]}}"#;
        assert_eq!(serde_json::to_string(&sweep).unwrap(), text);
        assert_eq!(serde_json::from_str::<Sweep>(text).unwrap(), sweep);
        let least = r#"{"resync":"0:7","topics":[]}"#;
        assert!(serde_json::from_str::<Sweep>(least).unwrap().conditions.is_empty());
        for bad in [r#"{"resync":"7","topics":[]}"#, r#"{"topics":[]}"#, r#"{"resync":"0:7"}"#] {
            assert!(serde_json::from_str::<Sweep>(bad).is_err(), "{bad}");
        }
    }
}
