//! Which rows a resync was about: conditions on key columns, as SQL that the target's own operators judge.
//!
//! The values are literals of the columns' types, which the server reads, and the operators are those of a unique index over the
//! column, named with their schema: what `<` means, the type of the column tells and not the search path (an extension's lies elsewhere).
//!
//! Nor does a comparison tell the same at both ends where values are equal whose texts differ (`citext`, a nondeterministic collation): the
//! source's column may be of a type that takes them for two. An order that depends on a collation is not the source's here: the same text may be within at one end and beyond at the other, so
//! that a row which the source has, and did not read, would pass for one that it does not have.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::{
    event::{Comparison, Condition},
    schema::{quote_identifier, quote_literal},
    sink::table::Target,
};

/// Why nothing can be told of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclear(pub String);

/// Operators of the unique indexes of table `$1`, by column and strategy of a B-tree (manual, "B-Tree Operator Classes"), and whether
/// their order depends on a collation.
const OPERATORS: &str = "
SELECT a.attname::text, s.amopstrategy, format('OPERATOR(%I.%s)', n.nspname, o.oprname), a.attcollation <> 0
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) AS k(attnum, opclass)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass c ON c.oid = k.opclass
JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype
JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary, i.indexrelid DESC";

/// The strategy of a comparison in a B-tree.
const fn strategy(comparison: Comparison) -> i16 {
    match comparison {
        Comparison::Less => 1,
        Comparison::AtMost => 2,
        Comparison::Equal => 3,
        Comparison::AtLeast => 4,
        Comparison::Greater => 5,
    }
}

/// A condition on the table as `t` that holds for the rows for which all of these hold; `true` if there are none.
pub async fn compile(
    client: &Client,
    (oid, target): (u32, &Target),
    conditions: &[Condition],
) -> Result<Result<String, Unclear>, tokio_postgres::Error> {
    if conditions.is_empty() {
        return Ok(Ok("true".to_owned()));
    }
    if let Some(column) = altered(client, target, conditions).await? {
        return Ok(Err(Unclear(format!(
            "the value of the resync's condition on column {column} is another one in the column's type here, so the source's has values that \
             this one has not"
        ))));
    }
    let rows = client.query(OPERATORS, &[&oid]).await?;
    let operator = |row: &tokio_postgres::Row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)));
    let operators: BTreeMap<(String, i16), (String, bool)> = rows.iter().map(operator).collect();
    Ok(conditions
        .iter()
        .map(|condition| {
            let is_exact = target.column(&condition.column).is_some_and(|column| column.canonical && !column.rounds);
            term(condition, &operators, is_exact)
        })
        .collect::<Result<Vec<_>, _>>()
        .map(|all| all.join(" AND ")))
}

/// The first column whose type has not the condition's value as the source writes it, such as a date for a time stamp.
async fn altered(
    client: &Client,
    target: &Target,
    conditions: &[Condition],
) -> Result<Option<String>, tokio_postgres::Error> {
    for Condition { column, value, .. } in conditions {
        let Some(described) = target.column(column) else { continue };
        let sql = format!("SELECT ({0}::{1})::text IS DISTINCT FROM {0}", quote_literal(value), described.type_sql);
        if client.query_one(&sql, &[]).await?.try_get(0)? {
            return Ok(Some(column.clone()));
        }
    }
    Ok(None)
}

/// `is_exact`: equal values of the column always have the same text.
fn term(
    condition: &Condition,
    operators: &BTreeMap<(String, i16), (String, bool)>,
    is_exact: bool,
) -> Result<String, Unclear> {
    let Condition { column, comparison, value } = condition;
    let Some((operator, is_collated)) = operators.get(&(column.clone(), strategy(*comparison))) else {
        return Err(Unclear(format!("column {column}, which the resync's condition names, is in no unique index")));
    };
    if !is_exact {
        return Err(Unclear(format!(
            "column {column}, which the resync's condition names, rounds values or takes some for equal whose texts differ, which the source \
             may take for others"
        )));
    }
    if *is_collated && *comparison != Comparison::Equal {
        return Err(Unclear(format!(
            "the order of column {column}, which the resync's condition names, depends on a collation, which may be another one at the \
             source"
        )));
    }
    Ok(format!("t.{} {operator} {}", quote_identifier(column), quote_literal(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_a_literal_behind_an_operator_of_its_column_or_nothing_can_be_told() {
        let operators = BTreeMap::from([
            (("id".to_owned(), 4), ("OPERATOR(pg_catalog.>=)".to_owned(), false)),
            (("name".to_owned(), 1), ("OPERATOR(pg_catalog.<)".to_owned(), true)),
            (("name".to_owned(), 3), ("OPERATOR(pg_catalog.=)".to_owned(), true)),
        ]);
        let term = |column: &str, comparison, value: &str| {
            term(&Condition { column: column.into(), comparison, value: value.into() }, &operators, true)
        };
        let inexact = Condition { column: "id".into(), comparison: Comparison::AtLeast, value: "secret".into() };
        let Unclear(why) = super::term(&inexact, &operators, false).unwrap_err();
        assert!(why.contains("id") && !why.contains("secret"), "{why}");
        assert_eq!(term("id", Comparison::AtLeast, "5").unwrap(), r#"t."id" OPERATOR(pg_catalog.>=) '5'"#);
        assert_eq!(term("name", Comparison::Equal, "it's").unwrap(), r#"t."name" OPERATOR(pg_catalog.=) 'it''s'"#);
        for (column, comparison) in [("name", Comparison::Less), ("id", Comparison::Less), ("other", Comparison::Equal)]
        {
            let Unclear(why) = term(column, comparison, "secret").unwrap_err();
            assert!(why.contains(column) && !why.contains("secret"), "{why}");
        }
    }
}
