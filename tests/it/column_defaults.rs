//! `[format] column_defaults = "source"`: schemas have the defaults of columns, values have them in place of NULL, and the target has
//! NULL all the same.

use serde_json::{Value as Json, json};

use crate::support::{LIMIT, Scenario, newest_schema, set_compatibility};

const TABLE: &str = "public.things";

/// A field of the topic's rows, in the newest schema: its type without attributes, and its default.
async fn field(scenario: &Scenario, column: &str) -> (Json, Json) {
    let schema = newest_schema(scenario, &format!("{}-value", scenario.topics().name(TABLE))).await;
    let fields = schema["fields"][0]["type"][1]["fields"].as_array().expect("fields").clone();
    let field = fields.into_iter().find(|field| field["name"] == column).expect("the column's field");
    let bare = |ty: &Json| ty.get("type").unwrap_or(ty).clone();
    let ty = match &field["type"] {
        Json::Array(branches) => branches.iter().map(bare).collect(),
        ty => bare(ty),
    };
    (ty, field.get("default").cloned().unwrap_or(json!("none")))
}

async fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("format.column_defaults", "source");
    scenario.settings.set("format.nullability", "source");
    scenario
        .source(
            "CREATE TABLE things (id serial PRIMARY KEY, n int DEFAULT 7, t text NOT NULL DEFAULT 'it''s', \
             at timestamptz DEFAULT now(), d numeric(10,2) DEFAULT 1.5, b bit(9) DEFAULT B'100000001', plain text)",
        )
        .await;
    scenario.source("INSERT INTO things (n, t, d) VALUES (NULL, 'one', NULL), (2, 'two', 2)").await;
    scenario
}

#[tokio::test(flavor = "multi_thread")]
async fn null_in_a_column_with_a_default_is_null_at_the_target() {
    let scenario = scenario("defaults").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "n").await, (json!(["int", "null"]), json!(7)));
    assert_eq!(field(&scenario, "t").await, (json!("string"), json!("it's")));
    assert_eq!(field(&scenario, "id").await, (json!("int"), json!(0)));
    assert_eq!(field(&scenario, "at").await.1, json!("1970-01-01T00:00:00.000000Z"));
    let nulls = "UPDATE things SET n = NULL, at = NULL, d = NULL, b = NULL, plain = NULL WHERE id = 2; \
                 INSERT INTO things (n, at, b) VALUES (NULL, NULL, NULL); DELETE FROM things WHERE id = 1";
    scenario.source(nulls).await;
    scenario.await_equal("things").await;
    scenario.source("ALTER TABLE things REPLICA IDENTITY FULL, ALTER t DROP NOT NULL").await;
    scenario.source("INSERT INTO things (t, n) VALUES (NULL, 1); UPDATE things SET t = NULL, n = NULL").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "t").await, (json!(["string", "null"]), json!("it's")));
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    scenario.source("DELETE FROM things WHERE id = 2; UPDATE things SET t = 'more', n = n + 1").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// The registry takes a required field for a column that old records lack, since a reader has the default for them.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_that_come_and_go_are_compatible_with_earlier_records() {
    let scenario = scenario("defaults_later").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    set_compatibility(&scenario, &format!("{}-value", scenario.topics().name(TABLE)), "BACKWARD").await;
    scenario.both("ALTER TABLE things ADD COLUMN c int NOT NULL DEFAULT 5").await;
    scenario.source("INSERT INTO things (t) VALUES ('two')").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "c").await, (json!("int"), json!(5)));

    // No message tells it, but that the next one is announced anew.
    scenario.source("ALTER TABLE things ALTER c SET DEFAULT 6; INSERT INTO things (t, n) VALUES ('three', NULL)").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "c").await, (json!("int"), json!(6)));
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.source("ALTER TABLE things ALTER c DROP DEFAULT, ALTER n SET DEFAULT 8").await;
    scenario.source("INSERT INTO things (t, n, c) VALUES ('four', NULL, 1)").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "c").await, (json!(["null", "int"]), json!(null)));
    assert_eq!(field(&scenario, "n").await, (json!(["int", "null"]), json!(8)));
    scenario.source("ALTER TABLE things ALTER c SET DEFAULT 9; INSERT INTO things (t, n) VALUES ('five', NULL)").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "c").await, (json!(["int", "null"]), json!(9)));
    scenario.verify();
}

