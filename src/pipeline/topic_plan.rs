//! How topics are created: the settings of all, and what holds for some tables in place of them.

use std::collections::BTreeMap;

use crate::{
    kafka::TopicSettings,
    schema::TableName,
    selection::{Contradiction, Rules},
};

/// How capture creates topics.
#[derive(Clone, Debug)]
pub struct TopicPlan {
    /// What holds where nothing else is said, also of topics that hold no table.
    pub common: TopicSettings,
    /// Partitions of some tables' topics.
    pub partitions: Rules<i32>,
    /// Replicas of some tables' topics.
    pub replication_factor: Rules<i32>,
    /// Values of some topic properties for some tables.
    pub properties: BTreeMap<String, Rules<String>>,
}

impl TopicPlan {
    /// How the topic of a table is created.
    ///
    /// # Errors
    /// Two globs say different things of it.
    pub fn of(&self, table: &TableName) -> Result<TopicSettings, Contradiction> {
        let names = [&*table.schema, &*table.table];
        let mut settings = self.common.clone();
        settings.partitions = self.partitions.find(&names)?.copied().unwrap_or(settings.partitions);
        settings.replication_factor =
            self.replication_factor.find(&names)?.copied().unwrap_or(settings.replication_factor);
        for (property, rules) in &self.properties {
            if let Some(value) = rules.find(&names)? {
                settings.config.insert(property.clone(), value.clone());
            }
        }
        Ok(settings)
    }
}
