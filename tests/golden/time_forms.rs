//! Dates, times and timestamps in each of Debezium's forms (`time.precision.mode`): names and values as its sources say
//! (`TemporalPrecisionMode`, `IsoDate`, `IsoTime`, `IsoTimestamp`), and PostgreSQL's text back out of all of them.

use serde_json::{Value as Json, json};
use walrelay::{
    event::{Cell, RowChange},
    record::Decoded,
    schema::ReplicaIdentity,
    types::{Modes, TimeMode},
};

use crate::{
    oracle,
    support::{Pipe, column, relation, texts},
};

/// A column's type, a text, and in a form its Avro type, logical type, semantic name, value, and whether its text goes besides.
struct Case {
    form: TimeMode,
    column: (u32, i32, &'static str),
    text: &'static str,
    schema: (&'static str, Option<&'static str>, &'static str),
    value: Json,
    besides: bool,
}

const DATE: (u32, i32, &str) = (1082, -1, "date");
const TIME: (u32, i32, &str) = (1083, -1, "time without time zone");
const TIME_0: (u32, i32, &str) = (1083, 0, "time(0) without time zone");
const STAMP: (u32, i32, &str) = (1114, -1, "timestamp without time zone");
const STAMP_3: (u32, i32, &str) = (1114, 3, "timestamp(3) without time zone");

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |form, column, schema, values: &[(&'static str, Json, bool)]| {
        for (text, value, besides) in values {
            cases.push(Case { form, column, text, schema, value: value.clone(), besides: *besides });
        }
    };
    let micro_time = ("long", None, "io.debezium.time.MicroTime");
    let micro_stamp = ("long", None, "io.debezium.time.MicroTimestamp");
    add(TimeMode::Microseconds, TIME_0, micro_time, &[("24:00:00", json!(86_400_000_000_i64), false)]);
    add(TimeMode::AdaptiveTimeMicroseconds, TIME_0, micro_time, &[("00:00:01", json!(1_000_000), false)]);
    add(TimeMode::Microseconds, STAMP_3, micro_stamp, &[("1970-01-01 00:00:00.001", json!(1_000), false)]);
    let (nano_time, nano_stamp) =
        (("long", None, "io.debezium.time.NanoTime"), ("long", None, "io.debezium.time.NanoTimestamp"));
    add(TimeMode::Nanoseconds, TIME_0, nano_time, &[("24:00:00", json!(86_400_000_000_000_i64), false)]);
    add(
        TimeMode::Nanoseconds,
        STAMP_3,
        nano_stamp,
        &[
            ("1969-12-31 23:59:59.999", json!(-1_000_000), false),
            ("-infinity", json!(i64::MIN), false),
            ("2262-04-11 23:47:16.854775", json!(9_223_372_036_854_775_000_i64), false),
            ("2262-04-11 23:47:16.854776", Json::Null, true),
        ],
    );
    let milli_stamp = ("long", None, "io.debezium.time.Timestamp");
    add(TimeMode::AdaptiveTimeMicroseconds, STAMP_3, milli_stamp, &[("1970-01-01 00:00:00.001", json!(1), false)]);

    let date = ("int", Some("date"), "org.apache.kafka.connect.data.Date");
    add(TimeMode::Connect, DATE, date, &[("1970-01-02", json!(1), false), ("infinity", Json::Null, true)]);
    let time = ("int", Some("time-millis"), "org.apache.kafka.connect.data.Time");
    add(
        TimeMode::Connect,
        TIME,
        time,
        &[("00:00:01.5", json!(1_500), false), ("00:00:01.5001", json!(1_500), true), ("24:00:00", json!(0), true)],
    );
    let stamp = ("long", Some("timestamp-millis"), "org.apache.kafka.connect.data.Timestamp");
    add(
        TimeMode::Connect,
        STAMP,
        stamp,
        &[
            ("1969-12-31 23:59:59.999", json!(-1), false),
            ("1969-12-31 23:59:59.9991", json!(-1), true),
            ("infinity", json!(9_223_372_036_825_200_i64), false),
        ],
    );

    let iso = |name| ("string", None, name);
    add(
        TimeMode::Isostring,
        DATE,
        iso("io.debezium.time.IsoDate"),
        &[
            ("2026-11-28", json!("2026-11-28Z"), false),
            ("0044-03-15 BC", json!("-0043-03-15Z"), false),
            ("12026-01-02", json!("+12026-01-02Z"), false),
            ("-infinity", Json::Null, true),
        ],
    );
    add(
        TimeMode::Isostring,
        TIME,
        iso("io.debezium.time.IsoTime"),
        &[
            ("12:34:56", json!("12:34:56Z"), false),
            ("12:34:56.78", json!("12:34:56.78Z"), false),
            ("24:00:00", json!("00:00:00Z"), true),
        ],
    );
    add(
        TimeMode::Isostring,
        STAMP,
        iso("io.debezium.time.IsoTimestamp"),
        &[
            ("2026-11-28 12:34:56.78", json!("2026-11-28T12:34:56.78Z"), false),
            ("4713-01-01 00:00:00 BC", json!("-4712-01-01T00:00:00Z"), false),
            ("294276-12-31 23:59:59.999999", json!("+294276-12-31T23:59:59.999999Z"), false),
            ("infinity", json!("+294247-01-10T04:00:25.200Z".replace(".200", ".2")), false),
            ("-infinity", json!("-290308-12-21T19:59:27.6Z"), false),
            ("294247-01-10 04:00:25.2", json!("+294247-01-10T04:00:25.2Z"), true),
        ],
    );
    cases
}

#[test]
fn times_have_debezium_s_form_and_come_back() {
    for Case { form, column: (oid, typmod, sql), text, schema, value, besides } in cases() {
        let mut pipe = Pipe::with_modes("p", Modes { time: form, ..Modes::default() });
        let columns = vec![column("id", 23, -1, "integer"), column("v", oid, typmod, sql)];
        let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
        let fields: Json = serde_json::from_str(plan.value_schema()).unwrap();
        let ty = &fields["fields"][0]["type"][1]["fields"][1]["type"][1];
        let logical = schema.1.map_or(Json::Null, |logical| json!(logical));
        assert_eq!((&ty["type"], &ty["logicalType"]), (&json!(schema.0), &logical), "{sql} as {form:?}");
        assert_eq!(ty["connect.name"], schema.2, "{sql} as {form:?}");
        apache_avro::Schema::parse_str(plan.value_schema()).unwrap();

        let record = pipe.encode(&plan, &RowChange::Insert(texts(&[Some("1"), Some(text)]))).unwrap().remove(0);
        let bytes = record.value.as_ref().unwrap();
        let read = oracle::read(&pipe.store.schema_of(bytes), bytes);
        assert_eq!(read["after"]["v"], value, "{text} as {form:?}");
        assert_eq!(record.header("walrelay.text").is_some(), besides, "{text} as {form:?}");
        let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
        assert_eq!(event.after.unwrap()[1], Cell::Text(text.into()), "{text} as {form:?}");
    }
}
