//! Tables change while rows change: what the log tells arrives, what it does not tell stops the table and is never guessed.
//!
//! Cases run on two tables, under one pair of halves: one is changed while capture streams, one while it is down.

mod cases;
mod composite;
mod image;

use std::collections::BTreeMap;

use self::cases::{
    BOTH, BY_HAND, CASES, Case,
    Outcome::{Arrives, Stops, StopsForGood},
};
use crate::support::{LIMIT, Scenario, await_condition, newest_schema};

fn of(text: &str, table: &str) -> String {
    text.replace("$t", table)
}

fn table_of(case: &Case, when: &str) -> String {
    format!("{}_{when}", case.name)
}

/// The cases that have such a table.
fn cases(when: &str) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |case| case.when.contains(&when))
}

/// All tables.
fn all() -> impl Iterator<Item = (&'static Case, String)> {
    CASES.iter().flat_map(|case| case.when.iter().map(move |when| (case, table_of(case, when))))
}

async fn change(scenario: &Scenario, when: &str) {
    for case in cases(when) {
        let table = table_of(case, when);
        for (_, sql) in BY_HAND.iter().filter(|(name, _)| *name == case.name) {
            scenario.target(&of(sql, &table)).await;
        }
        // Each statement is a transaction of its own, as a client would send it.
        for sql in of(case.change, &table).split("; ").fold(Vec::new(), statements) {
            scenario.source(&sql).await;
        }
    }
}

/// Puts statements together that one transaction has.
fn statements(mut all: Vec<String>, sql: &str) -> Vec<String> {
    match all.last_mut() {
        Some(last) if last.starts_with("BEGIN") && !last.contains("COMMIT") => last.push_str(&format!("; {sql}")),
        _ => all.push(sql.trim().to_owned()),
    }
    all
}

async fn arrive(scenario: &Scenario, when: &str) {
    for case in cases(when) {
        let table = table_of(case, when);
        match case.outcome {
            Arrives(columns) => scenario.await_equal(&format!("(SELECT {columns} FROM {table})")).await,
            Stops { reason, .. } | StopsForGood(reason) => {
                let (reason, name) = (of(reason, &table), format!("public.{table}"));
                let told = async || {
                    let body = scenario.readiness("capture").await.1;
                    body.contains(&reason) && body.contains(&name)
                };
                await_condition(&format!("capture says of {table}: {reason}"), LIMIT, told).await;
            }
        }
    }
}

/// The numbers of a table's versions, as they are recorded.
fn numbers(scenario: &Scenario, table: &str) -> BTreeMap<Vec<u8>, u64> {
    let mut numbers = BTreeMap::new();
    for record in scenario.state_topics().read(&scenario.name) {
        let key = record.key.unwrap_or_default();
        let version: serde_json::Value =
            record.value.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        if key.starts_with(b"relation/") && version["name"]["table"] == table {
            numbers.insert(key, version["lineage"]["number"].as_u64().expect("a number"));
        }
    }
    numbers
}

