//! Numbers, and what is written as one.

use std::fmt::Write;

use super::{error::BinaryError, reader::Reader};
use crate::{
    lsn::Lsn,
    types::{
        boolean, float, integer,
        value::{ShortText, Value},
    },
};

pub(super) fn boolean(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(boolean::render(Value::Boolean(reader.u8()? != 0), out)?)
}

pub(super) fn int2(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(integer::render(Value::Int(reader.i16()?.into()), out)?)
}

pub(super) fn int4(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(integer::render(Value::Int(reader.i32()?), out)?)
}

pub(super) fn int8(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(integer::render(Value::Long(reader.i64()?), out)?)
}

pub(super) fn unsigned4(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    digits(reader.u32()?.into(), 1, out)
}

pub(super) fn unsigned8(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    digits(reader.u64()?, 1, out)
}

pub(super) fn float4(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(float::append_as_server(Value::Float(reader.f32()?), out)?)
}

pub(super) fn float8(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    Ok(float::append_as_server(Value::Double(reader.f64()?), out)?)
}

/// A number in at least so many digits.
pub(super) fn digits(number: u64, width: usize, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let mut text = ShortText::new();
    text.push_number(number, width).ok_or(BinaryError::Bytes("number"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Two halves in hexadecimal.
pub(super) fn lsn(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let mut text = ShortText::new();
    write!(text, "{}", Lsn(reader.u64()?)).map_err(|_| BinaryError::Bytes("pg_lsn"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Hundredths, as `lc_monetary = C` has them: `-$1,234.56`.
pub(super) fn money(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let cents = reader.i64()?;
    if cents < 0 {
        out.push(b'-');
    }
    out.push(b'$');
    let (mut whole, cents) = (cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    let mut groups = [0; 7];
    let mut count = 0;
    for group in &mut groups {
        *group = whole % 1_000;
        whole /= 1_000;
        count += 1;
        if whole == 0 {
            break;
        }
    }
    for (number, group) in groups.iter().take(count).rev().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        digits(*group, if number > 0 { 3 } else { 1 }, out)?;
    }
    out.push(b'.');
    digits(cents, 2, out)
}

/// Digits of base 10,000: how many, the weight of the first, the sign, how many decimal digits are shown behind the point.
pub(super) fn numeric(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    const MOST_SCALE: u16 = 0x3FFF;
    let wrong = BinaryError::Bytes("numeric");
    let count = usize::try_from(reader.i16()?).map_err(|_| wrong)?;
    let (weight, sign, scale) = (i32::from(reader.i16()?), reader.u16()?, reader.u16()?);
    let bytes = reader.take(count * 2)?;
    match sign {
        0 => {}
        0x4000 => out.push(b'-'),
        0xC000 | 0xD000 | 0xF000 => {
            let text: &[u8] = match sign {
                0xC000 => b"NaN",
                0xD000 => b"Infinity",
                _ => b"-Infinity",
            };
            out.extend_from_slice(text);
            return Ok(());
        }
        _ => return Err(wrong),
    }
    if scale > MOST_SCALE {
        return Err(wrong);
    }
    let group = |place: i32| -> Result<u64, BinaryError> {
        let index = usize::try_from(weight - place).ok();
        let pair = index.and_then(|index| bytes.get(index * 2..index * 2 + 2));
        let value = pair.map_or(0, |pair| u64::from(pair[0]) << 8 | u64::from(pair[1]));
        if value < 10_000 { Ok(value) } else { Err(wrong) }
    };
    if weight < 0 {
        out.push(b'0');
    }
    for place in (0..=weight).rev() {
        digits(group(place)?, if place == weight { 1 } else { 4 }, out)?;
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + usize::from(scale);
        let mut place = -1;
        while out.len() < end {
            digits(group(place)?, 4, out)?;
            place -= 1;
        }
        out.truncate(end);
    }
    Ok(())
}
