//! `[format] unknown_types = "omitted"`: columns whose types Debezium does not know are in no event and at no target, but for those of
//! the key; and a `name`, of which it has no value in the stream, is at the target all the same.

use crate::support::{Scenario, newest_schema};

const COMPARED: &str = "SELECT string_agg(l::text || ':' || coalesce(t, 'NULL') || ':' || coalesce(d::text, 'NULL') || ':' || n, ',' ORDER BY l) FROM things";

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_types_that_debezium_does_not_know_are_left_out() {
    let mut scenario = Scenario::new("unknown_types").await;
    scenario.settings.set("format.unknown_types", "omitted");
    scenario.settings.set("format.nullability", "source");
    scenario.source("CREATE TYPE pair AS (a int, b text); CREATE DOMAIN positive AS int CHECK (VALUE > 0)").await;
    let columns = "l pg_lsn PRIMARY KEY, p pair NOT NULL DEFAULT '(1,x)', m int4multirange, big tsquery, t text, d positive, ds positive[], n name NOT NULL";
    scenario.source(&format!("CREATE TABLE things ({columns})")).await;
    scenario
        .source("INSERT INTO things VALUES ('0/10', '(1,x)', '{[1,2)}', 'a', 'one', 1, '{1}', 'from the snapshot')")
        .await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let equal = async || {
        let source = scenario.source_value(COMPARED).await.unwrap_or_default();
        scenario.await_target(COMPARED, &source).await;
    };
    equal().await;
    // What they have matters nowhere: neither NULL nor a value that an update does not send.
    scenario
        .source("ALTER TABLE things ALTER p DROP NOT NULL, ALTER big TYPE text USING repeat(md5(l::text), 400)")
        .await;
    scenario.source("ALTER TABLE things ALTER big TYPE tsquery USING 'b'::tsquery").await;
    scenario.source("INSERT INTO things VALUES ('0/20', NULL, NULL, NULL, 'two', NULL, NULL, 'streamed')").await;
    scenario
        .source("UPDATE things SET t = NULL, p = NULL, n = 'changed' WHERE l = '0/10'; UPDATE things SET l = '0/30' WHERE l = '0/20'")
        .await;
    equal().await;
    scenario.source("ALTER TABLE things REPLICA IDENTITY FULL; DELETE FROM things WHERE l = '0/30'").await;
    scenario
        .source("ALTER TABLE things ADD COLUMN b box NOT NULL DEFAULT '(1,1),(0,0)'; UPDATE things SET d = 7")
        .await;
    equal().await;
    let names = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'things'::regclass AND attnum > 0";
    assert_eq!(scenario.target_value(names).await.as_deref(), Some("l,t,d,n"));
    let schema = newest_schema(&scenario, &format!("{}-value", scenario.topics().name("public.things"))).await;
    let fields = schema["fields"][0]["type"][1]["fields"].as_array().expect("fields").clone();
    let fields: Vec<_> = fields.iter().filter_map(|field| field["name"].as_str()).collect();
    assert_eq!(fields, ["l", "t", "d", "n"]);
}
