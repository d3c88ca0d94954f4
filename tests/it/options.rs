//! Options that change between two starts: what may have been published is published again as it was.

use crate::support::{LIMIT, Scenario, await_condition};

const COUNT: &str = "SELECT count(*) FROM log";

/// Another publication numbers the changes of a transaction otherwise. The table has no key, so an event that came at a
/// second position would become a second row. Trap T37.
#[tokio::test(flavor = "multi_thread")]
async fn another_publication_holds_only_above_what_may_have_been_published() {
    let mut scenario = Scenario::new("options").await;
    let other = format!("{}_other", scenario.name);
    let sql = format!(
        "CREATE TABLE log (note text); ALTER TABLE log REPLICA IDENTITY FULL; CREATE TABLE noise (id int PRIMARY KEY);
         CREATE PUBLICATION {other} FOR TABLE log, noise"
    );
    scenario.source(&sql).await;
    scenario.settings.set("capture.include", vec!["public.log"]);
    // The position of what is acknowledged is not recorded before the kill.
    scenario.settings.set("capture.checkpoint_interval", "1h");
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("BEGIN; INSERT INTO noise VALUES (1); INSERT INTO log VALUES ('once'); COMMIT").await;
    scenario.await_target(COUNT, "1").await;
    capture.kill_9().expect("capture can be killed");

    scenario.settings.set("capture.publication", &*other);
    scenario.settings.set("capture.checkpoint_interval", "100ms");
    let _capture = scenario.capture().await;
    scenario.source("BEGIN; INSERT INTO noise VALUES (2); INSERT INTO log VALUES ('twice'); COMMIT").await;
    let arrived =
        async || scenario.target_value("SELECT count(*) FROM log WHERE note = 'twice'").await.as_deref() == Some("1");
    await_condition("the row of the other publication is there", LIMIT, arrived).await;
    assert_eq!(scenario.target_value(COUNT).await.as_deref(), Some("2"), "an event came at two positions");
    scenario.verify();
}
