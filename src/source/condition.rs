//! Which rows of a table are read again: a conjunction of comparisons over columns of its key.
//!
//! Both ends judge by it, the source which rows it reads and the target which rows may go, so it must mean the same at both. Only key columns
//! count: a row whose other columns have drifted at the target would be judged otherwise there. Values are texts of the server that read
//! them, with nothing in them that depends on a session or on the time. An order that each server has of its own (collations, enumerations)
//! is no bound.

use std::{iter::Peekable, str::Chars};

use super::error::Error;
use crate::{
    event::{Comparison, Condition},
    postgres::Client,
    schema::{Column, Relation, quote_identifier, quote_literal},
};

/// As SQL writes it.
const fn operator(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::Less => "<",
        Comparison::AtMost => "<=",
        Comparison::Greater => ">",
        Comparison::AtLeast => ">=",
    }
}

/// The condition for people: without a value's type.
#[must_use]
pub fn text(Condition { column, comparison, value }: &Condition) -> String {
    format!("{} {} {}", quote_identifier(column), operator(*comparison), quote_literal(value))
}

/// The text is no conjunction of comparisons.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot read {text:?} as comparisons of key columns with values: expected {expected} at character {at}")]
pub struct ParseConditionError {
    text: String,
    expected: &'static str,
    at: usize,
}

/// Reads `id >= 5 AND "Kind" = 'a'`: names as SQL has them, values as numbers or as literals in single quotes.
///
/// # Errors
/// Anything else.
pub fn parse(text: &str) -> Result<Vec<Condition>, ParseConditionError> {
    let mut parser = Parser { text, chars: text.chars().peekable(), at: 0 };
    let mut conditions = vec![parser.condition()?];
    while parser.next_word().is_some() {
        parser.and()?;
        conditions.push(parser.condition()?);
    }
    Ok(conditions)
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<Chars<'a>>,
    /// Characters that are read.
    at: usize,
}

impl Parser<'_> {
    fn wrong(&self, expected: &'static str) -> ParseConditionError {
        ParseConditionError { text: self.text.to_owned(), expected, at: self.at + 1 }
    }

    fn take(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.at += usize::from(next.is_some());
        next
    }

    fn take_if(&mut self, fits: impl Fn(char) -> bool) -> Option<char> {
        let next = self.chars.next_if(|next| fits(*next));
        self.at += usize::from(next.is_some());
        next
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.take_if(&fits)).collect()
    }

    /// The first character behind white space.
    fn next_word(&mut self) -> Option<char> {
        while self.take_if(char::is_whitespace).is_some() {}
        self.chars.peek().copied()
    }

    fn and(&mut self) -> Result<(), ParseConditionError> {
        let wrong = self.wrong("AND");
        let word = self.take_while(|next| next.is_alphanumeric() || next == '_');
        if word.eq_ignore_ascii_case("and") { Ok(()) } else { Err(wrong) }
    }

    fn condition(&mut self) -> Result<Condition, ParseConditionError> {
        Ok(Condition { column: self.column()?, comparison: self.comparison()?, value: self.value()? })
    }

    fn column(&mut self) -> Result<String, ParseConditionError> {
        match self.next_word() {
            Some('"') => self.quoted('"', "a column's name in double quotes"),
            Some(first) if first.is_alphabetic() || first == '_' => {
                let name = self.take_while(|next| next.is_alphanumeric() || next == '_' || next == '$');
                Ok(name.to_lowercase())
            }
            _ => Err(self.wrong("a column's name")),
        }
    }

    fn comparison(&mut self) -> Result<Comparison, ParseConditionError> {
        self.next_word();
        let wrong = self.wrong("one of =, <, <=, >, >=");
        let comparison = match self.take_while(|next| "=<>!".contains(next)).as_str() {
            "=" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ">" => Comparison::Greater,
            ">=" => Comparison::AtLeast,
            _ => return Err(wrong),
        };
        Ok(comparison)
    }

    fn value(&mut self) -> Result<String, ParseConditionError> {
        match self.next_word() {
            Some('\'') => self.quoted('\'', "a value in single quotes"),
            Some(first) if first.is_ascii_digit() || "+-.".contains(first) => {
                let wrong = self.wrong("a number");
                let text = self.take_while(|next| next.is_ascii_alphanumeric() || "+-.".contains(next));
                if text.parse::<f64>().is_ok() { Ok(text) } else { Err(wrong) }
            }
            _ => Err(self.wrong("a number, or a value in single quotes")),
        }
    }

    /// What stands between two quotes; one that is doubled stands for itself.
    fn quoted(&mut self, quote: char, what: &'static str) -> Result<String, ParseConditionError> {
        let wrong = self.wrong(what);
        self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                Some(next) if next == quote => {
                    if self.take_if(|next| next == quote).is_none() {
                        return Ok(text);
                    }
                    text.push(quote);
                }
                Some(next) => text.push(next),
                None => return Err(wrong),
            }
        }
    }
}

