//! Names that Avro forbids, escaped reversibly.
//!
//! A legal name (`[A-Za-z_][A-Za-z0-9_]*`) stays as it is. Another is written as Debezium's `avro_unicode` does: each illegal
//! UTF-16 unit and each `_` as `_u` and four lower-case hexadecimal digits. A legal name that already contains such a sequence
//! is escaped too, so that no two names share one escaped form (trap T57).

use std::borrow::Cow;

/// The name as Avro may have it.
#[must_use]
pub fn escape(name: &str) -> Cow<'_, str> {
    if is_legal(name) && escape_at(name).is_none() {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len() + 5);
    for (index, unit) in name.encode_utf16().enumerate() {
        match u8::try_from(unit).map(char::from) {
            Ok(letter) if letter.is_ascii_alphabetic() || (letter.is_ascii_digit() && index > 0) => {
                escaped.push(letter);
            }
            _ => escaped.extend(["_u", &format!("{unit:04x}")]),
        }
    }
    Cow::Owned(escaped)
}

/// The name that was escaped.
#[must_use]
pub fn unescape(escaped: &str) -> Cow<'_, str> {
    if escape_at(escaped).is_none() {
        return Cow::Borrowed(escaped);
    }
    let mut units = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((index, unit)) = escape_at(rest) {
        units.extend(rest[..index].encode_utf16());
        units.push(unit);
        rest = &rest[index + 6..];
    }
    units.extend(rest.encode_utf16());
    Cow::Owned(String::from_utf16_lossy(&units))
}

/// A topic as the namespace of its records: each part between points escaped by itself. Avro has no part without a letter: one
/// that is empty, as names with several points in a row or at their end make it, is written as a point, which no part holds.
#[must_use]
pub fn namespace(topic: &str) -> String {
    let part = |part: &str| if part.is_empty() { "_u002e".into() } else { escape(part).into_owned() };
    topic.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn is_legal(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// Where the first escape sequence begins, and the unit that it stands for.
fn escape_at(name: &str) -> Option<(usize, u16)> {
    name.match_indices("_u").find_map(|(index, _)| {
        let digits = name.get(index + 2..index + 6)?;
        let lower = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        lower.then(|| u16::from_str_radix(digits, 16).ok()).flatten().map(|unit| (index, unit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn legal_names_stay_and_others_are_escaped_as_debezium_does() {
        assert_eq!(escape("customer_id"), "customer_id");
        assert_eq!(escape("a-b_c"), "a_u002db_u005fc");
        assert_eq!(escape("1st"), "_u0031st");
        assert_eq!(escape("a_u002db"), "a_u005fu002db");
        assert_eq!(namespace("shop-1.public.order lines"), "shop_u002d1.public.order_u0020lines");
        assert_eq!(namespace("shop.a..b."), "shop.a._u002e.b._u002e");
    }

    proptest! {
        // trap T57
        #[test]
        fn escaping_is_reversible_and_legal(name in "([a-z_]{0,4}(_u00[0-9a-f]{2})?\\PC{0,4}){1,2}") {
            prop_assume!(!name.is_empty());
            let escaped = escape(&name);
            prop_assert!(is_legal(&escaped), "{}", escaped);
            prop_assert_eq!(unescape(&escaped), name.as_str());
        }
    }
}
