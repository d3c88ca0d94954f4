//! Text → Avro → text for generated values of every family, with apache-avro reading the bytes in between.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use proptest::prelude::*;
use serde_json::json;
use walrelay::{
    event::{Cell, RowChange},
    record::{Decoded, Plan},
    schema::{Column, ReplicaIdentity},
};

use crate::{
    oracle,
    support::{Pipe, column, relation, texts},
};

/// Pipes by type and modifier.
type Pipes = HashMap<(u32, i32), (Pipe, Arc<Plan>)>;

thread_local! {
    static PIPES: RefCell<Pipes> = RefCell::default();
}

/// The text that comes back for a column's text, and whether it had to travel in a header.
fn round_trip(column: &Column, text: &str) -> (String, bool) {
    PIPES.with_borrow_mut(|pipes| {
        let (pipe, plan) = pipes.entry((column.ty.oid, column.ty.typmod)).or_insert_with(|| {
            let mut pipe = Pipe::new("p");
            let id = self::column("id", 23, -1, "integer");
            let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, vec![id, column.clone()]));
            (pipe, plan)
        });
        through(pipe, plan, column, text)
    })
}

fn through(pipe: &mut Pipe, plan: &Plan, column: &Column, text: &str) -> (String, bool) {
    let record = pipe.encode(plan, &RowChange::Insert(texts(&[Some("1"), Some(text)]))).unwrap().remove(0);
    let value = record.value.as_ref().unwrap();
    let read = oracle::read(&pipe.store.schema_of(value), value);
    let in_header = record.header("walrelay.text").is_some();
    assert_eq!(read["after"]["v"].is_null(), in_header, "{text:?} is both or neither in Avro and header");
    let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
    assert_eq!(event.shape.columns[1].type_sql, column.ty.sql);
    match &event.after.unwrap()[1] {
        Cell::Text(text) => (std::str::from_utf8(text).unwrap().to_owned(), in_header),
        cell => panic!("{text:?} became {cell:?}"),
    }
}

/// A column `v`.
fn v(oid: u32, typmod: i32, sql: &str) -> Column {
    column("v", oid, typmod, sql)
}

/// That exactly this text comes back out of Avro itself.
fn exact(column: &Column, text: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(round_trip(column, text), (text.to_owned(), false));
    Ok(())
}

/// That exactly this text comes back, out of the header.
fn through_header(column: &Column, text: &str) {
    assert_eq!(round_trip(column, text), (text.to_owned(), true));
}

const fn numeric(precision: i32, scale: i32) -> i32 {
    (precision << 16 | scale & 0x7FF) + 4
}

/// A fraction as PostgreSQL writes it: none, or no zero at its end.
fn fraction(digits: usize) -> impl Strategy<Value = String> {
    let last = if digits == 0 { "" } else { "[1-9]" };
    let some = prop::string::string_regex(&format!("[0-9]{{0,{}}}{last}", digits.saturating_sub(1))).unwrap();
    (some, any::<bool>())
        .prop_map(move |(fraction, none)| if none || digits == 0 { String::new() } else { format!(".{fraction}") })
}

fn date(years: std::ops::Range<i32>) -> impl Strategy<Value = (String, &'static str)> {
    (years, 1..=12, 1..=28).prop_map(|(year, month, day)| {
        let (year, era) = if year <= 0 { (1 - year, " BC") } else { (year, "") };
        (format!("{year:04}-{month:02}-{day:02}"), era)
    })
}

