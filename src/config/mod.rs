//! Configuration: one TOML file for both halves, each value also by environment variable.
//!
//! [`Layers::read`] merges defaults, file and environment and collects what is wrong; the constructors of this module add
//! what the command at hand still misses, so that one run names every problem. [`effective`] prints the result.

mod by_name;
mod effective;
mod key;
mod keys;
mod layers;
mod nearest;
mod problem;
mod reserved;
mod rule;
mod sections;
mod signals;
mod stops;
mod topic_list;
mod value;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use crate::{
    avro::flat::{DELETED, Metadata},
    postgres,
    record::{TemplateError, TopicNames},
    selection::NamePattern,
};

use self::sections::{Sections, Server};
pub use self::{
    effective::effective,
    key::{Key, Kind},
    keys::KEYS,
    layers::{Entry, Layers},
    problem::{Error, Origin, Problem},
    sections::{
        Apply, Capture, Delivery, FailoverSlot, FlatRecords, Format, Kafka, Log, LogFormat, OnBadRow, OnGap,
        OnPartitions, OnStop, OnUnidentified, OnUnlogged, Origins, RecordsKind, Registry, SnapshotGuard, SnapshotMode,
        SubjectStrategy, Topics,
    },
    topic_list::{TopicList, bytes, milliseconds},
    value::{Bound, ByteSize, ParseError, Period, Secret},
};

const SOURCE: [&str; 2] = ["source.host", "source.database"];
const TARGET: [&str; 2] = ["target.host", "target.database"];
const BROKERS: [&str; 2] = ["kafka.brokers", "registry.urls"];

/// What `walrelay capture` needs.
#[derive(Clone)]
pub struct CaptureConfig {
    /// The server to capture from.
    pub source: postgres::Settings,
    /// `[capture]`
    pub capture: Capture,
    /// `[format]`
    pub format: Format,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[registry]`
    pub registry: Registry,
    /// Where to serve HTTP, if at all.
    pub listen: Option<SocketAddr>,
    /// `health.silence`
    pub silence: Duration,
    /// `[log]`
    pub log: Log,
}

/// What `walrelay apply` needs.
#[derive(Clone)]
pub struct ApplyConfig {
    /// The server to apply to.
    pub target: postgres::Settings,
    /// `[apply]`
    pub apply: Apply,
    /// `[format]`: what both halves must agree on.
    pub format: Format,
    /// `source.database`, for topics that are named by it.
    pub database: Option<String>,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[registry]`
    pub registry: Registry,
    /// Where to serve HTTP, if at all.
    pub listen: Option<SocketAddr>,
    /// `health.silence`
    pub silence: Duration,
    /// `[log]`
    pub log: Log,
}

