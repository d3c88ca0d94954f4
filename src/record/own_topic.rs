//! The topics that walrelay keeps for itself. They lie beside the topics of tables, and hold none's events.

use crate::progress;

/// How names of state topics begin.
const STATE: &str = "walrelay.state.";
/// How names of position topics begin.
const POSITION: &str = "walrelay.position.";
/// How names of heartbeat topics begin, which are Debezium's.
pub(super) const HEARTBEAT: &str = "__debezium-heartbeat.";

/// Name of the state topic of a topic prefix.
#[must_use]
pub fn state_topic(prefix: &str) -> String {
    format!("{STATE}{prefix}")
}

/// Name of the topic of a topic prefix in which transactions of exactly-once delivery record how far they go.
#[must_use]
pub fn position_topic(prefix: &str) -> String {
    format!("{POSITION}{prefix}")
}

/// Whether a topic is one of state, positions, progress or heartbeats, of whatever prefix.
#[must_use]
pub fn is_own_topic(topic: &str) -> bool {
    begins().iter().any(|begin| topic.starts_with(begin))
}

/// Regular expressions (POSIX extended, as librdkafka takes them) for the topics of which [`is_own_topic`] is true.
pub fn own_topic_patterns() -> impl Iterator<Item = String> {
    begins().into_iter().map(|begin| format!("^{}.*$", begin.replace('.', "\\.")))
}

const fn begins() -> [&'static str; 4] {
    [STATE, POSITION, progress::TOPICS, HEARTBEAT]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{progress::progress_topic, record::Heartbeat};

    #[test]
    fn own_topics_are_told_from_others_whatever_their_prefix() {
        for prefix in ["walrelay", "shop.eu"] {
            for own in [state_topic(prefix), position_topic(prefix), progress_topic(prefix), Heartbeat::topic(prefix)] {
                assert!(is_own_topic(&own), "{own}");
            }
        }
        for other in ["walrelay.public.state", "walrelay.statement.orders", "shop.walrelay.state.orders"] {
            assert!(!is_own_topic(other), "{other}");
        }
        let patterns: Vec<_> = own_topic_patterns().collect();
        let expected = ["walrelay\\.state", "walrelay\\.position", "walrelay\\.progress", "__debezium-heartbeat"]
            .map(|name| format!("^{name}\\..*$"));
        assert_eq!(patterns, expected);
    }
}
