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
    record::{EventCounts, TransactionRecords},
    schema::{Column, Relation},
    types::{
        BinaryMode, ColumnType, DecimalMode, HstoreMode, IntervalMode, Modes, SpecialValues, TimeMode, TimetzMode,
        TrailingZeros, TypeKind,
    },
};

use crate::support::{MemoryStore, Pipe, change, event, golden, now, settings, transaction, tuple};

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

#[test]
fn a_row_of_any_type_is_encoded_without_an_allocation() {
    let forms = [
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
    ];
    for modes in forms {
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
    let mut pipe = Pipe::with_modes("p", Modes::default());
    let plan = pipe.plan(&relation);
    assert_eq!(allocations(&mut pipe, &plan, &[RowChange::Insert(row.clone()), RowChange::Read(row)]), 0);
}

/// What the threads keep is in no budget.
#[test]
fn the_room_that_a_large_value_took_is_given_back() {
    const LARGE: usize = 3 << 20;
    let array = ColumnType { kind: TypeKind::Array(text_type().into()), ..ColumnType::base(1009, -1, "text[]") };
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

fn text_type() -> ColumnType {
    ColumnType::base(25, -1, "text")
}

fn array_of_integers() -> ColumnType {
    let element = ColumnType::base(23, -1, "integer");
    ColumnType { kind: TypeKind::Array(element.into()), ..ColumnType::base(1007, -1, "integer[]") }
}
