//! Debezium's own bytes, in every recording, through apply's decoder: each row comes back as the source's, less what Debezium has
//! lost under the variant's settings. What that is, `arrivals` says for each form.

use std::collections::{BTreeMap, BTreeSet};

use walrelay::{
    avro::wire,
    event::{Cell, ChangeEvent, Datum, OldTuple, Op, RowChange, Tuple},
    record::{DecodeError, Decoded, Decoder},
    schema::{Column, ReplicaIdentity},
    types::Placeholder,
};

use crate::{
    arrivals::{Arrival, Forms, expected, unsent, without_value},
    recorded::{Failures, Family, Recorded, Topic, bytes, family, recording},
    support::{MemoryStore, now},
};

const VARIANTS: [&str; 11] = [
    "defaults.connect",
    "defaults.forms",
    "defaults.plain",
    "defaults.unknown",
    "stream.plain",
    "stream.transactions",
    "types.adaptive_time_microseconds",
    "types.connect",
    "types.isostring",
    "types.microseconds",
    "types.nanoseconds",
];
const FLAT: [&str; 5] =
    ["flat.delete-to-tombstone", "flat.drop", "flat.rewrite", "flat.rewrite-with-tombstone", "flat.tombstone"];

/// Tables of which Debezium writes what no column has, with the reason.
const UNREADABLE: [(&str, &str, &str); 1] =
    [("defaults.forms", "d_infinite", "the text of an infinite date, as a default, is one of no calendar")];

/// Columns of types that are left out also where Debezium is to have those that it does not know.
const LEFT_OUT: [&str; 5] = ["aint", "am", "anm", "apt", "axml"];

/// What apply's decoder makes of a topic's records, in order.
fn decoded(topic: &Topic, placeholder: &str) -> Vec<Result<Decoded, DecodeError>> {
    let (store, mut ids) = (MemoryStore::default(), BTreeMap::new());
    for (id, schema) in &topic.schemas {
        // Not registered: one of them is no schema of Avro's.
        let mut known = store.0.lock().unwrap();
        known.push((id.clone(), schema.to_string()));
        ids.insert(id.parse::<u32>().unwrap(), u32::try_from(known.len()).unwrap());
    }
    let framed = |hex: &String| {
        let bytes = bytes(hex);
        let id = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        [&wire::prefix(ids[&id])[..], &bytes[5..]].concat()
    };
    let mut decoder = Decoder::with_placeholder(usize::MAX, Placeholder::new(placeholder).unwrap());
    let decode = |record: &Recorded| {
        let (key, value) = (record.key.as_ref().map(framed), record.value.as_ref().map(framed));
        let header = |(name, value): (&'_ String, &'_ serde_json::Value)| {
            Some((name.clone(), value.as_str()?.as_bytes().to_vec()))
        };
        let headers: Vec<_> = record.headers.iter().filter_map(header).collect();
        loop {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            match decoder.decode("t", key.as_deref(), value.as_deref(), headers, 0)? {
                Decoded::NeedsSchema(id) => now(decoder.fetch("t", id, &store))?,
                decoded => return Ok(decoded),
            }
        }
    };
    topic.records.iter().map(decode).collect()
}

/// An event as the source's log tells it: a moved key is a delete and a create.
struct Told {
    op: Op,
    before: Option<Tuple>,
    after: Option<Tuple>,
}

fn told(family: &Family, table: &str) -> Vec<Told> {
    let key = &family.tables[table].relation.key;
    let told = |op, before, after| Told { op, before, after };
    let each = |change| match change {
        None => vec![told(Op::Truncate, None, None)],
        Some(RowChange::Read(row)) => vec![told(Op::Read, None, Some(row))],
        Some(RowChange::Insert(row)) => vec![told(Op::Create, None, Some(row))],
        Some(RowChange::Delete(old)) => vec![told(Op::Delete, Some(old.tuple().clone()), None)],
        Some(RowChange::Update { old, new }) => {
            let old = old.as_ref().map(OldTuple::tuple).cloned();
            if old.as_ref().is_some_and(|old| key.iter().any(|index| old[*index] != new[*index])) {
                vec![told(Op::Delete, old, None), told(Op::Create, None, Some(new))]
            } else {
                vec![told(Op::Update, old, Some(new))]
            }
        }
    };
    family.changes(table).into_iter().flat_map(each).collect()
}

#[test]
fn rows_of_debezium_s_come_back_as_the_source_s_less_what_each_form_loses() {
    let mut failures = Failures::default();
    for name in VARIANTS {
        let (family, recording, forms) = (family(name.split('.').next().unwrap()), recording(name), Forms::of(name));
        for table in family.tables.keys() {
            if let Some(topic) = recording.topics.get(&format!("public.{table}")) {
                failures.gather(&format!("{name}, {table}"), || compare(&family, (name, table), topic, &forms));
            }
        }
    }
    failures.finish();
}

