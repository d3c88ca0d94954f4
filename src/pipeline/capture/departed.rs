//! Tables that are captured no longer and yet belong to a barrier that was sent by half.
//!
//! A sink waits for all copies of a barrier (PROTOCOL, "Barriers"; trap T32). Those that are missing are sent whatever has
//! become of their table: it was dropped, it left the publication or the configuration, another table has its name by now.
//! That is all that is published of it. Its topic is forgotten at once, and not when the barrier is through: a session that
//! is cut in between must not leave a table behind that is taken for whole when it comes back (trap T24).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::state::{OpenBarrier, State};
use crate::{lsn::Position, record::TopicNames, schema::Relation};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Departed {
    barriers: Vec<OpenBarrier>,
    /// What is recorded of the tables, by topic.
    tables: BTreeMap<String, Vec<Arc<Relation>>>,
    /// Topics of tables of which nothing is recorded, with a barrier each.
    unknown: BTreeMap<String, Position>,
}

impl Departed {
    /// The tables of these barriers whose topics are not among the captured ones.
    pub(super) fn of(names: &TopicNames, state: &State, barriers: Vec<OpenBarrier>, captured: &BTreeSet<&str>) -> Self {
        let (mut tables, mut unknown) = (BTreeMap::<String, Vec<_>>::new(), BTreeMap::new());
        let topics =
            barriers.iter().flat_map(|barrier| barrier.topics.iter().map(|(topic, _)| (topic, barrier.position)));
        for (topic, position) in topics.filter(|(topic, _)| !captured.contains(topic.as_str())) {
            let is_its = |relation: &&Relation| names.of_table(&relation.name).is_ok_and(|name| name == *topic);
            let versions: Vec<_> = state.relations.values().filter(is_its).cloned().map(Arc::new).collect();
            if versions.is_empty() {
                unknown.insert(topic.clone(), position);
            } else {
                tables.insert(topic.clone(), versions);
            }
        }
        Self { barriers, tables, unknown }
    }

    /// A topic of which nothing is recorded, and a barrier that it lacks.
    pub(super) fn unknown(&self) -> Option<(&String, Position)> {
        self.unknown.iter().next().map(|(topic, position)| (topic, *position))
    }

    /// The topics, each with a version of its table.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&str, &Arc<Relation>)> {
        self.tables.iter().filter_map(|(topic, versions)| Some((topic.as_str(), versions.first()?)))
    }

    /// Whether this is the topic of such a table.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.tables.contains_key(topic)
    }

    /// The topic of a relation, with a version of it.
    pub(super) fn find(&self, oid: u32) -> Option<(&str, &Arc<Relation>)> {
        let versions = self.tables.iter().flat_map(|(topic, all)| all.iter().map(|version| (topic.as_str(), version)));
        versions.into_iter().find(|(_, version)| version.oid == oid)
    }

    /// A topic with its partition count, as the barriers have it.
    pub(super) fn label(&self, topic: &str) -> Option<(String, i32)> {
        self.first(topic).map(|(label, _)| label)
    }

    /// The same with the position of the first barrier that lists it.
    pub(super) fn first(&self, topic: &str) -> Option<((String, i32), Position)> {
        let listed = |barrier: &OpenBarrier| {
            let label = barrier.topics.iter().find(|(name, _)| name == topic)?;
            Some((label.clone(), barrier.position))
        };
        self.barriers.iter().filter_map(listed).min_by_key(|(_, position)| *position)
    }

    /// The topic of a relation, as the barrier at this position has it.
    pub(super) fn due(&self, oid: u32, at: Position) -> Option<(String, i32)> {
        let (topic, _) = self.find(oid).filter(|(topic, _)| self.is_due(topic, at))?;
        self.label(topic)
    }

    /// Whether the barrier at this position has copies of the topic.
    fn is_due(&self, topic: &str, at: Position) -> bool {
        let mut here = self.barriers.iter().filter(|barrier| barrier.position == at);
        here.any(|barrier| barrier.topics.iter().any(|(name, _)| name == topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lsn::Lsn,
        schema::{Lineage, ReplicaIdentity, TableName},
    };

    const AT: Position = Position { epoch: 0, commit: Lsn(100), ordinal: 1 };

    fn relation(oid: u32, table: &str) -> Relation {
        let name = TableName::new("public", table);
        Relation {
            oid,
            name,
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
            key: Vec::new(),
            lineage: Lineage::default(),
        }
    }

    fn departed(recorded: &[Relation], captured: &[&str]) -> Departed {
        let topics = vec![("p.public.gone".to_owned(), 3), ("p.public.kept".to_owned(), 3)];
        let barriers = vec![OpenBarrier { position: AT, topics }];
        let relations = recorded.iter().map(|relation| (format!("{}/0", relation.oid), relation.clone())).collect();
        let state = State { relations, ..State::default() };
        Departed::of(&TopicNames::new("p"), &state, barriers, &captured.iter().copied().collect())
    }

    #[test]
    fn a_table_that_left_is_known_as_it_is_recorded_and_due_at_its_barriers_alone() {
        let departed = departed(&[relation(1, "kept"), relation(2, "gone")], &["p.public.kept"]);
        assert_eq!(
            departed.tables().map(|(topic, relation)| (topic, relation.oid)).collect::<Vec<_>>(),
            [("p.public.gone", 2)]
        );
        assert!(departed.find(2).is_some() && departed.find(1).is_none() && departed.unknown().is_none());
        assert!(departed.is_due("p.public.gone", AT));
        assert!(!departed.is_due("p.public.gone", Position { ordinal: 2, ..AT }));
        assert!(!departed.is_due("p.public.other", AT));
        assert_eq!(departed.first("p.public.gone"), Some((("p.public.gone".to_owned(), 3), AT)));
        assert_eq!(departed.label("p.public.other"), None);
    }

    #[test]
    fn a_table_of_which_nothing_is_recorded_is_named() {
        let departed = departed(&[relation(1, "kept")], &["p.public.kept"]);
        assert_eq!(departed.unknown(), Some((&"p.public.gone".to_owned(), AT)));
        assert!(!departed.has("p.public.gone"));
    }
}
