//! Whole numbers of any size between decimal digits and two's complement, for decimals beyond 38 digits.

use std::cell::Cell;

thread_local! {
    /// The number at hand; kept, so that no value needs an allocation of its own.
    static LIMBS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

const BILLION: u64 = 1_000_000_000;

/// Appends a signed number, given as ASCII digits, in the shortest two's complement, most significant byte first.
pub(super) fn append_twos_complement(negative: bool, digits: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let mut limbs = LIMBS.take();
    read_limbs(digits, &mut limbs);
    if negative {
        negate(&mut limbs);
    }
    let fill = if negative && limbs.iter().any(|limb| *limb != 0) { 0xFF } else { 0 };
    let start = out.len();
    out.extend(std::iter::once(fill).chain(limbs.iter().rev().flat_map(|limb| limb.to_be_bytes())));
    let redundant = |pair: &[u8]| matches!(pair, [high, low] if *high == fill && (low ^ fill) & 0x80 == 0);
    let skip = out.get(start..).unwrap_or_default().windows(2).take_while(|pair| redundant(pair)).count();
    out.drain(start..start + skip);
    LIMBS.set(limbs);
}

/// Sign and decimal digits (no leading zeros, at least one) of a two's complement.
pub(super) fn decimal_digits(bytes: &[u8]) -> (bool, Vec<u8>) {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut limbs: Vec<u32> = bytes
        .rchunks(4)
        .map(|chunk| {
            let fill = if negative { u32::MAX } else { 0 };
            chunk.iter().fold(fill, |limb, byte| limb << 8 | u32::from(*byte))
        })
        .collect();
    if negative {
        negate(&mut limbs);
    }
    let mut groups = Vec::new();
    while limbs.iter().any(|limb| *limb != 0) {
        groups.push(divide_by_billion(&mut limbs));
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
    }
    let mut digits = groups.pop().unwrap_or_default().to_string().into_bytes();
    for group in groups.iter().rev() {
        digits.extend_from_slice(format!("{group:09}").as_bytes());
    }
    (negative, digits)
}

/// Little-endian 32-bit limbs, with one limb to spare for the sign.
fn read_limbs(digits: impl Iterator<Item = u8>, limbs: &mut Vec<u32>) {
    limbs.clear();
    limbs.push(0);
    let (mut group, mut scale) = (0, 1);
    for digit in digits {
        group = group * 10 + u64::from(digit - b'0');
        scale *= 10;
        if scale == BILLION {
            multiply_add(limbs, scale, group);
            (group, scale) = (0, 1);
        }
    }
    multiply_add(limbs, scale, group);
    limbs.push(0);
}

fn multiply_add(limbs: &mut Vec<u32>, factor: u64, addend: u64) {
    let mut carry = addend;
    for limb in limbs.iter_mut() {
        let product = u64::from(*limb) * factor + carry;
        *limb = low(product);
        carry = product >> 32;
    }
    if carry != 0 {
        limbs.push(low(carry));
    }
}

fn divide_by_billion(limbs: &mut [u32]) -> u32 {
    let mut remainder = 0;
    for limb in limbs.iter_mut().rev() {
        let dividend = remainder << 32 | u64::from(*limb);
        *limb = low(dividend / BILLION);
        remainder = dividend % BILLION;
    }
    low(remainder)
}

fn negate(limbs: &mut [u32]) {
    let mut carry = true;
    for limb in limbs {
        (*limb, carry) = (!*limb).overflowing_add(u32::from(carry));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digits_survive_two_s_complement(digits in "[1-9][0-9]{0,400}", negative: bool) {
            let mut bytes = Vec::new();
            append_twos_complement(negative, digits.bytes(), &mut bytes);
            prop_assert_eq!(decimal_digits(&bytes), (negative, digits.into_bytes()));
        }

        #[test]
        fn small_numbers_agree_with_machine_integers(number: i64) {
            let mut bytes = Vec::new();
            append_twos_complement(number < 0, number.unsigned_abs().to_string().bytes(), &mut bytes);
            let mut wide = [if number < 0 { 0xFF } else { 0 }; 8];
            wide[8 - bytes.len()..].copy_from_slice(&bytes);
            prop_assert_eq!(i64::from_be_bytes(wide), number);
        }
    }
}
