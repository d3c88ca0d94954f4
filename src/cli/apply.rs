//! `walrelay apply`.

use std::{
    collections::BTreeSet,
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
    let listed = listed_partitions(apply).into_iter().map(|(topic, _)| topic).collect::<BTreeSet<_>>();
    let table_of = move |topic: &str| {
        let is_listed = listed.contains(topic);
        let table = names.readings(topic).find(|table| is_listed || tables.matches(table));
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
/// names tell apart is left out by these. A list of partitions says by itself what is wanted.
fn unwanted_topics(apply: &config::Apply, names: &TopicNames, configured: &str) -> String {
    let configured = Some(configured.to_owned()).filter(|patterns| !patterns.is_empty());
    let excluded = apply.exclude.iter().filter(|_| apply.partitions.is_empty());
    let excluded = excluded.filter_map(|glob| names.exact_pattern(glob));
    configured.into_iter().chain(own_topic_patterns()).chain(excluded).collect::<Vec<_>>().join(",")
}

/// Topics by the table patterns, or exactly the configured partitions.
fn subscription(apply: &config::Apply, names: &TopicNames) -> Subscription {
    let group = apply.group.clone();
    if apply.partitions.is_empty() {
        let topics = apply.include.iter().map(|glob| names.pattern(glob)).collect();
        return Subscription::Group { group, topics };
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

    #[test]
    fn two_processes_of_one_name_and_id_are_different_owners() {
        assert_ne!(owner(), owner());
        assert!(owner().starts_with(&format!("{}:{}:", hostname(), std::process::id())));
    }
    #[test]
    fn listed_partitions_are_applied_whatever_the_patterns_say() {
        let environment = [
            ("WALRELAY_KAFKA__BROKERS", "k:9092"),
            ("WALRELAY_REGISTRY__URLS", "http://r"),
            ("WALRELAY_TARGET__HOST", "b"),
            ("WALRELAY_TARGET__DATABASE", "copy"),
            ("WALRELAY_KAFKA__PREFIX", "p"),
            ("WALRELAY_APPLY__EXCLUDE", "public.orders,public.lines"),
        ];
        let settings = |partitions: Option<&str>| {
            let listed = partitions.map(|text| ("WALRELAY_APPLY__PARTITIONS", text));
            let environment =
                environment.into_iter().chain(listed).map(|(name, value)| (name.to_owned(), value.to_owned()));
            let config = ApplyConfig::new(&Layers::read(None, environment).unwrap()).unwrap();
            let tables = TablePatterns::new(&config.apply.include, &config.apply.exclude).unwrap();
            settings(&config, tables).unwrap()
        };
        let (of_group, of_list) = (settings(None), settings(Some("p.public.orders:0")));
        let (orders, lines) = ("p.public.orders", "p.public.lines");
        assert!((of_group.table_of)(orders).is_none());
        assert!((of_list.table_of)(orders).is_some() && (of_list.table_of)(lines).is_none());
        let is_unwanted = |settings: &ApplySettings| settings.consumer.properties["topic.blacklist"].contains("orders");
        assert!(is_unwanted(&of_group) && !is_unwanted(&of_list));
    }
}
