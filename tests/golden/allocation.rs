//! Encoding allocates nothing once its buffers have grown, whatever the type.

use allocation_counter::measure;
use walrelay::{
    avro::{
        content::Content,
        flat::{Deletes, Flat, Metadata},
    },
    event::{OldTuple, RecordBuf, RowChange},
    types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, TimeMode, TimetzMode, TrailingZeros},
};

use crate::support::{Pipe, change, event, golden, transaction, tuple};

/// Allocations of encoding these changes once more, after their buffers have grown.
fn allocations(pipe: &mut Pipe, plan: &walrelay::record::Plan, changes: &[RowChange]) -> u64 {
    let (meta, mut out) = (transaction(), RecordBuf::default());
    let mut encode = |out: &mut RecordBuf| {
        for change in changes {
            out.clear();
            pipe.encoder.encode(plan, &meta, event(1), change, out).unwrap();
        }
    };
    encode(&mut out);
    encode(&mut out);
    measure(|| encode(&mut out)).count_total
}

/// The JSON of a moved key's header is the exception.
fn is_move(change: &RowChange) -> bool {
    matches!(change, RowChange::Update { old: Some(OldTuple::Key(_)), .. })
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
            let changes: Vec<_> = snapshot.chain(streamed).filter(|change| !is_move(change)).collect();
            assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{table}, {modes:?}");
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
            let changes: Vec<_> = streamed.filter(|change| !is_move(change)).collect();
            assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{table}");
        }
    }
}
