//! Defaults, file and environment, laid over each other; each value remembers where it comes from.
//!
//! The environment variable of a key is `WALRELAY_` and its path in upper case with `__` for each dot:
//! `WALRELAY_SOURCE__HOST`. Of a property the dots become `_`: `WALRELAY_KAFKA__PROPERTIES__SASL_MECHANISM`. Variables
//! without `__` are not looked at, since container platforms add some of their own (`WALRELAY_SERVICE_HOST`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    key::{Key, Kind},
    keys::{self, KEYS},
    nearest::nearest,
    problem::{Error, Origin, Problem},
};

const PREFIX: &str = "WALRELAY_";
/// Variables for developing walrelay itself.
const FOREIGN: &str = "WALRELAY_DEV_";

/// Pairs of keys that say the same in two ways.
const ALTERNATIVES: [(&str, &str); 4] = [
    ("capture.mask_salt", "capture.mask_salt_file"),
    ("source.password", "source.password_file"),
    ("target.password", "target.password_file"),
    ("registry.password", "registry.password_file"),
];

/// What Debezium's defaults are where they differ.
const DEBEZIUM: [(&str, &str); 17] = [
    ("format.interval", "\"numeric\""),
    ("format.nullability", "\"declared\""),
    ("format.parameters", "\"none\""),
    ("format.transaction", "\"none\""),
    ("format.transaction_id", "\"event\""),
    ("format.context_headers", "true"),
    ("format.trailing_zeros", "\"dropped\""),
    ("format.timetz", "\"utc\""),
    ("format.column_defaults", "\"source\""),
    ("format.unknown_types", "\"omitted\""),
    ("format.keyless_tombstones", "true"),
    ("format.truncates", "\"none\""),
    ("format.own_headers", "false"),
    ("format.empty_transactions", "true"),
    ("format.total_order", "\"published\""),
    ("format.special_values", "\"debezium\""),
    ("format.header_converter", "\"simple\""),
];

/// A value and its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value, of the key's kind.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// The merged configuration and what is wrong with it so far.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
}

