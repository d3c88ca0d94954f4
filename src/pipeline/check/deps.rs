//! What is to be checked.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    avro::content::Content,
    kafka,
    pipeline::{
        capture::{BadRowPolicy, FailoverSlot},
        topic_plan::TopicPlan,
    },
    postgres::Settings,
    record::{Masks, TopicNames},
    registry::RegistrySettings,
    source::publication::{PublicationSpec, TablePatterns},
};

/// What to look at; a part without an address is left out.
#[derive(Debug)]
pub struct CheckDeps {
    /// The source.
    pub source: Option<SourceDeps>,
    /// The cluster.
    pub kafka: Option<KafkaDeps>,
    /// The registry.
    pub registry: Option<RegistrySettings>,
    /// The target.
    pub target: Option<TargetDeps>,
}

/// The source and what capture will do there.
#[derive(Debug)]
pub struct SourceDeps {
    /// How to reach it.
    pub settings: Settings,
    /// Time without a sign of life after which capture is not ready.
    pub silence: Duration,
    /// The slot.
    pub slot: String,
    /// Whether stand-bys are to keep it.
    pub failover: FailoverSlot,
    /// The publication and its tables.
    pub publication: PublicationSpec,
    /// What is published in place of some columns.
    pub masks: Masks,
}

/// The cluster and how topics are named and created.
#[derive(Debug)]
pub struct KafkaDeps {
    /// How to reach it.
    pub settings: kafka::Settings,
    /// First part of the topics' names.
    pub prefix: String,
    /// The topics' names.
    pub names: TopicNames,
    /// How topics are created.
    pub topics: TopicPlan,
    /// Whether capture creates topics that are missing.
    pub create: bool,
    /// Who writes under exactly-once delivery, where that is wanted.
    pub transactional: Option<kafka::Transactional>,
    /// What capture does with a change of one row that cannot be published.
    pub bad_rows: BadRowPolicy,
    /// The topic whose records ask something of capture, if there is one.
    pub signal_topic: Option<String>,
    /// Capture writes flat records, which apply does not read.
    pub flat: bool,
    /// What capture says around the values.
    pub content: Content,
}

/// The target and what apply will do there.
#[derive(Debug)]
pub struct TargetDeps {
    /// How to reach it.
    pub settings: Settings,
    /// Schema of walrelay's own tables.
    pub bookkeeping: String,
    /// Target schema by source schema, where they differ.
    pub schemas: BTreeMap<String, String>,
    /// Which of the source's tables are applied.
    pub tables: TablePatterns,
    /// The topics' names.
    pub names: TopicNames,
}
