//! From the configuration's sections to the settings of the adapters.

use std::collections::BTreeMap;

use crate::{
    avro::{
        content::{Content, EmptyTransactions, OwnHeaders, Tombstones},
        flat::{Flat, Metadata, Records},
        subject::SubjectNaming,
    },
    config::{
        self, Apply, Capture, FlatRecords, Format, Kafka, RecordsKind, Registry, Secret, SubjectStrategy, TopicList,
        Topics, bytes, milliseconds,
    },
    kafka,
    pipeline::{
        capture::{BadRowPolicy, FailoverSlot},
        topic_plan::TopicPlan,
    },
    record::{Masks, TopicNames},
    registry::RegistrySettings,
    schema::TableName,
    selection::{PatternError, Rules},
    source::{
        self,
        key_columns::KeyColumns,
        publication::{PublicationSpec, TablePatterns},
        shape::Shapes,
        unidentified::Unidentified,
    },
    types::{Modes, Salt},
};

/// Attempts per call before a registry counts as unreachable; the wiring retries beyond that.
const REGISTRY_ROUNDS: u32 = 3;

/// How to reach the cluster.
pub(super) fn kafka(config: &Kafka) -> kafka::Settings {
    kafka::Settings { brokers: config.brokers.clone(), properties: config.properties.clone() }
}

