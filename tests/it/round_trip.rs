//! Rows go the whole way, source to target, and arrive as they were.

use crate::support::{LIMIT, Scenario, await_condition, judge::await_confirmed, values};

const IDENTITIES: [(&str, &str); 3] = [("wide_default", "DEFAULT"), ("wide_full", "FULL"), ("wide_index", "INDEX")];

/// Text that TOAST stores out of line and cannot compress.
const LARGE_TEXT: &str = "(SELECT string_agg(md5(i::text || random()::text), '') FROM generate_series(1, 1500) i)";

async fn create_wide_tables(scenario: &Scenario) {
    scenario.both(values::TYPES).await;
    for (table, identity) in IDENTITIES {
        let columns = scenario.spelt(&values::definitions()).await;
        scenario.source(&format!("CREATE TABLE {table} (id int PRIMARY KEY, code text NOT NULL, {columns})")).await;
        scenario.source(&format!("CREATE UNIQUE INDEX {table}_code ON {table} (code)")).await;
        let identity = if identity == "INDEX" { format!("USING INDEX {table}_code") } else { identity.to_owned() };
        scenario.source(&format!("ALTER TABLE {table} REPLICA IDENTITY {identity}")).await;
    }
}

async fn insert_wide_rows(scenario: &Scenario, table: &str, first_id: usize) {
    let tuple =
        |number| format!("({}, 'c{}', {})", first_id + number, first_id + number, values::row(number).join(", "));
    let tuples: Vec<String> = (0..values::rows()).map(tuple).collect();
    let insert = format!("INSERT INTO {table} VALUES {}", tuples.join(", "));
    scenario.source(&scenario.spelt(&insert).await).await;
}

/// Every row takes the next row's values; one moves its key, one the identity's column, two go.
async fn change_wide_rows(scenario: &Scenario, table: &str, first_id: usize) {
    for number in 0..values::rows() {
        let values = scenario.spelt(&values::assignments((number + 1) % values::rows())).await;
        scenario.source(&format!("UPDATE {table} SET {values} WHERE id = {}", first_id + number)).await;
    }
    let sql = format!(
        "UPDATE {table} SET id = id + 5000 WHERE id = {first_id} + 1;
         UPDATE {table} SET code = code || ' moved' WHERE id = {first_id} + 2;
         DELETE FROM {table} WHERE id IN ({first_id} + 3, {first_id} + 4);"
    );
    scenario.source(&sql).await;
}

/// Trap T81: in two partitions the halves of such a move could be applied in the wrong order, and one row would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_collation_calls_equal_share_a_partition() {
    let scenario = Scenario::new("collation").await;
    let table = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                 CREATE TABLE things (id text COLLATE folding PRIMARY KEY, n int)";
    scenario.both(table).await;
    scenario.source("INSERT INTO things SELECT 'k' || i, i FROM generate_series(1, 20) i").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    for change in ["id = upper(id)", "n = n + 1", "id = lower(id)"] {
        scenario.source(&format!("UPDATE things SET {change}")).await;
    }
    scenario.source("UPDATE things SET id = upper(id) WHERE n % 2 = 0; DELETE FROM things WHERE id = 'K7'").await;
    scenario.await_equal("things").await;
    let records = scenario.topics().read("public.things");
    assert!(records.len() > 100 && records.iter().all(|record| record.partition == 0));
}

