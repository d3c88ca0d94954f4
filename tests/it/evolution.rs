//! Tables change while rows change: what the log tells arrives, what it does not tell stops the table and is never guessed.
//!
//! Cases run on two tables, under one pair of halves: one is changed while capture streams, one while it is down.

use std::collections::BTreeMap;

use crate::support::{LIMIT, Scenario, await_condition, newest_schema};

/// What becomes of a table.
enum Outcome {
    /// It goes on, and these columns are equal at both ends.
    Arrives(&'static str),
    /// It stops for a reason; once the target is changed by hand, it goes on by the operator's word, and with this last change
    /// at the source these columns are equal.
    Stops { reason: &'static str, remedy: &'static str, last: &'static str, columns: &'static str },
    /// It stops for this reason, and nothing but a new snapshot helps.
    StopsForGood(&'static str),
}

use Outcome::{Arrives, Stops, StopsForGood};

/// A table and what is done to it; `$t` stands for its name.
struct Case {
    name: &'static str,
    /// Which of the two tables there are.
    when: &'static [&'static str],
    /// What both ends need before.
    both: &'static str,
    /// The table's definition behind its name.
    table: &'static str,
    /// The first three rows.
    rows: &'static str,
    change: &'static str,
    outcome: Outcome,
}

const BOTH: &[&str] = &["live", "down"];

const PLAIN: &str = "(id int PRIMARY KEY, n int, t text)";
const ROWS: &str = "(1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three')";

/// Unchanged rows have to get what new columns say, and rows of one transaction the columns of their time.
const CASES: &[Case] = &[
    Case {
        name: "columns",
        when: &["live"],
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, v varchar(5), p numeric(4,2), t text NOT NULL)",
        rows: "(1, 1, 'a', 1.25, 'one'), (2, 2, 'b', 2.25, 'two'), (3, 3, 'c', 3.25, 'three')",
        change: "ALTER TABLE $t ADD COLUMN c int; INSERT INTO $t VALUES (4, 4, 'd', 4.25, 'four', 4); UPDATE $t SET c = 1 WHERE id = 1;
                 ALTER TABLE $t DROP COLUMN t, ALTER v TYPE varchar(9), ALTER p TYPE numeric(8,2); UPDATE $t SET v = 'new' WHERE id = 2;
                 BEGIN; ALTER TABLE $t ALTER n DROP NOT NULL; UPDATE $t SET n = NULL WHERE id = 1; ALTER TABLE $t ADD COLUMN m text NOT NULL DEFAULT ''; COMMIT;
                 UPDATE $t SET n = 0 WHERE n IS NULL; ALTER TABLE $t ALTER n SET NOT NULL, ALTER v TYPE text; INSERT INTO $t VALUES (5, 5, 'e', 5.25, 5, 'five')",
        outcome: Arrives("id, n, v, p, c, m"),
    },
    Case {
        name: "defaults",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t ADD COLUMN c int NOT NULL DEFAULT 5, ADD COLUMN d text DEFAULT E'it''s \"d\", {\\\\}',
                   ADD COLUMN e timestamptz DEFAULT now(), ADD COLUMN f int[] DEFAULT '{1,NULL}', ADD COLUMN g numeric(9,3) DEFAULT 1;
                 INSERT INTO $t (id) VALUES (4); UPDATE $t SET c = 9, d = NULL WHERE id = 1; DELETE FROM $t WHERE id = 2;
                 ALTER TABLE $t ALTER c SET DEFAULT 6, ADD COLUMN h int; INSERT INTO $t (id) VALUES (5)",
        outcome: Arrives("id, n, t, c, d, e, f, g, h"),
    },
    Case {
        name: "within",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "BEGIN; INSERT INTO $t VALUES (4, 4, 'four'); UPDATE $t SET n = 0 WHERE id = 1;
                 ALTER TABLE $t ADD COLUMN c int DEFAULT 5; UPDATE $t SET c = 1 WHERE id = 4; INSERT INTO $t VALUES (5, 5, 'five', 7);
                 ALTER TABLE $t DROP COLUMN t, ADD COLUMN d text DEFAULT 'd'; DELETE FROM $t WHERE id = 3; INSERT INTO $t VALUES (6, 6, 6, 'six');
                 COMMIT; UPDATE $t SET n = n + 1 WHERE id = 2",
        outcome: Arrives("id, n, c, d"),
    },
    Case {
        name: "keyless",
        when: &["live"],
        both: "",
        table: "(n int, t text); ALTER TABLE $t REPLICA IDENTITY FULL",
        rows: "(1, 'one'), (1, 'one'), (2, 'two')",
        change: "BEGIN; UPDATE $t SET t = 'new' WHERE n = 2; ALTER TABLE $t ADD COLUMN c int DEFAULT 5; INSERT INTO $t VALUES (4, 'four', 4);
                 DELETE FROM $t WHERE ctid = (SELECT min(ctid) FROM $t WHERE n = 1); COMMIT; UPDATE $t SET c = 6 WHERE n = 2",
        outcome: Arrives("n, t, c"),
    },
    Case {
        name: "identity",
        when: &["live"],
        both: "",
        table: PLAIN,
        rows: "(1, 1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)), (2, 2, (SELECT string_agg(md5((-i)::text), '') FROM generate_series(1, 300) i)), (3, 3, NULL)",
        change: "UPDATE $t SET n = 10 WHERE id = 1; BEGIN; ALTER TABLE $t REPLICA IDENTITY FULL; UPDATE $t SET n = 20 WHERE id = 2;
                 DELETE FROM $t WHERE id = 3; COMMIT; ALTER TABLE $t REPLICA IDENTITY DEFAULT; UPDATE $t SET n = n + 1, id = id + 10;
                 ALTER TABLE $t REPLICA IDENTITY FULL; UPDATE $t SET n = n + 1",
        outcome: Arrives("id, n, t"),
    },
    Case {
        name: "labels",
        when: BOTH,
        both: "CREATE TYPE $t_mood AS ENUM ('sad', 'glad'); CREATE DOMAIN $t_feeling AS $t_mood",
        table: "(id int PRIMARY KEY, m $t_mood, f $t_feeling, a $t_mood[])",
        rows: "(1, 'sad', 'sad', '{sad}'), (2, 'glad', 'glad', '{{glad},{NULL}}'), (3, NULL, NULL, NULL)",
        change: "ALTER TYPE $t_mood ADD VALUE 'ok' BEFORE 'glad'; INSERT INTO $t VALUES (4, 'ok', 'sad', '{sad,ok}');
                 ALTER TYPE $t_mood ADD VALUE 'it''s, \"so\"'; UPDATE $t SET a = ARRAY['it''s, \"so\"']::$t_mood[], f = 'ok' WHERE id = 1;
                 INSERT INTO $t VALUES (5, 'it''s, \"so\"', 'glad', NULL)",
        outcome: Arrives("id, m, f, a"),
    },
    Case {
        name: "types",
        when: &["live"],
        both: "CREATE TYPE $t_pair AS (a int, b text); CREATE DOMAIN $t_small AS int",
        table: "(id int PRIMARY KEY, p $t_pair, ps $t_pair[], n $t_small)",
        rows: "(1, '(1,x)', '{\"(1,x)\"}', 1), (2, '(,)', NULL, 2), (3, NULL, NULL, NULL)",
        change: "ALTER TYPE $t_pair ADD ATTRIBUTE c numeric; INSERT INTO $t VALUES (4, '(4,y,1.50)', '{\"(1,x,2)\"}', 4); UPDATE $t SET id = 10 WHERE id = 1;
                 ALTER TABLE $t ADD COLUMN m $t_small DEFAULT 7; ALTER DOMAIN $t_small ADD CHECK (VALUE < 100);
                 INSERT INTO $t VALUES (5, NULL, NULL, 99); UPDATE $t SET n = 5 WHERE id = 2",
        outcome: Arrives("id, p, ps, n, m"),
    },
    Case {
        name: "renamed",
        when: &["down"],
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t RENAME COLUMN n TO m; INSERT INTO $t VALUES (4, 4, 'four')",
        outcome: Stops {
            reason: "column n was renamed to m",
            remedy: "ALTER TABLE $t RENAME COLUMN n TO m",
            last: "UPDATE $t SET t = 'last' WHERE id IN (1, 4)",
            columns: "id, m, t",
        },
    },
    Case {
        name: "to_and_fro",
        when: &["down"],
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t RENAME COLUMN n TO m; UPDATE $t SET m = 5 WHERE id = 1; ALTER TABLE $t RENAME COLUMN m TO n;
                 UPDATE $t SET n = 6 WHERE id = 2; ALTER TABLE $t RENAME COLUMN n TO m; INSERT INTO $t VALUES (4, 4, 'four')",
        outcome: Stops {
            reason: "column n was renamed to m",
            remedy: "ALTER TABLE $t RENAME COLUMN n TO m",
            last: "UPDATE $t SET t = 'last'",
            columns: "id, m, t",
        },
    },
    Case {
        name: "relabelled",
        when: BOTH,
        both: "CREATE TYPE $t_mood AS ENUM ('sad', 'glad')",
        table: "(id int PRIMARY KEY, m $t_mood, t text)",
        rows: "(1, 'sad', 'one'), (2, 'glad', 'two'), (3, NULL, NULL)",
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TYPE $t_mood RENAME VALUE 'glad' TO 'happy'; INSERT INTO $t VALUES (4, 'happy', 'four')",
        outcome: Stops {
            reason: "label 'glad' of column m's enumeration was renamed",
            remedy: "ALTER TYPE $t_mood RENAME VALUE 'glad' TO 'happy'",
            last: "UPDATE $t SET t = 'last' WHERE id = 4",
            columns: "id, m, t",
        },
    },
    Case {
        name: "relabelled_key",
        when: &["live"],
        both: "CREATE TYPE $t_mood AS ENUM ('sad', 'glad')",
        table: "(m $t_mood PRIMARY KEY, t text)",
        rows: "('sad', 'one'), ('glad', 'two')",
        change: "ALTER TYPE $t_mood RENAME VALUE 'glad' TO 'happy'; UPDATE $t SET t = 'new'",
        outcome: StopsForGood("label 'glad' of column m's enumeration was renamed"),
    },
    Case {
        name: "generated",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED, t text)",
        rows: "(1, 1, DEFAULT, 'one'), (2, 2, DEFAULT, 'two'), (3, 3, DEFAULT, 'three')",
        change: "UPDATE $t SET n = 5 WHERE id = 1; ALTER TABLE $t ADD COLUMN c int DEFAULT 5; INSERT INTO $t (id, n, t, c) VALUES (4, 4, 'four', 4); UPDATE $t SET n = 6 WHERE id = 2",
        outcome: Arrives("id, n, t, c"),
    },
    Case {
        name: "recreated",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, t text, n int)",
        rows: "(1, 'one', 1), (2, 'two', 2), (3, 'three', 3)",
        change: "UPDATE $t SET n = 5 WHERE id = 1; ALTER TABLE $t DROP COLUMN n; ALTER TABLE $t ADD COLUMN n int; INSERT INTO $t VALUES (4, 'four', 4)",
        outcome: Stops {
            reason: "column n was dropped and added again",
            remedy: "",
            last: "UPDATE $t SET t = 'last'",
            columns: "id, t, n",
        },
    },
    Case {
        name: "retyped",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "BEGIN; UPDATE $t SET n = 5 WHERE id = 1; ALTER TABLE $t ALTER n TYPE bigint USING n * 2; INSERT INTO $t VALUES (4, 4, 'four'); COMMIT",
        outcome: Stops {
            reason: "the type of column n changed, and all rows were rewritten",
            remedy: "ALTER TABLE $t ALTER n TYPE bigint USING n * 2",
            last: "UPDATE $t SET t = 'last' WHERE id IN (1, 4)",
            columns: "id, n, t",
        },
    },
    Case {
        name: "filled",
        when: &["live"],
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t ADD COLUMN c int GENERATED BY DEFAULT AS IDENTITY; INSERT INTO $t VALUES (4, 4, 'four')",
        outcome: Stops {
            reason: "column c was added, and all rows were rewritten",
            remedy: "ALTER TABLE $t ADD COLUMN c int; UPDATE $t SET c = id",
            last: "UPDATE $t SET t = 'last' WHERE id = 4",
            columns: "id, n, t, c",
        },
    },
    Case {
        name: "rekeyed",
        when: &["live"],
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, t text); ALTER TABLE $t REPLICA IDENTITY FULL",
        rows: ROWS,
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t DROP CONSTRAINT $t_pkey, ADD PRIMARY KEY (n); INSERT INTO $t VALUES (1, 4, 'four')",
        outcome: StopsForGood("the key of table public.$t changed"),
    },
    Case {
        name: "moved",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t RENAME TO $t_away; INSERT INTO $t_away VALUES (4, 4, 'four')",
        outcome: StopsForGood("table public.$t was renamed"),
    },
];

