//! Kafka: whether the brokers answer, and whether the topics that are there fit.

use std::{collections::BTreeMap, time::Duration};

use super::{
    deps::KafkaDeps,
    finding::{Finding, Findings, Part},
};
use crate::{
    avro::content::{OwnHeaders, Truncates},
    kafka::{Admin, TopicDescription, Transactional},
    pipeline::capture::BadRowPolicy,
    record::state_topic,
    source::catalog::PublishedTable,
};

const TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn check(deps: &KafkaDeps, tables: &[PublishedTable]) -> Vec<Finding> {
    let mut findings = Findings::new(Part::Kafka);
    let brokers = deps.settings.address();
    let admin = match Admin::new(&deps.settings) {
        Ok(admin) => admin,
        Err(error) => {
            findings.failed(brokers, &error);
            return findings.into_list();
        }
    };
    let topics = match tokio::task::block_in_place(|| admin.partition_counts(TIMEOUT)) {
        Ok(topics) => topics,
        Err(error) => {
            findings.failed(brokers, &error);
            return findings.into_list();
        }
    };
    findings.ok(&brokers, format!("answers; topics: {}", topics.len()));
    delivery(&mut findings, deps, &admin).await;
    forms(&mut findings, deps);
    settings(&mut findings, deps, tables);
    signals(&mut findings, deps, (&admin, &topics)).await;
    let beside = [deps.names.messages(), deps.names.transactions(), deps.names.dead_letters()];
    let is_own = |topic: &&String| deps.names.table_of(topic).is_some() || beside.contains(&topic.as_str());
    let own: Vec<_> = topics.keys().filter(is_own).collect();
    if own.is_empty() {
        findings.ok(format!("topics of prefix {}", deps.prefix), "none yet; capture creates them");
    }
    for topic in own {
        match admin.describe(topic).await {
            Ok(Some(description)) => describe(&mut findings, deps, topic, &description),
            Ok(None) => {}
            Err(error) => findings.failed(format!("topic {topic}"), &error),
        }
    }
    state(&mut findings, deps, &admin, topics.keys()).await;
    findings.into_list()
}

/// Brokers refuse a transactional producer whose time-out is longer than theirs.
async fn delivery(findings: &mut Findings, deps: &KafkaDeps, admin: &Admin) {
    const LONGEST: &str = "transaction.max.timeout.ms";
    let Some(Transactional { id, timeout }) = &deps.transactional else {
        findings.ok("capture.delivery", "at least once");
        return;
    };
    let shown = match admin.broker_settings(LONGEST).await {
        Ok(shown) => shown,
        Err(error) => {
            findings.failed("capture.delivery", &error);
            return;
        }
    };
    let longest = shown.iter().filter_map(|text| text.parse::<u128>().ok()).min();
    match longest.filter(|longest| *longest < timeout.as_millis()) {
        Some(longest) => findings.problem(
            "capture.transaction_timeout",
            format!("is {timeout:?}, the brokers allow {longest} ms ({LONGEST})"),
            format!("Set it to {longest}ms or less, or raise {LONGEST} of the brokers."),
        ),
        None => findings.ok("capture.delivery", format!("exactly once, under transactional id {id}")),
    }
}

/// What apply does without.
fn forms(findings: &mut Findings, deps: &KafkaDeps) {
    if deps.flat {
        findings.warning(
            "format.records",
            "are flat: walrelay apply refuses such topics, other consumers read them",
            "Set format.records = \"envelope\" where apply is to read the topics.",
        );
    }
    if deps.content.own_headers == OwnHeaders::LeftOut {
        findings.warning(
            "format.own_headers",
            "are left out: apply takes the topics for Debezium's, so a target lacks what Debezium's forms lose, and a repeated record is applied again",
            "Set format.own_headers = true where apply is to read the topics.",
        );
    }
    bad_rows(findings, deps);
    let truncates = match deps.content.truncates {
        Truncates::Broadcast => return,
        Truncates::Single => {
            "are single records: apply stops the tables of a TRUNCATE where one has several partitions"
        }
        Truncates::Skipped => "are not published: a target keeps the rows that a TRUNCATE removes at the source",
    };
    let hint = "Set format.truncates = \"broadcast\" where apply is to read the topics.";
    findings.warning("format.truncates", truncates, hint);
}

/// What targets may lack by choice.
fn bad_rows(findings: &mut Findings, deps: &KafkaDeps) {
    const KEY: &str = "capture.on_bad_row";
    match deps.bad_rows {
        BadRowPolicy::Stop => return,
        BadRowPolicy::Skip => findings.warning(
            KEY,
            "is skip: what cannot be published of a row is in no topic",
            "Set capture.on_bad_row = \"dead-letter\" to have it in a topic of its own.",
        ),
        BadRowPolicy::DeadLetter => {
            findings.ok(KEY, format!("what cannot be published of a row goes to topic {}", deps.names.dead_letters()));
        }
    }
    if deps.content.own_headers == OwnHeaders::LeftOut {
        findings.warning(
            KEY,
            "leaves rows out, and without walrelay's own headers an update of such a row that lacks columns stops its table at apply",
            "Set format.own_headers = true where apply is to read the topics.",
        );
    }
}

