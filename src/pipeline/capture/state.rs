//! What capture knows across restarts: the records of the state topic `walrelay.state.<prefix>`.
//!
//! Every entry is JSON under a key of its own. What is confirmed to the server is recorded here first, so the slot is never
//! ahead of the record (PROTOCOL, "State and slot").

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    chunks::{SnapshotPlan, TableChunks},
    followed::Followed,
    options::OptionHistory,
    partitions::KnownLeaves,
    resync::Run,
};
use crate::{
    kafka::{self, StateEntry, StateTopic},
    lsn::{Lsn, Position},
    record::KeyForm,
    schema::{Relation, TableName},
    source::membership::Membership,
};

/// Behind the OID, the key of the relation version that a snapshot read, which no message has described.
pub(super) const SNAPSHOT_VERSION: &str = "/snapshot";
/// The same of one that a snapshot read before the one that is under way.
pub(super) const FORMER_VERSION: &str = "/former";

/// How far the first copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// The slot is about to be created; nothing was published.
    Intent,
    /// The slot is there; snapshot rows may have been published.
    Snapshot,
    /// Every snapshot row is acknowledged; the stream goes on from `flush`.
    Streaming,
}

/// The position record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The source cluster's identity.
    pub(super) system_id: u64,
    /// The timeline that `flush` and `ceiling` lie on.
    pub(super) timeline: u32,
    /// The replication slot.
    pub(super) slot: String,
    /// Epoch of the positions.
    pub(super) epoch: u32,
    /// How far the first copy has come.
    pub(super) phase: Phase,
    /// The slot's consistent point.
    pub(super) consistent_point: Lsn,
    /// The highest LSN that may have been confirmed to the server.
    pub(super) flush: Lsn,
    /// Everything below it is published, but for stopped tables.
    pub(super) published: Lsn,
    /// Commits below it may have been published.
    pub(super) ceiling: Lsn,
    /// The options of the events, by commit LSN; a record that knows none was written under the configured ones, as far as
    /// can be told.
    #[serde(default)]
    pub(super) options: Option<OptionHistory>,
    /// How the topics are named ([`TopicNames::text`](crate::record::TopicNames::text)).
    #[serde(default)]
    pub(super) topic_names: Option<String>,
}

/// A topic as it was when it was first used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicRecord {
    /// Its id, which a topic of the same name that was created later does not have; `None` where it is not known.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// Its partition count: another one would break the order of keys (trap T51).
    pub(super) partitions: i32,
    /// Next offset of each partition as far as acknowledged: a topic that ends below was recreated, or has lost records.
    pub(super) ends: Vec<i64>,
}

/// A barrier that is being broadcast: everything that is needed to broadcast it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenBarrier {
    /// Its position.
    pub(super) position: Position,
    /// Topics with their partition counts.
    pub(super) topics: Vec<(String, i32)>,
}

/// A table that stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoppedTable {
    /// The first event of the table that was not published; the flush LSN stays at or below its commit.
    pub(super) position: Position,
    /// Why.
    pub(super) reason: String,
    /// The slot does not wait for it: its changes from there on are lost, and it is read again when it goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) dropped: bool,
    /// That its rows are read again does not let it go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) lasting: bool,
}

impl StoppedTable {
    /// What is told of one whose changes are dropped.
    pub(super) fn told_as_dropped(&self) -> String {
        format!("{}; its changes since then are dropped: `walrelay resume`, or a restart, reads it again", self.reason)
    }
}

/// Changes of a table that were left out, since no record of them could be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BadRows {
    /// The table.
    pub(super) table: TableName,
    /// How many.
    pub(super) count: u64,
    /// The last one.
    pub(super) last: Position,
    /// Why.
    pub(super) reason: String,
}

/// All entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) checkpoint: Option<Checkpoint>,
    /// Relation versions by `oid/digest`.
    pub(super) relations: BTreeMap<String, Relation>,
    pub(super) topics: BTreeMap<String, TopicRecord>,
    /// Key forms by topic.
    pub(super) keys: BTreeMap<String, KeyForm>,
    pub(super) barriers: Vec<OpenBarrier>,
    pub(super) stopped: BTreeMap<String, StoppedTable>,
    /// What the tables' topics lack by choice.
    pub(super) bad_rows: BTreeMap<String, BadRows>,
    /// Partitions, by `pg_class.oid` of their tables.
    pub(super) leaves: BTreeMap<u32, KnownLeaves>,
    /// How the publication had the tables, by topic.
    pub(super) members: BTreeMap<String, Membership>,
    /// The snapshot that is under way, once its begin is acknowledged.
    pub(super) plan: Option<SnapshotPlan>,
    /// The chunks of its tables, by `pg_class.oid`.
    pub(super) chunks: BTreeMap<u32, TableChunks>,
    /// Resyncs whose signal may come again, in the order of their begins.
    pub(super) resyncs: Vec<Run>,
    /// How far the signal topic was followed.
    pub(super) followed: Option<Followed>,
}

