//! Tables that are applied together up to one cut, after an ordering error.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often a group tries again while it has no cut.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Tables that are tied to each other by foreign keys, or one table alone.
struct Group {
    topics: BTreeSet<Arc<str>>,
    tried: Option<Instant>,
    /// What it stands for.
    waits: Option<String>,
}

/// All groups; a topic is in at most one.
#[derive(Default)]
pub struct Groups(Vec<Group>);

impl Groups {
    /// Puts topics into one group, with all groups that have some of them.
    pub fn join(&mut self, mut topics: BTreeSet<Arc<str>>) {
        let (joined, apart): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|group| !group.topics.is_disjoint(&topics));
        self.0 = apart;
        topics.extend(joined.into_iter().flat_map(|group| group.topics));
        self.0.push(Group { topics, tried: None, waits: None });
    }

    /// Whether a topic is in a group.
    #[must_use]
    pub fn contains(&self, topic: &str) -> bool {
        self.0.iter().any(|group| group.topics.contains(topic))
    }

    /// The group of this topic stands, and what for.
    pub fn waits_for(&mut self, topic: &str, what: String) {
        if let Some(group) = self.0.iter_mut().find(|group| group.topics.contains(topic)) {
            group.waits = Some(what);
        }
    }

    /// The group of this topic stands no longer.
    pub fn waits_no_more(&mut self, topic: &str) {
        if let Some(group) = self.0.iter_mut().find(|group| group.topics.contains(topic)) {
            group.waits = None;
        }
    }

    /// The group of this topic is not tried again for so long.
    pub fn rest(&mut self, topic: &str, period: Duration) {
        if let Some(group) = self.0.iter_mut().find(|group| group.topics.contains(topic)) {
            // A moment in the future has no time behind it.
            group.tried = Instant::now().checked_add(period);
        }
    }

    /// What groups stand for.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|group| {
            let what = group.waits.as_ref()?;
            let topics: Vec<&str> = group.topics.iter().map(|topic| &**topic).collect();
            Some(format!("topics {} are applied together, and wait for {what}", topics.join(", ")))
        })
    }

    /// The group of this topic has done its work.
    pub fn dissolve(&mut self, topic: &str) {
        self.0.retain(|group| !group.topics.contains(topic));
    }

    /// The topics of the groups that are to be tried, if `ready` says so of them; each is tried once in a while.
    pub fn due(&mut self, ready: impl Fn(&BTreeSet<Arc<str>>) -> bool) -> Vec<BTreeSet<Arc<str>>> {
        let mut due = Vec::new();
        for group in &mut self.0 {
            if group.tried.is_none_or(|tried| tried.elapsed() >= RETRY_EVERY) && ready(&group.topics) {
                group.tried = Some(Instant::now());
                due.push(group.topics.clone());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn groups_that_share_a_topic_become_one() {
        let mut groups = Groups::default();
        groups.join(topics(&["a", "b"]));
        groups.join(topics(&["c"]));
        groups.join(topics(&["b", "d"]));
        assert_eq!(groups.due(|_| true), [topics(&["c"]), topics(&["a", "b", "d"])]);
        assert!(groups.due(|_| true).is_empty(), "a group was tried again at once");
        groups.dissolve("d");
        assert!(!groups.contains("a") && groups.contains("c"));
    }
}
