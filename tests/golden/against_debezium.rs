//! The same relations and changes as Debezium read, fed to the encoder: schemas, keys, contents and headers must be equal but
//! for the listed differences.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::{Map, Value as Json};
use walrelay::{
    avro::content::{
        ColumnDefaults, Content, HeaderConverter, Nullability, OwnHeaders, Parameters, TotalOrder, TransactionBlock,
        TransactionId, Truncates, UnknownTypes,
    },
    event::{Barrier, Cell, Datum, EventMeta, RecordBuf, RowChange, SnapshotMark, TransactionMeta},
    lsn::Lsn,
    record::{Decoded, Encoder, EncoderSettings, LogicalMessage},
    schema::Relation,
    types::{DecimalMode, IntervalMode, Modes, SpecialValues, TimetzMode, TrailingZeros},
};

use crate::{
    differences::{self, Differences},
    oracle,
    support::{Golden, GoldenEvent, Owned, Pipe, Variant, change, data, golden, now, settings, tuple},
};

pub use crate::differences::TABLES;

#[test]
fn records_equal_debezium_s_but_for_the_listed_differences() {
    let all = differences::ALL.map(|(name, _)| name);
    for (compatible, listed) in [(false, BTreeSet::from(all)), (true, BTreeSet::from(differences::COMPATIBLE))] {
        let used = RefCell::default();
        for table in TABLES {
            let golden = golden(table);
            compare(&golden, &golden.lossless, true, compatible, &used);
            compare(&golden, &golden.default, false, compatible, &used);
        }
        assert_eq!(used.into_inner(), listed, "a listed difference does not occur any longer");
    }
}

fn compare(
    golden: &Golden,
    variant: &Variant,
    lossless: bool,
    compatible: bool,
    used: &RefCell<BTreeSet<&'static str>>,
) {
    let debezium = Content {
        header_converter: if lossless { HeaderConverter::Json } else { HeaderConverter::Simple },
        parameters: if lossless { Parameters::SourceType } else { Parameters::None },
        transaction: if lossless { TransactionBlock::Streamed } else { TransactionBlock::None },
        unknown_types: if lossless { UnknownTypes::Text } else { UnknownTypes::Omitted },
        ..Content::DEBEZIUM
    };
    let content = if compatible { debezium } else { Content::default() };
    let truncates = match lossless {
        true if compatible => Truncates::Single,
        true => Truncates::Broadcast,
        false => Truncates::Skipped,
    };
    let (prefix, modes) = if lossless {
        ("glossless", Modes { decimal: DecimalMode::String, ..Modes::default() })
    } else {
        ("gdefault", Modes { interval: IntervalMode::Numeric, ..Modes::default() })
    };
    let Modes { trailing_zeros, timetz, special_values, .. } = Modes::DEBEZIUM;
    let exact = Modes { trailing_zeros, timetz, special_values, ..modes };
    let modes = if compatible { exact } else { modes };
    let snapshot = golden.snapshot.iter().map(|row| Some(RowChange::Read(tuple(row))));
    let streamed = golden.operations.iter().map(|operation| change(operation, golden.relation.identity));
    let case = Case {
        relation: &golden.relation,
        changes: snapshot.chain(streamed).collect(),
        variant,
        settings: EncoderSettings { modes, content: Content { truncates, ..content }, ..settings(prefix) },
        differences: Differences::new(&golden.relation, lossless, compatible, used),
        headers_with_schema: lossless,
        besides: None,
    };
    case.run();
}

/// One table's changes, and what Debezium made of them under some settings.
pub struct Case<'a> {
    pub relation: &'a Relation,
    /// `None` is a truncate.
    pub changes: Vec<Option<RowChange>>,
    pub variant: &'a Variant,
    /// walrelay's form of the same settings.
    pub settings: EncoderSettings,
    pub differences: Differences<'a>,
    /// Whether Debezium's headers that hold a key have its schema beside it.
    pub headers_with_schema: bool,
    /// Where what travels in `walrelay.text` is no listed difference: columns whose value differs from Debezium's for it.
    pub besides: Option<&'a RefCell<BTreeSet<String>>>,
}

