//! Tables that cannot go on, or were never copied: they are named, and never taken in with a part of their rows missing.

use crate::support::{LIMIT, Scenario, await_condition};

/// Capture's readiness names the table as stopped.
async fn await_stopped(scenario: &Scenario, table: &str) {
    let stopped = async || scenario.readiness("capture").await.1.contains(table);
    await_condition(&format!("capture names {table} as stopped"), LIMIT, stopped).await;
}

/// Trap T21: the stream alone would leave the rows out that the snapshot did not publish.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_snapshot_was_cut_is_read_beside_the_stream_after_a_restart() {
    let scenario = Scenario::new("cut").await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY)")
        .await;
    scenario.source("INSERT INTO things SELECT i, repeat('x', CASE i WHEN 2 THEN 3000000 ELSE 9 END) FROM generate_series(1, 20) i").await;
    let _apply = scenario.spawn_apply();
    let capture = scenario.spawn_capture();
    await_stopped(&scenario, "public.things").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    drop(capture);

    // The row is still too large: neither is the table taken for whole, nor do others wait.
    let capture = scenario.spawn_capture();
    scenario.source("INSERT INTO things VALUES (99, 'new'); INSERT INTO others VALUES (2)").await;
    scenario.await_equal("others").await;
    await_stopped(&scenario, "public.things").await;
    drop(capture);

    scenario.topics().set("public.things", "max.message.bytes", "9000000").await;
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, "the resync ends").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Traps T6 and T21: the log that held what a stopped table lacks is gone with the slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_snapshot_in_a_running_process_tries_stopped_tables_again_and_what_it_lacks_is_read_by_the_next_one() {
    let mut scenario = Scenario::new("anew").await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    for table in ["things", "large", "others"] {
        scenario.source(&format!("CREATE TABLE {table} (id int PRIMARY KEY, body text)")).await;
    }
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["things", "large"] {
        scenario.source(&format!("INSERT INTO {table} VALUES (1, 'first')")).await;
        scenario.await_equal(table).await;
        scenario.source(&format!("INSERT INTO {table} VALUES (2, repeat('x', 3000000))")).await;
        await_stopped(&scenario, &format!("public.{table}")).await;
    }
    scenario.source("DELETE FROM things WHERE id = 2; INSERT INTO things VALUES (3, 'between')").await;
    scenario.source("INSERT INTO large VALUES (3, 'between'); INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;

    scenario.lose_slot().await;
    scenario.source("INSERT INTO others VALUES (2)").await;
    scenario.await_equal("others").await;
    scenario.await_equal("things").await;
    await_stopped(&scenario, "public.large").await;
    // A change comes when the snapshot has ended, and what it left out is recorded.
    scenario.source("INSERT INTO others VALUES (4)").await;
    scenario.await_equal("others").await;
    drop(capture);

    scenario.topics().set("public.large", "max.message.bytes", "9000000").await;
    let _capture = scenario.spawn_capture();
    scenario.source("INSERT INTO large VALUES (4, 'later'); INSERT INTO others VALUES (3)").await;
    scenario.await_equal("others").await;
    scenario.await_equal("large").await;
    scenario.verify();
}

/// What a changed key is has to be new everywhere: in the registry, in the topic and at the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_key_changed_stops_alone_and_is_taken_in_by_a_new_snapshot() {
    let mut scenario = Scenario::new("key").await;
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, code text NOT NULL); CREATE TABLE others (id int PRIMARY KEY)",
        )
        .await;
    scenario.source("INSERT INTO things SELECT n, 'code ' || n FROM generate_series(1, 30) n").await;
    let (capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let change = "ALTER TABLE things DROP CONSTRAINT things_pkey, ADD PRIMARY KEY (code)";
    scenario.source(&format!("{change}; INSERT INTO things VALUES (1, 'again'); INSERT INTO others VALUES (1)")).await;
    await_stopped(&scenario, "public.things").await;
    assert!(scenario.readiness("capture").await.1.contains("the key of table public.things changed"));
    scenario.await_equal("others").await;
    drop(capture);

    scenario.lose_slot().await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = scenario.capture().await;
    let told = async || scenario.readiness("apply").await.1.contains("public.things");
    await_condition("apply names the table whose target lacks the key", LIMIT, told).await;
    apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.target(change).await;
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    scenario.source("UPDATE things SET id = 7 WHERE code = 'again'; DELETE FROM things WHERE code = 'code 2'").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T37.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_stops_and_is_not_skipped() {
    let scenario = Scenario::new("rename").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (1)").await;
    scenario.await_equal("things").await;
    scenario.source("ALTER TABLE things RENAME TO items; INSERT INTO items VALUES (2)").await;
    await_stopped(&scenario, "public.things").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
}

/// Trap T50: what fits alone must not be refused in company.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_each_fit_a_topic_are_not_batched_beyond_its_limit() {
    let scenario = Scenario::new("batch").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, body text)").await;
    scenario.source("INSERT INTO things VALUES (0, 'x')").await;
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.topics().set("public.things", "max.message.bytes", "20000").await;
    drop(capture);
    let _capture = scenario.capture().await;
    let rows = "SELECT i, string_agg(md5(random()::text), '') FROM generate_series(1, 500) i, generate_series(1, 100) GROUP BY i";
    scenario.source(&format!("INSERT INTO things {rows}")).await;
    scenario.await_equal("things").await;
}

