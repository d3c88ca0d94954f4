//! Every configuration key: the one list that files, environment, documentation and what is in effect are checked by.

use super::{
    by_name,
    key::{Key, Kind},
    reserved, rule, signals, stops,
};

const CONNECT_TIMEOUT: &str = "Time limit of a connection attempt; also the silence after which the server is asked, on another connection, whether it works on an answer still.";

const SSL_MODES: &[&str] = &["disable", "prefer", "require", "verify-ca", "verify-full"];

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

/// All keys, section by section.
pub const KEYS: &[Key] = &[
    key("source.host", Kind::Text(rule::text), None, "Host of the PostgreSQL server to capture from."),
    key("source.port", Kind::Integer(1, 65535), Some("5432"), "TCP port."),
    key("source.database", Kind::Text(rule::text), None, "Database; a slot belongs to one."),
    key(
        "source.user",
        Kind::Text(rule::text),
        Some("\"walrelay\""),
        "Role with the REPLICATION attribute and SELECT on the tables.",
    ),
    key("source.password", Kind::Secret, None, "Password. Better given by environment or file."),
    key("source.password_file", Kind::File, None, "File whose first line is the password; read at each connection."),
    key("source.sslmode", Kind::Choice(SSL_MODES), Some("\"prefer\""), "How far TLS is demanded, as libpq's sslmode."),
    key("source.ssl_root_cert", Kind::File, None, "PEM file of trusted authorities; else the system's."),
    key("source.ssl_cert", Kind::File, None, "PEM file of the client certificate."),
    key("source.ssl_key", Kind::File, None, "PEM file of the client certificate's key."),
    key("source.connect_timeout", Kind::Period, Some("\"10s\""), CONNECT_TIMEOUT),
    key("capture.slot", Kind::Text(rule::slot), Some("\"walrelay\""), "Replication slot; created when missing."),
    key("capture.publication", Kind::Text(rule::identifier), Some("\"walrelay\""), "Publication that has the tables."),
    key(
        "capture.create_publication",
        Kind::Bool,
        Some("true"),
        "Create the publication, and add tables to it that it lacks, also later.",
    ),
    key(
        "capture.unidentified",
        Kind::Choice(&["refuse", "full", "publish"]),
        Some("\"refuse\""),
        "What becomes of tables without a primary key, or with REPLICA IDENTITY NOTHING, when capture makes the publication: once they are published the source refuses their updates and deletes. refuse: capture ends and names them. full: they get REPLICA IDENTITY FULL (DEFAULT where they have a primary key), for which its role must own them. publish: they are only ever inserted into, and published as they are.",
    ),
    key(
        "capture.include",
        Kind::List(rule::table_glob),
        Some("[\"*.*\"]"),
        "Tables to capture, as globs over schema.table.",
    ),
    key(
        "capture.exclude",
        Kind::List(rule::table_glob),
        Some("[]"),
        "Tables to leave out, as globs; stronger than include.",
    ),
    key(
        "capture.snapshot",
        Kind::Choice(&["initial", "never", "only", "when-needed"]),
        Some("\"initial\""),
        "Whether a new slot begins with a snapshot of the tables. only: nothing else is captured, capture ends with exit code 0 when Kafka has all rows, and no slot is left (Debezium's initial_only). when-needed: as initial, and as on_gap = \"resnapshot\" when the slot or what it held is gone.",
    ),
    key(
        "capture.snapshot_connections",
        Kind::Integer(1, 64),
        Some("2"),
        "Connections that read the snapshot in parallel. Fewer where the server refuses more, or a statement waits for a table.",
    ),
    key(
        "capture.snapshot_chunk_bytes",
        Kind::Size,
        Some("\"64MiB\""),
        "What one of them reads again at most after a kill, in bytes of a table's blocks: it reads ranges of a quarter of that, and no further while so much is not recorded.",
    ),
    key(
        "capture.snapshot_guard",
        Kind::Choice(&["warn", "stop", "off"]),
        Some("\"warn\""),
        "When max_slot_wal_keep_size allows the slot less log than the tables occupy, so that it may be lost before the snapshot is through: warn, or stop.",
    ),
    key(
        "capture.binary",
        Kind::Bool,
        Some("true"),
        "Ask the server for values in binary, from PostgreSQL 14 on, where all columns have types that are read so; else for text. Events are the same.",
    ),
    key(
        "capture.origin",
        Kind::Choice(&["any", "none"]),
        Some("\"any\""),
        "Whether transactions are published that were themselves replicated to the source (any), or only its own (none).",
    ),
    key(
        "capture.streaming",
        Kind::Bool,
        Some("true"),
        "Ask the server for large transactions while they run, and keep them in the spool until they commit; else the server keeps them (docs/operations.md).",
    ),
    key(
        "capture.memory",
        Kind::Size,
        Some("\"64MiB\""),
        "Bound of all queues between the replication socket and Kafka.",
    ),
    key(
        "capture.delivery",
        Kind::Choice(&["at-least-once", "exactly-once"]),
        Some("\"at-least-once\""),
        "How often a change may come into Kafka: again after a crash, or once for consumers that read committed records only (isolation.level = read_committed), by Kafka transactions (docs/guarantees.md).",
    ),
    key("capture.commit_interval", Kind::Period, Some("\"50ms\""), "How long a Kafka transaction of it is filled."),
    key("capture.transaction_timeout", Kind::Period, Some("\"10m\""), "How long the brokers leave one open."),
    key(
        "capture.failover",
        Kind::Choice(&["auto", "on", "off"]),
        Some("\"auto\""),
        "Whether the slot is a failover slot, which stand-bys keep for their promotion (PostgreSQL 17 and later; docs/operations.md). auto: a new one is where the server can make it so. on, off: one that is there is altered.",
    ),
    key(
        "capture.on_gap",
        Kind::Choice(&["stop", "trust-slot", "resnapshot"]),
        Some("\"stop\""),
        "When WAL that was not captured is gone: stop, go on without it where the slot was moved ahead (and stop otherwise), or begin anew with a snapshot into the same topics.",
    ),
    stops::ON_UNLOGGED,
    stops::ON_PARTITIONS,
    stops::ON_STOP,
    stops::HOLD_LIMIT,
    stops::ON_BAD_ROW,
    signals::SIGNAL_TABLE,
    signals::SIGNAL_TOPIC,
    key(
        "capture.status_interval",
        Kind::Period,
        Some("\"100ms\""),
        "Least time between two unasked status updates to the server.",
    ),
    key(
        "capture.receive_timeout",
        Kind::Period,
        Some("\"2m\""),
        "Silence that ends the connection where the server's wal_sender_timeout is off; else twice that.",
    ),
    key(
        "capture.checkpoint_interval",
        Kind::Period,
        Some("\"250ms\""),
        "How often positions are recorded; the slot moves no further than the record.",
    ),
    key(
        "capture.heartbeat_interval",
        Kind::Text(rule::period_or_off),
        Some("\"off\""),
        "How often a record is sent to the topic __debezium-heartbeat.<prefix>, by which consumers see that capture lives (Debezium's heartbeat.interval.ms).",
    ),
    key(
        "capture.source_heartbeat_interval",
        Kind::Text(rule::period_or_off),
        Some("\"off\""),
        "How often a logical message is written into the source's log (pg_logical_emit_message, prefix walrelay.heartbeat; no table is needed), which capture reads and publishes nowhere: a source without changes then shows that the whole way from its log works, and how long it takes. Not at a stand-by.",
    ),
    key(
        "capture.transactions",
        Kind::Bool,
        Some("false"),
        "Whether begins and ends of transactions, with how many events of each table they have, are published to a topic of their own (Debezium's provide.transaction.metadata).",
    ),
    by_name::COLUMN_LISTS,
    by_name::ROW_FILTERS,
    by_name::KEY_COLUMNS,
    by_name::MASKS,
    by_name::MASK_SALT,
    by_name::MASK_SALT_FILE,
    key("capture.spool.memory", Kind::Size, Some("\"16MiB\""), "What is kept in memory; the rest is in a file."),
    key(
        "capture.spool.limit",
        Kind::Size,
        Some("\"4GiB\""),
        "Size of the file. A spool that is full of running transactions leaves them to the server until these have ended.",
    ),
    key(
        "capture.spool.directory",
        Kind::Text(rule::text),
        None,
        "Folder of the file, which has no name and holds values of rows; by default TMPDIR, or /var/tmp.",
    ),
    key(
        "format.compatibility",
        Kind::Choice(&["walrelay", "debezium"]),
        Some("\"walrelay\""),
        "Whose forms hold where no other key of [format] is set. Under debezium: interval numeric, nullability declared, parameters none, transaction none (streamed with capture.transactions), transaction_id event, context_headers, trailing_zeros dropped, timetz utc, keyless_tombstones, truncates none, own_headers false, empty_transactions, total_order published, special_values debezium, column_defaults source, unknown_types omitted, header_converter simple.",
    ),
    key(
        "format.nullability",
        Kind::Choice(&["widened", "source", "declared"]),
        Some("\"widened\""),
        "Fields of a row: all but the key's can be null, or those that the source declares so, with Debezium's 0, empty string or 1970-01-01 where a value is not known. Columns that are added later, or could be null before, stay nullable, but for declared, as with Debezium, where the registry may refuse the schema and so stop the table.",
    ),
    key(
        "format.parameters",
        Kind::Choice(&["all", "source-type", "none"]),
        Some("\"all\""),
        "What schemas say of columns: the source's types so that apply creates the same, Debezium's column.propagate.source.type, or nothing. With less than all, create the target's tables, and columns that are added later, beforehand.",
    ),
    key(
        "format.transaction",
        Kind::Choice(&["all", "streamed", "none"]),
        Some("\"all\""),
        "Which events have a transaction block; the position of the others is in the header walrelay.pos.",
    ),
    key(
        "format.transaction_id",
        Kind::Choice(&["commit", "event"]),
        Some("\"commit\""),
        "The LSN in the id of a transaction block: the commit's, the same for all events of a transaction, or the event's own, as with Debezium; the position is in the header walrelay.pos then.",
    ),
    key(
        "format.context_headers",
        Kind::Bool,
        Some("false"),
        "Whether records have Debezium's four __debezium.context headers.",
    ),
    key(
        "format.tombstones",
        Kind::Bool,
        Some("true"),
        "Whether a delete is followed by a record without a value, which lets compaction forget the key.",
    ),
    key(
        "format.keyless_tombstones",
        Kind::Bool,
        Some("false"),
        "Whether that holds for tables without a key too, as with Debezium: a record without key and value, which apply passes over. No effect without tombstones.",
    ),
    key(
        "format.truncates",
        Kind::Choice(&["broadcast", "single", "none"]),
        Some("\"broadcast\""),
        "The records of a TRUNCATE: one in every partition, one for each table as Debezium's, or none (its skipped.operations). apply needs them in every partition; without them a target keeps the rows.",
    ),
    key(
        "format.own_headers",
        Kind::Bool,
        Some("true"),
        "Whether records have walrelay's own headers (walrelay.pos and its like). Without them apply takes the topics for Debezium's, with what Debezium loses. Only with parameters other than all.",
    ),
    key(
        "format.empty_transactions",
        Kind::Bool,
        Some("false"),
        "Whether begins and ends are told of transactions of which nothing is published, as Debezium does. Only with capture.transactions.",
    ),
    key(
        "format.total_order",
        Kind::Choice(&["delivered", "published"]),
        Some("\"delivered\""),
        "What the numbers in transaction blocks count: what the server delivers, or what is published, as with Debezium; the position is in the header walrelay.pos then.",
    ),
    key(
        "format.special_values",
        Kind::Choice(&["null", "debezium"]),
        Some("\"null\""),
        "What a field has for a value beyond its type, as an infinite date or an array of several dimensions: null, or what Debezium writes, which garbles others too, as times in arrays. The value itself is in the header walrelay.text.",
    ),
    key(
        "format.column_defaults",
        Kind::Choice(&["none", "source"]),
        Some("\"none\""),
        "Whether schemas have the defaults of the source's columns, as far as Debezium reads them. A value has the default in place of NULL then, as with Debezium, and the header walrelay.text says NULL.",
    ),
    key(
        "format.unknown_types",
        Kind::Choice(&["text", "omitted"]),
        Some("\"text\""),
        "Columns whose types Debezium does not know, as composites and multiranges: PostgreSQL's text, or left out of rows, and so of targets (Debezium's include.unknown.datatypes). Left out, a name is null in the stream too, with its value in the header walrelay.text. Columns of the key stay.",
    ),
    key(
        "format.header_converter",
        Kind::Choice(&["json", "simple"]),
        Some("\"json\""),
        "How the keys of moved rows are written in the headers __debezium.newkey and __debezium.oldkey: as Kafka Connect's JsonConverter or its SimpleHeaderConverter does (header.converter of Debezium's worker).",
    ),
    key(
        "format.unavailable_value",
        Kind::Text(rule::placeholder),
        Some("\"__debezium_unavailable_value\""),
        "What stands for a TOASTed value that the server did not send: a text, or octets as hex: with digits. Debezium's unavailable.value.placeholder; apply knows by it what another producer was not sent.",
    ),
    key(
        "format.decimal",
        Kind::Choice(&["precise", "string", "double"]),
        Some("\"precise\""),
        "numeric and money: exact Avro decimals, strings of digits, or doubles.",
    ),
    key(
        "format.interval",
        Kind::Choice(&["string", "numeric"]),
        Some("\"string\""),
        "interval: a string in ISO 8601, or microseconds with months of 30.4375 days.",
    ),
    key(
        "format.binary",
        Kind::Choice(&["bytes", "base64", "base64-url-safe", "hex"]),
        Some("\"bytes\""),
        "bytea: Avro bytes, or a string in an encoding; apply reads by it what another producer has written as strings for columns of bytea.",
    ),
    key(
        "format.time",
        Kind::Choice(&[
            "adaptive",
            "adaptive-time-microseconds",
            "microseconds",
            "nanoseconds",
            "connect",
            "isostring",
        ]),
        Some("\"adaptive\""),
        "date, time and timestamp: by the column's precision milliseconds or microseconds, always microseconds (of a time, of both), always nanoseconds, Kafka Connect's types in milliseconds, or strings in ISO 8601.",
    ),
    key(
        "format.hstore",
        Kind::Choice(&["json", "map"]),
        Some("\"json\""),
        "hstore: a string with a JSON object, or an Avro map.",
    ),
    key(
        "format.trailing_zeros",
        Kind::Choice(&["kept", "dropped"]),
        Some("\"kept\""),
        "numeric without a scale: whether 1.500 stays so in an exact decimal, or is 1.5.",
    ),
    key(
        "format.timetz",
        Kind::Choice(&["offset", "utc"]),
        Some("\"offset\""),
        "time with time zone: with its own offset, or in UTC.",
    ),
    key(
        "format.records",
        Kind::Choice(&["envelope", "flat"]),
        Some("\"envelope\""),
        "What a record's value is: the envelope with before and after, or the row alone (Debezium's ExtractNewRecordState). Flat records are for other consumers than apply.",
    ),
    key(
        "format.flat.deletes",
        Kind::Choice(&["tombstone", "rewrite", "rewrite-with-tombstone", "drop"]),
        Some("\"tombstone\""),
        "A delete in flat records: a record without a value; the row before with true in __deleted, which other records have with false; that with a tombstone behind it; nothing.",
    ),
    key(
        "format.flat.fields",
        Kind::List(rule::metadata),
        Some("[]"),
        "Parts of the envelope that flat records have as fields behind the row's (add.fields). A part of a block is named with it (source_ts_ms), or as said behind a colon.",
    ),
    key(
        "format.flat.headers",
        Kind::List(rule::metadata),
        Some("[]"),
        "Parts of the envelope that flat records have as headers (add.headers).",
    ),
    key(
        "format.flat.field_prefix",
        Kind::Text(rule::name_prefix),
        Some("\"__\""),
        "What the names of these fields begin with (add.fields.prefix).",
    ),
    key(
        "format.flat.header_prefix",
        Kind::Text(rule::name_prefix),
        Some("\"__\""),
        "What the names of these headers begin with (add.headers.prefix).",
    ),
    key("kafka.brokers", Kind::List(rule::address), None, "Bootstrap brokers."),
    key(
        "kafka.prefix",
        Kind::Text(rule::topic),
        Some("\"walrelay\""),
        "First part of every topic's name; one per source database. Both halves must agree.",
    ),
    key(
        "kafka.compression",
        Kind::Choice(&["none", "gzip", "snappy", "lz4", "zstd"]),
        Some("\"lz4\""),
        "Compression of produced batches.",
    ),
    key(
        "kafka.properties",
        Kind::Properties(reserved::client_property),
        None,
        "librdkafka properties of all clients: TLS, SASL, and any other.",
    ),
    key(
        "kafka.producer",
        Kind::Properties(reserved::client_property),
        None,
        "librdkafka properties of the producer alone.",
    ),
    key(
        "kafka.consumer",
        Kind::Properties(reserved::client_property),
        None,
        "librdkafka properties of the consumer alone.",
    ),
    key(
        "kafka.topics.names",
        Kind::Text(rule::table_topics),
        Some("\"{prefix}.{schema}.{table}\""),
        "How tables' topics are named; must not change later. Both halves must agree, with {database} on source.database too.",
    ),
    key(
        "kafka.topics.messages",
        Kind::Text(rule::message_topic),
        Some("\"{prefix}.message\""),
        "How the topic of logical messages is named; must not change later. Both halves must agree.",
    ),
    key(
        "kafka.topics.transactions",
        Kind::Text(rule::transaction_topic),
        Some("\"{prefix}.transaction\""),
        "How the topic of transactions is named, if there is one. Both halves must agree.",
    ),
    stops::DEAD_LETTERS,
    key("kafka.topics.create", Kind::Bool, Some("true"), "Create missing topics; false: somebody else does."),
    key(
        "kafka.topics.partitions",
        Kind::Integer(1, 100_000),
        Some("3"),
        "Partitions of created topics. Must not change later: keys would move.",
    ),
    key(
        "kafka.topics.replication_factor",
        Kind::Integer(-1, 32_767),
        Some("-1"),
        "Replicas of created topics; -1: the brokers' default.",
    ),
    key(
        "kafka.topics.retention",
        Kind::PeriodBound,
        Some("\"unlimited\""),
        "How long created topics keep events. Unlimited: a replay from the beginning rebuilds the target.",
    ),
    key(
        "kafka.topics.retention_bytes",
        Kind::SizeBound,
        Some("\"unlimited\""),
        "How many bytes per partition created topics keep.",
    ),
    key(
        "kafka.topics.cleanup_policy",
        Kind::Choice(&["delete"]),
        Some("\"delete\""),
        "Cleanup policy of created topics. Compaction needs exactly-once delivery and full rows, so it is not offered.",
    ),
    key(
        "kafka.topics.config",
        Kind::Properties(reserved::topic_property),
        None,
        "Topic properties of created topics, such as min.insync.replicas.",
    ),
    by_name::TOPICS_OF_TABLES,
    by_name::ROUTES,
    key(
        "registry.urls",
        Kind::List(rule::url),
        None,
        "Base URLs of the Confluent-compatible schema registry; the next one is tried when one fails.",
    ),
    key("registry.username", Kind::Text(rule::text), None, "User of basic authentication."),
    key("registry.password", Kind::Secret, None, "Its password."),
    key("registry.password_file", Kind::File, None, "File whose first line is the password."),
    key("registry.ca", Kind::File, None, "PEM file of trusted authorities; else the system's."),
    key("registry.cert", Kind::File, None, "PEM file of the client certificate."),
    key("registry.key", Kind::File, None, "PEM file of the client certificate's key."),
    key(
        "registry.auto_register",
        Kind::Bool,
        Some("true"),
        "Register schemas; false: only look up those that somebody else registered.",
    ),
    key(
        "registry.subject_strategy",
        Kind::Choice(&["topic-name", "record-name", "topic-record-name"]),
        Some("\"topic-name\""),
        "How subjects are named.",
    ),
    key("registry.timeout", Kind::Period, Some("\"10s\""), "Time limit of one request."),
    key("target.host", Kind::Text(rule::text), None, "Host of the PostgreSQL server to apply to."),
    key("target.port", Kind::Integer(1, 65535), Some("5432"), "TCP port."),
    key("target.database", Kind::Text(rule::text), None, "Database."),
    key("target.user", Kind::Text(rule::text), Some("\"walrelay\""), "Role that may create or write the tables."),
    key("target.password", Kind::Secret, None, "Password. Better given by environment or file."),
    key("target.password_file", Kind::File, None, "File whose first line is the password; read at each connection."),
    key("target.sslmode", Kind::Choice(SSL_MODES), Some("\"prefer\""), "How far TLS is demanded, as libpq's sslmode."),
    key("target.ssl_root_cert", Kind::File, None, "PEM file of trusted authorities; else the system's."),
    key("target.ssl_cert", Kind::File, None, "PEM file of the client certificate."),
    key("target.ssl_key", Kind::File, None, "PEM file of the client certificate's key."),
    key("target.connect_timeout", Kind::Period, Some("\"10s\""), CONNECT_TIMEOUT),
    key(
        "apply.group",
        Kind::Text(rule::text),
        Some("\"walrelay\""),
        "Consumer group, and the name of this sink in its target.",
    ),
    key(
        "apply.include",
        Kind::List(rule::table_glob),
        Some("[\"*.*\"]"),
        "Tables to apply, as globs over the source's schema.table.",
    ),
    key(
        "apply.exclude",
        Kind::List(rule::table_glob),
        Some("[]"),
        "Tables to leave out, as globs; stronger than include.",
    ),
    key(
        "apply.partitions",
        Kind::List(rule::partition),
        Some("[]"),
        "Exactly these partitions (topic:partition), of tables that include and exclude choose, instead of a group's assignment.",
    ),
    key(
        "apply.siblings_timeout",
        Kind::Period,
        Some("\"60s\""),
        "With partitions: how long the start waits until other processes consume the rest of their topics.",
    ),
    key("apply.schemas", Kind::Names(rule::identifier), None, "Target schema by source schema, where they differ."),
    key(
        "apply.bookkeeping_schema",
        Kind::Text(rule::identifier),
        Some("\"walrelay\""),
        "Schema of walrelay's own tables in the target.",
    ),
    key("apply.batch_rows", Kind::Integer(1, 10_000_000), Some("20000"), "Most events in one target transaction."),
    key("apply.batch_bytes", Kind::Size, Some("\"16MiB\""), "Most bytes in one target transaction."),
    key(
        "apply.batch_interval",
        Kind::Period,
        Some("\"50ms\""),
        "How long events wait for a fuller batch while another transaction runs.",
    ),
    key("apply.workers", Kind::Integer(1, 64), Some("4"), "Connections that apply in parallel."),
    key("apply.memory", Kind::Size, Some("\"64MiB\""), "Bound of all queues between the consumer and the target."),
    key("apply.evolve", Kind::Bool, Some("true"), "Create missing tables and add missing columns."),
    key(
        "apply.replica_role",
        Kind::Bool,
        Some("false"),
        "Apply without foreign key checks and ordinary triggers (session_replication_role = replica).",
    ),
    key("apply.take_over", Kind::Bool, Some("false"), "Take over positions that another group has left in the target."),
    key(
        "http.capture",
        Kind::Text(rule::listen),
        Some("\"127.0.0.1:9460\""),
        "Where capture serves health, metrics and its status page; port 0: any free one; off: nowhere.",
    ),
    key("http.apply", Kind::Text(rule::listen), Some("\"127.0.0.1:9461\""), "The same for apply."),
    key(
        "health.silence",
        Kind::Period,
        Some("\"60s\""),
        "Not ready when nothing was heard from the server for so long.",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "human", "json"]),
        Some("\"auto\""),
        "auto: human on a terminal, JSON otherwise.",
    ),
    key(
        "log.level",
        Kind::Text(rule::filter),
        Some("\"info\""),
        "Level, or levels by module. WALRELAY_LOG overrides it.",
    ),
];

/// The key with this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether keys lie below this path.
#[must_use]
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_own_kind() {
        for key in KEYS.iter().filter(|key| key.default.is_some()) {
            let table: toml::Table = toml::from_str(&format!("value = {}", key.default.unwrap())).unwrap();
            key.kind.check(&table["value"]).unwrap_or_else(|expected| panic!("{} must be {expected}", key.path));
        }
    }

    #[test]
    fn paths_are_unique_and_documented() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} twice", key.path);
            assert!(key.doc.ends_with('.'), "{}", key.path);
        }
    }
}
