//! What walrelay means to write differently from Debezium, each with its reason. Everything else must be equal.
//!
//! Each difference is applied to the golden side (or taken off ours) and notes that it was needed; one that no table needs any
//! longer fails the test.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::{Map, Value as Json, json};
use walrelay::schema::{Relation, ReplicaIdentity};

/// The tables whose records are compared; Debezium captured others besides.
pub const TABLES: [&str; 25] = [
    "ev_basic",
    "ev_compkey",
    "ev_ddl",
    "ev_full",
    "ev_pkupdate",
    "ev_toast",
    "ev_truncate",
    "t_array",
    "t_bool",
    "t_bytea",
    "t_date",
    "t_domain",
    "t_enum",
    "t_float",
    "t_geo",
    "t_int",
    "t_interval",
    "t_json",
    "t_net",
    "t_numeric",
    "t_range",
    "t_text",
    "t_time",
    "t_timestamp",
    "t_uuid",
];

/// Name and reason.
pub const ALL: [(&str, &str); 17] = [
    ("nullable", "row fields outside the key are nullable, since a delete holds only the key"),
    ("no defaults", "a default in the schema makes Debezium's readers put it in place of NULL"),
    ("own parameters", "walrelay.type and walrelay.nullable let the sink create a faithful column"),
    ("source types", "Debezium names source types only by column.propagate.source.type; walrelay always does"),
    ("serial", "Debezium says SERIAL for a streamed integer with a sequence, INT4 for the same in a snapshot"),
    ("nullable items", "items of an array are nullable, whatever their type; Debezium's enums in arrays are not"),
    ("lower bounds", "an array that does not begin at 1 travels in walrelay.text besides; Debezium loses its bounds"),
    ("names", "the default configuration leaves a name null in every streamed event"),
    ("intervals", "what microseconds cannot tell apart in an interval travels in walrelay.text besides"),
    (
        "numeric's length",
        "Debezium gives a numeric without scale two lengths, by whether snapshot or stream came first",
    ),
    (
        "offsets",
        "a time with time zone keeps its offset, and 24:00, if only in walrelay.text; Debezium turns both into UTC",
    ),
    ("bit lengths", "the leading zeros of a bit varying are in walrelay.text; Debezium loses them"),
    ("display scale", "1.500 stays 1.500, if only in walrelay.text; Debezium drops the zeros, which PostgreSQL shows"),
    ("before", "a delete's before has null for what PostgreSQL did not send, Debezium invents a zero value"),
    (
        "special values",
        "what the Avro type cannot hold is null and travels in walrelay.text; Debezium loses it or writes garbage",
    ),
    ("snapshot position", "snapshot rows carry their position in the transaction block; Debezium has none"),
    ("transaction", "the transaction block is always on; Debezium's default is off"),
];

/// Those that `compatibility = "debezium"` leaves: Debezium's own inconsistencies.
pub const COMPATIBLE: [&str; 2] = ["serial", "numeric's length"];

/// Columns, by table and row id, whose value the Avro type cannot hold, with their text.
const SPECIAL: [(&str, i64, &str, &str); 8] = [
    ("t_numeric", 4, "n10_2", "NaN"),
    ("t_numeric", 4, "n", "NaN"),
    ("t_numeric", 4, "n10_0", "NaN"),
    ("t_numeric", 5, "n", "Infinity"),
    ("t_numeric", 6, "n", "-Infinity"),
    ("t_date", 11, "d", "infinity"),
    ("t_date", 12, "d", "-infinity"),
    ("t_timestamp", 8, "ts", "294276-12-31 23:59:59.999999"),
];

/// Times with time zone, by row id: column, and what walrelay writes.
const OFFSETS: [(i64, &str, &str); 6] = [
    (1, "tz", "12:34:56.789012+05:30"),
    (1, "tz3", "12:34:56.789-03:00"),
    (3, "tz", "24:00:00Z"),
    (3, "tz3", "24:00:00-12:00"),
    (4, "tz", "00:00:00+15:59"),
    (4, "tz3", "23:59:59.999-15:59"),
];

