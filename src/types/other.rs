//! Every type without a family: PostgreSQL's own text as Avro `string`.

use super::{column::ColumnType, semantic::SourceType};

/// Built-in types whose equality is the equality of their text: `name`, `"char"`, `oid`, `inet`, `cidr`, `macaddr`, `macaddr8`,
/// `bit`, `varbit`, `timetz`, `money`, `pg_lsn`, `xid`, `xid8`.
const EQUAL_AS_TEXT: [u32; 14] = [NAME, CHAR, 26, 869, 650, 829, 774, 1560, 1562, 1266, 790, 3220, 28, 5069];

/// `name`
pub(super) const NAME: u32 = 19;
/// `"char"`
const CHAR: u32 = 18;

/// Whether two values of the type are equal exactly if their texts are. Of a type that is not built in nothing is known.
pub(super) fn equal_as_text(oid: u32) -> bool {
    EQUAL_AS_TEXT.contains(&oid)
}

/// Built-in types whose arrays Debezium has as arrays of text: `"char"`, `inet`, `cidr`, `macaddr`, `macaddr8`, and the ranges of
/// `integer`, `numeric`, `timestamp`, `timestamptz`, `date` and `bigint`.
const ARRAY_ELEMENTS: [u32; 11] = [CHAR, 869, 650, 829, 774, 3904, 3906, 3908, 3910, 3912, 3926];

/// Whether an array of the type travels as an array.
pub(super) fn is_array_element(oid: u32) -> bool {
    ARRAY_ELEMENTS.contains(&oid)
}

/// The type's bare name in capitals, as JDBC reports it.
pub(super) fn source_type(ty: &ColumnType) -> SourceType {
    if ty.oid == CHAR {
        return SourceType::new("CHAR", 1, 0);
    }
    let bare = ty.sql.split('(').next().unwrap_or_default();
    let bare = bare.rsplit('.').next().unwrap_or_default().trim().trim_matches('"');
    SourceType::unlimited(&bare.to_uppercase())
}