/// The type of a column's values: below a domain, whose checks may refuse a value of an existing row, and run anybody's function.
fn type_of(column: &Column) -> &str {
    &column.ty.below_domains().sql
}

/// The condition as SQL; `None` if a column is none of the key's any more. Without any it holds for all rows.
#[must_use]
pub fn sql(relation: &Relation, conditions: &[Condition]) -> Option<String> {
    let text = |Condition { column, comparison, value }: &Condition| {
        let column = key_column(relation, column)?;
        let (name, value) = (quote_identifier(&column.name), quote_literal(value));
        Some(format!("{name} {} {value}::{}", operator(*comparison), type_of(column)))
    };
    let texts: Option<Vec<_>> = conditions.iter().map(text).collect();
    Some(texts?.join(" AND "))
}

/// The same conditions with values as the server writes them; inside, why they are none for this table. `client` must have the settings
/// of every connection of walrelay.
pub async fn settle(
    client: &Client,
    relation: &Relation,
    conditions: &[Condition],
) -> Result<Result<Vec<Condition>, String>, Error> {
    let mut settled = Vec::with_capacity(conditions.len());
    for Condition { column: name, comparison, value } in conditions {
        let Some(column) = key_column(relation, name) else {
            return Ok(Err(format!("column {name} is not part of the key of table {}", relation.name)));
        };
        if *comparison != Comparison::Equal && !is_ordered_alike(column) {
            let ty = &column.ty.sql;
            return Ok(Err(format!(
                "values of column {name} ({ty}) may be ordered otherwise at a target: only = is possible"
            )));
        }
        // The server takes no statement with this in it.
        if value.contains('\0') {
            return Ok(Err(format!("the value for column {name} has a character that no value has (NUL)")));
        }
        let sql = format!("SELECT ({}::{})::text", quote_literal(value), type_of(column));
        let failed = |error| Error::statement(format!("reading a value of column {name}"), error);
        let value: Option<String> = match client.query_one(&sql, &[]).await {
            Ok(row) => row.try_get(0).map_err(failed)?,
            Err(error) if error.code().is_some_and(|code| is_of_value(code.code())) => None,
            Err(error) => return Err(failed(error)),
        };
        let Some(value) = value else {
            return Ok(Err(format!("the value for column {name} is none of type {}", column.ty.sql)));
        };
        settled.push(Condition { column: name.clone(), comparison: *comparison, value });
    }
    Ok(Ok(settled))
}

/// Whether an error of the server is the value's, or its type's: any but of the connection (08), of concurrency (40), of resources (53), of what
/// is in use (55) and of an operator (57), which a repeat may mend.
fn is_of_value(code: &str) -> bool {
    !["08", "40", "53", "55", "57"].iter().any(|class| code.starts_with(class))
}

fn key_column<'a>(relation: &'a Relation, name: &str) -> Option<&'a Column> {
    let mut key = relation.key.iter().filter_map(|index| relation.columns.get(*index));
    key.find(|column| *column.name == *name)
}

