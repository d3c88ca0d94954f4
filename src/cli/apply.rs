//! `walrelay apply`.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
};

use super::{half::Runner, settings};
use crate::{
    config::{self, ApplyConfig, Layers},
    error::{Error, Exit},
    kafka::{ConsumerSettings, Subscription},
    pipeline::{
        apply::{self, ApplySettings, Limits},
        health::Half,
        metrics::ApplyMetrics,
    },
    record::{TopicNames, own_topic_patterns},
    registry::Registry,
    retry::{Classify, Severity},
    sink,
    source::publication::TablePatterns,
};

/// Applies until a signal or a fatal error.
pub(super) async fn run(layers: &Layers) -> Result<Exit, Error> {
    let config = ApplyConfig::new(layers).map_err(Error::usage)?;
    let tables = TablePatterns::new(&config.apply.include, &config.apply.exclude).map_err(Error::usage)?;
    let settings = settings(&config, tables)?;
    let half = Runner::start(Half::Apply, &config.log, config.listen, config.silence).await?;
    let metrics = ApplyMetrics::new(&half.registry).map_err(super::half::MetricsError::from)?;
    let health = half.health.clone();
    half.run(|shutdown| async move { apply::supervise(&settings, &metrics, &health, shutdown).await }).await?;
    Ok(Exit::Success)
}

/// A partition is listed whose table is not among those that are applied.
#[derive(Debug, thiserror::Error)]
#[error("apply.partitions lists topic {topic}, whose table apply.include and apply.exclude leave out")]
struct UnwantedTopic {
    topic: String,
}

impl Classify for UnwantedTopic {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        let hint = "The patterns choose the tables that all processes apply together, and the list what this one takes of them: \
                    let the patterns choose the table, or take the topic out of the list.";
        Some(hint.into())
    }
}

fn settings(config: &ApplyConfig, tables: TablePatterns) -> Result<ApplySettings, Error> {
    let (apply, kafka) = (&config.apply, &config.kafka);
    // The rest is librdkafka's queue.
    let memory = apply.memory.as_usize() / 4 * 3;
    let names = settings::topic_names(kafka, config.database.as_deref());
    let mut properties = kafka.consumer.clone();
    let unwanted = properties.entry("topic.blacklist".to_owned()).or_default();
    *unwanted = unwanted_topics(apply, &names, unwanted);
    let subscription = subscription(apply, &names);
    let named = names.clone();
    let unwanted = |topic: &String| names.table_of(topic).is_some() && tables.choose(names.readings(topic)).is_none();
    if let Some((topic, _)) = listed_partitions(apply).into_iter().find(|(topic, _)| unwanted(topic)) {
        return Err(Error::usage(UnwantedTopic { topic }));
    }
    let table_of = move |topic: &str| {
        let table = tables.choose(names.readings(topic));
        table.filter(|_| topic != names.messages())
    };
    Ok(ApplySettings {
        kafka: settings::kafka(kafka),
        consumer: ConsumerSettings { properties, budget_bytes: memory },
        subscription,
        siblings_timeout: apply.siblings_timeout.0,
        prefix: kafka.prefix.clone(),
        names: named,
        table_of: Arc::new(table_of),
        placeholder: config.format.unavailable_value.clone(),
        registry: Registry::new(&settings::registry(&config.registry)).map_err(Error::usage)?,
        sink: sink::Settings {
            server: config.target.clone(),
            schema: apply.bookkeeping_schema.clone(),
            instance: apply.group.clone(),
            owner: owner(),
            schemas: apply.schemas.clone(),
            evolve: apply.evolve,
            take_over: apply.take_over,
            replica_role: apply.replica_role,
            binary: config.format.binary,
        },
        limits: Limits {
            batch_records: apply.batch_rows,
            batch_bytes: apply.batch_bytes.as_usize(),
            linger: apply.batch_interval.0,
            budget_bytes: memory,
            workers: apply.workers,
            ..Limits::default()
        },
    })
}

