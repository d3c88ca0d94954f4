//! Columns on their way between the halves of a key move (PROTOCOL 9, trap T28).
//!
//! The delete half's lane leaves the unchanged columns of its row, under the position of the create half, in the
//! transaction that deletes the row; the create half's lane takes and removes them, or waits until they are there.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio_postgres::{Client, types::PgLsn};

use crate::{
    event::Cell,
    lsn::Position,
    schema::quote_literal,
    sink::{
        batch::{MovedRows, Run},
        buffer::is_partial,
        error::Error,
        ledger::{Ledger, position_of},
        plan::Plan,
    },
};

/// Reads what the create halves of a run need and do not get from their own batch.
pub async fn load(client: &Client, ledger: &Ledger, run: &Run<'_>, moved: &mut MovedRows) -> Result<(), Error> {
    let lacking = |event: &crate::event::ChangeEvent| event.after.as_deref().is_some_and(is_partial);
    let wanted: Vec<Position> = run
        .events
        .iter()
        .filter(|(_, _, event)| event.key_move && lacking(event) && !moved.known.contains_key(&event.position))
        .map(|(_, _, event)| event.position)
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let plan = &run.plan;
    let sql = format!(
        "SELECT epoch, commit_lsn, ordinal, found, columns::text FROM {} WHERE instance = $1 AND topic = $2 AND \
         (epoch, commit_lsn, ordinal) IN (SELECT * FROM unnest($3::bigint[], $4::pg_lsn[], $5::bigint[]))",
        ledger.table("moved")
    );
    let epochs: Vec<i64> = wanted.iter().map(|position| i64::from(position.epoch)).collect();
    let commits: Vec<PgLsn> = wanted.iter().map(|position| PgLsn::from(position.commit.0)).collect();
    let ordinals: Vec<i64> = wanted.iter().map(|position| i64::try_from(position.ordinal).unwrap_or(-1)).collect();
    let rows = client
        .query(&sql, &[&ledger.instance(), &&*plan.topic, &epochs, &commits, &ordinals])
        .await
        .map_err(Error::query("read moved columns"))?;
    for row in &rows {
        let position = position_of(row.get(0), row.get(1), row.get(2))?;
        let cells = if row.get(3) { Some(parse(plan, row.get(4))?) } else { None };
        moved.known.insert(position, cells);
    }
    Ok(())
}

fn parse(plan: &Plan, text: &str) -> Result<Vec<(usize, Cell)>, Error> {
    let damaged = || Error::Damaged(format!("moved columns of topic {} are not readable", plan.topic));
    let columns: Map<String, Value> = serde_json::from_str(text).map_err(|_| damaged())?;
    let mut cells = Vec::with_capacity(columns.len());
    for (name, value) in columns {
        // A column that the create half's shape has no more is of no use to it.
        let Some(index) = plan.shape.columns.iter().position(|column| *column.name == *name) else { continue };
        let cell = match value {
            Value::Null => Cell::Null,
            Value::String(text) => Cell::Text(text.into()),
            _ => return Err(damaged()),
        };
        cells.push((index, cell));
    }
    Ok(cells)
}

/// Statements that leave and remove moved columns; empty or ending in a semicolon.
pub fn statements(ledger: &Ledger, plan: &Plan, moved: &MovedRows) -> Result<String, Error> {
    let (table, instance, topic) = (ledger.table("moved"), ledger.instance_literal(), quote_literal(&plan.topic));
    let mut sql = String::new();
    if !moved.left.is_empty() {
        let mut rows = Vec::with_capacity(moved.left.len());
        for (position, cells) in &moved.left {
            let columns = quote_literal(&write(plan, cells.as_deref().unwrap_or_default())?);
            let Position { epoch, commit, ordinal } = position;
            rows.push(format!("({instance}, {topic}, {epoch}, '{commit}', {ordinal}, {}, {columns})", cells.is_some()));
        }
        sql.push_str(&format!("INSERT INTO {table} VALUES {} ON CONFLICT DO NOTHING;", rows.join(", ")));
    }
    if !moved.taken.is_empty() {
        let rows = moved
            .taken
            .iter()
            .map(|at| format!("({}::bigint, '{}'::pg_lsn, {}::bigint)", at.epoch, at.commit, at.ordinal));
        sql.push_str(&format!(
            "DELETE FROM {table} WHERE instance = {instance} AND topic = {topic} AND \
             (epoch, commit_lsn, ordinal) IN ({});",
            rows.collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(sql)
}

fn write(plan: &Plan, cells: &[(Arc<str>, Cell)]) -> Result<String, Error> {
    let mut columns = Map::with_capacity(cells.len());
    for (name, cell) in cells {
        let value = match cell {
            Cell::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Value::from(text),
                Err(_) => return Err(Error::Damaged(format!("a moved column of topic {} is not UTF-8", plan.topic))),
            },
            Cell::Null | Cell::Unchanged => Value::Null,
        };
        columns.insert(name.to_string(), value);
    }
    serde_json::to_string(&columns).map_err(|error| Error::Damaged(error.to_string()))
}
