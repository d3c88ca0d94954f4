//! Arrays of one dimension: Avro `array` of nullable items.
//!
//! PostgreSQL's text (manual, "Array Input and Output Syntax") is read as it is: an optional `[l:u]=`, braces, items that are
//! quoted where they must be. An array of more dimensions has no Avro form, nor has one with NULL where items are required; one with
//! another lower bound than 1, or with an item that the item's Avro type cannot hold, has less of one, so the text travels besides.

use super::{
    array_scan::{Item, each_of_any_dimension, outer_length},
    modes::SpecialValues,
    value::{ArrayText, Element, Parsed, Value},
};

/// Reads an array of `element`; the text is UTF-8.
pub(super) fn parse<'a>(text: &'a [u8], element: &'a dyn Element, special: SpecialValues) -> Parsed<'a> {
    let none = Parsed::Unrepresentable { stand_in: Value::Array(ArrayText::empty(element)) };
    let (bounded, braces) = match text.iter().position(|byte| *byte == b'=') {
        Some(at) if text.first() == Some(&b'[') => (true, text.get(at + 1..).unwrap_or_default()),
        _ => (false, text),
    };
    let Some(items) = braces.strip_prefix(b"{").and_then(|items| items.strip_suffix(b"}")) else { return none };
    let is_debezium = special == SpecialValues::Debezium;
    if is_debezium && element.is_decimal() && has_no_number(braces) {
        return none;
    }
    let Some(array) = ArrayText::new(items, element) else {
        // Of texts it has those of Java's objects.
        let length = if is_debezium && !element.is_text() { outer_length(braces) } else { None };
        return length.map_or(none, |length| Parsed::Lossy(Value::Nulls(length)));
    };
    if array.has_required_items() && array.has_null() {
        return none;
    }
    let is_exact = array.is_exact();
    if is_debezium && !is_exact && element.is_date() && array.has_unrepresentable() {
        return none;
    }
    let value = Value::Array(array);
    if bounded || !is_exact { Parsed::Lossy(value) } else { Parsed::Value(value) }
}

/// Whether an item of an array of numerics is NaN or an infinity, with which Debezium's driver reads none of them.
fn has_no_number(braces: &[u8]) -> bool {
    let mut found = false;
    each_of_any_dimension(braces, |item| {
        if let Item::Plain(text) | Item::Escaped(text) = item {
            found |= !text.last().is_some_and(u8::is_ascii_digit);
        }
    });
    found
}

/// Appends so many nulls in JSON's notation.
pub fn append_nulls(count: usize, out: &mut Vec<u8>) {
    out.push(b'[');
    for number in 0..count {
        out.extend_from_slice(if number == 0 { b"null" } else { b",null" });
    }
    out.push(b']');
}

/// Appends an item's text, quoted as the server quotes it.
pub fn append_item(text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(text);
    quote_item(start, out);
}

/// Quotes an item's text, which begins at `start`, as the server quotes it.
pub(super) fn quote_item(start: usize, out: &mut Vec<u8>) {
    let text = out.get(start..).unwrap_or_default();
    let special = |byte: &u8| b"{}\"\\,".contains(byte) || byte.is_ascii_whitespace() || *byte == 0x0B;
    if text.is_empty() || text.eq_ignore_ascii_case(b"NULL") || text.iter().any(special) {
        quote(start, |_| b'\\', out);
    }
}

