//! An envelope's schema and a record's bytes, made of any bytes: what is an event apache-avro reads too, to the last byte.
//!
//! The fuzz target feeds it with garbage, and `tests/golden/seeds.rs`, which has this file as a module, with what that has found.

use std::sync::Once;

use apache_avro::Schema;
use futures_util::FutureExt;
use serde_json::{Value as Json, json};
use walrelay::{
    avro::{store::SchemaStore, wire},
    record::{Decoded, Decoder},
};

/// Types within types.
const DEEPEST: usize = 4;
/// What begins the bytes of each record: an op, and a source block with its schema, table and time.
const HEAD: &[u8] = b"\x02r\x02s\x02t\0";

/// Makes a schema of bytes.
struct Builder<'a> {
    bytes: std::slice::Iter<'a, u8>,
    names: Vec<(String, bool)>,
}

impl Builder<'_> {
    fn next(&mut self) -> usize {
        self.bytes.next().copied().unwrap_or_default().into()
    }

    fn name(&mut self, has_bytes: bool) -> String {
        let name = format!("N{}", self.names.len());
        self.names.push((name.clone(), has_bytes));
        name
    }

    fn attributes(&mut self, mut ty: Json) -> Json {
        const NAMES: [&str; 14] = [
            "io.debezium.time.Date",
            "io.debezium.time.MicroTime",
            "io.debezium.time.Time",
            "io.debezium.time.Timestamp",
            "io.debezium.time.MicroTimestamp",
            "io.debezium.time.ZonedTimestamp",
            "io.debezium.time.ZonedTime",
            "io.debezium.time.Interval",
            "io.debezium.time.MicroDuration",
            "io.debezium.time.IsoTimestamp",
            "io.debezium.data.Bits",
            "io.debezium.data.Json",
            "org.apache.kafka.connect.data.Decimal",
            "org.apache.kafka.connect.data.Timestamp",
        ];
        let kind = self.next();
        if let Some(name) = NAMES.get(kind % 32) {
            ty["connect.name"] = json!(name);
        }
        if kind & 0x20 != 0 {
            ty["logicalType"] = json!("decimal");
            ty["precision"] = json!(400);
            ty["scale"] = json!(self.next());
        }
        if kind & 0x40 != 0 {
            const TYPES: [&str; 8] =
                ["bit(9)", "bit(80000000)", "money", "boolean", "text[]", "public.hstore", "numeric(4,-2)", "bit(1)"];
            let ty_name = TYPES[self.next() % 8];
            ty["connect.parameters"] = json!({"walrelay.type": ty_name, "length": "70000000"});
        }
        ty
    }

    /// A type and whether each of its values has bytes.
    fn ty(&mut self, depth: usize) -> (Json, bool) {
        const SIMPLE: [&str; 8] = ["boolean", "int", "long", "float", "double", "bytes", "string", "null"];
        let kind = self.next() % if depth < DEEPEST { 20 } else { 8 };
        match kind {
            0..8 => (json!(SIMPLE[kind]), kind != 7),
            8..12 => {
                let simple = json!({"type": SIMPLE[self.next() % 7]});
                (self.attributes(simple), true)
            }
            12 => self.items("array", "items", depth),
            13 => self.items("map", "values", depth),
            14 => {
                let size = self.next() % 5;
                let name = self.name(size > 0);
                (json!({"type": "fixed", "name": name, "size": size}), size > 0)
            }
            15 => (json!({"type": "enum", "name": self.name(true), "symbols": ["A", "B"]}), true),
            16 => {
                let (name, place) = (self.name(false), self.names.len() - 1);
                let fields: Vec<_> = (0..self.next() % 4).map(|number| self.field(number, depth + 1)).collect();
                let has_bytes = fields.iter().any(|(_, has_bytes)| *has_bytes);
                self.names[place].1 = has_bytes;
                let fields: Vec<_> = fields.into_iter().map(|(field, _)| field).collect();
                (json!({"type": "record", "name": name, "fields": fields}), has_bytes)
            }
            17 => {
                let place = self.next();
                self.names.get(place).map_or((json!("int"), true), |(name, has_bytes)| (json!(name), *has_bytes))
            }
            _ => {
                let (ty, _) = self.ty(depth + 1);
                let is_union = ty.is_array() || ty == "null" || ty["type"] == "null";
                let mut branches = if is_union { vec![json!("null")] } else { vec![json!("null"), ty] };
                branches.rotate_left(self.next() % 2);
                (json!(branches), true)
            }
        }
    }

    /// Items have bytes: without, a block says how many there are and nothing else.
    fn items(&mut self, kind: &str, of: &str, depth: usize) -> (Json, bool) {
        let (ty, has_bytes) = self.ty(depth + 1);
        let ty = if has_bytes { ty } else { json!("long") };
        (json!({"type": kind, of: ty}), true)
    }

    fn field(&mut self, number: usize, depth: usize) -> (Json, bool) {
        let (ty, has_bytes) = self.ty(depth);
        (json!({"name": format!("f{number}"), "type": ty}), has_bytes)
    }

    /// The schema, whether all of what is skipped is right whatever its bytes are, and the bytes that are left.
    fn schema(mut self) -> (String, bool, Vec<u8>) {
        let source = json!({"type": "record", "name": "Source", "fields": [
            {"name": "schema", "type": "string"}, {"name": "table", "type": "string"}, {"name": "ts_ms", "type": "long"}]});
        let columns: Vec<_> = (0..=self.next() % 5).map(|number| self.field(number, 0).0).collect();
        let row = json!({"type": "record", "name": "Value", "fields": columns});
        let extra = self.field(9, 0).0;
        let is_any = ["bytes", "float", "double", "null"].iter().any(|ty| extra["type"] == *ty);
        let schema = json!({"type": "record", "name": "Envelope", "fields": [
            {"name": "op", "type": "string"}, {"name": "source", "type": source}, extra,
            {"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Value"]}]});
        (schema.to_string(), is_any, self.bytes.as_slice().to_vec())
    }
}