/// Both ends' change where the target cannot follow by itself.
const BY_HAND: &[(&str, &str)] = &[("types", "ALTER TYPE $t_pair ADD ATTRIBUTE c numeric")];

fn of(text: &str, table: &str) -> String {
    text.replace("$t", table)
}

fn table_of(case: &Case, when: &str) -> String {
    format!("{}_{when}", case.name)
}

/// The cases that have such a table.
fn cases(when: &str) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |case| case.when.contains(&when))
}

/// All tables.
fn all() -> impl Iterator<Item = (&'static Case, String)> {
    CASES.iter().flat_map(|case| case.when.iter().map(move |when| (case, table_of(case, when))))
}

async fn change(scenario: &Scenario, when: &str) {
    for case in cases(when) {
        let table = table_of(case, when);
        for (_, sql) in BY_HAND.iter().filter(|(name, _)| *name == case.name) {
            scenario.target(&of(sql, &table)).await;
        }
        // Each statement is a transaction of its own, as a client would send it.
        for sql in of(case.change, &table).split("; ").fold(Vec::new(), statements) {
            scenario.source(&sql).await;
        }
    }
}

/// Puts statements together that one transaction has.
fn statements(mut all: Vec<String>, sql: &str) -> Vec<String> {
    match all.last_mut() {
        Some(last) if last.starts_with("BEGIN") && !last.contains("COMMIT") => last.push_str(&format!("; {sql}")),
        _ => all.push(sql.trim().to_owned()),
    }
    all
}

