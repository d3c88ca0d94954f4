//! Encoding allocates nothing once its buffers have grown, whatever the type.

use std::sync::Arc;

use allocation_counter::measure;
use walrelay::{
    avro::{
        content::{Content, HeaderConverter},
        flat::{Deletes, Flat, Metadata},
    },
    event::{Datum, RecordBuf, RowChange, TransactionMeta, Tuple},
    lsn::Lsn,
    record::{EventCounts, RowView, TransactionRecords, View},
    schema::{Column, Relation},
    types::{
        BinaryMode, ColumnType, DecimalMode, HstoreMode, IntervalMode, Modes, SpecialValues, TimeMode, TimetzMode,
        TrailingZeros, TypeKind,
    },
};

use crate::support::{MemoryStore, Owned, Pipe, change, event, golden, now, settings, transaction, tuple};

/// Allocations of encoding these changes once more, after their buffers have grown.
fn allocations(pipe: &mut Pipe, plan: &walrelay::record::Plan, changes: &[RowChange]) -> u64 {
    let mut out = RecordBuf::default();
    // Each is a transaction of its own.
    let metas = [transaction(), TransactionMeta { xid: Some(701), commit: Lsn(0x2_0000), ..transaction() }];
    let mut encode = |out: &mut RecordBuf| {
        for (change, meta) in changes.iter().zip(metas.iter().cycle()) {
            out.clear();
            pipe.encoder.encode(plan, meta, event(1), change, out).unwrap();
        }
    };
    encode(&mut out);
    encode(&mut out);
    measure(|| encode(&mut out)).count_total
}

/// Every form of a value is in one of them.
fn forms() -> [Modes; 3] {
    [
        Modes::default(),
        Modes {
            decimal: DecimalMode::String,
            interval: IntervalMode::Numeric,
            binary: BinaryMode::Base64,
            time: TimeMode::Connect,
            hstore: HstoreMode::Map,
            trailing_zeros: TrailingZeros::Dropped,
            timetz: TimetzMode::Utc,
            special_values: SpecialValues::Debezium,
        },
        Modes { decimal: DecimalMode::Double, binary: BinaryMode::Hex, time: TimeMode::Isostring, ..Modes::default() },
    ]
}

#[test]
fn a_row_of_any_type_is_encoded_without_an_allocation() {
    for modes in forms() {
        for table in crate::against_debezium::TABLES {
            let golden = golden(table);
            let mut pipe = Pipe::with_modes("p", modes);
            let plan = pipe.plan(&golden.relation);
            let snapshot = golden.snapshot.iter().map(|row| RowChange::Read(tuple(row)));
            let streamed = golden.operations.iter().filter_map(|operation| change(operation, golden.relation.identity));
            let changes: Vec<_> = snapshot.chain(streamed).collect();
            assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{table}, {modes:?}");
        }
    }
}

/// Reading a record that has texts beside it allocates what these headers say.
fn has_texts(record: &Owned) -> bool {
    record.header("walrelay.text").is_some() || record.header("walrelay.unchanged").is_some()
}

#[test]
fn a_record_of_any_type_is_read_to_a_borrowed_row_without_an_allocation() {
    for table in crate::against_debezium::TABLES {
        let golden = golden(table);
        let mut pipe = Pipe::new("p");
        let plan = pipe.plan(&golden.relation);
        let snapshot = golden.snapshot.iter().map(|row| RowChange::Read(tuple(row)));
        let streamed = golden.operations.iter().filter_map(|operation| change(operation, golden.relation.identity));
        let changes: Vec<_> = snapshot.chain(streamed).collect();
        let records: Vec<_> = changes.iter().flat_map(|change| pipe.encode(&plan, change).unwrap()).collect();
        for record in &records {
            pipe.decode("t", record).unwrap();
        }
        let Pipe { decoder, .. } = &mut pipe;
        let mut read = 0;
        for record in records.iter().filter(|record| !has_texts(record)) {
            let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let found = measure(|| {
                let view = decoder.view("t", record.key.as_deref(), record.value.as_deref(), headers, 0).unwrap();
                let View::Event(event) = view else { return };
                for value in event.before().into_iter().chain(event.after()).flat_map(RowView::values) {
                    assert!(value.is_ok());
                    read += 1;
                }
            });
            assert_eq!(found.count_total, 0, "{table}: {record:?}");
        }
        assert!(read > 0, "{table} has no value");
    }
}