/// Trap T50: the record that does not fit any longer must not come to the producer, which would lose its order with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_smaller_records_from_now_on_stops_its_table_at_the_first_that_is_larger() {
    let scenario = Scenario::new("smaller").await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY)")
        .await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things VALUES (1, repeat('x', 30000))").await;
    scenario.await_equal("things").await;
    scenario.topics().set("public.things", "max.message.bytes", "20000").await;
    scenario.await_log(&mut capture, "takes records of another size").await;
    scenario.source("INSERT INTO things VALUES (2, 'small'), (3, repeat('x', 30000)), (4, 'small')").await;
    await_stopped(&scenario, "public.things").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    assert!(scenario.readiness("capture").await.1.contains("does not fit"), "it was refused before it was sent");
    scenario.await_target("SELECT string_agg(id::text, ',' ORDER BY id) FROM things", "1,2").await;
    drop(capture);

    scenario.topics().set("public.things", "max.message.bytes", "1000000").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("things").await;
}

/// A table that is created anew would lack all earlier rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_table_that_is_dropped_by_hand_stops_alone_and_is_built_anew_on_demand() {
    let scenario = Scenario::new("dropped").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 30)").await;
    let _capture = scenario.capture().await;
    let mut apply = scenario.apply().await;
    scenario.await_equal("things").await;
    scenario.target("DROP TABLE things").await;
    scenario.source("INSERT INTO things SELECT generate_series(31, 40); INSERT INTO others VALUES (1)").await;
    let topic = scenario.topics().name("public.things");
    let group = &scenario.name;
    let remedy = format!("DELETE FROM \"walrelay\".\"position\" WHERE instance = '{group}' AND topic = '{topic}'");
    let told = async || {
        let (status, body) = scenario.readiness("apply").await;
        status == 503 && body.contains("public.things") && body.contains(&remedy.replace('"', "\\\""))
    };
    await_condition("apply names the stopped table and the remedy", LIMIT, told).await;
    scenario.await_equal("others").await;
    assert_eq!(scenario.target_value("SELECT to_regclass('things')::text").await, None);

    apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.target(&remedy).await;
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// Trap T32: a TRUNCATE of two tables while one is stopped reaches that one when it goes on, and must not take the rows that
/// the other has got since.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_a_stopped_table_catches_up_with_spares_what_the_other_tables_got_since() {
    let scenario = Scenario::new("catchup").await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY)")
        .await;
    scenario
        .source("INSERT INTO things SELECT generate_series(1, 30); INSERT INTO others SELECT generate_series(1, 30)")
        .await;
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.source("INSERT INTO things VALUES (31, repeat('x', 3000000))").await;
    await_stopped(&scenario, "public.things").await;
    scenario.source("TRUNCATE things, others").await;
    scenario.source("INSERT INTO others SELECT generate_series(101, 130)").await;
    scenario.await_equal("others").await;
    let forgotten = "SELECT count(*)::text FROM walrelay.barrier";
    scenario.await_target(forgotten, "0").await;
    let topic = scenario.topics().name("public.things");
    let progress = scenario.progress();
    let at = progress.stopped.get(&topic).expect("the sinks are told of the stopped table");
    assert!(at.ordinal == 1 && at.commit < progress.lsn, "{progress:?}");
    assert_eq!(progress.stopped.len(), 1);
    drop(capture);

    scenario.topics().set("public.things", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (99, 'new')").await;
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.verify();
}