async fn arrive(scenario: &Scenario, when: &str) {
    for case in cases(when) {
        let table = table_of(case, when);
        match case.outcome {
            Arrives(columns) => scenario.await_equal(&format!("(SELECT {columns} FROM {table})")).await,
            Stops { reason, .. } | StopsForGood(reason) => {
                let (reason, name) = (of(reason, &table), format!("public.{table}"));
                let told = async || {
                    let body = scenario.readiness("capture").await.1;
                    body.contains(&reason) && body.contains(&name)
                };
                await_condition(&format!("capture says of {table}: {reason}"), LIMIT, told).await;
            }
        }
    }
}

/// The numbers of a table's versions, as they are recorded.
fn numbers(scenario: &Scenario, table: &str) -> BTreeMap<Vec<u8>, u64> {
    let mut numbers = BTreeMap::new();
    for record in scenario.state_topics().read(&scenario.name) {
        let key = record.key.unwrap_or_default();
        let version: serde_json::Value =
            record.value.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        if key.starts_with(b"relation/") && version["name"]["table"] == table {
            numbers.insert(key, version["lineage"]["number"].as_u64().expect("a number"));
        }
    }
    numbers
}

/// The labels that the newest schema of a table tells of its columns.
async fn labels(scenario: &Scenario, table: &str) -> Vec<String> {
    let schema = newest_schema(scenario, &format!("{}-value", scenario.topics().name(table))).await;
    let fields = schema["fields"][0]["type"][1]["fields"].as_array().expect("fields").clone();
    let allowed = |field: &serde_json::Value| {
        let ty = &field["type"][1];
        let ty = if ty["items"].is_null() { ty } else { &ty["items"][1] };
        ty["connect.parameters"]["allowed"].as_str().map(str::to_owned)
    };
    fields.iter().filter_map(allowed).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_tables_arrive_or_stop_with_what_no_event_tells() {
    let mut scenario = Scenario::new("evolution").await;
    for (case, table) in all() {
        scenario.both(&of(case.both, &table)).await;
        scenario
            .source(&of(&format!("CREATE TABLE $t {}; INSERT INTO $t VALUES {}", case.table, case.rows), &table))
            .await;
    }
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for (_, table) in all() {
        scenario.await_equal(&table).await;
    }
    change(&scenario, "live").await;
    arrive(&scenario, "live").await;
    assert_eq!(labels(&scenario, "public.labels_live").await, [r#"sad,ok,glad,it's, "so""#; 3]);
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    change(&scenario, "down").await;
    let mut capture = scenario.spawn_capture();
    for when in BOTH {
        arrive(&scenario, when).await;
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    for (case, table) in all() {
        if let Stops { remedy, .. } = case.outcome {
            scenario.target(&of(remedy, &table)).await;
        }
    }
    scenario.settings.set("capture.on_unlogged", "continue");
    let mut capture = scenario.spawn_capture();
    let mut whole = Vec::new();
    for (case, table) in all() {
        match case.outcome {
            Arrives(_) => {}
            Stops { last, columns, .. } => {
                scenario.source(&of(last, &table)).await;
                scenario.await_equal(&format!("(SELECT {columns} FROM {table})")).await;
            }
            StopsForGood(_) => continue,
        }
        whole.push(format!("public.{table}"));
    }
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));

    // What has been judged comes again, since the tables that stopped for good hold the log where they stopped.
    let before = numbers(&scenario, "renamed_down");
    assert_eq!(before.len(), 3, "{before:?}");
    scenario.settings.set("capture.on_unlogged", "stop");
    let mut capture = scenario.spawn_capture();
    for (case, table) in all() {
        if let Stops { columns, .. } = case.outcome {
            scenario.source(&of("UPDATE $t SET t = 'again' WHERE id = 4", &table)).await;
            scenario.await_equal(&format!("(SELECT {columns} FROM {table})")).await;
        }
    }
    assert_eq!(numbers(&scenario, "renamed_down"), before, "versions that come again were counted again");
    let arguments: Vec<&str> = ["verify"].into_iter().chain(whole.iter().map(String::as_str)).collect();
    let outcome = tokio::task::block_in_place(|| scenario.run(&arguments));
    assert_eq!(outcome.code, Some(0), "verify says:\n{}", outcome.text);

    // What was passed excuses nothing that comes later, also where it is found at the same place again.
    for sql in of(
        "ALTER TYPE $t_mood RENAME VALUE 'happy' TO 'joyful'; INSERT INTO $t VALUES (5, 'joyful', 'five')",
        "relabelled_down",
    )
    .split("; ")
    {
        scenario.source(sql).await;
    }
    for _ in 0..2 {
        let told = async || {
            let body = scenario.readiness("capture").await.1;
            body.contains("label 'happy' of column m's enumeration was renamed")
                && body.contains("public.relabelled_down")
        };
        await_condition("capture says that the label was renamed again", LIMIT, told).await;
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        capture = scenario.spawn_capture();
    }
}

/// The version is known, and was judged when it was the first; that it comes after another one is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_stopped_by_a_column_that_has_its_former_name_again_stays_stopped() {
    let mut scenario = Scenario::new("back").await;
    scenario.both("CREATE TABLE items (id int PRIMARY KEY, n int); INSERT INTO items VALUES (1, 1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("items").await;
    scenario.source("UPDATE items SET n = 2").await;
    scenario.await_equal("items").await;
    for sql in ["ALTER TABLE items RENAME COLUMN n TO m", "UPDATE items SET m = 3"] {
        scenario.source(sql).await;
    }
    let told = async || scenario.readiness("capture").await.1.contains("column n was renamed to m");
    await_condition("capture says that the column was renamed", LIMIT, told).await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.target("ALTER TABLE items RENAME COLUMN n TO m").await;
    scenario.settings.set("capture.on_unlogged", "continue");
    let mut capture = scenario.spawn_capture();
    scenario.await_equal("items").await;
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.settings.set("capture.on_unlogged", "stop");
    let mut capture = scenario.spawn_capture();
    scenario.source("UPDATE items SET m = 4").await;
    scenario.await_equal("items").await;
    for sql in ["ALTER TABLE items RENAME COLUMN m TO n", "UPDATE items SET n = 5"] {
        scenario.source(sql).await;
    }
    for _ in 0..3 {
        let told = async || scenario.readiness("capture").await.1.contains("column m was renamed to n");
        await_condition("capture says that the column has its former name", LIMIT, told).await;
        capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        capture = scenario.spawn_capture();
    }
    assert_eq!(scenario.target_value("SELECT m::text FROM items").await.as_deref(), Some("4"));
}
