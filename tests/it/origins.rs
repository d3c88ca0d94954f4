//! Transactions that were themselves replicated to the source: their origin is told, or they are left out.

use tokio_postgres::Client;

use crate::support::Scenario;

/// A session whose transactions come from elsewhere, as a subscription's do; origins are the cluster's, so the name is the scenario's.
async fn session_of_an_origin(scenario: &Scenario) -> Client {
    let server = &scenario.parts.source;
    let session = server.connect(&scenario.name, "postgres", "").await.unwrap_or_else(|error| panic!("{error}"));
    let name = &scenario.name;
    let sql =
        format!("SELECT pg_replication_origin_create('{name}'); SELECT pg_replication_origin_session_setup('{name}')");
    session.batch_execute(&sql).await.expect("an origin");
    session
}

async fn replicated(session: &Client, sql: &str) {
    let sql = format!("BEGIN; SELECT pg_replication_origin_xact_setup('0/AB', now()); {sql}; COMMIT");
    session.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}"));
}

/// Local transactions, and others that are small, large enough to be sent in progress, a TRUNCATE and a message.
async fn load(scenario: &Scenario) {
    let memory = format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", scenario.name);
    scenario.source(&memory).await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY)")
        .await;
    let mut capture = scenario.capture().await;
    // The snapshot is over.
    scenario.await_log(&mut capture, "values are asked for").await;
    let session = session_of_an_origin(scenario).await;
    scenario.source("INSERT INTO things VALUES (1, 'local')").await;
    replicated(&session, "INSERT INTO things VALUES (2, 'elsewhere')").await;
    replicated(
        &session,
        "INSERT INTO things SELECT n, 'elsewhere' || repeat('x', 300) FROM generate_series(10, 1009) n",
    )
    .await;
    replicated(&session, "TRUNCATE others").await;
    replicated(&session, "SELECT pg_logical_emit_message(true, 'p', 'elsewhere')").await;
    scenario.source("UPDATE things SET body = 'local' WHERE id = 2").await;
    scenario.source("INSERT INTO things VALUES (3, 'last')").await;
    let found = async || scenario.topics().read("public.things").iter().any(|record| record.holds("last"));
    crate::support::await_condition("the last row is published", crate::support::LIMIT, found).await;
    let end = scenario.source_value("SELECT pg_current_wal_insert_lsn()::text").await.expect("a position");
    let sql = format!(
        "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{}'",
        scenario.name
    );
    let confirmed = async || scenario.source_value(&sql).await.as_deref() == Some("t");
    crate::support::await_condition("the slot is through", crate::support::LIMIT, confirmed).await;
    session.batch_execute("SELECT pg_replication_origin_session_reset()").await.expect("a session");
    let drop = format!("SELECT pg_replication_origin_drop('{}')", scenario.name);
    session.batch_execute(&drop).await.expect("an origin");
}

/// Trap T41.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_replicated_to_the_source_is_left_out_where_that_is_asked_for() {
    let mut scenario = Scenario::new("own_only").await;
    scenario.settings.set("capture.origin", "none");
    load(&scenario).await;
    let records = scenario.topics().read("public.things");
    assert_eq!(records.iter().filter(|record| record.holds("elsewhere")).count(), 0);
    assert_eq!(records.iter().filter(|record| record.holds("local")).count(), 2);
    assert_eq!(scenario.topics().read("public.others").len() + scenario.topics().read("message").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replicated_to_the_source_is_published_with_its_origin() {
    let scenario = Scenario::new("any_origin").await;
    load(&scenario).await;
    // The name is of the database and the prefix too.
    let named = |text: &str| {
        let records = scenario.topics().read("public.things");
        let times =
            |value: &[u8]| value.windows(scenario.name.len()).filter(|part| *part == scenario.name.as_bytes()).count();
        let found =
            records.iter().filter(|record| record.holds(text)).filter_map(|record| record.value.as_deref()).map(times);
        found.collect::<Vec<_>>()
    };
    let elsewhere = named("elsewhere");
    assert_eq!((elsewhere.len(), named("local").len()), (1001, 2));
    assert!(elsewhere.iter().all(|times| *times == 3), "{elsewhere:?}");
    assert!(!scenario.topics().read("public.others").is_empty());
    assert_eq!(scenario.topics().read("message").len(), 1);
}
