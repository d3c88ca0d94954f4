//! Topic names of tables.

use super::{
    own_topic::is_own_topic,
    topic_escape::{escape, is_legal, unescape},
    topic_routes::{RouteError, Routes},
    topic_template::{Template, TemplateError},
};
use crate::{
    retry::{Classify, Severity},
    schema::TableName,
    selection::Contradiction,
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
    /// Two routes say different things of it.
    #[error("kafka.topics.routes of table {table}: {source}")]
    Contradiction {
        /// The table.
        table: TableName,
        /// The two.
        #[source]
        source: Contradiction,
    },
    /// It is one that walrelay keeps for itself.
    #[error("topic {topic} of table {table} has the name of one of walrelay's own topics")]
    Own {
        /// The table.
        table: TableName,
        /// Its topic.
        topic: String,
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
                "Choose kafka.topics.names (or routes) with a text between {schema} and {table} that no name holds, or leave the table out."
                    .into()
            }
            Self::Contradiction { .. } => "Name the table in kafka.topics.routes: a name is stronger than a glob.".into(),
            Self::Own { .. } => "Choose another kafka.prefix, kafka.topics.names or routes, or leave the table out.".into(),
        })
    }
}

/// How the topics of one source are named, and which table a topic is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    tables: Template,
    routes: Routes,
    messages: String,
    transactions: String,
    dead_letters: String,
}

