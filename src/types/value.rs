//! A value between PostgreSQL's text and Avro's bytes, borrowed from whichever side it came from.

use std::cell::Cell;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};

use super::{
    array_scan::{Item, unescape, walk},
    hstore_json::HstoreText,
    magnitude,
    modes::BinaryMode,
    plain_moment::UsualMoment,
};

/// A non-null column value in the shape of its Avro type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `boolean`
    Boolean(bool),
    /// `int`
    Int(i32),
    /// `long`
    Long(i64),
    /// `float`
    Float(f32),
    /// `double`
    Double(f64),
    /// `string`, borrowed.
    Text(&'a str),
    /// `string` of a few bytes that had to be composed.
    Short(ShortText),
    /// `bytes`
    Bytes(ByteString<'a>),
    /// `string` with bytes in an encoding.
    Encoded(ByteString<'a>, BinaryMode),
    /// `array` of nullable items.
    Array(ArrayText<'a>),
    /// `array` of so many nulls.
    Nulls(usize),
    /// `string` with a JSON object.
    Hstore(HstoreText<'a>),
    /// `map` of nullable strings.
    Map(HstoreText<'a>),
    /// `bytes` of a bit string, the last bit first.
    Bits(BitString<'a>),
    /// The record `io.debezium.data.geometry.Point`.
    Point {
        /// Its first coordinate.
        x: f64,
        /// Its second.
        y: f64,
    },
    /// `bytes` with logical type `decimal`; the scale is the schema's.
    Decimal(Unscaled<'a>),
    /// The record `io.debezium.data.VariableScaleDecimal`.
    VariableScaleDecimal {
        /// Digits after the decimal point.
        scale: i32,
        /// The number times ten to the power of `scale`.
        unscaled: Unscaled<'a>,
    },
}

impl Value<'_> {
    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Short(text) => Some(text.as_str()),
            _ => None,
        }
    }
}

/// What became of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parsed<'a> {
    /// The Avro type holds it exactly.
    Value(Value<'a>),
    /// The Avro type holds what Debezium's has of it, which is less: its text must travel besides.
    Lossy(Value<'a>),
    /// The Avro type cannot hold it; it must travel as text.
    Unrepresentable {
        /// What stands in a field that cannot be null: outside the type's own values where there is room, so that
        /// different values of a key stay different.
        stand_in: Value<'a>,
    },
}

/// A value of the commonest types, the same in a row and in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simple<'a> {
    /// [`Value::Text`]
    Text(&'a str),
    /// [`Value::Int`] or [`Value::Long`]
    Number(i64),
    /// [`Value::Decimal`]
    Decimal(i64),
    /// [`Value::Short`]
    Moment(UsualMoment<'a>),
}

impl Parsed<'_> {
    /// The same value, if it is less than the text says.
    pub(super) const fn lossy_if(self, is_lossy: bool) -> Self {
        match self {
            Self::Value(value) if is_lossy => Self::Lossy(value),
            other => other,
        }
    }
}

/// A value from a record has no PostgreSQL text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value that no PostgreSQL {0} has")]
pub struct RenderError(pub(crate) &'static str);

/// The bytes of a `bytea`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteString<'a> {
    /// As they are.
    Raw(&'a [u8]),
    /// Pairs of hexadecimal digits, checked.
    Hex(&'a [u8]),
}

impl ByteString<'_> {
    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Raw(bytes) => bytes.len(),
            Self::Hex(digits) => digits.len() / 2,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes of the encoding.
    #[must_use]
    pub const fn encoded_len(&self, mode: BinaryMode) -> usize {
        match mode {
            BinaryMode::Bytes => self.len(),
            BinaryMode::Hex => self.len() * 2,
            BinaryMode::Base64 | BinaryMode::Base64UrlSafe => self.len().div_ceil(3) * 4,
        }
    }

    /// Appends the bytes in an encoding; `scratch` is any buffer, its content is lost.
    pub fn append_encoded_to(&self, mode: BinaryMode, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        scratch.clear();
        self.append_to(scratch);
        append_encoded(scratch, mode, out);
    }

    /// Appends the bytes themselves.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Hex(digits) => {
                out.extend(digits.as_chunks::<2>().0.iter().map(|[high, low]| nibble(*high) << 4 | nibble(*low)));
            }
        }
    }
}

/// The value of a hexadecimal digit that was checked before.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

/// A checked array of one dimension.
#[derive(Clone, Copy, Debug)]
pub struct ArrayText<'a> {
    /// What stands between the braces.
    items: &'a [u8],
    count: usize,
    element: &'a dyn Element,
}

thread_local! {
    /// An item without its escapes; kept, since most arrays of texts have some, unless it is as large as few are.
    static UNESCAPED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The largest item whose room is kept, in bytes: what the threads keep is in no budget.
const KEPT_BYTES: usize = 1 << 20;

fn keep_unescaped(buffer: Vec<u8>) {
    if buffer.capacity() <= KEPT_BYTES {
        UNESCAPED.set(buffer);
    }
}

/// What reads the items of an array.
pub trait Element: std::fmt::Debug + Send + Sync {
    /// The value of an item's text; `None` where it has none.
    fn parse_item<'a>(&'a self, text: &'a [u8]) -> Option<Parsed<'a>>;

    /// Whether the Avro type of the items has no null.
    fn is_required(&self) -> bool {
        false
    }

    /// Whether the items are numerics, in whatever form.
    fn is_decimal(&self) -> bool {
        false
    }

    /// Whether the items are dates, or moments that Debezium takes apart as it does them.
    fn is_date(&self) -> bool {
        false
    }

    /// Whether the items' Avro value is their text.
    fn is_text(&self) -> bool {
        false
    }
}

impl PartialEq for ArrayText<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.items, self.count) == (other.items, other.count)
    }
}

