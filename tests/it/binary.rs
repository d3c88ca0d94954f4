//! Values in binary have the text that the server gives them, and a stream goes on as text where some have none. `WALRELAY_ORACLE_ROWS` asks for more of them.

use std::collections::BTreeSet;

use walrelay::{
    avro::encode,
    schema::TableName,
    source::{catalog, key_columns::KeyColumns},
    types::{
        BinaryCodec, BinaryMode, Codec, ColumnType, DecimalMode, HstoreMode, IntervalMode, Modes, Parsed,
        SpecialValues, TimeMode, TimetzMode, TrailingZeros,
    },
};

use crate::{
    sink_support::Database,
    support::{Scenario, generator::Generator},
};

/// Built-in types of which only the server writes the text.
const WITHOUT: [&str; 20] = [
    "\"char\"",
    "aclitem",
    "int2vector",
    "oidvector",
    "pg_snapshot",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "tid",
    "tsquery",
    "txid_snapshot",
    "xml",
];

async fn texts_and_bytes(db: &Database, ty: &ColumnType, column: &str) -> Vec<(String, Vec<u8>)> {
    let send = format!(
        "SELECT format('%I.%I', n.nspname, p.proname) FROM pg_type t JOIN pg_proc p ON p.oid = t.typsend \
         JOIN pg_namespace n ON n.oid = p.pronamespace WHERE t.oid = {}",
        ty.below_domains().oid
    );
    let send = db.rows(&send).await.remove(0);
    // It borrows the function of another type.
    let argument = if ty.below_domains().oid == 1790 { format!("{column}::text") } else { column.to_owned() };
    let rows = db
        .client
        .query(&format!("SELECT format('%s', {column}), {send}({argument}) FROM t WHERE {column} IS NOT NULL"), &[])
        .await
        .unwrap_or_else(|error| panic!("{}: {error:?}", ty.sql));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

const MODES: [Modes; 3] = [
    Modes {
        special_values: SpecialValues::Null,
        decimal: DecimalMode::Precise,
        interval: IntervalMode::String,
        binary: BinaryMode::Bytes,
        time: TimeMode::Adaptive,
        hstore: HstoreMode::Json,
        trailing_zeros: TrailingZeros::Kept,
        timetz: TimetzMode::Offset,
    },
    Modes {
        special_values: SpecialValues::Debezium,
        decimal: DecimalMode::String,
        interval: IntervalMode::Numeric,
        binary: BinaryMode::Base64,
        time: TimeMode::Connect,
        hstore: HstoreMode::Map,
        trailing_zeros: TrailingZeros::Kept,
        timetz: TimetzMode::Utc,
    },
    Modes {
        special_values: SpecialValues::Null,
        decimal: DecimalMode::Double,
        interval: IntervalMode::String,
        binary: BinaryMode::Hex,
        time: TimeMode::Isostring,
        hstore: HstoreMode::Json,
        trailing_zeros: TrailingZeros::Dropped,
        timetz: TimetzMode::Utc,
    },
];

/// What comes of a value without its text is what comes of its text.
fn judge_direct(codec: &Codec, binary: &BinaryCodec, text: &str, bytes: &[u8]) {
    let avro = |value| {
        let mut out = Vec::new();
        encode::value(&value, &mut Vec::new(), &mut out);
        out
    };
    let pairs = [
        (codec.parse_binary(bytes, binary), codec.parse(text.as_bytes()).unwrap()),
        (codec.parse_binary_key(bytes, binary), codec.parse_key(text.as_bytes()).unwrap()),
    ];
    for (direct, by_text) in pairs {
        match (direct, by_text) {
            (None, _) => {}
            (Some(Parsed::Value(direct)), Parsed::Value(by_text))
            | (Some(Parsed::Lossy(direct)), Parsed::Lossy(by_text)) => {
                assert_eq!(avro(direct), avro(by_text), "{text} of {codec:?}");
            }
            (Some(Parsed::Unrepresentable { .. }), Parsed::Unrepresentable { .. }) => {}
            (direct, by_text) => panic!("{text} of {codec:?}: {direct:?} is not {by_text:?}"),
        }
    }
}

/// Traps T42 to T46.
#[tokio::test(flavor = "multi_thread")]
async fn values_in_binary_have_the_text_that_the_server_gives_them() {
    const WIDTH: usize = 40;
    let rows = std::env::var("WALRELAY_ORACLE_ROWS").map_or(60, |text| text.parse().expect("a number"));
    let db = Database::create().await;
    let mut generator = Generator::new(7);
    generator.add_arrays();
    generator.add_nested(60);
    if db.rows("SELECT current_setting('server_version_num')::int < 150000").await == ["t"] {
        generator = generator.before_15();
    }
    db.run(&generator.definitions).await;
    db.run(&generator.functions).await;
    let reader = catalog::connect(&db.settings, "walrelay test").await.unwrap();
    let (mut judged, mut without) = (0, BTreeSet::new());
    for types in generator.types.chunks(WIDTH) {
        let columns: Vec<String> =
            types.iter().enumerate().map(|(number, ty)| format!("c{number} {}", ty.sql)).collect();
        let values: Vec<String> = types.iter().map(|ty| format!("{}()", ty.function)).collect();
        db.run(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t SELECT i, {} FROM generate_series(1, {rows}) i",
            columns.join(", "),
            values.join(", ")
        ))
        .await;
        let found = catalog::preview(&reader, &[TableName::new("public", "t")], &KeyColumns::default()).await.unwrap();
        let relation = &found.by_name(&TableName::new("public", "t")).unwrap().relation;
        for column in relation.columns.iter().skip(1) {
            let Some(codec) = BinaryCodec::of_column(&column.ty) else {
                without.insert(column.ty.sql.to_string());
                continue;
            };
            for (text, bytes) in texts_and_bytes(&db, &column.ty, &column.name).await {
                let mut found = Vec::new();
                codec.append_text(&bytes, &mut found).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!(String::from_utf8(found).unwrap(), text, "{}", column.ty.sql);
                for modes in MODES {
                    judge_direct(&Codec::of_column(&column.ty, modes), &codec, &text, &bytes);
                }
                judged += 1;
                for end in 0..bytes.len() {
                    let _shorter = codec.append_text(&bytes[..end], &mut Vec::new());
                }
            }
        }
    }
    println!("{judged} values");
    assert!(judged > 5_000, "{judged} values");
    let built_in: BTreeSet<&str> = without.iter().map(String::as_str).filter(|sql| !sql.contains(['[', '.'])).collect();
    assert_eq!(built_in, WITHOUT.into());
}