/// The labels that the newest schema of a table tells of its columns.
async fn labels(scenario: &Scenario, table: &str) -> Vec<String> {
    let schema = newest_schema(scenario, &format!("{}-value", scenario.topics().name(table))).await;
    let fields = schema["fields"][0]["type"][1]["fields"].as_array().expect("fields").clone();
    let allowed = |field: &serde_json::Value| {
        let ty = &field["type"][1];
        let ty = if ty["items"].is_null() { ty } else { &ty["items"][1] };
        ty["connect.parameters"]["allowed"].as_str().map(str::to_owned)
    };
    fields.iter().filter_map(allowed).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_tables_arrive_or_stop_with_what_no_event_tells() {
    let mut scenario = Scenario::new("evolution").await;
    for (case, table) in all() {
        scenario.both(&of(case.both, &table)).await;
        scenario
            .source(&of(&format!("CREATE TABLE $t {}; INSERT INTO $t VALUES {}", case.table, case.rows), &table))
            .await;
    }
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for (_, table) in all() {
        scenario.await_equal(&table).await;
    }
    change(&scenario, "live").await;
    arrive(&scenario, "live").await;
    assert_eq!(labels(&scenario, "public.labels_live").await, [r#"sad,ok,glad,it's, "so",late"#; 3]);
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    change(&scenario, "down").await;
    let mut capture = scenario.spawn_capture();
    for when in BOTH {
        arrive(&scenario, when).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    for (case, table) in all() {
        if let Stops { remedy, .. } = case.outcome {
            scenario.target(&of(remedy, &table)).await;
        }
    }
    scenario.settings.set("capture.on_unlogged", "continue");
    let mut capture = scenario.spawn_capture();
    let mut whole = Vec::new();
    for (case, table) in all() {
        match case.outcome {
            Arrives(_) => {}
            Stops { last, columns, .. } => {
                scenario.source(&of(last, &table)).await;
                scenario.await_equal(&format!("(SELECT {columns} FROM {table})")).await;
            }
            StopsForGood(_) => continue,
        }
        whole.push(format!("public.{table}"));
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // Nothing of what came behind the change of a table that stopped for good was published.
    for (case, table) in all() {
        if let StopsForGood(_) = case.outcome {
            let records = scenario.topics().read(&format!("public.{table}"));
            assert!(records.len() >= 2 && !records.iter().any(|record| record.holds("behind")), "{table}");
        }
    }

    // What has been judged comes again, since the tables that stopped for good hold the log where they stopped.
    let before = numbers(&scenario, "renamed_down");
    assert_eq!(before.len(), 3, "{before:?}");
    scenario.settings.set("capture.on_unlogged", "stop");
    let mut capture = scenario.spawn_capture();
    for (case, table) in all() {
        if let Stops { columns, .. } = case.outcome {
            scenario.source(&of("UPDATE $t SET t = 'again' WHERE id = 4", &table)).await;
            scenario.await_equal(&format!("(SELECT {columns} FROM {table})")).await;
        }
    }
    assert_eq!(numbers(&scenario, "renamed_down"), before, "versions that come again were counted again");
    let arguments: Vec<&str> = ["verify"].into_iter().chain(whole.iter().map(String::as_str)).collect();
    let outcome = tokio::task::block_in_place(|| scenario.run(&arguments));
    assert_eq!(outcome.code, Some(0), "verify says:\n{}", outcome.text);

    // What was passed excuses nothing that comes later, also where it is found at the same place again.
    for sql in of(
        "ALTER TYPE $t_mood RENAME VALUE 'happy' TO 'joyful'; INSERT INTO $t VALUES (5, 'joyful', 'five')",
        "relabelled_down",
    )
    .split("; ")
    {
        scenario.source(sql).await;
    }
    for _ in 0..2 {
        let told = async || {
            let body = scenario.readiness("capture").await.1;
            body.contains("label 'happy' of column m's enumeration was renamed")
                && body.contains("public.relabelled_down")
        };
        await_condition("capture says that the label was renamed again", LIMIT, told).await;
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        capture = scenario.spawn_capture();
    }
}

/// The version is known, and was judged when it was the first; that it comes after another one is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_stopped_by_a_column_that_has_its_former_name_again_stays_stopped() {
    let mut scenario = Scenario::new("back").await;
    scenario.both("CREATE TABLE items (id int PRIMARY KEY, n int); INSERT INTO items VALUES (1, 1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("items").await;
    scenario.source("UPDATE items SET n = 2").await;
    scenario.await_equal("items").await;
    for sql in ["ALTER TABLE items RENAME COLUMN n TO m", "UPDATE items SET m = 3"] {
        scenario.source(sql).await;
    }
    let told = async || scenario.readiness("capture").await.1.contains("column n was renamed to m");
    await_condition("capture says that the column was renamed", LIMIT, told).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.target("ALTER TABLE items RENAME COLUMN n TO m").await;
    scenario.settings.set("capture.on_unlogged", "continue");
    let mut capture = scenario.spawn_capture();
    scenario.await_equal("items").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.on_unlogged", "stop");
    let mut capture = scenario.spawn_capture();
    scenario.source("UPDATE items SET m = 4").await;
    scenario.await_equal("items").await;
    for sql in ["ALTER TABLE items RENAME COLUMN m TO n", "UPDATE items SET n = 5"] {
        scenario.source(sql).await;
    }
    for _ in 0..3 {
        let told = async || scenario.readiness("capture").await.1.contains("column m was renamed to n");
        await_condition("capture says that the column has its former name", LIMIT, told).await;
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        capture = scenario.spawn_capture();
    }
    assert_eq!(scenario.target_value("SELECT m::text FROM items").await.as_deref(), Some("4"));
}
