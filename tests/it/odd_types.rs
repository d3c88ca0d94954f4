//! Types whose values no random generator makes: domains that refuse NULL, domains over arrays of composites, keys with padding.

use crate::support::Scenario;

const TYPES: &str = r#"
    CREATE DOMAIN strict AS text NOT NULL CHECK (VALUE <> 'never');
    CREATE TYPE pair AS (a int, gone text, "b, c" text); ALTER TYPE pair DROP ATTRIBUTE gone;
    CREATE DOMAIN pairs AS pair[] CHECK (cardinality(VALUE) < 9);
    CREATE DOMAIN one AS pair CHECK ((VALUE).a > 0);
    CREATE TYPE nest AS (p pairs, o one, l text[]);
    CREATE TYPE span AS RANGE (subtype = text, collation = "C", multirange_type_name = multispan);
    CREATE TYPE "Odd, ""Mood""" AS ENUM ('', ' ', 'a,b', '{}', 'NULL', E'x\ny', '"');"#;

const TABLE: &str = r#"
    id char(5), mood "Odd, ""Mood""", s strict, body strict, p pairs, o one, n nest, m multispan, ms multispan[],
    moods "Odd, ""Mood"""[], scaled numeric(5,-2)[], js json, PRIMARY KEY (id, mood)"#;

const ROWS: &str = r#"
    ('a', '', 'x', repeat('y', 10), '{"(1,)","(,\"\")",NULL}', '(1,"q""u,o")', ROW(ARRAY[ROW(1, 'z')::pair]::pairs, ROW(2, NULL)::one, ARRAY['', NULL, 'NULL']),
     '{[a,b),("q,","z\\"]}', ARRAY['{}', '{(,)}']::multispan[], ARRAY['', 'a,b', NULL, E'x\ny']::"Odd, ""Mood"""[], '{1200,-99900,NaN}', '"\ud800"'),
    ('a ', ' ', '', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 900) i), '{}', '(1,)', NULL, '{}', NULL, '{{"NULL",NULL},{"\"","{}"}}', '[0:1]={100,0}', '{"\u0000": 1, "a":1, "a":2}'),
    ('', 'NULL', ' ', '{', NULL, NULL, '(,,)', NULL, '{}', '{}', '{}', '1e999999')"#;

/// Each is a transaction. What an update or a delete does not send of a domain that refuses NULL is no NULL for the target.
const CHANGES: [&str; 6] = [
    r#"UPDATE odd SET p = '{"(7,seven)"}' WHERE mood = ' '"#,
    "UPDATE odd SET s = s || '!', js = NULL",
    "UPDATE odd SET id = 'b' WHERE mood = 'NULL'",
    "UPDATE odd SET id = 'a    ', mood = '{}' WHERE mood = ''",
    r"UPDATE odd SET mood = E'x\ny' WHERE mood = ' '",
    r#"DELETE FROM odd WHERE id = 'b'; INSERT INTO odd (id, mood, s, body) VALUES ('é', '"', 'x', 'y')"#,
];

async fn arrives(name: &str, settings: &[(&str, &str)]) {
    let mut scenario = Scenario::new(name).await;
    for (key, value) in settings {
        scenario.settings.set(key, *value);
    }
    scenario.both(TYPES).await;
    let create = format!("CREATE TABLE odd ({TABLE})");
    if settings.is_empty() { scenario.source(&create).await } else { scenario.both(&create).await }
    scenario.source(&format!("INSERT INTO odd VALUES {ROWS}")).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("odd").await;
    for change in CHANGES {
        scenario.source(change).await;
        scenario.await_equal("odd").await;
    }
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_that_refuse_null_and_nested_types_arrive() {
    arrives("odd", &[]).await;
}

/// With NOT NULL fields, and nothing in the schema that tells a type.
#[tokio::test(flavor = "multi_thread")]
async fn they_arrive_in_debezium_s_forms() {
    arrives("odd_debezium", &[("format.compatibility", "debezium")]).await;
}