/// A table gets a column of a type that is not read in binary: a key move behind it is two events in both formats.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_binary_goes_on_as_text_when_a_column_of_another_type_comes() {
    let scenario = Scenario::new("tuples").await;
    scenario
        .source("CREATE TABLE things (id int PRIMARY KEY, at timestamptz); CREATE TABLE others (id int PRIMARY KEY)")
        .await;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.source("INSERT INTO things SELECT i, to_timestamp(i) FROM generate_series(1, 50) i").await;
    scenario.await_equal("things").await;
    assert!(scenario.log_text("capture").contains(r#"format="binary""#));
    assert!(!scenario.log_text("capture").contains(r#"format="text""#));
    scenario
        .source(
            "BEGIN; UPDATE things SET id = id + 100 WHERE id < 10; ALTER TABLE things ADD COLUMN x xml; INSERT INTO others VALUES (1);
             UPDATE things SET x = '<a/>' WHERE id < 20; UPDATE things SET id = id + 1000 WHERE id < 20; COMMIT;
             INSERT INTO things VALUES (0, 'infinity', '<b>é</b>')",
        )
        .await;
    scenario.await_log(&mut capture, r#"format="text""#).await;
    scenario.await_equal("things").await;
    scenario.await_equal("others").await;
    scenario.source("ALTER TABLE things DROP COLUMN x; INSERT INTO things VALUES (-1)").await;
    scenario.await_target("SELECT count(*) FROM things", "52").await;
    scenario.verify();
}
