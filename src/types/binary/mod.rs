//! PostgreSQL's binary output (`typsend`), turned into the text that the server's output function writes under the pinned
//! session settings: from there on a value goes the one way that all go.
//!
//! Of the types without a codec here (composites, `xml`, `tsquery`, `"char"`, those of most extensions) only the server can
//! write the text, so a stream with one of them asks for text (PROTOCOL, 7). The bytes come from the wire: whatever they are,
//! reading ends with an error that names the type, and never beyond them.

use std::sync::Arc;

use super::{
    column::{ColumnType, TypeKind},
    value::RenderError,
};
use reader::Reader;

mod container;
mod direct;
mod geometric;
mod network;
mod number;
mod range;
mod reader;
mod temporal;
mod textual;

/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;

/// Bytes that no value of the type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes that no {0} has in binary")]
pub struct BinaryError(pub(super) &'static str);

impl From<RenderError> for BinaryError {
    fn from(error: RenderError) -> Self {
        Self(error.0)
    }
}

/// How the values of a type are read.
#[derive(Clone, Debug)]
pub struct BinaryCodec(Form);

#[derive(Clone, Debug)]
enum Form {
    /// The bytes are the text.
    Text,
    /// A version byte, which is 1, and the text.
    Versioned(&'static str),
    /// What has a fixed length, or says its own.
    Plain(Plain),
    Array(Arc<BinaryCodec>),
    Range(Arc<BinaryCodec>),
    Multirange(Arc<BinaryCodec>),
}

/// Appends the text of a value: what is left of the reader is none of it.
type Plain = fn(&mut Reader<'_>, &mut Vec<u8>) -> Result<(), BinaryError>;

impl BinaryCodec {
    /// Chooses by the type's make-up and OID (`pg_type.dat`); `None` where only the server can write the text.
    #[must_use]
    pub fn of_column(ty: &ColumnType) -> Option<Self> {
        Some(Self(match &ty.kind {
            TypeKind::Domain(base) => return Self::of_column(base),
            TypeKind::Enum(_) => Form::Text,
            TypeKind::Array(element) => Form::Array(Arc::new(Self::of_item(element)?)),
            TypeKind::Extension(name) => match &**name {
                "hstore" => Form::Plain(container::hstore),
                "ltree" => Form::Versioned("ltree"),
                "citext" => Form::Text,
                _ => return None,
            },
            TypeKind::Base => return Self::of_base(ty.oid),
        }))
    }

    /// A `box` is the one type whose items are separated by a semicolon.
    fn of_item(element: &ColumnType) -> Option<Self> {
        const BOX: u32 = 603;
        (element.below_domains().oid != BOX).then(|| Self::of_column(element)).flatten()
    }

    fn of_base(oid: u32) -> Option<Self> {
        let range = |item: u32| Self::of_base(item).map(|codec| Form::Range(Arc::new(codec)));
        let multirange = |range: u32| Self::of_base(range).map(|codec| Form::Multirange(Arc::new(codec)));
        Some(Self(match oid {
            19 | 25 | 114 | 1042 | 1043 | 1790 => Form::Text,
            3802 => Form::Versioned("jsonb"),
            4072 => Form::Versioned("jsonpath"),
            16 => Form::Plain(number::boolean),
            21 => Form::Plain(number::int2),
            23 => Form::Plain(number::int4),
            20 => Form::Plain(number::int8),
            26 | 28 | 29 => Form::Plain(number::unsigned4),
            5069 => Form::Plain(number::unsigned8),
            700 => Form::Plain(number::float4),
            701 => Form::Plain(number::float8),
            1700 => Form::Plain(number::numeric),
            790 => Form::Plain(number::money),
            3220 => Form::Plain(number::lsn),
            17 => Form::Plain(textual::bytea),
            2950 => Form::Plain(textual::uuid),
            1560 | 1562 => Form::Plain(textual::bits),
            3614 => Form::Plain(textual::tsvector),
            1082 => Form::Plain(temporal::date),
            1083 => Form::Plain(temporal::time),
            1266 => Form::Plain(temporal::timetz),
            1114 => Form::Plain(temporal::timestamp),
            1184 => Form::Plain(temporal::timestamptz),
            1186 => Form::Plain(temporal::interval),
            869 => Form::Plain(network::inet),
            650 => Form::Plain(network::cidr),
            829 => Form::Plain(network::macaddr),
            774 => Form::Plain(network::macaddr8),
            600 => Form::Plain(geometric::point),
            601 => Form::Plain(geometric::lseg),
            602 => Form::Plain(geometric::path),
            603 => Form::Plain(geometric::r#box),
            604 => Form::Plain(geometric::polygon),
            628 => Form::Plain(geometric::line),
            718 => Form::Plain(geometric::circle),
            3904 => range(23)?,
            3906 => range(1700)?,
            3908 => range(1114)?,
            3910 => range(1184)?,
            3912 => range(1082)?,
            3926 => range(20)?,
            4451 => multirange(3904)?,
            4532 => multirange(3906)?,
            4533 => multirange(3908)?,
            4534 => multirange(3910)?,
            4535 => multirange(3912)?,
            4536 => multirange(3926)?,
            _ => return None,
        }))
    }

    /// Whether the bytes are the text.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        matches!(self.0, Form::Text)
    }

    /// Appends the text of a value.
    ///
    /// # Errors
    /// No value of the type has these bytes.
    pub fn append_text(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BinaryError> {
        let mut reader = Reader::new(bytes);
        match &self.0 {
            Form::Text => {
                out.extend_from_slice(bytes);
                return Ok(());
            }
            Form::Versioned(name) => match bytes {
                [1, text @ ..] => {
                    out.extend_from_slice(text);
                    return Ok(());
                }
                _ => return Err(BinaryError(name)),
            },
            Form::Plain(append) => append(&mut reader, out)?,
            Form::Array(item) => container::array(&mut reader, item, out)?,
            Form::Range(bound) => range::range(&mut reader, bound, out)?,
            Form::Multirange(ranges) => range::multirange(&mut reader, ranges, out)?,
        }
        reader.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            modes::{Modes, TimeMode},
            value::Parsed,
        },
        *,
    };
    use crate::{avro::encode, types::Codec};

    /// Everything built in that is read in binary, and arrays of it.
    fn types() -> Vec<ColumnType> {
        let scalars = (16..6_000).map(|oid| ColumnType::base(oid, -1, ""));
        let decimals = [(12 << 16 | 2) + 4, (5 << 16 | 0x7FE) + 4].map(|typmod| ColumnType::base(1700, typmod, ""));
        let mut types: Vec<_> = scalars.chain(decimals).filter(|ty| BinaryCodec::of_column(ty).is_some()).collect();
        let array = |ty: &ColumnType| ColumnType { kind: TypeKind::Array(Arc::new(ty.clone())), ..ty.clone() };
        let arrays: Vec<_> = types.iter().map(array).collect();
        types.extend(arrays.into_iter().filter(|ty| BinaryCodec::of_column(ty).is_some()));
        types.push(ColumnType { kind: TypeKind::Extension("hstore".into()), ..ColumnType::base(20_000, -1, "") });
        types
    }

    fn avro(value: crate::types::Value<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode::value(value, &mut Vec::new(), &mut out);
        out
    }

    /// Short counts and lengths are likelier to lead somewhere.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(0_u8), 2 => 0..5_u8, 1 => any::<u8>(), 1 => Just(0xFF)];
        prop_oneof![prop::collection::vec(any::<u8>(), 0..24), prop::collection::vec(byte, 0..64)]
    }

    proptest! {
        /// Trap T46.
        #[test]
        fn no_bytes_lead_astray_and_the_straight_way_ends_where_the_text_does(bytes in bytes()) {
            for ty in types() {
                let binary = BinaryCodec::of_column(&ty).unwrap();
                let mut text = Vec::new();
                let has_text = binary.append_text(&bytes, &mut text).is_ok();
                for time in [TimeMode::Adaptive, TimeMode::Connect] {
                    let codec = Codec::of_column(&ty, Modes { time, ..Modes::default() });
                    let Some(Parsed::Value(direct)) = codec.parse_binary(&bytes, &binary) else { continue };
                    prop_assert!(has_text, "{ty:?}");
                    let by_text = match codec.parse(&text) {
                        Ok(Parsed::Value(value)) => value,
                        other => panic!("{ty:?}: {other:?}"),
                    };
                    prop_assert_eq!(avro(direct), avro(by_text), "{:?}", ty);
                }
            }
        }
    }
}
