//! The target is in a state that passes: apply waits, blames no table, and goes on.

use crate::support::{LIMIT, Scenario, await_condition};

/// Ends apply's connections, as a failover does.
async fn end_connections(scenario: &Scenario) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name = 'walrelay apply'";
    scenario.target(sql).await;
}

/// Apply is not ready because of this SQLSTATE, and no table is stopped.
async fn await_waiting(scenario: &Scenario, code: &str) {
    let waits = async || {
        let (status, body) = scenario.readiness("apply").await;
        status == 503 && body.contains(code)
    };
    await_condition(&format!("apply tells of {code}"), LIMIT, waits).await;
    assert!(!scenario.log_text("apply").contains("table is stopped"), "{}", scenario.log_text("apply"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_read_only_for_a_while_is_waited_for() {
    let scenario = Scenario::new("read_only").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (_capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let read_only = |on: &str| format!("ALTER DATABASE {} SET default_transaction_read_only = {on}", scenario.name);
    scenario.target(&read_only("on")).await;
    end_connections(&scenario).await;
    scenario.source("INSERT INTO things SELECT generate_series(2, 50)").await;
    await_waiting(&scenario, "25006").await;

    // Sessions that began meanwhile stay read-only.
    scenario.target(&read_only("off")).await;
    scenario.await_equal("things").await;
    apply.check_alive().unwrap_or_else(|error| panic!("{error}"));
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_others_are_waited_for_and_the_rest_of_their_class_stops_the_table() {
    let scenario = Scenario::new("locks").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let sql = "CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE trouble (code text);
               CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE trouble text; BEGIN
                 SELECT code INTO trouble FROM public.trouble;
                 IF trouble IS NOT NULL THEN RAISE EXCEPTION 'in the way' USING ERRCODE = trouble; END IF;
                 RETURN new; END $$;
               CREATE TRIGGER fail BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION fail();";
    scenario.target(sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for (code, id) in [("55P03", 2), ("55006", 3)] {
        scenario.target(&format!("INSERT INTO trouble VALUES ('{code}')")).await;
        scenario.source(&format!("INSERT INTO things VALUES ({id})")).await;
        await_waiting(&scenario, code).await;
        scenario.target("DELETE FROM trouble").await;
        scenario.await_equal("things").await;
    }
    scenario.verify();
    scenario.target("INSERT INTO trouble VALUES ('55000')").await;
    scenario.source("INSERT INTO things VALUES (4)").await;
    let stopped = async || scenario.readiness("apply").await.1.contains("public.things");
    await_condition("apply names the stopped table", LIMIT, stopped).await;
}

// trap T60
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_target_lost_by_going_back_come_again_without_a_new_event() {
    let scenario = Scenario::new("went_back").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, n int); CREATE TABLE log (n int)").await;
    let (_capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    let both = async || {
        scenario.await_equal("things").await;
        scenario.await_equal("log").await;
    };
    scenario.source("INSERT INTO things SELECT i, 0 FROM generate_series(1, 50) i; INSERT INTO log VALUES (1)").await;
    both().await;
    let tables = ["public.things", "public.log", "walrelay.position"];
    let copy = |table: &str| format!("CREATE TABLE old.{} AS TABLE {table};", table.replace('.', "_"));
    let copies: String = tables.iter().map(|table| copy(table)).collect();
    scenario.target(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA old; {copies} COMMIT")).await;
    for change in ["UPDATE things SET n = 1", "DELETE FROM things WHERE id > 40", "INSERT INTO log VALUES (2), (2)"] {
        scenario.source(change).await;
    }
    both().await;

    let back = |table: &str| format!("DELETE FROM {table}; INSERT INTO {table} TABLE old.{};", table.replace('.', "_"));
    let restore: String = tables.iter().map(|table| back(table)).collect();
    scenario.target(&format!("BEGIN; {restore} COMMIT")).await;
    end_connections(&scenario).await;
    both().await;
    apply.check_alive().unwrap_or_else(|error| panic!("{error}"));
    scenario.await_log(&mut apply, "gone back in time").await;
    scenario.source("INSERT INTO log VALUES (3)").await;
    both().await;
    scenario.verify();
}

/// The schemas do not tell the columns' types, and the target's tables are not there.
#[tokio::test(flavor = "multi_thread")]
async fn columns_whose_types_no_schema_tells_are_created_with_a_warning() {
    let mut scenario = Scenario::new("guessed").await;
    scenario.settings.set("format.parameters", "none");
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, code varchar(9)); INSERT INTO things VALUES (1, 'x')")
        .await;
    scenario.both("CREATE TABLE others (id int PRIMARY KEY)").await;
    let (_capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let guess = |table: &str, column: &str, ty: &str| {
        let log = scenario.log_text("apply");
        let lines = log.lines().filter(|line| line.contains("WARN") && line.contains("does not tell"));
        lines.filter(|line| [table, column, ty].iter().all(|text| line.contains(text))).count()
    };
    assert_eq!(guess("table=public.things", "column=code", "text"), 1);
    assert_eq!(guess("table=public.others", "", ""), 0);
    scenario.source("ALTER TABLE others ADD COLUMN more numeric(9,2); INSERT INTO others VALUES (1, 2)").await;
    scenario.await_log(&mut apply, "column=more").await;
    assert_eq!(guess("table=public.others", "column=more", "numeric"), 1);
}