impl TopicNames {
    /// Topics `<prefix>.<schema>.<table>`, `<prefix>.message`, `<prefix>.transaction` and `<prefix>.dead-letter`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            tables: Template::plain(prefix),
            routes: Routes::default(),
            messages: format!("{prefix}.message"),
            transactions: format!("{prefix}.transaction"),
            dead_letters: format!("{prefix}.dead-letter"),
        }
    }

    /// Topics by templates in which `{prefix}`, `{database}`, `{schema}` and `{table}` stand for the names; those of transactions
    /// and dead letters are `<prefix>.transaction` and `<prefix>.dead-letter`.
    ///
    /// # Errors
    /// What a template must be.
    pub fn of_templates(tables: &str, messages: &str, prefix: &str, database: &str) -> Result<Self, TemplateError> {
        let tables = Template::of_tables(tables, prefix, &escape(database))?;
        let messages = Template::of_messages(messages, prefix, &escape(database))?;
        let names = Self { tables, messages, ..Self::new(prefix) };
        if is_own_topic(&names.messages) { Err(TemplateError::OWN) } else { Ok(names) }
    }

    /// The same with the topic of transactions by a template.
    ///
    /// # Errors
    /// What a template must be.
    pub fn with_transactions(self, template: &str, prefix: &str, database: &str) -> Result<Self, TemplateError> {
        let transactions = Template::of_transactions(template, prefix, &escape(database))?;
        if is_own_topic(&transactions) { Err(TemplateError::OWN) } else { Ok(Self { transactions, ..self }) }
    }

    /// The same with the topic of dead letters by a template.
    ///
    /// # Errors
    /// What a template must be.
    pub fn with_dead_letters(self, template: &str, prefix: &str, database: &str) -> Result<Self, TemplateError> {
        let dead_letters = Template::of_dead_letters(template, prefix, &escape(database))?;
        if is_own_topic(&dead_letters) { Err(TemplateError::OWN) } else { Ok(Self { dead_letters, ..self }) }
    }

    /// The same with the topics of some tables by routes: globs over `schema.table` with names or templates.
    ///
    /// # Errors
    /// The glob of a route that cannot be, and why not.
    pub fn with_routes<'a>(
        self,
        routes: impl IntoIterator<Item = (&'a str, &'a str)>,
        prefix: &str,
        database: &str,
    ) -> Result<Self, (String, RouteError)> {
        Ok(Self { routes: Routes::new(routes, prefix, database)?, ..self })
    }

    /// The topic of a table by its route, or by the template.
    fn named(&self, table: &TableName) -> Result<String, Contradiction> {
        let of_template = || self.tables.join(&escape(&table.schema), &escape(&table.table));
        Ok(self.routes.topic(table)?.unwrap_or_else(of_template))
    }

    /// The topic of a table.
    ///
    /// Illegal characters are escaped, points are kept, as Debezium keeps them, so `a.b`.`c` and `a`.`b.c` share a topic where a
    /// point separates the two: whoever publishes several tables refuses those that collide.
    ///
    /// # Errors
    /// The name is longer than Kafka allows, or one of walrelay's own topics, or another separator than a point occurs in the
    /// names.
    pub fn of_table(&self, table: &TableName) -> Result<String, TopicNameError> {
        let contradiction = |source| TopicNameError::Contradiction { table: table.clone(), source };
        let topic = self.named(table).map_err(contradiction)?;
        if topic.len() > LONGEST {
            return Err(TopicNameError::TooLong { table: table.clone(), length: topic.len() });
        }
        if self.is_own(&topic) || topic == self.messages && !self.routes.is_empty() {
            return Err(TopicNameError::Own { table: table.clone(), topic });
        }
        match self.mistaken(table, &topic) {
            Some(other) => Err(TopicNameError::Ambiguous { table: table.clone(), topic, other }),
            None => Ok(topic),
        }
    }

    /// For which table this one's topic is taken in its place. Tables whose names only a point tells apart are taken for none: capture refuses
    /// those that share a topic.
    fn mistaken(&self, table: &TableName, topic: &str) -> Option<TableName> {
        let Some(first) = self.table_of(topic) else {
            return (!self.routes.is_empty()).then(|| table.clone());
        };
        let has_route = |table: &TableName| self.routes.topic(table).is_ok_and(|route| route.is_some());
        let is_told = self.tables.is_separated_by_points() && !has_route(table) && !has_route(&first);
        (first != *table && !is_told).then_some(first)
    }

    /// The topic of logical messages.
    #[must_use]
    pub fn messages(&self) -> &str {
        &self.messages
    }

    /// The topic that tells where transactions begin and end.
    #[must_use]
    pub fn transactions(&self) -> &str {
        &self.transactions
    }

    /// The topic of changes that are left out.
    #[must_use]
    pub fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    /// Regular expressions for these two, as [`Self::pattern`] gives them.
    pub fn patterns_beside(&self) -> impl Iterator<Item = String> {
        [&self.transactions, &self.dead_letters].into_iter().map(|topic| format!("^{}$", literal(topic)))
    }

    /// Whether it is one of walrelay's own topics, the topics beside the tables' included, however they are called.
    #[must_use]
    pub fn is_own(&self, topic: &str) -> bool {
        is_own_topic(topic) || topic == self.transactions || topic == self.dead_letters
    }

    /// The table of a topic, read back: the first of its [readings](Self::readings). Of walrelay's own topics there is none,
    /// however they are called.
    #[must_use]
    pub fn table_of(&self, topic: &str) -> Option<TableName> {
        self.readings(topic).next()
    }

    /// The tables that a topic may be of: where the text between the two names occurs in them too, it does not tell which.
    pub fn readings<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = TableName> + 'a {
        let names = self.tables.splits(topic);
        let tables = names.map(|(schema, table)| TableName::new(unescape(schema), unescape(table)));
        // Of those whose topics could be called so, those count whose topics are.
        let has_it =
            move |table: &TableName| self.routes.is_empty() || self.named(table).is_ok_and(|name| name == topic);
        let most = if self.tables.is_separated_by_points() { usize::MAX } else { 1 };
        let of_template = tables.filter(has_it).take(most);
        self.routes.candidates(topic).filter(has_it).chain(of_template).filter(move |_| !self.is_own(topic))
    }

    /// Regular expressions (POSIX extended, as librdkafka takes them) for the topics of the tables that globs over `schema.table`
    /// match. A glob without a point is a table of any schema. Topics of others may match too: which are wanted, their tables
    /// tell ([`Self::readings`]).
    #[must_use]
    pub fn patterns<'a>(&self, globs: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let of_template = globs.into_iter().map(|glob| self.pattern(glob));
        of_template.chain(self.routes.patterns()).collect()
    }

    fn pattern(&self, glob: &str) -> String {
        self.glob_pattern(glob, ".*").0
    }

    /// The same, if each topic that matches has a reading that the glob matches.
    #[must_use]
    pub fn exact_pattern(&self, glob: &str) -> Option<String> {
        let separator = self.tables.separator();
        let (pattern, is_exact) = self.glob_pattern(glob, &format!("[^{separator}]*"));
        (is_exact && separator.len() == 1 && self.routes.is_empty()).then_some(pattern)
    }

    /// The expression, with `any` for what `*` matches of the first name, and whether it is exact if the separator is not in that.
    fn glob_pattern(&self, glob: &str, any: &str) -> (String, bool) {
        let names = glob.split_once('.').unwrap_or(("*", glob));
        // The first name ends where the text between the names begins, and the second one is all the rest.
        let (any, first) = if self.tables.is_schema_first() { ((any, ".*"), names.0) } else { ((".*", any), names.1) };
        let ((schema, schema_is_exact), (table, table_is_exact)) =
            (name_pattern(names.0, any.0), name_pattern(names.1, any.1));
        let is_told_apart = !first.contains(self.tables.separator());
        let pattern = format!("^{}$", self.tables.map(literal).join(&schema, &table));
        (pattern, is_told_apart && schema_is_exact && table_is_exact)
    }

    /// The names with placeholders for schema and table: two of one text name all topics alike that sinks read.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {}{}", self.tables.join("{schema}", "{table}"), self.messages, self.routes.text())
    }
}

