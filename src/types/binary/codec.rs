//! Which type is read how.

use std::sync::Arc;

use super::{
    container,
    error::{BinaryError, MOST_TEXT},
    geometric, network, number, range,
    reader::Reader,
    temporal, textual,
};
use crate::types::column::{ColumnType, TypeKind};

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
    /// No value of the type has these bytes, or the text would be longer than the server's.
    pub fn append_text(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BinaryError> {
        self.append_within(bytes, out, MOST_TEXT)
    }

    /// The same, as long as `out` has not more than so many bytes.
    fn append_within(&self, bytes: &[u8], out: &mut Vec<u8>, most: usize) -> Result<(), BinaryError> {
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
                _ => return Err(BinaryError::Bytes(name)),
            },
            Form::Plain(append) => append(&mut reader, out)?,
            Form::Array(item) => {
                container::array(&mut reader, &|bytes, out| item.append_within(bytes, out, most), out)?;
            }
            Form::Range(bound) => range::range(&mut reader, &|bytes, out| bound.append_within(bytes, out, most), out)?,
            Form::Multirange(range) => {
                range::multirange(&mut reader, &|bytes, out| range.append_within(bytes, out, most), out)?;
            }
        }
        if out.len() > most {
            return Err(BinaryError::Long);
        }
        reader.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each item is 10 bytes, and `1e131071` as text.
    #[test]
    fn a_text_longer_than_the_server_s_is_refused_before_it_is_made() {
        const DIGITS: usize = 131_072;
        let array = |items: usize| {
            let header = [1, 0, 1700, i32::try_from(items).unwrap(), 1];
            let mut bytes: Vec<u8> = header.iter().flat_map(|number: &i32| number.to_be_bytes()).collect();
            for _ in 0..items {
                bytes.extend_from_slice(&[0, 0, 0, 10, 0, 1, 0x7F, 0xFF, 0, 0, 0, 0, 0x03, 0xE8]);
            }
            bytes
        };
        let numeric = ColumnType::base(1700, -1, "numeric");
        let codec = BinaryCodec(Form::Array(Arc::new(BinaryCodec::of_column(&numeric).unwrap())));
        let mut text = Vec::new();
        codec.append_within(&array(3), &mut text, 4 * DIGITS).unwrap();
        assert_eq!(text.len(), 3 * DIGITS + 4, "braces and commas");
        text.clear();
        assert_eq!(codec.append_within(&array(1_000), &mut text, 4 * DIGITS), Err(BinaryError::Long));
        assert!(text.len() <= 5 * DIGITS + 8, "{}", text.len());
    }
}
