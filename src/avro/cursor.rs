//! A checked reader of Avro's binary encoding: it never reads past the end, never allocates and never panics.

/// The bytes are not what the schema says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset} of the body, reading {reading}")]
pub struct DecodeError {
    /// What is wrong.
    pub problem: Problem,
    /// What was being read.
    pub reading: &'static str,
    /// Offset of its first byte in the Avro body.
    pub offset: usize,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// They end too early.
    #[error("the bytes end")]
    Truncated,
    /// A number has more bits than its type.
    #[error("a number is out of range")]
    OutOfRange,
    /// A union's branch does not exist.
    #[error("a union has no such branch")]
    Branch,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// More bytes follow the value.
    #[error("bytes follow the value")]
    Trailing,
    /// So many values without a byte that reading past them would take for ever.
    #[error("too many values without bytes")]
    Values,
    /// Types are nested without end.
    #[error("values are nested too deep")]
    Depth,
}

/// Where reading stands in an Avro body.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Cursor<'a> {
    /// At the begin of a body.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body, length: body.len() }
    }

    /// `boolean`; any byte but 0 and 1 is an error.
    #[inline]
    pub fn boolean(&mut self) -> Result<bool, DecodeError> {
        let start = *self;
        match self.take(1, "a boolean")? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(start.error(Problem::OutOfRange, "a boolean")),
        }
    }

    /// At an offset of a body; beyond its end nothing is left.
    #[must_use]
    pub fn at(body: &'a [u8], offset: usize) -> Self {
        Self { rest: body.get(offset..).unwrap_or_default(), length: body.len() }
    }

    /// How many bytes of the body are read.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    /// Moves past an `int`, a `long` or an `enum`.
    #[inline]
    pub fn skip_number(&mut self) -> Result<(), DecodeError> {
        let last = match self.rest.first_chunk() {
            Some(word) => last_of_number(u64::from_le_bytes(*word)).or_else(|| self.last_beyond_word()),
            None => self.rest.iter().position(|byte| byte & 0x80 == 0),
        };
        let Some(rest) = last.and_then(|last| self.rest.get(last + 1..)) else {
            let problem = if self.rest.len() < LONGEST_NUMBER { Problem::Truncated } else { Problem::OutOfRange };
            return Err(self.error(problem, "a number"));
        };
        self.rest = rest;
        Ok(())
    }

    /// Which byte is the last one of a number that a word does not hold.
    #[inline]
    fn last_beyond_word(self) -> Option<usize> {
        (WORD..LONGEST_NUMBER).find(|place| self.rest.get(*place).is_some_and(|byte| byte & 0x80 == 0))
    }

    /// `long`
    #[inline]
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        self.varint("a long")
    }

    /// `int`
    #[inline]
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        let start = *self;
        i32::try_from(self.varint("an int")?).map_err(|_| start.error(Problem::OutOfRange, "an int"))
    }

    /// `float`
    pub fn float(&mut self) -> Result<f32, DecodeError> {
        self.array("a float").map(f32::from_le_bytes)
    }

    /// `double`
    pub fn double(&mut self) -> Result<f64, DecodeError> {
        self.array("a double").map(f64::from_le_bytes)
    }

    /// `bytes`
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        self.sized("bytes")
    }

    /// `string`
    #[inline]
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let start = *self;
        std::str::from_utf8(self.sized("a string")?).map_err(|_| start.error(Problem::Utf8, "a string"))
    }

    /// The bytes of a `string`, which need not be UTF-8.
    #[inline]
    pub fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        self.sized("a string")
    }

    /// `fixed`
    #[inline]
    pub fn fixed(&mut self, size: usize) -> Result<&'a [u8], DecodeError> {
        self.take(size, "a fixed")
    }

    /// Whether a value follows, in a union of null and one type.
    #[inline]
    pub fn present(&mut self, null_branch: usize) -> Result<bool, DecodeError> {
        // Zig-zag doubles it.
        if let [byte @ (0 | 2), rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(usize::from(*byte / 2) != null_branch);
        }
        let mut copy = *self;
        let branch = copy.branch(2)?;
        *self = copy;
        Ok(branch != null_branch)
    }

    /// The branch of a union of so many branches.
    pub fn branch(&mut self, branches: usize) -> Result<usize, DecodeError> {
        let start = *self;
        let branch = usize::try_from(self.varint("a union")?).ok().filter(|branch| *branch < branches);
        branch.ok_or_else(|| start.error(Problem::Branch, "a union"))
    }

    /// The length of the next block of an array or map and, where the writer gave it, its size in bytes.
    pub fn block(&mut self) -> Result<(u64, Option<usize>), DecodeError> {
        let count = self.varint("a block")?;
        let size = if count < 0 { Some(self.size("a block")?) } else { None };
        Ok((count.unsigned_abs(), size))
    }

    /// Moves past these bytes and gives them from the body, if they are what follows.
    #[inline]
    pub fn strip(&mut self, bytes: &[u8]) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes.len()).filter(|(taken, _)| *taken == bytes)?;
        self.rest = rest;
        Some(taken)
    }

    /// The bytes from here to a later place of the same body.
    #[must_use]
    pub fn until(&self, later: &Self) -> &'a [u8] {
        self.rest.get(..later.offset() - self.offset()).unwrap_or_default()
    }

    /// That nothing follows.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(Problem::Trailing, "the end")) }
    }

    /// Number of bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// An error at this place.
    #[cold]
    #[must_use]
    pub const fn error(self, problem: Problem, reading: &'static str) -> DecodeError {
        DecodeError { problem, reading, offset: self.offset() }
    }

    #[inline]
    fn sized(&mut self, reading: &'static str) -> Result<&'a [u8], DecodeError> {
        // Most are short: their length is one byte, doubled by zig-zag.
        if let [byte @ 0..0x80, rest @ ..] = self.rest
            && byte & 1 == 0
            && let Some((taken, rest)) = rest.split_at_checked(usize::from(*byte / 2))
        {
            self.rest = rest;
            return Ok(taken);
        }
        let (taken, after) = self.long_sized(reading)?;
        *self = after;
        Ok(taken)
    }

    /// More than 63 bytes, or a length that cannot be; and the place after it. It takes the cursor itself, so that one that is
    /// read in a loop stays in registers.
    fn long_sized(mut self, reading: &'static str) -> Result<(&'a [u8], Self), DecodeError> {
        let size = self.size(reading)?;
        let taken = self.take(size, reading)?;
        Ok((taken, self))
    }

    #[inline]
    fn size(&mut self, reading: &'static str) -> Result<usize, DecodeError> {
        let start = *self;
        usize::try_from(self.varint(reading)?).map_err(|_| start.error(Problem::OutOfRange, reading))
    }

    #[inline]
    fn take(&mut self, size: usize, reading: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or_else(|| self.error(Problem::Truncated, reading))?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, reading: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.error(Problem::Truncated, reading))?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    fn varint(&mut self, reading: &'static str) -> Result<i64, DecodeError> {
        // Most are of one byte.
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            let number = i64::from(*byte);
            return Ok((number >> 1) ^ -(number & 1));
        }
        if let Some(word) = self.rest.first_chunk().map(|word| u64::from_le_bytes(*word))
            && let Some(last) = last_of_number(word)
            && let Some(rest) = self.rest.get(last + 1..)
        {
            self.rest = rest;
            let number = join_sevens(word & (u64::MAX >> (56 - 8 * last)));
            return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
        }
        let (number, after) = self.long_varint(reading)?;
        *self = after;
        Ok(number)
    }

    /// A number of more than eight bytes, or near the end of the body; and the place after it.
    #[cold]
    fn long_varint(mut self, reading: &'static str) -> Result<(i64, Self), DecodeError> {
        let start = self;
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array(reading).map_err(|_| start.error(Problem::Truncated, reading))?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(((number >> 1).cast_signed() ^ -(number & 1).cast_signed(), self));
            }
        }
        Err(start.error(Problem::OutOfRange, reading))
    }
}

