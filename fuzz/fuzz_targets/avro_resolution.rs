//! Schemas of envelopes whose rows have fields of any types, and any bytes behind them: what is an event apache-avro reads too, to
//! the last byte. What is skipped is not judged, only measured.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walrelay_fuzz::{Schemas, resolution::Case};

fuzz_target!(|data: &[u8]| {
    let (case, store) = (Case::new(data), Schemas::default());
    let id = store.add(case.schema());
    if let Some(mut decoder) = Case::decoder(id, &store) {
        case.judge(&mut decoder, id, &Case::body(&case.tail));
    }
});
