//! `[kafka.topics.tables]`: topics of some tables are created otherwise than those of the others, and apply follows them all the same.

use crate::support::{LIMIT, Scenario, await_condition};

fn entries(entries: &[(&str, &str)]) -> toml::Table {
    entries.iter().map(|(name, text)| ((*name).to_owned(), toml::Value::from(*text))).collect()
}

/// Tables that depend on each other lie in 5, 3 and 1 partitions: keys move, and a truncate of all is a barrier over all of them.
#[tokio::test(flavor = "multi_thread")]
async fn created_topics_have_what_their_tables_entries_say() {
    let mut scenario = Scenario::new("apart").await;
    scenario.settings.set("kafka.topics.partitions", 3);
    scenario.settings.set("kafka.topics.retention", "30d");
    let settings = entries(&[
        ("public.big*", "partitions = 4, retention = 7d, max.message.bytes = 2000000"),
        ("public.big_rows", "partitions = 5, retention_bytes = 1GiB"),
        ("*.one", "partitions = 1, retention = unlimited"),
    ]);
    scenario.settings.set("kafka.topics.tables", settings);
    let tables = "CREATE TABLE one (id int PRIMARY KEY, t text);
        CREATE TABLE big_rows (id int PRIMARY KEY, one int REFERENCES one, t text);
        CREATE TABLE things (id int PRIMARY KEY, big int REFERENCES big_rows ON UPDATE CASCADE, t text UNIQUE)";
    scenario.source(tables).await;
    let rows = |from: i32| {
        format!(
            "INSERT INTO one SELECT i, 'a' FROM generate_series({from}, {from} + 49) i;
             INSERT INTO big_rows SELECT i, i, 'b' FROM generate_series({from}, {from} + 49) i;
             INSERT INTO things SELECT i, i, i || ' c' FROM generate_series({from}, {from} + 49) i"
        )
    };
    scenario.source(&rows(1)).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let topics = scenario.topics();
    for (table, partitions, retention, bytes, largest) in [
        ("public.one", 1, "-1", "-1", "1048588"),
        ("public.big_rows", 5, "604800000", "1073741824", "2000000"),
        ("public.things", 3, "2592000000", "-1", "1048588"),
    ] {
        assert_eq!(topics.partitions(table), partitions, "{table}");
        let properties = topics.properties(table).await;
        let shown = |name: &str| properties[name].as_str();
        assert_eq!(
            (shown("retention.ms"), shown("retention.bytes"), shown("max.message.bytes"), shown("cleanup.policy")),
            (retention, bytes, largest, "delete"),
            "{table}"
        );
    }
    scenario.source("UPDATE big_rows SET id = id + 1000 WHERE id % 3 = 0; DELETE FROM things WHERE id % 5 = 0").await;
    scenario.source(&format!("TRUNCATE one, big_rows, things; {}", rows(100))).await;
    scenario.source("UPDATE big_rows SET id = id + 1000 WHERE id % 3 = 0; UPDATE things SET t = t || ' d'").await;
    // Later tables get theirs too.
    scenario.source("CREATE TABLE bigger (id int PRIMARY KEY); INSERT INTO bigger VALUES (1)").await;
    for table in ["one", "big_rows", "things", "bigger"] {
        scenario.await_equal(table).await;
    }
    scenario.verify();
    assert_eq!(topics.partitions("public.bigger"), 4);
    let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(report.code, Some(0), "{}", report.text);

    // Another count would move keys: it is refused, and says by which key.
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("kafka.topics.tables", entries(&[("public.*", "partitions = 2")]));
    let outcome = scenario.run_to_end("capture").await;
    assert!(outcome.code == Some(3) && outcome.text.contains("kafka.topics.tables"), "{}", outcome.text);
    let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(
        report.code == Some(1) && report.text.contains("has 5 partitions, kafka.topics.tables says 2"),
        "{}",
        report.text
    );
}

/// Nobody knows which of two globs is meant.
#[tokio::test(flavor = "multi_thread")]
async fn globs_that_contradict_each_other_are_refused_until_a_name_decides() {
    let mut scenario = Scenario::new("contrary").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let globs = [("public.*", "partitions = 2"), ("*.things", "partitions = 4")];
    scenario.settings.set("kafka.topics.tables", entries(&globs));
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in ["public.*", "*.things", "table public.things"] {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
    assert_eq!(scenario.topics().partitions("public.things"), 0, "a topic was created");
    let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(report.code == Some(1) && report.text.contains("contradict"), "{}", report.text);
    scenario.settings.set("kafka.topics.tables", entries(&[globs[0], globs[1], ("public.things", "partitions = 6")]));
    let _capture = scenario.capture().await;
    let created = async || tokio::task::block_in_place(|| scenario.topics().partitions("public.things")) == 6;
    await_condition("the topic has six partitions", LIMIT, created).await;

    scenario.settings.set("kafka.topics.tables", entries(&[("things", "partitions = 2"), ("a.b", "partition = 2")]));
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.text);
    for text in ["kafka.topics.tables.things is named by no glob over schema.table", "kafka.topics.tables.a.b must be"]
    {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}