#[test]
fn the_keys_of_a_moved_row_are_told_without_an_allocation() {
    let family = crate::recorded::family("types");
    for header_converter in [HeaderConverter::Json, HeaderConverter::Simple] {
        for modes in
            [Modes::default(), Modes { time: TimeMode::Connect, decimal: DecimalMode::Double, ..Modes::default() }]
        {
            let content = Content { header_converter, ..Content::default() };
            let mut pipe = Pipe::with_forms("p", modes, content);
            let plan = pipe.plan(&family.tables["m_key"].relation);
            let changes: Vec<_> = family.changes("m_key").into_iter().flatten().collect();
            assert!(pipe.encode(&plan, &changes[2]).unwrap().len() > 1, "the row moves");
            assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{header_converter:?}, {modes:?}");
        }
    }
}

#[test]
fn a_flat_record_with_fields_and_headers_is_encoded_without_an_allocation() {
    let parts = ["op", "ts_ns", "source.ts_ms", "lsn", "sequence", "table", "transaction.id", "total_order"];
    let parts: Vec<_> = parts.iter().map(|part| Metadata::new(part, "__").unwrap()).collect();
    for deletes in [Deletes::Tombstone, Deletes::RewriteWithTombstone] {
        let flat = Flat { deletes, fields: parts.clone(), headers: parts.clone() };
        for table in ["ev_basic", "ev_full", "ev_toast", "t_numeric"] {
            let golden = golden(table);
            let mut pipe = crate::flat::flat_pipe(Content::default(), flat.clone());
            let plan = pipe.plan(&golden.relation);
            let streamed = golden.operations.iter().filter_map(|operation| change(operation, golden.relation.identity));
            let changes: Vec<_> = streamed.collect();
            assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{table}");
        }
    }
}

#[test]
fn a_transaction_is_counted_and_told_without_an_allocation() {
    let store = MemoryStore::default();
    let mut records = now(TransactionRecords::prepare(&settings("p"), "p.transaction", &store)).unwrap();
    let tables: Vec<Arc<str>> = (0..50).map(|number| format!("public.table_{number}").into()).collect();
    let (meta, mut counts, mut out) = (transaction(), EventCounts::default(), RecordBuf::default());
    let mut tell = |out: &mut RecordBuf| {
        out.clear();
        counts.clear();
        records.encode_begin(&meta, meta.commit, out);
        for (relation, table) in (0..).zip(&tables).chain((0..).zip(&tables)) {
            counts.add(relation, table, 2);
        }
        records.encode_end(&meta, (200, meta.commit), &counts, out);
    };
    tell(&mut out);
    assert_eq!(measure(|| tell(&mut out)).count_total, 0);
    assert_eq!(out.records.len(), 2);
}

/// A big-endian array header of one dimension with these items of four bytes.
fn array(lower: i32, items: &[i32]) -> Vec<u8> {
    let length = i32::try_from(items.len()).unwrap();
    let header = [1, 0, 23, length, lower];
    header.iter().chain(items.iter().flat_map(|item| [&4, item])).flat_map(|number| number.to_be_bytes()).collect()
}

