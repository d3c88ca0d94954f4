//! Debezium's contract on the real parts: its own tables and statements, captured under `compatibility = "debezium"` and settings
//! like its own, and every record of every topic compared with what Debezium wrote for them, snapshot and stream.
//!
//! What no two runs have in common (LSNs, numbers of transactions, times) is compared by its order in [`places`]; what else differs is
//! listed in `tests/golden/differences.rs`, or is of the run and not of values, as the documentation says:
//!
//! - `source.version` is walrelay's own.
//! - `header_converter = "json"` is a `JsonConverter` without schemas.
//! - An end names messages by their topic, Debezium's by a Java object, which is another one each time.
//! - The collections of an end have no order in Debezium.

#[path = "../golden/differences.rs"]
#[allow(dead_code, reason = "the golden tests use all of it")]
mod differences;
mod places;
#[path = "../golden/oracle.rs"]
mod reading;
mod written;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value as Json, json};
use toml::Value;

use self::{
    differences::Differences,
    places::Places,
    written::{Event, Topic, Written},
};
use crate::support::{Consumed, LIMIT, Scenario, await_condition, schema_of, versions};

const TABLES: &str = include_str!("contract/tables.sql");
const STREAM: &str = include_str!("contract/stream.sql");

/// Columns whose types Debezium does not know, by table: it writes their bytes where it is told to, and walrelay their text.
const UNKNOWN: [(&str, &[&str]); 2] = [("t_geo", &["bx", "pa", "pg", "ln", "ls", "ci"]), ("t_range", &["mn", "mtz"])];

/// Columns of the first row of `ev_toast` whose values Debezium's run took at random: their form is compared.
const RANDOM: [&str; 6] = ["ai", "ai8", "num", "af8", "au", "atz"];

