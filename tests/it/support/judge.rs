//! Reads a scenario's topics as any consumer of committed records does, and judges what lies in them.
//!
//! It has a consumer of its own and decodes with another library than walrelay's: in every partition positions rise, every
//! transaction has as many events as its one end tells, every truncate has a copy in every partition, and what is left of all
//! events is what the source has. Where events may come again, these are repeated from some place on and none is ahead of another.

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};

use super::{Consumed, LIMIT, Scenario, await_condition, schema_of};

/// Partitions of each topic that is judged.
pub const PARTITIONS: usize = 3;

/// Epoch, commit LSN and ordinal.
type At = (u64, u64, u64);

/// How often an event may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Once.
    Once,
    /// Again too.
    Repeated,
}

/// Makes every record tell its position, and every transaction how many events it has.
pub fn make_judgeable(scenario: &mut Scenario) {
    scenario.settings.set("capture.transactions", true);
    scenario.settings.set("format.parameters", "source-type");
    scenario.settings.set("kafka.topics.partitions", i64::try_from(PARTITIONS).expect("a small number"));
}

fn position(record: &Consumed) -> At {
    let text = record.headers.get("walrelay.pos").expect("every record with a value tells its position");
    let numbers: Vec<u64> = text.split(':').map(|part| part.parse().expect("a number")).collect();
    (numbers[0], numbers[1], numbers[2])
}

fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    find(value, name).unwrap_or_else(|| panic!("no field {name}"))
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Record(fields) = value else { panic!("{value:?} is no record") };
    let (_, field) = fields.iter().find(|(known, _)| known == name)?;
    Some(if let Value::Union(_, inner) = field { inner } else { field })
}

fn text(value: &Value) -> &str {
    let (Value::String(text) | Value::Enum(_, text)) = value else { panic!("{value:?} is no text") };
    text
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Int(number) => i64::from(*number),
        Value::Long(number) => *number,
        other => panic!("{other:?} is no number"),
    }
}

/// Reads the topics.
pub struct Judge<'a> {
    scenario: &'a Scenario,
    delivery: Delivery,
    schemas: BTreeMap<u32, Schema>,
    /// Ordinals of each transaction's events, by collection.
    events: BTreeMap<(u64, u64), BTreeMap<String, BTreeSet<u64>>>,
}

impl<'a> Judge<'a> {
    pub const fn new(scenario: &'a Scenario, delivery: Delivery) -> Self {
        Self { scenario, delivery, schemas: BTreeMap::new(), events: BTreeMap::new() }
    }

    fn may_repeat(&self) -> bool {
        self.delivery == Delivery::Repeated
    }

    async fn decode(&mut self, value: &[u8]) -> Value {
        let id = u32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
        if !self.schemas.contains_key(&id) {
            let schema = Schema::parse(&schema_of(self.scenario, id).await).expect("a schema");
            self.schemas.insert(id, schema);
        }
        let reader = GenericDatumReader::builder(&self.schemas[&id]).build().expect("a reader");
        reader.read_value(&mut &value[5..]).expect("a value of its schema")
    }

    /// The events of a table, in order and once; gives what is left of its rows.
    pub async fn rows(&mut self, table: &str) -> BTreeSet<String> {
        let (mut rows, mut seen) = (BTreeMap::<(i32, Vec<u8>), String>::new(), BTreeMap::<i32, BTreeSet<At>>::new());
        let (mut copies, may_repeat) = (BTreeMap::<At, BTreeSet<i32>>::new(), self.may_repeat());
        for record in self.scenario.topics().read(&format!("public.{table}")) {
            let (Some(value), partition) = (&record.value, record.partition) else { continue };
            let at = position(&record);
            if at.2 > 0 {
                let seen = seen.entry(partition).or_default();
                let behind = seen.last().copied().filter(|last| at <= *last);
                if !seen.insert(at) {
                    assert!(may_repeat, "{table} {partition}: {at:?} came twice");
                    continue;
                }
                assert!(behind.is_none(), "{table} {partition}: {at:?} came behind {behind:?}");
                let of_transaction = self.events.entry((at.0, at.1)).or_default();
                of_transaction.entry(format!("public.{table}")).or_default().insert(at.2);
            }
            let event = self.decode(value).await;
            match text(field(&event, "op")) {
                "t" => {
                    copies.entry(at).or_default().insert(partition);
                    rows.retain(|(of, _), _| *of != partition);
                }
                "d" => drop(rows.remove(&(partition, record.key.clone().expect("a key")))),
                _ => {
                    let after = field(&event, "after");
                    let n = find(after, "n").map(|n| format!(" {}", number(n))).unwrap_or_default();
                    let row = format!("{}{n}", number(field(after, "id")));
                    rows.insert((partition, record.key.clone().expect("a key")), row);
                }
            }
        }
        assert!(copies.values().all(|copies| copies.len() == PARTITIONS), "{table}: copies of truncates: {copies:?}");
        rows.into_values().collect()
    }

