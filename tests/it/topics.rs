//! Topics that are not as capture would have made them, or that take no records any more.

use crate::support::{LIMIT, Scenario, Topics, await_condition};

/// Without its state capture cannot know what it has published, nor of which rows the sinks must be rid.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_over_topics_that_hold_events_is_refused_until_they_are_gone() {
    let scenario = Scenario::new("forgotten").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE empty (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 30)").await;
    let (mut capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("SELECT pg_logical_emit_message(true, 'walrelay', 'kept')").await;
    await_condition("the message is published", LIMIT, async || !scenario.topics().read("message").is_empty()).await;
    scenario.await_equal("things").await;
    for half in [&mut capture, &mut apply] {
        half.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }
    scenario.source("DELETE FROM things WHERE id > 20").await;
    scenario.state_topics().delete(&scenario.name).await;
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("no recorded position"), "{}", outcome.text);

    scenario.lose_slot().await;
    for held in [vec!["public.things", "message"], vec!["message"]] {
        let outcome = scenario.run_to_end("capture").await;
        assert_eq!(outcome.code, Some(3), "{}", outcome.text);
        let names: Vec<_> = held.iter().map(|table| scenario.topics().name(table)).collect();
        for text in [&*names.join(", "), "new [kafka] prefix", "delete", "empty the tables at the targets"] {
            assert!(outcome.text.contains(text), "{text:?} is not in\n{}", outcome.text);
        }
        assert_eq!(scenario.confirmed_flush().await, None, "a slot was created");
        scenario.topics().delete(held[0]).await;
    }

    let books = ["topic", "position", "moved"].map(|table| format!("DELETE FROM walrelay.{table}; ")).concat();
    scenario.target(&format!("{books}DELETE FROM things")).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    scenario.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_topic_that_forgets_is_refused_until_it_is_compacted() {
    let scenario = Scenario::new("expiring").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let state = scenario.state_topics();
    state.create(&scenario.name, 1).await;
    for policy in ["delete", "compact,delete"] {
        state.set(&scenario.name, "cleanup.policy", policy).await;
        let named = format!("cleanup.policy of state topic {} is {policy}", state.name(&scenario.name));
        let remedy = "--add-config cleanup.policy=compact";
        let checked = async || {
            let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
            outcome.code == Some(1) && outcome.text.contains(&named) && outcome.text.contains(remedy)
        };
        // Brokers learn of a changed setting one after the other.
        await_condition("check finds the policy", LIMIT, checked).await;
        let outcome = scenario.run_to_end("capture").await;
        assert_eq!(outcome.code, Some(3), "{}", outcome.text);
        assert!(outcome.text.contains(&named) && outcome.text.contains(remedy), "{}", outcome.text);
    }
    state.set(&scenario.name, "cleanup.policy", "compact").await;
    let sound = async || tokio::task::block_in_place(|| scenario.run(&["check"])).code == Some(0);
    await_condition("check finds nothing", LIMIT, sound).await;
    let _capture = scenario.capture().await;
}