impl Case<'_> {
    /// Fails at the first difference that is not listed.
    pub fn run(&self) {
        let Self { relation, variant, settings, differences, .. } = self;
        let (table, content) = (&relation.name.table, settings.content);
        let mut pipe = Pipe { encoder: Encoder::new(settings.clone()), ..Pipe::new(&settings.prefix) };
        let plan = pipe.plan(relation);

        let ours = plan.key_schema().map_or(Json::Null, |schema| serde_json::from_str(schema).unwrap());
        assert_same(&ours, &variant.key, &format!("key schema of {table}"));
        let (theirs, ours) = differences.schemas(variant.value.clone(), self.value_schema());
        assert_same(&ours, &theirs, &format!("value schema of {table}"));

        let mut expected = variant.events.iter();
        for (number, change) in self.changes.iter().enumerate() {
            if change.is_none() && content.truncates == Truncates::Skipped {
                continue;
            }
            let first =
                expected.as_slice().first().unwrap_or_else(|| panic!("{table} has no event for change {number}"));
            let (mut meta, event) = metadata(first);
            if content.transaction_id == TransactionId::Event {
                // Nothing but the event's own LSN is in Debezium's ids.
                meta.commit = Lsn(7);
            }
            let mut out = RecordBuf::default();
            match change {
                Some(change) => drop(pipe.encoder.encode(&plan, &meta, event, change, &mut out).unwrap()),
                None => pipe.encoder.encode_truncate(&plan, &meta, event, Some(&Barrier::default()), 0, &mut out),
            }
            for record in out.iter().map(Owned::from) {
                let theirs = expected.next().unwrap_or_else(|| panic!("Debezium has fewer records for {table}"));
                self.compare_record(&pipe, &record, theirs, &format!("{table}, change {number}"));
                compare_context(&record, &settings.prefix, content.context_headers);
                let exact = content.own_headers == OwnHeaders::LeftOut;
                assert!(!exact || has_debezium_s_headers(&record, theirs), "headers of {table}, change {number}");
            }
        }
        assert_eq!(expected.count(), 0, "Debezium has more records for {table}");
    }

    /// The schema of records without walrelay's headers, unless it tells what they hold.
    fn value_schema(&self) -> Json {
        let mut settings = self.settings.clone();
        if settings.content.parameters != Parameters::All {
            settings.content.own_headers = OwnHeaders::LeftOut;
        }
        let mut pipe = Pipe { encoder: Encoder::new(settings), ..Pipe::new(&self.settings.prefix) };
        serde_json::from_str(pipe.plan(self.relation).value_schema()).unwrap()
    }

    fn compare_record(&self, pipe: &Pipe, ours: &Owned, theirs: &GoldenEvent, what: &str) {
        let differences = &self.differences;
        let key = ours.key.as_ref().map_or(Json::Null, |key| oracle::read(&pipe.store.schema_of(key), key));
        assert_eq!(key, theirs.key, "key of {what}");
        let body = ours.key.as_ref().map(|key| oracle::hex(&key[5..]));
        assert_eq!(body.as_deref(), theirs.key_hex.as_ref().map(|hex| &hex[10..]), "key bytes of {what}");
        let mut texts = Map::new();
        let Some(value) = &ours.value else {
            assert!(theirs.value.is_null(), "{what} has a tombstone too many");
            assert_eq!(theirs.key_hex.is_none(), ours.key.is_none(), "tombstone of {what}");
            compare_headers(ours, theirs, &texts, self.headers_with_schema, what);
            return;
        };
        let value = oracle::read(&pipe.store.schema_of(value), value);
        let mut expected = theirs.value.clone();
        for (part, is_delete) in [("before", theirs.value["op"] == "d"), ("after", false)] {
            let is_key_only = is_delete && differences.is_key_identity();
            let part_texts = match self.besides {
                None => differences.row(&mut expected[part], is_key_only),
                Some(noted) => self.besides(ours, part, &value[part], &mut expected[part], noted),
            };
            if !part_texts.is_empty() {
                texts.insert(part.into(), Json::Object(part_texts));
            }
        }
        differences.transaction(&mut expected["transaction"], &value["transaction"], expected_is_snapshot(theirs));
        // Halves of a key move are processed at the same time here; Debezium takes the time of each.
        for field in ["ts_ms", "ts_us", "ts_ns"] {
            assert!(value[field].is_i64(), "{field} of {what}");
            expected[field] = value[field].clone();
        }
        assert_same(&value, &expected, what);
        compare_headers(ours, theirs, &texts, self.headers_with_schema, what);
    }
}