/// Intervals, by row id: column and text.
const INTERVALS: [(i64, &str, &str); 12] = [
    (1, "i", "1 year 2 mons 3 days 04:05:06.789012"),
    (1, "iym", "2 years 3 mons"),
    (1, "inn", "1 day"),
    (2, "i", "-1 years -2 mons +3 days -04:05:06.789012"),
    (2, "iym", "-1 mons"),
    (2, "inn", "00:00:00"),
    (3, "i", "1 mon"),
    (3, "inn", "00:00:00.000001"),
    (4, "i", "178000000 years"),
    (4, "iym", "1 year"),
    (4, "inn", "-1 days"),
    (5, "inn", "1 day"),
];

/// Bit strings of varying length: column, Debezium's bytes, text.
const BITS: [(&str, &str, &str); 5] = [
    ("vb", "0b", "1011"),
    ("vb", "01", "0001"),
    ("vb", "", ""),
    ("vb10", "01", "0000000001"),
    ("vb10", "0002", "1000000000"),
];

/// Applies differences and remembers which were needed.
pub struct Differences<'a> {
    relation: &'a Relation,
    lossless: bool,
    compatible: bool,
    used: &'a RefCell<BTreeSet<&'static str>>,
}

impl<'a> Differences<'a> {
    pub const fn new(
        relation: &'a Relation,
        lossless: bool,
        compatible: bool,
        used: &'a RefCell<BTreeSet<&'static str>>,
    ) -> Self {
        Self { relation, lossless, compatible, used }
    }

    fn used(&self, name: &'static str) {
        assert!(ALL.iter().any(|(known, _)| *known == name), "{name} is not listed");
        assert!(!self.compatible || COMPATIBLE.contains(&name), "{name} in {}", self.relation.name);
        self.used.borrow_mut().insert(name);
    }

    /// Whether deletes hold only the key.
    pub fn is_key_identity(&self) -> bool {
        self.relation.identity != ReplicaIdentity::Full
    }

    /// Both envelopes with the differences evened out.
    pub fn schemas(&self, mut golden: Json, mut ours: Json) -> (Json, Json) {
        for (schema, is_golden) in [(&mut golden, true), (&mut ours, false)] {
            let fields = schema["fields"][0]["type"][1]["fields"].as_array_mut().unwrap();
            for field in fields {
                if is_golden { self.even_golden_field(field) } else { self.even_our_field(field) }
            }
        }
        (golden, ours)
    }

    fn even_golden_field(&self, field: &mut Json) {
        if field.get("default").is_some_and(|default| !default.is_null()) && !self.compatible {
            self.used("no defaults");
            field.as_object_mut().unwrap().shift_remove("default");
            field["type"].as_object_mut().unwrap().shift_remove("connect.default");
            if field["type"].as_object().unwrap().len() == 1 {
                field["type"] = field["type"]["type"].clone();
            }
        }
        if !self.compatible && !field["type"].is_array() && !self.is_of_key(field) {
            self.used("nullable");
            field["type"] = json!(["null", field["type"]]);
            field.as_object_mut().unwrap().insert("default".into(), Json::Null);
        }
        let ty = if field["type"].is_array() { &mut field["type"][1] } else { &mut field["type"] };
        if ty["connect.parameters"]["__debezium.source.column.type"] == "SERIAL" {
            self.used("serial");
            ty["connect.parameters"]["__debezium.source.column.type"] = json!("INT4");
        }
        if ty["connect.parameters"]["__debezium.source.column.length"] == "0" {
            self.used("numeric's length");
            let parameters = ty["connect.parameters"].as_object_mut().unwrap();
            parameters["__debezium.source.column.length"] = json!("131089");
            parameters.shift_insert(2, "__debezium.source.column.scale".into(), json!("0"));
        }
        if ty["type"] == "array" && !ty["items"].is_array() && !self.compatible {
            self.used("nullable items");
            ty["items"] = json!(["null", ty["items"]]);
        }
    }

    fn is_of_key(&self, field: &Json) -> bool {
        let index = self.relation.columns.iter().position(|column| field["name"] == *column.name).unwrap();
        self.relation.is_key(index)
    }

