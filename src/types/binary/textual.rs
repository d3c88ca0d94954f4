//! Strings of bytes and bits, and lexemes.

use super::{error::BinaryError, number, reader::Reader};
use crate::types::{
    bytea,
    value::{ByteString, Value},
};

pub(super) fn bytea(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(bytea::render(Value::Bytes(ByteString::Raw(reader.rest())), out)?)
}

pub(super) fn uuid(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    for (index, length) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        bytea::append_hex(reader.take(length)?, out);
    }
    Ok(())
}

/// A number of bits, and the bits, the first one highest.
pub(super) fn bits(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let length = usize::try_from(reader.i32()?).map_err(|_| BinaryError::Bytes("bit string"))?;
    let bytes = reader.take(length.div_ceil(8))?;
    let digits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| b'0' + (byte >> bit & 1)));
    out.extend(digits.take(length));
    Ok(())
}

/// Lexemes with their places, each with a weight in its highest two bits.
pub(super) fn tsvector(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    for index in 0..reader.count(3)? {
        if index > 0 {
            out.push(b' ');
        }
        out.push(b'\'');
        for byte in reader.text()? {
            if matches!(byte, b'\'' | b'\\') {
                out.push(*byte);
            }
            out.push(*byte);
        }
        out.push(b'\'');
        for place in 0..reader.u16()? {
            out.push(if place == 0 { b':' } else { b',' });
            let place = reader.u16()?;
            number::digits(u64::from(place & 0x3FFF), 1, out)?;
            match place >> 14 {
                3 => out.push(b'A'),
                2 => out.push(b'B'),
                1 => out.push(b'C'),
                _ => {}
            }
        }
    }
    Ok(())
}
