//! Reading the fixed notations of PostgreSQL's numbers, dates and times out of text without an allocation.

/// A cursor over ASCII text; every method answers `None` where the text is not what it asks for.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a>(pub(super) &'a [u8]);

impl<'a> Scan<'a> {
    pub(super) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one byte if it is this one.
    pub(super) fn skip(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    /// Takes this text.
    pub(super) fn skip_text(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text.as_bytes())?;
        Some(())
    }

    /// Takes all digits that follow, possibly none.
    pub(super) fn digits(&mut self) -> &'a [u8] {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        digits
    }

    /// A number of one to nine digits.
    pub(super) fn number(&mut self) -> Option<i64> {
        let digits = self.digits();
        (1..=9).contains(&digits.len()).then(|| fold(digits))
    }

    /// A number of exactly two digits.
    pub(super) fn two_digits(&mut self) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(2)?;
        self.0 = rest;
        digits.iter().all(u8::is_ascii_digit).then(|| fold(digits))
    }

    /// A fraction of a second in microseconds: nothing, or a point and one to six digits (more if they are zeros).
    pub(super) fn fraction_micros(&mut self) -> Option<i64> {
        if self.skip(b'.').is_none() {
            return Some(0);
        }
        let digits = self.digits();
        let (kept, rest) = digits.split_at(digits.len().min(6));
        let exact = !kept.is_empty() && rest.iter().all(|digit| *digit == b'0');
        exact.then(|| {
            kept.iter()
                .chain(std::iter::repeat_n(&b'0', 6 - kept.len()))
                .fold(0, |number, digit| shift_in(number, *digit))
        })
    }
}

fn fold(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |number, digit| shift_in(number, *digit))
}

fn shift_in(number: i64, digit: u8) -> i64 {
    number * 10 + i64::from(digit - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_exact_microseconds_or_nothing() {
        let micros = |text: &str| Scan(text.as_bytes()).fraction_micros();
        assert_eq!(micros(""), Some(0));
        assert_eq!(micros(".5"), Some(500_000));
        assert_eq!(micros(".000001"), Some(1));
        assert_eq!(micros(".1234560"), Some(123_456));
        assert_eq!(micros(".1234567"), None);
        assert_eq!(micros("."), None);
    }
}
