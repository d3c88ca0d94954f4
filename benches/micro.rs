//! One event of the shop's `orders` table into Avro: the compiled plan beside apache-avro's own writer, and back into text.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a benchmark measures what is known to work")]

use std::sync::{Arc, Mutex};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use walrelay::{
    avro::{
        content::Content,
        store::{SchemaStore, StoreError},
        subject::SubjectNaming,
    },
    event::{Datum, EventMeta, RecordBuf, RowChange, TransactionMeta, Tuple},
    lsn::Lsn,
    record::{Decoded, Decoder, Encoder, EncoderSettings, Plan},
    schema::{Column, Relation, ReplicaIdentity, TableName},
    types::{ColumnType, Modes},
};

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

fn orders() -> Relation {
    let column = |(name, oid, typmod, sql): (&str, u32, i32, &str)| Column {
        name: name.into(),
        attnum: None,
        ty: ColumnType::base(oid, typmod, sql),
        nullable: name != "id",
        nondeterministic: false,
    };
    let columns = [
        ("id", 20, -1, "bigint"),
        ("customer_id", 23, -1, "integer"),
        ("status", 25, -1, "text"),
        ("total", 1700, (12 << 16 | 2) + 4, "numeric(12,2)"),
        ("paid", 16, -1, "boolean"),
        ("ordered_at", 1184, -1, "timestamp with time zone"),
        ("note", 25, -1, "text"),
    ];
    Relation {
        oid: 1,
        name: TableName::new("public", "orders"),
        identity: ReplicaIdentity::Default,
        columns: columns.map(column).to_vec(),
        key: vec![0],
    }
}

fn row() -> Tuple {
    let text = |text: &'static str| Datum::Text(Bytes::from_static(text.as_bytes()));
    vec![
        text("4711"),
        text("815"),
        text("shipped"),
        text("1234.50"),
        text("t"),
        text("2026-11-24 10:11:12.345678+00"),
        Datum::Null,
    ]
}

fn prepare(store: &Ids) -> (Encoder, Arc<Plan>) {
    let mut encoder = Encoder::new(EncoderSettings {
        prefix: "shop".into(),
        database: "shop".into(),
        version: "0.1.0".into(),
        subjects: SubjectNaming::Topic,
        modes: Modes::default(),
        content: Content::default(),
    });
    let plan = encoder.prepare(&orders(), None, store).now_or_never().expect("answers at once").unwrap();
    (encoder, plan)
}

fn micro(criterion: &mut Criterion) {
    let store = Ids::default();
    let (mut encoder, plan) = prepare(&store);
    let meta = TransactionMeta {
        xid: Some(700),
        commit: Lsn(77_238_080),
        commit_us: 1_795_501_793_549_123,
        previous_commit: Some(Lsn(77_237_000)),
        ..TransactionMeta::default()
    };
    let event = EventMeta { ordinal: 3, collection_order: 3, lsn: Lsn(77_238_000), ..EventMeta::default() };
    let change = RowChange::Update { old: None, new: row() };
    let mut out = RecordBuf::default();

    let mut group = criterion.benchmark_group("orders");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode by plan", |bencher| {
        bencher.iter(|| {
            out.clear();
            encoder.encode(&plan, &meta, event, &change, &mut out)
        });
    });

    let record = out.iter().next().unwrap();
    let (key, value) = (record.key.unwrap(), record.value.unwrap());
    let schema = Schema::parse_str(plan.value_schema()).unwrap();
    let datum = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut &value[5..]).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    group.bench_function("encode by apache-avro", |bencher| {
        let write = |datum: Value| {
            let mut bytes = Vec::with_capacity(512);
            writer.write_value(&mut bytes, datum).unwrap();
            bytes
        };
        bencher.iter_batched(|| datum.clone(), write, BatchSize::SmallInput);
    });

    let mut decoder = Decoder::new(usize::MAX);
    for id in [1, 2] {
        decoder.fetch("shop.public.orders", id, &store).now_or_never().expect("answers at once").unwrap();
    }
    group.bench_function("decode by plan", |bencher| {
        bencher.iter(|| match decoder.decode("shop.public.orders", Some(key), Some(value), [], 0).unwrap() {
            Decoded::Event(event) => event,
            other => panic!("{other:?}"),
        });
    });
    group.finish();
}

criterion_group!(benches, micro);
criterion_main!(benches);
