//! A row's records share one partition for the topic's life: whatever the key's bytes are made of stays, or the table stops.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{LIMIT, Scenario, await_condition};

/// Partitions in which each key's records lie; a key is what its bytes are behind the schema's id.
fn partitions_by_key(scenario: &Scenario, table: &str) -> BTreeMap<Vec<u8>, BTreeSet<i32>> {
    let mut partitions = BTreeMap::<_, BTreeSet<_>>::new();
    for record in scenario.topics().read(table) {
        if let Some(key) = record.key {
            partitions.entry(key[5..].to_vec()).or_default().insert(record.partition);
        }
    }
    partitions
}

fn assert_keys_stay(scenario: &Scenario, table: &str, keys: usize) {
    let partitions = partitions_by_key(scenario, table);
    assert_eq!(partitions.len(), keys, "keys in {table}");
    assert!(partitions.values().all(|of_key| of_key.len() == 1), "a key moved in {table}: {partitions:?}");
    let used: BTreeSet<_> = partitions.values().flatten().collect();
    assert!(used.len() > 1, "a topic with one used partition tells nothing");
}

async fn await_stopped(scenario: &Scenario, reason: &str) {
    let stopped = async || scenario.readiness("capture").await.1.contains(reason);
    await_condition(&format!("capture says: {reason}"), LIMIT, stopped).await;
}

/// Changes what capture has recorded of a topic's keys.
fn change_key_form(scenario: &Scenario, topic: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let entry = format!("key/{}", scenario.topics().name(topic));
    let state = scenario.state_topics().read(&scenario.name);
    let known = state.iter().rfind(|record| record.key.as_deref() == Some(entry.as_bytes())).unwrap();
    let mut form = serde_json::from_slice(known.value.as_deref().unwrap()).unwrap();
    change(&mut form);
    let form = form.to_string();
    scenario.state_topics().write(&scenario.name, 0, Some(entry.as_bytes()), Some(form.as_bytes()));
}

/// Trap T53.
#[tokio::test(flavor = "multi_thread")]
async fn other_forms_of_values_leave_the_keys_of_a_topic_as_they_are() {
    let mut scenario = Scenario::new("key_forms").await;
    for (table, key) in [("numbers", "numeric(9,2)"), ("bare", "numeric"), ("sums", "money"), ("codes", "bytea")] {
        scenario.source(&format!("CREATE TABLE {table} (id {key} PRIMARY KEY, n int NOT NULL)")).await;
    }
    let insert = "INSERT INTO numbers SELECT n * 1.25, 0 FROM generate_series(1, 20) n;
        INSERT INTO bare SELECT n * 1.125, 0 FROM generate_series(1, 20) n;
        INSERT INTO sums SELECT n::money, 0 FROM generate_series(1, 20) n;
        INSERT INTO codes SELECT n::text::bytea, 0 FROM generate_series(1, 20) n";
    scenario.source(insert).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let tables = ["numbers", "bare", "sums", "codes"];
    for table in tables {
        scenario.await_equal(table).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    scenario.settings.set("format.decimal", "string");
    scenario.settings.set("format.binary", "hex");
    let _capture = scenario.capture().await;
    for table in tables {
        scenario.source(&format!("UPDATE {table} SET n = 1")).await;
        scenario.await_equal(table).await;
        assert_keys_stay(&scenario, &format!("public.{table}"), 20);
    }
    scenario.verify();
}

/// Trap T53.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_label_of_an_enum_in_the_key_moves_no_row() {
    let scenario = Scenario::new("key_labels").await;
    let labels: Vec<_> = (0..12).map(|n| format!("'label {n}'")).collect();
    scenario.both(&format!("CREATE TYPE kind AS ENUM ({})", labels.join(", "))).await;
    scenario.source("CREATE TABLE kinds (kind kind PRIMARY KEY, n int NOT NULL)").await;
    scenario.source("INSERT INTO kinds SELECT unnest(enum_range(NULL::kind)), 0").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("kinds").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    scenario.both("ALTER TYPE kind ADD VALUE 'label 12'").await;
    let _capture = scenario.capture().await;
    // Another column makes another version of the relation, with the labels of today.
    scenario.both("ALTER TABLE kinds ADD COLUMN more int").await;
    scenario.source("UPDATE kinds SET n = 1; INSERT INTO kinds VALUES ('label 12', 1, 1)").await;
    scenario.await_equal("kinds").await;
    assert_keys_stay(&scenario, "public.kinds", 13);
    scenario.verify();
}

