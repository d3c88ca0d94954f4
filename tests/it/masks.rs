//! `[capture.masks]`: what is masked comes out of capture nowhere, and the rest of the promises hold for the masks.

use crate::support::{Consumed, LIMIT, Scenario, await_condition, newest_schema};

/// Every value that must not come out has it.
const PLAIN: &str = "plain-secret";

fn entries(entries: &[(&str, &str)]) -> toml::Table {
    entries.iter().map(|(name, text)| ((*name).to_owned(), toml::Value::from(*text))).collect()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn tells(record: &Consumed, text: &str) -> bool {
    [&record.key, &record.value].into_iter().flatten().any(|bytes| has(bytes, text))
        || record.headers.iter().any(|(name, value)| name.contains(text) || value.contains(text))
}

/// Nothing in Kafka, in the registry or in the log has a plain value. Gives the numbers of the tables' records.
async fn assert_hidden(scenario: &Scenario, tables: &[&str]) -> Vec<usize> {
    for record in scenario.state_topics().read(&scenario.name) {
        assert!(!tells(&record, PLAIN), "the state tells it: {record:?}");
    }
    for half in ["capture", "apply"] {
        assert!(!scenario.log_text(half).contains(PLAIN), "the log of {half} tells it");
    }
    let mut counts = Vec::new();
    for table in tables {
        let records = scenario.topics().read(table);
        for record in &records {
            assert!(!tells(record, PLAIN), "topic of {table}: {:?}", record.headers);
        }
        counts.push(records.len());
        for part in ["key", "value"] {
            let subject = format!("{}-{part}", scenario.topics().name(table));
            let schema = newest_schema(scenario, &subject).await.to_string();
            assert!(!schema.contains(PLAIN), "{subject}: {schema}");
        }
    }
    counts
}

async fn masked(name: &str) -> Scenario {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.mask_salt", "a grain of it");
    scenario
}

const TABLES: &str = "
    CREATE TABLE users (id int PRIMARY KEY, email varchar(40), code char(20), note text NOT NULL, big text, n int);
    CREATE DOMAIN login AS varchar(30); CREATE TABLE accounts (login login PRIMARY KEY, secret text, big text, n int);
    CREATE TABLE whole (id int PRIMARY KEY, secret text); ALTER TABLE whole REPLICA IDENTITY FULL;
    ALTER TABLE users ALTER big SET STORAGE EXTERNAL; ALTER TABLE accounts ALTER big SET STORAGE EXTERNAL";

fn rows(from: i32) -> String {
    let to = from + 19;
    format!(
        "INSERT INTO users SELECT i, 'plain-secret' || i, 'plain-secret', 'plain-secret', repeat('plain-secret', 700), i
             FROM generate_series({from}, {to}) i;
         INSERT INTO accounts SELECT 'plain-secret' || i, 'plain-secret', repeat('plain-secret', 700), i FROM generate_series({from}, {to}) i;
         INSERT INTO whole SELECT i, 'plain-secret' || i FROM generate_series({from}, {to}) i"
    )
}

/// Rows of the snapshot, of the stream with old rows and moved keys, and of a resync; what a column's default has filled in.
#[tokio::test(flavor = "multi_thread")]
async fn no_plain_value_of_a_masked_column_comes_out() {
    let mut scenario = masked("masks").await;
    scenario.source(TABLES).await;
    scenario.source(&rows(1)).await;
    scenario.source("UPDATE users SET email = NULL WHERE id = 7").await;
    let masks = entries(&[
        ("public.users.email", "hash"),
        ("public.*.code", "truncate:3"),
        ("public.users.note", "asterisks:5"),
        ("*.*.big", "truncate:7"),
        ("public.accounts.login", "hash"),
        ("*.*.secret", "hash"),
        ("public.*.late?", "hash"),
    ]);
    scenario.settings.set("capture.masks", masks);
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source(&rows(101)).await;
    scenario.source("ALTER TABLE users ADD late1 text DEFAULT 'plain-secret'").await;
    scenario.source("UPDATE users SET n = -n WHERE id % 2 = 0; UPDATE accounts SET n = -n WHERE n % 2 = 0").await;
    scenario
        .source("UPDATE accounts SET login = login || ' moved' WHERE n % 5 = 0; DELETE FROM accounts WHERE n % 7 = 0")
        .await;
    scenario
        .source("UPDATE whole SET secret = secret || ' more' WHERE id % 2 = 0; DELETE FROM whole WHERE id % 3 = 0")
        .await;
    scenario
        .source(
            "UPDATE users SET email = 'plain-secret again' WHERE id = 3; UPDATE whole SET id = id + 1000 WHERE id = 5",
        )
        .await;
    let hash = async |text: &str| {
        let sql = format!("SELECT encode(sha256(convert_to('a grain of it' || '{text}', 'UTF8')), 'hex')");
        scenario.source_value(&sql).await.unwrap()
    };
    let (first, again) = (hash("plain-secret1").await, hash("plain-secret again").await);
    scenario.await_target("SELECT email FROM users WHERE id = 3", &again).await;
    scenario
        .await_target(
            "SELECT concat_ws(' ', email, code, note, big, n, length(late1)) FROM users WHERE id = 1",
            &format!("{first} pla ***** plain-s 1 64"),
        )
        .await;
    scenario.await_target("SELECT (email IS NULL AND code = 'pla')::text FROM users WHERE id = 7", "true").await;
    let moved = hash("plain-secret5 moved").await;
    scenario.await_target(&format!("SELECT big || n FROM accounts WHERE login = '{moved}'"), "plain-s5").await;
    scenario.await_target("SELECT secret FROM whole WHERE id = 1005", &hash("plain-secret5").await).await;
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'users'::regclass AND attnum > 0";
    scenario.await_target(types, "integer text text text text integer text").await;
    // As equal as the masks let them be, keys that are hashed included.
    scenario.verify();

    let tables = ["public.users", "public.accounts", "public.whole"];
    let before = assert_hidden(&scenario, &tables).await;
    scenario.target("DELETE FROM accounts WHERE n = 1; UPDATE users SET note = 'other'").await;
    let differing = tokio::task::block_in_place(|| scenario.run(&["verify", "--values"]));
    assert!(differing.code == Some(1) && !differing.text.contains(PLAIN), "{}", differing.text);
    let refused = ["resync", "public.accounts", "--where", "login = 'plain-secret1'"];
    let outcome = tokio::task::block_in_place(|| scenario.run(&refused));
    assert!(outcome.code != Some(0) && outcome.text.contains("is masked"), "{}", outcome.text);
    let outcome =
        tokio::task::block_in_place(|| scenario.run(&["resync", "public.users", "public.accounts", "public.whole"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    scenario.await_target("SELECT count(*)::text FROM accounts WHERE n = 1", "1").await;
    scenario.await_target("SELECT count(*)::text FROM users WHERE note <> '*****'", "0").await;
    scenario.verify();
    let after = assert_hidden(&scenario, &tables).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{before:?} {after:?}");
    let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert!(report.code == Some(0) && report.text.contains("masked columns: 9"), "{}", report.text);
}

/// Under a mask that cannot be, or a misspelt name, nothing is published.
#[tokio::test(flavor = "multi_thread")]
async fn masks_that_cannot_be_are_refused_before_anything_is_published() {
    let mut scenario = masked("unmaskable").await;
    scenario.source("CREATE TABLE things (id text PRIMARY KEY, n int, t text, list text[], j jsonb)").await;
    scenario.source("INSERT INTO things VALUES ('plain-secret', 1, 'plain-secret', NULL, NULL)").await;
    for (masks, reason) in [
        (&[("public.things.n", "hash")][..], "its type integer is no text"),
        (&[("*.*.list", "hash")], "its type text[] is no text"),
        (&[("*.*.j", "asterisks:3")], "its type jsonb is no text"),
        (&[("public.things.id", "truncate:3")], "would give different rows the same key"),
        (&[("public.*.id", "asterisks:3")], "would give different rows the same key"),
        (&[("public.things.text", "hash")], "no captured table has such a column"),
        (&[("public.thing.t", "hash")], "no captured table has such a column"),
        (&[("public.*.t", "hash"), ("*.things.t", "truncate:3")], "contradicts itself on column"),
    ] {
        scenario.settings.set("capture.masks", entries(masks));
        let outcome = scenario.run_to_end("capture").await;
        assert!(outcome.code == Some(3) && outcome.text.contains(reason), "{reason}: {}", outcome.text);
        let report = tokio::task::block_in_place(|| scenario.run(&["check"]));
        assert!(report.code == Some(1) && report.text.contains(reason), "{reason}: {}", report.text);
    }
    assert_eq!(scenario.topics().partitions("public.things"), 0, "a topic was created");
    let mut unsalted = Scenario::new("unsalted").await;
    unsalted
        .settings
        .set("capture.masks", entries(&[("public.things.t", "hash"), ("things.t", "truncate:1"), ("a.b.c", "md5")]));
    let outcome = unsalted.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.text);
    for text in
        ["needs capture.mask_salt", "capture.masks.things.t is named by no glob", "capture.masks.a.b.c must be hash"]
    {
        assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
    }
}

/// What was published stays; from then on nothing plain comes, and a key's mask is no matter of a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_mask_that_is_configured_later_holds_from_then_on() {
    let mut scenario = masked("later").await;
    scenario
        .source("CREATE TABLE things (id text PRIMARY KEY, t text); CREATE TABLE others (id int PRIMARY KEY)")
        .await;
    scenario.source("INSERT INTO things VALUES ('a', 'first')").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    capture.kill_9().expect("capture can be killed");
    scenario.settings.set("capture.masks", entries(&[("public.things.t", "truncate:2")]));
    scenario.source("INSERT INTO things VALUES ('b', 'plain-secret')").await;
    let mut capture = scenario.capture().await;
    scenario.await_target("SELECT t FROM things WHERE id = 'b'", "pl").await;
    assert!(scenario.topics().read("public.things").iter().all(|record| !tells(record, PLAIN)));
    scenario.await_target("SELECT t FROM things WHERE id = 'a'", "first").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // Its rows would lie under other keys.
    scenario.settings.set("capture.masks", entries(&[("public.things.id", "hash"), ("public.things.t", "truncate:2")]));
    scenario.source("INSERT INTO things VALUES ('plain-secret', 'x')").await;
    let _capture = scenario.capture().await;
    let stopped = async || {
        let (_, body) = scenario.readiness("capture").await;
        body.contains("public.things")
    };
    await_condition("capture names the table as stopped", LIMIT, stopped).await;
    assert!(scenario.log_text("capture").contains("set them back"), "{}", scenario.log_text("capture"));
    scenario.source("INSERT INTO others VALUES (1)").await;
    scenario.await_equal("others").await;
    assert!(scenario.topics().read("public.things").iter().all(|record| !tells(record, PLAIN)));
}

/// A column goes by its name: under another one it would come out in the clear.
#[tokio::test(flavor = "multi_thread")]
async fn a_masked_column_that_is_renamed_stops_its_table() {
    let mut scenario = masked("renamed_mask").await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, t text); INSERT INTO things VALUES (1, 'plain-secret')")
        .await;
    scenario.settings.set("capture.masks", entries(&[("public.things.t", "hash")]));
    scenario.settings.set("capture.on_unlogged", "continue");
    let mut capture = scenario.capture().await;
    let _apply = scenario.apply().await;
    scenario.await_target("SELECT length(t)::text FROM things WHERE id = 1", "64").await;
    scenario.source("ALTER TABLE things RENAME t TO u; INSERT INTO things VALUES (2, 'plain-secret')").await;
    let stopped = async || {
        let (_, body) = scenario.readiness("capture").await;
        body.contains("was masked as public.things.t")
    };
    await_condition("capture names the table as stopped", LIMIT, stopped).await;
    assert!(scenario.topics().read("public.things").iter().all(|record| !tells(record, PLAIN)));
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.masks", entries(&[("public.things.t", "hash"), ("public.things.u", "hash")]));
    let _capture = scenario.capture().await;
    scenario.await_target("SELECT length(u)::text FROM things WHERE id = 2", "64").await;
    assert!(scenario.topics().read("public.things").iter().all(|record| !tells(record, PLAIN)));
}
