//! Topic names of tables.

use crate::{
    retry::{Classify, Severity},
    schema::TableName,
};

/// Kafka's limit.
const LONGEST: usize = 249;

/// A table has no legal topic name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic name of table {table} has {length} characters, Kafka allows {LONGEST}")]
pub struct TopicNameError {
    table: TableName,
    length: usize,
}

impl Classify for TopicNameError {
    fn severity(&self) -> Severity {
        Severity::Definite
    }

    fn hint(&self) -> Option<String> {
        Some("Choose a shorter topic prefix, or leave the table out.".into())
    }
}

/// The topic of a table: `<prefix>.<schema>.<table>`.
///
/// A character outside `[A-Za-z0-9._-]` becomes `_x`, its code point in capital hexadecimal, `_`; so does a `_` that would
/// otherwise look like the begin of such an escape, so that the name can be read back (trap T57). Points are kept, as Debezium
/// keeps them, so `a.b`.`c` and `a`.`b.c` share a topic: whoever publishes several tables refuses those that collide.
///
/// # Errors
/// The name is longer than Kafka allows.
pub fn topic_name(prefix: &str, table: &TableName) -> Result<String, TopicNameError> {
    let topic = format!("{prefix}.{}.{}", escape(&table.schema), escape(&table.table));
    if topic.len() > LONGEST {
        return Err(TopicNameError { table: table.clone(), length: topic.len() });
    }
    Ok(topic)
}

/// The topic of logical messages: `<prefix>.message`.
#[must_use]
pub fn message_topic(prefix: &str) -> String {
    format!("{prefix}.message")
}

fn escape(name: &str) -> String {
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

const fn is_legal(character: char) -> bool {
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
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_and_others_are_escaped() {
        let topic = |schema, table| topic_name("shop", &TableName::new(schema, table)).unwrap();
        assert_eq!(topic("public", "order_lines"), "shop.public.order_lines");
        assert_eq!(topic("my schema", "Größe"), "shop.my_x20_schema.Gr_xF6__xDF_e");
        assert_eq!(topic("public", "a_x2D_b"), "shop.public.a_x5F_x2D_b");
        assert_eq!(topic("public", "a-b"), "shop.public.a-b");
        let long = "t".repeat(240);
        assert!(topic_name("shop", &TableName::new("public", long)).is_err());
    }

    fn unescape(escaped: &str) -> String {
        let mut name = String::new();
        let mut rest = escaped;
        while let Some(at) = (0..rest.len()).find(|at| rest.is_char_boundary(*at) && begins_escape(&rest[*at..])) {
            name.push_str(&rest[..at]);
            let (digits, tail) = rest[at + 2..].split_once('_').unwrap();
            name.push(char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap());
            rest = tail;
        }
        name + rest
    }

    proptest! {
        // trap T57
        #[test]
        fn escaping_is_reversible(name in "([a_x2F]{0,6}|\\PC{0,2}){1,3}") {
            let escaped = escape(&name);
            prop_assert!(escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
            prop_assert_eq!(unescape(&escaped), name);
        }
    }

    #[test]
    fn names_that_debezium_lets_collide_differ() {
        // trap T57
        let mut topics = HashMap::new();
        for table in ["a b", "a_b", "a$b", "a-b", "a_x20_b", "a_x5F_b"] {
            assert_eq!(topics.insert(topic_name("p", &TableName::new("s", table)).unwrap(), table), None);
        }
    }
}
