//! Rows into Avro and back: the compiled plans beside apache-avro's own writer and reader, on the same bytes.
//!
//! The `orders` row of the targets (bigint, int, text, numeric(12,2), text of 100 characters, timestamptz; full envelope), and per
//! type a row of eight columns of it. Encoding begins with PostgreSQL's text (or binary) where apache-avro begins with its own
//! `Value`, so its part is the smaller one. Decoding ends with a row that borrows its values from the record, each of which is
//! read, where apache-avro ends with its `Value`; and with an event of its own that has the values' texts.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a benchmark measures what is known to work")]

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
    time::Duration,
};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter};
use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use futures_util::FutureExt;
use walrelay::{
    avro::{
        content::Content,
        flat::Records,
        store::{SchemaStore, StoreError},
        subject::SubjectNaming,
    },
    event::{Datum, EventMeta, RecordBuf, RowChange, TransactionMeta, Tuple},
    lsn::Lsn,
    record::{Decoded, Decoder, Encoder, EncoderSettings, Masks, TopicNames, View},
    schema::{Column, Lineage, Relation, ReplicaIdentity, TableName},
    types::{ColumnType, Modes, Placeholder, TypeKind},
};

const TOPIC: &str = "shop.public.orders";
const NOTE: &str =
    "Leave it with the neighbour at the back door if nobody answers, and mind the dog, he only looks lazy...";

/// Ids in the order of registration.
#[derive(Default)]
struct Ids(Mutex<Vec<Arc<str>>>);

