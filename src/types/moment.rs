//! Moments as text: PostgreSQL's, and ISO 8601 at UTC as Java writes it.

use super::{
    calendar::{Clock, DAY, IsoDate, MICROS, Moment, PgDate, fraction_digits, moment, scan_iso_date, scan_time},
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

/// Reads what [`iso`] writes.
pub(super) fn scan_iso(text: &[u8]) -> Option<Moment> {
    let mut scan = Scan(text);
    let days = scan_iso_date(&mut scan)?;
    scan.skip(b'T')?;
    let time = scan_time(&mut scan)?;
    scan.skip(b'Z')?;
    scan.is_at_end().then(|| moment(days, time, 0))
}
