//! A number of Avro's among bytes that stay.

use crate::avro::encode;

/// What has to follow the last place, so that every number is put as a block of one size.
pub(super) const ROOM: [u8; BLOCK] = [0; BLOCK];

/// More than any number takes.
const BLOCK: usize = 2 * WORD;
const WORD: usize = 8;

/// Where a number of Avro's stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    at: usize,
    count: usize,
    /// Its bytes within a word.
    mask: u64,
    /// The bits that say that more bytes follow.
    more: u64,
}

impl Place {
    /// Appends a number, and tells its place.
    pub(super) fn append(number: i64, bytes: &mut Vec<u8>) -> Self {
        let at = bytes.len();
        encode::long(number, bytes);
        let count = bytes.len() - at;
        let mask = if count < WORD { (1 << (8 * count)) - 1 } else { u64::MAX };
        let more = encode::MORE & if count > WORD { mask } else { mask >> 8 };
        Self { at, count, mask, more }
    }

    /// Puts another number there in a copy of the bytes; `false` if it is not as long.
    // What stands around it is taken from the original: a processor waits where it reads what it has just written in other blocks.
    #[inline]
    pub(super) fn put(self, number: i64, original: &[u8], copy: &mut [u8]) -> bool {
        let number = encode::zig_zag(number);
        let (Some(original), Some(block)) = (
            original.get(self.at..).and_then(|rest| rest.first_chunk::<BLOCK>()),
            copy.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut::<BLOCK>()),
        ) else {
            return false;
        };
        let ([word, ..], [copied, rest @ ..]) = (original.as_chunks::<WORD>().0, block.as_chunks_mut::<WORD>().0)
        else {
            return false;
        };
        let kept = u64::from_le_bytes(*word) & !self.mask;
        *copied = (kept | (encode::spread_sevens(number) | self.more) & self.mask).to_le_bytes();
        // At most eight bits are beyond a word.
        match (self.count, rest) {
            (9, [[first, ..]]) => *first = (number >> 56) as u8,
            (10, [[first, second, ..]]) => [*first, *second] = [(number >> 56) as u8 | 0x80, 1],
            _ => {}
        }
        let last = number >> (7 * (self.count - 1));
        last < 0x80 && (last > 0 || self.count == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_the_place_of_one_as_long_and_of_no_other() {
        let numbers = [0, -1, 63, 64, -8_192, 1_000_000, 1_795_501_793_612_345_678, i64::MIN, i64::MAX];
        for (first, second) in numbers.iter().flat_map(|first| numbers.map(|second| (*first, second))) {
            let written = |number| {
                let mut bytes = b"before".to_vec();
                let place = Place::append(number, &mut bytes);
                bytes.extend_from_slice(b"behind");
                (bytes, place)
            };
            let ((mut original, place), (expected, _)) = (written(first), written(second));
            original.extend_from_slice(&ROOM);
            let mut bytes = original.clone();
            assert_eq!(
                place.put(second, &original, &mut bytes),
                bytes.len() == expected.len() + ROOM.len(),
                "{first} {second}"
            );
            if bytes.len() == expected.len() + ROOM.len() {
                assert_eq!(bytes[..expected.len()], expected, "{first} {second}");
            }
        }
    }
}