/// Signals have an order in one partition alone.
async fn signals(findings: &mut Findings, deps: &KafkaDeps, (admin, topics): (&Admin, &BTreeMap<String, i32>)) {
    let Some(topic) = &deps.signal_topic else { return };
    let subject = format!("signal topic {topic}");
    match topics.get(topic) {
        Some(1) => match admin.describe(topic).await {
            Ok(found) if found.as_ref().is_some_and(|found| found.is_compacted()) => findings.warning(
                subject,
                "is compacted: all signals have one key, and the brokers keep the last one alone",
                format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=delete"),
            ),
            Ok(_) => findings.ok(subject, "has one partition"),
            Err(error) => findings.failed(subject, &error),
        },
        Some(partitions) => findings.problem(
            subject,
            format!("has {partitions} partitions, and signals have an order in a single one alone"),
            "Name another topic in capture.signal_topic, or create it anew.",
        ),
        None if deps.create => findings.ok(subject, "is not there yet; capture creates it"),
        None => findings.problem(
            subject,
            "does not exist",
            format!("kafka-topics.sh --create --topic {topic} --partitions 1, or let capture create it (kafka.topics.create = true)."),
        ),
    }
}

/// The state topic must forget nothing.
async fn state(findings: &mut Findings, deps: &KafkaDeps, admin: &Admin, topics: impl Iterator<Item = &String>) {
    let name = state_topic(&deps.prefix);
    let subject = format!("topic {name}");
    for topic in topics.filter(|topic| **topic == name) {
        let found = match admin.describe(topic).await {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => {
                findings.failed(&subject, &error);
                continue;
            }
        };
        let policy = found.config.get("cleanup.policy").map_or("", String::as_str);
        if policy == "compact" {
            findings.ok(&subject, "compacted");
        } else {
            findings.problem(
                &subject,
                format!("cleanup.policy of state topic {name} is {policy}: it would forget what is recorded there"),
                format!("kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact"),
            );
        }
    }
}

/// How many partitions a topic should have, and what says so; `None` where nothing does.
fn partitions(deps: &KafkaDeps, topic: &str) -> Option<(&'static str, i32)> {
    if topic == deps.names.transactions() || topic == deps.names.dead_letters() {
        return None;
    }
    let common = deps.topics.common.partitions;
    let wanted = match deps.names.table_of(topic) {
        Some(table) => deps.topics.of(&table).ok()?.partitions,
        None => common,
    };
    Some((if wanted == common { "kafka.topics.partitions" } else { "kafka.topics.tables" }, wanted))
}

/// Entries of which nobody knows which one holds.
fn settings(findings: &mut Findings, deps: &KafkaDeps, tables: &[PublishedTable]) {
    for name in tables.iter().map(|table| &table.relation.name) {
        if let Err(contradiction) = deps.topics.of(name) {
            findings.problem(
                "kafka.topics.tables",
                format!("contradicts itself on the topic of table {name}: {contradiction}"),
                format!(
                    "Let the two say the same, or add an entry {name} without wildcards, which is stronger than both."
                ),
            );
        }
    }
}

fn describe(findings: &mut Findings, deps: &KafkaDeps, topic: &str, found: &TopicDescription) {
    let subject = format!("topic {topic}");
    let config = |name: &str| found.config.get(name).map_or("", String::as_str);
    let alter = |change: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {change}")
    };
    let mut fine = true;
    match partitions(deps, topic) {
        // The topic of transactions is used as if it had one partition, and that of dead letters as it is.
        Some((key, wanted)) if found.partitions != wanted => {
            fine = false;
            findings.problem(
                &subject,
                format!("has {} partitions, {key} says {wanted}", found.partitions),
                format!("Set {key} to the topic's count, or start over with a new prefix: keys must not move."),
            );
        }
        _ => {}
    }
    if config("cleanup.policy").contains("compact") {
        fine = false;
        findings.problem(
            &subject,
            "is compacted: it rejects TRUNCATE, and loses columns that an update did not carry",
            alter("cleanup.policy=delete"),
        );
    }
    if found.replicas > 1 && config("min.insync.replicas").parse().unwrap_or(1) < 2 {
        fine = false;
        findings.warning(
            &subject,
            format!("has {} replicas, but one alone may acknowledge: its loss loses events", found.replicas),
            alter("min.insync.replicas=2"),
        );
    }
    if config("unclean.leader.election.enable") == "true" {
        fine = false;
        findings.warning(
            &subject,
            "elects leaders that miss acknowledged events",
            alter("unclean.leader.election.enable=false"),
        );
    }
    if fine {
        findings.ok(subject, format!("partitions: {}, replicas: {}", found.partitions, found.replicas));
    }
}