/// Bytes of a word.
const WORD: usize = 8;
/// Bytes of the longest number.
const LONGEST_NUMBER: usize = 10;

/// Which byte of a little-endian word is the last one of the number that begins it, if one is.
#[inline]
const fn last_of_number(word: u64) -> Option<usize> {
    let ends = !word & 0x8080_8080_8080_8080;
    if ends == 0 { None } else { Some(ends.trailing_zeros() as usize / 8) }
}

/// The lower seven bits of each byte, one behind the other.
#[inline]
const fn join_sevens(word: u64) -> u64 {
    let pairs = word & 0x007F_007F_007F_007F | (word & 0x7F00_7F00_7F00_7F00) >> 1;
    let fours = pairs & 0x0000_3FFF_0000_3FFF | (pairs & 0x3FFF_0000_3FFF_0000) >> 2;
    fours & 0x0FFF_FFFF | (fours & 0x0FFF_FFFF_0000_0000) >> 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::avro::encode;

    proptest! {
        #[test]
        fn longs_survive(number: i64, bits in 0..64_u32) {
            let number = number >> bits;
            let mut bytes = Vec::new();
            encode::long(number, &mut bytes);
            // Near the end and far from it.
            for tail in 0..10 {
                let body = [&bytes[..], &[0xFF; 10][..tail]].concat();
                let (mut read, mut skipped) = (Cursor::new(&body), Cursor::new(&body));
                prop_assert_eq!(read.long(), Ok(number));
                prop_assert_eq!(skipped.skip_number(), Ok(()));
                prop_assert_eq!((read.offset(), skipped.offset()), (bytes.len(), bytes.len()));
            }
            for end in 0..bytes.len() {
                let truncated = Cursor::new(&bytes[..end]).long().unwrap_err();
                prop_assert_eq!(truncated.problem, Problem::Truncated);
            }
        }

        #[test]
        fn strings_survive(text: String) {
            let mut bytes = Vec::new();
            encode::string(&text, &mut bytes);
            prop_assert_eq!(Cursor::new(&bytes).string(), Ok(text.as_str()));
        }
    }

    #[test]
    fn sizes_and_numbers_out_of_range_are_errors() {
        assert_eq!(Cursor::new(&[1, 0]).bytes().unwrap_err().problem, Problem::OutOfRange);
        assert_eq!(Cursor::new(&[0xFF; 10]).long().unwrap_err().problem, Problem::OutOfRange);
        assert_eq!(Cursor::new(&[0xFE, 0xFF, 0xFF, 0xFF, 0x7F]).int().unwrap_err().problem, Problem::OutOfRange);
        assert_eq!(Cursor::new(&[4]).branch(2).unwrap_err().problem, Problem::Branch);
        assert_eq!(Cursor::new(&[2]).boolean().unwrap_err().problem, Problem::OutOfRange);
    }
}