/// The expression for escaped names that a glob over names matches, with `any` for those that `*` matches, and whether it is
/// exact. An escaped character is as long as several, so that from `?`, a class or alternatives on everything matches.
fn name_pattern(glob: &str, any: &str) -> (String, bool) {
    let mut pattern = String::with_capacity(glob.len() * 2);
    for character in glob.chars() {
        match character {
            '?' | '[' | '{' | '\\' => return (pattern + ".*", false),
            '*' => pattern.push_str(any),
            '_' => pattern.push_str("_(x5F_)?"),
            _ if is_legal(character) => pattern.push_str(&literal(&character.to_string())),
            _ => pattern.push_str(&format!("_x{:X}_", u32::from(character))),
        }
    }
    (pattern, true)
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

    /// What capture names, apply reads back, by whatever route; and no topic is two tables'.
    #[test]
    fn topics_of_routes_are_read_back() {
        let routes =
            [("public.orders", "orders"), ("sales.*", "{prefix}.sales-{table}"), ("*.log_*", "l.{table}.{schema}")];
        let names = TopicNames::new("p").with_routes(routes, "p", "d").unwrap();
        for (schema, table, topic) in [
            ("public", "orders", "orders"),
            ("sales", "a b", "p.sales-a_x20_b"),
            ("x", "log_y", "l.log_y.x"),
            ("public", "lines", "p.public.lines"),
        ] {
            let table = TableName::new(schema, table);
            assert_eq!(names.of_table(&table).unwrap(), topic);
            assert_eq!(names.readings(topic).collect::<Vec<_>>(), [table]);
        }
        // They have other topics.
        for topic in ["p.public.orders", "p.sales.x", "p.x.log_y"] {
            assert_eq!(names.table_of(topic), None, "{topic}");
        }
        assert!(matches!(names.of_table(&TableName::new("sales", "log_x")), Err(TopicNameError::Contradiction { .. })));
        // The text between the names occurs in a schema's name: what the other reading is called has another topic.
        let split = TopicNames::new("p").with_routes([("my_app.*", "x-{schema}_{table}")], "p", "d").unwrap();
        let table = TableName::new("my_app", "orders");
        assert_eq!(split.of_table(&table).unwrap(), "x-my_app_orders");
        assert_eq!(split.readings("x-my_app_orders").collect::<Vec<_>>(), [table]);
        assert_eq!(split.of_table(&TableName::new("a.b", "c")).unwrap(), "p.a.b.c");
        // A route is stronger than what the template's reading would be.
        let routed = TopicNames::new("p").with_routes([("public.orders", "p.orders.v2")], "p", "d").unwrap();
        assert_eq!(routed.of_table(&TableName::new("public", "orders")).unwrap(), "p.orders.v2");
        assert_eq!(routed.table_of("p.orders.v2").unwrap().to_string(), "public.orders");
        let error = routed.of_table(&TableName::new("orders", "v2")).unwrap_err();
        assert!(matches!(error, TopicNameError::Ambiguous { .. }), "{error}");
        let plain = self::names("{prefix}_{schema}_{table}").with_routes([("a.b", "a-b")], "shop", "d").unwrap();
        assert_eq!(plain.readings("shop_public_order_lines").count(), 1);
        let taken = TopicNames::new("p").with_routes([("public.a", "p.public.b")], "p", "d").unwrap();
        let error = taken.of_table(&TableName::new("public", "b")).unwrap_err();
        assert!(matches!(error, TopicNameError::Ambiguous { .. }), "{error}");
        let own = TopicNames::new("p").with_routes([("public.a", "p.message")], "p", "d").unwrap();
        assert!(matches!(own.of_table(&TableName::new("public", "a")), Err(TopicNameError::Own { .. })));
        assert_eq!(names.exact_pattern("public.*"), None);
        let text =
            "p.{schema}.{table} p.message public.orders=orders sales.*=p.sales-{table} *.log_*=l.{table}.{schema}";
        assert_eq!(names.text(), text);
    }

    /// `*` crosses no separator: the first name has none, or another table would be left out in silence.
    #[test]
    fn a_pattern_that_says_to_be_exact_matches_no_other_table_s_topic() {
        let names = names("{prefix}_{schema}_{table}");
        // Not shop_public_old_orders, the topic of public.old_orders.
        assert_eq!(names.exact_pattern("*.orders").as_deref(), Some("^shop_[^_]*_orders$"));
        assert_eq!(TopicNames::new("p").exact_pattern("*.orders").as_deref(), Some("^p\\.[^.]*\\.orders$"));
        assert_eq!(TopicNames::new("p").exact_pattern("a b.o_*").as_deref(), Some("^p\\.a_x20_b\\.o_(x5F_)?.*$"));
        // The topic of my_app.orders reads as that of my.app_orders.
        assert_eq!(names.exact_pattern("my_app.orders"), None);
        for glob in ["public.order?", "public.{a,b}", "public.[ab]", "public.a\\*"] {
            assert_eq!(TopicNames::new("p").exact_pattern(glob), None, "{glob}");
        }
        assert_eq!(self::names("{prefix}.{schema}-of-{table}").exact_pattern("public.orders"), None);
        // An escaped character is one character of the name.
        assert_eq!(TopicNames::new("p").pattern("public.Gr??e"), "^p\\.public\\.Gr.*$");
        assert_eq!(TopicNames::new("p").pattern("{a,b}.[o-q]x"), "^p\\..*\\..*$");
    }

    /// Debezium's form does not tell `a.b`.`c` from `a`.`b.c`: a glob that matches one of them must not lose it.
    #[test]
    fn a_topic_with_several_readings_has_the_table_that_is_meant_among_them() {
        let plain = TopicNames::new("p");
        let read = |topic| plain.readings(topic).map(|table| table.to_string()).collect::<Vec<_>>();
        let tables = [TableName::new("a", "b.c"), TableName::new("a.b", "c")].map(|table| table.to_string());
        assert_eq!(read("p.a.b.c"), tables);
        assert_eq!(read("p.a.b"), ["a.b"]);
        assert_eq!(plain.pattern("*.c"), "^p\\..*\\.c$");
    }

    #[test]
    fn messages_get_no_topic_that_walrelay_keeps_for_itself() {
        for (prefix, messages) in [("shop", "walrelay.state.{prefix}"), ("walrelay.progress", "{prefix}.message")] {
            let names = TopicNames::of_templates("{prefix}-{schema}-{table}", messages, prefix, "");
            assert_eq!(names, Err(TemplateError::OWN), "{messages}");
        }
    }

    #[test]
    fn walrelay_s_own_topics_are_no_table_s() {
        let plain = TopicNames::new("walrelay");
        for (names, topic) in [
            (&plain, "walrelay.state.shop"),
            (&plain, "walrelay.progress.walrelay"),
            (&names("{schema}.{table}.{prefix}"), "walrelay.state.shop"),
            (&names("{schema}-{table}.{prefix}"), "__debezium-heartbeat.shop"),
        ] {
            assert_eq!(names.table_of(topic), None, "{topic}");
            let (schema, table) = names.tables.splits(topic).next().unwrap();
            let error = names.of_table(&TableName::new(schema, table)).unwrap_err();
            assert!(matches!(error, TopicNameError::Own { .. }), "{error}");
        }
        assert_eq!(plain.table_of("walrelay.public.state"), Some(TableName::new("public", "state")));
    }

    #[test]
    fn the_topic_of_transactions_is_no_table_s() {
        assert_eq!(TopicNames::new("p").transactions(), "p.transaction");
        let patterns: Vec<_> = TopicNames::new("p").patterns_beside().collect();
        assert_eq!(patterns, ["^p\\.transaction$", "^p\\.dead-letter$"]);
        let names = TopicNames::new("p").with_transactions("{prefix}.{database}.tx", "p", "my db").unwrap();
        assert_eq!(names.transactions(), "p.my_x20_db.tx");
        let names = TopicNames::new("p").with_transactions("{prefix}.public.tx", "p", "").unwrap();
        assert_eq!(names.table_of("p.public.tx"), None);
        let error = names.of_table(&TableName::new("public", "tx")).unwrap_err();
        assert!(matches!(error, TopicNameError::Own { .. }), "{error}");
        // Its name decides nothing for the sinks.
        assert_eq!(names.text(), TopicNames::new("p").text());
        for bad in ["transaction", "{prefix}.{table}", "{prefix} transaction"] {
            assert!(TopicNames::new("p").with_transactions(bad, "p", "").is_err(), "{bad}");
        }
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