/// What Debezium says of its event, so that only contents can differ.
pub fn metadata(golden: &GoldenEvent) -> (TransactionMeta, EventMeta) {
    let (source, transaction) = (&golden.value["source"], &golden.value["transaction"]);
    let sequence: Vec<Option<String>> = serde_json::from_str(source["sequence"].as_str().unwrap()).unwrap();
    let number = |json: &Json| json.as_i64().unwrap();
    let lsn = Lsn(number(&source["lsn"]).cast_unsigned());
    let order = |name: &str| transaction[name].as_u64();
    let is_snapshot = golden.value["op"] == "r";
    let meta = TransactionMeta {
        xid: source["txId"].as_u64().map(|xid| u32::try_from(xid).unwrap()),
        commit: lsn,
        commit_us: number(&source["ts_us"]),
        previous_commit: sequence[0].as_ref().map(|lsn| Lsn(lsn.parse().unwrap())),
        ..TransactionMeta::default()
    };
    let snapshot = [
        SnapshotMark::False,
        SnapshotMark::First,
        SnapshotMark::FirstInCollection,
        SnapshotMark::True,
        SnapshotMark::LastInCollection,
        SnapshotMark::Last,
    ];
    let event = EventMeta {
        ordinal: order("total_order").unwrap_or(u64::from(!is_snapshot)),
        total_order: order("total_order").unwrap_or(u64::from(!is_snapshot)),
        collection_order: order("data_collection_order").unwrap_or(u64::from(!is_snapshot)),
        lsn,
        processed_ns: golden.value["ts_ns"].as_i64().unwrap_or_default(),
        snapshot: snapshot.into_iter().find(|mark| source["snapshot"] == mark.as_str()).unwrap(),
        backfilling: false,
        resync: None,
    };
    (meta, event)
}

impl Case<'_> {
    /// What travels besides, which the decoder's tests judge; values that differ from Debezium's for it become ours.
    fn besides(
        &self,
        record: &Owned,
        part: &str,
        ours: &Json,
        theirs: &mut Json,
        noted: &RefCell<BTreeSet<String>>,
    ) -> Map<String, Json> {
        let texts = record.header("walrelay.text").map_or(Json::Null, |text| serde_json::from_str(text).unwrap());
        let texts = texts[part].as_object().cloned().unwrap_or_default();
        for column in texts.keys().map(String::as_str) {
            if ours[column] != theirs[column] {
                noted.borrow_mut().insert(format!("{}.{column}", self.relation.name.table));
                theirs[column] = ours[column].clone();
            }
        }
        texts
    }
}

/// No others, but for those of the context, which the golden files leave out.
fn has_debezium_s_headers(ours: &Owned, theirs: &GoldenEvent) -> bool {
    let own = ours.headers.iter().map(|(name, _)| name).filter(|name| !name.starts_with("__debezium.context."));
    own.eq(theirs.headers.keys().filter(|name| !name.starts_with("__debezium.context.")))
}

/// Debezium's settings make these; the golden files leave them out. The lossless configuration's converter writes them as
/// JSON with a schema, the default one plainly.
fn compare_context(ours: &Owned, prefix: &str, compatible: bool) {
    let context = ours.headers.iter().filter_map(|(name, value)| {
        Some((name.strip_prefix("__debezium.context.")?, std::str::from_utf8(value).unwrap()))
    });
    let context: Vec<_> = context.collect();
    if !compatible {
        assert!(context.is_empty(), "{context:?}");
        return;
    }
    let [name, task, connector, (run, id)] = context[..] else { panic!("{context:?}") };
    assert_eq!(name, ("connectorLogicalName", prefix));
    assert_eq!((task, connector), (("taskId", "0"), ("connectorName", "postgresql")));
    assert!(run == "runId" && id.len() == 36 && id.as_bytes()[14] == b'4', "{run} {id}");
}

