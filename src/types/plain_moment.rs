//! The usual form of a moment as PostgreSQL writes it, told eight bytes at a time.

/// Bytes of `YYYY-MM-DD`.
pub(super) const DATE_LENGTH: usize = 10;
/// Bytes of `YYYY-MM-DD HH:MM:SS`.
pub(super) const SECONDS_LENGTH: usize = 19;

/// PostgreSQL's text of a moment at UTC that [`is_plain`], with all six digits of a fraction: most have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsualMoment<'a> {
    clock: &'a [u8; SECONDS_LENGTH],
    fraction: &'a [u8; WORD],
}

impl<'a> UsualMoment<'a> {
    /// `None` if the text is of another form.
    pub(super) fn of_utc(text: &'a [u8]) -> Option<Self> {
        let (clock, rest) = text.split_first_chunk()?;
        let (fraction, offset) = rest.split_first_chunk()?;
        (offset == b"00" && has_form(*fraction, *b".000000+") && is_plain(clock)).then_some(Self { clock, fraction })
    }

    /// The moment in ISO 8601.
    #[must_use]
    pub fn iso(self) -> [u8; SECONDS_LENGTH + WORD] {
        let mut iso = [0; SECONDS_LENGTH + WORD];
        iso[..SECONDS_LENGTH].copy_from_slice(self.clock);
        iso[SECONDS_LENGTH..].copy_from_slice(self.fraction);
        iso[DATE_LENGTH] = b'T';
        iso[SECONDS_LENGTH + WORD - 1] = b'Z';
        iso
    }
}

const WORD: usize = 8;

/// Whether the text has a digit where the form has 0, and the form's bytes elsewhere.
#[inline]
const fn has_form(text: [u8; WORD], form: [u8; WORD]) -> bool {
    let mut digits = [0; WORD];
    let mut at = 0;
    while at < WORD {
        digits[at] = if form[at] == b'0' { 0xFF } else { 0 };
        at += 1;
    }
    let digits = u64::from_le_bytes(digits);
    let differs = u64::from_le_bytes(text) ^ u64::from_le_bytes(form);
    // A digit differs from 0 in its lower half alone, by no more than nine: six more is no carry into the upper half.
    let low = u64::from_le_bytes([0x0F; WORD]) & digits;
    let six_more = differs.wrapping_add(u64::from_le_bytes([6; WORD]) & digits);
    (differs & !low) | (six_more & digits & !low) == 0
}

/// Whether these are the digits of a date and a time of day that are the same in every calendar.
pub(super) fn is_plain(text: &[u8; SECONDS_LENGTH]) -> bool {
    let (Some((date, rest)), Some(clock)) = (text.split_first_chunk::<WORD>(), text.last_chunk::<WORD>()) else {
        return false;
    };
    let has_date =
        has_form(*date, *b"0000-00-") && rest.first_chunk().is_some_and(|rest| has_form(*rest, *b"00 00:00"));
    if !has_date || !has_form(*clock, *b"00:00:00") {
        return false;
    }
    let two = |at: usize| (text[at] - b'0') * 10 + text[at + 1] - b'0';
    let (month, day, hour, minute, second) = (two(5), two(8), two(11), two(14), two(17));
    let is_date = text[..4] != *b"0000" && (1..=12).contains(&month) && (1..=28).contains(&day);
    is_date && hour < 24 && minute < 60 && second < 60
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_digits_and_its_own_bytes() {
        const FORM: [u8; WORD] = *b"00:00-0+";
        for (at, byte) in (0..WORD).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut text = *b"19:90-5+";
            text[at] = byte;
            let fits = if FORM[at] == b'0' { byte.is_ascii_digit() } else { byte == FORM[at] };
            assert_eq!(has_form(text, FORM), fits, "{at} {byte}");
        }
    }
}
