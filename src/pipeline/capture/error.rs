//! Errors of the capture pipeline.

use crate::{
    kafka,
    lsn::{Lsn, Position},
    postgres, record, registry,
    retry::{Classify, Severity},
    selection::Contradiction,
    source::{self, slot},
};

/// What closes a gap.
const RESNAPSHOT: &str = "Set [capture] on_gap = \"resnapshot\", or snapshot = \"when-needed\", to take a new snapshot into the same topics; the sinks empty their tables first.";

/// What has to be done before other topics are applied in the place of earlier ones: else rows that are deleted by now stay.
const AT_THE_TARGETS: &str = "Then empty the tables at the targets and remove the lines of the former topics from the tables topic, position and moved of [apply] bookkeeping_schema, while apply is stopped.";

/// Why a capture session ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// An ordinary connection to the source.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The registry's settings.
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    /// Schemas and encoding.
    #[error(transparent)]
    Record(#[from] record::EncodeError),
    /// A slot of this name is there, and nothing is recorded of it.
    #[error("replication slot {slot} exists, but capture has no recorded position for it")]
    UnknownSlot {
        /// The slot.
        slot: String,
    },
    /// Topics hold records, and nothing is recorded of them.
    #[error("topics hold records, but capture has no recorded position for them in {state}: {}", topics.join(", "))]
    UnknownTopics {
        /// The topics.
        topics: Vec<String>,
        /// The state topic.
        state: String,
    },
    /// The slot that is in use is gone.
    #[error("replication slot {slot} was lost while it was in use: {reason}")]
    SlotGone {
        /// The slot.
        slot: String,
        /// What became of it.
        reason: String,
    },
    /// The state topic would lose what is recorded.
    #[error("cleanup.policy of state topic {topic} is {policy}: it would forget what is recorded there")]
    StateNotCompacted {
        /// The topic.
        topic: String,
        /// Its policy.
        policy: String,
    },
    /// The state belongs to another slot.
    #[error("the recorded position belongs to replication slot {recorded}, not to {configured}")]
    OtherSlot {
        /// The slot in the record.
        recorded: String,
        /// The slot in the configuration.
        configured: String,
    },
    /// The topics were named otherwise.
    #[error("topics are named {configured}, what was published lies in topics named {recorded}")]
    OtherNames {
        /// The names in the record, of tables and of messages.
        recorded: String,
        /// The names in the configuration.
        configured: String,
    },
    /// The topics hold records with walrelay's own headers, or without them.
    #[error("format.own_headers is {}, what was published was written with {written}", !written)]
    OtherHeaders {
        /// What it was written with.
        written: bool,
    },
    /// The source is another cluster than the one that was captured.
    #[error("the source is another database cluster (system identifier {found}, recorded {recorded})")]
    OtherSystem {
        /// System identifier in the record.
        recorded: u64,
        /// The source's.
        found: u64,
    },
    /// The source does not hold what was published.
    #[error(
        "the source's history ends at {history_ends} on timeline {timeline}, below {ceiling}, which may have been published"
    )]
    Forked {
        /// The source's timeline.
        timeline: u32,
        /// Where what it shares with the record ends.
        history_ends: Lsn,
        /// Highest LSN that may have been published.
        ceiling: Lsn,
    },
    /// The source is a stand-by that has not replayed what was published, as after its restart.
    #[error(
        "the source is a stand-by that has replayed its primary's log to {replayed}, below {ceiling}, which may have been published"
    )]
    StandByBehind {
        /// Where its log ends.
        replayed: Lsn,
        /// Highest LSN that may have been published.
        ceiling: Lsn,
    },
    /// The source has gone over to another timeline in a session that began while it was a stand-by.
    #[error("the source has gone over from timeline {from} to {to}: the session begins again")]
    OtherTimeline {
        /// That of the session.
        from: u32,
        /// That of the server.
        to: u32,
    },
    /// The slot is gone.
    #[error("replication slot {slot} does not exist any more; changes behind {flush} may be lost")]
    SlotMissing {
        /// The slot.
        slot: String,
        /// The recorded position.
        flush: Lsn,
    },
    /// The server invalidated the slot.
    #[error("replication slot {slot} was invalidated by the server ({reason}); changes behind {flush} are lost")]
    SlotLost {
        /// The slot.
        slot: String,
        /// The recorded position.
        flush: Lsn,
        /// What the server gives as the reason.
        reason: String,
    },
    /// Somebody else moved the slot.
    #[error(
        "replication slot {slot} stands at {confirmed}, ahead of the recorded {flush}: the changes between were not published"
    )]
    SlotAhead {
        /// The slot.
        slot: String,
        /// Its `confirmed_flush_lsn`.
        confirmed: Lsn,
        /// The recorded position.
        flush: Lsn,
    },
    /// The slot is not one that capture can stream from.
    #[error("replication slot {slot} cannot be used: {reason}")]
    SlotUnusable {
        /// The slot.
        slot: String,
        /// Why not.
        reason: String,
    },
    /// The source is a stand-by that keeps a copy of the slot (trap T16).
    #[error(
        "replication slot {slot} is synchronised from the primary, and the source is a stand-by that is not promoted yet"
    )]
    SlotSynchronised {
        /// The slot.
        slot: String,
    },
    /// Stand-bys are to keep the slot, and cannot.
    #[error("replication slot {slot} cannot be a failover slot: {reason}")]
    NoFailoverSlot {
        /// The slot.
        slot: String,
        /// Why not.
        reason: &'static str,
    },
    /// Another program streams from the slot (trap T14).
    #[error("replication slot {slot} is in use by process {pid} ({application})")]
    SlotInUse {
        /// The slot.
        slot: String,
        /// The server process.
        pid: i32,
        /// Its `application_name`.
        application: String,
    },
    /// An entry of the state topic cannot be read or written.
    #[error("entry {key} of state topic {topic} is not valid")]
    State {
        /// The state topic.
        topic: String,
        /// The entry's key.
        key: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The state changed between looking and fencing.
    #[error("another capture changed the state of replication slot {slot} meanwhile")]
    StateMoved {
        /// The slot.
        slot: String,
    },
    /// A row does not fit its topic.
    #[error("a record of {size} bytes does not fit topic {topic}, which takes {limit}")]
    RecordTooLarge {
        /// The topic.
        topic: String,
        /// The record's size.
        size: usize,
        /// The largest that fits.
        limit: usize,
    },
    /// A topic takes smaller record batches than this session's producer makes.
    #[error("topic {topic} takes record batches of {limit} bytes by now, and the session's are larger")]
    BatchTooLarge {
        /// The topic.
        topic: String,
        /// What it takes, in bytes.
        limit: usize,
    },
    /// The topic's partition count is not what the events were spread over.
    #[error("topic {topic} has {found} partitions, but its events were published to {recorded}")]
    PartitionsChanged {
        /// The topic.
        topic: String,
        /// Now.
        found: i32,
        /// When it was first used.
        recorded: i32,
    },
    /// A topic has another id than the one that was published to.
    #[error("topic {topic} was deleted and created again: its id is {found}, events were published to {recorded}")]
    OtherTopic {
        /// The topic.
        topic: String,
        /// Its id.
        found: String,
        /// The recorded one.
        recorded: String,
    },
    /// A topic ends below what was acknowledged in it.
    #[error(
        "topic {topic} partition {partition} ends at offset {found}, but {recorded} was acknowledged there: the topic was recreated"
    )]
    TopicRecreated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: usize,
        /// Its end now.
        found: i64,
        /// Its recorded end.
        recorded: i64,
    },
    /// A truncate reached only some partitions, and nothing is recorded of one of its tables, which is not captured any more.
    #[error(
        "the truncate at {position} has not reached all partitions of topic {topic}, which is not captured any more"
    )]
    HalfBroadcast {
        /// The topic.
        topic: String,
        /// The barrier.
        position: Position,
    },
    /// A truncate reached only some partitions, its log is lost, and no snapshot is to be taken in its place.
    #[error(
        "the truncate at {position} may not have reached all partitions of its topics ({}), and is in no log any more",
        topics.join(", ")
    )]
    HalfWithoutSnapshot {
        /// The barrier.
        position: Position,
        /// Its topics.
        topics: Vec<String>,
    },
    /// A compacted topic takes no record without a key, and keeps only the last record of each key.
    #[error("topic {topic} is compacted")]
    CompactedTopic {
        /// The topic.
        topic: String,
    },
    /// Too many tables for one capture.
    #[error("more than {limit} topics")]
    TooManyTopics {
        /// The limit.
        limit: usize,
    },
    /// Two tables would be published to one topic.
    #[error("tables {first} and {second} would both be published to topic {topic}")]
    SharedTopic {
        /// One table.
        first: String,
        /// The other.
        second: String,
        /// The topic.
        topic: String,
    },
    /// A column cannot be masked as configured.
    #[error(transparent)]
    Mask(record::MaskError),
    /// What is said of a table's topic contradicts itself.
    #[error("kafka.topics.tables contradicts itself on the topic of table {table}")]
    TopicSettings {
        /// The table.
        table: String,
        /// Which entries.
        #[source]
        source: Contradiction,
    },
    /// The publication that was configured before is gone too early.
    #[error(
        "publication {publication}, which was configured before, does not exist: what may have been published of it, below {below}, cannot be published again"
    )]
    FormerPublication {
        /// The publication.
        publication: String,
        /// Where the options end that name it.
        below: Lsn,
        /// The statement that creates it.
        sql: String,
    },
    /// The slot holds changes from before a publication was there; the one that was configured before has them.
    #[error(
        "slot {slot} holds changes from before publication {publication} was created: they are published as {former} has them, which was configured before"
    )]
    YoungPublication {
        /// The slot.
        slot: String,
        /// The publication.
        publication: String,
        /// The one that was configured before.
        former: String,
        /// What the server said.
        source: Box<source::Error>,
    },
    /// A relation has another key than before.
    #[error("the key of table {table} changed")]
    KeyChanged {
        /// The table.
        table: String,
    },
    /// The key schema of a topic has another id, and with it every key other bytes.
    #[error("the registry gives the key schema of table {table} the id {found}, where its records have {kept}")]
    KeySchemaId {
        /// The table.
        table: String,
        /// The id in the topic's records.
        kept: u32,
        /// The registry's id.
        found: u32,
    },
    /// Rows of a table changed without an event.
    #[error("rows of table {table} changed in a way that no event tells: {what}")]
    Unlogged {
        /// The table.
        table: String,
        /// What happened.
        what: source::unlogged::Unlogged,
        /// To values of the key.
        in_key: bool,
    },
    /// A captured table has another name.
    #[error("table {table} was renamed to {name}")]
    Renamed {
        /// The table as it is captured.
        table: String,
        /// Its name by now.
        name: String,
    },
    /// Another table has the name of a captured one.
    #[error("table {table} is another one than before: it was dropped, or renamed, and created again")]
    Replaced {
        /// The table.
        table: String,
    },
    /// The stream is not what the protocol promises.
    #[error("unexpected {what} in the replication stream at {lsn}")]
    Protocol {
        /// The message.
        what: &'static str,
        /// Where.
        lsn: Lsn,
    },
    /// The stream's task is gone.
    #[error("the replication stream ended")]
    StreamEnded,
    /// The slot may be lost before the snapshot is through.
    #[error(
        "the server keeps {safe} bytes of log for replication slot {slot}, and the tables of the snapshot have {expected}: the slot may be lost before it is through"
    )]
    LittleWal {
        /// The slot.
        slot: String,
        /// What it may keep, in bytes.
        safe: u64,
        /// What the tables occupy, in bytes.
        expected: u64,
    },
    /// A snapshot that is to be all ended without some of its tables.
    #[error("the snapshot lacks {}", tables.join(", "))]
    SnapshotLacks {
        /// The tables.
        tables: Vec<String>,
    },
    /// Rows that are read beside the stream are told apart by their encoded keys.
    #[error("rows of table {table} have the same key in their records")]
    SameKeys {
        /// The table.
        table: String,
    },
    /// A snapshot that goes on does not come to its end.
    #[error("rows of table {table} change faster than the rest of its snapshot is read")]
    Outrun {
        /// The table.
        table: String,
    },
    /// A task that reads the snapshot is gone.
    #[error("a task of the snapshot ended before its time")]
    SnapshotTask,
}

