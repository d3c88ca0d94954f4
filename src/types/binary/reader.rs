//! A cursor over the bytes of one value, in network byte order.

use super::error::BinaryError;

/// See the module.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next so many bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], BinaryError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BinaryError::Bytes("value that ends so early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BinaryError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BinaryError::Bytes("value that ends so early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, BinaryError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, BinaryError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, BinaryError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BinaryError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, BinaryError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, BinaryError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, BinaryError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn f32(&mut self) -> Result<f32, BinaryError> {
        self.array().map(f32::from_be_bytes)
    }

    pub(super) fn f64(&mut self) -> Result<f64, BinaryError> {
        self.array().map(f64::from_be_bytes)
    }

    /// A count of items, each of which takes `least` bytes or more: a count that the bytes cannot have is none.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, BinaryError> {
        let count = usize::try_from(self.i32()?).map_err(|_| BinaryError::Bytes("value of so many items"))?;
        if count > self.0.len() / least { Err(BinaryError::Bytes("value of so many items")) } else { Ok(count) }
    }

    /// A length and so many bytes; `None` for the length −1.
    pub(super) fn sized(&mut self) -> Result<Option<&'a [u8]>, BinaryError> {
        match self.i32()? {
            -1 => Ok(None),
            length => self
                .take(usize::try_from(length).map_err(|_| BinaryError::Bytes("value of a negative length"))?)
                .map(Some),
        }
    }

    /// Bytes up to a zero, which is taken too.
    pub(super) fn text(&mut self) -> Result<&'a [u8], BinaryError> {
        let at = self.0.iter().position(|byte| *byte == 0).ok_or(BinaryError::Bytes("text without an end"))?;
        let text = self.take(at)?;
        self.take(1)?;
        Ok(text)
    }

    /// All that is left.
    pub(super) const fn rest(&mut self) -> &'a [u8] {
        let rest = self.0;
        self.0 = &[];
        rest
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), BinaryError> {
        if self.0.is_empty() { Ok(()) } else { Err(BinaryError::Bytes("value that ends so late")) }
    }
}
