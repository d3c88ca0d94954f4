//! Values at the edges of time: what the server reads and never writes (a second 60), and infinite and empty bounds of ranges; as
//! values and as keys, by snapshot and by stream, in text and in binary.

use crate::support::Scenario;

const SPANS: &[&str] = &[
    "empty",
    "(,)",
    "[-infinity,infinity]",
    "(-infinity,infinity)",
    "[infinity,infinity]",
    "[-infinity,-infinity]",
    "(infinity,)",
    "[,infinity)",
    "(,-infinity]",
    "[-infinity,)",
    "[2016-12-31 23:59:60,2017-01-01 00:00:00]",
    "(2016-12-31 23:59:60,2017-01-01 00:00:00]",
    "[0044-03-15 12:00 BC,2024-02-29 23:59:60)",
];

/// A type, and values of it as its input text; those of text are such as the texts of the others could be taken for.
const KINDS: [(&str, &[&str]); 20] = [
    ("time", &["23:59:60", "24:00:00", "23:59:59.9999999", "00:00:60", "12:30:60"]),
    ("time(3)", &["23:59:60", "23:59:59.9996", "24:00:00"]),
    ("timetz", &["23:59:60+05:30", "24:00:00-15:59:59", "23:59:59.9999999+00"]),
    ("timestamp", &["2016-12-31 23:59:60", "1969-12-31 23:59:60", "0001-12-31 23:59:60 BC", "infinity", "-infinity"]),
    ("timestamp(0)", &["2016-12-31 23:59:60", "2016-12-31 23:59:59.6"]),
    (
        "timestamptz",
        &["2016-12-31 23:59:60+00", "2016-12-31 23:59:60-15:59:59", "1999-12-31 23:59:60+05:30", "infinity"],
    ),
    ("date", &["infinity", "-infinity", "2016-12-31 23:59:60"]),
    ("interval", &["23:59:60", "00:00:60", "-00:00:60", "60 seconds"]),
    ("time[]", &["{23:59:60,24:00:00,NULL}", "{}"]),
    ("timestamp[]", &["{\"2016-12-31 23:59:60\",infinity,-infinity}"]),
    ("timestamptz(3)[]", &["{\"2016-12-31 23:59:60+00\",infinity,-infinity}"]),
    ("tsrange", SPANS),
    ("tstzrange", SPANS),
    ("daterange", SPANS),
    ("tsrange[]", &["{empty,NULL,\"(,)\",\"[-infinity,infinity]\"}", "{}"]),
    ("daterange[]", &["{empty,\"[infinity,infinity]\",\"(-infinity,infinity)\"}"]),
    (
        "tsmultirange",
        &["{}", "{(,)}", "{[-infinity,infinity]}", "{[-infinity,2000-01-01),(2016-12-31 23:59:60,infinity]}"],
    ),
    ("tstzmultirange", &["{}", "{(,)}", "{[-infinity,2000-01-01),(2016-12-31 23:59:60,infinity)}"]),
    ("datemultirange", &["{}", "{(,)}", "{[-infinity,2000-01-01),[2016-12-31,infinity]}", "{[infinity,infinity]}"]),
    ("text", &["23:59:60", "empty", "infinity", "[-infinity,infinity]"]),
];

/// Rows that show every value.
const ROWS: usize = SPANS.len();

/// The values of a row, as they stand in an INSERT.
fn row(number: usize) -> String {
    let literal = |(ty, values): &(&str, &[&str])| format!("'{}'::{ty}", values[number % values.len()]);
    KINDS.iter().map(literal).collect::<Vec<_>>().join(", ")
}

async fn insert(scenario: &Scenario, from: usize) {
    for number in 0..ROWS {
        let id = from + number;
        scenario.source(&format!("INSERT INTO kinds VALUES ({id}, {})", row(number))).await;
        scenario.source(&format!("INSERT INTO keyed SELECT 0, {id}, {} ON CONFLICT DO NOTHING", row(number))).await;
    }
}

async fn arrives(name: &str, format: &str, settings: &[(&str, &str)]) {
    let mut scenario = Scenario::new(name).await;
    scenario.settings.set("capture.binary", format == "binary");
    for (key, value) in settings {
        scenario.settings.set(key, *value);
    }
    let columns = KINDS.iter().enumerate().map(|(number, (ty, _))| format!("c{number} {ty}"));
    let columns = columns.collect::<Vec<_>>().join(", ");
    scenario.source(&format!("CREATE TABLE kinds (id int PRIMARY KEY, {columns})")).await;
    // Times, moments and ranges are the key.
    scenario
        .source(&format!(
            "CREATE TABLE keyed (n int, k int, {columns}, PRIMARY KEY (c0, c2, c3, c5, c11, c12, c13, c16))"
        ))
        .await;
    insert(&scenario, 1).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in ["kinds", "keyed"] {
        scenario.await_equal(table).await;
    }
    scenario.source("UPDATE keyed SET n = 1; DELETE FROM keyed WHERE k % 4 = 0; UPDATE keyed SET c11 = 'empty', c0 = '00:00:60' WHERE k % 4 = 1").await;
    insert(&scenario, 101).await;
    let columns: Vec<_> = (0..KINDS.len()).map(|number| format!("c{number}")).collect();
    for number in 0..ROWS {
        let change =
            format!("UPDATE kinds SET ({}) = ({}) WHERE id = {}", columns.join(", "), row(number + 1), 1 + number);
        scenario.source(&change).await;
    }
    scenario.source("UPDATE kinds SET id = -id WHERE id < 4; DELETE FROM kinds WHERE id IN (5, 102)").await;
    for table in ["kinds", "keyed"] {
        scenario.await_equal(table).await;
    }
    let kept =
        scenario.target_value("SELECT count(*) FROM kinds WHERE c0 = '24:00' AND c11 = '[-infinity,infinity]'").await;
    assert!(kept.is_some_and(|count| count != "0"), "no row has the values that it shows");
    scenario.verify();
    let log = scenario.log_text("capture");
    let other = if format == "binary" { "text" } else { "binary" };
    assert!(log.contains(&format!("format=\"{format}\"")) && !log.contains(&format!("format=\"{other}\"")), "{log}");
}

/// Traps T43, T45.
#[tokio::test(flavor = "multi_thread")]
async fn edges_of_time_arrive_in_text() {
    arrives("edges_text", "text", &[]).await;
}

/// Traps T43, T45.
#[tokio::test(flavor = "multi_thread")]
async fn edges_of_time_arrive_in_binary() {
    arrives("edges_binary", "binary", &[]).await;
}

/// Forms that cannot have some of these values tell them beside the row.
#[tokio::test(flavor = "multi_thread")]
async fn edges_of_time_arrive_in_other_forms() {
    arrives("edges_connect", "binary", &[("format.time", "connect"), ("format.timetz", "utc")]).await;
    arrives("edges_iso", "text", &[("format.time", "isostring"), ("format.interval", "numeric")]).await;
}