/// One change of the state.
#[derive(Clone, Debug)]
pub(super) enum Update {
    Checkpoint(Box<Checkpoint>),
    Relation {
        key: String,
        relation: Arc<Relation>,
    },
    /// A version from before a new snapshot.
    ForgetRelation {
        key: String,
    },
    Topic {
        name: String,
        record: TopicRecord,
    },
    /// A topic whose table is not captured any more.
    ForgetTopic {
        name: String,
    },
    /// The key form of a topic, before its first record in that form.
    Key {
        topic: String,
        form: KeyForm,
    },
    /// The key form of a topic whose next record may have another.
    ForgetKey {
        topic: String,
    },
    OpenBarrier(OpenBarrier),
    CloseBarrier(Position),
    /// How the publication has the table of a topic.
    Member {
        topic: String,
        member: Membership,
    },
    /// The snapshot under way; `None`: there is none any more.
    Plan(Option<SnapshotPlan>),
    /// What is done of a table of the snapshot.
    Chunks {
        oid: u32,
        chunks: TableChunks,
    },
    /// A table of a snapshot that is over.
    ForgetChunks {
        oid: u32,
    },
    /// A resync as it is now.
    Resync(Box<Run>),
    /// A resync whose signal does not come again, by its begin.
    ForgetResync(Position),
    Stopped {
        table: String,
        stopped: StoppedTable,
    },
    Resumed {
        table: String,
    },
    /// How far the signal topic was followed; `None`: none is configured any more.
    Followed(Option<Followed>),
    /// The partitions of a table by now.
    Leaves(KnownLeaves),
    /// The partitions of a table whose rows are all read anew.
    ForgetLeaves {
        oid: u32,
    },
    /// What was left out of a table by now.
    BadRows(BadRows),
    /// The table has been read again since.
    ForgetBadRows {
        table: String,
    },
}

impl Update {
    fn entry(&self) -> Result<StateEntry, serde_json::Error> {
        Ok(match self {
            Self::Checkpoint(checkpoint) => ("position".into(), Some(serde_json::to_vec(checkpoint)?)),
            Self::Relation { key, relation } => (format!("relation/{key}"), Some(serde_json::to_vec(relation)?)),
            Self::ForgetRelation { key } => (format!("relation/{key}"), None),
            Self::Topic { name, record } => (format!("topic/{name}"), Some(serde_json::to_vec(record)?)),
            Self::ForgetTopic { name } => (format!("topic/{name}"), None),
            Self::Key { topic, form } => (format!("key/{topic}"), Some(serde_json::to_vec(form)?)),
            Self::ForgetKey { topic } => (format!("key/{topic}"), None),
            Self::OpenBarrier(barrier) => (format!("barrier/{}", barrier.position), Some(serde_json::to_vec(barrier)?)),
            Self::CloseBarrier(position) => (format!("barrier/{position}"), None),
            Self::Member { topic, member } => (format!("member/{topic}"), Some(serde_json::to_vec(member)?)),
            Self::Plan(plan) => ("snapshot".into(), plan.as_ref().map(serde_json::to_vec).transpose()?),
            Self::Chunks { oid, chunks } => (format!("chunks/{oid}"), Some(serde_json::to_vec(chunks)?)),
            Self::ForgetChunks { oid } => (format!("chunks/{oid}"), None),
            Self::Resync(resync) => (format!("resync/{}", resync.name()), Some(serde_json::to_vec(resync)?)),
            Self::ForgetResync(begin) => (format!("resync/{}", Run::name_of(*begin)), None),
            Self::Followed(followed) => ("signals".into(), followed.as_ref().map(serde_json::to_vec).transpose()?),
            Self::Stopped { table, stopped } => (format!("table/{table}"), Some(serde_json::to_vec(stopped)?)),
            Self::Resumed { table } => (format!("table/{table}"), None),
            Self::Leaves(known) => (format!("leaves/{}", known.oid), Some(serde_json::to_vec(known)?)),
            Self::ForgetLeaves { oid } => (format!("leaves/{oid}"), None),
            Self::BadRows(rows) => (format!("bad/{}", rows.table), Some(serde_json::to_vec(rows)?)),
            Self::ForgetBadRows { table } => (format!("bad/{table}"), None),
        })
    }
}

impl State {
    /// What was recorded of each table, for the begin of a new snapshot of it.
    pub(super) fn earlier_versions(&self) -> BTreeMap<TableName, Vec<Arc<Relation>>> {
        let mut earlier = BTreeMap::<_, Vec<_>>::new();
        for relation in self.relations.values() {
            earlier.entry(relation.name.clone()).or_default().push(Arc::new(relation.clone()));
        }
        earlier
    }

