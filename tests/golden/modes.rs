//! Debezium's forms of values, against what Debezium wrote under each of its modes.

use std::{cell::RefCell, collections::BTreeSet};

use walrelay::{
    avro::content::{Content, OwnHeaders, Parameters, Tombstones, UnknownTypes},
    event::{Cell, Datum, RowChange},
    record::{Decoded, Encoder, EncoderSettings},
    types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, Placeholder, TimeMode},
};

use crate::{
    against_debezium::Case,
    differences::Differences,
    recorded::{Failures, Family, family as family_of, recorded_settings, recording},
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

/// What Debezium wrote of values beyond what their Avro types are for, under the modes that decide their form.
fn special_variants() -> Vec<(&'static str, EncoderSettings)> {
    let with = |name, modes| (name, EncoderSettings { modes, content: CONTENT, ..recorded_settings(name) });
    vec![
        with("special.plain", PLAIN),
        with(
            "special.connect",
            Modes { time: TimeMode::Connect, decimal: DecimalMode::Double, hstore: HstoreMode::Map, ..PLAIN },
        ),
        with(
            "special.isostring",
            Modes { time: TimeMode::Isostring, decimal: DecimalMode::String, binary: BinaryMode::Hex, ..PLAIN },
        ),
        with("special.microseconds", Modes { time: TimeMode::Microseconds, hstore: HstoreMode::Map, ..PLAIN }),
        with("special.nanoseconds", Modes { time: TimeMode::Nanoseconds, ..PLAIN }),
    ]
}

/// Tables of which Debezium writes nothing, since its task ends: a required field has no place for a value, or for a timestamp's
/// zero in nanoseconds at a delete.
const FATAL: [(&str, &str); 5] = [
    ("types.nanoseconds", "m_more"),
    ("special.plain", "s_numbers"),
    ("special.microseconds", "s_numbers"),
    ("special.nanoseconds", "s_numbers"),
    ("special.nanoseconds", "s_required"),
];

#[test]
fn values_have_the_form_that_debezium_gives_them_under_each_mode() {
    let (used, mut failures) = (RefCell::default(), Failures::default());
    for (family, variants) in [("types", variants()), ("special", special_variants())] {
        let family = family_of(family);
        for (name, settings) in variants {
            compare(&family, (name, &settings), &used, &mut failures);
        }
    }
    failures.finish();
    assert_eq!(used.into_inner(), BTreeSet::new(), "listed differences");
}

fn compare(
    family: &Family,
    (name, settings): (&str, &EncoderSettings),
    used: &RefCell<BTreeSet<&'static str>>,
    failures: &mut Failures,
) {
    let (recording, besides) = (recording(name), RefCell::default());
    for (table, described) in &family.tables {
        let topic = recording.topics.get(&format!("public.{table}"));
        let is_fatal = FATAL.contains(&(name, table));
        failures.gather(&format!("{name}, {table}"), || assert_eq!(topic.is_none(), is_fatal, "has no records"));
        let Some(topic) = topic else { continue };
        let case = Case {
            relation: &described.relation,
            changes: family.changes(table),
            variant: &topic.variant("Envelope"),
            settings: settings.clone(),
            differences: Differences::new(&described.relation, false, true, used),
            headers_with_schema: false,
            besides: Some(&besides),
        };
        failures.gather(&format!("{name}, {table}"), || case.run());
    }
    let besides = besides.into_inner();
    failures.gather(name, || assert!(besides.is_empty(), "other values for what travels besides: {besides:?}"));
}

/// Whatever the form loses travels besides.
#[test]
fn rows_come_back_under_each_mode() {
    for (family, variants) in [("types", variants()), ("special", special_variants())] {
        let family = family_of(family);
        for (name, settings) in variants {
            come_back(&family, name, &settings);
        }
    }
}

fn come_back(family: &Family, name: &str, settings: &EncoderSettings) {
    for (table, described) in &family.tables {
        let content = Content { unknown_types: UnknownTypes::Omitted, ..Content::default() };
        let settings = EncoderSettings { content, ..settings.clone() };
        let mut pipe = Pipe { encoder: Encoder::new(settings.clone()), ..Pipe::new("p") };
        let plan = pipe.plan(&described.relation);
        for change in family.changes(table).iter().flatten() {
            let (RowChange::Read(row) | RowChange::Insert(row) | RowChange::Update { new: row, .. }) = change else {
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

/// The items' type is named by the array's, in capitals.
#[test]
fn an_array_of_hstores_comes_back_by_debezium_s_parameters() {
    let (family, content) = (family_of("types"), Content { parameters: Parameters::SourceType, ..CONTENT });
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
