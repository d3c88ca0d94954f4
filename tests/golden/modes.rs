//! Debezium's forms of values, against what Debezium wrote under each of its modes.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::{Value as Json, json};
use walrelay::{
    avro::content::{Content, OwnHeaders, Parameters, Tombstones},
    event::{Cell, Datum, RowChange},
    record::{Decoded, Encoder, EncoderSettings},
    types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, Placeholder, TimeMode},
};

use crate::{
    against_debezium::Case,
    differences::Differences,
    recorded::{Failures, family, recorded_settings, recording},
    support::Pipe,
};

/// Debezium's forms of what has no setting of its own there.
pub const PLAIN: Modes = Modes::DEBEZIUM;

/// What Debezium says around the values unless it is told otherwise, and what values lose.
pub const CONTENT: Content = Content { own_headers: OwnHeaders::Written, ..Content::DEBEZIUM };

/// A recording, and walrelay's form of the settings in its file.
fn variants() -> Vec<(&'static str, EncoderSettings)> {
    let with = |name, modes, content, placeholder| {
        let placeholder = Placeholder::new(placeholder).unwrap();
        (name, EncoderSettings { modes, content, placeholder, ..recorded_settings(name) })
    };
    let default = "__debezium_unavailable_value";
    vec![
        with(
            "types.connect",
            Modes {
                time: TimeMode::Connect,
                decimal: DecimalMode::Double,
                binary: BinaryMode::Base64,
                hstore: HstoreMode::Map,
                ..PLAIN
            },
            CONTENT,
            default,
        ),
        with(
            "types.isostring",
            Modes {
                time: TimeMode::Isostring,
                decimal: DecimalMode::String,
                interval: IntervalMode::String,
                binary: BinaryMode::Base64UrlSafe,
                ..PLAIN
            },
            Content { parameters: Parameters::SourceType, ..CONTENT },
            "not sent",
        ),
        with(
            "types.microseconds",
            Modes { time: TimeMode::Microseconds, binary: BinaryMode::Hex, hstore: HstoreMode::Map, ..PLAIN },
            Content { tombstones: Tombstones::Never, ..CONTENT },
            "hex:00ff10",
        ),
        with("types.nanoseconds", Modes { time: TimeMode::Nanoseconds, ..PLAIN }, CONTENT, default),
        with(
            "types.adaptive_time_microseconds",
            Modes {
                time: TimeMode::AdaptiveTimeMicroseconds,
                decimal: DecimalMode::String,
                hstore: HstoreMode::Map,
                ..PLAIN
            },
            CONTENT,
            "hex:00ff10",
        ),
    ]
}

/// Columns in which some value of a recording is another one for what travels in `walrelay.text`.
const BESIDES: [(&str, &[&str]); 5] = [
    ("types.connect", &["t_time.t", "t_time.t0", "t_time.t3"]),
    ("types.isostring", &["t_date.d"]),
    ("types.microseconds", &[]),
    ("types.nanoseconds", &[]),
    ("types.adaptive_time_microseconds", &[]),
];

#[test]
fn values_have_the_form_that_debezium_gives_them_under_each_mode() {
    let (family, used, mut failures) = (family("types"), RefCell::default(), Failures::default());
    for (name, settings) in variants() {
        let (recording, besides) = (recording(name), RefCell::default());
        for (table, described) in &family.tables {
            // Arrays of maps are none to walrelay: they go as text.
            let is_map = table == "m_hstores" && settings.modes.hstore == HstoreMode::Map;
            // Under nanoseconds Debezium's task ends at a delete where a timestamp is NOT NULL.
            let is_fatal = table == "m_more" && settings.modes.time == TimeMode::Nanoseconds;
            if is_map || is_fatal {
                continue;
            }
            let topic = &recording.topics[&format!("public.{table}")];
            let mut variant = topic.variant("Envelope");
            if table == "m_array" {
                keep_microseconds(&mut variant.events[0].value["after"]["ati"][0]);
            }
            let case = Case {
                relation: &described.relation,
                changes: family.changes(table),
                variant: &variant,
                settings: settings.clone(),
                differences: Differences::new(&described.relation, false, true, &used),
                headers_with_schema: false,
                besides: Some(&besides),
            };
            failures.gather(&format!("{name}, {table}"), || case.run());
        }
        let listed = BESIDES.iter().find(|(listed, _)| *listed == name).unwrap().1;
        let listed = listed.iter().map(|column| (*column).to_owned()).collect::<BTreeSet<_>>();
        failures.gather(name, || assert_eq!(besides.into_inner(), listed, "columns with values that travel besides"));
    }
    failures.finish();
    assert_eq!(used.into_inner(), BTreeSet::new(), "listed differences");
}