/// Trap T53: some of these change the schema, some only how a value is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_modifier_changes_its_bytes_stops_its_table() {
    let mut scenario = Scenario::new("key_modifier").await;
    scenario.settings.set("format.decimal", "string");
    let changes = [
        ("moments", "timestamptz(3)", "timestamptz(6)", "'2026-01-01 00:00:00.123Z'::timestamptz + n * interval '1 s'"),
        ("sums", "numeric(10,2)", "numeric", "n * 1.5"),
        ("prices", "numeric(10,2)", "numeric(12,3)", "n * 1.5"),
    ];
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    for (table, before, _, value) in changes {
        scenario.source(&format!("CREATE TABLE {table} (id {before} PRIMARY KEY, n int)")).await;
        scenario.source(&format!("INSERT INTO {table} SELECT {value}, 0 FROM generate_series(1, 20) n")).await;
    }
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for (table, _, after, _) in changes {
        scenario.await_equal(table).await;
        scenario.source(&format!("ALTER TABLE {table} ALTER COLUMN id TYPE {after}; UPDATE {table} SET n = 1")).await;
        await_stopped(&scenario, &format!("the key of table public.{table} changed")).await;
        let partitions = partitions_by_key(&scenario, &format!("public.{table}"));
        assert_eq!(partitions.len(), 20, "keys in {table}");
    }
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
}

/// Equal keys may then have other bytes, so that one partition has to hold them all.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_collation_becomes_nondeterministic_stops_its_table() {
    let scenario = Scenario::new("key_collation").await;
    let collation = "CREATE COLLATION lenient (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    scenario.source(collation).await;
    scenario.source("CREATE TABLE names (id text PRIMARY KEY, n int); CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO names SELECT 'name ' || n, 0 FROM generate_series(1, 20) n").await;
    scenario.source("CREATE TABLE told AS TABLE names; ALTER TABLE told ADD PRIMARY KEY (id)").await;
    scenario.source("CREATE TABLE anew AS SELECT n, id FROM names; ALTER TABLE anew ADD PRIMARY KEY (id)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    // The stream has described only two of the tables before their collation changes.
    scenario.source("UPDATE told SET n = 1; UPDATE anew SET n = 1").await;
    scenario.await_equal("anew").await;
    for table in ["names", "told"] {
        scenario.await_equal(table).await;
        scenario.source(&format!("ALTER TABLE {table} ALTER COLUMN id TYPE text COLLATE lenient")).await;
        scenario.source(&format!("UPDATE {table} SET n = 2, id = upper(id)")).await;
        await_stopped(&scenario, &format!("the key of table public.{table} changed")).await;
    }
    // A column of the same name in the same place looks the same in the log.
    let anew = "ALTER TABLE anew DROP COLUMN id;
        ALTER TABLE anew ADD COLUMN id text COLLATE lenient DEFAULT gen_random_uuid()::text PRIMARY KEY";
    scenario.source(anew).await;
    scenario.source("UPDATE anew SET n = 2").await;
    await_stopped(&scenario, "the key of table public.anew changed").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
}

/// Trap T53: what decides the bytes is the same, or lies in one partition and may go on there.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_changes_without_moving_a_row_goes_on() {
    let mut scenario = Scenario::new("key_stays").await;
    scenario.settings.set("format.decimal", "string");
    let collation = "CREATE COLLATION lenient (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    scenario.source(collation).await;
    let create = "CREATE TABLE prices (id numeric(10,2) PRIMARY KEY, n int);
        CREATE TABLE moments (id timestamptz PRIMARY KEY, n int);
        CREATE TABLE mixed (f float8, d numeric(10,2), t text, n int, PRIMARY KEY (f, d, t));
        INSERT INTO prices SELECT n * 1.5, 0 FROM generate_series(1, 20) n;
        INSERT INTO moments SELECT '2026-01-01 00:00:00.123Z'::timestamptz + n * interval '1 s', 0 FROM generate_series(1, 20) n;
        INSERT INTO mixed SELECT n, n, 'text ' || n, 0 FROM generate_series(1, 20) n";
    scenario.source(create).await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let tables = ["prices", "moments", "mixed"];
    for (table, change) in
        [("prices", "id TYPE numeric(12,2)"), ("moments", "id TYPE timestamptz(6)"), ("mixed", "d TYPE numeric(12,3)")]
    {
        scenario.await_equal(table).await;
        scenario.both(&format!("ALTER TABLE {table} ALTER COLUMN {change}")).await;
    }
    scenario.source("ALTER TABLE mixed ALTER COLUMN t TYPE text COLLATE lenient").await;
    for table in tables {
        scenario.source(&format!("UPDATE {table} SET n = 1")).await;
        scenario.await_equal(table).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // A record that an earlier version left does not know the digits, and the registry may have lost its ids.
    change_key_form(&scenario, "public.prices", |form| drop(form.as_object_mut().unwrap().remove("digits")));
    change_key_form(&scenario, "public.mixed", |form| form["schema"][0] = 4_000_000_000_u32.into());
    let _capture = scenario.capture().await;
    for table in tables {
        scenario.source(&format!("UPDATE {table} SET n = 2")).await;
        scenario.await_equal(table).await;
    }
    assert_keys_stay(&scenario, "public.prices", 20);
    assert_keys_stay(&scenario, "public.moments", 20);
    let mixed = partitions_by_key(&scenario, "public.mixed");
    assert!(mixed.values().all(|of_key| *of_key == BTreeSet::from([0])), "{mixed:?}");
    change_key_form(&scenario, "public.prices", |form| assert_eq!(form["digits"], serde_json::json!([2])));
    change_key_form(&scenario, "public.mixed", |form| assert_ne!(form["schema"][0], 4_000_000_000_u32));
}