impl Layers {
    /// Reads the file, if there is one, and lays the environment over it.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML. Wrong values are collected as problems.
    pub fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut layers = Self::default();
        layers.add_defaults();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
            layers.add_file(file, &text)?;
        }
        layers.add_environment(environment);
        layers.settle();
        Ok(layers)
    }

    /// The value of a key, if it has one.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The entries of an open table with their names, in alphabetical order.
    pub fn open_entries<'a>(&'a self, table: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let name = move |path: &'a str| path.strip_prefix(table)?.strip_prefix('.');
        self.entries.iter().filter_map(move |(path, entry)| Some((name(path)?, entry)))
    }

    /// Everything that was found wrong.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The merged values as one table, sections nested.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut root = Table::new();
        for key in KEYS {
            if key.kind.is_open_table() {
                let entries = self.open_entries(key.path).map(|(name, entry)| (name.to_owned(), as_text(&entry.value)));
                insert(&mut root, key.path, Value::Table(entries.collect()));
            } else if let Some(entry) = self.entry(key.path) {
                insert(&mut root, key.path, entry.value.clone());
            }
        }
        root
    }

    fn add_defaults(&mut self) {
        for key in KEYS {
            let Some(text) = key.default else { continue };
            let value = toml_literal(text).expect("a test parses every default");
            self.entries.insert(key.path.to_owned(), Entry { value, origin: Origin::Default });
        }
    }

    fn add_file(&mut self, file: &Path, text: &str) -> Result<(), Error> {
        let syntax = |error: toml::de::Error| Error::Syntax {
            file: file.to_owned(),
            line: line(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        };
        let spans = DeTable::parse(text).map_err(syntax)?;
        let values: Table = toml::from_str(text).map_err(syntax)?;
        FileWalk { layers: self, file: file.to_owned(), text }.section("", spans.get_ref(), &values);
        self.problems.sort_by_key(|problem| problem.origin.as_ref().and_then(Origin::line));
        Ok(())
    }

    fn add_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let mut variables: Vec<_> = environment.into_iter().collect();
        variables.sort();
        for (variable, text) in variables {
            let path = variable.strip_prefix(PREFIX).filter(|_| !variable.starts_with(FOREIGN));
            let Some(path) = path.filter(|path| path.contains("__")) else { continue };
            // an empty variable is how compose files say "not set"
            if text.is_empty() {
                continue;
            }
            let path = path.to_ascii_lowercase().replace("__", ".");
            let origin = Origin::Environment(variable);
            match resolve(&path) {
                Some((key, name)) => self.set(key, name.as_deref(), typed(key.kind, &text), origin),
                None => self.unknown(&path, origin),
            }
        }
    }

    /// Checks a value and puts it over what was there.
    fn set(&mut self, key: &Key, name: Option<&str>, value: Value, origin: Origin) {
        let path = name.map_or_else(|| key.path.to_owned(), |name| format!("{}.{name}", key.path));
        let reserved = match key.kind {
            Kind::Properties(reason) => name.and_then(reason),
            _ => None,
        };
        if let Some(reason) = reserved {
            self.problem(&path, origin, format!("must not be set: {reason}"));
        } else if let Err(expected) = key.kind.check(&value) {
            self.problem(&path, origin, format!("must be {expected}"));
        } else {
            self.entries.insert(path, Entry { value, origin });
        }
    }

    fn unknown(&mut self, path: &str, origin: Origin) {
        let named = |path: &str| match origin {
            Origin::Environment(_) => format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__")),
            _ => path.to_owned(),
        };
        let message = match nearest(path) {
            Some(nearest) => format!("is not a configuration key; did you mean {}?", named(nearest)),
            None => "is not a configuration key".to_owned(),
        };
        self.problem(path, origin, message);
    }

    fn problem(&mut self, path: &str, origin: Origin, message: String) {
        self.problems.push(Problem { path: path.to_owned(), origin: Some(origin), message });
    }

    fn settle(&mut self) {
        self.settle_alternatives();
        self.settle_compatibility();
    }

    /// Under Debezium's forms other values are the defaults.
    fn settle_compatibility(&mut self) {
        if self.entry("format.compatibility").and_then(|entry| entry.value.as_str()) != Some("debezium") {
            return;
        }
        for (path, literal) in DEBEZIUM {
            let value = match path {
                "format.transaction" if self.has_transactions() => "streamed".into(),
                _ => toml_literal(literal).expect("a test parses every default"),
            };
            let is_default = self.entry(path).is_none_or(|entry| entry.origin == Origin::Default);
            if is_default {
                let origin = Origin::Implied("format.compatibility");
                self.entries.insert(path.to_owned(), Entry { value, origin });
            }
        }
    }

    /// Whether begins and ends of transactions are published: events then tell which they belong to.
    #[must_use]
    pub fn has_transactions(&self) -> bool {
        self.entry("capture.transactions").is_some_and(|entry| entry.value == Value::Boolean(true))
    }

    /// Of two ways to say the same the higher layer wins; both in one layer contradict each other.
    fn settle_alternatives(&mut self) {
        for (first, second) in ALTERNATIVES {
            let (Some(a), Some(b)) = (self.entry(first), self.entry(second)) else { continue };
            match (&a.origin, &b.origin) {
                (Origin::Environment(_), Origin::File { .. }) => drop(self.entries.remove(second)),
                (Origin::File { .. }, Origin::Environment(_)) => drop(self.entries.remove(first)),
                _ => {
                    let origin = b.origin.clone();
                    self.problem(second, origin, format!("contradicts {first}: set one of them"));
                }
            }
        }
    }
}

/// Takes the values of a file, with the line of each.
struct FileWalk<'a> {
    layers: &'a mut Layers,
    file: PathBuf,
    text: &'a str,
}

impl FileWalk<'_> {
    fn section(&mut self, section: &str, spans: &DeTable<'_>, values: &Table) {
        for (name, span) in spans {
            let Some(value) = values.get(name.get_ref().as_ref()) else { continue };
            let path = join(section, name.get_ref());
            let origin = self.origin(name.span().start);
            match (keys::find(&path), span.get_ref(), value) {
                (Some(key), DeValue::Table(spans), Value::Table(values)) if key.kind.is_open_table() => {
                    self.open_table(key, "", spans, values);
                }
                (Some(key), ..) if key.kind.is_open_table() => {
                    self.layers.problem(key.path, origin, format!("must be a section: [{path}]"));
                }
                (Some(key), ..) => self.layers.set(key, None, value.clone(), origin),
                (None, DeValue::Table(spans), Value::Table(values)) if keys::is_section(&path) => {
                    self.section(&path, spans, values);
                }
                (None, ..) if keys::is_section(&path) => {
                    self.layers.problem(&path, origin, format!("must be a section: [{path}]"));
                }
                (None, ..) => self.layers.unknown(&path, origin),
            }
        }
    }

    /// Names with dots may be written without quotes: TOML then nests tables, which are joined to one name again.
    fn open_table(&mut self, key: &Key, outer: &str, spans: &DeTable<'_>, values: &Table) {
        for (name, span) in spans {
            let Some(value) = values.get(name.get_ref().as_ref()) else { continue };
            let full = join(outer, name.get_ref());
            if let (DeValue::Table(spans), Value::Table(values)) = (span.get_ref(), value) {
                self.open_table(key, &full, spans, values);
            } else {
                let origin = self.origin(name.span().start);
                self.layers.set(key, Some(&full), value.clone(), origin);
            }
        }
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { file: self.file.clone(), line: line(self.text, offset) }
    }
}

