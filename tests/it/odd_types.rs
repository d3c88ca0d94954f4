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
    // Debezium's forms lose what they have; the others have them anyway.
    scenario.settings.set("format.own_headers", true);
    scenario.both(TYPES).await;
    let create = scenario.spelt(&format!("CREATE TABLE odd ({TABLE})")).await;
    if settings.is_empty() {
        scenario.source(&create).await;
    } else {
        scenario.both(&create).await;
    }
    scenario.source(&format!("INSERT INTO odd VALUES {ROWS}")).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("odd").await;
    for change in CHANGES {
        scenario.source(change).await;
        scenario.await_equal("odd").await;
    }
    scenario.verify();
}

/// Trap T42: both ends' defaults are such as change how values are written or read.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_the_databases_change_no_value() {
    const DEFAULTS: [(&str, &str); 9] = [
        ("array_nulls", "off"),
        ("xmloption", "document"),
        ("DateStyle", "'SQL, DMY'"),
        ("IntervalStyle", "sql_standard"),
        ("TimeZone", "'Asia/Kolkata'"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-9"),
        ("standard_conforming_strings", "off"),
        ("quote_all_identifiers", "on"),
    ];
    let scenario = Scenario::new("defaults").await;
    for (name, value) in DEFAULTS {
        scenario.both(&format!("ALTER DATABASE {} SET {name} = {value}", scenario.name)).await;
    }
    let sql = "SET array_nulls = on; SET xmloption = content; SET DateStyle = ISO; SET IntervalStyle = postgres;
        CREATE TABLE things (id int PRIMARY KEY, a text[], n int[], x xml, d date, t timestamptz, i interval, b bytea, f float8, m money, c regclass);
        INSERT INTO things VALUES
            (1, '{NULL,\"NULL\",\"\"}', '{1,NULL}', 'no <b>document</b>', '2024-03-04', '2024-03-04 05:06:07.8+05:30', '1 mon -1 days', E'\\\\x00ff5c', 0.1::float8 + 0.2, '-1,234.5', 'pg_class'),
            (2, E'{{NULL,\"a\\\\\\\\b\"}}', NULL, '<a/>', 'infinity', '0044-03-15 00:00+00 BC', '-1 mon +1 day -00:00:00.5', E'\\\\x', 5e-324, '0', '0')";
    scenario.source(sql).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.source("UPDATE things SET id = id + 10, a = a || ARRAY[NULL, 'x']::text[] WHERE id = 1; UPDATE things SET n = ARRAY[NULL, 7] WHERE id = 2").await;
    scenario.await_equal("things").await;
    let nulls = "SELECT count(*) FROM things, unnest(a) item WHERE item IS NULL";
    scenario.await_target(nulls, "3").await;
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_that_refuse_null_and_nested_types_arrive() {
    arrives("odd", &[]).await;
}

/// With NOT NULL fields, and nothing in the schema that tells a type.
#[tokio::test(flavor = "multi_thread")]
async fn they_arrive_in_debezium_s_forms() {
    arrives("odd_debezium", &[("format.compatibility", "debezium"), ("format.unknown_types", "text")]).await;
}
