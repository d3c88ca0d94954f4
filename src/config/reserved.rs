//! librdkafka properties that walrelay sets itself, because its guarantees rest on them.

/// A property that a configuration must not set, and why.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    name: &'static str,
    reason: &'static str,
}

const fn reserved(name: &'static str, reason: &'static str) -> Reserved {
    Reserved { name, reason }
}

const GAPLESS: &str = "a partition must never show an event without its predecessor";
const DURABLE: &str = "the flush LSN moves only past events that every in-sync replica has";
const OFFSETS: &str = "offsets live in the target, in the transaction of the rows";

/// Aliases included (librdkafka, CONFIGURATION.md).
const CLIENT: [Reserved; 29] = [
    reserved("bootstrap.servers", "it is set by kafka.brokers"),
    reserved("metadata.broker.list", "it is set by kafka.brokers"),
    reserved("enable.idempotence", GAPLESS),
    reserved("enable.gapless.guarantee", GAPLESS),
    reserved("max.in.flight", GAPLESS),
    reserved("max.in.flight.requests.per.connection", GAPLESS),
    reserved("retries", GAPLESS),
    reserved("message.send.max.retries", GAPLESS),
    reserved("message.timeout.ms", "an event must never expire in the queue"),
    reserved("delivery.timeout.ms", "an event must never expire in the queue"),
    reserved("acks", DURABLE),
    reserved("request.required.acks", DURABLE),
    reserved("delivery.report.only.error", DURABLE),
    reserved("produce.offset.report", DURABLE),
    reserved("partitioner", "a key must always reach the same partition, the one that Java clients choose"),
    reserved("transactional.id", "it fences a second capture of the same slot"),
    reserved("queue.buffering.max.messages", "the queue is bounded in bytes, by capture.memory"),
    reserved("queue.buffering.max.kbytes", "the queue is bounded in bytes, by capture.memory"),
    reserved("queued.max.messages.kbytes", "the queue is bounded in bytes, by apply.memory"),
    reserved("compression.codec", "it is set by kafka.compression"),
    reserved("compression.type", "it is set by kafka.compression"),
    reserved("group.id", "it is set by apply.group"),
    reserved("enable.auto.commit", OFFSETS),
    reserved("auto.commit.interval.ms", OFFSETS),
    reserved("enable.auto.offset.store", OFFSETS),
    reserved("auto.offset.reset", "a lost offset must stop apply, not skip what is missing"),
    reserved("enable.partition.eof", "apply needs to know where a partition ends"),
    reserved("partition.assignment.strategy", "positions are fenced under the cooperative protocol"),
    reserved("isolation.level", "aborted records must not be applied"),
];

const TOPIC: [Reserved; 3] = [
    reserved("cleanup.policy", "it is set by kafka.topics.cleanup_policy"),
    reserved("retention.ms", "it is set by kafka.topics.retention"),
    reserved("retention.bytes", "it is set by kafka.topics.retention_bytes"),
];

/// Why a client property must not be set; `None` when it may.
#[must_use]
pub fn client_property(name: &str) -> Option<&'static str> {
    find(&CLIENT, name)
}

/// Why a topic property must not be set; `None` when it may.
#[must_use]
pub fn topic_property(name: &str) -> Option<&'static str> {
    find(&TOPIC, name)
}

/// Whether a property's value must not be shown.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let hidden = ["password", "secret", "token", "jaas", ".pem", "sasl.oauthbearer.config"];
    let place = name.rsplit('.').next().is_some_and(|last| matches!(last, "location" | "url"));
    hidden.iter().any(|part| name.contains(part)) && !place
}

fn find(list: &[Reserved], name: &str) -> Option<&'static str> {
    list.iter().find(|reserved| reserved.name == name).map(|reserved| reserved.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_carry_a_guarantee_are_reserved_and_others_pass() {
        for name in ["acks", "enable.idempotence", "partitioner", "auto.offset.reset", "transactional.id"] {
            assert!(client_property(name).is_some(), "{name}");
        }
        for name in ["security.protocol", "sasl.mechanism", "linger.ms", "fetch.max.bytes"] {
            assert_eq!(client_property(name), None, "{name}");
        }
        assert!(topic_property("retention.ms").is_some());
        assert_eq!(topic_property("min.insync.replicas"), None);
    }

    #[test]
    fn values_of_secret_properties_are_hidden() {
        for name in ["sasl.password", "ssl.key.pem", "ssl.key.password", "sasl.oauthbearer.client.secret"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "ssl.key.location", "sasl.oauthbearer.token.endpoint.url"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
