//! What the fuzz targets share: a type of every family in every form, a table of them, and a registry without a server.

use std::sync::{Arc, LazyLock, Mutex};

use walrelay::{
    avro::store::{SchemaStore, StoreError},
    schema::{Column, Relation, ReplicaIdentity, TableName},
    types::{BinaryMode, ColumnType, DecimalMode, HstoreMode, IntervalMode, Modes, TimeMode, TimetzMode, TrailingZeros, TypeKind},
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

/// One type of every family, arrays and what users define.
pub static TYPES: LazyLock<Vec<ColumnType>> = LazyLock::new(|| {
    let mut types: Vec<ColumnType> = [
        (16, -1, "boolean"),
        (21, -1, "smallint"),
        (23, -1, "integer"),
        (20, -1, "bigint"),
        (26, -1, "oid"),
        (700, -1, "real"),
        (701, -1, "double precision"),
        (1700, -1, "numeric"),
        (1700, (12 << 16 | 2) + 4, "numeric(12,2)"),
        (1700, (1000 << 16 | 900) + 4, "numeric(1000,900)"),
        (1700, (4 << 16 | 0x7FE) + 4, "numeric(4,-2)"),
        (790, -1, "money"),
        (25, -1, "text"),
        (1042, 8 + 4, "character(8)"),
        (17, -1, "bytea"),
        (1082, -1, "date"),
        (1083, 3, "time(3) without time zone"),
        (1083, -1, "time without time zone"),
        (1266, -1, "time with time zone"),
        (1114, 3, "timestamp(3) without time zone"),
        (1114, -1, "timestamp without time zone"),
        (1184, -1, "timestamp with time zone"),
        (1186, -1, "interval"),
        (114, -1, "json"),
        (142, -1, "xml"),
        (2950, -1, "uuid"),
        (1560, 1, "bit(1)"),
        (1560, 300, "bit(300)"),
        (1562, -1, "bit varying"),
        (600, -1, "point"),
        (3614, -1, "tsvector"),
        (3904, -1, "int4range"),
    ]
    .map(|(oid, typmod, sql)| ColumnType::base(oid, typmod, sql))
    .to_vec();
    let of = |kind| ColumnType { oid: 20_000, typmod: -1, sql: "public.own".into(), kind };
    let arrays: Vec<_> = types.iter().map(|ty| of(TypeKind::Array(Arc::new(ty.clone())))).collect();
    types.extend(arrays);
    types.push(of(TypeKind::Enum(vec!["a".into(), "b".into()])));
    types.push(of(TypeKind::Extension("hstore".into())));
    types.push(of(TypeKind::Domain(Arc::new(ColumnType::base(23, -1, "integer")))));
    types
});

/// Forms of values, each one once.
pub const MODES: [Modes; 5] = [
    modes(DecimalMode::Precise, IntervalMode::String, BinaryMode::Bytes, TimeMode::Adaptive, HstoreMode::Json),
    modes(DecimalMode::String, IntervalMode::Numeric, BinaryMode::Base64, TimeMode::Connect, HstoreMode::Map),
    modes(DecimalMode::Double, IntervalMode::String, BinaryMode::Hex, TimeMode::Isostring, HstoreMode::Json),
    modes(DecimalMode::Precise, IntervalMode::String, BinaryMode::Base64UrlSafe, TimeMode::Microseconds, HstoreMode::Map),
    modes(DecimalMode::Precise, IntervalMode::String, BinaryMode::Bytes, TimeMode::AdaptiveTimeMicroseconds, HstoreMode::Json),
];

const fn modes(
    decimal: DecimalMode,
    interval: IntervalMode,
    binary: BinaryMode,
    time: TimeMode,
    hstore: HstoreMode,
) -> Modes {
    let (trailing_zeros, timetz) = match hstore {
        HstoreMode::Json => (TrailingZeros::Kept, TimetzMode::Offset),
        HstoreMode::Map => (TrailingZeros::Dropped, TimetzMode::Utc),
    };
    Modes { decimal, interval, binary, time, hstore, trailing_zeros, timetz }
}

/// A table with a column of each type; every second one is NOT NULL.
pub fn table() -> Relation {
    let columns = TYPES.iter().enumerate().map(|(index, ty)| Column {
        name: format!("c{index}").into(),
        attnum: None,
        ty: ty.clone(),
        nullable: index % 2 == 1,
        nondeterministic: false,
        optional: index % 3 == 1,
    });
    Relation {
        oid: 1,
        name: TableName::new("public", "t"),
        identity: ReplicaIdentity::Default,
        columns: columns.collect(),
        key: vec![2],
    }
}
