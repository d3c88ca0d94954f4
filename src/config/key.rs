//! What a configuration key is and what its values must be.

use toml::Value;

use super::{
    rule::Rule,
    value::{Bound, ByteSize, Period},
};

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path: section and name.
    pub path: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Its default as TOML; `None`: not set.
    pub default: Option<&'static str>,
    /// What it means, as a sentence or two.
    pub doc: &'static str,
}

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text that fits a rule.
    Text(Rule),
    /// A text that is never shown.
    Secret,
    /// A path of a file that must be readable.
    File,
    /// A whole number in a range.
    Integer(i64, i64),
    /// true or false.
    Bool,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A [`ByteSize`].
    Size,
    /// A [`ByteSize`] or `unlimited`.
    SizeBound,
    /// A [`Period`].
    Period,
    /// A [`Period`] or `unlimited`.
    PeriodBound,
    /// A list of texts that fit a rule.
    List(Rule),
    /// A table of properties that pass through, except those for which the function names a reason.
    Properties(fn(&str) -> Option<&'static str>),
    /// A table of texts.
    Names(Rule),
}

impl Kind {
    /// Whether the key is a table whose names are free.
    #[must_use]
    pub const fn is_open_table(self) -> bool {
        matches!(self, Self::Properties(_) | Self::Names(_))
    }

    /// Checks a value (of an open table: one entry's value).
    ///
    /// # Errors
    /// What was expected instead; completes the sentence "… must be".
    pub fn check(self, value: &Value) -> Result<(), String> {
        let text = value.as_str();
        let fits = match self {
            Self::Text(rule) | Self::Names(rule) => return check_text(rule, text),
            Self::List(rule) => return check_list(rule, value),
            Self::Secret | Self::File => text.is_some_and(|text| !text.is_empty()),
            Self::Integer(low, high) => value.as_integer().is_some_and(|number| (low..=high).contains(&number)),
            Self::Bool => value.is_bool(),
            Self::Choice(choices) => text.is_some_and(|text| choices.contains(&text)),
            Self::Size => is_byte_count(value) || parses::<ByteSize>(text),
            Self::SizeBound => is_byte_count(value) || parses::<Bound<ByteSize>>(text),
            Self::Period => parses::<Period>(text),
            Self::PeriodBound => parses::<Bound<Period>>(text),
            Self::Properties(_) => {
                matches!(value, Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Float(_))
            }
        };
        if fits { Ok(()) } else { Err(self.expectation()) }
    }

    /// What the kind accepts, for documentation and messages.
    #[must_use]
    pub fn expectation(self) -> String {
        match self {
            Self::Text(rule) | Self::Names(rule) => rule("").err().unwrap_or("a text").to_owned(),
            Self::List(rule) => format!("a list, each item {}", rule("").err().unwrap_or("a text")),
            Self::Secret => "a text that is not empty".to_owned(),
            Self::File => "the path of a file".to_owned(),
            Self::Integer(low, i64::MAX) => format!("a whole number from {low}"),
            Self::Integer(low, high) => format!("a whole number from {low} to {high}"),
            Self::Bool => "true or false".to_owned(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::Size => "a size like \"64MiB\"".to_owned(),
            Self::SizeBound => "a size like \"64MiB\", or \"unlimited\"".to_owned(),
            Self::Period => "a period like \"500ms\", \"10s\" or \"5m\"".to_owned(),
            Self::PeriodBound => "a period like \"10s\" or \"7d\", or \"unlimited\"".to_owned(),
            Self::Properties(_) => "a text, a number, true or false".to_owned(),
        }
    }
}

fn check_text(rule: Rule, text: Option<&str>) -> Result<(), String> {
    text.map_or(Err("a text"), rule).map_err(str::to_owned)
}

fn check_list(rule: Rule, value: &Value) -> Result<(), String> {
    let items = value.as_array().ok_or_else(|| Kind::List(rule).expectation())?;
    items.iter().try_for_each(|item| {
        check_text(rule, item.as_str()).map_err(|expected| format!("a list, each item {expected}"))
    })
}

fn parses<T: std::str::FromStr>(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.parse::<T>().is_ok())
}

fn is_byte_count(value: &Value) -> bool {
    value.as_integer().is_some_and(|number| number >= 0)
}