    /// The first statement of which a topic may lack copies.
    pub(super) fn first_barrier(&self, topic: &str) -> Option<Position> {
        let lacking = self.barriers.iter().filter(|barrier| barrier.topics.iter().any(|(name, _)| name == topic));
        lacking.map(|barrier| barrier.position).min()
    }

    /// The relation versions, shared.
    pub(super) fn versions(&self) -> BTreeMap<String, Arc<Relation>> {
        self.relations.iter().map(|(key, relation)| (key.clone(), Arc::new(relation.clone()))).collect()
    }

    fn parse(entries: &BTreeMap<String, Vec<u8>>) -> Result<Self, (String, serde_json::Error)> {
        let mut state = Self::default();
        for (key, value) in entries {
            let wrong = |error| (key.clone(), error);
            match key.split_once('/') {
                None if key == "position" => {
                    state.checkpoint = Some(serde_json::from_slice(value).map_err(wrong)?);
                }
                None if key == "snapshot" => state.plan = Some(serde_json::from_slice(value).map_err(wrong)?),
                None if key == "signals" => state.followed = Some(serde_json::from_slice(value).map_err(wrong)?),
                Some(("relation", name)) => {
                    state.relations.insert(name.to_owned(), serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("topic", name)) => {
                    state.topics.insert(name.to_owned(), serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("key", name)) => {
                    state.keys.insert(name.to_owned(), serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("member", name)) => {
                    state.members.insert(name.to_owned(), serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("chunks", oid)) => {
                    let oid = oid.parse().map_err(|_| (key.clone(), serde::de::Error::custom("no OID")))?;
                    state.chunks.insert(oid, serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("leaves", oid)) => {
                    let oid = oid.parse().map_err(|_| (key.clone(), serde::de::Error::custom("no OID")))?;
                    state.leaves.insert(oid, serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("barrier", _)) => state.barriers.push(serde_json::from_slice(value).map_err(wrong)?),
                Some(("resync", _)) => state.resyncs.push(serde_json::from_slice(value).map_err(wrong)?),
                Some(("table", name)) => {
                    state.stopped.insert(name.to_owned(), serde_json::from_slice(value).map_err(wrong)?);
                }
                Some(("bad", name)) => {
                    state.bad_rows.insert(name.to_owned(), serde_json::from_slice(value).map_err(wrong)?);
                }
                _ => return Err((key.clone(), serde::de::Error::custom("unknown kind of entry"))),
            }
        }
        state.barriers.sort_by_key(|barrier| barrier.position);
        state.resyncs.sort_by_key(|resync| resync.begin);
        Ok(state)
    }
}

/// The state topic, read and written by one capture at a time. Clones share the writer.
#[derive(Clone)]
pub(super) struct StateStore {
    writer: Arc<Mutex<StateTopic>>,
    topic: Arc<str>,
}

impl StateStore {
    /// What is recorded, without fencing anybody.
    pub(super) async fn peek(settings: &kafka::Settings, topic: &str) -> Result<State, Error> {
        let (settings, name) = (settings.clone(), topic.to_owned());
        let entries = blocking(move || StateTopic::read(&settings, &name)).await?;
        State::parse(&entries).map_err(|(key, source)| Error::State { topic: topic.to_owned(), key, source })
    }

    /// Fences earlier writers, then reads what is final now.
    pub(super) async fn open(settings: &kafka::Settings, topic: &str) -> Result<(Self, State), Error> {
        let (own, name, id) = (settings.clone(), topic.to_owned(), topic.to_owned());
        let writer = blocking(move || StateTopic::open(&own, &name, &id)).await?;
        let state = Self::peek(settings, topic).await?;
        Ok((Self { writer: Arc::new(Mutex::new(writer)), topic: topic.into() }, state))
    }

    /// Records changes together; when it returns, they are durable.
    pub(super) async fn write(&self, updates: &[Update]) -> Result<(), Error> {
        let entries: Vec<StateEntry> = updates
            .iter()
            .map(Update::entry)
            .collect::<Result<_, _>>()
            .map_err(|source| Error::State { topic: self.topic.to_string(), key: "(new entry)".into(), source })?;
        let writer = Arc::clone(&self.writer);
        blocking(move || writer.lock().unwrap_or_else(PoisonError::into_inner).write(&entries)).await
    }
}

/// Runs a blocking call to Kafka.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, kafka::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_stopped) => Err(kafka::Error::Closed.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_record_without_options_is_read() {
        let json = r#"{"system_id":7,"timeline":1,"slot":"s","epoch":0,"phase":"streaming","consistent_point":100,
            "flush":200,"published":250,"ceiling":300}"#;
        let state = State::parse(&BTreeMap::from([("position".to_owned(), json.into())])).unwrap();
        let checkpoint = state.checkpoint.unwrap();
        assert_eq!((checkpoint.ceiling, checkpoint.options), (Lsn(300), None));
    }
}
