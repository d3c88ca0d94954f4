//! The signal table: whose rows ask something of capture, as with Debezium (its manual, "Sending signals to a Debezium connector").
//!
//! An inserted row is a signal at the row's position in the stream, whether the table is captured or not; rows that were there before it was in
//! the publication are none, nor are updates, deletes and truncates. Columns are found by name, or, where three have other names, by their
//! order: id, type, data.

use std::collections::HashMap;

use crate::{
    event::{Datum, Tuple},
    pgoutput::message::{ColumnBody, RelationBody},
    schema::TableName,
    source::request::Request,
};

/// Types whose binary form is their text (`pg_type.dat`): text, varchar, char(n), name, json.
const TEXTS: [u32; 5] = [25, 1043, 1042, 19, 114];
/// The binary form has a version in front of the text.
const JSONB: u32 = 3802;

/// See the module.
pub(super) struct SignalTable {
    name: Option<TableName>,
    /// The columns by relation, or why no row of it can be read.
    relations: HashMap<u32, Result<Columns, &'static str>>,
}

/// Where a signal's parts stand in its row.
#[derive(Clone, Copy)]
struct Columns {
    kind: Place,
    data: Place,
}

#[derive(Clone, Copy)]
struct Place {
    index: usize,
    is_jsonb: bool,
}

impl SignalTable {
    /// `None` where there is none: no row is a signal.
    pub(super) fn new(name: Option<TableName>) -> Self {
        Self { name, relations: HashMap::new() }
    }

    /// The stream describes a relation.
    pub(super) fn announce(&mut self, body: &RelationBody) {
        let Some(name) = &self.name else { return };
        if name.schema == body.schema && name.table == body.table {
            self.relations.insert(body.oid, columns(&body.columns));
        } else {
            self.relations.remove(&body.oid);
        }
    }

    /// What a row asks for that was inserted into a relation; inside, why it cannot be followed. `None` if the row is no signal.
    pub(super) fn read(&self, relation: u32, row: &Tuple) -> Option<Result<Request, String>> {
        if self.relations.is_empty() {
            return None;
        }
        let columns = self.relations.get(&relation)?;
        Some(columns.map_err(ToOwned::to_owned).and_then(|columns| columns.read(row)))
    }
}

impl Columns {
    fn read(self, row: &Tuple) -> Result<Request, String> {
        let kind = self.kind.text(row, "type")?.ok_or("a row of the signal table has no type")?;
        Request::of_debezium(kind, self.data.text(row, "data")?)
    }
}

impl Place {
    fn text<'a>(self, row: &'a Tuple, column: &str) -> Result<Option<&'a str>, String> {
        let bytes = match row.get(self.index) {
            Some(Datum::Null) => return Ok(None),
            Some(Datum::Text(bytes)) => bytes,
            Some(Datum::Binary(bytes)) if self.is_jsonb => bytes.get(1..).unwrap_or_default(),
            Some(Datum::Binary(bytes)) => bytes,
            Some(Datum::Unchanged) | None => {
                return Err(format!("a row of the signal table comes without its {column}"));
            }
        };
        let text = std::str::from_utf8(bytes).map_err(|_invalid| format!("the {column} of a signal is no UTF-8"))?;
        Ok(Some(text))
    }
}

fn columns(all: &[ColumnBody]) -> Result<Columns, &'static str> {
    let named = |name: &str| all.iter().position(|column| *column.name == *name);
    let (kind, data) = match (named("type"), named("data")) {
        (Some(kind), Some(data)) => (kind, data),
        _ if all.len() == 3 => (1, 2),
        _ => return Err("the signal table has no columns type and data, nor three in the order id, type, data"),
    };
    let place = |index: usize| {
        let oid = all.get(index).map(|column| column.type_oid).unwrap_or_default();
        let is_jsonb = oid == JSONB;
        (is_jsonb || TEXTS.contains(&oid)).then_some(Place { index, is_jsonb })
    };
    let place =
        |index| place(index).ok_or("the signal table's columns type and data are to be text, varchar, json or jsonb");
    Ok(Columns { kind: place(kind)?, data: place(data)? })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::schema::ReplicaIdentity;

    fn body(table: &str, columns: &[(&str, u32)]) -> RelationBody {
        let column = |(name, type_oid): &(&str, u32)| ColumnBody {
            identity: false,
            name: Arc::from(*name),
            type_oid: *type_oid,
            typmod: -1,
        };
        RelationBody {
            xid: None,
            oid: 7,
            schema: "public".into(),
            table: table.into(),
            identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        }
    }

    fn told(columns: &[(&str, u32)], row: &Tuple) -> String {
        let mut table = SignalTable::new(Some(TableName::new("public", "signals")));
        table.announce(&body("signals", columns));
        match table.read(7, row) {
            Some(Ok(request)) => format!("{request:?}"),
            Some(Err(reason)) => reason,
            None => "no signal".to_owned(),
        }
    }

    fn text(value: &'static str) -> Datum {
        Datum::Text(Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn columns_are_found_by_name_or_by_their_order() {
        let row = vec![text("pause-snapshot"), Datum::Null, text("7")];
        assert_eq!(told(&[("type", 1043), ("data", 1043), ("id", 23)], &row), "Pause");
        let row = vec![text("7"), text("resume-snapshot"), Datum::Null];
        assert_eq!(told(&[("a", 23), ("b", 1043), ("c", 25)], &row), "GoOn");
        assert!(told(&[("a", 23), ("b", 1043)], &row).contains("no columns type and data"));
        assert!(told(&[("id", 23), ("type", 23), ("data", 25)], &row).contains("are to be text"));
    }

    #[test]
    fn a_value_in_binary_is_its_text_and_behind_a_version_in_jsonb() {
        let binary = |value: &'static [u8]| Datum::Binary(Bytes::from_static(value));
        let row = |data| vec![binary(b"1"), binary(b"stop-snapshot"), data];
        assert_eq!(told(&[("id", 25), ("type", 25), ("data", JSONB)], &row(binary(b"\x01{}"))), "Stop([])");
        assert_eq!(told(&[("id", 25), ("type", 25), ("data", 114)], &row(binary(b"{}"))), "Stop([])");
        assert!(told(&[("id", 25), ("type", 25), ("data", 25)], &row(binary(b"\xff"))).contains("no UTF-8"));
    }

    #[test]
    fn a_row_of_another_table_is_no_signal_and_none_is_without_a_type() {
        let columns = [("id", 25), ("type", 25), ("data", 25)];
        let row = vec![text("1"), Datum::Null, Datum::Null];
        assert!(told(&columns, &row).contains("no type"));
        let mut table = SignalTable::new(Some(TableName::new("public", "signals")));
        table.announce(&body("signals", &columns));
        table.announce(&body("renamed", &columns));
        assert!(table.read(7, &row).is_none());
        let mut none = SignalTable::new(None);
        none.announce(&body("signals", &columns));
        assert!(none.read(7, &row).is_none());
    }
}
