//! `[format] nullability = "declared"`, which is Debezium's: fields are required as the source declares them by now, and the registry
//! judges. Under level NONE all goes on; under BACKWARD a table whose schema is refused stops, and it alone.

use serde_json::{Value as Json, json};

use crate::support::{LIMIT, Scenario, await_condition, newest_schema, set_compatibility};

/// The type of a field of a table's rows, in the newest schema, without what is said of it beside.
async fn field_type(scenario: &Scenario, table: &str, column: &str) -> Json {
    let schema = newest_schema(scenario, &subject(scenario, table)).await;
    let fields = schema["fields"][0]["type"][1]["fields"].as_array().expect("fields").clone();
    let field = fields.into_iter().find(|field| field["name"] == column).expect("the column's field");
    match &field["type"] {
        Json::Object(ty) => ty["type"].clone(),
        plain => plain.clone(),
    }
}

fn subject(scenario: &Scenario, table: &str) -> String {
    format!("{}-value", scenario.topics().name(&format!("public.{table}")))
}

/// Debezium's forms with walrelay's headers, and tables at both ends, since its schemas do not tell the source's types.
async fn scenario(name: &str, tables: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("format.compatibility", "debezium");
    scenario.settings.set("format.own_headers", true);
    // Columns are renamed at both ends.
    scenario.settings.set("capture.on_unlogged", "continue");
    scenario.settings.set("log.format", "json");
    scenario.both(tables).await;
    scenario
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_null_by_now_is_required_and_all_goes_on_under_a_registry_that_takes_it() {
    let tables =
        "CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL, o int); CREATE TABLE blank (id int PRIMARY KEY)";
    let scenario = scenario("declared", tables).await;
    scenario.source("INSERT INTO things VALUES (1, 1, NULL), (2, 2, 2)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    set_compatibility(&scenario, &subject(&scenario, "things"), "NONE").await;

    scenario.both("ALTER TABLE things ADD COLUMN c int NOT NULL DEFAULT 5").await;
    scenario.source("INSERT INTO things VALUES (3, 3, NULL, 7); UPDATE things SET n = 4 WHERE id = 1").await;
    scenario.both("ALTER TABLE blank ADD COLUMN t text NOT NULL").await;
    scenario.source("INSERT INTO blank VALUES (1, 'one')").await;
    scenario.await_equal("things").await;
    scenario.await_equal("blank").await;
    assert_eq!(field_type(&scenario, "things", "c").await, "int");
    assert_eq!(field_type(&scenario, "blank", "t").await, "string");
    assert_eq!(field_type(&scenario, "things", "o").await, json!(["null", "int"]));

    // Rows were NULL, and none is any longer; the target's column takes what is still to come.
    scenario.source("UPDATE things SET o = 0 WHERE o IS NULL; ALTER TABLE things ALTER o SET NOT NULL").await;
    scenario.source("INSERT INTO things VALUES (4, 4, 4)").await;
    scenario.await_equal("things").await;
    scenario.both("ALTER TABLE things RENAME COLUMN n TO m").await;
    scenario.source("INSERT INTO things VALUES (5, 5, 5)").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "things", "o").await, "int");
    assert_eq!(field_type(&scenario, "things", "m").await, "int");
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // The catalog is of now, these rows are of before.
    scenario.source("ALTER TABLE things ALTER o DROP NOT NULL; INSERT INTO things VALUES (6, 6, NULL)").await;
    scenario.source("UPDATE things SET o = 6 WHERE id = 6; ALTER TABLE things ALTER o SET NOT NULL").await;
    scenario.source("DELETE FROM things WHERE id = 2; INSERT INTO things VALUES (7, 7, 7)").await;
    let mut capture = scenario.capture().await;
    scenario.await_equal("things").await;
    // NULL is null in the value, and not told beside another one. (Deletes tell so what the server did not send.)
    let records = scenario.topics().read("public.things");
    let told = records.iter().filter_map(|record| record.headers.get("walrelay.text"));
    assert!(!told.clone().any(|text| text.contains("after")), "{:?}", told.collect::<Vec<_>>());
    scenario.both("ALTER TABLE things ADD COLUMN more int").await;
    scenario.source("INSERT INTO things VALUES (8, 8, 8, 8, 8)").await;
    scenario.await_equal("things").await;
    assert_eq!(field_type(&scenario, "things", "o").await, "int");
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    scenario.source("UPDATE things SET m = m + 1; DELETE FROM things WHERE id = 8").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Both schemas are in the log for who looks at them.
fn assert_refusal_is_logged(scenario: &Scenario, subject: &str) {
    let log = scenario.log_text("capture");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let mut refusals = lines.filter(|line| line["refused"].is_string() && line["subject"] == subject);
    let refusal = refusals.next().unwrap_or_else(|| panic!("no line has the schemas of {subject}"));
    for schema in [&refusal["registered"], &refusal["refused"]] {
        let schema: Json = serde_json::from_str(schema.as_str().expect("a schema")).expect("a schema in JSON");
        assert_eq!(schema["name"], "Envelope");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_a_required_field_stops_that_table_alone_and_loses_nothing() {
    // By table: what makes its schema one that a registry refuses at level BACKWARD, and a change behind it.
    const REFUSED: [(&str, &str, &str); 3] = [
        ("renamed", "ALTER TABLE renamed RENAME COLUMN n TO m", "INSERT INTO renamed VALUES (2, 2)"),
        ("added", "ALTER TABLE added ADD COLUMN t text NOT NULL", "INSERT INTO added VALUES (2, 2, 'two')"),
        ("tightened", "ALTER TABLE tightened ADD COLUMN more int", "INSERT INTO tightened VALUES (2, 2, 2)"),
    ];
    let tables =
        "CREATE TABLE renamed (id int PRIMARY KEY, n int NOT NULL); CREATE TABLE tightened (id int PRIMARY KEY, n int);
                  CREATE TABLE added (id int PRIMARY KEY, n int); CREATE TABLE others (id int PRIMARY KEY)";
    let scenario = scenario("declared_refused", tables).await;
    scenario.source("INSERT INTO renamed VALUES (1, 1); INSERT INTO others VALUES (1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO tightened VALUES (1, NULL); UPDATE tightened SET n = 1").await;
    scenario.source("INSERT INTO added VALUES (1, 1); DELETE FROM added").await;
    for (table, ..) in REFUSED {
        scenario.await_equal(table).await;
        set_compatibility(&scenario, &subject(&scenario, table), "BACKWARD").await;
    }
    // What has a default can be read in records that have no such field.
    scenario.both("ALTER TABLE renamed ADD COLUMN c int NOT NULL DEFAULT 5").await;
    scenario.source("UPDATE renamed SET n = 7").await;
    scenario.await_equal("renamed").await;

    for (table, change, row) in REFUSED {
        if table == "tightened" {
            // That alone makes no other version of the table.
            scenario.source("ALTER TABLE tightened ALTER n SET NOT NULL").await;
        }
        scenario.both(change).await;
        scenario.source(row).await;
        let subject = subject(&scenario, table);
        let told = async || {
            let (status, body) = scenario.readiness("capture").await;
            status == 503 && body.contains(&format!("public.{table}")) && body.contains(&subject)
        };
        await_condition(&format!("capture tells that {table} stops, and of which subject"), LIMIT, told).await;
        assert_refusal_is_logged(&scenario, &subject);
        scenario.source("INSERT INTO others SELECT max(id) + 1 FROM others").await;
        scenario.await_equal("others").await;
    }
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));

    for (table, ..) in REFUSED {
        set_compatibility(&scenario, &subject(&scenario, table), "NONE").await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    for (table, ..) in REFUSED {
        scenario.await_equal(table).await;
    }
    assert_eq!(field_type(&scenario, "renamed", "m").await, "int");
    assert_eq!(field_type(&scenario, "added", "t").await, "string");
    assert_eq!(field_type(&scenario, "tightened", "n").await, "int");
    scenario.verify();
}