/// What was published without them could be null, and a reader of the new schema reads that too.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_that_are_wanted_later_leave_a_field_that_could_be_null_as_it_was() {
    let mut scenario = scenario("defaults_wanted").await;
    scenario.settings.set("format.column_defaults", "none");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    set_compatibility(&scenario, &format!("{}-value", scenario.topics().name(TABLE)), "BACKWARD").await;
    scenario.both("ALTER TABLE things ADD COLUMN c int NOT NULL DEFAULT 5").await;
    scenario.source("INSERT INTO things (t) VALUES ('two')").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "c").await, (json!(["null", "int"]), json!(null)));
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("format.column_defaults", "source");
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO things (t, n) VALUES ('three', NULL)").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "c").await, (json!(["int", "null"]), json!(5)));
    scenario.verify();
}

/// The catalog has another default by then. Positions are recorded once an hour before the kill, so that all is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_again_has_the_default_that_it_had() {
    let mut scenario = Scenario::new("defaults_again").await;
    scenario.settings.set("format.column_defaults", "source");
    scenario.settings.set("capture.checkpoint_interval", "1h");
    scenario.source("CREATE TABLE things (id serial PRIMARY KEY, t text, word text DEFAULT 'five')").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let insert = |t| format!("INSERT INTO things (t, word) VALUES ('{t}', NULL)");
    let default = |word| format!("ALTER TABLE things ALTER word SET DEFAULT '{word}'");
    scenario.source(&insert("first")).await;
    scenario.await_equal("things").await;
    scenario.source(&default("seven")).await;
    scenario.source(&insert("second")).await;
    scenario.await_equal("things").await;
    capture.kill_9().expect("capture can be killed");
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    scenario.source(&default("nine")).await;
    let _capture = scenario.capture().await;
    scenario.source(&insert("third")).await;
    scenario.await_equal("things").await;
    let records = scenario.topics().read(TABLE);
    for (row, word, times) in [("first", "five", 2), ("second", "seven", 2), ("third", "nine", 1)] {
        let of_row: Vec<_> = records.iter().filter(|record| record.holds(row)).collect();
        assert_eq!(of_row.len(), times, "records of {row}");
        assert!(of_row.iter().all(|record| record.holds(word)), "{row} has {word}: {of_row:?}");
    }
    scenario.verify();
}

/// Debezium's forms in all, into a table that was made beforehand.
#[tokio::test(flavor = "multi_thread")]
async fn debezium_s_forms_bring_the_rows_of_the_source() {
    let mut scenario = Scenario::new("defaults_debezium").await;
    scenario.settings.set("format.compatibility", "debezium");
    scenario.settings.set("format.own_headers", true);
    let columns = "id serial PRIMARY KEY, b boolean DEFAULT true, n numeric DEFAULT 1.5, f real DEFAULT 1.1, i interval DEFAULT '1 mon', \
                   j jsonb DEFAULT '{}', u uuid DEFAULT gen_random_uuid(), d date DEFAULT CURRENT_DATE, e mood DEFAULT 'sad', \
                   tz timetz DEFAULT '12:00+02', a int[] DEFAULT '{1}', v varbit DEFAULT B'001'";
    scenario.both("CREATE TYPE mood AS ENUM ('sad', 'ok')").await;
    scenario.both(&format!("CREATE TABLE things ({columns})")).await;
    let rows = "INSERT INTO things DEFAULT VALUES; INSERT INTO things (b, n, f, i, j, u, d, e, tz, a, v) \
                VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
                (false, 'NaN', 'NaN', '2 mons -1 day', 'null', NULL, 'infinity', 'ok', '24:00', '{NULL}', '')";
    scenario.source(rows).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.source(rows).await;
    scenario.source("UPDATE things SET b = NULL, f = NULL WHERE id = 1; DELETE FROM things WHERE id = 3").await;
    scenario.await_equal("things").await;
    assert_eq!(field(&scenario, "e").await, (json!(["string", "null"]), json!("sad")));
    scenario.verify();
}