/// Traps T28, T42, T43, T44, T45.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_on_every_type_arrives_under_each_replica_identity() {
    let scenario = Scenario::new("types").await;
    create_wide_tables(&scenario).await;
    for (table, _) in IDENTITIES {
        insert_wide_rows(&scenario, table, 1).await;
    }
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for (table, _) in IDENTITIES {
        scenario.await_equal(table).await;
        insert_wide_rows(&scenario, table, 100).await;
        change_wide_rows(&scenario, table, 1).await;
        change_wide_rows(&scenario, table, 100).await;
    }
    for (table, _) in IDENTITIES {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// Traps T27, T68.
#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_toasted_value_stays_in_the_target() {
    let scenario = Scenario::new("toast").await;
    let numbered = "CREATE TABLE numbered (id int PRIMARY KEY, no int GENERATED ALWAYS AS IDENTITY UNIQUE, body text)";
    scenario.both(numbered).await;
    let sql = format!(
        "CREATE TABLE by_key (id int PRIMARY KEY, n int, body text, extra bytea);
         CREATE TABLE by_row (LIKE by_key INCLUDING ALL);
         ALTER TABLE by_row REPLICA IDENTITY FULL;
         INSERT INTO by_key SELECT i, 0, {LARGE_TEXT}, decode({LARGE_TEXT}, 'hex') FROM generate_series(1, 9) i;
         INSERT INTO by_row SELECT * FROM by_key;
         INSERT INTO numbered (id, body) SELECT id, body FROM by_key;"
    );
    scenario.source(&sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("numbered").await;
    scenario.source("UPDATE numbered SET no = DEFAULT WHERE id < 5").await;
    scenario.await_equal("numbered").await;
    for table in ["by_key", "by_row"] {
        scenario.source(&format!("UPDATE {table} SET n = n + id; UPDATE {table} SET body = '' WHERE id = 2")).await;
        scenario.await_equal(table).await;
    }
    let unchanged = |table| {
        let records = scenario.topics().read(table);
        records.iter().filter_map(|record| record.headers.get("walrelay.unchanged").cloned()).collect::<Vec<_>>()
    };
    let by_key = unchanged("public.by_key");
    assert_eq!(by_key.len(), 10, "{by_key:?}");
    assert!(
        by_key.contains(&r#"["body","extra"]"#.to_owned()) && by_key.contains(&r#"["extra"]"#.to_owned()),
        "{by_key:?}"
    );
    assert_eq!(unchanged("public.by_row"), Vec::<String>::new(), "the old row holds the value");
    scenario.verify();
}

/// Trap T28.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_move_takes_an_unchanged_toasted_value_along() {
    let scenario = Scenario::new("move").await;
    let sql = format!(
        "CREATE TABLE by_key (id int PRIMARY KEY, n int, body text);
         CREATE TABLE by_row (LIKE by_key INCLUDING ALL);
         ALTER TABLE by_row REPLICA IDENTITY FULL;
         INSERT INTO by_key SELECT i, 0, {LARGE_TEXT} FROM generate_series(1, 20) i;
         INSERT INTO by_row SELECT * FROM by_key;"
    );
    scenario.source(&sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["by_key", "by_row"] {
        scenario.source(&format!("UPDATE {table} SET id = id + 100 WHERE id <= 10")).await;
        let chain = format!(
            "BEGIN;
             UPDATE {table} SET id = id + 1000 WHERE id BETWEEN 11 AND 15;
             UPDATE {table} SET id = id + 1000, n = 1 WHERE id BETWEEN 1011 AND 1015;
             UPDATE {table} SET id = id - 2000 WHERE id = 2011;
             DELETE FROM {table} WHERE id = 2012;
             UPDATE {table} SET id = 2012 WHERE id = 2013;
             COMMIT;"
        );
        scenario.source(&chain).await;
        scenario.source(&format!("UPDATE {table} SET n = 7 WHERE id > 100")).await;
    }
    scenario.await_equal("by_key").await;
    scenario.await_equal("by_row").await;
    scenario.verify();
}

/// Trap T28: lanes that need each other's halves go through them together, and not one move after the other.
#[tokio::test(flavor = "multi_thread")]
async fn many_key_moves_do_not_take_a_transaction_each() {
    let mut scenario = Scenario::new("moves").await;
    scenario.settings.set("apply.batch_rows", 300);
    let rows = 1000;
    let body = "(SELECT string_agg(md5(i::text || k::text), '') FROM generate_series(1, 90) k)";
    let sql = format!(
        "CREATE TABLE moving (id int PRIMARY KEY, n int, body text);
         INSERT INTO moving SELECT i, 0, {body} FROM generate_series(1, {rows}) i;"
    );
    scenario.source(&sql).await;
    let mut capture = scenario.spawn_capture();
    capture.await_ready(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..3 {
        scenario.source("UPDATE moving SET id = id + 10000").await;
    }
    let events = f64::from(rows * 7);
    await_confirmed(&scenario).await;
    let _apply = scenario.apply().await;
    scenario.await_equal("moving").await;
    // A move has two events; all records fill this many transactions once.
    let batches = scenario.metrics("apply").await.sum("walrelay_apply_batches_total");
    assert!(batches < events / 300.0 * 4.0, "{batches} transactions for {events} events");
    scenario.verify();
}

/// Trap T32.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_empties_all_partitions_and_spares_what_comes_after_it() {
    let scenario = Scenario::new("truncate").await;
    let sql = "CREATE TABLE one (id int PRIMARY KEY, n int);
               CREATE TABLE two (id int PRIMARY KEY, n int);
               INSERT INTO one SELECT i, 0 FROM generate_series(1, 300) i;
               INSERT INTO two SELECT i, 0 FROM generate_series(1, 300) i;";
    scenario.source(sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for round in 1..=3 {
        let sql = format!(
            "BEGIN; INSERT INTO one VALUES ({round} + 1000, 1); TRUNCATE one, two;
             INSERT INTO one SELECT i, {round} FROM generate_series(1, 50) i; COMMIT;
             INSERT INTO two SELECT i, {round} FROM generate_series(20, 30) i;
             TRUNCATE two; INSERT INTO two SELECT i, {round} FROM generate_series(25, 60) i;
             UPDATE one SET n = n + 10;"
        );
        scenario.source(&sql).await;
    }
    scenario.await_equal("one").await;
    scenario.await_equal("two").await;
    let records = scenario.topics().read("public.one");
    let mut copies: Vec<i32> =
        records.iter().filter(|r| r.headers.contains_key("walrelay.barrier")).map(|r| r.partition).collect();
    copies.dedup();
    assert_eq!(copies, [0, 1, 2], "every partition has a copy");
    scenario.verify();
}

/// Trap T66.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_swap_a_secondary_unique_value_arrive() {
    let scenario = Scenario::new("swap").await;
    let sql = "CREATE TABLE seats (id int PRIMARY KEY, place text NOT NULL UNIQUE);
               INSERT INTO seats SELECT i, 'p' || i FROM generate_series(1, 40) i;";
    scenario.source(sql).await;
    scenario.target("CREATE TABLE seats (id int PRIMARY KEY, place text NOT NULL UNIQUE)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for round in 0..20 {
        let (one, other) = (1 + round, 40 - round);
        let sql = format!(
            "BEGIN; UPDATE seats SET place = 'free' WHERE id = {one};
             UPDATE seats SET place = 'p{one}' WHERE id = {other};
             UPDATE seats SET place = 'p{other}' WHERE id = {one}; COMMIT;
             DELETE FROM seats WHERE id = {one}; INSERT INTO seats VALUES ({one} + 100, 'p{other}');"
        );
        scenario.source(&sql).await;
    }
    scenario.await_equal("seats").await;
    scenario.verify();
}

/// Trap T57.
#[tokio::test(flavor = "multi_thread")]
async fn odd_identifiers_arrive_under_their_own_names() {
    let scenario = Scenario::new("odd").await;
    let table = r#""Odd Schéma"."sel""ect -"#.to_owned() + "\"";
    let sql = format!(
        r#"CREATE SCHEMA "Odd Schéma";
           CREATE TABLE {table} ("Order" int, "a-b" int, a_b int, "1st ""col""" text, "ключ" text, PRIMARY KEY ("a-b", "Order"));
           CREATE TABLE "a-b" (id int PRIMARY KEY); CREATE TABLE a_b (id int PRIMARY KEY);
           INSERT INTO {table} VALUES (1, 2, 3, 'x', 'y'); INSERT INTO "a-b" VALUES (1); INSERT INTO a_b VALUES (2);"#
    );
    scenario.source(&sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let sql = format!(
        r#"INSERT INTO {table} VALUES (2, 2, 4, '', NULL), (3, 3, 4, NULL, 'z');
           UPDATE {table} SET a_b = 9, "1st ""col""" = 'new' WHERE "Order" = 1;
           UPDATE {table} SET "a-b" = 7 WHERE "Order" = 2; DELETE FROM {table} WHERE "Order" = 3;
           UPDATE "a-b" SET id = 5; INSERT INTO a_b VALUES (6);"#
    );
    scenario.source(&sql).await;
    for table in [table.as_str(), r#""a-b""#, "a_b"] {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}

/// Traps T67, T68.
#[tokio::test(flavor = "multi_thread")]
async fn key_only_tables_and_generated_columns_arrive() {
    let scenario = Scenario::new("generated").await;
    let sql = "CREATE TABLE pairs (a int, b text, PRIMARY KEY (a, b));
               CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int,
                                     twice int GENERATED ALWAYS AS (n * 2) STORED);";
    scenario.both(sql).await;
    scenario.source("INSERT INTO pairs VALUES (1, ''), (2, 'b'); INSERT INTO counted (n) VALUES (1), (2)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let sql =
        "INSERT INTO pairs VALUES (3, 'c'); UPDATE pairs SET b = 'moved' WHERE a = 2; DELETE FROM pairs WHERE a = 1;
               INSERT INTO counted (n) VALUES (3), (NULL); UPDATE counted SET n = 20 WHERE n = 2;
               DELETE FROM counted WHERE n = 1;";
    scenario.source(sql).await;
    scenario.await_equal("pairs").await;
    scenario.await_equal("counted").await;
    scenario.verify();
}

/// Traps T29, T81.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_primary_key_keeps_its_repeated_rows() {
    let scenario = Scenario::new("keyless").await;
    scenario
        .source("CREATE TABLE readings (sensor int, value float8); INSERT INTO readings VALUES (1, 0.5), (1, 0.5)")
        .await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO readings VALUES (1, 0.5), (2, 'NaN'), (NULL, NULL)").await;
    scenario.await_equal("readings").await;
    let partitions: Vec<i32> =
        scenario.topics().read("public.readings").iter().map(|record| record.partition).collect();
    assert_eq!(partitions, [0; 5], "one partition keeps the order");
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_fails_when_one_row_of_the_target_is_changed_by_hand() {
    let scenario = Scenario::new("tamper").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, n int); INSERT INTO things SELECT i, i FROM generate_series(1, 500) i").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.verify();
    scenario.target("UPDATE things SET n = n + 1 WHERE id = 321").await;
    let outcome = tokio::task::block_in_place(|| scenario.run(&["verify"]));
    assert_eq!(outcome.code, Some(1), "{}", outcome.text);
    assert!(outcome.text.contains("public.things") && outcome.text.contains("321"), "{}", outcome.text);
    scenario.source("UPDATE things SET n = n WHERE id = 321").await;
    await_condition("the row is equal again", LIMIT, async || {
        scenario.target_value("SELECT n FROM things WHERE id = 321").await.as_deref() == Some("321")
    })
    .await;
    scenario.verify();
}
