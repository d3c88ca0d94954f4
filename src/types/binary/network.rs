//! Addresses.

use std::fmt::Write;

use super::{error::BinaryError, number, reader::Reader};
use crate::types::{bytea::append_hex, value::ShortText};

const WRONG: BinaryError = BinaryError::Bytes("address");

/// The address family of IPv4; that of IPv6 is the next.
const IPV4: u8 = 2;

pub(super) fn inet(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    address(reader, false, out)
}

pub(super) fn cidr(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    address(reader, true, out)
}

/// Family, length of the network in bits, whether it is a `cidr`, length in bytes, bytes.
fn address(reader: &mut Reader<'_>, is_cidr: bool, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let (family, bits, _, length) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
    let bytes = reader.take(length.into())?;
    let whole = match (family, bytes.len()) {
        (IPV4, 4) => {
            let bytes: [u8; 4] = bytes.try_into().map_err(|_| WRONG)?;
            dotted(bytes, out)?;
            32
        }
        (_, 16) if family == IPV4 + 1 => {
            ipv6(bytes.try_into().map_err(|_| WRONG)?, out)?;
            128
        }
        _ => return Err(WRONG),
    };
    if bits > whole {
        return Err(WRONG);
    }
    if is_cidr || bits != whole {
        out.push(b'/');
        number::digits(bits.into(), 1, out)?;
    }
    Ok(())
}

/// The first longest run of two or more zero groups is left out; an IPv4 address behind zeros, or behind zeros and ffff, keeps
/// its notation.
fn ipv6(bytes: &[u8; 16], out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let groups: [u16; 8] =
        std::array::from_fn(|index| u16::from(bytes[index * 2]) << 8 | u16::from(bytes[index * 2 + 1]));
    let (mut first, mut length) = (8, 1);
    for start in 0..8 {
        let run = groups[start..].iter().take_while(|group| **group == 0).count();
        if run > length {
            (first, length) = (start, run);
        }
    }
    let is_mapped = first == 0 && (length == 6 || length == 5 && groups[5] == 0xFFFF);
    for (index, group) in groups.iter().enumerate() {
        if (first..first + length).contains(&index) {
            if index == first {
                out.push(b':');
            }
            continue;
        }
        if index > 0 {
            out.push(b':');
        }
        if is_mapped && index == 6 {
            let [.., a, b, c, d] = *bytes;
            return dotted([a, b, c, d], out);
        }
        let mut text = ShortText::new();
        write!(text, "{group:x}").map_err(|_| WRONG)?;
        out.extend_from_slice(text.as_bytes());
    }
    if first + length == 8 && first < 8 {
        out.push(b':');
    }
    Ok(())
}

fn dotted(bytes: [u8; 4], out: &mut Vec<u8>) -> Result<(), BinaryError> {
    for (index, byte) in bytes.into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        number::digits(byte.into(), 1, out)?;
    }
    Ok(())
}

pub(super) fn macaddr(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    append_pairs(reader.take(6)?, out);
    Ok(())
}

pub(super) fn macaddr8(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    append_pairs(reader.take(8)?, out);
    Ok(())
}

fn append_pairs(bytes: &[u8], out: &mut Vec<u8>) {
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        append_hex(&[*byte], out);
    }
}
