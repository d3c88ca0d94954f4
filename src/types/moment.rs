//! Moments as text: PostgreSQL's, and ISO 8601 at UTC as Java writes it.

use super::{
    calendar::{Clock, DAY, IsoDate, MICROS, Moment, PgDate, fraction_digits, moment, scan_iso_date, scan_time},
    plain_moment::{DATE_LENGTH, SECONDS_LENGTH, is_plain},
    scan::Scan,
    value::{RenderError, ShortText},
};

/// Appends a moment as PostgreSQL writes it, with a suffix before the era (an offset).
pub(super) fn append(moment: Moment, suffix: &str, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let date = PgDate::from_days(moment.seconds.div_euclid(DAY));
    let micros = moment.seconds.rem_euclid(DAY) * MICROS + moment.micros;
    let clock = Clock { micros, digits: fraction_digits(micros) };
    let mut text = ShortText::new();
    let written = (|| {
        date.append_to(&mut text)?;
        text.push(" ")?;
        clock.append_to(&mut text)?;
        text.push(suffix)?;
        text.push(date.era())
    })();
    written.ok_or(RenderError("timestamp"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A moment in ISO 8601 at UTC, its fraction of so many digits, or more where it has more.
pub(super) fn iso(moment: Moment, digits: u8) -> Option<ShortText> {
    let micros = moment.seconds.rem_euclid(DAY) * MICROS + moment.micros;
    let digits = if micros % 10_i64.pow(6 - u32::from(digits.min(6))) == 0 { digits } else { 6 };
    let mut text = ShortText::new();
    let date = IsoDate::from_days(moment.seconds.div_euclid(DAY));
    date.append_to(&mut text)?;
    text.push("T")?;
    Clock { micros, digits }.append_to(&mut text)?;
    text.push("Z")?;
    Some(text)
}

/// What [`iso`] gives for PostgreSQL's text of a moment at UTC, where the two differ in signs alone: a year of four digits, a
/// day that every month has, and no more digits of a fraction than are wanted.
pub(super) fn iso_of_utc(text: &[u8], digits: u8) -> Option<ShortText> {
    let (clock, rest) = text.strip_suffix(b"+00")?.split_first_chunk::<SECONDS_LENGTH>()?;
    let fraction = match rest {
        [] => rest,
        [b'.', fraction @ ..] if fraction.iter().all(u8::is_ascii_digit) && !fraction.is_empty() => fraction,
        _ => return None,
    };
    let zeros = usize::from(digits).checked_sub(fraction.len()).filter(|_| digits <= 6 && is_plain(clock))?;
    let mut iso = ShortText::new();
    iso.push_bytes(clock)?;
    iso.replace(DATE_LENGTH, b'T')?;
    if digits > 0 {
        iso.push(".")?;
        iso.push_bytes(fraction)?;
        iso.push_bytes(b"000000".get(..zeros)?)?;
    }
    iso.push("Z")?;
    Some(iso)
}

/// Appends PostgreSQL's text for what [`iso_of_utc`] gives, with a suffix; answers whether it is such a text.
pub(super) fn append_plain(text: &[u8], suffix: &str, out: &mut Vec<u8>) -> bool {
    let split = || text.strip_suffix(b"Z")?.split_first_chunk::<SECONDS_LENGTH>();
    let Some((clock, rest)) = split() else { return false };
    let mut plain = *clock;
    if std::mem::replace(&mut plain[DATE_LENGTH], b' ') != b'T' || !is_plain(&plain) {
        return false;
    }
    let fraction = match rest {
        [] => rest,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => rest,
        _ => return false,
    };
    let kept = fraction.iter().rposition(|digit| !matches!(digit, b'0' | b'.')).map_or(0, |last| last + 1);
    out.extend_from_slice(&plain);
    out.extend_from_slice(fraction.get(..kept).unwrap_or_default());
    out.extend_from_slice(suffix.as_bytes());
    true
}

/// Reads what [`iso`] writes.
pub(super) fn scan_iso(text: &[u8]) -> Option<Moment> {
    let mut scan = Scan(text);
    let days = scan_iso_date(&mut scan)?;
    scan.skip(b'T')?;
    let time = scan_time(&mut scan)?;
    scan.skip(b'Z')?;
    scan.is_at_end().then(|| moment(days, time, 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{calendar::scan_moment, plain_moment::UsualMoment};

    proptest! {
        /// What takes the short way is what the long way gives, and comes back as it was.
        #[test]
        fn short_and_long_ways_agree(
            year in 0..10_000_i64, month in 0..14_i64, day in 0..33_i64, hour in 0..26_i64, minute in 58..62_i64,
            second in 0..62_i64, fraction in "|[.][0-9]{0,7}|[.][0-9]{5}0", digits in 0..8_u8,
        ) {
            let clock = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
            let text = format!("{clock}{fraction}+00");
            if let Some(short) = iso_of_utc(text.as_bytes(), digits) {
                let long = scan_moment(text.as_bytes(), true).and_then(|moment| iso(moment, digits));
                prop_assert_eq!(Some(short), long);
            }
            let usual = UsualMoment::of_utc(text.as_bytes()).map(|moment| moment.iso().to_vec());
            let short = iso_of_utc(text.as_bytes(), 6).filter(|_| fraction.len() == 7).map(|iso| iso.as_bytes().to_vec());
            prop_assert_eq!(usual, short);
            let text = format!("{}{fraction}Z", clock.replace(' ', "T"));
            let (mut short, mut long) = (Vec::new(), Vec::new());
            if append_plain(text.as_bytes(), "+00", &mut short) {
                append(scan_iso(text.as_bytes()).expect("a moment"), "+00", &mut long).expect("a text");
                prop_assert_eq!(short, long);
            }
        }
    }

    #[test]
    fn usual_moments_take_the_short_way() {
        let short = |text: &str, digits| iso_of_utc(text.as_bytes(), digits).map(|iso| iso.as_str().to_owned());
        assert_eq!(short("2026-11-24 10:11:12.3456+00", 6).as_deref(), Some("2026-11-24T10:11:12.345600Z"));
        assert_eq!(short("2026-11-24 10:11:12+00", 0).as_deref(), Some("2026-11-24T10:11:12Z"));
        for (text, digits) in [
            ("2026-02-29 10:11:12+00", 6),
            ("0000-11-24 10:11:12+00", 6),
            ("2026-11-24 24:00:00+00", 6),
            ("2026-11-24 10:11:12.5+00", 0),
            ("2026-11-24 10:11:12.+00", 6),
            ("2026-11-24 10:11:12.5+01", 6),
            ("2026-11-24 10:11:12.5+00 BC", 6),
            ("2026-11-24T10:11:12.5+00", 6),
        ] {
            assert_eq!(short(text, digits), None, "{text}");
        }
        let mut out = Vec::new();
        assert!(append_plain(b"2026-11-24T10:11:12.345600Z", "+00", &mut out));
        assert!(append_plain(b"2026-11-24T10:11:12.000000Z", "+00", &mut out));
        assert_eq!(out.escape_ascii().to_string(), "2026-11-24 10:11:12.3456+002026-11-24 10:11:12+00");
    }
}