/// The key of a path, and the entry's name when the key is an open table.
fn resolve(path: &str) -> Option<(&'static Key, Option<String>)> {
    if let Some(key) = keys::find(path).filter(|key| !key.kind.is_open_table()) {
        return Some((key, None));
    }
    KEYS.iter().filter(|key| key.kind.is_open_table()).find_map(|key| {
        let name = path.strip_prefix(key.path)?.strip_prefix('.')?;
        let dotted = matches!(key.kind, Kind::Properties(_));
        Some((key, Some(if dotted { name.replace('_', ".") } else { name.to_owned() })))
    })
}

/// The text of an environment variable as a value of the key's type; what does not parse stays text and fails the check.
fn typed(kind: Kind, text: &str) -> Value {
    let literal = || toml_literal(text);
    let parsed = match kind {
        Kind::Integer(..) | Kind::Size | Kind::SizeBound => literal().filter(Value::is_integer),
        Kind::Bool => literal().filter(Value::is_bool),
        Kind::List(_) => literal().filter(Value::is_array).or_else(|| {
            let items = text.split(',').map(|item| Value::String(item.trim().to_owned()));
            Some(Value::Array(items.collect()))
        }),
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn toml_literal(text: &str) -> Option<Value> {
    toml::from_str::<Table>(&format!("value = {text}")).ok()?.remove("value")
}

fn as_text(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        other => Value::String(other.to_string()),
    }
}

fn insert(root: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(root.insert(path.to_owned(), value)),
        Some((section, rest)) => {
            let inner = root.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The line of a byte offset, from 1.
fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(text: &str, environment: &[(&str, &str)]) -> Layers {
        let mut layers = Layers::default();
        layers.add_defaults();
        layers.add_file(Path::new("w.toml"), text).unwrap();
        layers.add_environment(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        layers.settle();
        layers
    }

    fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
        layers(text, environment).problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
        let layers = layers(
            "[source]\nhost = \"a\"\nport = 1\n",
            &[("WALRELAY_SOURCE__PORT", "2"), ("WALRELAY_CAPTURE__INCLUDE", "a.b, c.*"), ("WALRELAY_SOURCE__USER", "")],
        );
        assert_eq!(layers.problems(), []);
        assert_eq!(layers.entry("source.host").unwrap().origin.to_string(), "w.toml:2");
        assert_eq!(layers.entry("source.port").unwrap().value, Value::Integer(2));
        assert_eq!(layers.entry("source.user").unwrap().origin, Origin::Default);
        assert_eq!(layers.entry("capture.include").unwrap().value, Value::from(vec!["a.b", "c.*"]));
    }

    #[test]
    fn all_problems_are_found_at_once_each_with_its_place_and_remedy() {
        let text = "[source]\nhots = \"a\"\nport = 70000\n[sorce]\nx = 1\n[capture]\nbrokers = []\nmemory = \"64Mib\"\n\
                    snapshot = \"always\"\n[kafka]\ntopics = 3\n";
        let found = problems(text, &[("WALRELAY_SOURCE__PROT", "1"), ("WALRELAY_HTTP__APPLY", "9090")]);
        assert_eq!(
            found,
            [
                "w.toml:2: source.hots is not a configuration key; did you mean source.host?",
                "w.toml:3: source.port must be a whole number from 1 to 65535",
                "w.toml:4: sorce is not a configuration key; did you mean source?",
                "w.toml:7: capture.brokers is not a configuration key; did you mean kafka.brokers?",
                "w.toml:8: capture.memory must be a size like \"64MiB\"",
                "w.toml:9: capture.snapshot must be one of initial, never, only, when-needed",
                "w.toml:11: kafka.topics must be a section: [kafka.topics]",
                "environment WALRELAY_HTTP__APPLY: http.apply must be address:port of this machine, or off",
                "environment WALRELAY_SOURCE__PROT: source.prot is not a configuration key; did you mean \
                 WALRELAY_SOURCE__PORT?",
            ]
        );
    }

    #[test]
    fn debezium_s_forms_are_defaults_that_other_keys_override() {
        let layers = layers("[format]\ncompatibility = \"debezium\"\nnullability = \"widened\"\n", &[]);
        assert_eq!(layers.problems(), []);
        let shown = |path: &str| {
            let entry = layers.entry(path).unwrap();
            (entry.value.to_string(), entry.origin.to_string())
        };
        assert_eq!(shown("format.interval"), ("\"numeric\"".into(), "format.compatibility".into()));
        assert_eq!(shown("format.nullability"), ("\"widened\"".into(), "w.toml:3".into()));
        assert_eq!(shown("format.transaction"), ("\"none\"".into(), "format.compatibility".into()));
        let told = ("WALRELAY_CAPTURE__TRANSACTIONS", "true");
        let layers = self::layers("[format]\ncompatibility = \"debezium\"\n", &[told]);
        assert_eq!(layers.entry("format.transaction").unwrap().value, "streamed".into());
        for (path, value) in DEBEZIUM {
            assert!(KEYS.iter().any(|key| key.path == path && key.default != Some(value)), "{path} = {value}");
        }
    }

    /// The rows of a page's tables.
    fn rows(page: &str) -> Vec<&str> {
        page.lines().filter(|line| line.starts_with("| ")).collect()
    }

    #[test]
    fn the_pages_on_events_and_types_have_a_row_for_each_form() {
        let (events, types) = (rows(include_str!("../../docs/events.md")), rows(include_str!("../../docs/types.md")));
        for (path, value) in DEBEZIUM {
            let option = format!("{} = {value}", path.trim_start_matches("format."));
            let name = option.split(' ').next().unwrap_or_default();
            let is_told = |row: &&str| row.contains(&format!("`{name} = ")) && row.contains(value);
            assert!(events.iter().any(is_told), "docs/events.md has no row for {option}");
        }
        for name in ["decimal", "interval", "binary", "time", "hstore"] {
            let key = KEYS.iter().find(|key| key.path == format!("format.{name}")).unwrap();
            let Kind::Choice(forms) = key.kind else { panic!("{name} is no choice") };
            let of_key: Vec<_> = types.iter().filter(|row| row.starts_with(&format!("| `{name} = "))).collect();
            for form in forms.iter().map(|form| format!("\"{form}\"")).filter(|form| key.default != Some(form)) {
                assert!(of_key.iter().any(|row| row.contains(&form)), "docs/types.md has no row for {name} = {form}");
            }
        }
    }

    #[test]
    fn properties_pass_through_quoted_dotted_and_by_environment() {
        let layers = layers(
            "[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\nsocket.keepalive.enable = true\n",
            &[("WALRELAY_KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN"), ("WALRELAY_KAFKA__PRODUCER__LINGER_MS", "7")],
        );
        assert_eq!(layers.problems(), []);
        let kafka = &layers.table()["kafka"];
        assert_eq!(kafka["properties"]["security.protocol"].as_str(), Some("SASL_SSL"));
        assert_eq!(kafka["properties"]["socket.keepalive.enable"].as_str(), Some("true"));
        assert_eq!(kafka["properties"]["sasl.mechanism"].as_str(), Some("PLAIN"));
        assert_eq!(kafka["producer"]["linger.ms"].as_str(), Some("7"));
    }

    #[test]
    fn properties_that_would_break_a_guarantee_are_refused_with_the_reason() {
        assert_eq!(
            problems("[kafka.producer]\nacks = 1\n", &[("WALRELAY_KAFKA__TOPICS__CONFIG__RETENTION_MS", "5")]),
            [
                "w.toml:2: kafka.producer.acks must not be set: the flush LSN moves only past events that every in-sync \
                 replica has",
                "environment WALRELAY_KAFKA__TOPICS__CONFIG__RETENTION_MS: kafka.topics.config.retention.ms must not be \
                 set: it is set by kafka.topics.retention",
            ]
        );
    }

    #[test]
    fn variables_that_are_not_keys_are_left_alone() {
        let foreign = [("WALRELAY_CONFIG", "x"), ("WALRELAY_SERVICE_HOST", "10.0.0.1"), ("WALRELAY_DEV_A__B", "1")];
        assert_eq!(problems("", &foreign), [""; 0]);
    }

    #[test]
    fn a_password_by_environment_replaces_the_password_file_but_one_layer_must_not_hold_both() {
        let file = "[target]\npassword_file = \"p\"\n";
        let layers = layers(file, &[("WALRELAY_TARGET__PASSWORD", "secret")]);
        assert_eq!(layers.problems(), []);
        assert_eq!(layers.entry("target.password_file"), None);
        assert_eq!(
            problems("[target]\npassword = \"x\"\npassword_file = \"p\"\n", &[]),
            ["w.toml:3: target.password_file contradicts target.password: set one of them"]
        );
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = Layers::default().add_file(Path::new("w.toml"), "[source]\nhost = a\n").unwrap_err();
        assert!(error.to_string().starts_with("w.toml:2: not valid TOML: "), "{error}");
    }
}
