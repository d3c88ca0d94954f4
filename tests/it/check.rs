//! `walrelay check`: what it finds, and that its remedies remove what it finds.

use serde_json::Value as Json;

use crate::support::{LIMIT, Scenario, await_condition};

/// Runs it; gives the exit code and the findings.
fn check(scenario: &Scenario) -> (Option<i32>, Vec<Json>) {
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check", "--json"]));
    let report: Json = serde_json::from_str(&outcome.text).unwrap_or_else(|_| panic!("not JSON: {}", outcome.text));
    (outcome.code, report["findings"].as_array().unwrap().clone())
}

fn problems(findings: &[Json]) -> Vec<(&str, &str)> {
    let problems = findings.iter().filter(|finding| finding["verdict"] == "problem");
    problems.map(|problem| (text(problem, "part"), text(problem, "subject"))).collect()
}

fn text<'a>(finding: &'a Json, field: &str) -> &'a str {
    finding[field].as_str().unwrap_or_default()
}

/// The remedy of the only finding about a subject.
fn remedy<'a>(findings: &'a [Json], part: &str, subject: &str) -> &'a str {
    let about = |finding: &&Json| text(finding, "part") == part && text(finding, "subject") == subject;
    let found: Vec<_> = findings.iter().filter(about).collect();
    assert_eq!(found.len(), 1, "{part} {subject}: {found:?}");
    text(found[0], "remedy")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_installation_has_no_problems_and_stays_unchanged() {
    let scenario = Scenario::new("check_sound").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, name text)").await;
    let (code, findings) = check(&scenario);
    assert_eq!((code, problems(&findings)), (Some(0), vec![]));
    for part in ["source", "kafka", "registry", "target"] {
        assert!(findings.iter().any(|finding| text(finding, "part") == part), "{part} was not looked at");
    }
    let made = "SELECT count(*)::text FROM (SELECT 1 FROM pg_publication UNION ALL \
                SELECT 1 FROM pg_replication_slots WHERE database = current_database()) made";
    assert_eq!(scenario.source_value(made).await.as_deref(), Some("0"));
    assert_eq!(scenario.target_value("SELECT to_regnamespace('walrelay')::text").await, None);
}

/// Traps T29 and T69: tables that the source would lock against updates, and targets without the key.
#[tokio::test(flavor = "multi_thread")]
async fn each_remedy_removes_the_problem_that_it_is_for() {
    let mut scenario = Scenario::new("check_remedies").await;
    scenario
        .source(
            "CREATE TABLE keyless (id int); CREATE TABLE later (id int PRIMARY KEY);
             CREATE TABLE things (id int PRIMARY KEY, name text)",
        )
        .await;
    scenario.source(&format!("CREATE PUBLICATION {} FOR TABLE things, keyless", scenario.name)).await;
    scenario.target("CREATE TABLE things (id int, name text, extra int NOT NULL)").await;
    scenario.settings.set("capture.create_publication", false);
    scenario.settings.set("capture.unidentified", "refuse");

    let publication = format!("publication {}", scenario.name);
    let (code, findings) = check(&scenario);
    assert_eq!(code, Some(1));
    let mut expected = vec![
        ("source", "table public.keyless"),
        ("source", publication.as_str()),
        ("target", "table public.things"),
        ("target", "table public.things"),
    ];
    assert_eq!(problems(&findings), expected);

    scenario
        .source(&remedy(&findings, "source", "table public.keyless").replace('…', "id").replacen(
            "or, if it can have none: ",
            "-- ",
            1,
        ))
        .await;
    expected.remove(0);
    assert_eq!(problems(&check(&scenario).1), expected);

    for finding in findings.iter().filter(|finding| text(finding, "subject") == "table public.things") {
        if text(finding, "part") == "target" {
            scenario.target(text(finding, "remedy")).await;
        }
    }
    expected.truncate(1);
    let (_, findings) = check(&scenario);
    assert_eq!(problems(&findings), expected);

    // a publication that lacks options and then tables takes one remedy for each
    for _ in 0..2 {
        let (_, findings) = check(&scenario);
        let sql = remedy(&findings, "source", &publication).rsplit(": ").next().unwrap_or_default().to_owned();
        scenario.source(&sql).await;
    }
    let (code, findings) = check(&scenario);
    assert_eq!((code, problems(&findings)), (Some(0), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_role_cannot_read_or_write_is_a_problem() {
    let scenario = Scenario::new("check_rights").await;
    let foreign = "CREATE TABLE foreign_things (id int PRIMARY KEY)";
    for server in [&scenario.parts.source, &scenario.parts.target] {
        let admin = server.connect(&scenario.name, "postgres", "").await.unwrap();
        server.execute(&admin, "create a table", foreign).await.unwrap();
    }
    let (code, findings) = check(&scenario);
    let table = "table public.foreign_things";
    let publication = format!("publication {}", scenario.name);
    assert_eq!(code, Some(1));
    assert_eq!(problems(&findings), [("source", table), ("source", &publication), ("target", table)]);
    assert!(remedy(&findings, "source", table).contains("GRANT SELECT ON \"public\".\"foreign_things\""));
    assert!(remedy(&findings, "target", table).contains("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON"));
    assert!(remedy(&findings, "source", &publication).contains("CREATE PUBLICATION"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_named_and_the_rest_is_looked_at() {
    let mut scenario = Scenario::new("check_unreachable").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scenario.settings.set("registry.urls", vec![format!("http://{nobody}")]);
    scenario.settings.set("target.port", i64::from(nobody.port()));
    let (code, findings) = check(&scenario);
    let (registry, target) = (format!("http://{nobody}"), nobody.to_string());
    assert_eq!(code, Some(1));
    assert_eq!(problems(&findings), [("registry", registry.as_str()), ("target", target.as_str())]);
    assert!(findings.iter().any(|finding| text(finding, "subject") == "table public.things"));
}

/// Trap T46: texts of such a database need not be UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_an_encoding_is_a_problem() {
    let mut scenario = Scenario::new("check_encoding").await;
    let database = format!("{}_ascii", scenario.name);
    let server = scenario.parts.source.clone();
    let admin = server.connect("postgres", "postgres", "").await.unwrap();
    let sql = format!("CREATE DATABASE {database} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    server.execute(&admin, "create a database", &sql).await.unwrap();
    scenario.settings.set("source.database", database.as_str());
    let (code, findings) = check(&scenario);
    server.execute(&admin, "drop a database", &format!("DROP DATABASE {database}")).await.unwrap();
    assert_eq!(code, Some(1));
    assert!(problems(&findings).contains(&("source", "encoding")), "{findings:?}");
}

/// Compaction would lose columns and TRUNCATE (trap T54).
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_a_problem() {
    let scenario = Scenario::new("check_compacted").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let capture = scenario.capture().await;
    drop(capture);
    scenario.topics().set("public.things", "cleanup.policy", "compact").await;
    let topic = format!("topic {}", scenario.topics().name("public.things"));
    let found = async || problems(&check(&scenario).1) == [("kafka", topic.as_str())];
    // brokers learn of a changed setting one after the other
    await_condition("check finds the compacted topic", LIMIT, found).await;
}
