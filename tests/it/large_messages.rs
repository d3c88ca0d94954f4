//! Logical messages, and rows, beyond what the queues hold.

use walrelay::cli::demo::process::Process;

use crate::support::{LIMIT, Scenario, await_condition};

const MIB: u64 = 1 << 20;

/// Bytes of a process that are in memory.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// A message that its topic does not take is named with its size, what comes behind it goes on, and memory is a few times what
/// the message takes, and free afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_64_mib_stops_the_messages_with_its_size_and_nothing_else() {
    let scenario = Scenario::new("large_message").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    let before = capture.peak_memory().expect("capture runs");
    for (id, transactional) in [(2, false), (3, true)] {
        let emit = format!("SELECT pg_logical_emit_message({transactional}, 'large', repeat('x', 64 * 1024 * 1024))");
        scenario.source(&format!("BEGIN; {emit}; INSERT INTO things VALUES ({id}); COMMIT")).await;
        scenario.await_equal("things").await;
        // Of what the spool frees in small blocks the allocator keeps some for later.
        let is_given_back = async || transactional || resident(&capture) < before + 48 * MIB;
        await_condition("the memory is given back", LIMIT, is_given_back).await;
    }
    let (status, body) = scenario.readiness("capture").await;
    let told = [&*scenario.topics().name("message"), "a record of 671"];
    assert!(status == 503 && told.iter().all(|text| body.contains(text)), "{status} {body}");
    assert!(scenario.log_text("capture").contains("Raise max.message.bytes of topic"));
    let grown = capture.peak_memory().expect("capture runs") - before;
    println!("{} MiB more at most", grown / MIB);
    assert!(grown < 180 * MIB, "{} MiB more", grown / MIB);
    // What stopped holds the slot, and the stream goes on.
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    scenario.source("UPDATE things SET id = 10 WHERE id = 1").await;
    scenario.await_equal("things").await;
    scenario.verify();
}

/// A single record that is larger than all of the queue passes alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_the_queue_is_published() {
    let mut scenario = Scenario::new("larger").await;
    scenario.settings.set("capture.memory", "16MiB");
    scenario.settings.set("kafka.compression", "none");
    let limit = ("max.message.bytes".to_owned(), toml::Value::from("20000000"));
    scenario.settings.set("kafka.topics.config", toml::Table::from_iter([limit]));
    scenario.source("CREATE TABLE things (id int PRIMARY KEY, body text)").await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    let rows = "SELECT i, repeat('x', CASE i WHEN 50 THEN 12000000 ELSE 1000 END) FROM generate_series(1, 100) i";
    scenario.source(&format!("INSERT INTO things {rows}")).await;
    scenario.source("SELECT pg_logical_emit_message(true, 'large', repeat('x', 12000000))").await;
    scenario.source("INSERT INTO things VALUES (1000, 'last')").await;
    scenario.await_equal("things").await;
    let is_there = async || scenario.topics().read("message").len() == 1;
    await_condition("the message is published", LIMIT, is_there).await;
    scenario.verify();
}
