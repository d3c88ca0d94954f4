//! The progress record: up to which commit LSN everything is acknowledged, and where each partition stood then.
//!
//! Capture writes it into the one-partition topic `walrelay.progress.<prefix>`; apply settles idle partitions with it: a
//! partition that was consumed up to its listed offset holds no event below the listed LSN that is still to come
//! (PROTOCOL, "Progress").

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::lsn::{Lsn, Position};

/// How names of progress topics begin.
pub const TOPICS: &str = "walrelay.progress.";

/// Name of the progress topic of a topic prefix.
#[must_use]
pub fn progress_topic(prefix: &str) -> String {
    format!("{TOPICS}{prefix}")
}

/// The JSON value of a progress record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Epoch of `lsn`.
    pub epoch: u32,
    /// All events with a commit LSN below this one are acknowledged; written as `16/B374D848`, read from that or a decimal.
    #[serde(serialize_with = "write_lsn", deserialize_with = "read_lsn")]
    pub lsn: Lsn,
    /// Per topic and partition: offset of the last delivered record plus one.
    pub offsets: BTreeMap<String, Vec<i64>>,
    /// Topics whose tables capture has stopped, and where: `lsn` says nothing of their events from there on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stopped: BTreeMap<String, Position>,
    /// Topics of which rows that were there before are still to come, however far `lsn` is: of tables that are read beside the stream.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unread: BTreeSet<String>,
    /// Topics of tables that are copied, and behind which position nothing of them has been published yet, however far `lsn` is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept_back: BTreeMap<String, Position>,
}

impl Progress {
    /// Reads a record's value.
    pub fn parse(value: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(value)
    }

    /// Offset up to which the partition must be consumed for `lsn` to hold there; `None` when it is not listed.
    #[must_use]
    pub fn offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.offsets.get(topic)?.get(usize::try_from(partition).ok()?).copied()
    }

    /// The position below which a topic's events are acknowledged.
    #[must_use]
    pub fn complete(&self, topic: &str) -> Position {
        let all = Position { epoch: self.epoch, commit: self.lsn, ordinal: 0 };
        self.stopped.get(topic).map_or(all, |stopped| all.min(*stopped)).min(self.told(topic))
    }

    /// The position below which it is known where a topic's events end.
    #[must_use]
    pub fn told(&self, topic: &str) -> Position {
        let all = Position { epoch: self.epoch, commit: self.lsn, ordinal: 0 };
        self.kept_back.get(topic).map_or(all, |kept| all.min(*kept))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a field over by reference")]
fn write_lsn<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

fn read_lsn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Number(value) => Ok(Lsn(value)),
        Form::Text(text) => {
            text.parse().or_else(|error| text.parse().map(Lsn).map_err(|_| error)).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_lsn_are_read() {
        for lsn in [r#""16/B374D848""#, r#""97500059720""#, "97500059720"] {
            let text = format!(r#"{{"epoch":1,"lsn":{lsn},"offsets":{{"t":[5,7]}}}}"#);
            let progress = Progress::parse(text.as_bytes()).unwrap();
            assert_eq!(progress.lsn, Lsn(0x16_B374_D848));
            assert_eq!(progress.offset("t", 1), Some(7));
            assert_eq!(progress.offset("t", 2), None);
            assert_eq!(progress.offset("t", -1), None);
        }
        assert!(Progress::parse(br#"{"epoch":1,"lsn":"x","offsets":{}}"#).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let stopped = Position { epoch: 2, commit: Lsn(1 << 32), ordinal: 3 };
        let progress = Progress {
            epoch: 2,
            lsn: Lsn(1 << 33),
            offsets: BTreeMap::from([("a.b".into(), vec![0, 3])]),
            stopped: BTreeMap::from([("a.b".into(), stopped)]),
            unread: BTreeSet::from(["a.c".into()]),
            kept_back: BTreeMap::new(),
        };
        assert_eq!(progress.complete("a.b"), stopped);
        assert_eq!(progress.complete("a.c"), Position { ordinal: 0, commit: Lsn(1 << 33), ..stopped });
        let text = serde_json::to_vec(&progress).unwrap();
        assert_eq!(Progress::parse(&text).unwrap(), progress);
    }
}
