//! Any bytes are a message or an error, as a frame and as a message inside and outside of a streamed block.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use walrelay::pgoutput::{Error, Frame, message};

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    if let Ok(Frame::XLogData { data, .. }) = Frame::parse(data.clone()) {
        parse(&data);
    }
    parse(&data);
});

fn parse(data: &Bytes) {
    for in_stream in [false, true] {
        if let Err(error) = message::parse(data.clone(), in_stream) {
            assert!(offset(&error).is_some_and(|offset| offset <= data.len()), "{error:?}");
        }
    }
}

/// The place inside the message that every error of one message names.
fn offset(error: &Error) -> Option<usize> {
    match *error {
        Error::Truncated { offset, .. }
        | Error::Unterminated { offset, .. }
        | Error::NotUtf8 { offset, .. }
        | Error::Undefined { offset, .. }
        | Error::Trailing { offset, .. } => Some(offset),
        Error::OutOfPlace(_) => None,
    }
}
