//! What the fuzz targets share: types of every family, forms of values and of records, tables of them, and a registry without a
//! server.

pub mod resolution;

use std::sync::{Arc, LazyLock, Mutex};

use walrelay::{
    avro::{
        content::{Content, Nullability, Parameters, TransactionBlock},
        flat::Records,
        store::{SchemaStore, StoreError},
        subject::SubjectNaming,
    },
    record::{EncoderSettings, Masks, TopicNames},
    schema::{Column, Lineage, Relation, ReplicaIdentity, TableName},
    types::{
        BinaryMode, ColumnType, DecimalMode, HstoreMode, IntervalMode, Modes, Placeholder, SpecialValues, TimeMode,
        TimetzMode, TrailingZeros, TypeKind,
    },
};

/// Schemas by id, in the order of registration.
#[derive(Default)]
pub struct Schemas(Mutex<Vec<Arc<str>>>);

impl Schemas {
    /// The id of a schema that is registered now.
    pub fn add(&self, schema: &str) -> u32 {
        let mut known = self.0.lock().unwrap();
        known.push(schema.into());
        u32::try_from(known.len()).unwrap()
    }
}

impl SchemaStore for Schemas {
    async fn register(&self, _subject: &str, schema: &str) -> Result<u32, StoreError> {
        Ok(self.add(schema))
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, StoreError> {
        Ok(Arc::clone(&self.0.lock().unwrap()[id as usize - 1]))
    }
}

/// Built-in types: OID, modifier, name.
const BASE: [(u32, i32, &str); 58] = [
    (16, -1, "boolean"),
    (21, -1, "smallint"),
    (23, -1, "integer"),
    (20, -1, "bigint"),
    (26, -1, "oid"),
    (28, -1, "xid"),
    (5069, -1, "xid8"),
    (700, -1, "real"),
    (701, -1, "double precision"),
    (1700, -1, "numeric"),
    (1700, (12 << 16 | 2) + 4, "numeric(12,2)"),
    (1700, (1000 << 16 | 900) + 4, "numeric(1000,900)"),
    (1700, (4 << 16 | 0x7FE) + 4, "numeric(4,-2)"),
    (790, -1, "money"),
    (25, -1, "text"),
    (19, -1, "name"),
    (18, -1, "\"char\""),
    (1043, 9 + 4, "character varying(9)"),
    (1042, 8 + 4, "character(8)"),
    (17, -1, "bytea"),
    (1082, -1, "date"),
    (1083, 3, "time(3) without time zone"),
    (1083, -1, "time without time zone"),
    (1266, -1, "time with time zone"),
    (1114, 3, "timestamp(3) without time zone"),
    (1114, -1, "timestamp without time zone"),
    (1184, 0, "timestamp(0) with time zone"),
    (1184, -1, "timestamp with time zone"),
    (1186, -1, "interval"),
    (114, -1, "json"),
    (3802, -1, "jsonb"),
    (4072, -1, "jsonpath"),
    (142, -1, "xml"),
    (2950, -1, "uuid"),
    (1560, 1, "bit(1)"),
    (1560, 300, "bit(300)"),
    (1562, 1, "bit varying(1)"),
    (1562, -1, "bit varying"),
    (869, -1, "inet"),
    (650, -1, "cidr"),
    (829, -1, "macaddr"),
    (774, -1, "macaddr8"),
    (3220, -1, "pg_lsn"),
    (600, -1, "point"),
    (601, -1, "lseg"),
    (602, -1, "path"),
    (603, -1, "box"),
    (604, -1, "polygon"),
    (628, -1, "line"),
    (718, -1, "circle"),
    (3614, -1, "tsvector"),
    (3904, -1, "int4range"),
    (3906, -1, "numrange"),
    (3910, -1, "tstzrange"),
    (4451, -1, "int4multirange"),
    (4532, -1, "nummultirange"),
    (4534, -1, "tstzmultirange"),
    // A composite, or anything else of which nothing is known.
    (20_001, -1, "public.pair"),
];

/// One type of every family, what users define, and each of them in arrays, in domains, in arrays of domains and domains over
/// arrays.
pub static TYPES: LazyLock<Vec<ColumnType>> = LazyLock::new(|| {
    let of = |sql: &str, kind| ColumnType { oid: 20_000, typmod: -1, sql: sql.into(), kind };
    let domain = |ty: &ColumnType| of("public.own", TypeKind::Domain(Arc::new(ty.clone())));
    let array = |ty: &ColumnType| of(&format!("{}[]", ty.sql), TypeKind::Array(Arc::new(ty.clone())));
    let base = BASE.map(|(oid, typmod, sql)| ColumnType::base(oid, typmod, sql));
    let own = [
        of("public.mood", TypeKind::Enum(vec!["a".into(), "b, c".into(), "\"".into()])),
        of("public.hstore", TypeKind::Extension("hstore".into())),
        of("public.ltree", TypeKind::Extension("ltree".into())),
        of("public.citext", TypeKind::Extension("citext".into())),
        of("public.vector", TypeKind::Extension("vector".into())),
    ];
    let single: Vec<ColumnType> = base.into_iter().chain(own).collect();
    let arrays = single.iter().map(array);
    let domains = single.iter().map(domain);
    let nested =
        single.iter().flat_map(|ty| [array(&domain(&domain(ty))), domain(&array(ty)), array(&domain(&array(ty)))]);
    single.iter().cloned().chain(arrays).chain(domains).chain(nested).collect()
});

/// A type by a number that is any.
pub fn type_of(number: u16) -> &'static ColumnType {
    &TYPES[usize::from(number) % TYPES.len()]
}