static BOUND: Once = Once::new();

/// A schema, and bytes of a record of it.
pub struct Case {
    schema: String,
    /// What is left of the bytes for the rows.
    pub tail: Vec<u8>,
    /// Whether all of what is skipped is right whatever its bytes are.
    is_any: bool,
}

impl Case {
    /// The case that these bytes are.
    #[must_use]
    pub fn new(data: &[u8]) -> Self {
        let (schema, is_any, body) = Builder { bytes: data.iter(), names: Vec::new() }.schema();
        Self { schema, tail: body, is_any }
    }

    /// The value's schema.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The bytes of a record behind its frame, with these for the rows.
    #[must_use]
    pub fn body(tail: &[u8]) -> Vec<u8> {
        [HEAD, tail].concat()
    }

    /// A decoder that knows a schema, where a store that answers at once has it under this id; `None` if no rows are read by it.
    pub fn decoder<S: SchemaStore>(id: u32, store: &S) -> Option<Decoder> {
        let mut decoder = Decoder::new(4096);
        decoder.fetch("t", id, store).now_or_never().expect("it answers at once").ok()?;
        Some(decoder)
    }

    /// Whether the record is an event.
    ///
    /// # Panics
    /// It is one, and apache-avro does not read it.
    pub fn judge(&self, decoder: &mut Decoder, id: u32, body: &[u8]) -> bool {
        BOUND.call_once(|| {
            let _bound = apache_avro::util::max_allocation_bytes(1 << 20);
        });
        let record = [&wire::prefix(id)[..], body].concat();
        let is_event = matches!(decoder.decode("t", None, Some(&record), [], 7), Ok(Decoded::Event(_)));
        // It reads bytes that end too early as nulls, and nests without end, so what it reads alone need not be right.
        if is_event && self.is_any {
            let apache = Schema::parse_str(&self.schema).expect("what walrelay reads is a schema");
            let mut rest = body;
            #[allow(deprecated, reason = "one call that reads a datum and leaves what follows")]
            let theirs = apache_avro::from_avro_datum(&apache, &mut rest, None);
            let left = rest.len();
            assert!(theirs.is_ok() && left == 0, "apache-avro: {theirs:?}, {left} left\n{}", self.schema);
        }
        is_event
    }
}
