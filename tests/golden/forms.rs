//! Under whatever forms consumers choose, apply gets the rows back, and no form invents a value without saying so.

use serde_json::json;
use walrelay::{
    avro::content::{Content, Nullability, Parameters},
    event::{Cell, Datum, RowChange},
    record::Decoded,
    schema::{Column, ReplicaIdentity},
    types::{BinaryMode, ColumnType, DecimalMode, Modes, TypeKind},
};

use crate::{
    oracle,
    support::{Pipe, column, relation, texts},
};

/// A column `name` that cannot be null.
fn required(name: &str, oid: u32, typmod: i32, sql: &str) -> Column {
    Column { nullable: false, ..column(name, oid, typmod, sql) }
}

/// A column `name` of arrays of a type.
fn array(name: &str, oid: u32, element: ColumnType) -> Column {
    let sql = format!("{}[]", element.sql);
    let mut column = required(name, oid, element.typmod, &sql);
    column.ty.kind = TypeKind::Array(element.into());
    column
}

const CONTENTS: [(Nullability, Parameters); 4] = [
    (Nullability::Widened, Parameters::All),
    (Nullability::Source, Parameters::All),
    (Nullability::Widened, Parameters::None),
    (Nullability::Source, Parameters::None),
];

/// Trap T27: what stands in for a value is not read as one.
#[test]
fn a_value_that_was_not_sent_is_unchanged_under_every_form() {
    let hstore =
        ColumnType { kind: TypeKind::Extension("hstore".into()), ..ColumnType::base(17_000, -1, "public.hstore") };
    let mut columns = vec![
        required("id", 23, -1, "integer"),
        Column { ty: hstore.clone(), ..column("h", 17_000, -1, "public.hstore") },
        Column { ty: hstore, ..required("nh", 17_000, -1, "public.hstore") },
        column("b", 17, -1, "bytea"),
        column("vb", 1562, 200, "bit varying(200)"),
        column("z", 1184, -1, "timestamp with time zone"),
        array("texts", 1009, ColumnType::base(25, -1, "text")),
        array("numbers", 1007, ColumnType::base(23, -1, "integer")),
    ];
    for (name, oid, typmod, sql) in [
        ("nb", 17, -1, "bytea"),
        ("nvb", 1562, 200, "bit varying(200)"),
        ("nt", 25, -1, "text"),
        ("nn", 1700, -1, "numeric"),
        ("nd", 1700, (10 << 16 | 2) + 4, "numeric(10,2)"),
        ("nj", 3802, -1, "jsonb"),
        ("nz", 1184, -1, "timestamp with time zone"),
        ("ni", 1186, -1, "interval"),
    ] {
        columns.push(required(name, oid, typmod, sql));
    }
    let relation = relation(ReplicaIdentity::Default, 1, columns);
    let mut row = vec![Datum::Unchanged; relation.columns.len()];
    row[0] = texts(&[Some("1")]).remove(0);
    for (nullability, parameters) in CONTENTS {
        for (decimal, binary) in [
            (DecimalMode::Precise, BinaryMode::Bytes),
            (DecimalMode::String, BinaryMode::Base64),
            (DecimalMode::Double, BinaryMode::Hex),
        ] {
            let modes = Modes { decimal, binary, ..Modes::default() };
            let mut pipe = Pipe::with_forms("p", modes, Content { nullability, parameters, ..Content::default() });
            let plan = pipe.plan(&relation);
            let record = pipe.encode(&plan, &RowChange::Update { old: None, new: row.clone() }).unwrap().remove(0);
            let decoded = pipe.decode("p.public.t", &record);
            let Decoded::Event(event) = decoded.unwrap_or_else(|error| panic!("{modes:?}: {error:?}")) else {
                panic!("no event")
            };
            let after = event.after.unwrap();
            assert_eq!(after[0], Cell::Text("1".into()));
            assert!(after[1..].iter().all(|cell| *cell == Cell::Unchanged), "{modes:?}: {after:?}");
        }
    }
}
