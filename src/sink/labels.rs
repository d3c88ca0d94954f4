//! Labels that an enumeration has at the source and not at the target.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::{
    event::TableShape,
    schema::quote_literal,
    sink::table::{Enumeration, Evolution, Target},
};

/// Gives the target's enumerations the labels that the shape tells of, each in its place. Where that may not be, a row with the
/// label stops the table; others do not need it.
pub async fn add(client: &Client, target: &Target, shape: &TableShape, evolution: Evolution) {
    for sql in missing(target, shape) {
        let table = &target.name;
        if !evolution.allowed {
            tracing::warn!(%table, sql, "the target's enumeration lacks a label of the source's");
        } else if let Err(error) = client.batch_execute(&sql).await {
            let code = error.code().map_or("", |code| code.code());
            tracing::warn!(%table, sql, code, "the target's enumeration lacks a label of the source's, which it does not take");
        } else {
            tracing::info!(%table, sql, "the source's enumeration has a new label");
        }
    }
}

fn missing(target: &Target, shape: &TableShape) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut statements = Vec::new();
    for column in &shape.columns {
        let Some(Enumeration { name, labels }) = target.column(&column.name).and_then(|it| it.enumeration.as_ref())
        else {
            continue;
        };
        let is_known = |label: &str| labels.iter().any(|known| known == label);
        for (at, label) in column.labels.iter().enumerate().filter(|(_, label)| !is_known(label)) {
            let next = column.labels.iter().skip(at + 1).find(|label| is_known(label));
            let place = next.map(|next| format!(" BEFORE {}", quote_literal(next))).unwrap_or_default();
            let sql = format!("ALTER TYPE {name} ADD VALUE IF NOT EXISTS {}{place}", quote_literal(label));
            if told.insert(sql.clone()) {
                statements.push(sql);
            }
        }
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::ShapeColumn, schema::TableName, sink::table::TargetColumn};

    #[test]
    fn labels_are_added_once_and_in_the_sources_order() {
        let labels = ["new", "sad", "it's", "so so", "glad", "last"].map(Into::into).to_vec();
        let shape = ShapeColumn {
            name: "m".into(),
            type_sql: "public.mood".into(),
            guessed: false,
            nullable: true,
            missing: None,
            may_be_encoded: false,
            labels,
        };
        let other = ShapeColumn { name: "o".into(), ..shape.clone() };
        let name = TableName::new("public", "t");
        let shape = TableShape { name: name.clone(), columns: vec![shape, other], key: Vec::new() };
        let enumeration =
            Enumeration { name: "public.mood".into(), labels: ["sad", "glad", "own"].map(str::to_owned).to_vec() };
        let column = |name: &str, enumeration| TargetColumn {
            name: name.into(),
            type_sql: String::new(),
            generated: false,
            identity_always: false,
            canonical: true,
            rounds: false,
            enumeration,
            width: None,
        };
        let columns = vec![column("m", Some(enumeration.clone())), column("o", Some(enumeration))];
        let (unique, parents, children) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let target = Target { name, columns, unique, cascades: false, parents, children };
        let add = "ALTER TYPE public.mood ADD VALUE IF NOT EXISTS";
        let expected = [
            format!("{add} 'new' BEFORE 'sad'"),
            format!("{add} 'it''s' BEFORE 'glad'"),
            format!("{add} 'so so' BEFORE 'glad'"),
            format!("{add} 'last'"),
        ];
        assert_eq!(missing(&target, &shape), expected);
        let text = Target { columns: vec![column("m", None)], ..target };
        assert_eq!(missing(&text, &shape), [""; 0]);
    }
}
