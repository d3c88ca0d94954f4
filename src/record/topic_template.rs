//! Templates of topic names: a text with `{prefix}`, `{database}`, `{schema}` and `{table}`.

use super::topic_escape::is_legal;

/// What a template must be; completes the sentence "… must be".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(&'static str);

impl TemplateError {
    /// The same as a text.
    #[must_use]
    pub const fn expectation(self) -> &'static str {
        self.0
    }

    /// The topic of messages would be one of walrelay's own.
    pub const OWN: Self = Self(
        "another name than walrelay's own topics have (walrelay.state., walrelay.progress., __debezium-heartbeat.)",
    );
}

const TABLES: TemplateError = TemplateError(
    "a template like \"{prefix}.{schema}.{table}\": these three once each, {database} if wanted, and letters, digits, dots, underscores and hyphens, at least one of them between {schema} and {table}",
);
const MESSAGES: TemplateError = TemplateError(
    "a template like \"{prefix}.message\": {prefix} once, {database} if wanted, and letters, digits, dots, underscores and hyphens",
);
const DEAD_LETTERS: TemplateError = TemplateError(
    "a template like \"{prefix}.dead-letter\": {prefix} once, {database} if wanted, and letters, digits, dots, underscores and hyphens",
);
const TRANSACTIONS: TemplateError = TemplateError(
    "a template like \"{prefix}.transaction\": {prefix} once, {database} if wanted, and letters, digits, dots, underscores and hyphens",
);

/// The topics of tables, but for the two names that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    head: String,
    separator: String,
    tail: String,
    /// Which of the two names is first.
    schema_first: bool,
}

impl Template {
    /// `<prefix>.<schema>.<table>`
    pub(super) fn plain(prefix: &str) -> Self {
        Self { head: format!("{prefix}."), separator: ".".into(), tail: String::new(), schema_first: true }
    }

    /// The template with prefix and database in their places.
    pub(super) fn of_tables(text: &str, prefix: &str, database: &str) -> Result<Self, TemplateError> {
        Self::of_names(&filled(text, prefix, database, &["{schema}", "{table}"]).ok_or(TABLES)?)
    }

    /// A template of which only the two names are open.
    pub(super) fn of_names(text: &str) -> Result<Self, TemplateError> {
        let (schema, table) = text.find("{schema}").zip(text.find("{table}")).ok_or(TABLES)?;
        let schema_first = schema < table;
        let (first, second) = if schema_first { ("{schema}", "{table}") } else { ("{table}", "{schema}") };
        let (head, rest) = text.split_once(first).ok_or(TABLES)?;
        let (separator, tail) = rest.split_once(second).ok_or(TABLES)?;
        if separator.is_empty() {
            return Err(TABLES);
        }
        Ok(Self { head: head.into(), separator: separator.into(), tail: tail.into(), schema_first })
    }

    /// The topic that a template without tables gives.
    pub(super) fn of_messages(text: &str, prefix: &str, database: &str) -> Result<String, TemplateError> {
        filled(text, prefix, database, &[]).ok_or(MESSAGES)
    }

    /// The same for the topic of transactions.
    pub(super) fn of_transactions(text: &str, prefix: &str, database: &str) -> Result<String, TemplateError> {
        filled(text, prefix, database, &[]).ok_or(TRANSACTIONS)
    }

    /// The same for the topic of dead letters.
    pub(super) fn of_dead_letters(text: &str, prefix: &str, database: &str) -> Result<String, TemplateError> {
        filled(text, prefix, database, &[]).ok_or(DEAD_LETTERS)
    }

    pub(super) fn join(&self, schema: &str, table: &str) -> String {
        let Self { head, separator, tail, schema_first } = self;
        let (first, second) = if *schema_first { (schema, table) } else { (table, schema) };
        format!("{head}{first}{separator}{second}{tail}")
    }

    /// Schema and table of a topic, for each place at which the separator stands.
    pub(super) fn splits<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        let rest = topic.strip_prefix(self.head.as_str());
        let names = rest.and_then(|names| names.strip_suffix(self.tail.as_str())).unwrap_or_default();
        names.match_indices(self.separator.as_str()).map(|(at, separator)| {
            let (first, second) = (&names[..at], &names[at + separator.len()..]);
            if self.schema_first { (first, second) } else { (second, first) }
        })
    }

    /// Whether nothing stands around the names.
    pub(super) const fn is_bare(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }

    /// Whether a point alone stands between the names.
    pub(super) fn is_separated_by_points(&self) -> bool {
        self.separator == "."
    }

    /// What stands between the names.
    pub(super) fn separator(&self) -> &str {
        &self.separator
    }

    /// Whether the schema is the first of the two names.
    pub(super) const fn is_schema_first(&self) -> bool {
        self.schema_first
    }

    /// The template with its fixed parts changed.
    pub(super) fn map(&self, change: impl Fn(&str) -> String) -> Self {
        let (head, separator, tail) = (change(&self.head), change(&self.separator), change(&self.tail));
        Self { head, separator, tail, schema_first: self.schema_first }
    }
}

/// The template with the two fixed names in it, if it holds each of `names` and the prefix once and nothing illegal.
fn filled(text: &str, prefix: &str, database: &str, names: &[&str]) -> Option<String> {
    let count = |name: &str| text.matches(name).count();
    let mut fixed = text.replace("{prefix}", "").replace("{database}", "");
    for name in names {
        fixed = fixed.replace(name, "");
    }
    let fits = count("{prefix}") == 1
        && count("{database}") <= 1
        && names.iter().all(|name| count(name) == 1)
        && fixed.chars().all(is_legal);
    fits.then(|| text.replace("{prefix}", prefix).replace("{database}", database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_must_name_every_table_apart() {
        let tables = |text| Template::of_tables(text, "p", "db");
        assert_eq!(tables("{prefix}.{schema}.{table}"), Ok(Template::plain("p")));
        for bad in [
            "",
            "{prefix}.{table}",
            "{schema}.{table}",
            "{prefix}.{schema}{table}",
            "{prefix}.{schema}.{table}.{table}",
            "{prefix}/{schema}.{table}",
            "{prefix}.{schema}.{table}.{version}",
            "{database}.{database}.{prefix}.{schema}.{table}",
        ] {
            assert_eq!(tables(bad), Err(TABLES), "{bad}");
        }
        assert_eq!(Template::of_messages("{database}-{prefix}_message", "p", "db").unwrap(), "db-p_message");
        for bad in ["message", "{prefix}.{table}", "{prefix} message"] {
            assert_eq!(Template::of_messages(bad, "p", "db"), Err(MESSAGES), "{bad}");
        }
    }
}
