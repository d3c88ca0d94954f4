//! Rows of COPY TO in text format (manual, COPY, "Text Format"): back to the values' own text, byte by byte.

use bytes::{Bytes, BytesMut};

use crate::event::{Datum, Tuple};

/// Decodes one row, with or without its line feed; an error says what is wrong with it, without its contents.
///
/// Values without a backslash are slices of the row.
pub fn decode_row(row: &Bytes, columns: usize) -> Result<Tuple, &'static str> {
    let row = if row.ends_with(b"\n") { row.slice(..row.len() - 1) } else { row.clone() };
    let mut tuple = Vec::with_capacity(columns);
    if columns == 0 {
        return if row.is_empty() { Ok(tuple) } else { Err("it has values where none were asked for") };
    }
    let mut start = 0;
    loop {
        let field = row.get(start..).unwrap_or_default();
        let len = field.iter().position(|&byte| byte == b'\t').unwrap_or(field.len());
        tuple.push(decode_field(row.slice(start..start + len))?);
        start += len + 1;
        if start > row.len() {
            break;
        }
    }
    if tuple.len() == columns { Ok(tuple) } else { Err("it does not have the number of columns that was asked for") }
}

fn decode_field(field: Bytes) -> Result<Datum, &'static str> {
    if !field.contains(&b'\\') {
        return Ok(Datum::Text(field));
    }
    if field == b"\\N"[..] {
        return Ok(Datum::Null);
    }
    let mut value = BytesMut::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            value.extend_from_slice(&[byte]);
            continue;
        }
        let escaped = match bytes.next().ok_or("a value ends inside an escape sequence")? {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            &other => other,
        };
        value.extend_from_slice(&[escaped]);
    }
    Ok(Datum::Text(value.freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What COPY TO writes (`CopyAttributeOutText`).
    fn encode(values: &[Option<Vec<u8>>]) -> Bytes {
        let mut row = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                row.push(b'\t');
            }
            let Some(value) = value else {
                row.extend(b"\\N");
                continue;
            };
            for &byte in value {
                match byte {
                    0x08 => row.extend(b"\\b"),
                    0x0c => row.extend(b"\\f"),
                    b'\n' => row.extend(b"\\n"),
                    b'\r' => row.extend(b"\\r"),
                    b'\t' => row.extend(b"\\t"),
                    0x0b => row.extend(b"\\v"),
                    b'\\' => row.extend(b"\\\\"),
                    _ => row.push(byte),
                }
            }
        }
        row.push(b'\n');
        row.into()
    }

    proptest! {
        #[test]
        fn every_row_comes_back_byte_by_byte(
            values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 1..6),
        ) {
            let tuple = decode_row(&encode(&values), values.len()).unwrap();
            let expected: Tuple = values.into_iter().map(|value| value.map_or(Datum::Null, |v| Datum::Text(v.into()))).collect();
            prop_assert_eq!(tuple, expected);
        }

        #[test]
        fn garbage_never_panics(row in proptest::collection::vec(any::<u8>(), 0..50), columns in 0_usize..5) {
            let _ = decode_row(&row.into(), columns);
        }
    }

    #[test]
    fn null_is_only_a_field_of_its_own() {
        let text = |value: &'static [u8]| Datum::Text(Bytes::from_static(value));
        let row = Bytes::from_static(b"\\N\t\\\\N\t\tN\n");
        assert_eq!(decode_row(&row, 4).unwrap(), [Datum::Null, text(b"\\N"), text(b""), text(b"N")]);
    }

    #[test]
    fn a_wrong_number_of_columns_is_an_error() {
        assert!(decode_row(&Bytes::from_static(b"a\tb\n"), 3).is_err());
        assert!(decode_row(&Bytes::from_static(b"a\tb\tc\n"), 2).is_err());
        assert!(decode_row(&Bytes::from_static(b"a\\"), 1).is_err());
        assert_eq!(decode_row(&Bytes::from_static(b"\n"), 0).unwrap(), []);
        assert_eq!(decode_row(&Bytes::from_static(b"\n"), 1).unwrap(), [Datum::Text(Bytes::new())]);
    }
}