/// Whether values of the type come back in a notation that the server reads and never writes: an interval in ISO 8601, and money
/// as a plain number.
pub fn has_text_of_its_own(ty: &ColumnType, modes: Modes) -> bool {
    const INTERVAL: u32 = 1186;
    const MONEY: u32 = 790;
    let oid = ty.below_domains().oid;
    oid == MONEY || oid == INTERVAL && modes.interval == IntervalMode::String
}

/// Forms of values by a number that is any: each combination of them has one.
pub fn modes_of(number: u16) -> Modes {
    let mut rest = usize::from(number);
    let mut of = |count: usize| {
        let digit = rest % count;
        rest /= count;
        digit
    };
    Modes {
        decimal: [DecimalMode::Precise, DecimalMode::String, DecimalMode::Double][of(3)],
        interval: [IntervalMode::String, IntervalMode::Numeric][of(2)],
        binary: [BinaryMode::Bytes, BinaryMode::Base64, BinaryMode::Base64UrlSafe, BinaryMode::Hex][of(4)],
        time: [
            TimeMode::Adaptive,
            TimeMode::AdaptiveTimeMicroseconds,
            TimeMode::Microseconds,
            TimeMode::Nanoseconds,
            TimeMode::Connect,
            TimeMode::Isostring,
        ][of(6)],
        hstore: [HstoreMode::Json, HstoreMode::Map][of(2)],
        trailing_zeros: [TrailingZeros::Kept, TrailingZeros::Dropped][of(2)],
        timetz: [TimetzMode::Offset, TimetzMode::Utc][of(2)],
        special_values: [SpecialValues::Null, SpecialValues::Debezium][of(2)],
    }
}

/// What is said around values, by a number that is any.
pub fn content_of(number: u8) -> Content {
    let number = usize::from(number);
    Content {
        nullability: [Nullability::Widened, Nullability::Source, Nullability::Declared][number % 3],
        parameters: [Parameters::All, Parameters::SourceType, Parameters::None][number / 3 % 3],
        transaction: [TransactionBlock::All, TransactionBlock::Streamed, TransactionBlock::None][number / 9 % 3],
        ..Content::default()
    }
}

/// Settings of an encoder of envelopes in these forms.
pub fn settings(modes: Modes, content: Content) -> EncoderSettings {
    EncoderSettings {
        prefix: "p".into(),
        topics: TopicNames::new("p"),
        database: "d".into(),
        version: "1".into(),
        subjects: SubjectNaming::Topic,
        modes,
        content,
        placeholder: Placeholder::default(),
        masks: Masks::default(),
        records: Records::Envelope,
    }
}

/// A table of three columns of a type: the key, one that can be NULL, and one that cannot.
pub fn table(ty: &ColumnType) -> Relation {
    let column = |name: &str, nullable| Column {
        name: name.into(),
        attnum: None,
        ty: ty.clone(),
        nullable,
        nondeterministic: false,
        optional: false,
        added: false,
        default: None,
        missing: None,
        null_items: false,
    };
    Relation {
        oid: 1,
        name: TableName::new("public", "t"),
        identity: ReplicaIdentity::Default,
        columns: vec![column("k", false), column("n", true), column("r", false)],
        key: vec![0],
        lineage: Lineage::default(),
    }
}