    fn even_our_field(&self, field: &mut Json) {
        let name = field["name"].as_str().unwrap().to_owned();
        let nullable = field["type"].is_array();
        if self.compatible {
            return;
        }
        if let Some(parameters) = field.as_object_mut().unwrap().shift_remove("connect.parameters") {
            // A second use of a named record: Debezium's has no parameters there.
            assert!(parameters["walrelay.type"].is_string(), "{name} tells no type");
            return;
        }
        let ty = if nullable { &mut field["type"][1] } else { &mut field["type"] };
        let parameters = ty["connect.parameters"].as_object_mut().unwrap();
        assert!(parameters.shift_remove("walrelay.type").is_some(), "{name} tells no type");
        parameters.shift_remove("walrelay.base");
        parameters.shift_remove("walrelay.nullable");
        self.used("own parameters");
        if !self.lossless {
            self.used("source types");
            parameters.retain(|parameter, _| !parameter.starts_with("__debezium.source.column."));
            if parameters.is_empty() {
                ty.as_object_mut().unwrap().shift_remove("connect.parameters");
            }
            if ty.as_object().unwrap().len() == 1 {
                *ty = ty["type"].clone();
            }
        }
    }

    /// A row of Debezium's as walrelay means it, and what its `walrelay.text` must say.
    pub fn row(&self, row: &mut Json, is_before_of_delete: bool) -> Map<String, Json> {
        let mut texts = Map::new();
        let Some(fields) = row.as_object_mut() else { return texts };
        let id = fields.get("id").and_then(Json::as_i64);
        let table = &*self.relation.name.table;
        if self.compatible {
            return texts;
        }
        if !self.lossless && table == "t_text" && matches!(id, Some(1 | 3)) && fields["n"].is_null() {
            self.used("names");
            fields.insert("n".into(), json!(if id == Some(1) { "a_name" } else { "" }));
        }
        for (_, _, column, text) in SPECIAL.iter().filter(|special| special.0 == table && Some(special.1) == id) {
            self.used("special values");
            // As strings, decimals have words for their special values.
            if !fields[*column].is_string() {
                fields.insert((*column).into(), Json::Null);
            }
            texts.insert((*column).into(), json!(text));
        }
        for (_, column, iso) in OFFSETS.iter().filter(|offset| table == "t_time" && Some(offset.0) == id) {
            self.used("offsets");
            fields.insert((*column).into(), json!(iso));
        }
        for (_, column, text) in INTERVALS.iter().filter(|interval| table == "t_interval" && Some(interval.0) == id) {
            if fields[*column].is_i64() && !is_before_of_delete {
                self.used("intervals");
                texts.insert((*column).into(), json!(text));
            }
        }
        for (column, bytes, text) in BITS.iter().filter(|_| table == "t_bool") {
            if fields[*column] == json!({"$bytes": bytes}) {
                self.used("bit lengths");
                texts.insert((*column).into(), json!(text));
            }
        }
        if (table, id) == ("t_array", Some(4)) {
            self.used("lower bounds");
            texts.insert("ai".into(), json!("[0:2]={1,2,3}"));
        }
        if !self.lossless && (table, id) == ("t_numeric", Some(8)) {
            self.used("display scale");
            fields.insert("n".into(), json!({"scale": 3, "value": {"$bytes": "05dc"}}));
        }
        if is_before_of_delete {
            for (index, column) in self.relation.columns.iter().enumerate() {
                if self.relation.is_key(index) || fields[&*column.name].is_null() {
                    continue;
                }
                self.used("before");
                fields.insert(column.name.to_string(), Json::Null);
            }
        }
        texts
    }

    /// Debezium's transaction block as walrelay means it.
    pub fn transaction(&self, golden: &mut Json, ours: &Json, is_snapshot: bool) {
        if !golden.is_null() || self.compatible {
            return;
        }
        if is_snapshot {
            self.used("snapshot position");
            assert!(ours["id"].as_str().unwrap().starts_with("snapshot:"));
            assert_eq!((&ours["total_order"], &ours["data_collection_order"]), (&json!(0), &json!(0)));
        } else {
            self.used("transaction");
            assert!(!self.lossless, "Debezium left out a transaction block");
        }
        golden.clone_from(ours);
    }
}