fn compare(family: &Family, (name, table): (&str, &str), topic: &Topic, forms: &Forms) {
    let records = decoded(topic, &forms.placeholder);
    if UNREADABLE.iter().any(|(variant, unreadable, _)| (*variant, *unreadable) == (name, table)) {
        assert!(records.iter().all(|record| matches!(record, Err(DecodeError::Render { .. }))), "{records:?}");
        return;
    }
    let events: Vec<ChangeEvent> = records
        .into_iter()
        .filter_map(|record| match record.unwrap() {
            Decoded::Event(event) => Some(event),
            other => {
                assert_eq!(other, Decoded::Nothing);
                None
            }
        })
        .collect();
    let mut told = told(family, table);
    if name != "stream.transactions" {
        // Debezium skips truncates unless it is told otherwise.
        told.retain(|told| told.op != Op::Truncate);
    }
    assert_eq!(
        told.iter().map(|told| told.op).collect::<Vec<_>>(),
        events.iter().map(|event| event.op).collect::<Vec<_>>()
    );
    let mut wrong = BTreeSet::new();
    for (told, event) in told.iter().zip(&events) {
        for (part, row, cells) in [("before", &told.before, &event.before), ("after", &told.after, &event.after)] {
            let (Some(row), Some(cells)) = (row, cells) else {
                assert_eq!(row.is_some(), cells.is_some(), "{part} of {:?}", told.op);
                continue;
            };
            let relation = &family.tables[table].relation;
            for (index, column) in relation.columns.iter().enumerate() {
                // Of a row before with a key alone the rest is nothing that was sent.
                let is_sent = part == "after" || relation.is_key(index) || relation.identity == ReplicaIdentity::Full;
                let Some(place) = event.shape.columns.iter().position(|known| known.name == column.name) else {
                    let is_left_out = !forms.unknown || LEFT_OUT.contains(&&*column.name);
                    assert!(is_left_out && !column.ty.is_known_to_debezium(), "{} is left out", column.name);
                    continue;
                };
                let arrives = arrival(column, &row[index], told.op, forms);
                if is_sent && !is_same(&arrives, &cells[place]) {
                    let sent = row[index].clone();
                    wrong.insert(format!("{part} {}: {sent:?}: {:?}, and not {arrives:?}", column.name, cells[place]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What arrives of what the server sent.
fn arrival(column: &Column, sent: &Datum, op: Op, forms: &Forms) -> Arrival {
    match sent {
        // A streamed name is never known to Debezium.
        Datum::Text(_) if column.ty.oid == 19 && op != Op::Read => (!column.nullable).then(String::new).into(),
        Datum::Text(text) => expected(&column.ty, std::str::from_utf8(text).unwrap(), forms),
        Datum::Null => without_value(column, forms),
        _ => unsent(&column.ty, forms),
    }
}

fn is_same(arrives: &Arrival, cell: &Cell) -> bool {
    let bits = |text: &str| text.parse::<f64>().map(f64::to_bits);
    match (arrives, cell) {
        (Arrival::Unchanged, Cell::Unchanged) | (Arrival::Null, Cell::Null) => true,
        (Arrival::Text(expected), Cell::Text(text)) => **text == *expected.as_bytes(),
        (Arrival::Double(number), Cell::Text(text)) => bits(number) == bits(std::str::from_utf8(text).unwrap()),
        _ => false,
    }
}

/// What lies beside rows changes none.
#[test]
fn messages_and_transactions_of_debezium_s_are_passed() {
    let recording = recording("stream.transactions");
    for topic in ["message", "transaction"] {
        let records = decoded(&recording.topics[topic], "-");
        assert!(
            !records.is_empty() && records.into_iter().all(|record| record.unwrap() == Decoded::Nothing),
            "{topic}"
        );
    }
}

#[test]
fn flat_records_of_debezium_s_are_refused() {
    for name in FLAT {
        let (family, recording) = (family("flat"), recording(name));
        let mut refused = 0;
        for table in family.tables.keys() {
            let topic = &recording.topics[&format!("public.{table}")];
            for (record, decoded) in topic.records.iter().zip(decoded(topic, "-")) {
                match decoded {
                    Ok(decoded) => assert!(record.value.is_none() && decoded == Decoded::Nothing, "{name}, {table}"),
                    Err(error) => {
                        assert!(
                            error.to_string().ends_with("is not a change event: it has no field before"),
                            "{error}"
                        );
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 5, "{name}");
    }
}
