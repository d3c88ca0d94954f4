//! Topics that Debezium wrote, applied by walrelay: what it published arrives, and what it dropped is known.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value as Json;
use walrelay::{
    registry::{Registry, RegistrySettings},
    schema::Relation,
};

use crate::support::{Scenario, await_condition, holds_within};

/// What the tables must have at the target, which Debezium's default schemas do not tell.
const TYPES: &str = "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN posint AS int; CREATE DOMAIN email AS text; CREATE DOMAIN price AS numeric(8,3);";

/// Cells, by table, key and column, that Debezium's default configuration loses or changes, and what arrives of them.
const LOST: [(&str, &str, &str, Option<&str>); 26] = [
    ("t_numeric", "4", "n10_2", None),
    ("t_numeric", "4", "n", None),
    ("t_numeric", "4", "n10_0", None),
    ("t_numeric", "5", "n", None),
    ("t_numeric", "6", "n", None),
    ("t_numeric", "8", "n", Some("1.5")),
    ("t_text", "1", "n", None),
    ("t_text", "3", "n", None),
    ("t_array", "4", "ai", Some("{1,2,3}")),
    ("t_bool", "1", "vb", Some("1")),
    ("t_time", "1", "tz", Some("07:04:56.789012+00")),
    ("t_time", "1", "tz3", Some("15:34:56.789+00")),
    ("t_time", "3", "tz", Some("00:00:00+00")),
    ("t_time", "3", "tz3", Some("12:00:00+00")),
    ("t_time", "4", "tz", Some("08:01:00+00")),
    ("t_time", "4", "tz3", Some("15:58:59.999+00")),
    ("t_interval", "2", "i", Some("-10159:05:06.789012")),
    ("t_interval", "2", "iym", Some("00:00:00")),
    ("t_interval", "3", "i", Some("730:30:00")),
    ("t_interval", "4", "i", Some("2562047788:00:54.775807")),
    ("t_interval", "4", "iym", Some("00:00:00")),
    ("t_interval", "4", "inn", Some("-24:00:00")),
    ("t_interval", "5", "inn", Some("24:00:00")),
    // Its default schemas do not tell a hstore from json.
    ("t_json", "1", "h", Some("{\"k\":\"v\",\"n\":null}")),
    ("t_json", "3", "h", Some("{}")),
    ("t_json", "4", "h", Some("{\"a\":\"1\"}")),
];

/// A record that Debezium has made unreadable, by table and key: microseconds beyond a long have wrapped round.
const UNREADABLE: (&str, &str) = ("t_timestamp", "8");

/// The rows that a table ends with, as PostgreSQL's text, and how it is declared.
#[derive(Deserialize)]
struct Table {
    relation: Relation,
    snapshot: Vec<Vec<Option<String>>>,
    operations: Vec<Operation>,
    default: Schemas,
}

#[derive(Deserialize)]
struct Operation {
    op: String,
    old: Option<Vec<Option<String>>>,
    new: Option<Vec<Option<String>>>,
}

#[derive(Deserialize)]
struct Schemas {
    key: Json,
    value: Json,
}

/// A topic's records: key and value in hexadecimal.
#[derive(Deserialize)]
struct Written {
    table: String,
    records: Vec<(Option<String>, Option<String>)>,
}

