//! Explicit partitions: they must be there, and others must consume the rest of their topics.

use walrelay::cli::demo::settings::{Settings, free_port};

use crate::support::{LIMIT, Scenario, await_condition};

/// A scenario whose topic of `things`, with three partitions, holds some rows.
async fn published(name: &str) -> Scenario {
    let scenario = Scenario::new(name).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 30)").await;
    scenario
}

fn consumes(settings: &mut Settings, name: &str, partitions: &[i32]) {
    let listed: Vec<String> = partitions.iter().map(|n| format!("{name}.public.things:{n}")).collect();
    settings.set("apply.partitions", listed);
}

/// The positions in the target; none while the bookkeeping is not there.
async fn positions(scenario: &Scenario) -> u32 {
    let count = scenario.target_value("SELECT count(*) FROM walrelay.position").await;
    count.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_or_topic_that_is_not_there_ends_apply_and_leaves_no_position() {
    let mut scenario = published("nowhere").await;
    let _capture = scenario.capture().await;
    let name = scenario.name.clone();
    consumes(&mut scenario.settings, &name, &[0, 7]);
    let outcome = scenario.run_to_end("apply").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let problem = format!("topic {name}.public.things has no partition 7: it has 3");
    assert!(outcome.text.contains(&problem), "{}", outcome.text);
    consumes(&mut scenario.settings, "elsewhere", &[0]);
    let outcome = scenario.run_to_end("apply").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("topic elsewhere.public.things does not exist"), "{}", outcome.text);
    assert_eq!(positions(&scenario).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_siblings_nobody_consumes_is_refused_before_it_applies_anything() {
    let mut scenario = published("lonely").await;
    let _capture = scenario.capture().await;
    let name = scenario.name.clone();
    consumes(&mut scenario.settings, &name, &[1]);
    scenario.settings.set("apply.siblings_timeout", "1s");
    let outcome = scenario.run_to_end("apply").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    let problem = format!("nobody consumes topic {name}.public.things, partitions 0, 2");
    assert!(outcome.text.contains(&problem) && outcome.text.contains("[apply] partitions"), "{}", outcome.text);
    assert_eq!(positions(&scenario).await, 0);
}

/// Trap T32.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_the_partitions_find_each_other_and_pass_a_truncate() {
    let mut scenario = published("shared").await;
    let _capture = scenario.capture().await;
    let name = scenario.name.clone();
    let mut others = scenario.settings.clone();
    others.set("http.apply", format!("127.0.0.1:{}", free_port()));
    consumes(&mut scenario.settings, &name, &[1]);
    consumes(&mut others, &name, &[0, 2]);

    let mut one = scenario.spawn_apply();
    let waits = format!("somebody consumes topic {name}.public.things, partitions 0, 2");
    let waiting = async || {
        let (status, body) = scenario.readiness("apply").await;
        status == 503 && body.contains(&waits)
    };
    await_condition("apply says what it waits for", LIMIT, waiting).await;
    assert_eq!(positions(&scenario).await, 0);
    let mut other = scenario.spawn_apply_with(&others, "apply-others");
    for process in [&mut one, &mut other] {
        process.await_ready(LIMIT).await.expect("a process whose sibling is there works");
    }
    scenario.await_equal("things").await;
    scenario.source("TRUNCATE things; INSERT INTO things SELECT generate_series(20, 40)").await;
    scenario.await_equal("things").await;
    scenario.verify();

    // Who is killed is forgotten, and whoever comes back finds the other.
    drop(one);
    let _one = scenario.apply().await;
    scenario.source("INSERT INTO things SELECT generate_series(50, 80)").await;
    scenario.await_equal("things").await;
}