/// Whether every server orders the values in the same way: of `bool`, `bytea`, `int8`, `int2`, `int4`, `oid`, `float4`, `float8`, `date`,
/// `time`, `timestamp`, `timestamptz`, `numeric` and `uuid` that is so.
fn is_ordered_alike(column: &Column) -> bool {
    let ty = column.ty.below_domains();
    ty.kind.is_base() && [16, 17, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1700, 2950].contains(&ty.oid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        schema::{Lineage, ReplicaIdentity, TableName},
        types::{ColumnType, TypeKind},
    };

    fn condition(column: &str, comparison: Comparison, value: &str) -> Condition {
        Condition { column: column.to_owned(), comparison, value: value.to_owned() }
    }

    fn column(name: &str, oid: u32, sql: &str) -> Column {
        Column {
            name: name.into(),
            attnum: None,
            ty: ColumnType::base(oid, -1, sql),
            nullable: false,
            nondeterministic: false,
            optional: false,
            added: false,
            default: None,
            missing: None,
            null_items: false,
        }
    }

    fn relation() -> Relation {
        Relation {
            oid: 1,
            name: TableName::new("public", "t"),
            identity: ReplicaIdentity::Default,
            columns: vec![column("id", 23, "integer"), column("n", 23, "integer"), column("Kind", 25, "text")],
            key: vec![0, 2],
            lineage: Lineage::default(),
        }
    }

    #[test]
    fn a_conjunction_is_read() {
        let parsed = parse(" ID>=5 and id < -1.5e3 AND \"Ki\"\"nd\" = 'it''s AND' ").unwrap();
        let expected = [
            condition("id", Comparison::AtLeast, "5"),
            condition("id", Comparison::Less, "-1.5e3"),
            condition("Ki\"nd", Comparison::Equal, "it's AND"),
        ];
        assert_eq!(parsed, expected);
    }

    #[test]
    fn anything_else_is_refused_at_its_place() {
        for (text, at) in [
            ("", 1),
            ("id", 3),
            ("id = ", 6),
            ("id <> 5", 4),
            ("id = 5 OR id = 6", 8),
            ("id = 5;", 7),
            ("id = 5 AND", 11),
            ("5 = id", 1),
            ("id = other", 6),
            ("id = 'open", 6),
            ("\"open = 5", 1),
            ("id = 1-2", 6),
            ("lower(id) = 5", 6),
        ] {
            assert_eq!(parse(text).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn every_text_is_read_or_refused_at_every_length() {
        let text = "id >= 5 AND \"Kind\" = 'it''s'";
        for end in 0..=text.len() {
            let _read = parse(&text[..end]);
        }
    }

    #[test]
    fn sql_has_literals_of_the_column_s_type_and_no_column_outside_the_key() {
        let conditions = [condition("id", Comparison::Less, "5"), condition("Kind", Comparison::Equal, "a'; DROP")];
        assert_eq!(sql(&relation(), &conditions).unwrap(), "\"id\" < '5'::integer AND \"Kind\" = 'a''; DROP'::text");
        assert_eq!(sql(&relation(), &[condition("n", Comparison::Equal, "5")]), None);
        assert_eq!(sql(&relation(), &[]).as_deref(), Some(""));
    }

    #[test]
    fn a_value_has_the_type_below_a_domain() {
        let mut relation = relation();
        let below = relation.columns[0].ty.clone();
        relation.columns[0].ty = ColumnType { kind: TypeKind::Domain(below.into()), ..ColumnType::base(9, -1, "even") };
        let conditions = [condition("id", Comparison::Equal, "5")];
        assert_eq!(sql(&relation, &conditions).unwrap(), "\"id\" = '5'::integer");
    }

    #[test]
    fn what_a_repeat_may_mend_is_not_the_value_s_error() {
        for code in ["22P02", "22003", "23514", "42704", "42501", "XX000", "P0001", "0A000", "54001"] {
            assert!(is_of_value(code), "{code}");
        }
        for code in ["08006", "40001", "53200", "55P03", "57P01", "57014"] {
            assert!(!is_of_value(code), "{code}");
        }
    }

    #[test]
    fn only_what_every_server_orders_alike_is_a_bound() {
        assert!(is_ordered_alike(&column("id", 23, "integer")) && !is_ordered_alike(&column("id", 25, "text")));
    }
}
