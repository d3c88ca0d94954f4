//! Debezium's placeholders for an array that the server did not send: by its items' type the text, its bytes, its character
//! codes, or the UUID that is named by it. In other arrays it has none.

use super::codec::{Codec, Family, TextKind};

const TEXT: &str = "{__debezium_unavailable_value}";
const BYTES: &str = r#"{"\\x5f5f646562657a69756d5f756e617661696c61626c655f76616c7565"}"#;
const CODES: &str =
    "{95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101}";
/// The UUID of version 3.
const UUID: &str = "{b68a35a7-17ad-35b3-af2a-ae46edb4545a}";

/// The array with the placeholder, as PostgreSQL's text.
pub(super) const fn array_text(element: &Codec) -> Option<&'static str> {
    match &element.0 {
        Family::Text(TextKind::Uuid) => Some(UUID),
        Family::Text(_) => Some(TEXT),
        Family::Int2 | Family::Int4 | Family::Int8 => Some(CODES),
        Family::Bytea => Some(BYTES),
        _ => None,
    }
}
