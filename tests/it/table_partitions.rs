//! Partitions that come with rows, go, or are emptied by themselves: no event tells, so capture does (trap T33).

use walrelay::cli::demo::process::Process;

use crate::support::{LIMIT, Scenario, await_condition};

const TABLES: &str = "CREATE TABLE bare (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parts (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE p_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE p_2 PARTITION OF parts FOR VALUES IN (2);
    CREATE TABLE p_3 PARTITION OF parts FOR VALUES IN (3); ALTER TABLE p_1 SET (autovacuum_enabled = off);
    ALTER TABLE p_2 SET (autovacuum_enabled = off); ALTER TABLE p_3 SET (autovacuum_enabled = off); INSERT INTO parts SELECT i, 1 + i % 3 FROM generate_series(1, 300) i";

/// Both halves, and the target equal.
async fn halves(name: &str, policy: &str) -> (Scenario, Process, Process) {
    let mut scenario = Scenario::new(name).await;
    // What is detached is a table of its own.
    scenario.settings.set("capture.include", vec!["public.parts".to_owned(), "public.bare".to_owned()]);
    scenario.settings.set("capture.on_partitions", policy);
    scenario.source(TABLES).await;
    let (capture, apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("parts").await;
    (scenario, capture, apply)
}

/// Waits until capture has recorded the file that a partition has by now.
async fn await_known(scenario: &Scenario, partition: &str) {
    let sql = format!("SELECT '\"file\":' || relfilenode FROM pg_class WHERE relname = '{partition}'");
    let file = scenario.source_value(&sql).await.expect("a file");
    let is_known = async || {
        let records = scenario.state_topics().read(&scenario.name);
        let last = records.iter().rfind(|record| record.key.as_ref().is_some_and(|key| key.starts_with(b"leaves/")));
        last.is_some_and(|record| record.holds(&file))
    };
    await_condition("the file is known", LIMIT, is_known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_whose_rows_no_event_tells_are_told_until_the_table_is_read_again() {
    let (scenario, mut capture, _apply) = halves("parts_told", "tell").await;
    await_known(&scenario, "p_1").await;
    // All of this is told by events, or changes no rows.
    scenario.source("TRUNCATE parts; INSERT INTO parts SELECT i, 1 + i % 3 FROM generate_series(1, 600) i").await;
    scenario.await_target("SELECT count(*) FROM parts", "600").await;
    // Also where another process looks at it first.
    capture.kill_9().expect("capture can be killed");
    let mut capture = scenario.capture().await;
    await_known(&scenario, "p_1").await;
    scenario.source("CREATE TABLE p_4 PARTITION OF parts FOR VALUES IN (4); INSERT INTO parts VALUES (1, 4)").await;
    scenario.source("CREATE TABLE p_5 (id int NOT NULL, part int NOT NULL)").await;
    scenario.source("ALTER TABLE parts ATTACH PARTITION p_5 FOR VALUES IN (5)").await;
    await_known(&scenario, "p_5").await;
    scenario.source("INSERT INTO parts VALUES (1, 5)").await;
    scenario.source("VACUUM FULL p_3").await;
    await_known(&scenario, "p_3").await;
    scenario.await_equal("parts").await;
    let (status, text) = scenario.readiness("capture").await;
    assert!(status == 200 && !text.contains("partitions of"), "{status} {text}");

    scenario
        .source("CREATE TABLE p_6 (id int NOT NULL, part int NOT NULL); INSERT INTO p_6 VALUES (1, 6), (2, 6)")
        .await;
    let attach =
        "BEGIN; ALTER TABLE p_6 RENAME TO p_7; ALTER TABLE parts ATTACH PARTITION p_7 FOR VALUES IN (6); COMMIT";
    scenario.source(attach).await;
    scenario.source("ALTER TABLE parts DETACH PARTITION p_1").await;
    scenario.source("TRUNCATE p_2").await;
    let told = "partitions of public.parts: public.p_1 was detached or dropped, public.p_2 was truncated, or rewritten by ALTER TABLE, \
        public.p_7 was attached with rows;";
    let is_told = async || scenario.readiness("capture").await.1.contains(told);
    await_condition("all three are told", LIMIT, is_told).await;
    // The statistics say no more what became of it.
    scenario.source("INSERT INTO parts VALUES (2, 2); ANALYZE p_2").await;
    capture.kill_9().expect("capture can be killed");
    let mut capture = scenario.capture().await;
    await_condition("they are told after a restart", LIMIT, is_told).await;
    let outcome = tokio::task::block_in_place(|| scenario.run(&["resync", "public.parts"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    scenario.await_log(&mut capture, "the resync ends").await;
    scenario.await_equal("parts").await;
    let is_over = async || !scenario.readiness("capture").await.1.contains("partitions of");
    await_condition("nothing is told any more", LIMIT, is_over).await;
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_whose_rows_no_event_tells_are_read_again_where_that_is_wanted() {
    let (scenario, mut capture, _apply) = halves("parts_read", "resync").await;
    await_known(&scenario, "p_1").await;
    scenario.source("TRUNCATE p_2").await;
    scenario.await_equal("parts").await;
    // The first partition of a table that had none.
    scenario.source("CREATE TABLE whole (id int NOT NULL); INSERT INTO whole VALUES (1), (2)").await;
    scenario.source("ALTER TABLE bare ATTACH PARTITION whole FOR VALUES FROM (0) TO (10)").await;
    scenario.await_equal("bare").await;
    // While nobody looks.
    capture.kill_9().expect("capture can be killed");
    scenario
        .source("CREATE TABLE p_6 (id int NOT NULL, part int NOT NULL); INSERT INTO p_6 VALUES (1, 6), (2, 6)")
        .await;
    scenario.source("ALTER TABLE parts ATTACH PARTITION p_6 FOR VALUES IN (6); DROP TABLE p_3").await;
    let _capture = scenario.capture().await;
    scenario.await_equal("parts").await;
    let is_over = async || !scenario.readiness("capture").await.1.contains("partitions of");
    await_condition("nothing is told any more", LIMIT, is_over).await;
    scenario.verify();
}

/// What went while nobody looked is told, until it is accepted: the targets are to keep it.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_went_are_accepted_where_that_is_wanted() {
    let (mut scenario, mut capture, _apply) = halves("parts_kept", "tell").await;
    capture.kill_9().expect("capture can be killed");
    scenario.source("ALTER TABLE parts DETACH PARTITION p_1").await;
    capture = scenario.capture().await;
    let is_told = async || scenario.readiness("capture").await.1.contains("public.p_1 was detached or dropped;");
    await_condition("it is told", LIMIT, is_told).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.on_partitions", "accept");
    let mut capture = scenario.capture().await;
    let is_known = async || {
        let records = scenario.state_topics().read(&scenario.name);
        let last = records.iter().rfind(|record| record.key.as_ref().is_some_and(|key| key.starts_with(b"leaves/")));
        last.is_some_and(|record| !record.holds("p_1"))
    };
    await_condition("the others are all that is known", LIMIT, is_known).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.on_partitions", "tell");
    let _capture = scenario.capture().await;
    scenario.source("TRUNCATE p_2").await;
    let is_told = async || {
        let text = scenario.readiness("capture").await.1;
        text.contains("public.p_2 was truncated") && !text.contains("public.p_1")
    };
    await_condition("only the other one is told", LIMIT, is_told).await;
    // The targets have kept what was detached.
    scenario.await_target("SELECT count(*) FROM parts WHERE part = 1", "100").await;
}

/// Trap T33: what the stream told of its rows meanwhile counts as shown, and so none of them goes at the end of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_goes_while_its_table_is_read_again_has_it_read_once_more() {
    let (scenario, mut capture, _apply) = halves("parts_going", "resync").await;
    await_known(&scenario, "p_1").await;
    let ask = |arguments: &[&str]| {
        let outcome = tokio::task::block_in_place(|| scenario.run(&[&["resync"], arguments].concat()));
        assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    };
    ask(&["--pause"]);
    ask(&["public.parts"]);
    scenario.await_log(&mut capture, "a resync begins").await;
    scenario.source("INSERT INTO parts VALUES (1000, 1)").await;
    scenario.await_target("SELECT count(*) FROM parts WHERE id = 1000", "1").await;
    scenario.source("ALTER TABLE parts DETACH PARTITION p_1").await;
    let is_told = async || scenario.readiness("capture").await.1.contains("p_1 was detached or dropped");
    await_condition("it is told", LIMIT, is_told).await;
    ask(&["--resume"]);
    scenario.await_equal("parts").await;
    scenario.verify();
}
