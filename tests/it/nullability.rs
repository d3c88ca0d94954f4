//! `[format] nullability = "source"`: fields are required as the source declares them, but never so that a NULL is published as
//! a value, or that a registry refuses a table's later versions.

use serde_json::{Value as Json, json};

use crate::support::{LIMIT, Scenario, Topics, newest_schema, set_compatibility};

const TABLE: &str = "public.things";

/// The type of a field of the topic's rows, in the newest schema.
async fn field_type(scenario: &Scenario, column: &str) -> Json {
    let schema = newest_schema(scenario, &format!("{}-value", scenario.topics().name(TABLE))).await;
    let fields = schema["fields"][0]["type"][1]["fields"].as_array().expect("fields").clone();
    let field = fields.into_iter().find(|field| field["name"] == column).expect("the column's field");
    match &field["type"] {
        Json::Object(ty) => ty["type"].clone(),
        Json::Array(branches) => branches.iter().map(|branch| branch.get("type").unwrap_or(branch).clone()).collect(),
        plain => plain.clone(),
    }
}

/// A NULL that was published as a value is told beside it.
fn assert_no_value_is_invented(topics: &Topics) {
    let records = topics.read(TABLE);
    let told: Vec<_> = records.iter().filter_map(|record| record.headers.get("walrelay.text")).collect();
    assert!(told.is_empty(), "values stand for NULL: {told:?}");
}

async fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("format.nullability", "source");
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL, t text NOT NULL)").await;
    scenario.source("INSERT INTO things VALUES (1, 1, 'one')").await;
    scenario
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_may_be_null_by_now_is_published_as_null() {
    let scenario = scenario("nullable").await;
    scenario.source("ALTER TABLE things REPLICA IDENTITY FULL").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (2, 2, 'two')").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "n").await, "int");
    scenario.source("ALTER TABLE things ALTER n DROP NOT NULL; INSERT INTO things VALUES (3, NULL, 'three')").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "n").await, json!(["null", "int"]));
    assert_eq!(field_type(&scenario, "t").await, "string");
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    scenario.source("ALTER TABLE things ALTER t DROP NOT NULL; UPDATE things SET t = NULL WHERE id = 1").await;
    scenario.source("DELETE FROM things WHERE id = 1; ALTER TABLE things ALTER t SET NOT NULL").await;
    let mut capture = scenario.capture().await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "t").await, json!(["null", "string"]));
    // It stays so, whatever is said of it.
    scenario.source("ALTER TABLE things ADD COLUMN more int; INSERT INTO things VALUES (4, 4, 'four')").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "t").await, json!(["null", "string"]));
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (5, 5, 'five')").await;
    scenario.await_equal("things").await;
    assert_no_value_is_invented(&scenario.topics());
    scenario.verify();
}

/// The catalog is read before the snapshot; PostgreSQL 18 has rows that a NOT NULL does not hold for, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_publishes_null_whatever_the_catalog_says() {
    let scenario = scenario("null_rows").await;
    scenario.source("ALTER TABLE things ALTER n DROP NOT NULL; INSERT INTO things VALUES (2, NULL, 'two')").await;
    let promise = "UPDATE pg_attribute SET attnotnull = true WHERE attrelid = 'things'::regclass AND attname = 'n'";
    scenario.source_value_as_superuser(promise).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "n").await, json!(["null", "int"]));
    scenario.source("UPDATE things SET t = 'more' WHERE id = 1").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "n").await, json!(["null", "int"]));
    assert_no_value_is_invented(&scenario.topics());
}

/// Old records lack the column: a reader of the new schema has to be told what it is there. Trap T58.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_added_or_renamed_are_compatible_with_earlier_records() {
    let mut scenario = scenario("compatible").await;
    // The target's column is renamed too.
    scenario.settings.set("capture.on_unlogged", "continue");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    set_compatibility(&scenario, &format!("{}-value", scenario.topics().name(TABLE)), "BACKWARD_TRANSITIVE").await;
    scenario.both("ALTER TABLE things ADD COLUMN c int NOT NULL DEFAULT 5").await;
    scenario.source("INSERT INTO things VALUES (2, 2, 'two', 2)").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "c").await, json!(["null", "int"]));
    scenario.both("ALTER TABLE things RENAME COLUMN n TO m").await;
    scenario.source("INSERT INTO things VALUES (3, 3, 'three', 3)").await;
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    scenario.lose_slot().await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    scenario.source("UPDATE things SET m = m + 10").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    scenario.source("UPDATE things SET m = m + 10").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "t").await, "string");
    scenario.verify();
}

/// A snapshot that leaves a table out must not forget how its topic was written: its schemas are in the registry still.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_one_snapshot_leaves_out_keeps_its_nullable_fields() {
    let mut scenario = scenario("left_out").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    set_compatibility(&scenario, &format!("{}-value", scenario.topics().name(TABLE)), "BACKWARD_TRANSITIVE").await;
    scenario.source("ALTER TABLE things ALTER n DROP NOT NULL; INSERT INTO things VALUES (2, NULL, 'two')").await;
    scenario.await_equal("things").await;
    scenario.source("UPDATE things SET n = 2 WHERE id = 2; ALTER TABLE things ALTER n SET NOT NULL").await;
    scenario.await_equal("things").await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    // With a new column the schema is another one than the first, which the registry has already.
    scenario.source("ALTER TABLE things ADD COLUMN more int").await;
    for (exclude, id) in [("public.things", 3), ("public.none", 4)] {
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        scenario.lose_slot().await;
        scenario.settings.set("capture.exclude", vec![exclude]);
        capture = scenario.capture().await;
        scenario
            .source(&format!("INSERT INTO others VALUES ({id}); INSERT INTO things VALUES ({id}, 1, 'more', 1)"))
            .await;
        scenario.await_equal("others").await;
    }
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "n").await, json!(["null", "int"]));
    assert_eq!(field_type(&scenario, "t").await, "string");
    scenario.verify();
}

/// The schema may say NOT NULL of a column that may be NULL by now: no target column is made of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_schema_calls_not_null_takes_null_at_the_target() {
    let scenario = Scenario::new("said").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL); INSERT INTO things VALUES (1, 1)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.source("ALTER TABLE things ALTER n DROP NOT NULL; INSERT INTO things VALUES (2, NULL)").await;
    scenario.await_equal("things").await;
    assert_no_value_is_invented(&scenario.topics());
    scenario.verify();
}
