//! Topics whose writer put bytes into texts (Debezium's `binary.handling.mode`): where the target has bytes, apply is told in
//! which encoding, or stops the table. And decimals (`decimal.handling.mode`).

use crate::{
    recorded::Topic,
    support::{LIMIT, Scenario, await_condition},
};

const BYTES: &str = "SELECT string_agg(id || ':' || coalesce(b::text, 'NULL'), ' ' ORDER BY id) FROM t_bytea";
const WRITTEN: &str = r"2:NULL 3:\x 4:\xdeadbeef 5:\xfbffbf 6:\xfb";

/// Rows, keys and arrays, also below a domain.
#[tokio::test(flavor = "multi_thread")]
async fn texts_become_bytes_where_the_target_has_bytes() {
    let mut scenario = Scenario::new("encoded").await;
    scenario.settings.set("format.binary", "base64");
    scenario
        .target(
            "CREATE DOMAIN octets AS bytea; CREATE TABLE t_bytea (id int PRIMARY KEY, b octets);
             CREATE TABLE m_key (d date, t time, ts timestamp, b bytea, n numeric, v text, PRIMARY KEY (d, t, ts, b, n));
             CREATE TABLE m_array (id int PRIMARY KEY, an102 text, an text, ats text, ats3 text, ad text, ati text, abt bytea[])",
        )
        .await;
    for table in ["t_bytea", "m_key", "m_array"] {
        Topic::recorded("types.connect", table).publish(&scenario, table).await;
    }
    let _apply = scenario.apply().await;
    scenario.await_target(BYTES, WRITTEN).await;
    scenario.await_target("SELECT string_agg(v || b::text, ' ') FROM m_key", r"stream\x00").await;
    let arrays = "SELECT string_agg(id || coalesce(abt::text, 'NULL'), ' ' ORDER BY id) FROM m_array";
    scenario.await_target(arrays, r#"1{"\\x00ff","\\xfbff"} 2NULL 3{}"#).await;
}

/// Debezium's words for them are none of the server's.
#[tokio::test(flavor = "multi_thread")]
async fn special_decimals_in_debezium_s_words_arrive_where_the_target_has_numbers() {
    let scenario = Scenario::new("encoded_decimals").await;
    scenario.target("CREATE TABLE s_numbers (id int PRIMARY KEY, n10 numeric(10,2), n numeric)").await;
    Topic::recorded("special.isostring", "s_numbers").publish(&scenario, "s_numbers").await;
    let _apply = scenario.apply().await;
    let numbers = "SELECT string_agg(concat_ws(' ', id, n10, n), ',' ORDER BY id) FROM s_numbers";
    let rows = "1 NaN NaN,2 1.50 Infinity,3 0.00 -Infinity,11 NaN NaN,12 1.50 Infinity,13 0.00 -Infinity";
    scenario.await_target(numbers, rows).await;
}

/// The schema tells that the column is one of bytes, and never how they were written.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_bytes_is_made_where_the_schema_tells_that_it_is_one() {
    let mut scenario = Scenario::new("encoded_made").await;
    scenario.settings.set("format.binary", "base64-url-safe");
    scenario.settings.set("format.unavailable_value", "not sent");
    Topic::recorded("types.isostring", "t_bytea").publish(&scenario, "t_bytea").await;
    let _apply = scenario.apply().await;
    scenario.await_target(BYTES, WRITTEN).await;
    let ty =
        "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 't_bytea'::regclass AND attname = 'b'";
    scenario.await_target(ty, "bytea").await;
}

/// PostgreSQL reads any text as bytes, so nothing else would tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_for_a_column_of_bytes_stops_the_table_while_its_encoding_is_not_known() {
    let scenario = Scenario::new("encoded_untold").await;
    scenario.target("CREATE TABLE t_bytea (id int PRIMARY KEY, b bytea)").await;
    scenario.target("CREATE TABLE m_array (id int PRIMARY KEY, an102 text, an text, ats text, ats3 text, ad text, ati text, abt bytea[])").await;
    for table in ["t_bytea", "m_array"] {
        Topic::recorded("types.microseconds", table).publish(&scenario, table).await;
    }
    let _apply = scenario.spawn_apply();
    let told = async || {
        let body = scenario.readiness("apply").await.1;
        ["table public.t_bytea", "column b", "table public.m_array", "column abt", "format.binary"]
            .iter()
            .all(|text| body.contains(text))
    };
    await_condition("apply names tables, columns and the key to set", LIMIT, told).await;
    scenario.await_target("SELECT count(*)::text FROM t_bytea", "0").await;
}

/// Texts in hexadecimal are none in base64.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_not_in_the_encoding_stops_the_table_and_shows_no_value() {
    let mut scenario = Scenario::new("encoded_else").await;
    scenario.settings.set("format.binary", "base64");
    scenario.target("CREATE TABLE t_bytea (id int PRIMARY KEY, b bytea)").await;
    Topic::recorded("types.microseconds", "t_bytea").publish(&scenario, "t_bytea").await;
    let _apply = scenario.spawn_apply();
    let body = async || scenario.readiness("apply").await.1;
    let told = async || {
        let body = body().await;
        ["offset 0", "column b", "base64", "format.binary"].iter().all(|text| body.contains(text))
    };
    await_condition("apply names the record and the encoding", LIMIT, told).await;
    assert!(!body().await.contains("00ff10"));
}
