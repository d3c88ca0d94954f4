//! Which types Debezium has a form for. Columns of the others it leaves out, unless `include.unknown.datatypes` has their bytes
//! (`PostgresValueConverter`, and the JDBC driver's types; `tests/golden/recorded` has what it wrote).

use super::{
    column::{ColumnType, TypeKind},
    other,
};

/// Built-in types (`pg_type.dat`): boolean, `bytea`, `"char"`, `name`, the integers, `int2vector`, `text`, `oid`, `oidvector`,
/// `json`, `xml`, `point`, `cidr`, the floats, `macaddr8`, `money`, `macaddr`, `inet`, `bpchar`, `varchar`, dates and times, bit
/// strings, `numeric`, `uuid`, `tsvector`, `jsonb`, and six ranges.
const BASES: [u32; 41] = [
    16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 30, 114, 142, 600, 650, 700, 701, 774, 790, 829, 869, 1042, 1043, 1082,
    1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950, 3614, 3802, 3904, 3906, 3908, 3910, 3912, 3926,
];
/// Those of them whose arrays it does not know: `name`, `int2vector`, `oidvector`, `xml`, `point`, `money`, `interval`, `bit`,
/// `varbit`.
const NOT_IN_ARRAYS: [u32; 9] = [19, 22, 30, 142, 600, 790, 1186, 1560, 1562];
/// Types of extensions. It has forms of its own for some of which the values are PostgreSQL's text here.
const EXTENSIONS: [&str; 9] =
    ["hstore", "ltree", "citext", "geometry", "geography", "isbn", "vector", "halfvec", "sparsevec"];
/// Those of them whose arrays it knows.
const EXTENSIONS_IN_ARRAYS: [&str; 5] = ["hstore", "ltree", "citext", "geometry", "geography"];

impl ColumnType {
    /// Whether Debezium has the values from a snapshot, and in the stream null, or the empty text where the field cannot be that.
    #[must_use]
    pub fn is_read_in_snapshots_only(&self) -> bool {
        self.below_domains().oid == other::NAME
    }

    /// Whether Debezium has a form for the type's values.
    #[must_use]
    pub fn is_known_to_debezium(&self) -> bool {
        match &self.kind {
            TypeKind::Base => BASES.contains(&self.oid),
            TypeKind::Enum(_) => true,
            TypeKind::Domain(base) => base.is_known_to_debezium(),
            TypeKind::Extension(name) => EXTENSIONS.contains(&&**name),
            TypeKind::Array(element) => match &element.kind {
                TypeKind::Base => BASES.contains(&element.oid) && !NOT_IN_ARRAYS.contains(&element.oid),
                TypeKind::Enum(_) => true,
                TypeKind::Extension(name) => EXTENSIONS_IN_ARRAYS.contains(&&**name),
                TypeKind::Domain(_) | TypeKind::Array(_) => false,
            },
        }
    }
}