/// Puts quotes around the text that begins at `start`, and before each quote and backslash in it what `before` says.
pub(super) fn quote(start: usize, before: impl Fn(u8) -> u8, out: &mut Vec<u8>) {
    let is_special = |byte: u8| matches!(byte, b'"' | b'\\');
    let (mut from, specials) = (out.len(), out.iter().skip(start).filter(|byte| is_special(**byte)).count());
    out.resize(from + specials + 2, b'"');
    let mut to = out.len() - 1;
    while from > start {
        (from, to) = (from - 1, to - 1);
        out[to] = out[from];
        if is_special(out[to]) {
            out[to - 1] = before(out[to]);
            to -= 1;
        }
    }
    out[start] = b'"';
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Codec, ColumnType, Modes, TypeKind};

    fn items(codec: &Codec, text: &str) -> (bool, Vec<Option<String>>) {
        let (exact, value) = match parse(text.as_bytes(), codec, SpecialValues::Null) {
            Parsed::Value(value) => (true, value),
            Parsed::Lossy(value) => (false, value),
            Parsed::Unrepresentable { .. } => return (false, vec![]),
        };
        let Value::Array(array) = value else { panic!("{value:?}") };
        let mut items = Vec::new();
        array.each(|item| {
            items.push(item.map(|value| {
                let mut text = Vec::new();
                codec.render(value, &mut text).unwrap();
                String::from_utf8(text).unwrap()
            }));
        });
        assert_eq!(array.len(), items.len());
        (exact, items)
    }

    fn text_items(text: &str) -> (bool, Vec<Option<String>>) {
        items(&Codec::of_column(&ColumnType::base(25, -1, "text"), Modes::default()), text)
    }

    fn all(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| (*text != "NULL").then(|| (*text).to_owned())).collect()
    }

    #[test]
    fn items_are_read_and_written_as_the_server_quotes_them() {
        assert_eq!(text_items("{}"), (true, vec![]));
        assert_eq!(text_items("{a,NULL,b c}"), (true, all(&["a", "NULL", "b c"])));
        let quoted = r#"{"","a b","a,b","{x}","q\"uote","back\\slash"}"#;
        let read = text_items(quoted);
        assert_eq!(read, (true, all(&["", "a b", "a,b", "{x}", "q\"uote", "back\\slash"])));
        let mut written = Vec::new();
        for item in read.1.iter().flatten() {
            written.push(if written.is_empty() { b'{' } else { b',' });
            append_item(item.as_bytes(), &mut written);
        }
        written.push(b'}');
        assert_eq!(String::from_utf8(written).unwrap(), quoted);
        assert_eq!(text_items(r#"{"NULL","null"}"#).1, [Some("NULL".to_owned()), Some("null".to_owned())]);
    }

    #[test]
    fn what_one_dimension_from_1_cannot_say_is_not_exact() {
        assert_eq!(text_items("[0:1]={a,b}"), (false, all(&["a", "b"])));
        assert_eq!(text_items("{{a,b},{c,d}}"), (false, vec![]));
        let numeric = Codec::of_column(&ColumnType::base(1700, 655_366, "numeric(10,2)"), Modes::default());
        assert_eq!(items(&numeric, "{1.50,NaN}"), (false, all(&["1.50", "NULL"])));
    }

    /// As with Debezium, whose array is null then.
    #[test]
    fn null_has_no_place_among_required_items() {
        let words = Codec::of_column(&ColumnType::base(3614, -1, "tsvector"), Modes::default());
        let array = ColumnType {
            kind: TypeKind::Array(ColumnType::base(3614, -1, "tsvector").into()),
            ..ColumnType::base(3643, -1, "tsvector[]")
        };
        let required = Codec::of_column(&array, Modes::default()).with_required_items();
        let text = "{'a' 'b',NULL}";
        assert_eq!(items(&words, text), (true, all(&["'a' 'b'", "NULL"])));
        assert!(matches!(required.parse(text.as_bytes()), Ok(Parsed::Unrepresentable { .. })));
        assert!(matches!(required.parse(b"{'a' 'b'}"), Ok(Parsed::Value(_))));
    }

    #[test]
    fn malformed_text_has_no_items() {
        for text in ["", "{", "{a", "a}", "{a,}", "{,a}", "{\"a}", "{\"a\"b}", "{\"a\\\"}", "[0:1]=", "{a}b}"] {
            assert_eq!(text_items(text), (false, vec![]), "{text}");
        }
    }
}
