//! Geometric types: doubles between brackets.

use super::{error::BinaryError, number::float8, reader::Reader};

pub(super) fn point(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    out.push(b'(');
    float8(reader, out)?;
    out.push(b',');
    float8(reader, out)?;
    out.push(b')');
    Ok(())
}

fn points(reader: &mut Reader<'_>, count: usize, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        point(reader, out)?;
    }
    Ok(())
}

pub(super) fn lseg(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    out.push(b'[');
    points(reader, 2, out)?;
    out.push(b']');
    Ok(())
}

pub(super) fn r#box(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    points(reader, 2, out)
}

pub(super) fn path(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let is_closed = reader.u8()? != 0;
    let count = reader.count(16)?;
    out.push(if is_closed { b'(' } else { b'[' });
    points(reader, count, out)?;
    out.push(if is_closed { b')' } else { b']' });
    Ok(())
}

pub(super) fn polygon(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let count = reader.count(16)?;
    out.push(b'(');
    points(reader, count, out)?;
    out.push(b')');
    Ok(())
}

pub(super) fn line(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    for before in [b'{', b',', b','] {
        out.push(before);
        float8(reader, out)?;
    }
    out.push(b'}');
    Ok(())
}

pub(super) fn circle(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    out.push(b'<');
    point(reader, out)?;
    out.push(b',');
    float8(reader, out)?;
    out.push(b'>');
    Ok(())
}