/// Debezium reads the items of a `time[]` through Java's `Time`, which has milliseconds.
fn keep_microseconds(time: &mut Json) {
    *time = match time.as_i64() {
        None if *time == "12:34:56.789Z" => json!("12:34:56.789012Z"),
        Some(45_296_789_000) => json!(45_296_789_012_i64),
        Some(45_296_789_000_000) => json!(45_296_789_012_000_i64),
        // Kafka Connect's type has no more either.
        Some(45_296_789) => return,
        _ => panic!("{time}"),
    };
}

/// Whatever the form loses travels besides.
#[test]
fn rows_come_back_under_each_mode() {
    let family = family("types");
    for (name, settings) in variants() {
        for (table, described) in &family.tables {
            let settings = EncoderSettings { content: Content::default(), ..settings.clone() };
            let mut pipe = Pipe { encoder: Encoder::new(settings.clone()), ..Pipe::new("p") };
            let plan = pipe.plan(&described.relation);
            for change in family.changes(table).iter().flatten() {
                let (RowChange::Read(row) | RowChange::Insert(row) | RowChange::Update { new: row, .. }) = change
                else {
                    continue;
                };
                for record in pipe.encode(&plan, change).unwrap() {
                    let Decoded::Event(event) = pipe.decode(plan.topic(), &record).unwrap() else { continue };
                    for (index, cell) in event.after.iter().flatten().enumerate() {
                        let column = &described.relation.columns[index];
                        let back = match cell {
                            Cell::Null => Datum::Null,
                            Cell::Unchanged => Datum::Unchanged,
                            Cell::Text(text) => Datum::Text(text.to_vec().into()),
                        };
                        // Another text of the same value: ISO 8601, digits alone, and 1.1 in a column of two digits.
                        let has_other_text = match column.ty.oid {
                            1186 | 790 => true,
                            1231 => settings.modes.decimal == DecimalMode::Double,
                            1700 => settings.modes.decimal == DecimalMode::Double && column.ty.typmod >= 0,
                            _ => false,
                        };
                        if !has_other_text {
                            assert_eq!(back, row[index], "{table}.{} under {name}", column.name);
                        }
                    }
                }
            }
        }
    }
}

/// The items' type is named by the array's, in capitals.
#[test]
fn an_array_of_hstores_comes_back_by_debezium_s_parameters() {
    let (family, content) = (family("types"), Content { parameters: Parameters::SourceType, ..CONTENT });
    let mut pipe = Pipe::with_forms("p", PLAIN, content);
    let plan = pipe.plan(&family.tables["m_hstores"].relation);
    for change in family.changes("m_hstores").iter().flatten() {
        let RowChange::Read(row) = change else { panic!("{change:?}") };
        let record = pipe.encode(&plan, change).unwrap().remove(0);
        let Decoded::Event(event) = pipe.decode(plan.topic(), &record).unwrap() else { panic!("no event") };
        let sent = match &row[1] {
            Datum::Text(text) => Cell::Text(std::str::from_utf8(text).unwrap().into()),
            _ => Cell::Null,
        };
        assert_eq!(event.after.unwrap()[1], sent);
    }
}
