//! The proleptic Gregorian calendar and times of day, as PostgreSQL and Java count them.

use super::{scan::Scan, value::ShortText};

/// Microseconds in a second.
pub(super) const MICROS: i64 = 1_000_000;
/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// A moment: whole seconds since 1970-01-01 00:00 and the microseconds after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) seconds: i64,
    pub(super) micros: i64,
}

/// Days since 1970-01-01 of a date whose year is astronomical (0 is 1 BC).
pub(super) const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Astronomical year, month and day of a number of days since 1970-01-01.
pub(super) const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// Reads `YYYY-MM-DD`, the year of four digits or more and not yet told whether it is BC.
pub(super) fn scan_date(scan: &mut Scan<'_>) -> Option<(i64, i64, i64)> {
    let year = scan.number()?;
    scan.skip(b'-')?;
    let month = scan.two_digits()?;
    scan.skip(b'-')?;
    let day = scan.two_digits()?;
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some((year, month, day))
}

/// The astronomical year of a year that ` BC` may follow.
pub(super) fn scan_era(scan: &mut Scan<'_>, year: i64) -> i64 {
    if scan.skip_text(" BC").is_some() { 1 - year } else { year }
}

/// Reads `HH:MM:SS[.ffffff]` as microseconds since midnight; 24:00:00 is allowed.
pub(super) fn scan_time(scan: &mut Scan<'_>) -> Option<i64> {
    let hour = scan.two_digits()?;
    scan.skip(b':')?;
    let minute = scan.two_digits()?;
    scan.skip(b':')?;
    let second = scan.two_digits()?;
    let micros = ((hour * 60 + minute) * 60 + second) * MICROS + scan.fraction_micros()?;
    (minute < 60 && second < 60 && micros <= DAY * MICROS).then_some(micros)
}

/// Reads `YYYY-MM-DD HH:MM:SS[.ffffff][±HH[:MM[:SS]]][ BC]`; the offset only if `zoned`.
pub(super) fn scan_moment(text: &[u8], zoned: bool) -> Option<Moment> {
    let mut scan = Scan(text);
    let (year, month, day) = scan_date(&mut scan)?;
    scan.skip(b' ')?;
    let time = scan_time(&mut scan)?;
    let offset = if zoned { scan_offset(&mut scan)? } else { 0 };
    let year = scan_era(&mut scan, year);
    scan.is_at_end().then(|| moment(days_from_civil(year, month, day), time, offset))
}

/// The moment of a day, a time on it in microseconds, and an offset from UTC in seconds.
pub(super) const fn moment(days: i64, time: i64, offset: i64) -> Moment {
    Moment { seconds: days * DAY + time / MICROS - offset, micros: time % MICROS }
}

fn scan_offset(scan: &mut Scan<'_>) -> Option<i64> {
    let sign = if scan.skip(b'-').is_some() { -1 } else { scan.skip(b'+').map(|()| 1)? };
    let mut seconds = scan.two_digits()? * 3_600;
    if scan.skip(b':').is_some() {
        seconds += scan.two_digits()? * 60;
        if scan.skip(b':').is_some() {
            seconds += scan.two_digits()?;
        }
    }
    Some(sign * seconds)
}

/// A date as PostgreSQL writes it, without the era.
pub(super) struct PgDate(pub(super) i64, pub(super) i64, pub(super) i64);

impl PgDate {
    pub(super) const fn from_days(days: i64) -> Self {
        let (year, month, day) = civil_from_days(days);
        Self(year, month, day)
    }

    /// What follows the date (and the time, if there is one).
    pub(super) const fn era(&self) -> &'static str {
        if self.0 <= 0 { " BC" } else { "" }
    }
}

impl PgDate {
    /// Appends the date; `None` if it does not fit.
    pub(super) fn append_to(&self, text: &mut ShortText) -> Option<()> {
        let year = if self.0 <= 0 { 1 - self.0 } else { self.0 };
        text.push_number(year.unsigned_abs(), 4)?;
        append_month_and_day(self.1, self.2, text)
    }
}

fn append_month_and_day(month: i64, day: i64, text: &mut ShortText) -> Option<()> {
    text.push("-")?;
    text.push_number(month.unsigned_abs(), 2)?;
    text.push("-")?;
    text.push_number(day.unsigned_abs(), 2)
}

/// A date as Java writes it in ISO 8601: years beyond four digits and before 1 carry a sign.
pub(super) struct IsoDate(i64, i64, i64);

impl IsoDate {
    pub(super) const fn from_days(days: i64) -> Self {
        let (year, month, day) = civil_from_days(days);
        Self(year, month, day)
    }
}

impl IsoDate {
    /// Appends the date; `None` if it does not fit.
    pub(super) fn append_to(&self, text: &mut ShortText) -> Option<()> {
        match self.0 {
            0..=9_999 => {}
            ..0 => text.push("-")?,
            _ => text.push("+")?,
        }
        text.push_number(self.0.unsigned_abs(), 4)?;
        append_month_and_day(self.1, self.2, text)
    }
}

/// Reads such a date as days since 1970-01-01.
pub(super) fn scan_iso_date(scan: &mut Scan<'_>) -> Option<i64> {
    let negative = scan.skip(b'-').is_some();
    let _ = scan.skip(b'+');
    let (year, month, day) = scan_date(scan)?;
    Some(days_from_civil(if negative { -year } else { year }, month, day))
}

/// A time of day in microseconds, with a fraction of the given number of digits.
pub(super) struct Clock {
    pub(super) micros: i64,
    pub(super) digits: u8,
}

impl Clock {
    /// Appends the time; `None` if it does not fit.
    pub(super) fn append_to(&self, text: &mut ShortText) -> Option<()> {
        let seconds = (self.micros / MICROS).unsigned_abs();
        text.push_number(seconds / 3_600, 2)?;
        text.push(":")?;
        text.push_number(seconds / 60 % 60, 2)?;
        text.push(":")?;
        text.push_number(seconds % 60, 2)?;
        if self.digits > 0 {
            let digits = self.digits.min(6);
            let fraction = self.micros % MICROS / 10_i64.pow(6 - u32::from(digits));
            text.push(".")?;
            text.push_number(fraction.unsigned_abs(), usize::from(digits))?;
        }
        Some(())
    }
}

/// How many digits of a fraction of a second PostgreSQL writes: no zeros at the end.
pub(super) const fn fraction_digits(micros: i64) -> u8 {
    let mut fraction = micros % MICROS;
    if fraction == 0 {
        return 0;
    }
    let mut digits = 6;
    while fraction % 10 == 0 {
        fraction /= 10;
        digits -= 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_days() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2024, 2, 29), 19_782);
        assert_eq!(days_from_civil(-43, 3, 15), -735_160);
        assert_eq!(days_from_civil(5_874_897, 12, 31), 2_145_042_905);
    }

    proptest! {
        #[test]
        fn days_and_dates_are_inverse(days in -3_000_000_i64..2_147_483_647) {
            let (year, month, day) = civil_from_days(days);
            prop_assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
