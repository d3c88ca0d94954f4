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

    /// Moves past an `int`, a `long` or an `enum`.
    #[inline]
    pub fn skip_number(&mut self) -> Result<(), DecodeError> {
        match self.rest.iter().take(10).position(|byte| byte & 0x80 == 0) {
            Some(last) => self.rest = self.rest.get(last + 1..).unwrap_or_default(),
            None => {
                return Err(
                    self.error(if self.rest.len() < 10 { Problem::Truncated } else { Problem::OutOfRange }, "a number")
                );
            }
        }
        Ok(())
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

    /// `fixed`
    pub fn fixed(&mut self, size: usize) -> Result<&'a [u8], DecodeError> {
        self.take(size, "a fixed")
    }

    /// The branch of a union of so many branches.
    #[inline]
    pub fn branch(&mut self, branches: usize) -> Result<usize, DecodeError> {
        // Zig-zag doubles it.
        if let [byte @ (0 | 2), rest @ ..] = self.rest
            && usize::from(*byte) < 2 * branches
        {
            self.rest = rest;
            return Ok(usize::from(*byte / 2));
        }
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
    #[must_use]
    pub const fn error(&self, problem: Problem, reading: &'static str) -> DecodeError {
        DecodeError { problem, reading, offset: self.length - self.rest.len() }
    }

    #[inline]
    fn sized(&mut self, reading: &'static str) -> Result<&'a [u8], DecodeError> {
        let size = self.size(reading)?;
        self.take(size, reading)
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
        let start = *self;
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array(reading).map_err(|_| start.error(Problem::Truncated, reading))?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
            }
        }
        Err(start.error(Problem::OutOfRange, reading))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::avro::encode;

    proptest! {
        #[test]
        fn longs_survive(number: i64) {
            let mut bytes = Vec::new();
            encode::long(number, &mut bytes);
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(cursor.long(), Ok(number));
            prop_assert_eq!(cursor.finish(), Ok(()));
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