impl<'a> ArrayText<'a> {
    /// The array between these braces' contents; `None` if they are malformed.
    pub(super) fn new(items: &'a [u8], element: &'a dyn Element) -> Option<Self> {
        let count = walk(items, |_| {})?;
        Some(Self { items, count, element })
    }

    /// An array without items.
    pub(super) fn empty(element: &'a dyn Element) -> Self {
        Self { items: &[], count: 0, element }
    }
}

impl ArrayText<'_> {
    /// Number of items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the Avro type of the items has no null; arrays with one are not written in it.
    #[must_use]
    pub fn has_required_items(&self) -> bool {
        self.element.is_required()
    }

    /// Calls `visit` with each item's value; `None` is null, and what its Avro type cannot hold.
    pub fn each(&self, mut visit: impl FnMut(Option<Value<'_>>)) {
        let mut unescaped = UNESCAPED.take();
        walk(self.items, |item| match self.item(&item, &mut unescaped) {
            Some(Parsed::Value(value) | Parsed::Lossy(value)) => visit(Some(value)),
            Some(Parsed::Unrepresentable { .. }) | None => visit(None),
        });
        keep_unescaped(unescaped);
    }

    fn item<'b>(&'b self, item: &Item<'b>, unescaped: &'b mut Vec<u8>) -> Option<Parsed<'b>> {
        let text = match *item {
            Item::Null => return None,
            Item::Plain(text) => text,
            Item::Escaped(text) => {
                unescape(text, unescaped);
                unescaped
            }
        };
        Some(self.element.parse_item(text).unwrap_or(Parsed::Unrepresentable { stand_in: Value::Text("") }))
    }

    /// Whether an item is NULL.
    pub(super) fn has_null(&self) -> bool {
        let mut has_null = false;
        walk(self.items, |item| has_null |= matches!(item, Item::Null));
        has_null
    }

    /// Whether an item has no value of its Avro type.
    pub(super) fn has_unrepresentable(&self) -> bool {
        let (mut has, mut unescaped) = (false, UNESCAPED.take());
        walk(self.items, |item| {
            has |= matches!(self.item(&item, &mut unescaped), Some(Parsed::Unrepresentable { .. }));
        });
        keep_unescaped(unescaped);
        has
    }

    /// Whether every item is null or has a value that its Avro type holds exactly.
    pub(super) fn is_exact(&self) -> bool {
        let (mut exact, mut unescaped) = (true, UNESCAPED.take());
        walk(self.items, |item| {
            exact &= matches!(self.item(&item, &mut unescaped), None | Some(Parsed::Value(_)));
        });
        keep_unescaped(unescaped);
        exact
    }
}

/// The digits of a bit string, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitString<'a>(&'a [u8]);

impl<'a> BitString<'a> {
    /// Text of the digits 0 and 1.
    #[must_use]
    pub fn new(digits: &'a [u8]) -> Option<Self> {
        digits.iter().all(|digit| matches!(digit, b'0' | b'1')).then_some(Self(digits))
    }

    /// Appends the bits, the last one lowest in the first byte, up to the highest that is set (Java's `BitSet.toByteArray`).
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let first = self.0.iter().position(|digit| *digit == b'1').unwrap_or(self.0.len());
        let bits = self.0.get(first..).unwrap_or_default();
        out.extend(bits.rchunks(8).map(|byte| byte.iter().fold(0, |byte, digit| byte << 1 | (digit & 1))));
    }
}

/// An integer of up to 38 digits. It is aligned as a word, so that the values that may have one are moved by words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(8))]
pub struct Wide(i128);

impl From<i128> for Wide {
    fn from(number: i128) -> Self {
        Self(number)
    }
}

impl Wide {
    /// The number.
    #[must_use]
    pub const fn get(self) -> i128 {
        self.0
    }

    /// The shortest two's complement, most significant byte first: the last bytes of these, so many.
    fn twos_complement(self) -> ([u8; 16], usize) {
        let number = self.get();
        let sign_bits = if number < 0 { number.leading_ones() } else { number.leading_zeros() };
        // One bit of the sign is a part of the number.
        let redundant = (sign_bits - 1) / u8::BITS;
        (number.to_be_bytes(), 16 - redundant as usize)
    }
}