    /// Messages are events of their transactions, each once.
    fn messages(&mut self) {
        let (topics, may_repeat) = (self.scenario.topics(), self.may_repeat());
        for (epoch, commit, ordinal) in topics.read("message").iter().map(position) {
            let of_transaction = self.events.entry((epoch, commit)).or_default();
            let is_new = of_transaction.entry(topics.name("message")).or_default().insert(ordinal);
            assert!(is_new || may_repeat, "the message at {commit}, {ordinal} came twice");
        }
    }

    /// Each transaction has one begin and one end, which counts the events that were found.
    async fn transactions(&mut self) {
        let (mut begins, mut ends) = (BTreeSet::new(), BTreeSet::new());
        for record in self.scenario.topics().read("transaction") {
            let (epoch, commit, _) = position(&record);
            let told = self.decode(record.value.as_deref().expect("a value")).await;
            if text(field(&told, "status")) == "BEGIN" {
                assert!(begins.insert((epoch, commit)) || self.may_repeat(), "two begins at {commit}");
                continue;
            }
            if !ends.insert((epoch, commit)) {
                assert!(self.may_repeat(), "two ends at {commit}");
                continue;
            }
            let Value::Array(items) = field(&told, "data_collections") else { panic!("no collections: {told:?}") };
            let items = items.iter().map(|item| if let Value::Union(_, inner) = item { &**inner } else { item });
            let counts: BTreeMap<_, _> = items
                .map(|item| (text(field(item, "data_collection")).to_owned(), number(field(item, "event_count"))))
                .collect();
            let found = self.events.remove(&(epoch, commit)).unwrap_or_default();
            let found = found.into_iter().map(|(table, ordinals)| (table, i64::try_from(ordinals.len()).unwrap()));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), counts, "events of the transaction at {commit}");
        }
        assert_eq!(begins, ends, "begins and ends");
        assert!(self.events.is_empty(), "events of transactions without an end: {:?}", self.events);
    }
}

/// Waits until everything is confirmed to the source, and judges.
pub async fn judge(scenario: &Scenario, tables: &[&str], delivery: Delivery) {
    await_confirmed(scenario).await;
    let mut judge = Judge::new(scenario, delivery);
    for table in tables {
        let left = judge.rows(table).await;
        let expected = source_rows(scenario, table).await;
        assert!(left == expected, "{table}: {:?}", left.symmetric_difference(&expected).take(9).collect::<Vec<_>>());
    }
    judge.messages();
    judge.transactions().await;
}

pub async fn source_rows(scenario: &Scenario, table: &str) -> BTreeSet<String> {
    let list = format!("SELECT string_agg(id || coalesce(' ' || (to_jsonb(t) ->> 'n'), ''), ',') FROM {table} t");
    let list = scenario.source_value(&list).await.unwrap_or_default();
    list.split(',').filter(|row| !row.is_empty()).map(str::to_owned).collect()
}

pub async fn await_confirmed(scenario: &Scenario) {
    let position = scenario.source_value("SELECT pg_current_wal_flush_lsn()").await.expect("a position");
    // Its commit lies above.
    scenario.source("SELECT pg_logical_emit_message(true, 'mark', '')").await;
    let confirmed = async || {
        let confirmed = scenario.confirmed_flush().await.expect("the slot exists");
        scenario.source_value(&format!("SELECT '{confirmed}'::pg_lsn > '{position}'::pg_lsn")).await.as_deref()
            == Some("t")
    };
    // What is behind may be all that was written while brokers were away.
    await_condition("everything is confirmed", LIMIT * 3, confirmed).await;
}
