//! The names of schemas and tables as parts of topics, which allow letters, digits, points, underscores and hyphens.
//!
//! A character outside `[A-Za-z0-9._-]` becomes `_x`, its code point in capital hexadecimal, `_`; so does a `_` that would
//! otherwise look like the begin of such an escape, so that the name can be read back (trap T57).

/// The name as a topic may have it.
pub(super) fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (index, character) in name.char_indices() {
        if is_legal(character) && !(character == '_' && begins_escape(&name[index..])) {
            escaped.push(character);
        } else {
            escaped.extend(["_x", &format!("{:X}", u32::from(character)), "_"]);
        }
    }
    escaped
}

/// The name that was escaped.
pub(super) fn unescape(escaped: &str) -> String {
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.char_indices().map(|(at, _)| at).find(|at| begins_escape(&rest[*at..])) {
        let (before, escape) = rest.split_at(at);
        name.push_str(before);
        let code = escape.strip_prefix("_x").and_then(|escape| escape.split_once('_'));
        let Some((digits, tail)) = code else { break };
        let character = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        name.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = tail;
    }
    name + rest
}

/// Whether a topic's name may have the character.
pub(super) const fn is_legal(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

/// Whether the text, once the rest of it is escaped, begins like an escaped character: an illegal character's escape begins
/// with the `_` that would end this one.
fn begins_escape(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("_x") else { return false };
    let after = rest.trim_start_matches(|digit: char| matches!(digit, '0'..='9' | 'A'..='F'));
    after.len() < rest.len() && after.starts_with(|next: char| next == '_' || !is_legal(next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // trap T57
        #[test]
        fn escaping_is_reversible(name in "([a_x2F]{0,6}|\\PC{0,2}){1,3}") {
            let escaped = escape(&name);
            prop_assert!(escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
