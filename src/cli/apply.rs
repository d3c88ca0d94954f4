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
    registry::{Registry, RegistryError},
    sink,
    source::publication::TablePatterns,
};

/// Applies until a signal or a fatal error.
pub(super) async fn run(layers: &Layers) -> Result<Exit, Error> {
    let config = ApplyConfig::new(layers).map_err(Error::usage)?;
    let tables = TablePatterns::new(&config.apply.include, &config.apply.exclude).map_err(Error::usage)?;
    let settings = settings(&config, tables).map_err(Error::usage)?;
    let half = Runner::start(Half::Apply, &config.log, config.listen, config.silence).await?;
    let metrics = ApplyMetrics::new(&half.registry).map_err(super::half::MetricsError::from)?;
    let health = half.health.clone();
    half.run(|shutdown| async move { apply::supervise(&settings, &metrics, &health, shutdown).await }).await?;
    Ok(Exit::Success)
}

fn settings(config: &ApplyConfig, tables: TablePatterns) -> Result<ApplySettings, RegistryError> {
    let (apply, kafka) = (&config.apply, &config.kafka);
    // The rest is librdkafka's queue.
    let memory = apply.memory.as_usize() / 4 * 3;
    let names = settings::topic_names(kafka, config.database.as_deref());
    let mut properties = kafka.consumer.clone();
    let unwanted = properties.entry("topic.blacklist".to_owned()).or_default();
    *unwanted = unwanted_topics(apply, &names, unwanted);
    let subscription = subscription(apply, &names);
    let named = names.clone();
    let table_of = move |topic: &str| {
        let table = names.readings(topic).find(|table| tables.matches(table));
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
        registry: Registry::new(&settings::registry(&config.registry))?,
        sink: sink::Settings {
            server: config.target.clone(),
            schema: apply.bookkeeping_schema.clone(),
            instance: apply.group.clone(),
            owner: owner(),
            schemas: apply.schemas.clone(),
            evolve: apply.evolve,
            take_over: apply.take_over,
            replica_role: apply.replica_role,
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
    configured.into_iter().chain(own_topic_patterns()).chain(excluded).collect::<Vec<_>>().join(",")
}

/// Topics by the table patterns, or exactly the configured partitions (`topic:partition`, as the configuration checked).
fn subscription(apply: &config::Apply, names: &TopicNames) -> Subscription {
    let group = apply.group.clone();
    if apply.partitions.is_empty() {
        let topics = apply.include.iter().map(|glob| names.pattern(glob)).collect();
        return Subscription::Group { group, topics };
    }
    let split = |text: &String| {
        let (topic, partition) = text.rsplit_once(':')?;
        Some((topic.to_owned(), partition.parse().ok()?))
    };
    Subscription::Assigned { group, partitions: apply.partitions.iter().filter_map(split).collect() }
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

    #[test]
    fn two_processes_of_one_name_and_id_are_different_owners() {
        assert_ne!(owner(), owner());
        assert!(owner().starts_with(&format!("{}:{}:", hostname(), std::process::id())));
    }
}
