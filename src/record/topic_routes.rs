//! Topics of some tables under other names than the rest has: by rule, as routers of topics do it elsewhere, but so that the table of
//! each topic can be read back.

use super::{
    topic_escape::{escape, is_legal, unescape},
    topic_template::Template,
};
use crate::{
    schema::TableName,
    selection::{Contradiction, Rules},
};

/// What a route must be; completes the sentence "… must be".
const EXPECTATION: &str = "a topic's name, or a template with {table} or with {schema} and {table}, once each and with something between them, {prefix} and {database} if wanted, and letters, digits, dots, underscores and hyphens";

/// The topics of the tables that one glob over `schema.table` matches.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// Of one table.
    One { table: TableName, topic: String },
    /// Of tables of one schema.
    Schema { schema: String, head: String, tail: String },
    /// Of any.
    Any(Template),
}

/// A route that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Its text.
    #[error("must be {EXPECTATION}")]
    Text,
    /// Rows of several tables in one topic would have keys in common.
    #[error(
        "would lead several tables to one topic: it needs {{table}}, and {{schema}} where the glob does not name the schema"
    )]
    Merges,
    /// Whatever topic somebody has would be one of a table.
    #[error("would take every topic for a table's: it needs {{prefix}}, or a text before or behind the names")]
    Bare,
    /// Its glob.
    #[error("is named by no glob over schema.table")]
    Glob,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routes(Rules<Route>);

impl Routes {
    /// Globs with their topics.
    pub(super) fn new<'a>(
        routes: impl IntoIterator<Item = (&'a str, &'a str)>,
        prefix: &str,
        database: &str,
    ) -> Result<Self, (String, RouteError)> {
        let route = |(glob, text): (&'a str, &'a str)| {
            let route = Route::new(glob, text, prefix, database).map_err(|error| (glob.to_owned(), error))?;
            Ok((glob, route))
        };
        let routes: Vec<_> = routes.into_iter().map(route).collect::<Result<_, _>>()?;
        Rules::new(2, routes).map(Self).map_err(|error| (error.to_string(), RouteError::Glob))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topic of a table; `None` where it has none of its own.
    pub(super) fn topic(&self, table: &TableName) -> Result<Option<String>, Contradiction> {
        Ok(self.0.find(&[&*table.schema, &*table.table])?.map(|route| route.topic(table)))
    }

    /// Tables that a topic may be of: which of them have it, their own topics tell.
    pub(super) fn candidates<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = TableName> + 'a {
        self.0.iter().flat_map(move |(_, route)| route.candidates(topic))
    }

    /// Regular expressions for their topics, as those of [`TopicNames::patterns`](super::TopicNames::patterns).
    pub(super) fn patterns(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(_, route)| format!("^{}$", route.pattern()))
    }

    /// Two of one text name all topics alike.
    pub(super) fn text(&self) -> String {
        let entries: Vec<_> =
            self.0.iter().map(|(pattern, route)| format!(" {}={}", pattern.text(), route.text())).collect();
        entries.concat()
    }
}

impl Route {
    fn new(glob: &str, text: &str, prefix: &str, database: &str) -> Result<Self, RouteError> {
        let (schema, table) = glob.split_once('.').ok_or(RouteError::Glob)?;
        let text = filled(text, prefix, database).ok_or(RouteError::Text)?;
        let is_name = |part: &str| !part.is_empty() && !part.contains(['*', '?', '[', '{', '\\']);
        match text.split_once("{table}") {
            Some(_) if text.contains("{schema}") => {
                let template = Template::of_names(&text).map_err(|_error| RouteError::Text)?;
                if template.is_bare() { Err(RouteError::Bare) } else { Ok(Self::Any(template)) }
            }
            Some(("", "")) => Err(RouteError::Bare),
            Some((head, tail)) if is_name(schema) => {
                Ok(Self::Schema { schema: schema.to_owned(), head: head.to_owned(), tail: tail.to_owned() })
            }
            None if is_name(schema) && is_name(table) && !text.contains("{schema}") => {
                Ok(Self::One { table: TableName::new(schema, table), topic: text })
            }
            _ => Err(RouteError::Merges),
        }
    }

