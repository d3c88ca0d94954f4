//! A schema that the registry refuses as incompatible: its table stops with the reason, and loses nothing.

use serde_json::Value as Json;

use crate::support::{LIMIT, Scenario, await_condition, set_compatibility, versions};

async fn has_confirmed(scenario: &Scenario, position: &str) -> bool {
    let confirmed = scenario.confirmed_flush().await.expect("the slot exists");
    let sql = format!("SELECT '{confirmed}'::pg_lsn >= '{position}'::pg_lsn");
    scenario.source_value(&sql).await.as_deref() == Some("t")
}

/// Waits until the server has heard of capture's position once more.
async fn await_status_update(scenario: &Scenario) {
    let heard = format!(
        "SELECT reply_time FROM pg_stat_replication \
         WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}')",
        scenario.name
    );
    let before = scenario.source_value_as_superuser(&heard).await;
    let later = async || {
        let heard = scenario.source_value_as_superuser(&heard).await;
        heard.is_some() && heard != before
    };
    await_condition("capture sends a status update", LIMIT, later).await;
}

fn both_schemas_are_logged_apart_from_the_stop(scenario: &Scenario, subject: &str) {
    let log = scenario.log_text("capture");
    let lines = || log.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let schemas = lines().find(|line| line["refused"].is_string()).expect("a line with the schemas");
    assert_eq!(schemas["subject"], subject);
    assert!(schemas["difference"].as_str().unwrap().contains("Value.amount is null or int"), "{schemas}");
    for schema in [&schemas["registered"], &schemas["refused"]] {
        let schema: Json = serde_json::from_str(schema.as_str().unwrap()).unwrap();
        assert_eq!(schema["name"], "Envelope");
    }
    let stop = lines().find(|line| line["message"] == "table stopped").expect("the line of the stop");
    assert!(!stop.to_string().contains("Envelope"), "{stop}");
}

/// Traps T56, T83.
#[tokio::test(flavor = "multi_thread")]
async fn an_incompatible_schema_stops_its_table_alone_until_the_level_is_lowered() {
    let mut scenario = Scenario::new("incompatible").await;
    scenario.settings.set("log.format", "json");
    // The column's other type is one that its values fit.
    scenario.settings.set("capture.on_unlogged", "continue");
    // The server asks for capture's position after half of this.
    scenario.source(&format!("ALTER DATABASE {} SET wal_sender_timeout = '3s'", scenario.name)).await;
    let sql =
        "CREATE TABLE things (id int PRIMARY KEY, t text, amount bigint); INSERT INTO things VALUES (1, 'one', 1);
               CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)";
    scenario.source(sql).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let subject = format!("{}-value", scenario.topics().name("public.things"));
    set_compatibility(&scenario, &subject, "BACKWARD").await;

    // A reader of the new schema cannot read the long of an old record as an int.
    scenario.source("ALTER TABLE things ALTER COLUMN amount TYPE int").await;
    scenario.source("UPDATE things SET amount = 7; INSERT INTO things VALUES (2, 'two', 8)").await;
    let withheld = scenario.source_value("SELECT pg_current_wal_insert_lsn()").await.expect("a position");
    let told = async || {
        let (status, body) = scenario.readiness("capture").await;
        status == 503
            && ["public.things", &subject, "version 1", "Value.amount is null or int"]
                .iter()
                .all(|text| body.contains(text))
    };
    await_condition("capture names subject, version and difference", LIMIT, told).await;
    both_schemas_are_logged_apart_from_the_stop(&scenario, &subject);

    for _ in 0..2 {
        scenario.source("INSERT INTO others SELECT max(id) + 1 FROM others").await;
        scenario.await_equal("others").await;
        await_status_update(&scenario).await;
        assert!(!has_confirmed(&scenario, &withheld).await, "confirmed what was not published");
    }
    assert!(!scenario.topics().read("public.things").iter().any(|record| record.holds("two")));

    set_compatibility(&scenario, &subject, "NONE").await;
    capture.kill_9().expect("capture can be killed");
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
    await_condition("the rows are confirmed", LIMIT, || has_confirmed(&scenario, &withheld)).await;
    scenario.verify();
}

/// Traps T56, T58, T83: what the level allows goes on, and a column that comes back as another type does not, until the level is lowered and
/// the running capture is told to try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_back_as_another_type_stops_its_table_until_it_is_resumed() {
    let mut scenario = Scenario::new("comes_back").await;
    scenario.settings.set("capture.on_unlogged", "continue");
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, t text, extra text); INSERT INTO things VALUES (1, 'one', 'text');
             CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)",
        )
        .await;
    let (mut capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let subject = format!("{}-value", scenario.topics().name("public.things"));
    set_compatibility(&scenario, &subject, "BACKWARD").await;
    scenario.source("ALTER TABLE things ADD COLUMN n int; INSERT INTO things VALUES (2, 'two', 'text', 2)").await;
    scenario.await_equal("things").await;
    scenario
        .source("ALTER TABLE things DROP COLUMN extra, DROP COLUMN n; INSERT INTO things VALUES (3, 'three')")
        .await;
    scenario.await_target("SELECT string_agg(t, ' ' ORDER BY id) FROM things", "one two three").await;
    assert_eq!(versions(&scenario, &subject).await, 3);
    assert_eq!(scenario.readiness("capture").await.0, 200);

    // It is compatible with the newest schema, and with none that had the column before.
    set_compatibility(&scenario, &subject, "BACKWARD_TRANSITIVE").await;
    scenario.source("ALTER TABLE things ADD COLUMN extra int; INSERT INTO things VALUES (4, 'four', 4)").await;
    let told = async || {
        let (status, body) = scenario.readiness("capture").await;
        status == 503 && ["public.things", &subject, "not compatible"].iter().all(|text| body.contains(text))
    };
    await_condition("capture names the table and the subject", LIMIT, told).await;
    scenario.source("UPDATE things SET extra = 1 WHERE id = 1; INSERT INTO others VALUES (2)").await;
    scenario.await_equal("others").await;
    assert!(!scenario.topics().read("public.things").iter().any(|record| record.holds("four")));

    apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.target("ALTER TABLE things DROP COLUMN n, ALTER extra TYPE int USING NULL").await;
    set_compatibility(&scenario, &subject, "BACKWARD").await;
    let outcome = tokio::task::block_in_place(|| scenario.run(&["resume", "public.things"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    assert_eq!(versions(&scenario, &subject).await, 4);
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    scenario.verify();
}
