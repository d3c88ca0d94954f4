//! The tables of docs/types.md and docs/events.md against the code, and against what Debezium wrote for the same columns.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};
use walrelay::types::{Codec, ColumnType, Modes, TypeKind};

use crate::{
    against_debezium::TABLES,
    support::{Pipe, golden},
};

const TYPES: &str = include_str!("../../docs/types.md");
const EVENTS: &str = include_str!("../../docs/events.md");

/// Built-in types with their OIDs (`pg_type.dat`) and the modifiers that their SQL has.
const BASES: [(&str, u32, i32); 58] = [
    ("boolean", 16, -1),
    ("bytea", 17, -1),
    ("\"char\"", 18, -1),
    ("name", 19, -1),
    ("bigint", 20, -1),
    ("smallint", 21, -1),
    ("integer", 23, -1),
    ("text", 25, -1),
    ("oid", 26, -1),
    ("json", 114, -1),
    ("xml", 142, -1),
    ("point", 600, -1),
    ("lseg", 601, -1),
    ("path", 602, -1),
    ("box", 603, -1),
    ("polygon", 604, -1),
    ("line", 628, -1),
    ("cidr", 650, -1),
    ("real", 700, -1),
    ("double precision", 701, -1),
    ("circle", 718, -1),
    ("macaddr8", 774, -1),
    ("money", 790, -1),
    ("macaddr", 829, -1),
    ("inet", 869, -1),
    ("character(5)", 1042, 9),
    ("character varying", 1043, -1),
    ("date", 1082, -1),
    ("time without time zone", 1083, -1),
    ("time(3) without time zone", 1083, 3),
    ("timestamp without time zone", 1114, -1),
    ("timestamp(3) without time zone", 1114, 3),
    ("timestamp with time zone", 1184, -1),
    ("interval", 1186, -1),
    ("time with time zone", 1266, -1),
    ("bit(1)", 1560, 1),
    ("bit(8)", 1560, 8),
    ("bit varying", 1562, -1),
    ("bit varying(1)", 1562, 1),
    ("numeric", 1700, -1),
    ("numeric(10,2)", 1700, (10 << 16 | 2) + 4),
    ("uuid", 2950, -1),
    ("pg_lsn", 3220, -1),
    ("tsvector", 3614, -1),
    ("tsquery", 3615, -1),
    ("jsonb", 3802, -1),
    ("int4range", 3904, -1),
    ("numrange", 3906, -1),
    ("tsrange", 3908, -1),
    ("tstzrange", 3910, -1),
    ("daterange", 3912, -1),
    ("int8range", 3926, -1),
    ("int4multirange", 4451, -1),
    ("xid8", 5069, -1),
    ("jsonpath", 4072, -1),
    ("xid", 28, -1),
    ("cid", 29, -1),
    ("tid", 27, -1),
];

fn column_type(sql: &str) -> ColumnType {
    let own = |kind| ColumnType { oid: 20_000, typmod: -1, sql: sql.into(), kind };
    if let Some(element) = sql.strip_suffix("[]") {
        return own(TypeKind::Array(column_type(element).into()));
    }
    match sql {
        "public.mood" => own(TypeKind::Enum(["sad", "ok", "happy"].map(Into::into).to_vec())),
        "public.posint" => own(TypeKind::Domain(column_type("integer").into())),
        "public.hstore" | "public.ltree" | "public.citext" => {
            own(TypeKind::Extension(sql.trim_start_matches("public.").into()))
        }
        _ => {
            let base = BASES.iter().find(|(name, ..)| *name == sql);
            let (_, oid, typmod) = base.unwrap_or_else(|| panic!("docs/types.md names a type {sql}"));
            ColumnType::base(*oid, *typmod, sql)
        }
    }
}

/// Avro type and semantic name of a field's type, whose null is taken off.
fn described(schema: &Json) -> (String, String) {
    match schema {
        Json::Array(branches) => described(branches.iter().find(|branch| *branch != "null").unwrap()),
        Json::String(name) if name.contains('.') => ("record".into(), name.clone()),
        Json::String(name) => (name.clone(), String::new()),
        Json::Object(object) => {
            let text = |key: &str| object.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
            (text("type"), text("connect.name"))
        }
        other => panic!("{other}"),
    }
}

fn ours(ty: &ColumnType) -> (String, String) {
    described(&Codec::of_column(ty, Modes::default()).schema(Map::new(), &mut Vec::new()))
}

/// The cells of the table that begins with this head.
fn table<'a>(text: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let lines = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let lines = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &'a str| {
        let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')).unwrap_or(line);
        inner.split('|').map(str::trim).collect()
    };
    lines.map(cells).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let mut unique = Vec::new();
    for part in parts.filter(|part| !part.is_empty()) {
        if !unique.contains(&part) {
            unique.push(part);
        }
    }
    unique.join(", ")
}