#[test]
fn a_row_in_binary_is_encoded_without_an_allocation() {
    let double = 1_772.314_810_830_949_3_f64.to_be_bytes();
    let range = [&[2][..], &8_i32.to_be_bytes(), &[0; 8], &8_i32.to_be_bytes(), &[1; 8]].concat();
    let values: Vec<(ColumnType, Vec<u8>)> = vec![
        (ColumnType::base(20, -1, "bigint"), 7_i64.to_be_bytes().into()),
        (ColumnType::base(23, -1, "integer"), 7_i32.to_be_bytes().into()),
        (ColumnType::base(25, -1, "text"), b"text".into()),
        // 1234.56
        (ColumnType::base(1700, (12 << 16 | 2) + 4, "numeric(12,2)"), vec![0, 2, 0, 0, 0, 0, 0, 2, 4, 210, 21, 224]),
        (ColumnType::base(1700, -1, "numeric"), vec![0, 2, 0, 0, 0, 0, 0, 2, 4, 210, 21, 224]),
        (ColumnType::base(1184, -1, "timestamp with time zone"), 7_i64.to_be_bytes().into()),
        (ColumnType::base(1186, -1, "interval"), vec![1; 16]),
        (ColumnType::base(869, -1, "inet"), vec![3, 64, 0, 16, 32, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (ColumnType::base(600, -1, "point"), [double, double].concat()),
        (ColumnType::base(701, -1, "double precision"), double.into()),
        (ColumnType::base(718, -1, "circle"), [double; 3].concat()),
        (ColumnType::base(3908, -1, "tsrange"), [&[6][..], &range[1..]].concat()),
        (ColumnType::base(17, -1, "bytea"), vec![0, 92, 255]),
        (ColumnType::base(1082, -1, "date"), 8_464_i32.to_be_bytes().into()),
        (ColumnType::base(1083, -1, "time without time zone"), 7_000_001_i64.to_be_bytes().into()),
        (
            ColumnType::base(1266, -1, "time with time zone"),
            [&7_i64.to_be_bytes()[..], &(-3600_i32).to_be_bytes()].concat(),
        ),
        (ColumnType::base(790, -1, "money"), (-7_i64).to_be_bytes().into()),
        (ColumnType::base(3802, -1, "jsonb"), b"\x01{\"a\": [1, null]}".into()),
        (ColumnType::base(1560, 12, "bit(12)"), vec![0, 0, 0, 12, 0xA5, 0xF0]),
        (ColumnType::base(1562, -1, "bit varying"), vec![0, 0, 0, 9, 0x25, 0x80]),
        // 'a':1A 'b c'
        (ColumnType::base(3614, -1, "tsvector"), b"\0\0\0\x02a\0\0\x01\xC0\x01b c\0\0\0".into()),
        (
            ColumnType::base(4451, -1, "int4multirange"),
            [&[0, 0, 0, 2][..], &sized(&range_of(1, 3)), &sized(&range_of(5, 9))].concat(),
        ),
        (extension("hstore"), [&[0, 0, 0, 2][..], &sized(b"a"), &sized(b"\"1\""), &sized(b"b c"), &[0xFF; 4]].concat()),
        (extension("ltree"), b"\x01Top.Science".into()),
        (array_of(ColumnType::base(25, -1, "text"), 1009), texts_array(&[b"a", b"", b"b, \"c\""])),
        (array_of_integers(), array(1, &[1, 2])),
        (array_of_integers(), array(-1, &[1, 2])),
    ];
    let (types, cells): (Vec<_>, Vec<_>) = values.into_iter().unzip();
    let column = |(number, ty): (usize, ColumnType)| Column {
        name: format!("c{number}").into(),
        attnum: None,
        ty,
        nullable: number > 0,
        nondeterministic: false,
        optional: false,
        added: false,
        default: None,
        missing: None,
        null_items: false,
    };
    let relation = Relation {
        columns: types.into_iter().enumerate().map(column).collect(),
        key: vec![0],
        ..golden("ev_basic").relation
    };
    let row: Tuple = cells.into_iter().map(|bytes| Datum::Binary(bytes.into())).collect();
    for modes in forms() {
        let mut pipe = Pipe::with_modes("p", modes);
        let plan = pipe.plan(&relation);
        let changes = [RowChange::Insert(row.clone()), RowChange::Read(row.clone())];
        assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{modes:?}");
    }
}

/// What the threads keep is in no budget.
#[test]
fn the_room_that_a_large_value_took_is_given_back() {
    const LARGE: usize = 3 << 20;
    let array = array_of(ColumnType::base(25, -1, "text"), 1009);
    for (ty, value) in [
        (ColumnType::base(3802, -1, "jsonb"), Datum::Binary([vec![1], vec![b'7'; LARGE]].concat().into())),
        (array, Datum::Text(format!("{{\"{}\"}}", "\\\"".repeat(LARGE)).into())),
    ] {
        let mut column = crate::support::column("c", 0, -1, "");
        column.ty = ty;
        let mut pipe = Pipe::with_modes("p", Modes::default());
        let plan = pipe.plan(&Relation { columns: vec![column], key: Vec::new(), ..golden("ev_basic").relation });
        let (change, meta) = (RowChange::Insert(vec![value]), transaction());
        let kept = measure(|| {
            let mut out = RecordBuf::default();
            pipe.encoder.encode(&plan, &meta, event(1), &change, &mut out).unwrap();
            assert!(out.bytes.len() > LARGE);
        });
        assert!(kept.bytes_max >= u64::try_from(2 * LARGE).unwrap(), "{kept:?}");
        assert!(kept.bytes_current < 1 << 20, "{kept:?}");
    }
}

fn array_of(item: ColumnType, oid: u32) -> ColumnType {
    let sql = format!("{}[]", item.sql);
    ColumnType { kind: TypeKind::Array(item.into()), ..ColumnType::base(oid, -1, &sql) }
}

fn array_of_integers() -> ColumnType {
    array_of(ColumnType::base(23, -1, "integer"), 1007)
}

fn extension(name: &str) -> ColumnType {
    ColumnType { kind: TypeKind::Extension(name.into()), ..ColumnType::base(20_000, -1, &format!("public.{name}")) }
}

/// Bytes behind their length.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// An `int4range` that has its lower bound and not its upper one.
fn range_of(lower: i32, upper: i32) -> Vec<u8> {
    [&[2][..], &sized(&lower.to_be_bytes()), &sized(&upper.to_be_bytes())].concat()
}

/// A `text[]` of one dimension.
fn texts_array(items: &[&[u8]]) -> Vec<u8> {
    let header = [1, 0, 25, i32::try_from(items.len()).unwrap(), 1];
    let header = header.iter().flat_map(|number: &i32| number.to_be_bytes());
    header.chain(items.iter().flat_map(|item| sized(item))).collect()
}