fn expected_is_snapshot(theirs: &GoldenEvent) -> bool {
    theirs.value["op"] == "r"
}

fn compare_headers(ours: &Owned, theirs: &GoldenEvent, texts: &Map<String, Json>, with_schema: bool, what: &str) {
    for name in ["__debezium.newkey", "__debezium.oldkey"] {
        let theirs = theirs.headers.get(name).map(|text| {
            let text = text.as_str().unwrap();
            if with_schema {
                serde_json::from_str::<Json>(text).unwrap()["payload"].to_string()
            } else {
                text.to_owned()
            }
        });
        assert_eq!(ours.header(name), theirs.as_deref(), "{name} of {what}");
    }
    let ours = ours.header("walrelay.text").map(|text| serde_json::from_str::<Json>(text).unwrap());
    let texts = (!texts.is_empty()).then(|| Json::Object(texts.clone()));
    assert_eq!(ours, texts, "walrelay.text of {what}");
}

/// Equal down to the order of attributes; names the first line that is not.
pub fn assert_same(ours: &Json, theirs: &Json, what: &str) {
    let [ours, theirs] = [ours, theirs].map(|json| serde_json::to_string_pretty(json).unwrap());
    for (number, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(ours, theirs, "line {number} of {what}");
    }
    assert_eq!(ours.lines().count(), theirs.lines().count(), "lines of {what}");
}

#[test]
fn logical_messages_equal_debezium_s() {
    #[derive(serde::Deserialize)]
    struct Messages {
        key: Json,
        value: Json,
        events: Vec<Json>,
    }
    let golden: Messages = serde_json::from_str(&data("message")).unwrap();
    let mut pipe = Pipe::new("glossless");
    let plan = now(pipe.encoder.prepare_messages(&pipe.store)).unwrap();
    assert_eq!(&**plan.topic(), "glossless.message");
    let registered = pipe.store.0.lock().unwrap().clone();
    for ((subject, ours), (part, theirs)) in registered.iter().zip([("key", golden.key), ("value", golden.value)]) {
        assert_eq!(*subject, format!("glossless.message-{part}"));
        assert_same(&serde_json::from_str(ours).unwrap(), &theirs, part);
    }
    for theirs in golden.events {
        let hex = theirs["value"]["message"]["content"]["$bytes"].as_str().unwrap();
        let content: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let transactional = !theirs["value"]["transaction"].is_null();
        let prefix = theirs["key"]["prefix"].as_str().unwrap();
        let message = LogicalMessage { prefix, content: &content, transactional };
        let event = GoldenEvent { key: Json::Null, key_hex: None, value: theirs["value"].clone(), headers: Map::new() };
        let (meta, mut event) = metadata(&event);
        event.processed_ns = theirs["value"]["ts_ms"].as_i64().unwrap() * 1_000_000;
        let mut out = RecordBuf::default();
        pipe.encoder.encode_message(&plan, &meta, event, &message, &mut out);
        let record = Owned::from(out.iter().next().unwrap());
        // Byte for byte, behind the schema ids.
        assert_eq!(oracle::hex(&record.key.as_ref().unwrap()[5..]), theirs["key_hex"].as_str().unwrap()[10..]);
        assert_eq!(oracle::hex(&record.value.as_ref().unwrap()[5..]), theirs["value_hex"].as_str().unwrap()[10..]);
        let decoded = pipe.decode("glossless.message", &record).unwrap();
        assert_eq!(decoded, Decoded::Nothing);
    }
}

