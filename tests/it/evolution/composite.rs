//! Attributes of a composite type change between rows: no message tells it, so the target's type is changed by hand, and rows of
//! the former form must have arrived by then.

use crate::support::{LIMIT, Scenario, await_condition};

/// A change, and the rows that one transaction has before and behind it; `%` stands for a number.
struct Step {
    change: &'static str,
    before: &'static str,
    behind: &'static str,
    while_down: bool,
}

const STEPS: [Step; 4] = [
    Step { change: "ADD ATTRIBUTE c numeric", before: "(%,y)", behind: "(%,y,1.50)", while_down: false },
    Step { change: "DROP ATTRIBUTE b", before: "(%,,2)", behind: "(%,2.5)", while_down: false },
    Step { change: "ADD ATTRIBUTE d text", before: "(%,3)", behind: "(%,3,d)", while_down: true },
    Step { change: "DROP ATTRIBUTE c", before: "(%,4,d)", behind: "(%,d)", while_down: true },
];

/// Rows that a step has on each side of its change.
const ROWS: usize = 12;

fn insert(form: &str, from: usize) -> String {
    let row = |id: usize| {
        let value = form.replace('%', &id.to_string());
        format!("({id}, '{value}', ARRAY['{value}', NULL]::pair[])")
    };
    format!("INSERT INTO things VALUES {}", (from..from + ROWS).map(row).collect::<Vec<_>>().join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_around_a_change_of_attributes_arrive_once_the_target_s_type_is_changed() {
    let mut scenario = Scenario::new("attributes").await;
    // A row of the new form stops its table, whose other partitions would keep rows of the former one.
    scenario.settings.set("kafka.topics.partitions", 1);
    scenario.both("CREATE TYPE pair AS (a int, b text)").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, p pair, ps pair[])").await;
    scenario.source("CREATE TABLE others (id int PRIMARY KEY)").await;
    scenario.source(&insert("(%,x)", 1)).await;
    let (mut capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    for (number, step) in STEPS.iter().enumerate() {
        let from = 100 * (number + 1);
        if step.while_down {
            capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        }
        let (before, behind) = (insert(step.before, from), insert(step.behind, from + ROWS));
        scenario.source(&format!("BEGIN; {before}; ALTER TYPE pair {}; {behind}; COMMIT", step.change)).await;
        scenario
            .source(&format!("UPDATE things SET id = -id WHERE id = {from}; INSERT INTO others VALUES ({from})"))
            .await;
        if step.while_down {
            capture = scenario.spawn_capture();
        }
        let told = async || scenario.readiness("apply").await.1.contains("public.things");
        await_condition("apply names the table", LIMIT, told).await;
        let arrived = format!("SELECT count(*) FROM things WHERE abs(id) BETWEEN {from} AND {}", from + ROWS - 1);
        scenario.await_target(&arrived, &ROWS.to_string()).await;
        scenario.await_equal("others").await;
        scenario.target(&format!("ALTER TYPE pair {}", step.change)).await;
        apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        apply = scenario.spawn_apply();
        scenario.await_equal("things").await;
    }
    // Texts have no names of attributes, and the server refuses attributes of other types than the rows have.
    let renamed = "BEGIN; INSERT INTO things VALUES (1000, '(1,d)', NULL); ALTER TYPE pair RENAME ATTRIBUTE d TO e;
        INSERT INTO things VALUES (1001, '(2,e)', NULL); COMMIT";
    scenario.source(renamed).await;
    scenario.await_equal("things").await;
    let refused = scenario.source.batch_execute("ALTER TYPE pair ALTER ATTRIBUTE a TYPE bigint").await;
    assert!(refused.is_err(), "rows would be written anew");
    scenario.verify();
}
