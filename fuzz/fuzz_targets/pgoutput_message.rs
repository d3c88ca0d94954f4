//! Any bytes are a message or an error, as a frame and as a message inside and outside of a streamed block.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use walrelay::pgoutput::{Frame, message};

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    let _ = Frame::parse(data.clone());
    let _ = message::parse(data.clone(), false);
    let _ = message::parse(data, true);
});