/// An integer of any size, as a decimal's unscaled value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscaled<'a> {
    /// Up to 38 digits.
    Small(Wide),
    /// More digits than fit, as text: the digits of `whole`, then those of `fraction`, then `zeros` zeros.
    Digits {
        /// Whether it is below zero.
        negative: bool,
        /// Digits before the decimal point.
        whole: &'a [u8],
        /// Digits after the decimal point.
        fraction: &'a [u8],
        /// Zeros that bring the fraction to its scale.
        zeros: usize,
    },
    /// Two's complement, most significant byte first, as Avro has it.
    TwosComplement(&'a [u8]),
}

impl Unscaled<'_> {
    /// Appends the shortest two's complement, most significant byte first (Java's `BigInteger.toByteArray`).
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Small(number) => {
                let (bytes, count) = number.twos_complement();
                out.extend_from_slice(bytes.get(bytes.len() - count..).unwrap_or_default());
            }
            Self::Digits { negative, whole, fraction, zeros } => {
                let digits = whole.iter().chain(fraction).copied().chain(std::iter::repeat_n(b'0', zeros));
                magnitude::append_twos_complement(negative, digits, out);
            }
            Self::TwosComplement(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Appends its decimal digits behind its sign; of one that a record's bytes are, nothing.
    pub(super) fn append_digits_to(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Small(number) => out.extend_from_slice(itoa::Buffer::new().format(number.get()).as_bytes()),
            Self::Digits { negative, whole, fraction, zeros } => {
                if negative {
                    out.push(b'-');
                }
                let digits = whole.iter().chain(fraction).copied().chain(std::iter::repeat_n(b'0', zeros));
                let start = out.len();
                out.extend(digits.skip_while(|digit| *digit == b'0'));
                if out.len() == start {
                    out.push(b'0');
                }
            }
            Self::TwosComplement(_) => {}
        }
    }
}

/// Text of at most 64 bytes without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortText {
    length: usize,
    bytes: [u8; Self::CAPACITY],
}

impl ShortText {
    const CAPACITY: usize = 64;

    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Self { length: 0, bytes: [0; Self::CAPACITY] }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Appends a text; `None` if it does not fit.
    #[inline]
    pub(super) fn push(&mut self, text: &str) -> Option<()> {
        self.push_bytes(text.as_bytes())
    }

    /// Appends ASCII; `None` if it does not fit.
    #[inline]
    pub(super) fn push_bytes(&mut self, text: &[u8]) -> Option<()> {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end)?.copy_from_slice(text);
        self.length = end;
        Some(())
    }

    /// Puts an ASCII character in the place of one; `None` if there is none.
    #[inline]
    pub(super) fn replace(&mut self, place: usize, character: u8) -> Option<()> {
        *self.bytes.get_mut(..self.length)?.get_mut(place)? = character;
        Some(())
    }

    /// Appends a number in at least `width` digits; `None` if it does not fit.
    #[inline]
    pub(super) fn push_number(&mut self, number: u64, width: usize) -> Option<()> {
        if let (Ok(number @ 0..100), 2) = (u8::try_from(number), width) {
            return self.push_bytes(&[b'0' + number / 10, b'0' + number % 10]);
        }
        let length = digits_of(number).max(width);
        let room = self.bytes.get_mut(self.length..self.length + length)?;
        let mut rest = number;
        for place in room.iter_mut().rev() {
            (*place, rest) = (b'0' + (rest % 10) as u8, rest / 10);
        }
        self.length += length;
        Some(())
    }
}

/// How many decimal digits a number has.
pub(super) const fn digits_of(number: u64) -> usize {
    match number.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

impl Default for ShortText {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ShortText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl std::fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text).ok_or(std::fmt::Error)
    }
}

/// Appends bytes in an encoding.
pub fn append_encoded(bytes: &[u8], mode: BinaryMode, out: &mut Vec<u8>) {
    let start = out.len();
    match mode {
        BinaryMode::Bytes => out.extend_from_slice(bytes),
        BinaryMode::Hex => {
            let digits = |byte: &u8| [byte >> 4, byte & 0xF].map(|digit| char::from_digit(digit.into(), 16));
            out.extend(bytes.iter().flat_map(digits).flatten().map(|digit| digit as u8));
        }
        BinaryMode::Base64 | BinaryMode::Base64UrlSafe => {
            let engine = if mode == BinaryMode::Base64 { STANDARD } else { URL_SAFE };
            // Four digits, padded, for three bytes.
            out.resize(start + bytes.len().div_ceil(3) * 4, 0);
            let written = out.get_mut(start..).and_then(|room| engine.encode_slice(bytes, room).ok());
            out.truncate(start + written.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twos_complement(unscaled: Unscaled<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        unscaled.append_to(&mut out);
        out
    }

    #[test]
    fn unscaled_values_take_the_fewest_bytes() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[0xFF]),
            (127, &[0x7F]),
            (128, &[0, 0x80]),
            (-128, &[0x80]),
            (-129, &[0xFF, 0x7F]),
            (i128::from(i64::MAX) + 1, &[0, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            (1_234_567_890, &[0x49, 0x96, 0x02, 0xD2]),
        ] {
            assert_eq!(twos_complement(Unscaled::Small(number.into())), bytes, "{number}");
        }
        assert_eq!(twos_complement(Unscaled::Small(i128::MIN.into())).len(), 16);
    }
}
