//! `text`, `character varying`, `character`: Avro `string`, byte for byte.

use super::value::{RenderError, Value};

/// `character(n)` compares without its trailing blanks, so a key is written without them.
pub(super) fn without_padding(text: &[u8]) -> &[u8] {
    let kept = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    text.get(..kept).unwrap_or(text)
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    match value {
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Short(text) => out.extend_from_slice(text.as_str().as_bytes()),
        _ => return Err(RenderError("text")),
    }
    Ok(())
}