    fn topic(&self, table: &TableName) -> String {
        match self {
            Self::One { topic, .. } => topic.clone(),
            Self::Schema { head, tail, .. } => format!("{head}{}{tail}", escape(&table.table)),
            Self::Any(template) => template.join(&escape(&table.schema), &escape(&table.table)),
        }
    }

    fn candidates(&self, topic: &str) -> Vec<TableName> {
        match self {
            Self::One { table, topic: own } if own == topic => vec![table.clone()],
            Self::One { .. } => Vec::new(),
            Self::Schema { schema, head, tail } => {
                let name = topic.strip_prefix(head.as_str()).and_then(|rest| rest.strip_suffix(tail.as_str()));
                name.map(|name| TableName::new(schema.as_str(), unescape(name))).into_iter().collect()
            }
            Self::Any(template) => template
                .splits(topic)
                .map(|(schema, table)| TableName::new(unescape(schema), unescape(table)))
                .collect(),
        }
    }

    fn pattern(&self) -> String {
        let literal = |text: &str| text.replace('.', "\\.");
        match self {
            Self::One { topic, .. } => literal(topic),
            Self::Schema { head, tail, .. } => format!("{}.*{}", literal(head), literal(tail)),
            Self::Any(template) => template.map(literal).join(".*", ".*"),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::One { topic, .. } => topic.clone(),
            Self::Schema { head, tail, .. } => format!("{head}{{table}}{tail}"),
            Self::Any(template) => template.join("{schema}", "{table}"),
        }
    }
}

/// The text with the fixed names in it, if it has nothing illegal and nothing twice.
fn filled(text: &str, prefix: &str, database: &str) -> Option<String> {
    let mut fixed = text.to_owned();
    for name in ["{prefix}", "{database}", "{schema}", "{table}"] {
        if text.matches(name).count() > 1 {
            return None;
        }
        fixed = fixed.replace(name, "");
    }
    let fits = !text.is_empty() && fixed.chars().all(is_legal);
    fits.then(|| text.replace("{prefix}", prefix).replace("{database}", &escape(database)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(routes: &[(&str, &str)]) -> Result<Routes, (String, RouteError)> {
        Routes::new(routes.iter().copied(), "p", "my db")
    }

    #[test]
    fn a_route_that_leads_two_tables_to_one_topic_is_refused() {
        let error = |glob, text| routes(&[(glob, text)]).unwrap_err().1;
        for (glob, text) in [
            ("public.*", "all"),
            ("*.orders", "orders"),
            ("*.*", "x-{table}"),
            ("a.b", "{schema}"),
            ("*.b", "{schema}"),
        ] {
            assert_eq!(error(glob, text), RouteError::Merges, "{glob} {text}");
        }
        for text in ["", "a b", "{table}{table}", "{schema}{table}", "{prefix}{prefix}", "{version}", "a/{table}"] {
            assert_eq!(error("public.*", text), RouteError::Text, "{text}");
        }
        assert_eq!(error("orders", "x"), RouteError::Glob);
        for text in ["{table}", "{table}.{schema}"] {
            assert_eq!(error("public.*", text), RouteError::Bare, "{text}");
        }
    }

    #[test]
    fn tables_have_the_topic_of_their_route_and_names_are_stronger_than_globs() {
        let routes = routes(&[
            ("public.orders", "orders-v2"),
            ("public.*", "{prefix}-{table}"),
            ("s*.*", "{table}-of-{schema}.{database}"),
        ])
        .unwrap();
        let topic = |schema, table| routes.topic(&TableName::new(schema, table)).unwrap();
        assert_eq!(topic("public", "orders").as_deref(), Some("orders-v2"));
        assert_eq!(topic("public", "Größe").as_deref(), Some("p-Gr_xF6__xDF_e"));
        assert_eq!(topic("sales", "x").as_deref(), Some("x-of-sales.my_x20_db"));
        assert_eq!(topic("other", "x"), None);
        let patterns: Vec<_> = routes.patterns().collect();
        assert_eq!(patterns, ["^orders-v2$", "^p-.*$", "^.*-of-.*\\.my_x20_db$"]);
    }
}