/// Traps T32 and T65: the parent cannot lose its rows while the child keeps its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_of_a_parent_waits_for_the_child_that_is_stopped_and_goes_on_with_it() {
    let mut scenario = Scenario::new("tied").await;
    scenario.settings.set("health.silence", "2s");
    let tables = "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY);
                  CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, body text)";
    scenario.both(tables).await;
    scenario.source("INSERT INTO parent SELECT generate_series(1, 9); INSERT INTO child VALUES (1, 1), (2, 9)").await;
    let (capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("child").await;
    scenario.source("INSERT INTO child VALUES (3, 3, repeat('x', 3000000))").await;
    await_stopped(&scenario, "public.child").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.source("TRUNCATE parent, child, others; INSERT INTO parent VALUES (1), (2)").await;
    scenario.source("INSERT INTO others VALUES (2); INSERT INTO child VALUES (1, 2)").await;
    scenario.await_equal("others").await;
    let why = "a foreign key of table public.child references table public.parent";
    let waits = async || {
        let (status, body) = scenario.readiness("apply").await;
        assert!(!scenario.log_text("apply").contains("ERROR"), "{}", scenario.log_text("apply"));
        status == 503 && body.contains(&scenario.topics().name("public.child")) && body.contains(why)
    };
    await_condition("apply tells what the truncate waits for, and why", LIMIT, waits).await;
    scenario.await_log(&mut apply, why).await;
    assert_eq!(scenario.target_value("SELECT count(*)::text FROM parent").await.as_deref(), Some("9"));
    drop(capture);

    scenario.topics().set("public.child", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("child").await;
    scenario.await_equal("parent").await;
    scenario.verify();
}

/// Trap T32: a later session prepares the stopped table for nothing, and the sinks must hear of it all the same. Else the child
/// goes on alone, and its new rows go with the parent's old ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_names_a_table_that_stopped_in_an_earlier_session_of_the_process() {
    let scenario = Scenario::new("session").await;
    let tables = "CREATE TABLE parent (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY);
                  CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE)";
    scenario.both(tables).await;
    scenario.source("INSERT INTO parent SELECT generate_series(1, 9); INSERT INTO child VALUES (1, 1)").await;
    let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("child").await;
    scenario.source("INSERT INTO parent VALUES (10, repeat('x', 3000000))").await;
    await_stopped(&scenario, "public.parent").await;
    let slot = format!("FROM pg_replication_slots WHERE slot_name = '{}'", scenario.name);
    scenario.source(&format!("SELECT pg_terminate_backend(active_pid, 10000) {slot}")).await;
    scenario.source("TRUNCATE parent, child; INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 1)").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    let why = "a foreign key of table public.child references table public.parent";
    let waits = async || scenario.readiness("apply").await.1.contains(why);
    await_condition("apply tells what the truncate waits for, and why", LIMIT, waits).await;
    drop(capture);

    scenario.topics().set("public.parent", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("parent").await;
    scenario.await_equal("child").await;
    scenario.verify();
}

/// Trap T37: what has the tables are other entries of the catalog there.
#[tokio::test(flavor = "multi_thread")]
async fn tables_come_back_into_publications_of_all_tables_and_of_schemas_and_are_read_again_where_they_left() {
    for (name, of, leave) in [
        ("in_all", "FOR ALL TABLES", None),
        ("in_schema", "FOR TABLES IN SCHEMA public", Some("DROP TABLES IN SCHEMA public")),
    ] {
        let mut scenario = Scenario::new(name).await;
        if leave.is_some() && scenario.is_source_before(150_000).await {
            // It knows no publications of schemas.
            continue;
        }
        scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
        scenario
            .source_value_as_superuser(&format!(
                "CREATE PUBLICATION {} {of} WITH (publish_via_partition_root = true)",
                scenario.name
            ))
            .await;
        scenario.settings.set("capture.create_publication", false);
        let (capture, _apply) = (scenario.capture().await, scenario.apply().await);
        scenario.await_equal("things").await;
        drop(capture);
        if let Some(leave) = leave {
            let alter = format!("ALTER PUBLICATION {}", scenario.name);
            scenario.source_value_as_superuser(&format!("{alter} {leave}")).await;
            scenario.source("INSERT INTO things VALUES (2)").await;
            scenario.source_value_as_superuser(&format!("{alter} {}", leave.replace("DROP", "ADD"))).await;
            let mut capture = scenario.spawn_capture();
            scenario.await_log(&mut capture, "the resync ends").await;
            scenario.await_equal("things").await;
        } else {
            scenario.source("INSERT INTO things VALUES (2)").await;
            let _capture = scenario.capture().await;
            scenario.await_equal("things").await;
        }
    }
}
