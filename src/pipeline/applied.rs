//! Which of the source's tables apply takes: it knows no more of them than the names of their topics.

use crate::{record::TopicNames, schema::TableName, source::publication::TablePatterns};

/// Whether apply takes the table. A topic's name may read as several tables', and one of them that is left out leaves all of them
/// out. A table whose topic would have no allowed name is none of capture's, and the patterns decide alone.
#[must_use]
pub fn is_applied(tables: &TablePatterns, names: &TopicNames, source: &TableName) -> bool {
    match names.of_table(source) {
        Ok(topic) => tables.choose(names.readings(&topic)).is_some(),
        Err(_) => tables.matches(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_left_out_by_every_table_that_its_topic_may_be_of() {
        let names = TopicNames::new("p");
        let patterns = |exclude: &str| TablePatterns::new(&["*.*".to_owned()], &[exclude.to_owned()]).unwrap();
        let table = TableName::new("a", "b.c");
        for left_out in ["a.*", "*.b.c", "*.c"] {
            assert!(!is_applied(&patterns(left_out), &names, &table), "{left_out}");
        }
        let (other, other_by_name) = (TableName::new("a", "b"), TableName::new("a", "c"));
        assert!(is_applied(&patterns("a.b"), &names, &table));
        assert!(is_applied(&patterns("*.c"), &names, &other) && is_applied(&patterns("a.b"), &names, &other_by_name));
    }
}