impl SchemaStore for Ids {
    async fn register(&self, _subject: &str, schema: &str) -> Result<u32, StoreError> {
        let mut known = self.0.lock().unwrap();
        known.push(schema.into());
        Ok(u32::try_from(known.len()).unwrap())
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, StoreError> {
        Ok(Arc::clone(&self.0.lock().unwrap()[id as usize - 1]))
    }
}

/// A column's type and a value of it as the server writes it.
type Sample = (&'static str, ColumnType, &'static str);

const fn numeric(precision: i32, scale: i32) -> i32 {
    (precision << 16 | scale) + 4
}

fn base(oid: u32, typmod: i32, sql: &'static str, text: &'static str) -> Sample {
    (sql, ColumnType::base(oid, typmod, sql), text)
}

fn orders() -> Vec<Sample> {
    vec![
        base(20, -1, "bigint", "4711"),
        base(23, -1, "integer", "815"),
        base(25, -1, "text", "shipped"),
        base(1700, numeric(12, 2), "numeric(12,2)", "1234.50"),
        base(25, -1, "text", &NOTE[..100]),
        base(1184, -1, "timestamp with time zone", "2026-11-24 10:11:12.345678+00"),
    ]
}

fn array_of(oid: u32, item: ColumnType, text: &'static str) -> Sample {
    let sql: &'static str = if oid == 1007 { "integer[]" } else { "text[]" };
    (sql, ColumnType { oid, typmod: -1, sql: sql.into(), kind: TypeKind::Array(item.into()) }, text)
}

/// A type that is not built in.
fn own(sql: &'static str, kind: TypeKind, text: &'static str) -> Sample {
    (sql, ColumnType { oid: 20_000, typmod: -1, sql: sql.into(), kind }, text)
}

fn samples() -> Vec<Sample> {
    vec![
        base(16, -1, "boolean", "t"),
        base(23, -1, "integer", "-2147483648"),
        base(20, -1, "bigint", "9223372036854775807"),
        base(701, -1, "double precision", "-1234.5678901"),
        base(1700, numeric(12, 2), "numeric(12,2)", "1234567890.12"),
        base(1700, -1, "numeric", "3.14159265358979323846264338327950288"),
        base(25, -1, "text", "a few words"),
        base(17, -1, "bytea", "\\x00112233445566778899aabbccddeeff"),
        base(1082, -1, "date", "2026-11-24"),
        base(1083, -1, "time without time zone", "10:11:12.345678"),
        base(1114, -1, "timestamp without time zone", "2026-11-24 10:11:12.345678"),
        base(1184, -1, "timestamp with time zone", "2026-11-24 10:11:12.345678+00"),
        base(1186, -1, "interval", "1 year 2 mons 3 days 04:05:06.789"),
        base(2950, -1, "uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        base(3802, -1, "jsonb", "{\"a\": [1, 2, 3], \"b\": null}"),
        base(700, -1, "real", "-1234.5"),
        base(790, -1, "money", "-$1,234,567.89"),
        base(1560, 12, "bit(12)", "101001011111"),
        base(1266, -1, "time with time zone", "10:11:12.345678+05:30"),
        base(869, -1, "inet", "2001:db8::1/64"),
        base(3904, -1, "int4range", "[1,100)"),
        own("public.mood", TypeKind::Enum(vec!["sad".into(), "ok".into(), "happy".into()]), "happy"),
        own("public.hstore", TypeKind::Extension("hstore".into()), "\"a\"=>\"1\", \"b c\"=>NULL, \"d\"=>\"x\\\"y\""),
        // A composite, of whose parts nothing is known.
        base(20_001, -1, "public.pair", "(1,\"a, \"\"b\"\"\",2.50)"),
        array_of(1007, ColumnType::base(23, -1, "integer"), "{1,2,3,NULL,5}"),
        array_of(1009, ColumnType::base(25, -1, "text"), "{one,\"two, three\",NULL,\"\"}"),
    ]
}

fn relation(columns: &[Sample]) -> Relation {
    let column = |(index, (_, ty, _)): (usize, &Sample)| Column {
        name: format!("column_{index}").into(),
        attnum: None,
        ty: ty.clone(),
        nullable: index > 0,
        nondeterministic: false,
        optional: false,
        added: false,
        default: None,
        missing: None,
        null_items: false,
    };
    Relation {
        oid: 1,
        name: TableName::new("public", "orders"),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().enumerate().map(column).collect(),
        key: vec![0],
        lineage: Lineage::default(),
    }
}

fn encoder() -> Encoder {
    Encoder::new(EncoderSettings {
        prefix: "shop".into(),
        topics: TopicNames::new("shop"),
        database: "shop".into(),
        version: "0.1.0".into(),
        subjects: SubjectNaming::Topic,
        modes: Modes::default(),
        content: Content::default(),
        placeholder: Placeholder::default(),
        masks: Masks::default(),
        records: Records::Envelope,
    })
}

fn transaction() -> TransactionMeta {
    TransactionMeta {
        xid: Some(700),
        commit: Lsn(77_238_080),
        commit_us: 1_795_501_793_549_123,
        previous_commit: Some(Lsn(77_237_000)),
        ..TransactionMeta::default()
    }
}

/// The third change of its transaction.
fn event() -> EventMeta {
    let processed_ns = 1_795_501_793_612_345_678;
    EventMeta {
        ordinal: 3,
        total_order: 3,
        collection_order: 3,
        lsn: Lsn(77_238_000),
        processed_ns,
        ..EventMeta::default()
    }
}

/// The row of [`orders`] as the server sends it in binary.
fn orders_in_binary() -> Tuple {
    let cells: [&[u8]; 6] = [
        &4711_i64.to_be_bytes(),
        &815_i32.to_be_bytes(),
        b"shipped",
        // Two groups of four digits, the first one whole, two digits shown behind the point.
        &[0, 2, 0, 0, 0, 0, 0, 2, 0x04, 0xD2, 0x13, 0x88],
        &NOTE.as_bytes()[..100],
        // Microseconds since 2000-01-01.
        &848_830_272_345_678_i64.to_be_bytes(),
    ];
    cells.iter().map(|bytes| Datum::Binary(Bytes::copy_from_slice(bytes))).collect()
}

/// The update of a row that comes in binary.
fn measure_in_binary(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (mut encoder, store, meta) = (encoder(), Ids::default(), transaction());
    let plan = encoder.prepare(&relation(&orders()), None, &store).now_or_never().expect("answers at once").unwrap();
    let event = event();
    let change = RowChange::Update { old: None, new: orders_in_binary() };
    let mut out = RecordBuf::default();
    group.bench_function("orders in binary/encode by plan", |bencher| {
        bencher.iter(|| {
            out.clear();
            encoder.encode(&plan, &meta, event, &change, &mut out)
        });
    });
}

/// An update of a row of these columns: both ways, by the plans and by apache-avro.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, columns: &[Sample]) {
    let (mut encoder, store, meta) = (encoder(), Ids::default(), transaction());
    let plan = encoder.prepare(&relation(columns), None, &store).now_or_never().expect("answers at once").unwrap();
    let event = event();
    let new: Tuple = columns.iter().map(|(.., text)| Datum::Text(Bytes::from_static(text.as_bytes()))).collect();
    let change = RowChange::Update { old: None, new };
    let mut out = RecordBuf::default();
    // Here too, since a filter may leave the first benchmark out.
    encoder.encode(&plan, &meta, event, &change, &mut out).unwrap();
    group.bench_function(format!("{name}/encode by plan"), |bencher| {
        bencher.iter(|| {
            out.clear();
            encoder.encode(&plan, &meta, event, &change, &mut out)
        });
    });

    let record = out.iter().next().unwrap();
    let (key, value) = (record.key.unwrap(), record.value.unwrap());
    let schema = Schema::parse_str(plan.value_schema()).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let datum = reader.read_value(&mut &value[5..]).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    group.bench_function(format!("{name}/encode by apache-avro"), |bencher| {
        let write = |datum: Value| {
            let mut bytes = Vec::with_capacity(512);
            writer.write_value(&mut bytes, datum).unwrap();
            bytes
        };
        bencher.iter_batched(|| datum.clone(), write, BatchSize::SmallInput);
    });

    let mut decoder = Decoder::new(usize::MAX);
    for id in [1, 2] {
        decoder.fetch(TOPIC, id, &store).now_or_never().expect("answers at once").unwrap();
    }
    group.bench_function(format!("{name}/decode to a borrowed row"), |bencher| {
        bencher.iter(|| {
            let view = decoder.view(TOPIC, Some(key), Some(value), [], 0).unwrap();
            let View::Event(event) = view else { panic!("{view:?}") };
            for column in event.after().unwrap().values() {
                black_box(&column.unwrap());
            }
            black_box((event.op(), event.position()));
        });
    });
    group.bench_function(format!("{name}/decode to an event"), |bencher| {
        bencher.iter(|| match decoder.decode(TOPIC, Some(key), Some(value), [], 0).unwrap() {
            Decoded::Event(event) => event,
            other => panic!("{other:?}"),
        });
    });
    group.bench_function(format!("{name}/decode by apache-avro"), |bencher| {
        bencher.iter(|| reader.read_value(&mut &value[5..]).unwrap());
    });
}

fn micro(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(3));
    measure(&mut group, "orders", &orders());
    measure_in_binary(&mut group);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for sample in samples() {
        let key = base(20, -1, "bigint", "4711");
        let columns: Vec<Sample> = [key].into_iter().chain(std::iter::repeat_n(sample.clone(), 8)).collect();
        measure(&mut group, sample.0, &columns);
    }
    group.finish();
}

criterion_group!(benches, micro);
criterion_main!(benches);