fn clock(digits: usize) -> impl Strategy<Value = String> {
    (0..24, 0..60, 0..60, fraction(digits)).prop_map(|(h, m, s, f)| format!("{h:02}:{m:02}:{s:02}{f}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn integers(i2: i16, i4: i32, i8: i64) {
        exact(&v(21, -1, "smallint"), &i2.to_string())?;
        exact(&v(23, -1, "integer"), &i4.to_string())?;
        exact(&v(20, -1, "bigint"), &i8.to_string())?;
    }

    #[test]
    fn floats_by_value(bits: u32, wide: u64) {
        let (narrow, wide) = (f32::from_bits(bits), f64::from_bits(wide));
        let (back, _) = round_trip(&v(700, -1, "real"), &pg_float(&format!("{narrow:e}")));
        let back: f32 = back.parse().unwrap();
        prop_assert!(back.to_bits() == narrow.to_bits() || back.is_nan() && narrow.is_nan());
        let (back, _) = round_trip(&v(701, -1, "double precision"), &pg_float(&format!("{wide:e}")));
        let back: f64 = back.parse().unwrap();
        prop_assert!(back.to_bits() == wide.to_bits() || back.is_nan() && wide.is_nan());
    }

    // trap T44
    #[test]
    fn numerics_keep_every_digit_and_their_scale(sign in "-?", whole in "0|[1-9][0-9]{0,70}", fraction in "(\\.[0-9]{0,40}[1-9]0{0,3})?") {
        prop_assume!(sign.is_empty() || whole != "0" || !fraction.is_empty());
        exact(&v(1700, -1, "numeric"), &format!("{sign}{whole}{fraction}"))?;
    }

    #[test]
    fn numerics_of_a_declared_scale(sign in "-?", whole in "[1-9][0-9]{0,7}", fraction in "[0-9]{2}", long in "[1-9][0-9]{39}") {
        exact(&v(1700, numeric(10, 2), "numeric(10,2)"), &format!("{sign}{whole}.{fraction}"))?;
        exact(&v(1700, numeric(10, 2), "numeric(10,2)"), &format!("0.{fraction}"))?;
        exact(&v(1700, numeric(4, 5), "numeric(4,5)"), &format!("{sign}0.0{fraction}11"))?;
        exact(&v(1700, numeric(3, -2), "numeric(3,-2)"), &format!("{sign}{}00", &whole[..1]))?;
        exact(&v(1700, numeric(60, 2), "numeric(60,2)"), &format!("{sign}{long}.{fraction}"))?;
    }

    #[test]
    fn texts_byte_for_byte(text: String, quoted in "[\"\\\\{}:,\u{0}\u{1}é😀]*") {
        for text in [text, quoted] {
            exact(&v(25, -1, "text"), &text)?;
            exact(&v(1043, 24, "character varying(20)"), &text)?;
            exact(&v(114, -1, "json"), &text)?;
            exact(&v(3802, -1, "jsonb"), &text)?;
            exact(&v(16_999, -1, "public.unknown"), &text)?;
            exact(&v(1042, 9, "character(5)"), &format!("{text}  "))?;
        }
    }

    #[test]
    fn bytes(bytes: Vec<u8>) {
        exact(&v(17, -1, "bytea"), &format!("\\x{}", oracle::hex(&bytes)))?;
    }

    #[test]
    fn uuids(bits: u128) {
        let hex = format!("{bits:032x}");
        let text = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        exact(&v(2950, -1, "uuid"), &text)?;
    }

    // trap T43
    #[test]
    fn dates_of_all_years((date, era) in date(-4_712..5_874_897)) {
        exact(&v(1082, -1, "date"), &format!("{date}{era}"))?;
    }

    #[test]
    fn times(time in clock(6), short in clock(3), whole in clock(0)) {
        exact(&v(1083, -1, "time without time zone"), &time)?;
        exact(&v(1083, 3, "time(3) without time zone"), &short)?;
        exact(&v(1083, 0, "time(0) without time zone"), &whole)?;
    }

    // trap T43
    #[test]
    fn timestamps_of_all_years((date, era) in date(-4_712..294_246), time in clock(6), short in clock(3)) {
        exact(&v(1114, -1, "timestamp without time zone"), &format!("{date} {time}{era}"))?;
        exact(&v(1114, 3, "timestamp(3) without time zone"), &format!("{date} {short}{era}"))?;
        exact(&v(1184, -1, "timestamp with time zone"), &format!("{date} {time}+00{era}"))?;
        exact(&v(1184, 3, "timestamp(3) with time zone"), &format!("{date} {short}+00{era}"))?;
    }

    /// Years whose microseconds overflow a long: in Avro or in the header, never wrapped.
    #[test]
    fn the_last_years_of_timestamps((date, era) in date(294_246..294_277), time in clock(6)) {
        let text = format!("{date} {time}{era}");
        prop_assert_eq!(round_trip(&v(1114, -1, "timestamp without time zone"), &text).0, text);
        exact(&v(1184, -1, "timestamp with time zone"), &format!("{date} {time}+00{era}"))?;
    }

    /// Whatever a type's text is, it comes back: at worst in the header.
    #[test]
    fn no_text_is_lost_or_panics(text in "\\PC{0,12}|[-0-9:. TZ+a-z]{0,30}") {
        for (oid, typmod) in [(16, -2), (21, -2), (20, -2), (17, -2), (1082, -2), (1083, 2), (1083, -2)] {
            let (back, in_header) = round_trip(&v(oid, typmod, "any"), &text);
            if in_header {
                prop_assert_eq!(back, text.as_str());
            }
        }
        for (oid, typmod) in [(700, -2), (701, -2), (1700, -2), (1700, numeric(8, 3)), (1114, 0), (1114, -2), (1184, 1)] {
            let (back, in_header) = round_trip(&v(oid, typmod, "any"), &text);
            if in_header {
                prop_assert_eq!(back, text.as_str());
            }
        }
    }
}

/// Rust's `inf` and exponents as PostgreSQL writes them.
fn pg_float(text: &str) -> String {
    text.replace("inf", "Infinity")
}

#[test]
fn values_that_their_avro_type_cannot_hold_travel_as_text() {
    // traps T43, T44
    for text in ["NaN", "Infinity", "-Infinity"] {
        through_header(&v(1700, -1, "numeric"), text);
        through_header(&v(1700, numeric(10, 2), "numeric(10,2)"), text);
    }
    through_header(&v(1082, -1, "date"), "infinity");
    through_header(&v(1082, -1, "date"), "-infinity");
    // Exactly Debezium's sentinels for the infinities.
    through_header(&v(1114, -1, "timestamp without time zone"), "294247-01-10 04:00:25.2");
    through_header(&v(1114, 3, "timestamp(3) without time zone"), "294247-01-10 04:00:25.2");
}

#[test]
fn infinite_timestamps_are_debezium_s_sentinels() {
    for (typmod, sql) in [(-1, "timestamp without time zone"), (3, "timestamp(3) without time zone")] {
        exact(&v(1114, typmod, sql), "infinity").unwrap();
        exact(&v(1114, typmod, sql), "-infinity").unwrap();
    }
    exact(&v(1184, -1, "timestamp with time zone"), "infinity").unwrap();
    exact(&v(1184, -1, "timestamp with time zone"), "-infinity").unwrap();
}

#[test]
fn the_end_of_the_day_and_booleans() {
    exact(&v(1083, -1, "time without time zone"), "24:00:00").unwrap();
    exact(&v(1083, 0, "time(0) without time zone"), "24:00:00").unwrap();
    exact(&v(16, -1, "boolean"), "t").unwrap();
    exact(&v(16, -1, "boolean"), "f").unwrap();
}

#[test]
fn offsets_are_brought_to_utc() {
    let zoned = |text| round_trip(&v(1184, -1, "timestamp with time zone"), text).0;
    assert_eq!(zoned("2024-02-29 12:34:56.5+05:30"), "2024-02-29 07:04:56.5+00");
    assert_eq!(zoned("2024-03-01 00:10:00-00:44:30"), "2024-03-01 00:54:30+00");
}

#[test]
fn text_that_is_not_utf8_is_an_error_that_names_the_column() {
    // trap T46
    let mut pipe = Pipe::new("p");
    let relation = relation(ReplicaIdentity::Default, 1, vec![column("id", 23, -1, "integer"), v(25, -1, "text")]);
    let plan = pipe.plan(&relation);
    let mut row = texts(&[Some("1"), None]);
    row[1] = walrelay::event::Datum::Text(bytes::Bytes::from_static(&[b'a', 0xFF]));
    let error = pipe.encode(&plan, &RowChange::Insert(row)).unwrap_err();
    assert_eq!(error.to_string(), "column v (text) of table public.t holds text that is not UTF-8");
}

#[test]
fn several_numerics_share_one_record_definition() {
    let mut pipe = Pipe::new("p");
    let columns = vec![v(1700, -1, "numeric"), column("w", 1700, -1, "numeric")];
    let plan = pipe.plan(&relation(ReplicaIdentity::Default, 1, columns));
    let record = pipe.encode(&plan, &RowChange::Insert(texts(&[Some("1.50"), Some("-2")]))).unwrap().remove(0);
    let value = record.value.as_ref().unwrap();
    let read = oracle::read(&pipe.store.schema_of(value), value);
    assert_eq!(read["after"]["v"], json!({"scale": 2, "value": {"$bytes": "0096"}}));
    let Decoded::Event(event) = pipe.decode("p.public.t", &record).unwrap() else { panic!("no event") };
    let types: Vec<_> = event.shape.columns.iter().map(|column| &*column.type_sql).collect();
    assert_eq!(types, ["numeric", "numeric"]);
    assert_eq!(event.after.unwrap(), ["1.50", "-2"].map(|text| Cell::Text(text.into())));
}
