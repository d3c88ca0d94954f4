//! Topic names of tables.

use super::{
    topic_escape::{escape, is_legal, unescape},
    topic_template::{Template, TemplateError},
};
use crate::{
    retry::{Classify, Severity},
    schema::TableName,
};

/// Kafka's limit.
const LONGEST: usize = 249;

/// A table has no topic name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// It is too long.
    #[error("topic name of table {table} has {length} characters, Kafka allows {LONGEST}")]
    TooLong {
        /// The table.
        table: TableName,
        /// Its topic's length.
        length: usize,
    },
    /// It reads as that of another table.
    #[error("topic {topic} of table {table} reads as that of table {other}")]
    Ambiguous {
        /// The table.
        table: TableName,
        /// Its topic.
        topic: String,
        /// What apply would take it for.
        other: TableName,
    },
}

impl Classify for TopicNameError {
    fn severity(&self) -> Severity {
        Severity::Definite
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooLong { .. } => "Choose a shorter topic prefix, or leave the table out.".into(),
            Self::Ambiguous { .. } => {
                "Choose kafka.topics.names with a text between {schema} and {table} that no name holds, or leave the table out."
                    .into()
            }
        })
    }
}

/// How the topics of one source are named, and which table a topic is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    tables: Template,
    messages: String,
}

impl TopicNames {
    /// Topics `<prefix>.<schema>.<table>` and `<prefix>.message`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { tables: Template::plain(prefix), messages: format!("{prefix}.message") }
    }

    /// Topics by templates in which `{prefix}`, `{database}`, `{schema}` and `{table}` stand for the names.
    ///
    /// # Errors
    /// What a template must be.
    pub fn of_templates(tables: &str, messages: &str, prefix: &str, database: &str) -> Result<Self, TemplateError> {
        let tables = Template::of_tables(tables, prefix, &escape(database))?;
        Ok(Self { tables, messages: Template::of_messages(messages, prefix, &escape(database))? })
    }

    /// The topic of a table.
    ///
    /// Illegal characters are escaped, points are kept, as Debezium keeps them, so `a.b`.`c` and `a`.`b.c` share a topic where a
    /// point separates the two: whoever publishes several tables refuses those that collide.
    ///
    /// # Errors
    /// The name is longer than Kafka allows, or another separator than a point occurs in the names.
    pub fn of_table(&self, table: &TableName) -> Result<String, TopicNameError> {
        let topic = self.tables.join(&escape(&table.schema), &escape(&table.table));
        if topic.len() > LONGEST {
            return Err(TopicNameError::TooLong { table: table.clone(), length: topic.len() });
        }
        match self.table_of(&topic) {
            Some(other) if other != *table && !self.tables.is_separated_by_points() => {
                Err(TopicNameError::Ambiguous { table: table.clone(), topic, other })
            }
            _ => Ok(topic),
        }
    }

    /// The topic of logical messages.
    #[must_use]
    pub fn messages(&self) -> &str {
        &self.messages
    }

    /// The table of a topic, read back. Of a schema whose name has a point only what is before it is told apart, which is enough
    /// for globs.
    #[must_use]
    pub fn table_of(&self, topic: &str) -> Option<TableName> {
        let (schema, table) = self.tables.split(topic)?;
        Some(TableName::new(unescape(schema), unescape(table)))
    }

    /// A regular expression (POSIX extended, as librdkafka takes it) for the topics of the tables that a glob over `schema.table`
    /// matches. A glob without a point is a table of any schema.
    #[must_use]
    pub fn pattern(&self, glob: &str) -> String {
        let (schema, table) = glob.split_once('.').unwrap_or(("*", glob));
        let pattern = self.tables.map(literal).join(&glob_pattern(schema), &glob_pattern(table));
        format!("^{pattern}$")
    }

    /// The names with placeholders for schema and table: two of one text name all topics alike.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {}", self.tables.join("{schema}", "{table}"), self.messages)
    }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn ordinary_names_stay_and_others_are_escaped() {
        let topic = |schema, table| TopicNames::new("shop").of_table(&TableName::new(schema, table)).unwrap();
        assert_eq!(topic("public", "order_lines"), "shop.public.order_lines");
        assert_eq!(topic("my schema", "Größe"), "shop.my_x20_schema.Gr_xF6__xDF_e");
        assert_eq!(topic("public", "a_x2D_b"), "shop.public.a_x5F_x2D_b");
        assert_eq!(topic("public", "a-b"), "shop.public.a-b");
        let long = "t".repeat(240);
        assert!(TopicNames::new("shop").of_table(&TableName::new("public", long)).is_err());
    }

    #[test]
    fn names_that_debezium_lets_collide_differ() {
        // trap T57
        let (names, mut topics) = (TopicNames::new("p"), HashMap::new());
        for table in ["a b", "a_b", "a$b", "a-b", "a_x20_b", "a_x5F_b"] {
            assert_eq!(topics.insert(names.of_table(&TableName::new("s", table)).unwrap(), table), None);
        }
    }

    fn names(tables: &str) -> TopicNames {
        TopicNames::of_templates(tables, "{prefix}-message", "shop", "my db").unwrap()
    }

    /// What capture names, apply reads back: the table behind each topic is the same for both.
    #[test]
    fn a_template_s_topics_are_read_back() {
        for (template, topic) in [
            ("{prefix}-{schema}-{table}", "shop-public-order_lines"),
            ("cdc.{prefix}.{database}.{table}.of.{schema}.v1", "cdc.shop.my_x20_db.order_lines.of.public.v1"),
        ] {
            let (names, table) = (names(template), TableName::new("public", "order_lines"));
            assert_eq!(names.of_table(&table).unwrap(), topic);
            assert_eq!(names.table_of(topic), Some(table));
            for other in ["shop.public", "other-public-order_lines", "shop-public", ""] {
                assert_eq!(names.table_of(other), None, "{template} {other}");
            }
        }
        assert_eq!(names("{prefix}-{schema}-{table}").messages(), "shop-message");
    }

    /// Trap T57: a topic that reads as another table's would be applied to that.
    #[test]
    fn a_table_whose_topic_reads_as_another_s_is_refused() {
        let names = names("{prefix}_{schema}_{table}");
        assert_eq!(names.of_table(&TableName::new("public", "order_lines")).unwrap(), "shop_public_order_lines");
        let error = names.of_table(&TableName::new("my_app", "orders")).unwrap_err();
        assert!(matches!(&error, TopicNameError::Ambiguous { other, .. } if other.to_string() == "my.app_orders"));
        // Debezium's own form keeps points, and tables that share a topic are refused together.
        assert_eq!(TopicNames::new("p").of_table(&TableName::new("a.b", "c")).unwrap(), "p.a.b.c");
    }

    #[test]
    fn patterns_follow_the_template() {
        assert_eq!(TopicNames::new("p.q").pattern("public.o*"), "^p\\.q\\.public\\.o.*$");
        assert_eq!(names("{prefix}-{table}.{schema}").pattern("public.o*"), "^shop-o.*\\.public$");
    }

    #[test]
    fn names_are_compared_by_what_they_give() {
        assert_eq!(
            TopicNames::of_templates("{prefix}.{schema}.{table}", "{prefix}.message", "p", "").unwrap(),
            TopicNames::new("p")
        );
        assert_eq!(TopicNames::new("p").text(), "p.{schema}.{table} p.message");
    }
}
