//! Around an ALTER inside of a transaction, each record has the schema of its own row image: a reader that goes by the record's
//! schema id, and by nothing else, gets the columns and values that the row had at its time.

use std::collections::BTreeSet;

use apache_avro::{Schema, reader::datum::GenericDatumReader};
use serde_json::{Value as Json, json};

use crate::support::{LIMIT, Scenario, schema_of};

/// `$t` stands for the table's name, and `behind` for what a row would have that was read by a later schema.
const CHANGE: &str = "BEGIN; INSERT INTO $t VALUES (4, 4, 'four'); UPDATE $t SET n = 10 WHERE id = 1;
    ALTER TABLE $t ADD COLUMN c int DEFAULT 5; INSERT INTO $t VALUES (5, 5, 'five', 7); UPDATE $t SET n = 20 WHERE id = 2;
    ALTER TABLE $t DROP COLUMN t, ADD COLUMN d text NOT NULL DEFAULT 'd'; INSERT INTO $t VALUES (6, 6, 6, 'six');
    UPDATE $t SET n = 40, c = NULL WHERE id = 4; DELETE FROM $t WHERE id = 3; UPDATE $t SET id = 11 WHERE id = 1; COMMIT";

/// Op, and the row's images before and after, in the order of JSON's texts.
type Images = BTreeSet<(String, String, String)>;

fn image(op: &str, before: &Json, after: &Json) -> (String, String, String) {
    (op.to_owned(), before.to_string(), after.to_string())
}

/// What the transaction is: with the whole old rows, or with their keys alone.
fn expected(is_whole: bool) -> Images {
    let old = |row: Json| if is_whole { row } else { Json::Null };
    let key = |id: i32| json!({"id": id, "n": null, "c": null, "d": null});
    let gone =
        |row: Json| if is_whole { row } else { key(row["id"].as_i64().and_then(|id| id.try_into().ok()).unwrap()) };
    Images::from([
        image("c", &Json::Null, &json!({"id": 4, "n": 4, "t": "four"})),
        image("u", &old(json!({"id": 1, "n": 1, "t": "one"})), &json!({"id": 1, "n": 10, "t": "one"})),
        image("c", &Json::Null, &json!({"id": 5, "n": 5, "t": "five", "c": 7})),
        image("u", &old(json!({"id": 2, "n": 2, "t": "two", "c": 5})), &json!({"id": 2, "n": 20, "t": "two", "c": 5})),
        image("c", &Json::Null, &json!({"id": 6, "n": 6, "c": 6, "d": "six"})),
        image("u", &old(json!({"id": 4, "n": 4, "c": 5, "d": "d"})), &json!({"id": 4, "n": 40, "c": null, "d": "d"})),
        image("d", &gone(json!({"id": 3, "n": 3, "c": 5, "d": "d"})), &Json::Null),
        image("d", &gone(json!({"id": 1, "n": 10, "c": 5, "d": "d"})), &Json::Null),
        image("c", &Json::Null, &json!({"id": 11, "n": 10, "c": 5, "d": "d"})),
    ])
}

/// The images of a topic's records but for those of the snapshot, each read by the schema of its record's id.
async fn images(scenario: &Scenario, table: &str) -> Images {
    let mut images = Images::new();
    for value in scenario.topics().read(&format!("public.{table}")).into_iter().filter_map(|record| record.value) {
        let id = u32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
        let schema = Schema::parse(&schema_of(scenario, id).await).expect("an Avro schema");
        let mut body = &value[5..];
        let read = GenericDatumReader::builder(&schema).build().expect("a reader").read_value(&mut body).expect("Avro");
        assert!(body.is_empty(), "{} bytes of {table} are left over", body.len());
        let event = Json::try_from(read).expect("JSON");
        let op = event["op"].as_str().expect("an op");
        if op != "r" {
            images.insert(image(op, &event["before"], &event["after"]));
        }
    }
    images
}

// traps T35, T36
#[tokio::test(flavor = "multi_thread")]
async fn each_record_around_an_alter_within_a_transaction_has_the_schema_of_its_row() {
    let scenario = Scenario::new("images").await;
    for table in ["keyed_live", "keyed_down", "whole_live", "whole_down"] {
        let identity = if table.starts_with("whole") { "FULL" } else { "DEFAULT" };
        let create = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, n int, t text); ALTER TABLE {table} REPLICA IDENTITY {identity};
             INSERT INTO {table} VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three')"
        );
        scenario.source(&create).await;
    }
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("whole_down").await;
    for when in ["live", "down"] {
        let tables = [format!("keyed_{when}"), format!("whole_{when}")];
        if when == "down" {
            capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        }
        for table in &tables {
            scenario.source(&CHANGE.replace("$t", table)).await;
        }
        if when == "down" {
            capture = scenario.capture().await;
        }
        for table in &tables {
            scenario.await_equal(&format!("(SELECT id, n, c, d FROM {table})")).await;
            assert_eq!(images(&scenario, table).await, expected(table.starts_with("whole")), "{table}");
        }
    }
}