/// What Debezium wrote for columns of each type: Avro type and semantic name, or nothing where it left the column out.
fn debezium() -> BTreeMap<String, Option<(String, String)>> {
    let mut written = BTreeMap::new();
    for name in TABLES.into_iter().filter(|name| name.starts_with("t_")) {
        let golden = golden(name);
        let row = golden.default.value["fields"][0]["type"][1]["fields"].as_array().unwrap().clone();
        for column in &golden.relation.columns {
            let field = row.iter().find(|field| field["name"] == *column.name);
            written.insert(column.ty.sql.to_string(), field.map(|field| described(&field["type"])));
        }
    }
    written
}

#[test]
fn every_type_is_published_as_its_row_says() {
    let rows = table(TYPES, "| PostgreSQL | Avro |");
    let mut named = BTreeSet::new();
    for cells in &rows {
        let [types, avro, name, _, _] = cells[..] else { panic!("{cells:?}") };
        let types = quoted(types);
        assert!(types.iter().all(|sql| named.insert(*sql)), "a type has two rows: {types:?}");
        if avro == "as below it" {
            assert_eq!(ours(&column_type(types[0])), ours(&column_type("integer")));
            continue;
        }
        let found: Vec<_> = types.iter().map(|sql| ours(&column_type(sql))).collect();
        assert_eq!(avro, joined(found.iter().map(|(avro, _)| avro.clone())), "{types:?}");
        let names =
            joined(found.into_iter().map(|(_, name)| name).map(|name| format!("`{name}`")).filter(|name| name != "``"));
        assert_eq!(name, names, "{types:?}");
    }
    // Those beside it are types of system columns.
    let missing: Vec<_> =
        BASES.iter().filter(|(sql, oid, _)| !named.contains(sql) && ![27, 28, 29, 4072].contains(oid)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (sql, oid, typmod) in BASES {
        if !named.contains(sql) {
            assert_eq!(
                ours(&ColumnType::base(oid, typmod, sql)),
                ("string".into(), String::new()),
                "{sql} is no other"
            );
        }
    }
}

#[test]
fn what_the_rows_say_of_debezium_is_what_it_wrote() {
    let debezium = debezium();
    let mut compared = 0;
    for cells in table(TYPES, "| PostgreSQL | Avro |") {
        let [types, .., says] = cells[..] else { panic!("{cells:?}") };
        for sql in quoted(types) {
            let Some(theirs) = debezium.get(sql) else { continue };
            compared += 1;
            let same = theirs.as_ref() == Some(&ours(&column_type(sql)));
            assert_eq!(says.starts_with("the same"), same, "{sql}: Debezium has {theirs:?}, the row says {says}");
            assert_eq!(says.contains("left out"), theirs.is_none(), "{sql}: {says}");
            if let (false, Some((avro, name))) = (same, theirs) {
                assert!(says.contains(avro) && says.contains(name), "{sql}: {says}");
            }
        }
    }
    assert!(compared > 45, "only {compared} types were compared");
}

/// `[format] unknown_types = "omitted"` leaves out what the rows say Debezium leaves out.
#[test]
fn the_types_that_debezium_leaves_out_are_those_that_it_does_not_know() {
    for cells in table(TYPES, "| PostgreSQL | Avro |") {
        let [types, .., says] = cells[..] else { panic!("{cells:?}") };
        for sql in quoted(types) {
            assert_eq!(says.contains("left out"), !column_type(sql).is_known_to_debezium(), "{sql}: {says}");
        }
    }
}

#[test]
fn the_envelope_has_the_fields_that_the_table_lists() {
    let plan = Pipe::new("p").plan(&golden("t_int").relation);
    let schema: Json = serde_json::from_str(plan.value_schema()).unwrap();
    let names = |fields: &Json| -> Vec<String> {
        fields.as_array().unwrap().iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
    };
    let rows = table(EVENTS, "| field | |");
    let listed: Vec<&str> = rows.iter().flat_map(|cells| quoted(cells[0])).collect();
    let mut fields = names(&schema["fields"]);
    fields.sort_by_key(|field| listed.iter().position(|name| name == field));
    assert_eq!(listed, fields);
    let source = schema["fields"].as_array().unwrap().iter().find(|field| field["name"] == "source").unwrap();
    let row = rows.iter().find(|cells| cells[0] == "`source`").unwrap();
    assert_eq!(quoted(row[1]), names(&source["type"]["fields"]));
}

/// Everything that walrelay adds under a name of its own is told to those who read the topics.
#[test]
fn every_header_and_parameter_of_its_own_is_documented() {
    let sources = [include_str!("../../src/record/header.rs"), include_str!("../../src/avro/schema.rs")];
    let own: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.split('"').skip(1).step_by(2))
        .filter(|text| text.starts_with("walrelay.") && !text.contains(' '))
        .collect();
    assert!(own.len() >= 8, "{own:?}");
    for name in own {
        assert!(EVENTS.contains(&format!("`{name}`")), "docs/events.md does not tell of {name}");
    }
    let rows = table(EVENTS, "| header | content |");
    let listed: BTreeSet<&str> = rows.iter().flat_map(|cells| quoted(cells[0])).collect();
    for name in ["walrelay.unchanged", "walrelay.text", "walrelay.pos", "walrelay.barrier"] {
        assert!(listed.contains(name), "{name} is not in the table of headers");
    }
}
