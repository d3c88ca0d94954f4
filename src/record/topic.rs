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

/// A regular expression (POSIX extended, as librdkafka takes it) for the topics of the tables that a glob over `schema.table`
/// matches. A glob without a point is a table of any schema.
#[must_use]
pub fn topic_pattern(prefix: &str, glob: &str) -> String {
    let (schema, table) = glob.split_once('.').unwrap_or(("*", glob));
    format!("^{}\\.{}\\.{}$", literal(prefix), glob_pattern(schema), glob_pattern(table))
}

fn glob_pattern(glob: &str) -> String {
    let mut pattern = String::with_capacity(glob.len() * 2);
    let mut in_class = false;
    for (index, character) in glob.char_indices() {
        match character {
            '[' | ']' => {
                in_class = character == '[';
                pattern.push(character);
            }
            '!' if in_class && glob[..index].ends_with('[') => pattern.push('^'),
            _ if in_class => pattern.push(character),
            '*' => pattern.push_str(".*"),
            '?' => pattern.push('.'),
            '{' => pattern.push('('),
            '}' => pattern.push(')'),
            ',' => pattern.push('|'),
            '_' => pattern.push_str("_(x5F_)?"),
            _ if is_legal(character) => pattern.push_str(&literal(&character.to_string())),
            _ => pattern.push_str(&format!("_x{:X}_", u32::from(character))),
        }
    }
    pattern
}

/// A text that stands for itself in a regular expression.
fn literal(text: &str) -> String {
    text.replace('.', "\\.")
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

/// The table of a topic, read back. Of a schema whose name has a point only what is before it is told apart, which is enough
/// for globs.
#[must_use]
pub fn table_of_topic(prefix: &str, topic: &str) -> Option<TableName> {
    let (schema, table) = topic.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?;
    Some(TableName::new(unescape(schema), unescape(table)))
}

fn unescape(escaped: &str) -> String {
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
