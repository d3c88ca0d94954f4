//! The encoder's buffers, and the out-of-band headers that are gathered in them while rows are written.

use std::sync::Arc;

use crate::{
    event::{HeaderName, HeaderSpan, RecordBuf},
    record::header,
};

/// Buffers that one encoder uses again for each event.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// For one value or one text.
    pub(super) value: Vec<u8>,
    /// For the digits of one number.
    pub(super) digits: Vec<u8>,
    /// The old and the new key of a row that has moved, as JSON.
    pub(super) moved_keys: [Vec<u8>; 2],
    /// Items of `walrelay.unchanged`.
    pub(super) unchanged: Vec<u8>,
    /// Items of `walrelay.text`, before.
    pub(super) text_before: Vec<u8>,
    /// Items of `walrelay.text`, after.
    pub(super) text_after: Vec<u8>,
}

impl Scratch {
    /// Appends the headers for what the row's Avro record could not say, if there is anything.
    pub(super) fn push_headers(&mut self, out: &mut RecordBuf) {
        let Scratch { value: scratch, unchanged, text_before, text_after, .. } = self;
        if !unchanged.is_empty() {
            scratch.clear();
            scratch.push(b'[');
            scratch.extend_from_slice(unchanged);
            scratch.push(b']');
            push_header(header::UNCHANGED, scratch, out);
        }
        if text_before.is_empty() && text_after.is_empty() {
            return;
        }
        scratch.clear();
        for (name, items) in [("before", &*text_before), ("after", &*text_after)] {
            if !items.is_empty() {
                scratch.push(if scratch.is_empty() { b'{' } else { b',' });
                header::append_json_string(name, scratch);
                scratch.extend_from_slice(b":{");
                scratch.extend_from_slice(items);
                scratch.push(b'}');
            }
        }
        scratch.push(b'}');
        push_header(header::TEXT, scratch, out);
    }
}

/// Appends a header; the record that it belongs to is appended after it.
pub(super) fn push_header(name: &'static str, value: &[u8], out: &mut RecordBuf) {
    push(HeaderName::Fixed(name), value, out);
}

/// The same under a name that the configuration chose.
pub(super) fn push_chosen_header(name: &Arc<str>, value: &[u8], out: &mut RecordBuf) {
    push(HeaderName::Chosen(Arc::clone(name)), value, out);
}

fn push(name: HeaderName, value: &[u8], out: &mut RecordBuf) {
    let start = out.bytes.len();
    out.bytes.extend_from_slice(value);
    out.headers.push(HeaderSpan { name, value: start..out.bytes.len() });
}
