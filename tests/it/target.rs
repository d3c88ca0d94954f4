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
