//! What the sink is told, and what its connections share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    event::{Resync, TableShape},
    postgres,
    schema::TableName,
    sink::{
        ledger::Ledger,
        plan::Plan,
        resyncs::{Key, Keys},
    },
    types::BinaryMode,
};

/// Settings of the sink.
#[derive(Clone)]
pub struct Settings {
    /// The target server.
    pub server: postgres::Settings,
    /// Schema of the bookkeeping tables.
    pub schema: String,
    /// Name of the sink instance: consumer group and target schema rule. Positions belong to it.
    pub instance: String,
    /// Names this process in the position rows.
    pub owner: String,
    /// Target schema by source schema; a schema that is not listed keeps its name.
    pub schemas: BTreeMap<String, String>,
    /// Create missing tables and add missing columns.
    pub evolve: bool,
    /// Take topics over from another instance that applies them to the same tables.
    pub take_over: bool,
    /// How other producers write bytes as text, where that is known.
    pub binary: BinaryMode,
    /// Set `session_replication_role = replica`: no foreign key checks and no ordinary triggers.
    pub replica_role: bool,
}

/// The sink: settings, bookkeeping and compiled plans, shared by its sessions.
pub struct Sink {
    settings: Settings,
    ledger: Ledger,
    plans: Mutex<HashMap<Arc<str>, Vec<Arc<Plan>>>>,
    /// By topic, a resync, the columns of its keys and where these are noted.
    keys: Mutex<HashMap<Arc<str>, (Resync, Key, Keys)>>,
    /// By topic, the latest resync beyond whose end its lanes go without a sweep.
    left: Mutex<HashMap<Arc<str>, Resync>>,
}

impl Sink {
    /// Shapes of one topic that are kept compiled.
    const SHAPES: usize = 8;

    /// A sink that has not connected yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ledger = Ledger::new(&settings.schema, &settings.instance);
        Self { settings, ledger, plans: Mutex::default(), keys: Mutex::default(), left: Mutex::default() }
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its bookkeeping.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The target table of a source table.
    #[must_use]
    pub fn target_of(&self, source: &TableName) -> TableName {
        let schema = self
            .settings
            .schemas
            .get(&*source.schema)
            .map_or_else(|| Arc::clone(&source.schema), |to| to.as_str().into());
        TableName { schema, table: Arc::clone(&source.table) }
    }

    /// The plan of a shape, if it is compiled.
    #[must_use]
    pub fn known_plan(&self, topic: &str, shape: &Arc<TableShape>) -> Option<Arc<Plan>> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = plans.get(topic)?;
        let same = |plan: &&Arc<Plan>| Arc::ptr_eq(&plan.shape, shape) || plan.shape == *shape;
        of_topic.iter().find(same).cloned()
    }

    /// Keeps a compiled plan.
    pub fn remember_plan(&self, plan: Arc<Plan>) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = plans.entry(Arc::clone(&plan.topic)).or_default();
        if of_topic.len() >= Self::SHAPES {
            of_topic.remove(0);
        }
        of_topic.push(plan);
    }

    /// Where a resync's keys are noted, if that is known.
    #[must_use]
    pub fn known_keys(&self, topic: &str, resync: Resync, key: &Key) -> Option<Keys> {
        if self.left.lock().unwrap_or_else(PoisonError::into_inner).get(topic).is_some_and(|left| *left >= resync) {
            return Some(Keys::Nowhere);
        }
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(topic).filter(|(known, of, _)| *known == resync && of == key).map(|(.., keys)| *keys)
    }

    /// Keeps where a resync's keys are noted.
    pub fn remember_keys(&self, topic: &Arc<str>, (resync, key): (Resync, Key), keys: Keys) {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(Arc::clone(topic), (resync, key, keys));
    }

    /// Says that nobody will sweep for this resync of a topic, nor for an earlier one: their keys are noted no more.
    pub fn note_no_more(&self, topic: &Arc<str>, resync: Resync) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = left.entry(Arc::clone(topic)).or_insert(resync);
        *latest = resync.max(*latest);
    }

    /// Forgets where a topic's keys are noted: another process may have ended that.
    pub fn forget_keys(&self, topic: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Forgets a topic's plans: its table may have changed, or that of a resync's keys.
    pub fn forget_plans(&self, topic: &str) {
        self.forget_keys(topic);
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Topics whose tables are tied to this topic's by foreign keys, itself included, as far as plans tell: a tie is known once
    /// one of its two tables has a plan. `topic_of` names the topic of a target table that has none yet.
    #[must_use]
    pub fn related(&self, topic: &str, topic_of: &dyn Fn(&TableName) -> Option<Arc<str>>) -> BTreeSet<Arc<str>> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let newest: Vec<&Arc<Plan>> = plans.values().filter_map(|plans| plans.last()).collect();
        let mut found: Vec<&Arc<Plan>> = newest.iter().copied().filter(|plan| *plan.topic == *topic).collect();
        let mut topics = BTreeSet::new();
        let mut at = 0;
        while let Some(plan) = found.get(at).copied() {
            let tied = plan.target.parents.iter().chain(&plan.target.children);
            for table in tied {
                match newest.iter().find(|other| other.target.name == *table) {
                    Some(other) if found.iter().any(|known| known.topic == other.topic) => {}
                    Some(other) => found.push(other),
                    None => topics.extend(topic_of(table)),
                }
            }
            at += 1;
        }
        topics.extend(found.into_iter().map(|plan| Arc::clone(&plan.topic)));
        topics
    }
}