/// What lies in one partition may stay there.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_collation_becomes_deterministic_goes_on_in_its_partition() {
    let scenario = Scenario::new("key_strict").await;
    let collation = "CREATE COLLATION lenient (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    scenario.source(collation).await;
    scenario.source("CREATE TABLE names (id text COLLATE lenient PRIMARY KEY, n int)").await;
    scenario.source("INSERT INTO names SELECT 'name ' || n, 0 FROM generate_series(1, 20) n").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("names").await;
    scenario.source("ALTER TABLE names ALTER COLUMN id TYPE text COLLATE \"C\", ADD COLUMN more int").await;
    scenario.source("UPDATE names SET n = 1").await;
    scenario.await_equal("names").await;
    let partitions = partitions_by_key(&scenario, "public.names");
    assert!(
        partitions.len() == 20 && partitions.values().all(|of_key| *of_key == BTreeSet::from([0])),
        "{partitions:?}"
    );
}

/// The barrier before its rows parts new keys from old ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_snapshot_gives_keys_the_forms_of_its_time() {
    let mut scenario = Scenario::new("key_anew").await;
    scenario.source("CREATE TABLE sums (id numeric(10,2) PRIMARY KEY, n int)").await;
    scenario.source("INSERT INTO sums SELECT n, 0 FROM generate_series(1, 20) n").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("sums").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.lose_slot().await;
    scenario.source("ALTER TABLE sums ALTER COLUMN id TYPE numeric(12,3); UPDATE sums SET n = 1").await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    scenario.settings.set("format.decimal", "string");
    let mut capture = scenario.capture().await;
    let copied = async || scenario.target_value("SELECT sum(n)::text FROM sums").await.as_deref() == Some("20");
    await_condition("the new snapshot is applied", LIMIT, copied).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let _capture = scenario.capture().await;
    scenario.source("UPDATE sums SET n = 2").await;
    let streamed = async || scenario.target_value("SELECT sum(n)::text FROM sums").await.as_deref() == Some("40");
    await_condition("the stream is applied", LIMIT, streamed).await;
    let keys = partitions_by_key(&scenario, "public.sums");
    let texts = keys.iter().filter(|(key, _)| key.ends_with(b".000"));
    assert!(texts.clone().count() == 20 && texts.clone().all(|(_, of_key)| of_key.len() == 1), "{keys:?}");
}

/// Trap T53.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_gives_the_key_schema_another_id_stops_the_table_until_a_new_snapshot() {
    let mut scenario = Scenario::new("key_id").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 8)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("SELECT pg_logical_emit_message(true, 'note', 'first'); INSERT INTO things VALUES (9)").await;
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // What capture knows of the records is in its state: there the id is that of another registry.
    for topic in ["public.things", "message"] {
        change_key_form(&scenario, topic, |form| form["schema"][0] = 4_000_000_000_u32.into());
    }
    let mut capture = scenario.capture().await;
    scenario.source("INSERT INTO things VALUES (10); SELECT pg_logical_emit_message(true, 'note', 'second')").await;
    scenario.source("INSERT INTO others VALUES (1)").await;
    for table in ["public.things", &format!("topic {}.message", scenario.name)] {
        await_stopped(&scenario, &format!("the key schema of table {table} the id")).await;
    }
    scenario.await_equal("others").await;
    assert_eq!(partitions_by_key(&scenario, "public.things").len(), 9);
    assert_eq!(scenario.topics().read("message").len(), 1);

    // As the stop's hint says.
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.lose_slot().await;
    scenario.settings.set("capture.on_gap", "resnapshot");
    let _capture = scenario.capture().await;
    scenario.source("SELECT pg_logical_emit_message(true, 'note', 'third'); INSERT INTO things VALUES (11)").await;
    scenario.await_equal("things").await;
    let (status, body) = scenario.readiness("capture").await;
    assert_eq!(status, 200, "{body}");
    assert!(scenario.topics().read("message").iter().any(|record| record.holds("third")));
}

/// Trap T53: as a release that describes messages otherwise would do it.
#[tokio::test(flavor = "multi_thread")]
async fn another_key_schema_of_messages_stops_them_alone() {
    let scenario = Scenario::new("key_messages").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("SELECT pg_logical_emit_message(true, 'note', 'first'); INSERT INTO things VALUES (1)").await;
    scenario.await_equal("things").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    change_key_form(&scenario, "message", |form| form["schema"][1] = "{}".into());
    let _capture = scenario.capture().await;
    scenario.source("SELECT pg_logical_emit_message(true, 'note', 'second'); INSERT INTO things VALUES (2)").await;
    await_stopped(&scenario, &format!("the key of table topic {}.message changed", scenario.name)).await;
    scenario.await_equal("things").await;
}
