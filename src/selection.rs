//! What is said of tables or columns by globs over their names.
//!
//! A pattern without wildcards is a name, and stronger than a glob. Globs have no order: two that say different things of the same
//! table or column contradict each other, which is an error and no choice.

use globset::{Glob, GlobBuilder, GlobMatcher};

use crate::retry::{Classify, Severity};

/// A glob over names that points separate: `schema.table`, `schema.table.column`.
#[derive(Clone, Debug)]
pub struct NamePattern {
    text: String,
    matcher: GlobMatcher,
    is_name: bool,
}

/// A pattern is no glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern} is no glob")]
pub struct PatternError {
    pattern: String,
    source: Option<globset::Error>,
}

impl Classify for PatternError {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        Some("Write the pattern as globs over names with points between them and no braces, like public.*.".into())
    }
}

/// Two patterns say different things of one name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the patterns {first} and {second} both match and say different things")]
pub struct Contradiction {
    /// One of them.
    pub first: String,
    /// The other one.
    pub second: String,
}

/// What holds for the names that patterns match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules<T>(Vec<(NamePattern, T)>);

impl<T> Default for Rules<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NamePattern {}

impl NamePattern {
    /// A pattern of so many names, cut at its first points; the last name may have more of them. `*` crosses no point between names.
    ///
    /// # Errors
    /// It is no glob. Fewer names than wanted match nothing.
    pub fn new(text: &str, names: usize) -> Result<Self, PatternError> {
        // A point within braces would be taken for one between names.
        if text.contains(['{', '}']) {
            return Err(PatternError { pattern: text.to_owned(), source: None });
        }
        let parts: Vec<&str> = text.splitn(names, '.').collect();
        let unfit = |source| PatternError { pattern: text.to_owned(), source: Some(source) };
        let matcher = glob(&parts).map_err(unfit)?.compile_matcher();
        Ok(Self { text: text.to_owned(), matcher, is_name: !text.contains(['*', '?', '[', '{', '\\']) })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has no wildcards.
    #[must_use]
    pub const fn is_name(&self) -> bool {
        self.is_name
    }

    /// Whether the names match.
    #[must_use]
    pub fn matches(&self, names: &[&str]) -> bool {
        self.matcher.is_match(path(names))
    }
}

impl<T: PartialEq> Rules<T> {
    /// Rules for so many names each.
    ///
    /// # Errors
    /// A pattern is no glob.
    pub fn new<'a>(names: usize, rules: impl IntoIterator<Item = (&'a str, T)>) -> Result<Self, PatternError> {
        let rule = |(text, value)| Ok((NamePattern::new(text, names)?, value));
        rules.into_iter().map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// What holds for the names; `None` if no pattern matches.
    ///
    /// # Errors
    /// Two globs match and say different things.
    pub fn find(&self, names: &[&str]) -> Result<Option<&T>, Contradiction> {
        let matching = || self.0.iter().filter(|(pattern, _)| pattern.matches(names));
        if let Some((_, value)) = matching().find(|(pattern, _)| pattern.is_name()) {
            return Ok(Some(value));
        }
        let Some((first, value)) = matching().next() else { return Ok(None) };
        match matching().find(|(_, other)| other != value) {
            Some((second, _)) => Err(Contradiction { first: first.text.clone(), second: second.text.clone() }),
            None => Ok(Some(value)),
        }
    }

    /// The patterns, with what each says.
    pub fn iter(&self) -> impl Iterator<Item = (&NamePattern, &T)> {
        self.0.iter().map(|(pattern, value)| (pattern, value))
    }

    /// Whether nothing is said of any name.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A glob over [paths](path) of names.
///
/// # Errors
/// It is none.
pub fn glob(parts: &[&str]) -> Result<Glob, globset::Error> {
    GlobBuilder::new(&path(parts)).literal_separator(true).build()
}

/// A glob's separator is a slash, which stands for the point between names; one inside of a name becomes a character that no name has.
#[must_use]
pub fn path(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| name.replace('/', "\u{1}")).collect();
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&'static str, u8)]) -> Rules<u8> {
        Rules::new(2, rules.iter().copied()).unwrap()
    }

    #[test]
    fn a_name_is_stronger_than_globs_and_globs_must_agree() {
        let rules = rules(&[("public.*", 1), ("*.orders", 2), ("public.orders", 3), ("*.users", 1)]);
        assert_eq!(rules.find(&["public", "orders"]), Ok(Some(&3)));
        assert_eq!(rules.find(&["shop", "orders"]), Ok(Some(&2)));
        assert_eq!(rules.find(&["public", "users"]), Ok(Some(&1)));
        assert_eq!(rules.find(&["shop", "things"]), Ok(None));
        let two = self::rules(&[("public.*", 1), ("*.orders", 2)]);
        let (first, second) = ("public.*".to_owned(), "*.orders".to_owned());
        assert_eq!(two.find(&["public", "orders"]), Err(Contradiction { first, second }));
    }

    #[test]
    fn a_star_matches_one_name_and_the_last_name_may_have_points() {
        let columns = Rules::new(3, [("public.*.mail", 1), ("public.t.a.b", 2), ("s.a/b.c", 3)]).unwrap();
        assert_eq!(columns.find(&["public", "users", "mail"]), Ok(Some(&1)));
        assert_eq!(columns.find(&["public", "users.more", "mail"]), Ok(Some(&1)));
        assert_eq!(columns.find(&["public", "t", "a.b"]), Ok(Some(&2)));
        assert_eq!(columns.find(&["s", "a/b", "c"]), Ok(Some(&3)));
        assert_eq!(columns.find(&["s", "a", "b"]), Ok(None));
    }
}