#[test]
fn every_row_comes_back_as_postgresql_wrote_it() {
    let debezium = Content {
        nullability: Nullability::Source,
        context_headers: true,
        transaction_id: TransactionId::Event,
        column_defaults: ColumnDefaults::Source,
        total_order: TotalOrder::Published,
        ..Content::default()
    };
    let (lossless, default) = (
        Content { parameters: Parameters::SourceType, transaction: TransactionBlock::Streamed, ..debezium },
        Content { parameters: Parameters::None, transaction: TransactionBlock::None, ..debezium },
    );
    let lossy = Modes {
        trailing_zeros: TrailingZeros::Dropped,
        timetz: TimetzMode::Utc,
        special_values: SpecialValues::Debezium,
        ..Modes::default()
    };
    let (strings, numeric) =
        (Modes { decimal: DecimalMode::String, ..lossy }, Modes { interval: IntervalMode::Numeric, ..lossy });
    for table in TABLES {
        for (modes, content) in [(Modes::default(), Content::default()), (strings, lossless), (numeric, default)] {
            comes_back(&golden(table), modes, content);
        }
    }
}

fn comes_back(golden: &Golden, modes: Modes, content: Content) {
    let table = &golden.relation.name.table;
    let mut pipe = Pipe::with_forms("p", modes, content);
    let plan = pipe.plan(&golden.relation);
    let topic = plan.topic().to_string();
    let reads = golden.snapshot.iter().map(|row| RowChange::Read(tuple(row)));
    let streamed = golden.operations.iter().filter_map(|operation| change(operation, golden.relation.identity));
    let mut rows = golden.lossless.events.iter().filter(|event| !event.value["after"].is_null());
    for change in reads.chain(streamed) {
        let new = match &change {
            RowChange::Read(new) | RowChange::Insert(new) | RowChange::Update { new, .. } => Some(new.clone()),
            RowChange::Delete(_) => None,
        };
        let records = pipe.encode(&plan, &change).unwrap();
        let events: Vec<_> = records
            .iter()
            .filter_map(|record| match pipe.decode(&topic, record).unwrap() {
                Decoded::Event(event) => Some(event),
                _ => None,
            })
            .collect();
        assert!(events.iter().all(|event| !event.position.is_of_offset()), "{table}");
        let after = events.into_iter().find_map(|event| event.after);
        assert_eq!(after.is_some(), new.is_some(), "{table}");
        let theirs = new.as_ref().map(|_| rows.next().unwrap());
        for (index, (sent, back)) in new.into_iter().flatten().zip(after.into_iter().flatten()).enumerate() {
            let column = &golden.relation.columns[index];
            let what = format!("{table}.{} under {modes:?}, {content:?}", column.name);
            match (sent, back) {
                (Datum::Null, Cell::Null) | (Datum::Unchanged, Cell::Unchanged) => {}
                // In ISO 8601, which the input function reads, and which Debezium has written too.
                (Datum::Text(sent), Cell::Text(back))
                    if column.ty.oid == 1186 && modes.interval == IntervalMode::String =>
                {
                    let theirs = theirs.unwrap().value["after"][&*column.name].as_str().unwrap();
                    assert_eq!(theirs.as_bytes(), &*back, "{what}: {sent:?}");
                }
                (Datum::Text(sent), Cell::Text(back)) if column.ty.oid == 790 => {
                    let plain: Vec<u8> = sent.iter().copied().filter(|byte| !b"$,".contains(byte)).collect();
                    assert_eq!(plain, *back, "{what}");
                }
                // Both types read the digits, where nothing tells them apart.
                (Datum::Text(sent), Cell::Text(back))
                    if matches!(column.ty.oid, 16 | 1000) && content.parameters != Parameters::All =>
                {
                    let digits = String::from_utf8_lossy(&sent).replace('t', "1").replace('f', "0");
                    assert_eq!(digits.as_bytes(), &*back, "{what}");
                }
                // It is taken for json.
                (Datum::Text(_), Cell::Text(_))
                    if *column.ty.sql == *"public.hstore" && content.parameters == Parameters::None => {}
                (Datum::Text(sent), Cell::Text(back)) => assert_eq!(&*sent, &*back, "{what}"),
                (sent, back) => panic!("{what}: {sent:?} became {back:?}"),
            }
        }
    }
}
