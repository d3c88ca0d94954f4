//! What stands in a field for a value that the server did not send: Debezium's `unavailable.value.placeholder`.
//!
//! Strings hold its text, bytes its octets, an `hstore` that is a map the text as key and as value, and an array by its items' type
//! the text, the octets, each octet as a number (a date is one of days), or the UUID of version 3 that is named by them. Other
//! arrays have none.

use std::sync::Arc;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::{
    append_item,
    codec::{Codec, Family, TextKind},
    date,
    hstore::append_pair,
    value::Value,
};

/// Debezium's own.
const DEFAULT: &str = "__debezium_unavailable_value";
/// What octets in hexadecimal begin with.
const HEX: &str = "hex:";

/// The placeholder in the forms that fields of each type have. Clones share them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Placeholder(Arc<Forms>);

#[derive(Debug, PartialEq, Eq)]
struct Forms {
    configured: String,
    octets: Vec<u8>,
    text: String,
    pair: String,
    hstore: String,
    uuid: String,
    texts: String,
    bytes: String,
    codes: String,
    days: String,
    uuids: String,
}

/// The text is no placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a placeholder is a text, or \"hex:\" with pairs of hexadecimal digits")]
pub struct PlaceholderError;

impl Placeholder {
    /// The placeholder of a configured text: itself, or behind `hex:` octets in hexadecimal.
    ///
    /// # Errors
    /// It is empty, or the digits are none or not in pairs.
    pub fn new(configured: &str) -> Result<Self, PlaceholderError> {
        let octets = configured.strip_prefix(HEX).map_or_else(|| Some(configured.as_bytes().to_vec()), octets_of_hex);
        let octets = octets.filter(|octets| !octets.is_empty()).ok_or(PlaceholderError)?;
        let text = String::from_utf8_lossy(&octets).into_owned();
        let json = serde_json::Value::from(text.as_str());
        let uuid = uuid_named_by(&octets);
        // A byte of Java's is a signed number.
        let codes: Vec<_> = octets.iter().map(|octet| octet.cast_signed().to_string()).collect();
        Ok(Self(Arc::new(Forms {
            configured: configured.to_owned(),
            pair: format!("{{{json}:{json}}}"),
            hstore: hstore_of(&text),
            texts: array_of(text.as_bytes()),
            bytes: array_of(format!("\\x{}", hex(&octets)).as_bytes()),
            codes: format!("{{{}}}", codes.join(",")),
            days: format!("{{{}}}", octets.iter().copied().map(day_of).collect::<Vec<_>>().join(",")),
            uuids: array_of(uuid.as_bytes()),
            uuid,
            text,
            octets,
        })))
    }

    /// In a string.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// In bytes, and one by one in numbers.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0.octets
    }

    /// As a UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.0.uuid
    }

    /// As a JSON object for an `hstore`: the text as key and as value.
    #[must_use]
    pub fn pair(&self) -> &str {
        &self.0.pair
    }

    /// The same as PostgreSQL's text of the `hstore`.
    pub(super) fn hstore(&self) -> &str {
        &self.0.hstore
    }

    /// The array with the placeholder, as PostgreSQL's text.
    pub(super) fn array_text(&self, element: &Codec) -> Option<&str> {
        Some(match &element.0 {
            Family::Text(TextKind::Uuid) => &self.0.uuids,
            Family::Text(TextKind::Tsvector | TextKind::RequiredTsvector) => return None,
            Family::Text(_) => &self.0.texts,
            Family::Int2 | Family::Int4 | Family::Int8 => &self.0.codes,
            // Days are integers too.
            Family::Date(date::Form::Days, _) => &self.0.days,
            Family::Bytea => &self.0.bytes,
            _ => return None,
        })
    }
}

impl Default for Placeholder {
    fn default() -> Self {
        Self::new(DEFAULT).expect("the default is a text")
    }
}

impl TryFrom<String> for Placeholder {
    type Error = PlaceholderError;

    fn try_from(configured: String) -> Result<Self, PlaceholderError> {
        Self::new(&configured)
    }
}

impl From<Placeholder> for String {
    fn from(placeholder: Placeholder) -> Self {
        placeholder.0.configured.clone()
    }
}

fn octets_of_hex(digits: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        }
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

/// The UUID of version 3 (RFC 9562) of a name without a namespace, as Java's `UUID.nameUUIDFromBytes` makes it.
fn uuid_named_by(octets: &[u8]) -> String {
    let mut number: [u8; 16] = Md5::digest(octets).into();
    number[6] = number[6] & 0x0f | 0x30;
    number[8] = number[8] & 0x3f | 0x80;
    let hex = hex(&number);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default());
    parts.join("-")
}

fn hex(octets: &[u8]) -> String {
    let digits = octets.iter().flat_map(|octet| [octet >> 4, octet & 0x0f]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// The date that is so many days behind 1970-01-01, or before it.
fn day_of(octet: u8) -> String {
    let mut text = Vec::new();
    let day = Value::Int(i32::from(octet.cast_signed()));
    date::render(day, date::Form::Days, &mut text).expect("half a year around 1970 is in the calendar");
    String::from_utf8_lossy(&text).into_owned()
}

fn hstore_of(text: &str) -> String {
    let mut pair = Vec::new();
    append_pair(text, Some(text), 0, &mut pair);
    String::from_utf8_lossy(&pair).into_owned()
}

fn array_of(item: &[u8]) -> String {
    let mut array = vec![b'{'];
    append_item(item, &mut array);
    array.push(b'}');
    String::from_utf8_lossy(&array).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_debezium_s_forms() {
        let placeholder = Placeholder::default();
        assert_eq!(placeholder.text(), DEFAULT);
        assert_eq!(placeholder.uuid(), "b68a35a7-17ad-35b3-af2a-ae46edb4545a");
        assert_eq!(placeholder.pair(), format!("{{\"{DEFAULT}\":\"{DEFAULT}\"}}"));
        assert!(placeholder.0.codes.starts_with("{95,95,100,101,"));
        assert_eq!(placeholder.0.bytes, r#"{"\\x5f5f646562657a69756d5f756e617661696c61626c655f76616c7565"}"#);
    }

    #[test]
    fn octets_in_hexadecimal_need_not_be_text() {
        let placeholder = Placeholder::new("hex:00fF61").unwrap();
        assert_eq!(placeholder.octets(), [0, 255, b'a']);
        assert_eq!(placeholder.text(), "\0\u{fffd}a");
        assert_eq!(placeholder.0.codes, "{0,-1,97}");
        assert_eq!(String::from(placeholder), "hex:00fF61");
        for bad in ["", "hex:", "hex:0", "hex:0g", "hex:é"] {
            assert_eq!(Placeholder::new(bad), Err(PlaceholderError), "{bad:?}");
        }
    }

    #[test]
    fn any_text_can_be_an_array_s_item() {
        let placeholder = Placeholder::new(r#"not "sent", NULL"#).unwrap();
        assert_eq!(placeholder.0.texts, r#"{"not \"sent\", NULL"}"#);
        assert_eq!(placeholder.pair(), r#"{"not \"sent\", NULL":"not \"sent\", NULL"}"#);
    }
}