/// Patterns of topics that are never looked at, as librdkafka takes them, beside those that were configured. What only tables'
/// names tell apart is left out by these.
fn unwanted_topics(apply: &config::Apply, names: &TopicNames, configured: &str) -> String {
    let configured = Some(configured.to_owned()).filter(|patterns| !patterns.is_empty());
    let excluded = apply.exclude.iter().filter_map(|glob| names.exact_pattern(glob));
    let own = own_topic_patterns().chain(names.patterns_beside());
    configured.into_iter().chain(own).chain(excluded).collect::<Vec<_>>().join(",")
}

/// Topics by the table patterns, or exactly the configured partitions.
fn subscription(apply: &config::Apply, names: &TopicNames) -> Subscription {
    let group = apply.group.clone();
    if apply.partitions.is_empty() {
        return Subscription::Group { group, topics: names.patterns(&apply.include) };
    }
    Subscription::Assigned { group, partitions: listed_partitions(apply) }
}

/// The partitions of the configuration: `topic:partition`, as it was checked.
fn listed_partitions(apply: &config::Apply) -> Vec<(String, i32)> {
    let split = |text: &String| {
        let (topic, partition) = text.rsplit_once(':')?;
        Some((topic.to_owned(), partition.parse().ok()?))
    };
    apply.partitions.iter().filter_map(split).collect()
}

/// Names this process among all that ever applied to the target: containers may share a machine's name and a process id.
fn owner() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}:{}:{random:016x}", hostname(), std::process::id())
}

/// The machine's name, where it is known.
fn hostname() -> String {
    std::fs::read_to_string("/etc/hostname").map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TableName;

    #[test]
    fn two_processes_of_one_name_and_id_are_different_owners() {
        assert_ne!(owner(), owner());
        assert!(owner().starts_with(&format!("{}:{}:", hostname(), std::process::id())));
    }
    /// Processes that share a table's partitions agree on what is applied by the patterns, which each of them has.
    #[test]
    fn a_topic_is_applied_if_the_patterns_choose_a_reading_of_it_and_listed_only_then() {
        let environment = [
            ("WALRELAY_KAFKA__BROKERS", "k:9092"),
            ("WALRELAY_REGISTRY__URLS", "http://r"),
            ("WALRELAY_TARGET__HOST", "b"),
            ("WALRELAY_TARGET__DATABASE", "copy"),
            ("WALRELAY_KAFKA__PREFIX", "p"),
            ("WALRELAY_APPLY__INCLUDE", "public.*,*.c"),
            ("WALRELAY_APPLY__EXCLUDE", "public.orders,eu.*"),
        ];
        let settings = |partitions: Option<&str>| {
            let listed = partitions.map(|text| ("WALRELAY_APPLY__PARTITIONS", text));
            let environment = environment.into_iter().chain(listed);
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let config = ApplyConfig::new(&Layers::read(None, environment).unwrap()).unwrap();
            let tables = TablePatterns::new(&config.apply.include, &config.apply.exclude).unwrap();
            settings(&config, tables)
        };
        let table_of = settings(None).unwrap().table_of;
        let applied = ["p.public.lines", "p.a.b.c", "p.a.c"];
        assert!(applied.into_iter().all(|topic| table_of(topic).is_some()));
        assert_eq!(table_of("p.a.b.c"), Some(TableName::new("a.b", "c")));
        for topic in ["p.public.orders", "p.eu.b.c", "p.a.b", "p.message"] {
            assert_eq!(table_of(topic), None, "{topic}");
        }
        assert!(settings(Some("p.public.lines:0")).is_ok());
        let refused = settings(Some("p.public.lines:0,p.public.orders:1")).err().unwrap();
        assert!(refused.report().contains("apply.partitions lists topic p.public.orders"), "{}", refused.report());
    }
}