impl Error {
    /// Whether one row of one table is at fault, and nothing of it has been sent.
    pub(super) fn is_of_one_row(&self) -> bool {
        matches!(self, Self::RecordTooLarge { .. })
            || matches!(self, Self::Record(error) if error.severity() == Severity::Definite)
    }

    /// Whether that is for what is in the row, and not for what its table has become: the next row may do.
    pub(super) const fn is_of_values(&self) -> bool {
        matches!(
            self,
            Self::RecordTooLarge { .. }
                | Self::Record(record::EncodeError::NotUtf8 { .. } | record::EncodeError::Long { .. })
        )
    }

    /// Whether a topic's keys would lie elsewhere than those of its records.
    pub(super) const fn is_of_keys(&self) -> bool {
        matches!(self, Self::KeyChanged { .. } | Self::KeySchemaId { .. })
    }
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Source(error) => error.severity(),
            Self::Postgres(error) => error.severity(),
            Self::Kafka(error) => error.severity(),
            Self::Record(error) => error.severity(),
            Self::Registry(error) => error.severity(),
            Self::RecordTooLarge { .. }
            | Self::KeyChanged { .. }
            | Self::KeySchemaId { .. }
            | Self::Unlogged { .. }
            | Self::Renamed { .. }
            | Self::Replaced { .. } => Severity::Definite,
            Self::SlotInUse { .. }
            | Self::SlotSynchronised { .. }
            | Self::StandByBehind { .. }
            | Self::OtherTimeline { .. }
            | Self::StateMoved { .. }
            | Self::StreamEnded
            | Self::SnapshotTask
            | Self::Outrun { .. }
            | Self::SlotGone { .. }
            | Self::YoungPublication { .. }
            | Self::BatchTooLarge { .. } => Severity::Transient,
            _ => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Source(error) => return error.hint(),
            Self::Postgres(error) => return error.hint(),
            Self::Kafka(error) => return error.hint(),
            Self::Record(error) => return error.hint(),
            Self::Mask(error) => return error.hint(),
            Self::Registry(error) => return error.hint(),
            Self::UnknownSlot { slot } => format!(
                "If nothing uses the slot, drop it (SELECT pg_drop_replication_slot('{slot}');) and start again; if something does, configure another name in [capture] slot. If capture has used the slot under this [kafka] prefix, its state topic was lost: the topics then hold events of which nothing is known, and the next start says what to do about them."
            ),
            Self::UnknownTopics { .. } => format!("Publish under a new [kafka] prefix, or delete these topics. {AT_THE_TARGETS}"),
            Self::SlotGone { reason, .. } => format!("A snapshot starts over; a stream goes on as [capture] on_gap says.{}", slot::remedy(reason)),
            Self::StateNotCompacted { topic, .. } => format!(
                "kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact"
            ),
            Self::OtherSlot { recorded, .. } => {
                format!("Set [capture] slot = \"{recorded}\" again, or publish under a new [kafka] prefix and drop slot {recorded}. {AT_THE_TARGETS}")
            }
            Self::OtherNames { .. } => {
                format!("Set [kafka.topics] names, messages and routes as they were, or publish under a new [kafka] prefix with a new slot, and drop the old slot. {AT_THE_TARGETS}")
            }
            Self::OtherHeaders { written } => {
                format!("Set [format] own_headers = {written} as it was (compatibility = \"debezium\" sets false), or publish under a new [kafka] prefix with a new slot, and drop the old slot: sinks stop at a topic with both. {AT_THE_TARGETS}")
            }
            Self::SlotAhead { .. } => "Set [capture] on_gap = \"resnapshot\" to take a new snapshot into the same topics; the sinks empty their tables first. Where the targets have those changes from elsewhere, or may lack them, on_gap = \"trust-slot\" goes on without them.".into(),
            Self::OtherSystem { .. } | Self::Forked { .. } | Self::SlotMissing { .. } => RESNAPSHOT.into(),
            Self::SlotLost { reason, .. } => format!("{RESNAPSHOT}{}", slot::remedy(reason)),
            Self::SlotUnusable { slot, .. } => format!("Before the first start configure another name in [capture] slot. If capture has used the slot before, or nothing else does, drop it (SELECT pg_drop_replication_slot('{slot}');), with [capture] on_gap = \"resnapshot\" in the first case."),
            Self::SlotSynchronised { .. } => "It is tried again until the server is promoted (SELECT pg_promote();). If its primary works, let [source] host lead there.".into(),
            Self::StandByBehind { .. } => "It is tried again until the stand-by has caught up: see that it receives from its primary (pg_stat_wal_receiver). One whose primary is lost goes on when it is promoted, if it has all of that.".into(),
            Self::NoFailoverSlot { .. } => "Set [capture] failover = \"auto\".".into(),
            Self::SlotInUse { .. } => "This one waits until the other ends: end it, or configure another name in [capture] slot.".into(),
            Self::State { topic, .. } => format!("The topic {topic} must be written by walrelay only; a newer version of walrelay may have written it."),
            Self::RecordTooLarge { topic, size, .. } => format!("Raise max.message.bytes of topic {topic} above {size} and restart capture; the table goes on where it stopped."),
            Self::PartitionsChanged { topic, .. } | Self::OtherTopic { topic, .. } | Self::TopicRecreated { topic, .. } => {
                format!("Keys and positions of topic {topic} no longer hold: publish under a new [kafka] prefix with a new slot, and drop the old slot. {AT_THE_TARGETS}")
            }
            Self::CompactedTopic { topic } => format!("Set cleanup.policy of topic {topic} to \"delete\": compaction would remove truncate barriers, partial updates and begins of transactions."),
            Self::TopicSettings { table, .. } => {
                format!("Let the two say the same, or add an entry {table} without wildcards, which is stronger than both.")
            }
            Self::SharedTopic { .. } => "Exclude one of the tables in [capture] exclude.".into(),
            Self::FormerPublication { publication, sql, .. } => format!(
                "Create publication {publication} again with the tables that it had ({sql}) and start again; once the slot is past that position it can be dropped."
            ),
            Self::KeyChanged { .. } => "A new snapshot takes the table in with its new key: drop the slot and set [capture] on_gap = \"resnapshot\" and snapshot = \"initial\". Give the target's table the same key. Where capture.masks or its salt were changed for a column of the key, set them back instead.".into(),
            Self::KeySchemaId { .. } => "If the registry lost its schemas, restore it with their ids; if [registry] subject_strategy changed, set it back; then restart capture. Otherwise take a new snapshot, which gives every key the new id: drop the slot and set [capture] on_gap = \"resnapshot\" and snapshot = \"initial\".".into(),
            Self::Unlogged { what, in_key, .. } => {
                let snapshot = "A new snapshot brings the rows to the sinks: drop the slot and set [capture] on_gap = \"resnapshot\" and snapshot = \"initial\".";
                let same = match what {
                    _ if *in_key => return Some(snapshot.to_owned()),
                    source::unlogged::Unlogged::Relabelled { .. } => "the label has been renamed at the targets too (ALTER TYPE … RENAME VALUE), and no row with the former one is still to come",
                    _ => "the earlier rows have been brought to the same state at the targets, or their values are the same in both types",
                };
                format!("{snapshot} Where {same}, restart capture with [capture] on_unlogged = \"continue\" instead, and take that out again at the next restart.")
            }
            Self::Renamed { .. } | Self::Replaced { .. } => "A new snapshot takes the table in: drop the slot and set [capture] on_gap = \"resnapshot\" and snapshot = \"initial\".".into(),
            Self::Protocol { .. } => "This is a defect of walrelay or of the server; nothing was confirmed past this point.".into(),
            Self::HalfBroadcast { topic, .. } => format!("Sinks wait for the rest. Put the table of topic {topic} into the publication again; if there is none any more, publish under a new [kafka] prefix with a new slot, and drop the old slot. {AT_THE_TARGETS}"),
            Self::HalfWithoutSnapshot { .. } => "Sinks may wait for the rest, and the begin of a new snapshot lets them go on: set [capture] snapshot = \"initial\" for this start.".into(),
            Self::YoungPublication { former, .. } => format!("Keep publication {former} until the log says \"found the configured publication\"."),
            Self::SameKeys { .. } => "Another form of values tells them apart ([format]), or another key; a new snapshot takes the table in then.".into(),
            Self::Outrun { .. } => "The snapshot starts over, and is not read beside the stream unless it is cut again.".into(),
            Self::BatchTooLarge { .. } => "The next session makes smaller ones.".into(),
            Self::LittleWal { .. } => "Raise max_slot_wal_keep_size on the source for the time of the snapshot (ALTER SYSTEM SET max_slot_wal_keep_size = '…'; SELECT pg_reload_conf();), or, where little is written meanwhile, set [capture] snapshot_guard = \"off\".".into(),
            Self::SnapshotLacks { .. } => "The log says why each of them stopped. Mend that, or exclude them in [capture] exclude, and start again: the snapshot begins anew.".into(),
            Self::TooManyTopics { .. } | Self::StateMoved { .. } | Self::OtherTimeline { .. } | Self::StreamEnded | Self::SnapshotTask => return None,
        })
    }
}