/// How topics are created.
pub(super) fn topics(config: &Kafka) -> Result<TopicPlan, PatternError> {
    let (mut partitions, mut replicas, mut properties) = (Vec::new(), Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for (pattern, text) in &config.topics.tables {
        // The text was checked with the configuration.
        let TopicList { partitions: count, replication_factor, properties: own } = text.parse().unwrap_or_default();
        partitions.extend(count.map(|count| (pattern.as_str(), count)));
        replicas.extend(replication_factor.map(|replicas| (pattern.as_str(), replicas)));
        for (property, value) in own {
            properties.entry(property).or_default().push((pattern.as_str(), value));
        }
    }
    let rules = |(property, rules)| Ok((property, Rules::new(2, rules)?));
    Ok(TopicPlan {
        common: common_topics(config),
        partitions: Rules::new(2, partitions)?,
        replication_factor: Rules::new(2, replicas)?,
        properties: properties.into_iter().map(rules).collect::<Result<_, PatternError>>()?,
    })
}

/// The passed-through properties with the settings that have keys of their own.
fn common_topics(config: &Kafka) -> kafka::TopicSettings {
    let topics = &config.topics;
    let mut properties: BTreeMap<_, _> = topics.config.clone();
    properties.insert("retention.ms".to_owned(), milliseconds(topics.retention));
    properties.insert("retention.bytes".to_owned(), bytes(topics.retention_bytes));
    properties.insert("cleanup.policy".to_owned(), topics.cleanup_policy.clone());
    kafka::TopicSettings {
        partitions: topics.partitions,
        replication_factor: topics.replication_factor,
        config: properties,
    }
}

/// How topics are named; the templates were checked with the configuration.
pub(super) fn topic_names(config: &Kafka, database: Option<&str>) -> TopicNames {
    let (Topics { names, messages, transactions, dead_letters, routes, .. }, database) =
        (&config.topics, database.unwrap_or_default());
    let names = TopicNames::of_templates(names, messages, &config.prefix, database);
    let names = names.unwrap_or_else(|_| TopicNames::new(&config.prefix));
    // Where it is not wanted nothing was checked.
    let names = names.clone().with_transactions(transactions, &config.prefix, database).unwrap_or(names);
    let names = names.clone().with_dead_letters(dead_letters, &config.prefix, database).unwrap_or(names);
    let routes = routes.iter().map(|(glob, topic)| (glob.as_str(), topic.as_str()));
    names.clone().with_routes(routes, &config.prefix, database).unwrap_or(names)
}

/// How to reach the registry.
pub(super) fn registry(config: &Registry) -> RegistrySettings {
    let password = config.password.as_ref().map(|password| password.reveal().to_owned());
    RegistrySettings {
        urls: config.urls.clone(),
        basic_auth: config.username.clone().map(|user| (user, password)),
        ca: config.ca.clone(),
        identity: config.cert.clone().zip(config.key.clone()),
        timeout: config.timeout.0,
        auto_register: config.auto_register,
        rounds: REGISTRY_ROUNDS,
    }
}

/// The publication, as capture wants it.
pub(super) fn publication(config: &Capture) -> Result<PublicationSpec, source::Error> {
    Ok(PublicationSpec {
        name: config.publication.clone(),
        tables: TablePatterns::new(&config.include, &config.exclude)?,
        shapes: Shapes::new(&config.column_lists, &config.row_filters),
        keys: KeyColumns::new(&config.key_columns),
        unidentified: match config.unidentified {
            config::OnUnidentified::Refuse => Unidentified::Refuse,
            config::OnUnidentified::Full => Unidentified::Full,
            config::OnUnidentified::Publish => Unidentified::Publish,
        },
        create: config.create_publication,
        signal_table: config
            .signal_table
            .as_deref()
            .and_then(|text| text.split_once('.'))
            .map(|(schema, table)| TableName::new(schema, table)),
    })
}

/// Whether stand-bys keep the slot.
pub(super) const fn failover(config: &Capture) -> FailoverSlot {
    match config.failover {
        config::FailoverSlot::Auto => FailoverSlot::Auto,
        config::FailoverSlot::On => FailoverSlot::On,
        config::FailoverSlot::Off => FailoverSlot::Off,
    }
}

/// What to do with a change of one row that cannot be published.
pub(super) const fn bad_rows(config: &Capture) -> BadRowPolicy {
    match config.on_bad_row {
        config::OnBadRow::Stop => BadRowPolicy::Stop,
        config::OnBadRow::DeadLetter => BadRowPolicy::DeadLetter,
        config::OnBadRow::Skip => BadRowPolicy::Skip,
    }
}

/// Where a source's table is applied to.
pub(super) fn place(config: &Apply, source: &TableName) -> TableName {
    let schema = config.schemas.get(&*source.schema).map_or(&*source.schema, String::as_str);
    TableName::new(schema, source.table.clone())
}

/// The forms of values.
pub(super) const fn modes(config: &Format) -> Modes {
    let Format { decimal, interval, binary, time, hstore, trailing_zeros, timetz, special_values, .. } = *config;
    Modes { decimal, interval, binary, time, hstore, trailing_zeros, timetz, special_values }
}

/// What events say around the values.
pub(super) const fn content(config: &Format) -> Content {
    Content {
        nullability: config.nullability,
        parameters: config.parameters,
        transaction: config.transaction,
        transaction_id: config.transaction_id,
        context_headers: config.context_headers,
        tombstones: if config.tombstones { Tombstones::OnDelete } else { Tombstones::Never },
        keyless_tombstones: config.keyless_tombstones,
        truncates: config.truncates,
        own_headers: if config.own_headers { OwnHeaders::Written } else { OwnHeaders::LeftOut },
        empty_transactions: if config.empty_transactions {
            EmptyTransactions::Told
        } else {
            EmptyTransactions::LeftOut
        },
        total_order: config.total_order,
        column_defaults: config.column_defaults,
        unknown_types: config.unknown_types,
        header_converter: config.header_converter,
    }
}

/// What records' values are.
pub(super) fn records(config: &Format) -> Records {
    let FlatRecords { deletes, fields, headers, field_prefix, header_prefix } = &config.flat;
    let named = |texts: &[String], prefix: &str| texts.iter().filter_map(|text| Metadata::new(text, prefix)).collect();
    match config.records {
        RecordsKind::Envelope => Records::Envelope,
        RecordsKind::Flat => Records::Flat(Flat {
            deletes: *deletes,
            fields: named(fields, field_prefix),
            headers: named(headers, header_prefix),
        }),
    }
}

/// What is published in place of some columns.
pub(super) fn masks(config: &Capture) -> Result<Masks, PatternError> {
    // The texts were checked with the configuration.
    let masks = config.masks.iter().filter_map(|(pattern, text)| Some((pattern.as_str(), text.parse().ok()?)));
    let salt = config.mask_salt.as_ref().map_or("", Secret::reveal);
    Ok(Masks::new(Rules::new(3, masks)?, Salt::new(salt)))
}

/// How subjects are named.
pub(super) const fn subjects(config: &Registry) -> SubjectNaming {
    match config.subject_strategy {
        SubjectStrategy::TopicName => SubjectNaming::Topic,
        SubjectStrategy::RecordName => SubjectNaming::Record,
        SubjectStrategy::TopicRecordName => SubjectNaming::TopicRecord,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CheckConfig, Layers};

    /// The golden tests compare these forms with what Debezium wrote.
    #[test]
    fn compatibility_gives_debezium_s_forms() {
        let compatible = [("WALRELAY_FORMAT__COMPATIBILITY".to_owned(), "debezium".to_owned())];
        let format = CheckConfig::new(&Layers::read(None, compatible).unwrap()).unwrap().format;
        assert_eq!((modes(&format), content(&format)), (Modes::DEBEZIUM, Content::DEBEZIUM));
    }

    #[test]
    fn retention_is_unlimited_unless_it_is_set() {
        let topics_of = |environment: &[(&str, &str)]| {
            let owned = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            topics(&CheckConfig::new(&Layers::read(None, owned).unwrap()).unwrap().kafka).unwrap().common
        };
        let unlimited = topics_of(&[]);
        assert_eq!(unlimited.config["retention.ms"], "-1");
        assert_eq!(unlimited.config["retention.bytes"], "-1");
        assert_eq!(unlimited.config["cleanup.policy"], "delete");
        let limited = topics_of(&[
            ("WALRELAY_KAFKA__TOPICS__RETENTION", "7d"),
            ("WALRELAY_KAFKA__TOPICS__RETENTION_BYTES", "1GiB"),
            ("WALRELAY_KAFKA__TOPICS__CONFIG__MIN_INSYNC_REPLICAS", "2"),
        ]);
        assert_eq!(limited.config["retention.ms"], "604800000");
        assert_eq!(limited.config["retention.bytes"], "1073741824");
        assert_eq!(limited.config["min.insync.replicas"], "2");
    }
}
