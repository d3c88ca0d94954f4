//! Settings of some tables' topics in one text: `partitions = 12, retention = 7d, min.insync.replicas = 2`.

use std::{collections::BTreeMap, str::FromStr};

use super::{
    reserved,
    value::{Bound, ByteSize, Period},
};

/// What is said of the topics; the rest is as for all topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicList {
    /// Partitions.
    pub partitions: Option<i32>,
    /// Replicas; −1: the brokers' default.
    pub replication_factor: Option<i32>,
    /// Kafka's topic properties.
    pub properties: BTreeMap<String, String>,
}

const EXPECTATION: &str = "settings between commas, each once, like \"partitions = 12, retention = 7d, min.insync.replicas = 2\": partitions (1 to 100000), replication_factor, retention and retention_bytes (or unlimited), and topic properties but cleanup.policy, retention.ms and retention.bytes";

/// The rule for such a text.
pub fn rule(text: &str) -> Result<(), &'static str> {
    text.parse::<TopicList>().map(drop)
}

impl FromStr for TopicList {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mut list = Self::default();
        for setting in text.split(',') {
            let (name, value) = setting.split_once('=').ok_or(EXPECTATION)?;
            list.set(name.trim(), value.trim()).filter(|()| !value.trim().is_empty()).ok_or(EXPECTATION)?;
        }
        Ok(list)
    }
}

impl TopicList {
    /// `None` where the value does not fit, or the name was there before.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let number = |low: i32, high: i32| value.parse().ok().filter(|number| (low..=high).contains(number));
        let is_new = match name {
            "partitions" => self.partitions.replace(number(1, 100_000)?).is_none(),
            "replication_factor" => self.replication_factor.replace(number(-1, 32_767)?).is_none(),
            "retention" => self.property("retention.ms", milliseconds(value.parse().ok()?)),
            "retention_bytes" => self.property("retention.bytes", bytes(value.parse().ok()?)),
            _ if is_property(name) && reserved::topic_property(name).is_none() => self.property(name, value.to_owned()),
            _ => return None,
        };
        is_new.then_some(())
    }

    fn property(&mut self, name: &str, value: String) -> bool {
        self.properties.insert(name.to_owned(), value).is_none()
    }
}

/// Kafka's names of topic properties have points, which a misspelt setting has not.
fn is_property(name: &str) -> bool {
    name.contains('.') && name.chars().all(|c| c.is_ascii_lowercase() || c == '.')
}

/// The value of `retention.ms`.
#[must_use]
pub fn milliseconds(retention: Bound<Period>) -> String {
    retention.0.map_or_else(unlimited, |period| period.0.as_millis().to_string())
}

/// The value of `retention.bytes`.
#[must_use]
pub fn bytes(retention: Bound<ByteSize>) -> String {
    retention.0.map_or_else(unlimited, |size| size.0.to_string())
}

fn unlimited() -> String {
    "-1".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_with_their_units_and_properties_pass_through() {
        let list: TopicList =
            "partitions = 12, retention=7d, retention_bytes = unlimited, min.insync.replicas = 2".parse().unwrap();
        let properties = [("retention.ms", "604800000"), ("retention.bytes", "-1"), ("min.insync.replicas", "2")];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(list, TopicList { partitions: Some(12), replication_factor: None, properties });
    }

    #[test]
    fn what_is_no_setting_or_said_twice_is_refused() {
        for bad in [
            "",
            "partitions",
            "partitions = 0",
            "partitions = 3, partitions = 4",
            "partition = 3",
            "retention = 7",
            "retention.ms = 5",
            "cleanup.policy = compact",
            "min.insync.replicas =",
            "partitions = 3,",
        ] {
            assert_eq!(rule(bad), Err(EXPECTATION), "{bad}");
        }
    }
}