/// What `walrelay verify` needs.
#[derive(Clone)]
pub struct VerifyConfig {
    /// One side.
    pub source: postgres::Settings,
    /// The other side.
    pub target: postgres::Settings,
    /// `[capture]`: which tables.
    pub capture: Capture,
    /// `[apply]`: where they went.
    pub apply: Apply,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[log]`
    pub log: Log,
}

/// What `walrelay resync` needs.
#[derive(Clone)]
pub struct ResyncConfig {
    /// The server whose capture is asked.
    pub source: postgres::Settings,
    /// `[capture]`: which tables.
    pub capture: Capture,
    /// `[format]`: whether records can tell of it.
    pub format: Format,
    /// `http.capture`: where capture shows how far it has come.
    pub page: String,
    /// `[log]`
    pub log: Log,
}

/// What `walrelay check` looks at: everything whose address is configured.
#[derive(Clone)]
pub struct CheckConfig {
    /// The source, if configured.
    pub source: Option<postgres::Settings>,
    /// The target, if configured.
    pub target: Option<postgres::Settings>,
    /// `[capture]`
    pub capture: Capture,
    /// `[apply]`
    pub apply: Apply,
    /// `[kafka]`; without brokers it is not looked at.
    pub kafka: Kafka,
    /// `[registry]`; without addresses it is not looked at.
    pub registry: Registry,
    /// What capture writes.
    pub format: Format,
    /// `health.silence`
    pub silence: Duration,
    /// `[log]`
    pub log: Log,
}

impl CaptureConfig {
    /// The configuration of `capture`, or everything that is wrong with it.
    pub fn new(layers: &Layers) -> Result<Self, Error> {
        let sections = sections(layers, &[&SOURCE, &BROKERS])?;
        Ok(Self {
            source: server(sections.source).ok_or_else(unaddressed)?,
            capture: sections.capture,
            format: sections.format,
            kafka: sections.kafka,
            registry: sections.registry,
            listen: listen(&sections.http.capture),
            silence: sections.health.silence.0,
            log: sections.log,
        })
    }
}

impl ApplyConfig {
    /// The configuration of `apply`, or everything that is wrong with it.
    pub fn new(layers: &Layers) -> Result<Self, Error> {
        let sections = sections(layers, &[&TARGET, &BROKERS])?;
        Ok(Self {
            target: server(sections.target).ok_or_else(unaddressed)?,
            apply: sections.apply,
            format: sections.format,
            database: sections.source.database,
            kafka: sections.kafka,
            registry: sections.registry,
            listen: listen(&sections.http.apply),
            silence: sections.health.silence.0,
            log: sections.log,
        })
    }
}

impl VerifyConfig {
    /// The configuration of `verify`, or everything that is wrong with it.
    pub fn new(layers: &Layers) -> Result<Self, Error> {
        let sections = sections(layers, &[&SOURCE, &TARGET])?;
        Ok(Self {
            source: server(sections.source).ok_or_else(unaddressed)?,
            target: server(sections.target).ok_or_else(unaddressed)?,
            capture: sections.capture,
            apply: sections.apply,
            kafka: sections.kafka,
            log: sections.log,
        })
    }
}

impl ResyncConfig {
    /// The configuration of `resync`, or everything that is wrong with it.
    pub fn new(layers: &Layers) -> Result<Self, Error> {
        let sections = sections(layers, &[&SOURCE])?;
        Ok(Self {
            source: server(sections.source).ok_or_else(unaddressed)?,
            capture: sections.capture,
            format: sections.format,
            page: sections.http.capture,
            log: sections.log,
        })
    }
}

impl CheckConfig {
    /// The configuration of `check`, or everything that is wrong with it.
    pub fn new(layers: &Layers) -> Result<Self, Error> {
        let sections = sections(layers, &[])?;
        Ok(Self {
            source: server(sections.source),
            target: server(sections.target),
            capture: sections.capture,
            apply: sections.apply,
            kafka: sections.kafka,
            registry: sections.registry,
            format: sections.format,
            silence: sections.health.silence.0,
            log: sections.log,
        })
    }
}

/// `[log]` alone, as far as it is right: logging starts before the rest is judged.
#[must_use]
pub fn log(layers: &Layers) -> Option<Log> {
    layers.table().remove("log")?.try_into().ok()
}

/// Everything that is wrong when these keys are needed; empty when the configuration can be used.
#[must_use]
pub fn problems(layers: &Layers, needed: &[&[&str]]) -> Vec<Problem> {
    let missing = needed.iter().copied().flatten().filter(|path| is_missing(layers, path)).map(|path| {
        let message = format!("is missing: set it in the file or as WALRELAY_{}", variable(path));
        Problem { path: (*path).to_owned(), origin: None, message }
    });
    let files = KEYS.iter().filter(|key| matches!(key.kind, Kind::File)).filter_map(|key| {
        let entry = layers.entry(key.path)?;
        let error = std::fs::File::open(Path::new(entry.value.as_str()?)).err()?;
        let message = format!("names a file that cannot be read: {error}");
        Some(Problem { path: key.path.to_owned(), origin: Some(entry.origin.clone()), message })
    });
    let pairs = PAIRS.iter().filter_map(|(first, second)| {
        let alone = layers.entry(first).filter(|_| layers.entry(second).is_none())?;
        let message = format!("needs {second} beside it");
        Some(Problem { path: (*first).to_owned(), origin: Some(alone.origin.clone()), message })
    });
    layers
        .problems()
        .iter()
        .cloned()
        .chain(missing)
        .chain(files)
        .chain(pairs)
        .chain(gap_and_snapshot(layers))
        .chain(names_without_database(layers))
        .chain(transactions_cut_by_time(layers))
        .chain(messages_in_an_own_topic(layers))
        .chain(transactions_without_blocks(layers))
        .chain(types_without_headers(layers))
        .chain(transactions_in_another_topic(layers))
        .chain(dead_letters_in_another_topic(layers))
        .chain(signals_in_a_topic_of_events(layers))
        .chain(patterns(layers))
        .chain(routes(layers))
        .chain(hashes_without_salt(layers))
        .chain(flat_names_taken(layers, "fields", "field_prefix"))
        .chain(flat_names_taken(layers, "headers", "header_prefix"))
        .collect()
}

/// Hashes that anybody could make who guesses the text.
fn hashes_without_salt(layers: &Layers) -> Option<Problem> {
    let hashed = |entry: &Entry| entry.value.as_str().is_some_and(|text| text == "hash");
    let (name, entry) = layers.open_entries("capture.masks").find(|(_, entry)| hashed(entry))?;
    let has_salt = ["capture.mask_salt", "capture.mask_salt_file"].iter().any(|path| layers.entry(path).is_some());
    let message = "= \"hash\" needs capture.mask_salt or capture.mask_salt_file beside it".to_owned();
    let (path, origin) = (format!("capture.masks.{name}"), Some(entry.origin.clone()));
    (!has_salt).then_some(Problem { path, origin, message })
}

/// Entries that are named by no glob over as many names as are wanted.
fn patterns(layers: &Layers) -> impl Iterator<Item = Problem> {
    let unfit = |(path, names): (&'static str, usize)| {
        let is_glob = move |name: &str| {
            name.split('.').take(names).filter(|part| !part.is_empty()).count() == names
                && NamePattern::new(name, names).is_ok()
        };
        let unfit = layers.open_entries(path).filter(move |(name, _)| !is_glob(name));
        let what = if names == 2 { "schema.table, like public.*" } else { "schema.table.column, like public.*.email" };
        unfit.map(move |(name, entry)| {
            let message = format!("is named by no glob over {what}");
            Problem { path: format!("{path}.{name}"), origin: Some(entry.origin.clone()), message }
        })
    };
    by_name::GLOBS.into_iter().flat_map(unfit)
}

/// A route that cannot be.
fn routes(layers: &Layers) -> Option<Problem> {
    let entries: Vec<_> = layers.open_entries(by_name::ROUTES.path).collect();
    let texts = entries.iter().filter_map(|(glob, entry)| Some((*glob, entry.value.as_str()?)));
    let (glob, error) = TopicNames::new("p").with_routes(texts, "p", "d").err()?;
    let origin = entries.iter().find(|(name, _)| *name == glob).map(|(_, entry)| entry.origin.clone());
    Some(Problem { path: format!("{}.{glob}", by_name::ROUTES.path), origin, message: error.to_string() })
}

/// A new start after a gap is a snapshot: what is said of both must be the same.
fn gap_and_snapshot(layers: &Layers) -> Option<Problem> {
    let (gap, snapshot) = (layers.entry("capture.on_gap")?, layers.entry("capture.snapshot")?);
    let message = match (gap.value.as_str()?, snapshot.value.as_str()?) {
        ("resnapshot", "never") => "= \"resnapshot\" needs capture.snapshot = \"initial\" or \"when-needed\"",
        ("resnapshot", "only") => "= \"resnapshot\" is for streams, and with capture.snapshot = \"only\" there is none",
        (value, "when-needed") if value != "resnapshot" && gap.origin != Origin::Default => {
            "must be \"resnapshot\" or left out beside capture.snapshot = \"when-needed\""
        }
        _ => return None,
    };
    let (path, origin) = ("capture.on_gap".to_owned(), Some(gap.origin.clone()));
    Some(Problem { path, origin, message: message.to_owned() })
}

/// Kafka transactions that the brokers would give up before they are filled.
fn transactions_cut_by_time(layers: &Layers) -> Option<Problem> {
    let period = |path: &str| layers.entry(path)?.value.as_str()?.parse::<Period>().ok();
    let interval = layers.entry("capture.commit_interval")?;
    let message = "must be at most half of capture.transaction_timeout".to_owned();
    let problem =
        Problem { path: "capture.commit_interval".to_owned(), origin: Some(interval.origin.clone()), message };
    (period("capture.commit_interval")?.0 > period("capture.transaction_timeout")?.0 / 2).then_some(problem)
}

/// Topics that are named by a database that nobody knows.
fn names_without_database(layers: &Layers) -> Option<Problem> {
    let named = |path: &&str| {
        let text = layers.entry(path).and_then(|entry| entry.value.as_str());
        text.is_some_and(|text| text.contains("{database}"))
    };
    let named_by_it =
        ["kafka.topics.names", "kafka.topics.messages", "kafka.topics.transactions", "kafka.topics.dead_letters"];
    let path = named_by_it.into_iter().find(named).map(ToOwned::to_owned);
    let mut routes = layers.open_entries("kafka.topics.routes");
    let is_named = |entry: &Entry| entry.value.as_str().is_some_and(|text| text.contains("{database}"));
    let of_route = || routes.find(|(_, entry)| is_named(entry)).map(|(glob, _)| format!("kafka.topics.routes.{glob}"));
    let path = path.or_else(of_route)?;
    let origin = layers.entry(&path).map(|entry| entry.origin.clone());
    let message = "needs source.database beside it, at apply too".to_owned();
    layers.entry("source.database").is_none().then_some(Problem { path, origin, message })
}

/// Logical messages in a topic that walrelay keeps for itself: the templates are right, and the prefix makes them that.
fn messages_in_an_own_topic(layers: &Layers) -> Option<Problem> {
    let entry = layers.entry("kafka.topics.messages")?;
    let prefix = layers.entry("kafka.prefix")?.value.as_str()?;
    let names = TopicNames::of_templates("{prefix}.{schema}.{table}", entry.value.as_str()?, prefix, "");
    let message =
        format!("with the prefix {prefix} would be one of walrelay's own topics: choose another prefix or name");
    let (path, origin) = ("kafka.topics.messages".to_owned(), Some(entry.origin.clone()));
    (names == Err(TemplateError::OWN)).then_some(Problem { path, origin, message })
}

/// Ends of transactions say how many events there are that have the transaction's id.
fn transactions_without_blocks(layers: &Layers) -> Option<Problem> {
    let blocks = layers.entry("format.transaction").filter(|_| layers.has_transactions())?;
    let message = "= \"none\" contradicts capture.transactions = true, which needs \"streamed\" or \"all\"".to_owned();
    let problem = Problem { path: "format.transaction".to_owned(), origin: Some(blocks.origin.clone()), message };
    (blocks.value.as_str() == Some("none")).then_some(problem)
}

/// A schema that tells the source's types tells apply that the headers hold what values lose: it would take the placeholder of a
/// value that was not sent for the value.
fn types_without_headers(layers: &Layers) -> Option<Problem> {
    let headers = layers.entry("format.own_headers")?;
    let has_types = layers.entry("format.parameters")?.value.as_str() == Some("all");
    let message = "= false contradicts format.parameters = \"all\": set \"source-type\" or \"none\"".to_owned();
    let problem = Problem { path: "format.own_headers".to_owned(), origin: Some(headers.origin.clone()), message };
    (has_types && headers.value.as_bool() == Some(false)).then_some(problem)
}

/// Begins and ends of transactions in a topic that holds something else.
fn transactions_in_another_topic(layers: &Layers) -> Option<Problem> {
    let entry = layers.entry("kafka.topics.transactions").filter(|_| layers.has_transactions())?;
    let prefix = layers.entry("kafka.prefix")?.value.as_str()?;
    let message = if layers.entry("kafka.topics.messages").is_some_and(|messages| messages.value == entry.value) {
        "must differ from kafka.topics.messages".to_owned()
    } else if TopicNames::new(prefix).with_transactions(entry.value.as_str()?, prefix, "") == Err(TemplateError::OWN) {
        format!("with the prefix {prefix} would be one of walrelay's own topics: choose another prefix or name")
    } else {
        return None;
    };
    Some(Problem { path: "kafka.topics.transactions".to_owned(), origin: Some(entry.origin.clone()), message })
}

/// Dead letters in a topic that holds something else.
fn dead_letters_in_another_topic(layers: &Layers) -> Option<Problem> {
    let policy = layers.entry("capture.on_bad_row").and_then(|entry| entry.value.as_str());
    let entry = layers.entry("kafka.topics.dead_letters").filter(|_| policy == Some("dead-letter"))?;
    let prefix = layers.entry("kafka.prefix")?.value.as_str()?;
    let same = |path: &&str| layers.entry(path).is_some_and(|other| other.value == entry.value);
    let message = if let Some(other) = ["kafka.topics.messages", "kafka.topics.transactions"].into_iter().find(same) {
        format!("must differ from {other}")
    } else if TopicNames::new(prefix).with_dead_letters(entry.value.as_str()?, prefix, "") == Err(TemplateError::OWN) {
        format!("with the prefix {prefix} would be one of walrelay's own topics: choose another prefix or name")
    } else {
        return None;
    };
    Some(Problem { path: "kafka.topics.dead_letters".to_owned(), origin: Some(entry.origin.clone()), message })
}

/// Signals in a topic that capture writes: it would take its own records for signals, and sinks the signals for events.
fn signals_in_a_topic_of_events(layers: &Layers) -> Option<Problem> {
    let text = |path: &str| layers.entry(path).and_then(|entry| entry.value.as_str());
    let entry = layers.entry("capture.signal_topic")?;
    let (topic, prefix, database) =
        (entry.value.as_str()?, text("kafka.prefix")?, text("source.database").unwrap_or(""));
    let names = TopicNames::of_templates(text("kafka.topics.names")?, text("kafka.topics.messages")?, prefix, database);
    let names = names.ok()?.with_transactions(text("kafka.topics.transactions")?, prefix, database).ok()?;
    let names = names.with_dead_letters(text("kafka.topics.dead_letters")?, prefix, database).ok()?;
    let routes = layers.open_entries("kafka.topics.routes");
    let routes = routes.filter_map(|(glob, entry)| Some((glob, entry.value.as_str()?)));
    let names = names.with_routes(routes, prefix, database).ok()?;
    let is_taken = names.is_own(topic) || topic == names.messages() || names.table_of(topic).is_some();
    let message = "is a topic that capture writes, or could be a table's: signals need one of their own".to_owned();
    let (path, origin) = ("capture.signal_topic".to_owned(), Some(entry.origin.clone()));
    is_taken.then_some(Problem { path, origin, message })
}

/// Two parts of the envelope under one name in flat records.
fn flat_names_taken(layers: &Layers, list: &str, prefix: &str) -> Option<Problem> {
    let text = |name: &str| layers.entry(&format!("format.flat.{name}")).and_then(|entry| entry.value.as_str());
    let path = format!("format.flat.{list}");
    let entry = layers.entry(&path)?;
    let rewritten = list == "fields" && text("deletes").is_some_and(|deletes| deletes.starts_with("rewrite"));
    let mut taken: BTreeSet<Arc<str>> = rewritten.then(|| DELETED.into()).into_iter().collect();
    let named = entry.value.as_array()?.iter().filter_map(|part| Metadata::new(part.as_str()?, text(prefix)?));
    let twice = named.map(|part| part.name).find(|name| !taken.insert(Arc::clone(name)))?;
    let message = format!("would give the name {twice} twice: choose another name for one of them (part:name)");
    Some(Problem { path, origin: Some(entry.origin.clone()), message })
}

/// Keys that mean nothing without another.
const PAIRS: [(&str, &str); 6] = [
    ("source.ssl_cert", "source.ssl_key"),
    ("source.ssl_key", "source.ssl_cert"),
    ("target.ssl_cert", "target.ssl_key"),
    ("target.ssl_key", "target.ssl_cert"),
    ("registry.cert", "registry.key"),
    ("registry.key", "registry.cert"),
];

fn is_missing(layers: &Layers, path: &str) -> bool {
    layers.entry(path).is_none_or(|entry| entry.value.as_array().is_some_and(Vec::is_empty))
        && !layers.problems().iter().any(|problem| problem.path == path)
}

fn variable(path: &str) -> String {
    path.to_ascii_uppercase().replace('.', "__")
}

fn sections(layers: &Layers, needed: &[&[&str]]) -> Result<Sections, Error> {
    let problems = problems(layers, needed);
    if !problems.is_empty() {
        return Err(Error::Problems(problems));
    }
    let unfit = |error: toml::de::Error| unusable(error.message());
    let mut sections: Sections = layers.table().try_into().map_err(unfit)?;
    for server in [&mut sections.source, &mut sections.target] {
        read_password(&mut server.password, server.password_file.as_deref())?;
    }
    read_password(&mut sections.capture.mask_salt, sections.capture.mask_salt_file.as_deref())?;
    if sections.capture.mask_salt.as_ref().is_some_and(|salt| salt.reveal().is_empty()) {
        return Err(unusable("capture.mask_salt_file has an empty first line: hashes would have no salt"));
    }
    read_password(&mut sections.registry.password, sections.registry.password_file.as_deref())?;
    Ok(sections)
}

fn read_password(password: &mut Option<Secret>, file: Option<&Path>) -> Result<(), Error> {
    let Some(file) = file else { return Ok(()) };
    let text = std::fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
    *password = Some(Secret::new(text.lines().next().unwrap_or_default()));
    Ok(())
}

fn server(server: Server) -> Option<postgres::Settings> {
    Some(postgres::Settings {
        host: server.host?,
        port: server.port,
        database: server.database?,
        user: server.user,
        password: match server.password_file {
            Some(file) => Some(postgres::Password::File(file)),
            None => server.password.map(|password| password.reveal().into()),
        },
        ssl_mode: server.sslmode,
        ssl_root_cert: server.ssl_root_cert,
        ssl_cert: server.ssl_cert,
        ssl_key: server.ssl_key,
        connect_timeout_seconds: server.connect_timeout.0.as_secs().max(1),
    })
}

fn listen(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

fn unaddressed() -> Error {
    unusable("a server has no address")
}

/// What the checks of [`problems`] should have caught.
fn unusable(message: &str) -> Error {
    let problem = Problem { path: "configuration".to_owned(), origin: None, message: message.to_owned() };
    Error::Problems(vec![problem])
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn layers(environment: &[(&str, &str)]) -> Layers {
        Layers::read(None, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
    }

    #[test]
    fn a_gap_and_the_snapshot_that_follows_it_agree() {
        let paths = |snapshot: Option<&str>, gap: Option<&str>| -> Vec<String> {
            let snapshot = snapshot.map(|mode| ("WALRELAY_CAPTURE__SNAPSHOT", mode));
            let gap = gap.map(|policy| ("WALRELAY_CAPTURE__ON_GAP", policy));
            let set: Vec<_> = snapshot.into_iter().chain(gap).collect();
            problems(&layers(&set), &[]).into_iter().map(|problem| problem.path).collect()
        };
        for mode in [None, Some("initial"), Some("never"), Some("only"), Some("when-needed")] {
            assert!(paths(mode, None).is_empty(), "{mode:?}");
        }
        for (mode, policy) in
            [("never", "resnapshot"), ("only", "resnapshot"), ("when-needed", "stop"), ("when-needed", "trust-slot")]
        {
            assert_eq!(paths(Some(mode), Some(policy)), ["capture.on_gap"], "{mode}");
        }
        for (mode, policy) in
            [("when-needed", "resnapshot"), ("initial", "resnapshot"), ("never", "stop"), ("only", "stop")]
        {
            assert!(paths(Some(mode), Some(policy)).is_empty(), "{mode}");
        }
    }

    #[test]
    fn a_kafka_transaction_is_filled_within_its_time() {
        let paths = |interval: &str| -> Vec<_> {
            let environment =
                [("WALRELAY_CAPTURE__COMMIT_INTERVAL", interval), ("WALRELAY_CAPTURE__TRANSACTION_TIMEOUT", "10s")];
            problems(&layers(&environment), &[]).into_iter().map(|problem| problem.path).collect()
        };
        assert!(paths("5s").is_empty());
        assert_eq!(paths("6s"), ["capture.commit_interval"]);
    }

    #[test]
    fn topics_that_are_named_by_the_database_need_it() {
        let names = ("WALRELAY_KAFKA__TOPICS__NAMES", "{prefix}.{database}.{schema}.{table}");
        let database = ("WALRELAY_SOURCE__DATABASE", "shop");
        let paths = |environment: &[(&str, &str)]| -> Vec<_> {
            problems(&layers(environment), &[]).into_iter().map(|problem| problem.path).collect()
        };
        assert_eq!(paths(&[names]), ["kafka.topics.names"]);
        assert!(paths(&[names, database]).is_empty() && paths(&[]).is_empty());
    }

    #[test]
    fn messages_have_a_topic_of_their_own() {
        let paths = |prefix: &str| -> Vec<_> {
            let environment = [("WALRELAY_KAFKA__PREFIX", prefix)];
            problems(&layers(&environment), &[]).into_iter().map(|problem| problem.path).collect()
        };
        assert_eq!(paths("walrelay.progress"), ["kafka.topics.messages"]);
        assert!(paths("walrelay").is_empty());
    }

    #[test]
    fn schemas_with_types_need_the_headers() {
        let paths = |environment: &[(&str, &str)]| -> Vec<_> {
            problems(&layers(environment), &[]).into_iter().map(|problem| problem.path).collect()
        };
        let without = ("WALRELAY_FORMAT__OWN_HEADERS", "false");
        assert_eq!(paths(&[without]), ["format.own_headers"]);
        assert!(paths(&[without, ("WALRELAY_FORMAT__PARAMETERS", "none")]).is_empty());
        let debezium = ("WALRELAY_FORMAT__COMPATIBILITY", "debezium");
        assert!(paths(&[debezium]).is_empty());
        assert_eq!(paths(&[debezium, ("WALRELAY_FORMAT__PARAMETERS", "all")]), ["format.own_headers"]);
    }

    #[test]
    fn transactions_need_blocks_and_a_topic_of_their_own() {
        let paths = |environment: &[(&str, &str)]| -> Vec<_> {
            problems(&layers(environment), &[]).into_iter().map(|problem| problem.path).collect()
        };
        let told = ("WALRELAY_CAPTURE__TRANSACTIONS", "true");
        let (none, debezium) =
            (("WALRELAY_FORMAT__TRANSACTION", "none"), ("WALRELAY_FORMAT__COMPATIBILITY", "debezium"));
        let messages = ("WALRELAY_KAFKA__TOPICS__MESSAGES", "{prefix}.transaction");
        assert_eq!(paths(&[told, none]), ["format.transaction"]);
        assert_eq!(paths(&[told, messages]), ["kafka.topics.transactions"]);
        let own = [("WALRELAY_KAFKA__PREFIX", "walrelay.state"), ("WALRELAY_KAFKA__TOPICS__MESSAGES", "m.{prefix}")];
        assert_eq!(paths(&[own[0], own[1], told]), ["kafka.topics.transactions"]);
        assert_eq!(paths(&own), [""; 0]);
        for fine in [&[none][..], &[messages], &[told], &[told, debezium]] {
            assert_eq!(paths(fine), [""; 0], "{fine:?}");
        }
    }

    #[test]
    fn signals_need_a_topic_of_their_own() {
        let paths = |topic: &str| -> Vec<_> {
            let named = [("WALRELAY_CAPTURE__SIGNAL_TOPIC", topic), ("WALRELAY_KAFKA__PREFIX", "p")];
            problems(&layers(&named), &[]).into_iter().map(|problem| problem.path).collect()
        };
        for taken in ["p.public.orders", "p.message", "p.transaction", "p.dead-letter", "walrelay.state.p"] {
            assert_eq!(paths(taken), ["capture.signal_topic"], "{taken}");
        }
        assert_eq!(paths("p-signal"), [""; 0]);
    }

    #[test]
    fn dead_letters_need_a_topic_of_their_own() {
        let paths = |environment: &[(&str, &str)]| -> Vec<_> {
            problems(&layers(environment), &[]).into_iter().map(|problem| problem.path).collect()
        };
        let (kept, skipped) =
            (("WALRELAY_CAPTURE__ON_BAD_ROW", "dead-letter"), ("WALRELAY_CAPTURE__ON_BAD_ROW", "skip"));
        let named = |name| ("WALRELAY_KAFKA__TOPICS__DEAD_LETTERS", name);
        for taken in ["{prefix}.message", "{prefix}.transaction"] {
            assert_eq!(paths(&[kept, named(taken)]), ["kafka.topics.dead_letters"], "{taken}");
            assert_eq!(paths(&[skipped, named(taken)]), [""; 0], "{taken}");
        }
        let own = [("WALRELAY_KAFKA__PREFIX", "walrelay.state"), named("{prefix}.x")];
        assert_eq!(paths(&[kept, own[0], own[1]]), ["kafka.topics.messages", "kafka.topics.dead_letters"]);
        assert_eq!(paths(&[kept, named("{prefix}.{database}.letters")]), ["kafka.topics.dead_letters"]);
        assert_eq!(paths(&[kept, named("letters.{prefix}")]), [""; 0]);
    }

    #[test]
    fn one_name_for_two_parts_of_flat_records_is_a_problem() {
        let of = |environment: &[(&str, &str)]| -> Vec<_> {
            problems(&layers(environment), &[]).iter().map(ToString::to_string).collect()
        };
        let fields = |text| ("WALRELAY_FORMAT__FLAT__FIELDS", text);
        let rewrite = ("WALRELAY_FORMAT__FLAT__DELETES", "rewrite");
        for twice in [
            &[fields("op, ts_ms:op")][..],
            &[("WALRELAY_FORMAT__FLAT__HEADERS", "source.lsn,lsn:source_lsn")],
            &[fields("op:deleted"), rewrite],
        ] {
            assert!(of(twice).iter().any(|problem| problem.contains("twice")), "{twice:?} {:?}", of(twice));
        }
        for fine in [
            &[fields("op,ts_ms,source.ts_ms"), rewrite][..],
            &[fields("op:deleted")],
            &[("WALRELAY_FORMAT__FLAT__HEADERS", "op:deleted"), rewrite],
            &[fields("op:deleted"), rewrite, ("WALRELAY_FORMAT__FLAT__FIELD_PREFIX", "x")],
        ] {
            assert_eq!(of(fine), [""; 0], "{fine:?}");
        }
    }

    #[test]
    fn addresses_are_all_that_the_halves_need() {
        let brokers = [("WALRELAY_KAFKA__BROKERS", "k:9092"), ("WALRELAY_REGISTRY__URLS", "http://r")];
        let source = [("WALRELAY_SOURCE__HOST", "a"), ("WALRELAY_SOURCE__DATABASE", "shop")];
        let target = [("WALRELAY_TARGET__HOST", "b"), ("WALRELAY_TARGET__DATABASE", "copy")];
        let capture = CaptureConfig::new(&layers(&[source, brokers].concat())).unwrap();
        assert_eq!((capture.source.host.as_str(), capture.source.port), ("a", 5432));
        assert_eq!(capture.kafka.brokers, ["k:9092"]);
        assert_eq!(capture.capture.memory, ByteSize(64 << 20));
        let apply = ApplyConfig::new(&layers(&[target, brokers].concat())).unwrap();
        assert_eq!(apply.target.database, "copy");
        VerifyConfig::new(&layers(&[source, target].concat())).unwrap();
        assert!(CheckConfig::new(&layers(&source)).unwrap().target.is_none());
    }

    #[test]
    fn a_half_names_all_that_it_misses_and_nothing_of_the_other() {
        let error = ApplyConfig::new(&layers(&[("WALRELAY_TARGET__PORT", "x")])).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the configuration has 5 problems:\
             \n  environment WALRELAY_TARGET__PORT: target.port must be a whole number from 1 to 65535\
             \n  target.host is missing: set it in the file or as WALRELAY_TARGET__HOST\
             \n  target.database is missing: set it in the file or as WALRELAY_TARGET__DATABASE\
             \n  kafka.brokers is missing: set it in the file or as WALRELAY_KAFKA__BROKERS\
             \n  registry.urls is missing: set it in the file or as WALRELAY_REGISTRY__URLS"
        );
    }

    #[test]
    fn passwords_come_from_files_without_the_line_break() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "hunter2").unwrap();
        let path = file.path().to_str().unwrap();
        let layers = layers(&[
            ("WALRELAY_SOURCE__HOST", "a"),
            ("WALRELAY_SOURCE__DATABASE", "shop"),
            ("WALRELAY_SOURCE__PASSWORD_FILE", path),
        ]);
        let password = CheckConfig::new(&layers).unwrap().source.unwrap().password.unwrap();
        assert_eq!(password.read().unwrap(), "hunter2");
        std::fs::write(file.path(), "other").unwrap();
        assert_eq!(password.read().unwrap(), "other", "it is replaced while the process runs");
    }

    #[test]
    fn files_that_cannot_be_read_and_lonely_certificates_are_problems() {
        let layers = layers(&[("WALRELAY_SOURCE__SSL_CERT", "/nonexistent/cert.pem")]);
        let found: Vec<_> = problems(&layers, &[]).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "environment WALRELAY_SOURCE__SSL_CERT: source.ssl_cert names a file that cannot be read: No such file or \
                 directory (os error 2)",
                "environment WALRELAY_SOURCE__SSL_CERT: source.ssl_cert needs source.ssl_key beside it",
            ]
        );
    }

    #[test]
    fn every_key_is_a_field_of_its_section_and_every_field_a_key() {
        // a full table: `deny_unknown_fields` refuses a key without a field, a field without a key or default is missing
        let mut table = layers(&[]).table();
        let text = toml::Value::from("x");
        for key in KEYS.iter().filter(|key| key.default.is_none() && !key.kind.is_open_table()) {
            let (sections, name) = key.path.rsplit_once('.').unwrap();
            let mut sections = sections.split('.');
            let outer = &mut table[sections.next().unwrap()];
            let section = sections.fold(outer, |section, name| &mut section[name]);
            let value = if matches!(key.kind, Kind::List(_)) { vec!["x"].into() } else { text.clone() };
            section.as_table_mut().unwrap().insert(name.to_owned(), value);
        }
        table.try_into::<Sections>().unwrap();
    }

    #[test]
    fn the_configuration_of_the_compose_file_is_right() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/compose/walrelay.toml");
        let layers = Layers::read(Some(&file), []).unwrap();
        CaptureConfig::new(&layers).unwrap_or_else(|error| panic!("{error}"));
        ApplyConfig::new(&layers).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The tables of docs/configuration.md: one per section.
    fn reference() -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let (parent, name) = key.path.rsplit_once('.').unwrap();
            if parent != section {
                section = parent;
                text += &format!("\n### [{parent}]\n\n| key | default | value | meaning |\n|---|---|---|---|\n");
            }
            let default = key.default.map_or_else(String::new, |default| format!("`{default}`"));
            let table = if key.kind.is_open_table() { "a table, each entry " } else { "" };
            text += &format!("| `{name}` | {default} | {table}{} | {} |\n", key.kind.expectation(), key.doc);
        }
        text.replace('<', "&lt;")
    }

    #[test]
    fn the_documentation_lists_every_key_as_it_is() {
        let page = include_str!("../../docs/configuration.md");
        let expected = reference();
        assert!(page.ends_with(&expected), "docs/configuration.md must end with:\n{expected}");
    }

    #[test]
    fn the_example_file_is_right_and_shows_every_key_with_its_default() {
        let text = include_str!("../../walrelay.example.toml");
        let file = tempfile::NamedTempFile::new().unwrap();
        // settings that are left to their defaults stand behind a `#` without a space
        let setting =
            |line: &'static str| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '));
        let shown: Vec<_> = text.lines().map(|line| setting(line).unwrap_or(line)).collect();
        std::fs::write(file.path(), shown.join("\n")).unwrap();
        let layers = Layers::read(Some(file.path()), []).unwrap();
        let wrong = layers.problems().iter().filter(|problem| !problem.message.starts_with("contradicts"));
        assert_eq!(wrong.map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
        for key in KEYS.iter().filter(|key| !key.kind.is_open_table()) {
            let entry = layers.entry(key.path).unwrap_or_else(|| panic!("{} is not in the example", key.path));
            assert_ne!(entry.origin, Origin::Default, "{} is not in the example", key.path);
            if let Some(default) = key.default {
                let value: toml::Table = toml::from_str(&format!("v = {default}")).unwrap();
                assert_eq!(entry.value, value["v"], "{}", key.path);
            }
        }
    }
}
