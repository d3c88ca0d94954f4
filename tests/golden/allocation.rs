//! Encoding allocates nothing once its buffers have grown, whatever the type.

use allocation_counter::measure;
use walrelay::{
    event::{OldTuple, RecordBuf, RowChange},
    types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, Modes, TimeMode},
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
            // The JSON of a moved key's header is the exception.
            let is_move = |change: &RowChange| matches!(change, RowChange::Update { old: Some(OldTuple::Key(_)), .. });
            let changes: Vec<_> = snapshot.chain(streamed).filter(|change| !is_move(change)).collect();
            assert_eq!(allocations(&mut pipe, &plan, &changes), 0, "{table}, {modes:?}");
        }
    }
}