#[tokio::test(flavor = "multi_thread")]
async fn records_are_debezium_s_under_its_default_settings() {
    Comparison::of("default", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_debezium_s_under_settings_that_lose_less() {
    let settings = [
        ("capture.transactions", Value::from(true)),
        ("format.decimal", "string".into()),
        ("format.interval", "string".into()),
        ("format.parameters", "source-type".into()),
        ("format.truncates", "single".into()),
        ("format.unknown_types", "text".into()),
        ("format.header_converter", "json".into()),
    ];
    Comparison::of("lossless", &settings).await;
}

fn milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    u64::try_from(now.as_millis()).expect("a time before the far future")
}

/// Statements of a file, one a line.
async fn run(scenario: &Scenario, statements: &str) {
    for statement in statements.lines().filter(|line| !line.starts_with("--")) {
        scenario.source(statement).await;
    }
}

async fn await_confirmed(scenario: &Scenario) {
    let position = scenario.source_value("SELECT pg_current_wal_insert_lsn()").await.expect("a position");
    let confirmed = async || {
        let Some(confirmed) = scenario.confirmed_flush().await else { return false };
        let sql = format!("SELECT '{confirmed}'::pg_lsn >= '{position}'::pg_lsn");
        scenario.source_value(&sql).await.as_deref() == Some("t")
    };
    await_condition("capture has confirmed everything", LIMIT, confirmed).await;
}

/// One configuration's topics, read from the real parts.
struct Comparison {
    scenario: Scenario,
    lossless: bool,
    /// By id.
    schemas: BTreeMap<u32, Json>,
    places: Places,
    problems: Vec<String>,
}

impl Comparison {
    /// Captures everything under a configuration, and fails with all that differs.
    async fn of(configuration: &str, settings: &[(&str, Value)]) {
        let mut scenario = Scenario::new(&format!("contract_{configuration}")).await;
        scenario.settings.set("format.compatibility", "debezium");
        // As Debezium's topics were.
        scenario.settings.set("kafka.topics.partitions", 1);
        // A column is renamed, and one gets another type.
        scenario.settings.set("capture.on_unlogged", "continue");
        for (key, value) in settings {
            scenario.settings.set(key, value.clone());
        }
        run(&scenario, TABLES).await;
        let begun = milliseconds();
        let mut capture = scenario.capture().await;
        scenario.await_log(&mut capture, "values are asked for").await;
        run(&scenario, STREAM).await;
        await_confirmed(&scenario).await;
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        let written = Written::read(configuration, &scenario.name);
        let tells_empty = scenario.is_source_before(150_000).await;
        let comparison = Self {
            scenario,
            lossless: configuration == "lossless",
            schemas: BTreeMap::new(),
            places: Places::new(begun, milliseconds(), tells_empty),
            problems: Vec::new(),
        };
        comparison.compare(written).await;
    }

    async fn compare(mut self, written: Written) {
        let used = RefCell::default();
        for (table, topic) in &written.tables {
            self.compare_table(table, topic, &used).await;
        }
        self.compare_messages(&written).await;
        if self.lossless {
            self.compare_transactions(&written).await;
        } else {
            assert_eq!(self.scenario.topics().partitions("transaction"), 0);
        }
        let mut problems = self.problems;
        problems.extend(self.places.problems());
        assert!(problems.is_empty(), "{} differ from what Debezium wrote:\n{}", problems.len(), problems.join("\n"));
        let listed: BTreeSet<_> = if self.lossless { ["serial", "numeric's length"].into() } else { BTreeSet::new() };
        assert_eq!(used.into_inner(), listed, "listed differences");
    }

    fn same(&mut self, ours: &Json, theirs: &Json, what: &str) {
        let [ours, theirs] = [ours, theirs].map(|json| serde_json::to_string_pretty(json).expect("JSON"));
        let mut lines = ours.lines().zip(theirs.lines()).enumerate();
        if let Some((number, (ours, theirs))) = lines.find(|(_, (ours, theirs))| ours != theirs) {
            self.problems.push(format!("{what}, line {number}: {ours} is {theirs} with Debezium"));
        } else if ours.len() != theirs.len() {
            self.problems.push(format!("{what}: one has more"));
        }
    }

    /// The schema that a key or value is framed with.
    async fn schema(&mut self, framed: &[u8]) -> (u32, Json) {
        let id = u32::from_be_bytes(framed[1..5].try_into().expect("four bytes"));
        if !self.schemas.contains_key(&id) {
            let schema = schema_of(&self.scenario, id).await;
            self.schemas.insert(id, schema);
        }
        (id, self.schemas[&id].clone())
    }

    async fn compare_table(&mut self, table: &str, topic: &Topic, used: &RefCell<BTreeSet<&'static str>>) {
        let name = format!("public.{table}");
        let records = self.scenario.topics().read(&name);
        if records.len() != topic.events.len() {
            self.problems.push(format!("{table} has {} records, Debezium {}", records.len(), topic.events.len()));
        }
        let versions = versions(&self.scenario, &format!("{}-value", self.scenario.topics().name(&name))).await;
        if versions != topic.values.len() {
            self.problems.push(format!("{table} has {versions} schemas, Debezium {}", topic.values.len()));
        }
        let differences = Differences::new(&topic.relation, self.lossless, true, used);
        let mut ids = Vec::new();
        for (number, (record, event)) in records.iter().zip(&topic.events).enumerate() {
            let what = format!("record {number} of {table}");
            self.compare_key(record, event, &topic.key, &what).await;
            self.compare_headers(record, event, true, &what);
            let (Some(value), false) = (&record.value, event.value.is_null()) else {
                self.same(&json!(record.value.is_none()), &json!(event.value.is_null()), &format!("tombstone, {what}"));
                continue;
            };
            let (id, schema) = self.schema(value).await;
            if !ids.contains(&id) {
                ids.push(id);
            }
            let version = ids.iter().position(|known| *known == id).expect("it was put there");
            self.same(&json!(version), &json!(event.schema.unwrap_or(0)), &format!("schema version, {what}"));
            let Some(theirs) = topic.values.get(version) else { continue };
            let ours = reading::read(&schema.to_string(), value);
            let (theirs, mut schema) = differences.schemas(theirs.clone(), schema);
            if let Json::Array(fields) = &mut schema["fields"][0]["type"][1]["fields"] {
                fields.retain(|field| !self.is_unknown(table, &field["name"]));
            }
            self.same(&schema, &theirs, &format!("value schema, {what}"));
            self.compare_value(ours, event.value.clone(), &differences, (table, number));
        }
    }

    fn is_unknown(&self, table: &str, column: &Json) -> bool {
        let unknown = UNKNOWN.iter().find(|(name, _)| *name == table);
        self.lossless && unknown.is_some_and(|(_, columns)| columns.iter().any(|name| column == name))
    }

    fn compare_value(
        &mut self,
        mut ours: Json,
        mut theirs: Json,
        differences: &Differences<'_>,
        (table, number): (&str, usize),
    ) {
        let what = format!("record {number} of {table}");
        for part in ["before", "after"] {
            differences.row(&mut theirs[part], false);
            if let Json::Object(fields) = &mut ours[part] {
                fields.retain(|name, _| !self.is_unknown(table, &json!(name)));
            }
        }
        if (table, number) == ("ev_toast", 0) {
            for column in RANDOM {
                ours["after"][column] = form(&ours["after"][column]);
            }
        }
        self.compare_event(&ours, theirs, &what);
    }

    /// What remains of an event: places, names, and all else.
    fn compare_event(&mut self, ours: &Json, mut theirs: Json, what: &str) {
        self.places.even(&mut theirs, ours, what);
        theirs["source"]["version"] = json!(env!("CARGO_PKG_VERSION"));
        for name in ["name", "db"] {
            theirs["source"][name] = json!(self.scenario.name);
        }
        self.same(ours, &theirs, what);
    }

    async fn compare_key(&mut self, record: &Consumed, event: &Event, schema: &Json, what: &str) {
        let (Some(key), Some(theirs)) = (record.key.as_deref(), event.key_hex.as_deref()) else {
            // A truncate has none.
            self.same(&json!(record.key.is_none()), &json!(event.key_hex.is_none()), &format!("no key, {what}"));
            return;
        };
        let (_, own) = self.schema(key).await;
        self.same(&own, schema, &format!("key schema, {what}"));
        self.same(&json!(reading::hex(&key[5..])), &json!(theirs[10..]), &format!("key, {what}"));
    }

    fn compare_headers(&mut self, record: &Consumed, event: &Event, has_context: bool, what: &str) {
        let mut ours: Map<String, Json> =
            record.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut theirs = event.headers.clone();
        for text in theirs.values_mut().filter(|_| self.lossless) {
            let text_and_schema: Json = serde_json::from_str(text.as_str().expect("a text")).expect("JSON");
            *text = json!(text_and_schema["payload"].to_string());
        }
        if has_context {
            let run = ours.get_mut("__debezium.context.runId").expect("the id of the run");
            // A random UUID: version 4, Debezium's are of version 7.
            assert!(run.as_str().is_some_and(|id| id.len() == 36), "{run}");
            *run = json!("an id");
            let context = [
                ("connectorLogicalName", &*self.scenario.name),
                ("connectorName", "postgresql"),
                ("runId", "an id"),
                ("taskId", "0"),
            ];
            theirs.extend(context.map(|(name, value)| (format!("__debezium.context.{name}"), json!(value))));
        }
        theirs.sort_keys();
        self.same(&Json::Object(ours), &Json::Object(theirs), &format!("headers, {what}"));
    }

    async fn compare_messages(&mut self, written: &Written) {
        let (records, theirs) = (self.scenario.topics().read("message"), &written.messages);
        assert_eq!(records.len(), theirs.events.len(), "messages");
        for (number, (record, event)) in records.iter().zip(&theirs.events).enumerate() {
            let what = format!("message {number}");
            self.compare_key(record, event, &theirs.key, &what).await;
            self.compare_headers(record, event, false, &what);
            let value = record.value.as_deref().expect("a value");
            let (_, schema) = self.schema(value).await;
            self.same(&schema, &theirs.value, &format!("value schema, {what}"));
            self.compare_event(&reading::read(&schema.to_string(), value), event.value.clone(), &what);
        }
    }

    async fn compare_transactions(&mut self, written: &Written) {
        let mut ours = Vec::new();
        for record in self.scenario.topics().read("transaction") {
            let [key, value] = [record.key, record.value].map(|part| part.expect("a key and a value"));
            let mut read = Vec::new();
            for part in [&key, &value] {
                let (_, schema) = self.schema(part).await;
                read.push(reading::read(&schema.to_string(), part));
            }
            assert_eq!(read[0]["id"], read[1]["id"]);
            assert!(record.headers.is_empty(), "{:?}", record.headers);
            ours.extend(read.pop());
        }
        let [ours, theirs] = [ours, written.transactions.clone()].map(|values| self.compared(values));
        self.same(&json!(ours.len()), &json!(theirs.len()), "how many begins and ends there are");
        for (number, (ours, mut theirs)) in ours.into_iter().zip(theirs).enumerate() {
            let what = format!("boundary {number} of transactions");
            self.places.even_boundary(&mut theirs, &ours, &what);
            self.same(&ours, &theirs, &what);
        }
    }

    /// Begins and ends of what is compared: without transactions of other tables alone, and counts by name in their order.
    fn compared(&self, values: Vec<Json>) -> Vec<Json> {
        let mut kept = Vec::new();
        for pair in values.chunks(2) {
            let [begin, end] = pair else { panic!("no end behind {pair:?}") };
            let mut counts = BTreeMap::<String, u64>::new();
            for collection in end["data_collections"].as_array().into_iter().flatten() {
                let name = self.collection(collection["data_collection"].as_str().expect("a name"));
                *counts.entry(name).or_default() += collection["event_count"].as_u64().expect("a number");
            }
            if counts.keys().all(|name| name == "others") {
                continue;
            }
            let mut end = end.clone();
            end["data_collections"] = json!(counts);
            kept.extend([begin.clone(), end]);
        }
        kept
    }

    fn collection(&self, name: &str) -> String {
        if name.contains("LogicalDecodingMessageId") || name == self.scenario.topics().name("message") {
            return "messages".to_owned();
        }
        let table = name.strip_prefix("public.").expect("a table of the schema public");
        let known = differences::TABLES.contains(&table) || table == "ev_truncate2";
        if known { table } else { "others" }.to_owned()
    }
}

/// A value without what is random in it.
fn form(value: &Json) -> Json {
    match value {
        Json::Array(items) => json!({"items": items.len(), "like": items.first().map(form)}),
        Json::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), form(value))).collect(),
        Json::Number(_) => json!("number"),
        Json::String(_) => json!("text"),
        _ => value.clone(),
    }
}