fn data<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(format!("{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).expect("the golden data")).expect("JSON of this form")
}

pub fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

impl Table {
    fn key(&self, row: &[Option<String>]) -> Vec<Option<String>> {
        self.relation.key.iter().map(|index| row[*index].clone()).collect()
    }

    fn rows(&self) -> BTreeMap<Vec<Option<String>>, Vec<Option<String>>> {
        let mut rows: BTreeMap<_, _> = self.snapshot.iter().map(|row| (self.key(row), row.clone())).collect();
        for operation in &self.operations {
            if let Some(old) = operation.old.as_ref().filter(|_| operation.op != "INSERT") {
                rows.remove(&self.key(old));
            }
            if let Some(new) = &operation.new {
                rows.insert(self.key(new), new.clone());
            }
        }
        rows
    }

    fn create(&self) -> String {
        let columns = self.relation.columns.iter().map(|column| {
            let ty = if *column.ty.sql == *"public.hstore" { "json" } else { &*column.ty.sql };
            format!("\"{}\" {ty}", column.name)
        });
        let key = self.relation.key.iter().map(|index| format!("\"{}\"", self.relation.columns[*index].name));
        let (columns, key) = (columns.collect::<Vec<_>>().join(", "), key.collect::<Vec<_>>().join(", "));
        format!("CREATE TABLE {} ({columns}, PRIMARY KEY ({key}))", self.relation.name.table)
    }

    /// All rows in the order of their keys' texts, as one JSON text.
    fn query(&self) -> String {
        let text = |name: &str| format!("CASE WHEN \"{name}\" IS DISTINCT FROM NULL THEN format('%s', \"{name}\") END");
        let cells: Vec<_> = self.relation.columns.iter().map(|column| text(&column.name)).collect();
        let key: Vec<_> = self.relation.key.iter().map(|index| format!("{} COLLATE \"C\"", cells[*index])).collect();
        let (cells, key) = (cells.join(", "), key.join(", "));
        format!(
            "SELECT coalesce(json_agg(json_build_array({cells}) ORDER BY {key}), '[]')::text FROM {}",
            self.relation.name.table
        )
    }

    fn expected(&self) -> Vec<Vec<Option<String>>> {
        let mut rows: Vec<_> = self.rows().into_values().collect();
        rows.retain(|row| (&*self.relation.name.table, row[0].as_deref()) != (UNREADABLE.0, Some(UNREADABLE.1)));
        for row in &mut rows {
            let id = row[0].clone().unwrap_or_default();
            for (table, key, column, text) in LOST {
                let place = self.relation.columns.iter().position(|known| *known.name == *column);
                if let (true, Some(place)) = (*table == *self.relation.name.table && key == id, place) {
                    row[place] = text.map(str::to_owned);
                }
            }
        }
        rows
    }
}

pub fn registry(scenario: &Scenario) -> Registry {
    Registry::new(&RegistrySettings {
        urls: vec![scenario.parts.registry.clone()],
        basic_auth: None,
        ca: None,
        identity: None,
        timeout: Duration::from_secs(10),
        auto_register: true,
        rounds: 5,
    })
    .expect("a registry")
}

/// The ids that the registry gives the key's and the value's schema, under subjects of this producer's own.
async fn register(scenario: &Scenario, table: &str, schemas: &Schemas) -> [u32; 2] {
    let (registry, subject) = (registry(scenario), scenario.topics().name(&format!("debezium.{table}")));
    let mut ids = [0; 2];
    for (id, (part, schema)) in ids.iter_mut().zip([("key", &schemas.key), ("value", &schemas.value)]) {
        *id = registry.register_schema(&format!("{subject}-{part}"), &schema.to_string()).await.expect("an id");
    }
    ids
}

/// Writes Debezium's records of a table, with these ids in place of its own.
fn publish(scenario: &Scenario, written: &Written, ids: [u32; 2], partition: i32) {
    let (table, topics) = (format!("public.{}", written.table), scenario.topics());
    let framed = |id: u32, hex: &str| [&[0][..], &id.to_be_bytes(), &octets(&hex[10..])].concat();
    // The key is an int, in zig-zag.
    let unreadable =
        |key: &Option<String>| written.table == UNREADABLE.0 && key.as_ref().is_some_and(|key| key.ends_with("10"));
    let readable = written.records.iter().filter(|(key, _)| !unreadable(key));
    let records: Vec<_> = readable
        .map(|(key, value)| {
            (key.as_ref().map(|key| framed(ids[0], key)), value.as_ref().map(|value| framed(ids[1], value)))
        })
        .collect();
    topics.write_all(&table, partition, records.iter().map(|(key, value)| (key.as_deref(), value.as_deref())));
}

/// Trap T27 and what Debezium's default configuration loses; nothing else is different.
#[tokio::test(flavor = "multi_thread")]
async fn debezium_s_own_topics_are_applied() {
    let scenario = Scenario::new("debezium").await;
    scenario.target(TYPES).await;
    let mut written: Vec<Written> = data("debezium");
    if scenario.is_source_before(150_000).await {
        // The target's intervals end earlier.
        written.retain(|written| written.table != "t_interval");
    }
    let tables: Vec<Table> = written.iter().map(|written| data(&written.table)).collect();
    for table in &tables {
        scenario.target(&table.create()).await;
    }
    let mut ids = Vec::new();
    for table in &tables {
        ids.push(register(&scenario, &table.relation.name.table, &table.default).await);
    }
    let (topics, names) = (scenario.topics(), written.iter().map(|written| format!("public.{}", written.table)));
    join_all(names.map(async |name| topics.create(&name, 1).await)).await;
    for (written, ids) in written.iter().zip(ids) {
        publish(&scenario, written, ids, 0);
    }
    let _apply = scenario.spawn_apply();
    for table in &tables {
        let expected = table.expected();
        let rows = async || scenario.target_value(&table.query()).await.unwrap_or_default();
        let count =
            async || serde_json::from_str::<Vec<Json>>(&rows().await).is_ok_and(|rows| rows.len() == expected.len());
        await_condition(
            &format!("the rows of {} are there", table.relation.name.table),
            Duration::from_secs(15),
            count,
        )
        .await;
        let arrives =
            async || serde_json::from_str::<Vec<Vec<Option<String>>>>(&rows().await).is_ok_and(|rows| rows == expected);
        if !holds_within(Duration::from_secs(20), arrives).await {
            let rows: Vec<Vec<Option<String>>> = serde_json::from_str(&rows().await).expect("rows");
            assert_eq!(rows, expected, "{}", table.relation.name.table);
        }
    }
}

/// A table with what Debezium wrote of it.
fn table(name: &str) -> (Table, Written) {
    let written: Vec<Written> = data("debezium");
    (data(name), written.into_iter().find(|written| written.table == name).expect("the table's records"))
}

// trap T65
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_debezium_s_topics_wait_for_the_rows_of_others_that_they_refer_to() {
    let scenario = Scenario::new("family").await;
    let ((parent, mut parents), (child, children)) = (table("t_bool"), table("t_int"));
    // The last is needed first.
    parents.records.reverse();
    let parent_ids = register(&scenario, "t_bool", &parent.default).await;
    let child_ids = register(&scenario, "t_int", &child.default).await;
    for table in [&parent, &child] {
        scenario.target(&table.create()).await;
        scenario.topics().create(&format!("public.{}", table.relation.name.table), 1).await;
    }
    scenario.target("ALTER TABLE t_int ADD FOREIGN KEY (id) REFERENCES t_bool").await;
    publish(&scenario, &children, child_ids, 0);
    let mut apply = scenario.spawn_apply();
    scenario.await_log(&mut apply, "an event waits for other partitions").await;
    publish(&scenario, &parents, parent_ids, 0);
    let expected = serde_json::to_string(&child.expected()).expect("JSON");
    let spaced = async || scenario.target_value(&child.query()).await.unwrap_or_default().replace(' ', "");
    await_condition("the children are there", Duration::from_secs(15), async || spaced().await == expected).await;
    await_condition("apply is ready", Duration::from_secs(15), async || scenario.readiness("apply").await.0 == 200)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_debezium_s_in_a_topic_of_walrelay_s_is_not_lost_in_silence() {
    let scenario = Scenario::new("intruder").await;
    let (table, written) = table("t_int");
    scenario.source(&table.create()).await;
    scenario.source("INSERT INTO t_int VALUES (9, 9, 9, 9, 9, 9, 9, 9)").await;
    let _capture = scenario.capture().await;
    let _apply = scenario.apply().await;
    scenario.await_equal("t_int").await;
    let record = scenario.topics().read("public.t_int").pop().expect("walrelay's record");
    let ids = register(&scenario, "t_int", &table.default).await;
    publish(&scenario, &written, ids, record.partition);
    let told = async || scenario.readiness("apply").await.1.contains("offset 1: a record of another producer");
    await_condition("apply tells that it stops", Duration::from_secs(15), told).await;
    scenario.await_target("SELECT string_agg(id::text, ',') FROM t_int", "9").await;
}