/// A topic of no table is one of many all the same: what it refuses for good stops what it holds, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_topic_that_refuses_a_record_stops_the_messages_alone() {
    let scenario = Scenario::new("refused").await;
    // A table that is called as messages are.
    let namesake = format!("\"{}\".message", scenario.name);
    let schema = format!("CREATE SCHEMA \"{}\"", scenario.name);
    scenario.both(&schema).await;
    scenario
        .source(&format!("CREATE TABLE things (id int PRIMARY KEY); CREATE TABLE {namesake} (id int PRIMARY KEY)"))
        .await;
    let mut capture = scenario.capture().await;
    // Too large for the brokers from now on, and not yet for capture, which asks for the topics' limits ten seconds after its
    // begin. Compression must not make it small.
    scenario.topics().set("message", "max.message.bytes", "20000").await;
    let name = scenario.topics().name("message");
    let stopped = async || {
        let text = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 5000))";
        scenario.source(&format!("SELECT pg_logical_emit_message(true, 'walrelay', {text})")).await;
        let (status, body) = scenario.readiness("capture").await;
        assert_ne!(status, 0, "capture has ended:\n{}", scenario.log_text("capture"));
        body.contains(&name)
    };
    await_condition("capture names the messages as stopped", LIMIT, stopped).await;
    let (_, body) = scenario.readiness("capture").await;
    assert!(body.contains("delivery to topic"), "it was not the brokers that refused a message: {body}");
    let _apply = scenario.apply().await;
    scenario.source(&format!("INSERT INTO things VALUES (1); INSERT INTO {namesake} VALUES (1)")).await;
    scenario.await_equal("things").await;
    scenario.await_equal(&namesake).await;
    let before = scenario.topics().read("message").len();
    capture.kill_9().expect("capture can be killed");

    scenario.topics().set("message", "max.message.bytes", "1000000").await;
    let _capture = scenario.capture().await;
    let more = async || scenario.topics().read("message").len() > before;
    await_condition("the refused message is published", LIMIT, more).await;
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
}

/// What holds no longer is not recorded either.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_go_on_leave_no_record_of_their_stop() {
    let scenario = Scenario::new("resumed").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    let mut capture = scenario.capture().await;
    scenario.source("SELECT pg_logical_emit_message(true, 'walrelay', repeat('x', 3000000))").await;
    let entry = format!("table/topic {}", scenario.topics().name("message"));
    let recorded = async || {
        let entries = scenario.state_topics().read(&scenario.name);
        let last = entries.iter().rfind(|record| record.key.as_deref() == Some(entry.as_bytes()));
        last.map(|record| record.value.is_some())
    };
    await_condition("the stop is recorded", LIMIT, async || recorded().await == Some(true)).await;
    capture.kill_9().expect("capture can be killed");

    scenario.topics().set("message", "max.message.bytes", "9000000").await;
    let _capture = scenario.capture().await;
    await_condition("the message is published", LIMIT, async || !scenario.topics().read("message").is_empty()).await;
    assert_eq!(recorded().await, Some(false), "the messages are recorded as stopped still");
}

/// The way that errors point to where topics no longer hold what they did: each step of it says what the next one is.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_prefix_is_applied_once_the_tables_are_emptied_and_the_books_forget_the_former_topics() {
    let mut scenario = Scenario::new("former").await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY)").await;
    scenario.source("INSERT INTO things SELECT generate_series(1, 30)").await;
    let (mut capture, mut apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;
    for half in [&mut capture, &mut apply] {
        half.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }
    scenario.source("DELETE FROM things WHERE id > 20").await;
    let (former, prefix) = (scenario.topics().name("public.things"), format!("new_{}", scenario.name));
    scenario.settings.set("kafka.prefix", &*prefix);
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    assert!(outcome.text.contains("no recorded position") && outcome.text.contains("pg_drop_replication_slot"));
    scenario.lose_slot().await;

    let (_capture, mut apply) = (scenario.capture().await, scenario.spawn_apply());
    let remedy = ["topic", "position", "moved"]
        .map(|table| {
            let instance = &scenario.name;
            format!("DELETE FROM \"walrelay\".\"{table}\" WHERE instance = '{instance}' AND topic = '{former}'; ")
        })
        .concat();
    let told = async || {
        let body = scenario.readiness("apply").await.1;
        body.contains("empty table public.things") && body.contains(&remedy.replace('"', "\\\""))
    };
    await_condition("apply names the former topic and the statements", LIMIT, told).await;
    apply.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    scenario.target(&format!("TRUNCATE things; {remedy}")).await;
    let _apply = scenario.apply().await;
    scenario.await_equal("things").await;
    scenario.verify();
    Topics::new(&scenario.parts.kafka, &prefix).delete_all().await;
}
